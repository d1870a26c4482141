//! The files that the package installs: what they say as they are, and with every example in them switched on.

use std::path::Path;

use pullgate::{
    config::{Config, NodeMode},
    policy::{Policy, Requirement},
};

const CONFIG: &str = include_str!("../config/config.toml");
const POLICY: &str = include_str!("../config/policy.toml");

/// A P-256 key of nobody's.
const KEY: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE1YLg0pB29XatN013ccNlZGrIQ5Ix
RxkdNR6wnZaZ9/TO8nwP2oXeRLwONwsL3DiqGfhY60mPqGZPJq0WT+H8LQ==
-----END PUBLIC KEY-----
";

/// Prose stands after `# `, an example right after `#`.
fn with_examples(text: &str) -> String {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(example) if !example.is_empty() && !example.starts_with(' ') => format!("{example}\n"),
        _ => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

fn config(text: &str) -> Config {
    Config::parse(Path::new("/etc/pullgate/config.toml"), text).unwrap()
}

fn policy(text: &str) -> Policy {
    Policy::parse("policy.toml", text, &|_| Ok(KEY.to_owned())).unwrap()
}

#[test]
fn as_installed_nothing_is_admitted_by_the_policy_and_nothing_refused_by_the_node() {
    let config = config(CONFIG);
    assert_eq!(config.mode, NodeMode::Audit);
    assert!(!config.insecure_skip_layer_rehash && !config.insecure_continue_without_audit);
    assert_eq!(config.policy, Path::new("/etc/pullgate/policy.toml"));
    let policy = policy(POLICY);
    assert_eq!((policy.rules.len(), policy.attestors.len(), policy.exempt.len()), (0, 0, 0));
    assert!(matches!(policy.default.require, Requirement::Deny));
}

#[test]
fn the_examples_hold_and_loosen_nothing() {
    let config = config(&with_examples(CONFIG));
    assert_eq!(config.labels["env"], "prod");
    assert_eq!(config.registries.configured.len(), 1);
    assert!(!config.insecure_skip_layer_rehash && !config.insecure_continue_without_audit);
    assert!(config.registries.plain_http.is_empty() && config.registries.skip_verify.is_empty());
    let policy = policy(&with_examples(POLICY));
    assert_eq!((policy.rules.len(), policy.attestors.len(), policy.exempt.len()), (2, 1, 1));
    assert!(matches!(policy.default.require, Requirement::Deny));
}

/// What the packages put where, and how: source, destination, mode.
#[test]
fn both_packages_have_both_programs() {
    let manifest: toml::Table = include_str!("../Cargo.toml").parse().unwrap();
    let metadata = &manifest["package"]["metadata"];
    let of_deb = |asset: &toml::Value| {
        let [from, to, mode] = [0, 1, 2].map(|at| asset[at].as_str().unwrap().to_owned());
        let name = from.rsplit('/').next().unwrap();
        let to = if to.ends_with('/') { format!("/{to}{name}") } else { format!("/{to}") };
        (from, to, mode)
    };
    let of_rpm =
        |asset: &toml::Value| ["source", "dest", "mode"].map(|key| asset[key].as_str().unwrap().to_owned()).into();
    let deb: Vec<_> = metadata["deb"]["assets"].as_array().unwrap().iter().map(of_deb).collect();
    let rpm: Vec<_> = metadata["generate-rpm"]["assets"].as_array().unwrap().iter().map(of_rpm).collect();
    for (program, place) in [
        ("target/release/pullgate", "/usr/bin/pullgate"),
        ("target/release/pullgate-verifier", "/usr/libexec/pullgate/verifiers/pullgate-verifier"),
    ] {
        let expected = (program.to_owned(), place.to_owned(), "755".to_owned());
        assert!(deb.contains(&expected) && rpm.contains(&expected), "{program}");
    }
}

/// containerd runs everything in that directory, and anything that is no program there blocks every pull.
#[test]
fn nothing_else_lies_beside_the_verifier() {
    let packaged = include_str!("../Cargo.toml").lines().filter(|line| line.contains("pullgate/verifiers/"));
    assert_eq!(packaged.count(), 2);
}
