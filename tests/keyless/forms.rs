//! Every right form is admitted: from the registry by the whole of an admission, and with what certificates may say.

use serde_json::json;

use super::*;
use crate::hostile::MANIFEST;

/// A right signing in each form of a bundle.
pub(crate) fn bundles(authority: &Authority, image: Digest) -> Vec<(&'static str, Version, Signing)> {
    let (rekor, tsa) = (&authority.rekor, &authority.tsa);
    let sign = || authority.sign(image);
    vec![
        ("v0.3", Version::V03, sign()),
        ("v0.2", Version::V02, sign().version(Version::V02)),
        ("v0.1", Version::V01, sign().version(Version::V01)),
        ("v0.1 by promise alone", Version::V01, sign().version(Version::V01).logged(rekor.entry().without_proof())),
        ("intoto", Version::V03, sign().logged(rekor.entry().kind(Kind::Intoto))),
        ("stamped", Version::V03, sign().stamped(tsa.stamp())),
        ("stamped, no promise", Version::V03, sign().logged(rekor.entry().without_promise()).stamped(tsa.stamp())),
        ("stamped twice", Version::V03, sign().stamped(tsa.stamp()).stamped(tsa.stamp().after(60))),
        ("rekor 2", Version::V03, authority.sign2(image)),
        ("rekor 2, v0.2", Version::V02, authority.sign2(image).version(Version::V02)),
        ("both logs", Version::V03, authority.sign2(image).logged(rekor.entry())),
        ("P-384", Version::V03, sign().with(&Key::new(Algorithm::P384))),
    ]
}

/// A right layer in each form of the older layout: of the `.sig` tag, or of the `.att` tag.
pub(crate) fn layers(authority: &Authority, image: Digest) -> Vec<(&'static str, &'static str, Layer)> {
    let sign = || authority.sign(image);
    let attest = || sign().predicate(SLSA, json!({ "buildDefinition": {} }));
    let intoto = attest().logged(authority.rekor.entry().kind(Kind::Intoto));
    let older = attest().logged(authority.rekor.entry().kind(Kind::Intoto1));
    vec![
        ("sig", "sig", sign().signature_layer("reg.test/prod/app")),
        ("sig, stamped", "sig", sign().stamped(authority.tsa.stamp()).signature_layer("reg.test/prod/app")),
        ("att", "att", attest().attestation_layer()),
        ("att, stamped", "att", attest().stamped(authority.tsa.stamp()).attestation_layer()),
        ("att, intoto 0.0.1", "att", older.attestation_layer()),
        ("att, intoto", "att", intoto.attestation_layer()),
    ]
}

/// What a node decides about the image that `put` puts evidence for into its registry.
async fn decided(files: &Files<'_>, tables: &str, put: impl FnOnce(&HostileRegistry, Digest)) -> Decision {
    let registry = HostileRegistry::start().await;
    let image = registry.content().image("prod/app", "v1", "app");
    registry.content().referrers_api = true;
    put(&registry, image);
    let document = document(&format!("{}/prod/app", registry.host()), tables, "{ all = [\"release\"] }");
    let policy = parsed(files, &document).unwrap_or_else(|why| panic!("{why}"));
    decide(&registry, image, policy, Clock::unkept(), Kept::default()).await
}

/// Puts `layer` under the tag of `image` that ends in `kind`.
fn tag(registry: &HostileRegistry, image: Digest, kind: &str, layer: &Layer) {
    let artifact = Artifact::tagged(std::slice::from_ref(layer));
    let mut content = registry.content();
    for blob in &artifact.blobs {
        content.blob(blob.clone());
    }
    let digest = content.manifest("prod/app", MANIFEST, artifact.manifest);
    content.tag("prod/app", &format!("sha256-{}.{kind}", image.hex()), digest);
}

/// The image of [`decided`].
async fn its_image() -> Digest {
    HostileRegistry::start().await.content().image("prod/app", "v1", "app")
}

#[tokio::test]
async fn every_right_form_is_admitted_from_a_registry() {
    let authority = Authority::new("acme");
    let (files, image) = ([("acme", authority.trusted_root())], its_image().await);
    for (form, version, signing) in bundles(&authority, image) {
        let put = |registry: &HostileRegistry, image| {
            registry.content().referrer("prod/app", image, version.media_type(), signing.json().as_bytes());
        };
        let decision = decided(&files, &usual(), put).await;
        assert_eq!(decision.verdict, Verdict::Allow, "{form}: {decision:#?}");
        let [required] = decision.grounds.required.as_slice() else { panic!("{decision:#?}") };
        let vouching = required.vouched.as_ref().unwrap();
        assert_eq!(vouching.identity.as_deref(), Some(&*format!("{WORKFLOW} ({GITHUB})")), "{form}");
        assert!(vouching.signed_at.is_some_and(|at| at.as_second() - instant(TIME).as_second() <= 2), "{form}");
    }
    for (form, kind, layer) in layers(&authority, image) {
        let decision = decided(&files, &usual(), |registry, image| tag(registry, image, kind, &layer)).await;
        assert_eq!(decision.verdict, Verdict::Allow, "{form}: {decision:#?}");
    }
}

