//! A pod that breaks the glass by its label.

use serde_json::{Value, json};

use super::{
    Gate, NAME, exempt,
    node::{Node, SANDBOX},
    usual,
};

const IN_SHOP: &str = "mode = \"enforce\"\n[break-glass]\npods-of = [\"shop\"]\n";

/// A pod in `namespace` with `labels`, and one container of `image` in it.
fn node(namespace: &str, labels: Value, change: impl FnOnce(&mut Value)) -> (Node, super::node::Made) {
    let mut node = Node::default();
    let image = node.image(&["a", "b"], "app", "");
    node.pod_container("c1", &image, NAME, change);
    let metadata = json!({ "name": "pod", "uid": "u", "namespace": namespace });
    // Annotations are whatever a pod's author writes.
    let annotations = json!({ "image-policy.k8s.io/break-glass": "true" });
    let config = json!({ "metadata": metadata, "labels": labels, "annotations": annotations });
    let sandbox = json!({ "Version": "v1", "Metadata": { "Config": config } });
    node.container(SANDBOX, "any.example/pause:1", Some(("sandbox", &sandbox)));
    (node, image)
}

fn label() -> Value {
    json!({ "image-policy.k8s.io/break-glass": "true", "app": "x" })
}

async fn ask(node: Node, config: &str, rules: &str) -> (String, String) {
    let gate = Gate::configured(node.containerd(), config, rules).await;
    (gate.ask("c1").await, gate.entry())
}

#[tokio::test]
async fn it_starts_what_the_policy_refuses_where_that_is_said_and_raises_the_alarm() {
    let (answer, entry) = ask(node("shop", label(), usual).0, IN_SHOP, "").await;
    assert!(answer.starts_with("ALLOW "), "{answer}");
    for field in [
        "PRIORITY\n\u{1}\0\0\0\0\0\0\x001\n",
        "PULLGATE_POD_NAMESPACE\n\u{4}\0\0\0\0\0\0\0shop\n",
        "PULLGATE_RULE\n\u{b}\0\0\0\0\0\0\0break-glass\n",
        "PULLGATE_CODE\n\u{5}\0\0\0\0\0\0\0PG201\n",
        "PULLGATE_PASS_BY\n\u{c}\0\0\0\0\0\0\0pod shop/pod\n",
    ] {
        assert!(entry.contains(field), "{field:?}: {entry:?}");
    }
    // What the policy admits is none of its business.
    let (admitted, image) = node("shop", label(), usual);
    let (answer, entry) = ask(admitted, IN_SHOP, &exempt(&image.manifest)).await;
    assert!(answer.starts_with("ALLOW ") && !entry.contains("PULLGATE_PASS"), "{entry}");
    for (namespace, labels, config) in [
        ("shop", label(), "mode = \"enforce\"\n"),
        ("shop2", label(), IN_SHOP),
        ("shop", json!({ "image-policy.k8s.io/break-glass": "yes" }), IN_SHOP),
        ("shop", json!({ "image-policy.k8s.io/break-glass": "" }), IN_SHOP),
        ("shop", json!({ "Image-Policy.k8s.io/break-glass": "true" }), IN_SHOP),
        ("shop", json!({ "alpha.image-policy.k8s.io/break-glass": "true" }), IN_SHOP),
        ("shop", json!(null), IN_SHOP),
    ] {
        let (answer, _) = ask(node(namespace, labels.clone(), usual).0, config, "").await;
        assert!(answer.starts_with("DENY PG201"), "{namespace} {labels}: {answer}");
    }
}

#[tokio::test]
async fn it_helps_nothing_that_is_not_what_it_says_to_be() {
    let restored = |noted: &mut Value| noted["Metadata"]["Config"]["annotations"]["restored"] = json!("true");
    let unreadable = |noted: &mut Value| noted["Version"] = json!("v9");
    let (mut other_layers, _) = node("shop", label(), usual);
    let other = other_layers.image(&["x"], "other", "");
    other_layers.snapshot("c1", other.chain.as_ref());
    let (mut no_files, _) = node("shop", label(), usual);
    no_files.forget_snapshot("c1");
    let (mut other_bytes, image) = node("shop", label(), usual);
    other_bytes.corrupt(&image.manifest);
    let (mut no_sandbox, _) = node("shop", label(), usual);
    no_sandbox.forget_container(SANDBOX);
    let (mut no_pod, _) = node("shop", label(), usual);
    let nobody = json!({ "Version": "v1", "Metadata": { "Config": { "metadata": {}, "labels": label() } } });
    no_pod.container(SANDBOX, "any.example/pause:1", Some(("sandbox", &nobody)));
    for (node, expected) in [
        (node("shop", label(), restored).0, "DENY PG110"),
        (node("shop", label(), unreadable).0, "RETRY PG413"),
        (other_layers, "DENY PG109"),
        (no_files, "DENY PG109"),
        (other_bytes, "DENY PG108"),
        (no_sandbox, "DENY PG201"),
        (no_pod, "RETRY PG413"),
        (node("shop", json!(["true"]), usual).0, "RETRY PG413"),
    ] {
        let (answer, _) = ask(node, IN_SHOP, "").await;
        assert!(answer.starts_with(expected), "{expected}: {answer}");
    }
}
