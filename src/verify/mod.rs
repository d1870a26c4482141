//! From bytes to findings: whose signature a piece of evidence carries, about which digest, for which purpose. Pure.
//!
//! The order of every check here: the signature first, over exactly the bytes that were found, by a key that the policy
//! names; only then are the claims in those bytes read, and the first of them is the digest.

#![deny(clippy::disallowed_methods)]

mod bundle;
mod offered;
mod simple_signing;
mod statement;
pub mod token;

pub use offered::{Offered, offered};

use crate::{
    evidence::{Found, Material},
    image::Digest,
    trust::{Attestor, Purpose},
};

/// An attestor vouches for a digest. Only this module makes one, after every check: holding it is the proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vouched {
    attestor: String,
    key: Digest,
    purpose: Purpose,
    digest: Digest,
    place: String,
}

impl Vouched {
    /// The attestor's name.
    pub fn attestor(&self) -> &str {
        &self.attestor
    }

    /// The identity of the key that signed.
    pub fn key(&self) -> &Digest {
        &self.key
    }

    /// What was signed for.
    pub fn purpose(&self) -> &Purpose {
        &self.purpose
    }

    /// The image that it is about.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Where the evidence lay.
    pub fn place(&self) -> &str {
        &self.place
    }
}

/// Why a piece of evidence does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// No key of the attestors made this signature.
    UntrustedSigner,
    /// This attestor signed, but about another digest.
    OtherDigest(String),
    /// This attestor signed something that it is not trusted to sign.
    OtherPurpose(String, Purpose),
    /// The annotations that this attestor's signatures must carry are not there.
    OtherAnnotations(String),
    /// Not a signature in a form that is known.
    Malformed(String),
}

/// What a signature turned out to say, once it verified.
struct Claim {
    digests: Vec<Digest>,
    purpose: Purpose,
    annotations: std::collections::BTreeMap<String, String>,
}

/// The signed bytes of a piece of evidence, and how to read them once a signature over them has verified.
struct Signed {
    message: Vec<u8>,
    signature: Vec<u8>,
    read: Box<dyn Fn() -> Result<Claim, String>>,
}

/// What `found` says about `digest`, for each of `attestors` whose key made the signature.
///
/// The result is never empty: evidence that nobody of `attestors` signed is [`Unusable::UntrustedSigner`].
pub fn verify(found: &Found, digest: &Digest, attestors: &[&Attestor]) -> Vec<Result<Vouched, Unusable>> {
    let signed = match &found.material {
        Material::SimpleSigning { payload, signature, .. } => simple_signing::open(payload, signature),
        Material::Envelope { json, .. } => bundle::open_envelope(json),
        Material::Bundle(json) => bundle::open(json),
    };
    let signed = match signed {
        Ok(signed) => signed,
        Err(why) => return vec![Err(Unusable::Malformed(why))],
    };
    let mut findings = Vec::new();
    for attestor in attestors.iter().filter(|attestor| attestor.formats.include(&found.material)) {
        let signer = attestor.keys.iter().find(|key| key.verifies(&signed.message, &signed.signature));
        let Some(key) = signer else { continue };
        findings.push(match (signed.read)() {
            Ok(claim) => judge(claim, digest, attestor).map(|purpose| Vouched {
                attestor: attestor.name.clone(),
                key: key.id,
                purpose,
                digest: *digest,
                place: found.place.clone(),
            }),
            Err(why) => Err(Unusable::Malformed(why)),
        });
    }
    if findings.is_empty() {
        findings.push(Err(Unusable::UntrustedSigner));
    }
    findings
}

fn judge(claim: Claim, digest: &Digest, attestor: &Attestor) -> Result<Purpose, Unusable> {
    if !claim.digests.contains(digest) {
        return Err(Unusable::OtherDigest(attestor.name.clone()));
    }
    if !attestor.may_sign.contains(&claim.purpose) {
        return Err(Unusable::OtherPurpose(attestor.name.clone(), claim.purpose));
    }
    if attestor.annotations.iter().any(|(key, value)| claim.annotations.get(key) != Some(value)) {
        return Err(Unusable::OtherAnnotations(attestor.name.clone()));
    }
    Ok(claim.purpose)
}

/// Base64 as signers write it: either alphabet, padded or not (RFC 4648; DSSE protocol, "Parameters").
fn base64(text: &str) -> Result<Vec<u8>, String> {
    use base64::{
        Engine, alphabet,
        engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
    };
    let alphabet = if text.contains(['-', '_']) { &alphabet::URL_SAFE } else { &alphabet::STANDARD };
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(alphabet, config).decode(text).map_err(|e| format!("not base64: {e}"))
}

#[cfg(test)]
impl Vouched {
    /// A finding as a test needs it.
    pub(crate) fn for_test(attestor: &Attestor, key: usize, purpose: Purpose, digest: Digest) -> Self {
        Self { attestor: attestor.name.clone(), key: attestor.keys[key].id, purpose, digest, place: "test".into() }
    }
}

#[cfg(test)]
mod tests;
