//! What somebody who may push to a repository, and nothing else, tries: to keep the daemon busy, to fill its memory, to count
//! for two.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot be set up has failed")]

#[path = "authority/mod.rs"]
mod authority;

use std::{
    collections::BTreeMap,
    future::poll_fn,
    pin::pin,
    task::Poll,
    time::{Duration, Instant},
};

use authority::*;
use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use pullgate::{
    evidence::{
        Attached, Elsewhere, Formats, Found, Material, RegistryOptions,
        kept::Kept,
        registry::Registry,
        sources::{Sources, Wanted},
    },
    image::Digest,
    limits,
    policy::{
        Policy,
        evaluate::{Answer, Origin, Subject},
    },
    verify::{Seen, Unusable, Vouched, verify},
};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_millis(500);

fn now() -> Timestamp {
    "2026-11-30T00:00:00Z".parse().unwrap()
}

fn image() -> Digest {
    Digest::of(b"image")
}

/// The policy whose `attestors` may be asked for by a rule that wants `count` of them, with these files.
fn policy(attestors: &str, names: &str, count: usize, files: &BTreeMap<&str, String>) -> Policy {
    let text = format!(
        "schema = 1\n{attestors}\n[[rule]]\nname = \"all\"\nimages = [\"reg.io/**\"]\n\
         require = {{ at-least = {{ count = {count}, of = {names} }} }}\n[default]\nrequire = \"deny\"\n"
    );
    let read = |file: &str| files.get(file).cloned().ok_or_else(|| "no such file".to_owned());
    Policy::parse("policy.toml", &text, &read).unwrap()
}

/// One attestor who is [`WORKFLOW`] under the root of `authority`.
fn keyless(authority: &Authority) -> Policy {
    let attestor = format!(
        "[[trust-root]]\nname = \"acme\"\nfile = \"root.json\"\n[[attestor]]\nname = \"release\"\nmay-sign = [\"signature\"]\n\
         identities = [{{ root = \"acme\", issuer = \"https://token.actions.githubusercontent.com\", subject = \"{WORKFLOW}\" }}]\n"
    );
    policy(&attestor, "[\"release\"]", 1, &[("root.json", authority.trusted_root())].into())
}

fn worth(policy: &Policy, material: Material) -> Vec<Result<Vouched, Unusable>> {
    let found = Found { material, place: "reg.io/app@x".to_owned() };
    let attestors: Vec<_> = policy.attestors.iter().collect();
    verify(&found, &image(), &attestors, Seen::at_first(now()))
}

fn bundle(json: &Value) -> Material {
    Material::Bundle(json.to_string().into_bytes())
}

/// What it is worth, within [`SOON`].
fn soon(policy: &Policy, material: Material) -> Vec<Result<Vouched, Unusable>> {
    let begun = Instant::now();
    let findings = worth(policy, material);
    assert!(begun.elapsed() < SOON, "{:?}: {findings:?}", begun.elapsed());
    findings
}

/// Certificates that each could have issued every other, and nobody did.
fn maze(count: usize) -> Vec<Value> {
    let mut like_all = Description::ca("CN=intermediate,O=maze.test");
    like_all.purposes = vec![CODE_SIGNING];
    let one = || Certified::by_itself(Key::new(Algorithm::P256), &like_all);
    (0..count).map(|_| json!({ "rawBytes": STANDARD.encode(one().der()) })).collect()
}

#[test]
fn certificates_that_could_all_have_issued_each_other_are_no_maze() {
    let authority = Authority::new("acme");
    let stranger = Fulcio::new("maze", |_, _| {});
    // The log is not asked before the chain is found.
    let signing = authority.sign(image()).certified_by(&stranger).leaf(|leaf| leaf.ends = 100_000_000);
    let signing = signing.stamped(authority.tsa.stamp()).version(Version::V02);
    let lost = |count: usize| {
        let mut json = signing.clone().logged(Authority::new("other").rekor.entry().without_promise()).bundle();
        let chain = &mut json["verificationMaterial"]["x509CertificateChain"]["certificates"];
        chain.as_array_mut().unwrap().extend(maze(count));
        bundle(&json)
    };
    let not_proven = |findings: Vec<_>| match findings.as_slice() {
        [Err(Unusable::NotProven(_, why))] => why.clone(),
        _ => panic!("{findings:?}"),
    };
    let ca = Certified::by_itself(Key::new(Algorithm::P256), &Description::ca("CN=ca"));
    let attestor = "[[attestor]]\nname = \"release\"\nmay-sign = [\"signature\"]\n\
                    authorities = [{ file = \"ca.pem\", email = \"a@b.c\" }]\n";
    let own = policy(attestor, "[\"release\"]", 1, &[("ca.pem", ca.pem())].into());
    for policy in [keyless(&authority), own] {
        let most = limits::BUNDLE_CERTIFICATES - 1;
        let told = not_proven(soon(&policy, lost(most)));
        assert!(!told.contains("more than"), "{told}");
        for count in [most + 1, 20] {
            let told = not_proven(soon(&policy, lost(count)));
            assert!(told.contains("more than"), "{told}");
        }
    }
}

