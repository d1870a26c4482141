//! What a trust root proves of a signature: who made it, and when. The sigstore verifier does the work, offline; here is
//! what it leaves to its callers: bounds, thresholds, and that every log entry proves something.

use jiff::Timestamp;
use serde::Deserialize;
use sigstore_types::{Artifact, Bundle, TransparencyLogEntry, bundle::VerificationMaterial};
use sigstore_verify::{
    CertificateError, Error, Policy, PublicKeyVerificationPolicy, TimestampError, TransparencyLogError,
    VerificationPolicy, VerificationResult, Verifier,
};

use crate::{
    limits,
    trust::{Certified, Demands, PublicKey, TrustRoot},
};

/// Whom a certificate names, and when it was used.
#[derive(Clone, Debug)]
pub struct Proven {
    /// What the certificate says.
    pub certified: Certified,
    /// Every time at which an authority saw the signature. Never empty.
    pub times: Vec<Timestamp>,
}

/// Proves under `root` who signed `artifact`: by the certificate in `bundle`, which was valid at every time that an authority
/// saw the signature, as many of them as the root's demands say. Where these say several they are only counted for whom
/// `is_meant`: anybody may have a bundle with many of them, and counting takes long.
///
/// # Errors
/// The first thing that does not hold.
pub fn by_certificate(
    root: &TrustRoot,
    bundle: &Bundle,
    artifact: Artifact<'_>,
    is_meant: impl Fn(&Certified) -> bool,
) -> Result<Proven, String> {
    let mut policy = VerificationPolicy::any_identity();
    if root.demands.logs == 0 {
        policy = policy.skip_tlog_unsafe();
    }
    if root.demands.insecure_ignore_sct {
        policy = policy.skip_sct();
    }
    let seen = Seen { root, bundle, artifact, policy: &policy };
    let result = seen.by_all(None)?;
    let certificate = result.certificate().filter(|_| result.certificate_verified());
    let certificate = certificate.ok_or("there is no certificate")?;
    PublicKey::of_certificate(&certificate.public_key).map_err(|why| format!("the key of its certificate: {why}"))?;
    let certified = Certified::by(certificate).ok_or("its certificate names no subject, or no issuer")?;
    if is_meant(&certified) {
        seen.by_as_many_as_asked()?;
    }
    match result.verified_timestamps() {
        [] => Err("no authority saw when it was signed".to_owned()),
        times => Ok(Proven { certified, times: times.to_vec() }),
    }
}

/// Proves under `root` that its authorities saw that `key` signed `artifact`, and returns when; empty where none of them
/// tells a time. Then it was signed at `latest` at the latest, and who had ended by then has seen nothing.
///
/// # Errors
/// The first thing that does not hold.
pub fn by_key(
    root: &TrustRoot,
    bundle: &Bundle,
    artifact: Artifact<'_>,
    key: &PublicKey,
    latest: Timestamp,
) -> Result<Vec<Timestamp>, String> {
    let mut policy = PublicKeyVerificationPolicy::new(key.der().clone());
    if root.demands.logs == 0 {
        policy = policy.skip_tlog_unsafe();
    }
    let seen = Seen { root, bundle, artifact, policy: &policy };
    let result = seen.by_all(Some(latest))?;
    seen.by_as_many_as_asked()?;
    Ok(result.verified_timestamps().to_vec())
}

/// A signature, and what the authorities of a root have to say of it.
struct Seen<'a> {
    root: &'a TrustRoot,
    bundle: &'a Bundle,
    artifact: Artifact<'a>,
    policy: &'a dyn Policy,
}

