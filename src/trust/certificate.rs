//! Certificates as files and annotations hold them (RFC 5280, RFC 7468).

use jiff::Timestamp;
use sigstore_crypto::parse_certificate_info;
use sigstore_types::DerCertificate;
use x509_cert::{Certificate, der::Decode, ext::pkix::BasicConstraints};

/// The certificates in `text`: PEM blocks `CERTIFICATE`, at most `most` of them.
///
/// # Errors
/// When there are more, or something else.
pub(crate) fn certificates(text: &str, most: usize) -> Result<Vec<DerCertificate>, String> {
    const END: &str = "-----END CERTIFICATE-----";
    let blocks: Vec<&str> = text.split_inclusive(END).map(str::trim).filter(|block| !block.is_empty()).collect();
    if blocks.len() > most {
        return Err(format!("{} certificates, more than {most}", blocks.len()));
    }
    let read = |block: &&str| DerCertificate::from_pem(block).map_err(|why| format!("not a certificate: {why}"));
    blocks.iter().map(read).collect()
}

/// The first and the last instant at which `certificate` is valid.
///
/// # Errors
/// When it cannot be read.
pub(super) fn validity(certificate: &DerCertificate) -> Result<(Timestamp, Timestamp), String> {
    let read = parse_certificate_info(certificate).map_err(|why| format!("not a certificate: {why}"))?;
    Ok((read.not_before, read.not_after))
}

/// Whether `certificate` may issue others (RFC 5280 section 4.2.1.9). Of one at the end of a chain nobody else asks that.
///
/// # Errors
/// When it cannot be read.
pub(super) fn is_authority(certificate: &DerCertificate) -> Result<bool, String> {
    let read = || {
        let certificate = Certificate::from_der(certificate.as_bytes())?;
        certificate.tbs_certificate.get::<BasicConstraints>()
    };
    let constraints = read().map_err(|why: x509_cert::der::Error| format!("not a certificate: {why}"))?;
    Ok(constraints.is_some_and(|(_, constraints)| constraints.ca))
}
