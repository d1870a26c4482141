//! The private sigstore of the tests, against a verifier that is not ours: what it makes is accepted, and what it
//! makes wrong is refused for just that.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot be set up has failed")]

#[path = "authority/mod.rs"]
mod authority;

use authority::*;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use sigstore_trust_root::TrustedRoot;
use sigstore_types::{Bundle, DerPublicKey, Sha256Hash};
use sigstore_verify::{Policy, PublicKeyVerificationPolicy, VerificationPolicy, Verifier};

const IMAGE: &str = "sha256:f52cbdd4122e65cdb162e3bf66121a5fe7d418bb9f56aef6f93ef14666bbbf3f";
const GITHUB: &str = "https://token.actions.githubusercontent.com";

/// Whether the bundle is about `artifact` (`sha256:<hex>`) and keeps `policy` under `root`, by the verifier of sigstore-rust.
fn verify_as(root: &str, bundle: &str, artifact: &str, policy: &dyn Policy) -> Result<(), String> {
    let root = TrustedRoot::from_json(root).map_err(|e| e.to_string())?;
    let bundle = Bundle::from_json(bundle).map_err(|e| e.to_string())?;
    let artifact = Sha256Hash::from_hex(&artifact["sha256:".len()..]).unwrap();
    let verifier = Verifier::new(&root).map_err(|e| e.to_string())?;
    verifier.verify(artifact, &bundle, policy).map(|_| ()).map_err(|e| e.to_string())
}

/// [`verify_as`] for [`IMAGE`] signed by [`WORKFLOW`].
fn verify(authority: &Authority, signing: &Signing) -> Result<(), String> {
    verify_as(&authority.trusted_root(), &signing.json(), IMAGE, &VerificationPolicy::new(WORKFLOW, GITHUB))
}

#[test]
fn every_right_form_is_accepted() {
    let authority = Authority::new("acme");
    let (tsa, rekor) = (&authority.tsa, &authority.rekor);
    let sign = || authority.sign(IMAGE);
    let forms = [
        ("usual", sign()),
        ("v0.1", sign().version(Version::V01)),
        ("v0.1 without proof", sign().version(Version::V01).logged(rekor.entry().without_proof())),
        ("v0.2", sign().version(Version::V02)),
        ("intoto", sign().logged(rekor.entry().kind(Kind::Intoto))),
        ("message", sign().message()),
        ("message v0.1", sign().message().version(Version::V01)),
        ("rekor 2", authority.sign2(IMAGE)),
        ("rekor 2, message", authority.sign2(IMAGE).message()),
        ("rekor 2, v0.2", authority.sign2(IMAGE).version(Version::V02)),
        ("stamped", sign().stamped(tsa.stamp())),
        ("stamped, no promise", sign().logged(rekor.entry().without_promise()).stamped(tsa.stamp())),
        ("stamped, no certificate in it", sign().stamped(tsa.stamp().without_certificate())),
        ("stamped twice", sign().stamped(tsa.stamp()).stamped(tsa.stamp().after(60))),
        ("both logs", sign().logged(rekor.entry()).logged(authority.rekor2.entry()).stamped(tsa.stamp())),
        ("P-384", sign().with(&Key::new(Algorithm::P384))),
        ("another day", sign().at("2025-06-30T23:59:59Z")),
        ("provenance", sign().predicate("https://slsa.dev/provenance/v1", json!({ "buildDefinition": {} }))),
    ];
    for (form, signing) in forms {
        assert_eq!(verify(&authority, &signing), Ok(()), "{form}");
    }
}

