//! Certificates of signers, where the sigstore verifier cannot be asked about them: for [`super::intoto`] the chain to an
//! authority of a trust root at the time of signing, and the promise of a certificate transparency log (RFC 6962); the chain
//! to an authority without logs.

use jiff::Timestamp;
use rustls_pki_types::{CertificateDer, UnixTime};
use sigstore_crypto::{CertificateInfo, SigningScheme, WEBPKI_VERIFICATION_ALGS, parse_certificate_info};
use sigstore_types::{DerCertificate, DerPublicKey, Sha256Hash, SignatureBytes};
use webpki::{EndEntityCert, KeyUsage};
use x509_cert::{
    Certificate,
    der::{
        Decode, Encode, Tag,
        asn1::{Any, ObjectIdentifier},
        oid::AssociatedOid,
    },
    ext::pkix::{
        HashAlgorithm, SignatureAlgorithm, SignedCertificateTimestamp, SignedCertificateTimestampList, SubjectAltName,
        name::GeneralName,
    },
};

use crate::{
    image::Digest,
    limits,
    trust::{Authority, Names, Signer, TrustRoot},
};

/// `id-kp-codeSigning` (RFC 5280 section 4.2.1.12).
const CODE_SIGNING: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.3");

/// What the first of `certificates` says, which was valid at `time` under `root`; the others lead to its authority.
///
/// # Errors
/// The first thing that does not hold.
pub(super) fn valid_at(
    root: &TrustRoot,
    certificates: &[DerCertificate],
    time: Timestamp,
) -> Result<CertificateInfo, String> {
    let (leaf, intermediates) = certificates.split_first().ok_or("there is no certificate")?;
    let info = parse_certificate_info(leaf).map_err(|why| why.to_string())?;
    let chain = Chain { anchors: root.authorities_at(time).collect(), intermediates: intermediates.iter().collect() };
    let issuer = chain.issuer(leaf, time, KeyUsage::required(CODE_SIGNING.as_bytes()))?;
    if !root.demands.insecure_ignore_sct {
        is_promised(root, leaf, &issuer)?;
    }
    Ok(info)
}

/// Whom an authority vouches for.
pub(super) struct Meant {
    pub(super) signer: Signer,
    /// What tells it apart from other signers.
    pub(super) id: Digest,
    pub(super) key: DerPublicKey,
    /// The last instant at which its certificate is valid.
    pub(super) ends: Timestamp,
}

/// Whom `authority` vouches for by the first of `certificates` at `time`, if that is meant.
///
/// # Errors
/// The first thing that does not hold.
pub(super) fn of_authority(
    authority: &Authority,
    certificates: &[DerCertificate],
    time: Timestamp,
) -> Result<Meant, String> {
    let (leaf, sent) = certificates.split_first().ok_or("there is no certificate")?;
    if certificates.len() > limits::BUNDLE_CERTIFICATES {
        return Err(format!("{} certificates, more than {}", certificates.len(), limits::BUNDLE_CERTIFICATES));
    }
    let info = parse_certificate_info(leaf).map_err(|why| why.to_string())?;
    let intermediates = authority.leading().iter().chain(sent).collect();
    let chain = Chain { anchors: authority.anchors_at(time).collect(), intermediates };
    chain.issuer(leaf, time, KeyUsage::required_if_present(CODE_SIGNING.as_bytes()))?;
    let names = names(leaf)?;
    let signer = authority.meant(&names).ok_or("its certificate names somebody else")?;
    Ok(Meant { signer, id: names.id(&info.public_key), key: info.public_key, ends: info.not_after })
}

/// Whom `certificate` names (RFC 5280 section 4.2.1.6).
fn names(certificate: &DerCertificate) -> Result<Names, String> {
    let read = || Certificate::from_der(certificate.as_bytes())?.tbs_certificate.get::<SubjectAltName>();
    let read = read().map_err(|why| format!("its certificate cannot be read: {why}"))?;
    let mut names = Names::default();
    for name in read.map(|(_, names)| names.0).unwrap_or_default() {
        match name {
            GeneralName::Rfc822Name(email) => names.emails.push(email.to_string()),
            GeneralName::DnsName(host) => names.hosts.push(host.to_string()),
            _ => {}
        }
    }
    Ok(names)
}

/// What may lead from a certificate to an authority.
struct Chain<'a> {
    anchors: Vec<&'a DerCertificate>,
    intermediates: Vec<&'a DerCertificate>,
}

