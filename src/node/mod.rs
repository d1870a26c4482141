//! The node that pullgate runs on: containerd's configuration, and what the node cannot do without.

pub mod essentials;
pub mod sandbox;
pub mod static_pods;
