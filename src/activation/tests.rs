use std::{
    fs,
    os::unix::fs::PermissionsExt,
    sync::atomic::{AtomicU32, Ordering},
};

use super::*;
use crate::{
    image::Digest,
    trust::testing::{key, pem},
};

struct Node {
    folder: tempfile::TempDir,
    told: Arc<AtomicU32>,
}

const POLICY: &str = "schema = 1\n[[attestor]]\nname = \"ci\"\nmay-sign = [\"signature\"]\nkeys = [{ file = \"ci.pub\", algorithm = \"ecdsa-p256-sha256\" }]\n[default]\nrequire = { all = [\"ci\"] }\n";

impl Node {
    fn new() -> Self {
        let node = Self { folder: tempfile::tempdir().unwrap(), told: Arc::default() };
        node.write("config.toml", "mode = \"enforce\"\n");
        node.write("policy.toml", POLICY);
        node.write("ci.pub", &pem(&key()));
        node
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.folder.path().join(name);
        // A new file each time: two writes within one tick of the clock differ by their inode.
        let fresh = path.with_extension("tmp");
        fs::write(&fresh, text).unwrap();
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o644)).unwrap();
        fs::rename(fresh, path).unwrap();
    }

    fn activation(&self) -> Activation {
        let folder = self.folder.path();
        let paths = Paths { config: folder.join("config.toml"), boot: folder.into(), state: Some(folder.into()) };
        let told = self.told.clone();
        Activation::new(paths, move |_, _| {
            told.fetch_add(1, Ordering::SeqCst);
        })
    }
}

fn trouble(snapshot: &Snapshot) -> (Code, String) {
    let trouble = snapshot.trouble.clone().unwrap();
    (trouble.code, trouble.message)
}

#[tokio::test]
async fn what_is_on_disk_takes_force() {
    let node = Node::new();
    let activation = node.activation();
    assert!(activation.peek().is_none());
    let (snapshot, outcome) = activation.load().await;
    assert_eq!(outcome, Outcome::Activated);
    assert_eq!(snapshot.generation, 1);
    assert_eq!(snapshot.policy.as_ref().unwrap().attestors[0].keys.len(), 1);
    assert_eq!(activation.current().await.revision(), snapshot.revision());
}

