//! What a trust root proves of a signature: who made it, and when. The sigstore verifier does the work, offline; here is
//! what it leaves to its callers: bounds, thresholds, and that every log entry proves something.

use jiff::Timestamp;
use sigstore_types::{Artifact, Bundle};
use sigstore_verify::{Policy, PublicKeyVerificationPolicy, VerificationPolicy, Verifier};

use crate::{
    limits,
    trust::{Certified, PublicKey, TrustRoot},
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
/// saw the signature, as many of them as the root's demands say.
///
/// # Errors
/// The first thing that does not hold.
pub fn by_certificate(root: &TrustRoot, bundle: &Bundle, artifact: Artifact<'_>) -> Result<Proven, String> {
    let mut policy = VerificationPolicy::any_identity();
    if root.demands.logs == 0 {
        policy = policy.skip_tlog_unsafe();
    }
    if root.demands.insecure_ignore_sct {
        policy = policy.skip_sct();
    }
    let result = under(root, bundle, artifact, &policy)?;
    let certificate = result.certificate().filter(|_| result.certificate_verified());
    let certificate = certificate.ok_or("there is no certificate")?;
    PublicKey::of_certificate(&certificate.public_key).map_err(|why| format!("the key of its certificate: {why}"))?;
    let certified = Certified::by(certificate).ok_or("its certificate names no subject, or no issuer")?;
    match result.verified_timestamps() {
        [] => Err("no authority saw when it was signed".to_owned()),
        times => Ok(Proven { certified, times: times.to_vec() }),
    }
}

/// Proves under `root` that its authorities saw that `key` signed `artifact`, and returns when; empty where none of them
/// tells a time.
///
/// # Errors
/// The first thing that does not hold.
pub fn by_key(
    root: &TrustRoot,
    bundle: &Bundle,
    artifact: Artifact<'_>,
    key: &PublicKey,
) -> Result<Vec<Timestamp>, String> {
    let mut policy = PublicKeyVerificationPolicy::new(key.der().clone());
    if root.demands.logs == 0 {
        policy = policy.skip_tlog_unsafe();
    }
    Ok(under(root, bundle, artifact, &policy)?.verified_timestamps().to_vec())
}

fn under(
    root: &TrustRoot,
    bundle: &Bundle,
    artifact: Artifact<'_>,
    policy: &dyn Policy,
) -> Result<sigstore_verify::VerificationResult, String> {
    within_bounds(bundle)?;
    let verify = |verifier: &Verifier, bundle: &Bundle| verifier.verify(artifact.clone(), bundle, policy);
    let mut result = verify(&root.verifier, bundle).map_err(|why| why.to_string())?;
    if let Some(verifier) = root.with_logs_at(result.verified_timestamps()) {
        let why = |why: sigstore_verify::Error| format!("under the logs that were valid then: {why}");
        result = verify(&verifier?, bundle).map_err(why)?;
    }
    let material = &bundle.verification_material;
    let timestamps = &material.timestamp_verification_data.rfc3161_timestamps;
    // What is there has verified: where one authority is asked for, one is enough.
    for (what, asked, found) in [
        ("transparency logs", root.demands.logs, material.tlog_entries.len()),
        ("timestamp authorities", root.demands.timestamps, timestamps.len()),
    ] {
        if found < asked {
            return Err(format!("{asked} {what} are asked for, and it has been seen by {found}"));
        }
    }
    let distinct = |verifiers: &[Verifier], parts: &[Bundle]| {
        verifiers.iter().filter(|one| parts.iter().any(|part| verify(one, part).is_ok())).count()
    };
    let entries = (0..material.tlog_entries.len()).map(|at| {
        let mut part = bundle.clone();
        part.verification_material.tlog_entries = vec![material.tlog_entries[at].clone()];
        part
    });
    let stamped = (0..timestamps.len()).map(|at| {
        let mut part = bundle.clone();
        part.verification_material.timestamp_verification_data.rfc3161_timestamps = vec![timestamps[at].clone()];
        part
    });
    if root.demands.logs > 1 {
        let found = distinct(&root.by_log, &entries.collect::<Vec<_>>());
        if found < root.demands.logs {
            return Err(format!("{} transparency logs are asked for, and {found} have it", root.demands.logs));
        }
    }
    if root.demands.timestamps > 1 {
        let found = distinct(&root.by_timestamp, &stamped.collect::<Vec<_>>());
        if found < root.demands.timestamps {
            return Err(format!("{} timestamp authorities are asked for, and {found} saw it", root.demands.timestamps));
        }
    }
    Ok(result)
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
    let checkpoints = proofs().filter_map(|proof| proof.checkpoint.checkpoint());
    let signatures = checkpoints.map(|checkpoint| checkpoint.signatures().len()).max();
    for (what, found, most) in [
        ("log entries", entries.len(), limits::BUNDLE_LOG_ENTRIES),
        ("timestamps", timestamps, limits::BUNDLE_TIMESTAMPS),
        ("certificates", certificates, limits::BUNDLE_CERTIFICATES),
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
    fn a_log_entry_that_proves_nothing_is_refused() {
        let bundle = bundle([1, 0, 1, 0]);
        let mut json: Value = serde_json::from_str(&bundle.to_json().unwrap()).unwrap();
        json["verificationMaterial"]["tlogEntries"][0].as_object_mut().unwrap().remove("inclusionProof");
        let bare = serde_json::from_value(json).unwrap();
        assert!(within_bounds(&bundle).is_ok() && within_bounds(&bare).is_err());
    }
}
