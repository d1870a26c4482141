//! cosign's older layout as a sigstore bundle: what stands as annotations beside a signature (cosign SIGNATURE_SPEC.md), in
//! the form that a trust root judges.

use serde::Deserialize;
use serde_json::{Value, json};
use sigstore_types::{Bundle, DerCertificate};

use super::base64;
use crate::{evidence::Attached, limits};

/// The entry of a log, and its promise to publish it (`dev.sigstore.cosign/bundle`).
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct LogEntry {
    signed_entry_timestamp: String,
    payload: Payload,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Payload {
    body: String,
    integrated_time: i64,
    log_index: i64,
    #[serde(rename = "logID")]
    log_id: String,
}

/// What an entry says it is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kind {
    kind: String,
    api_version: String,
}

/// A timestamp (`dev.sigstore.cosign/rfc3161timestamp`).
#[derive(Deserialize)]
struct Timestamp {
    #[serde(rename = "SignedRFC3161Timestamp")]
    signed: String,
}

/// The bundle that `attached` makes of a signature, whose content is `content`; none where nothing is attached.
///
/// # Errors
/// When a part of it cannot be read.
pub(super) fn bundle(attached: &Attached, content: (&str, Value)) -> Result<Option<Bundle>, String> {
    if attached.is_empty() {
        return Ok(None);
    }
    let mut material = match &attached.certificate {
        Some(certificate) => {
            let chain = attached.chain.as_deref().unwrap_or_default();
            json!({ "x509CertificateChain": { "certificates": certificates(certificate, chain)? } })
        }
        None => json!({ "publicKey": { "hint": "" } }),
    };
    if let Some(entry) = &attached.log_entry {
        material["tlogEntries"] = json!([log_entry(entry)?]);
    }
    // Of an envelope all of it is stamped, not only the signature, which no trust root is asked about.
    if let Some(timestamp) = attached.timestamp.as_ref().filter(|_| content.0 == "messageSignature") {
        let timestamp: Timestamp = read(timestamp, "timestamp")?;
        let timestamps = json!([{ "signedTimestamp": timestamp.signed }]);
        material["timestampVerificationData"] = json!({ "rfc3161Timestamps": timestamps });
    }
    // The first version asks for a promise, the second for a proof, which nothing attached is.
    let version = if attached.log_entry.is_some() { "0.1" } else { "0.2" };
    let mut bundle = json!({
        "mediaType": format!("application/vnd.dev.sigstore.bundle+json;version={version}"),
        "verificationMaterial": material,
    });
    bundle[content.0] = content.1;
    serde_json::from_value(bundle).map(Some).map_err(|why| format!("what is attached to it cannot be read: {why}"))
}

fn read<'d, T: Deserialize<'d>>(text: &'d str, what: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|why| format!("its {what} cannot be read: {why}"))
}

fn log_entry(text: &str) -> Result<Value, String> {
    let LogEntry { signed_entry_timestamp, payload } = read(text, "log entry")?;
    let body = base64(&payload.body)?;
    let kind: Kind = serde_json::from_slice(&body).map_err(|why| format!("its log entry is of no kind: {why}"))?;
    let id = hex::decode(&payload.log_id).map_err(|_| "its log entry names its log in another way".to_owned())?;
    Ok(json!({
        "logIndex": payload.log_index.to_string(),
        "logId": { "keyId": standard(&id) },
        "kindVersion": { "kind": kind.kind, "version": kind.api_version },
        "integratedTime": payload.integrated_time.to_string(),
        "inclusionPromise": { "signedEntryTimestamp": signed_entry_timestamp },
        "canonicalizedBody": payload.body,
    }))
}

/// The certificate of the signer, then those of the chain.
fn certificates(first: &str, chain: &str) -> Result<Vec<Value>, String> {
    const END: &str = "-----END CERTIFICATE-----";
    let blocks: Vec<&str> =
        [first, chain].into_iter().flat_map(|text| text.split_inclusive(END)).map(str::trim).collect();
    let blocks: Vec<&str> = blocks.into_iter().filter(|block| !block.is_empty()).collect();
    if blocks.len() > limits::BUNDLE_CERTIFICATES {
        return Err(format!("{} certificates, more than {}", blocks.len(), limits::BUNDLE_CERTIFICATES));
    }
    let read = |block: &&str| {
        let der = DerCertificate::from_pem(block).map_err(|why| format!("its certificate cannot be read: {why}"))?;
        Ok(json!({ "rawBytes": standard(der.as_bytes()) }))
    };
    blocks.iter().map(read).collect()
}

fn standard(bytes: &[u8]) -> String {
    use ::base64::{Engine, engine::general_purpose::STANDARD};
    STANDARD.encode(bytes)
}
