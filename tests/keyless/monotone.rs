//! More evidence never undoes an admission, and less never makes one: whatever stands beside a good signature.

use proptest::{prelude::*, sample::subsequence};

use super::*;

const MAIL: &str = "https://accounts.example.com";
const DEV: &str = "dev@acme.example";

/// A policy with three attestors, of whom two know one signer.
fn policies(acme: &Authority, other: &Authority, key: &Key) -> Vec<Policy> {
    let files = [("acme", acme.trusted_root()), ("other", other.trusted_root())];
    let roots = format!("{ACME}{}", ACME.replace("acme", "other"));
    let dev = identity_of("acme", MAIL, DEV, "");
    let tables = [
        attestor("workflow", &[identity("acme", ""), identity("other", "")]),
        attestor("either", &[identity("acme", ""), dev]),
        keyed("key", key, ", root = \"acme\", until = \"2026-06-01T00:00:00Z\""),
    ];
    let tables = format!("{roots}{}", tables.concat());
    [
        "{ all = [\"workflow\"] }",
        "{ any = [\"key\", \"either\"] }",
        "{ all = [\"workflow\", \"either\"] }",
        "{ at-least = { count = 2, of = [\"workflow\", \"either\", \"key\"] } }",
        "{ all = [\"workflow\", \"either\", \"key\"] }",
    ]
    .map(|require| policy_of(&files, &tables, require))
    .into()
}

/// Right and wrong pieces, of several signers, in several forms.
fn pieces(acme: &Authority, other: &Authority, key: &Key) -> Vec<Found> {
    let sign = || acme.sign(image());
    let stranger = Authority::new("stranger");
    vec![
        bundle(&sign()),
        bundle(&other.sign(image())),
        bundle(&sign().by(DEV)),
        bundle(&sign().managed(key)),
        sig(&sign().signature_layer(REPOSITORY)),
        // And what counts for nothing.
        bundle(&sign().managed(key).at("2026-07-01T00:00:00Z")),
        bundle(&other.sign(image()).by(DEV)),
        bundle(&acme.sign(Digest::of(b"other"))),
        bundle(&sign().unlogged()),
        bundle(&stranger.sign(image())),
        bundle(&sign().predicate("https://spdx.dev/Document", serde_json::json!({}))),
        raw_bundle("{}"),
    ]
}

#[test]
fn with_a_piece_less_nothing_is_admitted_that_was_not() {
    let [acme, other] = authorities(["acme", "other"]);
    let key = Key::new(Algorithm::P256);
    let all = pieces(&acme, &other, &key);
    for (number, policy) in policies(&acme, &other, &key).iter().enumerate() {
        let each: Vec<Vec<_>> =
            all.iter().map(|found| findings(policy, std::slice::from_ref(found), Seen::at_first(now()))).collect();
        let admitted = |of: usize| {
            let chosen = (0..all.len()).filter(|at| of & 1 << at != 0).flat_map(|at| each[at].clone());
            admits_by(policy, chosen)
        };
        let every: Vec<bool> = (0..1 << all.len()).map(admitted).collect();
        assert!(every.iter().any(|admitted| *admitted) && !every[0], "policy {number}");
        for (of, admitted) in every.iter().enumerate().filter(|(_, admitted)| **admitted) {
            let more = (0..all.len()).map(|at| of | 1 << at);
            more.for_each(|more| assert!(*admitted && every[more], "policy {number}: {of:b} but not {more:b}"));
        }
    }
}

/// Whether `policy` admits the image by these findings.
fn admits_by(policy: &Policy, findings: impl Iterator<Item = Result<Vouched, Unusable>>) -> bool {
    let subject = Subject::new(image(), Some(REPOSITORY.parse().unwrap()), Origin::Fetched);
    let Answer::NeedsEvidence(governing) = policy.ask(&subject, &BTreeMap::new(), now()) else { unreachable!() };
    let mut all = Findings::default();
    findings.for_each(|finding| match finding {
        Ok(vouched) => all.vouched.push(vouched),
        Err(unusable) => all.unusable.push(unusable),
    });
    policy.evaluate(&governing, &subject, &all, now()).verdict == Verdict::Allow
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// In whatever order they come.
    #[test]
    fn the_order_of_pieces_decides_nothing(chosen in subsequence((0..12).collect::<Vec<usize>>(), 1..=5).prop_shuffle()) {
        let [acme, other] = authorities(["acme", "other"]);
        let key = Key::new(Algorithm::P256);
        let all = pieces(&acme, &other, &key);
        let mut sorted = chosen.clone();
        sorted.sort_unstable();
        let of = |places: &[usize]| -> Vec<Found> { places.iter().map(|at| all[*at].clone()).collect() };
        for policy in &policies(&acme, &other, &key) {
            let verdicts = [&chosen, &sorted].map(|places| judged(policy, &of(places)).verdict);
            prop_assert_eq!(verdicts[0], verdicts[1]);
        }
    }
}
