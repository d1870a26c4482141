//! containerd's content store: which images a layer belongs to, by bytes that were hashed here.
//!
//! Labels find documents; they prove nothing. A name from a label or a record selects a rule and a place to look, and
//! only what containerd noted when it fetched counts as the origin.

mod imported;
mod inventory;
mod layer;
mod of_container;

use std::sync::Arc;

use moka::sync::Cache;
use serde::{Deserialize, Serialize};
use tonic::{Code, Status};

pub use self::{
    inventory::{Inventory, Record},
    of_container::Manifests,
};
use super::{
    hashed::Hashed,
    kept::{Index, Kept},
};
use crate::{
    containerd::{Blob, Containerd},
    image::{Config, Descriptor, Digest, Document, Manifest, Reference, Repository, chain_ids, media_type},
    limits,
};

const CHILD: &str = "containerd.io/gc.ref.content";
const SOURCE: &str = "containerd.io/distribution.source.";
/// Annotations with which an archive names its images.
const NAME_ANNOTATIONS: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];
/// Positions that one list call asks for; longer documents are found by reading them all.
const POSITIONS: usize = 128;
/// Namespaces of which an inventory is kept for a moment.
const NAMESPACES: u64 = limits::EVIDENCE_NAMESPACES as u64;
/// Bytes of parsed documents that are kept.
const DOCUMENT_CACHE_BYTES: u64 = 12 << 20;

/// An image that has the layer where it is being unpacked.
#[derive(Clone, Debug)]
pub struct ImageOfLayer {
    /// Its configuration.
    pub config: Digest,
    /// What can admit it: the manifest, and the indexes in the store that list it.
    pub documents: Vec<NamedDocument>,
    /// Every layer of it with the chain id that it completes.
    pub layers: Vec<(Descriptor, Digest)>,
}

/// An index or manifest with the names that lead to it.
///
/// What an index is called leads to the manifests that it lists; what a manifest is called says nothing about an index,
/// since anybody can make one that lists it.
#[derive(Clone, Debug)]
pub struct NamedDocument {
    /// The document.
    pub digest: Digest,
    /// Its names: those that containerd noted first, at most [`limits::NAMES`].
    pub names: Vec<Name>,
}

/// An image record of this node.
#[derive(Clone, Debug)]
pub struct OnNode {
    /// The records that have this target.
    pub records: Vec<Record>,
    /// The manifest or index.
    pub target: Digest,
    /// What can admit it: each manifest of it that is here, with the indexes that list it. Empty when none can be read.
    pub manifests: Vec<Vec<NamedDocument>>,
}

/// A name of an image on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Name {
    /// containerd fetched it from this host (without its port) and path.
    Fetched(String, String),
    /// An image record or an archive says so.
    Claimed(Repository),
}

/// Why the content store does not say to which image a layer belongs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// containerd did not answer.
    #[error("containerd: {0}")]
    Unreachable(String),
    /// A blob's bytes are not those of its digest.
    #[error("the bytes stored as {0} have another digest")]
    WrongBytes(Digest),
    /// A blob that should be there is not.
    #[error("{0} is not in the content store")]
    Missing(Digest),
    /// A document is refused.
    #[error("{0}: {1}")]
    Malformed(Digest, String),
}

impl From<Status> for Trouble {
    fn from(status: Status) -> Self {
        Self::Unreachable(format!("{}: {}", status.code(), status.message()))
    }
}

/// Documents that list another.
type Listing = Vec<(Blob, Arc<Document>)>;

/// Who says what lists a document, and which records lead to it.
enum Source<'a> {
    /// containerd, about this namespace.
    Asked(&'a str),
    /// What containerd said about all of a namespace.
    Listed(&'a Inventory),
}

impl<'a> From<&'a Inventory> for Source<'a> {
    fn from(inventory: &'a Inventory) -> Self {
        Self::Listed(inventory)
    }
}

#[derive(Clone)]
enum Parsed {
    Document(Arc<Document>),
    Config(Arc<Config>),
}

impl Parsed {
    /// About the memory that it takes: whoever writes a document chooses its texts.
    fn bytes(&self) -> u32 {
        let descriptor = |descriptor: &Descriptor| {
            let annotations = descriptor.annotations.iter().map(|(key, value)| 96 + key.len() + value.len());
            256 + descriptor.media_type.len() + annotations.sum::<usize>()
        };
        let bytes: usize = match self {
            Self::Document(document) => match &**document {
                Document::Index(index) => index.children.iter().map(|child| 128 + descriptor(&child.descriptor)).sum(),
                Document::Manifest(manifest) => {
                    std::iter::once(&manifest.config).chain(&manifest.layers).map(descriptor).sum()
                }
            },
            Self::Config(config) => {
                32 * config.diff_ids.len() + config.platform.os.len() + config.platform.architecture.len()
            }
        };
        u32::try_from(256 + bytes).unwrap_or(u32::MAX)
    }
}

