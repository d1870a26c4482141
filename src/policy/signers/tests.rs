use std::sync::OnceLock;

use proptest::prelude::*;

use super::*;
use crate::{
    policy::{Member, evaluate::Origin},
    trust::{Purpose, testing},
};

fn subject() -> Subject {
    Subject::new(Digest::of(b"image"), None, Origin::Claimed)
}

/// Attestors who each know some of a few signers: what overlapping identities come to.
fn attestors(known: &[Vec<usize>], signers: &[sigstore_crypto::KeyPair]) -> Vec<Attestor> {
    let attestor = |(at, known): (usize, &Vec<usize>)| {
        let keys: Vec<_> = known.iter().map(|signer| &signers[*signer]).collect();
        testing::attestor(&format!("a{at}"), &[Purpose::Signature], &keys)
    };
    known.iter().enumerate().map(attestor).collect()
}

/// What the signatures of `present` signers come to, once verified.
fn vouched(attestors: &[Attestor], known: &[Vec<usize>], present: &[usize]) -> Vec<Vouched> {
    let of = |(attestor, known): (&Attestor, &Vec<usize>)| -> Vec<Vouched> {
        let present = known.iter().enumerate().filter(|(_, signer)| present.contains(signer));
        present.map(|(key, _)| Vouched::for_test(attestor, key, Purpose::Signature, subject().digest)).collect()
    };
    attestors.iter().zip(known).flat_map(of).collect()
}

fn group(count: usize, of: Vec<Member>) -> Group {
    Group { count, of }
}

fn matched(group: &Group, known: &[Vec<usize>], present: &[usize]) -> Matching {
    static SIGNERS: OnceLock<Vec<sigstore_crypto::KeyPair>> = OnceLock::new();
    let attestors = attestors(known, SIGNERS.get_or_init(|| (0..6).map(|_| testing::key()).collect()));
    Matching::of(group, &attestors, &subject(), &vouched(&attestors, known, present))
}

#[test]
fn one_identity_is_not_two_attestors_however_they_are_grouped() {
    let [a, b, c] = [0, 1, 2].map(Member::Attestor);
    let both_know_signer_0 = [vec![0], vec![0], vec![1]];
    let nested = |inner: Vec<Member>| Member::Group(group(1, inner));
    for (requirement, present, met) in [
        (group(2, vec![a.clone(), b.clone()]), &[0][..], false),
        (group(2, vec![a.clone(), b.clone(), c.clone()]), &[0], false),
        (group(2, vec![a.clone(), b.clone(), c.clone()]), &[0, 1], true),
        (group(2, vec![nested(vec![a.clone()]), nested(vec![b.clone()])]), &[0], false),
        (group(2, vec![nested(vec![a.clone(), c.clone()]), nested(vec![b.clone()])]), &[0], false),
        (group(2, vec![nested(vec![a.clone(), c.clone()]), nested(vec![b.clone()])]), &[0, 1], true),
        (group(1, vec![a.clone(), b.clone()]), &[0], true),
    ] {
        assert_eq!(matched(&requirement, &both_know_signer_0, present).met, met, "{requirement:?} {present:?}");
    }
}

#[test]
fn who_counts_as_whom_is_chosen_so_that_it_suffices() {
    // The first could be either; the second knows signer 0 alone.
    let known = [vec![0, 1], vec![0]];
    let both = group(2, vec![Member::Attestor(0), Member::Attestor(1)]);
    let matching = matched(&both, &known, &[0, 1]);
    assert!(matching.met && matching.signers.len() == 2 && matching.signers[&0] != matching.signers[&1]);
    // Two keys of one attestor are one attestor.
    assert!(!matched(&both, &[vec![0, 1], vec![2]], &[0, 1]).met);
}

/// A group of depth 1 or 2 over attestors 0 to 4, each at most once.
fn requirement() -> impl Strategy<Value = Group> {
    let sizes = (0usize..4, 0usize..3, 0usize..3);
    (sizes, any::<[usize; 3]>()).prop_map(|((direct, first, second), counts)| {
        let mut next = 0..5;
        let mut take = |most: usize| -> Vec<Member> { next.by_ref().take(most).map(Member::Attestor).collect() };
        let mut of = take(direct);
        for (members, count) in [(take(first), counts[1]), (take(second), counts[2])] {
            if !members.is_empty() {
                of.push(Member::Group(Group { count: 1 + count % members.len(), of: members }));
            }
        }
        if of.is_empty() {
            of.push(Member::Attestor(0));
        }
        Group { count: 1 + counts[0] % of.len(), of }
    })
}

/// Whether some assignment of distinct signers meets it: every one is tried.
fn brute_force(group: &Group, known: &[Vec<usize>], present: &[usize], assigned: &mut Vec<Option<usize>>) -> bool {
    let at = assigned.len();
    if at == known.len() {
        return group.is_met(&subject().digest, &|attestor| assigned[attestor].is_some());
    }
    let free = known[at].iter().copied().filter(|signer| present.contains(signer));
    let free: Vec<usize> = free.filter(|signer| !assigned.contains(&Some(*signer))).collect();
    let choices = free.into_iter().map(Some).chain([None]);
    choices.into_iter().any(|choice| {
        assigned.push(choice);
        let met = brute_force(group, known, present, assigned);
        assigned.pop();
        met
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn it_is_met_where_any_assignment_meets_it_and_more_signers_never_undo_it(
        group in requirement(),
        known in proptest::collection::vec(proptest::collection::btree_set(0usize..4, 0..4), 5),
        present in proptest::collection::btree_set(0usize..4, 0..5),
        fewer in any::<[bool; 4]>(),
    ) {
        let known: Vec<Vec<usize>> = known.into_iter().map(|signers| signers.into_iter().collect()).collect();
        let present: Vec<usize> = present.into_iter().collect();
        let matching = matched(&group, &known, &present);
        prop_assert_eq!(matching.met, brute_force(&group, &known, &present, &mut Vec::new()));
        let signers: BTreeSet<_> = matching.signers.values().collect();
        prop_assert_eq!(signers.len(), matching.signers.len(), "a signer stands for two");
        let met = group.is_met(&subject().digest, &|attestor| matching.signers.contains_key(&attestor));
        prop_assert_eq!(matching.met, met, "what is told is not what was decided");
        let fewer: Vec<usize> = present.into_iter().filter(|signer| fewer[*signer]).collect();
        prop_assert!(matching.met || !matched(&group, &known, &fewer).met);
    }
}
