//! Somebody who signs images with a key of the test's.

#![allow(dead_code, reason = "each test crate uses a part of it")]

use base64::{Engine, engine::general_purpose::STANDARD};
use pullgate::image::Digest;
use sigstore_crypto::KeyPair;

/// The media type of a bundle.
pub(crate) const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const STATEMENT: &str = "application/vnd.in-toto+json";

/// Somebody who signs.
pub(crate) struct Signer(KeyPair);

impl Signer {
    pub(crate) fn new() -> Self {
        Self(KeyPair::generate_ecdsa_p256().unwrap())
    }

    /// The table of an attestor.
    pub(crate) fn attestor(&self, name: &str) -> String {
        let pem = self.0.public_key_der().unwrap().to_pem();
        format!(
            "[[attestor]]\nname = \"{name}\"\nmay-sign = [\"signature\"]\n\
             keys = [{{ algorithm = \"ecdsa-p256-sha256\", pem = '''\n{pem}''' }}]\n"
        )
    }

    /// A payload about `image`, and the signature over it.
    pub(crate) fn payload(&self, image: &Digest) -> (String, String) {
        let payload = format!(
            r#"{{"critical":{{"identity":{{"docker-reference":"x"}},"image":{{"docker-manifest-digest":"{image}"}},"type":"cosign container image signature"}},"optional":null}}"#
        );
        let signature = self.over(payload.as_bytes());
        (payload, signature)
    }

    /// A bundle in which cosign says that `image` was signed.
    pub(crate) fn bundle(&self, image: &Digest) -> String {
        let statement = format!(
            r#"{{"_type":"https://in-toto.io/Statement/v1","subject":[{{"digest":{{"sha256":"{}"}}}}],"predicateType":"https://sigstore.dev/cosign/sign/v1","predicate":{{}}}}"#,
            image.hex()
        );
        let signed = format!("DSSEv1 {} {STATEMENT} {} {statement}", STATEMENT.len(), statement.len());
        format!(
            r#"{{"mediaType":"{BUNDLE}","verificationMaterial":{{"publicKey":{{"hint":""}}}},"dsseEnvelope":{{"payload":"{}","payloadType":"{STATEMENT}","signatures":[{{"sig":"{}"}}]}}}}"#,
            STANDARD.encode(&statement),
            self.over(signed.as_bytes())
        )
    }

    fn over(&self, bytes: &[u8]) -> String {
        STANDARD.encode(self.0.sign(bytes).unwrap().as_bytes())
    }
}