/// Reads containerd's content store, hashing all that it hands out.
pub struct ContentStore {
    containerd: Arc<Containerd>,
    kept: Kept,
    parsed: Cache<Digest, Parsed>,
    by_config: Cache<(String, Digest), Manifests>,
    /// By namespace. Each is for what is known in it already.
    recent: Cache<String, Arc<Inventory>>,
    hashed: Hashed,
}

impl ContentStore {
    /// The content store of `containerd`; indexes that it has forgotten are in `kept`.
    pub fn new(containerd: Arc<Containerd>, kept: Kept) -> Self {
        Self {
            containerd,
            kept,
            parsed: Cache::builder()
                .max_capacity(DOCUMENT_CACHE_BYTES)
                .weigher(|_: &Digest, parsed: &Parsed| parsed.bytes())
                .build(),
            by_config: Cache::new(limits::CONFIGURATIONS),
            recent: Cache::builder().max_capacity(NAMESPACES).time_to_live(limits::INVENTORY_LIFE).build(),
            hashed: Hashed::default(),
        }
    }

    /// The images that have `layer` at a place where it completes `chain`.
    ///
    /// # Errors
    /// When containerd did not answer, or when nothing was found and a document that may have been it is refused.
    pub async fn images_of(
        &self,
        namespace: &str,
        layer: &Descriptor,
        chain: &Digest,
    ) -> Result<Vec<ImageOfLayer>, Trouble> {
        let by_label = positions("l.", &layer.digest);
        let by_label = self.containerd.blobs(namespace, by_label, limits::CANDIDATE_MANIFESTS).await?;
        let found = self.placing(namespace, by_label, layer, chain).await;
        if matches!(&found, Ok(images) if !images.is_empty()) {
            return found;
        }
        // containerd leaves these labels out when it discards unpacked layers, and for layers far down a manifest.
        let manifests = vec![format!("labels.\"{CHILD}.config\"")];
        let all = self.containerd.blobs(namespace, manifests, limits::CANDIDATE_MANIFESTS).await?;
        match self.placing(namespace, all, layer, chain).await {
            Ok(images) if !images.is_empty() => Ok(images),
            Err(trouble @ Trouble::Unreachable(_)) => Err(trouble),
            // What is wrong with an image that does not list this layer is not what is wrong here.
            _ => found,
        }
    }

    async fn placing(
        &self,
        namespace: &str,
        manifests: Vec<Blob>,
        layer: &Descriptor,
        chain: &Digest,
    ) -> Result<Vec<ImageOfLayer>, Trouble> {
        let (mut images, mut refused) = (Vec::new(), None);
        for blob in manifests {
            match self.layers_of(namespace, &blob.digest).await {
                Ok((manifest, chains)) => {
                    let places =
                        |(other, completes): (&Descriptor, &Digest)| same_layer(other, layer) && completes == chain;
                    if manifest.layers.iter().zip(&chains).any(places) {
                        images.push(self.image(namespace, blob, &manifest, chains).await?);
                    }
                }
                Err(trouble @ Trouble::Unreachable(_)) => return Err(trouble),
                Err(trouble) => refused = Some(trouble),
            }
        }
        match refused {
            Some(trouble) if images.is_empty() => Err(trouble),
            _ => Ok(images),
        }
    }

    /// The manifest `digest` and the chain id that each of its layers completes.
    async fn layers_of(&self, namespace: &str, digest: &Digest) -> Result<(Arc<Manifest>, Vec<Digest>), Trouble> {
        let document = self.document(namespace, digest).await?;
        let Document::Manifest(manifest) = &*document else {
            return Err(Trouble::Malformed(*digest, "not a manifest".into()));
        };
        if !media_type::is_config(&manifest.config.media_type) {
            return Err(Trouble::Malformed(*digest, "its config is not an image configuration".into()));
        }
        let config = self.config(namespace, &manifest.config.digest).await?;
        if config.diff_ids.len() != manifest.layers.len() {
            return Err(Trouble::Malformed(*digest, "its configuration has another number of layers".into()));
        }
        Ok((Arc::new(manifest.clone()), chain_ids(&config.diff_ids)))
    }

    async fn image(
        &self,
        namespace: &str,
        blob: Blob,
        manifest: &Manifest,
        chains: Vec<Digest>,
    ) -> Result<ImageOfLayer, Trouble> {
        let documents = self.documents(&Source::Asked(namespace), &blob).await?;
        let layers = manifest.layers.iter().cloned().zip(chains).collect();
        Ok(ImageOfLayer { config: manifest.config.digest, documents, layers })
    }

