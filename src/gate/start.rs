//! The start gate: a container's own process is about to start.
//!
//! The runtime starts a hook, which passes on the container's state (`src/bin/pullgate-verifier`). Of that the identifier
//! alone is believed, and only to find containerd's record: this gate decides by the configuration that the container was
//! made from, by the layers that its files stand on, and under the name that it was made with. It asks nobody but this
//! node; what that cannot tell is refused, and verified behind the answer.

mod behind;
mod judge;
mod state;

use std::{io, os::unix::net::UnixListener, sync::Arc, time::Instant};

use moka::sync::Cache;
use tokio::{net::UnixStream, time::timeout};

use self::{
    behind::Behind,
    judge::{Judged, Pod},
    state::State,
};
use super::{
    answer::{About, Answers, Counts, Refusal},
    peer::Program,
    questions,
};
use crate::{
    activation::Activation,
    admission::Admission,
    audit::Journal,
    containerd::Containerd,
    evidence::content::ContentStore,
    limits,
    policy::decision::{Code, Decision, Verdict, Violation},
    snapshot::Snapshot,
};

/// The start gate.
pub struct Start {
    containerd: Arc<Containerd>,
    content: Arc<ContentStore>,
    admission: Arc<Admission>,
    activation: Arc<Activation>,
    /// By containerd's namespace and the sandbox's identifier.
    pods: Cache<(String, String), Arc<Pod>>,
    behind: Behind,
    answers: Answers,
}

impl Start {
    /// The gate in front of `containerd`.
    pub fn new(
        containerd: Arc<Containerd>,
        content: Arc<ContentStore>,
        admission: Arc<Admission>,
        activation: Arc<Activation>,
        journal: Arc<Journal>,
    ) -> Self {
        let (pods, behind, answers) = (Cache::new(limits::PODS), Behind::default(), Answers::new("start", journal));
        Self { containerd, content, admission, activation, pods, behind, answers }
    }

    /// What was answered since the start.
    pub fn counts(&self) -> &Counts {
        &self.answers.counts
    }

    /// Serves `listener` until `stop` is done, then lets the questions at hand end.
    ///
    /// # Errors
    /// When the socket cannot be served.
    pub async fn serve(self: Arc<Self>, listener: UnixListener, stop: impl Future<Output = ()>) -> io::Result<()> {
        let attend = |stream| self.clone().attend(stream);
        questions::serve(listener, limits::PARALLEL_STARTS, stop, attend).await
    }

    /// One question, one answer.
    async fn attend(self: Arc<Self>, mut stream: UnixStream) {
        let since = Instant::now();
        let program = Program::of(&stream);
        let received = questions::receive(&mut stream, limits::START_QUESTION_BYTES).await;
        questions::reply(&mut stream, self.answer(program, received, since).await).await;
    }

    async fn answer(
        self: Arc<Self>,
        program: Program,
        received: Result<Vec<u8>, String>,
        since: Instant,
    ) -> Result<Option<String>, Refusal> {
        let snapshot = self.activation.current().await;
        if !program.is_root() {
            let found = format!("the caller ({program}) is not root");
            let fix = "look at who asks".to_owned();
            let violation = Violation { code: Code::UntrustedPeer, found, fix };
            return Err(self.answers.refuse(&snapshot, violation, About::nothing(since)).await);
        }
        let question = self.clone().judge_and_record(snapshot.clone(), received, since);
        Answers::in_mode(snapshot.config.mode, None, question).await
    }

    async fn judge_and_record(
        self: Arc<Self>,
        snapshot: Arc<Snapshot>,
        received: Result<Vec<u8>, String>,
        since: Instant,
    ) -> Result<Option<String>, Refusal> {
        let state = match received.and_then(|bytes| State::read(&bytes)) {
            Ok(state) => Arc::new(state),
            Err(found) => {
                let fix = "update pullgate, or look at who asks".to_owned();
                let decision = Decision::refused(Violation { code: Code::MalformedRequest, found, fix });
                return self.answers.conclude(&snapshot, decision, About::nothing(since)).await;
            }
        };
        let judging = self.clone().judge(snapshot.clone(), state.clone());
        // What takes too long goes on behind the answer, so that the next try finds it decided.
        let judging = tokio::spawn(timeout(limits::DECISION_DEADLINE, judging));
        let left = limits::START_DEADLINE.saturating_sub(since.elapsed());
        let (pod, mut judged) = match timeout(left, judging).await {
            Ok(Ok(Ok(judged))) => judged,
            _ => {
                let found = format!("no decision in {} s", limits::START_DEADLINE.as_secs());
                let violation = Violation { code: Code::DeadlineExceeded, found, fix: String::new() };
                (None, vec![Judged::refused(violation)])
            }
        };
        let about = About {
            namespace: Some(&state.namespace),
            container: Some(&state.id),
            pod: pod.as_deref().map(|pod| (pod.namespace.as_str(), pod.name.as_str())),
            ..About::nothing(since)
        };
        let mut id = None;
        // One image that is refused refuses the container, and that of the others which are not is no news then.
        judged.sort_by_key(|judged| judged.decision.verdict == Verdict::Allow);
        for Judged { image, decision } in judged {
            let concluded =
                self.answers.conclude(&snapshot, decision, About { image: image.as_deref(), ..about }).await?;
            id = id.or(concluded);
        }
        Ok(id)
    }
}

#[cfg(test)]
mod tests;
