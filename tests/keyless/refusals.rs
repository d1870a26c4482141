//! Each thing that can be wrong with a signature is told by its code, in words.

use serde_json::{Value, json};

use super::*;

const NOT: &str = "\"acme\" does not vouch for the signature: ";

#[test]
fn whatever_no_authority_vouches_for_is_not_proven() {
    let [acme, other] = authorities(["acme", "other"]);
    let (tsa, rekor, rekor2) = (&acme.tsa, &acme.rekor, &acme.rekor2);
    let policy = policy(&acme);
    let sign = || acme.sign(image());
    let leaf = |change: fn(&mut Leaf)| sign().leaf(change);
    let logged = |entry: Entry| sign().logged(entry);
    let body = |pointer: &'static str| {
        logged(rekor.entry().body(move |body| *body.pointer_mut(pointer).unwrap() = json!("MAA=")))
    };
    let logged2 = |entry: Entry| sign().logged(entry).stamped(tsa.stamp());
    let promised_by = |log: &CtLog| sign().leaf(|leaf| leaf.promised_by = vec![log.clone()]);
    for (signing, words) in [
        (leaf(|leaf| leaf.promised_by.clear()), "SCT"),
        (promised_by(&other.ct_log), "SCT"),
        (leaf(|leaf| leaf.promised_to_another = true), "SCT"),
        (leaf(|leaf| leaf.description.purposes = vec![SERVER_AUTH]), "certificate chain"),
        (leaf(|leaf| leaf.description.purposes.clear()), "certificate chain"),
        (leaf(|leaf| leaf.description.ca = Some((true, None))), "certificate chain"),
        (sign().certified_by(&other.fulcio), "certificate chain"),
        (logged(rekor.entry().integrated(601)), "CertExpired"),
        (logged(rekor.entry().integrated(-1)), "CertNotValidYet"),
        (sign().at("2034-01-01T00:00:00Z"), "in the future"),
        (logged(rekor.entry().without_promise()), "No verified timestamp"),
        (logged(rekor.entry().without_proof()), "inclusion proof"),
        (logged(other.rekor.entry()), "No log key valid"),
        (logged(rekor.entry().checkpoint_by(&other.rekor)), "No matching Rekor key found for checkpoint"),
        (logged(rekor.entry().under([7; 32])), "root hash mismatch"),
        (logged(rekor.entry().in_tree(7, 7)), "out of range"),
        (body("/spec/payloadHash/value"), "payload hash mismatch"),
        (body("/spec/signatures/0/signature"), "does not match any signature in Rekor entry"),
        (body("/spec/signatures/0/verifier"), "certificate"),
        (sign().stamped(tsa.stamp().after(601)), "CertExpired"),
        (sign().stamped(tsa.stamp().of(b"x")), "Timestamp message hash mismatch"),
        (sign().stamped(other.tsa.stamp()), "TSA timestamp verification failed"),
        (logged(rekor2.entry()), "requires RFC3161 timestamp"),
        (logged2(other.rekor2.entry()), "No matching Rekor key found for checkpoint"),
        (logged2(rekor2.entry().checkpoint_by(&other.rekor2)), "No matching Rekor key found for checkpoint"),
        (logged2(rekor2.entry().under([7; 32])), "root hash mismatch"),
        (sign().unlogged(), ""),
        (sign().unlogged().stamped(tsa.stamp()), ""),
        (acme.sign2(image()).version(Version::V01), "inclusion promise"),
        (sign().named(&[San::Other("dev!acme.example".to_owned())]), "names no subject"),
        (leaf(|leaf| leaf.description.more.clear()), "no issuer"),
        // One entry that is right does not make up for one that is wrong.
        (logged(rekor.entry()).logged(other.rekor.entry()), ""),
        (logged(rekor.entry()).logged(rekor.entry().under([7; 32])), ""),
    ] {
        let decision = judged(&policy, &[bundle(&signing)]);
        says(&decision, Code::SignerNotProven, NOT);
        let found = &decision.violations[0].found;
        assert!(found.contains(words), "{words:?} is not in {found:?}");
    }
}

