//! The live self-test: each gate is seen to refuse what it must refuse, and to admit what it must admit.
//!
//! A gate that is configured, and a daemon that lives, prove nothing: containerd leaves a hook out without a word in half
//! a dozen configurations. So containerd is asked, as its clients ask it, for images that were made a moment before and
//! that nothing else has ever seen: one that the gate in question must refuse, all gates before having let it pass, and
//! one that every gate must admit. What was seen holds for the containerd that was asked, and for no other process.

mod client;
mod identity;
mod image;
mod judge;
mod leftovers;
mod node;
mod one_time;
mod readback;
mod registry;
mod report;
mod run;
mod socket;

use std::{
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Mutex as AsyncMutex, mpsc, oneshot},
    time::{Instant, sleep, sleep_until, timeout},
};
use tonic::Code;

use self::run::Run;
pub use self::{
    one_time::{Listed, OneTime},
    report::{Gate, Process, Proof, Report, State},
    socket::{SOCKET, ask},
};
use crate::{
    activation::Activation,
    admission::Admission,
    audit::{Journal, Record},
    config::NodeMode,
    containerd::Containerd,
    cri::Cri,
    limits, node as this_node,
};

/// What images, pods and leases of the self-test are called.
const NAME: &str = "pullgate-self-test";
/// The label of its pods.
const LABEL: &str = "pullgate/self-test";
/// The way of the kubelet to the unpack gate, and that of clients that unpack themselves.
const KUBELET: &str = "kubelet";
const CLIENT: &str = "client";
/// Time to make a pod, and to remove it.
const POD_TIME: Duration = Duration::from_secs(30);
/// Time between two runs, and after one that could not tell.
const HOURLY: Duration = Duration::from_secs(3600);
const AGAIN: Duration = Duration::from_secs(60);
/// Time for a containerd that has just come to serve pods, and the pause between two looks.
const COMES_UP: Duration = Duration::from_secs(30);
const COMES_UP_PAUSE: Duration = Duration::from_millis(250);
/// Time that a stopping daemon takes to remove what it made, and the pause before it looks once more.
const LEAVE: Duration = Duration::from_secs(5);
const LEAVE_PAUSE: Duration = Duration::from_millis(500);

/// The self-test of a daemon.
pub struct SelfTest {
    containerd: Arc<Containerd>,
    admission: Arc<Admission>,
    activation: Arc<Activation>,
    journal: Arc<Journal>,
    last: Mutex<Report>,
    /// Whether a run is under way, which may have made something.
    running: AtomicBool,
    asks: mpsc::Sender<oneshot::Sender<Report>>,
    asked: AsyncMutex<mpsc::Receiver<oneshot::Sender<Report>>>,
}

impl SelfTest {
    /// The self-test of the gates in front of `containerd`. Nothing is tested before [`Self::keep`].
    pub fn new(
        containerd: Arc<Containerd>,
        admission: Arc<Admission>,
        activation: Arc<Activation>,
        journal: Arc<Journal>,
    ) -> Self {
        let (asks, asked) = mpsc::channel(limits::SELF_TEST_ASKERS);
        Self {
            containerd,
            admission,
            activation,
            journal,
            last: Mutex::default(),
            running: AtomicBool::new(false),
            asks,
            asked: AsyncMutex::new(asked),
        }
    }

    /// What is known of the gates now: what the last run saw, if the same containerd still runs.
    pub async fn now(&self) -> Report {
        let mode = self.activation.current().await.config.mode;
        let last = self.open().clone();
        let now = identity::of(&self.containerd).await;
        let report = match (last.containerd, now) {
            (Some(then), Ok(Some(now))) if then == now => last,
            (None, _) => last,
            (_, Ok(Some(_))) => last.outdated(RESTARTED),
            (_, Ok(None)) => last.outdated(GONE),
            (_, Err(why)) => last.outdated(&why),
        };
        in_mode(report, mode)
    }

