//! The documents that lead to evidence, wherever they lie: manifests of artifacts, and indexes that list them (OCI image
//! specification 1.1, manifest.md and image-index.md). Only what is needed is read; a member that is
//! needed and stands there twice is an error.

use std::collections::HashMap;

use serde::Deserialize;

use crate::{
    evidence::{Attached, Cause, Material, structure},
    image::{Digest, media_type, sanitize},
    limits,
};

/// The layer of a `.sig` manifest that is a signed payload (cosign SIGNATURE_SPEC.md).
pub(super) const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// The layer of an `.att` manifest that is an attestation.
pub(super) const DSSE_ENVELOPE: &str = "application/vnd.dsse.envelope.v1+json";
/// The configuration of an artifact that has none (OCI image specification, "Guidance for an Empty Descriptor").
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// Whether `media_type` is a sigstore bundle of a version that can be read (sigstore BUNDLE_SPEC.md).
pub(super) fn is_bundle(media_type: &str) -> bool {
    matches!(
        media_type,
        "application/vnd.dev.sigstore.bundle.v0.3+json"
            | "application/vnd.dev.sigstore.bundle+json;version=0.1"
            | "application/vnd.dev.sigstore.bundle+json;version=0.2"
            | "application/vnd.dev.sigstore.bundle+json;version=0.3"
    )
}

/// Something is listed that cannot be asked for, hence could not be looked at.
pub(super) fn not_sha256() -> Cause {
    Cause::Misbehaved("it lists something under a digest that is not sha256".to_owned())
}

/// Whether a document is of a kind that `fits`: by the type that is `stated` of it, and by its `own` where it says so.
pub(super) fn check_kind(stated: &str, own: Option<&str>, fits: fn(&str) -> bool) -> Result<(), Cause> {
    if fits(stated) && own.is_none_or(|own| own == stated) {
        return Ok(());
    }
    let shown = sanitize(own.unwrap_or(stated), 80);
    Err(Cause::Misbehaved(format!("it is not what belongs there, but {shown:?}")))
}

/// A manifest, as far as evidence is concerned.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArtifactManifest {
    media_type: Option<String>,
    layers: Vec<Entry>,
}

/// The layers of a manifest that is said to be of the type `stated`.
///
/// # Errors
/// When it is no manifest that can be read.
pub(super) fn layers(bytes: &[u8], stated: &str) -> Result<Vec<Entry>, Cause> {
    structure::fits(bytes).map_err(Cause::TooLarge)?;
    let manifest: ArtifactManifest = serde_json::from_slice(bytes).map_err(|_| no_manifest())?;
    check_kind(stated, manifest.media_type.as_deref(), media_type::is_manifest)?;
    Ok(manifest.layers)
}

/// What a manifest says that it is about, whatever else is in it.
#[derive(Deserialize)]
struct Referring {
    #[serde(default)]
    subject: Option<Subject>,
}

#[derive(Deserialize)]
struct Subject {
    digest: String,
}

/// Whether a manifest says that it is about `digest`.
///
/// # Errors
/// When that cannot be told.
pub(super) fn refers_to(bytes: &[u8], digest: &Digest) -> Result<bool, Cause> {
    let referring: Referring = serde_json::from_slice(bytes).map_err(|_| no_manifest())?;
    Ok(referring.subject.is_some_and(|subject| subject.digest == digest.to_string()))
}

fn no_manifest() -> Cause {
    Cause::Misbehaved("it is not a manifest that can be read".to_owned())
}

/// A list of manifests: an answer of the referrers API, the index under the fallback tag, or that of a layout.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct List {
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<Vec<Entry>>,
}

/// The entries of an index that is said to be of the type `stated`; an index of a layout is of none but its own.
///
/// # Errors
/// When it is no index that can be read, or not of a kind that `fits`.
pub(super) fn entries(bytes: &[u8], stated: Option<&str>, fits: fn(&str) -> bool) -> Result<Vec<Entry>, Cause> {
    structure::fits(bytes).map_err(Cause::TooLarge)?;
    let list: List = serde_json::from_slice(bytes)
        .map_err(|_| Cause::Misbehaved("it is not a list of manifests that can be read".to_owned()))?;
    let own = list.media_type.as_deref();
    check_kind(stated.or(own).unwrap_or(media_type::INDEX), own, fits)?;
    Ok(list.manifests.unwrap_or_default())
}