#[test]
fn every_wrong_one_is_refused_for_just_that() {
    let authority = Authority::new("acme");
    let other = Authority::new("other");
    let (tsa, rekor, rekor2) = (&authority.tsa, &authority.rekor, &authority.rekor2);
    let sign = || authority.sign(IMAGE);
    let leaf = |change: fn(&mut Leaf)| sign().leaf(change);
    let logged = |entry: Entry| sign().logged(entry);
    let body = |pointer: &'static str| {
        logged(rekor.entry().body(move |body| *body.pointer_mut(pointer).unwrap() = json!("MAA=")))
    };
    let logged2 = |entry: Entry| sign().logged(entry).stamped(tsa.stamp());
    let stamped = |stamp: Stamp| sign().stamped(stamp);
    let promised_by = |log: &CtLog| sign().leaf(|leaf| leaf.promised_by = vec![log.clone()]);
    let cases = [
        (sign().by(&WORKFLOW.replace("main", "dev")), "identity mismatch"),
        (sign().issuer("https://gitlab.com"), "issuer mismatch"),
        (leaf(|leaf| leaf.promised_by.clear()), "missing SCT extension"),
        (leaf(|leaf| leaf.promised_by.push(leaf.promised_by[0].clone())), "multiple SCTs"),
        (promised_by(&other.ct_log), "SCT signature verification failed: Verification error: key not found"),
        (leaf(|leaf| leaf.promised_to_another = true), "ECDSA_P256_SHA256 signature invalid"),
        (leaf(|leaf| leaf.description.purposes = vec![SERVER_AUTH]), "RequiredEkuNotFound"),
        (leaf(|leaf| leaf.description.purposes.clear()), "RequiredEkuNotFound"),
        (leaf(|leaf| leaf.description.ca = Some((true, None))), "CaUsedAsEndEntity"),
        (sign().certified_by(&other.fulcio), "UnknownIssuer"),
        (logged(rekor.entry().integrated(601)), "CertExpired"),
        (logged(rekor.entry().integrated(-1)), "CertNotValidYet"),
        (sign().at("2034-01-01T00:00:00Z"), "is in the future"),
        (logged(rekor.entry().without_promise()), "No verified timestamp"),
        (logged(rekor.entry().without_proof()), "must have an inclusion proof"),
        (logged(other.rekor.entry()), "No log key valid"),
        (logged(rekor.entry().checkpoint_by(&other.rekor)), "No matching Rekor key found for checkpoint"),
        (logged(rekor.entry().under([7; 32])), "root hash mismatch"),
        (logged(rekor.entry().in_tree(7, 7)), "out of range for tree size 7"),
        (body("/spec/payloadHash/value"), "DSSE payload hash mismatch"),
        (body("/spec/signatures/0/signature"), "signature or verifier mismatch"),
        (body("/spec/signatures/0/verifier"), "failed to parse certificate PEM"),
        (sign().statement(|says| says["subject"][0]["digest"]["sha256"] = json!("00".repeat(32))), "artifact mismatch"),
        (stamped(tsa.stamp().after(601)), "CertExpired"),
        (stamped(tsa.stamp().of(b"x")), "Timestamp message hash mismatch"),
        (stamped(other.tsa.stamp()), "CMS signer does not match any trusted TSA certificate"),
        (logged(rekor2.entry()), "V2 bundle requires RFC3161 timestamp"),
        (logged2(other.rekor2.entry()), "No matching Rekor key found for checkpoint"),
        (logged2(rekor2.entry().checkpoint_by(&other.rekor2)), "No matching Rekor key found for checkpoint"),
        (logged2(rekor2.entry().under([7; 32])), "root hash mismatch"),
        (sign().unlogged(), "must have an inclusion proof"),
        (sign().managed(&Key::new(Algorithm::P256)), "no signing certificate"),
        (authority.sign2(IMAGE).version(Version::V01), "must have an inclusion promise"),
    ];
    for (number, (signing, why)) in cases.iter().enumerate() {
        let refusal = verify(&authority, signing).unwrap_err();
        assert!(refusal.contains(why), "{number}: {refusal}, not {why}");
    }
}

#[test]
fn trust_ends_with_its_window_and_with_the_certificates() {
    let past = Window::between("2025-01-01T00:00:00Z", "2025-12-31T00:00:00Z");
    let end = |description: &mut Description| description.not_after = instant("2025-12-31T00:00:00Z");
    let with = |change: &dyn Fn(&mut Authority)| {
        let mut authority = Authority::new("acme");
        change(&mut authority);
        authority
    };
    let stamped = |authority: &Authority| authority.sign2(IMAGE);
    let usual = |authority: &Authority| authority.sign(IMAGE);
    type Case<'a> = (Authority, &'a dyn Fn(&Authority) -> Signing, &'a str);
    let cases: [Case<'_>; 6] = [
        (with(&|all| all.fulcio.trusted = past), &usual, "no trusted certificate authority is valid"),
        (with(&|all| all.ct_log.trusted = past), &usual, "key not found or not valid"),
        (with(&|all| all.rekor.trusted = past), &usual, "No log key valid"),
        (with(&|all| all.tsa.trusted = past), &stamped, "outside the validity period of the authority"),
        (with(&|all| all.tsa = Tsa::new("acme", |_, signer| end(signer))), &stamped, "CertExpired"),
        (
            with(&|all| all.tsa = Tsa::new("acme", |_, signer| signer.purposes = vec![CODE_SIGNING])),
            &stamped,
            "RequiredEkuNotFound",
        ),
    ];
    for (authority, signing, why) in cases {
        let refusal = verify(&authority, &signing(&authority)).unwrap_err();
        assert!(refusal.contains(why), "{refusal}, not {why}");
    }
}

