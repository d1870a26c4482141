//! A timestamp authority by RFC 3161.

use cms::{
    cert::{CertificateChoices, IssuerAndSerialNumber},
    content_info::{CmsVersion, ContentInfo},
    signed_data::{CertificateSet, EncapsulatedContentInfo, SignedData, SignerIdentifier, SignerInfo, SignerInfos},
};
use der::{
    Any, Decode, Encode, Sequence,
    asn1::{GeneralizedTime, Int, ObjectIdentifier, OctetString, SetOfVec},
};
use jiff::{Timestamp, ToSpan};
use sha2::{Digest, Sha256};
use x509_cert::{attr::Attribute, spki::AlgorithmIdentifierOwned};

use super::{
    Algorithm, Key, Window,
    certificate::{Certified, Description, TIME_STAMPING, time},
};

const SIGNED_DATA: &str = "1.2.840.113549.1.7.2";
const TST_INFO: &str = "1.2.840.113549.1.9.16.1.4";
const CONTENT_TYPE: &str = "1.2.840.113549.1.9.3";
const MESSAGE_DIGEST: &str = "1.2.840.113549.1.9.4";
const SIGNING_TIME: &str = "1.2.840.113549.1.9.5";
/// id-aa-signingCertificateV2 (RFC 5035).
const SIGNING_CERTIFICATE: &str = "1.2.840.113549.1.9.16.2.47";
const SHA_256: &str = "2.16.840.1.101.3.4.2.1";

/// An authority with a root and a certificate that stamps.
#[derive(Clone, Debug)]
pub(crate) struct Tsa {
    pub(crate) name: String,
    pub(crate) root: Certified,
    pub(crate) signer: Certified,
    /// When `trusted_root.json` says to trust it.
    pub(crate) trusted: Window,
}

impl Tsa {
    /// The authority that `change` makes of the right descriptions of root and signer.
    pub(crate) fn new(name: &str, change: impl FnOnce(&mut Description, &mut Description)) -> Self {
        let mut root = Description::ca(&format!("CN=tsa root,O={name}.test"));
        let mut signer = Description::signer(&format!("CN=tsa,O={name}.test"), TIME_STAMPING);
        signer.purposes_critical = true;
        change(&mut root, &mut signer);
        let root = Certified::by_itself(Key::new(Algorithm::P256), &root);
        let signer = root.issue(Key::new(Algorithm::P256), &signer);
        Self { name: name.to_owned(), root, signer, trusted: Window::default() }
    }

    /// A right timestamp by it.
    pub(crate) fn stamp(&self) -> Stamp {
        Stamp { tsa: self.clone(), after: 1, certificate: true, of: None }
    }
}

/// A timestamp to be made. Each method says what differs from the right one.
#[derive(Clone, Debug)]
pub(crate) struct Stamp {
    tsa: Tsa,
    after: i64,
    certificate: bool,
    of: Option<Vec<u8>>,
}

impl Stamp {
    /// At so many seconds after the signing.
    pub(crate) fn after(self, after: i64) -> Self {
        Self { after, ..self }
    }

    /// Without the certificate of who stamps.
    pub(crate) fn without_certificate(self) -> Self {
        Self { certificate: false, ..self }
    }

    /// Of other bytes than the signature.
    pub(crate) fn of(self, bytes: &[u8]) -> Self {
        Self { of: Some(bytes.to_vec()), ..self }
    }

    /// The TimeStampResp for `bytes`, which were signed at `at`.
    pub(super) fn make(&self, bytes: &[u8], at: Timestamp) -> Vec<u8> {
        let at = at + self.after.seconds();
        let imprint = OctetString::new(Sha256::digest(self.of.as_deref().unwrap_or(bytes)).to_vec()).unwrap();
        let statement = TstInfo {
            version: 1,
            policy: oid("1.3.6.1.4.1.57264.2"),
            imprint: MessageImprint { algorithm: sha256(), digest: imprint },
            serial: Int::new(&[1]).unwrap(),
            time: GeneralizedTime::from_system_time(at.into()).unwrap(),
            nonce: Some(Int::new(&[7]).unwrap()),
        };
        let token = self.token(&statement.to_der().unwrap(), at);
        Response { status: Status { granted: 0 }, token: Any::encode_from(&token).unwrap() }.to_der().unwrap()
    }