/// A descriptor whose digest has not been read yet, so that one bad entry is one gap.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Entry {
    #[serde(default)]
    pub(super) media_type: String,
    digest: String,
    pub(super) size: u64,
    artifact_type: Option<String>,
    #[serde(default)]
    annotations: Option<Annotations>,
}

/// What the annotations of an entry say of it.
#[derive(Default, Deserialize)]
struct Annotations {
    #[serde(default, rename = "dev.cosignproject.cosign/signature")]
    signature: String,
    #[serde(rename = "dev.sigstore.cosign/certificate")]
    certificate: Option<String>,
    #[serde(rename = "dev.sigstore.cosign/chain")]
    chain: Option<String>,
    #[serde(rename = "dev.sigstore.cosign/bundle")]
    log_entry: Option<String>,
    #[serde(rename = "dev.sigstore.cosign/rfc3161timestamp")]
    timestamp: Option<String>,
    #[serde(rename = "org.opencontainers.image.ref.name")]
    reference: Option<String>,
    #[serde(rename = "io.containerd.image.name")]
    image: Option<String>,
    /// Where cosign saves an image, it says so what the rest is.
    kind: Option<String>,
}

/// A signature as the annotations of a layer hold it; empty where there is none.
#[derive(Default, PartialEq, Eq)]
pub(super) struct Signed {
    signature: String,
    attached: Attached,
}

impl Entry {
    /// A manifest or index that something calls `name`.
    pub(super) fn named(media_type: String, digest: &Digest, size: u64, name: String) -> Self {
        let annotations = Some(Annotations { reference: Some(name), ..Annotations::default() });
        Self { media_type, digest: digest.to_string(), size, artifact_type: None, annotations }
    }

    /// The digest, if it is one that pullgate decides about.
    pub(super) fn digest(&self) -> Option<Digest> {
        self.digest.parse().ok()
    }

    /// The signature that the entry carries beside its content. Some clients write an empty annotation for what there
    /// is not.
    fn signed(&mut self) -> Signed {
        let Annotations { signature, certificate, chain, log_entry, timestamp, .. } =
            self.annotations.take().unwrap_or_default();
        let [certificate, chain, log_entry, timestamp] =
            [certificate, chain, log_entry, timestamp].map(|text| text.filter(|text| !text.is_empty()));
        Signed { signature, attached: Attached { certificate, chain, log_entry, timestamp } }
    }

    /// The tags that it is called by: a name may be a tag alone, or a repository with one.
    pub(super) fn tags(&self) -> impl Iterator<Item = &str> {
        let names = self.annotations.iter().flat_map(|annotations| [&annotations.reference, &annotations.image]);
        names.flatten().map(|name| name.rsplit_once(':').map_or(name.as_str(), |(_, tag)| tag))
    }

    /// What cosign says it is: `dev.cosignproject.cosign/sigs`, for example.
    pub(super) fn kind(&self) -> Option<&str> {
        self.annotations.as_ref()?.kind.as_deref()
    }

    /// Whether the manifest behind this entry of a list may be a bundle. The fallback index of cosign 3.1
    /// names the configuration's type instead of the artifact's, others name none: those must be read to know.
    pub(super) fn may_be_bundle(&self) -> bool {
        match self.artifact_type.as_deref() {
            None | Some("" | EMPTY) => true,
            Some(artifact_type) => is_bundle(artifact_type),
        }
    }
}

/// A blob that holds evidence.
pub(super) struct Piece {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) kind: Kind,
    /// The manifest that lists it: where a person finds it again.
    pub(super) manifest: Digest,
}

/// What the blob is.
pub(super) enum Kind {
    /// A payload, with every signature that is said to be over it.
    SimpleSigning(Vec<Signed>),
    /// An envelope, with all that is said of its signature.
    Envelope(Vec<Signed>),
    Bundle,
}

impl Piece {
    /// Whether it is read before the large ones.
    pub(super) fn is_small(&self) -> bool {
        self.size <= limits::SMALL_EVIDENCE_BYTES
    }
}

