//! sigstore-conformance: bundles to accept and to refuse, through the example client.

#[path = "../conformance/client.rs"]
mod client;

use std::path::Path;

use super::*;

const CASES: usize = 70;
const SUBJECT: &str = "https://github.com/sigstore-conformance/extremely-dangerous-public-oidc-beacon/.github/workflows/\
                       extremely-dangerous-oidc-beacon.yml@refs/heads/main";
const ISSUER: &str = "https://token.actions.githubusercontent.com";

#[test]
fn every_bundle_counts_or_not_as_its_case_says_by_file_and_by_digest() {
    let Some(folder) = vectors("sigstore-conformance") else { return };
    let bundles = folder.join("test/assets/bundle-verify");
    let usual_root = folder.join("../root-signing/targets/trusted_root.json");
    let mut run = 0;
    for case in read_json(&folder.join("cases.json")).as_array().unwrap() {
        let name = text(case, "case");
        let expected = !name.ends_with("_fail");
        assert_eq!(text(case, "expected") == "PASS", expected, "{case}");
        let folder = bundles.join(name);
        let artifact = Some(folder.join("artifact")).filter(|own| own.exists()).unwrap_or(bundles.join("a.txt"));
        let digest = Digest::of(&std::fs::read(&artifact).unwrap()).to_string();
        for artifact in [shown(&artifact), digest] {
            let told = client::run(call(&folder, &usual_root, artifact.clone()).into_iter());
            assert_eq!(told.is_ok(), expected, "{name} by {artifact}: {told:?}");
        }
        run += 1;
    }
    assert_eq!(run, CASES);
}

fn call(folder: &Path, usual_root: &Path, artifact: String) -> Vec<String> {
    let said = |file: &str, usual: &str| {
        let own = std::fs::read_to_string(folder.join(file));
        own.map_or_else(|_| usual.to_owned(), |own| own.trim().to_owned())
    };
    let root = Some(folder.join("trusted_root.json")).filter(|own| own.exists()).unwrap_or(usual_root.to_owned());
    let key = folder.join("key.pub");
    let signer = match key.exists() {
        true => vec!["--key".to_owned(), shown(&key)],
        false => vec![
            "--certificate-identity".to_owned(),
            said("identity", SUBJECT),
            "--certificate-oidc-issuer".to_owned(),
            said("issuer", ISSUER),
        ],
    };
    let files =
        ["--bundle".to_owned(), shown(&folder.join("bundle.sigstore.json")), "--trusted-root".to_owned(), shown(&root)];
    [vec!["verify-bundle".to_owned()], files.to_vec(), signer, vec![artifact]].concat()
}

fn shown(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}
