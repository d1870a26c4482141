//! Log entries of the kind intoto 0.0.1, which attestations in cosign's older layout have (Rekor v1, `intoto_v0_0_1`). The
//! sigstore verifier does not read them: they bind an envelope by the hash of its bytes, which a bundle does not keep.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sigstore_types::{DerCertificate, DerPublicKey, Sha256Hash, SignatureBytes};

use super::{base64, certificate, proof::Proven};
use crate::{
    image::Digest,
    trust::{Certified, PublicKey, TrustRoot},
};

/// An envelope with its entry, as they were found.
pub(super) struct Logged {
    pub(super) envelope: Digest,
    /// The signer's certificate, then those of its chain; empty for a key.
    pub(super) certificates: Vec<DerCertificate>,
    pub(super) entry: Entry,
}

/// An entry of a log, and the log's promise to publish it.
pub(super) struct Entry {
    pub(super) promise: Vec<u8>,
    pub(super) body: String,
    pub(super) integrated_time: i64,
    pub(super) log_index: i64,
    pub(super) log_id: Vec<u8>,
}

/// What the log signed: canonical JSON (RFC 8785), which these fields in this order are.
#[derive(Serialize)]
struct Promised<'a> {
    body: &'a str,
    #[serde(rename = "integratedTime")]
    integrated_time: i64,
    #[serde(rename = "logID")]
    log_id: String,
    #[serde(rename = "logIndex")]
    log_index: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    api_version: String,
    kind: String,
    spec: Spec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    content: Content,
    public_key: String,
}

#[derive(Deserialize)]
struct Content {
    hash: Hash,
}

#[derive(Deserialize)]
struct Hash {
    algorithm: String,
    value: String,
}

impl Logged {
    /// Proves under `root` whose certificate this is, and that it was used when a log saw the envelope; `verifies` says
    /// whether a key signed it.
    ///
    /// # Errors
    /// The first thing that does not hold.
    pub(super) fn by_certificate(
        &self,
        root: &TrustRoot,
        verifies: impl Fn(&PublicKey) -> bool,
        now: Timestamp,
    ) -> Result<Proven, String> {
        let (time, signer) = self.seen(root, now)?;
        let signer = DerCertificate::from_pem(&signer).map_err(|_| "its log entry is about another signer")?;
        if self.certificates.first() != Some(&signer) {
            return Err("its log entry is about another signer".to_owned());
        }
        let certificate = certificate::valid_at(root, &self.certificates, time)?;
        let key = PublicKey::of_certificate(&certificate.public_key).map_err(|why| why.to_string())?;
        if !verifies(&key) {
            return Err("the key of its certificate did not sign it".to_owned());
        }
        let certified = Certified::by(&certificate).ok_or("its certificate names no subject, or no issuer")?;
        Ok(Proven { certified, times: vec![time] })
    }

    /// Proves that a log of `root` saw the envelope as signed by `key`, and returns when.
    ///
    /// # Errors
    /// The first thing that does not hold.
    pub(super) fn by_key(&self, root: &TrustRoot, key: &PublicKey, now: Timestamp) -> Result<Vec<Timestamp>, String> {
        let (time, signer) = self.seen(root, now)?;
        match DerPublicKey::from_pem(&signer) {
            Ok(signer) if signer == *key.der() => Ok(vec![time]),
            _ => Err("its log entry is about another signer".to_owned()),
        }
    }

    /// When a log of `root` saw this envelope, and as whose.
    fn seen(&self, root: &TrustRoot, now: Timestamp) -> Result<(Timestamp, String), String> {
        let entry = &self.entry;
        if root.demands.logs > 1 || root.demands.timestamps > 0 {
            return Err("more is asked for than that one log has seen it".to_owned());
        }
        let time = Timestamp::from_second(entry.integrated_time).map_err(|_| "its log entry tells no time")?;
        if time > now {
            return Err("its log entry is from the future".to_owned());
        }
        let id = Sha256Hash::try_from(entry.log_id.as_slice()).map_err(|_| "its log entry names no log")?;
        let logs = root.log_keys().ok_or("the trust root has no log")?;
        let log = logs.key_at(&id, time).ok_or("it is in no log of the trust root")?;
        let promised = Promised {
            body: &entry.body,
            integrated_time: entry.integrated_time,
            log_id: hex::encode(&entry.log_id),
            log_index: entry.log_index,
        };
        let promised = serde_json::to_vec(&promised).map_err(|why| why.to_string())?;
        log.verify(&promised, &SignatureBytes::from_bytes(&entry.promise))
            .map_err(|_| "the log did not promise this entry")?;
        let body: Body = serde_json::from_slice(&base64(&entry.body)?)
            .map_err(|why| format!("its log entry cannot be read: {why}"))?;
        let is_it = body.kind == "intoto"
            && body.api_version == "0.0.1"
            && body.spec.content.hash.algorithm == "sha256"
            && body.spec.content.hash.value == self.envelope.hex();
        if !is_it {
            return Err("its log entry is about something else".to_owned());
        }
        let signer = String::from_utf8(base64(&body.spec.public_key)?);
        Ok((time, signer.map_err(|_| "its log entry names no signer")?))
    }
}
