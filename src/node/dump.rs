//! containerd's configuration in force: what `containerd config dump` prints. Pure.

#![deny(clippy::disallowed_methods)]

use std::{collections::BTreeMap, path::PathBuf};

use toml::{Table, Value};

use super::runtimes::{BASE_SPEC, CRI_1, CRI_2};

/// The diff service.
pub const DIFF: &str = "io.containerd.service.v1.diff-service";
/// The transfer service.
pub const TRANSFER: &str = "io.containerd.transfer.v1.local";
/// The image verifiers of containerd 2.x.
pub const VERIFIERS: &str = "io.containerd.image-verifier.v1.bindir";
/// Where pullgate's own image verifier is.
pub const VERIFIERS_DIRECTORY: &str = "/usr/libexec/pullgate/verifiers";
/// The proxy that the diff service asks, and its socket.
pub const DIFF_PROXY: (&str, &str) = ("pullgate", "/run/pullgate/diff.sock");
/// The proxy that the transfer service asks, and its socket.
pub const TRANSFER_PROXY: (&str, &str) = ("pullgate-transfer", "/run/pullgate/transfer.sock");

/// For each base spec of pullgate's, the administrator's that it was made from; none where it is containerd's default.
pub type StandFor = BTreeMap<PathBuf, Option<PathBuf>>;

/// The configuration of all files together.
#[derive(Clone, Debug, PartialEq)]
pub struct Dump(Table);

impl Dump {
    /// Reads what was printed.
    ///
    /// # Errors
    /// Where it is not TOML.
    pub fn parse(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|error: toml::de::Error| error.message().to_owned())
    }

    /// The value at `path`.
    pub(super) fn at(&self, path: &[&str]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        rest.iter().try_fold(self.0.get(*first)?, |value, key| value.get(key))
    }

    fn strings(&self, path: &[&str]) -> Vec<String> {
        let list = self.at(path).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(|value| value.as_str().map(str::to_owned)).collect()
    }

    /// The differs that the diff service asks, in their order.
    pub fn differs(&self) -> Vec<String> {
        self.strings(&["plugins", DIFF, "default"])
    }

    /// The `unpack_config` of the transfer service; none where none is set and containerd's own list is in force.
    pub fn unpack(&self) -> Option<Vec<Table>> {
        let list = self.at(&["plugins", TRANSFER, "unpack_config"])?.as_array()?;
        Some(list.iter().filter_map(|entry| entry.as_table().cloned()).collect())
    }

    /// Whether a proxy of this name is configured, of the type `diff` and on this socket.
    pub fn has_proxy(&self, (name, socket): (&str, &str)) -> bool {
        let text = |key: &str| self.at(&["proxy_plugins", name, key]).and_then(Value::as_str).unwrap_or_default();
        text("type") == "diff" && text("address").trim_start_matches("unix://") == socket
    }

    /// Where containerd looks for image verifiers, and how many it runs at most.
    pub fn verifiers(&self) -> Option<(PathBuf, Option<usize>)> {
        let directory = self.at(&["plugins", VERIFIERS, "bin_dir"])?.as_str()?;
        let most = self.at(&["plugins", VERIFIERS, "max_verifiers"]).and_then(Value::as_integer);
        // A negative number is no bound.
        Some((directory.into(), usize::try_from(most.unwrap_or(10)).ok()))
    }

    /// The snapshotters that the kubelet's containers use.
    pub fn cri_snapshotters(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut add = |value: Option<&Value>| match value.and_then(Value::as_str) {
            Some(name) if !name.is_empty() && !found.iter().any(|known| known == name) => found.push(name.to_owned()),
            _ => {}
        };
        let old = ["plugins", "io.containerd.grpc.v1.cri", "containerd"];
        let new = ["plugins", "io.containerd.cri.v1.runtime", "containerd"];
        add(self.at(&["plugins", "io.containerd.cri.v1.images", "snapshotter"]));
        for section in [old, new] {
            let section = self.at(&section);
            add(section.and_then(|section| section.get("snapshotter")));
            let runtimes = section.and_then(|section| section.get("runtimes")?.as_table());
            for runtime in runtimes.into_iter().flat_map(Table::values) {
                add(runtime.get("snapshotter"));
            }
        }
        found
    }

    /// The node's platform as containerd writes it.
    pub fn platform(&self) -> String {
        let said = self.strings(&["plugins", "io.containerd.runtime.v2.task", "platforms"]);
        said.into_iter().next().unwrap_or_else(|| {
            let architecture = match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                other => other,
            };
            format!("linux/{architecture}")
        })
    }

    /// Why the kubelet's pulls ask no image verifier though this version has them; none when they do.
    pub fn verifiers_not_asked(&self) -> Option<String> {
        if self.strings(&["disabled_plugins"]).iter().any(|plugin| plugin == VERIFIERS) {
            return Some(format!("disabled_plugins names {VERIFIERS}"));
        }
        let images = self.at(&["plugins", "io.containerd.cri.v1.images"])?;
        let is = |key: &str, value: bool| images.get(key).and_then(Value::as_bool) == Some(value);
        let registry = |key: &str| images.get("registry").and_then(|registry| registry.get(key)?.as_table());
        let filled = |key: &str| registry(key).is_some_and(|table| !table.is_empty());
        let downloads = images.get("max_concurrent_downloads").and_then(Value::as_integer);
        [
            ("use_local_image_pull = true", is("use_local_image_pull", true)),
            ("disable_snapshot_annotations = false", is("disable_snapshot_annotations", false)),
            ("discard_unpacked_layers = true", is("discard_unpacked_layers", true)),
            ("image_pull_with_sync_fs = true", is("image_pull_with_sync_fs", true)),
            ("max_concurrent_downloads other than 3", downloads.is_some_and(|number| number != 3)),
            ("registry.mirrors", filled("mirrors")),
            ("registry.configs", filled("configs")),
            ("registry.auths", filled("auths")),
        ]
        .into_iter()
        .find(|(_, set)| *set)
        .map(|(key, _)| format!("{key} makes CRI pull by itself"))
    }

    /// The keys, other than pullgate's own, whose value is another in `after`. containerd lists its files under
    /// `imports`; a base spec of pullgate's counts as what it stands for.
    pub fn changes(&self, after: &Self, base_specs: &StandFor) -> Vec<String> {
        let (before, after) = (self.without_ours(base_specs), after.without_ours(base_specs));
        let mut changed = Vec::new();
        differing(&before, &after, "", &mut changed);
        changed
    }

    fn without_ours(&self, base_specs: &StandFor) -> Table {
        let mut table = self.0.clone();
        for plugin in [CRI_1, CRI_2] {
            let mut below = table.get_mut("plugins").and_then(|plugins| plugins.get_mut(plugin)?.get_mut("containerd"));
            if let Some(runtimes) = below.as_mut().and_then(|below| below.get_mut("runtimes")?.as_table_mut()) {
                // What is left of a handler that is no more.
                let left = |keys: &Table| keys.get("runtime_type").and_then(Value::as_str).is_none_or(str::is_empty);
                runtimes.retain(|_, keys| keys.as_table().is_none_or(|keys| !left(keys) || !is_ours(keys, base_specs)));
                runtimes
                    .iter_mut()
                    .filter_map(|(_, keys)| keys.as_table_mut())
                    .for_each(|keys| stand(keys, base_specs));
            }
            for key in ["default_runtime", "untrusted_workload_runtime"] {
                if let Some(keys) = below.as_mut().and_then(|below| below.get_mut(key)?.as_table_mut()) {
                    stand(keys, base_specs);
                }
            }
        }
        table.remove("imports");
        if let Some(Value::Table(proxies)) = table.get_mut("proxy_plugins") {
            proxies.remove(DIFF_PROXY.0);
            proxies.remove(TRANSFER_PROXY.0);
            if proxies.is_empty() {
                table.remove("proxy_plugins");
            }
        }
        for (section, key) in [(DIFF, "default"), (TRANSFER, "unpack_config"), (VERIFIERS, "bin_dir")] {
            let Some(Value::Table(plugins)) = table.get_mut("plugins") else { break };
            if let Some(Value::Table(keys)) = plugins.get_mut(section) {
                keys.remove(key);
                if keys.is_empty() {
                    plugins.remove(section);
                }
            }
        }
        table
    }
}

