//! Signatures made here, for registries that hold more of them than a signer could make in time.

use std::fs;

use base64::{Engine, engine::general_purpose::STANDARD};
use pullgate::{image::Digest, trust::COSIGN_SIGN};
use sigstore_crypto::KeyPair;

use crate::node::Result;

const IN_TOTO: &str = "application/vnd.in-toto+json";

/// Somebody with an ECDSA P-256 key.
pub struct Signer {
    key: KeyPair,
    /// The file of the public key.
    pub public: String,
}

impl Signer {
    /// Makes a key and writes its public half to `file`.
    ///
    /// # Errors
    /// Where it cannot be made or written.
    pub fn new(file: &str) -> Result<Self> {
        let key = KeyPair::generate_ecdsa_p256()?;
        fs::write(file, key.public_key_der()?.to_pem())?;
        Ok(Self { key, public: file.to_owned() })
    }

    /// A simple-signing payload about `image`, and the signature over it in base64.
    ///
    /// # Errors
    /// Where it cannot be signed.
    pub fn simple(&self, image: &Digest) -> Result<(String, String)> {
        let payload = format!(
            r#"{{"critical":{{"identity":{{"docker-reference":"bench"}},"image":{{"docker-manifest-digest":"{image}"}},"type":"cosign container image signature"}},"optional":null}}"#
        );
        let signature = self.sign(payload.as_bytes())?;
        Ok((payload, signature))
    }

    /// A sigstore bundle that says that `image` is signed, as cosign 3.1 makes it.
    ///
    /// # Errors
    /// Where it cannot be signed.
    pub fn bundle(&self, image: &Digest) -> Result<String> {
        let statement = format!(
            r#"{{"_type":"https://in-toto.io/Statement/v1","subject":[{{"digest":{{"sha256":"{}"}},"annotations":{{}}}}],"predicateType":"{COSIGN_SIGN}","predicate":{{}}}}"#,
            image.hex()
        );
        let signature =
            self.sign(format!("DSSEv1 {} {IN_TOTO} {} {statement}", IN_TOTO.len(), statement.len()).as_bytes())?;
        Ok(format!(
            r#"{{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{{"publicKey":{{"hint":"bench"}}}},"dsseEnvelope":{{"payload":"{}","payloadType":"{IN_TOTO}","signatures":[{{"sig":"{signature}"}}]}}}}"#,
            STANDARD.encode(statement)
        ))
    }

    /// The bare signature over `message`.
    ///
    /// # Errors
    /// Where it cannot be signed.
    pub fn signature(&self, message: &[u8]) -> Result<Vec<u8>> {
        Ok(self.key.sign(message)?.as_bytes().to_vec())
    }

    fn sign(&self, message: &[u8]) -> Result<String> {
        Ok(STANDARD.encode(self.signature(message)?))
    }
}
