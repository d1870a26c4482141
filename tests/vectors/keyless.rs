//! `samples/keyless`: images signed under a private root, and what goes wrong there.

use super::*;

const CASES: usize = 6;

#[tokio::test]
async fn every_image_is_decided_as_its_case_says() {
    let said = |folder: &Path, case: &Value| {
        let signer = identity(text(&case["identity"], "id"), text(&case["issuer"], "is"));
        let roots = trust_root(&folder.join("trusted_root.json"), "");
        (roots, format!("may-sign = [\"signature\"]\n{signer}"))
    };
    let run = samples("keyless", said).await;
    assert!(run.is_none_or(|run| run == CASES), "{run:?}");
}
