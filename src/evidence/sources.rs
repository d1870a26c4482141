//! Where the evidence about an image is looked for, the nearest first: what was kept, a directory on this node, what an
//! archive brought along, another repository, the image's own. Each is asked only if what those before it had does not
//! suffice.

use std::{collections::VecDeque, path::PathBuf, sync::Arc};

use jiff::Timestamp;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use super::{
    Asked, Cause, Elsewhere, Formats, Found, Gap, Place, Questions, Stream,
    content::ContentStore,
    directory,
    kept::Kept,
    layout::OciLayout,
    registry::{Registry, Turn},
};
use crate::{image::Digest, limits};

/// The sources of this node. Cheap to clone.
#[derive(Clone)]
pub struct Sources {
    kept: Kept,
    content: Option<Arc<ContentStore>>,
    layout: Option<OciLayout>,
    permits: Arc<Semaphore>,
    disk_turns: Arc<Semaphore>,
    content_turns: Arc<Semaphore>,
}

/// What is looked for.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// The manifest or index.
    pub digest: Digest,
    /// Its name, if it has one.
    pub place: Option<&'a Place>,
    /// The forms that are asked for.
    pub formats: Formats,
    /// Whether nobody but this node is asked.
    pub offline: bool,
}

impl Sources {
    /// What was kept in `kept`, directories and registries.
    pub fn new(kept: Kept) -> Self {
        let turns = || Arc::new(Semaphore::new(limits::PARALLEL_SEARCHES));
        let permits = Arc::new(Semaphore::new(limits::PARALLEL_DECISIONS));
        Self { kept, content: None, layout: None, permits, disk_turns: turns(), content_turns: turns() }
    }

    /// As well what archives brought into `content`.
    #[must_use]
    pub fn with_content(self, content: Arc<ContentStore>) -> Self {
        Self { content: Some(content), ..self }
    }

    /// `layout` in the place of every registry.
    #[must_use]
    pub fn with_layout(self, layout: OciLayout) -> Self {
        Self { layout: Some(layout), ..self }
    }

    /// What this node keeps.
    pub fn kept(&self) -> &Kept {
        &self.kept
    }

    /// Begins to look for what is `wanted`, also `elsewhere`.
    pub fn search<'a>(&'a self, registry: &'a Registry, wanted: Wanted<'a>, elsewhere: Elsewhere) -> Search<'a> {
        let mut waiting = VecDeque::from([Source::Kept]);
        waiting.extend(elsewhere.directories.into_iter().map(Source::Directory));
        // What containerd fetched came without evidence. A name that it did not prove may be an archive's.
        if wanted.place.is_none_or(|place| !place.proven) {
            waiting.extend(self.content.clone().map(Source::Content));
        }
        match (&self.layout, wanted.place) {
            (Some(layout), _) => waiting.push_back(Source::Layout(layout.clone())),
            (None, None) => {}
            (None, Some(place)) => {
                let own = elsewhere.own.then(|| Ok(place.clone()));
                // The administrator named it.
                let named = |named: Result<_, _>| named.map(|repository| Place { repository, proven: true });
                let places: Vec<_> = elsewhere.repositories.into_iter().map(named).chain(own).collect();
                match wanted.offline && !places.is_empty() {
                    true => waiting.push_back(Source::NotAsked(place.repository.host.to_string())),
                    false => waiting.extend(places.into_iter().map(|place| match place {
                        Ok(place) => Source::Registry(place),
                        Err(why) => Source::Nowhere(why),
                    })),
                }
            }
        }
        let until = Instant::now() + limits::EVIDENCE_DEADLINE;
        Search {
            sources: self,
            registry,
            wanted,
            waiting,
            current: Current::Nothing,
            asked: Vec::new(),
            until,
            turn: None,
        }
    }
}

enum Source {
    Kept,
    Directory(PathBuf),
    Content(Arc<ContentStore>),
    Layout(OciLayout),
    Registry(Place),
    /// A registry that is not asked now.
    NotAsked(String),
    /// The image's name leads to no repository.
    Nowhere(String),
}

/// A search through the sources, as far as it was taken.
pub struct Search<'a> {
    sources: &'a Sources,
    registry: &'a Registry,
    wanted: Wanted<'a>,
    waiting: VecDeque<Source>,
    current: Current,
    asked: Vec<Put>,
    /// When registries are not waited for any more.
    until: Instant,
    turn: Option<(Turn, OwnedSemaphorePermit)>,
}

enum Current {
    Nothing,
    Ready(std::vec::IntoIter<(Timestamp, Found)>),
    Gap(Gap),
    Coming { stream: Stream, until: Instant, place: String, seconds: u64 },
}

