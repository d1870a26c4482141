//! pullgate decides, for every image that any client tries to bring onto a node, whether its digest and
//! its signed attestations satisfy the policy.

pub mod audit;
pub mod evidence;
pub mod image;
pub mod limits;
pub mod log;
pub mod policy;
pub mod systemd;
