//! Decisions that still hold, so that a layer, a retry or a restart of a pull is not decided again.
//!
//! They are in memory only. What outlives the process is the evidence ([`crate::evidence::kept`]), and that is verified
//! anew: nothing on disk can admit an image, and a release that fixes verification leaves no allow behind from before it.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use moka::{Expiry, future::Cache};

use crate::{
    evidence::Place,
    image::Digest,
    limits,
    policy::decision::{Decision, Verdict},
};

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

/// How a decision is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Asking {
    /// One that holds will do.
    #[default]
    Usual,
    /// A refusal that was remembered is looked at again: since then somebody may have signed.
    Anew,
    /// Nobody but this node is asked. What it cannot tell is [`Verdict::Inconclusive`].
    Offline,
}

/// The decisions in memory, bounded in number and each in time.
pub struct Decisions(Cache<Key, Decision>);

/// A decision lives until a fact that it used changes; one that names no such time is not kept.
struct UntilInvalid;

impl Expiry<Key, Decision> for UntilInvalid {
    fn expire_after_create(&self, _: &Key, decision: &Decision, _: Instant) -> Option<Duration> {
        Some(left(decision))
    }

    fn expire_after_update(&self, _: &Key, decision: &Decision, _: Instant, _: Option<Duration>) -> Option<Duration> {
        Some(left(decision))
    }
}

/// By the system clock, which may have been set back: who asks compares with the time that it decides by.
fn left(decision: &Decision) -> Duration {
    let until = decision.valid_until.map(|until| until.duration_since(Timestamp::now()));
    until.and_then(|until| until.try_into().ok()).unwrap_or(Duration::ZERO)
}

impl Default for Decisions {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(limits::DECISIONS).expire_after(UntilInvalid).build())
    }
}

