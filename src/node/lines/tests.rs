use super::*;
use crate::node::dump::StandFor;

fn wanted() -> Wanted {
    let text = "[[e]]\nplatform = \"linux/amd64\"\nsnapshotter = \"overlayfs\"\ndiffer = \"pullgate-transfer\"\n";
    let table: toml::Table = text.parse().unwrap();
    let entries = table["e"].as_array().unwrap();
    Wanted {
        differs: vec!["pullgate".into(), "walking".into()],
        unpack: entries.iter().filter_map(|entry| entry.as_table().cloned()).collect(),
        ..Wanted::default()
    }
}

const ALL: [Part; 3] = [Part::Proxies, Part::Differs, Part::Unpack];

fn undone(text: &str, original: Option<&str>, pattern: Option<&str>) -> Result<Option<String>, String> {
    take_out(text, Since { original, written: None, pattern }, &StandFor::new())
}

const DEBIAN: &str = r#"version = 2

# Where Debian keeps its CNI plugins.
[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    [plugins."io.containerd.grpc.v1.cri".cni]
      bin_dir = "/usr/lib/cni"   # not /opt
      conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.internal.v1.opt"]
    path = "/var/lib/containerd/opt"
"#;

const OWN: &str = r#"version = 2
[proxy_plugins]
  [proxy_plugins.nydus]
    type = "snapshot"
    address = "/run/nydus.sock"
[plugins.'io.containerd.service.v1.diff-service']
  default = ["walking"] # ours
  sync_fs = true
[plugins.'io.containerd.transfer.v1.local']
  max_concurrent_downloads = 2
  [[plugins.'io.containerd.transfer.v1.local'.unpack_config]]
    platform = "linux/amd64"
    snapshotter = "native"
    differ = "walking" # as ever
  [[plugins.'io.containerd.transfer.v1.local'.unpack_config]]
    snapshotter = "zfs"
    platform = "linux/amd64"
"#;

#[test]
fn only_lines_are_added() {
    for text in [DEBIAN, "", "version = 2\n", "# nothing\n"] {
        let after = put(text, &wanted(), &ALL).unwrap();
        let mut rest = after.lines();
        assert!(text.lines().all(|line| rest.any(|other| other == line)), "{after}");
        let read: toml::Table = after.parse().unwrap();
        assert_eq!(read["proxy_plugins"]["pullgate-transfer"]["address"].as_str(), Some(TRANSFER_PROXY.1));
        assert_eq!(read["plugins"][DIFF]["default"].as_array().unwrap().len(), 2);
        assert_eq!(read["plugins"][TRANSFER]["unpack_config"][0]["differ"].as_str(), Some("pullgate-transfer"));
        assert_eq!(put(&after, &wanted(), &ALL).unwrap(), after, "twice is once");
        let back = undone(&after, Some(text), None).unwrap().unwrap_or_default();
        assert_eq!(back, text);
    }
}

#[test]
fn what_was_there_keeps_its_comments_and_comes_back() {
    let after = put(OWN, &wanted(), &ALL).unwrap();
    assert!(after.contains("default = [\"pullgate\", \"walking\"] # ours"), "{after}");
    assert!(after.contains("differ = \"pullgate-transfer\" # as ever"), "{after}");
    let read: toml::Table = after.parse().unwrap();
    let entries = read["plugins"][TRANSFER]["unpack_config"].as_array().unwrap();
    assert_eq!(entries.len(), 3);
    assert!(entries.iter().all(|entry| entry["differ"].as_str() == Some("pullgate-transfer")));
    assert_eq!(read["proxy_plugins"]["nydus"]["type"].as_str(), Some("snapshot"));

    // Somebody else's changes since stay.
    let later = after.replace("max_concurrent_downloads = 2", "max_concurrent_downloads = 4")
        + "[plugins.\"io.containerd.snapshotter.v1.zfs\"]\n  root_path = \"/z\"\n";
    let back = undone(&later, Some(OWN), None).unwrap().unwrap();
    assert!(!back.contains("pullgate"), "{back}");
    let expected = OWN.replace("max_concurrent_downloads = 2", "max_concurrent_downloads = 4")
        + "[plugins.\"io.containerd.snapshotter.v1.zfs\"]\n  root_path = \"/z\"\n";
    let read = |text: &str| text.parse::<toml::Table>().unwrap();
    assert_eq!(read(&back), read(&expected), "{back}");
    assert!(back.contains("# as ever") && back.contains("# ours"));
}

#[test]
fn lists_within_a_line_are_understood() {
    let text = "version = 2\n[plugins]\n\"io.containerd.transfer.v1.local\" = { unpack_config = [{ snapshotter = \"native\", \
                platform = \"linux/amd64\" }] }\n";
    let after = put(text, &wanted(), &ALL).unwrap();
    let read: toml::Table = after.parse().unwrap();
    let entries = read["plugins"][TRANSFER]["unpack_config"].as_array().unwrap();
    assert!(entries.len() == 2 && entries.iter().all(|entry| entry["differ"].as_str() == Some("pullgate-transfer")));
    let back = undone(&after, Some(text), None).unwrap().unwrap();
    assert_eq!(back.parse::<toml::Table>().unwrap(), text.parse::<toml::Table>().unwrap());
}

#[test]
fn a_file_of_our_own_says_all_of_it_and_goes_whole() {
    let with = Wanted { verifiers: Some(crate::node::dump::VERIFIERS_DIRECTORY.into()), ..wanted() };
    let text = drop_in(&with, 2).unwrap();
    let read: toml::Table = text.parse().unwrap();
    assert_eq!(read["version"].as_integer(), Some(2));
    assert_eq!(read["plugins"][VERIFIERS]["bin_dir"].as_str(), Some(crate::node::dump::VERIFIERS_DIRECTORY));
    assert_eq!(undone(&text, None, None), Ok(None));
    let shared = format!("{text}[debug]\nlevel = \"info\"\n");
    let left = undone(&shared, None, None).unwrap().unwrap();
    assert!(left.contains("[debug]") && !left.contains("run/pullgate"), "{left}");
}

#[test]
fn one_import_is_added_once() {
    let pattern = "/etc/containerd/conf.d/99-pullgate*.toml";
    for text in [DEBIAN, "version = 3\nimports = [\"/etc/x.toml\"] # mine\n[debug]\n", ""] {
        let after = import(text, pattern).unwrap();
        assert!(head(&after).unwrap().0.contains(&pattern.to_owned()));
        assert_eq!(import(&after, pattern).unwrap(), after);
        assert_eq!(undone(&after, Some(text), Some(pattern)).unwrap().unwrap_or_default(), text);
    }
    assert!(import("imports = 3", pattern).is_err());
}

#[test]
fn a_configuration_of_version_1_is_refused() {
    assert_eq!(versioned("version = 2\n").unwrap(), "version = 2\n");
    let added = versioned("# mine\n[debug]\nlevel = \"info\"\n").unwrap();
    assert_eq!(head(&added), Ok((Vec::new(), Some(2))));
    assert!(added.contains("# mine"));
    for old in ["version = 1\n", "[plugins.cri]\n", "[plugins]\n[plugins.cri.containerd]\n"] {
        assert!(versioned(old).unwrap_err().contains("version 1"), "{old}");
    }
}

#[test]
fn what_is_no_configuration_is_refused_with_its_line() {
    for text in ["version = ", "a = 1\n\n[x\n", "\u{0}"] {
        assert!(put(text, &wanted(), &ALL).unwrap_err().starts_with("line "), "{text:?}");
        assert!(undone(text, None, None).is_err());
    }
    for text in ["plugins = 3", "[plugins]\n\"io.containerd.transfer.v1.local\" = 1\n", "proxy_plugins = []"] {
        assert!(put(text, &wanted(), &ALL).unwrap_err().contains("is no"), "{text}");
    }
}

/// Parts of a configuration; a number chooses one of each row, the last of which is nothing.
const ROOT: [&str; 3] = ["imports = [\"conf.d/*.toml\"] # site\n", "imports = []\n", ""];
const PROXIES: [&str; 2] = ["[proxy_plugins.nydus]\n  type = \"snapshot\"\n", ""];
const DIFFERS: [&str; 5] = [
    "[plugins.\"io.containerd.service.v1.diff-service\"]\n  default = [\"walking\"] # ours\n  sync_fs = true\n",
    "[plugins.'io.containerd.service.v1.diff-service']\n  default = [\n    # first\n    \"erofs\",\n    \"walking\",\n  ]\n",
    "[plugins.\"io.containerd.service.v1.diff-service\"]\n",
    "[plugins]\n[plugins.\"io.containerd.snapshotter.v1.zfs\"]\nroot_path = \"\"\n",
    "",
];
const UNPACK: [&str; 4] = [
    "[plugins.\"io.containerd.transfer.v1.local\"]\n  unpack_config = [{ snapshotter = \"native\", differ = \"walking\" }, { snapshotter = \"zfs\" }]\n",
    "[[plugins.\"io.containerd.transfer.v1.local\".unpack_config]]\n  platform = \"linux/amd64\"\n  snapshotter = \"overlayfs\"\n  differ = \"walking\" # why\n",
    "[plugins.\"io.containerd.transfer.v1.local\"]\n  max_concurrent_downloads = 7\n  unpack_config = []\n",
    "",
];

proptest::proptest! {
    #[test]
    fn there_and_back_nothing_is_lost(a in 0..3_usize, b in 0..2_usize, c in 0..5_usize, d in 0..4_usize, swap: bool) {
        let (first, second) = if swap { (UNPACK[d], DIFFERS[c]) } else { (DIFFERS[c], UNPACK[d]) };
        // `[plugins]` may be opened once, and before what is in it.
        let (first, second) = if second.starts_with("[plugins]") { (second, first) } else { (first, second) };
        let text = format!("version = 2\n{}{}{first}{second}", ROOT[a], PROXIES[b]);
        let read = |text: &str| text.parse::<toml::Table>().unwrap();
        let differs = read(&text).get("plugins").and_then(|plugins| plugins.get(DIFF)?.get("default")?.as_array().cloned());
        let mut wanted = wanted();
        for differ in differs.iter().flatten().filter_map(toml::Value::as_str).filter(|differ| *differ != "walking") {
            wanted.differs.insert(1, differ.to_owned());
        }
        let pattern = "/etc/containerd/conf.d/99-pullgate*.toml";
        let after = import(&put(&text, &wanted, &ALL).unwrap(), pattern).unwrap();
        proptest::prop_assert_eq!(&import(&put(&after, &wanted, &ALL).unwrap(), pattern).unwrap(), &after);
        let after_read = read(&after);
        let entries = after_read["plugins"][TRANSFER]["unpack_config"].as_array().unwrap();
        proptest::prop_assert!(entries.iter().all(|entry| entry["differ"].as_str() == Some("pullgate-transfer")));
        let back = undone(&after, Some(&text), Some(pattern)).unwrap().unwrap();
        proptest::prop_assert_eq!(read(&back), read(&text), "{}", after);
        for comment in ["# site", "# ours", "# first", "# why"] {
            proptest::prop_assert_eq!(text.contains(comment), after.contains(comment), "{}", after);
        }
    }
}

mod handlers {
    use std::path::PathBuf;

    use super::*;
    use crate::node::{dump::Dump, lines};

    const SPEC: &str = "/etc/pullgate/base-spec.json";
    const BESIDE: &str = "/etc/pullgate/base-spec-gpu.json";
    const MAIN: &str = r#"version = 2
[plugins."io.containerd.grpc.v1.cri".containerd]
  default_runtime_name = "gpu"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.gpu] # theirs
    runtime_type = "io.containerd.runc.v2"
    base_runtime_spec = "/etc/own.json" # as ever
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.gpu.options]
      SystemdCgroup = true
