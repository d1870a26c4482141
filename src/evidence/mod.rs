//! What exists for a digest, and what could not be asked. Nothing here is verified: the bytes come
//! from whoever can write to a registry, and count only after [`crate::verify`].

mod artifact;
pub mod content;
pub mod directory;
mod hashed;
pub mod kept;
pub mod layout;
mod listed;
pub mod registry;
pub mod sources;
mod stream;
pub(crate) mod structure;

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

pub use self::stream::Stream;
use crate::{
    image::{Host, Repository, sanitize},
    limits,
};

/// One piece of evidence as it was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Found {
    /// What it is, by the media type it was stored under.
    pub material: Material,
    /// Where it lay, for the person who reads the decision: `host/path@sha256:…`.
    pub place: String,
}

impl Found {
    /// Bytes of it.
    pub fn bytes(&self) -> u64 {
        let material = match &self.material {
            Material::SimpleSigning { payload, signature, attached } => {
                payload.len() + signature.len() + attached.bytes()
            }
            Material::Envelope { json, attached } => json.len() + attached.bytes(),
            Material::Bundle(json) => json.len(),
        };
        (material + self.place.len()) as u64
    }
}

/// Evidence by its form, unverified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Material {
    /// A simple-signing payload and the detached signature over it (cosign SIGNATURE_SPEC.md): the `.sig` tag.
    SimpleSigning {
        /// The signed bytes.
        #[serde(with = "base64_bytes")]
        payload: Vec<u8>,
        /// The signature as the layer's annotation carries it, in base64.
        signature: String,
        /// What vouches for the signer and the time.
        #[serde(default, skip_serializing_if = "Attached::is_empty")]
        attached: Attached,
    },
    /// A DSSE envelope without a bundle around it: a layer of the `.att` tag.
    Envelope {
        /// The envelope as JSON.
        #[serde(with = "base64_bytes")]
        json: Vec<u8>,
        /// What vouches for the signer and the time.
        #[serde(default, skip_serializing_if = "Attached::is_empty")]
        attached: Attached,
    },
    /// A sigstore bundle (protobuf-specs, `sigstore_bundle.proto`) as JSON: a referrer.
    Bundle(#[serde(with = "base64_bytes")] Vec<u8>),
}

/// What cosign's older layout keeps beside a signature, as annotations of its layer (cosign SIGNATURE_SPEC.md).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Attached {
    /// The signer's certificate, in PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// The certificates between it and a root, in PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain: Option<String>,
    /// The entry in a transparency log with the log's promise, as JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_entry: Option<String>,
    /// The timestamp of an authority, as JSON (RFC 3161).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<String>,
}

impl Attached {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Bytes of it.
    pub fn bytes(&self) -> usize {
        let parts = [&self.certificate, &self.chain, &self.log_entry, &self.timestamp];
        parts.into_iter().flatten().map(String::len).sum()
    }
}

/// Bytes as base64 in JSON.
mod base64_bytes {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// The forms of evidence that a requirement can use, hence that are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Formats {
    /// The `.sig` tag.
    pub simple_signing: bool,
    /// Sigstore bundles as OCI referrers, by the API or the fallback tag.
    pub bundle: bool,
    /// The `.att` tag.
    pub attestation_tag: bool,
}

impl Formats {
    /// Every form.
    pub const ALL: Self = Self { simple_signing: true, bundle: true, attestation_tag: true };

    /// Whether evidence of the form of `material` is among them.
    pub fn include(self, material: &Material) -> bool {
        match material {
            Material::SimpleSigning { .. } => self.simple_signing,
            Material::Envelope { .. } => self.attestation_tag,
            Material::Bundle(_) => self.bundle,
        }
    }
}

/// What a source could not be asked, so that "absent" stays apart from "could not tell".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// What was asked, for the person who reads the decision.
    pub place: String,
    /// Why there is no answer.
    pub cause: Cause,
}

