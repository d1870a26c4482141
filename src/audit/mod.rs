//! The audit: one journald entry for each decision, accepted by journald before an allow leaves.
//!
//! Entries are numbered, and each carries the hash of the one before, so that loss shows. Whoever is
//! root on the node can rewrite both; that is for a copy of the journal elsewhere to show.

pub mod chain;
mod entry;
mod glass;
mod id;
mod journal;
mod numbers;
pub mod record;
mod socket;
mod told;
pub mod watched;

/// The unit of the daemon, by which journald says who sent an entry.
pub const UNIT: &str = "pullgate.service";

pub use entry::Field;
pub use id::Id;
pub use journal::{AuditError, Journal};
pub use record::{Facts, Kind, Record};
pub use told::{Decided, Told};
