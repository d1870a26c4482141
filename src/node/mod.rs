//! The node that pullgate runs on: containerd's configuration, the gates in it, and what the node cannot do without.

pub mod base_spec;
mod candidate;
pub mod change;
pub mod connection;
pub mod disable;
pub mod doctor;
pub mod dump;
pub mod enable;
pub mod essentials;
pub mod imports;
pub mod lines;
pub mod live;
pub mod mode;
pub mod process;
pub mod program;
pub mod record;
pub mod runtimes;
pub mod sandbox;
pub mod start;
pub mod static_pods;
pub mod unified;
pub mod vendor;
pub mod verifiers;
pub mod version;
pub mod wanted;

pub use program::run;

/// Where `enable` keeps what it changed, for `disable`.
pub const STATE: &str = "/var/lib/pullgate/enable";

/// Why something was not done, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}\n  {fix}")]
pub struct Obstacle {
    /// What is in the way.
    pub what: String,
    /// What to do about it.
    pub fix: String,
}

impl Obstacle {
    /// `what` is in the way; `fix` mends it.
    pub fn new(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { what: what.into(), fix: fix.into() }
    }
}
