//! Containers that can speak to a gate or to containerd, or change what pullgate knows.

use std::path::Path;

use super::super::{ContainerMounts, Mount, Place};
use super::{Facts, Found, Known, State, or_closed};
use crate::image::sanitize;

/// What is of use to somebody who would go around: the path, what lies there, and whether writing is needed for it. What
/// lies above and below counts as well.
const SENSITIVE: [(&str, &str, bool); 9] = [
    ("/run/pullgate", "pullgate's sockets", false),
    ("/run/containerd/containerd.sock", "containerd's socket", false),
    ("/run/nri", "the NRI socket", false),
    ("/run/docker.sock", "docker's socket", false),
    ("/var/lib/pullgate", "pullgate's state", true),
    ("/var/lib/containerd", "containerd's images", true),
    ("/etc/pullgate", "pullgate's policy", true),
    ("/etc/containerd", "containerd's configuration", true),
    ("/usr/libexec/pullgate", "pullgate's verifier", true),
];
/// What CRI itself mounts into every container: a pod's `hostname`, `resolv.conf` and image volumes.
const OF_CRI: &str = "/var/lib/containerd/io.containerd.grpc.v1.cri";
/// Containers that are told one by one.
const TOLD: usize = 10;
/// Characters of a name that somebody else chose.
const NAME: usize = 120;

/// Each container with such a mount.
pub(super) fn mounted(facts: &Facts) -> Known<Vec<Found>> {
    let mounts = facts.containers()?;
    let mut found: Vec<Found> =
        mounts.containers.iter().filter_map(|container| of_container(facts, container)).collect();
    // What is acknowledged hides nothing that is not.
    found.sort_by_key(|found| found.state != State::Open);
    let open = found.iter().filter(|found| found.state == State::Open).count();
    let more = open.saturating_sub(TOLD);
    found.truncate(TOLD);
    if more > 0 {
        found.push(Found::open(format!("{more} more containers with such mounts"), "pullgate doctor -o json"));
    }
    found.extend(mounts.unreadable.iter().take(TOLD).map(|container| {
        let what = format!("what container {} mounts cannot be read", sanitize(container, NAME));
        Found::unknown(what, "ctr containers info")
    }));
    Ok(or_closed(found, "no container has a path of pullgate or containerd"))
}

fn of_container(facts: &Facts, container: &ContainerMounts) -> Option<Found> {
    let mut reached: Vec<String> = Vec::new();
    let mut sources: Vec<String> = Vec::new();
    for mount in &container.mounts {
        let mut here = reaches(facts, mount).peekable();
        if here.peek().is_some() {
            sources.push(mount.source.display().to_string());
        }
        reached.extend(here.map(str::to_owned));
    }
    if reached.is_empty() {
        return None;
    }
    reached.sort();
    reached.dedup();
    let name = sanitize(&container.name, NAME);
    let who = match &container.pod {
        Some(pod) => format!("container {name} of pod {}", sanitize(pod, NAME)),
        None => format!("container {name} in namespace {}", sanitize(&container.namespace, NAME)),
    };
    let what = format!("{who} mounts {}: it can use {}", sanitize(&sources.join(", "), NAME), reached.join(", "));
    if is_acknowledged(facts, container) {
        return Some(Found::warning(format!("{what}; config.toml says that it may"), "look at it from time to time"));
    }
    Some(Found::open(what, "take that volume out of it, or trust it as you trust root"))
}

/// By its pod, as the sandbox's record says, and its image. What belongs to no pod is nobody's to acknowledge.
fn is_acknowledged(facts: &Facts, container: &ContainerMounts) -> bool {
    let pod = container.pod.as_deref().and_then(|pod| pod.split_once('/'));
    let (Some((namespace, pod)), Some(image)) = (pod, &container.image) else { return false };
    facts.acknowledged.iter().any(|acknowledged| acknowledged.covers(namespace, pod, image))
}

fn reaches<'a>(facts: &'a Facts, mount: &'a Mount) -> impl Iterator<Item = &'static str> + 'a {
    let socket = facts.socket.as_path();
    let sensitive = SENSITIVE.iter().map(|(path, what, writing)| (Path::new(*path), *what, *writing));
    sensitive.chain([(socket, "containerd's socket", false)]).filter_map(|(path, what, writing)| {
        let related =
            |source: &Path| !source.starts_with(OF_CRI) && (source.starts_with(path) || path.starts_with(source));
        let needed = !writing || !mount.read_only;
        (needed && (related(&mount.canonical) || related(&mount.source))).then_some(what)
    })
}

/// NRI plugins change containers before they start; whoever opens the socket is one.
pub(super) fn nri(facts: &Facts) -> Known<Vec<Found>> {
    Ok(vec![match facts.nri_open.as_ref().map_err(Clone::clone)? {
        None => Found::closed("only root reaches the NRI socket"),
        Some(directory) => Found::open(
            "others than root can enter the directory of the NRI socket: whoever connects can change containers",
            format!("chown root:root {0}; chmod 0700 {0}", directory.display()),
        )
        .at(Some(Place::whole(directory))),
    }])
}
