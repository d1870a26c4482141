mod account;
mod gate;
mod label;
mod node;
mod scope;

use std::{sync::atomic::Ordering, time::Duration};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use self::{
    gate::Gate,
    node::{Node, SANDBOX},
};
use super::*;
use crate::{
    containerd::fake::{Answer, FakeContainerd},
    gate::questions::framed,
    image::Digest,
    selftest,
};

const NAME: &str = "reg.io/prod/app:1";

fn by_name(images: &str) -> String {
    format!("[[rule]]\nname = \"open\"\nimages = [\"{images}\"]\nrequire = \"insecure-accept-anything\"\n")
}

fn exempt(digest: &Digest) -> String {
    format!("[[exempt]]\nname = \"known\"\ndigests = [\"{digest}\"]\n")
}

fn usual(_: &mut serde_json::Value) {}

#[tokio::test]
async fn an_admitted_image_starts_and_the_entry_says_which_container_of_which_pod() {
    let mut node = Node::default();
    let image = node.image(&["a", "b"], "app", "");
    node.pod_container("c1", &image, NAME, usual);
    let gate = Gate::new(node, &exempt(&image.manifest)).await;
    assert!(gate.ask("c1").await.starts_with("ALLOW "));
    let entry = gate.entry();
    for field in [
        "PULLGATE_GATE\n\u{5}\0\0\0\0\0\0\0start\n",
        "PULLGATE_CONTAINER\n\u{2}\0\0\0\0\0\0\0c1\n",
        "PULLGATE_POD_NAMESPACE\n\u{4}\0\0\0\0\0\0\0shop\n",
        "PULLGATE_POD\n\u{3}\0\0\0\0\0\0\0pod\n",
        &format!("PULLGATE_IMAGE\n\u{11}\0\0\0\0\0\0\0{NAME}\n"),
    ] {
        assert!(entry.contains(field), "{field:?}: {entry:?}");
    }
    assert!(!entry.contains("forged"));
    // What was learned makes the next one cheap.
    let before = gate.containerd.asked().len();
    assert!(gate.ask("c1").await.starts_with("ALLOW "));
    assert_eq!(gate.containerd.asked()[before..], ["Containers/Get", "Snapshots/Stat"]);
    assert_eq!(gate.start.counts().allowed.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn without_an_entry_nothing_starts() {
    let mut node = Node::default();
    let image = node.image(&["a"], "app", "");
    node.pod_container("c1", &image, NAME, usual);
    let gate = Gate::new(node, &exempt(&image.manifest)).await;
    std::fs::remove_file(gate._folder.path().join("journal")).unwrap();
    let answer = gate.ask("c1").await;
    assert!(answer.starts_with("RETRY PG404"), "{answer}");
}

#[tokio::test]
async fn the_configuration_decides_and_not_the_layers() {
    let mut node = Node::default();
    let good = node.image(&["a", "b"], "good", "");
    // Another configuration over the same layers, over the first of them, and another manifest of the same configuration.
    let swapped = node.image(&["a", "b"], "evil", "");
    let prefix = node.image(&["a"], "good", "");
    let twin = node.image(&["a", "b"], "good", "twin");
    assert_eq!((twin.config, twin.manifest == good.manifest), (good.config, false));
    for (id, image) in [("good", &good), ("swapped", &swapped), ("prefix", &prefix), ("twin", &twin)] {
        node.pod_container(id, image, NAME, usual);
    }
    let gate = Gate::new(node, &exempt(&good.manifest)).await;
    for (id, expected) in [("good", "ALLOW "), ("swapped", "DENY PG201"), ("prefix", "DENY PG201"), ("twin", "ALLOW ")]
    {
        let answer = gate.ask(id).await;
        assert!(answer.starts_with(expected), "{id}: {answer}");
    }
}

#[tokio::test]
async fn an_index_admits_what_it_lists() {
    let mut node = Node::default();
    let image = node.image(&["a"], "app", "");
    let index = node.index(&image, "");
    node.pod_container("c1", &image, NAME, usual);
    let gate = Gate::new(node, &exempt(&index)).await;
    assert!(gate.ask("c1").await.starts_with("ALLOW "));
}

#[tokio::test]
async fn the_files_must_be_those_of_the_image() {
    let mut node = Node::default();
    let image = node.image(&["a", "b"], "app", "");
    let [below, other] = [Digest::of(b"a"), Digest::of(b"other")];
    for (id, parent) in [("below", Some(&below)), ("other", Some(&other)), ("empty", None)] {
        node.pod_container(id, &image, NAME, usual);
        node.snapshot(id, parent);
    }
    node.pod_container("none", &image, NAME, |noted| noted["Metadata"]["ID"] = json!("x"));
    let empty = node.image(&[], "empty", "");
    node.pod_container("no-layers", &empty, NAME, usual);
    node.pod_container("a-layer", &empty, NAME, usual);
    node.snapshot("a-layer", Some(&below));
    let rules = format!("{}{}", exempt(&image.manifest), exempt(&empty.manifest).replace("known", "empty"));
    node.forget_snapshot("none");
    let gate = Gate::new(node, &rules).await;
    for id in ["below", "other", "empty", "none", "a-layer"] {
        let answer = gate.ask(id).await;
        assert!(answer.starts_with("DENY PG109"), "{id}: {answer}");
    }
    assert!(gate.ask("no-layers").await.starts_with("ALLOW "));
}

#[tokio::test]
async fn the_name_that_the_pod_says_selects_the_rule_and_only_containerd_proves_it() {
    let mut node = Node::default();
    let image = node.image(&["a"], "app", "");
    node.fetched(&image.manifest, "reg.io", "dev/app");
    node.record("reg.io/dev/app:1", &image.manifest);
    let digest = image.manifest.to_string();
    for (id, called) in [
        ("dev", "reg.io/dev/app:1"),
        ("by-digest", &format!("REG.io:443/dev/app@{digest}")),
        ("prod", "reg.io/prod/app:1"),
        ("other", "other.io/dev/app:1"),
        ("nonsense", "reg.io/dev/app@sha512:00"),
        ("identifier", &image.config.to_string()),
    ] {
        node.pod_container(id, &image, called, usual);
    }
    let unsaid =
        |noted: &mut serde_json::Value| noted["Metadata"]["Config"]["image"]["user_specified_image"] = json!("");
    node.pod_container("unsaid", &image, "", unsaid);
    node.pod_container("asked", &image, "", |noted| {
        unsaid(noted);
        noted["Metadata"]["Config"]["image"]["image"] = json!("reg.io/dev/app:1");
    });
    let mut retagged = node.clone();
    retagged.record("reg.io/prod/app:1", &image.manifest);
    retagged.record(&image.config.to_string(), &image.manifest);
    let rules = format!(
        "{}[[rule]]\nname = \"prod\"\nimages = [\"reg.io/prod/**\", \"docker.io/**\"]\nrequire = \"deny\"\n",
        by_name("reg.io/dev/**")
    );
    let gate = Gate::new(node, &rules).await;
    for (id, expected) in [
        ("dev", "ALLOW "),
        ("by-digest", "ALLOW "),
        ("unsaid", "ALLOW "),
        ("asked", "ALLOW "),
        ("prod", "DENY PG202 rule \"prod\""),
        ("other", "DENY PG201 rule \"default\""),
        ("nonsense", "DENY PG201 rule \"default\""),
        ("identifier", "ALLOW "),
    ] {
        let answer = gate.ask(id).await;
        assert!(answer.starts_with(expected), "{id}: {answer}");
    }
    // By its identifier alone, it has to be admitted under every name that it has.
    let gate = Gate::new(retagged, &rules).await;
    assert!(gate.ask("dev").await.starts_with("ALLOW "));
    for id in ["unsaid", "identifier"] {
        let answer = gate.ask(id).await;
        assert!(answer.starts_with("DENY PG202 rule \"prod\""), "{id}: {answer}");
    }
    // A name that only a record claims admits nothing by itself.
    let mut claimed = Node::default();
    let image = claimed.image(&["a"], "app", "");
    claimed.record("reg.io/dev/app:1", &image.manifest);
    claimed.pod_container("dev", &image, "reg.io/dev/app:1", usual);
    let gate = Gate::new(claimed, &rules).await;
    let answer = gate.ask("dev").await;
    assert!(answer.starts_with("DENY PG203"), "{answer}");
}

#[tokio::test]
async fn an_image_that_is_mounted_is_judged_as_well() {
    let mut node = Node::default();
    let (image, volume, evil) =
        (node.image(&["a"], "app", ""), node.image(&["v"], "v", ""), node.image(&["e"], "e", ""));
    let index = node.index(&volume, "");
    let place = |target: &Digest| format!("/run/image-volumes/{SANDBOX}/{}", target.hex());
    for (target, files) in [(&volume.manifest, &volume), (&index, &volume), (&evil.manifest, &evil)] {
        node.snapshot(&place(target), files.chain.as_ref());
    }
    let odd = Digest::of(b"odd");
    node.snapshot(&place(&odd), volume.chain.as_ref());
    let swapped = node.image(&["e"], "swapped", "");
    node.snapshot(&place(&swapped.manifest), volume.chain.as_ref());
    let mut with = |id: &str, path: String| {
        node.pod_container(id, &image, NAME, |noted| {
            let mount = json!({ "host_path": path, "image": { "image": "reg.io/vol:1" } });
            noted["Metadata"]["Config"]["mounts"] = json!([{ "host_path": "/data" }, mount]);
        });
    };
    with("manifest", place(&volume.manifest));
    with("index", place(&index));
    with("below", format!("{}/a/b", place(&index)));
    with("evil", place(&evil.manifest));
    with("gone", place(&odd));
    with("swapped", place(&swapped.manifest));
    with("no-snapshot", place(&Digest::of(b"none")));
    with("elsewhere", "/run/image-volumes/x".to_owned());
    with("relative", place(&volume.manifest).trim_start_matches('/').to_owned());
    let rules = format!("{}{}", exempt(&image.manifest), exempt(&volume.manifest).replace("known", "volume"));
    let gate = Gate::new(node, &rules).await;
    for (id, expected) in [
        ("manifest", "ALLOW "),
        ("index", "ALLOW "),
        ("below", "ALLOW "),
        ("evil", "DENY PG201 rule \"default\": no rule is about reg.io/vol"),
        ("gone", "RETRY PG307"),
        ("swapped", "DENY PG109"),
        ("no-snapshot", "DENY PG109"),
        ("elsewhere", "RETRY PG413"),
        ("relative", "RETRY PG413"),
    ] {
        let answer = gate.ask(id).await;
        assert!(answer.starts_with(expected), "{id}: {answer}");
    }
    gate.ask("evil").await;
    assert!(gate.entry().contains("PULLGATE_IMAGE\n\u{c}\0\0\0\0\0\0\0reg.io/vol:1\n"));
}

#[tokio::test]
async fn a_checkpoint_is_not_restored_and_a_record_that_cannot_be_read_starts_nothing() {
    let mut node = Node::default();
    let image = node.image(&["a"], "app", "");
    let mut with = |id: &str, change: &dyn Fn(&mut serde_json::Value)| node.pod_container(id, &image, NAME, change);
    with("restored", &|noted| noted["Metadata"]["Config"]["annotations"]["checkpointImage"] = json!(""));
    with("version", &|noted| noted["Version"] = json!("v2"));
    with("no-config", &|noted| noted["Metadata"]["ImageRef"] = json!("reg.io/x:1"));
    with("own-sandbox", &|noted| noted["Metadata"]["SandboxID"] = json!("version"));
    with("no-sandbox", &|noted| noted["Metadata"]["SandboxID"] = json!("shim"));
    let gate = Gate::new(node, &exempt(&image.manifest)).await;
    for (id, expected) in [
        ("restored", "DENY PG110"),
        ("version", "RETRY PG413"),
        ("no-config", "RETRY PG413"),
        ("own-sandbox", "RETRY PG413"),
        ("no-sandbox", "ALLOW "),
        ("absent", "DENY PG412"),
    ] {
        let answer = gate.ask(id).await;
        assert!(answer.starts_with(expected), "{id}: {answer}");
    }
}

#[tokio::test]
async fn content_is_what_its_digest_says_or_nothing() {
    let mut node = Node::default();
    let image = node.image(&["a"], "app", "");
    node.pod_container("c1", &image, NAME, usual);
    let (mut other_manifest, mut other_config) = (node.clone(), node.clone());
    other_manifest.corrupt(&image.manifest);
    other_config.corrupt(&image.config);
    let (mut no_manifest, mut no_config) = (node.clone(), node);
    no_manifest.forget(&image.manifest);
    no_config.forget(&image.config);
    for (node, expected) in [
        (other_manifest, "DENY PG108"),
        (other_config, "DENY PG108"),
        (no_manifest, "DENY PG111"),
        (no_config, "RETRY PG307"),
    ] {
        let answer = Gate::new(node, &exempt(&image.manifest)).await.ask("c1").await;
        assert!(answer.starts_with(expected), "{answer}");
    }
}

#[tokio::test]
async fn a_container_of_another_client_is_what_its_name_leads_to() {
    let mut node = Node::default();
    let (image, other) = (node.image(&["a", "b"], "app", ""), node.image(&["x"], "other", ""));
    let index = node.index(&image, "");
    node.record("reg.io/a:1", &index);
    node.record("reg.io/moved:1", &other.manifest);
    for (id, called) in [("named", "reg.io/a:1"), ("moved", "reg.io/moved:1"), ("gone", "reg.io/gone:1"), ("none", "")]
    {
        node.container(id, called, None);
        node.snapshot(id, image.chain.as_ref());
    }
    let gate = Gate::new(node, &exempt(&image.manifest)).await;
    for (id, expected) in [("named", "ALLOW "), ("moved", "DENY PG109"), ("gone", "DENY PG111"), ("none", "DENY PG111")]
    {
        let answer = gate.ask(id).await;
        assert!(answer.starts_with(expected), "{id}: {answer}");
    }
}

#[tokio::test]
async fn what_nothing_here_decides_about_is_refused_at_once_and_verified_behind() {
    let registry = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = registry.local_addr().unwrap().to_string();
    let mut node = Node::default();
    let image = node.image(&["a"], "app", "");
    node.fetched(&image.manifest, "127.0.0.1", "prod/app");
    node.pod_container("c1", &image, &format!("{host}/prod/app:1"), usual);
    let rules = format!("[[rule]]\nname = \"prod\"\nimages = [\"{host}/prod/**\"]\nrequire = {{ all = [\"ci\"] }}\n");
    let gate = Gate::new(node, &rules).await;
    let begun = Instant::now();
    let answer = gate.ask("c1").await;
    assert!(answer.starts_with("RETRY PG309 rule \"prod\": ") && answer.contains("being verified now"), "{answer}");
    // The registry accepts and never answers: nobody waited for it.
    let (asked, _) = registry.accept().await.unwrap();
    assert!(begun.elapsed() < limits::REGISTRY_REQUEST);
    assert!(gate.ask("c1").await.starts_with("RETRY PG309"));
    let codes = gate.entry();
    assert!(codes.contains("PG302"), "{codes:?}");
    drop(asked);
}

#[tokio::test(start_paused = true)]
async fn a_containerd_that_is_slow_refuses_in_time() {
    let silent = FakeContainerd::start(|_, _| Answer::Silence);
    let gate = Gate::of(silent, "enforce", "").await;
    let begun = tokio::time::Instant::now();
    let answer = gate.ask("c1").await;
    assert!(answer.starts_with("RETRY PG308: no decision in 2 s"), "{answer}");
    let waited = begun.elapsed();
    assert!(waited >= limits::START_DEADLINE / 2 && waited < 2 * limits::START_DEADLINE, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_audits_starts_everything_and_says_what_it_would_refuse() {
    let mut node = Node::default();
    let image = node.image(&["a"], "app", "");
    node.pod_container("c1", &image, NAME, usual);
    let gate = Gate::of(node.containerd(), "audit", "").await;
    assert!(gate.ask("c1").await.starts_with("ALLOW "));
    assert!(gate.entry().contains("AUDIT would be refused: DENY PG201"));
    assert!(gate.ask_with("no state").await.starts_with("ALLOW "));
    assert!(gate.entry().contains("PG410"));
    let silent = Gate::of(FakeContainerd::start(|_, _| Answer::Silence), "audit", "").await;
    assert_eq!(silent.ask("c1").await, "ALLOW");
}

#[tokio::test]
async fn an_image_of_the_self_test_is_answered_as_planned() {
    let mut node = Node::default();
    let (refused, admitted) = (node.image(&["a"], "refused", ""), node.image(&["a"], "admitted", ""));
    node.pod_container("refused", &refused, NAME, usual);
    for id in ["admitted", "borrowed", "nowhere"] {
        node.pod_container(id, &admitted, NAME, usual);
    }
    node.snapshot("borrowed", Some(&Digest::of(b"other")));
    node.forget_snapshot("nowhere");
    let gate = Gate::new(node, "").await;
    let list = gate.start.admission.one_time();
    let start = selftest::Gate::Start;
    let (one, other) = (
        list.list([refused.manifest, refused.config], Some(start)),
        list.list([admitted.manifest, admitted.config], None),
    );
    assert!(gate.ask("refused").await.starts_with("DENY PG411"));
    assert!(one.was_asked(start));
    for id in ["borrowed", "nowhere"] {
        let answer = gate.ask(id).await;
        assert!(answer.starts_with("DENY PG109"), "the files are another image's: {answer}");
    }
    assert!(!other.was_asked(start));
    assert!(gate.ask("admitted").await.starts_with("ALLOW "));
    assert!(other.was_asked(start));
    drop(one);
    assert!(gate.ask("refused").await.starts_with("DENY PG201"));
}

#[tokio::test(start_paused = true)]
async fn hooks_that_say_nothing_are_not_waited_for_and_hold_up_only_so_many() {
    for (silent, waits) in [(limits::PARALLEL_STARTS - 1, false), (limits::PARALLEL_STARTS, true)] {
        let gate = Gate::new(Node::default(), "").await;
        let socket = gate._folder.path().join("start.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let serving = tokio::spawn(gate.start.clone().serve(listener, std::future::pending()));
        let mut others = Vec::new();
        for _ in 0..silent {
            others.push(UnixStream::connect(&socket).await.unwrap());
        }
        let begun = tokio::time::Instant::now();
        let mut asking = UnixStream::connect(&socket).await.unwrap();
        asking.write_all(&framed(&["create-runtime"], b"{}")).await.unwrap();
        asking.shutdown().await.unwrap();
        let mut line = String::new();
        asking.read_to_string(&mut line).await.unwrap();
        assert!(line.starts_with("DENY PG410"), "{line}");
        assert_eq!(begun.elapsed() >= limits::VERIFIER_PATIENCE, waits, "{silent}: {:?}", begun.elapsed());
        serving.abort();
    }
}

#[tokio::test]
async fn what_is_remembered_of_pods_is_bounded() {
    let gate = Gate::new(Node::default(), "").await;
    for number in 0..limits::PODS + 500 {
        let pod =
            Arc::new(Pod { namespace: String::new(), name: String::new(), uid: String::new(), breaks_glass: false });
        gate.start.pods.insert((String::new(), number.to_string()), pod);
    }
    gate.start.pods.run_pending_tasks();
    assert!(gate.start.pods.entry_count() <= limits::PODS);
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_stops_lets_the_questions_at_hand_end() {
    let mut node = Node::default();
    let image = node.image(&["a"], "app", "");
    node.pod_container("c1", &image, NAME, usual);
    let gate = Gate::new(node, &exempt(&image.manifest)).await;
    let socket = gate._folder.path().join("start.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    listener.set_nonblocking(true).unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(gate.start.clone().serve(listener, async move { stopped.await.unwrap_or(()) }));
    let mut asking = UnixStream::connect(&socket).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    stop.send(()).unwrap();
    let state = json!({ "id": "c1", "bundle": "/io.containerd.runtime.v2.task/k8s.io/c1" }).to_string();
    asking.write_all(&framed(&["create-runtime"], state.as_bytes())).await.unwrap();
    asking.shutdown().await.unwrap();
    let mut line = String::new();
    asking.read_to_string(&mut line).await.unwrap();
    assert!(line.starts_with("ALLOW "), "{line}");
    serving.await.unwrap().unwrap();
}
