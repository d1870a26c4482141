//! What a node remembers, and what it must not: decisions, evidence and time, against a registry that comes and goes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot be set up has failed")]

#[path = "registry/hostile.rs"]
mod hostile;
#[path = "on_node/signer.rs"]
mod signer;

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use hostile::{HostileRegistry, Reply};
use jiff::Timestamp;
use pullgate::{
    admission::Admission,
    clock::Clock,
    config::Config,
    decisions::Asking,
    evidence::kept::Kept,
    image::Digest,
    policy::{
        Policy,
        decision::{Code, Decision, Verdict},
        evaluate::{Origin, Subject},
    },
    snapshot::Snapshot,
};
use signer::Signer;

impl Signer {
    /// Puts a signature of `image` into `repository`.
    fn sign(&self, registry: &HostileRegistry, repository: &str, image: Digest) {
        let (payload, signature) = self.payload(&image);
        registry.content().signatures(repository, image, &[(payload.as_bytes(), &signature)]);
    }
}

/// A node with a disk, a clock and a registry.
struct Node {
    state: tempfile::TempDir,
    registry: HostileRegistry,
    signer: Signer,
    image: Digest,
    clock: Arc<AtomicI64>,
}

impl Node {
    async fn new() -> Self {
        let registry = HostileRegistry::start().await;
        let image = registry.content().image("prod/app", "v1", "app");
        let clock = Arc::new(AtomicI64::new(Timestamp::now().as_second()));
        Self { state: tempfile::tempdir().unwrap(), registry, signer: Signer::new(), image, clock }
    }

    /// A daemon that has just started.
    fn start(&self) -> Daemon<'_> {
        let clock = self.clock.clone();
        let system = move || Timestamp::from_second(clock.load(Ordering::SeqCst)).unwrap();
        let clock = Arc::new(Clock::of(system, Some(self.state.path())));
        let admission = Arc::new(Admission::new(clock.clone(), Kept::open(self.state.path())));
        Daemon { node: self, clock, admission }
    }

    /// A policy that asks for `require` of the images in `prod`, where `ci` is [`Node::signer`].
    fn policy(&self, require: &str) -> String {
        format!(
            "schema = 1\n{}{}[[rule]]\nname = \"prod\"\nimages = [\"{}/prod/**\"]\nrequire = {require}\n\
             [default]\nrequire = \"deny\"\n",
            self.signer.attestor("ci"),
            Signer::new().attestor("nobody"),
            self.registry.host(),
        )
    }

    /// The registry answers nothing any more.
    fn registry_fails(&self) {
        self.registry.on("", |_, _| Reply::status(503));
        self.registry.forget();
    }

    /// Waits until the file about the image says `text`.
    async fn kept(&self, text: &str) {
        let directory = self.state.path().join("evidence-2");
        for _ in 0..1000 {
            let file = directory.join(self.image.hex()).with_extension("json");
            if fs::read_to_string(file).is_ok_and(|found| found.contains(text)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("nothing was kept");
    }
}

struct Daemon<'a> {
    node: &'a Node,
    clock: Arc<Clock>,
    admission: Arc<Admission>,
}

impl Daemon<'_> {
    async fn decide_with(&self, config: &str, policy: &str, asking: Asking) -> Decision {
        let policy =
            Policy::parse("policy.toml", policy, &|_| Err("no file".to_owned())).unwrap_or_else(|e| panic!("{e}"));
        let config = Config::parse(Path::new("config.toml"), &format!("mode = \"enforce\"\n{config}")).unwrap();
        let boot = Arc::new([Digest::of(b"boot")].into());
        let snapshot = Snapshot { boot, ..Snapshot::new(config, Some(policy)) };
        let name = self.node.registry.place("prod/app").repository;
        let subject = Subject::new(self.node.image, Some(name), Origin::Fetched);
        self.admission.decide(&Arc::new(snapshot), vec![subject], asking).await
    }

    async fn decide(&self, policy: &str) -> Decision {
        self.decide_with("", policy, Asking::Usual).await
    }
}

#[tokio::test]
async fn what_was_admitted_is_admitted_after_a_restart_without_a_registry() {
    let node = Node::new().await;
    node.signer.sign(&node.registry, "prod/app", node.image);
    let policy = node.policy("{ all = [\"ci\"] }");
    assert_eq!(node.start().decide(&policy).await.verdict, Verdict::Allow);
    node.kept("simple-signing").await;
    node.registry_fails();
    let decision = node.start().decide(&policy).await;
    assert_eq!((decision.verdict, decision.attestors), (Verdict::Allow, vec!["ci".to_owned()]));
    assert_eq!(node.registry.asked(), [""; 0]);
}

