//! Break-glass: a pass admits for some hours what the policy does not, because root on this node said so and why.

pub mod machine;
mod pass;
pub mod passes;
pub mod socket;

pub use pass::{Glass, LABEL, Moment, Over, Pass, RULE, Report, Scope, Shown, Standing, Who, admit_by_label, reason};
pub use passes::Passes;
