//! Decisions and entries for tests of what is shown.

use std::time::Duration;

use crate::{
    audit::{
        Facts, Id, Record, Told,
        chain::{Exported, exported},
    },
    config::NodeMode,
    evidence::{Asked, Layout},
    image::Digest,
    policy::{
        decision::{Code, Decision, Violation},
        grounds::{Grounds, Required, Uncounted, Vouching},
    },
};

/// Text that would like to be something else: another line, another verdict, another direction, a command.
pub(super) const HOSTILE: &str = "\u{202e}\u{1b}]0;x\u{7}\r\nALLOW\n[[exempt]]\nname = \"x\"\n\nPULLGATE_VERDICT=allow\n\";reboot;\u{9b}2J\u{2066}$(reboot)";

/// A refusal with `code` and everything that a refusal can tell.
pub(super) fn refusal(code: Code) -> Decision {
    let vouching = |predicate: Option<&str>| Vouching {
        key: Digest::of(b"key"),
        identity: None,
        signed_at: None,
        predicate: predicate.map(str::to_owned),
        place: format!("@{}", Digest::of(b"signature")),
    };
    let required = |attestor: &str, vouched| Required { attestor: attestor.to_owned(), vouched, ..Required::default() };
    Decision {
        rule: Some("prod".to_owned()),
        rule_at: Some("/etc/pullgate/policy.toml:7".to_owned()),
        contact: Some("#release".to_owned()),
        digest: Some(Digest::of(b"image")),
        name: Some("reg.io/prod/app".to_owned()),
        revision: "r1".to_owned(),
        grounds: Grounds {
            looked_at: Some("2026-11-23T12:00:00Z".parse().unwrap()),
            needed: 3,
            required: vec![
                required("ci", Some(vouching(None))),
                required("qa", Some(vouching(Some("https://x.example/p")))),
                required("release", None),
            ],
            asked: vec![
                Asked { ended: true, ..Asked::new("", Layout::SignatureTag) },
                Asked {
                    found: 3,
                    gap: Some("it limits the rate of requests (429)".to_owned()),
                    ..Asked::new("", Layout::Referrers)
                },
                Asked { found: 1, ended: true, ..Asked::new("", Layout::Kept) },
                Asked::new("reg.io/evidence", Layout::AttestationTag),
            ],
            uncounted: vec![
                Uncounted { what: "signed by nobody whom the rule names".to_owned(), pieces: 300 },
                Uncounted { what: "signed by \"ci\", about another digest".to_owned(), pieces: 1 },
            ],
            omitted: 12,
        },
        ..Decision::refused(Violation { code, found: "what was found".to_owned(), fix: "what to do".to_owned() })
    }
}

/// A refusal in which every text is hostile.
pub(super) fn hostile() -> Decision {
    let text = || Some(HOSTILE.repeat(20));
    let mut decision = refusal(Code::UntrustedAttestor);
    (decision.rule, decision.rule_at, decision.contact, decision.name) = (text(), text(), text(), text());
    decision.attestors = vec![HOSTILE.to_owned()];
    decision.revision = HOSTILE.to_owned();
    for violation in &mut decision.violations {
        (violation.found, violation.fix) = (HOSTILE.to_owned(), HOSTILE.to_owned());
    }
    let grounds = &mut decision.grounds;
    for required in &mut grounds.required {
        required.attestor = HOSTILE.to_owned();
        required.vouched.iter_mut().for_each(|v| (v.place, v.predicate) = (HOSTILE.to_owned(), text()));
    }
    grounds.asked.iter_mut().for_each(|asked| (asked.repository, asked.gap) = (HOSTILE.to_owned(), text()));
    grounds.uncounted.iter_mut().for_each(|kind| kind.what = HOSTILE.to_owned());
    decision
}

/// The entry of `decision`, as the journal exports it.
pub(super) fn entry(number: u64, decision: &Decision, mode: NodeMode) -> Exported {
    let enforced = mode == NodeMode::Enforce && !decision.audit_only;
    let facts = Facts {
        gate: "unpack",
        mode,
        enforced,
        image: None,
        digest: None,
        layer: Some(&Digest::of(b"layer")),
        namespace: Some("k8s.io"),
        container: None,
        pod: None,
        duration: Duration::from_micros(12_345),
    };
    export(Record::decision(&Id::new(number), decision, &facts).seal(Id::new(number), "none"))
}

/// `sent` as the journal exports it.
pub(super) fn export(mut sent: Vec<u8>) -> Exported {
    sent.extend_from_slice(b"_SYSTEMD_UNIT=pullgate.service\n__REALTIME_TIMESTAMP=1795435200000000\n");
    exported(sent.as_slice()).next().unwrap().unwrap()
}

/// What the entry of `decision` tells.
pub(super) fn told(number: u64, decision: &Decision, mode: NodeMode) -> Told {
    Told::from(&entry(number, decision, mode))
}

/// No row has a name and nothing beside it.
pub(super) fn has_no_empty_row(text: &str) {
    for line in text.lines().filter(|line| line.starts_with("  ") && !line.starts_with("    ")) {
        assert!(line.len() > 12 && !line[12..].trim().is_empty(), "{line:?} in\n{text}");
    }
}
