//! Published attacks on programs that do this job, each as it could be tried here. tests/ATTACKS.md has all of them.

use std::fmt::Write;

use base64::{Engine, engine::general_purpose::STANDARD};
use pullgate::{limits, trust::Matcher};
use serde_json::{Value, json};

use super::*;

const STAMP: &str = "/verificationMaterial/timestampVerificationData/rfc3161Timestamps/0/signedTimestamp";

/// That no authority vouches for `found`, whatever they say about it.
#[track_caller]
fn unproven(policy: &Policy, what: &str, found: Found) {
    let decision = judged(policy, &[found]);
    let codes = [Code::SignerNotProven, Code::UntrustedAttestor];
    assert!(codes.iter().any(|code| decision.code() == Some(*code)), "{what}: {decision:#?}");
}

/// The bundle of `of` with the log entries of `from`.
fn grafted(of: &Signing, from: &Signing) -> Found {
    let mut bundle = of.bundle();
    bundle["verificationMaterial"]["tlogEntries"] = from.bundle()["verificationMaterial"]["tlogEntries"].take();
    raw_bundle(bundle)
}

/// CVE-2022-36056, CVE-2026-22703, CVE-2024-53267.
#[test]
fn a_valid_log_entry_of_something_else_proves_nothing() {
    let acme = Authority::new("acme");
    let (policy, key) = (policy(&acme), Key::new(Algorithm::P256));
    let other = Digest::of(b"other");
    let logged_by = |sign: &dyn Fn(Digest) -> Signing| {
        for (what, from) in [
            ("of another image", sign(other).with(&key)),
            ("of another signer", sign(image()).by("dev@acme.example")),
            ("of another key", sign(image())),
            ("of another signature", sign(image()).with(&key)),
            ("of another statement", sign(image()).with(&key).predicate(SLSA, json!({}))),
        ] {
            unproven(&policy, what, grafted(&sign(image()).with(&key), &from));
        }
    };
    logged_by(&|image| acme.sign(image));
    logged_by(&|image| acme.sign2(image));
    logged_by(&|image| acme.sign(image).logged(acme.rekor.entry().kind(Kind::Intoto)));
    // Nor beside the right one, before it or after it.
    let right = acme.sign(image()).bundle();
    let foreign = acme.sign(other).bundle()["verificationMaterial"]["tlogEntries"][0].clone();
    for at in [0, 1] {
        let mut bundle = right.clone();
        bundle["verificationMaterial"]["tlogEntries"].as_array_mut().unwrap().insert(at, foreign.clone());
        unproven(&policy, "beside the right one", raw_bundle(bundle));
    }
    // An entry that cannot be read is no entry.
    for body in ["", "AA==", "bnVsbA==", "e30="] {
        let mut bundle = right.clone();
        bundle["verificationMaterial"]["tlogEntries"][0]["canonicalizedBody"] = json!(body);
        unproven(&policy, body, raw_bundle(bundle));
    }
}

/// CVE-2022-23649.
#[test]
fn the_promise_for_another_signature_proves_nothing() {
    let acme = Authority::new("acme");
    let policy = policy(&acme);
    const BUNDLE: &str = "dev.sigstore.cosign/bundle";
    let right = acme.sign(image()).signature_layer(REPOSITORY);
    let entry = |layer: &Layer| serde_json::from_str::<Value>(&layer.annotations[BUNDLE]).unwrap();
    for from in [acme.sign(image()), acme.sign(Digest::of(b"other")), acme.sign(image()).by("dev@acme.example")] {
        let from = from.signature_layer(REPOSITORY);
        let mut of_another = right.clone();
        of_another.annotations.insert(BUNDLE.to_owned(), from.annotations[BUNDLE].clone());
        unproven(&policy, "the whole entry", sig(&of_another));
        let mut mixed = entry(&right);
        mixed["SignedEntryTimestamp"] = entry(&from)["SignedEntryTimestamp"].clone();
        let mut promised = right.clone();
        promised.annotations.insert(BUNDLE.to_owned(), mixed.to_string());
        unproven(&policy, "the promise alone", sig(&promised));
    }
}

