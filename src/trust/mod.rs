//! Who may vouch for images: attestors, the keys that speak for them, and the identities that a trust root vouches for in
//! turn. Pure.

#![deny(clippy::disallowed_methods)]

mod authority;
pub(crate) mod certificate;
mod identity;
mod key;
mod root;

use std::{collections::BTreeMap, fmt, sync::Arc};

use jiff::Timestamp;

pub(crate) use self::authority::Names;
pub use self::{
    authority::Authority,
    identity::{CLAIMS, Certified, Claim, Identity, Matcher},
    key::{Algorithm, BadKey, PublicKey},
    root::{BadRoot, Demands, TrustRoot},
};
use crate::{
    evidence::Formats,
    image::{Digest, Repository},
};

/// The predicate type of the statement that cosign 3 signs for "this image is signed".
pub const COSIGN_SIGN: &str = "https://sigstore.dev/cosign/sign/v1";

/// A person or a pipeline whose word counts, for the purposes it is trusted for.
#[derive(Debug)]
pub struct Attestor {
    /// Its name in the policy.
    pub name: String,
    /// What it may sign.
    pub may_sign: Vec<Purpose>,
    /// Its keys.
    pub keys: Vec<TrustedKey>,
    /// Whom a certificate may name for a signature to be its. An attestor without keys, identities and authorities
    /// is never satisfied.
    pub identities: Vec<Identity>,
    /// The same of authorities without logs.
    pub authorities: Vec<Authority>,
    /// The forms in which its signatures count, hence are asked for.
    pub formats: Formats,
    /// Annotations that a simple-signing payload must carry to count.
    pub annotations: BTreeMap<String, String>,
    /// The repositories of which a simple-signing payload must name one; empty: whichever it names.
    pub repositories: Vec<Repository>,
}

impl Attestor {
    /// Whether anybody could sign for it.
    pub fn has_signers(&self) -> bool {
        !self.keys.is_empty() || !self.identities.is_empty() || !self.authorities.is_empty()
    }

    /// The trust roots that vouch for its signers or for when they signed, as often as they are named.
    pub fn roots(&self) -> impl Iterator<Item = &Arc<TrustRoot>> {
        let of_keys = self.keys.iter().filter_map(|trusted| trusted.root.as_ref());
        of_keys.chain(self.identities.iter().map(|identity| &identity.root))
    }
}

/// A key, and when and how its signatures count.
#[derive(Debug)]
pub struct TrustedKey {
    /// The key.
    pub key: PublicKey,
    /// What was signed earlier does not count.
    pub from: Option<Timestamp>,
    /// What was signed at this time or later does not count.
    pub until: Option<Timestamp>,
    /// The trust root whose logs and timestamp authorities must have seen its signatures.
    pub root: Option<Arc<TrustRoot>>,
}

impl TrustedKey {
    /// A key whose signatures always count.
    pub fn always(key: PublicKey) -> Self {
        Self { key, from: None, until: None, root: None }
    }

    /// Whether what was signed at `time` counts.
    pub fn is_valid_at(&self, time: Timestamp) -> bool {
        self.from.is_none_or(|from| from <= time) && self.until.is_none_or(|until| time < until)
    }
}

/// Who made a signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signer {
    /// The key with this identity.
    Key(Digest),
    /// Whom a certificate names.
    Identity {
        /// The e-mail address or URI.
        subject: String,
        /// Who vouched for that to the certificate authority.
        issuer: String,
    },
}

impl Signer {
    /// What tells signers apart. One subject of one issuer is one signer, under whichever trust root.
    pub fn id(&self) -> Digest {
        match self {
            Self::Key(id) => *id,
            Self::Identity { subject, issuer } => {
                Digest::of(format!("identity {} {issuer} {subject}", issuer.len()).as_bytes())
            }
        }
    }
}

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(id) => write!(f, "key {id}"),
            Self::Identity { subject, issuer } => write!(f, "{subject} ({issuer})"),
        }
    }
}

/// What a signature says about an image.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Purpose {
    /// That the image is signed: a simple-signing payload, or a statement of [`COSIGN_SIGN`].
    Signature,
    /// What a statement with this predicate type says.
    Predicate(String),
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signature => f.write_str("signature"),
            Self::Predicate(uri) => f.write_str(uri),
        }
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! Keys and signatures made at test time.

    use base64::{Engine, engine::general_purpose::STANDARD};
    use serde_json::json;
    use sigstore_crypto::KeyPair;

    use super::*;

    pub(crate) fn key() -> KeyPair {
        KeyPair::generate_ecdsa_p256().unwrap()
    }

    pub(crate) fn pem(key: &KeyPair) -> String {
        key.public_key_der().unwrap().to_pem()
    }

    /// A trusted root with one transparency log, until the end of 2029.
    pub(crate) fn log_root() -> String {
        let key = key().public_key_der().unwrap();
        let log = json!({
            "baseUrl": "https://log.example",
            "hashAlgorithm": "SHA2_256",
            "publicKey": {
                "rawBytes": STANDARD.encode(key.as_bytes()),
                "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                "validFor": { "start": "2020-01-01T00:00:00Z", "end": "2029-12-31T23:59:59Z" },
            },
            "logId": { "keyId": STANDARD.encode(Digest::of(key.as_bytes()).as_bytes()) },
        });
        let media_type = "application/vnd.dev.sigstore.trustedroot+json;version=0.1";
        json!({ "mediaType": media_type, "tlogs": [log] }).to_string()
    }

    pub(crate) fn attestor(name: &str, may_sign: &[Purpose], keys: &[&KeyPair]) -> Attestor {
        let keys = keys.iter().map(|key| PublicKey::from_pem(&pem(key), Algorithm::EcdsaP256Sha256).unwrap());
        Attestor {
            name: name.into(),
            may_sign: may_sign.to_vec(),
            keys: keys.map(TrustedKey::always).collect(),
            identities: Vec::new(),
            authorities: Vec::new(),
            formats: Formats::ALL,
            annotations: BTreeMap::new(),
            repositories: Vec::new(),
        }
    }
}
