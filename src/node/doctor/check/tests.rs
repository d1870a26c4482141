use std::collections::BTreeSet;

use serde_json::json;

use super::{
    super::{
        ContainerMounts, Enabled, Facts, Finding, Mount, Program, State, examine,
        sample::{MAIN, node},
    },
    ALL,
};
use crate::{
    config::{Acknowledged, PodName},
    image::Digest,
    node::{connection::Gate, dump::Dump, imports::Read, sandbox::Sandbox, start::Start, version::Version},
};

const V17: Version = Version(1, 7, 24);
const V20: Version = Version(2, 0, 3);
const V21: Version = Version(2, 1, 9);
const V23: Version = Version(2, 3, 4);

/// What is not closed, as `check state`.
fn told(facts: &Facts) -> Vec<String> {
    let findings = examine(facts);
    findings.iter().filter(|it| it.state != State::Closed).map(|it| format!("{} {}", it.check, it.state)).collect()
}

fn only(facts: &Facts) -> Finding {
    let mut findings = examine(facts);
    findings.retain(|finding| finding.state != State::Closed);
    assert_eq!(findings.len(), 1, "{findings:#?}");
    findings.remove(0)
}

#[test]
fn a_node_in_order_is_closed_in_every_check() {
    for version in [V17, V21, V23] {
        assert_eq!(told(&node(version)), Vec::<String>::new(), "{version}");
    }
    let seen: BTreeSet<&str> = examine(&node(V21)).iter().map(|finding| finding.check).collect();
    assert_eq!(seen, ALL.iter().map(|check| check.id).collect());
    let unseen = |id: &&str| id.starts_with("verifier") || *id == "cri-local-pull";
    let old: BTreeSet<&str> = examine(&node(V17)).iter().map(|finding| finding.check).collect();
    assert_eq!(old, ALL.iter().map(|check| check.id).filter(|id| !unseen(id)).collect());
}

#[test]
fn a_node_that_is_not_connected_is_told_once() {
    let mut facts = node(V21);
    let configured = facts.configured.as_mut().unwrap();
    configured.dump =
        Dump::parse("[plugins.'io.containerd.service.v1.diff-service']\ndefault = ['walking']\n").unwrap();
    let finding = only(&facts);
    assert_eq!((finding.check, finding.state), ("connected", State::Open));
    assert_eq!(finding.mend.as_deref(), Some("pullgate enable --restart"));
    let mut old = node(V17);
    old.configured.as_mut().unwrap().version = Version(1, 7, 3);
    assert!(examine(&old)[0].what.contains("knows no diff proxies"));
}