#[tokio::test]
async fn the_same_forms_of_a_stranger_are_refused_from_a_registry() {
    let [acme, other] = authorities(["acme", "other"]);
    let (files, image) = ([("acme", acme.trusted_root())], its_image().await);
    for (form, version, signing) in bundles(&other, image) {
        let put = |registry: &HostileRegistry, image| {
            registry.content().referrer("prod/app", image, version.media_type(), signing.json().as_bytes());
        };
        let decision = decided(&files, &usual(), put).await;
        assert_eq!(decision.code(), Some(Code::SignerNotProven), "{form}: {decision:#?}");
    }
    for (form, kind, layer) in layers(&other, image) {
        let decision = decided(&files, &usual(), |registry, image| tag(registry, image, kind, &layer)).await;
        assert_eq!(decision.code(), Some(Code::SignerNotProven), "{form}: {decision:#?}");
    }
    let decision = decided(&files, &usual(), |_, _| {}).await;
    says(&decision, Code::Unsigned, "no signature for");
}

#[test]
fn a_key_with_a_root_is_admitted_once_the_roots_log_has_its_signature() {
    let authority = Authority::new("acme");
    for algorithm in [Algorithm::P256, Algorithm::P384, Algorithm::Ed25519] {
        let key = Key::new(algorithm);
        let tables = format!("{ACME}{}", keyed("release", &key, ", root = \"acme\""));
        let policy = policy_of(&[("acme", authority.trusted_root())], &tables, "{ all = [\"release\"] }");
        let signed = || authority.sign(image()).managed(&key);
        admits(&policy, &[bundle(&signed())]);
        admits(&policy, &[bundle(&signed().stamped(authority.tsa.stamp()))]);
        admits(&policy, &[sig(&signed().signature_layer(REPOSITORY))]);
        admits(&policy, &[att(&signed().attestation_layer())]);
        if algorithm == Algorithm::P256 {
            admits(&policy, &[bundle(&authority.sign2(image()).managed(&key))]);
        }
        let words = "\"acme\" does not vouch for the signature";
        refuses(&policy, &[bundle(&signed().unlogged().stamped(authority.tsa.stamp()))], Code::SignerNotProven, words);
        refuses(&policy, &[sig(&signed().unlogged().signature_layer(REPOSITORY))], Code::SignerNotProven, words);
        let other = Authority::new("other");
        refuses(&policy, &[bundle(&other.sign(image()).managed(&key))], Code::SignerNotProven, words);
        refuses(
            &policy,
            &[bundle(&authority.sign(image()).managed(&Key::new(algorithm)))],
            Code::UntrustedAttestor,
            "",
        );
    }
}

#[test]
fn whoever_a_certificate_names_can_be_meant() {
    let authority = Authority::new("acme");
    let gitlab = "https://gitlab.com/acme/app//.gitlab-ci.yml@refs/tags/v1";
    let users = "https://accounts.example.com";
    for (issuer, subject) in [
        (GITHUB, WORKFLOW),
        ("https://gitlab.com", gitlab),
        (users, "dev@acme.example"),
        ("https://issuer.example.com", "spiffe://acme/release"),
    ] {
        let policy = |identity: &str| {
            let tables = format!("{ACME}{}", attestor("release", &[identity.to_owned()]));
            policy_of(&[("acme", authority.trusted_root())], &tables, "{ all = [\"release\"] }")
        };
        let signed = [bundle(&authority.sign(image()).by(subject))];
        admits(&policy(&identity_of("acme", issuer, subject, "")), &signed);
        let pattern = subject.replace('.', "\\\\.");
        let by_pattern =
            format!("{{ root = \"acme\", issuer = \"{issuer}\", subject = {{ pattern = \"^{pattern}$\" }} }}");
        admits(&policy(&by_pattern), &signed);
        for (issuer, subject) in [
            ("https://evil.example", subject),
            (issuer, "spiffe://acme/other"),
            (issuer, &subject[1..]),
            (issuer, &subject[..subject.len() - 1]),
            (&format!("{issuer}/"), subject),
        ] {
            let found = format!("(found {})", signer_of(&signed));
            refuses(&policy(&identity_of("acme", issuer, subject, "")), &signed, Code::UntrustedAttestor, &found);
        }
    }
}

