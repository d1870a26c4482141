//! An entry of the audit, read back. Pure.
//!
//! Nothing here says that an entry is pullgate's: that is for whoever read it to know ([`Exported::unit`]).

#![deny(clippy::disallowed_methods)]

use jiff::Timestamp;
use serde::de::DeserializeOwned;

use super::{Field, Id, Kind, chain::Exported};
use crate::{
    break_glass::Glass,
    image::Digest,
    policy::{
        decision::{Code, Decision, Verdict, Violation},
        grounds::Grounds,
    },
};

/// What an entry tells. Texts are as they were sent: whoever shows them makes them harmless.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Its number.
    pub id: Option<Id>,
    /// When journald received it.
    pub at: Option<Timestamp>,
    /// What kind of entry it is; none for one that this version does not know.
    pub kind: Option<Kind>,
    /// The line that `journalctl` shows.
    pub message: String,
    /// The code that a person was told, as it was written.
    pub code: Option<String>,
    /// The node's mode.
    pub mode: Option<String>,
    /// The revision of the policy.
    pub revision: Option<String>,
    /// The reasons as they were written.
    pub reasons: Vec<String>,
    /// The images on the node that a policy does not admit.
    pub refused: Vec<String>,
    /// The images on the node of which nothing can be said.
    pub unknown: Vec<String>,
    /// The pass of break-glass that the entry is about.
    pub pass: Option<PassTold>,
    /// The decision, where the entry is about one.
    pub decided: Option<Decided>,
}

/// A pass of break-glass that was made or is over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PassTold {
    /// Its number.
    pub id: String,
    /// What it admits.
    pub scope: String,
    /// Why it was made.
    pub reason: String,
    /// Who made it.
    pub by: String,
    /// When it ends by the wall clock.
    pub ends: Option<Timestamp>,
    /// Why it is over, once it is.
    pub over: Option<String>,
}

/// A decision, and the request that it answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decided {
    /// The decision, but for how long it holds.
    pub decision: Decision,
    /// The gate that asked.
    pub gate: String,
    /// Whether the answer followed the verdict.
    pub enforced: bool,
    /// The name that was asked for.
    pub image: Option<String>,
    /// The layer that was about to be unpacked.
    pub layer: Option<String>,
    /// containerd's namespace.
    pub namespace: Option<String>,
    /// How long the decision took, in microseconds.
    pub microseconds: Option<u64>,
}

impl From<&Exported> for Told {
    fn from(entry: &Exported) -> Self {
        let text = |field| entry.text(field).map(str::to_owned);
        let texts = |field| entry.texts(field).map(str::to_owned).collect();
        Self {
            id: entry.sequence().map(Id::new),
            at: entry.at(),
            kind: entry.text(Field::MessageId).and_then(Kind::of),
            message: text(Field::Message).unwrap_or_default(),
            code: text(Field::Code),
            mode: text(Field::Mode),
            revision: text(Field::Revision),
            reasons: texts(Field::Reason),
            refused: texts(Field::Refused),
            unknown: texts(Field::Unknown),
            pass: pass(entry),
            decided: decided(entry),
        }
    }
}

fn decided(entry: &Exported) -> Option<Decided> {
    let verdict = Verdict::of(entry.text(Field::Verdict)?)?;
    let text = |field| entry.text(field).map(str::to_owned);
    let enforced = entry.text(Field::Enforced) != Some("no");
    let decision = Decision {
        verdict,
        rule: text(Field::Rule),
        rule_at: text(Field::RuleAt),
        contact: text(Field::Contact),
        advice: text(Field::Advice),
        digest: entry.text(Field::Digest).and_then(|digest| digest.parse::<Digest>().ok()),
        name: text(Field::Repository),
        attestors: entry.texts(Field::Attestors).map(str::to_owned).collect(),
        violations: violations(entry),
        audit_only: !enforced && entry.text(Field::Mode) == Some("enforce"),
        self_test: entry.text(Field::SelfTest) == Some("yes"),
        glass: glass(entry),
        revision: text(Field::Revision).unwrap_or_default(),
        valid_until: None,
        grounds: grounds(entry),
    };
    Some(Decided {
        decision,
        gate: text(Field::Gate).unwrap_or_default(),
        enforced,
        image: text(Field::Image),
        layer: text(Field::Layer),
        namespace: text(Field::Namespace),
        microseconds: entry.text(Field::DurationUs).and_then(|time| time.parse().ok()),
    })
}

/// By what it was admitted that the policy does not admit.
fn glass(entry: &Exported) -> Option<Box<Glass>> {
    let text = |field| entry.text(field).map(str::to_owned);
    Some(Box::new(Glass {
        otherwise: Verdict::of(entry.text(Field::Otherwise)?)?,
        otherwise_rule: text(Field::OtherwiseRule),
        pass: text(Field::Pass),
        reason: text(Field::PassReason).unwrap_or_default(),
        who: text(Field::PassBy).unwrap_or_default(),
    }))
}

