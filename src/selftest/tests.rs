use containerd_client::services::v1::{
    ListImagesResponse, ListNamespacesResponse, Plugin, PluginsResponse, VersionResponse,
};
use std::{os::unix::net::UnixDatagram, sync::OnceLock};

use super::*;
use crate::{
    activation::Paths,
    audit::Kind,
    clock::Clock,
    containerd::fake::{Answer, FakeContainerd},
    cri::{PullImageResponse, StatusResponse},
    evidence::kept::Kept,
};

/// A self-test in front of `containerd`, and what it writes into the journal.
struct Bench {
    folder: tempfile::TempDir,
    selftest: Arc<SelfTest>,
    journal: UnixDatagram,
}

impl Bench {
    async fn new(containerd: Arc<Containerd>, mode: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config.toml");
        std::fs::write(&config, format!("mode = \"{mode}\"\n")).unwrap();
        std::fs::set_permissions(&config, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let paths = Paths { config, boot: folder.path().into(), state: None };
        let activation = Arc::new(Activation::new(paths, |_, _| ()));
        let _ = activation.load().await;
        let journal = UnixDatagram::bind(folder.path().join("journal")).unwrap();
        journal.set_nonblocking(true).unwrap();
        let written = Arc::new(Journal::open(&folder.path().join("journal"), &folder.path().join("numbers")));
        let admission = Arc::new(Admission::new(Arc::new(Clock::unkept()), Kept::default()));
        let selftest = Arc::new(SelfTest::new(containerd, admission, activation, written));
        Self { folder, selftest, journal }
    }

    /// The kinds of the entries that were written since this was asked.
    fn written(&self) -> Vec<Kind> {
        assert!(self.folder.path().exists());
        let mut kinds = Vec::new();
        let mut entry = vec![0; 1 << 16];
        while let Ok(length) = self.journal.recv(&mut entry) {
            let text = String::from_utf8_lossy(&entry[..length]).into_owned();
            kinds.extend(Kind::ALL.iter().copied().filter(|kind| text.contains(kind.message_id())));
        }
        kinds
    }
}

fn proof(gate: Gate, state: State) -> Proof {
    Proof { gate, way: None, state, why: String::new(), entries: Vec::new() }
}

fn report(process: Option<Process>, states: &[State]) -> Report {
    let gates = states.iter().map(|state| proof(Gate::Unpack, *state)).collect();
    Report { run: "x".to_owned(), containerd: process, gates, ..Report::default() }
}

/// A containerd with one handler and pullgate's plugins; `pull` answers to pulls, nothing else is answered.
fn containerd(pull: impl Fn() -> Answer + Send + Sync + 'static) -> FakeContainerd {
    FakeContainerd::start(move |method, _| match method {
        "Version/Version" => {
            Answer::message(&VersionResponse { version: "2.1.9+unknown".to_owned(), revision: String::new() })
        }
        "RuntimeService/Version" => Answer::message(&()),
        "RuntimeService/Status" => {
            let config = r#"{"containerd":{"runtimes":{"runc":{"baseRuntimeSpec":""}}}}"#.to_owned();
            Answer::message(&StatusResponse { info: [("config".to_owned(), config)].into() })
        }
        "RuntimeService/ListPodSandbox" => Answer::message(&()),
        "Introspection/Plugins" => {
            let plugin =
                Plugin { r#type: "io.containerd.differ.v1".to_owned(), id: "pullgate".to_owned(), ..Plugin::default() };
            Answer::message(&PluginsResponse { plugins: vec![plugin] })
        }
        "Namespaces/List" => Answer::message(&ListNamespacesResponse::default()),
        "Images/List" => Answer::message(&ListImagesResponse::default()),
        "Content/List" => Answer::Messages(Vec::new()),
        "Leases/Create" => Answer::Error(tonic::Status::internal("no")),
        "Leases/List" => Answer::message(&()),
        "ImageService/PullImage" => pull(),
        _ => Answer::Silence,
    })
}

async fn states(selftest: &SelfTest) -> Vec<State> {
    selftest.now().await.gates.iter().map(|proof| proof.state).collect()
}

#[tokio::test]
async fn only_what_was_seen_of_the_containerd_that_runs_is_enforcement() {
    let fake = FakeContainerd::start(|_, _| Answer::missing());
    let here = identity::of(&fake.client()).await.unwrap().unwrap();
    for (mode, proven) in [("enforce", State::Enforcing), ("audit", State::Proven)] {
        let bench = Bench::new(fake.client(), mode).await;
        assert_eq!(states(&bench.selftest).await, []);
        for (process, expected) in [
            (Some(here), proven),
            (Some(Process { ticks: here.ticks + 1, ..here }), State::Unknown),
            (Some(Process { pid: here.pid + 1, ..here }), State::Unknown),
        ] {
            bench.selftest.settle(report(process, &[State::Proven])).await;
            assert_eq!(states(&bench.selftest).await, [expected], "{mode} {process:?}");
        }
    }
    let bench = Bench::new(fake.client(), "enforce").await;
    bench.selftest.settle(report(Some(here), &[State::Proven])).await;
    drop(fake);
    identity::changed(&bench.selftest.containerd, Some(here)).await;
    assert_eq!(states(&bench.selftest).await, [State::Unknown]);
}

#[tokio::test]
async fn each_change_is_audited_once() {
    let bench = Bench::new(Arc::new(Containerd::new(Path::new("/nonexistent"))), "enforce").await;
    let process = Some(Process { pid: 1, ticks: 1 });
    for (states, expected) in [
        (&[State::Absent, State::Absent][..], &[][..]),
        (&[State::Proven, State::Absent], &[Kind::GatesProven]),
        (&[State::Proven, State::Absent], &[]),
        (&[State::Unknown, State::Absent], &[Kind::GatesUnproven]),
        (&[State::Open, State::Absent], &[Kind::GateOpen]),
        (&[State::Open, State::Unknown], &[Kind::GateOpen]),
        (&[State::Open, State::Unknown], &[]),
        (&[State::Proven, State::Proven], &[Kind::GatesProven]),
        (&[State::Absent, State::Absent], &[Kind::GatesProven]),
    ] {
        bench.selftest.settle(report(process, states)).await;
        assert_eq!(bench.written(), expected, "{states:?}");
    }
    bench.selftest.settle(report(process, &[State::Proven])).await;
    let _ = bench.written();
    bench.selftest.outdate(RESTARTED).await;
    bench.selftest.outdate(GONE).await;
    assert_eq!(bench.written(), [Kind::GatesUnproven]);
}

#[tokio::test]
async fn a_containerd_that_asks_nobody_is_open_and_nothing_of_the_run_stays_known() {
    let fake = containerd(|| Answer::message(&PullImageResponse { image_ref: "sha256:1".to_owned() }));
    let bench = Bench::new(fake.client(), "enforce").await;
    let process = identity::of(&fake.client()).await.unwrap().unwrap();
    let report = bench.selftest.run(process).await;
    let seen: Vec<_> = report.gates.iter().map(|proof| (proof.gate, proof.way.as_deref(), proof.state)).collect();
    assert_eq!(
        seen,
        [
            (Gate::Resolve, None, State::Open),
            (Gate::Unpack, Some(CLIENT), State::Unknown),
            (Gate::Unpack, Some(KUBELET), State::Open),
            (Gate::Start, Some("runc"), State::Absent),
        ]
    );
    assert_eq!((report.containerd, report.run.len()), (Some(process), 16));
    assert!(report.is_open());
}

#[tokio::test(start_paused = true)]
async fn a_containerd_that_hangs_proves_nothing_and_is_not_waited_for_without_end() {
    let fake = containerd(|| Answer::Silence);
    let bench = Bench::new(fake.client(), "enforce").await;
    let begun = Instant::now();
    let keeping = tokio::spawn({
        let selftest = bench.selftest.clone();
        async move { selftest.keep().await }
    });
    let report = bench.selftest.request().await.unwrap();
    assert!(report.is_unknown() && !report.is_open(), "{report:?}");
    let took = begun.elapsed();
    assert!(took >= limits::SELF_TEST / 2 && took < limits::SELF_TEST + COMES_UP, "{took:?}");
    keeping.abort();
}

#[tokio::test]
async fn so_many_may_ask_at_the_same_time_and_share_one_run() {
    let fake = containerd(|| Answer::Error(tonic::Status::internal("no")));
    let bench = Bench::new(fake.client(), "enforce").await;
    let mut asking: Vec<_> = (0..limits::SELF_TEST_ASKERS)
        .map(|_| {
            let selftest = bench.selftest.clone();
            tokio::spawn(async move { selftest.request().await })
        })
        .collect();
    while bench.selftest.asks.capacity() > 0 {
        tokio::task::yield_now().await;
    }
    assert!(bench.selftest.request().await.is_err());
    let keeping = tokio::spawn({
        let selftest = bench.selftest.clone();
        async move { selftest.keep().await }
    });
    let mut runs = Vec::new();
    for asking in asking.drain(..) {
        runs.push(asking.await.unwrap().unwrap().run);
    }
    runs.dedup();
    assert_eq!(runs.len(), 1);
    keeping.abort();
}

#[tokio::test]
async fn who_asks_during_a_run_is_told_of_the_next() {
    let during: Arc<Mutex<Option<oneshot::Receiver<Report>>>> = Arc::default();
    let asks: Arc<OnceLock<mpsc::Sender<oneshot::Sender<Report>>>> = Arc::default();
    let fake = containerd({
        let (during, asks) = (during.clone(), asks.clone());
        move || {
            let mut during = during.lock().unwrap();
            if during.is_none() {
                let (answer, answered) = oneshot::channel();
                asks.get().unwrap().try_send(answer).unwrap();
                *during = Some(answered);
            }
            Answer::Error(tonic::Status::internal("no"))
        }
    });
    let bench = Bench::new(fake.client(), "enforce").await;
    asks.set(bench.selftest.asks.clone()).unwrap();
    let asking = tokio::spawn({
        let selftest = bench.selftest.clone();
        async move { selftest.request().await }
    });
    while bench.selftest.asks.capacity() == bench.selftest.asks.max_capacity() {
        tokio::task::yield_now().await;
    }
    let keeping = tokio::spawn({
        let selftest = bench.selftest.clone();
        async move { selftest.keep().await }
    });
    let first = asking.await.unwrap().unwrap();
    let answered = during.lock().unwrap().take().expect("asked while the first ran");
    // Without another to be let in by.
    *during.lock().unwrap() = Some(oneshot::channel().1);
    assert_ne!(first.run, answered.await.unwrap().run);
    keeping.abort();
}

#[tokio::test]
async fn whoever_connects_gets_a_run_and_its_report() {
    let fake = containerd(|| Answer::Error(tonic::Status::internal("no")));
    let bench = Bench::new(fake.client(), "enforce").await;
    let listener = std::os::unix::net::UnixListener::bind(bench.folder.path().join(SOCKET)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let serving = tokio::spawn(bench.selftest.clone().serve(listener));
    let keeping = tokio::spawn({
        let selftest = bench.selftest.clone();
        async move { selftest.keep().await }
    });
    let folder = bench.folder.path().to_owned();
    let report = tokio::task::spawn_blocking(move || ask(&folder)).await.unwrap().unwrap();
    assert!(report.is_unknown() && !report.run.is_empty(), "{report:?}");
    assert!(ask(Path::new("/nonexistent")).is_err());
    serving.abort();
    keeping.abort();
}
