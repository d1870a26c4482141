//! What was told already, so that each change is told once.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    time::Instant,
};

use crate::{
    config::NodeMode,
    limits,
    policy::decision::{Code, Decision, Verdict},
};

/// The last words about each thing of a namespace that is not admitted.
pub(super) struct Seen<K>(HashMap<(String, K), Said>);

struct Said {
    verdict: Verdict,
    code: Option<Code>,
    revision: String,
    mode: NodeMode,
    at: Instant,
}

impl<K> Default for Seen<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash + Clone> Seen<K> {
    /// Whether `decision` about `key` says something new that is not an allow, on a node in `mode`.
    pub(super) fn is_news(&mut self, namespace: &str, key: &K, decision: &Decision, mode: NodeMode) -> bool {
        let key = (namespace.to_owned(), key.clone());
        if decision.verdict == Verdict::Allow {
            self.0.remove(&key);
            return false;
        }
        let Decision { verdict, revision, .. } = decision;
        let said =
            Said { verdict: *verdict, code: decision.code(), revision: revision.clone(), mode, at: Instant::now() };
        match self.0.get_mut(&key) {
            Some(before) => {
                let before = std::mem::replace(before, said);
                let now = (*verdict, decision.code(), revision, mode);
                (before.verdict, before.code, &before.revision, before.mode) != now
            }
            None => {
                if self.0.len() < limits::WATCHED {
                    self.0.insert(key, said);
                }
                true
            }
        }
    }

    /// Forgets `key`: it is gone, or what was to be told could not be.
    pub(super) fn forget(&mut self, namespace: &str, key: &K) {
        self.0.remove(&(namespace.to_owned(), key.clone()));
    }

    /// Forgets what is not among `found` and was not told since `began`.
    pub(super) fn keep(&mut self, found: &HashSet<(String, K)>, began: Instant) {
        self.0.retain(|key, said| said.at >= began || found.contains(key));
    }

    /// Those that are refused because of the image or the policy.
    pub(super) fn refused(&self) -> Vec<(String, K)> {
        let refused = |said: &Said| said.verdict == Verdict::Deny && said.code.is_some_and(is_about_image);
        self.0.iter().filter(|(_, said)| refused(said)).map(|(key, _)| key.clone()).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// Whether the evidence or the policy says no, in contrast to trouble of the node itself.
pub(super) fn is_about_image(code: Code) -> bool {
    (100..300).contains(&(code as u16))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::decision::Violation;

    fn refused(code: Code, revision: &str) -> Decision {
        let violation = Violation { code, found: String::new(), fix: String::new() };
        Decision { revision: revision.to_owned(), ..Decision::refused(violation) }
    }

    #[test]
    fn each_change_is_news_once() {
        let mut seen = Seen::<u32>::default();
        let allow = Decision { verdict: Verdict::Allow, ..Decision::default() };
        for (decision, news) in [
            (allow.clone(), false),
            (refused(Code::Unsigned, "r1"), true),
            (refused(Code::Unsigned, "r1"), false),
            (refused(Code::UntrustedAttestor, "r1"), true),
            (refused(Code::UntrustedAttestor, "r2"), true),
            (refused(Code::RegistryUnreachable, "r2"), true),
            (refused(Code::RegistryUnreachable, "r2"), false),
            (allow, false),
            (refused(Code::RegistryUnreachable, "r2"), true),
        ] {
            assert_eq!(seen.is_news("k8s.io", &1, &decision, NodeMode::Enforce), news, "{decision:?}");
        }
        assert!(seen.is_news("moby", &1, &refused(Code::RegistryUnreachable, "r2"), NodeMode::Enforce));
        assert!(seen.is_news("moby", &1, &refused(Code::RegistryUnreachable, "r2"), NodeMode::Audit));
        seen.forget("moby", &1);
        assert!(seen.is_news("moby", &1, &refused(Code::RegistryUnreachable, "r2"), NodeMode::Enforce));
    }

    #[test]
    fn what_is_gone_is_forgotten_unless_it_came_meanwhile() {
        let mut seen = Seen::<u32>::default();
        for key in [1, 2] {
            assert!(seen.is_news("k8s.io", &key, &refused(Code::Unsigned, "r1"), NodeMode::Enforce));
        }
        let began = Instant::now();
        assert!(seen.is_news("k8s.io", &3, &refused(Code::Unsigned, "r1"), NodeMode::Enforce));
        seen.keep(&HashSet::from([("k8s.io".to_owned(), 1)]), began);
        let mut left: Vec<u32> = seen.refused().into_iter().map(|(_, key)| key).collect();
        left.sort_unstable();
        assert_eq!(left, [1, 3]);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut seen = Seen::<usize>::default();
        let decision = refused(Code::Unsigned, "r1");
        for key in 0..=limits::WATCHED {
            assert!(seen.is_news("k8s.io", &key, &decision, NodeMode::Enforce));
        }
        assert_eq!(seen.len(), limits::WATCHED);
        assert!(seen.is_news("k8s.io", &limits::WATCHED, &decision, NodeMode::Enforce), "there is no room for it");
        assert!(!seen.is_news("k8s.io", &0, &decision, NodeMode::Enforce));
    }

    #[test]
    fn trouble_of_the_node_is_no_refusal_of_an_image() {
        let mut seen = Seen::<u32>::default();
        for (key, code) in
            [(1, Code::Unsigned), (2, Code::DeniedByRule), (3, Code::PolicyInvalid), (4, Code::RegistryUnreachable)]
        {
            assert!(seen.is_news("k8s.io", &key, &refused(code, "r1"), NodeMode::Enforce));
        }
        let mut refused: Vec<u32> = seen.refused().into_iter().map(|(_, key)| key).collect();
        refused.sort_unstable();
        assert_eq!(refused, [1, 2]);
    }
}
