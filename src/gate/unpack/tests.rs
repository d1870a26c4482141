use std::path::Path;

use containerd_client::{
    services::v1::{
        ListNamespacesResponse, Namespace, Plugin, PluginsResponse,
        snapshots::{Info, ListSnapshotsResponse, MountsResponse},
    },
    types::{Descriptor as Diff, Mount},
};

use super::*;
use crate::{
    activation::Paths,
    clock::Clock,
    containerd::fake::{Answer, FakeContainerd},
    evidence::kept::Kept,
    selftest,
};

/// A gate in front of `fake`, under a policy that refuses everything.
struct Gate {
    folder: tempfile::TempDir,
    unpack: Arc<Unpack>,
}

impl Gate {
    async fn new(fake: &FakeContainerd, mode: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            std::fs::set_permissions(&path, private).unwrap();
            path
        };
        let config = write("config.toml", &format!("mode = \"{mode}\"\n"));
        write("policy.toml", "schema = 1\n[default]\nrequire = \"deny\"\n");
        let paths = Paths { config, boot: folder.path().into(), state: None };
        let activation = Arc::new(Activation::new(paths, |_, _| ()));
        let _ = activation.load().await;
        let journal = Arc::new(Journal::open(Path::new("/nonexistent"), &folder.path().join("audit-numbers")));
        let content = Arc::new(ContentStore::new(fake.client(), Kept::default()));
        let admission = Arc::new(Admission::new(Arc::new(Clock::unkept()), Kept::default()));
        let unpack = Arc::new(Unpack::new(fake.client(), content, admission, activation, journal));
        Self { folder, unpack }
    }

    async fn answer(&self) -> Result<String, Status> {
        self.answer_in(Some("k8s.io")).await
    }

    async fn answer_in(&self, namespace: Option<&str>) -> Result<String, Status> {
        assert!(self.folder.path().exists());
        let diff = Diff { digest: Digest::of(b"layer").to_string(), ..Diff::default() };
        let apply = ApplyRequest { diff: Some(diff), mounts: vec![Mount::default()], ..ApplyRequest::default() };
        self.unpack.answer(&apply, namespace).await
    }
}

/// A containerd with so many snapshotters that asking them all takes longer than a decision may.
fn busy() -> FakeContainerd {
    let calls = limits::DECISION_DEADLINE.as_secs() / (limits::CONTAINERD_CALL.as_secs() - 1);
    let plugin = |number: u64| Plugin {
        r#type: "io.containerd.snapshotter.v1".to_owned(),
        id: format!("s{number}"),
        ..Plugin::default()
    };
    let plugins: Vec<Plugin> = (0..=calls).map(plugin).collect();
    FakeContainerd::start(move |method, _| match method {
        "Introspection/Plugins" => Answer::message(&PluginsResponse { plugins: plugins.clone() }),
        _ => {
            let pause = limits::CONTAINERD_CALL - Duration::from_secs(1);
            Answer::Later(pause, Box::new(Answer::Messages(Vec::new())))
        }
    })
}