impl Seen<'_> {
    fn verify(&self, verifier: &Verifier, bundle: &Bundle) -> Result<VerificationResult, String> {
        verifier.verify(self.artifact.clone(), bundle, self.policy).map_err(|why| in_words(&why))
    }

    /// All that is said has to hold, by authorities that were valid then: at `latest` where they tell no time.
    fn by_all(&self, latest: Option<Timestamp>) -> Result<VerificationResult, String> {
        let (root, bundle) = (self.root, self.bundle);
        within_bounds(bundle)?;
        let material = &bundle.verification_material;
        material.tlog_entries.iter().try_for_each(is_of_its_kind)?;
        // What is there has to verify: where one authority is asked for, one is enough.
        for (what, asked, found) in [
            ("transparency logs", root.demands.logs, material.tlog_entries.len()),
            (
                "timestamp authorities",
                root.demands.timestamps,
                material.timestamp_verification_data.rfc3161_timestamps.len(),
            ),
        ] {
            if found < asked {
                return Err(format!("{asked} {what} are asked for, and it has been seen by {found}"));
            }
        }
        let result = self.verify(&root.verifier, bundle)?;
        let times = match result.verified_timestamps() {
            [] => latest.as_slice(),
            times => times,
        };
        match root.with_logs_at(times) {
            None => Ok(result),
            Some(verifier) => {
                let result = self.verify(&verifier?, bundle);
                result.map_err(|why| format!("under the logs that were valid then: {why}"))
            }
        }
    }

    /// Where several authorities are asked for, so many distinct ones have to have seen it.
    fn by_as_many_as_asked(&self) -> Result<(), String> {
        let Demands { logs, timestamps, .. } = self.root.demands;
        let material = &self.bundle.verification_material;
        if logs > 1 {
            let found = self.distinct(&self.root.by_log, material.tlog_entries.len(), |part, at| {
                part.tlog_entries = vec![material.tlog_entries[at].clone()];
            });
            if found < logs {
                return Err(format!("{logs} transparency logs are asked for, and {found} have it"));
            }
        }
        if timestamps > 1 {
            let stamps = &material.timestamp_verification_data.rfc3161_timestamps;
            let found = self.distinct(&self.root.by_timestamp, stamps.len(), |part, at| {
                part.timestamp_verification_data.rfc3161_timestamps = vec![stamps[at].clone()];
            });
            if found < timestamps {
                return Err(format!("{timestamps} timestamp authorities are asked for, and {found} saw it"));
            }
        }
        Ok(())
    }

    /// By how many of `verifiers`, each of which knows one authority, one of the `pieces` that `keep` leaves holds.
    fn distinct(
        &self,
        verifiers: &[Verifier],
        pieces: usize,
        keep: impl Fn(&mut VerificationMaterial, usize),
    ) -> usize {
        let part = |at| {
            let mut part = self.bundle.clone();
            keep(&mut part.verification_material, at);
            part
        };
        let parts: Vec<Bundle> = (0..pieces).map(part).collect();
        verifiers.iter().filter(|one| parts.iter().any(|part| self.verify(one, part).is_ok())).count()
    }
}

/// What a person understands of `why`, with what the verifier said.
fn in_words(why: &Error) -> String {
    let said = why.to_string();
    let words = match why {
        Error::Certificate(CertificateError::ChainInvalid(_)) if said.contains("CertExpired") => {
            "its certificate, or one above it, had expired when it was signed"
        }
        Error::Certificate(CertificateError::ChainInvalid(_)) => "no authority of it issued the certificate",
        Error::Certificate(CertificateError::NoValidAuthority { .. }) => "its authorities were not valid then",
        Error::Certificate(CertificateError::Sct(_)) => "no certificate transparency log of it has the certificate",
        Error::TransparencyLog(TransparencyLogError::EntryMismatch(_)) => "its log entry is about something else",
        Error::Timestamp(TimestampError::NoVerifiedTimestamp(_)) => "no authority saw when it was signed",
        _ => return said,
    };
    format!("{words} ({said})")
}

/// Refuses what would take long to verify, and entries that prove nothing.
fn within_bounds(bundle: &Bundle) -> Result<(), String> {
    use sigstore_types::bundle::VerificationMaterialContent::X509CertificateChain;
    let material = &bundle.verification_material;
    let entries = &material.tlog_entries;
    let timestamps = material.timestamp_verification_data.rfc3161_timestamps.len();
    let certificates = match &material.content {
        X509CertificateChain { certificates } => certificates.len(),
        _ => 0,
    };
    let proofs = || entries.iter().filter_map(|entry| entry.inclusion_proof.as_ref());
    let hashes = proofs().map(|proof| proof.hashes.len()).max();
    let bodies = entries.iter().map(|entry| entry.canonicalized_body.as_bytes().len()).max();
    let checkpoints = proofs().filter_map(|proof| proof.checkpoint.checkpoint());
    let signatures = checkpoints.map(|checkpoint| checkpoint.signatures().len()).max();
    for (what, found, most) in [
        ("log entries", entries.len(), limits::BUNDLE_LOG_ENTRIES),
        ("timestamps", timestamps, limits::BUNDLE_TIMESTAMPS),
        ("certificates", certificates, limits::BUNDLE_CERTIFICATES),
        ("bytes in a log entry", bodies.unwrap_or_default(), limits::LOG_ENTRY_BYTES),
        ("hashes in a proof", hashes.unwrap_or_default(), limits::BUNDLE_PROOF_HASHES),
        ("signatures of a checkpoint", signatures.unwrap_or_default(), limits::CHECKPOINT_SIGNATURES),
    ] {
        if found > most {
            return Err(format!("{found} {what}, more than {most}"));
        }
    }
    match entries.iter().all(|entry| entry.inclusion_proof.is_some() || entry.inclusion_promise.is_some()) {
        true => Ok(()),
        false => Err("a log entry with neither proof nor promise".to_owned()),
    }
}

