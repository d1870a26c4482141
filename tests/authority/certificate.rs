//! X.509 certificates by RFC 5280, as right or as wrong as they are described.

use der::{
    Any, Encode,
    asn1::{BitString, Ia5String, ObjectIdentifier, OctetString, UtcTime},
};
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use x509_cert::{
    Certificate, TbsCertificate, Version,
    ext::{
        Extension,
        pkix::{
            AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages, SubjectAltName,
            SubjectKeyIdentifier,
            name::{GeneralName, OtherName},
        },
    },
    name::Name,
    serial_number::SerialNumber,
    time::{Time, Validity},
};

use super::{Key, instant, pem};

/// id-kp-codeSigning (RFC 5280 section 4.2.1.12).
pub(crate) const CODE_SIGNING: &str = "1.3.6.1.5.5.7.3.3";
/// id-kp-timeStamping.
pub(crate) const TIME_STAMPING: &str = "1.3.6.1.5.5.7.3.8";
/// id-kp-serverAuth.
pub(crate) const SERVER_AUTH: &str = "1.3.6.1.5.5.7.3.1";

/// A name of the subject.
#[derive(Clone, Debug)]
pub(crate) enum San {
    Email(String),
    Uri(String),
    Dns(String),
    /// Fulcio's otherName of user names (fulcio `docs/oid-info.md`, 1.3.6.1.4.1.57264.1.7).
    Other(String),
}

/// What a certificate says. Everything may be changed before it is issued.
#[derive(Clone, Debug)]
pub(crate) struct Description {
    /// RFC 4514; may be empty.
    pub(crate) subject: String,
    pub(crate) names: Vec<San>,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
    /// Basic constraints: whether it is a CA and how many may be below it; `None` leaves the extension out.
    pub(crate) ca: Option<(bool, Option<u8>)>,
    pub(crate) key_usage: KeyUsages,
    /// Extended key usage by object identifiers; none leaves the extension out.
    pub(crate) purposes: Vec<&'static str>,
    pub(crate) purposes_critical: bool,
    /// Other extensions: object identifier and DER.
    pub(crate) more: Vec<(String, Vec<u8>)>,
}

impl Description {
    /// A CA from the start of 2025 to the end of 2034.
    pub(crate) fn ca(subject: &str) -> Self {
        Self {
            subject: subject.to_owned(),
            names: Vec::new(),
            not_before: instant("2025-01-01T00:00:00Z"),
            not_after: instant("2034-12-31T00:00:00Z"),
            ca: Some((true, None)),
            key_usage: KeyUsages::KeyCertSign,
            purposes: Vec::new(),
            purposes_critical: false,
            more: Vec::new(),
        }
    }

    /// As [`Description::ca`], for somebody who only signs.
    pub(crate) fn signer(subject: &str, purpose: &'static str) -> Self {
        Self { ca: None, key_usage: KeyUsages::DigitalSignature, purposes: vec![purpose], ..Self::ca(subject) }
    }

    fn extensions(&self, key: &Key, issuer: &Key) -> Vec<Extension> {
        let mut extensions = vec![extension("2.5.29.15", true, &KeyUsage(self.key_usage.into()))];
        if !self.purposes.is_empty() {
            let purposes = self.purposes.iter().map(|oid| ObjectIdentifier::new_unwrap(oid)).collect();
            extensions.push(extension("2.5.29.37", self.purposes_critical, &ExtendedKeyUsage(purposes)));
        }
        if let Some((ca, path_len_constraint)) = self.ca {
            extensions.push(extension("2.5.29.19", true, &BasicConstraints { ca, path_len_constraint }));
        }
        extensions.push(extension("2.5.29.14", false, &SubjectKeyIdentifier(identifier(key))));
        let authority = AuthorityKeyIdentifier { key_identifier: Some(identifier(issuer)), ..Default::default() };
        extensions.push(extension("2.5.29.35", false, &authority));
        if !self.names.is_empty() {
            let names = SubjectAltName(self.names.iter().map(San::general).collect());
            extensions.push(extension("2.5.29.17", self.subject.is_empty(), &names));
        }
        extensions.extend(self.more.iter().map(|(oid, der)| raw_extension(oid, der)));
        extensions
    }
}

