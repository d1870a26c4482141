//! The daemon: sockets first, then everything that decides.

use std::{path::PathBuf, sync::Arc, time::Instant};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch::{Receiver, channel},
    time::sleep,
};

use crate::{
    activation::{Activation, Outcome, Paths},
    admission::Admission,
    audit::{Journal, Record},
    break_glass::{self, Passes},
    clock::Clock,
    containerd::{Containerd, Events, Told},
    evidence::{content::ContentStore, kept::Kept, sources::Sources},
    gate, limits,
    log::Log,
    node::sandbox::{Sandbox, SandboxWatch},
    policy::decision::Violation,
    reload,
    selftest::SelfTest,
    snapshot::Snapshot,
    status, systemd,
};

/// Where the daemon finds and leaves things.
#[derive(Clone, Debug)]
pub struct Options {
    /// The files that decide, and the state directory.
    pub paths: Paths,
    /// The directory of the sockets.
    pub runtime: PathBuf,
    /// journald's socket.
    pub journal: PathBuf,
}

/// Runs until it is told to stop.
///
/// containerd gives up on a socket that does not speak HTTP/2 within a second, so the gates are served before anything
/// is read; requests wait inside.
///
/// # Errors
/// When a socket cannot be taken or served. A broken configuration or policy is no such error.
pub async fn run(options: Options, log: Log) -> Result<(), Box<dyn std::error::Error>> {
    let started = Instant::now();
    let sockets = systemd::Sockets::take(&options.runtime)?;
    let state = options.paths.state.clone().unwrap_or_else(|| options.runtime.clone());
    let journal = Arc::new(Journal::open(&options.journal, &state.join("audit-numbers")));
    let clock = Arc::new(Clock::open(&state));
    let kept = Kept::open(&state);
    let containerd = Arc::new(Containerd::new(&PathBuf::new()));
    let content = Arc::new(ContentStore::new(containerd.clone(), kept.clone()));
    let passes = Arc::new(Passes::open(&state, clock.clone()));
    let admission = Admission::with_sources(clock.clone(), Sources::new(kept.clone()).with_content(content.clone()));
    let admission = Arc::new(admission.with_passes(passes.clone()));
    let walk = Arc::new(gate::Walk::new(containerd.clone(), content.clone(), admission.clone()));
    let watch = Arc::new(gate::Watch::new(containerd.clone(), walk, journal.clone()));
    let prepare = {
        let watch = watch.clone();
        move |snapshot| {
            let watch = watch.clone();
            async move { watch.prepare(snapshot).await }
        }
    };
    let sandbox = Arc::new(SandboxWatch::new(containerd.clone()));
    let tell = tell(journal.clone(), containerd.clone(), sandbox.clone(), passes.clone(), options.runtime);
    let config = options.paths.config.clone();
    let activation = Activation::new(options.paths, tell);
    let activation = Arc::new(activation.preparing(prepare));
    let resolve =
        Arc::new(gate::Resolve::new(containerd.clone(), admission.clone(), activation.clone(), journal.clone()));
    let start =
        gate::Start::new(containerd.clone(), content.clone(), admission.clone(), activation.clone(), journal.clone());
    let start = Arc::new(start);
    let unpack = Arc::new(gate::Unpack::new(
        containerd.clone(),
        content,
        admission.clone(),
        activation.clone(),
        journal.clone(),
    ));
    let selftest = Arc::new(SelfTest::new(containerd.clone(), admission, activation.clone(), journal.clone()));

    let (stopping, stop) = channel(false);
    let stopped = move || {
        let mut stop = stop.clone();
        async move {
            // A closed channel is the end of the daemon as well.
            let _ = stop.wait_for(|stop| *stop).await;
        }
    };
    let mut serving = tokio::spawn({
        let (resolve, unpack, start) = (resolve.clone(), unpack.clone(), start.clone());
        async move {
            let resolving = resolve.serve(sockets.verify, stopped());
            let starting = start.serve(sockets.start, stopped());
            tokio::try_join!(resolving, starting, gate::serve(sockets.diff, sockets.transfer, unpack, stopped))
                .map(|_| ())
        }
    });
    let events = Arc::new(Events::new(containerd));
    let hearing = unpack.clone();
    let report = status::Report {
        activation: activation.clone(),
        resolve,
        unpack,
        watch: watch.clone(),
        selftest: selftest.clone(),
        start,
        sandbox: sandbox.clone(),
        passes: passes.clone(),
        clock: clock.clone(),
        kept,
        journal: journal.clone(),
        log,
        started,
    };
    let reporting = tokio::spawn(status::serve(sockets.status, report));

    let (snapshot, _) = activation.load().await;
    let reloading = tokio::spawn(reload::serve(sockets.reload, activation.clone()));
    write(&journal, Record::started(snapshot.config.mode)).await;
    systemd::ready(&status::line(&snapshot, sandbox.last().as_ref(), &passes.report()));
    let breaking = {
        let (passes, activation, journal) = (passes.clone(), activation.clone(), journal.clone());
        let service = break_glass::socket::Service { passes, activation, config, journal };
        tokio::spawn(service.serve(sockets.break_glass))
    };
    let minding_passes = {
        let (passes, activation, journal) = (passes.clone(), activation.clone(), journal.clone());
        tokio::spawn(async move { passes.mind(&activation, &journal).await })
    };
    let telling_of_passes =
        tokio::spawn(tell_of_passes(passes.clone(), activation.clone(), sandbox.clone(), watch.clone()));
    let watching = tokio::spawn(watch.clone().run(activation.clone(), events.connections()));
    let minding = tokio::spawn(mind_sandbox(activation.clone(), sandbox.clone(), passes.clone(), events.connections()));
    let testing_on_request = tokio::spawn(selftest.clone().serve(sockets.selftest));
    let testing = tokio::spawn({
        let selftest = selftest.clone();
        async move { selftest.keep().await }
    });
    let watchdog = tokio::spawn(systemd::watchdog(|| true));
    let listening = tokio::spawn(async move { hear(&events, &hearing, &watch).await });
    let keeping_time = tokio::spawn({
        let clock = clock.clone();
        async move { clock.keep().await }
    });
    let outcome = tokio::select! {
        served = &mut serving => served,
        () = signals(&activation, &sandbox, &passes) => {
            systemd::stopping();
            testing.abort();
            selftest.leave().await;
            // Nobody waits for it only when the gates have ended already.
            let _ = stopping.send(true);
            serving.await
        }
    };
    watchdog.abort();
    watching.abort();
    breaking.abort();
    minding_passes.abort();
    telling_of_passes.abort();
    minding.abort();
    reporting.abort();
    reloading.abort();
    testing.abort();
    testing_on_request.abort();
    keeping_time.abort();
    listening.abort();
    clock.save();
    write(&journal, Record::stopped()).await;
    journal.close().await;
    Ok(outcome??)
}

