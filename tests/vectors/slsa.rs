//! slsa-verifier: real images with provenance of a GitHub workflow, in cosign's older layout.

use std::path::Path;

use pullgate::evidence::layout::OciLayout;
use sigstore_trust_root::SIGSTORE_STAGING_TRUSTED_ROOT;

use super::*;

const CASES: usize = 15;

#[tokio::test]
async fn every_provenance_counts_or_not_as_its_case_says() {
    let Some(folder) = vectors("slsa-verifier") else { return };
    let staging = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(staging.path(), SIGSTORE_STAGING_TRUSTED_ROOT).unwrap();
    let mut run = 0;
    for case in read_json(&folder.join("cases_gha_container.json")).as_array().unwrap() {
        let server = HostileRegistry::start().await;
        let image: Digest = text(case, "digest").parse().unwrap();
        load(&server, &folder.join(text(case, "layout")), image);
        let root = match text(case, "trusted_root").rsplit('/').next() {
            Some("trusted_root_staging.json") => staging.path().to_owned(),
            _ => folder.join("..").join(text(case, "trusted_root")),
        };
        let predicate = match text(case, "predicate") {
            "slsaprovenance" => "https://slsa.dev/provenance/v0.2",
            "spdxjson" => "https://spdx.dev/Document",
            other => panic!("{other}"),
        };
        let signer = identity(text(case, "identity"), text(case, "issuer"));
        let attestor = format!("may-sign = [\"{predicate}\"]\n{signer}");
        let roots = trust_root(&root, "");
        let saved = Sources::new(Kept::default()).with_layout(OciLayout::new(&folder.join(text(case, "layout"))));
        let name = server.place(REPOSITORY).repository;
        for decision in [
            decide_under(&server, image, &roots, &attestor).await,
            decide_from(saved, "", name, image, (&roots, &attestor)).await,
        ] {
            assert_eq!(decision.verdict, expected(case), "{}: {decision:?}", text(case, "id"));
        }
        run += 1;
    }
    assert_eq!(run, CASES);
}

/// Puts what `cosign save` wrote into the registry: the attestations are not under a tag there.
fn load(server: &HostileRegistry, layout: &Path, image: Digest) {
    let mut content = server.content();
    content.load_layout(layout, REPOSITORY);
    for descriptor in read_json(&layout.join("index.json"))["manifests"].as_array().unwrap() {
        if text(&descriptor["annotations"], "kind").ends_with("/atts") {
            let tag = format!("sha256-{}.att", image.hex());
            content.tag(REPOSITORY, &tag, text(descriptor, "digest").parse().unwrap());
        }
    }
}