/// Why a source gave no answer that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// 401, also with the token or the credential that there is.
    Unauthorized,
    /// There is a credential, and it may not be sent to whom it would have to be.
    Withheld(String),
    /// What should give the credential does not: a file, a helper, a provider.
    NoCredential(String),
    /// 403.
    Forbidden,
    /// 429.
    Throttled,
    /// No connection, a connection that broke, a 5xx.
    Unreachable(String),
    /// No answer in time.
    TimedOut(String),
    /// A redirect that is not followed: to plain HTTP, to an address of this node, in a circle, to nowhere.
    Redirected(String),
    /// containerd's `hosts.toml`, or a certificate beside it, cannot be used, so it is not known whom to ask.
    HostsUnreadable(String),
    /// An answer that is not what was asked for: wrong bytes, wrong type, endless pages.
    Misbehaved(String),
    /// More than `limits` allows.
    TooLarge(String),
    /// Something on this node itself that cannot be read, or is not what it should be.
    Unreadable(String),
    /// A host that must not be asked: plain HTTP, a loopback or link-local address nobody configured.
    NotAllowed(String),
    /// The question was asked of this node alone.
    NotAsked,
}

impl Cause {
    /// The same of something on this node.
    fn on_node(self) -> Self {
        match self {
            Self::Misbehaved(why) | Self::Unreachable(why) => Self::Unreadable(why),
            other => other,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unauthorized => f.write_str("it asks for credentials"),
            Self::Forbidden => f.write_str("it forbids the request (403)"),
            Self::NotAsked => f.write_str("it was not asked"),
            Self::Throttled => f.write_str("it limits the rate of requests (429)"),
            Self::Unreachable(why)
            | Self::TimedOut(why)
            | Self::Redirected(why)
            | Self::Misbehaved(why)
            | Self::TooLarge(why)
            | Self::Unreadable(why)
            | Self::NotAllowed(why)
            | Self::Withheld(why)
            | Self::NoCredential(why)
            | Self::HostsUnreadable(why) => f.write_str(why),
        }
    }
}

/// A way in which evidence lies somewhere: one question to a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// The tag `sha256-<hex>.sig`.
    SignatureTag,
    /// Referrers, by the API or the fallback tag.
    Referrers,
    /// The tag `sha256-<hex>.att`.
    AttestationTag,
    /// What this node kept on its disk.
    Kept,
    /// A directory of evidence on this node.
    Directory,
    /// An OCI layout that a person named.
    OciLayout,
    /// containerd's content store.
    ContentStore,
}

/// One question that a source was asked, and what came back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The repository that was asked, `host/path`; empty in a decision that bears this name itself. On this node: the path.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub repository: String,
    /// What it was asked for.
    pub layout: Layout,
    /// Pieces of evidence that were read.
    #[serde(default)]
    pub found: u32,
    /// The first thing that could not be told, at most [`limits::GAP_CHARS`] characters, harmless to show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<String>,
    /// Whether everything was read that there is. If not and there is no gap, nobody waited for the rest.
    #[serde(default)]
    pub ended: bool,
}

impl Asked {
    /// A question that was just put.
    pub fn new(repository: impl fmt::Display, layout: Layout) -> Self {
        Self { repository: repository.to_string(), layout, found: 0, gap: None, ended: false }
    }

    /// What this node kept: so many pieces, if any.
    pub fn kept(pieces: usize) -> Option<Self> {
        let found = u32::try_from(pieces).unwrap_or(u32::MAX);
        (found > 0).then(|| Self { found, ended: true, ..Self::new("", Layout::Kept) })
    }

    /// Whether it is certain that there is nothing.
    pub fn absent(&self) -> bool {
        self.ended && self.found == 0 && self.gap.is_none()
    }

    /// Something could not be told. The first cause is kept.
    pub fn broke(&mut self, cause: &Cause) {
        self.gap.get_or_insert_with(|| sanitize(&cause.to_string(), limits::GAP_CHARS));
    }
}

/// The questions of one search, told while they are asked.
#[derive(Clone, Debug, Default)]
pub struct Questions(Arc<Mutex<Vec<Asked>>>);