#[tokio::test]
async fn a_broken_policy_at_reload_leaves_the_old_one_and_the_mend_is_found_by_itself() {
    let node = Node::new();
    let activation = node.activation();
    let revision = activation.load().await.0.revision().to_owned();
    node.write("policy.toml", "schema = 1\n[defualt]");
    let (snapshot, outcome) = activation.load().await;
    assert!(matches!(outcome, Outcome::Rejected(_)));
    assert_eq!(snapshot.revision(), revision);
    let (code, message) = trouble(&snapshot);
    assert_eq!(code, Code::PolicyInvalid);
    assert!(message.contains("policy.toml:2:") && message.contains("did you mean `default`"), "{message}");
    assert!(activation.current().await.trouble.is_some());
    node.write("policy.toml", &POLICY.replace("all", "any"));
    let mended = activation.current().await;
    assert!(mended.trouble.is_none() && mended.revision() != revision);
    assert_eq!(node.told.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_new_mode_takes_force_beside_a_broken_policy() {
    let node = Node::new();
    node.write("config.toml", "mode = \"audit\"\n");
    let activation = node.activation();
    let before = activation.load().await.0;
    node.write("config.toml", "mode = \"enforce\"\n");
    node.write("policy.toml", "broken");
    let after = activation.load().await.0;
    assert!(after.config.mode == NodeMode::Enforce && after.generation > before.generation);
    assert_eq!(after.revision(), before.revision());
}

#[tokio::test]
async fn a_new_policy_beside_a_broken_configuration_waits() {
    let node = Node::new();
    let activation = node.activation();
    let before = activation.load().await.0;
    node.write("config.toml", "broken");
    node.write("policy.toml", &POLICY.replace("all", "any"));
    assert_eq!(activation.load().await.0.revision(), before.revision());
    let (restarted, _) = node.activation().load().await;
    assert_eq!(restarted.revision(), before.revision());
    node.write("config.toml", "mode = \"enforce\"\n");
    assert_ne!(activation.current().await.revision(), before.revision());
}

#[tokio::test]
async fn a_mended_file_is_read_once_by_all_who_wait() {
    let node = Node::new();
    node.write("policy.toml", "broken");
    let activation = node.activation();
    let broken = activation.load().await.0.generation;
    node.write("policy.toml", POLICY);
    let (a, b, c) = tokio::join!(activation.current(), activation.current(), activation.current());
    assert_eq!([a.generation, b.generation, c.generation], [broken + 1; 3]);
    assert_eq!(node.told.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_broken_file_at_start_runs_on_the_last_good_state() {
    for (file, text, code) in [
        ("config.toml", "mod = 1", Code::ConfigInvalid),
        ("policy.toml", "x", Code::PolicyInvalid),
        ("ci.pub", "not a key", Code::PolicyInvalid),
        ("policy.toml", "", Code::PolicyInvalid),
    ] {
        let node = Node::new();
        let revision = node.activation().load().await.0.revision().to_owned();
        node.write(file, text);
        let (snapshot, _) = node.activation().load().await;
        assert_eq!((trouble(&snapshot).0, snapshot.revision()), (code, revision.as_str()), "{file}");
        assert_eq!(snapshot.config.mode, NodeMode::Enforce);
    }
}

#[tokio::test]
async fn without_a_last_good_state_the_boot_list_alone_remains() {
    for (file, code) in [("config.toml", Code::ConfigInvalid), ("policy.toml", Code::PolicyInvalid)] {
        let node = Node::new();
        node.write("pause.list", &Digest::of(b"pause").to_string());
        fs::remove_file(node.folder.path().join(file)).unwrap();
        let (snapshot, _) = node.activation().load().await;
        let (found, message) = trouble(&snapshot);
        assert_eq!(found, code);
        assert!(message.contains(file) && message.contains("not there"), "{message}");
        assert!(snapshot.policy.is_none(), "{file}");
        assert!(snapshot.boot.len() == 1 && snapshot.boot.contains(&Digest::of(b"pause")));
        assert_eq!(snapshot.config.mode, NodeMode::Enforce);
        assert_eq!(snapshot.no_policy().code, code);
    }
}

#[tokio::test]
async fn what_follows_from_a_snapshot_is_done_before_it_is_in_force() {
    let node = Node::new();
    let seen = Arc::new(Mutex::new(None));
    let (at, told) = (seen.clone(), node.told.clone());
    let folder = node.folder.path();
    let paths = Paths { config: folder.join("config.toml"), boot: folder.into(), state: None };
    let activation = Arc::new_cyclic(|activation: &std::sync::Weak<Activation>| {
        let activation = activation.clone();
        Activation::new(paths, move |_, _| {
            told.fetch_add(1, Ordering::SeqCst);
            *at.lock().unwrap() = activation.upgrade().map(|activation| activation.peek().is_none());
        })
    });
    let _ = activation.load().await;
    assert_eq!((*seen.lock().unwrap(), node.told.load(Ordering::SeqCst)), (Some(true), 1));
}

#[tokio::test]
async fn a_state_file_that_is_cut_short_or_of_another_version_is_set_aside() {
    for damage in ["", "{", "{\"schema\":2,\"config\":null,\"policy_file\":null,\"policy\":null,\"keys\":{}}", "null"] {
        let node = Node::new();
        let _ = node.activation().load().await;
        node.write(LAST_GOOD, damage);
        node.write("policy.toml", "broken");
        let (snapshot, _) = node.activation().load().await;
        assert!(snapshot.policy.is_none(), "{damage}");
        let aside = node.folder.path().join(format!("{LAST_GOOD}.set-aside"));
        assert_eq!(fs::read_to_string(aside).unwrap(), damage);
    }
}

#[tokio::test]
async fn a_policy_that_others_can_write_does_not_take_force() {
    let node = Node::new();
    let path = node.folder.path().join("policy.toml");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    let (snapshot, _) = node.activation().load().await;
    assert!(snapshot.policy.is_none());
    assert!(trouble(&snapshot).1.contains("chmod go-w"));
}

#[tokio::test]
async fn another_policy_is_prepared_for_while_the_one_before_it_decides() {
    let node = Node::new();
    let (seen, activation) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(None::<Arc<Activation>>)));
    let prepare = {
        let (seen, activation) = (seen.clone(), activation.clone());
        move |snapshot: Arc<Snapshot>| {
            let in_force = activation.lock().unwrap().as_ref().unwrap().peek().unwrap();
            seen.lock().unwrap().push((in_force.revision().to_owned(), snapshot.revision().to_owned()));
            async {}
        }
    };
    let prepared = Arc::new(node.activation().preparing(prepare));
    *activation.lock().unwrap() = Some(prepared.clone());
    let before = prepared.load().await.0.revision().to_owned();
    let _ = prepared.load().await;
    node.write("config.toml", "mode = \"audit\"\n");
    let _ = prepared.load().await;
    node.write("policy.toml", "broken");
    let _ = prepared.load().await;
    assert_eq!(*seen.lock().unwrap(), []);
    node.write("policy.toml", &POLICY.replace("name = \"ci\"", "name = \"ci\"\nannotations = { a = \"b\" }"));
    let after = prepared.load().await.0.revision().to_owned();
    assert_eq!(*seen.lock().unwrap(), [(before, after)]);
    *activation.lock().unwrap() = None;
}

#[tokio::test]
async fn who_asks_while_a_mended_file_takes_force_waits_for_it() {
    let node = Node::new();
    node.write("config.toml", "mdoe = \"enforce\"\n");
    let (begun, go_on) = (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
    let prepare = {
        let (begun, go_on) = (begun.clone(), go_on.clone());
        move |_| {
            let (begun, go_on) = (begun.clone(), go_on.clone());
            async move {
                begun.notify_one();
                go_on.notified().await;
            }
        }
    };
    let activation = Arc::new(node.activation().preparing(prepare));
    assert_eq!(trouble(&activation.load().await.0).0, Code::ConfigInvalid);
    node.write("config.toml", "mode = \"enforce\"\n");
    let ask = || {
        let activation = activation.clone();
        tokio::spawn(async move { activation.current().await })
    };
    let first = ask();
    begun.notified().await;
    let second = ask();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!first.is_finished() && !second.is_finished());
    go_on.notify_one();
    let (first, second) = (first.await.unwrap(), second.await.unwrap());
    assert_eq!((first.generation, second.generation), (2, 2));
    assert!(first.trouble.is_none());
}

#[tokio::test]
async fn files_of_any_size_are_bounded() {
    let pad =
        |text: &str, bytes: u64| format!("{text}\n{}", "#".repeat(usize::try_from(bytes).unwrap() - text.len() - 1));
    for (file, text, limit) in
        [("policy.toml", POLICY.to_owned(), limits::DOCUMENT_BYTES), ("ci.pub", pem(&key()), limits::KEY_FILE_BYTES)]
    {
        let node = Node::new();
        node.write(file, &pad(&text, limit));
        assert_eq!(node.activation().load().await.1, Outcome::Activated, "{file}");
        node.write(file, &pad(&text, limit + 1));
        let (snapshot, _) = node.activation().load().await;
        let (code, message) = trouble(&snapshot);
        assert!(code == Code::PolicyInvalid && message.contains("larger than"), "{message}");
    }
}

#[tokio::test]
async fn in_trouble_a_new_boot_list_is_found_by_itself() {
    let node = Node::new();
    node.write("policy.toml", "broken");
    let activation = node.activation();
    assert!(activation.load().await.0.boot.is_empty());
    node.write("pause.list", &Digest::of(b"pause").to_string());
    assert!(activation.current().await.boot.contains(&Digest::of(b"pause")));
    node.write("pause.list", &Digest::of(b"other").to_string());
    assert!(activation.current().await.boot.contains(&Digest::of(b"other")));
}