#[tokio::test]
async fn another_policy_is_decided_by_what_was_kept_and_asks_only_for_what_is_missing() {
    let node = Node::new().await;
    node.signer.sign(&node.registry, "prod/app", node.image);
    let daemon = node.start();
    assert_eq!(daemon.decide(&node.policy("{ all = [\"ci\"] }")).await.verdict, Verdict::Allow);
    node.kept("simple-signing").await;
    node.registry_fails();
    let wider = node.policy("{ any = [\"ci\", \"nobody\"] }");
    assert_eq!(daemon.decide(&wider).await.verdict, Verdict::Allow);
    assert_eq!(node.registry.asked(), [""; 0]);
    let stricter = node.policy("{ all = [\"ci\", \"nobody\"] }");
    let offline = daemon.decide_with("", &stricter, Asking::Offline).await;
    assert_eq!((offline.verdict, node.registry.asked().len()), (Verdict::Inconclusive, 0));
    let decision = daemon.decide(&stricter).await;
    assert_eq!((decision.verdict, decision.code()), (Verdict::Inconclusive, Some(Code::RegistryUnreachable)));
    assert!(!node.registry.asked().is_empty());
}

#[tokio::test]
async fn who_changes_what_is_kept_admits_nothing() {
    let node = Node::new().await;
    node.signer.sign(&node.registry, "prod/app", node.image);
    let policy = node.policy("{ all = [\"ci\"] }");
    assert_eq!(node.start().decide(&policy).await.verdict, Verdict::Allow);
    node.kept("simple-signing").await;
    // What was signed of one image becomes what is kept of another.
    let directory = node.state.path().join("evidence-2");
    let file = |image: &Digest| directory.join(image.hex()).with_extension("json");
    let other = node.registry.content().image("prod/app", "v2", "evil");
    fs::copy(file(&node.image), file(&other)).unwrap();
    node.registry_fails();
    let evil = Node { image: other, ..node };
    let decision = evil.start().decide(&policy).await;
    assert_eq!(decision.verdict, Verdict::Inconclusive);
    assert_eq!(evil.start().decide_with("", &policy, Asking::Offline).await.verdict, Verdict::Inconclusive);
}

#[tokio::test]
async fn on_a_node_with_other_labels_the_rule_is_selected_anew() {
    let node = Node::new().await;
    node.signer.sign(&node.registry, "prod/app", node.image);
    let dev = node.policy("{ all = [\"ci\"] }").replace("name = \"prod\"", "name = \"dev\"\nnodes = { env = \"dev\" }");
    let prod = format!(
        "[[rule]]\nname = \"prod\"\nnodes = {{ env = \"prod\" }}\nimages = [\"{}/prod/**\"]\nrequire = {{ all = [\"nobody\"] }}\n[default]",
        node.registry.host()
    );
    let policy = dev.replace("[default]", &prod);
    let daemon = node.start();
    for (env, verdict) in [("dev", Verdict::Allow), ("prod", Verdict::Deny), ("dev", Verdict::Allow)] {
        let labels = format!("[node]\nlabels = {{ env = \"{env}\" }}\n");
        let decision = daemon.decide_with(&labels, &policy, Asking::Usual).await;
        assert_eq!((decision.verdict, decision.rule.as_deref()), (verdict, Some(env)));
    }
}

#[tokio::test]
async fn a_denial_is_remembered_until_somebody_asks_anew() {
    let node = Node::new().await;
    let policy = node.policy("{ all = [\"ci\"] }");
    let daemon = node.start();
    assert_eq!(daemon.decide(&policy).await.code(), Some(Code::Unsigned));
    node.signer.sign(&node.registry, "prod/app", node.image);
    node.registry.forget();
    assert_eq!(daemon.decide(&policy).await.code(), Some(Code::Unsigned));
    assert_eq!(node.registry.asked(), [""; 0]);
    assert_eq!(daemon.decide_with("", &policy, Asking::Anew).await.verdict, Verdict::Allow);
    assert_eq!(daemon.decide(&policy).await.verdict, Verdict::Allow);
}

#[tokio::test]
async fn a_denial_ends_after_a_minute() {
    let node = Node::new().await;
    let policy = node.policy("{ all = [\"ci\"] }");
    let daemon = node.start();
    assert_eq!(daemon.decide(&policy).await.code(), Some(Code::Unsigned));
    node.signer.sign(&node.registry, "prod/app", node.image);
    node.clock.fetch_add(61, Ordering::SeqCst);
    assert_eq!(daemon.decide(&policy).await.verdict, Verdict::Allow);
}

