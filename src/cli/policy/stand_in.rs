//! Signatures as an attestor would make them, by keys made for one test run. The keys stand in for the attestors' own in
//! a policy that decides nothing but the cases of that run; the signatures are verified like any other.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;
use sigstore_crypto::KeyPair;

use crate::{
    evidence::{Attached, Found, Material},
    image::Digest,
    policy::Policy,
    trust::{Algorithm, Attestor, COSIGN_SIGN, PublicKey, Purpose, TrustedKey},
};

/// A key for every attestor of a policy, in its order.
pub(super) struct StandIns(Vec<KeyPair>);

impl StandIns {
    /// Adds a key to each attestor of `policy`.
    ///
    /// # Errors
    /// Where none can be made.
    pub(super) fn for_all(policy: &mut Policy) -> Result<Self, String> {
        let mut keys = Vec::new();
        for attestor in &mut policy.attestors {
            let key = KeyPair::generate_ecdsa_p256().map_err(|why| why.to_string())?;
            let pem = key.public_key_der().map_err(|why| why.to_string())?.to_pem();
            let public = PublicKey::from_pem(&pem, Algorithm::EcdsaP256Sha256).map_err(|why| why.to_string())?;
            attestor.keys.push(TrustedKey::always(public));
            keys.push(key);
        }
        Ok(Self(keys))
    }

    /// What the attestor number `at` signs about `image`: one piece of evidence for each thing that it may sign.
    ///
    /// # Errors
    /// Where it cannot sign.
    pub(super) fn sign(&self, at: usize, attestor: &Attestor, image: &Digest) -> Result<Vec<Found>, String> {
        let key = self.0.get(at).ok_or("no such attestor")?;
        attestor.may_sign.iter().map(|purpose| signed(key, attestor, purpose, image)).collect()
    }
}

fn signed(key: &KeyPair, attestor: &Attestor, purpose: &Purpose, image: &Digest) -> Result<Found, String> {
    let sign = |message: &[u8]| {
        key.sign(message).map(|signature| STANDARD.encode(signature.as_bytes())).map_err(|why| why.to_string())
    };
    let payload_alone =
        !attestor.formats.bundle || !attestor.annotations.is_empty() || !attestor.repositories.is_empty();
    let material = match purpose {
        Purpose::Signature if payload_alone && attestor.formats.simple_signing => {
            let reference = attestor.repositories.first().map(ToString::to_string).unwrap_or_default();
            let payload = json!({
                "critical": {
                    "identity": { "docker-reference": reference },
                    "image": { "docker-manifest-digest": image },
                    "type": "cosign container image signature",
                },
                "optional": attestor.annotations,
            });
            let payload = payload.to_string().into_bytes();
            Material::SimpleSigning { signature: sign(&payload)?, payload, attached: Attached::default() }
        }
        purpose => {
            let predicate = match purpose {
                Purpose::Signature => COSIGN_SIGN,
                Purpose::Predicate(uri) => uri,
            };
            let statement = json!({
                "_type": "https://in-toto.io/Statement/v1",
                "subject": [{ "name": "", "digest": { "sha256": image.hex() } }],
                "predicateType": predicate,
                "predicate": {},
            });
            let statement = statement.to_string();
            let kind = "application/vnd.in-toto+json";
            let message = format!("DSSEv1 {} {kind} {} {statement}", kind.len(), statement.len());
            let envelope = json!({
                "payload": STANDARD.encode(&statement),
                "payloadType": kind,
                "signatures": [{ "sig": sign(message.as_bytes())? }],
            });
            if attestor.formats.bundle {
                let bundle = json!({
                    "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
                    "verificationMaterial": { "publicKey": { "hint": "" } },
                    "dsseEnvelope": envelope,
                });
                Material::Bundle(bundle.to_string().into_bytes())
            } else {
                Material::Envelope { json: envelope.to_string().into_bytes(), attached: Attached::default() }
            }
        }
    };
    Ok(Found { material, place: "as the case says".to_owned() })
}
