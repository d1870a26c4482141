//! The private sigstore of the tests, against a verifier that is not ours: what it makes is accepted, and what it
//! makes wrong is refused.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot be set up has failed")]

#[path = "authority/mod.rs"]
mod authority;

use authority::*;
use sigstore_trust_root::TrustedRoot;
use sigstore_types::{Bundle, DerPublicKey, Sha256Hash};
use sigstore_verify::{PublicKeyVerificationPolicy, VerificationPolicy, VerificationResult, Verifier};

const IMAGE: &str = "sha256:f52cbdd4122e65cdb162e3bf66121a5fe7d418bb9f56aef6f93ef14666bbbf3f";
const GITHUB: &str = "https://token.actions.githubusercontent.com";

fn verify(root: &str, bundle: &str, policy: &dyn sigstore_verify::Policy) -> Result<VerificationResult, String> {
    let root = TrustedRoot::from_json(root).map_err(|e| e.to_string())?;
    let bundle = Bundle::from_json(bundle).map_err(|e| e.to_string())?;
    let image = Sha256Hash::from_hex(&IMAGE["sha256:".len()..]).unwrap();
    Verifier::new(&root).and_then(|verifier| verifier.verify(image, &bundle, policy)).map_err(|e| e.to_string())
}

fn workflow(root: &str, bundle: &str) -> Result<VerificationResult, String> {
    verify(root, bundle, &VerificationPolicy::new(WORKFLOW, GITHUB))
}

#[test]
fn a_bundle_is_accepted() {
    let authority = Authority::new("acme");
    let result = workflow(&authority.trusted_root(), &authority.sign(IMAGE).json()).unwrap();
    println!("{result:?}");
}
