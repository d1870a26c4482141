//! cosign's older layout as a sigstore bundle: what stands as annotations beside a signature (cosign SIGNATURE_SPEC.md), in
//! the form that a trust root judges.

use serde::Deserialize;
use serde_json::{Value, json};
use sigstore_types::DerCertificate;

use super::{
    Judged, base64,
    intoto::{Entry, Logged},
};
use crate::{evidence::Attached, image::Digest, limits, trust::certificate};

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
pub(super) fn bundle(attached: &Attached, content: (&str, Value)) -> Result<Option<Judged>, String> {
    if attached.is_empty() {
        return Ok(None);
    }
    let certificates: Vec<Value> =
        certificates(attached)?.iter().map(|der| json!({ "rawBytes": standard(der.as_bytes()) })).collect();
    let mut material = match certificates.is_empty() {
        true => json!({ "publicKey": { "hint": "" } }),
        false => json!({ "x509CertificateChain": { "certificates": certificates } }),
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
    let bundle =
        serde_json::from_value(bundle).map_err(|why| format!("what is attached to it cannot be read: {why}"))?;
    Ok(Some(Judged::Bundle(Box::new(bundle))))
}

/// An envelope whose log entry no bundle can hold; none where it has another entry, or none.
///
/// # Errors
/// When a part of it cannot be read.
pub(super) fn logged(attached: &Attached, envelope: impl Fn() -> Digest) -> Result<Option<Logged>, String> {
    let Some(entry) = &attached.log_entry else { return Ok(None) };
    let LogEntry { signed_entry_timestamp, payload } = read(entry, "log entry")?;
    let Kind { kind, api_version } = payload.kind()?;
    if (kind.as_str(), api_version.as_str()) != ("intoto", "0.0.1") {
        return Ok(None);
    }
    let entry = Entry {
        promise: base64(&signed_entry_timestamp)?,
        log_id: payload.log()?,
        body: payload.body,
        integrated_time: payload.integrated_time,
        log_index: payload.log_index,
    };
    Ok(Some(Logged { envelope: envelope(), certificates: certificates(attached)?, entry }))
}

impl Payload {
    fn kind(&self) -> Result<Kind, String> {
        let body = base64(&self.body)?;
        serde_json::from_slice(&body).map_err(|why| format!("its log entry is of no kind: {why}"))
    }

    /// The identity of the log.
    fn log(&self) -> Result<Vec<u8>, String> {
        hex::decode(&self.log_id).map_err(|_| "its log entry names its log in another way".to_owned())
    }
}

fn read<'d, T: Deserialize<'d>>(text: &'d str, what: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|why| format!("its {what} cannot be read: {why}"))
}

fn log_entry(text: &str) -> Result<Value, String> {
    let LogEntry { signed_entry_timestamp, payload } = read(text, "log entry")?;
    let Kind { kind, api_version } = payload.kind()?;
    Ok(json!({
        "logIndex": payload.log_index.to_string(),
        "logId": { "keyId": standard(&payload.log()?) },
        "kindVersion": { "kind": kind, "version": api_version },
        "integratedTime": payload.integrated_time.to_string(),
        "inclusionPromise": { "signedEntryTimestamp": signed_entry_timestamp },
        "canonicalizedBody": payload.body,
    }))
}

/// The certificate of the signer, then those of the chain.
fn certificates(attached: &Attached) -> Result<Vec<DerCertificate>, String> {
    let Some(first) = &attached.certificate else { return Ok(Vec::new()) };
    // Whose certificate it is has to be plain: nothing stands before it.
    if !first.trim_start().starts_with("-----BEGIN CERTIFICATE-----") {
        return Err("its certificate is none".to_owned());
    }
    let chain = attached.chain.as_deref().unwrap_or_default();
    certificate::certificates(&format!("{first}\n{chain}"), limits::BUNDLE_CERTIFICATES)
}

fn standard(bytes: &[u8]) -> String {
    use ::base64::{Engine, engine::general_purpose::STANDARD};
    STANDARD.encode(bytes)
}
