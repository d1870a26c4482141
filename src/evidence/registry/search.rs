//! The search for the evidence of one digest: which layouts are asked, when, and how much at a time.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use reqwest::{Method, StatusCode, Url};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::{JoinError, JoinSet},
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};

use super::{
    Inner,
    body::{Purse, Room},
    endpoint::Endpoint,
    http::{Answer, Ask},
    not_to_be_asked, referrers, tags,
};
use crate::{
    evidence::{Asked, Cause, Formats, Found, Gap, Layout, Material, Place, Questions},
    image::{Digest, media_type},
};

/// The search at one host, as its parts share it.
pub(super) struct Search {
    pub(super) registry: Arc<Inner>,
    endpoint: Arc<Endpoint>,
    /// The repository by the name that the host has.
    pub(super) place: Place,
    pub(super) digest: Digest,
    until: Instant,
    purse: Purse,
    items: AtomicUsize,
    delivered: AtomicBool,
    /// Whether something could not be told.
    broke: AtomicBool,
    shared: Arc<Shared>,
}

/// What the searches at all hosts of a registry share.
struct Shared {
    questions: Questions,
    out: mpsc::Sender<Result<Found, Gap>>,
    /// What was handed out, where more than one host could have it.
    seen: Option<Mutex<HashSet<Digest>>>,
    /// What mirrors could not tell: of no matter where the registry itself could.
    of_mirrors: Mutex<Vec<Gap>>,
}

/// Runs one search to its end: everything asked, or the deadline.
pub(super) async fn run(
    registry: Arc<Inner>,
    place: Place,
    digest: Digest,
    formats: Formats,
    questions: Questions,
    out: mpsc::Sender<Result<Found, Gap>>,
) {
    let until = Instant::now() + registry.http.bounds.deadline;
    let repository = place.repository.clone();
    let hosts = timeout_at(until, registry.http.endpoints(&place)).await;
    let hosts = hosts.unwrap_or_else(|_| Err(Cause::TimedOut("its hosts.toml could not be read in time".to_owned())));
    let hosts = hosts.and_then(|hosts| match hosts.last().is_some_and(|host| host.is_registry && host.has_evidence) {
        true => Ok(hosts),
        false => Err(not_to_be_asked()),
    });
    let (hosts, of_mirrors) = match hosts {
        Ok(hosts) => (hosts, Mutex::default()),
        Err(cause) => {
            for layout in layouts(formats) {
                let mut asked = Asked::new(&repository, layout);
                asked.broke(&cause);
                questions.ask(asked);
            }
            let _ = out.send(Err(Gap { place: repository.to_string(), cause })).await;
            return;
        }
    };
    let seen = (hosts.len() > 1).then(Mutex::default);
    let shared = Arc::new(Shared { questions, out, seen, of_mirrors });
    let searches: Vec<Arc<Search>> = hosts
        .into_iter()
        .filter(|host| host.has_evidence)
        .map(|host| Arc::new(Search::at(host, &registry, digest, until, &shared)))
        .collect();
    ask_hosts(&searches, formats, &shared).await;
}

/// Asks the hosts in their order, the next one once the one before has told all it knows or takes longer than it should.
async fn ask_hosts(searches: &[Arc<Search>], formats: Formats, shared: &Arc<Shared>) {
    let mut asked = JoinSet::new();
    for search in searches {
        asked.spawn(search.clone().run(formats));
        if search.endpoint.is_registry {
            break;
        }
        tokio::select! {
            _ = asked.join_next() => {}
            () = sleep(search.registry.http.bounds.mirror_hedge) => {}
        }
    }
    while asked.join_next().await.is_some() {}
    let told = |search: &Arc<Search>| search.endpoint.is_registry && !search.broke.load(Ordering::Relaxed);
    if !searches.iter().any(told) {
        let gaps = std::mem::take(&mut *shared.of_mirrors.lock().unwrap_or_else(PoisonError::into_inner));
        for gap in gaps {
            let _ = shared.out.send(Err(gap)).await;
        }
    }
}

/// The layouts of `formats`.
fn layouts(formats: Formats) -> Vec<Layout> {
    [
        (formats.simple_signing, Layout::SignatureTag),
        (formats.bundle, Layout::Referrers),
        (formats.attestation_tag, Layout::AttestationTag),
    ]
    .into_iter()
    .filter_map(|(asked, layout)| asked.then_some(layout))
    .collect()
}

impl Search {
    fn at(
        endpoint: Arc<Endpoint>,
        registry: &Arc<Inner>,
        digest: Digest,
        until: Instant,
        shared: &Arc<Shared>,
    ) -> Self {
        let bounds = &registry.http.bounds;
        let held = if endpoint.place.proven { &registry.held } else { &registry.held_for_claims };
        Self {
            purse: Purse::new(bounds.evidence_total_bytes, held.clone()),
            place: endpoint.place.clone(),
            endpoint,
            digest,
            until,
            items: AtomicUsize::new(bounds.evidence_items),
            delivered: AtomicBool::new(false),
            broke: AtomicBool::new(false),
            shared: shared.clone(),
            registry: registry.clone(),
        }
    }