/// Every single change of containerd's configuration that leads around a gate, and where it is said to be.
#[test]
fn each_way_around_is_named_with_its_line() {
    const DIFFERS: &str = "default = [\"pullgate\", \"walking\"]";
    let images = "snapshotter = \"overlayfs\"\ndisable";
    for (version, from, to, expected, words, line) in [
        (V17, DIFFERS, "default = [\"walking\"]", "diff-service OPEN", "and not pullgate", 9),
        (V21, DIFFERS, "default = [\"walking\", \"pullgate\"]", "diff-service OPEN", "what walking applies", 9),
        (V21, DIFFERS, "default = [\"pullgate\", \"pullgate-transfer\"]", "diff-loop warning", "a loop", 9),
        (V17, "/run/pullgate/diff.sock", "/run/x.sock", "diff-proxies OPEN", "leads to /run/x.sock", 4),
        (V21, "differ = \"pullgate-transfer\"", "differ = \"walking\"", "transfer-unpack OPEN", "with walking", 13),
        (V21, "differ = \"pullgate-transfer\"", "", "transfer-unpack OPEN", "names no differ: containerd unpacks", 10),
        (V17, "differ = \"pullgate-transfer\"", "", "transfer-unpack OPEN", "picks one at random", 10),
        (V20, "differ = \"pullgate-transfer\"", "", "transfer-unpack OPEN", "picks one at random", 10),
        (V21, "max_verifiers = 10", "max_verifiers = 0", "verifier-order OPEN", "no verifier is run", 16),
        (V21, "timeout = \"10s\"", "timeout = \"5s\"", "verifier-timeout warning", "waits 5 s", 17),
        (V21, "timeout = \"10s\"", "timeout = \"soon\"", "verifier-timeout unknown", "not understood", 0),
        (
            V21,
            "disabled_plugins = []",
            "disabled_plugins = [\"io.containerd.image-verifier.v1.bindir\"]",
            "verifier-plugin OPEN",
            "do not start",
            1,
        ),
        (
            V23,
            "disabled_plugins = []",
            "disabled_plugins = [\"io.containerd.image-verifier.v1.bindir\"]",
            "verifier-plugin OPEN",
            "no pull asks",
            1,
        ),
        (V21, "_pull = false", "_pull = true", "cri-local-pull warning", "use_local_image_pull = true", 24),
        (V21, "annotations = true", "annotations = false", "cri-local-pull warning", "annotations = false", 20),
        (V21, "layers = false", "layers = true", "cri-local-pull warning", "discard_unpacked_layers", 21),
        (V21, "sync_fs = false", "sync_fs = true", "cri-local-pull warning", "image_pull_with_sync_fs", 23),
        (V21, "downloads = 3", "downloads = 5", "cri-local-pull warning", "max_concurrent_downloads = 5", 22),
        (V21, "config_path", "mirrors.a.endpoint = [\"b\"]\nx", "cri-local-pull warning", "registry.mirrors", 26),
        (V21, "config_path", "configs.a.auth = {}\nx", "cri-local-pull warning", "registry.configs", 26),
        (V21, "config_path", "auths.a.auth = \"b\"\nx", "cri-local-pull warning", "registry.auths", 26),
        (V21, "base_runtime_spec", "x", "handler-hook OPEN", "no runtime handler has the start hook", 0),
        (V17, "base_runtime_spec", "x", "handler-hook OPEN", "no runtime handler has the start hook", 0),
        (V21, "BinaryName = \"\"", "BinaryName = \"/x/runsc\"", "handler-kind warning", "runs runsc", 27),
        (V21, "io.containerd.runc.v2", "io.containerd.kata.v2", "handler-kind OPEN", "no hooks on the node", 27),
        (V21, "io.containerd.runc.v2", "own.v1", "handler-kind warning", "is not known", 27),
        (V21, images, "snapshotter = \"native\"\ndisable", "snapshotter-entry warning", "snapshotter native", 10),
    ] {
        let facts = node(version).with(from, to);
        let mut findings = examine(&facts);
        findings.retain(|it| format!("{} {}", it.check, it.state) == expected);
        assert_eq!(findings.len(), 1, "{to}: {:?}", told(&facts));
        let Finding { what, place, mend, state, .. } = &findings[0];
        assert!(what.contains(words), "{to}: {what}");
        assert_eq!(place.as_ref().and_then(|place| place.line).unwrap_or(0), line, "{to}: {what}");
        assert!(place.iter().all(|place| place.file.as_os_str() == MAIN));
        assert!(mend.is_some() || *state == State::Unknown, "{to}");
    }
}

#[test]
fn what_is_set_in_a_later_file_is_mended_there() {
    let mut facts = node(V21).with("[\"pullgate\", \"walking\"]", "[\"walking\"]");
    facts.configured.as_mut().unwrap().files.push(Read {
        path: "/etc/containerd/conf.d/zzz.toml".into(),
        text: "version = 3\n[plugins.\"io.containerd.service.v1.diff-service\"]\ndefault = [\"walking\"]\n".into(),
        imports: Vec::new(),
        version: Some(3),
    });
    let finding = only(&facts);
    assert_eq!(finding.place.unwrap().to_string(), "/etc/containerd/conf.d/zzz.toml:3");
    assert!(finding.mend.unwrap().starts_with("take `default` out of /etc/containerd/conf.d/zzz.toml, then"));
}

#[test]
fn without_a_list_containerd_unpacks_with_its_own() {
    const LIST: &str = "[[plugins.\"io.containerd.transfer.v1.local\".unpack_config]]";
    for (version, word) in [(V17, "at random"), (V20, "at random"), (V21, "without asking"), (V23, "without asking")] {
        let facts = node(version).with(LIST, "[x]");
        let finding = examine(&facts).remove(0);
        assert_eq!(finding.check, "transfer-unpack");
        assert!(finding.what.contains(word), "{}", finding.what);
    }
}