/// A question that was put, answered or still to be answered.
enum Put {
    Answered(Asked),
    Asked(Questions),
}

impl Search<'_> {
    /// The next piece of evidence, with the time at which this node first saw it vouch if it did before, or what could not
    /// be told; none when every source was asked.
    pub async fn next(&mut self) -> Option<Result<(Found, Option<Timestamp>), Gap>> {
        // Whoever pushed the last one chose how long it took to verify: others have their turn before the next.
        tokio::task::yield_now().await;
        loop {
            match std::mem::replace(&mut self.current, Current::Nothing) {
                Current::Nothing => {}
                Current::Gap(gap) => return Some(Err(gap)),
                Current::Ready(mut pieces) => {
                    if let Some((first_seen, found)) = pieces.next() {
                        self.current = Current::Ready(pieces);
                        return Some(Ok((found, Some(first_seen))));
                    }
                }
                Current::Coming { mut stream, until, place, seconds } => {
                    match timeout_at(until, stream.items.recv()).await {
                        Ok(Some(item)) => {
                            self.current = Current::Coming { stream, until, place, seconds };
                            return Some(item.map(|found| (found, None)));
                        }
                        Ok(None) => {}
                        Err(_) => {
                            let late = Cause::TimedOut(format!("no complete answer in {seconds} s"));
                            let cause = match self.turn {
                                None => late.on_node(),
                                // Registries share their time.
                                Some(_) => {
                                    self.waiting.clear();
                                    late
                                }
                            };
                            stream.questions.break_off(&cause);
                            return Some(Err(Gap { place, cause }));
                        }
                    }
                }
            }
            let source = self.waiting.pop_front()?;
            self.current = self.open(source).await;
        }
    }

    /// What was asked so far, and what came back.
    pub fn asked(&self) -> Vec<Asked> {
        let told = |put: &Put| match put {
            Put::Answered(asked) => vec![asked.clone()],
            Put::Asked(questions) => questions.so_far(),
        };
        self.asked.iter().flat_map(told).collect()
    }

    async fn open(&mut self, source: Source) -> Current {
        let Wanted { digest, formats, .. } = self.wanted;
        let (stream, place) = match source {
            Source::Kept => {
                let kept = self.sources.kept.evidence(&digest).await;
                self.asked.extend(Asked::kept(kept.len()).map(Put::Answered));
                return Current::Ready(kept.into_iter());
            }
            Source::NotAsked(host) => return Current::Gap(Gap { place: host, cause: Cause::NotAsked }),
            Source::Nowhere(why) => {
                let place = "the repository of the evidence".to_owned();
                return Current::Gap(Gap { place, cause: Cause::NotAllowed(why) });
            }
            Source::Directory(path) => {
                let place = path.display().to_string();
                (directory::evidence(path, digest, formats, self.sources.disk_turns.clone()), place)
            }
            Source::Layout(layout) => {
                let place = layout.path().display().to_string();
                (layout.evidence(digest, formats, self.sources.disk_turns.clone()), place)
            }
            Source::Content(content) => {
                let place = "containerd's content store".to_owned();
                (content.evidence(digest, formats, self.sources.content_turns.clone()), place)
            }
            Source::Registry(place) => return self.open_registry(place).await,
        };
        self.coming(stream, place, Instant::now() + limits::EVIDENCE_ON_NODE, limits::EVIDENCE_ON_NODE.as_secs())
    }

    async fn open_registry(&mut self, place: Place) -> Current {
        if self.turn.is_none() {
            // Neither what this node has nor waiting for a turn is the registry's time. First among those that ask the same
            // one: a slow registry must not take the turns of all.
            let later = self.waiting.iter().filter_map(|source| match source {
                Source::Registry(place) => Some(place.clone()),
                _ => None,
            });
            let places: Vec<Place> = later.chain([place.clone()]).collect();
            let turn = self.registry.turn(&places).await;
            self.turn = self.sources.permits.clone().acquire_owned().await.ok().map(|permit| (turn, permit));
            self.until = Instant::now() + limits::EVIDENCE_DEADLINE;
        }
        let host = place.repository.host.to_string();
        let stream = self.registry.evidence(place, self.wanted.digest, self.wanted.formats);
        self.coming(stream, host, self.until, limits::EVIDENCE_DEADLINE.as_secs())
    }

    fn coming(&mut self, stream: Stream, place: String, until: Instant, seconds: u64) -> Current {
        self.asked.push(Put::Asked(stream.questions.clone()));
        Current::Coming { stream, until, place, seconds }
    }
}
