//! The daemon: sockets first, then everything that decides.

use std::{path::PathBuf, sync::Arc, time::Instant};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use crate::{
    activation::{Activation, Outcome, Paths},
    admission::Admission,
    audit::{Journal, Record},
    clock::Clock,
    containerd::Containerd,
    evidence::{content::ContentStore, kept::Kept},
    gate,
    log::Log,
    policy::decision::Violation,
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
    let activation = Arc::new(Activation::new(options.paths, tell(journal.clone(), containerd.clone())));
    let admission = Arc::new(Admission::new(clock.clone(), kept));
    let unpack = Arc::new(gate::Unpack::new(containerd, content, admission, activation.clone(), journal.clone()));

    let (stopping, stop) = watch::channel(false);
    let stopped = move || {
        let mut stop = stop.clone();
        async move {
            // A closed channel is the end of the daemon as well.
            let _ = stop.wait_for(|stop| *stop).await;
        }
    };
    let mut serving = tokio::spawn(gate::serve(sockets.diff, sockets.transfer, unpack.clone(), stopped));
    let report = status::Report { activation: activation.clone(), unpack, journal: journal.clone(), log, started };
    let reporting = tokio::spawn(status::serve(sockets.status, report));

    let (snapshot, _) = activation.load().await;
    write(&journal, Record::started(snapshot.config.mode)).await;
    systemd::ready(&status::line(&snapshot));
    let watchdog = tokio::spawn(systemd::watchdog(|| true));
    let keeping_time = tokio::spawn({
        let clock = clock.clone();
        async move { clock.keep().await }
    });
    let outcome = tokio::select! {
        served = &mut serving => served,
        () = signals(&activation) => {
            systemd::stopping();
            // Nobody waits for it only when the gates have ended already.
            let _ = stopping.send(true);
            serving.await
        }
    };
    watchdog.abort();
    reporting.abort();
    keeping_time.abort();
    clock.save();
    write(&journal, Record::stopped()).await;
    journal.close().await;
    Ok(outcome??)
}

/// Until SIGTERM or SIGINT; each SIGHUP reads the files again.
async fn signals(activation: &Activation) {
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
                systemd::ready(&status::line(&snapshot));
            }
            _ = terminate.recv() => return,
            _ = interrupt.recv() => return,
        }
    }
}

/// What every change of the snapshot leads to.
fn tell(journal: Arc<Journal>, containerd: Arc<Containerd>) -> impl Fn(&Snapshot, &Outcome) + Send + Sync {
    move |snapshot, outcome| {
        containerd.locate(&snapshot.config.containerd);
        systemd::status(&status::line(snapshot));
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