    /// Asks this host for all that it knows.
    async fn run(self: Arc<Self>, formats: Formats) {
        let bounds = &self.registry.http.bounds;
        let patience = match self.endpoint.is_registry {
            true => bounds.deadline,
            false => bounds.mirror_patience,
        };
        let begin = Instant::now();
        let left = self.until.saturating_duration_since(begin).min(patience);
        if timeout(left, self.ask_layouts(formats)).await.is_err() {
            let why = format!("not all evidence could be read in {:.0} s", patience.as_secs_f64());
            self.all_broke(Cause::TimedOut(why)).await;
        }
    }

    /// Asks the layouts, the likeliest first. The next one follows when the one before is exhausted and what
    /// it had did not suffice, or takes longer than it should; nothing is cut short by that.
    async fn ask_layouts(self: &Arc<Self>, formats: Formats) {
        let bounds = &self.registry.http.bounds;
        let layouts = self.order(formats);
        let shared = Arc::new(Semaphore::new(bounds.parallel_fetches.saturating_sub(layouts.len()).max(1)));
        let mut waiting = layouts.into_iter();
        let mut asked = JoinSet::new();
        while let Some(layout) = waiting.next() {
            let slots = Slots { own: Arc::new(Semaphore::new(1)), shared: shared.clone() };
            let (answers, mut answered) = oneshot::channel();
            self.shared.questions.ask(Asked::new(&self.place.repository, layout));
            let begin = Instant::now();
            asked.spawn(self.clone().ask_layout(layout, slots, answers));
            if waiting.len() == 0 {
                break;
            }
            let mut next = begin + bounds.hedge;
            let mut listening = true;
            loop {
                tokio::select! {
                    Some(ended) = asked.join_next() => {
                        self.ended(ended).await;
                        if !self.delivered.load(Ordering::Relaxed) {
                            break;
                        }
                        next = next.min(Instant::now() + bounds.grace);
                    }
                    answer = &mut answered, if listening => {
                        listening = false;
                        if answer.is_ok() {
                            next = begin + bounds.patience;
                        }
                    }
                    () = sleep_until(next) => break,
                }
            }
        }
        while let Some(ended) = asked.join_next().await {
            self.ended(ended).await;
        }
    }

    /// A part of the search that ends before its time leaves a gap, not an absence.
    pub(super) async fn ended<T>(&self, ended: Result<T, JoinError>) -> Option<T> {
        if ended.is_err() {
            let why = "the search broke off".to_owned();
            self.all_broke(Cause::Unreachable(why)).await;
        }
        ended.ok()
    }

    fn order(&self, formats: Formats) -> Vec<Layout> {
        let mut layouts = layouts(formats);
        let likeliest = self.registry.habits.layout(&self.place.repository.host);
        layouts.sort_by_key(|layout| Some(*layout) != likeliest);
        layouts
    }

    async fn ask_layout(self: Arc<Self>, layout: Layout, slots: Slots, answered: oneshot::Sender<()>) {
        let signal = Answered(answered);
        match layout {
            Layout::SignatureTag => tags::signatures(&self, &slots, signal).await,
            Layout::Referrers => referrers::bundles(&self, &slots, signal).await,
            Layout::AttestationTag => tags::attestations(&self, &slots, signal).await,
            // Not a registry's.
            Layout::Kept | Layout::Directory | Layout::OciLayout | Layout::ContentStore => {}
        }
        self.note(layout, |asked| asked.ended = true);
    }

    /// A manifest or index of the repository by `tag`; none if there is no such tag.
    pub(super) async fn tagged(&self, tag: &str, accept: &'static str) -> Result<Option<Answer>, Cause> {
        let url = self.url(&["manifests", tag])?;
        let answer = self.get(url, accept, self.registry.http.bounds.manifest_bytes, None).await?;
        present(answer)
    }

    /// A manifest or blob of the repository by its digest, re-hashed; `kind` is `manifests` or `blobs`.
    pub(super) async fn by_digest(
        &self,
        kind: &'static str,
        digest: Digest,
        size: u64,
        accept: &'static str,
    ) -> Result<Answer, Cause> {
        let bounds = &self.registry.http.bounds;
        let max = if kind == "blobs" { bounds.evidence_bytes } else { bounds.manifest_bytes };
        let url = self.url(&[kind, &digest.to_string()])?;
        let answer = present(self.get(url, accept, max, Some(size)).await?)?;
        let answer = answer.ok_or_else(|| Cause::Misbehaved("it is listed, but not there (404)".to_owned()))?;
        if Digest::of(&answer.body) != digest {
            return Err(Cause::Misbehaved("its bytes do not have the digest that they were asked by".to_owned()));
        }
        Ok(answer)
    }

    /// Asks for `url`.
    pub(super) async fn get(
        &self,
        url: Url,
        accept: &'static str,
        max: u64,
        exact: Option<u64>,
    ) -> Result<Answer, Cause> {
        let room = Room { max, exact, purse: Some(&self.purse) };
        let ask = Ask { endpoint: &self.endpoint, method: Method::GET, url, accept, room, until: self.until };
        self.registry.http.ask(&ask).await
    }

