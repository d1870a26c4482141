//! The documents that lead to evidence: manifests of artifacts and lists of referrers (OCI image
//! specification 1.1, manifest.md and image-index.md). Only what is needed is read; a member that is
//! needed and stands there twice is an error.

use serde::Deserialize;

use crate::{
    evidence::{Attached, Cause},
    image::Digest,
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

/// A manifest, as far as evidence is concerned.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ArtifactManifest {
    pub(super) media_type: Option<String>,
    pub(super) layers: Vec<Entry>,
}

/// A list of manifests: an answer of the referrers API, or the index under the fallback tag.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ReferrersList {
    pub(super) media_type: Option<String>,
    #[serde(default)]
    pub(super) manifests: Option<Vec<Entry>>,
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

/// A signature as the annotations of a layer hold it; the first is empty where there is none.
#[derive(Default, PartialEq, Eq, Deserialize)]
pub(super) struct Annotations {
    #[serde(default, rename = "dev.cosignproject.cosign/signature")]
    pub(super) signature: String,
    #[serde(rename = "dev.sigstore.cosign/certificate")]
    certificate: Option<String>,
    #[serde(rename = "dev.sigstore.cosign/chain")]
    chain: Option<String>,
    #[serde(rename = "dev.sigstore.cosign/bundle")]
    log_entry: Option<String>,
    #[serde(rename = "dev.sigstore.cosign/rfc3161timestamp")]
    timestamp: Option<String>,
}

impl Annotations {
    /// What stands beside the signature. Some clients write an empty annotation for what there is not.
    pub(super) fn attached(self) -> Attached {
        let Self { signature: _, certificate, chain, log_entry, timestamp } = self;
        let [certificate, chain, log_entry, timestamp] =
            [certificate, chain, log_entry, timestamp].map(|text| text.filter(|text| !text.is_empty()));
        Attached { certificate, chain, log_entry, timestamp }
    }
}

impl Entry {
    /// The digest, if it is one that pullgate decides about.
    pub(super) fn digest(&self) -> Option<Digest> {
        self.digest.parse().ok()
    }

    /// The signature that the entry carries beside its content.
    pub(super) fn annotations(&mut self) -> Annotations {
        self.annotations.take().unwrap_or_default()
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
