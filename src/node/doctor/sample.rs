//! A node in order, for tests.

use std::collections::BTreeMap;

use serde_json::json;

use super::{
    super::{connection::Gate, dump::Dump, imports::Read, start::Start, version::Version},
    Configured, Enabled, Facts, Foreign, Mounts, Program, Running, Units, VerifierDirectory,
};
use crate::containerd::Loaded;

/// containerd's main file on the node.
pub(super) const MAIN: &str = "/etc/containerd/config.toml";
const SPEC: &str = "/etc/pullgate/base-spec.json";

const COMMON: &str = r#"disabled_plugins = []
[proxy_plugins.pullgate]
type = "diff"
address = "/run/pullgate/diff.sock"
[proxy_plugins.pullgate-transfer]
type = "diff"
address = "/run/pullgate/transfer.sock"
[plugins."io.containerd.service.v1.diff-service"]
default = ["pullgate", "walking"]
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
platform = "linux/amd64"
snapshotter = "overlayfs"
differ = "pullgate-transfer"
"#;

const OLD: &str = r#"[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
base_runtime_spec = "/etc/pullgate/base-spec.json"
"#;

const NEW: &str = r#"[plugins."io.containerd.image-verifier.v1.bindir"]
bin_dir = "/usr/libexec/pullgate/verifiers"
max_verifiers = 10
per_verifier_timeout = "10s"
[plugins."io.containerd.cri.v1.images"]
snapshotter = "overlayfs"
disable_snapshot_annotations = true
discard_unpacked_layers = false
max_concurrent_downloads = 3
image_pull_with_sync_fs = false
use_local_image_pull = false
[plugins."io.containerd.cri.v1.images".registry]
config_path = "/etc/containerd/certs.d"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
base_runtime_spec = "/etc/pullgate/base-spec.json"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = ""
"#;

/// A node that enforces, with every gate connected. containerd 1.7 has its older sections.
pub(super) fn node(version: Version) -> Facts {
    let old = version < Version::VERIFIERS;
    let text = format!("{COMMON}{}", if old { OLD } else { NEW });
    let hook = json!({
        "path": "/usr/libexec/pullgate/verifiers/pullgate-verifier",
        "args": ["pullgate-verifier", "create-runtime"],
        "timeout": 10,
    });
    let program = Program { name: "pullgate-verifier".into(), ours: true, runs: true };
    let verifiers = VerifierDirectory {
        path: "/usr/libexec/pullgate/verifiers".into(),
        exists: true,
        programs: vec![program],
        writable: Vec::new(),
    };
    Facts {
        own: Ok(Vec::new()),
        acknowledged: Vec::new(),
        socket: "/run/containerd/containerd.sock".into(),
        configured: Ok(configured(version, &text)),
        running: Ok(running(!old)),
        verifiers: Ok((!old).then_some(verifiers)),
        enabled: Ok(Some(Enabled::default())),
        base_specs: BTreeMap::from([(
            SPEC.into(),
            Ok(Some(json!({ "hooks": { "createRuntime": [hook] } }).to_string())),
        )]),
        start: Ok(Start(vec![("runc".into(), Gate::Live)])),
        daemon: Ok(daemon()),
        units: Ok(Units {
            sockets_active: true,
            sockets_enabled: true,
            rate_interval: "1s".into(),
            rate_burst: 10_000_000,
        }),
        containers: Ok(Mounts { snapshotters: BTreeMap::from([("overlayfs".into(), 2)]), ..Mounts::default() }),
        foreign: Foreign::default(),
        nri_open: Ok(None),
    }
}

fn configured(version: Version, text: &str) -> Configured {
    let file = Read { path: MAIN.into(), text: text.to_owned(), imports: Vec::new(), version: Some(3) };
    Configured { main: MAIN.into(), files: vec![file], dump: Dump::parse(text).unwrap(), version }
}

fn running(verifiers: bool) -> Running {
    let loaded = |kind: &str, id: &str| Loaded { kind: kind.into(), id: id.into(), error: None };
    let mut plugins = vec![
        loaded("io.containerd.differ.v1", "walking"),
        loaded("io.containerd.differ.v1", "pullgate"),
        loaded("io.containerd.differ.v1", "pullgate-transfer"),
        loaded("io.containerd.snapshotter.v1", "overlayfs"),
        loaded("io.containerd.snapshotter.v1", "native"),
        loaded("io.containerd.transfer.v1", "local"),
        loaded("io.containerd.grpc.v1", "cri"),
    ];
    if verifiers {
        plugins.push(loaded("io.containerd.image-verifier.v1", "bindir"));
    }
    Running { loaded: plugins, unread: Vec::new(), others: Vec::new() }
}

fn daemon() -> crate::status::Status {
    let answers = json!({ "allowed": 1, "denied": 1, "inconclusive": 0, "audit-only": 0, "layers": 3 });
    serde_json::from_value(json!({
        "version": "0.1.0", "up-seconds": 5, "mode": "enforce", "policy": "/etc/pullgate/policy.toml", "revision": "r1",
        "rules": 1, "attestors": 1, "boot-list": 1, "boot-files": {}, "boot-problems": [],
        "sandbox": { "state": "listed", "image": "reg.io/pause:3" }, "clock": null, "trouble": null,
        "containerd": "/run/containerd/containerd.sock", "containerd-version": { "Ok": "2.1.9" },
        "resolve": answers, "unpack": answers,
        "watch": { "last-walk": { "number": 1, "at": 1, "images": 3, "containers": 2, "milliseconds": 5 } }, "decisions": 1, "registry-requests": 1, "evidence-lost": 0,
        "audit-written": 2, "audit-failed": 0, "log-dropped": 0,
    }))
    .unwrap()
}

impl Facts {
    /// The main file with `from` replaced by `to`, which has to be in it.
    #[must_use]
    pub(super) fn with(mut self, from: &str, to: &str) -> Self {
        let before = self.configured.as_ref().unwrap();
        let text = &before.files[0].text;
        assert!(text.contains(from), "{from} is not in {text}");
        self.configured = Ok(configured(before.version, &text.replace(from, to)));
        self
    }

    /// The main file with `more` at its end.
    #[must_use]
    pub(super) fn and(mut self, more: &str) -> Self {
        let before = self.configured.as_ref().unwrap();
        self.configured = Ok(configured(before.version, &format!("{}{more}", before.files[0].text)));
        self
    }

    /// A plugin more; with `error` it does not run.
    #[must_use]
    pub(super) fn plugin(mut self, kind: &str, id: &str, error: Option<&str>) -> Self {
        let running = self.running.as_mut().unwrap();
        running.loaded.retain(|plugin| (plugin.kind.as_str(), plugin.id.as_str()) != (kind, id));
        running.loaded.push(Loaded { kind: kind.into(), id: id.into(), error: error.map(Into::into) });
        self
    }
}
