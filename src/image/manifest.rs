//! Indexes, manifests and image configurations (OCI image specification 1.1; Docker image manifest v2, schema 2).

use std::collections::BTreeMap;

use super::{
    Digest, Platform,
    scan::{Object, StringMap},
};
use crate::limits;

/// Media types by name.
pub mod media_type {
    /// An OCI image index.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// A Docker manifest list.
    pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// An OCI image manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// A Docker image manifest.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// An OCI image configuration.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// A Docker image configuration.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

    /// Whether this is an index in either spelling.
    pub fn is_index(media_type: &str) -> bool {
        matches!(media_type, INDEX | DOCKER_INDEX)
    }

    /// Whether this is an image manifest in either spelling.
    pub fn is_manifest(media_type: &str) -> bool {
        matches!(media_type, MANIFEST | DOCKER_MANIFEST)
    }

    /// Whether this is the configuration of something that runs.
    pub fn is_config(media_type: &str) -> bool {
        matches!(media_type, CONFIG | DOCKER_CONFIG)
    }
}

/// Why a document is refused: what pullgate and containerd might not read alike, or what no image needs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub String);

impl From<String> for Malformed {
    fn from(why: String) -> Self {
        Self(why)
    }
}

/// A reference to content (OCI image specification, descriptor.md).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// What the content is.
    pub media_type: String,
    /// Its identity.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Annotations: claims of whoever wrote the document.
    pub annotations: BTreeMap<String, String>,
}

/// A child of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// The manifest.
    pub descriptor: Descriptor,
    /// The platform it is said to be for.
    pub platform: Option<Platform>,
}

/// An image index (image-index.md).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// Its children, as listed.
    pub children: Vec<Child>,
}

/// An image manifest (manifest.md).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The configuration.
    pub config: Descriptor,
    /// The layers, the base first.
    pub layers: Vec<Descriptor>,
}

/// What pullgate needs of an image configuration (config.md).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The digest of each layer's uncompressed archive, the base first.
    pub diff_ids: Vec<Digest>,
    /// The platform that the image says it is for.
    pub platform: Platform,
}

/// An index or a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// An index.
    Index(Index),
    /// A manifest.
    Manifest(Manifest),
}

const DOCUMENT_KEYS: [&str; 10] = [
    "schemaVersion",
    "mediaType",
    "artifactType",
    "config",
    "layers",
    "manifests",
    "subject",
    "annotations",
    "fsLayers",
    "history",
];
const DESCRIPTOR_KEYS: [&str; 8] =
    ["mediaType", "digest", "size", "urls", "annotations", "data", "artifactType", "platform"];
const PLATFORM_KEYS: [&str; 5] = ["architecture", "os", "os.version", "os.features", "variant"];
const CONFIG_KEYS: [&str; 9] =
    ["created", "author", "architecture", "os", "os.version", "os.features", "variant", "config", "rootfs"];

impl Document {
    /// Reads a document whose descriptor is not at hand: it is what it says it is, or else what it has the members of.
    ///
    /// # Errors
    /// As [`Document::parse`].
    pub fn parse_undescribed(bytes: &[u8]) -> Result<Self, Malformed> {
        let object = Object::read(bytes, &DOCUMENT_KEYS)?;
        let stated: Option<String> = object.optional("mediaType")?;
        let by_shape = if object.has("manifests") { media_type::INDEX } else { media_type::MANIFEST };
        Self::parse(bytes, stated.as_deref().unwrap_or(by_shape))
    }

    /// Reads the document that a descriptor of type `media_type` points to.
    ///
    /// # Errors
    /// When it is too large, is not JSON, has a key twice or in another case, is an index and a manifest at
    /// once, is schema 1, or says to be of another media type (containerd refuses some of these as well:
    /// GHSA-5j5w-g665-5m35).
    pub fn parse(bytes: &[u8], media_type: &str) -> Result<Self, Malformed> {
        if bytes.len() as u64 > limits::MANIFEST_BYTES {
            return Err(Malformed(format!("{} bytes, more than {}", bytes.len(), limits::MANIFEST_BYTES)));
        }
        let object = Object::read(bytes, &DOCUMENT_KEYS)?;
        if object.has("fsLayers") || object.has("history") {
            return Err(Malformed("a schema 1 manifest: push the image again with a current client".into()));
        }
        if object.required::<u64>("schemaVersion")? != 2 {
            return Err(Malformed("schemaVersion is not 2".into()));
        }
        let stated: Option<String> = object.optional("mediaType")?;
        if stated.as_deref().is_some_and(|stated| stated != media_type) {
            return Err(Malformed(format!("its mediaType is not the descriptor's, {media_type}")));
        }
        object.optional::<StringMap>("annotations")?;
        if let Some(subject) = object.object("subject", &DESCRIPTOR_KEYS)? {
            descriptor(&subject).map_err(|e| format!("subject: {e}"))?;
        }
        if media_type::is_index(media_type) {
            Index::read(&object).map(Self::Index)
        } else if media_type::is_manifest(media_type) {
            Manifest::read(&object).map(Self::Manifest)
        } else {
            Err(Malformed(format!("media type {media_type} is neither an index nor an image manifest")))
        }
    }
}

