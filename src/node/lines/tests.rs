use super::*;

fn wanted() -> Wanted {
    let text = "[[e]]\nplatform = \"linux/amd64\"\nsnapshotter = \"overlayfs\"\ndiffer = \"pullgate-transfer\"\n";
    let table: toml::Table = text.parse().unwrap();
    let entries = table["e"].as_array().unwrap();
    Wanted {
        differs: vec!["pullgate".into(), "walking".into()],
        unpack: entries.iter().filter_map(|entry| entry.as_table().cloned()).collect(),
        verifiers: None,
    }
}

const ALL: [Part; 3] = [Part::Proxies, Part::Differs, Part::Unpack];

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
        let back = take_out(&after, Some(text), None).unwrap().unwrap_or_default();
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
    let back = take_out(&later, Some(OWN), None).unwrap().unwrap();
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
    let back = take_out(&after, Some(text), None).unwrap().unwrap();
    assert_eq!(back.parse::<toml::Table>().unwrap(), text.parse::<toml::Table>().unwrap());
}

#[test]
fn a_file_of_our_own_says_all_of_it_and_goes_whole() {
    let with = Wanted { verifiers: Some(crate::node::dump::VERIFIERS_DIRECTORY.into()), ..wanted() };
    let text = drop_in(&with, 2).unwrap();
    let read: toml::Table = text.parse().unwrap();
    assert_eq!(read["version"].as_integer(), Some(2));
    assert_eq!(read["plugins"][VERIFIERS]["bin_dir"].as_str(), Some(crate::node::dump::VERIFIERS_DIRECTORY));
    assert_eq!(take_out(&text, None, None), Ok(None));
    let shared = format!("{text}[debug]\nlevel = \"info\"\n");
    let left = take_out(&shared, None, None).unwrap().unwrap();
    assert!(left.contains("[debug]") && !left.contains("run/pullgate"), "{left}");
}

#[test]
fn one_import_is_added_once() {
    let pattern = "/etc/containerd/conf.d/99-pullgate*.toml";
    for text in [DEBIAN, "version = 3\nimports = [\"/etc/x.toml\"] # mine\n[debug]\n", ""] {
        let after = import(text, pattern).unwrap();
        assert!(head(&after).unwrap().0.contains(&pattern.to_owned()));
        assert_eq!(import(&after, pattern).unwrap(), after);
        assert_eq!(take_out(&after, Some(text), Some(pattern)).unwrap().unwrap_or_default(), text);
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
        assert!(take_out(text, None, None).is_err());
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
        let back = take_out(&after, Some(&text), Some(pattern)).unwrap().unwrap();
        proptest::prop_assert_eq!(read(&back), read(&text), "{}", after);
        for comment in ["# site", "# ours", "# first", "# why"] {
            proptest::prop_assert_eq!(text.contains(comment), after.contains(comment), "{}", after);
        }
    }
}
