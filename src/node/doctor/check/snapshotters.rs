//! Snapshotters that have layers without an unpack: there the unpack gate is not asked.

use super::super::super::{doctor::Configured, version::Version};
use super::{Facts, Found, Known, or_closed};

/// Those that are known to mount layers from the registry.
const REMOTE: [&str; 4] = ["stargz", "nydus", "overlaybd", "soci"];
/// From here on containerd keeps erofs layers ready and applies them no more.
const STAGES: Version = Version(2, 4, 0);

/// Snapshotters of other programs.
pub(super) fn remote(facts: &Facts) -> Known<Vec<Found>> {
    let configured = facts.configured()?;
    let mut found = Vec::new();
    for (name, annotated) in configured.dump.proxy_snapshotters() {
        let place = configured.place(&[&["proxy_plugins", &name]]);
        let lazy = annotated || REMOTE.iter().any(|remote| name.contains(remote));
        let used = match in_use(facts, configured, &name) {
            true => "is in use",
            false => "may be chosen by any client",
        };
        let mend = format!("without need for it take proxy_plugins.{name} out, and restart containerd");
        found.push(match lazy {
            true => Found::open(
                format!("snapshotter {name} has layers from the registry without an unpack, and {used}"),
                mend,
            ),
            false => Found::warning(
                format!("snapshotter {name} is another program's, and {used}: whether it asks for each layer is not known"),
                mend,
            ),
        }
        .at(place));
    }
    Ok(or_closed(found, "no snapshotter of another program"))
}

/// erofs layers that containerd has ready.
pub(super) fn staged(facts: &Facts) -> Known<Vec<Found>> {
    let configured = facts.configured()?;
    if configured.version < STAGES || !facts.running()?.runs("io.containerd.snapshotter.v1", "erofs") {
        return Ok(vec![Found::closed("no snapshotter has layers ready that were not asked about")]);
    }
    Ok(vec![match in_use(facts, configured, "erofs") {
        true => Found::open(
            "snapshotter erofs keeps layers ready: they are neither fetched nor asked about again",
            "let CRI use overlayfs, or disable the plugin io.containerd.snapshotter.v1.erofs",
        ),
        false => Found::closed("snapshotter erofs is not in use"),
    }])
}

fn in_use(facts: &Facts, configured: &Configured, name: &str) -> bool {
    let by_containers = facts.containers().is_ok_and(|mounts| mounts.snapshotters.contains_key(name));
    by_containers || configured.dump.cri_snapshotters().iter().any(|used| used == name)
}
