//! Decisions that still hold, so that a layer, a retry or a restart of a pull does not ask the registry again.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use moka::{Expiry, future::Cache};

use crate::{evidence::Place, image::Digest, limits, policy::decision::Decision};

/// Under which a decision is kept. The rule is selected anew for every request, so its scope is not in here.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The manifest or index.
    pub digest: Digest,
    /// The rule's content: what it requires, its attestors and their keys.
    pub rule: Digest,
    /// Where the evidence was looked for.
    pub place: Option<Place>,
}

/// The decisions in memory, bounded in number and each in time.
pub struct Decisions(Cache<Key, Decision>);

/// A decision lives until a fact that it used changes; one that names no such time is not kept.
struct UntilInvalid;

impl Expiry<Key, Decision> for UntilInvalid {
    fn expire_after_create(&self, _: &Key, decision: &Decision, _: Instant) -> Option<Duration> {
        let until = decision.valid_until.map(|until| until.duration_since(Timestamp::now()));
        Some(until.and_then(|until| until.try_into().ok()).unwrap_or(Duration::ZERO))
    }
}

impl Default for Decisions {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(limits::DECISIONS).expire_after(UntilInvalid).build())
    }
}

impl Decisions {
    /// The decision under `key`: the one that holds, or else what `decide` comes to, which all who ask meanwhile share.
    pub async fn get_or(&self, key: Key, decide: impl Future<Output = Decision>) -> Decision {
        self.0.get_with(key, decide).await
    }

    /// How many are kept.
    pub fn len(&self) -> u64 {
        self.0.entry_count()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::policy::decision::Verdict;

    fn key() -> Key {
        Key { digest: Digest::of(b"image"), rule: Digest::of(b"rule"), place: None }
    }

    async fn asked(decisions: &Decisions, key: Key, valid_for: Option<i64>, count: &AtomicU32) -> Decision {
        let valid_until = valid_for.map(|seconds| Timestamp::now() + jiff::SignedDuration::from_secs(seconds));
        let decide = async {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            Decision { verdict: Verdict::Allow, valid_until, ..Decision::default() }
        };
        decisions.get_or(key, decide).await
    }

    #[tokio::test]
    async fn a_decision_holds_until_it_ends_and_only_for_its_own_key() {
        let (decisions, count) = (Decisions::default(), AtomicU32::new(0));
        for _ in 0..3 {
            assert_eq!(asked(&decisions, key(), Some(60), &count).await.verdict, Verdict::Allow);
        }
        assert_eq!(count.load(Ordering::SeqCst), 1);
        let _ = asked(&decisions, Key { rule: Digest::of(b"other"), ..key() }, Some(60), &count).await;
        assert_eq!(count.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn what_names_no_end_or_an_end_that_has_passed_is_not_kept() {
        for valid_for in [None, Some(-1)] {
            let (decisions, count) = (Decisions::default(), AtomicU32::new(0));
            for _ in 0..3 {
                let _ = asked(&decisions, key(), valid_for, &count).await;
            }
            assert_eq!(count.load(Ordering::SeqCst), 3, "{valid_for:?}");
        }
    }

    #[tokio::test]
    async fn who_asks_at_once_shares_one_decision() {
        let (decisions, count) = (Decisions::default(), AtomicU32::new(0));
        let ask = || asked(&decisions, key(), Some(60), &count);
        let _ = tokio::join!(ask(), ask(), ask());
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }
}
