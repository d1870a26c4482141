use std::collections::HashSet;

use super::*;

fn facts(enforced: bool) -> Facts<'static> {
    Facts {
        gate: "unpack",
        mode: if enforced { NodeMode::Enforce } else { NodeMode::Audit },
        enforced,
        image: None,
        digest: None,
        layer: None,
        namespace: Some("k8s.io"),
        container: None,
        pod: None,
        duration: Duration::from_micros(1234),
    }
}

fn allowed() -> Decision {
    Decision {
        verdict: Verdict::Allow,
        rule: Some("prod".to_owned()),
        digest: Some(Digest::of(b"manifest")),
        name: Some("registry.example.com/prod/app:1".to_owned()),
        attestors: vec!["release".to_owned(), "qa".to_owned()],
        revision: "r1".to_owned(),
        ..Decision::default()
    }
}

fn violation(code: Code, found: &str, fix: &str) -> Violation {
    Violation { code, found: found.to_owned(), fix: fix.to_owned() }
}

fn only(record: &Record, field: Field) -> &str {
    let values: Vec<_> = record.values(field).collect();
    assert_eq!(values.len(), 1, "{field:?}: {values:?}");
    values[0]
}

#[test]
fn an_allow_says_who_vouched_for_what_under_which_rule() {
    let record = Record::decision(&Id::new(1), &allowed(), &facts(true));
    let digest = Digest::of(b"manifest");
    let message = format!("ALLOW rule \"prod\": registry.example.com/prod/app:1@{digest} by release, qa");
    assert_eq!(only(&record, Field::Message), message);
    assert_eq!(record.kind(), Kind::Allow);
    for (field, value) in [
        (Field::MessageId, "84cfa2247fd04fec992f425e8f5f410d"),
        (Field::Priority, "6"),
        (Field::SyslogIdentifier, "pullgate"),
        (Field::Verdict, "allow"),
        (Field::Gate, "unpack"),
        (Field::Mode, "enforce"),
        (Field::Enforced, "yes"),
        (Field::Image, "registry.example.com/prod/app:1"),
        (Field::Digest, &digest.to_string()),
        (Field::Namespace, "k8s.io"),
        (Field::Rule, "prod"),
        (Field::Revision, "r1"),
        (Field::DurationUs, "1234"),
    ] {
        assert_eq!(only(&record, field), value);
    }
    assert_eq!(record.values(Field::Attestors).collect::<Vec<_>>(), ["release", "qa"]);
    for absent in [Field::Code, Field::Codes, Field::Layer, Field::Reason] {
        assert_eq!(record.values(absent).count(), 0);
    }
}

#[test]
fn a_refusal_says_the_line_that_the_person_saw() {
    let decision = Decision {
        violations: vec![
            violation(Code::UntrustedAttestor, "2 signatures, none by \"release\"", "sign with release"),
            violation(Code::OtherDigest, "one is about another digest", ""),
        ],
        ..Decision { verdict: Verdict::Deny, attestors: Vec::new(), ..allowed() }
    };
    let id = Id::new(1234);
    let record = Record::decision(&id, &decision, &facts(true));
    assert_eq!(record.kind(), Kind::Deny);
    assert_eq!(only(&record, Field::Message), decision.message(Some("16J")));
    assert_eq!(only(&record, Field::Code), "PG102");
    assert_eq!(record.values(Field::Codes).collect::<Vec<_>>(), ["PG102", "PG103"]);
    assert_eq!(
        record.values(Field::Reason).collect::<Vec<_>>(),
        [
            "PG102 untrusted-attestor: 2 signatures, none by \"release\"; sign with release",
            "PG103 other-digest: one is about another digest"
        ]
    );

    let audited = Record::decision(&id, &decision, &facts(false));
    assert_eq!(audited.kind(), Kind::AuditOnly);
    assert_eq!(only(&audited, Field::Verdict), "deny");
    assert_eq!(only(&audited, Field::Enforced), "no");
    let message = only(&audited, Field::Message);
    assert!(message.starts_with("AUDIT would be refused: DENY PG102 rule \"prod\": 2 signatures"), "{message}");
}

#[test]
fn a_line_is_as_long_as_a_line_may_be_whatever_is_named() {
    let long = "x".repeat(10 * limits::AUDIT_WORD_CHARS);
    let named = format!("{}…", "x".repeat(limits::AUDIT_WORD_CHARS - 1));
    let decision = Decision { rule: Some(long.clone()), name: Some(long.clone()), ..allowed() };
    let record = Record::decision(&Id::new(1), &decision, &facts(true));
    let digest = Digest::of(b"manifest");
    assert_eq!(only(&record, Field::Message), format!("ALLOW rule \"{named}\": {named}@{digest} by release, qa"));
    let record = Record::policy_activated(&long, &long, NodeMode::Audit);
    assert_eq!(only(&record, Field::Message), format!("policy {named} of {named} is in force, mode audit"));
    assert_eq!(only(&record, Field::Revision), long, "the field has all of it");
}

#[test]
fn could_not_tell_stays_apart_from_no() {
    let decision = Decision::refused(violation(Code::RegistryUnreachable, "no answer in 5 s", "try again"));
    let record = Record::decision(&Id::new(1), &decision, &facts(true));
    assert_eq!(record.kind(), Kind::Inconclusive);
    assert_eq!(only(&record, Field::Verdict), "inconclusive");
    assert!(only(&record, Field::Message).starts_with("RETRY PG302"));
    let audited = Record::decision(&Id::new(1), &decision, &facts(false));
    assert_eq!((audited.kind(), only(&audited, Field::Verdict)), (Kind::AuditOnly, "inconclusive"));
}

#[test]
fn kinds_have_names_and_meanings() {
    assert_eq!((Kind::Allow.name().as_str(), Kind::AuditOnly.name().as_str()), ("allow", "audit-only"));
    assert_eq!(Kind::Allow.meaning(), "The image was admitted.");
    assert!(Kind::ALL.iter().all(|kind| Kind::of(kind.message_id()) == Some(*kind) && kind.meaning().ends_with('.')));
}

#[test]
fn every_kind_of_entry_has_a_text_in_the_catalog_and_every_text_a_kind() {
    let catalog = include_str!("../../../systemd/pullgate.catalog");
    let texts: Vec<_> = catalog.lines().filter_map(|line| line.strip_prefix("-- ")).collect();
    let kinds: HashSet<_> = Kind::ALL.iter().map(|kind| kind.message_id()).collect();
    assert_eq!(kinds.len(), Kind::ALL.len());
    assert_eq!(texts.len(), kinds.len());
    assert_eq!(texts.into_iter().collect::<HashSet<_>>(), kinds);
    for id in kinds {
        assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)), "{id}");
    }
    let fields: HashSet<_> = Field::ALL.iter().map(|field| field.name()).collect();
    for name in catalog.split('@').skip(1).step_by(2) {
        assert!(fields.contains(name), "the catalog shows a field that no entry has: {name}");
    }
}
