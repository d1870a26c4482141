//! Transparency logs: one as Rekor v1 is, one as Rekor v2 is.

use std::{fmt, sync::Arc};

use jiff::{Timestamp, ToSpan};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Algorithm, Key, Window, base64, merkle, signing::Signed};

/// Entries of the shards before the present one: the index of an entry in all of a Rekor v1 log is so much more than
/// that in the tree of its proof.
const BEFORE: u64 = 1000;

/// A log with one tree.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    /// Host, and name in checkpoints.
    pub(crate) name: String,
    pub(crate) key: Key,
    generation: Generation,
    /// When `trusted_root.json` says to trust it.
    pub(crate) trusted: Window,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Generation {
    One,
    Two,
}

/// The form of an entry, by kind and version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// hashedrekord 0.0.1: payloads and messages.
    HashedRekord,
    /// dsse 0.0.1: envelopes.
    Dsse,
    /// intoto 0.0.2: envelopes, as older clients log them.
    Intoto,
    /// intoto 0.0.1: envelopes by the hash of all of their bytes, as cosign's older layout has them. No bundle holds one.
    Intoto1,
    /// hashedrekord 0.0.2: messages, and the pre-authentication encoding of envelopes; by SHA-256, hence P-256.
    HashedRekord2,
}

impl Log {
    /// A log as Rekor v1 is: entries have a time, which it promises.
    pub(crate) fn rekor(name: &str) -> Self {
        let key = Key::new(Algorithm::P256);
        Self { name: format!("rekor.{name}.test"), key, generation: Generation::One, trusted: Window::default() }
    }

    /// A log as Rekor v2 is: entries have no time.
    pub(crate) fn rekor2(name: &str) -> Self {
        let key = Key::new(Algorithm::Ed25519);
        Self { name: format!("log2026.{name}.test"), key, generation: Generation::Two, trusted: Window::default() }
    }

    /// A right entry in it.
    pub(crate) fn entry(&self) -> Entry {
        Entry {
            log: self.clone(),
            kind: None,
            integrated: 2,
            index: 4,
            size: 7,
            promise: self.generation == Generation::One,
            proof: true,
            checkpoint_by: self.clone(),
            root: None,
            edit: None,
        }
    }

    /// Rekor v1: RFC 6962's. Rekor v2: that of a signed note, not cut off (C2SP signed-note, "Signatures").
    pub(crate) fn id(&self) -> [u8; 32] {
        match self.key.algorithm() {
            Algorithm::Ed25519 => Sha256::digest([self.name.as_bytes(), b"\n\x01", &self.key.raw()].concat()).into(),
            _ => self.key.id(),
        }
    }

    /// The first line of its checkpoints.
    fn origin(&self) -> String {
        match self.generation {
            Generation::One => format!("{} - 1", self.name),
            Generation::Two => self.name.clone(),
        }
    }

    /// A signed note about a tree (C2SP tlog-checkpoint, signed-note).
    fn checkpoint(&self, size: u64, root: &[u8; 32]) -> String {
        let note = format!("{}\n{size}\n{}\n", self.origin(), base64(root));
        let signature = [&self.id()[..4], &self.key.sign(note.as_bytes())].concat();
        format!("{note}\n\u{2014} {} {}\n", self.name, base64(signature))
    }
}

type Edit = Arc<dyn Fn(&mut Value) + Send + Sync>;

/// An entry to be made. Each method says what differs from the right one.
#[derive(Clone)]
pub(crate) struct Entry {
    log: Log,
    kind: Option<Kind>,
    integrated: i64,
    index: u64,
    size: u64,
    promise: bool,
    proof: bool,
    checkpoint_by: Log,
    root: Option<[u8; 32]>,
    edit: Option<Edit>,
}

impl Entry {
    /// Changes what is logged, before it is logged.
    pub(crate) fn body(mut self, edit: impl Fn(&mut Value) + Send + Sync + 'static) -> Self {
        self.edit = Some(Arc::new(edit));
        self
    }

    /// In this form, in place of the one that current clients use for the content.
    pub(crate) fn kind(self, kind: Kind) -> Self {
        Self { kind: Some(kind), ..self }
    }

    /// In a tree of `size` entries, at `index`.
    pub(crate) fn in_tree(self, index: u64, size: u64) -> Self {
        Self { index, size, ..self }
    }

    /// At so many seconds after the signing; Rekor v1 only.
    pub(crate) fn integrated(self, integrated: i64) -> Self {
        Self { integrated, ..self }
    }

    /// Without a SignedEntryTimestamp.
    pub(crate) fn without_promise(self) -> Self {
        Self { promise: false, ..self }
    }

    /// Without a proof of inclusion and a checkpoint.
    pub(crate) fn without_proof(self) -> Self {
        Self { proof: false, ..self }
    }

    /// With a checkpoint that another log signs in its own name.
    pub(crate) fn checkpoint_by(self, log: &Log) -> Self {
        Self { checkpoint_by: log.clone(), ..self }
    }

    /// In a tree that is said, and signed, to have this root.
    pub(crate) fn under(self, root: [u8; 32]) -> Self {
        Self { root: Some(root), ..self }
    }