#[test]
fn what_does_not_run_is_not_taken_for_closed() {
    let facts = node(V21).plugin("io.containerd.differ.v1", "pullgate", Some("no such file"));
    assert!(only(&facts).what.contains("no such file"));
    for (kind, id, check) in [
        ("io.containerd.differ.v1", "pullgate-transfer", "diff-proxies OPEN"),
        ("io.containerd.image-verifier.v1", "bindir", "verifier-plugin OPEN"),
    ] {
        let mut facts = node(V21);
        facts
            .running
            .as_mut()
            .unwrap()
            .loaded
            .retain(|plugin| (plugin.kind.as_str(), plugin.id.as_str()) != (kind, id));
        assert_eq!(told(&facts), [check]);
    }
    let facts = node(V21).plugin("io.containerd.transfer.v1", "local", Some("no differ"));
    assert_eq!(told(&facts), ["transfer-unpack warning"]);
    let mut facts = node(V21);
    facts.running.as_mut().unwrap().unread = vec![MAIN.into()];
    assert_eq!(told(&facts), ["configuration-not-read OPEN"]);
}

#[test]
fn the_directory_of_verifiers_is_looked_through() {
    let of = |change: fn(&mut super::super::VerifierDirectory)| {
        let mut facts = node(V21);
        change(facts.verifiers.as_mut().unwrap().as_mut().unwrap());
        facts
    };
    let program = |name: &str, runs| Program { name: name.into(), ours: false, runs };
    let finding = only(&of(|directory| directory.exists = false));
    assert!(finding.check == "verifier-directory" && finding.what.contains("is not there: every image passes"));
    let finding = only(&of(|directory| directory.programs.clear()));
    assert!(finding.state == State::Open && finding.what.contains("is empty"), "{finding:?}");
    let mut foreign = of(|directory| directory.path = "/opt/x".into());
    foreign.verifiers.as_mut().unwrap().as_mut().unwrap().programs = vec![program("vendor", true)];
    let finding = only(&foreign);
    assert!(finding.what.contains("1 other verifiers, and not pullgate's"), "{finding:?}");
    assert_eq!(finding.mend.as_deref(), Some("pullgate enable --restart"));
    let named = of(|directory| directory.programs[0].ours = false);
    assert!(only(&named).what.contains("is not pullgate's program"));
    let finding = only(&of(|directory| directory.programs[0].runs = false));
    assert!(finding.state == State::Warning && finding.what.contains("every pull fails"), "{finding:?}");
    let finding = only(&of(|directory| directory.writable.push("/opt".into())));
    assert!((finding.check, finding.state) == ("verifier-writable", State::Open));
    let mut beside = of(|_| {});
    beside.verifiers.as_mut().unwrap().as_mut().unwrap().programs.insert(0, program("README", false));
    assert!(only(&beside).what.contains("is no program"));

    // containerd runs them in the order of their names.
    let mut many = node(V21).with("max_verifiers = 10", "max_verifiers = 2");
    let programs = &mut many.verifiers.as_mut().unwrap().as_mut().unwrap().programs;
    programs.insert(0, program("a", true));
    assert_eq!(told(&many), Vec::<String>::new());
    let programs = &mut many.verifiers.as_mut().unwrap().as_mut().unwrap().programs;
    programs.insert(1, program("b", true));
    let finding = only(&many);
    assert!(finding.check == "verifier-order" && finding.what.contains("first 2 of 3"), "{finding:?}");
    assert_eq!(finding.mend.as_deref(), Some("set max_verifiers = 10 or more"));
    let all = many.with("max_verifiers = 2", "max_verifiers = -1");
    assert_eq!(told(&all), Vec::<String>::new());
}

#[test]
fn cri_of_2_0_pulls_by_itself() {
    let finding = only(&node(V20));
    assert!(finding.check == "cri-local-pull" && finding.what.contains("CRI of containerd 2.0.3"), "{finding:?}");
}

