//! The search for the evidence of one digest: which layouts are asked, when, and how much at a time.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use reqwest::{Method, StatusCode, Url};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::{JoinError, JoinSet},
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    Inner,
    body::{Purse, Room},
    http::{Answer, Ask},
    referrers, tags,
};
use crate::{
    evidence::{Asked, Cause, Formats, Found, Gap, Layout, Material, Place, Questions},
    image::{Digest, media_type},
};

/// What the parts of one search share.
pub(super) struct Search {
    pub(super) registry: Arc<Inner>,
    pub(super) place: Place,
    pub(super) digest: Digest,
    until: Instant,
    purse: Purse,
    items: AtomicUsize,
    delivered: AtomicBool,
    questions: Questions,
    out: mpsc::Sender<Result<Found, Gap>>,
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
    let bounds = &registry.http.bounds;
    let deadline = bounds.deadline;
    let held = if place.proven { &registry.held } else { &registry.held_for_claims };
    let search = Arc::new(Search {
        purse: Purse::new(bounds.evidence_total_bytes, held.clone()),
        place,
        digest,
        until: Instant::now() + deadline,
        items: AtomicUsize::new(bounds.evidence_items),
        delivered: AtomicBool::new(false),
        questions,
        out,
        registry,
    });
    if timeout_at(search.until, search.ask_layouts(formats)).await.is_err() {
        let why = format!("not all evidence could be read in {:.0} s", deadline.as_secs_f64());
        search.all_broke(Cause::Unreachable(why)).await;
    }
}

impl Search {
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
            self.questions.ask(Asked::new(&self.place.repository, layout));
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
        let mut layouts: Vec<Layout> = [
            (formats.simple_signing, Layout::SignatureTag),
            (formats.bundle, Layout::Referrers),
            (formats.attestation_tag, Layout::AttestationTag),
        ]
        .into_iter()
        .filter_map(|(asked, layout)| asked.then_some(layout))
        .collect();
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
        self.questions.note(layout, |asked| asked.ended = true);
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
        let ask = Ask { place: &self.place, method: Method::GET, url, accept, room, until: self.until };
        self.registry.http.ask(&ask).await
    }

    /// The address of a part of the repository.
    pub(super) fn url(&self, parts: &[&str]) -> Result<Url, Cause> {
        let base = self.registry.http.rules.base(&self.place)?;
        base.join(&parts.join("/")).map_err(|_| Cause::NotAllowed("its name makes no URL".to_owned()))
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
        self.questions.note(layout, |asked| asked.found = asked.found.saturating_add(1));
        // Nobody listens any more: the search is about to be dropped.
        let _ = self.out.send(Ok(Found { material, place })).await;
    }

    /// Says what could not be told of `layout`.
    pub(super) async fn gap(&self, layout: Layout, place: String, cause: Cause) {
        self.questions.note(layout, |asked| asked.broke(&cause));
        let _ = self.out.send(Err(Gap { place, cause })).await;
    }

    /// Says that nothing more can be told of what was not read to its end.
    async fn all_broke(&self, cause: Cause) {
        for asked in self.questions.so_far().iter().filter(|asked| !asked.ended) {
            self.questions.note(asked.layout, |asked| asked.broke(&cause));
        }
        let _ = self.out.send(Err(Gap { place: self.place.repository.to_string(), cause })).await;
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
