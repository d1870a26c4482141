//! What is known of a container only when it starts: the namespace of its pod, and the tag that it was asked for by.

use super::{
    Gate, by_name,
    node::{Node, SANDBOX},
    usual,
};

fn rule(name: &str, scope: &str, require: &str) -> String {
    format!("[[rule]]\nname = \"{name}\"\nimages = [\"reg.io/**\"]\n{scope}\nrequire = \"{require}\"\n")
}

const ACCEPT: &str = "insecure-accept-anything";

/// A node on which containerd fetched `reg.io/app`; the container `pod` of a pod in `shop`, and `client` of no pod.
fn node() -> Node {
    let mut node = Node::default();
    let image = node.image(&["a"], "app", "");
    node.fetched(&image.manifest, "reg.io", "app");
    node.record("reg.io/app:1", &image.manifest);
    node.pod_container("pod", &image, "reg.io/app:1", usual);
    node.container("client", "reg.io/app:1", None);
    node.snapshot("client", image.chain.as_ref());
    node
}

async fn answers(node: Node, rules: &str, expected: &[(&str, &str)]) {
    let gate = Gate::new(node, rules).await;
    for (id, expected) in expected {
        let answer = gate.ask(id).await;
        assert!(answer.starts_with(expected), "{rules}{id}: {answer}");
    }
}

#[tokio::test]
async fn only_the_namespace_of_the_pod_itself_is_asked() {
    let lax_elsewhere = rule("all", "", "deny") + &rule("lax", "namespaces = [\"sandbox\"]", ACCEPT);
    answers(node(), &lax_elsewhere, &[("pod", "DENY PG202 rule \"all\""), ("client", "DENY PG202 rule \"all\"")]).await;
    let lax_here = rule("all", "", "deny") + &rule("lax", "namespaces = [\"shop\"]", ACCEPT);
    answers(node(), &lax_here, &[("pod", "ALLOW "), ("client", "DENY PG202 rule \"all\"")]).await;
    let strict_here = rule("all", "", ACCEPT) + &rule("strict", "namespaces = [\"shop\"]", "deny");
    answers(node(), &strict_here, &[("pod", "DENY PG202 rule \"strict\""), ("client", "ALLOW ")]).await;
    let floor = by_name("reg.io/**")
        + "[[floor]]\nname = \"shop\"\nimages = [\"**\"]\nnamespaces = [\"shop\"]\nrequire = \"deny\"\n";
    answers(node(), &floor, &[("pod", "DENY PG202 rule \"shop\""), ("client", "ALLOW ")]).await;
}

#[tokio::test]
async fn without_its_pod_nothing_starts_that_rules_for_namespaces_could_be_about() {
    let mut alone = node();
    alone.forget_container(SANDBOX);
    let strict = rule("all", "", ACCEPT) + &rule("strict", "namespaces = [\"shop\"]", "deny");
    answers(alone.clone(), &strict, &[("pod", "RETRY PG413"), ("client", "ALLOW ")]).await;
    answers(alone, &rule("all", "", ACCEPT), &[("pod", "ALLOW ")]).await;
}

#[tokio::test]
async fn a_rule_that_admits_some_tags_admits_no_other() {
    let mut node = Node::default();
    let image = node.image(&["a"], "app", "");
    node.fetched(&image.manifest, "reg.io", "app");
    for name in ["reg.io/app:v1", &format!("reg.io/app@{}", image.manifest)] {
        node.record(name, &image.manifest);
    }
    for (id, called) in [
        ("v1", "reg.io/app:v1".to_owned()),
        ("v2", "reg.io/app:v2".to_owned()),
        ("latest", "reg.io/app".to_owned()),
        ("digest", format!("reg.io/app:v1@{}", image.manifest)),
        ("identifier", image.config.to_string()),
    ] {
        node.pod_container(id, &image, &called, usual);
    }
    let mut tagged_again = node.clone();
    tagged_again.record("reg.io/app:v2", &image.manifest);
    let rules = format!(
        "[[rule]]\nname = \"tag\"\nimages = [\"reg.io/app:v1\"]\nrequire = {{ digests = [\"{}\"] }}\n",
        image.manifest
    );
    let denied = "DENY PG205 rule \"tag\"";
    let expected = [("v1", "ALLOW "), ("v2", denied), ("latest", denied), ("digest", denied), ("identifier", "ALLOW ")];
    answers(node, &rules, &expected).await;
    answers(tagged_again, &rules, &[("v1", "ALLOW "), ("identifier", denied)]).await;
}

#[tokio::test]
async fn by_an_identifier_a_name_that_only_audits_hides_no_other_that_refuses() {
    let audits = "[[rule]]\nname = \"audits\"\nimages = [\"reg.io/b/**\"]\nrequire = \"deny\"\nmode = \"audit\"\n";
    for other in ["reg.io/a/app:1", "reg.io/c/app:1"] {
        let mut node = Node::default();
        let image = node.image(&["a"], "app", "");
        node.fetched(&image.manifest, "reg.io", "b/app");
        node.record("reg.io/b/app:1", &image.manifest);
        node.pod_container("x", &image, &image.config.to_string(), usual);
        answers(node.clone(), audits, &[("x", "ALLOW ")]).await;
        node.record(other, &image.manifest);
        answers(node.clone(), audits, &[("x", "DENY PG201")]).await;
        let admitted = exempt_elsewhere(&image.manifest);
        answers(node, &format!("{audits}{admitted}"), &[("x", "ALLOW ")]).await;
    }
}

/// Rules that admit `digest` by what it is under the other names.
fn exempt_elsewhere(digest: &crate::image::Digest) -> String {
    format!(
        "[[rule]]\nname = \"pinned\"\nimages = [\"reg.io/a/**\", \"reg.io/c/**\"]\nrequire = {{ digests = [\"{digest}\"] }}\n"
    )
}
