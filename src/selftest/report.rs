//! What a run of the self-test found. Pure.

#![deny(clippy::disallowed_methods)]

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{image::sanitize, limits};

/// A gate that can be seen to refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gate {
    /// Before anything is fetched.
    Resolve,
    /// Before a layer is applied.
    Unpack,
    /// Before a container's process starts.
    Start,
}

impl Gate {
    /// Its name in entries.
    pub fn name(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Unpack => "unpack",
            Self::Start => "start",
        }
    }
}

/// What is known of one gate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It refused what it must refuse and admitted what it must admit, and the node enforces.
    Enforcing,
    /// The same, but the node only audits.
    Proven,
    /// It let pass what it must refuse: an alarm.
    Open,
    /// It could not be told.
    #[default]
    Unknown,
    /// This containerd has no such hook, or is not connected.
    Absent,
}

impl State {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Enforcing => "enforcing",
            Self::Proven => "proven, mode audit",
            Self::Open => "OPEN",
            Self::Unknown => "not known",
            Self::Absent => "absent",
        }
    }
}

/// What was seen of one gate, for one way to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Proof {
    /// The gate.
    pub gate: Gate,
    /// The way to it, where there are several: `kubelet` (CRI) or `client` (who unpacks itself: ctr, nerdctl, docker); for
    /// the start gate the CRI runtime handler.
    pub way: Option<String>,
    /// What is known.
    pub state: State,
    /// Why, and what to do about it; empty for what is as it must be.
    #[serde(default)]
    pub why: String,
    /// The audit entries that were read back, as `pullgate why` takes them: the refusal first.
    #[serde(default)]
    pub entries: Vec<String>,
}

/// A process and when it was started, in ticks after the boot: two processes of one id differ in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// When it was started.
    pub ticks: u64,
}

/// What one run found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// The run: its images and pods are named after it. Empty before the first.
    #[serde(default)]
    pub run: String,
    /// When it ended.
    pub at: Option<Timestamp>,
    /// How long it took, in milliseconds.
    #[serde(default)]
    pub took_ms: u64,
    /// The node's mode.
    #[serde(default)]
    pub mode: String,
    /// The containerd that was asked. What was seen holds for this process and no other.
    pub containerd: Option<Process>,
    /// Each gate; none before the first run.
    #[serde(default)]
    pub gates: Vec<Proof>,
}

impl Report {
    /// Whether any gate lets pass what it must refuse: an alarm.
    pub fn is_open(&self) -> bool {
        self.gates.iter().any(|proof| proof.state == State::Open)
    }

    /// Whether a gate that this containerd has could not be told.
    pub fn is_unknown(&self) -> bool {
        self.gates.is_empty() || self.gates.iter().any(|proof| proof.state == State::Unknown)
    }

    /// The same report when nothing of it can be relied on any more, because of `why`.
    #[must_use]
    pub fn outdated(&self, why: &str) -> Self {
        let mut outdated = self.clone();
        for proof in outdated.gates.iter_mut().filter(|proof| proof.state != State::Absent) {
            (proof.state, proof.why, proof.entries) = (State::Unknown, why.to_owned(), Vec::new());
        }
        outdated
    }

    /// Whether it says the same of each gate as `other`, whenever either was made.
    pub fn agrees(&self, other: &Self) -> bool {
        let state = |proof: &Proof| (proof.gate, proof.way.clone(), proof.state);
        self.gates.iter().map(state).eq(other.gates.iter().map(state))
    }
}

impl fmt::Display for Proof {
    /// One line: `unpack (client): OPEN: …`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |text: &str| sanitize(text, limits::AUDIT_WORD_CHARS);
        f.write_str(self.gate.name())?;
        if let Some(way) = &self.way {
            write!(f, " ({})", word(way))?;
        }
        write!(f, ": {}", self.state.word())?;
        match self.why.as_str() {
            "" => Ok(()),
            why => write!(f, ": {}", word(why)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proof(gate: Gate, state: State) -> Proof {
        Proof { gate, way: None, state, why: String::new(), entries: vec!["1J4".to_owned()] }
    }

    #[test]
    fn nothing_is_proven_before_it_was_seen() {
        assert_eq!(State::default(), State::Unknown);
        let report = Report::default();
        assert!(report.is_unknown() && !report.is_open());
    }

    #[test]
    fn what_is_outdated_proves_nothing_and_what_is_absent_stays_so() {
        let states = [State::Enforcing, State::Proven, State::Open, State::Unknown, State::Absent];
        let report = Report { gates: states.map(|state| proof(Gate::Unpack, state)).into(), ..Report::default() };
        assert!(report.is_open() && report.agrees(&report));
        let outdated = report.outdated("containerd was restarted");
        let left: Vec<State> = outdated.gates.iter().map(|proof| proof.state).collect();
        assert_eq!(left, [State::Unknown, State::Unknown, State::Unknown, State::Unknown, State::Absent]);
        assert!(outdated.gates[..4].iter().all(|proof| proof.entries.is_empty() && !proof.why.is_empty()));
        assert!(!outdated.agrees(&report));
    }

    #[test]
    fn it_reads_back_whole_and_a_line_is_a_line() {
        let mut open = proof(Gate::Start, State::Open);
        (open.way, open.why) = (Some("runc\n".to_owned()), "x\u{202e}\n".repeat(200));
        let report = Report { run: "x".to_owned(), gates: vec![open.clone()], ..Report::default() };
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
        assert_eq!(serde_json::from_str::<Report>("{}").unwrap(), Report::default());
        let line = open.to_string();
        assert!(line.starts_with("start (runc?): OPEN: x"), "{line}");
        assert!(!line.contains('\n') && line.chars().count() < 600, "{line}");
    }
}
