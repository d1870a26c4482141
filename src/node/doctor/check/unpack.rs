//! The transfer service: what it unpacks, and with which differ.

use toml::{Table, Value};

use super::super::super::{
    dump::{TRANSFER, TRANSFER_PROXY},
    version::Version,
};
use super::{ENABLE, Facts, Found, Known, node::is_connected, or_closed};

/// Whether every entry names the gate.
pub(super) fn entries(facts: &Facts) -> Known<Vec<Found>> {
    if !is_connected(facts)? {
        return Ok(Vec::new());
    }
    let configured = facts.configured()?;
    if let Ok(running) = facts.running()
        && let Some(why) = running.plugin("io.containerd.transfer.v1", "local").and_then(|plugin| plugin.error.as_ref())
    {
        let mend = "look at `ctr plugins ls -d id==local`; then restart containerd";
        return Ok(vec![Found::warning(format!("the transfer service does not run: {why}"), mend)]);
    }
    let list = configured.dump.unpack().unwrap_or_default();
    if list.is_empty() {
        let what = match picks_at_random(configured.version) {
            true => "unpack_config is not set: the transfer service picks a differ at random at every start",
            false => "unpack_config is not set: the transfer service unpacks without asking",
        };
        return Ok(vec![Found::open(what, ENABLE)]);
    }
    let mut found = Vec::new();
    for (number, entry) in list.iter().enumerate() {
        let differ = text(entry, "differ");
        if differ == TRANSFER_PROXY.0 {
            continue;
        }
        let snapshotter = text(entry, "snapshotter");
        let what = match differ {
            "" if picks_at_random(configured.version) => {
                format!("unpack_config of {snapshotter} names no differ: containerd picks one at random at every start")
            }
            "" => format!("unpack_config of {snapshotter} names no differ: containerd unpacks without asking"),
            differ => format!("unpack_config of {snapshotter} unpacks with {differ}, without asking"),
        };
        let number = number.to_string();
        let place = configured.place(&[
            &["plugins", TRANSFER, "unpack_config", &number, "differ"],
            &["plugins", TRANSFER, "unpack_config"],
            &["plugins", TRANSFER],
        ]);
        let mend = match place.as_ref().filter(|place| place.file != configured.main) {
            Some(place) => format!("take `unpack_config` out of {}, then: {ENABLE}", place.file.display()),
            None => ENABLE.to_owned(),
        };
        found.push(Found::open(what, mend).at(place));
    }
    Ok(or_closed(found, format!("the transfer service asks for {}", names(&list))))
}

/// Snapshotters in use that the transfer service does not unpack for: their layers are asked about when a container is
/// made, not when the image is pulled.
pub(super) fn snapshotters(facts: &Facts) -> Known<Vec<Found>> {
    let configured = facts.configured()?;
    if !is_connected(facts)? {
        return Ok(Vec::new());
    }
    let running = facts.running()?;
    let list = configured.dump.unpack().unwrap_or_default();
    let mut used = configured.dump.cri_snapshotters();
    if let Ok(mounts) = facts.containers() {
        used.extend(mounts.snapshotters.keys().filter(|name| !used.contains(name)).cloned().collect::<Vec<_>>());
    }
    let known = |name: &str| list.iter().any(|entry| text(entry, "snapshotter") == name);
    let left = used.iter().filter(|name| !known(name) && running.runs("io.containerd.snapshotter.v1", name));
    let found = left.map(|name| {
        let what = format!(
            "snapshotter {name} is in use and has no unpack_config: what is pulled for it is asked about only when a \
             container is made"
        );
        Found::warning(what, format!("{ENABLE}, or an entry of your own with differ = \"{}\"", TRANSFER_PROXY.0))
            .at(configured.place(&[&["plugins", TRANSFER, "unpack_config"]]))
    });
    Ok(or_closed(found.collect(), format!("every snapshotter in use has an entry ({})", used.join(", "))))
}

/// An entry without a differ takes any that runs, in these versions.
fn picks_at_random(version: Version) -> bool {
    version < Version(1, 7, 28) || (Version(2, 0, 0)..Version(2, 0, 5)).contains(&version)
}

fn names(list: &[Table]) -> String {
    list.iter().map(|entry| text(entry, "snapshotter")).collect::<Vec<_>>().join(", ")
}

fn text<'a>(entry: &'a Table, key: &str) -> &'a str {
    entry.get(key).and_then(Value::as_str).unwrap_or_default()
}
