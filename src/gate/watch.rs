//! The watch: what is on the node without having passed a gate, and what a policy no longer admits. It refuses nothing and
//! stops nothing; it judges by what is kept, and says once what the policy does not admit.
//!
//! containerd tells of images and containers as they come; a walk over all of them closes every gap in that: at the start,
//! after each restart of containerd and each change of the policy, when more was told than could be looked at, and on a
//! timer.

mod quarantine;
mod seen;
mod start_gate;
mod verified;
mod verifying;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{sleep_until, timeout},
};

use self::{quarantine::Removed, seen::Seen, verified::Verified, verifying::Question};
use super::walk::{ContainerStanding, Judged, Origin, PieceStanding, Standing, Walk};
use crate::{
    activation::Activation,
    audit::{Facts, Id, Journal, Record, watched::Container},
    config::NodeMode,
    containerd::{Containerd, Event, Told},
    decisions::Asking,
    evidence::content::Trouble,
    image::Digest,
    limits,
    policy::decision::{Decision, Verdict},
    snapshot::Snapshot,
};

/// The watch over one node.
pub struct Watch {
    containerd: Arc<Containerd>,
    walk: Arc<Walk>,
    journal: Arc<Journal>,
    told: mpsc::Sender<Told>,
    hearing: Mutex<Option<mpsc::Receiver<Told>>>,
    /// More was told than there is room for.
    overflow: Notify,
    /// There is something to verify or to remove.
    chores: Notify,
    state: Mutex<State>,
    bypasses: AtomicU64,
    quarantined: AtomicU64,
    /// Whether the next walk says what it found though nothing of it is news.
    announce: AtomicBool,
}

struct State {
    images: Seen<Digest>,
    containers: Seen<String>,
    bypassing: Seen<String>,
    verified: Verified,
    /// What is to be verified, by namespace.
    pending: BTreeSet<(String, Question)>,
    /// Containers that are told about once their images were verified.
    waiting: HashMap<(String, String), ContainerStanding>,
    /// Since when containers of pods are made with the hook of the start gate.
    start_gate: Option<Timestamp>,
    /// When the policy in force came into force here.
    activated: Instant,
    removed: Removed,
    last: Option<LastWalk>,
}

/// The last walk over the whole node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LastWalk {
    /// How many there were since the daemon started, this one included.
    pub number: u64,
    /// When it ended, in seconds since 1970.
    pub at: u64,
    /// Images that were judged.
    pub images: usize,
    /// Running containers that were judged.
    pub containers: usize,
    /// Milliseconds that it took.
    pub milliseconds: u64,
}

/// What the watch saw since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct WatchReport {
    /// Containers of pods that were made without the hook of the start gate.
    pub bypasses: u64,
    /// Running containers whose images the policy does not admit, as far as that was told.
    pub containers_without_allow: usize,
    /// Images on the node that the policy does not admit, as far as that was told.
    pub images_without_allow: usize,
    /// Images that quarantine removed.
    pub quarantined: u64,
    /// The last walk; none before the first.
    pub last_walk: Option<LastWalk>,
}

/// What containerd told about and is yet to be judged.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Item {
    Image(String),
    Container(String),
}

impl Watch {
    /// A watch by `walk`, over what is behind `containerd`. Looks at nothing before [`Self::run`].
    pub fn new(containerd: Arc<Containerd>, walk: Arc<Walk>, journal: Arc<Journal>) -> Self {
        let (told, hearing) = mpsc::channel(limits::TOLD_WAITING);
        let state = State {
            images: Seen::default(),
            containers: Seen::default(),
            bypassing: Seen::default(),
            verified: Verified::default(),
            pending: BTreeSet::new(),
            waiting: HashMap::new(),
            start_gate: None,
            activated: Instant::now(),
            removed: Removed::default(),
            last: None,
        };
        Self {
            containerd,
            walk,
            journal,
            told,
            hearing: Mutex::new(Some(hearing)),
            overflow: Notify::new(),
            chores: Notify::new(),
            state: Mutex::new(state),
            bypasses: AtomicU64::new(0),
            quarantined: AtomicU64::new(0),
            announce: AtomicBool::new(true),
        }
    }

