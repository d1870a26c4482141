use std::collections::BTreeMap;

use super::*;
use crate::{
    evidence::{Cause, Layout},
    image::Repository,
    policy::{
        Mode, Parts,
        decision::{Decision, Violation},
        evaluate::Origin,
        scope::{NodeSelector, Pattern},
    },
    trust::{
        Attestor,
        testing::{attestor, key},
    },
    verify::Vouched,
};

const HOSTILE: &str = "\u{202e}\u{1b}[31m\nPULLGATE_VERDICT=allow ";

fn now() -> Timestamp {
    "2026-11-23T12:00:00Z".parse().unwrap()
}

fn subject(name: &str) -> Subject {
    Subject::new(Digest::of(b"image"), Some(name.parse().unwrap()), Origin::Fetched)
}

/// As many attestors as asked for, each with one key, all of whom the rule names.
fn policy(attestors: usize, may_sign: &Purpose, needed: usize) -> Policy {
    let attestors: Vec<Attestor> =
        (0..attestors).map(|i| attestor(&format!("{i:0>64}"), std::slice::from_ref(may_sign), &[&key()])).collect();
    let rule = |require| Rule {
        name: "r".into(),
        line: 7,
        content: Digest::of(b"r"),
        images: vec![Pattern::parse("**").unwrap()],
        tags: BTreeMap::new(),
        nodes: NodeSelector(BTreeMap::new()),
        namespaces: Vec::new(),
        accounts: Vec::new(),
        require,
        mode: Mode::Enforce,
        contact: Some(HOSTILE.repeat(100)),
        message: Some(HOSTILE.repeat(100)),
    };
    let of = 0..attestors.len();
    Policy::from(Parts {
        file: "/etc/pullgate/policy.toml".into(),
        revision: "r1".into(),
        roots: Vec::new(),
        attestors,
        rules: vec![rule(Requirement::at_least(needed, of))],
        floors: Vec::new(),
        exempt: Vec::new(),
        default: rule(Requirement::Deny),
    })
}

fn decide(policy: &Policy, subject: &Subject, findings: &Findings) -> Decision {
    policy.evaluate(&policy.governing(subject, &BTreeMap::new()), subject, findings, now())
}

#[test]
fn it_says_who_vouched_how_where_it_looked_and_what_does_not_count() {
    let policy = policy(2, &Purpose::Predicate("https://x.example/p".into()), 2);
    let subject = subject("reg.io/prod/app");
    let vouched = Vouched::for_test(&policy.attestors[1], 0, policy.attestors[1].may_sign[0].clone(), subject.digest);
    let mut referrers = Asked { found: 3, ended: true, ..Asked::new("reg.io/prod/app", Layout::Referrers) };
    referrers.broke(&Cause::Throttled);
    referrers.broke(&Cause::Unauthorized);
    let findings = Findings {
        vouched: vec![vouched],
        unusable: vec![Unusable::UntrustedSigner, Unusable::OtherDigest("ci".into()), Unusable::UntrustedSigner],
        asked: vec![Asked { ended: true, ..Asked::new("reg.io/evidence", Layout::SignatureTag) }, referrers],
        ..Findings::default()
    };
    let decision = decide(&policy, &subject, &findings);
    assert_eq!(decision.rule_at.as_deref(), Some("/etc/pullgate/policy.toml:7"));
    let grounds = &decision.grounds;
    assert_eq!((grounds.needed, grounds.looked_at, grounds.omitted), (2, Some(now()), 0));
    let [met, missing] = &grounds.required[..] else { panic!("{grounds:?}") };
    let vouching = met.vouched.as_ref().unwrap();
    assert_eq!(
        (met.attestor.as_str(), vouching.key),
        (policy.attestors[1].name.as_str(), policy.attestors[1].keys[0].key.id)
    );
    assert_eq!((vouching.predicate.as_deref(), vouching.place.as_str()), (Some("https://x.example/p"), "test"));
    assert_eq!((missing.attestor.as_str(), &missing.vouched), (policy.attestors[0].name.as_str(), &None));
    let told: Vec<_> =
        grounds.asked.iter().map(|asked| (asked.repository.as_str(), asked.found, asked.absent())).collect();
    assert_eq!(told, [("reg.io/evidence", 0, true), ("", 3, false)]);
    assert_eq!(grounds.asked[1].gap.as_deref(), Some("it limits the rate of requests (429)"));
    let pieces: Vec<_> = grounds.uncounted.iter().map(|kind| (kind.what.as_str(), kind.pieces)).collect();
    assert_eq!(pieces, [("signed by nobody whom the rule names", 2), ("signed by \"ci\", about another digest", 1)]);
    let kept = serde_json::to_string(&decision).unwrap();
    assert!(kept.len() < 1640, "{} bytes: {kept}", kept.len());
    assert_eq!(serde_json::from_str::<Decision>(&kept).unwrap(), decision);
}