#[test]
fn snapshotters_that_need_no_unpack_are_named() {
    let proxy = "[proxy_plugins.stargz]\ntype = \"snapshot\"\naddress = \"/run/stargz.sock\"\n";
    let finding = only(&node(V21).and(proxy));
    assert!(finding.state == State::Open && finding.what.contains("may be chosen by any client"), "{finding:?}");
    assert_eq!(finding.place.unwrap().line, Some(32));
    let other = only(&node(V21).and(&proxy.replace("stargz", "own")));
    assert!(other.state == State::Warning, "{other:?}");
    let annotated = proxy.replace("stargz", "own") + "exports = { enable_remote_snapshot_annotations = \"true\" }\n";
    assert_eq!(only(&node(V21).and(&annotated)).state, State::Open);
    let mut used = node(V21).and(proxy).plugin("io.containerd.snapshotter.v1", "stargz", None);
    used.containers.as_mut().unwrap().snapshotters.insert("stargz".into(), 1);
    assert_eq!(told(&used), ["remote-snapshotter OPEN", "snapshotter-entry warning"]);

    let erofs = |version| {
        let facts = node(version).plugin("io.containerd.snapshotter.v1", "erofs", None);
        facts.with("snapshotter = \"overlayfs\"\ndisable", "snapshotter = \"erofs\"\ndisable")
    };
    assert!(!told(&erofs(V23)).contains(&"staged-layers OPEN".to_owned()));
    assert!(told(&erofs(Version(2, 4, 0))).contains(&"staged-layers OPEN".to_owned()));
    let unused = node(Version(2, 4, 0)).plugin("io.containerd.snapshotter.v1", "erofs", None);
    assert_eq!(told(&unused), Vec::<String>::new());
}

#[test]
fn each_runtime_handler_is_looked_at() {
    let gpu = "[plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.gpu]\nruntime_type = \
               \"io.containerd.runc.v2\"\n";
    let facts = node(V21).and(gpu);
    let finding = examine(&facts).into_iter().find(|finding| finding.check == "handler-hook").unwrap();
    assert!(finding.state == State::Open && finding.what.contains("handler gpu has no base spec"), "{finding:?}");
    assert_eq!(finding.place.unwrap().line, Some(32));
    // Without the hook everywhere, what comes out of a checkpoint is not refused either.
    assert!(told(&facts).contains(&"checkpoint-restore OPEN".to_owned()));
    let off = "[plugins.\"io.containerd.cri.v1.runtime\"]\nenable_experimental_restore_via_create = ";
    assert!(!told(&facts.clone().and(&format!("{off}false\n"))).contains(&"checkpoint-restore OPEN".to_owned()));
    let on = facts.and(&format!("{off}true\n"));
    let finding = examine(&on).into_iter().find(|finding| finding.check == "checkpoint-restore").unwrap();
    assert_eq!((finding.state, finding.place.unwrap().line), (State::Open, Some(35)));

    let ours = json!({ "path": "/usr/libexec/pullgate/verifiers/pullgate-verifier", "args": ["x", "create-runtime"] });
    let verifier = json!({ "path": "/usr/libexec/pullgate/verifiers/pullgate-verifier" });
    for (spec, expected) in [
        (json!({}), "has no start hook"),
        (json!({ "hooks": { "createRuntime": null } }), "has no start hook"),
        (json!({ "hooks": { "createRuntime": [verifier] } }), "has no start hook"),
        (json!({ "hooks": { "prestart": [ours] } }), "has no start hook"),
        (json!({ "hooks": 1 }), "can be read in two ways"),
    ] {
        let finding = examine(&with_base_spec(Ok(Some(spec.to_string())))).remove(0);
        assert!(finding.state == State::Open && finding.what.contains(expected), "{finding:?}");
        assert_eq!(finding.mend.as_deref(), Some("pullgate enable --start --restart"));
    }
    let after = json!({ "hooks": { "createRuntime": [{ "path": "/x" }, ours] } });
    assert_eq!(told(&with_base_spec(Ok(Some(after.to_string())))), Vec::<String>::new());
    assert_eq!(told(&with_base_spec(Ok(None))), ["handler-hook warning"]);
    assert_eq!(told(&with_base_spec(Err("denied".to_owned()))), ["handler-hook unknown"]);
}

