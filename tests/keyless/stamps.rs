//! CVE-2026-39984: what stands in the bag of certificates of a timestamp, and whose signature it carries.

use base64::{Engine, engine::general_purpose::STANDARD};
use cms::{
    cert::CertificateChoices,
    content_info::ContentInfo,
    signed_data::{CertificateSet, SignedData},
};
use der::{Any, Decode, Encode, Sequence, asn1::SetOfVec};
use serde_json::json;

use super::*;

/// TimeStampResp (RFC 3161 section 2.4.2).
#[derive(Sequence)]
struct Response {
    status: Any,
    token: ContentInfo,
}

const STAMP: &str = "/verificationMaterial/timestampVerificationData/rfc3161Timestamps/0/signedTimestamp";

/// The bundle of `signing`, with these certificates in the bag of its timestamp.
fn with_bag(signing: &Signing, bag: &[&Certified]) -> Found {
    let mut bundle = signing.bundle();
    let stamp = bundle.pointer_mut(STAMP).unwrap();
    let mut response = Response::from_der(&STANDARD.decode(stamp.as_str().unwrap()).unwrap()).unwrap();
    let mut data: SignedData = response.token.content.decode_as().unwrap();
    let mut bag: Vec<_> = bag.iter().map(|one| CertificateChoices::Certificate(one.certificate.clone())).collect();
    bag.dedup();
    data.certificates = Some(CertificateSet(SetOfVec::try_from(bag).unwrap()));
    response.token.content = Any::encode_from(&data).unwrap();
    *stamp = json!(STANDARD.encode(response.to_der().unwrap()));
    raw_bundle(bundle)
}

#[test]
fn a_timestamp_is_by_the_certificate_of_the_root_whatever_is_in_its_bag() {
    let [acme, other] = authorities(["acme", "other"]);
    let policy = policy(&acme);
    // Forged: the name of the authority, and another's key.
    let forged =
        Certified::by_itself(Key::new(Algorithm::P256), &Description::signer("CN=tsa,O=acme.test", TIME_STAMPING));
    let by = |tsa: &Tsa| acme.sign(image()).logged(acme.rekor2.entry()).stamped(tsa.stamp());
    let (right, trusted) = (by(&acme.tsa), &acme.tsa.signer);
    for bag in [vec![], vec![trusted], vec![trusted, &forged], vec![&forged]] {
        admits(&policy, &[with_bag(&right, &bag)]);
    }
    let mut forger = acme.tsa.clone();
    forger.signer = forged.clone();
    // The trusted certificate's name and serial number, and another's signature.
    let mut impostor = acme.tsa.clone();
    impostor.signer.key = Key::new(Algorithm::P256);
    for tsa in [&forger, &impostor, &other.tsa] {
        for bag in [vec![trusted], vec![&forged, trusted], vec![&tsa.signer, trusted], vec![&other.tsa.root, trusted]] {
            refuses(&policy, &[with_bag(&by(tsa), &bag)], Code::SignerNotProven, "TSA timestamp verification failed");
        }
    }
}

#[test]
fn who_may_not_stamp_or_no_longer_may_does_not() {
    type Change = fn(&mut Description);
    let changes: [Change; 3] = [
        |signer| signer.purposes = vec![CODE_SIGNING],
        |signer| signer.not_after = instant("2026-02-01T00:00:00Z"),
        |signer| signer.not_before = instant("2026-04-01T00:00:00Z"),
    ];
    for change in changes {
        let mut acme = Authority::new("acme");
        acme.tsa = Tsa::new("acme", |_, signer| change(signer));
        let signed = acme.sign(image()).logged(acme.rekor2.entry()).stamped(acme.tsa.stamp());
        refuses(&policy(&acme), &[bundle(&signed)], Code::SignerNotProven, "TSA timestamp verification failed");
    }
    let mut acme = Authority::new("acme");
    acme.tsa.trusted = Window::between("2025-01-01T00:00:00Z", "2025-12-31T00:00:00Z");
    refuses(&policy(&acme), &[bundle(&acme.sign2(image()))], Code::SignerNotProven, "outside the validity period");
}