/// Until SIGTERM or SIGINT; each SIGHUP reads the files again.
async fn signals(activation: &Activation, sandbox: &SandboxWatch, passes: &Passes) {
    let (Ok(mut hangup), Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::hangup()), signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("signals cannot be received: the daemon ends only when it is killed");
        return std::future::pending().await;
    };
    loop {
        tokio::select! {
            _ = hangup.recv() => {
                systemd::reloading();
                let (snapshot, _) = activation.load().await;
                systemd::ready(&status::line(&snapshot, sandbox.last().as_ref(), &passes.report()));
            }
            _ = terminate.recv() => return,
            _ = interrupt.recv() => return,
        }
    }
}

/// Passes on what containerd tells.
async fn hear(events: &Events, unpack: &gate::Unpack, watch: &gate::Watch) {
    let tell = |told: &Told| {
        unpack.hear(told);
        watch.hear(told);
    };
    events.follow(tell).await;
}

/// Looks at the sandbox image whenever the files were read or containerd was restarted, and until containerd says which
/// it is.
async fn mind_sandbox(
    activation: Arc<Activation>,
    sandbox: Arc<SandboxWatch>,
    passes: Arc<Passes>,
    mut connections: Receiver<u64>,
) {
    let mut snapshots = activation.subscribe();
    loop {
        let Some(snapshot) = snapshots.borrow_and_update().clone() else { return };
        connections.mark_unchanged();
        let (seen, changed) = sandbox.look(&snapshot.boot).await;
        if changed {
            systemd::status(&status::line(&snapshot, Some(&seen), &passes.report()));
        }
        let unknown = matches!(seen, Sandbox::Unknown { .. });
        let ended = tokio::select! {
            changed = snapshots.changed() => changed.is_err(),
            changed = connections.changed() => changed.is_err(),
            () = sleep(limits::SANDBOX_PAUSE), if unknown => false,
        };
        if ended {
            return;
        }
    }
}

/// Says in the line of status that break-glass is active or is over, and has what is on the node judged again.
async fn tell_of_passes(
    passes: Arc<Passes>,
    activation: Arc<Activation>,
    sandbox: Arc<SandboxWatch>,
    watch: Arc<gate::Watch>,
) {
    let mut changes = passes.changes();
    while changes.changed().await.is_ok() {
        if let Some(snapshot) = activation.peek() {
            systemd::status(&status::line(&snapshot, sandbox.last().as_ref(), &passes.report()));
        }
        watch.look_again();
    }
}