/// GHSA-fx35-mq7g-6g98.
#[test]
fn a_log_entry_that_names_another_key_proves_nothing() {
    let acme = Authority::new("acme");
    let (key, stranger) = (Key::new(Algorithm::P256), Key::new(Algorithm::P256));
    let tables = format!("{}{}", usual(), keyed("by-key", &key, ", root = \"acme\""));
    let policy =
        |name: &str| policy_of(&[("acme", acme.trusted_root())], &tables, &format!("{{ all = [\"{name}\"] }}"));
    let names = |pointer: &'static str| {
        let pem = STANDARD.encode(stranger.pem());
        acme.rekor.entry().body(move |body| *body.pointer_mut(pointer).unwrap() = json!(pem))
    };
    let (payload, envelope) = ("/spec/signature/publicKey/content", "/spec/signatures/0/verifier");
    for (name, signing) in [("release", acme.sign(image())), ("by-key", acme.sign(image()).managed(&key))] {
        let policy = policy(name);
        admits(&policy, &[sig(&signing.signature_layer(REPOSITORY))]);
        unproven(&policy, name, sig(&signing.clone().logged(names(payload)).signature_layer(REPOSITORY)));
        unproven(&policy, name, bundle(&signing.clone().logged(names(envelope))));
        unproven(&policy, name, att(&signing.logged(names(envelope)).attestation_layer()));
    }
    // A key beside the certificate speaks for nobody.
    let mut both = acme.sign(image()).bundle();
    both["verificationMaterial"]["publicKey"] = json!({ "hint": "x" });
    unproven(&policy("by-key"), "both", raw_bundle(both));
}

/// CVE-2023-47122, and checkpoints that sigstore-java took unsigned.
#[test]
fn a_log_that_only_says_that_it_is_the_trusted_one_is_not() {
    let [acme, other] = authorities(["acme", "other"]);
    let policy = policy(&acme);
    let id = STANDARD.encode(acme.rekor.id());
    let mut impostor = other.rekor.clone();
    impostor.name.clone_from(&acme.rekor.name);
    for entry in [impostor.entry(), acme.rekor.entry().checkpoint_by(&impostor)] {
        let mut bundle = acme.sign(image()).logged(entry).bundle();
        bundle["verificationMaterial"]["tlogEntries"][0]["logId"]["keyId"] = json!(id);
        unproven(&policy, "an impostor", raw_bundle(bundle));
    }
    let mut impostor = other.rekor2.clone();
    impostor.name.clone_from(&acme.rekor2.name);
    let signed = acme.sign(image()).stamped(acme.tsa.stamp());
    unproven(&policy, "an impostor", bundle(&signed.clone().logged(impostor.entry())));
    unproven(&policy, "its checkpoint", bundle(&signed.logged(acme.rekor2.entry().checkpoint_by(&impostor))));
}

/// CVE-2022-35929, CVE-2022-35930.
#[test]
fn an_attestation_of_another_type_does_not_stand_for_the_one_asked_for() {
    let acme = Authority::new("acme");
    let tables = usual().replace(SIGNS, &format!("may-sign = [\"{SLSA}\"]"));
    let policy = policy_of(&[("acme", acme.trusted_root())], &tables, "{ all = [\"release\"] }");
    let attested = |kind: &str| acme.sign(image()).predicate(kind, json!({}));
    admits(&policy, &[bundle(&attested(SLSA))]);
    for kind in [
        "https://slsa.dev/provenance/v0.2",
        "https://slsa.dev/provenance/v1.1",
        "https://spdx.dev/Document",
        "",
        COSIGN_SIGN,
    ] {
        refuses(&policy, &[bundle(&attested(kind))], Code::OtherPurpose, "signed a");
        refuses(&policy, &[att(&attested(kind).attestation_layer())], Code::OtherPurpose, "signed a");
    }
}

/// CVE-2026-39395.
#[test]
fn what_is_signed_and_cannot_be_read_counts_for_nothing() {
    let acme = Authority::new("acme");
    let policy = policy(&acme);
    for statement in [json!(null), json!("text"), json!([]), json!({}), json!(7), json!({ "subject": [] })] {
        let signing = acme.sign(image()).statement(|says| *says = statement.clone());
        unproven(&policy, &statement.to_string(), bundle(&signing));
        unproven(&policy, &statement.to_string(), att(&signing.attestation_layer()));
    }
    for kind in ["text/plain", "", "application/json", "application/vnd.in-toto"] {
        unproven(&policy, kind, bundle(&acme.sign(image()).payload_type(kind)));
    }
    // About nothing, or about something by another hash alone.
    for subject in [json!([]), json!([{ "digest": {} }]), json!([{ "digest": { "sha512": image().hex() } }])] {
        let signing = acme.sign(image()).statement(|says| says["subject"] = subject);
        assert_eq!(judged(&policy, &[bundle(&signing)]).verdict, Verdict::Deny);
    }
}