impl Chain<'_> {
    /// SHA-256 of the key that issued `leaf`, from which a chain of certificates leads to an anchor, all valid at `time` and
    /// for `usage`.
    fn issuer(&self, leaf: &DerCertificate, time: Timestamp, usage: KeyUsage) -> Result<Digest, String> {
        let der = |certificate: &&DerCertificate| CertificateDer::from(certificate.as_bytes().to_vec());
        let anchors: Vec<CertificateDer<'_>> = self.anchors.iter().map(der).collect();
        let anchors: Vec<_> = anchors.iter().filter_map(|der| webpki::anchor_from_trusted_cert(der).ok()).collect();
        let intermediates: Vec<CertificateDer<'_>> = self.intermediates.iter().map(der).collect();
        let seconds = u64::try_from(time.as_second()).map_err(|_| "it was signed before there were certificates")?;
        let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        let leaf = der(&leaf);
        let leaf = EndEntityCert::try_from(&leaf).map_err(|why| format!("its certificate cannot be read: {why}"))?;
        let path = leaf
            .verify_for_usage(WEBPKI_VERIFICATION_ALGS, &anchors, &intermediates, time, usage, None, None)
            .map_err(|why| format!("its certificate was not valid: {why}"))?;
        match path.intermediate_certificates().next() {
            Some(issuer) => Ok(Digest::of(issuer.subject_public_key_info().as_ref())),
            // Of an anchor only the content of the structure is kept.
            None => Any::new(Tag::Sequence, path.anchor().subject_public_key_info.as_ref())
                .and_then(|any| any.to_der())
                .map(|key| Digest::of(&key))
                .map_err(|why| why.to_string()),
        }
    }
}

/// Whether a log of `root` promised to publish the certificate `leaf`, which the key with the hash `issuer` signed.
fn is_promised(root: &TrustRoot, leaf: &DerCertificate, issuer: &Digest) -> Result<(), String> {
    let unreadable = |why: &dyn std::fmt::Display| format!("its certificate cannot be read: {why}");
    let mut certificate = Certificate::from_der(leaf.as_bytes()).map_err(|why| unreadable(&why))?;
    let promises = certificate.tbs_certificate.get::<SignedCertificateTimestampList>();
    let (_, promises) = promises.map_err(|why| unreadable(&why))?.ok_or("no transparency log has its certificate")?;
    let promises = promises.parse_timestamps().map_err(|why| format!("{why:?}"))?;
    // What was promised is the certificate before the promise was put into it.
    if let Some(extensions) = &mut certificate.tbs_certificate.extensions {
        extensions.retain(|extension| extension.extn_id != SignedCertificateTimestampList::OID);
    }
    let before = certificate.tbs_certificate.to_der().map_err(|why| unreadable(&why))?;
    let mut promises = promises.iter().filter_map(|promise| promise.parse_timestamp().ok());
    let is_kept = |promise: SignedCertificateTimestamp| is_signed(root, &promise, issuer, &before).unwrap_or(false);
    match promises.any(is_kept) {
        true => Ok(()),
        false => Err("no certificate transparency log of the trust root has its certificate".to_owned()),
    }
}

/// Whether a log of `root` signed `promise` by ECDSA over P-256, as the logs of sigstore do, about a certificate that was `before` (RFC 6962 section 3.2).
fn is_signed(root: &TrustRoot, promise: &SignedCertificateTimestamp, issuer: &Digest, before: &[u8]) -> Option<bool> {
    const VERSION_1: u8 = 0;
    const CERTIFICATE_TIMESTAMP: u8 = 0;
    const PRECERTIFICATE: u16 = 1;
    let algorithm = &promise.signature.algorithm;
    if (&algorithm.hash, &algorithm.signature) != (&HashAlgorithm::Sha256, &SignatureAlgorithm::Ecdsa) {
        return None;
    }
    let at = Timestamp::from_millisecond(i64::try_from(promise.timestamp).ok()?).ok()?;
    let extensions = promise.extensions.as_slice();
    let length = u32::try_from(before.len()).ok().filter(|length| *length < 1 << 24)?.to_be_bytes();
    let signed = [
        &[VERSION_1, CERTIFICATE_TIMESTAMP][..],
        &promise.timestamp.to_be_bytes(),
        &PRECERTIFICATE.to_be_bytes(),
        issuer.as_bytes(),
        &length[1..],
        before,
        &u16::try_from(extensions.len()).ok()?.to_be_bytes(),
        extensions,
    ];
    let keys = root.certificate_log_keys(SigningScheme::EcdsaP256Sha256)?;
    let key = keys.key_at(&Sha256Hash::new(promise.log_id.key_id), at)?;
    Some(key.verify(signed.concat(), &SignatureBytes::from_bytes(promise.signature.signature.as_slice())).is_ok())
}
