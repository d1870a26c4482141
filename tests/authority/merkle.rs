//! Merkle trees by RFC 6962 section 2.1.

use sha2::{Digest, Sha256};

/// The hash of a leaf.
pub(super) fn leaf(entry: impl AsRef<[u8]>) -> [u8; 32] {
    Sha256::new_with_prefix([0]).chain_update(entry).finalize().into()
}

/// The hash of the tree over `leaves`.
pub(super) fn root(leaves: &[[u8; 32]]) -> [u8; 32] {
    match leaves {
        [] => Sha256::digest([]).into(),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(half(leaves.len()));
            Sha256::new_with_prefix([1]).chain_update(root(left)).chain_update(root(right)).finalize().into()
        }
    }
}

/// The audit path of the leaf at `index`; none where there is no such leaf.
pub(super) fn path(index: usize, leaves: &[[u8; 32]]) -> Vec<[u8; 32]> {
    if leaves.len() < 2 || index >= leaves.len() {
        return Vec::new();
    }
    let (left, right) = leaves.split_at(half(leaves.len()));
    let (mut path, other) = match index.checked_sub(left.len()) {
        None => (path(index, left), right),
        Some(index) => (path(index, right), left),
    };
    path.push(root(other));
    path
}

/// The largest power of two below `size`.
fn half(size: usize) -> usize {
    size.div_ceil(2).next_power_of_two()
}
