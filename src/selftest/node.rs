//! What this containerd has that could be tested.

use std::{collections::BTreeMap, io::Read as _, path::Path};

use serde::Deserialize;
use tonic::Code;

use crate::{
    containerd::Containerd,
    cri::Cri,
    limits,
    node::{
        dump::{DIFF_PROXY, TRANSFER_PROXY},
        record::Record,
        version::Version,
    },
};

/// The containerd namespace of the kubelet.
const KUBERNETES: &str = "k8s.io";
/// The program of the start gate, as a base spec names it.
const HOOK: &str = "pullgate-verifier";

/// A containerd, as far as its gates are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    /// Its version.
    pub(super) version: Version,
    /// Whether pullgate was connected, whatever became of it.
    pub(super) connected: bool,
    /// Whether the start gate was, for any runtime handler.
    pub(super) starts_gated: bool,
    /// The CRI runtime handlers, by name; none where no pods are served.
    pub(super) handlers: Option<BTreeMap<String, Handler>>,
    /// The containerd namespace to work in.
    pub(super) namespace: String,
}

/// One CRI runtime handler.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Handler {
    /// The file that its containers are made after.
    base_spec: String,
    /// Whether control groups are systemd's to make.
    systemd: bool,
}

impl Handler {
    /// The control group of a pod of its own.
    pub(super) fn cgroup_parent(&self) -> &'static str {
        if self.systemd { "system.slice" } else { "" }
    }
}

impl Node {
    /// Asks `containerd`; `state` is where `enable` keeps its record.
    ///
    /// # Errors
    /// When it does not answer.
    pub(super) async fn look(containerd: &Containerd, state: &Path) -> Result<Self, String> {
        let told = |status: tonic::Status| format!("containerd: {}", status.message());
        let version: Version = containerd.version().await.map_err(told)?.parse()?;
        let handlers = match Cri::of(containerd).info().await {
            Ok(info) => Some(handlers(info.get("config").map(String::as_str).unwrap_or_default())?),
            Err(status) if status.code() == Code::Unimplemented => None,
            Err(status) => return Err(told(status)),
        };
        let loaded = containerd.loaded().await.map_err(told)?;
        let ours = [DIFF_PROXY.0, TRANSFER_PROXY.0];
        let runs =
            loaded.iter().any(|plugin| plugin.kind == "io.containerd.differ.v1" && ours.contains(&plugin.id.as_str()));
        let namespaces = containerd.namespaces().await.map_err(told)?;
        let kubernetes = || namespaces.iter().find(|name| *name == KUBERNETES).or(namespaces.first()).cloned();
        let namespace = match &handlers {
            Some(_) => KUBERNETES.to_owned(),
            None => kubernetes().unwrap_or_else(|| "default".to_owned()),
        };
        let named = handlers.iter().flatten().any(|(_, handler)| has_hook(Path::new(&handler.base_spec)));
        let record = Record::load(state)?;
        Ok(Self {
            version,
            connected: runs || record.is_some(),
            starts_gated: named || record.is_some_and(|record| record.start),
            handlers,
            namespace,
        })
    }
}

/// The runtime handlers that the configuration of the runtime interface names.
fn handlers(config: &str) -> Result<BTreeMap<String, Handler>, String> {
    #[derive(Deserialize)]
    struct Config {
        containerd: Runtimes,
    }
    #[derive(Deserialize)]
    struct Runtimes {
        runtimes: BTreeMap<String, Runtime>,
    }
    #[derive(Deserialize)]
    struct Runtime {
        #[serde(default, rename = "baseRuntimeSpec")]
        base_spec: String,
        #[serde(default)]
        options: serde_json::Value,
    }
    let config: Config = serde_json::from_str(config)
        .map_err(|error| format!("containerd's runtime handlers are not known: {error}"))?;
    let handler = |(name, runtime): (String, Runtime)| {
        let systemd = runtime.options["SystemdCgroup"].as_bool() == Some(true);
        (name, Handler { base_spec: runtime.base_spec, systemd })
    };
    Ok(config.containerd.runtimes.into_iter().map(handler).collect())
}

/// Whether a base spec names the start gate's program.
fn has_hook(base_spec: &Path) -> bool {
    let Ok(file) = std::fs::File::open(base_spec) else { return false };
    let mut text = String::new();
    let read = file.take(limits::CONTAINERD_CONFIG_BYTES).read_to_string(&mut text);
    read.is_ok() && text.contains(HOOK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_handler_is_known_by_name_with_what_its_pods_need() {
        let config = r#"{"containerd":{"defaultRuntimeName":"runc","runtimes":{
            "runc":{"runtimeType":"io.containerd.runc.v2","options":{"SystemdCgroup":true},"baseRuntimeSpec":"/etc/b.json"},
            "kata":{"runtimeType":"io.containerd.kata.v2","options":null,"baseRuntimeSpec":""},
            "bare":{}}},"sandboxImage":"x"}"#;
        let found = handlers(config).unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), ["bare", "kata", "runc"]);
        assert_eq!(found["runc"], Handler { base_spec: "/etc/b.json".to_owned(), systemd: true });
        assert_eq!((found["runc"].cgroup_parent(), found["kata"].cgroup_parent()), ("system.slice", ""));
        for config in ["", "null", "{}", r#"{"containerd":{"runtimes":[]}}"#, r#"{"containerd":{"runtimes":{"a":1}}}"#]
        {
            assert!(handlers(config).is_err(), "{config}");
        }
    }

    #[test]
    fn a_base_spec_is_known_by_its_hook() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).unwrap();
            has_hook(&folder.path().join(name))
        };
        assert!(!has_hook(Path::new("")) && !has_hook(folder.path()));
        assert!(!write("base-spec.json", "{}"));
        assert!(write("base-spec.json", &format!("{{\"hooks\":\"/usr/libexec/pullgate/verifiers/{HOOK}\"}}")));
    }
}
