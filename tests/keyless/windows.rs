//! Keys that count for a time: by when an authority saw the signature, or else by when this node first did.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use super::*;

/// Two seconds before Rekor v1 has it, one before a timestamp.
const SIGNED: &str = TIME;

/// The policy of a key that counts between `from` and `until`; with the root `acme` where it `is_logged`.
fn windowed(acme: &Authority, key: &Key, is_logged: bool, from: &str, until: &str) -> Policy {
    let root = if is_logged { ", root = \"acme\"" } else { "" };
    let window = [("from", from), ("until", until)];
    let window: String = window
        .iter()
        .filter(|(_, time)| !time.is_empty())
        .map(|(name, time)| format!(", {name} = \"{time}\""))
        .collect();
    let tables = format!("{ACME}{}", keyed("release", key, &format!("{root}{window}")));
    policy_of(&[("acme", acme.trusted_root())], &tables, "{ all = [\"release\"] }")
}

/// GHSA-wqqc-jjcq-vfxm.
#[test]
fn a_trusted_timestamp_outside_the_keys_window_does_not_count() {
    let (acme, key) = (Authority::new("acme"), Key::new(Algorithm::P256));
    let sign = || acme.sign(image()).managed(&key);
    let stamped = |after: i64| sign().stamped(acme.tsa.stamp().after(after));
    let by_stamp_alone =
        || acme.sign(image()).managed(&key).logged(acme.rekor2.entry()).stamped(acme.tsa.stamp().after(1));
    let (before, after) = ("2026-03-01T11:00:00Z", "2026-03-01T13:00:00Z");
    let at = |seconds: i64| (instant(SIGNED) + jiff::SignedDuration::from_secs(seconds)).to_string();
    for (from, until, signing, counts) in [
        ("", "", sign(), true),
        (before, after, sign(), true),
        (before, after, by_stamp_alone(), true),
        (after, "", sign(), false),
        ("", before, sign(), false),
        (after, "", by_stamp_alone(), false),
        ("", before, by_stamp_alone(), false),
        // Every time that an authority tells has to be inside, not just one.
        (before, after, stamped(7200), false),
        (before, after, stamped(-7200), false),
        (&at(3), after, stamped(5), false),
        (before, &at(3), stamped(5), false),
        // The first moment is inside, the last is not.
        (&at(2), after, sign(), true),
        (&at(3), after, sign(), false),
        (before, &at(3), sign(), true),
        (before, &at(2), sign(), false),
    ] {
        let policy = windowed(&acme, &key, true, from, until);
        if counts {
            admits(&policy, &[bundle(&signing)]);
        } else {
            let words = "\"release\" signed when its key did not count: at 2026-03-01T1";
            refuses(&policy, &[bundle(&signing)], Code::KeyNotValid, words);
        }
    }
    let signature = sig(&sign().signature_layer(REPOSITORY));
    admits(&windowed(&acme, &key, true, before, after), std::slice::from_ref(&signature));
    refuses(&windowed(&acme, &key, true, after, ""), &[signature], Code::KeyNotValid, "did not count");
}

#[test]
fn without_a_trusted_timestamp_the_signers_word_is_worth_nothing() {
    let (acme, other, key) = (Authority::new("acme"), Authority::new("other"), Key::new(Algorithm::P256));
    let sign = || acme.sign(image()).managed(&key);
    let seen = |now: &str, first: &str| Seen { now: instant(now), first: (!first.is_empty()).then(|| instant(first)) };
    let until = "2026-06-01T00:00:00Z";
    // Whatever times it carries: nobody whom the policy trusts for times was asked.
    for signing in [
        sign().unlogged(),
        sign(),
        sign().stamped(acme.tsa.stamp()),
        sign().unlogged().stamped(other.tsa.stamp()),
        other.sign(image()).managed(&key),
    ] {
        let policy = windowed(&acme, &key, false, "", until);
        let pieces = [bundle(&signing)];
        let decide = |now: &str, first: &str| judged_when(&policy, &pieces, seen(now, first));
        let today = "2026-11-30T00:00:00Z";
        says(&decide(today, ""), Code::KeyNotValid, "no authority saw when");
        assert_eq!(decide(today, "2026-05-31T23:59:59Z").verdict, Verdict::Allow);
        says(&decide(today, until), Code::KeyNotValid, "no authority saw when");
        // A clock that was set back makes nothing older than it is.
        assert_eq!(decide("2026-05-01T00:00:00Z", today).verdict, Verdict::Allow);
        let allowed = decide("2026-05-31T23:59:00Z", "");
        assert_eq!(allowed.verdict, Verdict::Allow);
        assert_eq!(allowed.valid_until, Some(instant(until)), "unless it is kept it ends with the key");
        let later = windowed(&acme, &key, false, today, "");
        says(&judged_when(&later, &pieces, seen("2026-05-01T00:00:00Z", "")), Code::KeyNotValid, "no authority");
    }
}