#[test]
fn a_checkpoint_with_thousands_of_signatures_is_not_tried_one_by_one() {
    let authority = Authority::new("acme");
    let rekor = &authority.rekor;
    let signing = authority.sign(image()).by("somebody@else.test");
    let json = signing.logged(rekor.entry()).logged(rekor.entry().without_promise()).bundle();
    let envelope = &json["verificationMaterial"]["tlogEntries"][1]["inclusionProof"]["checkpoint"]["envelope"];
    let (note, signature) = envelope.as_str().unwrap().split_once("\n\n").unwrap();
    // Of another origin, so that none of them is right.
    let signed = |count: usize| {
        let mut json = json.clone();
        json["verificationMaterial"]["tlogEntries"][1]["inclusionProof"]["checkpoint"]["envelope"] =
            json!(format!("x{note}\n\n{}", signature.repeat(count)));
        let findings = soon(&keyless(&authority), bundle(&json));
        match findings.as_slice() {
            [Err(Unusable::NotProven(_, why))] => why.clone(),
            _ => panic!("{findings:?}"),
        }
    };
    assert!(signed(limits::CHECKPOINT_SIGNATURES).contains("No valid Rekor signature"));
    for count in [limits::CHECKPOINT_SIGNATURES + 1, 20_000] {
        assert!(signed(count).contains("more than"), "{}", signed(count));
    }
}

#[test]
fn what_is_wrong_with_a_piece_is_told_in_few_words() {
    let authority = Authority::new("acme");
    let long = "x".repeat(1 << 20);
    let odd = |key: &str, value: Value| {
        let mut json = authority.sign(image()).bundle();
        json[key] = value;
        bundle(&json)
    };
    let entry = Attached { log_entry: Some(json!(long).to_string()), ..Attached::default() };
    let mut stranger = authority.sign(image()).bundle();
    stranger["verificationMaterial"]["tlogEntries"][0]["canonicalizedBody"] =
        json!(STANDARD.encode(json!({ "apiVersion": "0.0.1", "kind": "dsse", "spec": long }).to_string()));
    for material in [
        odd("mediaType", json!(long)),
        odd("verificationMaterial", json!(long)),
        odd("dsseEnvelope", json!({ "payload": long, "payloadType": "x", "signatures": [{ "sig": 1 }] })),
        Material::Envelope { json: json!(long).to_string().into(), attached: Attached::default() },
        Material::Envelope {
            json: serde_json::to_vec(&authority.sign(image()).bundle()["dsseEnvelope"]).unwrap(),
            attached: entry,
        },
        Material::SimpleSigning { payload: b"{}".to_vec(), signature: long.clone(), attached: Attached::default() },
        bundle(&stranger),
    ] {
        for finding in worth(&keyless(&authority), material) {
            let told = format!("{finding:?}").chars().count();
            assert!(finding.is_err() && told < 2 * limits::VIOLATION_CHARS, "{told} characters");
        }
    }
}

