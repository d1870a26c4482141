//! One signing: who, of what, when, logged and stamped by whom. What nobody changes is right.

use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    Algorithm, Authority, Entry, Fulcio, Key, Leaf, Stamp, base64,
    certificate::{Certified, San},
    identity::{Identity, identity},
    instant,
    log::Logged,
};

/// Who signs unless told otherwise.
pub(crate) const WORKFLOW: &str = "https://github.com/acme/app/.github/workflows/release.yml@refs/heads/main";
/// When, unless told otherwise.
pub(crate) const TIME: &str = "2026-03-01T12:00:00Z";
/// The predicate type of the statement that cosign 3 signs for "this image is signed".
pub(crate) const COSIGN_SIGN: &str = "https://sigstore.dev/cosign/sign/v1";

/// The version of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V01,
    V02,
    V03,
}

/// A signing to be made. Each method says what differs from the right and usual one.
#[derive(Clone, Debug)]
pub(crate) struct Signing {
    pub(super) hex: String,
    at: Timestamp,
    key: Key,
    managed: bool,
    fulcio: Fulcio,
    leaf: Leaf,
    statement: Value,
    pub(super) payload_type: String,
    message: bool,
    pub(super) version: Version,
    entries: Option<Vec<Entry>>,
    stamps: Vec<Stamp>,
    usual: Entry,
}

impl Signing {
    pub(super) fn new(authority: &Authority, image: &str) -> Self {
        let hex = image.strip_prefix("sha256:").unwrap_or(image).to_owned();
        let statement = json!({
            "_type": "https://in-toto.io/Statement/v1", "subject": [{ "name": "", "digest": { "sha256": hex } }],
            "predicateType": COSIGN_SIGN, "predicate": {},
        });
        let signing = Self {
            hex,
            at: instant(TIME),
            key: Key::new(Algorithm::P256),
            managed: false,
            fulcio: authority.fulcio.clone(),
            leaf: Leaf::new(&authority.ct_log),
            statement,
            payload_type: "application/vnd.in-toto+json".to_owned(),
            message: false,
            version: Version::V03,
            entries: None,
            stamps: Vec::new(),
            usual: authority.rekor.entry(),
        };
        signing.by(WORKFLOW)
    }

    /// Signed by `subject`, with the issuer and the claims that go with it: a workflow of GitHub or GitLab, another
    /// URI, or an e-mail address.
    pub(crate) fn by(mut self, subject: &str) -> Self {
        let Identity { name, issuer, claims } = identity(subject);
        self.leaf.description.names = vec![name];
        self.leaf.description.more.clear();
        self.leaf.claim(8, issuer);
        for (number, value) in claims {
            self.leaf.claim(number, &value);
        }
        self
    }

    /// The names of the subject, whatever they are.
    pub(crate) fn named(self, names: &[San]) -> Self {
        self.leaf(|leaf| leaf.description.names = names.to_vec())
    }

    /// Vouched for by this issuer of tokens.
    pub(crate) fn issuer(self, issuer: &str) -> Self {
        self.claim(8, issuer)
    }

    /// With the claim `1.3.6.1.4.1.57264.1.<number>`.
    pub(crate) fn claim(self, number: u8, value: &str) -> Self {
        self.leaf(|leaf| leaf.claim(number, value))
    }

    /// Changes the certificate before it is issued.
    pub(crate) fn leaf(mut self, change: impl FnOnce(&mut Leaf)) -> Self {
        change(&mut self.leaf);
        self
    }

    /// Certified by another authority.
    pub(crate) fn certified_by(self, fulcio: &Fulcio) -> Self {
        Self { fulcio: fulcio.clone(), ..self }
    }

    /// At this moment (RFC 3339).
    pub(crate) fn at(self, time: &str) -> Self {
        Self { at: instant(time), ..self }
    }

    /// With a certificate for this key.
    pub(crate) fn with(self, key: &Key) -> Self {
        Self { key: key.clone(), ..self }
    }

    /// With a managed key, hence without a certificate.
    pub(crate) fn managed(self, key: &Key) -> Self {
        Self { key: key.clone(), managed: true, ..self }
    }

    /// The predicate of the statement.
    pub(crate) fn predicate(self, kind: &str, predicate: Value) -> Self {
        self.statement(|statement| {
            statement["predicateType"] = json!(kind);
            statement["predicate"] = predicate;
        })
    }

