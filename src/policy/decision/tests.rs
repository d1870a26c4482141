use super::*;

#[test]
fn nothing_said_is_a_denial() {
    assert_eq!(Decision::default().verdict, Verdict::Deny);
    assert_eq!(Verdict::default(), Verdict::Deny);
}

#[test]
fn codes_have_distinct_numbers_and_names_and_stay_in_their_hundred() {
    let mut names: Vec<_> = Code::ALL.iter().map(|code| code.name()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Code::ALL.len());
    for code in Code::ALL {
        assert_ne!(code.verdict(), Verdict::Allow);
        if (300..400).contains(&(*code as u16)) {
            assert_eq!(code.verdict(), Verdict::Inconclusive, "{code}");
        }
        if (100..300).contains(&(*code as u16)) {
            assert_eq!(code.verdict(), Verdict::Deny, "{code}");
        }
    }
}

#[test]
fn the_manual_has_the_row_of_every_code_and_no_other() {
    let manual = include_str!("../../../docs/codes.md");
    let rows: Vec<&str> = manual.lines().filter(|line| line.starts_with("| PG")).collect();
    let row = |code: &Code| format!("| {code} | {} | {} | {} |", code.name(), code.meaning(), code.remedy());
    assert_eq!(rows, Code::ALL.iter().map(row).collect::<Vec<_>>());
}

#[test]
fn codes_read_back_and_nothing_else_does() {
    for code in Code::ALL {
        assert_eq!(code.to_string().parse(), Ok(*code));
        assert_eq!(code.to_string().to_lowercase().parse(), Ok(*code));
    }
    for text in ["", "PG", "PG1", "PG999", "101", "PG 101", "PG-101", "PGé", "PG101 ", "PG99999999999"] {
        assert_eq!(text.parse::<Code>(), Err(BadCode), "{text}");
    }
}

#[test]
fn what_an_exemption_settles_the_boot_list_settles_too_and_the_nodes_own_trouble_neither() {
    for code in Code::ALL {
        assert!(!code.is_settled_by_exemption() || code.is_settled_by_boot_list(), "{code}");
        assert!(!code.is_settled_by_exemption() || (*code as u16) < 400, "{code}");
    }
}

#[test]
fn what_was_kept_by_another_version_reads_and_what_is_missing_denies() {
    let old: Decision = serde_json::from_str(r#"{"verdict":"allow","rule":"prod","name":null,"digest":null}"#).unwrap();
    assert_eq!((old.verdict, old.rule.as_deref()), (Verdict::Allow, Some("prod")));
    let new: Decision = serde_json::from_str(r#"{"mood":"good","grounds":{"weather":1,"needed":2}}"#).unwrap();
    assert_eq!((new.verdict, new.grounds.needed), (Verdict::Deny, 2));
    for text in [
        r#"{"verdict":"maybe"}"#,
        r#"{"verdict":null}"#,
        r#"{"violations":[{"code":"PG999","found":"","fix":""}]}"#,
        r#"{"violations":[{"found":"","fix":""}]}"#,
        "null",
    ] {
        assert!(serde_json::from_str::<Decision>(text).is_err(), "{text}");
    }
}

proptest::proptest! {
    #[test]
    fn the_message_keeps_its_length_and_its_ends_whatever_is_put_in(
        code in 0..Code::ALL.len(),
        texts in proptest::collection::vec(r"(\PC|[\n\x1b\u{202e}\u{2066}\u{85}é\\\x22]){0,400}", 3),
        rule in proptest::bool::ANY,
        id in "[0-9A-HJKMNP-TV-Z]{1,13}",
    ) {
        let (code, [name, found, fix]) = (Code::ALL[code], texts.try_into().unwrap());
        let decision = Decision {
            rule: rule.then_some(name),
            ..Decision::refused(Violation { code, found, fix })
        };
        let message = decision.message(Some(&id));
        proptest::prop_assert!(message.chars().count() <= limits::MESSAGE_CHARS, "{}", message);
        let (head, tail) = (format!("{} {code}", code.verdict().word()), format!(" On node: pullgate why {id}"));
        proptest::prop_assert!(message.starts_with(&head) && message.ends_with(&tail), "{}", message);
        proptest::prop_assert_eq!(sanitize(&message, limits::MESSAGE_CHARS), message);
    }
}

#[test]
fn the_advice_of_the_rules_author_stands_where_the_mend_does() {
    let violation = Violation { code: Code::Unsigned, found: "no signature".into(), fix: "sign it".into() };
    let mut decision = Decision { advice: Some("ask #release.".into()), ..Decision::refused(violation) };
    assert_eq!(decision.message(None), "DENY PG101: no signature. Fix: ask #release.");
    decision.advice = Some("x".repeat(limits::ADVICE_CHARS));
    assert!(decision.message(None).ends_with(&format!("Fix: {}.", "x".repeat(limits::ADVICE_CHARS))));
    decision.advice = Some("x".repeat(limits::ADVICE_CHARS + 1));
    assert!(decision.message(None).ends_with("xx…."));
}

#[test]
fn the_longest_message_still_says_what_was_found_and_what_to_do() {
    let long = "x".repeat(4096);
    for code in Code::ALL {
        let violation = Violation { code: *code, found: long.clone(), fix: long.clone() };
        let decision = Decision { rule: Some(long.clone()), ..Decision::refused(violation) };
        let message = decision.message(Some(&"Z".repeat(13)));
        assert_eq!(message.chars().count(), limits::MESSAGE_CHARS, "{message}");
        assert!(message.contains(": xxxxxxxx") && message.contains("Fix: xxxxxxxx"), "{message}");
    }
}