/// What an entry was logged as. It is read as what the bundle says that it is, which no log has seen.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kind<'a> {
    kind: &'a str,
    api_version: &'a str,
}

/// Refuses an entry that would be read as another kind than it was logged as.
fn is_of_its_kind(entry: &TransparencyLogEntry) -> Result<(), String> {
    let logged: Kind<'_> = serde_json::from_slice(entry.canonicalized_body.as_bytes())
        .map_err(|why| format!("a log entry of no kind: {why}"))?;
    let said = entry.kind_version;
    match (logged.kind, logged.api_version) == (said.kind(), said.version()) {
        true => Ok(()),
        false => Err(format!("a log entry that is not of the kind {} {}", said.kind(), said.version())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A bundle that nobody signed, with so many log entries, timestamps, certificates and hashes in a proof.
    fn bundle([entries, timestamps, certificates, hashes]: [usize; 4]) -> Bundle {
        let zero = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        let entry = json!({
            "logIndex": "1",
            "logId": { "keyId": zero },
            "kindVersion": { "kind": "dsse", "version": "0.0.1" },
            "inclusionProof": {
                "logIndex": "1", "rootHash": zero, "treeSize": "2", "hashes": vec![zero; hashes],
                "checkpoint": { "envelope": "" },
            },
            "canonicalizedBody": "e30=",
        });
        let material = json!({
            "x509CertificateChain": { "certificates": vec![json!({ "rawBytes": "AAAA" }); certificates] },
            "tlogEntries": vec![entry; entries],
            "timestampVerificationData": { "rfc3161Timestamps": vec![json!({ "signedTimestamp": "AAAA" }); timestamps] },
        });
        let envelope = json!({ "payload": "e30=", "payloadType": "x", "signatures": [{ "sig": "AAAA" }] });
        serde_json::from_value::<Bundle>(json!({
            "mediaType": "application/vnd.dev.sigstore.bundle+json;version=0.2",
            "verificationMaterial": material,
            "dsseEnvelope": envelope,
        }))
        .unwrap()
    }

    #[test]
    fn what_takes_long_to_verify_is_bounded() {
        let most = [
            limits::BUNDLE_LOG_ENTRIES,
            limits::BUNDLE_TIMESTAMPS,
            limits::BUNDLE_CERTIFICATES,
            limits::BUNDLE_PROOF_HASHES,
        ];
        assert_eq!(within_bounds(&bundle(most)), Ok(()));
        for at in 0..most.len() {
            let mut more = most;
            more[at] += 1;
            let told = within_bounds(&bundle(more)).unwrap_err();
            assert!(told.contains(&format!("more than {}", most[at])), "{told}");
        }
    }

    #[test]
    fn a_log_entry_is_no_larger_than_is_soon_read() {
        let with = |bytes: usize| {
            let mut json: Value = serde_json::from_str(&bundle([1, 0, 1, 0]).to_json().unwrap()).unwrap();
            let body = sigstore_types::CanonicalizedBody::new(vec![b' '; bytes]).to_base64();
            json["verificationMaterial"]["tlogEntries"][0]["canonicalizedBody"] = json!(body);
            within_bounds(&serde_json::from_value(json).unwrap())
        };
        assert_eq!(with(limits::LOG_ENTRY_BYTES), Ok(()));
        assert!(with(limits::LOG_ENTRY_BYTES + 1).unwrap_err().contains("bytes in a log entry"));
    }

    #[test]
    fn a_log_entry_that_proves_nothing_is_refused() {
        let bundle = bundle([1, 0, 1, 0]);
        let mut json: Value = serde_json::from_str(&bundle.to_json().unwrap()).unwrap();
        json["verificationMaterial"]["tlogEntries"][0].as_object_mut().unwrap().remove("inclusionProof");
        let bare = serde_json::from_value(json).unwrap();
        assert!(within_bounds(&bundle).is_ok() && within_bounds(&bare).is_err());
    }
}
