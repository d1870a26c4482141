//! Cosign's older layout: signatures and envelopes as layers, with what belongs to them in annotations
//! (cosign SIGNATURE_SPEC.md, `pkg/oci/static`).

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    base64,
    signing::{Signed, Signer, Signing},
};

/// A layer of a `.sig` or `.att` manifest.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) media_type: &'static str,
    pub(crate) bytes: Vec<u8>,
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Signing {
    /// A signature of the image as `reference`: a layer of `sha256-<hex>.sig`.
    pub(crate) fn signature_layer(&self, reference: &str) -> Layer {
        let payload = json!({
            "critical": {
                "identity": { "docker-reference": reference },
                "image": { "docker-manifest-digest": format!("sha256:{}", self.hex) },
                "type": "cosign container image signature",
            },
            "optional": null,
        });
        let payload = payload.to_string().into_bytes();
        let signed = self.sign_bytes(&payload);
        let annotations = self.annotations(&signed, &base64(&signed.signature), &signed.signature);
        Layer { media_type: "application/vnd.dev.cosign.simplesigning.v1+json", bytes: payload, annotations }
    }

    /// The statement in its envelope: a layer of `sha256-<hex>.att`.
    pub(crate) fn attestation_layer(&self) -> Layer {
        let signed = self.sign();
        let envelope = signed.envelope.as_ref().expect("attestations are statements");
        let bytes = envelope.json.clone().into_bytes();
        // The timestamp is of the whole envelope: there is no signature beside it.
        let mut annotations = self.annotations(&signed, "", &bytes);
        let statement: Value = serde_json::from_str(&envelope.payload).unwrap();
        annotations.insert("predicateType".to_owned(), statement["predicateType"].as_str().unwrap_or_default().into());
        Layer { media_type: "application/vnd.dsse.envelope.v1+json", bytes, annotations }
    }

    fn annotations(&self, signed: &Signed, signature: &str, stamped: &[u8]) -> BTreeMap<String, String> {
        let mut annotations = BTreeMap::from([("dev.cosignproject.cosign/signature".to_owned(), signature.to_owned())]);
        let mut add = |name: &str, value: String| annotations.insert(format!("dev.sigstore.cosign/{name}"), value);
        if let Signer::Certificate(leaf, fulcio) = &signed.signer {
            add("certificate", leaf.pem());
            add("chain", fulcio.intermediate.pem() + &fulcio.root.pem());
        }
        // There is room for one of each.
        if let Some(entry) = self.log(signed).first() {
            add("bundle", entry.annotation().to_string());
        }
        if let Some(stamp) = self.stamp(stamped).first() {
            add("rfc3161timestamp", json!({ "SignedRFC3161Timestamp": base64(stamp) }).to_string());
        }
        annotations
    }
}

/// A manifest with the blobs that it names.
#[derive(Clone, Debug)]
pub(crate) struct Artifact {
    pub(crate) manifest: Vec<u8>,
    pub(crate) blobs: Vec<Vec<u8>>,
}

impl Artifact {
    /// The manifest of a `.sig` or `.att` tag.
    pub(crate) fn tagged(layers: &[Layer]) -> Self {
        let digests: Vec<String> = layers.iter().map(|layer| digest(&layer.bytes)).collect();
        let config = json!({
            "architecture": "", "created": "0001-01-01T00:00:00Z", "os": "", "config": {},
            "rootfs": { "type": "layers", "diff_ids": digests },
        });
        let descriptors: Vec<Value> = layers
            .iter()
            .map(|layer| {
                let mut descriptor = descriptor(layer.media_type, &layer.bytes);
                descriptor["annotations"] = json!(layer.annotations);
                descriptor
            })
            .collect();
        let config = config.to_string().into_bytes();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "layers": descriptors,
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        });
        let blobs = layers.iter().map(|layer| layer.bytes.clone()).chain([config]).collect();
        Self { manifest: manifest.to_string().into_bytes(), blobs }
    }

    /// The manifest of a bundle that refers to the image manifest `subject`, as cosign 3.1 writes it.
    pub(crate) fn referrer(subject: &[u8], media_type: &str, bundle: &str, predicate_type: &str) -> Self {
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": media_type,
            "config": descriptor("application/vnd.oci.empty.v1+json", b"{}"),
            "layers": [descriptor(media_type, bundle.as_bytes())], "subject": descriptor(MANIFEST, subject),
            "annotations": {
                "dev.sigstore.bundle.content": "dsse-envelope", "dev.sigstore.bundle.predicateType": predicate_type,
                "org.opencontainers.image.created": "2026-03-01T12:00:00Z",
            },
        });
        Self { manifest: manifest.to_string().into_bytes(), blobs: vec![b"{}".to_vec(), bundle.into()] }
    }

    /// `sha256:<hex>` of the manifest.
    pub(crate) fn digest(&self) -> String {
        digest(&self.manifest)
    }

    /// The descriptor of the manifest.
    pub(crate) fn descriptor(&self) -> Value {
        descriptor(MANIFEST, &self.manifest)
    }
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

pub(super) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(bytes), "size": bytes.len() })
}
