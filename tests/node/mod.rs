//! A real node in a box: Debian with systemd, journald, containerd, docker, cosign and a registry, booted in
//! a second, and the ways to bring an image onto it. Shared by the node tests and the demo.

#![allow(dead_code, unreachable_pub, reason = "shared by programs that each use a part")]

pub mod containerd;
pub mod cri;
pub mod image;
pub mod journal;
pub mod machine;
pub mod matrix;
pub mod path;
pub mod pod;
pub mod product;
pub mod registry;
pub mod root;
pub mod signing;
pub mod store;

pub use image::Image;
pub use machine::Node;
pub use path::Path;
pub use root::Suite;

/// What went wrong, in words for the person at the terminal.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;
