use proptest::prelude::*;

use super::*;
use crate::{
    evidence::Cause,
    policy::{
        Exempt, Mode, Parts,
        scope::{NodeSelector, Pattern},
    },
    trust::{COSIGN_SIGN, Purpose, testing::*},
};

const NOW: &str = "2026-11-23T12:00:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn image() -> Digest {
    Digest::of(b"image")
}

fn rule(name: &str, images: &[&str], require: Requirement) -> Rule {
    Rule {
        name: name.into(),
        line: 7,
        content: Digest::of(name.as_bytes()),
        images: images.iter().map(|text| Pattern::parse(text).unwrap()).collect(),
        tags: BTreeMap::new(),
        nodes: NodeSelector::default(),
        namespaces: Vec::new(),
        accounts: Vec::new(),
        require,
        mode: Mode::Enforce,
        contact: None,
        message: None,
    }
}

/// Three attestors with two keys each, and a rule that needs `count` of them.
fn policy(count: usize) -> Policy {
    parts(count).into()
}

fn parts(count: usize) -> Parts {
    let attestors = ["a", "b", "c"].map(|name| attestor(name, &[Purpose::Signature], &[&key(), &key()]));
    Parts {
        file: "policy.toml".into(),
        revision: "r1".into(),
        roots: Vec::new(),
        attestors: attestors.into(),
        rules: vec![
            rule("prod", &["reg.io/prod/**"], Requirement::at_least(count, [0, 1, 2])),
            rule("open", &["reg.io/open/**"], Requirement::InsecureAcceptAnything),
            rule("shut", &["reg.io/shut/**"], Requirement::Deny),
        ],
        floors: Vec::new(),
        exempt: vec![Exempt {
            name: "boot".into(),
            line: 3,
            digests: vec![Digest::of(b"pause")],
            insecure_images: vec![Pattern::parse("reg.io/system/*").unwrap()],
        }],
        default: rule("default", &[], Requirement::Deny),
    }
}

fn subject(name: &str, proven: bool) -> Subject {
    let origin = if proven { Origin::Fetched } else { Origin::Claimed };
    Subject::new(image(), Some(name.parse().unwrap()), origin)
}

fn settled(subject: &Subject) -> Decision {
    match policy(1).ask(subject, &BTreeMap::new(), now()) {
        Answer::Settled(decision) => decision,
        Answer::NeedsEvidence(governing) => panic!("{} needs evidence", governing.rules()[0].name),
    }
}

fn evaluate(policy: &Policy, findings: &Findings) -> Decision {
    about(policy, &subject("reg.io/prod/x", true), findings)
}

fn about(policy: &Policy, subject: &Subject, findings: &Findings) -> Decision {
    policy.evaluate(&policy.governing(subject, &BTreeMap::new()), subject, findings, now())
}

fn gap(cause: Cause) -> Gap {
    Gap { place: "reg.io".into(), cause }
}

#[test]
fn what_the_rule_settles_needs_no_evidence() {
    for (name, proven, verdict, code) in [
        ("reg.io/open/x", true, Verdict::Allow, None),
        ("reg.io/open/x", false, Verdict::Deny, Some(Code::NameNotProven)),
        ("reg.io/shut/x", true, Verdict::Deny, Some(Code::DeniedByRule)),
        ("reg.io/other/x", true, Verdict::Deny, Some(Code::NoMatchingRule)),
        ("reg.io/system/x", true, Verdict::Allow, None),
        ("reg.io/system/x", false, Verdict::Deny, Some(Code::NoMatchingRule)),
    ] {
        let decision = settled(&subject(name, proven));
        assert_eq!((decision.verdict, decision.code()), (verdict, code), "{name} {proven}");
    }
    let another_port = Subject { origin: Origin::FetchedFromHost, ..subject("reg.io/open/x", true) };
    assert_eq!(settled(&another_port).code(), Some(Code::NameNotProven));
    let nameless = Subject::new(image(), None, Origin::Fetched);
    assert_eq!(settled(&nameless).code(), Some(Code::NoMatchingRule));
    let pause = Subject::new(Digest::of(b"pause"), None, Origin::Claimed);
    assert_eq!(settled(&pause).verdict, Verdict::Allow);
    assert!(matches!(
        policy(1).ask(&subject("reg.io/prod/x", false), &BTreeMap::new(), now()),
        Answer::NeedsEvidence(governing) if governing.rules()[0].name == "prod"
    ));
}