/// Whom a certificate names, as a refusal tells it.
fn signer_of(pieces: &[Found]) -> String {
    let Material::Bundle(json) = &pieces[0].material else { panic!("no bundle") };
    let bundle = sigstore_types::Bundle::from_json(std::str::from_utf8(json).unwrap()).unwrap();
    let certificate = bundle.signing_certificate().unwrap();
    sigstore_crypto::parse_certificate_info(certificate).unwrap().identity.unwrap().as_str().to_owned()
}

#[test]
fn each_claim_that_is_asked_for_is_read_from_its_own_extension() {
    let authority = Authority::new("acme");
    let commit = "9739798945b2a848e911bcf1dddb97298cade0b1";
    let claims = [
        ("signer", 9, WORKFLOW),
        ("runner", 11, "github-hosted"),
        ("repository", 12, "https://github.com/acme/app"),
        ("commit", 13, commit),
        ("ref", 14, "refs/heads/main"),
        ("repository-id", 15, "632596897"),
        ("owner", 16, "https://github.com/acme"),
        ("owner-id", 17, "131804563"),
        ("workflow", 18, WORKFLOW),
        ("trigger", 20, "push"),
        ("visibility", 22, "public"),
        ("environment", 23, "production"),
    ];
    assert_eq!(claims.len(), pullgate::trust::CLAIMS.len());
    let sign = || authority.sign(image()).claim(23, "production");
    for (name, number, value) in claims {
        let policy = |value: &str| {
            let identity = identity("acme", &format!(", {name} = {value}"));
            let tables = format!("{ACME}{}", attestor("release", &[identity]));
            policy_of(&[("acme", authority.trusted_root())], &tables, "{ all = [\"release\"] }")
        };
        let asked = policy(&format!("\"{value}\""));
        admits(&asked, &[bundle(&sign())]);
        admits(&policy(&format!("{{ pattern = \"^{}$\" }}", value.replace('.', "\\\\."))), &[bundle(&sign())]);
        for wrong in [
            sign().claim(number, "elsewhere"),
            sign().claim(number, &format!("{value}x")),
            sign().leaf(|leaf| leaf.drop_claim(number)),
            sign().leaf(|leaf| leaf.raw_claim(number, value.as_bytes().to_vec())),
        ] {
            let decision = judged(&asked, &[bundle(&wrong)]);
            assert_eq!(decision.verdict, Verdict::Deny, "{name}: {decision:#?}");
        }
    }
}

#[test]
fn a_statement_is_about_each_of_its_subjects() {
    let acme = Authority::new("acme");
    let about = |subjects: Vec<serde_json::Value>| {
        bundle(&acme.sign(image()).statement(|says| says["subject"] = json!(subjects)))
    };
    let of = |digest: Digest| json!({ "name": "x", "digest": { "sha256": digest.hex() } });
    let (this, other) = (of(image()), of(Digest::of(b"other")));
    let by_another_hash = json!({ "name": "x", "digest": { "sha512": "00".repeat(64) } });
    let policy = policy(&acme);
    admits(&policy, &[about(vec![this.clone(), other.clone()])]);
    admits(&policy, &[about(vec![other.clone(), this.clone()])]);
    admits(&policy, &[about(vec![by_another_hash.clone(), this])]);
    refuses(&policy, &[about(vec![other.clone(), other])], Code::OtherDigest, "another digest");
    refuses(&policy, &[about(vec![by_another_hash])], Code::SignerNotProven, "nothing with a sha256 digest");
}

#[test]
fn what_may_be_signed_is_what_counts() {
    let authority = Authority::new("acme");
    let only = |purpose: &str| usual().replace(SIGNS, &format!("may-sign = [\"{purpose}\"]"));
    let files = [("acme", authority.trusted_root())];
    let provenance = bundle(&authority.sign(image()).predicate(SLSA, json!({ "buildDefinition": {} })));
    let [builder, signer] =
        [SLSA, "signature"].map(|purpose| policy_of(&files, &only(purpose), "{ all = [\"release\"] }"));
    admits(&builder, std::slice::from_ref(&provenance));
    refuses(&builder, &[bundle(&authority.sign(image()))], Code::OtherPurpose, "\"release\" signed a signature");
    refuses(&signer, &[provenance], Code::OtherPurpose, SLSA);
}
