//! The digests of the run that goes on now, and what each gate has to say about them.
//!
//! They are made for one run from random bytes, live in memory alone, and are gone with the run: nothing else can be
//! admitted by this list, and nothing for longer.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::Gate;
use crate::{
    image::Digest,
    policy::decision::{Code, Decision, Verdict, Violation},
};

/// The name in entries of what decides about these images.
const RULE: &str = "self-test";

/// The images of the run that goes on now. Empty at all other times.
#[derive(Default)]
pub struct OneTime(Mutex<Digests>);

#[derive(Default)]
struct Digests {
    planned: HashMap<Digest, Planned>,
    asked: Vec<(Gate, Digest)>,
}

#[derive(Clone, Copy)]
struct Planned {
    /// The manifest, by whichever of its digests the image was asked about.
    image: Digest,
    /// The gate that must refuse it, all before it having let it pass; none for one that must be admitted everywhere.
    refused_at: Option<Gate>,
}

/// Images that are decided about here as long as this lives.
pub struct Listed<'a> {
    list: &'a OneTime,
    digests: Vec<Digest>,
}

impl OneTime {
    /// What `gate` has to answer about the manifest or configuration `digest`; none if it is not of this run.
    pub fn decision(&self, gate: Gate, digest: &Digest) -> Option<Decision> {
        let mut digests = self.open();
        let planned = *digests.planned.get(digest)?;
        if !digests.asked.contains(&(gate, planned.image)) {
            digests.asked.push((gate, planned.image));
        }
        // A gate that comes after the one which should have refused must not admit it either.
        let decision = match planned.refused_at {
            Some(refuses) if gate >= refuses => Decision::refused(Violation {
                code: Code::SelfTest,
                found: format!("an image of the self-test, made to be refused by the {} gate", refuses.name()),
                fix: String::new(),
            }),
            _ => Decision { verdict: Verdict::Allow, ..Decision::default() },
        };
        Some(Decision { rule: Some(RULE.to_owned()), digest: Some(*digest), self_test: true, ..decision })
    }

    /// Whether `digest` is of the run that goes on now, so that nobody need judge it.
    pub fn lists(&self, digest: &Digest) -> bool {
        self.open().planned.contains_key(digest)
    }

    /// From now on the image with the manifest and configuration `digests` is refused at the gate `refused_at`, or nowhere.
    pub fn list(&self, digests: [Digest; 2], refused_at: Option<Gate>) -> Listed<'_> {
        let planned = Planned { image: digests[0], refused_at };
        self.open().planned.extend(digests.map(|digest| (digest, planned)));
        Listed { list: self, digests: digests.into() }
    }

    fn open(&self) -> MutexGuard<'_, Digests> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listed<'_> {
    /// From now on no gate was asked about it.
    pub fn forget_asked(&self) {
        self.list.open().asked.retain(|(_, image)| !self.digests.contains(image));
    }

    /// Whether `gate` was asked about it.
    pub fn was_asked(&self, gate: Gate) -> bool {
        self.digests.first().is_some_and(|image| self.list.open().asked.contains(&(gate, *image)))
    }
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        let mut digests = self.list.open();
        digests.planned.retain(|digest, _| !self.digests.contains(digest));
        digests.asked.retain(|(_, image)| !self.digests.contains(image));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATES: [Gate; 3] = [Gate::Resolve, Gate::Unpack, Gate::Start];

    fn verdicts(list: &OneTime, digest: &Digest) -> Vec<Option<Verdict>> {
        GATES.map(|gate| list.decision(gate, digest).map(|decision| decision.verdict)).into()
    }

    #[test]
    fn each_gate_refuses_from_its_own_image_on() {
        let list = OneTime::default();
        let (allow, deny) = (Some(Verdict::Allow), Some(Verdict::Deny));
        for (refused_at, expected) in [
            (Some(Gate::Resolve), [deny, deny, deny]),
            (Some(Gate::Unpack), [allow, deny, deny]),
            (Some(Gate::Start), [allow, allow, deny]),
            (None, [allow, allow, allow]),
        ] {
            let digests = [Digest::of(b"manifest"), Digest::of(b"config")];
            let listed = list.list(digests, refused_at);
            for digest in &digests {
                assert_eq!(verdicts(&list, digest), expected, "{refused_at:?}");
            }
            drop(listed);
        }
    }

    #[test]
    fn nothing_else_is_decided_about_and_nothing_after_the_run() {
        let list = OneTime::default();
        let ours = [Digest::of(b"manifest"), Digest::of(b"config")];
        assert_eq!(verdicts(&list, &ours[0]), [None; 3]);
        let listed = list.list(ours, None);
        let other = list.list([Digest::of(b"m"), Digest::of(b"c")], Some(Gate::Start));
        for digest in [Digest::of(b""), Digest::of(b"layer"), Digest::of(b"somebody else's")] {
            assert_eq!(verdicts(&list, &digest), [None; 3]);
            assert!(!list.lists(&digest));
        }
        assert!(list.lists(&ours[0]) && list.lists(&ours[1]));
        drop(listed);
        assert_eq!(verdicts(&list, &ours[0]), [None; 3]);
        assert_eq!(verdicts(&list, &ours[1]), [None; 3]);
        assert!(list.lists(&Digest::of(b"m")));
        drop(other);
        let left = list.open();
        assert!(left.planned.is_empty() && left.asked.is_empty());
    }

    #[test]
    fn it_is_known_which_gate_was_asked_about_which_image() {
        let list = OneTime::default();
        let listed = list.list([Digest::of(b"m"), Digest::of(b"c")], None);
        let other = list.list([Digest::of(b"m2"), Digest::of(b"c2")], None);
        for _ in 0..100 {
            let _ = list.decision(Gate::Start, &Digest::of(b"c"));
        }
        assert!(listed.was_asked(Gate::Start) && !listed.was_asked(Gate::Unpack));
        assert!(!other.was_asked(Gate::Start));
        assert_eq!(list.open().asked.len(), 1);
        let _ = list.decision(Gate::Unpack, &Digest::of(b"c2"));
        listed.forget_asked();
        assert!(!listed.was_asked(Gate::Start) && other.was_asked(Gate::Unpack));
    }

    #[test]
    fn what_it_decides_is_marked_and_says_what_it_is() {
        let list = OneTime::default();
        let _refused = list.list([Digest::of(b"m"), Digest::of(b"c")], Some(Gate::Unpack));
        let decision = list.decision(Gate::Unpack, &Digest::of(b"m")).unwrap();
        assert!(decision.self_test && !decision.audit_only);
        assert_eq!((decision.rule.as_deref(), decision.code()), (Some(RULE), Some(Code::SelfTest)));
        let message = decision.message(Some("1J4"));
        assert!(message.starts_with("DENY PG411 rule \"self-test\": an image of the self-test"), "{message}");
    }
}