    /// Logs what was signed at `at`.
    pub(super) fn make(&self, signed: &Signed, at: Timestamp) -> Logged {
        let usual = match (self.log.generation, &signed.envelope) {
            (Generation::Two, _) => Kind::HashedRekord2,
            (Generation::One, Some(_)) => Kind::Dsse,
            (Generation::One, None) => Kind::HashedRekord,
        };
        let kind = self.kind.unwrap_or(usual);
        let mut body = kind.body(signed);
        if let Some(edit) = &self.edit {
            edit(&mut body);
        }
        // The keys of a serde_json object are sorted: for plain text that is RFC 8785.
        let body = body.to_string();
        let integrated = (at + self.integrated.seconds()).as_second();
        let first = self.log.generation == Generation::One;
        let index = self.index + if first { BEFORE } else { 0 };
        let payload = json!({
            "body": base64(&body), "integratedTime": integrated, "logID": hex::encode(self.log.id()), "logIndex": index,
        });
        let leaves: Vec<_> = (0..self.size)
            .map(|place| merkle::leaf(if place == self.index { body.clone() } else { format!("entry {place}") }))
            .collect();
        let place = usize::try_from(self.index).unwrap();
        let root = self.root.unwrap_or_else(|| merkle::root(&leaves));
        let proof = json!({
            "logIndex": self.index.to_string(), "rootHash": base64(root), "treeSize": self.size.to_string(),
            "hashes": merkle::path(place, &leaves).iter().map(base64).collect::<Vec<_>>(),
            "checkpoint": { "envelope": self.checkpoint_by.checkpoint(self.size, &root) },
        });
        Logged {
            kind,
            log: self.log.id(),
            promise: self.promise.then(|| base64(self.log.key.sign(payload.to_string().as_bytes()))),
            payload,
            integrated: first.then_some(integrated),
            proof: self.proof.then_some(proof),
        }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {} of {} in {}", self.kind, self.index, self.size, self.log.name)
    }
}

/// An entry that was made.
pub(super) struct Logged {
    kind: Kind,
    log: [u8; 32],
    payload: Value,
    integrated: Option<i64>,
    promise: Option<String>,
    proof: Option<Value>,
}

impl Logged {
    /// As bundles carry it: `TransparencyLogEntry` of protobuf-specs.
    pub(super) fn bundled(&self) -> Value {
        let (kind, version) = self.kind.name();
        let mut entry = json!({
            "logIndex": self.payload["logIndex"].to_string(), "logId": { "keyId": base64(self.log) },
            "kindVersion": { "kind": kind, "version": version }, "canonicalizedBody": self.payload["body"],
        });
        if let Some(integrated) = self.integrated {
            entry["integratedTime"] = json!(integrated.to_string());
        }
        if let Some(promise) = &self.promise {
            entry["inclusionPromise"] = json!({ "signedEntryTimestamp": promise });
        }
        if let Some(proof) = &self.proof {
            entry["inclusionProof"] = proof.clone();
        }
        entry
    }

    /// As cosign's annotation carries it.
    pub(super) fn annotation(&self) -> Value {
        json!({ "SignedEntryTimestamp": self.promise, "Payload": self.payload })
    }
}

impl Kind {
    fn name(self) -> (&'static str, &'static str) {
        match self {
            Self::HashedRekord => ("hashedrekord", "0.0.1"),
            Self::Dsse => ("dsse", "0.0.1"),
            Self::Intoto => ("intoto", "0.0.2"),
            Self::Intoto1 => ("intoto", "0.0.1"),
            Self::HashedRekord2 => ("hashedrekord", "0.0.2"),
        }
    }

    /// What a log keeps of `signed` (rekor `pkg/types`, rekor-tiles `pkg/types`).
    fn body(self, signed: &Signed) -> Value {
        let (kind, version) = self.name();
        let signature = base64(&signed.signature);
        let verifier = base64(signed.signer.pem());
        let hash = |bytes: &[u8]| json!({ "algorithm": "sha256", "value": hex::encode(Sha256::digest(bytes)) });
        let envelope = || signed.envelope.as_ref().expect("an entry of this kind is of an envelope");
        let spec = match self {
            Self::HashedRekord => json!({
                "data": { "hash": { "algorithm": "sha256", "value": hex::encode(signed.sha256) } },
                "signature": { "content": signature, "publicKey": { "content": verifier } },
            }),
            Self::Dsse => json!({
                "envelopeHash": hash(envelope().json.as_bytes()), "payloadHash": hash(envelope().payload.as_bytes()),
                "signatures": [{ "signature": signature, "verifier": verifier }],
            }),
            Self::Intoto => json!({ "content": {
                "envelope": {
                    "payloadType": envelope().payload_type,
                    "signatures": [{ "publicKey": verifier, "sig": base64(&signature) }],
                },
                "hash": hash(envelope().json.as_bytes()), "payloadHash": hash(envelope().payload.as_bytes()),
            } }),
            Self::Intoto1 => json!({
                "content": {
                    "hash": hash(envelope().json.as_bytes()), "payloadHash": hash(envelope().payload.as_bytes()),
                },
                "publicKey": verifier,
            }),
            Self::HashedRekord2 if signed.signer.key().algorithm() != Algorithm::P256 => {
                panic!("{:?} does not sign a SHA-256", signed.signer.key())
            }
            Self::HashedRekord2 => json!({ "hashedRekordV002": {
                "data": { "algorithm": "SHA2_256", "digest": base64(signed.sha256) },
                "signature": { "content": signature, "verifier": signed.signer.verifier() },
            } }),
        };
        json!({ "apiVersion": version, "kind": kind, "spec": spec })
    }
}
