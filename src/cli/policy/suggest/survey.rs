//! What is on the node, and who signed it: by what was kept here, and by what registries have.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    io::{self, IsTerminal, Write},
    sync::Arc,
};

use jiff::Timestamp;
use tokio::task::JoinSet;

use crate::{
    containerd::Containerd,
    evidence::{
        Formats, Found, Place,
        content::{ContentStore, Name, NamedDocument, OnNode, Trouble},
        kept::Kept,
        sources::{Sources, Wanted},
    },
    gate::fetched,
    image::{Digest, Host, Reference, Repository, sanitize},
    limits,
    policy::{Policy, draft::Observed},
    snapshot::Snapshot,
    trust::Attestor,
    verify::{Offered, Seen, offered, verify},
};

/// Keys that came with one image and are told of.
const OFFERED: usize = 8;

/// Whose word is looked for.
pub(super) struct Known {
    pub(super) policy: Option<Arc<Policy>>,
    pub(super) given: Vec<Attestor>,
}

impl Known {
    pub(super) fn all(&self) -> Vec<&Attestor> {
        self.policy.iter().flat_map(|policy| &policy.attestors).chain(&self.given).collect()
    }
}

/// All that was found.
#[derive(Default)]
pub(super) struct Survey {
    pub(super) observed: Vec<Observed>,
    /// What of the node could not be looked at.
    pub(super) troubles: Vec<String>,
}

/// An image under one name, and where its evidence may lie.
struct Subject {
    repository: Option<Repository>,
    /// Whether containerd fetched it from there.
    proven: bool,
    /// What its records call it.
    called: BTreeSet<String>,
    target: Digest,
    children: BTreeSet<Digest>,
}

/// What one question needs.
struct Asker {
    snapshot: Arc<Snapshot>,
    known: Arc<Known>,
    sources: Sources,
    now: Timestamp,
}

impl Survey {
    /// Looks at every image record of every namespace.
    pub(super) async fn of_node(snapshot: &Arc<Snapshot>, known: Arc<Known>, kept: Kept) -> Self {
        let containerd = Arc::new(Containerd::new(&snapshot.config.containerd));
        let content = Arc::new(ContentStore::new(containerd.clone(), kept.clone()));
        let mut survey = Self::default();
        let subjects = match survey.subjects(snapshot, &containerd, &content).await {
            Ok(subjects) => subjects,
            Err(trouble) => {
                survey.troubles.push(format!("what is on this node could not be looked at: {trouble}"));
                return survey;
            }
        };
        let asker = Arc::new(Asker {
            snapshot: snapshot.clone(),
            known,
            sources: Sources::new(kept).with_content(content),
            now: Timestamp::now(),
        });
        let total = subjects.len();
        let (mut waiting, mut asking) = (subjects.into_iter(), JoinSet::new());
        loop {
            while asking.len() < limits::PARALLEL_SUBJECTS
                && let Some(subject) = waiting.next()
            {
                let asker = asker.clone();
                asking.spawn(async move { asker.observe(subject).await });
            }
            match asking.join_next().await {
                Some(Ok(observed)) => survey.observed.push(observed),
                Some(Err(error)) => survey.troubles.push(format!("an image could not be looked at: {error}")),
                None => break,
            }
            progress(survey.observed.len(), total);
        }
        if io::stderr().is_terminal() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
        survey.observed.sort_by_cached_key(|image| (image.called.clone(), image.target));
        survey
    }

    /// Of how many images not all could be asked.
    pub(super) fn gaps(&self) -> usize {
        let with_gaps = self.observed.iter().filter(|image| !image.gaps.is_empty());
        with_gaps.map(|image| image.target).collect::<BTreeSet<_>>().len()
    }

    /// What the document does not have, as comments at its beginning.
    pub(super) fn preface(&self) -> String {
        let line = |trouble: &String| format!("# Not in it: {}\n", sanitize(trouble, limits::REFERENCE_CHARS));
        self.troubles.iter().map(line).collect()
    }

    async fn subjects(
        &mut self,
        snapshot: &Snapshot,
        containerd: &Containerd,
        content: &ContentStore,
    ) -> Result<Vec<Subject>, Trouble> {
        let mut subjects: BTreeMap<(Option<Repository>, Digest), Subject> = BTreeMap::new();
        let mut namespaces = containerd.namespaces().await?;
        namespaces.sort();
        for namespace in namespaces {
            let inventory = content.inventory(&namespace).await?;
            for target in inventory.targets() {
                let image = content.on_node(&inventory, target).await?;
                if image.manifests.is_empty() {
                    let names = image.records.iter().map(|record| record.name.as_str()).collect::<Vec<_>>();
                    self.troubles.push(format!("{} ({target}) has no manifest in the content store", names.join(" ")));
                    continue;
                }
                for subject in subjects_of(snapshot, &image) {
                    // Of one image two namespaces can have different parts.
                    match subjects.entry((subject.repository.clone(), target)) {
                        Entry::Vacant(entry) => drop(entry.insert(subject)),
                        Entry::Occupied(mut entry) => entry.get_mut().add(subject),
                    }
                }
            }
        }
        Ok(subjects.into_values().collect())
    }
}

impl Subject {
    fn add(&mut self, other: Self) {
        self.proven |= other.proven;
        self.called.extend(other.called);
        self.children.extend(other.children);
    }
}