    /// The address of a part of the repository.
    pub(super) fn url(&self, parts: &[&str]) -> Result<Url, Cause> {
        self.endpoint.url(parts)
    }

    /// Counts one piece of evidence; false when there were as many as are read.
    pub(super) fn counts(&self) -> bool {
        self.items.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    /// Pays for another copy, of so many bytes, of a piece that was read.
    pub(super) fn pays(&self, bytes: u64) -> Result<(), Cause> {
        self.purse.take(bytes)
    }

    /// How the person who reads the decision finds `digest` again.
    pub(super) fn place_of(&self, digest: impl std::fmt::Display) -> String {
        format!("{}@{digest}", self.place.repository)
    }

    /// Hands out a piece of evidence.
    pub(super) async fn found(&self, layout: Layout, material: Material, place: String) {
        self.registry.habits.had_evidence(&self.place.repository.host, layout);
        self.delivered.store(true, Ordering::Relaxed);
        self.note(layout, |asked| asked.found = asked.found.saturating_add(1));
        if let Some(seen) = &self.shared.seen
            && !seen.lock().unwrap_or_else(PoisonError::into_inner).insert(identity(&material))
        {
            return;
        }
        // Nobody listens any more: the search is about to be dropped.
        let _ = self.shared.out.send(Ok(Found { material, place })).await;
    }

    /// Says what could not be told of `layout`.
    pub(super) async fn gap(&self, layout: Layout, place: String, cause: Cause) {
        self.note(layout, |asked| asked.broke(&cause));
        self.say(Gap { place, cause }).await;
    }

    /// Says that nothing more can be told of what was not read to its end.
    async fn all_broke(&self, cause: Cause) {
        let repository = self.place.repository.to_string();
        let open = |asked: &&Asked| !asked.ended && asked.repository == repository;
        for asked in self.shared.questions.so_far().iter().filter(open) {
            self.note(asked.layout, |asked| asked.broke(&cause));
        }
        self.say(Gap { place: repository, cause }).await;
    }

    async fn say(&self, gap: Gap) {
        self.broke.store(true, Ordering::Relaxed);
        if self.endpoint.is_registry {
            let _ = self.shared.out.send(Err(gap)).await;
            return;
        }
        let mut of_mirrors = self.shared.of_mirrors.lock().unwrap_or_else(PoisonError::into_inner);
        if of_mirrors.len() < self.registry.http.bounds.evidence_items {
            of_mirrors.push(gap);
        }
    }

    fn note(&self, layout: Layout, note: impl FnOnce(&mut Asked)) {
        self.shared.questions.note_of(&self.place.repository, layout, note);
    }

    /// Says that `place` holds more than is read.
    pub(super) async fn too_many(&self, layout: Layout, place: String, limit: usize, what: &str) {
        self.gap(layout, place, Cause::TooLarge(format!("it has more than {limit} {what}"))).await;
    }
}

/// Tells the search that a layout has answered and that there is something in it.
pub(super) struct Answered(oneshot::Sender<()>);

impl Answered {
    pub(super) fn yes(self) {
        let _ = self.0.send(());
    }
}

/// The requests that one layout may have in flight: one of its own, so that no other layout can keep
/// it waiting, and as many of the shared ones as are free. A slot is held until what was read has been
/// handed out, so that nothing is read far ahead of its verification.
#[derive(Clone)]
pub(super) struct Slots {
    own: Arc<Semaphore>,
    shared: Arc<Semaphore>,
}

impl Slots {
    pub(super) async fn take(&self) -> Option<OwnedSemaphorePermit> {
        tokio::select! {
            biased;
            slot = self.own.clone().acquire_owned() => slot.ok(),
            slot = self.shared.clone().acquire_owned() => slot.ok(),
        }
    }
}

/// What tells a piece of evidence from others.
fn identity(material: &Material) -> Digest {
    match material {
        Material::SimpleSigning { payload, signature, attached } => {
            Digest::of(format!("{} {signature:?} {attached:?}", Digest::of(payload)).as_bytes())
        }
        Material::Envelope { json, attached } => Digest::of(format!("{} {attached:?}", Digest::of(json)).as_bytes()),
        Material::Bundle(json) => Digest::of(json),
    }
}

/// The answer if it is one, none for 404; every other refusal is a registry that misbehaves.
fn present(answer: Answer) -> Result<Option<Answer>, Cause> {
    match answer.status {
        StatusCode::OK => Ok(Some(answer)),
        StatusCode::NOT_FOUND => Ok(None),
        status => Err(Cause::Misbehaved(format!("it answered {}", status.as_u16()))),
    }
}

/// The media types that a manifest of an artifact may have, for `Accept`.
pub(super) const ACCEPT_MANIFEST: &str =
    "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";
/// The media type of a list of referrers.
pub(super) const ACCEPT_INDEX: &str = media_type::INDEX;