impl San {
    fn general(&self) -> GeneralName {
        let text = |text: &str| Ia5String::new(text).unwrap();
        match self {
            Self::Email(email) => GeneralName::Rfc822Name(text(email)),
            Self::Uri(uri) => GeneralName::UniformResourceIdentifier(text(uri)),
            Self::Dns(name) => GeneralName::DnsName(text(name)),
            Self::Other(name) => GeneralName::OtherName(OtherName {
                type_id: ObjectIdentifier::new_unwrap("1.3.6.1.4.1.57264.1.7"),
                value: Any::encode_from(&name.clone()).unwrap(),
            }),
        }
    }
}

/// A certificate and its key.
#[derive(Clone, Debug)]
pub(crate) struct Certified {
    pub(crate) key: Key,
    pub(crate) certificate: Certificate,
}

impl Certified {
    /// A certificate that `key` signed for itself.
    pub(crate) fn by_itself(key: Key, description: &Description) -> Self {
        let certificate = signed(unsigned(&key, description, &key, &name(&description.subject)), &key);
        Self { key, certificate }
    }

    /// A certificate of `key` that this one issues.
    pub(crate) fn issue(&self, key: Key, description: &Description) -> Self {
        let certificate = signed(self.unsigned(&key, description), &self.key);
        Self { key, certificate }
    }

    /// As [`Certified::issue`], before it is signed.
    pub(crate) fn unsigned(&self, key: &Key, description: &Description) -> TbsCertificate {
        unsigned(key, description, &self.key, &self.certificate.tbs_certificate.subject)
    }

    pub(crate) fn der(&self) -> Vec<u8> {
        self.certificate.to_der().unwrap()
    }

    pub(crate) fn pem(&self) -> String {
        pem("CERTIFICATE", &self.der())
    }
}

fn unsigned(key: &Key, description: &Description, issuer: &Key, issuer_name: &Name) -> TbsCertificate {
    let mut serial: [u8; 16] = aws_lc_rs::rand::generate(&aws_lc_rs::rand::SystemRandom::new()).unwrap().expose();
    serial[0] = serial[0] & 0x3f | 0x40;
    TbsCertificate {
        version: Version::V3,
        serial_number: SerialNumber::new(&serial).unwrap(),
        signature: issuer.signature_algorithm(),
        issuer: issuer_name.clone(),
        validity: Validity { not_before: time(description.not_before), not_after: time(description.not_after) },
        subject: name(&description.subject),
        subject_public_key_info: key.info(),
        issuer_unique_id: None,
        subject_unique_id: None,
        extensions: Some(description.extensions(key, issuer)),
    }
}

/// The certificate of `body` with a signature by `issuer`.
pub(crate) fn signed(body: TbsCertificate, issuer: &Key) -> Certificate {
    let signature = BitString::from_bytes(&issuer.sign(&body.to_der().unwrap())).unwrap();
    Certificate { tbs_certificate: body, signature_algorithm: issuer.signature_algorithm(), signature }
}

/// An extension that is not critical, of any bytes.
pub(crate) fn raw_extension(oid: &str, der: &[u8]) -> Extension {
    let extn_value = OctetString::new(der).unwrap();
    Extension { extn_id: ObjectIdentifier::new_unwrap(oid), critical: false, extn_value }
}

fn extension(oid: &str, critical: bool, value: &impl Encode) -> Extension {
    Extension { critical, ..raw_extension(oid, &value.to_der().unwrap()) }
}

/// Of RFC 4514's forms, x509-cert does not read the empty one.
fn name(text: &str) -> Name {
    if text.is_empty() { Name::default() } else { text.parse().unwrap() }
}

fn identifier(key: &Key) -> OctetString {
    OctetString::new(&Sha256::digest(key.raw())[..20]).unwrap()
}

/// UTCTime, which RFC 5280 section 4.1.2.5 wants before 2050. A verifier that encodes the certificate anew, to look at
/// the promises in it, writes no other.
pub(super) fn time(at: Timestamp) -> Time {
    UtcTime::from_system_time(at.into()).unwrap().into()
}