fn base_spec(keys: &Table) -> Option<PathBuf> {
    keys.get(BASE_SPEC).and_then(Value::as_str).map(PathBuf::from)
}

fn is_ours(keys: &Table, base_specs: &StandFor) -> bool {
    base_spec(keys).is_some_and(|path| base_specs.contains_key(&path))
}

fn stand(keys: &mut Table, base_specs: &StandFor) {
    if let Some(own) = base_spec(keys).and_then(|path| base_specs.get(&path)) {
        let own = own.as_ref().map_or(String::new(), |own| own.display().to_string());
        keys.insert(BASE_SPEC.to_owned(), Value::String(own));
    }
}

fn differing(before: &Table, after: &Table, path: &str, changed: &mut Vec<String>) {
    let mut keys: Vec<&String> = before.keys().chain(after.keys()).collect();
    keys.sort();
    keys.dedup();
    for key in keys {
        let at = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match (before.get(key), after.get(key)) {
            (Some(Value::Table(before)), Some(Value::Table(after))) => differing(before, after, &at, changed),
            (before, after) if before == after => {}
            _ => changed.push(at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dump(text: &str) -> Dump {
        Dump::parse(text).unwrap()
    }

    const BEFORE: &str = r#"
version = 3
imports = []
[plugins.'io.containerd.service.v1.diff-service']
  default = ['walking']
  sync_fs = false
[plugins.'io.containerd.cri.v1.images']
  snapshotter = 'overlayfs'
  max_concurrent_downloads = 3
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  snapshotter = ''
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  SystemdCgroup = true
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.kata]
  snapshotter = 'devmapper'
[plugins.'io.containerd.image-verifier.v1.bindir']
  bin_dir = '/opt/containerd/image-verifier/bin'
  max_verifiers = 10
[plugins.'io.containerd.runtime.v2.task']
  platforms = ['linux/arm64/v8']
"#;

    #[test]
    fn what_is_in_force_is_read() {
        let dump = dump(BEFORE);
        assert_eq!(dump.differs(), ["walking"]);
        assert_eq!(dump.unpack(), None);
        assert_eq!(dump.cri_snapshotters(), ["overlayfs", "devmapper"]);
        assert_eq!(dump.platform(), "linux/arm64/v8");
        assert_eq!(dump.verifiers(), Some(("/opt/containerd/image-verifier/bin".into(), Some(10))));
        assert!(!dump.has_proxy(DIFF_PROXY));
        assert!(Dump::parse("= nothing").is_err());
        assert_eq!(Dump::parse("").unwrap().differs(), Vec::<String>::new());
    }

    #[test]
    fn our_keys_are_no_change_and_every_other_is() {
        let ours = BEFORE.replace("['walking']", "['pullgate', 'walking']").replace("imports = []", "imports = ['x']")
            + "[proxy_plugins.pullgate]\ntype = 'diff'\naddress = '/run/pullgate/diff.sock'\n\
               [[plugins.'io.containerd.transfer.v1.local'.unpack_config]]\nsnapshotter = 'overlayfs'\n";
        let ours = ours.replace("'/opt/containerd/image-verifier/bin'", "'/usr/libexec/x'");
        assert_eq!(dump(BEFORE).changes(&dump(&ours), &StandFor::new()), Vec::<String>::new());
        assert!(dump(&ours).has_proxy(DIFF_PROXY) && !dump(&ours).has_proxy(TRANSFER_PROXY));

        let lost = ours.replace("SystemdCgroup = true", "SystemdCgroup = false").replace("version = 3", "version = 2");
        assert_eq!(
            dump(BEFORE).changes(&dump(&lost), &StandFor::new()),
            ["plugins.io.containerd.cri.v1.runtime.containerd.runtimes.runc.options.SystemdCgroup", "version"]
        );
        let theirs = ours + "[proxy_plugins.nydus]\ntype = 'snapshot'\n";
        assert_eq!(dump(BEFORE).changes(&dump(&theirs), &StandFor::new()), ["proxy_plugins"]);
    }

    #[test]
    fn a_base_spec_of_ours_counts_as_what_it_stands_for() {
        let (ours, beside) = ("/etc/pullgate/base-spec.json", "/etc/pullgate/base-spec-kata.json");
        let before = BEFORE
            .replace("  snapshotter = ''", "  runtime_type = 'x'\n  base_runtime_spec = ''")
            .replace("'devmapper'", "'devmapper'\n  runtime_type = 'y'\n  base_runtime_spec = '/etc/own.json'");
        let after = before
            .replace("base_runtime_spec = ''", &format!("base_runtime_spec = '{ours}'"))
            .replace("/etc/own.json", beside);
        let stand_for =
            StandFor::from([(PathBuf::from(ours), None), (PathBuf::from(beside), Some("/etc/own.json".into()))]);
        let changes = |after: &str, stand_for: &StandFor| dump(&before).changes(&dump(after), stand_for);
        assert_eq!(changes(&after, &stand_for), Vec::<String>::new());
        assert_eq!(dump(&after).changes(&dump(&before), &stand_for), Vec::<String>::new());
        assert_eq!(changes(&after, &StandFor::new()).len(), 2);
        // The one of another handler, and one that is nobody's.
        assert_eq!(changes(&after.replace(beside, ours), &stand_for).len(), 1);
        assert_eq!(changes(&after.replace(ours, "/etc/pullgate/base-spec-x.json"), &stand_for).len(), 1);
        let gone = "[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.gone]\nruntime_type = ''\n";
        assert_eq!(changes(&format!("{after}{gone}base_runtime_spec = '{ours}'\n"), &stand_for), Vec::<String>::new());
        assert_eq!(changes(&format!("{after}{gone}base_runtime_spec = ''\n"), &stand_for).len(), 1);
    }

    #[test]
    fn what_keeps_cri_from_asking_verifiers_is_named() {
        assert_eq!(dump(BEFORE).verifiers_not_asked(), None);
        for (from, to, word) in [
            ("max_concurrent_downloads = 3", "max_concurrent_downloads = 5", "max_concurrent_downloads"),
            ("max_concurrent_downloads = 3", "discard_unpacked_layers = true", "discard_unpacked_layers"),
            ("max_concurrent_downloads = 3", "disable_snapshot_annotations = false", "disable_snapshot"),
            ("max_concurrent_downloads = 3", "registry.mirrors.x = { endpoint = [] }", "registry.mirrors"),
            ("version = 3", "disabled_plugins = ['io.containerd.image-verifier.v1.bindir']", "disabled_plugins"),
        ] {
            let why = dump(&BEFORE.replace(from, to)).verifiers_not_asked().unwrap();
            assert!(why.contains(word), "{why}");
        }
    }
}