#[test]
fn one_certificate_is_one_signer_whoever_it_names() {
    let key = Key::new(Algorithm::P256);
    let ca = Certified::by_itself(Key::new(Algorithm::P256), &Description::ca("CN=ca"));
    let mut description = Description::signer("", CODE_SIGNING);
    description.names = vec![San::Email("a@b.c".into()), San::Email("d@e.f".into()), San::Dns("ci.b.c".into())];
    let leaf = ca.issue(key.clone(), &description);
    let payload = json!({ "critical": {
        "identity": { "docker-reference": "reg.io/app" }, "image": { "docker-manifest-digest": image().to_string() },
        "type": "cosign container image signature",
    } })
    .to_string();
    let material = Material::SimpleSigning {
        signature: STANDARD.encode(key.sign(payload.as_bytes())),
        payload: payload.into_bytes(),
        attached: Attached { certificate: Some(leaf.pem()), ..Attached::default() },
    };
    let attestor = |name: &str, file: &str, whom: &str| {
        format!(
            "[[attestor]]\nname = \"{name}\"\nmay-sign = [\"signature\"]\nauthorities = [{{ file = \"{file}\", {whom} }}]\n"
        )
    };
    let other = Certified::by_itself(Key::new(Algorithm::P256), &Description::ca("CN=other"));
    let files: BTreeMap<&str, String> = [("ca.pem", ca.pem()), ("both.pem", ca.pem() + &other.pem())].into();
    for (file, whom) in [
        ("ca.pem", "email = \"d@e.f\""),
        ("ca.pem", "host = \"ci.b.c\""),
        ("ca.pem", "insecure-any-subject = true"),
        ("both.pem", "email = \"a@b.c\""),
    ] {
        let attestors = attestor("one", "ca.pem", "email = \"a@b.c\"") + &attestor("two", file, whom);
        for (count, enough) in [(1, true), (2, false)] {
            let policy = policy(&attestors, "[\"one\", \"two\"]", count, &files);
            let vouched: Vec<Vouched> = worth(&policy, material.clone()).into_iter().map(Result::unwrap).collect();
            assert_eq!(vouched.len(), 2);
            let subject = Subject::new(image(), Some("reg.io/app".parse().unwrap()), Origin::Fetched);
            let Answer::NeedsEvidence(governing) = policy.ask(&subject, &BTreeMap::new(), now()) else { panic!() };
            assert_eq!(policy.satisfied(&governing, &subject, &vouched), enough, "{count} of a@b.c and {file} {whom}");
        }
    }
}

