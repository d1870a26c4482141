//! Evidence of any size, depth and form: it is refused, soon, and breaks nothing.

use std::fmt::Write;

use base64::{Engine, engine::general_purpose::STANDARD};
use pullgate::{limits, trust::Matcher};
use serde_json::{Value, json};

use super::*;

const STAMP: &str = "/verificationMaterial/timestampVerificationData/rfc3161Timestamps/0/signedTimestamp";

/// CVE-2024-45395.
#[test]
fn a_bundle_has_as_much_in_it_as_can_be_verified_in_no_time() {
    let acme = Authority::new("acme");
    let policy = policy(&acme);
    let repeat = |count: usize, one: &dyn Fn(Signing) -> Signing| {
        (0..count).fold(acme.sign(image()).logged(acme.rekor.entry()), |signing, _| one(signing))
    };
    let logged = |count| repeat(count - 1, &|signing| signing.logged(acme.rekor.entry()));
    let stamped = |count| repeat(count, &|signing| signing.stamped(acme.tsa.stamp()));
    let chain = |count: usize| {
        let mut bundle = acme.sign(image()).version(Version::V02).bundle();
        let chain = bundle.pointer_mut("/verificationMaterial/x509CertificateChain/certificates").unwrap();
        let root = json!({ "rawBytes": STANDARD.encode(acme.fulcio.root.der()) });
        chain.as_array_mut().unwrap().resize(count, root);
        raw_bundle(bundle)
    };
    let hashes = |count: usize| {
        let mut bundle = acme.sign(image()).bundle();
        bundle["verificationMaterial"]["tlogEntries"][0]["inclusionProof"]["hashes"] =
            json!(vec![STANDARD.encode([0; 32]); count]);
        raw_bundle(bundle)
    };
    admits(&policy, &[bundle(&logged(limits::BUNDLE_LOG_ENTRIES))]);
    admits(&policy, &[bundle(&stamped(limits::BUNDLE_TIMESTAMPS))]);
    admits(&policy, &[chain(limits::BUNDLE_CERTIFICATES)]);
    for (found, words) in [
        (bundle(&logged(limits::BUNDLE_LOG_ENTRIES + 1)), "9 log entries, more than 8"),
        (bundle(&stamped(limits::BUNDLE_TIMESTAMPS + 1)), "9 timestamps, more than 8"),
        (chain(limits::BUNDLE_CERTIFICATES + 1), "7 certificates, more than 6"),
        (hashes(limits::BUNDLE_PROOF_HASHES + 1), "65 hashes in a proof, more than 64"),
        (hashes(limits::BUNDLE_PROOF_HASHES), "inclusion proof"),
        (chain(3000), "more than 6"),
        (hashes(30_000), "more than 64"),
    ] {
        refuses(&policy, &[found], Code::SignerNotProven, words);
    }
    let mut layer = acme.sign(image()).signature_layer(REPOSITORY);
    let pem = acme.fulcio.root.pem();
    layer.annotations.insert("dev.sigstore.cosign/chain".to_owned(), pem.repeat(limits::BUNDLE_CERTIFICATES));
    unproven(&policy, "a chain", sig(&layer));
}

/// CVE-2023-33199, CVE-2026-23831.
#[test]
fn a_log_entry_of_any_form_at_all_breaks_nothing() {
    let acme = Authority::new("acme");
    let policy = policy(&acme);
    for kind in [Kind::Intoto, Kind::Dsse] {
        let right = acme.sign(image()).logged(acme.rekor.entry().kind(kind)).bundle();
        let body = right["verificationMaterial"]["tlogEntries"][0]["canonicalizedBody"].as_str().unwrap();
        let body: Value = serde_json::from_slice(&STANDARD.decode(body).unwrap()).unwrap();
        for pointer in pointers(&body) {
            for wrong in [json!(null), json!([]), json!({}), json!(""), json!(-1), json!("\u{0}é"), json!([null])] {
                let pointer = pointer.clone();
                let what = format!("{kind:?} {pointer} {wrong}");
                let entry = acme.rekor.entry().kind(kind).body(move |body| {
                    *body.pointer_mut(&pointer).unwrap() = wrong.clone();
                });
                // The hash of the whole envelope is nobody's to check: its JSON may be written in many ways.
                let decision = judged(&policy, &[bundle(&acme.sign(image()).logged(entry))]);
                let open = what.contains("/envelopeHash") || what.contains("/spec/content/hash");
                assert!(open || decision.verdict == Verdict::Deny, "{what}: {decision:#?}");
            }
        }
    }
}

/// Where every value of `document` stands.
fn pointers(document: &Value) -> Vec<String> {
    let mut all = vec![String::new()];
    let children: Vec<(String, &Value)> = match document {
        Value::Object(members) => members.iter().map(|(name, value)| (name.clone(), value)).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(at, item)| (at.to_string(), item)).collect(),
        _ => Vec::new(),
    };
    for (name, child) in children {
        all.extend(pointers(child).into_iter().map(|below| format!("/{name}{below}")));
    }
    all
}

/// A DER value whose length is written in four bytes.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap().to_be_bytes();
    [&[tag, 0x84], &length[..], content].concat()
}

