//! All images of one namespace at once. To ask containerd about each of them would let it look through all its blobs as
//! often.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{CHILD, ContentStore, NamedDocument, OnNode, SOURCE, Trouble};
use crate::{
    containerd::Blob,
    image::{Digest, Document},
    limits,
};

/// The label of a configuration whose layers are unpacked: the chain id, and the snapshotter in its name.
const UNPACKED: &str = "containerd.io/gc.ref.snapshot.";
/// Whether CRI may remove it when there is no room.
const PINNED: &str = "io.cri-containerd.pinned";

/// The image records and documents of one namespace, as they were at one time.
pub struct Inventory {
    namespace: String,
    /// By what they lead to.
    records: BTreeMap<Digest, Vec<Record>>,
    /// Manifests and indexes, with nothing but the labels that say where they came from.
    documents: HashMap<Digest, Blob>,
    /// Those of them that have a configuration.
    manifests: HashSet<Digest>,
    /// By each document that another lists: those that list it.
    above: HashMap<Digest, Vec<Digest>>,
    /// By each document: what containerd noted that refers to it.
    referrers: HashMap<Digest, Vec<Digest>>,
    /// By snapshotter and chain id: the configurations that were unpacked to it.
    unpacked: HashMap<(String, String), Vec<Digest>>,
}

/// An image record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its name.
    pub name: String,
    /// Whether CRI is told never to remove it.
    pub pinned: bool,
}

impl Inventory {
    /// The namespace that it is of.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The names of the records that lead to `digest`.
    pub fn names(&self, digest: &Digest) -> impl Iterator<Item = &str> {
        self.records.get(digest).into_iter().flatten().map(|record| record.name.as_str())
    }

    /// The documents whose labels say that they list `digest`.
    pub(super) fn above(&self, digest: &Digest) -> impl Iterator<Item = &Blob> {
        self.above.get(digest).into_iter().flatten().filter_map(|parent| self.documents.get(parent))
    }

    /// Whether `digest` is a document of it.
    pub(super) fn knows(&self, digest: &Digest) -> bool {
        self.documents.contains_key(digest)
    }

    /// What containerd noted that refers to `digest`.
    pub(super) fn referrers(&self, digest: &Digest) -> &[Digest] {
        self.referrers.get(digest).map_or(&[], Vec::as_slice)
    }

    /// The records whose names have `part` in them, and what they lead to.
    pub(super) fn named(&self, part: &str) -> impl Iterator<Item = (&str, &Digest)> {
        let each = self.records.iter().flat_map(|(target, records)| records.iter().map(move |record| (record, target)));
        each.map(|(record, target)| (record.name.as_str(), target)).filter(move |(name, _)| name.contains(part))
    }

    /// What the record `name` leads to.
    pub fn target(&self, name: &str) -> Option<Digest> {
        let named = |records: &[Record]| records.iter().any(|record| record.name == name);
        self.records.iter().find_map(|(target, records)| named(records).then_some(*target))
    }

    /// What every record leads to.
    pub fn targets(&self) -> impl Iterator<Item = Digest> {
        self.records.keys().copied()
    }

    /// The configurations that were unpacked to `chain` in `snapshotter`, by their labels.
    pub fn configs_of(&self, snapshotter: &str, chain: &str) -> &[Digest] {
        self.unpacked.get(&(snapshotter.to_owned(), chain.to_owned())).map_or(&[], Vec::as_slice)
    }

    fn add(&mut self, blob: Blob, links: &mut usize) -> Result<(), tonic::Status> {
        let Blob { digest, mut labels } = blob;
        let mut is_document = false;
        for (label, value) in &labels {
            if let Some(snapshotter) = label.strip_prefix(UNPACKED) {
                *links += 1;
                self.unpacked.entry((snapshotter.to_owned(), value.clone())).or_default().push(digest);
            } else if let Some(kind) = label.strip_prefix(CHILD) {
                is_document = true;
                if kind == ".config" {
                    self.manifests.insert(digest);
                }
                let Ok(child) = value.parse() else { continue };
                if kind.starts_with(".referrer.") {
                    *links += 1;
                    self.referrers.entry(digest).or_default().push(child);
                    continue;
                }
                // Nobody asks which manifests have a layer.
                if !kind.starts_with(".l.") {
                    *links += 1;
                    self.above.entry(child).or_default().push(digest);
                }
            }
        }
        if *links > limits::NODE_LINKS {
            let found = format!("the documents of {} list more than {} others", self.namespace, limits::NODE_LINKS);
            return Err(tonic::Status::resource_exhausted(found));
        }
        if is_document {
            labels.retain(|label, _| label.starts_with(SOURCE));
            self.documents.insert(digest, Blob { digest, labels });
        }
        Ok(())
    }
}