impl Kind {
    /// What the bytes of the blob are, once for each of its signatures.
    pub(super) fn materials(self, mut bytes: Vec<u8>) -> impl Iterator<Item = Material> {
        let (signed, is_payload) = match self {
            Self::Bundle => (vec![None], false),
            Self::SimpleSigning(signed) => (signed.into_iter().map(Some).collect(), true),
            Self::Envelope(signed) => (signed.into_iter().map(Some).collect(), false),
        };
        let last = signed.len();
        signed.into_iter().zip(1..).map(move |(signed, number)| {
            let bytes = if number == last { std::mem::take(&mut bytes) } else { bytes.clone() };
            match signed {
                None => Material::Bundle(bytes),
                Some(Signed { signature, attached }) if is_payload => {
                    Material::SimpleSigning { payload: bytes, signature, attached }
                }
                Some(Signed { attached, .. }) => Material::Envelope { json: bytes, attached },
            }
        })
    }
}

/// The pieces that a manifest lists.
pub(super) struct Listed {
    pub(super) pieces: Vec<Piece>,
    /// Whether that is all of them, not only as many as are read.
    pub(super) all: bool,
    /// Whether each has a digest that can be read.
    pub(super) sound: bool,
}

/// The pieces among the `layers` of `manifest` that are signatures, attestations or bundles: those of `media_types`. Each
/// `counts`, until there are as many as are read. Several signatures over one payload are one piece: it is read once.
pub(super) fn pieces(
    manifest: Digest,
    layers: Vec<Entry>,
    wanted: fn(&str) -> bool,
    mut counts: impl FnMut() -> bool,
) -> Listed {
    let mut listed = Listed { pieces: Vec::new(), all: true, sound: true };
    let mut places: HashMap<(Digest, u64), usize> = HashMap::new();
    for mut layer in layers.into_iter().filter(|layer| wanted(&layer.media_type)) {
        if !counts() {
            listed.all = false;
            break;
        }
        let Some(digest) = layer.digest() else {
            listed.sound = false;
            continue;
        };
        let (size, signed) = (layer.size, layer.signed());
        let place = *places.entry((digest, size)).or_insert(listed.pieces.len());
        match listed.pieces.get_mut(place).map(|piece| &mut piece.kind) {
            Some(Kind::SimpleSigning(signatures)) => signatures.push(signed),
            // The signature is in the envelope: listed again with the same beside it, it is the same.
            Some(Kind::Envelope(several)) if !several.contains(&signed) => several.push(signed),
            Some(Kind::Envelope(_) | Kind::Bundle) => {}
            None => {
                let kind = match layer.media_type.as_str() {
                    SIMPLE_SIGNING => Kind::SimpleSigning(vec![signed]),
                    DSSE_ENVELOPE => Kind::Envelope(vec![signed]),
                    _ => Kind::Bundle,
                };
                listed.pieces.push(Piece { digest, size, kind, manifest });
            }
        }
    }
    listed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(json: &str) -> serde_json::Result<Entry> {
        serde_json::from_str(json)
    }

    #[test]
    fn only_an_entry_that_clearly_is_something_else_is_left_out() {
        for (artifact_type, expected) in [
            (r#""application/vnd.dev.sigstore.bundle.v0.3+json""#, true),
            (r#""application/vnd.dev.sigstore.bundle+json;version=0.1""#, true),
            (r#""application/vnd.oci.empty.v1+json""#, true),
            (r#""""#, true),
            ("null", true),
            (r#""application/vnd.cncf.notary.signature""#, false),
            (r#""application/vnd.dev.sigstore.bundle+json;version=9.9""#, false),
        ] {
            let json = format!(r#"{{"digest":"x","size":1,"artifactType":{artifact_type}}}"#);
            assert_eq!(entry(&json).unwrap().may_be_bundle(), expected, "{artifact_type}");
        }
        assert!(entry(r#"{"digest":"x","size":1}"#).unwrap().may_be_bundle());
    }

    #[test]
    fn what_counts_may_not_stand_there_twice() {
        for json in [
            r#"{"digest":"x","digest":"y","size":1}"#,
            r#"{"digest":"x","size":1,"annotations":{"dev.cosignproject.cosign/signature":"a","dev.cosignproject.cosign/signature":"b"}}"#,
            r#"{"digest":"x","size":-1}"#,
            r#"{"digest":"x"}"#,
        ] {
            assert!(entry(json).is_err(), "{json}");
        }
    }
}