#[test]
fn what_says_something_else_is_told_as_that() {
    let [acme, other] = authorities(["acme", "other"]);
    let policy = policy(&acme);
    let sign = || acme.sign(image());
    let about = |change: fn(&mut Value)| sign().statement(change);
    let another = "the signature by \"release\" is about another digest";
    for (signing, code, words) in [
        (sign().by(&WORKFLOW.replace("main", "dev")), Code::UntrustedAttestor, "(found https://github.com/acme/app"),
        (sign().issuer("https://gitlab.com"), Code::UntrustedAttestor, "(found https://github.com/acme/app"),
        (acme.sign(Digest::of(b"other")), Code::OtherDigest, another),
        (sign().predicate("https://spdx.dev/Document", json!({})), Code::OtherPurpose, "signed a https://spdx.dev"),
        (sign().managed(&Key::new(Algorithm::P256)), Code::UntrustedAttestor, "none by \"release\""),
        (sign().payload_type("text/plain"), Code::UntrustedAttestor, "none by \"release\""),
        (
            about(|says| says["_type"] = json!("https://in-toto.io/Statement/v9")),
            Code::SignerNotProven,
            "_type is not v0.1 or v1",
        ),
        (acme.sign(Digest::of(b"other")).by("dev@acme.example"), Code::UntrustedAttestor, "found dev@acme.example"),
        (other.sign(Digest::of(b"other")), Code::SignerNotProven, NOT),
        (sign().message(), Code::UntrustedAttestor, "none by \"release\""),
    ] {
        refuses(&policy, &[bundle(&signing)], code, words);
    }
    refuses(&policy, &[], Code::Unsigned, "no signature for");
    for text in ["", "{}", "null", "[]", "not json"] {
        refuses(&policy, &[raw_bundle(text)], Code::UntrustedAttestor, "1 signature, none by \"release\"");
    }
}

#[test]
fn the_older_layouts_are_told_in_the_same_words() {
    let [acme, other] = authorities(["acme", "other"]);
    let policy = policy(&acme);
    let edited = |layer: &Layer, name: &str, edit: &dyn Fn(&str) -> String| {
        let mut layer = layer.clone();
        let annotation = layer.annotations.get_mut(&format!("dev.sigstore.cosign/{name}")).unwrap();
        *annotation = edit(annotation);
        layer
    };
    let right = acme.sign(image());
    for (layer, read) in [
        (right.signature_layer(REPOSITORY), sig as fn(&Layer) -> Found),
        (right.attestation_layer(), att as fn(&Layer) -> Found),
    ] {
        admits(&policy, &[read(&layer)]);
        let foreign = if layer.annotations.contains_key("predicateType") {
            other.sign(image()).attestation_layer()
        } else {
            other.sign(image()).signature_layer(REPOSITORY)
        };
        let of_other = |name: &str| foreign.annotations[&format!("dev.sigstore.cosign/{name}")].clone();
        for (wrong, code, words) in [
            (foreign.clone(), Code::SignerNotProven, NOT),
            (edited(&layer, "bundle", &|_| of_other("bundle")), Code::SignerNotProven, NOT),
            (edited(&layer, "certificate", &|_| of_other("certificate")), Code::SignerNotProven, NOT),
            (
                edited(&layer, "bundle", &|text| text.replace("\"integratedTime\":1", "\"integratedTime\":2")),
                Code::SignerNotProven,
                NOT,
            ),
            (edited(&layer, "bundle", &|_| String::new()), Code::UntrustedAttestor, "none by \"release\""),
            (edited(&layer, "bundle", &|_| "{}".to_owned()), Code::UntrustedAttestor, "none by \"release\""),
            (edited(&layer, "certificate", &|_| "x".to_owned()), Code::UntrustedAttestor, "none by \"release\""),
            // Whatever stands before it, the next one is not taken for the signer's.
            (
                edited(&layer, "certificate", &|certificate| format!("x\n{certificate}")),
                Code::UntrustedAttestor,
                "none by \"release\"",
            ),
        ] {
            refuses(&policy, &[read(&wrong)], code, words);
        }
        // Other certificates beside it change nothing.
        admits(&policy, &[read(&edited(&layer, "chain", &|_| of_other("chain")))]);
    }
    let payload = acme.sign(Digest::of(b"other")).signature_layer(REPOSITORY);
    refuses(&policy, &[sig(&payload)], Code::OtherDigest, "the signature by \"release\" is about another digest");
}