#[test]
fn a_refusal_says_what_was_found_against_what_was_expected() {
    let policy = policy(2);
    let vouched = |i: usize| Vouched::for_test(&policy.attestors[i], 0, Purpose::Signature, image());
    for (findings, code, found) in [
        (Findings::default(), Code::Unsigned, "no signature for reg.io/prod/x@sha256:"),
        (
            Findings {
                unusable: vec![Unusable::UntrustedSigner; 2],
                others: vec!["old".into()],
                ..Findings::default()
            },
            Code::UntrustedAttestor,
            "2 signatures, still missing 2 of \"a\", \"b\", \"c\" (found old)",
        ),
        (
            Findings { vouched: vec![vouched(1)], ..Findings::default() },
            Code::UntrustedAttestor,
            "1 signature, still missing \"a\" or \"c\"",
        ),
        (
            Findings {
                unusable: vec![Unusable::UntrustedSigner, Unusable::OtherDigest("a".into())],
                ..Findings::default()
            },
            Code::OtherDigest,
            "the signature by \"a\" is about another digest",
        ),
        (
            Findings {
                unusable: vec![Unusable::OtherPurpose("a".into(), Purpose::Predicate(COSIGN_SIGN.into()))],
                ..Findings::default()
            },
            Code::OtherPurpose,
            "\"a\" signed a https",
        ),
    ] {
        let decision = evaluate(&policy, &findings);
        assert_eq!((decision.verdict, decision.code()), (Verdict::Deny, Some(code)), "{findings:?}");
        assert!(decision.violations[0].found.starts_with(found), "{:?}", decision.violations);
        assert_eq!(decision.valid_until, now().checked_add(limits::ABSENT_LIFE).ok());
    }
}

#[test]
fn without_a_name_nobody_looked() {
    let mut parts = parts(1);
    parts.default.require = parts.rules[0].require.clone();
    let policy = Policy::from(parts);
    let nameless = Subject { name: None, ..subject("reg.io/prod/x", false) };
    let decision = about(&policy, &nameless, &Findings::default());
    assert_eq!((decision.verdict, decision.code()), (Verdict::Deny, Some(Code::Unsigned)));
    assert!(decision.violations[0].found.contains("came without a name"), "{:?}", decision.violations);
}

#[test]
fn could_not_look_is_not_a_denial_and_does_not_spoil_an_allow() {
    let policy = policy(1);
    for (cause, code) in [
        (Cause::Unauthorized, Code::RegistryUnauthorized),
        (Cause::Throttled, Code::RegistryThrottled),
        (Cause::Unreachable("no".into()), Code::RegistryUnreachable),
        (Cause::Misbehaved("no".into()), Code::RegistryMisbehaved),
        (Cause::TooLarge("no".into()), Code::EvidenceTooLarge),
        (Cause::NotAllowed("no".into()), Code::RegistryNotAllowed),
        (Cause::Withheld("no".into()), Code::RegistryUnauthorized),
        (Cause::NoCredential("no".into()), Code::CredentialUnavailable),
        (Cause::Forbidden, Code::RegistryForbidden),
        (Cause::TimedOut("no".into()), Code::RegistryTimeout),
        (Cause::Redirected("no".into()), Code::RegistryRedirects),
        (Cause::HostsUnreadable("no".into()), Code::HostsUnreadable),
        (Cause::Unreadable("no".into()), Code::EvidenceUnreadable),
    ] {
        let mut findings = Findings { gaps: vec![gap(cause)], ..Findings::default() };
        let decision = evaluate(&policy, &findings);
        assert_eq!(
            (decision.verdict, decision.code(), decision.valid_until),
            (Verdict::Inconclusive, Some(code), None)
        );
        findings.vouched.push(Vouched::for_test(&policy.attestors[0], 0, Purpose::Signature, image()));
        assert_eq!(evaluate(&policy, &findings).verdict, Verdict::Allow);
    }
}

#[test]
fn evidence_for_another_digest_or_purpose_never_counts_even_if_it_got_here() {
    let policy = policy(1);
    for vouched in [
        Vouched::for_test(&policy.attestors[0], 0, Purpose::Signature, Digest::of(b"other")),
        Vouched::for_test(&policy.attestors[0], 0, Purpose::Predicate("x://y".into()), image()),
    ] {
        let findings = Findings { vouched: vec![vouched], ..Findings::default() };
        assert_eq!(evaluate(&policy, &findings).verdict, Verdict::Deny);
    }
}

#[test]
fn an_allow_is_looked_at_again_after_a_while() {
    let policy = policy(1);
    let findings = gathered(&policy, &[(0, 0, false, 0)]);
    let decision = evaluate(&policy, &findings);
    let recheck = now() + SignedDuration::try_from(limits::RECHECK_AFTER).unwrap();
    assert_eq!((decision.verdict, decision.valid_until), (Verdict::Allow, Some(recheck)));
}

#[test]
fn what_a_violation_says_is_kept_in_short() {
    let long = vec![gap(Cause::Misbehaved("x".repeat(10 * limits::VIOLATION_CHARS)))];
    let decision = evaluate(&policy(1), &Findings { gaps: long, ..Findings::default() });
    let violation = &decision.violations[0];
    assert_eq!(violation.found.chars().count(), limits::VIOLATION_CHARS, "{violation:?}");
}