/// A pass of break-glass, where the entry is about one and no decision.
fn pass(entry: &Exported) -> Option<PassTold> {
    let text = |field| entry.text(field).map(str::to_owned);
    Some(PassTold {
        id: text(Field::Pass).filter(|_| entry.text(Field::Verdict).is_none())?,
        scope: text(Field::PassScope).unwrap_or_default(),
        reason: text(Field::PassReason).unwrap_or_default(),
        by: text(Field::PassBy).unwrap_or_default(),
        ends: entry.text(Field::PassEnds).and_then(|at| at.parse().ok()),
        over: text(Field::PassOver),
    })
}

/// The reasons of codes that this version knows; the one that the person was told comes first, as in the decision.
fn violations(entry: &Exported) -> Vec<Violation> {
    let first: Option<Code> = entry.text(Field::Code).and_then(|code| code.parse().ok());
    let fixes: Vec<(&str, &str)> = entry.texts(Field::Fix).filter_map(|fix| fix.split_once(' ')).collect();
    let violation = |reason: &str| {
        let (head, found) = reason.split_once(": ")?;
        let word = head.split(' ').next()?;
        let code = word.parse::<Code>().ok()?;
        let ends = |(of, fix): &(&str, &str)| {
            let found = found.strip_suffix(fix)?.strip_suffix("; ")?;
            (*of == word).then(|| (found.to_owned(), (*fix).to_owned()))
        };
        let (found, fix) = fixes.iter().find_map(ends).unwrap_or_else(|| (found.to_owned(), String::new()));
        Some(Violation { code, found, fix })
    };
    let mut violations: Vec<Violation> = entry.texts(Field::Reason).filter_map(violation).collect();
    violations.sort_by_key(|violation| Some(violation.code) != first);
    violations
}

fn grounds(entry: &Exported) -> Grounds {
    let number = |field| entry.text(field).and_then(|number| number.parse().ok()).unwrap_or_default();
    let mut grounds = Grounds {
        looked_at: entry.text(Field::LookedAt).and_then(|at| at.parse().ok()),
        needed: number(Field::Needed),
        required: all(entry, Field::Requirement),
        asked: all(entry, Field::Asked),
        uncounted: all(entry, Field::Uncounted),
        omitted: number(Field::Omitted),
    };
    grounds
        .required
        .sort_by(|a, b| (&a.at, a.vouched.is_none(), &a.attestor).cmp(&(&b.at, b.vouched.is_none(), &b.attestor)));
    grounds.asked.sort_by(|a, b| (&a.repository, a.layout).cmp(&(&b.repository, b.layout)));
    grounds.uncounted.sort_by(|a, b| b.pieces.cmp(&a.pieces).then_with(|| a.what.cmp(&b.what)));
    grounds
}

