//! What an image is: names, digests, descriptors and the documents behind them. Pure.

mod digest;
mod reference;

pub use digest::{BadDigest, Digest, chain_ids};
pub use reference::{BadReference, Host, Reference, Repository, sanitize};
