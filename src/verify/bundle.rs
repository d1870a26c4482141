//! Sigstore bundles (protobuf-specs, `sigstore_bundle.proto`) and bare DSSE envelopes (DSSE v1.0.0).

use serde_json::Value;
use sigstore_types::{Bundle, DsseEnvelope, SignatureContent, bundle::VerificationMaterialContent};

use super::{Judged, Opened, attached, statement};
use crate::{
    evidence::{Attached, structure},
    image::Digest,
};

/// The payload type of an in-toto statement (in-toto attestation framework v1, "Envelope").
const IN_TOTO: &str = "application/vnd.in-toto+json";

/// A bundle about an image. A message signature cannot name one: cosign refuses it for images, too.
pub(super) fn open(json: &[u8]) -> Result<Opened, String> {
    structure::fits(json)?;
    let text = std::str::from_utf8(json).map_err(|_| "not UTF-8".to_owned())?;
    let bundle = Bundle::from_json(text).map_err(|e| format!("not a sigstore bundle: {e}"))?;
    let SignatureContent::DsseEnvelope(envelope) = &bundle.content else {
        return Err("the bundle has no DSSE envelope".into());
    };
    // Beside a certificate a key is a question of whose it is.
    let by_key = matches!(bundle.verification_material.content, VerificationMaterialContent::PublicKey(_));
    Ok(Opened { by_key, ..opened(envelope.clone(), Ok(Some(Judged::Bundle(Box::new(bundle)))))? })
}

/// A DSSE envelope by itself, as the `.att` tag holds it, with what stands beside it.
pub(super) fn open_envelope(json: &[u8], attached: &Attached) -> Result<Opened, String> {
    structure::fits(json)?;
    let value: Value = serde_json::from_slice(json).map_err(|e| format!("not a DSSE envelope: {e}"))?;
    let envelope = serde_json::from_slice(json).map_err(|e| format!("not a DSSE envelope: {e}"))?;
    let judged = match attached::logged(attached, || Digest::of(json)) {
        Ok(Some(logged)) => Ok(Some(Judged::Logged(logged))),
        Ok(None) => attached::bundle(attached, ("dsseEnvelope", value)),
        Err(why) => Err(why),
    };
    opened(envelope, judged)
}

fn opened(envelope: DsseEnvelope, judged: Result<Option<Judged>, String>) -> Result<Opened, String> {
    if envelope.payload_type != IN_TOTO {
        return Err(format!("the payload type is not {IN_TOTO}"));
    }
    // The verifier of a trust root reads it before anything has verified.
    structure::fits(envelope.payload.as_bytes())?;
    let payload = envelope.payload.as_bytes().to_vec();
    Ok(Opened {
        message: envelope.pae(),
        signature: envelope.signature.sig.as_bytes().to_vec(),
        read: Box::new(move || statement::read(&payload)),
        is_payload: false,
        judged,
        by_key: true,
    })
}
