//! Kritis: which images the allowlist patterns of Binary Authorization match, said with a policy of pullgate's.

use std::collections::BTreeMap;

use jiff::Timestamp;
use pullgate::{image::Reference, policy::evaluate::Answer};

use super::*;

/// What Kritis itself always allows (its own server), beside the patterns of the cases.
const BUILT_IN: [&str; 2] = ["gcr.io/kritis-project/kritis-server:*", "gcr.io/kritis-project/kritis-server@sha256:*"];

/// The images and the requirement of a rule that admits what `pattern` allows, once it is signed.
///
/// Rules govern repositories, so a pattern is a repository and what is admitted of it: a tag or some of them, a digest, or
/// anything where a `*` ends the name, since that stands for what comes behind the name as well. A name alone is `latest`.
fn translated(pattern: &str) -> (String, String) {
    let canonical = |name: &str| match name.split_once('/') {
        Some((host, _)) if host.contains('.') => name.to_owned(),
        _ => format!("docker.io/library/{name}"),
    };
    let signed = "{ all = [\"signer\"] }".to_owned();
    match pattern.split_once('@') {
        Some((name, "sha256:*")) => (canonical(name), signed),
        Some((name, digest)) => (canonical(name), format!("{{ digests = [\"{digest}\"] }}")),
        None if pattern.ends_with('*') && !pattern.contains(':') => (canonical(pattern), signed),
        None if pattern.contains(':') => (canonical(pattern), signed),
        None => (canonical(&format!("{pattern}:latest")), signed),
    }
}

#[test]
fn allowlist_patterns_mean_what_they_mean_there() {
    let Some(folder) = vectors("kritis") else { return };
    let all = read_json(&folder.join("allowlist_cases.json"));
    let patterns = all["patterns"].as_array().unwrap().iter().map(|pattern| pattern.as_str().unwrap()).chain(BUILT_IN);
    let mut rules: BTreeMap<String, (Vec<String>, String)> = BTreeMap::new();
    for pattern in patterns {
        let (images, require) = translated(pattern);
        let repository = images.rsplit_once(':').map_or(images.as_str(), |(repository, _)| repository);
        // What is allowed by any tag and by any digest is allowed altogether.
        let rule = rules.entry(repository.to_owned()).or_insert_with(|| (Vec::new(), require));
        rule.0.push(images.clone());
        if rule.0.len() > 1 {
            rule.0 = vec![repository.to_owned()];
        }
    }
    let mut document = "schema = 1\n[[attestor]]\nname = \"signer\"\nmay-sign = [\"signature\"]\n".to_owned();
    for (number, (images, require)) in rules.values().enumerate() {
        document += &format!("[[rule]]\nname = \"r{number}\"\nimages = {images:?}\nrequire = {require}\n");
    }
    document += "[default]\nrequire = \"deny\"\n";
    let policy = Policy::parse("policy.toml", &document, &|_| Err("no file".to_owned()))
        .unwrap_or_else(|e| panic!("{e}\n{document}"));
    let cases = all["cases"].as_array().unwrap();
    for case in cases {
        let reference: Reference = text(case, "image").parse().unwrap();
        let digest = reference.digest.unwrap_or_else(|| Digest::of(b"image"));
        let subject =
            Subject::new(digest, Some(reference.repository.clone()), Origin::Fetched).tagged((&reference).into());
        let admitted = match policy.ask(&subject, &BTreeMap::new(), Timestamp::UNIX_EPOCH) {
            // The rule is about it, and only a signature is missing.
            Answer::NeedsEvidence(_) => true,
            Answer::Settled(decision) => decision.verdict == Verdict::Allow,
        };
        assert_eq!(admitted, case["expected"].as_bool().unwrap(), "{}: {}", text(case, "name"), text(case, "image"));
    }
    assert_eq!(cases.len(), 22);
}