impl Questions {
    /// Puts another question.
    pub fn ask(&self, asked: Asked) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
    }

    /// Notes what came back on the question to `repository` for `layout`, if it was put.
    pub fn note_of(&self, repository: &Repository, layout: Layout, note: impl FnOnce(&mut Asked)) {
        let repository = repository.to_string();
        let mut questions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = questions.iter_mut().rfind(|asked| asked.layout == layout && asked.repository == repository);
        asked.map(note);
    }

    /// Notes what came back on the question for `layout`, if it was put.
    pub fn note(&self, layout: Layout, note: impl FnOnce(&mut Asked)) {
        let mut questions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        questions.iter_mut().rfind(|asked| asked.layout == layout).map(note);
    }

    /// Says of whatever was not read to its end that nobody waited any longer.
    fn break_off(&self, cause: &Cause) {
        let mut questions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        questions.iter_mut().filter(|asked| !asked.ended).for_each(|asked| asked.broke(cause));
    }

    /// All that were put, in their order, as they stand now.
    pub fn so_far(&self) -> Vec<Asked> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Where to look for the evidence of a digest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The repository to ask.
    pub repository: Repository,
    /// Whether containerd itself fetched content from this registry. A name that only an archive
    /// claims may not lead to a loopback or link-local host.
    pub proven: bool,
}

/// Where the administrator says that the evidence of an image is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elsewhere {
    /// Directories on this node.
    pub directories: Vec<PathBuf>,
    /// Repositories, asked before the image's own; or why the image's name makes none.
    pub repositories: Vec<Result<Repository, String>>,
    /// Whether the image's own registry is asked as well.
    pub own: bool,
}

impl Default for Elsewhere {
    fn default() -> Self {
        Self { directories: Vec::new(), repositories: Vec::new(), own: true }
    }
}

/// How registries are spoken to; from the node's configuration.
///
/// A name is only a claim, and following it must not make the node ask itself or its cloud. So, by name
/// and again by address after DNS:
///
/// | the name comes from | loopback | link-local, metadata services, other special addresses | all others |
/// |---|---|---|---|
/// | `configured`, or a `hosts.toml` of containerd's | yes | yes | yes |
/// | a registry that containerd fetched from ([`Place::proven`]) | yes | no | yes |
/// | an archive; a redirect or token realm to another host | no | no | yes |
///
/// "All others" has the private networks in it: registries live there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistryOptions {
    /// Registries that may be spoken to in plain HTTP though they are not on loopback. Where a name has no
    /// port, that is port 80.
    pub plain_http: Vec<Host>,
    /// Registries that the administrator named: these may be on loopback or link-local addresses
    /// also when only an archive claims the name.
    pub configured: Vec<Host>,
    /// Hosts for which `skip_verify` of a `hosts.toml` counts.
    pub skip_verify: Vec<Host>,
    /// Registries, and the host beside their own whose token service gets their credentials.
    pub token_services: Vec<(Host, Host)>,
    /// Where containerd's `hosts.toml` are, in the order of their looking up.
    pub host_directories: Vec<PathBuf>,
    /// Where credentials come from.
    pub credentials: CredentialSources,
}

/// Where credentials come from, in the order in which they are asked. Nothing is, unless it is named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CredentialSources {
    /// Files like docker's `config.json`.
    pub docker: Vec<PathBuf>,
    /// The directory of the helpers that such files name, `docker-credential-…`.
    pub helpers: Option<PathBuf>,
    /// The kubelet's image credential providers.
    pub kubelet: Option<KubeletProviders>,
}

/// The kubelet's image credential providers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubeletProviders {
    /// `--image-credential-provider-config`
    pub config: PathBuf,
    /// `--image-credential-provider-bin-dir`
    pub programs: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_a_registry_says_a_little_is_kept() {
        let mut asked = Asked::new("reg.io/x", Layout::Referrers);
        let room = limits::GAP_CHARS - Cause::Misbehaved(String::new()).to_string().chars().count();
        for (more, end) in [(0, 'é'), (1, '…')] {
            asked.gap = None;
            asked.broke(&Cause::Misbehaved("é".repeat(room + more)));
            let kept = asked.gap.clone().unwrap();
            assert_eq!((kept.chars().count(), kept.chars().last()), (limits::GAP_CHARS, Some(end)));
        }
        let first = asked.gap.clone();
        asked.broke(&Cause::Throttled);
        assert_eq!(asked.gap, first, "the first is the one that is told");
    }
}