/// The image under each name of its records, or else of where it came from, or else without one.
fn subjects_of(snapshot: &Snapshot, image: &OnNode) -> Vec<Subject> {
    let all: Vec<&NamedDocument> = image.manifests.iter().flatten().collect();
    let from: Vec<(&str, &str)> = all
        .iter()
        .filter(|document| document.digest == image.target)
        .flat_map(|document| &document.names)
        .filter_map(|name| match name {
            Name::Fetched(host, path) => Some((host.as_str(), path.as_str())),
            Name::Claimed(_) => None,
        })
        .collect();
    let is_proven = |repository: &Repository| {
        let is_host = |name: &str| name.parse::<Host>().is_ok_and(|host| host.name() == repository.host.name());
        from.iter().any(|(host, path)| is_host(host) && *path == repository.path)
    };
    // The first document is the manifest itself, and what follows are indexes that list it.
    let children = image.manifests.iter().filter_map(|documents| documents.first()).map(|manifest| manifest.digest);
    let children: BTreeSet<Digest> = children.filter(|child| *child != image.target).collect();
    let subject = |repository: Option<Repository>, called: &str| Subject {
        proven: repository.as_ref().is_some_and(is_proven),
        repository,
        called: BTreeSet::from([called.to_owned()]),
        target: image.target,
        children: children.clone(),
    };
    // The CRI plugin has a record by the digest of the configuration as well, which reads like a name and is none.
    let named = |name: &str| name.contains('/').then(|| name.parse::<Reference>().ok()).flatten();
    let names = image.records.iter().map(|record| record.name.as_str());
    let by_record: Vec<Subject> =
        names.clone().filter_map(|name| Some(subject(Some(named(name)?.repository), name))).collect();
    if !by_record.is_empty() {
        return by_record;
    }
    let called = names.collect::<Vec<_>>().join(" ");
    let sources = from.iter().flat_map(|(host, path)| fetched(snapshot, host, path, image.target));
    let by_source: Vec<Subject> = sources
        .map(|source| Subject { proven: source.origin.proves_host(), ..subject(source.name, &called) })
        .collect();
    match by_source.is_empty() {
        true => vec![subject(None, &called)],
        false => by_source,
    }
}

impl Asker {
    async fn observe(&self, subject: Subject) -> Observed {
        let Subject { repository, proven, called, target, children } = subject;
        let mut observed = Observed {
            called: called.into_iter().collect::<Vec<_>>().join(" "),
            target,
            children: children.into_iter().collect(),
            vouched: Vec::new(),
            offered: Vec::new(),
            gaps: Vec::new(),
            repository,
        };
        self.ask(&mut observed, target, proven).await;
        for child in observed.children.clone() {
            if observed.vouched.iter().any(|vouched| *vouched.digest() == target) {
                break;
            }
            self.ask(&mut observed, child, proven).await;
        }
        observed
    }

    /// Looks for all evidence about `digest`, until everybody vouches.
    async fn ask(&self, observed: &mut Observed, digest: Digest, proven: bool) {
        let place = observed.repository.clone().map(|repository| Place { repository, proven });
        let wanted = Wanted { digest, place: place.as_ref(), formats: Formats::ALL, offline: false };
        let elsewhere = self.snapshot.config.evidence_for(observed.repository.as_ref());
        let mut search = self.sources.search(&self.snapshot.registry, wanted, elsewhere);
        while let Some(item) = search.next().await {
            match item {
                Ok((found, first)) if self.take(observed, &found, &digest, first) => return,
                Ok(_) => {}
                Err(gap) => note(observed, format!("{}: {}", gap.place, gap.cause)),
            }
        }
    }

    /// Adds `found`. Whether everybody vouches now.
    fn take(&self, observed: &mut Observed, found: &Found, digest: &Digest, first: Option<Timestamp>) -> bool {
        let attestors = self.known.all();
        let before = observed.vouched.len();
        let vouched =
            verify(found, digest, &attestors, Seen { now: self.now, first }).into_iter().filter_map(Result::ok);
        observed.vouched.extend(vouched);
        if observed.vouched.len() == before
            && observed.offered.len() < OFFERED
            && let Some(offered) = offered(found, digest)
            && !is_known(&attestors, &offered)
        {
            observed.offered.push(offered);
        }
        let vouches = |attestor: &Attestor| {
            observed.vouched.iter().any(|vouched| vouched.digest() == digest && vouched.attestor() == attestor.name)
        };
        !attestors.is_empty() && attestors.iter().all(|attestor| vouches(attestor))
    }
}

/// Whether somebody has this key already, so that it is no news.
fn is_known(attestors: &[&Attestor], offered: &Offered) -> bool {
    match offered {
        Offered::Key(key) => attestors.iter().flat_map(|attestor| &attestor.keys).any(|known| known.key.id == key.id),
        Offered::Hint(_) | Offered::Identity(_) => false,
    }
}

fn note(observed: &mut Observed, gap: String) {
    if observed.gaps.len() < limits::NAMES && !observed.gaps.contains(&gap) {
        observed.gaps.push(gap);
    }
}

/// One line that is overwritten by the next, on a terminal only.
fn progress(done: usize, of: usize) {
    if io::stderr().is_terminal() {
        let _ = write!(io::stderr(), "\r\x1b[K{done} of {of} images looked at").and_then(|()| io::stderr().flush());
    }
}
