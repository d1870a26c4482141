//! What quarantine removes, and what it leaves.

use super::*;

/// Which records are left when quarantine had its turn, a minute after the policy came into force.
async fn left(node: &Node) -> Vec<String> {
    node.walk().await;
    node.watch.state().activated = Instant::now().checked_sub(Duration::from_secs(61)).unwrap();
    node.watch.quarantine(&node.activation).await;
    let mut left: Vec<String> = node.content().images.iter().map(|image| image.name.clone()).collect();
    left.sort();
    left
}

const QUARANTINE: &str = "[quarantine]\nimages = true\nminutes-after-activation = 1\npercent-an-hour = 100\n";

/// A node with an image that may go, and those that must not.
async fn quarantined(config: &str) -> Node {
    let node = Node::new(config).await;
    node.file("boot.d/boot.list", &format!("{}\n", digest("boot")));
    let policy = DENY.replace("DIGEST", &digest("good").to_string());
    node.file("a.pub", KEY);
    let rule = "[[attestor]]\nname = \"a\"\nmay-sign = [\"signature\"]\nkeys = [{ file = \"a.pub\", algorithm = \"ed25519\" }]\n\
                [[rule]]\nname = \"asks\"\nimages = [\"127.0.0.1:1/**\"]\nrequire = { all = [\"a\"] }\n\
                [[rule]]\nname = \"trial\"\nimages = [\"reg.io/trial/**\"]\nrequire = \"deny\"\nmode = \"audit\"\n";
    node.configure(config, &policy.replace("[default]", &format!("{rule}[default]"))).await;
    for name in ["good", "boot", "evil", "pinned", "trial/x"] {
        node.bring(name, &format!("reg.io/{name}"));
    }
    node.bring("asked", "127.0.0.1:1/asked");
    node.bring("evil", "sha256:evil");
    let mut content = node.content();
    let pinned = content.images.iter_mut().find(|image| image.name == "reg.io/pinned").unwrap();
    pinned.labels.insert("io.cri-containerd.pinned".to_owned(), "pinned".to_owned());
    drop(content);
    node
}

const KEPT: [&str; 5] = ["127.0.0.1:1/asked", "reg.io/boot", "reg.io/good", "reg.io/pinned", "reg.io/trial/x"];

#[tokio::test]
async fn quarantine_removes_what_is_refused_and_nothing_that_must_stay() {
    let node = quarantined(&format!("{ENFORCE}{QUARANTINE}")).await;
    assert_eq!(left(&node).await, KEPT);
    let entries = node.entries();
    let removed = format!("reg.io/evil@{} is removed from this node: DENY PG201", digest("evil"));
    assert_eq!(entries.iter().filter(|entry| entry.starts_with(&removed)).count(), 1, "{entries:?}");
    assert_eq!(node.watch.report().quarantined, 1);
    for config in [ENFORCE.to_owned(), format!("mode = \"audit\"\n{QUARANTINE}")] {
        let node = quarantined(&config).await;
        assert_eq!(left(&node).await.len(), KEPT.len() + 2, "{config}");
    }
    let node = quarantined(&format!("{ENFORCE}{QUARANTINE}[watch]\nexempt-namespaces = [\"k8s.io\"]\n")).await;
    assert_eq!(left(&node).await.len(), KEPT.len() + 2);
}

#[tokio::test]
async fn quarantine_waits_after_a_policy_came_into_force_and_stays_out_of_trouble() {
    let node = quarantined(&format!("{ENFORCE}{QUARANTINE}")).await;
    node.walk().await;
    node.watch.quarantine(&node.activation).await;
    assert_eq!(node.content().images.len(), KEPT.len() + 2);
    node.file("policy.toml", "schema = ");
    let _ = node.activation.load().await;
    assert_eq!(left(&node).await.len(), KEPT.len() + 2);
}

#[tokio::test]
async fn nothing_is_removed_that_was_not_said_before() {
    let mut node = quarantined(&format!("{ENFORCE}{QUARANTINE}")).await;
    node.walk().await;
    node.journal = None;
    std::thread::sleep(Duration::from_millis(60));
    let state = || node.watch.state();
    state().activated = Instant::now().checked_sub(Duration::from_secs(61)).unwrap();
    node.watch.quarantine(&node.activation).await;
    assert_eq!(node.content().images.len(), KEPT.len() + 2);
    assert_eq!(node.watch.report().quarantined, 0);
}

#[tokio::test]
async fn a_policy_that_refuses_everything_empties_no_node() {
    let config = format!("{ENFORCE}{QUARANTINE}").replace("= 100", "= 10");
    let node = Node::new(&config).await;
    for number in 0..30 {
        node.bring(&format!("image-{number}"), &format!("reg.io/image-{number}"));
    }
    assert_eq!(left(&node).await.len(), 27);
    let alarm = "quarantine removed 3 of 30 images within an hour and stops there";
    assert_eq!(node.entries().iter().filter(|entry| entry.contains(alarm)).count(), 1);
    assert_eq!(left(&node).await.len(), 27);
    assert!(!node.entries().iter().any(|entry| entry.contains("stops there")));
}
