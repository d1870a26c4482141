//! From a decision to the answer: the one place that knows whether this node enforces or only audits.

use std::{
    fs, io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use tokio::time::timeout;

use crate::{
    audit::{Facts, Journal, Record},
    config::NodeMode,
    image::Digest,
    limits,
    policy::decision::{Decision, Verdict, Violation},
    snapshot::Snapshot,
};

/// What a gate answered since the start.
#[derive(Debug, Default)]
pub struct Counts {
    /// Images admitted because the verdict was allow.
    pub allowed: AtomicU64,
    /// Images refused by policy or evidence.
    pub denied: AtomicU64,
    /// Images refused because pullgate could not look.
    pub inconclusive: AtomicU64,
    /// Images admitted though the verdict was not allow.
    pub audit_only: AtomicU64,
}

/// How one gate answers: in the node's mode, and never before the entry is written.
pub(super) struct Answers {
    gate: &'static str,
    journal: Arc<Journal>,
    pub(super) counts: Counts,
}

/// What a question was about, beside the decision.
#[derive(Clone, Copy)]
pub(super) struct About<'a> {
    /// The name that was asked for.
    pub(super) image: Option<&'a str>,
    /// The digest that was asked about.
    pub(super) digest: Option<&'a Digest>,
    pub(super) layer: Option<&'a Digest>,
    pub(super) namespace: Option<&'a str>,
    /// The container that is about to start.
    pub(super) container: Option<&'a str>,
    /// The Kubernetes namespace and the name of its pod.
    pub(super) pod: Option<(&'a str, &'a str)>,
    /// When it was asked.
    pub(super) since: Instant,
}

impl About<'_> {
    /// A question of which nothing else is known.
    pub(super) fn nothing(since: Instant) -> Self {
        Self { image: None, digest: None, layer: None, namespace: None, container: None, pod: None, since }
    }
}

/// The answer that lets nothing through.
#[derive(Debug)]
pub(super) struct Refusal {
    decision: Decision,
    id: Option<String>,
}

impl Refusal {
    /// Whether pullgate could not look: trying again may help.
    pub(super) fn is_inconclusive(&self) -> bool {
        self.decision.verdict == Verdict::Inconclusive
    }

    /// The line that the client sees.
    pub(super) fn message(&self) -> String {
        self.decision.message(self.id.as_deref())
    }
}

impl Answers {
    pub(super) fn new(gate: &'static str, journal: Arc<Journal>) -> Self {
        Self { gate, journal, counts: Counts::default() }
    }

    /// The answer to `question`. Where nothing is refused nothing waits either: what takes longer than
    /// [`limits::AUDIT_MODE_WAIT`] is decided and recorded behind the answer, which is `meanwhile`.
    pub(super) async fn in_mode<T: Send + 'static>(
        mode: NodeMode,
        meanwhile: T,
        question: impl Future<Output = Result<T, Refusal>> + Send + 'static,
    ) -> Result<T, Refusal> {
        match mode {
            NodeMode::Enforce => question.await,
            NodeMode::Audit => match timeout(limits::AUDIT_MODE_WAIT, tokio::spawn(question)).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) | Err(_) => Ok(meanwhile),
            },
        }
    }

    /// Enforces `decision` or only audits it, and writes the entry before the answer leaves. Returns the entry's id.
    ///
    /// # Errors
    /// The refusal. Also when the entry of an allow that has to have one could not be written.
    pub(super) async fn conclude(
        &self,
        snapshot: &Snapshot,
        decision: Decision,
        about: About<'_>,
    ) -> Result<Option<String>, Refusal> {
        // What the self-test made nobody misses, and only a refusal proves that one would be heard.
        let audits = snapshot.config.mode == NodeMode::Audit && !decision.self_test;
        let admitted = decision.verdict == Verdict::Allow || audits || decision.audit_only;
        let (written, id) = self.record(snapshot, &decision, about, !admitted).await;
        if !admitted {
            return Err(Refusal { decision, id });
        }
        // A node boots without journald, and audit mode stands in nobody's way.
        let boots = decision.digest.is_some_and(|digest| snapshot.boot.contains(&digest));
        let excused = boots || audits || snapshot.config.insecure_continue_without_audit;
        match written {
            Err(violation) if !excused => Err(Refusal { decision: refused(decision, violation), id }),
            _ => Ok(id),
        }
    }

    /// Refuses a call that is no question about an image, whatever the mode.
    pub(super) async fn refuse(&self, snapshot: &Snapshot, violation: Violation, about: About<'_>) -> Refusal {
        let decision = Decision::refused(violation);
        let (_, id) = self.record(snapshot, &decision, about, true).await;
        Refusal { decision, id }
    }

    async fn record(
        &self,
        snapshot: &Snapshot,
        decision: &Decision,
        about: About<'_>,
        refused: bool,
    ) -> (Result<(), Violation>, Option<String>) {
        let counter = match (decision.verdict, refused) {
            (Verdict::Allow, _) => &self.counts.allowed,
            (_, false) => &self.counts.audit_only,
            (Verdict::Deny, true) => &self.counts.denied,
            (Verdict::Inconclusive, true) => &self.counts.inconclusive,
        };
        if !decision.self_test {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        let facts = Facts {
            gate: self.gate,
            mode: snapshot.config.mode,
            enforced: decision.verdict == Verdict::Allow || refused,
            image: about.image,
            digest: about.digest,
            layer: about.layer,
            namespace: about.namespace,
            container: about.container,
            pod: about.pod,
            duration: about.since.elapsed(),
        };
        match self.journal.write(|id| Record::decision(id, decision, &facts)).await {
            Ok(id) => (Ok(()), Some(id.to_string())),
            Err(error) => {
                tracing::error!("an audit entry was not written: {error}");
                (Err(error.violation()), None)
            }
        }
    }
}

/// Leaves word in the directory of the sockets whether this node only audits: what then finds no daemon admits, and
/// otherwise refuses. Only root can write there.
pub fn leave_word(runtime: &Path, mode: NodeMode) {
    let word = runtime.join("audit-mode");
    let left = match mode {
        NodeMode::Audit => fs::write(&word, []),
        NodeMode::Enforce => match fs::remove_file(&word) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        },
    };
    if let Err(error) = left {
        tracing::error!("{} does not say {mode}: {error}", word.display());
    }
}

/// `decision` turned into the refusal that `violation` demands.
pub(super) fn refused(decision: Decision, violation: Violation) -> Decision {
    Decision { verdict: violation.code.verdict(), violations: vec![violation], audit_only: false, ..decision }
}