#[test]
fn an_audit_period_ends() {
    let mut policy = policy(1);
    policy.rules[0].mode = Mode::Audit(Some(now()));
    assert!(!evaluate(&policy, &Findings::default()).audit_only);
    policy.rules[0].mode = Mode::Audit(now().checked_add(SignedDuration::from_secs(1)).ok());
    assert!(evaluate(&policy, &Findings::default()).audit_only);
    let claimed = about(&policy, &subject("reg.io/prod/x", false), &Findings::default());
    assert!(!claimed.audit_only, "a claimed name admits nothing, not even under a rule that audits");
}

/// Any evidence: an attestor, one of its keys, a digest, and what else was met on the way.
fn findings() -> impl Strategy<Value = Vec<(usize, usize, bool, u8)>> {
    proptest::collection::vec((0usize..3, 0usize..2, any::<bool>(), 0u8..6), 0..8)
}

fn gathered(policy: &Policy, drawn: &[(usize, usize, bool, u8)]) -> Findings {
    let mut findings = Findings::default();
    for (attestor, key, other, kind) in drawn {
        let attestor = &policy.attestors[*attestor];
        let digest = if *other { Digest::of(b"other") } else { image() };
        match kind {
            0..=2 => findings.vouched.push(Vouched::for_test(attestor, *key, Purpose::Signature, digest)),
            3 => findings.unusable.push(Unusable::OtherDigest(attestor.name.clone())),
            4 => findings.unusable.push(Unusable::UntrustedSigner),
            _ => findings.gaps.push(gap(Cause::Throttled)),
        }
    }
    findings
}

proptest! {
    #[test]
    fn taking_evidence_away_never_turns_a_refusal_into_an_admission(count in 1usize..4, drawn in findings(), keep in proptest::collection::vec(any::<bool>(), 8)) {
        let policy = policy(count);
        let fewer: Vec<_> = drawn.iter().zip(&keep).filter(|(_, keep)| **keep).map(|(drawn, _)| *drawn).collect();
        let (all, fewer) = (evaluate(&policy, &gathered(&policy, &drawn)), evaluate(&policy, &gathered(&policy, &fewer)));
        prop_assert!(all.verdict == Verdict::Allow || fewer.verdict != Verdict::Allow);
    }

    #[test]
    fn an_allow_has_as_many_distinct_signers_as_asked_for(count in 1usize..4, drawn in findings()) {
        let policy = policy(count);
        let findings = gathered(&policy, &drawn);
        let decision = evaluate(&policy, &findings);
        let mut attestors: Vec<_> = findings.vouched.iter().filter(|v| *v.digest() == image()).map(|v| v.attestor().to_owned()).collect();
        attestors.sort();
        attestors.dedup();
        prop_assert_eq!(decision.verdict == Verdict::Allow, attestors.len() >= count);
        prop_assert!(decision.verdict != Verdict::Allow || decision.attestors == attestors);
        prop_assert!(decision.verdict != Verdict::Deny || !decision.violations.is_empty());
    }
}

#[test]
fn what_somebody_pushes_beside_it_makes_no_refusal_of_a_root_that_has_ended() {
    let text = format!(
        "schema = 1\n[[trust-root]]\nname = \"acme\"\nfile = \"root.json\"\n[[attestor]]\nname = \"release\"\n\
         may-sign = [\"signature\"]\nkeys = [{{ pem = '''{}''', algorithm = \"ecdsa-p256-sha256\", root = \"acme\" }}]\n\
         [default]\nrequire = {{ all = [\"release\"] }}",
        pem(&key())
    );
    let policy = Policy::parse("policy.toml", &text, &|_| Ok(log_root())).unwrap();
    let now: Timestamp = "2030-06-01T00:00:00Z".parse().unwrap();
    let subject = subject("reg.io/x", true);
    let Answer::NeedsEvidence(governing) = policy.ask(&subject, &BTreeMap::new(), now) else { panic!() };
    let not_proven = Unusable::NotProven("acme".to_owned(), "no log key".to_owned());
    for beside in [
        None,
        Some(Unusable::Malformed("junk".to_owned())),
        Some(Unusable::UntrustedSigner),
        Some(Unusable::OtherDigest("release".to_owned())),
    ] {
        let unusable = beside.clone().into_iter().chain([not_proven.clone()]).collect();
        let findings = Findings { unusable, ..Findings::default() };
        let decision = policy.evaluate(&governing, &subject, &findings, now);
        let expected = (Verdict::Inconclusive, Some(Code::TrustRootEnded));
        assert_eq!((decision.verdict, decision.code()), expected, "{beside:?}");
    }
}