impl Index {
    fn read(object: &Object<'_>) -> Result<Self, Malformed> {
        if object.has("config") || object.has("layers") {
            return Err(Malformed("an index with config or layers".into()));
        }
        let children = object
            .objects("manifests", &DESCRIPTOR_KEYS, limits::INDEX_CHILDREN)?
            .ok_or_else(|| "manifests is missing".to_owned())?;
        let child = |(i, child): (usize, &Object<'_>)| -> Result<Child, String> {
            let at = |e: String| format!("manifests[{i}]: {e}");
            let platform = match child.object("platform", &PLATFORM_KEYS).map_err(at)? {
                Some(platform) => Some(Platform::read(&platform).map_err(at)?),
                None => None,
            };
            Ok(Child { descriptor: descriptor(child).map_err(at)?, platform })
        };
        Ok(Self { children: children.iter().enumerate().map(child).collect::<Result<_, _>>()? })
    }

    /// Whether this index lists the manifest `digest` as a manifest.
    pub fn lists(&self, digest: &Digest) -> bool {
        self.children
            .iter()
            .any(|child| child.descriptor.digest == *digest && media_type::is_manifest(&child.descriptor.media_type))
    }
}

impl Manifest {
    fn read(object: &Object<'_>) -> Result<Self, Malformed> {
        if object.has("manifests") {
            return Err(Malformed("a manifest with manifests".into()));
        }
        let config = object.object("config", &DESCRIPTOR_KEYS)?.ok_or_else(|| "config is missing".to_owned())?;
        let layers = object
            .objects("layers", &DESCRIPTOR_KEYS, limits::LAYERS)?
            .ok_or_else(|| "layers is missing".to_owned())?;
        let layer = |(i, layer): (usize, &Object<'_>)| descriptor(layer).map_err(|e| format!("layers[{i}]: {e}"));
        Ok(Self {
            config: descriptor(&config).map_err(|e| format!("config: {e}"))?,
            layers: layers.iter().enumerate().map(layer).collect::<Result<_, _>>()?,
        })
    }
}

impl Descriptor {
    /// Reads a descriptor that stands alone.
    ///
    /// # Errors
    /// When it is not JSON, has a key twice or in another case, or lacks what every descriptor has.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        Ok(descriptor(&Object::read(bytes, &DESCRIPTOR_KEYS)?)?)
    }
}

fn descriptor(object: &Object<'_>) -> Result<Descriptor, String> {
    let media_type: String = object.required("mediaType")?;
    if !is_media_type(&media_type) {
        return Err("mediaType is not a media type (RFC 6838)".into());
    }
    let annotations: Option<StringMap> = object.optional("annotations")?;
    Ok(Descriptor {
        media_type,
        digest: object.required("digest")?,
        size: object
            .required::<i64>("size")
            .and_then(|size| u64::try_from(size).map_err(|_| "size is negative".to_owned()))?,
        annotations: annotations.unwrap_or_default().0,
    })
}

/// `type/subtype` of RFC 6838 section 4.2, with the parameters that sigstore's older bundles carry.
fn is_media_type(text: &str) -> bool {
    let name = |text: &str| {
        (1..=127).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b))
    };
    let essence = text.split(';').next().unwrap_or_default();
    text.len() <= 255
        && text.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
        && essence.split_once('/').is_some_and(|(kind, subtype)| name(kind) && name(subtype))
}

impl Config {
    /// Reads an image configuration.
    ///
    /// # Errors
    /// As [`Document::parse`]; also when `rootfs` is not of type `layers`.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() as u64 > limits::MANIFEST_BYTES {
            return Err(Malformed(format!("{} bytes, more than {}", bytes.len(), limits::MANIFEST_BYTES)));
        }
        let object = Object::read(bytes, &CONFIG_KEYS)?;
        let rootfs = object.object("rootfs", &["type", "diff_ids"])?.ok_or_else(|| "rootfs is missing".to_owned())?;
        if rootfs.required::<String>("type")? != "layers" {
            return Err(Malformed("rootfs.type is not \"layers\"".into()));
        }
        let diff_ids: Vec<Digest> = rootfs.optional("diff_ids").map_err(|e| format!("rootfs.{e}"))?.unwrap_or_default();
        if diff_ids.len() > limits::LAYERS {
            return Err(Malformed(format!("{} layers, more than {}", diff_ids.len(), limits::LAYERS)));
        }
        Ok(Self { diff_ids, platform: Platform::read(&object)? })
    }
}

#[cfg(test)]
mod tests;
