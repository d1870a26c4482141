//! `trusted_root.json` (protobuf-specs, `sigstore_trustroot.proto`).

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Authority, Certified, Key, base64, bundle::raw, instant};

/// When to trust something: from the start of 2025 on, without an end, unless told otherwise.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) start: Timestamp,
    pub(crate) end: Option<Timestamp>,
}

impl Window {
    /// From `start` to `end`, both in RFC 3339 and in it.
    pub(crate) fn between(start: &str, end: &str) -> Self {
        Self { start: instant(start), end: Some(instant(end)) }
    }

    fn json(self) -> Value {
        match self.end {
            Some(end) => json!({ "start": self.start.to_string(), "end": end.to_string() }),
            None => json!({ "start": self.start.to_string() }),
        }
    }
}

impl Default for Window {
    fn default() -> Self {
        Self { start: instant("2025-01-01T00:00:00Z"), end: None }
    }
}

/// The document that trusts every part of `authorities`, each in its window.
pub(crate) fn trusted_root(authorities: &[&Authority]) -> String {
    let all = |part: fn(&Authority) -> Vec<Value>| -> Vec<Value> {
        authorities.iter().flat_map(|authority| part(authority)).collect()
    };
    let document = json!({
        "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
        "tlogs": all(|authority| {
            let logs = [&authority.rekor, &authority.rekor2];
            logs.map(|log| self::log(&log.name, &log.key, log.id(), log.trusted)).into()
        }),
        "ctlogs": all(|authority| {
            let log = &authority.ct_log;
            vec![self::log(&format!("ct.{}.test", authority.name), &log.key, log.key.id(), log.trusted)]
        }),
        "certificateAuthorities": all(|Authority { fulcio, .. }| {
            vec![chain("fulcio", &fulcio.name, [&fulcio.intermediate, &fulcio.root], fulcio.trusted)]
        }),
        "timestampAuthorities": all(|Authority { tsa, .. }| {
            vec![chain("tsa", &tsa.name, [&tsa.signer, &tsa.root], tsa.trusted)]
        }),
    });
    document.to_string()
}

fn log(host: &str, key: &Key, id: [u8; 32], trusted: Window) -> Value {
    json!({
        "baseUrl": format!("https://{host}"), "hashAlgorithm": "SHA2_256", "logId": { "keyId": base64(id) },
        "publicKey": { "rawBytes": base64(key.der()), "keyDetails": key.details(), "validFor": trusted.json() },
    })
}

fn chain(service: &str, name: &str, certificates: [&Certified; 2], trusted: Window) -> Value {
    json!({
        "subject": { "organization": format!("{name}.test"), "commonName": service },
        "uri": format!("https://{service}.{name}.test"), "validFor": trusted.json(),
        "certChain": { "certificates": certificates.map(|certified| raw(certified.der())) },
    })
}
