//! What an image is: names, digests, descriptors and the documents behind them. Pure.

#![deny(clippy::disallowed_methods)]

mod digest;
mod manifest;
mod platform;
mod reference;
mod scan;

pub use digest::{BadDigest, Digest, chain_ids};
pub use manifest::{Child, Config, Descriptor, Document, Index, Malformed, Manifest, media_type};
pub use platform::{NodePlatform, Platform};
pub use reference::{BadReference, Host, Reference, Repository, sanitize};
pub(crate) use scan::Object;