fn with_base_spec(text: Result<Option<String>, String>) -> Facts {
    let mut facts = node(V23);
    facts.base_specs.values_mut().for_each(|it| *it = text.clone());
    facts.configured.as_mut().unwrap().version = Version(2, 4, 0);
    facts
}

#[test]
fn base_specs_are_as_enable_would_write_them() {
    let with = |gate: Gate| {
        let mut facts = node(V21);
        facts.start = Ok(Start(vec![("runc".into(), gate)]));
        facts
    };
    let finding = only(&with(Gate::Drifted("asks, but /etc/pullgate/base-spec.json was edited".to_owned())));
    assert!(finding.check == "base-spec" && finding.what.ends_with("was edited"), "{finding:?}");
    assert_eq!(
        (finding.state, finding.place.unwrap().to_string().as_str()),
        (State::Warning, "/etc/pullgate/base-spec.json")
    );
    assert_eq!(told(&with(Gate::NotLive)), ["base-spec OPEN"]);
    assert_eq!(told(&with(Gate::StillAsked)), ["base-spec unknown"]);
    let mut unknown = node(V21);
    unknown.start = Err("lost".to_owned());
    assert_eq!(told(&unknown), ["base-spec unknown"]);
    // Without pods nothing of this is asked.
    let mut no_pods = with(Gate::NotLive).with("base_runtime_spec", "x");
    no_pods = no_pods.plugin("io.containerd.grpc.v1", "cri", Some("no transfer service"));
    assert_eq!(told(&no_pods), Vec::<String>::new());
    no_pods.running.as_mut().unwrap().loaded.retain(|plugin| plugin.id != "cri");
    assert_eq!(told(&no_pods), Vec::<String>::new());
}

#[test]
fn containers_that_reach_a_socket_are_named() {
    let with = |source: &str, canonical: &str, read_only| {
        let mut facts = node(V21);
        let mount = Mount { source: source.into(), canonical: canonical.into(), read_only };
        facts.containers.as_mut().unwrap().containers.push(ContainerMounts {
            namespace: "k8s.io".into(),
            pod: Some("shop/web-0".into()),
            name: "agent".into(),
            image: Some("reg.io/agent".parse().unwrap()),
            mounts: vec![mount],
        });
        facts
    };
    for (source, canonical, word) in [
        ("/", "/", "containerd's socket"),
        ("/run", "/run", "pullgate's sockets"),
        ("/var/run", "/run", "containerd's socket"),
        ("/var/run/containerd/containerd.sock", "/run/containerd/containerd.sock", "containerd's socket"),
        ("/run/pullgate/diff.sock", "/run/pullgate/diff.sock", "pullgate's sockets"),
        ("/mine", "/run/pullgate", "pullgate's sockets"),
        ("/run/nri", "/run/nri", "NRI"),
    ] {
        for read_only in [false, true] {
            let finding = only(&with(source, canonical, read_only));
            assert_eq!((finding.check, finding.state), ("mounted-node-paths", State::Open));
            assert!(finding.what.starts_with("container agent of pod shop/web-0 mounts"), "{}", finding.what);
            assert!(finding.what.contains(word), "{source}: {}", finding.what);
        }
    }
    for path in ["/var", "/var/lib/pullgate", "/var/lib/containerd/io.containerd.content.v1.content", "/etc/pullgate"] {
        assert_eq!(told(&with(path, path, false)), ["mounted-node-paths OPEN"], "{path}");
        assert_eq!(told(&with(path, path, true)), Vec::<String>::new(), "{path}");
    }
    let sandbox = "/var/lib/containerd/io.containerd.grpc.v1.cri/sandboxes/a/hostname";
    for path in [sandbox, "/run/containerd/io.containerd.grpc.v1.cri/sandboxes/a/shm", "/var/lib/kubelet/x", "/runs"] {
        assert_eq!(told(&with(path, path, false)), Vec::<String>::new(), "{path}");
    }
    // containerd's socket may be elsewhere, and names are chosen by whoever made the pod.
    let mut facts = with("/run/k3s", "/run/k3s", true);
    facts.socket = "/run/k3s/containerd/containerd.sock".into();
    facts.daemon.as_mut().unwrap().containerd = "/run/k3s/containerd/containerd.sock".into();
    facts.containers.as_mut().unwrap().containers[0].name = "a\u{1b}[2J\n".into();
    assert!(only(&facts).what.chars().all(|c| !c.is_control()));
    let acknowledging = |namespace: &str, pod: &str, image: &str| Acknowledged {
        namespace: namespace.into(),
        pod: PodName::Begins(pod.into()),
        image: image.parse().unwrap(),
    };
    let mut known = with("/", "/", true);
    known.acknowledged = vec![acknowledging("shop", "web-", "reg.io/agent")];
    let finding = only(&known);
    assert_eq!((finding.check, finding.state), ("mounted-node-paths", State::Warning));
    assert!(finding.what.starts_with("container agent of pod shop/web-0 mounts /: it can use"), "{}", finding.what);
    for other in [
        acknowledging("shop", "web-", "reg.io/other"),
        acknowledging("other", "web-", "reg.io/agent"),
        acknowledging("shop", "db-", "reg.io/agent"),
    ] {
        known.acknowledged = vec![other];
        assert_eq!(only(&known).state, State::Open);
    }
    known.acknowledged = vec![acknowledging("shop", "web-", "reg.io/agent")];
    for change in [
        (|container| container.pod = None) as fn(&mut ContainerMounts),
        |container| container.image = None,
        |container| container.pod = Some("shopweb-0".into()),
    ] {
        let mut changed = known.clone();
        change(&mut changed.containers.as_mut().unwrap().containers[0]);
        assert_eq!(only(&changed).state, State::Open);
    }
    // Many of them hide no other.
    let one = known.containers.as_ref().unwrap().containers[0].clone();
    let hidden = ContainerMounts { name: "hidden".into(), image: None, ..one.clone() };
    known.containers.as_mut().unwrap().containers.extend(std::iter::repeat_n(one, 100).chain([hidden]));
    assert_eq!(told(&known).iter().filter(|line| line.ends_with("OPEN")).count(), 1);
    let mut many = with("/run", "/run", false);
    let one = many.containers.as_ref().unwrap().containers[0].clone();
    many.containers.as_mut().unwrap().containers.extend(std::iter::repeat_n(one, 100));
    assert_eq!(told(&many).len(), 11);
}