#[tokio::test]
async fn an_image_of_the_self_test_is_refused_in_audit_mode_too_and_counted_in_neither() {
    let fake = FakeContainerd::start(|_, _| Answer::missing());
    for mode in ["enforce", "audit"] {
        let gate = Gate::new(&fake, mode).await;
        let snapshot = gate.unpack.activation.current().await;
        let digests = [Digest::of(b"manifest"), Digest::of(b"config")];
        let listed = gate.unpack.admission.one_time().list(digests, Some(selftest::Gate::Unpack));
        let decision = gate.unpack.admission.one_time().decision(selftest::Gate::Unpack, &digests[0]).unwrap();
        let answered = gate.unpack.answers.conclude(&snapshot, decision, About::nothing(Instant::now())).await;
        assert!(answered.unwrap_err().message().starts_with("DENY PG411"), "{mode}");
        assert!(listed.was_asked(selftest::Gate::Unpack) && !listed.was_asked(selftest::Gate::Resolve));
        let counts = gate.unpack.counts();
        assert_eq!((counts.denied.load(Ordering::Relaxed), counts.audit_only.load(Ordering::Relaxed)), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_decision_has_a_deadline() {
    let (fake, begun) = (busy(), tokio::time::Instant::now());
    let status = Gate::new(&fake, "enforce").await.answer().await.unwrap_err();
    assert!(status.message().contains("no decision in 20 s"), "{status}");
    assert_eq!(status.code(), tonic::Code::Unavailable);
    assert!(begun.elapsed() >= limits::DECISION_DEADLINE);
}

#[tokio::test(start_paused = true)]
async fn audit_mode_waits_for_nothing_long() {
    let (fake, begun) = (busy(), tokio::time::Instant::now());
    let gate = Gate::new(&fake, "audit").await;
    assert_eq!(gate.answer().await.unwrap(), "k8s.io");
    assert!((limits::AUDIT_MODE_WAIT..limits::CONTAINERD_CALL).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    // What was too slow is decided and recorded all the same.
    tokio::time::sleep(limits::DECISION_DEADLINE * 2).await;
    assert_eq!(gate.unpack.counts().audit_only.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_layer_that_break_glass_admitted_is_decided_anew_once_that_is_over() {
    let plugin =
        Plugin { r#type: "io.containerd.snapshotter.v1".to_owned(), id: "overlayfs".to_owned(), ..Plugin::default() };
    let chain = Digest::of(b"chain");
    let fake = FakeContainerd::start(move |method, _| match method {
        "Introspection/Plugins" => Answer::message(&PluginsResponse { plugins: vec![plugin.clone()] }),
        "Snapshots/List" => Answer::message(&ListSnapshotsResponse {
            info: vec![Info { name: format!("extract-1 {chain}"), ..Info::default() }],
        }),
        "Snapshots/Mounts" => Answer::message(&MountsResponse { mounts: vec![Mount::default()] }),
        _ => Answer::Messages(Vec::new()),
    });
    let gate = Gate::new(&fake, "enforce").await;
    let snapshot = gate.unpack.activation.current().await;
    let apply = ApplyRequest { mounts: vec![Mount::default()], ..ApplyRequest::default() };
    let layer = Descriptor {
        media_type: String::new(),
        digest: Digest::of(b"layer"),
        size: 1,
        annotations: Default::default(),
    };
    // Of two images that were admitted a moment ago, one by a pass that is over by now.
    for (glass, is_covered) in [(None, true), (Some("1J4".to_owned()), false)] {
        let passing = Passing { next: None, glass };
        gate.unpack.passes.insert(pass(&snapshot, "k8s.io", &layer, chain), passing.clone());
        let judgement = gate.unpack.judge(&snapshot, &apply, &layer, Some("k8s.io")).await;
        assert_eq!(matches!(judgement, Judgement::Covered(..)), is_covered, "{passing:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn audit_mode_applies_a_layer_where_it_goes_though_nobody_names_the_namespace() {
    let fake = FakeContainerd::start(|method, _| match method {
        "Introspection/Plugins" => Answer::message(&PluginsResponse {
            plugins: vec![Plugin {
                r#type: "io.containerd.snapshotter.v1".to_owned(),
                id: "overlayfs".to_owned(),
                ..Plugin::default()
            }],
        }),
        "Namespaces/List" => Answer::message(&ListNamespacesResponse {
            namespaces: vec![Namespace { name: "moby".to_owned(), ..Namespace::default() }],
        }),
        "Snapshots/List" => Answer::message(&ListSnapshotsResponse {
            info: vec![Info { name: format!("extract-1 {}", Digest::of(b"chain")), ..Info::default() }],
        }),
        "Snapshots/Mounts" => Answer::message(&MountsResponse { mounts: vec![Mount::default()] }),
        _ => Answer::Silence,
    });
    assert_eq!(Gate::new(&fake, "audit").await.answer_in(None).await.unwrap(), "moby");
    let lost = FakeContainerd::start(|_, _| Answer::Silence);
    assert_eq!(Gate::new(&lost, "audit").await.answer_in(None).await.unwrap(), "default");
}

#[tokio::test]
async fn passes_are_bounded_in_number_and_time() {
    let pass = |number: u64| Pass {
        generation: number,
        namespace: String::new(),
        layer: Digest::of(b""),
        media_type: String::new(),
        size: 0,
        chain: Digest::of(b""),
    };
    let passes = passes(limits::PASS_LIFE);
    for number in 0..limits::PASSES + 1000 {
        passes.insert(pass(number), Passing::default());
    }
    passes.insert(pass(0), Passing::default());
    assert!(take(&passes, &pass(0)).is_some() && take(&passes, &pass(0)).is_none());
    passes.run_pending_tasks();
    assert!((limits::PASSES / 2..=limits::PASSES).contains(&passes.entry_count()), "{}", passes.entry_count());
    assert_eq!(passes.policy().time_to_live(), Some(limits::PASS_LIFE));
    let ended = super::passes(Duration::from_nanos(1));
    ended.insert(pass(0), Passing::default());
    std::thread::sleep(Duration::from_millis(1));
    assert!(take(&ended, &pass(0)).is_none());
}