/// CVE-2025-66564.
#[test]
fn a_timestamp_of_any_form_and_size_breaks_nothing() {
    let acme = Authority::new("acme");
    let policy = policy(&acme);
    let right = acme.sign(image()).stamped(acme.tsa.stamp()).bundle();
    let token = STANDARD.decode(right.pointer(STAMP).unwrap().as_str().unwrap()).unwrap();
    let granted = der(0x30, &der(2, &[0]));
    let with_type = |oid: &[u8]| {
        let info = der(0x30, &[der(6, oid), der(0xa0, &der(0x30, &[]))].concat());
        der(0x30, &[granted.clone(), info].concat())
    };
    let nested = (0..2000).fold(Vec::new(), |inner, _| der(0x30, &inner));
    for (what, token) in [
        ("nothing", Vec::new()),
        ("an endless identifier", with_type(&vec![0x81; 1 << 20])),
        ("an identifier of nothing", with_type(&[])),
        ("an identifier of zeros", with_type(&vec![0; 1 << 16])),
        ("as deep as can be", nested),
        ("a length that lies", vec![0x30, 0x84, 0xff, 0xff, 0xff, 0xff]),
        ("a length without an end", [&[0x30, 0x80], &token[..]].concat()),
        ("twice", [&token[..], &token[..]].concat()),
        ("text", b"MIIB".repeat(100)),
    ] {
        let mut bundle = right.clone();
        *bundle.pointer_mut(STAMP).unwrap() = json!(STANDARD.encode(token));
        unproven(&policy, what, raw_bundle(bundle));
    }
}

/// Nested as deep as a parser goes, and deeper.
#[test]
fn evidence_of_any_depth_breaks_nothing() {
    let policy = policy(&Authority::new("acme"));
    for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("{\"dsseEnvelope\":", "}")] {
        let deep = format!("{}0{}", open.repeat(100_000), close.repeat(100_000));
        unproven(&policy, open, raw_bundle(&deep));
        unproven(&policy, open, piece(Material::Envelope { json: deep.clone().into(), attached: Attached::default() }));
        let attached = Attached { log_entry: Some(deep.clone()), timestamp: Some(deep), ..Attached::default() };
        unproven(&policy, open, piece(Material::Envelope { json: b"{}".into(), attached }));
    }
}

/// Connaisseur's patterns of exponential time.
#[test]
fn a_pattern_takes_no_longer_for_whoever_chooses_the_text() {
    let pattern = Matcher::pattern("^(a+)+(a|a)*b$").unwrap();
    let mut text = "a".repeat(100_000);
    assert!(!pattern.matches(&text));
    text.write_char('b').unwrap();
    assert!(pattern.matches(&text));
}

/// A bundle about `statement`, signed by `key`, as it stands: JSON that another reader might read otherwise.
fn as_it_stands(key: &Key, statement: &str) -> String {
    let kind = "application/vnd.in-toto+json";
    let signature = key.sign(format!("DSSEv1 {} {kind} {} {statement}", kind.len(), statement.len()).as_bytes());
    let (payload, signature) = (STANDARD.encode(statement), STANDARD.encode(signature));
    format!(
        r#"{{"mediaType":"{}","verificationMaterial":{{"publicKey":{{"hint":"x"}}}},"dsseEnvelope":{{"payload":"{payload}","payloadType":"{kind}","signatures":[{{"sig":"{signature}"}}]}}}}"#,
        Version::V03.media_type()
    )
}

#[test]
fn what_reads_two_ways_counts_in_neither() {
    let key = Key::new(Algorithm::P256);
    let policy = policy_of(&[], &keyed("release", &key, ""), "{ all = [\"release\"] }");
    let (this, other) = (image().hex(), Digest::of(b"other").hex());
    let subject = |hex: &str| format!(r#""subject":[{{"digest":{{"sha256":"{hex}"}}}}]"#);
    let right =
        format!(r#"{{"_type":"https://in-toto.io/Statement/v1",{},"predicateType":"{COSIGN_SIGN}"}}"#, subject(&this));
    let bundle = as_it_stands(&key, &right);
    admits(&policy, &[raw_bundle(&bundle)]);
    let (one, kind) = (subject(&this), format!(r#""predicateType":"{COSIGN_SIGN}""#));
    for statement in [
        right.replace(&one, &format!("{},{one}", subject(&other))),
        right.replace(&one, &format!("{one},{}", subject(&other))),
        right.replace(&one, &one.replace("subject", "Subject")),
        right.replace(&one, &one.replace("{\"sha256", &format!("{{\"sha256\":\"{other}\",\"sha256"))),
        right.replace(&one, &one.replace("sha256", "SHA256")),
        right.replace(&kind, &format!(r#""predicateType":"{SLSA}",{kind}"#)),
        right.replace(&kind, &format!(r#"{kind},"predicateType":"{SLSA}""#)),
        right.replace(&kind, &kind.replace("predicateType", "predicatetype")),
        right.replace(r#""_type""#, r#""_type":"x","_type""#),
        format!("{right}{right}"),
        format!("\u{feff}{right}"),
    ] {
        assert_ne!(statement, right);
        let decision = judged(&policy, &[raw_bundle(as_it_stands(&key, &statement))]);
        assert_eq!(decision.verdict, Verdict::Deny, "{statement}: {decision:#?}");
    }
    for member in ["verificationMaterial", "dsseEnvelope", "payload", "payloadType", "signatures", "sig"] {
        let folded = bundle.replacen(&format!("\"{member}\""), &format!("\"{}\"", member.to_uppercase()), 1);
        unproven(&policy, member, raw_bundle(folded));
    }
    let both = bundle.replacen(r#""dsseEnvelope""#, r#""messageSignature":{"signature":"AA=="},"dsseEnvelope""#, 1);
    unproven(&policy, "both", raw_bundle(both));
}
