//! Sigstore bundles (protobuf-specs, `sigstore_bundle.proto`).

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    base64,
    signing::{Signer, Signing, Version},
};

impl Signing {
    /// The bundle as JSON text.
    pub(crate) fn json(&self) -> String {
        self.bundle().to_string()
    }

    /// The bundle.
    pub(crate) fn bundle(&self) -> Value {
        let signed = self.sign();
        let mut material = match (&signed.signer, self.version) {
            (Signer::Key(key), _) => json!({ "publicKey": { "hint": base64(Sha256::digest(key.der())) } }),
            (Signer::Certificate(leaf, _), Version::V03) => json!({ "certificate": raw(leaf.der()) }),
            (Signer::Certificate(leaf, _), _) => {
                json!({ "x509CertificateChain": { "certificates": [raw(leaf.der())] } })
            }
        };
        let entries: Vec<Value> = self.log(&signed).iter().map(|entry| entry.bundled()).collect();
        if !entries.is_empty() {
            material["tlogEntries"] = json!(entries);
        }
        let stamps = self.stamp(&signed.signature);
        if !stamps.is_empty() {
            let stamps: Vec<Value> = stamps.iter().map(|stamp| json!({ "signedTimestamp": base64(stamp) })).collect();
            material["timestampVerificationData"] = json!({ "rfc3161Timestamps": stamps });
        }
        let mut bundle = json!({ "mediaType": self.version.media_type(), "verificationMaterial": material });
        match &signed.envelope {
            Some(envelope) => {
                bundle["dsseEnvelope"] = json!({
                    "payload": base64(&envelope.payload), "payloadType": envelope.payload_type,
                    "signatures": [{ "sig": base64(&signed.signature) }],
                });
            }
            None => {
                bundle["messageSignature"] = json!({
                    "messageDigest": { "algorithm": "SHA2_256", "digest": base64(signed.sha256) },
                    "signature": base64(&signed.signature),
                });
            }
        }
        bundle
    }
}

impl Version {
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::V01 => "application/vnd.dev.sigstore.bundle+json;version=0.1",
            Self::V02 => "application/vnd.dev.sigstore.bundle+json;version=0.2",
            Self::V03 => "application/vnd.dev.sigstore.bundle.v0.3+json",
        }
    }
}

pub(super) fn raw(der: Vec<u8>) -> Value {
    json!({ "rawBytes": base64(der) })
}
