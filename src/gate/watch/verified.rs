//! What was asked of registries in the background about images that the node cannot tell by itself: once for each image
//! and policy, and again only where no answer came, ever more rarely.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::{Duration, Instant},
};

use crate::{
    image::Digest,
    limits,
    policy::{
        decision::{Decision, Verdict},
        grounds::Grounds,
    },
};

/// What came of it, by namespace and what the image records lead to.
#[derive(Default)]
pub(super) struct Verified(HashMap<(String, Digest), Outcome>);

struct Outcome {
    decision: Decision,
    /// How often in a row there was no answer.
    unanswered: u32,
    again: Option<Instant>,
}

impl Verified {
    /// Notes what `decision` about `target` came to.
    pub(super) fn note(&mut self, namespace: &str, target: Digest, decision: &Decision, now: Instant) {
        let key = (namespace.to_owned(), target);
        if !self.0.contains_key(&key) && self.0.len() >= limits::WATCHED {
            return;
        }
        let unanswered = match (decision.verdict, self.0.get(&key)) {
            (Verdict::Inconclusive, before) => before.map_or(1, |before| before.unanswered.saturating_add(1)),
            _ => 0,
        };
        let again = (unanswered > 0).then(|| now + pause(unanswered));
        let decision = Decision { grounds: Grounds::default(), ..decision.clone() };
        self.0.insert(key, Outcome { decision, unanswered, again });
    }

    /// What came of it under the policy `revision` for an image that any of `documents` leads to.
    pub(super) fn of(&self, namespace: &str, documents: &BTreeSet<Digest>, revision: &str) -> Option<&Decision> {
        let outcome = documents.iter().find_map(|digest| self.0.get(&(namespace.to_owned(), *digest)));
        outcome.map(|outcome| &outcome.decision).filter(|decision| decision.revision == revision)
    }

    /// Whether `target` is to be asked about under the policy `revision`.
    pub(super) fn is_due(&self, namespace: &str, target: Digest, revision: &str, now: Instant) -> bool {
        self.0.get(&(namespace.to_owned(), target)).is_none_or(|outcome| {
            outcome.decision.revision != revision || outcome.again.is_some_and(|again| again <= now)
        })
    }

    /// Forgets everything: what is asked, or where, has changed.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Forgets what is not among `found`.
    pub(super) fn keep(&mut self, found: &HashSet<(String, Digest)>) {
        self.0.retain(|key, _| found.contains(key));
    }
}

fn pause(unanswered: u32) -> Duration {
    let doubled =
        2u32.checked_pow(unanswered.saturating_sub(1)).and_then(|times| limits::VERIFY_AGAIN.checked_mul(times));
    doubled.map_or(limits::VERIFY_AGAIN_MOST, |pause| pause.min(limits::VERIFY_AGAIN_MOST))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::decision::{Code, Violation};

    fn decided(code: Code, revision: &str) -> Decision {
        let violation = Violation { code, found: String::new(), fix: String::new() };
        Decision { revision: revision.to_owned(), ..Decision::refused(violation) }
    }

    #[test]
    fn an_answer_holds_for_its_policy_and_a_lack_of_one_is_asked_for_ever_more_rarely() {
        let (mut verified, target, now) = (Verified::default(), Digest::of(b"m"), Instant::now());
        assert!(verified.is_due("k8s.io", target, "r1", now));
        verified.note("k8s.io", target, &decided(Code::Unsigned, "r1"), now);
        let far = now + limits::VERIFY_AGAIN_MOST;
        assert!(!verified.is_due("k8s.io", target, "r1", far));
        assert!(verified.is_due("k8s.io", target, "r2", now) && verified.is_due("moby", target, "r1", now));
        let documents = BTreeSet::from([Digest::of(b"index"), target]);
        assert_eq!(verified.of("k8s.io", &documents, "r1").and_then(Decision::code), Some(Code::Unsigned));
        assert!(verified.of("k8s.io", &documents, "r2").is_none());
        let mut pause = limits::VERIFY_AGAIN;
        for _ in 0..20 {
            verified.note("k8s.io", target, &decided(Code::RegistryUnreachable, "r1"), now);
            assert!(!verified.is_due("k8s.io", target, "r1", now + pause - Duration::from_millis(1)), "{pause:?}");
            assert!(verified.is_due("k8s.io", target, "r1", now + pause), "{pause:?}");
            pause = (pause * 2).min(limits::VERIFY_AGAIN_MOST);
        }
        assert_eq!(pause, limits::VERIFY_AGAIN_MOST);
        verified.keep(&HashSet::new());
        assert!(verified.of("k8s.io", &documents, "r1").is_none());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut verified, now) = (Verified::default(), Instant::now());
        let decision = decided(Code::Unsigned, "r1");
        for number in 0..limits::WATCHED + 10 {
            verified.note("k8s.io", Digest::of(&number.to_le_bytes()), &decision, now);
        }
        assert_eq!(verified.0.len(), limits::WATCHED);
    }
}