/// What every change of the snapshot leads to.
fn tell(
    journal: Arc<Journal>,
    containerd: Arc<Containerd>,
    sandbox: Arc<SandboxWatch>,
    passes: Arc<Passes>,
    runtime: PathBuf,
) -> impl Fn(&Snapshot, &Outcome) + Send + Sync {
    move |snapshot, outcome| {
        containerd.locate(&snapshot.config.containerd);
        gate::leave_word(&runtime, snapshot.config.mode);
        systemd::status(&status::line(snapshot, sandbox.last().as_ref(), &passes.report()));
        let record = match outcome {
            Outcome::Activated => {
                let source = snapshot.config.policy.display().to_string();
                Record::policy_activated(snapshot.revision(), &source, snapshot.config.mode)
            }
            Outcome::Rejected(trouble) => {
                tracing::error!("{} {}", trouble.code, trouble.message);
                let fix = String::new();
                let violation = Violation { code: trouble.code, found: trouble.message.clone(), fix };
                Record::policy_rejected(&violation, snapshot.policy.as_ref().map(|policy| policy.revision.as_str()))
            }
        };
        let journal = journal.clone();
        tokio::spawn(async move { write(&journal, record).await });
    }
}

async fn write(journal: &Journal, record: Record) {
    if let Err(error) = journal.write(|_| record).await {
        tracing::error!("an audit entry was not written: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        activation::Paths,
        containerd::fake::{Answer, FakeContainerd},
    };

    #[tokio::test(start_paused = true)]
    async fn a_containerd_that_comes_up_later_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("containerd.sock");
        let sandbox = Arc::new(SandboxWatch::new(Arc::new(Containerd::new(&socket))));
        let paths = Paths { config: folder.path().join("config.toml"), boot: folder.path().into(), state: None };
        let activation = Arc::new(Activation::new(paths, |_, _| ()));
        let _ = activation.load().await;
        let (_never, connections) = channel(0);
        let watching = tokio::spawn(mind_sandbox(activation, sandbox.clone(), Arc::new(Passes::none()), connections));
        while sandbox.last().is_none() {
            tokio::task::yield_now().await;
        }
        assert!(matches!(sandbox.last(), Some(Sandbox::Unknown { .. })));
        let _containerd = FakeContainerd::start_at(&socket, |_, _| Answer::Error(tonic::Status::unimplemented("none")));
        let begun = tokio::time::Instant::now();
        while sandbox.last() != Some(Sandbox::NoPods) {
            tokio::time::sleep(limits::SANDBOX_PAUSE / 10).await;
            assert!(begun.elapsed() < 3 * limits::SANDBOX_PAUSE, "{:?}", sandbox.last());
        }
        assert!(begun.elapsed() >= limits::SANDBOX_PAUSE / 2, "{:?}", begun.elapsed());
        watching.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_containerd_that_was_restarted_is_looked_at_again() {
        let folder = tempfile::tempdir().unwrap();
        let fake = FakeContainerd::start(|_, _| Answer::Error(tonic::Status::unimplemented("none")));
        let sandbox = Arc::new(SandboxWatch::new(fake.client()));
        let paths = Paths { config: folder.path().join("config.toml"), boot: folder.path().into(), state: None };
        let activation = Arc::new(Activation::new(paths, |_, _| ()));
        let _ = activation.load().await;
        let (connected, connections) = channel(0);
        let watching = tokio::spawn(mind_sandbox(activation, sandbox.clone(), Arc::new(Passes::none()), connections));
        for looks in 1..4 {
            tokio::time::sleep(limits::SANDBOX_PAUSE / 10).await;
            assert_eq!(fake.asked().len(), looks);
            connected.send_modify(|count| *count += 1);
        }
        watching.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_containerd_that_hangs_does_not_keep_a_policy_from_taking_force() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let _silent = std::os::unix::net::UnixListener::bind(at("containerd")).unwrap();
        let containerd = Arc::new(Containerd::new(&at("containerd")));
        let content = Arc::new(ContentStore::new(containerd.clone(), Kept::default()));
        let admission = Arc::new(Admission::new(Arc::new(Clock::unkept()), Kept::default()));
        let walk = Arc::new(gate::Walk::new(containerd.clone(), content, admission));
        let journal = Arc::new(Journal::open(&at("journal"), &at("numbers")));
        let paths = Paths { config: at("config.toml"), boot: at("boot.d"), state: None };
        let snapshot = Activation::new(paths, |_, _| ()).load().await.0;
        let began = tokio::time::Instant::now();
        gate::Watch::new(containerd, walk, journal.clone()).prepare(snapshot).await;
        assert_eq!(began.elapsed().as_secs(), limits::WALK.as_secs());
        assert_eq!((journal.written(), journal.failed()), (0, 0));
    }
}
