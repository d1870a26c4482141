//! The gates: where containerd asks. The only place that knows whether this node enforces or audits.

mod delegation;
mod diff;
mod peer;
mod subjects;
mod unpack;
mod walk;

pub use diff::serve;
pub use subjects::fetched;
pub use unpack::{Counts, Unpack};
pub use walk::{Standing, Walk};