    /// Changes the statement before it is signed.
    pub(crate) fn statement(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.statement);
        self
    }

    /// The payload type of the envelope.
    pub(crate) fn payload_type(self, payload_type: &str) -> Self {
        Self { payload_type: payload_type.to_owned(), ..self }
    }

    /// Signs the bytes behind the digest, in place of a statement about it; with P-256 alone.
    pub(crate) fn message(self) -> Self {
        Self { message: true, ..self }
    }

    /// In a bundle of this version.
    pub(crate) fn version(self, version: Version) -> Self {
        Self { version, ..self }
    }

    /// In no log.
    pub(crate) fn unlogged(self) -> Self {
        Self { entries: Some(Vec::new()), ..self }
    }

    /// With this entry; the first one takes the place of the usual one.
    pub(crate) fn logged(mut self, entry: Entry) -> Self {
        self.entries.get_or_insert_default().push(entry);
        self
    }

    /// With this timestamp as well.
    pub(crate) fn stamped(mut self, stamp: Stamp) -> Self {
        self.stamps.push(stamp);
        self
    }

    /// What a statement about the image, or the bytes behind it, come to.
    pub(super) fn sign(&self) -> Signed {
        if self.message {
            let sha256 = hex::decode(&self.hex).unwrap().try_into().unwrap();
            return Signed { signer: self.signer(), envelope: None, sha256, signature: self.key.sign_hash(&sha256) };
        }
        let payload = self.statement.to_string();
        let kind = &self.payload_type;
        let encoded = format!("DSSEv1 {} {kind} {} {payload}", kind.len(), payload.len());
        let signed = self.sign_bytes(encoded.as_bytes());
        let json = format!(
            r#"{{"payloadType":"{kind}","payload":"{}","signatures":[{{"keyid":"","sig":"{}"}}]}}"#,
            base64(&payload),
            base64(&signed.signature)
        );
        Signed { envelope: Some(Envelope { payload_type: kind.clone(), payload, json }), ..signed }
    }

    /// A detached signature over `bytes`.
    pub(super) fn sign_bytes(&self, bytes: &[u8]) -> Signed {
        let (sha256, signature) = (Sha256::digest(bytes).into(), self.key.sign(bytes));
        Signed { signer: self.signer(), envelope: None, sha256, signature }
    }

    fn signer(&self) -> Signer {
        if self.managed {
            return Signer::Key(self.key.clone());
        }
        let leaf = self.leaf.issue(&self.fulcio, &self.key, self.at);
        Signer::Certificate(Box::new(leaf), Box::new(self.fulcio.clone()))
    }

    pub(super) fn log(&self, signed: &Signed) -> Vec<Logged> {
        let usual = std::slice::from_ref(&self.usual);
        self.entries.as_deref().unwrap_or(usual).iter().map(|entry| entry.make(signed, self.at)).collect()
    }

    pub(super) fn stamp(&self, bytes: &[u8]) -> Vec<Vec<u8>> {
        self.stamps.iter().map(|stamp| stamp.make(bytes, self.at)).collect()
    }
}

/// What was signed.
pub(super) struct Signed {
    pub(super) signer: Signer,
    pub(super) envelope: Option<Envelope>,
    /// Of the signed bytes: for an envelope, its pre-authentication encoding.
    pub(super) sha256: [u8; 32],
    pub(super) signature: Vec<u8>,
}

/// A DSSE envelope.
pub(super) struct Envelope {
    pub(super) payload_type: String,
    pub(super) payload: String,
    /// All of it, as cosign writes it.
    pub(super) json: String,
}

/// By whom.
pub(super) enum Signer {
    Key(Key),
    Certificate(Box<Certified>, Box<Fulcio>),
}

impl Signer {
    pub(super) fn key(&self) -> &Key {
        match self {
            Self::Key(key) => key,
            Self::Certificate(leaf, _) => &leaf.key,
        }
    }

    /// The key or the certificate.
    pub(super) fn pem(&self) -> String {
        match self {
            Self::Key(key) => key.pem(),
            Self::Certificate(leaf, _) => leaf.pem(),
        }
    }

    /// As Rekor v2 keeps it.
    pub(super) fn verifier(&self) -> Value {
        match self {
            Self::Key(key) => json!({ "keyDetails": key.details(), "publicKey": { "rawBytes": base64(key.der()) } }),
            Self::Certificate(leaf, _) => json!({
                "keyDetails": leaf.key.details(), "x509Certificate": { "rawBytes": base64(leaf.der()) },
            }),
        }
    }
}