#[tokio::test]
async fn a_key_that_the_policy_no_longer_has_admits_nothing_that_was_kept() {
    let node = Node::new().await;
    node.signer.sign(&node.registry, "prod/app", node.image);
    let daemon = node.start();
    assert_eq!(daemon.decide(&node.policy("{ all = [\"ci\"] }")).await.verdict, Verdict::Allow);
    node.kept("simple-signing").await;
    let rotated = node.policy("{ all = [\"ci\"] }").replace(&node.signer.attestor("ci"), &Signer::new().attestor("ci"));
    assert_eq!(daemon.decide(&rotated).await.code(), Some(Code::UntrustedAttestor));
    assert_eq!(node.start().decide(&rotated).await.code(), Some(Code::UntrustedAttestor));
}

#[tokio::test]
async fn evidence_in_another_repository_admits_what_the_node_may_not_read() {
    let node = Node::new().await;
    let policy = node.policy("{ all = [\"ci\"] }");
    node.registry.on("/v2/prod/", |_, _| Reply::status(401));
    let decision = node.start().decide(&policy).await;
    assert_eq!((decision.verdict, decision.code()), (Verdict::Inconclusive, Some(Code::RegistryUnauthorized)));
    node.signer.sign(&node.registry, "signatures/all", node.image);
    let host = node.registry.host();
    let elsewhere = format!("[[evidence]]\nimages = [\"{host}/prod/**\"]\nrepository = \"{host}/signatures/all\"\n");
    node.registry.forget();
    assert_eq!(node.start().decide_with(&elsewhere, &policy, Asking::Usual).await.verdict, Verdict::Allow);
    assert!(node.registry.asked().iter().all(|asked| !asked.contains("/prod/")), "{:?}", node.registry.asked());
}

#[tokio::test]
async fn what_the_other_repository_lacks_is_looked_for_in_the_images_own() {
    let node = Node::new().await;
    let policy = node.policy("{ all = [\"ci\"] }");
    node.signer.sign(&node.registry, "prod/app", node.image);
    let host = node.registry.host();
    let elsewhere = format!("[[evidence]]\nimages = [\"**\"]\nrepository = \"{host}/signatures/all\"\n");
    assert_eq!(node.start().decide_with(&elsewhere, &policy, Asking::Usual).await.verdict, Verdict::Allow);
}

#[tokio::test]
async fn a_clock_that_was_set_back_lengthens_nothing() {
    let node = Node::new().await;
    let until = Timestamp::from_second(node.clock.load(Ordering::SeqCst) + 3600).unwrap();
    let policy = node
        .policy("{ all = [\"ci\"] }")
        .replace("[default]", &format!("mode = \"audit\"\naudit-until = \"{until}\"\n[default]"));
    let daemon = node.start();
    assert!(daemon.decide(&policy).await.audit_only);
    node.clock.fetch_add(3601, Ordering::SeqCst);
    assert!(!daemon.decide(&policy).await.audit_only);
    node.clock.fetch_sub(10 * 365 * 86_400, Ordering::SeqCst);
    assert!(!daemon.decide(&policy).await.audit_only);
    daemon.clock.save();
    assert!(!node.start().decide(&policy).await.audit_only);
}

#[tokio::test]
async fn a_clock_before_the_build_admits_the_boot_list_alone() {
    let node = Node::new().await;
    node.signer.sign(&node.registry, "prod/app", node.image);
    node.clock.store(0, Ordering::SeqCst);
    let policy = node.policy("{ all = [\"ci\"] }");
    let decision = node.start().decide(&policy).await;
    assert_eq!((decision.verdict, decision.code()), (Verdict::Inconclusive, Some(Code::ClockNotSet)));
    let booting = Node { image: Digest::of(b"boot"), ..node };
    assert_eq!(booting.start().decide(&policy).await.verdict, Verdict::Allow);
}

#[tokio::test]
async fn a_clock_that_runs_ahead_only_ends_things_sooner() {
    let node = Node::new().await;
    node.signer.sign(&node.registry, "prod/app", node.image);
    let policy = node.policy("{ all = [\"ci\"] }");
    let daemon = node.start();
    assert_eq!(daemon.decide(&policy).await.verdict, Verdict::Allow);
    node.kept("simple-signing").await;
    node.registry_fails();
    node.clock.fetch_add(10 * 365 * 86_400, Ordering::SeqCst);
    assert_eq!(daemon.decide(&policy).await.verdict, Verdict::Allow);
    node.clock.fetch_sub(10 * 365 * 86_400, Ordering::SeqCst);
    assert_eq!(daemon.decide(&policy).await.verdict, Verdict::Allow);
    assert!(daemon.clock.behind().is_some());
}