    /// The manifest behind `blob` first: where all are refused alike, its digest is the one to sign. Then the indexes that
    /// list it.
    async fn documents(&self, source: &Source<'_>, blob: &Blob) -> Result<Vec<NamedDocument>, Trouble> {
        let (mut names, above) = self.names(source, blob).await?;
        let mut documents = Vec::new();
        for (parent, document) in &above {
            if !matches!(&**document, Document::Index(index) if index.lists(&blob.digest)) {
                continue;
            }
            let (of_index, _) = self.names(source, parent).await?;
            of_index.iter().for_each(|name| add(&mut names, name.clone()));
            documents.push(NamedDocument { digest: parent.digest, names: of_index });
        }
        for index in self.kept.indexes(&blob.digest).await {
            let digest = Digest::of(&index.bytes);
            let is_index = |document| matches!(document, Document::Index(index) if index.lists(&blob.digest));
            let known = documents.iter().any(|document: &NamedDocument| document.digest == digest);
            if !known && Document::parse_undescribed(&index.bytes).is_ok_and(is_index) {
                documents.push(NamedDocument { digest, names: index.names });
            }
        }
        documents.insert(0, NamedDocument { digest: blob.digest, names });
        Ok(documents)
    }

    /// Remembers the image that `admitted` admitted, for when a container is made from it.
    pub async fn keep_image(&self, namespace: &str, image: &ImageOfLayer, admitted: &Digest) {
        self.remember(namespace, &image.config, vec![image.documents.clone()]);
        self.keep(namespace, &image.documents, admitted).await;
    }

    /// Keeps the document `admitted` of `documents`, in case it is an index that containerd will forget before the manifest.
    pub async fn keep(&self, namespace: &str, documents: &[NamedDocument], admitted: &Digest) {
        let Some((manifest, indexes)) = documents.split_first() else { return };
        let Some(index) = indexes.iter().find(|index| index.digest == *admitted) else { return };
        // It may come from what was kept, and be gone from the store.
        if let Ok(bytes) = self.bytes(namespace, admitted).await {
            self.kept.keep_index(manifest.digest, Index { bytes, names: index.names.clone() });
        }
    }

    /// What the document behind `blob` is called: where containerd fetched it, and what records and archives say.
    /// With the documents that list it.
    async fn names(&self, source: &Source<'_>, blob: &Blob) -> Result<(Vec<Name>, Listing), Trouble> {
        let (records, above) = match source {
            Source::Asked(namespace) => {
                let records = async { self.containerd.images(namespace, &blob.digest).await.map_err(Trouble::from) };
                // containerd numbers the manifests in an index apart from the indexes in it.
                let listed = [positions("m.", &blob.digest), positions("", &blob.digest)].concat();
                let parents = self.containerd.blobs(namespace, listed, limits::PARENT_INDEXES);
                let parents = async { self.parsed(namespace, parents.await?).await };
                let (records, above) = tokio::try_join!(records, parents)?;
                (records.into_iter().map(|image| image.name).collect(), above)
            }
            Source::Listed(inventory) => {
                let parents: Vec<Blob> = inventory.above(&blob.digest).cloned().collect();
                let names: Vec<String> = inventory.names(&blob.digest).map(str::to_owned).collect();
                (names, self.parsed(inventory.namespace(), parents).await?)
            }
        };
        let mut names = fetched(blob);
        records.iter().for_each(|name| claimed(name, &mut names));
        above.iter().for_each(|(_, document)| annotated(document, &blob.digest, &mut names));
        Ok((names, above))
    }

    /// The documents in the store that are said to list another. One that cannot be used says nothing.
    async fn parsed(&self, namespace: &str, parents: Vec<Blob>) -> Result<Listing, Trouble> {
        let mut above = Vec::new();
        for parent in parents {
            match self.document(namespace, &parent.digest).await {
                Ok(document) => above.push((parent, document)),
                Err(trouble @ Trouble::Unreachable(_)) => return Err(trouble),
                Err(_) => {}
            }
        }
        Ok(above)
    }

    /// The index or manifest `digest`, hashed and parsed.
    ///
    /// # Errors
    /// When it is not there, is not what its digest says, is refused, or containerd did not answer.
    pub async fn document(&self, namespace: &str, digest: &Digest) -> Result<Arc<Document>, Trouble> {
        if let Some(Parsed::Document(document)) = self.parsed.get(digest) {
            return Ok(document);
        }
        let bytes = self.bytes(namespace, digest).await?;
        let document = Document::parse_undescribed(&bytes).map_err(|e| Trouble::Malformed(*digest, e.0))?;
        let document = Arc::new(document);
        self.parsed.insert(*digest, Parsed::Document(document.clone()));
        Ok(document)
    }

