//! A walk over a node: what the policy says now of the images and running containers that are on it.

mod containers;

use std::{collections::BTreeSet, sync::Arc};

use tokio::task::JoinSet;

use self::containers::Alike;
pub use self::containers::{ContainerStanding, Origin, PieceStanding};
use super::subjects::subjects;
use crate::{
    admission::Admission,
    containerd::Containerd,
    decisions::Asking,
    evidence::content::{ContentStore, Inventory, NamedDocument, OnNode, Record, Trouble},
    image::Digest,
    limits,
    policy::decision::{Code, Decision, Verdict, Violation},
    snapshot::Snapshot,
};

/// An image on the node, and what the policy says of it.
#[derive(Clone, Debug)]
pub struct Standing {
    /// containerd's namespace.
    pub namespace: String,
    /// Its image records.
    pub records: Vec<Record>,
    /// The manifest or index that they lead to.
    pub target: Digest,
    /// Everything that can admit it: its manifests, and the indexes that list them.
    pub documents: BTreeSet<Digest>,
    /// Whether all its names and documents were judged: there may be more of them than is looked at.
    pub complete: bool,
    /// The decision; of several manifests of an index, the one that refuses.
    pub decision: Decision,
}

impl Standing {
    /// What a person calls it.
    pub fn name(&self) -> String {
        let mut names = self.records.iter().map(|record| &record.name);
        match names.clone().find(|name| name.contains('/')).or(names.next()) {
            Some(name) => name.clone(),
            None => self.target.to_string(),
        }
    }
}

/// Everything on the node that was judged.
#[derive(Clone, Debug, Default)]
pub struct Judged {
    /// The images of all namespaces, in the order of their namespaces and names.
    pub images: Vec<Standing>,
    /// The containers whose first process runs.
    pub containers: Vec<ContainerStanding>,
}

/// How many of how many were judged, for whoever waits.
pub type Progress<'a> = &'a (dyn Fn(usize, usize) + Send + Sync);

/// Looks at every image and running container on the node.
pub struct Walk {
    containerd: Arc<Containerd>,
    content: Arc<ContentStore>,
    admission: Arc<Admission>,
}

impl Walk {
    /// Over what is behind `containerd`.
    pub fn new(containerd: Arc<Containerd>, content: Arc<ContentStore>, admission: Arc<Admission>) -> Self {
        Self { containerd, content, admission }
    }

    /// Judges every image record and running container of every namespace but those in `exempt` under `snapshot`.
    ///
    /// # Errors
    /// When containerd does not say what is there. What cannot be judged is [`Verdict::Inconclusive`].
    pub async fn judge(
        &self,
        snapshot: &Arc<Snapshot>,
        asking: Asking,
        exempt: &[String],
        progress: Progress<'_>,
    ) -> Result<Judged, Trouble> {
        let mut namespaces = self.containerd.namespaces().await?;
        namespaces.retain(|namespace| !exempt.contains(namespace));
        namespaces.sort();
        let mut inventories = Vec::new();
        for namespace in &namespaces {
            inventories.push(self.content.inventory(namespace).await?);
        }
        let total = inventories.iter().map(|inventory| inventory.targets().count()).sum();
        let mut judged = Judged::default();
        for inventory in inventories {
            let done = judged.images.len();
            let targets = inventory.targets().collect();
            let step = |number| progress(done + number, total);
            let mut images =
                self.images(snapshot, asking, &inventory, targets, limits::PARALLEL_SUBJECTS, &step).await?;
            images.sort_by_cached_key(|image| (image.name(), image.target));
            judged.images.extend(images);
            judged.containers.extend(self.running(snapshot, asking, &inventory).await?);
        }
        Ok(judged)
    }

    /// What is in `namespace`, to judge some of it.
    ///
    /// # Errors
    /// As [`Self::judge`].
    pub async fn inventory(&self, namespace: &str) -> Result<Inventory, Trouble> {
        self.content.inventory(namespace).await
    }

    /// Judges the images of `inventory` that are called `targets`, so many at a time.
    ///
    /// # Errors
    /// As [`Self::judge`].
    pub async fn images(
        &self,
        snapshot: &Arc<Snapshot>,
        asking: Asking,
        inventory: &Inventory,
        targets: Vec<Digest>,
        parallel: usize,
        step: &(dyn Fn(usize) + Send + Sync),
    ) -> Result<Vec<Standing>, Trouble> {
        let (mut standing, mut judging) = (Vec::new(), JoinSet::new());
        // Those of the self-test are nobody's.
        let mut waiting = targets.into_iter().filter(|target| !self.admission.one_time().lists(target));
        loop {
            while judging.len() < parallel
                && let Some(target) = waiting.next()
            {
                let image = self.content.on_node(inventory, target).await?;
                let (admission, snapshot) = (self.admission.clone(), snapshot.clone());
                let namespace = inventory.namespace().to_owned();
                judging.spawn(async move {
                    let decision = judge(&admission, &snapshot, &image, asking).await;
                    let OnNode { records, target, manifests } = image;
                    let documents = digests(&manifests).chain([target]).collect();
                    let few = |documents: &Vec<_>| subjects(&snapshot, documents).len() <= limits::SUBJECTS;
                    let complete = manifests.iter().all(few);
                    Standing { namespace, records, target, documents, complete, decision }
                });
            }
            match judging.join_next().await {
                Some(judged) => standing.extend(judged.ok()),
                None => return Ok(standing),
            }
            step(standing.len());
        }
    }

    async fn running(
        &self,
        snapshot: &Arc<Snapshot>,
        asking: Asking,
        inventory: &Inventory,
    ) -> Result<Vec<ContainerStanding>, Trouble> {
        let namespace = inventory.namespace();
        let running = self.containerd.running(namespace).await?;
        if running.is_empty() {
            return Ok(Vec::new());
        }
        let (containers, more) = self.containerd.containers(namespace, Vec::new(), limits::NODE_CONTAINERS).await?;
        if more {
            let found = format!("more than {} containers are in {namespace}", limits::NODE_CONTAINERS);
            return Err(Trouble::Unreachable(found));
        }
        let (mut standing, mut alike) = (Vec::new(), Alike::default());
        for container in containers.into_iter().filter(|container| running.contains(&container.id)) {
            standing.push(self.container(snapshot, asking, inventory, container, &mut alike).await?);
        }
        Ok(standing)
    }
}

async fn judge(admission: &Arc<Admission>, snapshot: &Arc<Snapshot>, image: &OnNode, asking: Asking) -> Decision {
    let mut admitted = None;
    for documents in &image.manifests {
        let decision = admission.decide(snapshot, subjects(snapshot, documents), asking).await;
        if decision.verdict != Verdict::Allow {
            return decision;
        }
        admitted = Some(decision);
    }
    admitted.unwrap_or_else(|| {
        let found = format!("{} has no manifest in the content store", image.target);
        unknown(found, "pull it again, or remove it")
    })
}

fn digests(manifests: &[Vec<NamedDocument>]) -> impl Iterator<Item = Digest> {
    manifests.iter().flatten().map(|document| document.digest)
}

fn unknown(found: String, fix: &str) -> Decision {
    Decision::refused(Violation { code: Code::ContainerdUnreachable, found, fix: fix.to_owned() })
}
