//! A certificate authority as Fulcio is one: short-lived certificates for an identity, each with the promise of a
//! certificate transparency log in it.

use der::Encode;
use jiff::{Timestamp, ToSpan};
use x509_cert::TbsCertificate;

use super::{
    Algorithm, Key, Window,
    certificate::{CODE_SIGNING, Certified, Description, raw_extension, signed},
};

/// id-ctPreCertSCTs: the list of promises in a certificate (RFC 6962 section 3.3).
const SCT_LIST: &str = "1.3.6.1.4.1.11129.2.4.2";
/// The arc of Fulcio's extensions (fulcio `docs/oid-info.md`).
const FULCIO: &str = "1.3.6.1.4.1.57264.1";

/// The root, and the intermediate that issues.
#[derive(Clone, Debug)]
pub(crate) struct Fulcio {
    pub(crate) name: String,
    pub(crate) root: Certified,
    pub(crate) intermediate: Certified,
    /// When `trusted_root.json` says to trust it.
    pub(crate) trusted: Window,
}

impl Fulcio {
    /// The authority that `change` makes of the right descriptions of root and intermediate.
    pub(crate) fn new(name: &str, change: impl FnOnce(&mut Description, &mut Description)) -> Self {
        let mut root = Description::ca(&format!("CN=root,O={name}.test"));
        let mut intermediate = Description::ca(&format!("CN=intermediate,O={name}.test"));
        intermediate.ca = Some((true, Some(0)));
        intermediate.purposes = vec![CODE_SIGNING];
        change(&mut root, &mut intermediate);
        let root = Certified::by_itself(Key::new(Algorithm::P384), &root);
        let intermediate = root.issue(Key::new(Algorithm::P384), &intermediate);
        Self { name: name.to_owned(), root, intermediate, trusted: Window::default() }
    }
}

/// A certificate transparency log (RFC 6962).
#[derive(Clone, Debug)]
pub(crate) struct CtLog {
    pub(crate) key: Key,
    /// When `trusted_root.json` says to trust it.
    pub(crate) trusted: Window,
}

impl CtLog {
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        Self { key: Key::new(algorithm), trusted: Window::default() }
    }

    /// A SignedCertificateTimestamp for the certificate that will be made of `body` (RFC 6962 section 3.2).
    fn promise(&self, body: &TbsCertificate, issuer: &Key, at: Timestamp) -> Vec<u8> {
        let body = body.to_der().unwrap();
        let at = u64::try_from(at.as_millisecond()).unwrap().to_be_bytes();
        // Version 1, certificate_timestamp; then precert_entry; no extensions.
        let message = [&[0, 0], &at[..], &[0, 1], &issuer.id(), &length::<3>(&body), &body, &[0, 0]].concat();
        let signature = self.key.sign(&message);
        // SHA-256 or SHA-384, with ECDSA (RFC 5246 section 7.4.1.4.1).
        let algorithm = if self.key.algorithm() == Algorithm::P384 { [5, 3] } else { [4, 3] };
        [&[0], &self.key.id()[..], &at, &[0, 0], &algorithm, &length::<2>(&signature), &signature].concat()
    }
}

/// What to certify. Everything may be changed before it is issued; times are seconds after the signing.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    pub(crate) description: Description,
    /// The first instant of its life.
    pub(crate) begins: i64,
    /// The last instant of its life.
    pub(crate) ends: i64,
    /// Whose promises it carries: one is right.
    pub(crate) promised_by: Vec<CtLog>,
    /// The moment of the promises.
    pub(crate) promised: i64,
    /// Whether the promises are about another certificate.
    pub(crate) promised_to_another: bool,
}

impl Leaf {
    pub(crate) fn new(log: &CtLog) -> Self {
        Self {
            description: Description::signer("", CODE_SIGNING),
            begins: 0,
            ends: 600,
            promised_by: vec![log.clone()],
            promised: 0,
            promised_to_another: false,
        }
    }

    /// Sets the claim `1.3.6.1.4.1.57264.1.<number>`. Up to 6 it is bare text, from 8 on a UTF8String; 8 sets 1 as well.
    pub(crate) fn claim(&mut self, number: u8, value: &str) {
        let text = if number < 7 { value.as_bytes().to_vec() } else { value.to_owned().to_der().unwrap() };
        self.raw_claim(number, text);
        if number == 8 {
            self.raw_claim(1, value.into());
        }
    }

    /// As [`Leaf::claim`], with any bytes.
    pub(crate) fn raw_claim(&mut self, number: u8, bytes: Vec<u8>) {
        self.drop_claim(number);
        self.description.more.push((format!("{FULCIO}.{number}"), bytes));
        self.description.more.sort_by_key(|(oid, _)| (oid.len(), oid.clone()));
    }

    /// Takes the claim out, if it is there.
    pub(crate) fn drop_claim(&mut self, number: u8) {
        let claim = format!("{FULCIO}.{number}");
        self.description.more.retain(|(oid, _)| *oid != claim);
    }

    /// The certificate of `key` by `fulcio`, for a signing at `at`.
    pub(super) fn issue(&self, fulcio: &Fulcio, key: &Key, at: Timestamp) -> Certified {
        let issuer = &fulcio.intermediate;
        let mut description = self.description.clone();
        description.not_before = at + self.begins.seconds();
        description.not_after = at + self.ends.seconds();
        let mut body = issuer.unsigned(key, &description);
        let promised = if self.promised_to_another { issuer.unsigned(key, &description) } else { body.clone() };
        let promises = self.promised_by.iter().map(|log| {
            let promise = log.promise(&promised, &issuer.key, at + self.promised.seconds());
            [&length::<2>(&promise)[..], &promise].concat()
        });
        let promises = promises.collect::<Vec<_>>().concat();
        if !promises.is_empty() {
            let list = der::asn1::OctetString::new([&length::<2>(&promises)[..], &promises].concat()).unwrap();
            body.extensions.get_or_insert_default().push(raw_extension(SCT_LIST, &list.to_der().unwrap()));
        }
        Certified { key: key.clone(), certificate: signed(body, &issuer.key) }
    }
}

/// The length of `bytes` in `N` bytes, as TLS writes it.
fn length<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
    length[4 - N..].try_into().unwrap()
}