impl Decisions {
    /// The decision under `key`: the one that holds at `now`, or else what `decide` comes to, which all who ask meanwhile
    /// share.
    pub async fn get_or(
        &self,
        key: Key,
        asking: Asking,
        now: Timestamp,
        decide: impl Future<Output = Decision>,
    ) -> Decision {
        let refused_before = |decision: &Decision| asking == Asking::Anew && decision.verdict != Verdict::Allow;
        let ended = |decision: &Decision| decision.valid_until.is_none_or(|until| until <= now);
        if asking == Asking::Offline {
            // Whoever may ask a registry must not be given the answer of one who may not.
            return match self.0.get(&key).await.filter(|decision| !ended(decision)) {
                Some(decision) => decision,
                None => {
                    let decision = decide.await;
                    if decision.verdict == Verdict::Allow {
                        self.0.insert(key, decision.clone()).await;
                    }
                    decision
                }
            };
        }
        let decided = self.0.entry(key).or_insert_with_if(decide, |known| ended(known) || refused_before(known)).await;
        decided.into_value()
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

    /// A decision of `verdict` that holds for so many seconds from now, if it was not asked for in vain.
    async fn asked(
        decisions: &Decisions,
        key: Key,
        asking: Asking,
        (verdict, valid_for): (Verdict, Option<i64>),
        count: &AtomicU32,
    ) -> Decision {
        let now = Timestamp::now();
        let valid_until = valid_for.map(|seconds| now + jiff::SignedDuration::from_secs(seconds));
        let decide = async {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            Decision { verdict, valid_until, ..Decision::default() }
        };
        decisions.get_or(key, asking, now, decide).await
    }

    const ALLOW: (Verdict, Option<i64>) = (Verdict::Allow, Some(60));
    const DENY: (Verdict, Option<i64>) = (Verdict::Deny, Some(60));

    #[tokio::test]
    async fn a_decision_holds_until_it_ends_and_only_for_its_own_key() {
        let (decisions, count) = (Decisions::default(), AtomicU32::new(0));
        for _ in 0..3 {
            assert_eq!(asked(&decisions, key(), Asking::Usual, ALLOW, &count).await.verdict, Verdict::Allow);
        }
        assert_eq!(count.load(Ordering::SeqCst), 1);
        let other = Key { rule: Digest::of(b"other"), ..key() };
        let _ = asked(&decisions, other, Asking::Usual, ALLOW, &count).await;
        assert_eq!(count.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn the_decisions_are_bounded() {
        let (decisions, count) = (Decisions::default(), AtomicU32::new(0));
        for number in 0..limits::DECISIONS + 500 {
            let key = Key { digest: Digest::of(&number.to_le_bytes()), ..key() };
            let _ = asked(&decisions, key, Asking::Usual, ALLOW, &count).await;
        }
        decisions.0.run_pending_tasks().await;
        assert!((limits::DECISIONS / 2..=limits::DECISIONS).contains(&decisions.len()), "{}", decisions.len());
    }

    #[tokio::test]
    async fn what_names_no_end_or_an_end_that_has_passed_is_not_kept() {
        for valid_for in [None, Some(-1)] {
            let (decisions, count) = (Decisions::default(), AtomicU32::new(0));
            for _ in 0..3 {
                let _ = asked(&decisions, key(), Asking::Usual, (Verdict::Allow, valid_for), &count).await;
            }
            assert_eq!(count.load(Ordering::SeqCst), 3, "{valid_for:?}");
        }
    }

    #[tokio::test]
    async fn the_end_of_a_decision_is_compared_with_the_time_that_is_decided_by() {
        let (decisions, count) = (Decisions::default(), AtomicU32::new(0));
        let _ = asked(&decisions, key(), Asking::Usual, ALLOW, &count).await;
        let ahead = Timestamp::now() + jiff::SignedDuration::from_secs(120);
        let decide = async { Decision::default() };
        assert_eq!(decisions.get_or(key(), Asking::Usual, ahead, decide).await.verdict, Verdict::Deny);
    }

    #[tokio::test]
    async fn a_refusal_is_looked_at_again_when_asked_anew_and_what_that_comes_to_holds() {
        let (decisions, count) = (Decisions::default(), AtomicU32::new(0));
        let _ = asked(&decisions, key(), Asking::Usual, DENY, &count).await;
        let before = asked(&decisions, key(), Asking::Usual, ALLOW, &count).await;
        let anew = asked(&decisions, key(), Asking::Anew, ALLOW, &count).await;
        let after = asked(&decisions, key(), Asking::Anew, DENY, &count).await;
        assert_eq!([before, anew, after].map(|d| d.verdict), [Verdict::Deny, Verdict::Allow, Verdict::Allow]);
        assert_eq!(count.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn what_was_decided_offline_is_kept_only_where_it_admits() {
        let (decisions, count) = (Decisions::default(), AtomicU32::new(0));
        assert_eq!(asked(&decisions, key(), Asking::Offline, DENY, &count).await.verdict, Verdict::Deny);
        let online = asked(&decisions, key(), Asking::Usual, ALLOW, &count).await;
        let offline = asked(&decisions, key(), Asking::Offline, DENY, &count).await;
        assert_eq!([online, offline].map(|d| d.verdict), [Verdict::Allow; 2]);
        let other = || Key { rule: Digest::of(b"other"), ..key() };
        let _ = asked(&decisions, other(), Asking::Offline, ALLOW, &count).await;
        assert_eq!(asked(&decisions, other(), Asking::Usual, DENY, &count).await.verdict, Verdict::Allow);
        assert_eq!(count.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn who_asks_at_once_shares_one_decision_but_never_with_one_who_is_offline() {
        let (decisions, count) = (Decisions::default(), AtomicU32::new(0));
        let ask = |asking| asked(&decisions, key(), asking, ALLOW, &count);
        let _ = tokio::join!(ask(Asking::Usual), ask(Asking::Usual), ask(Asking::Anew));
        assert_eq!(count.load(Ordering::SeqCst), 1);
        let (decisions, count) = (Decisions::default(), AtomicU32::new(0));
        let ask = |asking, verdict| asked(&decisions, key(), asking, verdict, &count);
        let (_, usual) = tokio::join!(ask(Asking::Offline, DENY), ask(Asking::Usual, ALLOW));
        assert_eq!(usual.verdict, Verdict::Allow);
    }
}
