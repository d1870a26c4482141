//! From what containerd answered, and what the journal has, to what is known of a gate. Pure.

#![deny(clippy::disallowed_methods)]

use super::{Gate, Proof, State, readback::Entry};
use crate::{
    image::{Digest, sanitize},
    limits,
    policy::decision::{Code, Verdict},
};

/// What was tried: an image that one gate must refuse, all gates before having let it pass.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) gate: Gate,
    pub(super) way: Option<String>,
    /// By which the gate may have been asked about it.
    pub(super) digests: [Digest; 2],
    /// What containerd answered in the end.
    pub(super) answer: Result<(), String>,
    /// Whether the gate was asked about it.
    pub(super) asked: bool,
}

/// What was tried beside it: an image that every gate must admit.
#[derive(Clone, Debug)]
pub(super) struct Control {
    pub(super) digests: [Digest; 2],
    pub(super) answer: Result<(), String>,
}

/// What is known of the gate of `attempt`. `audits`: the node only audits.
pub(super) fn judge(attempt: &Attempt, control: &Control, entries: &Result<Vec<Entry>, String>, audits: bool) -> Proof {
    let proof = |state, why: String, entries| Proof {
        gate: attempt.gate,
        way: attempt.way.clone(),
        state,
        why: sanitize(&why, limits::AUDIT_WORD_CHARS),
        entries,
    };
    let unknown = |why: String| proof(State::Unknown, why, Vec::new());
    let text = match &attempt.answer {
        Err(text) => text,
        Ok(()) if attempt.asked && audits => {
            return unknown(
                "it was asked and answered too late; in audit mode containerd waits for a second".to_owned(),
            );
        }
        Ok(()) if attempt.asked => {
            return proof(State::Open, "it refused, and containerd went on all the same".to_owned(), Vec::new());
        }
        Ok(()) => return proof(State::Open, "what it must refuse passed: it is not asked".to_owned(), Vec::new()),
    };
    let ours = text.contains(&format!("DENY {}", Code::SelfTest));
    if !ours {
        return unknown(not_ours(attempt.gate, text));
    }
    if !attempt.asked {
        return proof(State::Open, "it is not asked; another gate refused what it must refuse".to_owned(), Vec::new());
    }
    let entries = match entries {
        Ok(entries) => entries,
        Err(why) => return unknown(format!("it refused, and its entry cannot be read back: {why}")),
    };
    let refusal = entries
        .iter()
        .find(|entry| entry.says(attempt.gate, Verdict::Deny, &attempt.digests) && names(text, &entry.id));
    let Some(refusal) = refusal else {
        return unknown("it refused, and its entry is not in the journal of pullgate.service".to_owned());
    };
    if let Err(why) = &control.answer {
        return unknown(format!("it refuses, but what it must admit failed: {why}"));
    }
    match entries.iter().find(|entry| entry.says(attempt.gate, Verdict::Allow, &control.digests)) {
        Some(admitted) => proof(State::Proven, String::new(), vec![refusal.id.clone(), admitted.id.clone()]),
        None => unknown("it refuses, and there is no entry of what it must admit".to_owned()),
    }
}

/// Whether the refusal that a client saw is the one of the entry `id`.
fn names(text: &str, id: &str) -> bool {
    let said = format!("pullgate why {id}");
    text.match_indices(&said).any(|(at, found)| {
        let after = text[at + found.len()..].chars().next();
        !after.is_some_and(|c| c.is_ascii_alphanumeric())
    })
}