#[test]
fn the_node_and_the_daemon_are_looked_at() {
    type Change = fn(&mut Facts);
    let changes: [(&str, Change); 22] = [
        ("watch-exempt warning", |facts| facts.own = Ok(vec!["buildkit".into()])),
        ("watch-bypass warning", |facts| facts.daemon.as_mut().unwrap().watch.bypasses = 1),
        ("watch-not-admitted warning", |facts| facts.daemon.as_mut().unwrap().watch.images_without_allow = 1),
        ("watch-not-admitted warning", |facts| facts.daemon.as_mut().unwrap().watch.containers_without_allow = 1),
        ("mode OPEN", |facts| facts.daemon.as_mut().unwrap().mode = "audit".into()),
        ("daemon warning", |facts| facts.daemon.as_mut().unwrap().trouble = Some("PG402 policy.toml:3".into())),
        ("daemon warning", |facts| facts.daemon.as_mut().unwrap().containerd_version = Err("gone".into())),
        ("daemon warning", |facts| facts.daemon.as_mut().unwrap().boot_problems = vec!["x".into()]),
        ("daemon-sockets warning", |facts| facts.units.as_mut().unwrap().sockets_active = false),
        ("daemon-sockets warning", |facts| facts.units.as_mut().unwrap().sockets_enabled = false),
        ("clock warning", |facts| facts.daemon.as_mut().unwrap().clock = Some("1970".into())),
        ("boot-list warning", |facts| {
            let digest = Digest::of(b"pause");
            facts.daemon.as_mut().unwrap().sandbox = Sandbox::NotListed { image: "pause".into(), digest };
        }),
        ("audit-entries warning", |facts| facts.daemon.as_mut().unwrap().audit_failed = 1),
        ("audit-entries warning", |facts| facts.daemon.as_mut().unwrap().evidence_lost = 1),
        ("journal-rate-limit warning", |facts| facts.units.as_mut().unwrap().rate_burst = 10_000),
        ("journal-rate-limit warning", |facts| facts.units.as_mut().unwrap().rate_interval = "30s".into()),
        ("configuration-drift warning", |facts| {
            facts.enabled = Ok(Some(Enabled { changed: vec![MAIN.into()] }));
        }),
        ("other-containerd OPEN", |facts| facts.running.as_mut().unwrap().others = vec!["process 7".into()]),
        ("other-address warning", |facts| facts.socket = "/run/other.sock".into()),
        ("other-engine warning", |facts| facts.foreign.docker_in_containerd = Some(Ok(false))),
        ("other-engine warning", |facts| facts.foreign.programs = vec!["buildkitd".into()]),
        ("nri-socket OPEN", |facts| facts.nri_open = Ok(Some("/run/nri".into()))),
    ];
    for (expected, change) in changes {
        let mut facts = node(V21);
        change(&mut facts);
        let finding = only(&facts);
        assert_eq!(format!("{} {}", finding.check, finding.state), expected, "{finding:?}");
        assert!(finding.mend.is_some(), "{expected}");
    }
    let mut broken = node(V21);
    broken.own = Err("config.toml:1: mdoe".into());
    assert_eq!(told(&broken), ["watch-exempt unknown", "own-configuration warning"]);
    let mut early = node(V21);
    early.daemon.as_mut().unwrap().watch.last_walk = None;
    assert_eq!(told(&early), ["watch-not-admitted unknown"]);
    let mut facts = node(V21);
    facts.foreign.docker_in_containerd = Some(Ok(true));
    assert_eq!(told(&facts), Vec::<String>::new());
    facts.enabled = Ok(None);
    assert_eq!(told(&facts), Vec::<String>::new());
}

