//! What was asked of registries in the background about images that the node cannot tell by itself: once for each image
//! and policy, and again only where no answer came, ever more rarely.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::{Duration, Instant},
};

use crate::{
    gate::pieces::Under,
    image::Digest,
    limits,
    policy::{
        decision::{Decision, Verdict},
        grounds::Grounds,
    },
};

/// What came of it, by namespace.
#[derive(Default)]
pub(super) struct Verified(HashMap<(String, About), Outcome>);

/// What was asked about: an image under any of its names, or under what a container was made with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct About {
    /// What the image records lead to, or the manifest or index that comes first.
    pub(super) digest: Digest,
    /// Under what; none for any name of its own.
    pub(super) under: Option<Under>,
}

impl From<Digest> for About {
    fn from(digest: Digest) -> Self {
        Self { digest, under: None }
    }
}

struct Outcome {
    decision: Decision,
    /// How often in a row there was no answer.
    unanswered: u32,
    again: Option<Instant>,
}

impl Verified {
    /// Notes that `decision` came of it.
    pub(super) fn note(&mut self, namespace: &str, about: impl Into<About>, decision: &Decision, now: Instant) {
        // What break-glass admits it admits only now.
        if decision.glass.is_some() {
            return;
        }
        let key = (namespace.to_owned(), about.into());
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

    /// What came of it under the policy `revision` for an image that any of `documents` leads to, and that is judged `under` this.
    pub(super) fn of(
        &self,
        namespace: &str,
        documents: &BTreeSet<Digest>,
        under: Option<&Under>,
        revision: &str,
    ) -> Option<&Decision> {
        let about = |digest: &Digest| About { digest: *digest, under: under.cloned() };
        let outcome = documents.iter().find_map(|digest| self.0.get(&(namespace.to_owned(), about(digest))));
        outcome.map(|outcome| &outcome.decision).filter(|decision| decision.revision == revision)
    }

    /// Whether it is to be asked `about` under the policy `revision`.
    pub(super) fn is_due(&self, namespace: &str, about: impl Into<About>, revision: &str, now: Instant) -> bool {
        match self.0.get(&(namespace.to_owned(), about.into())) {
            Some(outcome) => outcome.decision.revision != revision || outcome.again.is_some_and(|again| again <= now),
            // What cannot be remembered would be asked for ever.
            None => self.0.len() < limits::WATCHED,
        }
    }

    /// Forgets everything: what is asked, or where, has changed.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Forgets what is not among `found`.
    pub(super) fn keep(&mut self, found: &HashSet<(String, Digest)>) {
        self.0.retain(|(namespace, about), _| found.contains(&(namespace.clone(), about.digest)));
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
    use crate::{
        gate::subjects::Called,
        policy::{
            decision::{Code, Violation},
            evaluate::Namespace,
        },
    };

    fn decided(code: Code, revision: &str) -> Decision {
        let violation = Violation { code, found: String::new(), fix: String::new() };
        Decision { revision: revision.to_owned(), ..Decision::refused(violation) }
    }

    #[test]
    fn an_answer_holds_for_its_policy_and_a_lack_of_one_is_asked_for_ever_more_rarely() {
        let (mut verified, target, now) = (Verified::default(), Digest::of(b"m"), Instant::now());
        assert!(verified.is_due("k8s.io", target, "r1", now));
        verified.note("k8s.io", target, &decided(Code::Unsigned, "r1"), now);
        let under = Under { called: vec![Called::by("reg.io/a")], within: Namespace::Outside };
        let named = About { digest: target, under: Some(under) };
        assert!(verified.is_due("k8s.io", named.clone(), "r1", now), "a name of its own is a question of its own");
        let far = now + limits::VERIFY_AGAIN_MOST;
        assert!(!verified.is_due("k8s.io", target, "r1", far));
        assert!(verified.is_due("k8s.io", target, "r2", now) && verified.is_due("moby", target, "r1", now));
        let documents = BTreeSet::from([Digest::of(b"index"), target]);
        assert_eq!(verified.of("k8s.io", &documents, None, "r1").and_then(Decision::code), Some(Code::Unsigned));
        assert!(verified.of("k8s.io", &documents, None, "r2").is_none());
        assert!(verified.of("k8s.io", &documents, named.under.as_ref(), "r1").is_none());
        let mut pause = limits::VERIFY_AGAIN;
        for _ in 0..20 {
            verified.note("k8s.io", target, &decided(Code::RegistryUnreachable, "r1"), now);
            assert!(!verified.is_due("k8s.io", target, "r1", now + pause - Duration::from_millis(1)), "{pause:?}");
            assert!(verified.is_due("k8s.io", target, "r1", now + pause), "{pause:?}");
            pause = (pause * 2).min(limits::VERIFY_AGAIN_MOST);
        }
        assert_eq!(pause, limits::VERIFY_AGAIN_MOST);
        verified.keep(&HashSet::new());
        assert!(verified.of("k8s.io", &documents, None, "r1").is_none());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut verified, now) = (Verified::default(), Instant::now());
        let decision = decided(Code::Unsigned, "r1");
        for number in 0..limits::WATCHED + 10 {
            verified.note("k8s.io", Digest::of(&number.to_le_bytes()), &decision, now);
        }
        assert_eq!(verified.0.len(), limits::WATCHED);
        let [kept, lost] = [0, limits::WATCHED].map(|number| Digest::of(&number.to_le_bytes()));
        assert!(verified.is_due("k8s.io", kept, "r2", now) && !verified.is_due("k8s.io", lost, "r2", now));
    }
}
