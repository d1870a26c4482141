//! Reading pieces of evidence: many at a time, the small ones first, each failure its own gap.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::{
    artifact::Annotations,
    search::{Search, Slots},
};
use crate::{
    evidence::{Layout, Material},
    image::Digest,
    limits,
};

/// A blob that holds evidence.
pub(super) struct Piece {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) kind: Kind,
    /// The manifest that lists it: where a person finds it again.
    pub(super) manifest: Digest,
}

/// What the blob is.
pub(super) enum Kind {
    /// A payload, with every signature that is said to be over it.
    SimpleSigning(Vec<Annotations>),
    /// An envelope, with all that is said of its signature.
    Envelope(Vec<Annotations>),
    Bundle,
}

impl Piece {
    /// Whether it is read before the large ones.
    pub(super) fn is_small(&self) -> bool {
        self.size <= limits::SMALL_EVIDENCE_BYTES
    }
}

/// Reads `pieces`, the smallest first.
pub(super) async fn read_all(search: &Arc<Search>, slots: &Slots, layout: Layout, mut pieces: Vec<Piece>) {
    pieces.sort_by_key(|piece| piece.size);
    let mut reading = JoinSet::new();
    for piece in pieces {
        let (search, slots) = (search.clone(), slots.clone());
        reading.spawn(async move {
            let _slot = slots.take().await;
            read(&search, layout, piece).await;
        });
    }
    while let Some(ended) = reading.join_next().await {
        search.ended(ended).await;
    }
}

/// Reads one piece and hands it out, or says why not. The caller holds the slot.
pub(super) async fn read(search: &Search, layout: Layout, piece: Piece) {
    let blob = search.by_digest("blobs", piece.digest, piece.size, "*/*").await;
    let bytes = match blob {
        Ok(answer) => answer.body,
        Err(cause) => return search.gap(layout, search.place_of(piece.digest), cause).await,
    };
    let place = search.place_of(piece.manifest);
    let (copies, is_payload) = match piece.kind {
        Kind::Bundle => return search.found(layout, Material::Bundle(bytes), place).await,
        Kind::SimpleSigning(copies) => (copies, true),
        Kind::Envelope(copies) => (copies, false),
    };
    for (i, mut annotations) in copies.into_iter().enumerate() {
        if i > 0
            && let Err(cause) = search.pays(&bytes)
        {
            return search.gap(layout, place, cause).await;
        }
        let bytes = bytes.clone();
        let signature = std::mem::take(&mut annotations.signature);
        let attached = annotations.attached();
        let material = match is_payload {
            true => Material::SimpleSigning { payload: bytes, signature, attached },
            false => Material::Envelope { json: bytes, attached },
        };
        search.found(layout, material, place.clone()).await;
    }
}