    /// Hears what containerd tells. What there is no room for leads to a walk.
    pub fn hear(&self, told: &Told) {
        if !matches!(told.event, Event::Extract(..)) && self.told.try_send(told.clone()).is_err() {
            self.overflow.notify_one();
        }
    }

    /// Judges everything again soon: what admitted some of it has changed.
    pub fn look_again(&self) {
        self.overflow.notify_one();
    }

    /// Judges what is on the node by what is kept on it, before `snapshot` takes force, so that the requests after it find a
    /// decision, and says what the policy does not admit. Takes [`limits::WALK`] at most.
    pub async fn prepare(&self, snapshot: Arc<Snapshot>) {
        self.state().verified.clear();
        self.announce.store(true, Ordering::Relaxed);
        let walk = self.walk_over(&snapshot);
        match timeout(limits::WALK, walk).await {
            Ok(Ok(())) => {}
            Ok(Err(trouble)) => tracing::warn!("the images on this node were not all judged: {trouble}"),
            // The next walk says it.
            Err(_) => tracing::warn!("the images on this node were not all judged in {:?}", limits::WALK),
        }
    }

    /// What was seen so far.
    pub fn report(&self) -> WatchReport {
        let state = self.state();
        WatchReport {
            bypasses: self.bypasses.load(Ordering::Relaxed),
            containers_without_allow: state.containers.len(),
            images_without_allow: state.images.len(),
            quarantined: self.quarantined.load(Ordering::Relaxed),
            last_walk: state.last.clone(),
        }
    }

    /// Watches until the end of the daemon; `connections` changes whenever containerd begins to tell.
    pub async fn run(self: Arc<Self>, activation: Arc<Activation>, connections: watch::Receiver<u64>) {
        let Some(told) = self.hearing.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        tokio::join!(self.listen(&activation, told), self.walks(&activation, connections), self.work(&activation));
    }

    /// Judges what is told of, a little after it is told; whether a container has the hook at once.
    async fn listen(&self, activation: &Activation, mut told: mpsc::Receiver<Told>) {
        let mut items: BTreeMap<String, BTreeSet<Item>> = BTreeMap::new();
        let mut due: Option<tokio::time::Instant> = None;
        loop {
            let at = due.unwrap_or_else(|| tokio::time::Instant::now() + limits::TOLD_PAUSE);
            tokio::select! {
                next = told.recv() => {
                    let Some(Told { namespace, event }) = next else { return };
                    let snapshot = activation.current().await;
                    if snapshot.config.watch.exempt.contains(&namespace) {
                        continue;
                    }
                    let found = self.take(&namespace, event).await;
                    if !found.is_empty() {
                        due = Some(at);
                        items.entry(namespace).or_default().extend(found);
                    }
                }
                () = sleep_until(at), if due.is_some() => {
                    due = None;
                    let snapshot = activation.current().await;
                    for (namespace, items) in std::mem::take(&mut items) {
                        if let Err(trouble) = self.judge(&snapshot, &namespace, items).await {
                            tracing::warn!("what containerd told of was not judged, and is in the next walk: {trouble}");
                            self.overflow.notify_one();
                        }
                    }
                }
            }
        }
    }

    /// What there is to judge because of `event`.
    async fn take(&self, namespace: &str, event: Event) -> Vec<Item> {
        match event {
            Event::Image(name) => vec![Item::Image(name)],
            Event::Started(id) => vec![Item::Container(id)],
            Event::Container(id) => match self.walk.record(namespace, &id).await {
                Ok(Some(container)) => {
                    let bypasses = self.look_for_hook(&container).await;
                    // Not every image is told of, and this one is about to run.
                    let image = Some(container.image).filter(|image| !image.is_empty()).map(Item::Image);
                    image.into_iter().chain(bypasses.then_some(Item::Container(id))).collect()
                }
                Ok(None) => Vec::new(),
                Err(_) => {
                    self.overflow.notify_one();
                    Vec::new()
                }
            },
            Event::Ended(id) | Event::ContainerGone(id) => {
                let mut state = self.state();
                state.containers.forget(namespace, &id);
                state.waiting.remove(&(namespace.to_owned(), id));
                Vec::new()
            }
            Event::ImageGone(_) | Event::Extract(..) => Vec::new(),
        }
    }

