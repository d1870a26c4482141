//! What the node cannot tell by itself is asked of registries in the background, little at a time: a later start then
//! finds it decided.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
    time::Instant,
};

use tokio::time::sleep;

use super::{State, Watch, verified::About};
use crate::{
    activation::Activation,
    decisions::Asking,
    evidence::content::Trouble,
    gate::walk::{ContainerStanding, Judged, PieceStanding, Standing},
    image::Digest,
    limits,
    policy::decision::{Code, Decision, Verdict},
    snapshot::Snapshot,
};

/// Images that are verified before what came of them is told.
pub(super) const SLICE: usize = 16;

/// What is to be verified.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Question {
    /// The image whose records lead to this.
    Image(Digest),
    /// An image of a container, and one of the containers that have it.
    OfContainer(About, String),
}

/// What is news in a judgement.
#[derive(Default)]
pub(super) struct News {
    pub(super) images: Vec<Standing>,
    pub(super) containers: Vec<ContainerStanding>,
}

/// Whether only a registry can tell.
fn is_open(decision: &Decision) -> bool {
    let registries = |code: Code| (300..400).contains(&(code as u16)) && code != Code::ContainerdUnreachable;
    decision.verdict == Verdict::Inconclusive && decision.code().is_some_and(registries)
}

/// What is asked about `piece`.
fn about(piece: &PieceStanding) -> Option<About> {
    piece.documents.first().map(|digest| About { digest: *digest, under: piece.under.clone() })
}

impl State {
    /// Completes what was `judged` without registries by what they said before, notes what is to be asked of them, and
    /// tells what is news of the rest. All that is on the node was judged where it `began` at some time.
    pub(super) fn news(&mut self, snapshot: &Snapshot, judged: &mut Judged, began: Option<Instant>) -> News {
        let mut news = News::default();
        let (now, revision) = (Instant::now(), snapshot.revision());
        if began.is_some() {
            self.waiting.clear();
        }
        for image in &mut judged.images {
            let Standing { namespace, target, decision, .. } = image;
            if is_open(decision) {
                if self.verified.is_due(namespace, *target, revision, now) {
                    self.ask(namespace, Question::Image(*target));
                }
                match self.verified.of(namespace, &BTreeSet::from([*target]), None, revision) {
                    Some(verified) => *decision = verified.clone(),
                    None => continue,
                }
            }
            if self.images.is_news(namespace, target, decision, snapshot.config.mode) {
                news.images.push(image.clone());
            }
        }
        for container in &mut judged.containers {
            let ContainerStanding { namespace, id, pieces, .. } = container;
            let mut waits = false;
            for piece in pieces.iter_mut().filter(|piece| is_open(&piece.decision)) {
                self.ask_about(namespace, id, piece, revision, now);
                match self.verified.of(namespace, &piece.documents, piece.under.as_ref(), revision) {
                    Some(verified) => piece.decision = verified.clone(),
                    None => waits = true,
                }
            }
            let Some(PieceStanding { decision, .. }) = container.decisive() else { continue };
            let ContainerStanding { namespace, id, .. } = &*container;
            if waits && decision.verdict != Verdict::Deny {
                if self.waiting.len() < limits::WATCHED {
                    self.waiting.insert((namespace.clone(), id.clone()), container.clone());
                }
            } else if self.containers.is_news(namespace, id, decision, snapshot.config.mode) {
                news.containers.push(container.clone());
            }
        }
        if let Some(began) = began {
            self.keep(judged, began);
        }
        news
    }

    /// Forgets what is not on the node any more.
    fn keep(&mut self, judged: &Judged, began: Instant) {
        let images: HashSet<_> = judged.images.iter().map(|image| (image.namespace.clone(), image.target)).collect();
        let key = |container: &ContainerStanding| (container.namespace.clone(), container.id.clone());
        let containers: HashSet<_> = judged.containers.iter().map(key).collect();
        let run = |container: &ContainerStanding| {
            let namespace = container.namespace.clone();
            let documents = container.pieces.iter().flat_map(|piece| &piece.documents);
            documents.map(move |digest| (namespace.clone(), *digest)).collect::<Vec<_>>()
        };
        let verified = images.iter().cloned().chain(judged.containers.iter().flat_map(run)).collect();
        self.verified.keep(&verified);
        self.images.keep(&images, began);
        self.containers.keep(&containers, began);
        self.bypassing.keep(&containers, began);
    }