#[test]
fn what_could_not_be_looked_at_is_never_closed() {
    type Change = fn(&mut Facts);
    let lost = || "it does not answer".to_owned();
    let changes: [(Change, &[&str]); 8] = [
        (
            |facts| facts.configured = Err("lost".into()),
            &["connected", "diff-service", "handler-hook", "verifier-order"],
        ),
        (|facts| facts.running = Err("lost".into()), &["configuration-not-read", "diff-proxies", "verifier-plugin"]),
        (|facts| facts.verifiers = Err("lost".into()), &["verifier-directory", "verifier-writable"]),
        (|facts| facts.enabled = Err("lost".into()), &["configuration-drift"]),
        (|facts| facts.daemon = Err("lost".into()), &["daemon", "mode", "clock", "audit-entries"]),
        (|facts| facts.units = Err("lost".into()), &["daemon-sockets", "journal-rate-limit"]),
        (|facts| facts.containers = Err("lost".into()), &["mounted-node-paths"]),
        (|facts| facts.foreign.docker_in_containerd = Some(Err("lost".into())), &["other-engine"]),
    ];
    for (change, checks) in changes {
        let mut facts = node(V21);
        change(&mut facts);
        let findings = examine(&facts);
        for check in checks {
            let states: Vec<State> = findings.iter().filter(|it| it.check == *check).map(|it| it.state).collect();
            assert_eq!(states, [State::Unknown], "{check}");
        }
        assert!(findings.iter().all(|it| it.state != State::Open), "{:?}", told(&facts));
    }
    let nothing = Facts {
        configured: Err(lost()),
        running: Err(lost()),
        verifiers: Err(lost()),
        enabled: Err(lost()),
        daemon: Err(lost()),
        units: Err(lost()),
        nri_open: Err(lost()),
        containers: Err(lost()),
        ..node(V21)
    };
    let closed: Vec<&str> =
        examine(&nothing).iter().filter(|it| it.state == State::Closed).map(|it| it.check).collect();
    assert_eq!(closed, ["watch-exempt", "other-engine", "own-configuration"]);
}

#[test]
fn every_check_is_in_the_documentation_and_no_other() {
    let text = include_str!("../../../../docs/doctor.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let mut documented: Vec<&str> = rows.map(|(id, _)| id).filter(|id| !STATES.contains(id)).collect();
    documented.sort_unstable();
    let mut ids: Vec<&str> = ALL.iter().map(|check| check.id).collect();
    ids.sort_unstable();
    assert_eq!(documented, ids);
}

const STATES: [&str; 4] = ["OPEN", "unknown", "warning", "closed"];