#[test]
fn an_intermediate_is_what_it_is_asked_to_be() {
    // This verifier looks only at the ends of what it is told to trust: so here it trusts the root alone.
    let verify = |change: fn(&mut Description)| {
        let mut authority = Authority::new("acme");
        authority.fulcio = Fulcio::new("acme", |_, intermediate| change(intermediate));
        let mut root: Value = serde_json::from_str(&authority.trusted_root()).unwrap();
        let chain = root.pointer_mut("/certificateAuthorities/0/certChain/certificates").unwrap();
        let intermediate = chain.as_array_mut().unwrap().remove(0);
        let mut bundle = authority.sign(IMAGE).version(Version::V02).bundle();
        let chain = bundle.pointer_mut("/verificationMaterial/x509CertificateChain/certificates").unwrap();
        chain.as_array_mut().unwrap().push(intermediate);
        let policy = VerificationPolicy::new(WORKFLOW, GITHUB);
        verify_as(&root.to_string(), &bundle.to_string(), IMAGE, &policy)
    };
    assert_eq!(verify(|_| {}), Ok(()));
    type Case = (fn(&mut Description), &'static str);
    let cases: [Case; 4] = [
        (|description| description.not_after = instant("2026-02-01T00:00:00Z"), "CertExpired"),
        (|description| description.not_before = instant("2026-04-01T00:00:00Z"), "CertNotValidYet"),
        (|description| description.ca = None, "EndEntityUsedAsCa"),
        (|description| description.purposes = vec![TIME_STAMPING], "RequiredEkuNotFound"),
    ];
    for (change, why) in cases {
        let refusal = verify(change).unwrap_err();
        assert!(refusal.contains(why), "{refusal}, not {why}");
    }
}

#[test]
fn dates_before_2050_have_two_digits_of_the_year() {
    // The promises in a certificate are about its encoding: cosign encodes it anew, and so by RFC 5280 section 4.1.2.5.
    let Authority { fulcio, tsa, .. } = Authority::new("acme");
    for certified in [&fulcio.root, &fulcio.intermediate, &tsa.root, &tsa.signer] {
        let validity = &certified.certificate.tbs_certificate.validity;
        let times = [validity.not_before, validity.not_after];
        assert!(times.iter().all(|time| matches!(time, x509_cert::time::Time::UtcTime(_))), "{times:?}");
    }
}

#[test]
fn every_place_in_every_tree_is_proven() {
    let authority = Authority::new("acme");
    for size in 1..=9 {
        for index in 0..size {
            let one = authority.sign(IMAGE).logged(authority.rekor.entry().in_tree(index, size));
            assert_eq!(verify(&authority, &one), Ok(()), "{index} of {size}");
            let two = authority.sign(IMAGE).logged(authority.rekor2.entry().in_tree(index, size));
            assert_eq!(verify(&authority, &two.stamped(authority.tsa.stamp())), Ok(()), "{index} of {size}");
        }
    }
}

#[test]
fn anybody_can_be_certified_with_claims() {
    let authority = Authority::new("acme");
    let gitlab = "https://gitlab.com/acme/app//.gitlab-ci.yml@refs/tags/v1";
    let (issuer, mail) = ("https://issuer.example.com", "https://accounts.example.com");
    for (subject, issuer) in
        [("dev@acme.example", mail), (gitlab, "https://gitlab.com"), ("spiffe://acme/release", issuer)]
    {
        let bundle = authority.sign(IMAGE).by(subject).json();
        let policy = VerificationPolicy::new(subject, issuer);
        assert_eq!(verify_as(&authority.trusted_root(), &bundle, IMAGE, &policy), Ok(()), "{subject}");
    }
    let claims = |signing: Signing| {
        let bundle = Bundle::from_json(&signing.json()).unwrap();
        let certificate = bundle.signing_certificate().unwrap();
        sigstore_crypto::parse_certificate_info(certificate).unwrap()
    };
    let github = claims(authority.sign(IMAGE).claim(23, "production")).ci_claims;
    let expected = [
        (&github.build_signer_uri, WORKFLOW),
        (&github.source_repository_uri, "https://github.com/acme/app"),
        (&github.source_repository_ref, "refs/heads/main"),
        (&github.build_trigger, "push"),
        (&github.runner_environment, "github-hosted"),
        (&github.deployment_environment, "production"),
        (&github.token_subject, "repo:acme/app:ref:refs/heads/main"),
        (&github.deprecated_github.workflow_repository, "acme/app"),
        (&github.deprecated_github.workflow_ref, "refs/heads/main"),
    ];
    for (claim, value) in expected {
        assert_eq!(claim.as_deref(), Some(value));
    }
    let gitlab = claims(authority.sign(IMAGE).by(gitlab));
    assert_eq!(gitlab.ci_claims.source_repository_uri.as_deref(), Some("https://gitlab.com/acme/app"));
    assert!(gitlab.ci_claims.deprecated_github.is_empty());
    let user = authority.sign(IMAGE).named(&[San::Other("dev!acme.example".to_owned())]);
    let (root, policy) = (authority.trusted_root(), VerificationPolicy::any_identity());
    assert_eq!(verify_as(&root, &user.json(), IMAGE, &policy), Ok(()));
    assert_eq!(claims(user).identity, None, "neither an address nor a URI");
    let old = claims(authority.sign(IMAGE).leaf(|leaf| leaf.drop_claim(8)));
    assert_eq!(old.issuer.as_deref(), Some(GITHUB), "the first issuer extension is there as well");
}

#[test]
fn a_managed_key_signs_without_a_certificate() {
    let authority = Authority::new("acme");
    for algorithm in [Algorithm::P256, Algorithm::P384] {
        let key = Key::new(algorithm);
        let policy = PublicKeyVerificationPolicy::new(DerPublicKey::new(key.der()));
        let mut forms = vec![authority.sign(IMAGE), authority.sign(IMAGE).stamped(authority.tsa.stamp())];
        if algorithm == Algorithm::P256 {
            forms.extend([authority.sign2(IMAGE), authority.sign(IMAGE).message(), authority.sign2(IMAGE).message()]);
        }
        for form in forms {
            let bundle = form.managed(&key).json();
            assert_eq!(verify_as(&authority.trusted_root(), &bundle, IMAGE, &policy), Ok(()), "{bundle}");
            let other = PublicKeyVerificationPolicy::new(DerPublicKey::new(Key::new(algorithm).der()));
            verify_as(&authority.trusted_root(), &bundle, IMAGE, &other).unwrap_err();
        }
        let unlogged = authority.sign(IMAGE).managed(&key).unlogged().stamped(authority.tsa.stamp()).json();
        assert_eq!(verify_as(&authority.trusted_root(), &unlogged, IMAGE, &policy.skip_tlog_unsafe()), Ok(()));
    }
}

#[test]
fn one_root_can_trust_several_and_each_only_as_a_whole() {
    let [acme, other, third] = ["acme", "other", "third"].map(Authority::new);
    let root = trusted_root(&[&acme, &other]);
    let policy = VerificationPolicy::new(WORKFLOW, GITHUB);
    for (authority, accepted) in [(&acme, true), (&other, true), (&third, false)] {
        for signing in [authority.sign(IMAGE), authority.sign2(IMAGE)] {
            assert_eq!(verify_as(&root, &signing.json(), IMAGE, &policy).is_ok(), accepted, "{}", authority.name);
        }
    }
    let both = acme.sign(IMAGE).logged(acme.rekor.entry()).logged(other.rekor.entry());
    let both = both.stamped(acme.tsa.stamp()).stamped(other.tsa.stamp()).json();
    assert_eq!(verify_as(&root, &both, IMAGE, &policy), Ok(()));
}

/// The bundle that says what a layer of the older layout says.
fn bundled(layer: &Layer) -> Value {
    let annotation = |name: &str| layer.annotations[&format!("dev.sigstore.cosign/{name}")].clone();
    let certificate: String = annotation("certificate").lines().filter(|line| !line.starts_with('-')).collect();
    let log: Value = serde_json::from_str(&annotation("bundle")).unwrap();
    let entry = &log["Payload"];
    let body: Value = serde_json::from_slice(&STANDARD.decode(entry["body"].as_str().unwrap()).unwrap()).unwrap();
    let mut bundle = json!({
        "mediaType": "application/vnd.dev.sigstore.bundle+json;version=0.1",
        "verificationMaterial": {
            "x509CertificateChain": { "certificates": [{ "rawBytes": certificate }] },
            "tlogEntries": [{
                "logIndex": entry["logIndex"].to_string(), "integratedTime": entry["integratedTime"].to_string(),
                "logId": { "keyId": STANDARD.encode(hex::decode(entry["logID"].as_str().unwrap()).unwrap()) },
                "kindVersion": { "kind": body["kind"], "version": body["apiVersion"] },
                "inclusionPromise": { "signedEntryTimestamp": log["SignedEntryTimestamp"] },
                "canonicalizedBody": entry["body"],
            }],
        },
    });
    match layer.annotations["dev.cosignproject.cosign/signature"].as_str() {
        "" => bundle["dsseEnvelope"] = serde_json::from_slice(&layer.bytes).unwrap(),
        signature => {
            let stamp: Value = serde_json::from_str(&annotation("rfc3161timestamp")).unwrap();
            let stamps = json!([{ "signedTimestamp": stamp["SignedRFC3161Timestamp"] }]);
            bundle["verificationMaterial"]["timestampVerificationData"] = json!({ "rfc3161Timestamps": stamps });
            bundle["messageSignature"] = json!({ "signature": signature });
        }
    }
    bundle
}

#[test]
fn layers_of_the_older_layout_say_the_same() {
    let authority = Authority::new("acme");
    let root = authority.trusted_root();
    let policy = VerificationPolicy::new(WORKFLOW, GITHUB);
    let signing = authority.sign(IMAGE).stamped(authority.tsa.stamp());
    let layer = signing.signature_layer("registry.example.com/acme/app");
    let artifact = format!("sha256:{}", hex::encode(sigstore_crypto::sha256(&layer.bytes)));
    assert_eq!(verify_as(&root, &bundled(&layer).to_string(), &artifact, &policy), Ok(()));
    assert!(verify_as(&root, &bundled(&layer).to_string(), IMAGE, &policy).is_err(), "the payload is what is signed");
    for kind in [Kind::Dsse, Kind::Intoto] {
        let layer = signing.clone().logged(authority.rekor.entry().kind(kind)).attestation_layer();
        assert_eq!(verify_as(&root, &bundled(&layer).to_string(), IMAGE, &policy), Ok(()), "{kind:?}");
        assert_eq!(layer.annotations["predicateType"], COSIGN_SIGN);
    }
    let managed = signing.managed(&Key::new(Algorithm::Ed25519)).unlogged().signature_layer("r");
    let names: Vec<_> = managed.annotations.keys().map(|name| name.rsplit('/').next().unwrap()).collect();
    assert_eq!(names, ["signature", "rfc3161timestamp"]);
}

#[test]
fn a_layout_has_every_blob_that_its_manifests_name() {
    let authority = Authority::new("acme");
    let image = Artifact::tagged(&[]);
    let signing = authority.sign(image.digest());
    let tagged = Artifact::tagged(&[signing.signature_layer("r/acme/app"), signing.attestation_layer()]);
    let referrer = Artifact::referrer(&image.manifest, Version::V03.media_type(), &signing.json(), COSIGN_SIGN);
    let folder = tempfile::tempdir().unwrap();
    write_layout(folder.path(), &[(&image, json!({})), (&tagged, json!({ "a": "b" })), (&referrer, json!({}))]);
    let read = |file: &str| std::fs::read(folder.path().join(file)).unwrap();
    let blob = |descriptor: &Value| {
        let bytes = read(&descriptor["digest"].as_str().unwrap().replace("sha256:", "blobs/sha256/"));
        let digest = format!("sha256:{}", hex::encode(sigstore_crypto::sha256(&bytes)));
        assert_eq!((json!(digest), json!(bytes.len())), (descriptor["digest"].clone(), descriptor["size"].clone()));
        bytes
    };
    let index: Value = serde_json::from_slice(&read("index.json")).unwrap();
    let manifests: Vec<Value> = index["manifests"].as_array().unwrap().clone();
    assert_eq!((manifests.len(), &manifests[1]["annotations"]["a"]), (3, &json!("b")));
    for manifest in &manifests {
        let manifest: Value = serde_json::from_slice(&blob(manifest)).unwrap();
        for descriptor in manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]) {
            blob(descriptor);
        }
    }
    let manifest: Value = serde_json::from_slice(&blob(&manifests[2])).unwrap();
    assert_eq!(manifest["subject"]["digest"], json!(image.digest()));
}
