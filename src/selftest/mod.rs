//! The live self-test: each gate is seen to refuse what it must refuse, and to admit what it must admit.
//!
//! A gate that is configured, and a daemon that lives, prove nothing: containerd leaves a hook out without a word in half
//! a dozen configurations. So containerd is asked, as the kubelet asks it, for images that were made a moment before and
//! that nothing else has ever seen.

mod one_time;
mod report;

pub use one_time::{Listed, OneTime};
pub use report::{Gate, Process, Proof, Report, State};
