//! Certificates of signers, where the sigstore verifier cannot be asked about them (see [`super::intoto`]): the chain to an
//! authority of a trust root at the time of signing, and the promise of a certificate transparency log (RFC 6962).

use jiff::Timestamp;
use rustls_pki_types::{CertificateDer, UnixTime};
use sigstore_crypto::{CertificateInfo, SigningScheme, WEBPKI_VERIFICATION_ALGS, parse_certificate_info};
use sigstore_types::{DerCertificate, Sha256Hash, SignatureBytes};
use webpki::{EndEntityCert, KeyUsage};
use x509_cert::{
    Certificate,
    der::{
        Decode, Encode,
        asn1::{Any, ObjectIdentifier},
        oid::AssociatedOid,
    },
    ext::pkix::{HashAlgorithm, SignatureAlgorithm, SignedCertificateTimestamp, SignedCertificateTimestampList},
};

use crate::{image::Digest, trust::TrustRoot};

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
    let authorities: Vec<CertificateDer<'_>> =
        root.authorities_at(time).map(|der| CertificateDer::from(der.as_bytes())).collect();
    let anchors: Vec<_> = authorities.iter().filter_map(|der| webpki::anchor_from_trusted_cert(der).ok()).collect();
    let intermediates: Vec<_> = intermediates.iter().map(|der| CertificateDer::from(der.as_bytes())).collect();
    let seconds = u64::try_from(time.as_second()).map_err(|_| "it was signed before there were certificates")?;
    let der = CertificateDer::from(leaf.as_bytes());
    let certificate = EndEntityCert::try_from(&der).map_err(|why| format!("its certificate cannot be read: {why}"))?;
    let path = certificate.verify_for_usage(
        WEBPKI_VERIFICATION_ALGS,
        &anchors,
        &intermediates,
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)),
        KeyUsage::required(CODE_SIGNING.as_bytes()),
        None,
        None,
    );
    let path = path.map_err(|why| format!("its certificate was not valid: {why}"))?;
    if !root.demands.insecure_ignore_sct {
        let issuer = match path.intermediate_certificates().next() {
            Some(issuer) => issuer.subject_public_key_info().as_ref().to_vec(),
            // Of an anchor only the content of the structure is kept.
            None => Any::new(x509_cert::der::Tag::Sequence, path.anchor().subject_public_key_info.as_ref())
                .and_then(|any| any.to_der())
                .map_err(|why| why.to_string())?,
        };
        is_promised(root, leaf, &Digest::of(&issuer))?;
    }
    Ok(info)
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
    let promises = promises.iter().filter_map(|promise| promise.parse_timestamp().ok());
    let is_kept = |promise: SignedCertificateTimestamp| is_signed(root, &promise, issuer, &before).unwrap_or(false);
    match promises.map(is_kept).any(|kept| kept) {
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
    Some(key.verify(&signed.concat(), &SignatureBytes::from_bytes(promise.signature.signature.as_slice())).is_ok())
}
