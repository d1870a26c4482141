//! The runtime handlers of containerd's CRI, one of which starts each container of a pod. Pure.

#![deny(clippy::disallowed_methods)]

use std::path::PathBuf;

use toml::{Table, Value};

use super::dump::Dump;

/// The CRI plugin up to 1.7, and in files of version 2.
pub const CRI_1: &str = "io.containerd.grpc.v1.cri";
/// The CRI plugin's runtimes in files of version 3.
pub const CRI_2: &str = "io.containerd.cri.v1.runtime";
/// The key that names a file with the base of every container's OCI specification.
pub const BASE_SPEC: &str = "base_runtime_spec";
/// Shims of runtimes that start containers behind a wall of their own, and are not known to run hooks in front of it.
const NO_HOST_HOOKS: [&str; 9] =
    ["kata", "runsc", "aws.firecracker", "wasm", "spin", "slight", "wws", "lunatic", "runhcs"];

/// A runtime handler, as it is configured.
#[derive(Clone, Debug, PartialEq)]
pub struct Handler {
    /// Its name: what a pod's RuntimeClass names.
    pub name: String,
    /// Where it is configured, below `plugins`.
    pub section: Vec<String>,
    /// All that is configured for it.
    pub keys: Table,
    /// The base spec of its containers.
    pub base_spec: Option<PathBuf>,
}

impl Handler {
    fn text(&self, key: &str) -> &str {
        self.keys.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    /// What kind of runtime it is.
    pub fn runtime(&self) -> &str {
        self.text("runtime_type")
    }

    /// Whether its containers are started where a hook of this node can refuse them. A runtime that nobody knows counts as
    /// one of those; whether it really asks is for the self-test to show.
    pub fn runs_hooks(&self) -> bool {
        let shim = |text: &str| {
            let name = text.rsplit('/').next().unwrap_or_default();
            let name = name.strip_prefix("containerd-shim-").or_else(|| name.strip_prefix("io.containerd."));
            name.is_some_and(|name| NO_HOST_HOOKS.iter().any(|known| name.starts_with(known)))
        };
        !shim(self.runtime()) && !shim(self.text("runtime_path"))
    }
}

impl Dump {
    /// Every handler that a pod can name, and what 1.7 still knows as the default runtime and the one for workloads that
    /// are not trusted, in the order of their names.
    pub fn runtime_handlers(&self) -> Vec<Handler> {
        let mut found = Vec::new();
        for plugin in [CRI_1, CRI_2] {
            let below = |keys: &[&str]| self.at(&[&["plugins", plugin, "containerd"], keys].concat())?.as_table();
            let mut add = |name: &str, keys: &[&str], table: &Table| {
                // Without a type nothing can be started: a section that somebody left behind, or never filled.
                if table.get("runtime_type").and_then(Value::as_str).is_none_or(str::is_empty) {
                    return;
                }
                let section = [plugin, "containerd"].into_iter().chain(keys.iter().copied()).map(str::to_owned);
                let base_spec = table.get(BASE_SPEC).and_then(Value::as_str).filter(|path| !path.is_empty());
                found.push(Handler {
                    name: name.to_owned(),
                    section: section.collect(),
                    keys: table.clone(),
                    base_spec: base_spec.map(PathBuf::from),
                });
            };
            for (name, keys) in below(&["runtimes"]).into_iter().flatten() {
                if let Some(keys) = keys.as_table() {
                    add(name, &["runtimes", name], keys);
                }
            }
            for (key, name) in [("default_runtime", "default"), ("untrusted_workload_runtime", "untrusted")] {
                if let Some(keys) = below(&[key]) {
                    add(name, &[key], keys);
                }
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_handler_is_found_with_its_base_spec() {
        let old = r#"
[plugins.'io.containerd.grpc.v1.cri'.containerd]
default_runtime_name = 'runc'
[plugins.'io.containerd.grpc.v1.cri'.containerd.default_runtime]
runtime_type = ''
[plugins.'io.containerd.grpc.v1.cri'.containerd.untrusted_workload_runtime]
runtime_type = 'io.containerd.kata.v2'
[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.runc]
runtime_type = 'io.containerd.runc.v2'
base_runtime_spec = ''
[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.gpu]
runtime_type = 'io.containerd.runc.v2'
base_runtime_spec = '/etc/gpu.json'
[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.gone]
base_runtime_spec = '/etc/gone.json'
"#;
        let told = |text: &str| -> Vec<String> {
            let handlers = Dump::parse(text).unwrap().runtime_handlers();
            let line = |handler: &Handler| {
                format!(
                    "{} {} {:?} {}",
                    handler.name,
                    handler.section[2..].join("."),
                    handler.base_spec,
                    handler.runs_hooks()
                )
            };
            handlers.iter().map(line).collect()
        };
        let expected = [
            "gpu runtimes.gpu Some(\"/etc/gpu.json\") true",
            "runc runtimes.runc None true",
            "untrusted untrusted_workload_runtime None false",
        ];
        assert_eq!(told(old), expected);
        assert_eq!(told(&old.replace("grpc.v1.cri", "cri.v1.runtime")), expected);
        assert_eq!(told(""), Vec::<String>::new());
        assert_eq!(told("[plugins.'io.containerd.grpc.v1.cri'.containerd]\nruntimes = 3\n"), Vec::<String>::new());
    }

    #[test]
    fn runtimes_behind_a_wall_are_known_by_their_shim() {
        let runs = |kind: &str, path: &str| {
            let keys = format!("runtime_type = '{kind}'\nruntime_path = '{path}'\n").parse().unwrap();
            Handler { name: "x".into(), section: Vec::new(), keys, base_spec: None }.runs_hooks()
        };
        for kind in ["io.containerd.runc.v2", "io.containerd.crun.v1", "io.containerd.runc.v1", "", "own"] {
            assert!(runs(kind, ""), "{kind}");
        }
        for kind in [
            "io.containerd.kata.v2",
            "io.containerd.kata-qemu.v2",
            "io.containerd.runsc.v1",
            "io.containerd.wasmtime.v1",
            "/opt/kata/bin/containerd-shim-kata-v2",
        ] {
            assert!(!runs(kind, ""), "{kind}");
        }
        assert!(!runs("io.containerd.runc.v2", "/usr/bin/containerd-shim-runsc-v1"));
    }
}
