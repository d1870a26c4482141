use base64::{Engine, engine::general_purpose::STANDARD};
use sigstore_crypto::KeyPair;

use super::*;
use crate::{
    evidence::Attached,
    trust::{COSIGN_SIGN, testing::*},
};

fn payload(digest: &Digest) -> String {
    format!(
        r#"{{"critical":{{"identity":{{"docker-reference":"reg/x"}},"image":{{"docker-manifest-digest":"{digest}"}},"type":"cosign container image signature"}},"optional":{{"env":"prod"}}}}"#
    )
}

fn simple(key: &KeyPair, payload: &str) -> Found {
    let signature = STANDARD.encode(key.sign(payload.as_bytes()).unwrap().as_bytes());
    found(Material::SimpleSigning { payload: payload.into(), signature, attached: Attached::default() })
}

/// What `found` is worth when it is seen for the first time.
fn worth(found: &Found, digest: &Digest, attestors: &[&Attestor]) -> Vec<Result<Vouched, Unusable>> {
    verify(found, digest, attestors, Seen::at_first("2026-11-30T00:00:00Z".parse().unwrap()))
}

fn found(material: Material) -> Found {
    Found { material, place: "reg/x@sig".into() }
}

fn bare(json: Vec<u8>) -> Material {
    Material::Envelope { json, attached: Attached::default() }
}

fn statement(digest: &Digest, predicate: &str) -> String {
    format!(
        r#"{{"_type":"https://in-toto.io/Statement/v1","subject":[{{"digest":{{"sha256":"{}"}}}}],"predicateType":"{predicate}","predicate":{{}}}}"#,
        digest.hex()
    )
}

fn envelope(key: &KeyPair, payload_type: &str, payload: &str) -> String {
    let pae = format!("DSSEv1 {} {payload_type} {} {payload}", payload_type.len(), payload.len());
    let signature = STANDARD.encode(key.sign(pae.as_bytes()).unwrap().as_bytes());
    format!(
        r#"{{"payload":"{}","payloadType":"{payload_type}","signatures":[{{"sig":"{signature}"}}]}}"#,
        STANDARD.encode(payload)
    )
}

fn bundle(envelope: &str) -> Found {
    let json = format!(
        r#"{{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{{"publicKey":{{"hint":"x"}}}},"dsseEnvelope":{envelope}}}"#
    );
    found(Material::Bundle(json.into_bytes()))
}

const IN_TOTO: &str = "application/vnd.in-toto+json";
const SLSA: &str = "https://slsa.dev/provenance/v1";

#[test]
fn a_signature_of_the_attestor_about_this_digest_vouches_in_each_form() {
    let (signer, image) = (key(), Digest::of(b"image"));
    let release = attestor("release", &[Purpose::Signature], &[&signer]);
    for found in [
        simple(&signer, &payload(&image)),
        bundle(&envelope(&signer, IN_TOTO, &statement(&image, COSIGN_SIGN))),
        found(bare(envelope(&signer, IN_TOTO, &statement(&image, COSIGN_SIGN)).into_bytes())),
    ] {
        let findings = worth(&found, &image, &[&release]);
        let [Ok(vouched)] = findings.as_slice() else { panic!("{findings:?}") };
        assert_eq!(
            (vouched.attestor(), vouched.digest(), vouched.signer_id()),
            ("release", &image, &release.keys[0].key.id)
        );
    }
}

#[test]
fn a_replayed_signature_is_about_another_digest() {
    let (signer, image, other) = (key(), Digest::of(b"image"), Digest::of(b"other"));
    let release = attestor("release", &[Purpose::Signature], &[&signer]);
    for found in
        [simple(&signer, &payload(&other)), bundle(&envelope(&signer, IN_TOTO, &statement(&other, COSIGN_SIGN)))]
    {
        assert_eq!(worth(&found, &image, &[&release]), [Err(Unusable::OtherDigest("release".into()))]);
    }
}

#[test]
fn another_key_is_nobody_whatever_the_evidence_says_about_itself() {
    let (signer, stranger, image) = (key(), key(), Digest::of(b"image"));
    let release = attestor("release", &[Purpose::Signature], &[&signer]);
    for found in
        [simple(&stranger, &payload(&image)), bundle(&envelope(&stranger, IN_TOTO, &statement(&image, COSIGN_SIGN)))]
    {
        assert_eq!(worth(&found, &image, &[&release]), [Err(Unusable::UntrustedSigner)]);
    }
    let keyless = attestor("nobody", &[Purpose::Signature], &[]);
    assert_eq!(worth(&simple(&signer, &payload(&image)), &image, &[&keyless]), [Err(Unusable::UntrustedSigner)]);
}

#[test]
fn a_key_counts_only_for_what_it_may_sign() {
    let (signer, image) = (key(), Digest::of(b"image"));
    let release = attestor("release", &[Purpose::Signature], &[&signer]);
    let builder = attestor("builder", &[Purpose::Predicate(SLSA.into())], &[&signer]);
    let provenance = bundle(&envelope(&signer, IN_TOTO, &statement(&image, SLSA)));
    let findings = worth(&provenance, &image, &[&release, &builder]);
    assert_eq!(findings[0], Err(Unusable::OtherPurpose("release".into(), Purpose::Predicate(SLSA.into()))));
    assert_eq!(findings[1].as_ref().map(Vouched::attestor), Ok("builder"));
    assert!(matches!(
        worth(&simple(&signer, &payload(&image)), &image, &[&builder])[0],
        Err(Unusable::OtherPurpose(_, Purpose::Signature))
    ));
}

