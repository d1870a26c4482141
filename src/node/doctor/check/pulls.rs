//! What makes CRI pull by itself, past the image verifiers. Its pulls are refused when they are unpacked then.

use toml::Value;

use super::super::super::{doctor::Configured, version::Version};
use super::{Facts, Found, Known, node::is_connected, or_closed};

/// CRI's section for images, and its names in a configuration of version 2.
const IMAGES: &str = "io.containerd.cri.v1.images";
const OLD: &str = "io.containerd.grpc.v1.cri";

/// Each setting that does it.
pub(super) fn local(facts: &Facts) -> Known<Vec<Found>> {
    let configured = facts.configured()?;
    if configured.version < Version::VERIFIERS || !is_connected(facts)? {
        return Ok(Vec::new());
    }
    if configured.version < Version::CRI_TRANSFERS {
        let what = format!(
            "CRI of containerd {} pulls by itself: the kubelet's images are refused when they are unpacked, not before",
            configured.version
        );
        return Ok(vec![Found::warning(what, format!("install containerd {} or later", Version::CRI_TRANSFERS))]);
    }
    let warning = |trigger: &Trigger| {
        let what = format!(
            "{} makes CRI pull by itself: the kubelet's images are refused when they are unpacked, not before",
            trigger.said
        );
        let (table, key) = (trigger.table, trigger.key);
        let inner: Vec<&str> = table.iter().copied().chain([key]).collect();
        let new: Vec<&str> = ["plugins", IMAGES].into_iter().chain(inner.clone()).collect();
        let old: Vec<&str> = ["plugins", OLD].into_iter().chain(inner).collect();
        let older = ["plugins", OLD, "containerd", key];
        Found::warning(what, trigger.mend).at(configured.place(&[&new, &old, &older]))
    };
    let found = triggers(configured).iter().filter(|trigger| trigger.set).map(warning).collect();
    Ok(or_closed(found, "the kubelet's pulls ask the resolve gate"))
}

struct Trigger {
    set: bool,
    said: String,
    table: &'static [&'static str],
    key: &'static str,
    mend: &'static str,
}

/// containerd's own list (`CheckLocalImagePullConfigs`), the same from 2.1 on.
fn triggers(configured: &Configured) -> Vec<Trigger> {
    let value = |path: &[&str]| configured.dump.at(&[&["plugins", IMAGES], path].concat());
    let is = |key: &'static str, wrong: bool, mend| Trigger {
        set: value(&[key]).and_then(Value::as_bool) == Some(wrong),
        said: format!("{key} = {wrong}"),
        table: &[],
        key,
        mend,
    };
    let filled = |key: &'static str| Trigger {
        set: value(&["registry", key]).and_then(Value::as_table).is_some_and(|table| !table.is_empty()),
        said: format!("registry.{key}"),
        table: &["registry"],
        key,
        mend: "move it into a hosts.toml below registry.config_path",
    };
    let downloads = value(&["max_concurrent_downloads"]).and_then(Value::as_integer);
    vec![
        is("use_local_image_pull", true, "set use_local_image_pull = false"),
        is("disable_snapshot_annotations", false, "set disable_snapshot_annotations = true"),
        is("discard_unpacked_layers", true, "set discard_unpacked_layers = false"),
        is("image_pull_with_sync_fs", true, "set image_pull_with_sync_fs = false"),
        Trigger {
            set: downloads.is_some_and(|number| number != 3),
            said: format!("max_concurrent_downloads = {}", downloads.unwrap_or_default()),
            table: &[],
            key: "max_concurrent_downloads",
            mend: "set it in [plugins.\"io.containerd.transfer.v1.local\"] instead, and take it out here",
        },
        filled("mirrors"),
        filled("configs"),
        filled("auths"),
    ]
}