#[test]
fn a_log_that_tells_no_time_leaves_it_to_this_node() {
    let (acme, key) = (Authority::new("acme"), Key::new(Algorithm::P256));
    let logged = bundle(&acme.sign(image()).managed(&key).logged(acme.rekor2.entry()));
    let policy = windowed(&acme, &key, true, "", "2026-06-01T00:00:00Z");
    refuses(&policy, std::slice::from_ref(&logged), Code::KeyNotValid, "no authority saw when");
    let first = Some(instant("2026-05-01T00:00:00Z"));
    let kept = judged_when(&policy, std::slice::from_ref(&logged), Seen { now: now(), first });
    assert_eq!(kept.verdict, Verdict::Allow);
    let without_promise =
        acme.sign(image()).managed(&key).logged(acme.rekor.entry().without_promise().integrated(-9_000_000));
    refuses(&policy, &[bundle(&without_promise)], Code::KeyNotValid, "no authority saw when");
}

#[test]
fn a_log_that_has_ended_and_tells_no_time_has_seen_nothing() {
    let (mut acme, key) = (Authority::new("acme"), Key::new(Algorithm::P256));
    let logged = |acme: &Authority| acme.sign(image()).managed(&key).logged(acme.rekor2.entry());
    admits(&windowed(&acme, &key, true, "", ""), &[bundle(&logged(&acme))]);
    acme.rekor2.trusted = Window::between("2025-01-01T00:00:00Z", "2026-04-01T00:00:00Z");
    let policy = windowed(&acme, &key, true, "", "");
    admits(&policy, &[bundle(&logged(&acme).stamped(acme.tsa.stamp()))]);
    refuses(&policy, &[bundle(&logged(&acme))], Code::SignerNotProven, "does not vouch");
    let first = Some(instant("2026-03-15T00:00:00Z"));
    let kept = judged_when(&policy, &[bundle(&logged(&acme))], Seen { now: now(), first });
    assert_eq!(kept.verdict, Verdict::Allow);
}

/// A node with a disk, a clock and a registry that has an image signed by a key.
struct Node {
    state: tempfile::TempDir,
    clock: Arc<AtomicI64>,
    registry: HostileRegistry,
    image: Digest,
    policy: String,
}

impl Node {
    async fn new(key: &Key, until: Timestamp) -> Self {
        let registry = HostileRegistry::start().await;
        let image = registry.content().image("prod/app", "v1", "app");
        let signed = Authority::new("acme").sign(image).managed(key).unlogged().json();
        registry.content().referrers_api = true;
        registry.content().bundle("prod/app", image, signed.as_bytes());
        let tables = keyed("release", key, &format!(", until = \"{until}\""));
        let policy = document(&format!("{}/prod/app", registry.host()), &tables, "{ all = [\"release\"] }");
        let clock = Arc::new(AtomicI64::new(now().as_second()));
        Self { state: tempfile::tempdir().unwrap(), clock, registry, image, policy }
    }

    /// What a daemon decides that has just started.
    async fn decide(&self) -> Decision {
        let clock = self.clock.clone();
        let system = move || Timestamp::from_second(clock.load(Ordering::SeqCst)).unwrap();
        let policy = parsed(&[], &self.policy).unwrap();
        decide(&self.registry, self.image, policy, Clock::of(system, None), Kept::open(self.state.path())).await
    }

    async fn kept(&self) {
        let file = self.state.path().join("evidence-2").join(self.image.hex()).with_extension("json");
        for _ in 0..1000 {
            if file.exists() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("nothing was kept");
    }
}

#[tokio::test]
async fn what_this_node_saw_while_the_key_counted_still_counts_and_nothing_else_does() {
    let key = Key::new(Algorithm::P256);
    let until = now() + jiff::SignedDuration::from_hours(1);
    let node = Node::new(&key, until).await;
    assert_eq!(node.decide().await.verdict, Verdict::Allow);
    node.kept().await;
    let late = Node::new(&key, until).await;
    for node in [&node, &late] {
        node.clock.fetch_add(7200, Ordering::SeqCst);
    }
    assert_eq!(node.decide().await.verdict, Verdict::Allow);
    says(&late.decide().await, Code::KeyNotValid, "no authority saw when");
    // Kept evidence is all that makes the difference.
    let node = Node { state: tempfile::tempdir().unwrap(), ..node };
    says(&node.decide().await, Code::KeyNotValid, "no authority saw when");
}