#[test]
fn a_signature_in_a_form_that_does_not_count_is_nobodys() {
    let (signer, image) = (key(), Digest::of(b"image"));
    let mut release = attestor("release", &[Purpose::Signature], &[&signer]);
    release.formats.simple_signing = false;
    assert_eq!(worth(&simple(&signer, &payload(&image)), &image, &[&release]), [Err(Unusable::UntrustedSigner)]);
    assert!(
        worth(&bundle(&envelope(&signer, IN_TOTO, &statement(&image, COSIGN_SIGN))), &image, &[&release])[0].is_ok()
    );
}

#[test]
fn annotations_that_the_policy_asks_for_must_be_in_the_signed_payload() {
    let (signer, image) = (key(), Digest::of(b"image"));
    let mut release = attestor("release", &[Purpose::Signature], &[&signer]);
    release.annotations.insert("env".into(), "prod".into());
    let prod = payload(&image);
    assert!(worth(&simple(&signer, &prod), &image, &[&release])[0].is_ok());
    let signed_sign = bundle(&envelope(&signer, IN_TOTO, &statement(&image, COSIGN_SIGN)));
    for found in [simple(&signer, &prod.replace("prod", "dev")), signed_sign] {
        assert_eq!(worth(&found, &image, &[&release]), [Err(Unusable::OtherAnnotations("release".into()))]);
    }
}

#[test]
fn evidence_changed_after_signing_does_not_verify() {
    let (signer, image, other) = (key(), Digest::of(b"image"), Digest::of(b"other"));
    let release = attestor("release", &[Purpose::Signature], &[&signer]);
    let mut edited = simple(&signer, &payload(&other));
    if let Material::SimpleSigning { payload: bytes, .. } = &mut edited.material {
        *bytes = payload(&image).into_bytes();
    }
    assert_eq!(worth(&edited, &image, &[&release]), [Err(Unusable::UntrustedSigner)]);
    let sealed = envelope(&signer, IN_TOTO, &statement(&image, COSIGN_SIGN));
    let retyped = sealed.replace(IN_TOTO, "application/vnd.in-toto+jso");
    assert!(matches!(worth(&bundle(&retyped), &image, &[&release])[0], Err(Unusable::Malformed(_))));
}

#[test]
fn signed_but_unreadable_is_malformed_and_never_vouches() {
    let (signer, image) = (key(), Digest::of(b"image"));
    let release = attestor("release", &[Purpose::Signature], &[&signer]);
    let good = payload(&image);
    for text in [
        "",
        "not json",
        "{}",
        "null",
        &good.replace("cosign container image signature", "release notes"),
        &good.replace("docker-manifest-digest", "Docker-manifest-digest"),
        &good.replace(r#""type""#, r#""unknown-but-critical":1,"type""#),
        &good.replace(r#""type""#, r#""type":"x","type""#),
        &good.replace("sha256", "sha512"),
    ] {
        let findings = worth(&simple(&signer, text), &image, &[&release]);
        assert!(matches!(findings[0], Err(Unusable::Malformed(_))), "{text}: {findings:?}");
    }
    for text in [
        "not json",
        "{}",
        &statement(&image, COSIGN_SIGN).replace("Statement/v1", "Statement/v2"),
        &statement(&image, COSIGN_SIGN).replace(&image.hex(), "abc"),
    ] {
        let findings = worth(&bundle(&envelope(&signer, IN_TOTO, text)), &image, &[&release]);
        assert!(matches!(findings[0], Err(Unusable::Malformed(_))), "{text}: {findings:?}");
    }
    let no_subject = r#"{"_type":"https://in-toto.io/Statement/v1","subject":[],"predicateType":"https://sigstore.dev/cosign/sign/v1"}"#;
    assert!(worth(&bundle(&envelope(&signer, IN_TOTO, no_subject)), &image, &[&release])[0].is_err());
}

#[test]
fn a_signature_in_another_encoding_of_base64_is_the_same_signature() {
    let (signer, image) = (key(), Digest::of(b"image"));
    let release = attestor("release", &[Purpose::Signature], &[&signer]);
    let payload = payload(&image);
    let raw = signer.sign(payload.as_bytes()).unwrap();
    let signature = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(raw.as_bytes());
    let found = found(Material::SimpleSigning { payload: payload.into(), signature, attached: Attached::default() });
    assert!(worth(&found, &image, &[&release])[0].is_ok());
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_a_panic_or_a_vouch(bytes: Vec<u8>, signature: String) {
        let (signer, image) = (key(), Digest::of(b"image"));
        let release = attestor("release", &[Purpose::Signature], &[&signer]);
        for material in [
            Material::Bundle(bytes.clone()),
            bare(bytes.clone()),
            Material::SimpleSigning { payload: bytes.clone(), signature: signature.clone(), attached: Attached::default() },
        ] {
            proptest::prop_assert!(worth(&found(material), &image, &[&release]).iter().all(Result::is_err));
        }
    }

    #[test]
    fn no_single_change_of_a_good_bundle_vouches_for_another_digest(position: proptest::sample::Index, byte: u8) {
        let (signer, image, other) = (key(), Digest::of(b"image"), Digest::of(b"other"));
        let release = attestor("release", &[Purpose::Signature], &[&signer]);
        let Material::Bundle(mut json) = bundle(&envelope(&signer, IN_TOTO, &statement(&image, COSIGN_SIGN))).material
        else { unreachable!() };
        let position = position.index(json.len());
        json[position] = byte;
        proptest::prop_assert!(worth(&found(Material::Bundle(json)), &other, &[&release]).iter().all(Result::is_err));
    }
}
