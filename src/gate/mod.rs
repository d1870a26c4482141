//! The gates: where containerd asks. The only place that knows whether this node enforces or audits.

mod account;
mod answer;
mod delegation;
mod diff;
mod extracts;
mod image;
mod peer;
mod pieces;
mod questions;
mod resolve;
mod start;
mod subjects;
mod unpack;
mod walk;
mod watch;

pub use answer::{Counts, leave_word};
pub use diff::serve;
pub use image::{Home, InRegistry, decide};
pub use resolve::Resolve;
pub use start::Start;
pub use subjects::fetched;
pub use unpack::Unpack;
pub use walk::{ContainerStanding, Judged, Origin, PieceStanding, Progress, Standing, Walk};
pub use watch::{LastWalk, Watch, WatchReport};
