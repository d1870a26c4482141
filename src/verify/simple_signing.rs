//! The simple-signing payload that cosign stores under the `.sig` tag (cosign SIGNATURE_SPEC.md, "Payload").

use std::collections::BTreeMap;

use ::base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::json;

use super::{Claim, Opened, attached, base64, repository};
use crate::{
    evidence::{Attached, structure},
    image::Digest,
    trust::Purpose,
};

/// The values of `critical.type` that mean "this container image is signed". A payload of another type may have been
/// signed with the same key for another end.
const TYPES: [&str; 2] = ["cosign container image signature", "atomic container signature"];

/// What is in `critical` must be understood in full, hence no other member is allowed there.
#[derive(Deserialize)]
struct Payload {
    critical: Critical,
    #[serde(default)]
    optional: Option<BTreeMap<String, serde_json::Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Critical {
    identity: Identity,
    image: Image,
    r#type: String,
}

/// The repository that the signer had in mind; cosign signs any text here. The digest is what counts, unless the policy asks
/// for the name as well.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    #[serde(rename = "docker-reference")]
    docker_reference: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    docker_manifest_digest: Digest,
}

pub(super) fn open(payload: &[u8], signature: &str, attached: &Attached) -> Result<Opened, String> {
    structure::fits(payload)?;
    let message = payload.to_vec();
    // OpenSSL writes it in several lines.
    let (signed, signature) = (message.clone(), base64(signature.replace(['\r', '\n'], "").trim())?);
    let content = json!({ "signature": STANDARD.encode(&signature) });
    Ok(Opened {
        message,
        signature,
        read: Box::new(move || read(&signed)),
        is_payload: true,
        judged: attached::bundle(attached, ("messageSignature", content)),
        by_key: true,
    })
}

fn read(payload: &[u8]) -> Result<Claim, String> {
    let payload: Payload = serde_json::from_slice(payload).map_err(|e| format!("not a simple-signing payload: {e}"))?;
    if !TYPES.contains(&payload.critical.r#type.as_str()) {
        return Err("the payload's critical.type is not that of an image signature".into());
    }
    let text = |(key, value): (String, serde_json::Value)| match value {
        serde_json::Value::String(value) => Some((key, value)),
        _ => None,
    };
    Ok(Claim {
        repository: repository(&payload.critical.identity.docker_reference),
        digests: vec![payload.critical.image.docker_manifest_digest],
        purpose: Purpose::Signature,
        annotations: payload.optional.unwrap_or_default().into_iter().filter_map(text).collect(),
    })
}
