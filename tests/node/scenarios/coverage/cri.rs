//! Configurations of containerd that take pods around a gate.

use super::{
    Group, Row,
    ground::{Aim, Attempt, Cell, Ground},
    run::in_pod_of,
};
use crate::node::{
    Path, Result, Suite,
    cri::{self, PullImageRequest, Word},
    path::Outcome,
    pod::{PODS, container_config, pod_config},
    registry::Published,
};

pub const FALLBACKS: Group = Group {
    name: "CRI PullImage where containerd's configuration takes it past the image verifier",
    rows: &[
        Row { path: "`use_local_image_pull = true`", walk: |it| fallback(it, "use_local_image_pull = true") },
        Row {
            path: "`disable_snapshot_annotations = false`",
            walk: |it| fallback(it, "disable_snapshot_annotations = false"),
        },
        Row { path: "`discard_unpacked_layers = true`", walk: |it| fallback(it, "discard_unpacked_layers = true") },
        Row { path: "`max_concurrent_downloads = 5`", walk: |it| fallback(it, "max_concurrent_downloads = 5") },
        Row { path: "`image_pull_with_sync_fs = true`", walk: |it| fallback(it, "image_pull_with_sync_fs = true") },
        Row {
            path: "`registry.mirrors`",
            walk: |it| fallback(it, "registry.mirrors.\"mirror.test\".endpoint = [\"http://127.0.0.1:5000\"]"),
        },
        Row {
            path: "`registry.configs`",
            walk: |it| fallback(it, "registry.configs.\"mirror.test\".tls.insecure_skip_verify = true"),
        },
        Row {
            path: "`registry.auths`",
            walk: |it| fallback(it, "registry.auths.\"https://mirror.test\".username = \"nobody\""),
        },
    ],
};

pub const HANDLERS: Group = Group {
    name: "A runtime handler was added after `pullgate enable`",
    rows: &[
        Row { path: "a pod of an image from before, by that handler", walk: added },
        Row { path: "CRI PullImage for that handler, which has another snapshotter", walk: another_snapshotter },
    ],
};

fn fallback(ground: &Ground, key: &str) -> Result<Cell> {
    if ground.suite == Suite::Trixie {
        return Ok(Cell::Absent("always so"));
    }
    let node = &ground.node;
    node.connect_pods_with(&format!("\n[plugins.\"io.containerd.cri.v1.images\"]\n  {key}\n"))?;
    let script = "journalctl -q --no-pager -u containerd -o cat _PID=$(systemctl show --value -p MainPID containerd)";
    let said = node.sh(script)?.ok()?.to_lowercase();
    if !key.starts_with("use_local") && !said.contains("falling back to local image pull") {
        return Err("containerd does not say that it falls back".into());
    }
    ground.judged(&ground.good, &ground.evil, |image| {
        node.clean()?;
        let answer = match node.bring(Path::CriPull, image)? {
            Outcome::Admitted | Outcome::NotUnpacked => Ok(String::new()),
            other => Err(other.told()),
        };
        Ok(Attempt::unpack(PODS, answer))
    })
}

/// Two handlers that nobody told pullgate of.
fn add_handlers(ground: &Ground) -> Result<()> {
    let node = &ground.node;
    let text = String::from_utf8(node.read(CONTAINERD)?)?;
    if text.contains("runtimes.added]") {
        return Ok(());
    }
    let (runtimes, more) = match ground.suite {
        Suite::Trixie => ("plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes", ""),
        Suite::Forky => ("plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes", NATIVE_IMAGES),
    };
    let mut handlers = vec![("added", ""), ("native", "  snapshotter = \"native\"\n")];
    if ground.suite == Suite::Trixie && !text.contains("runtimes.runc]") {
        // A table of handlers replaces containerd's own.
        handlers.push(("runc", ""));
    }
    let tables = handlers
        .iter()
        .map(|(name, keys)| format!("\n[{runtimes}.{name}]\n  runtime_type = \"io.containerd.runc.v2\"\n{keys}"));
    node.write(CONTAINERD, text + &tables.collect::<String>() + more)?;
    node.restart_containerd()
}

const CONTAINERD: &str = "/etc/containerd/config.toml";
/// From 2.0 on the images of a handler are configured apart from it; by the transfer service they are not unpacked.
const NATIVE_IMAGES: &str = "\n[plugins.\"io.containerd.cri.v1.images\"]\n  use_local_image_pull = true\n\n[plugins.\"io.containerd.cri.v1.images\".runtime_platforms.native]\n  snapshotter = \"native\"\n";

fn added(ground: &Ground) -> Result<Cell> {
    let node = &ground.node;
    node.connect_pods()?;
    node.clean()?;
    ground.with_mode("audit")?;
    for image in [&ground.good, &ground.evil] {
        super::super::expect::admitted(node, Path::CriPull, image)?;
    }
    ground.with_mode("enforce")?;
    add_handlers(ground)?;
    ground.judged(&ground.good, &ground.evil, |image| {
        let pod = pod_config("default", &ground.unique("added"));
        in_pod_of(ground, pod, "added", container_config("app", &image.name, &[]))
    })
}

fn another_snapshotter(ground: &Ground) -> Result<Cell> {
    add_handlers(ground)?;
    ground.judged(&ground.good, &ground.evil, |image: &Published| {
        ground.node.clean()?;
        let mut pod = pod_config("default", "native");
        pod.annotations.insert("io.containerd.cri.runtime-handler".to_owned(), "native".to_owned());
        let request = PullImageRequest { image: cri::spec(&image.name), auth: None, sandbox_config: Some(pod) };
        let answer = ground.node.cri::<_, Word>("ImageService/PullImage", request)?;
        let answer = answer.map(|answer| answer.word).map_err(|status| status.message().to_owned());
        Ok(Attempt { aim: Aim::Unpack { snapshotter: "native", namespace: PODS }, ..Attempt::unpack(PODS, answer) })
    })
}
