//! Published attacks on programs that do this job, each as it could be tried here. tests/ATTACKS.md has all of them.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::*;

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
    let entry = |layer: &Layer| serde_json::from_str::<Value>(&layer.annotations[BUNDLE]).unwrap();
    let attested = |signing: Signing, kind| signing.logged(acme.rekor.entry().kind(kind)).attestation_layer();
    type Form<'a> = (&'a dyn Fn(Signing) -> Layer, fn(&Layer) -> Found);
    let forms: [Form<'_>; 4] = [
        (&|signing| signing.signature_layer(REPOSITORY), sig),
        (&|signing| attested(signing, Kind::Dsse), att),
        (&|signing| attested(signing, Kind::Intoto), att),
        (&|signing| attested(signing, Kind::Intoto1), att),
    ];
    for (layer, read) in forms {
        let right = layer(acme.sign(image()));
        admits(&policy, &[read(&right)]);
        for from in [acme.sign(image()), acme.sign(Digest::of(b"other")), acme.sign(image()).by("dev@acme.example")] {
            let from = layer(from);
            let mut of_another = right.clone();
            of_another.annotations.insert(BUNDLE.to_owned(), from.annotations[BUNDLE].clone());
            unproven(&policy, "the whole entry", read(&of_another));
            let mut mixed = entry(&right);
            mixed["SignedEntryTimestamp"] = entry(&from)["SignedEntryTimestamp"].clone();
            let mut promised = right.clone();
            promised.annotations.insert(BUNDLE.to_owned(), mixed.to_string());
            unproven(&policy, "the promise alone", read(&promised));
            // And the whole of it around another's certificate.
            let mut certified = right.clone();
            let certificate = "dev.sigstore.cosign/certificate";
            certified.annotations.insert(certificate.to_owned(), from.annotations[certificate].clone());
            unproven(&policy, "another certificate", read(&certified));
        }
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

/// The sigstore verifier knows nothing of intoto 0.0.1: what it asks of a certificate is asked of these as well.
#[test]
fn an_entry_of_the_oldest_kind_asks_no_less_of_a_certificate() {
    let [acme, other] = authorities(["acme", "other"]);
    let logged = |signing: Signing, entry: Entry| att(&signing.logged(entry.kind(Kind::Intoto1)).attestation_layer());
    let (policy, entry) = (policy(&acme), || acme.rekor.entry());
    let leaf = |change: fn(&mut Leaf)| acme.sign(image()).leaf(change);
    admits(&policy, &[logged(acme.sign(image()), entry())]);
    for (what, found) in [
        ("no promise of a certificate log", logged(leaf(|leaf| leaf.promised_by.clear()), entry())),
        ("a promise of another certificate", logged(leaf(|leaf| leaf.promised_to_another = true), entry())),
        ("for servers", logged(leaf(|leaf| leaf.description.purposes = vec![SERVER_AUTH]), entry())),
        ("for nothing", logged(leaf(|leaf| leaf.description.purposes.clear()), entry())),
        ("an authority itself", logged(leaf(|leaf| leaf.description.ca = Some((true, None))), entry())),
        ("of another authority", logged(acme.sign(image()).certified_by(&other.fulcio), entry())),
        (
            "of another certificate log",
            logged(acme.sign(image()).leaf(|leaf| leaf.promised_by = vec![other.ct_log.clone()]), entry()),
        ),
        ("expired", logged(acme.sign(image()), entry().integrated(601))),
        ("not yet valid", logged(acme.sign(image()), entry().integrated(-1))),
        ("from the future", logged(acme.sign(image()).at("2034-01-01T00:00:00Z"), entry())),
        ("of another log", logged(acme.sign(image()), other.rekor.entry())),
        ("not promised", logged(acme.sign(image()), entry().without_promise())),
    ] {
        unproven(&policy, what, found);
    }
    let past = Window::between("2025-01-01T00:00:00Z", "2025-12-31T00:00:00Z");
    type Change = fn(&mut Authority, Window);
    let changes: [Change; 3] = [
        |acme, past| acme.fulcio.trusted = past,
        |acme, past| acme.ct_log.trusted = past,
        |acme, past| acme.rekor.trusted = past,
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut acme = Authority::new("acme");
        change(&mut acme, past);
        let found = att(&acme.sign(image()).logged(acme.rekor.entry().kind(Kind::Intoto1)).attestation_layer());
        assert_ne!(judged(&super::policy(&acme), &[found]).verdict, Verdict::Allow, "change {number}");
    }
    // It is one log, without a timestamp: where more is asked for, it is not enough.
    for demands in ["logs = 2", "timestamps = 1"] {
        let tables = usual().replace("acme.json\"\n", &format!("acme.json\"\n{demands}\n"));
        let policy = policy_of(&[("acme", acme.trusted_root())], &tables, "{ all = [\"release\"] }");
        unproven(&policy, demands, logged(acme.sign(image()), entry()));
    }
}