    /// Notes that `piece` of the container `id` is to be verified, unless it is, or that is to be done for another.
    fn ask_about(&mut self, namespace: &str, id: &str, piece: &PieceStanding, revision: &str, now: Instant) {
        let Some(about) = about(piece) else { return };
        let is_pending = match piece.under.is_none() {
            // What its image records lead to is verified as they are.
            true => {
                let asked = |digest: &Digest| self.pending.contains(&(namespace.to_owned(), Question::Image(*digest)));
                piece.documents.iter().any(asked)
                    || self.verified.of(namespace, &piece.documents, piece.under.as_ref(), revision).is_some()
            }
            false => {
                let first = (namespace.to_owned(), Question::OfContainer(about.clone(), String::new()));
                let next = self.pending.range(first..).next();
                next.is_some_and(|(other, question)| {
                    other == namespace && matches!(question, Question::OfContainer(other, _) if *other == about)
                })
            }
        };
        if !is_pending && self.verified.is_due(namespace, about.clone(), revision, now) {
            self.ask(namespace, Question::OfContainer(about, id.to_owned()));
        }
    }

    fn ask(&mut self, namespace: &str, question: Question) {
        if self.pending.len() < limits::WATCHED {
            self.pending.insert((namespace.to_owned(), question));
        }
    }

    /// Some of what is to be verified, all of one namespace.
    fn slice(&self) -> Option<(String, Vec<Question>)> {
        let (namespace, _) = self.pending.first()?;
        let same = self.pending.iter().take_while(|(other, _)| other == namespace);
        Some((namespace.clone(), same.take(SLICE).map(|(_, question)| question.clone()).collect()))
    }
}

impl Watch {
    /// Verifies and removes what there is to, whenever there is something. Does not end.
    pub(super) async fn work(&self, activation: &Activation) {
        loop {
            self.chores.notified().await;
            self.verify(activation).await;
            self.quarantine(activation).await;
        }
    }

    pub(super) async fn verify(&self, activation: &Activation) {
        loop {
            let Some((namespace, questions)) = self.state().slice() else { return };
            let snapshot = activation.current().await;
            let verified = match snapshot.config.watch.exempt.contains(&namespace) {
                true => Ok(false),
                false => self.verify_some(&snapshot, &namespace, &questions).await,
            };
            {
                let mut state = self.state();
                for question in questions {
                    state.pending.remove(&(namespace.clone(), question));
                }
            }
            match verified {
                Ok(false) => {}
                Ok(true) => sleep(limits::VERIFY_PAUSE).await,
                Err(trouble) => {
                    // The next walk asks for it again.
                    tracing::warn!("images on this node were not verified: {trouble}");
                    sleep(limits::WALK_RETRY).await;
                }
            }
        }
    }

    /// Verifies what `questions` are about, and tells what came of it. Whether a registry asked for less.
    async fn verify_some(
        &self,
        snapshot: &Arc<Snapshot>,
        namespace: &str,
        questions: &[Question],
    ) -> Result<bool, Trouble> {
        let inventory = self.walk.inventory(namespace).await?;
        let there: HashSet<Digest> = inventory.targets().collect();
        let (mut targets, mut containers) = (Vec::new(), Vec::new());
        for question in questions {
            match question {
                Question::Image(target) => targets.extend(there.contains(target).then_some(*target)),
                Question::OfContainer(_, id) => {
                    containers.extend(self.walk.container_with(snapshot, Asking::Usual, &inventory, id).await?);
                }
            }
        }
        let parallel = limits::PARALLEL_VERIFICATIONS;
        let images = self.walk.images(snapshot, Asking::Usual, &inventory, targets, parallel, &|_| ()).await?;
        let now = Instant::now();
        let mut judged = Judged { images, containers };
        {
            let mut state = self.state();
            for Standing { namespace, target, decision, .. } in &judged.images {
                state.verified.note(namespace, *target, decision, now);
            }
            for ContainerStanding { namespace, pieces, .. } in &judged.containers {
                for piece in pieces {
                    if let Some(about) = about(piece) {
                        state.verified.note(namespace, about, &piece.decision, now);
                    }
                }
            }
            for question in questions {
                state.pending.remove(&(namespace.to_owned(), question.clone()));
                // As it is now it was judged above, if it is still there.
                if let Question::OfContainer(_, id) = question {
                    state.waiting.remove(&(namespace.to_owned(), id.clone()));
                }
            }
            // Some may have waited for this.
            let waiting = std::mem::take(&mut state.waiting);
            judged.containers.extend(waiting.into_values());
        }
        let throttled = |decision: &Decision| decision.code() == Some(Code::RegistryThrottled);
        let images = judged.images.iter().map(|image| &image.decision);
        let pieces = judged.containers.iter().flat_map(|container| &container.pieces).map(|piece| &piece.decision);
        let pause = images.chain(pieces).any(throttled);
        self.conclude(snapshot, judged, None).await;
        Ok(pause)
    }
}