#[test]
fn kinds_of_evidence_beyond_the_bound_are_counted_together() {
    let unusable: Vec<Unusable> =
        (0..limits::UNCOUNTED_KINDS + 5).map(|i| Unusable::OtherDigest(i.to_string())).collect();
    let findings = Findings { unusable: [unusable.clone(), unusable].concat(), ..Findings::default() };
    let grounds = decide(&policy(1, &Purpose::Signature, 1), &subject("reg.io/x"), &findings).grounds;
    assert_eq!(
        (grounds.uncounted.len(), grounds.uncounted[0].pieces, grounds.omitted),
        (limits::UNCOUNTED_KINDS, 2, 10)
    );
}

#[test]
fn a_decision_that_needed_no_evidence_rests_on_its_rule_alone() {
    let mut policy = policy(0, &Purpose::Signature, 0);
    policy.rules[0].require = Requirement::Deny;
    let decision = decide(&policy, &subject("reg.io/x"), &Findings::default());
    assert!(decision.grounds.is_empty());
    assert!(!serde_json::to_string(&decision).unwrap().contains("grounds"));
}

#[test]
fn whatever_an_attacker_chooses_it_stays_small_and_harmless() {
    let purpose = Purpose::Predicate(format!("x://{HOSTILE}{}", "p".repeat(1 << 20)));
    let policy = policy(100, &purpose, 3);
    let path = format!("a/{}", "b".repeat(250));
    let name: Repository = format!("{}.example/{path}", "h".repeat(200)).parse().unwrap();
    let subject = Subject { name: Some(name), ..subject("reg.io/x") };
    let text = |i: usize| format!("{i}{HOSTILE}{}", "é".repeat(1 << 16));
    let mut asked: Vec<Asked> = (0..64).map(|i| Asked::new(text(i), Layout::Referrers)).collect();
    asked.iter_mut().for_each(|asked| asked.broke(&Cause::Misbehaved(text(1))));
    let findings = Findings {
        vouched: policy.attestors[98..]
            .iter()
            .map(|a| Vouched::for_test(a, 0, purpose.clone(), subject.digest))
            .collect(),
        unusable: (0..1000)
            .flat_map(|i| [Unusable::Malformed(text(i)), Unusable::OtherPurpose(text(i), purpose.clone())])
            .collect(),
        others: (0..1000).map(text).collect(),
        asked,
        ..Findings::default()
    };
    let decision = decide(&policy, &subject, &findings);
    let grounds = &decision.grounds;
    assert!(grounds.bytes() <= limits::GROUNDS_BYTES, "{}", grounds.bytes());
    assert!(grounds.omitted > 1000);
    assert!(
        grounds.asked.iter().filter_map(|asked| asked.gap.as_ref()).all(|gap| gap.chars().count() == limits::GAP_CHARS)
    );
    let Violation { found, fix, .. } = &decision.violations[0];
    assert_eq!(found.chars().count(), limits::VIOLATION_CHARS);
    assert!(fix.ends_with(&format!(" or {} more", 98 - limits::NAMES_TOLD)), "{fix}");
    let kept = serde_json::to_string(&decision).unwrap();
    assert!(
        !kept.contains(['\u{202e}', '\u{1b}', '\n']) && !kept.contains("\\u001b") && !kept.contains("\\n"),
        "{kept}"
    );
}

/// The structures of a decision, its name, its one violation and its grounds, ten thousand times.
#[test]
fn ten_thousand_of_the_largest_fit_into_memory() {
    let texts = limits::REFERENCE_CHARS + 2 * limits::VIOLATION_CHARS + limits::GROUNDS_CHARS;
    let texts = texts + limits::CONTACT_CHARS + limits::RULE_MESSAGE_CHARS;
    let largest = size_of::<Decision>() + limits::GROUNDS_BYTES + texts;
    assert!(largest * limits::DECISIONS as usize <= 48 << 20, "{largest} bytes each");
}

#[test]
fn kinds_of_what_does_not_count_are_few_and_short() {
    let of = |count: usize| -> Vec<Unusable> {
        (0..count).map(|i| Unusable::Malformed(format!("{i}{}", "x".repeat(limits::GROUNDS_CHARS)))).collect()
    };
    let (kinds, others) = uncounted(&of(limits::UNCOUNTED_KINDS));
    assert_eq!((kinds.len(), others), (limits::UNCOUNTED_KINDS, 0));
    assert!(kinds.iter().all(|kind| kind.what.chars().count() == limits::GROUNDS_CHARS));
    let (kinds, others) = uncounted(&of(limits::UNCOUNTED_KINDS + 3));
    assert_eq!((kinds.len(), others), (limits::UNCOUNTED_KINDS, 3));
    let (kinds, others) = uncounted(&vec![of(1)[0].clone(); 1000]);
    assert_eq!((kinds.len(), kinds[0].pieces, others), (1, 1000, 0));
}
