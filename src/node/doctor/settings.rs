//! What the checks read of containerd's configuration in force. Pure.

#![deny(clippy::disallowed_methods)]

use std::path::PathBuf;

use toml::{Table, Value};

use super::super::dump::{Dump, VERIFIERS};

/// CRI's sections for runtimes: since 2.0, and before.
const RUNTIMES: [&[&str]; 2] = [
    &["plugins", "io.containerd.cri.v1.runtime", "containerd", "runtimes"],
    &["plugins", "io.containerd.grpc.v1.cri", "containerd", "runtimes"],
];

/// A runtime handler of CRI: what a pod's RuntimeClass chooses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Handler {
    /// Its name.
    pub(super) name: String,
    /// What runs it, `io.containerd.runc.v2` for example.
    pub(super) runtime: String,
    /// The program under that, where another than usual is named.
    pub(super) program: Option<String>,
    /// Its base spec, where one is named.
    pub(super) base_spec: Option<PathBuf>,
}

impl Dump {
    pub(super) fn disabled_plugins(&self) -> Vec<String> {
        let list = self.at(&["disabled_plugins"]).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned)).collect()
    }

    /// How long containerd waits for a verifier, as Go writes durations.
    pub(super) fn verifier_timeout(&self) -> Option<String> {
        self.at(&["plugins", VERIFIERS, "per_verifier_timeout"])?.as_str().map(str::to_owned)
    }

    /// The type and the address of a proxy.
    pub(super) fn proxy(&self, name: &str) -> Option<(String, String)> {
        let proxy = self.at(&["proxy_plugins", name])?;
        let text = |key: &str| proxy.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        Some((text("type"), text("address")))
    }

    /// Snapshotters of other programs, each with whether it is told what image a layer is of before it is fetched.
    pub(super) fn proxy_snapshotters(&self) -> Vec<(String, bool)> {
        let proxies = self.at(&["proxy_plugins"]).and_then(Value::as_table);
        let snapshotter = |(name, proxy): (&String, &Value)| {
            let annotated = || proxy.get("exports")?.get("enable_remote_snapshot_annotations")?.as_str();
            let is = proxy.get("type").and_then(Value::as_str) == Some("snapshot");
            is.then(|| (name.clone(), annotated() == Some("true")))
        };
        proxies.into_iter().flatten().filter_map(snapshotter).collect()
    }

    /// CRI's runtime handlers.
    pub(super) fn handlers(&self) -> Vec<Handler> {
        let runtimes = RUNTIMES.iter().find_map(|path| self.at(path)?.as_table());
        let handler = |(name, table): (&String, &Value)| {
            let text = |table: Option<&Value>, key: &str| {
                let text = table?.get(key)?.as_str()?;
                (!text.is_empty()).then(|| text.to_owned())
            };
            let table = Some(table);
            Handler {
                name: name.clone(),
                runtime: text(table, "runtime_type").unwrap_or_default(),
                program: text(table, "runtime_path")
                    .or_else(|| text(table.and_then(|table| table.get("options")), "BinaryName")),
                base_spec: text(table, "base_runtime_spec").map(Into::into),
            }
        };
        runtimes.map(Table::iter).into_iter().flatten().map(handler).collect()
    }

    /// Whether CRI makes containers from checkpoints; none where this containerd has no such setting.
    pub(super) fn restores_checkpoints(&self) -> Option<bool> {
        self.at(&["plugins", "io.containerd.cri.v1.runtime", "enable_experimental_restore_via_create"])?.as_bool()
    }
}
