//! `samples/keyed`: images signed and attested with a key, in every layout, and what goes wrong there.

use std::path::Path;

use super::*;

pub(super) const CASES: usize = 13;

#[tokio::test]
async fn every_image_is_decided_as_its_case_says() {
    let Some(folder) = vectors("samples") else { return };
    let said = |_: &Path, case: &Value| (String::new(), attestor(&folder, case));
    assert_eq!(samples("keyed", said).await, Some(CASES));
}

pub(super) fn attestor(samples: &Path, case: &Value) -> String {
    let purpose = match (text(case, "mode"), case["predicate"].as_str()) {
        ("verify", None) => "signature",
        ("verify-attestation", Some("slsaprovenance1")) => "https://slsa.dev/provenance/v1",
        ("verify-attestation", Some("spdxjson")) => "https://spdx.dev/Document",
        other => panic!("{other:?} is asked for by no policy"),
    };
    let key = text(case, "key").rsplit('/').next().unwrap();
    assert_eq!(key, "p256.pub");
    let annotations: Vec<String> =
        case["annotations"].as_object().into_iter().flatten().map(|(key, value)| format!("{key} = {value}")).collect();
    format!(
        "may-sign = [\"{purpose}\"]\nannotations = {{ {} }}\n{}",
        annotations.join(", "),
        p256(&samples.join("keys").join(key))
    )
}
