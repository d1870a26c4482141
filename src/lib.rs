//! pullgate decides, for every image that any client tries to bring onto a node, whether its digest and
//! its signed attestations satisfy the policy.

pub mod admission;
pub mod config;
pub mod containerd;
pub mod decisions;
pub mod document;
pub mod evidence;
pub mod image;
pub mod limits;
pub mod policy;
pub mod snapshot;
pub mod trust;
pub mod verify;
