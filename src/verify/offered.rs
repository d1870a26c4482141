//! Keys and certificates that come with the evidence. They prove nothing: anybody may sign with a key of their own and send
//! it along, and a certificate is worth what its trust root says.

use sigstore_crypto::parse_certificate_info;
use sigstore_types::bundle::VerificationMaterialContent;

use super::{Judged, Opened};
use crate::{
    evidence::Found,
    image::Digest,
    trust::{Certified, PublicKey, Signer},
};

/// By what a piece of evidence says to be signed.
#[derive(Debug)]
pub enum Offered {
    /// The key of the certificate that it carries, which names nobody and did sign it, about the digest.
    Key(PublicKey),
    /// Whom the certificate names that it carries, whose key did sign it, about the digest.
    Identity(Signer),
    /// A key that it only names, in the signer's own words.
    Hint(String),
}

/// What a person would have to know whose it is, were `found` to count for `digest`; none where it says nothing, or what it
/// says is not so.
pub fn offered(found: &Found, digest: &Digest) -> Option<Offered> {
    let opened = Opened::of(&found.material).ok()?;
    if !(opened.read)().ok()?.digests.contains(digest) {
        return None;
    }
    let certificate = match opened.judged().ok()? {
        Judged::Logged(logged) => logged.certificates.first()?,
        Judged::Bundle(bundle) => match &bundle.verification_material.content {
            VerificationMaterialContent::PublicKey(key) => {
                return (!key.hint.is_empty()).then(|| Offered::Hint(key.hint.clone()));
            }
            _ => bundle.signing_certificate()?,
        },
    };
    let certificate = parse_certificate_info(certificate).ok()?;
    let key = PublicKey::of_certificate(&certificate.public_key).ok()?;
    if !key.verifies(&opened.message, &opened.signature) {
        return None;
    }
    Some(match Certified::by(&certificate) {
        Some(certified) => Offered::Identity(certified.signer()),
        None => Offered::Key(key),
    })
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use serde_json::{Value, json};
    use sigstore_crypto::KeyPair;

    use super::*;
    use crate::{evidence::Material, trust::COSIGN_SIGN};

    fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let content = parts.concat();
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&[tag, 0x82, length[0], length[1]], content.as_slice()].concat()
    }

    /// A certificate of `key` that nobody signed (RFC 5280 section 4.1).
    fn certificate(key: &KeyPair) -> Vec<u8> {
        let minimal = |tag: u8, content: &[u8]| [&[tag, u8::try_from(content.len()).unwrap()], content].concat();
        let algorithm = minimal(0x30, &minimal(6, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]));
        let (name, time) = (minimal(0x30, &[]), minimal(0x17, b"260101000000Z"));
        let validity = minimal(0x30, &[time.as_slice(), time.as_slice()].concat());
        let (version, serial) = (minimal(0xa0, &minimal(2, &[2])), minimal(2, &[1]));
        let spki = key.public_key_der().unwrap();
        let body = [&version, &serial, &algorithm, &name, &validity, &name].map(Vec::as_slice).concat();
        let inner = [body.as_slice(), spki.as_bytes()].concat();
        // DER writes a length in as few bytes as it takes.
        let inner = [&[0x30, 0x81, u8::try_from(inner.len()).unwrap()], inner.as_slice()].concat();
        let all = [inner.as_slice(), &algorithm, &minimal(3, &[0])].concat();
        [&[0x30, 0x81, u8::try_from(all.len()).unwrap()], all.as_slice()].concat()
    }

    fn bundle(signer: &KeyPair, image: &Digest, material: Value) -> Found {
        let statement = json!({
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{ "name": "", "digest": { "sha256": image.hex() } }],
            "predicateType": COSIGN_SIGN,
            "predicate": {},
        })
        .to_string();
        let kind = "application/vnd.in-toto+json";
        let message = format!("DSSEv1 {} {kind} {} {statement}", kind.len(), statement.len());
        let signature = STANDARD.encode(signer.sign(message.as_bytes()).unwrap().as_bytes());
        let bundle = json!({
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": material,
            "dsseEnvelope": {
                "payload": STANDARD.encode(&statement), "payloadType": kind, "signatures": [{ "sig": signature }],
            },
        });
        Found { material: Material::Bundle(bundle.to_string().into_bytes()), place: "test".to_owned() }
    }

    #[test]
    fn a_key_is_offered_only_by_what_it_signed_about_this_digest() {
        let [signer, other] = [(); 2].map(|()| KeyPair::generate_ecdsa_p256().unwrap());
        let (image, another) = (Digest::of(b"image"), Digest::of(b"another"));
        let with = |key: &KeyPair| json!({ "certificate": { "rawBytes": STANDARD.encode(certificate(key)) } });
        let found = bundle(&signer, &image, with(&signer));
        let Some(Offered::Key(key)) = offered(&found, &image) else { panic!("{:?}", offered(&found, &image)) };
        assert_eq!(key.id, Digest::of(signer.public_key_der().unwrap().as_bytes()));
        assert!(offered(&found, &another).is_none());
        assert!(offered(&bundle(&signer, &image, with(&other)), &image).is_none());
        let nonsense = json!({ "certificate": { "rawBytes": STANDARD.encode(der(0x30, &[b"x"])) } });
        assert!(offered(&bundle(&signer, &image, nonsense), &image).is_none());
    }

    #[test]
    fn a_key_that_is_only_named_has_no_more_than_its_name() {
        let (signer, image) = (KeyPair::generate_ecdsa_p256().unwrap(), Digest::of(b"image"));
        let named = |hint: &str| bundle(&signer, &image, json!({ "publicKey": { "hint": hint } }));
        assert!(matches!(offered(&named("who"), &image), Some(Offered::Hint(hint)) if hint == "who"));
        assert!(offered(&named(""), &image).is_none());
        for json in ["", "{}", "[]"] {
            let found = Found { material: Material::Bundle(json.into()), place: String::new() };
            assert!(offered(&found, &image).is_none());
        }
    }
}
