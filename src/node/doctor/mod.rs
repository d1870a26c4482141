//! What on this node leads around the gates: checks over facts that were gathered once.

pub mod check;
mod facts;
mod gather;
mod place;
#[cfg(test)]
mod sample;
mod settings;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use facts::{
    Configured, ContainerMounts, Enabled, Facts, Foreign, Known, Mount, Mounts, Program, Running, Units,
    VerifierDirectory,
};
pub use gather::gather;
pub use place::Place;

/// Which gate a check is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gate {
    /// Before anything is fetched.
    Resolve,
    /// Before a layer is applied.
    Unpack,
    /// Before a container's process starts.
    Start,
    /// After the fact.
    Watch,
    /// All of them: the node and the daemon.
    Node,
}

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// There is no way around here.
    Closed,
    /// A gate is asked later than it could be, or something is broken that refuses too much.
    Warning,
    /// It could not be looked at.
    Unknown,
    /// There is a way around.
    Open,
}

/// One thing that a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Finding {
    /// The check's id, the same in every version.
    pub check: &'static str,
    /// The gate that it is about.
    pub gate: Gate,
    /// What it comes to.
    pub state: State,
    /// What was found.
    pub what: String,
    /// Where it is set; none where no file says it.
    pub place: Option<Place>,
    /// What to do about it; none where nothing is to be done.
    pub mend: Option<String>,
}

/// Every finding about `facts`, the worst first.
pub fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings: Vec<Finding> = check::ALL.iter().flat_map(|check| check.findings(facts)).collect();
    findings.sort_by_key(|finding| (std::cmp::Reverse(finding.state), finding.gate));
    findings
}

impl Gate {
    /// Each of them, in the order of an image's way.
    pub const ALL: [Self; 5] = [Self::Resolve, Self::Unpack, Self::Start, Self::Watch, Self::Node];

    /// Its name in entries and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Unpack => "unpack",
            Self::Start => "start",
            Self::Watch => "watch",
            Self::Node => "node",
        }
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Closed => "closed",
            Self::Warning => "warning",
            Self::Unknown => "unknown",
            Self::Open => "OPEN",
        })
    }
}
