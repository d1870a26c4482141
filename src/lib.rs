//! pullgate decides, for every image that any client tries to bring onto a node, whether its digest and
//! its signed attestations satisfy the policy.

pub mod activation;
pub mod admission;
pub mod audit;
pub mod boot;
pub mod break_glass;
pub mod cli;
pub mod clock;
pub mod config;
pub mod containerd;
pub mod cri;
pub mod daemon;
pub mod decisions;
pub mod document;
pub mod evidence;
mod files;
pub mod gate;
mod go_duration;
pub mod image;
pub mod limits;
pub mod log;
pub mod node;
pub mod policy;
pub mod reload;
pub mod selftest;
pub mod snapshot;
pub mod status;
pub mod systemd;
pub mod trust;
pub mod verify;
