//! What the checks read of containerd's configuration in force. Pure.

#![deny(clippy::disallowed_methods)]

use toml::Value;

use super::super::dump::{Dump, VERIFIERS};

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

    /// Whether CRI makes containers from checkpoints; none where this containerd has no such setting.
    pub(super) fn restores_checkpoints(&self) -> Option<bool> {
        self.at(&["plugins", "io.containerd.cri.v1.runtime", "enable_experimental_restore_via_create"])?.as_bool()
    }
}