/// The values of `field` that can be read.
fn all<T: DeserializeOwned>(entry: &Exported, field: Field) -> Vec<T> {
    entry.texts(field).filter_map(|value| serde_json::from_str(value).ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        audit::{Facts, Record, chain::exported},
        config::NodeMode,
        evidence::{Asked, Layout},
        policy::grounds::{Required, Uncounted, Vouching},
    };

    fn facts(decision: &Decision) -> Facts<'static> {
        Facts {
            gate: "unpack",
            mode: NodeMode::Enforce,
            enforced: !decision.audit_only,
            image: None,
            digest: None,
            layer: None,
            namespace: Some("k8s.io"),
            container: None,
            pod: None,
            duration: Duration::from_micros(1234),
        }
    }

    /// `decision`, written and read back.
    fn read_back(decision: &Decision) -> Told {
        let bytes = Record::decision(&Id::new(1234), decision, &facts(decision)).seal(Id::new(1234), "none");
        Told::from(&exported(bytes.as_slice()).next().unwrap().unwrap())
    }

    fn whole(code: Code, found: &str, fix: &str) -> Decision {
        let required =
            |attestor: &str, vouched| Required { attestor: attestor.to_owned(), vouched, ..Required::default() };
        let vouching = |predicate: Option<&str>| Vouching {
            key: Digest::of(b"key"),
            identity: Some("x@acme.example (https://issuer.example)".to_owned()),
            signed_at: Some("2026-01-02T03:04:05Z".parse().unwrap()),
            predicate: predicate.map(str::to_owned),
            place: "@sha256:…".to_owned(),
        };
        Decision {
            rule: Some("prod".to_owned()),
            rule_at: Some("/etc/pullgate/policy.toml:7".to_owned()),
            contact: Some("#release".to_owned()),
            advice: Some("sign in the pipeline".to_owned()),
            digest: Some(Digest::of(b"image")),
            name: Some("reg.io/prod/app".to_owned()),
            revision: "r1".to_owned(),
            grounds: Grounds {
                looked_at: Some("2026-11-23T12:00:00.5Z".parse().unwrap()),
                needed: 3,
                required: vec![
                    required("ci", Some(vouching(None))),
                    required("qa", Some(vouching(Some("https://x.example/p")))),
                    required("release", None),
                ],
                asked: vec![
                    Asked { ended: true, ..Asked::new("", Layout::SignatureTag) },
                    Asked { found: 3, gap: Some("no \"answer\"".to_owned()), ..Asked::new("", Layout::Referrers) },
                    Asked { found: 1, ended: true, ..Asked::new("reg.io/evidence", Layout::Kept) },
                ],
                uncounted: vec![
                    Uncounted { what: "of nobody".to_owned(), pieces: 300 },
                    Uncounted { what: "of \"ci\"".to_owned(), pieces: 1 },
                ],
                omitted: 12,
            },
            ..Decision::refused(Violation { code, found: found.to_owned(), fix: fix.to_owned() })
        }
    }

    #[test]
    fn what_was_decided_reads_back_whole() {
        for code in Code::ALL {
            let mut decision = whole(*code, "found: this; and that", "do; this");
            let other = if *code == Code::RegistryThrottled { Code::Unsigned } else { Code::RegistryThrottled };
            let another = Violation { code: other, found: "429: x; do; this".to_owned(), fix: String::new() };
            decision.violations.push(another);
            let told = read_back(&decision);
            let decided = told.decided.unwrap();
            assert_eq!(decided.decision, decision, "{code}");
            assert_eq!((decided.gate.as_str(), decided.enforced, decided.microseconds), ("unpack", true, Some(1234)));
            assert_eq!(
                (decided.image.as_deref(), decided.namespace.as_deref()),
                (Some("reg.io/prod/app"), Some("k8s.io"))
            );
            assert_eq!((told.id, told.code, told.reasons.len()), (Some(Id::new(1234)), Some(code.to_string()), 2));
        }
        let audited = Decision { audit_only: true, ..whole(Code::Unsigned, "nothing", "") };
        let decided = read_back(&audited).decided.unwrap();
        assert_eq!((decided.decision, decided.enforced), (audited, false));
        let glass = Glass {
            pass: Some("1J4".to_owned()),
            reason: "no: time; at all".to_owned(),
            who: "uid 0".to_owned(),
            otherwise: Verdict::Inconclusive,
            otherwise_rule: Some("prod".to_owned()),
        };
        for glass in [glass.clone(), Glass { pass: None, otherwise_rule: None, ..glass }] {
            let refusal = whole(Code::Unsigned, "nothing", "sign it");
            let broken = Decision { verdict: Verdict::Allow, glass: Some(Box::new(glass)), ..refusal };
            let told = read_back(&broken);
            assert_eq!((told.kind, told.pass), (Some(Kind::BreakGlassUsed), None));
            assert_eq!(told.decided.unwrap().decision, broken);
        }
        let allowed = Decision { verdict: Verdict::Allow, violations: Vec::new(), ..whole(Code::Unsigned, "", "") };
        assert_eq!(read_back(&allowed).decided.unwrap().decision, allowed);
    }

    #[test]
    fn what_cannot_be_read_is_left_out_and_decides_nothing() {
        let told = |text: &str| Told::from(&exported(text.as_bytes()).next().unwrap().unwrap());
        let entry = told(
            "PULLGATE_VERDICT=deny\nPULLGATE_CODE=PG999\nPULLGATE_REASON=PG999 new-thing: x\nPULLGATE_REASON=… 3 more\nPULLGATE_FIX=PG999\n\
             PULLGATE_DIGEST=sha256:12\nPULLGATE_ASKED={\nPULLGATE_ASKED={\"layout\":\"carrier-pigeon\"}\nPULLGATE_REQUIREMENT=[]\n\
             PULLGATE_NEEDED=-1\nPULLGATE_LOOKED_AT=soon\nPULLGATE_SEQ=x\nPULLGATE_DURATION_US=x\n",
        );
        let decided = entry.decided.unwrap();
        assert_eq!(decided.decision, Decision::default());
        assert_eq!((entry.code.as_deref(), entry.reasons.len(), entry.id), (Some("PG999"), 2, None));
        for text in ["PULLGATE_VERDICT=maybe\n", "PULLGATE_VERDICT=allow\nPULLGATE_VERDICT=deny\n", "MESSAGE=x\n"] {
            assert_eq!(told(text).decided, None, "{text}");
        }
    }
}