/// CVE-2025-29778.
#[test]
fn patterns_of_issuer_and_subject_are_asked_and_not_passed_over() {
    let acme = Authority::new("acme");
    let identity = "{ root = \"acme\", issuer = { pattern = \"^https://token\\\\.actions\\\\..*$\" }, \
                    subject = { pattern = \"^https://github\\\\.com/acme/.*$\" } }";
    let tables = format!("{ACME}{}", attestor("release", &[identity.to_owned()]));
    let policy = policy_of(&[("acme", acme.trusted_root())], &tables, "{ all = [\"release\"] }");
    let by = |subject: &str, issuer: &str| bundle(&acme.sign(image()).by(subject).issuer(issuer));
    admits(&policy, &[by(WORKFLOW, GITHUB)]);
    for (subject, issuer) in [
        ("https://github.com/evil/app/.github/workflows/release.yml@refs/heads/main", GITHUB),
        ("https://github.com/acme-evil/app/.github/workflows/x.yml@refs/heads/main", GITHUB),
        (&*format!("https://evil.example/{WORKFLOW}"), GITHUB),
        (WORKFLOW, "https://evil.example"),
        (WORKFLOW, &format!("https://evil.example/{GITHUB}")),
    ] {
        refuses(&policy, &[by(subject, issuer)], Code::UntrustedAttestor, subject);
    }
}

/// CVE-2026-24122.
#[test]
fn an_issuing_authority_that_had_expired_vouches_for_nobody() {
    let (before, after) = ("2026-02-01T00:00:00Z", "2026-04-01T00:00:00Z");
    for (end, admitted) in [(before, false), (after, true)] {
        let mut acme = Authority::new("acme");
        acme.fulcio = Fulcio::new("acme", |_, intermediate| intermediate.not_after = instant(end));
        let demand = |demands: &str| {
            let tables = usual().replace("acme.json\"\n", &format!("acme.json\"\n{demands}\n"));
            policy_of(&[("acme", acme.trusted_root())], &tables, "{ all = [\"release\"] }")
        };
        let unlogged = acme.sign(image()).unlogged().stamped(acme.tsa.stamp());
        for (policy, found) in [
            (demand(""), bundle(&acme.sign(image()))),
            (demand(""), bundle(&acme.sign2(image()))),
            (demand(""), sig(&acme.sign(image()).signature_layer(REPOSITORY))),
            (demand("logs = 0\ntimestamps = 1"), bundle(&unlogged)),
        ] {
            let decision = judged(&policy, &[found]);
            assert_eq!(decision.verdict == Verdict::Allow, admitted, "{end}: {decision:#?}");
        }
        // Where the evidence brings the certificate, and the root file only the authority above it.
        let mut root: Value = serde_json::from_str(&acme.trusted_root()).unwrap();
        let chain = root.pointer_mut("/certificateAuthorities/0/certChain/certificates").unwrap();
        let intermediate = chain.as_array_mut().unwrap().remove(0);
        let policy = policy_of(&[("acme", root.to_string())], &usual(), "{ all = [\"release\"] }");
        let mut brought = acme.sign(image()).version(Version::V02).bundle();
        let chain = brought.pointer_mut("/verificationMaterial/x509CertificateChain/certificates").unwrap();
        chain.as_array_mut().unwrap().push(intermediate);
        assert_eq!(judged(&policy, &[raw_bundle(brought)]).verdict == Verdict::Allow, admitted, "{end}");
    }
}

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
        (chain(limits::BUNDLE_CERTIFICATES + 1), "11 certificates, more than 10"),
        (hashes(limits::BUNDLE_PROOF_HASHES + 1), "65 hashes in a proof, more than 64"),
        (hashes(limits::BUNDLE_PROOF_HASHES), "inclusion proof"),
        (chain(3000), "more than 10"),
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