#[test]
fn whatever_a_certificate_calls_somebody_is_told_in_one_harmless_line() {
    let acme = Authority::new("acme");
    let policy = policy(&acme);
    for name in ["https://evil.example/\u{1b}[31m\nALLOW".to_owned(), format!("https://{}", "x".repeat(5_000))] {
        let decision = judged(&policy, &[bundle(&acme.sign(image()).named(&[San::Uri(name)]))]);
        says(&decision, Code::UntrustedAttestor, "none by \"release\" (found https://");
        assert!(decision.violations[0].found.chars().count() < 500, "{decision:#?}");
        assert!(decision.grounds.bytes() <= pullgate::limits::GROUNDS_BYTES);
    }
}

#[test]
fn of_several_signatures_in_one_envelope_none_counts() {
    let acme = Authority::new("acme");
    let policy = policy(&acme);
    for signing in [acme.sign(image()), acme.sign(image()).managed(&Key::new(Algorithm::P256))] {
        let mut several = signing.bundle();
        let signatures = several.pointer_mut("/dsseEnvelope/signatures").unwrap().as_array_mut().unwrap();
        signatures.push(json!({ "sig": "AAAA" }));
        refuses(&policy, &[raw_bundle(&several)], Code::UntrustedAttestor, "none by \"release\"");
        let signatures = several.pointer_mut("/dsseEnvelope/signatures").unwrap();
        *signatures = json!([]);
        refuses(&policy, &[raw_bundle(several)], Code::UntrustedAttestor, "none by \"release\"");
    }
}

#[test]
fn under_a_root_that_has_ended_nothing_can_be_told() {
    let past = Window::between("2025-01-01T00:00:00Z", "2026-03-31T00:00:00Z");
    let ends = |description: &mut Description| description.not_after = instant("2026-03-31T00:00:00Z");
    type Change = fn(&mut Authority, Window, fn(&mut Description));
    let changes: [(&str, Change); 4] = [
        ("the certificate authority", |acme, past, _| acme.fulcio.trusted = past),
        ("its root", |acme, _, ends| acme.fulcio = Fulcio::new("acme", |root, _| ends(root))),
        ("its intermediate", |acme, _, ends| acme.fulcio = Fulcio::new("acme", |_, intermediate| ends(intermediate))),
        ("the logs", |acme, past, _| (acme.rekor.trusted, acme.rekor2.trusted) = (past, past)),
    ];
    for (what, change) in changes {
        let mut acme = Authority::new("acme");
        change(&mut acme, past, ends);
        let policy = policy(&acme);
        // What was signed before counts as long as there are images.
        admits(&policy, &[bundle(&acme.sign(image()))]);
        let decision = judged(&policy, &[bundle(&acme.sign(image()).at("2026-06-01T00:00:00Z"))]);
        says(&decision, Code::TrustRootEnded, "the authorities of trust root \"acme\" have ended");
        assert_eq!(decision.verdict, Verdict::Inconclusive, "{what}");
        assert_eq!(decision.violations[0].fix, "bring a newer acme.json", "{what}");
        // A root that ends tomorrow has not.
        let tomorrow = Window { end: Some(now() + jiff::SignedDuration::from_hours(24)), ..Window::default() };
        let mut acme = Authority::new("acme");
        change(&mut acme, tomorrow, |_| {});
        refuses(&super::policy(&acme), &[bundle(&acme.sign(image()).unlogged())], Code::SignerNotProven, "");
    }
}

#[test]
fn that_a_root_has_ended_does_not_hide_what_is_wrong_under_another() {
    let [mut acme, other] = authorities(["acme", "other"]);
    acme.fulcio.trusted = Window::between("2025-01-01T00:00:00Z", "2025-12-31T00:00:00Z");
    let files = [("acme", acme.trusted_root()), ("other", other.trusted_root())];
    let tables = format!(
        "{ACME}{}{}",
        ACME.replace("acme", "other"),
        attestor("release", &[identity("acme", ""), identity("other", "")])
    );
    let policy = policy_of(&files, &tables, "{ all = [\"release\"] }");
    admits(&policy, &[bundle(&other.sign(image()))]);
    refuses(&policy, &[bundle(&acme.sign(image()))], Code::TrustRootEnded, "\"acme\"");
    refuses(&policy, &[bundle(&other.sign(image()).by("dev@acme.example"))], Code::UntrustedAttestor, "dev@acme");
}
