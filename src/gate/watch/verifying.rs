//! What the node cannot tell by itself is asked of registries in the background, little at a time: a later start then
//! finds it decided.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
    time::Instant,
};

use tokio::time::sleep;

use super::{State, Watch};
use crate::{
    activation::Activation,
    decisions::Asking,
    evidence::content::Trouble,
    gate::walk::{ContainerStanding, Judged, Standing},
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
    /// The image of this container, which has no record.
    Container(String),
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
                match self.verified.of(namespace, &BTreeSet::from([*target]), revision) {
                    Some(verified) => *decision = verified.clone(),
                    None => continue,
                }
            }
            if self.images.is_news(namespace, target, decision, snapshot.config.mode) {
                news.images.push(image.clone());
            }
        }
        for container in &mut judged.containers {
            let ContainerStanding { namespace, id, documents, decision, .. } = container;
            if is_open(decision) {
                match self.verified.of(namespace, documents, revision) {
                    Some(verified) => *decision = verified.clone(),
                    None => {
                        let asked =
                            |digest: &Digest| self.pending.contains(&(namespace.clone(), Question::Image(*digest)));
                        if !documents.iter().any(asked) {
                            self.ask(namespace, Question::Container(id.clone()));
                        }
                        if self.waiting.len() < limits::WATCHED {
                            self.waiting.insert((namespace.clone(), id.clone()), container.clone());
                        }
                        continue;
                    }
                }
            }
            if self.containers.is_news(namespace, id, decision, snapshot.config.mode) {
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
            container.documents.iter().map(move |digest| (namespace.clone(), *digest)).collect::<Vec<_>>()
        };
        let verified = images.iter().cloned().chain(judged.containers.iter().flat_map(run)).collect();
        self.verified.keep(&verified);
        self.images.keep(&images, began);
        self.containers.keep(&containers, began);
        self.bypassing.keep(&containers, began);
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
                Question::Container(id) => {
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
            for ContainerStanding { namespace, documents, decision, .. } in &judged.containers {
                if let Some(first) = documents.first() {
                    state.verified.note(namespace, *first, decision, now);
                }
            }
            for question in questions {
                state.pending.remove(&(namespace.to_owned(), question.clone()));
            }
            // Some may have waited for this.
            let waiting = std::mem::take(&mut state.waiting);
            judged.containers.extend(waiting.into_values());
        }
        let throttled = |decision: &Decision| decision.code() == Some(Code::RegistryThrottled);
        let pause = judged.images.iter().any(|image| throttled(&image.decision));
        self.conclude(snapshot, judged, None).await;
        Ok(pause)
    }
}