/// Why containerd may have failed by itself, and what to do about it.
fn not_ours(gate: Gate, text: &str) -> String {
    let led_away = gate != Gate::Start && !text.contains("RETRY PG") && !text.contains("DENY PG");
    let hint = match led_away {
        true => {
            "containerd did not fetch from 127.0.0.1 (look at _default/hosts.toml and the proxy of containerd's unit)"
        }
        false => "something else failed",
    };
    format!("{hint}: {text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDS: [&str; 2] = ["1J4", "1J5"];

    fn refused() -> [Digest; 2] {
        [Digest::of(b"refused"), Digest::of(b"refused's config")]
    }

    fn admitted() -> [Digest; 2] {
        [Digest::of(b"admitted"), Digest::of(b"admitted's config")]
    }

    fn attempt(answer: Result<(), &str>) -> Attempt {
        let answer = answer.map_err(str::to_owned);
        Attempt { gate: Gate::Unpack, way: None, digests: refused(), answer, asked: true }
    }

    fn control() -> Control {
        Control { digests: admitted(), answer: Ok(()) }
    }

    fn entry(id: &str, gate: &str, digest: Digest, verdict: Verdict) -> Entry {
        Entry { id: id.to_owned(), gate: gate.to_owned(), digest, verdict }
    }

    fn written() -> Result<Vec<Entry>, String> {
        Ok(vec![
            entry(IDS[1], "unpack", admitted()[0], Verdict::Allow),
            entry(IDS[0], "unpack", refused()[1], Verdict::Deny),
        ])
    }

    const LINE: &str =
        "rpc error: failed to extract: DENY PG411 rule \"self-test\": x. On node: pullgate why 1J4: unknown";

    #[test]
    fn a_gate_is_proven_by_its_own_refusal_its_own_admission_and_both_entries() {
        let proof = judge(&attempt(Err(LINE)), &control(), &written(), false);
        assert_eq!(
            (proof.state, proof.why.as_str(), proof.entries.as_slice()),
            (State::Proven, "", &IDS.map(str::to_owned)[..])
        );
        assert_eq!(judge(&attempt(Err(LINE)), &control(), &written(), true).state, State::Proven);
    }

    #[test]
    fn what_passed_is_open_unless_audit_mode_did_not_wait() {
        for (asked, audits, expected) in [
            (false, false, State::Open),
            (false, true, State::Open),
            (true, false, State::Open),
            (true, true, State::Unknown),
        ] {
            let attempt = Attempt { asked, ..attempt(Ok(())) };
            assert_eq!(judge(&attempt, &control(), &written(), audits).state, expected, "{asked} {audits}");
        }
        // The gate behind it refused.
        let other = Attempt { asked: false, ..attempt(Err(LINE)) };
        assert_eq!(judge(&other, &control(), &written(), false).state, State::Open);
    }

    #[test]
    fn nothing_else_proves_a_gate() {
        let unknown = |attempt: Attempt, control: Control, entries: Result<Vec<Entry>, String>| {
            let proof = judge(&attempt, &control, &entries, false);
            assert_eq!(proof.state, State::Unknown, "{attempt:?} {control:?} {entries:?}");
            assert!(!proof.why.is_empty() && proof.entries.is_empty());
        };
        let refuses = || attempt(Err(LINE));
        for text in ["", "no such host", "DENY PG201 no rule", "RETRY PG408 no daemon. On node: pullgate why 1J4"] {
            unknown(attempt(Err(text)), control(), written());
        }
        unknown(refuses(), control(), Ok(Vec::new()));
        unknown(refuses(), control(), Err("no journalctl".to_owned()));
        unknown(refuses(), Control { answer: Err("no space".to_owned()), ..control() }, written());
        for (at, change) in [
            (1, entry(IDS[0], "resolve", refused()[0], Verdict::Deny)),
            (1, entry(IDS[0], "unpack", admitted()[0], Verdict::Deny)),
            (1, entry(IDS[0], "unpack", refused()[0], Verdict::Allow)),
            (1, entry(IDS[0], "unpack", refused()[0], Verdict::Inconclusive)),
            (1, entry("1J", "unpack", refused()[0], Verdict::Deny)),
            (1, entry("J4", "unpack", refused()[0], Verdict::Deny)),
            (0, entry(IDS[1], "unpack", refused()[0], Verdict::Allow)),
            (0, entry(IDS[1], "resolve", admitted()[0], Verdict::Allow)),
        ] {
            let mut entries = written().unwrap();
            entries[at] = change;
            unknown(refuses(), control(), Ok(entries));
        }
    }

    #[test]
    fn whatever_containerd_says_is_a_line() {
        let text = "\u{202e}x\n".repeat(10_000);
        let proof = judge(&attempt(Err(&text)), &control(), &written(), false);
        assert!(!proof.why.contains('\n') && proof.why.chars().count() <= limits::AUDIT_WORD_CHARS);
        assert!(proof.why.contains("hosts.toml"), "{}", proof.why);
    }
}
