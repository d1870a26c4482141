//! Sigstore bundles (protobuf-specs, `sigstore_bundle.proto`) and bare DSSE envelopes (DSSE v1.0.0).

use sigstore_types::{Bundle, DsseEnvelope, SignatureContent, bundle::VerificationMaterialContent};

use super::{Signed, statement};

/// The payload type of an in-toto statement (in-toto attestation framework v1, "Envelope").
const IN_TOTO: &str = "application/vnd.in-toto+json";

/// A bundle signed with a key. What a certificate signed is nobody's here, and a message signature cannot name an
/// image: cosign refuses one for images, too.
pub(super) fn open(json: &[u8]) -> Result<Signed, String> {
    let text = std::str::from_utf8(json).map_err(|_| "not UTF-8".to_owned())?;
    let bundle = Bundle::from_json(text).map_err(|e| format!("not a sigstore bundle: {e}"))?;
    if !matches!(bundle.verification_material.content, VerificationMaterialContent::PublicKey(_)) {
        return Err("signed with a certificate: keyless evidence does not count here".into());
    }
    match bundle.content {
        SignatureContent::DsseEnvelope(envelope) => signed(envelope),
        _ => Err("the bundle has no DSSE envelope".into()),
    }
}

/// What a bundle says to be signed with, and the bundle as if that were so.
pub(super) fn open_as_offered(json: &[u8]) -> Option<(VerificationMaterialContent, Signed)> {
    let bundle = Bundle::from_json(std::str::from_utf8(json).ok()?).ok()?;
    match bundle.content {
        SignatureContent::DsseEnvelope(envelope) => {
            Some((bundle.verification_material.content, signed(envelope).ok()?))
        }
        _ => None,
    }
}

/// A DSSE envelope by itself, as the `.att` tag holds it.
pub(super) fn open_envelope(json: &[u8]) -> Result<Signed, String> {
    signed(serde_json::from_slice(json).map_err(|e| format!("not a DSSE envelope: {e}"))?)
}

fn signed(envelope: DsseEnvelope) -> Result<Signed, String> {
    if envelope.payload_type != IN_TOTO {
        return Err(format!("the payload type is not {IN_TOTO}"));
    }
    let payload = envelope.payload.as_bytes().to_vec();
    Ok(Signed {
        message: envelope.pae(),
        signature: envelope.signature.sig.as_bytes().to_vec(),
        read: Box::new(move || statement::read(&payload)),
    })
}