    /// Says that a container of a pod has no hook, where the start gate is connected. Whether it is a way around it.
    async fn look_for_hook(&self, container: &ContainerStanding) -> bool {
        let ContainerStanding { namespace, id, image, runtime, .. } = container;
        let bypasses = {
            let mut state = self.state();
            let since = state.start_gate.zip(container.created);
            let bypasses = container.bypasses() && since.is_some_and(|(since, created)| created >= since);
            // Each is told once: what changes about it later is no other way around.
            bypasses.then(|| state.bypassing.is_news(namespace, id, &Decision::default(), NodeMode::Enforce))
        };
        if bypasses == Some(true) {
            self.bypasses.fetch_add(1, Ordering::Relaxed);
            if !self.write(|_| Record::start_gate_bypassed(id, image, namespace, runtime)).await {
                self.state().bypassing.forget(namespace, id);
            }
        }
        bypasses.is_some()
    }

    async fn judge(&self, snapshot: &Arc<Snapshot>, namespace: &str, items: BTreeSet<Item>) -> Result<(), Trouble> {
        let inventory = self.walk.inventory(namespace).await?;
        let (mut targets, mut containers) = (BTreeSet::new(), Vec::new());
        for item in items {
            match item {
                Item::Image(name) => targets.extend(inventory.target(&name)),
                Item::Container(id) => {
                    containers.extend(self.walk.container_with(snapshot, Asking::Offline, &inventory, &id).await?);
                }
            }
        }
        let (targets, parallel) = (targets.into_iter().collect(), limits::PARALLEL_SUBJECTS);
        let images = self.walk.images(snapshot, Asking::Offline, &inventory, targets, parallel, &|_| ()).await?;
        self.conclude(snapshot, Judged { images, containers }, None).await;
        Ok(())
    }

    /// Walks over the node when that is due.
    async fn walks(&self, activation: &Activation, mut connections: watch::Receiver<u64>) {
        let mut snapshots = activation.subscribe();
        let mut before = activation.peek();
        let mut retry = limits::WALK_RETRY;
        let mut due: Option<tokio::time::Instant> = None;
        loop {
            let far = tokio::time::Instant::now() + Duration::from_secs(3600);
            let soon = || Some(tokio::time::Instant::now() + limits::EVENTS_PAUSE);
            tokio::select! {
                changed = connections.changed() => match changed {
                    Ok(()) => due = soon(),
                    Err(_) => return,
                },
                changed = snapshots.changed() => {
                    let (Ok(()), Some(now)) = (changed, snapshots.borrow_and_update().clone()) else { return };
                    self.changed(before.replace(now.clone()), &now);
                    // What the policy before still admitted meanwhile; nothing before containerd was there.
                    due = due.and_then(|_| soon());
                }
                () = self.overflow.notified() => due = due.and_then(|_| soon()),
                () = sleep_until(due.unwrap_or(far)), if due.is_some() => {
                    let snapshot = activation.current().await;
                    let every = snapshot.config.watch.every;
                    let walked = timeout(limits::WALK_LONGEST, self.walk_over(&snapshot)).await;
                    let pause = match walked.unwrap_or_else(|_| Err(Trouble::Unreachable("it takes too long".to_owned()))) {
                        Ok(()) => {
                            retry = limits::WALK_RETRY;
                            every
                        }
                        Err(trouble) => {
                            tracing::warn!("the images on this node were not all judged: {trouble}");
                            let pause = retry;
                            retry = (pause * 2).min(every);
                            pause
                        }
                    };
                    let from = self.quarantine_from(&snapshot).map(tokio::time::Instant::from_std);
                    let now = tokio::time::Instant::now();
                    // Quarantine begins with a walk.
                    due = Some(from.filter(|from| *from > now).map_or(now + pause, |from| from.min(now + pause)));
                }
            }
        }
    }

    /// Another snapshot is in force.
    fn changed(&self, before: Option<Arc<Snapshot>>, now: &Snapshot) {
        let mut state = self.state();
        let judges_otherwise = before.as_ref().is_none_or(|before| before.judges_otherwise(now));
        let in_another_mode = before.as_ref().is_some_and(|before| before.config.mode != now.config.mode);
        if judges_otherwise || in_another_mode {
            state.activated = Instant::now();
        }
        // Of another policy it was said before it came into force.
        if in_another_mode && !judges_otherwise {
            self.announce.store(true, Ordering::Relaxed);
        }
        let asks = |snapshot: &Snapshot| (snapshot.config.registries.clone(), snapshot.config.evidence.clone());
        if judges_otherwise || before.is_some_and(|before| asks(&before) != asks(now)) {
            state.verified.clear();
        }
    }