    /// The CMS SignedData over `statement` (RFC 5652 section 5).
    fn token(&self, statement: &[u8], at: Timestamp) -> ContentInfo {
        let signer = &self.tsa.signer;
        let certificate = EssCertId { hash: OctetString::new(Sha256::digest(signer.der()).to_vec()).unwrap() };
        let attributes = SetOfVec::try_from(vec![
            attribute(CONTENT_TYPE, &oid(TST_INFO)),
            attribute(SIGNING_TIME, &time(at)),
            attribute(MESSAGE_DIGEST, &OctetString::new(Sha256::digest(statement).to_vec()).unwrap()),
            attribute(SIGNING_CERTIFICATE, &SigningCertificateV2 { certificates: vec![certificate] }),
        ])
        .unwrap();
        let body = &signer.certificate.tbs_certificate;
        let info = SignerInfo {
            version: CmsVersion::V1,
            sid: SignerIdentifier::IssuerAndSerialNumber(IssuerAndSerialNumber {
                issuer: body.issuer.clone(),
                serial_number: body.serial_number.clone(),
            }),
            digest_alg: sha256(),
            signature_algorithm: signer.key.signature_algorithm(),
            signature: OctetString::new(signer.key.sign(&attributes.to_der().unwrap())).unwrap(),
            signed_attrs: Some(attributes),
            unsigned_attrs: None,
        };
        let certificates = self.certificate.then(|| {
            let certificate = CertificateChoices::Certificate(signer.certificate.clone());
            CertificateSet(SetOfVec::try_from(vec![certificate]).unwrap())
        });
        let data = SignedData {
            version: CmsVersion::V3,
            digest_algorithms: SetOfVec::try_from(vec![sha256()]).unwrap(),
            encap_content_info: EncapsulatedContentInfo {
                econtent_type: oid(TST_INFO),
                econtent: Some(Any::encode_from(&OctetString::new(statement).unwrap()).unwrap()),
            },
            certificates,
            crls: None,
            signer_infos: SignerInfos(SetOfVec::try_from(vec![info]).unwrap()),
        };
        ContentInfo { content_type: oid(SIGNED_DATA), content: Any::encode_from(&data).unwrap() }
    }
}

fn oid(text: &str) -> ObjectIdentifier {
    ObjectIdentifier::new_unwrap(text)
}

fn sha256() -> AlgorithmIdentifierOwned {
    AlgorithmIdentifierOwned { oid: oid(SHA_256), parameters: None }
}

fn attribute(kind: &str, value: &impl Encode) -> Attribute {
    let value = Any::from_der(&value.to_der().unwrap()).unwrap();
    Attribute { oid: oid(kind), values: SetOfVec::try_from(vec![value]).unwrap() }
}

/// TSTInfo (RFC 3161 section 2.4.2), as far as it is used here.
#[derive(Sequence)]
struct TstInfo {
    version: u8,
    policy: ObjectIdentifier,
    imprint: MessageImprint,
    serial: Int,
    time: GeneralizedTime,
    #[asn1(optional = "true")]
    nonce: Option<Int>,
}

#[derive(Sequence)]
struct MessageImprint {
    algorithm: AlgorithmIdentifierOwned,
    digest: OctetString,
}

/// TimeStampResp.
#[derive(Sequence)]
struct Response {
    status: Status,
    token: Any,
}

/// PKIStatusInfo.
#[derive(Sequence)]
struct Status {
    granted: u8,
}

/// SigningCertificateV2 (RFC 5035 section 3).
#[derive(Sequence)]
struct SigningCertificateV2 {
    certificates: Vec<EssCertId>,
}

/// ESSCertIDv2 by SHA-256, which is its default.
#[derive(Sequence)]
struct EssCertId {
    hash: OctetString,
}