    /// A run that begins from now on, which others who ask at the same time share: its report.
    ///
    /// # Errors
    /// When too many ask, or the daemon is ending.
    pub async fn request(&self) -> Result<Report, &'static str> {
        let (answer, answered) = oneshot::channel();
        self.asks.try_send(answer).map_err(|_| "too many ask for a self-test")?;
        answered.await.map_err(|_| "the daemon is ending")
    }

    /// Tests now, hourly, whenever containerd was restarted, and when asked. Does not end.
    pub async fn keep(&self) {
        let mut asked = self.asked.lock().await;
        let mut waiting = Vec::new();
        let mut process = None;
        let mut due = Instant::now();
        self.activation.current().await;
        loop {
            tokio::select! {
                now = identity::changed(&self.containerd, process) => {
                    let before = std::mem::replace(&mut process, now);
                    if before.is_some() {
                        self.outdate(if now.is_some() { RESTARTED } else { GONE }).await;
                    }
                    due = Instant::now();
                    match now {
                        Some(_) => self.comes_up().await,
                        None => continue,
                    }
                }
                () = sleep_until(due), if process.is_some() => {}
                Some(ask) = asked.recv() => {
                    waiting.push(ask);
                    if process.is_none() {
                        process = identity::of(&self.containerd).await.ok().flatten();
                    }
                }
            }
            // Who asks from now on is told of the next run: what was changed before the question counts in the answer.
            while let Ok(ask) = asked.try_recv() {
                waiting.push(ask);
            }
            if let Some(process) = process {
                let run = timeout(limits::SELF_TEST, self.run(process));
                // What was begun with a containerd that is gone proves nothing, and the next one waits.
                let report = tokio::select! {
                    report = run => report.unwrap_or_else(|_| {
                        self.open().outdated(&format!("no result in {} s", limits::SELF_TEST.as_secs()))
                    }),
                    _ = identity::changed(&self.containerd, Some(process)) => continue,
                };
                due = Instant::now() + if report.is_unknown() { AGAIN } else { HOURLY };
                self.settle(report).await;
            }
            let report = self.now().await;
            for ask in waiting.drain(..) {
                // An asker that went away has itself to blame.
                let _ = ask.send(report.clone());
            }
        }
    }

    async fn run(&self, process: Process) -> Report {
        let run = Run {
            containerd: &self.containerd,
            one_time: self.admission.one_time(),
            mode: self.activation.current().await.config.mode,
            process,
            state: Path::new(this_node::STATE),
        };
        self.running.store(true, Ordering::SeqCst);
        let report = run.run().await;
        self.running.store(false, Ordering::SeqCst);
        report
    }

    /// Takes away what a run made that [`Self::keep`] will not end any more, in a few seconds at most.
    pub async fn leave(&self) {
        if self.running.load(Ordering::SeqCst) {
            // What containerd was about to make when it was left in the middle comes after the first look.
            let leave = async {
                let _ = run::remove_leftovers(&self.containerd).await;
                sleep(LEAVE_PAUSE).await;
                let _ = run::remove_leftovers(&self.containerd).await;
            };
            // What is still there after that, the next daemon takes away.
            let _ = timeout(LEAVE, leave).await;
        }
    }

    /// Waits until containerd serves, with pods if it does that at all.
    async fn comes_up(&self) {
        let begun = Instant::now();
        let cri = Cri::of(&self.containerd);
        while begun.elapsed() < COMES_UP {
            let answers = self.containerd.version().await.is_ok();
            match cri.version().await {
                Ok(()) if answers => return,
                Err(status) if answers && status.code() == Code::Unimplemented => return,
                _ => sleep(COMES_UP_PAUSE).await,
            }
        }
    }

    /// From now on nothing is proven, because of `why`.
    async fn outdate(&self, why: &str) {
        let outdated = self.open().outdated(why);
        self.settle(outdated).await;
    }

    /// From now on `report` is what is known. A change is audited once.
    async fn settle(&self, report: Report) {
        let before = std::mem::replace(&mut *self.open(), report.clone());
        let nothing = before.gates.is_empty() && report.gates.iter().all(|proof| proof.state == State::Absent);
        if before.agrees(&report) || nothing {
            return;
        }
        let mode = self.activation.current().await.config.mode;
        if let Err(error) = self.journal.write(|_| Record::gates(&in_mode(report, mode), mode)).await {
            tracing::error!("an audit entry was not written: {error}");
        }
    }

    fn open(&self) -> MutexGuard<'_, Report> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const RESTARTED: &str = "containerd was restarted, and the self-test has not ended since";
const GONE: &str = "containerd does not run";

/// Refusals that were seen are enforcement only where the node refuses what the policy refuses.
fn in_mode(mut report: Report, mode: NodeMode) -> Report {
    report.mode = mode.to_string();
    for proof in report.gates.iter_mut().filter(|proof| matches!(proof.state, State::Proven | State::Enforcing)) {
        proof.state = match mode {
            NodeMode::Enforce => State::Enforcing,
            NodeMode::Audit => State::Proven,
        };
    }
    report
}

#[cfg(test)]
mod tests;
