//! In-toto statements (in-toto attestation framework, Statement v0.1 and v1).

use std::collections::BTreeMap;

use sigstore_types::Statement;

use super::Claim;
use crate::{
    image::Digest,
    trust::{COSIGN_SIGN, Purpose},
};

const TYPES: [&str; 2] = ["https://in-toto.io/Statement/v0.1", "https://in-toto.io/Statement/v1"];

/// What a verified statement claims: each subject's digest, and the purpose by its predicate type.
///
/// A statement says "signed" only with cosign's own predicate type: a provenance attestation is not a signature.
pub(super) fn read(payload: &[u8]) -> Result<Claim, String> {
    let statement: Statement = serde_json::from_slice(payload).map_err(|e| format!("not an in-toto statement: {e}"))?;
    if !TYPES.contains(&statement.type_.as_str()) {
        return Err("the statement's _type is not v0.1 or v1".into());
    }
    let sha256 = |subject: &sigstore_types::Subject| {
        subject.digest.sha256.as_ref().map(|hash| Digest::from_bytes(*hash.as_bytes()))
    };
    Ok(Claim {
        digests: statement.subject.iter().filter_map(sha256).collect(),
        purpose: match statement.predicate_type.as_str() {
            COSIGN_SIGN => Purpose::Signature,
            uri => Purpose::Predicate(uri.to_owned()),
        },
        annotations: BTreeMap::new(),
        repository: None,
    })
}
