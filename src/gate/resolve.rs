//! The resolve gate: containerd has resolved a name and is about to fetch what it stands for.
//!
//! containerd starts a verifier, which passes on what it was given (`src/bin/pullgate-verifier`). This gate alone knows
//! the name as it was asked for, with the registry's port, and refuses before anything is downloaded.

mod question;

use std::{io, os::unix::net::UnixListener, sync::Arc, time::Instant};

use tokio::{net::UnixStream, time::timeout};

use self::question::Question;
use super::{
    answer::{About, Answers, Counts, Refusal},
    image,
    peer::Program,
    questions,
};
use crate::{
    activation::Activation,
    admission::Admission,
    audit::Journal,
    containerd::Containerd,
    decisions::Asking,
    evidence::Place,
    image::sanitize,
    limits,
    policy::{
        decision::{Code, Decision, Violation},
        evaluate::{Origin, Subject},
    },
    selftest::Gate,
    snapshot::Snapshot,
};

/// The resolve gate.
pub struct Resolve {
    containerd: Arc<Containerd>,
    admission: Arc<Admission>,
    activation: Arc<Activation>,
    answers: Answers,
}

impl Resolve {
    /// The gate in front of `containerd`.
    pub fn new(
        containerd: Arc<Containerd>,
        admission: Arc<Admission>,
        activation: Arc<Activation>,
        journal: Arc<Journal>,
    ) -> Self {
        Self { containerd, admission, activation, answers: Answers::new("resolve", journal) }
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
        questions::serve(listener, limits::PARALLEL_QUESTIONS, stop, attend).await
    }

    /// One question, one answer.
    async fn attend(self: Arc<Self>, mut stream: UnixStream) {
        let since = Instant::now();
        let program = Program::of(&stream);
        let received = questions::receive(&mut stream, limits::QUESTION_BYTES).await;
        questions::reply(&mut stream, self.answer(program, received, since).await).await;
    }

    async fn answer(
        self: Arc<Self>,
        program: Program,
        received: Result<Vec<u8>, String>,
        since: Instant,
    ) -> Result<Option<String>, Refusal> {
        let snapshot = self.activation.current().await;
        if let Some(violation) = self.stranger(&program).await {
            return Err(self.answers.refuse(&snapshot, violation, About::nothing(since)).await);
        }
        let question = self.clone().judge_and_record(snapshot.clone(), received, since);
        Answers::in_mode(snapshot.config.mode, None, question).await
    }

    /// Why whoever asks is not to be answered, whatever the mode.
    async fn stranger(&self, program: &Program) -> Option<Violation> {
        match program.is_containerds(&self.containerd).await {
            Ok(true) => None,
            Ok(false) => Some(Violation {
                code: Code::UntrustedPeer,
                found: format!(
                    "the caller ({program}) was not started by the containerd that pullgate is configured with"
                ),
                fix: "compare `address` in config.toml with containerd's".to_owned(),
            }),
            Err(error) => Some(Violation {
                code: Code::ContainerdUnreachable,
                found: format!("containerd's socket could not be reached: {error}"),
                fix: String::new(),
            }),
        }
    }

    async fn judge_and_record(
        self: Arc<Self>,
        snapshot: Arc<Snapshot>,
        received: Result<Vec<u8>, String>,
        since: Instant,
    ) -> Result<Option<String>, Refusal> {
        let question = received.and_then(|bytes| Question::read(&bytes));
        let question = match question {
            Ok(question) => Arc::new(question),
            Err(found) => {
                let fix = "update pullgate, or look at who asks".to_owned();
                let decision = Decision::refused(Violation { code: Code::MalformedRequest, found, fix });
                return self.answers.conclude(&snapshot, decision, About::nothing(since)).await;
            }
        };
        let deciding = decide(self.admission.clone(), snapshot.clone(), question.clone());
        // What takes too long goes on behind the answer, so that the next try finds it decided.
        let deciding = tokio::spawn(timeout(limits::DECISION_DEADLINE, deciding));
        let left = limits::RESOLVE_DEADLINE.saturating_sub(since.elapsed());
        let decision = match timeout(left, deciding).await {
            Ok(Ok(Ok(decision))) => decision,
            _ => {
                let found = format!("no decision in {} s", limits::RESOLVE_DEADLINE.as_secs());
                Decision::refused(Violation { code: Code::DeadlineExceeded, found, fix: String::new() })
            }
        };
        let image = sanitize(&question.name, limits::REFERENCE_CHARS);
        let about = About { image: Some(&image), digest: Some(&question.digest), ..About::nothing(since) };
        self.answers.conclude(&snapshot, decision, about).await
    }
}

/// Decides about the image that containerd will fetch, which proves its name.
async fn decide(admission: Arc<Admission>, snapshot: Arc<Snapshot>, question: Arc<Question>) -> Decision {
    let Question { repository, tag, digest, media_type, .. } = &*question;
    if let Some(decision) = admission.one_time().decision(Gate::Resolve, digest) {
        return decision;
    }
    let home = image::Home::Registry(Place { repository: repository.clone(), proven: true });
    let subject = |digest| Subject::new(digest, Some(repository.clone()), Origin::Fetched);
    let subjects = |digest| vec![subject(digest).tagged(tag.clone())];
    image::decide(&admission, &snapshot, &home, *digest, Some(media_type), Asking::Anew, subjects).await.decision
}

#[cfg(test)]
mod tests;