impl ContentStore {
    /// What is in `namespace` now.
    ///
    /// # Errors
    /// When containerd did not answer, or has more than [`limits::NODE_DOCUMENTS`] documents there: a part of them would
    /// not be the whole truth.
    pub async fn inventory(&self, namespace: &str) -> Result<Inventory, Trouble> {
        let mut inventory = Inventory {
            namespace: namespace.to_owned(),
            records: BTreeMap::new(),
            documents: HashMap::new(),
            manifests: HashSet::new(),
            above: HashMap::new(),
            referrers: HashMap::new(),
            unpacked: HashMap::new(),
        };
        let snapshotters = self.containerd.plugins().await?.snapshotters;
        let unpacked = snapshotters.iter().map(|name| format!("labels.\"{UNPACKED}{name}\""));
        // containerd numbers what a document lists from 0 on, the manifests in an index apart from the indexes in it.
        let documents = ["config", "m.0", "0"].map(|child| format!("labels.\"{CHILD}.{child}\""));
        let filters = documents.into_iter().chain(unpacked).collect();
        let mut links = 0;
        let add = |blob| inventory.add(blob, &mut links);
        self.containerd.each_blob(namespace, filters, limits::NODE_DOCUMENTS, add).await?;
        for image in self.containerd.all_images(namespace).await? {
            if let Some(target) = image.target.and_then(|target| target.digest.parse().ok()) {
                let pinned = image.labels.get(PINNED).is_some_and(|value| value == "pinned");
                inventory.records.entry(target).or_default().push(Record { name: image.name, pinned });
            }
        }
        Ok(inventory)
    }

    /// The image that the records of `inventory` name `target`.
    ///
    /// # Errors
    /// When containerd did not answer.
    pub async fn on_node(&self, inventory: &Inventory, target: Digest) -> Result<OnNode, Trouble> {
        let manifests = |digest: &Digest| inventory.manifests.contains(digest);
        let blobs: Vec<&Blob> = match manifests(&target) {
            true => inventory.documents.get(&target).into_iter().collect(),
            false => match self.document(&inventory.namespace, &target).await.as_deref() {
                Ok(Document::Index(index)) => {
                    let children = index.children.iter().map(|child| &child.descriptor.digest);
                    children
                        .filter(|child| manifests(child))
                        .filter_map(|child| inventory.documents.get(child))
                        .collect()
                }
                Err(Trouble::Unreachable(why)) => return Err(Trouble::Unreachable(why.clone())),
                Ok(Document::Manifest(_)) | Err(_) => Vec::new(),
            },
        };
        let mut manifests = Vec::new();
        for blob in blobs {
            manifests.push(self.documents(&inventory.into(), blob).await?);
        }
        Ok(OnNode { records: inventory.records.get(&target).cloned().unwrap_or_default(), target, manifests })
    }

    /// What can admit each manifest of `inventory` that has the configuration `config`, by its own bytes.
    ///
    /// # Errors
    /// When containerd did not answer.
    pub async fn of_config(&self, inventory: &Inventory, config: &Digest) -> Result<Vec<Vec<NamedDocument>>, Trouble> {
        let mut manifests = Vec::new();
        for blob in inventory.above(config) {
            match self.document(&inventory.namespace, &blob.digest).await.as_deref() {
                Ok(Document::Manifest(manifest)) if manifest.config.digest == *config => {
                    manifests.push(self.documents(&inventory.into(), blob).await?);
                }
                Err(Trouble::Unreachable(why)) => return Err(Trouble::Unreachable(why.clone())),
                Ok(_) | Err(_) => {}
            }
        }
        Ok(manifests)
    }
}

#[cfg(test)]
mod tests;
