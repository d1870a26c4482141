//! The containerd that pullgate stands in front of, and whoever else brings images.

use super::super::super::{
    doctor::Place,
    dump::{DIFF_PROXY, TRANSFER_PROXY},
    version::Version,
};
use super::{ENABLE, Facts, Found, Known, or_closed};

/// Whether anything of pullgate is in containerd's configuration.
pub(super) fn connected(facts: &Facts) -> Known<Vec<Found>> {
    let configured = facts.configured()?;
    if configured.version < Version::FIRST {
        let what = format!("containerd {} knows no diff proxies: no gate can be asked", configured.version);
        return Ok(vec![Found::open(what, format!("install containerd {} or later", Version::FIRST))]);
    }
    if !is_connected(facts)? {
        let what = "containerd's configuration names no gate of pullgate";
        return Ok(vec![Found::open(what, ENABLE).at(Some(Place::whole(&configured.main)))]);
    }
    Ok(vec![Found::closed(format!("containerd {} is connected", configured.version))])
}

/// Whether any line of pullgate is there: where there is none, that is told once and not for each line.
pub(super) fn is_connected(facts: &Facts) -> Known<bool> {
    let dump = &facts.configured()?.dump;
    let named = dump.differs().iter().any(|differ| differ == DIFF_PROXY.0);
    Ok(named || [DIFF_PROXY, TRANSFER_PROXY].into_iter().any(|proxy| dump.has_proxy(proxy)))
}

/// Whether containerd runs with what its files say now.
pub(super) fn not_read(facts: &Facts) -> Known<Vec<Found>> {
    let unread = &facts.running()?.unread;
    let open = |path: &std::path::PathBuf| {
        let what = "changed after containerd was started: what containerd runs with is not what its files say";
        Found::open(what, "systemctl restart containerd").at(Some(Place::whole(path)))
    };
    Ok(or_closed(unread.iter().take(1).map(open).collect(), "containerd runs with what its files say"))
}

/// Whether the files are as `enable` left them.
pub(super) fn drift(facts: &Facts) -> Known<Vec<Found>> {
    let Some(enabled) = facts.enabled.as_ref().map_err(Clone::clone)? else { return Ok(Vec::new()) };
    let changed = |path: &std::path::PathBuf| {
        let what = "was changed since `pullgate enable` wrote it";
        Found::warning(what, "look at it; `pullgate enable` shows what of pullgate is missing")
            .at(Some(Place::whole(path)))
    };
    Ok(or_closed(enabled.changed.iter().map(changed).collect(), "the files are as `pullgate enable` wrote them"))
}

/// Whether there is another containerd, which no gate stands in front of.
pub(super) fn other_containerd(facts: &Facts) -> Known<Vec<Found>> {
    let others = facts.running()?.others.iter().map(|other| {
        Found::open(
            format!("another containerd runs, which asks nobody: {other}"),
            "stop it, or name its socket as `address` under [containerd] in /etc/pullgate/config.toml if it is the \
             one that the kubelet uses",
        )
    });
    Ok(or_closed(others.collect(), "no other containerd runs"))
}

/// Whether the daemon speaks to the containerd that the configuration names.
pub(super) fn other_address(facts: &Facts) -> Known<Vec<Found>> {
    let daemon = facts.daemon()?;
    let said = facts.socket.display().to_string();
    if daemon.containerd == said {
        return Ok(vec![Found::closed("the daemon speaks to the containerd of the configuration")]);
    }
    let what = format!("the daemon speaks to {}, and the configuration says {said}", daemon.containerd);
    Ok(vec![Found::warning(what, "systemctl reload pullgate")])
}

/// Whatever brings images past containerd.
pub(super) fn other_engine(facts: &Facts) -> Known<Vec<Found>> {
    let foreign = &facts.foreign;
    let runs = |program: &str| foreign.programs.iter().any(|other| other == program);
    let mut found = Vec::new();
    match &foreign.docker_in_containerd {
        Some(Ok(false)) => found.push(Found::warning(
            "docker unpacks images by itself: nothing that it pulls or runs is asked about",
            "set \"features\": {\"containerd-snapshotter\": true} in /etc/docker/daemon.json, and restart docker",
        )),
        Some(Err(why)) => found.push(Found::unknown(
            format!("docker runs, and does not say whether containerd stores its images: {why}"),
            "docker info --format '{{.DriverStatus}}'",
        )),
        Some(Ok(true)) | None => {}
    }
    if runs("buildkitd") {
        found.push(Found::warning(
            "buildkitd runs: its OCI worker unpacks images by itself, and what it builds is asked about by nobody",
            "give it its containerd worker: --oci-worker=false --containerd-worker=true",
        ));
    }
    if runs("crio") {
        found.push(Found::warning("CRI-O runs: pullgate is not in its way", "let the kubelet use containerd"));
    }
    Ok(or_closed(found, "nothing else on this node unpacks images"))
}