    async fn walk_over(&self, snapshot: &Arc<Snapshot>) -> Result<(), Trouble> {
        let began = Instant::now();
        let gate = start_gate::connected_since(&self.containerd).await;
        if let Ok(since) = &gate {
            self.state().start_gate = *since;
        }
        let exempt = &snapshot.config.watch.exempt;
        let judged = self.walk.judge(snapshot, Asking::Offline, exempt, &|_, _| ()).await?;
        for container in &judged.containers {
            self.look_for_hook(container).await;
        }
        let (images, containers) = (judged.images.len(), judged.containers.len());
        self.conclude(snapshot, judged, Some(began)).await;
        let milliseconds = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut state = self.state();
        let number = state.last.as_ref().map_or(0, |last| last.number) + 1;
        state.last = Some(LastWalk { number, at, images, containers, milliseconds });
        drop(state);
        gate.map(drop)
            .map_err(|why| Trouble::Unreachable(format!("whether the start gate is asked is not known: {why}")))
    }

    /// Says what of `judged` is news, and remembers what is to be verified; `began` where it is all that is on the node.
    async fn conclude(&self, snapshot: &Snapshot, mut judged: Judged, began: Option<Instant>) {
        let news = self.state().news(snapshot, &mut judged, began);
        for image in news.images {
            let Standing { namespace, target, decision, .. } = &image;
            let name = image.name();
            let facts = facts(snapshot, decision, &name, Some(target), namespace);
            if !self.write(|id| Record::image_not_admitted(id, decision, &facts)).await {
                self.state().images.forget(namespace, target);
            }
        }
        for container in news.containers {
            let ContainerStanding { namespace, id, origin, .. } = &container;
            let Some(PieceStanding { image, decision, .. }) = container.decisive() else { continue };
            let facts = facts(snapshot, decision, image, None, namespace);
            let about = Container { id, beside_start_gate: *origin == Origin::Client };
            if !self.write(|id| Record::container_not_admitted(id, about, decision, &facts)).await {
                self.state().containers.forget(namespace, id);
            }
        }
        if began.is_some() && self.announce.swap(false, Ordering::Relaxed) {
            self.say_judged(snapshot, &judged).await;
        }
        self.chores.notify_one();
    }

    /// Says how all that is on the node stands.
    async fn say_judged(&self, snapshot: &Snapshot, judged: &Judged) {
        if judged.images.is_empty() && judged.containers.is_empty() {
            return;
        }
        let named = |verdict| -> Vec<String> {
            let images = judged.images.iter().filter(|image| image.decision.verdict == verdict);
            images.map(Standing::name).collect()
        };
        let (refused, unknown) = (named(Verdict::Deny), named(Verdict::Inconclusive));
        let without =
            judged.containers.iter().filter(|container| container.decision().verdict != Verdict::Allow).count();
        let containers = (judged.containers.len(), without);
        let images = judged.images.len();
        self.write(|_| Record::node_judged(snapshot.revision(), images, &refused, &unknown, containers)).await;
    }

    async fn write(&self, build: impl FnOnce(&Id) -> Record) -> bool {
        let written = self.journal.write(build).await;
        if let Err(error) = &written {
            tracing::error!("an audit entry was not written: {error}");
        }
        written.is_ok()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an entry says beside `decision` about an image in `namespace`.
fn facts<'a>(
    snapshot: &Snapshot,
    decision: &Decision,
    image: &'a str,
    target: Option<&'a Digest>,
    namespace: &'a str,
) -> Facts<'a> {
    Facts {
        gate: "watch",
        mode: snapshot.config.mode,
        enforced: snapshot.config.mode == NodeMode::Enforce && !decision.audit_only,
        image: Some(image).filter(|image| !image.is_empty()),
        digest: target,
        layer: None,
        namespace: Some(namespace),
        container: None,
        pod: None,
        duration: Duration::ZERO,
    }
}

#[cfg(test)]
mod tests;