"#;
    /// As containerd prints it where its files say nothing.
    const DEFAULT: &str = r#"
[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.runc]
base_runtime_spec = ''
runtime_type = 'io.containerd.runc.v2'
sandbox_mode = 'podsandbox'
pod_annotations = []
[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.runc.options]
SystemdCgroup = false
BinaryName = ""
"#;

    fn stand_for() -> StandFor {
        [(PathBuf::from(SPEC), None), (PathBuf::from(BESIDE), Some("/etc/own.json".into()))].into()
    }

    /// The handlers of a dump, each with a base spec of ours.
    fn with(dump: &str) -> Wanted {
        let mut handlers = Dump::parse(dump).unwrap().runtime_handlers();
        for handler in &mut handlers {
            handler.base_spec = Some(if handler.name == "gpu" { BESIDE.into() } else { SPEC.into() });
        }
        Wanted { handlers, ..wanted() }
    }

    fn since<'a>(original: &'a str, written: &'a str) -> Since<'a> {
        Since { original: Some(original), written: Some(written), pattern: None }
    }

    fn read(text: &str) -> toml::Table {
        text.parse().unwrap()
    }

    #[test]
    fn a_section_that_is_there_only_gets_the_key() {
        let after = put(MAIN, &with(MAIN), &Part::ALL).unwrap();
        assert!(after.contains("base_runtime_spec = \"/etc/pullgate/base-spec-gpu.json\" # as ever"), "{after}");
        assert_eq!(after.replace(BESIDE, "/etc/own.json").find(MAIN), Some(0), "{after}");
        assert_eq!(put(&after, &with(MAIN), &Part::ALL).unwrap(), after, "twice is once");
        assert_eq!(take_out(&after, since(MAIN, &after), &stand_for()).unwrap().unwrap(), MAIN);
        assert!(has_section(MAIN, Part::Handlers) && !has_section("version = 2\n", Part::Handlers));
    }

    #[test]
    fn a_section_that_is_not_there_repeats_what_is_in_force() {
        for text in ["version = 2\n", DEBIAN] {
            let after = put(text, &with(DEFAULT), &[Part::Handlers]).unwrap();
            let runc = &read(&after)["plugins"]["io.containerd.grpc.v1.cri"]["containerd"]["runtimes"]["runc"];
            let expected = format!(
                "runtime_type = 'io.containerd.runc.v2'\nsandbox_mode = 'podsandbox'\nbase_runtime_spec = '{SPEC}'\n\
                 [options]\nSystemdCgroup = false\nBinaryName = ''\n"
            );
            assert_eq!(runc.as_table(), Some(&read(&expected)), "{after}");
            assert_eq!(put(&after, &with(DEFAULT), &[Part::Handlers]).unwrap(), after, "twice is once");
            assert_eq!(take_out(&after, since(text, &after), &stand_for()).unwrap().unwrap(), text);
            // Changed by somebody since, it is theirs; so it is beside another handler, without which it would be gone.
            let changed = after.replace("SystemdCgroup = false", "SystemdCgroup = true");
            let copied = format!(
                "{after}[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.other]\nruntime_type = \"x\"\n\
                 base_runtime_spec = \"{SPEC}\"\n"
            );
            for later in [changed, copied] {
                let back = take_out(&later, since(text, &after), &stand_for()).unwrap().unwrap();
                assert!(back.contains("runtimes.runc]") && !back.contains("base_runtime_spec"), "{back}");
                assert_eq!(back.contains("runtimes.other]"), later.contains("runtimes.other]"));
            }
        }
    }

    #[test]
    fn a_file_of_our_own_names_base_specs_alone() {
        for (version, plugin) in [(2, "io.containerd.grpc.v1.cri"), (3, "io.containerd.cri.v1.runtime")] {
            let dump = format!("{MAIN}{DEFAULT}").replace("grpc.v1.cri", "cri.v1.runtime").replace("version = 2", "");
            let text = drop_in(&with(&dump), version).unwrap();
            let runtimes = &read(&text)["plugins"][plugin]["containerd"]["runtimes"];
            let expected = format!("[gpu]\nbase_runtime_spec = '{BESIDE}'\n[runc]\nbase_runtime_spec = '{SPEC}'\n");
            assert_eq!(runtimes.as_table(), Some(&read(&expected)));
            let since = Since { written: Some(&text), ..Since::default() };
            assert_eq!(take_out(&text, since, &stand_for()), Ok(None));
            let shared = format!("{text}[plugins.\"{plugin}\".containerd.runtimes.other]\nruntime_type = \"x\"\n");
            let left = take_out(&shared, since, &stand_for()).unwrap().unwrap();
            let left = &read(&left)["plugins"][plugin]["containerd"]["runtimes"];
            assert_eq!(left["other"]["runtime_type"].as_str(), Some("x"));
            assert!(!left.to_string().contains("pullgate"), "{left}");
        }
    }

    #[test]
    fn copies_of_a_base_spec_elsewhere_stand_for_what_it_was_made_from() {
        let copied = MAIN.replace("/etc/own.json", BESIDE).replace("runtimes.gpu", "runtimes.copy");
        let back = lines::without_base_specs(&copied, &stand_for()).unwrap();
        assert_eq!(back, copied.replace(BESIDE, "/etc/own.json"));
        assert_eq!(lines::without_base_specs(MAIN, &stand_for()).unwrap(), MAIN);
        let plain = lines::without_base_specs(&MAIN.replace("/etc/own.json", SPEC), &stand_for()).unwrap();
        assert!(!plain.contains("base_runtime_spec"), "{plain}");
        assert_eq!(lines::base_spec_of(MAIN, "gpu"), Some("/etc/own.json".into()));
        assert_eq!((lines::base_spec_of(MAIN, "runc"), lines::base_spec_of("= 1", "gpu")), (None, None));
        assert_eq!(lines::base_specs_of(MAIN), [PathBuf::from("/etc/own.json")]);
        assert!(lines::without_base_specs("= 1", &stand_for()).is_err() && lines::base_specs_of("= 1").is_empty());
    }
}