#[tokio::test]
async fn others_have_their_turn_between_two_pieces() {
    let folder = tempfile::tempdir().unwrap();
    let kept = Kept::open(folder.path());
    let piece = |number: usize| Found { material: bundle(&json!(number)), place: String::new() };
    kept.keep(image(), (0..limits::KEPT_PIECES).map(piece).collect(), now());
    let begun = Instant::now();
    while kept.evidence(&image()).await.len() < limits::KEPT_PIECES {
        assert!(begun.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (sources, registry) = (Sources::new(kept), Registry::new(RegistryOptions::default()));
    let wanted = Wanted { digest: image(), place: None, formats: Formats::ALL, offline: true };
    let mut search = sources.search(&registry, wanted, Elsewhere::default());
    let mut found = 0;
    loop {
        let mut next = pin!(search.next());
        let waits = poll_fn(|context| Poll::Ready(next.as_mut().poll(context).is_pending())).await;
        assert!(waits, "the next piece comes at once, whoever else waits");
        match next.await {
            Some(piece) => found += usize::from(piece.is_ok()),
            None => break,
        }
    }
    assert_eq!(found, limits::KEPT_PIECES);
}

#[test]
fn a_bundle_does_not_become_a_hundred_times_as_large_in_memory() {
    let authority = Authority::new("acme");
    let with_payload = |subjects: &str, predicate: &str| {
        let payload = format!(
            r#"{{"_type":"https://in-toto.io/Statement/v1","subject":[{subjects}{{"digest":{{"sha256":"{}"}}}}],
            "predicateType":"{COSIGN_SIGN}","predicate":{predicate}}}"#,
            image().hex()
        );
        let mut json = authority.sign(image()).bundle();
        json["dsseEnvelope"]["payload"] = json!(STANDARD.encode(payload));
        json
    };
    let predicate = with_payload("", &format!("[{}0]", r#"{"":0},"#.repeat(370_000)));
    let subjects = with_payload(&r#"{"digest":{"":""}},"#.repeat(150_000), "{}");
    let usual = authority.sign(image()).bundle().to_string();
    let more = format!(r#"{},"more":[{}0]}}"#, &usual[..usual.len() - 1], "0,".repeat(2_000_000));
    let envelope = format!(r#"{{"more":[{}0]}}"#, r#"{"":0},"#.repeat(500_000));
    for material in [
        bundle(&predicate),
        bundle(&subjects),
        Material::Bundle(more.into_bytes()),
        Material::Envelope { json: envelope.clone().into_bytes(), attached: Attached::default() },
        Material::Envelope {
            json: serde_json::to_vec(&predicate["dsseEnvelope"]).unwrap(),
            attached: Attached::default(),
        },
        Material::SimpleSigning {
            payload: envelope.into_bytes(),
            signature: String::new(),
            attached: Attached::default(),
        },
    ] {
        let findings = worth(&keyless(&authority), material);
        let is_refused = |finding: &Result<Vouched, Unusable>| matches!(finding, Err(Unusable::Malformed(why)) if why.contains("bytes of memory"));
        assert!(findings.iter().all(is_refused), "{findings:?}");
    }
}

/// DER with its length in three bytes.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = u32::try_from(content.len()).unwrap().to_be_bytes();
    let size: &[u8] = match content.len() {
        0..=127 => &length[3..],
        128..=255 => &[0x81, length[3]],
        256..=65_535 => &[0x82, length[2], length[3]],
        _ => &[0x83, length[1], length[2], length[3]],
    };
    [&[tag], size, &content].concat()
}

/// A set of different attributes, the last one first.
fn upside_down(count: usize) -> Vec<u8> {
    let attribute = |number: usize| der(0x30, &[&[6, 3, 0x55, 4, 3], &der(0x0c, &[format!("{number:06}").as_bytes()])]);
    der(0x31, &[&(0..count).rev().map(attribute).collect::<Vec<_>>().concat()])
}

#[test]
fn names_and_attributes_that_take_long_to_put_in_order_are_not() {
    let authority = Authority::new("acme");
    let usual = authority.sign(image()).bundle();
    let algorithm = der(0x30, &[&[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]]);
    let time = der(0x17, &[b"260101000000Z"]);
    let key = Key::new(Algorithm::P256).der();
    let certificate = |count: usize| {
        let name = der(0x30, &[&upside_down(count)]);
        let validity = der(0x30, &[&time, &time]);
        let body = [&[0xa0, 3, 2, 1, 2, 2, 1, 1][..], &algorithm, &name, &validity, &[0x30, 0], &key];
        der(0x30, &[&der(0x30, &body), &algorithm, &[3, 1, 0]])
    };
    let named = |count: usize| {
        let mut json = usual.clone();
        json["verificationMaterial"]["certificate"]["rawBytes"] = json!(STANDARD.encode(certificate(count)));
        bundle(&json)
    };
    let simple = |count: usize| Material::SimpleSigning {
        payload: br#"{"critical":{}}"#.to_vec(),
        signature: "AAAA".to_owned(),
        attached: Attached { certificate: Some(pem("CERTIFICATE", &certificate(count))), ..Attached::default() },
    };
    let stamped = |count: usize| {
        let signer = der(0x30, &[&[2, 1, 1], &upside_down(count)]);
        let signed = der(0x30, &[&[2, 1, 3], &upside_down(count), &signer]);
        let token = der(0x30, &[&[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 2], &der(0xa0, &[&signed])]);
        let mut json = usual.clone();
        json["verificationMaterial"]["timestampVerificationData"] =
            json!({ "rfc3161Timestamps": [{ "signedTimestamp": STANDARD.encode(token) }] });
        bundle(&json)
    };
    let ca = Certified::by_itself(Key::new(Algorithm::P256), &Description::ca("CN=ca"));
    let attestor = "[[attestor]]\nname = \"release\"\nmay-sign = [\"signature\"]\n\
                    authorities = [{ file = \"ca.pem\", email = \"a@b.c\" }]\n";
    let own = policy(attestor, "[\"release\"]", 1, &[("ca.pem", ca.pem())].into());
    // An attribute has 15 bytes.
    assert_eq!(upside_down(1000).len(), 15 * 1000 + 4);
    let most = [limits::SIGNER_CERTIFICATE_BYTES / 15 - 20, limits::TIMESTAMP_BYTES / 30 - 20];
    for policy in [keyless(&authority), own] {
        for (count, is_read) in [(0, true), (0, false), (8000, false)] {
            let [certified, timed] = if is_read { most } else { most.map(|most| most + 40 + count) };
            for material in [named(certified), simple(certified), stamped(timed)] {
                let findings = soon(&policy, material);
                assert!(findings.iter().all(Result::is_err), "{findings:?}");
                assert_eq!(format!("{findings:?}").contains("of more than"), !is_read, "{count}: {findings:?}");
            }
        }
    }
}
