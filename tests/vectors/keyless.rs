//! `samples/keyless`: images signed under a private root, and what goes wrong there.

use super::*;

const CASES: usize = 6;

#[tokio::test]
async fn every_image_is_decided_as_its_case_says() {
    let Some(samples) = vectors("samples") else { return };
    let mut run = 0;
    for case in std::fs::read_dir(samples.join("keyless")).unwrap() {
        let folder = case.unwrap().path();
        let case = read_json(&folder.join("case.json"));
        for referrers_api in [false, true] {
            let server = HostileRegistry::start().await;
            server.content().load_layout(&folder.join("layout"), REPOSITORY);
            server.content().referrers_api = referrers_api;
            let image = text(&case, "image_digest").parse().unwrap();
            let signer = identity(text(&case["identity"], "id"), text(&case["issuer"], "is"));
            let roots = trust_root(&folder.join("trusted_root.json"), "");
            let decision = decide_under(&server, image, &roots, &format!("may-sign = [\"signature\"]\n{signer}")).await;
            assert_eq!(decision.verdict, expected(&case), "{}: {decision:?}", text(&case, "id"));
        }
        run += 1;
    }
    assert_eq!(run, CASES);
}