    async fn config(&self, namespace: &str, digest: &Digest) -> Result<Arc<Config>, Trouble> {
        if let Some(Parsed::Config(config)) = self.parsed.get(digest) {
            return Ok(config);
        }
        let bytes = self.bytes(namespace, digest).await?;
        let config = Arc::new(Config::parse(&bytes).map_err(|e| Trouble::Malformed(*digest, e.0))?);
        self.parsed.insert(*digest, Parsed::Config(config.clone()));
        Ok(config)
    }

    /// The bytes of a document, hashed.
    async fn bytes(&self, namespace: &str, digest: &Digest) -> Result<Vec<u8>, Trouble> {
        let read = self.containerd.read(namespace, digest, limits::MANIFEST_BYTES).await;
        let bytes = match read {
            Err(status) if status.code() == Code::OutOfRange => {
                return Err(Trouble::Malformed(*digest, status.message().to_owned()));
            }
            read => read?.ok_or(Trouble::Missing(*digest))?,
        };
        match Digest::of(&bytes) == *digest {
            true => Ok(bytes),
            false => Err(Trouble::WrongBytes(*digest)),
        }
    }
}

/// The media type decides how containerd unpacks, so it must be the manifest's too.
fn same_layer(listed: &Descriptor, asked: &Descriptor) -> bool {
    listed.digest == asked.digest && listed.media_type == asked.media_type && listed.size == asked.size
}

/// Filters for the blobs that list `digest` at one of the first positions.
fn positions(kind: &str, digest: &Digest) -> Vec<String> {
    (0..POSITIONS).map(|i| format!("labels.\"{CHILD}.{kind}{i}\"=={digest}")).collect()
}

/// Adds `name` unless it is there or there is no room: what containerd noted comes first, and an archive can say a lot.
fn add(names: &mut Vec<Name>, name: Name) {
    if names.len() < limits::NAMES && !names.contains(&name) {
        names.push(name);
    }
}

fn fetched(blob: &Blob) -> Vec<Name> {
    let mut sources: Vec<_> =
        blob.labels.iter().filter_map(|(key, paths)| Some((key.strip_prefix(SOURCE)?, paths))).collect();
    sources.sort_unstable();
    let mut names = Vec::new();
    for (host, paths) in sources {
        paths.split(',').for_each(|path| add(&mut names, Name::Fetched(host.to_owned(), path.to_owned())));
    }
    names
}

fn annotated(document: &Document, target: &Digest, names: &mut Vec<Name>) {
    let Document::Index(index) = document else { return };
    for child in index.children.iter().filter(|child| child.descriptor.digest == *target) {
        for key in NAME_ANNOTATIONS {
            if let Some(text) = child.descriptor.annotations.get(key) {
                claimed(text, names);
            }
        }
    }
}

/// A bare tag or a digest is no name: `latest` would read as a repository of Docker Hub.
fn claimed(text: &str, names: &mut Vec<Name>) {
    if text.contains('/')
        && let Ok(reference) = text.parse::<Reference>()
    {
        add(names, Name::Claimed(reference.repository));
    }
}

#[cfg(test)]
mod bounds;
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_weighs_what_its_writer_put_into_it() {
        let long = "x".repeat(1 << 20);
        let index = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{}","digest":"{}","size":1,"annotations":{{"a":"{long}"}}}}]}}"#,
            media_type::MANIFEST,
            Digest::of(b"")
        );
        let index = Document::parse(index.as_bytes(), media_type::INDEX).unwrap();
        let config = format!(r#"{{"os":"{long}","architecture":"x","rootfs":{{"type":"layers","diff_ids":[]}}}}"#);
        let config = Config::parse(config.as_bytes()).unwrap();
        for parsed in [Parsed::Document(Arc::new(index)), Parsed::Config(Arc::new(config))] {
            assert!(parsed.bytes() > 1 << 20);
        }
    }

    #[test]
    fn what_containerd_noted_comes_before_what_an_archive_says_and_there_is_an_end() {
        let label = |host: &str, paths: &str| (format!("{SOURCE}{host}"), paths.to_owned());
        let labels = [label("z.example", "a,b"), label("b.example", "x"), ("other".to_owned(), "y".to_owned())];
        let blob = Blob { digest: Digest::of(b"m"), labels: labels.into() };
        let mut names = fetched(&blob);
        let noted = [("b.example", "x"), ("z.example", "a"), ("z.example", "b")];
        assert_eq!(names, noted.map(|(host, path)| Name::Fetched(host.into(), path.into())));
        for text in ["reg.io/x:1", "reg.io/x:2", "latest", "sha256:00"] {
            claimed(text, &mut names);
        }
        assert_eq!(names[3..], [Name::Claimed("reg.io/x".parse().unwrap())]);
        for i in 0..2 * limits::NAMES {
            claimed(&format!("reg.io/a{i}"), &mut names);
        }
        assert_eq!(names.len(), limits::NAMES);
    }
}
