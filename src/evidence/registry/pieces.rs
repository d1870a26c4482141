//! Reading pieces of evidence: many at a time, the small ones first, each failure its own gap.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::search::{Search, Slots};
use crate::evidence::{Layout, artifact::Piece};

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
    let size = bytes.len() as u64;
    for (i, material) in piece.kind.materials(bytes).enumerate() {
        if i > 0
            && let Err(cause) = search.pays(size)
        {
            return search.gap(layout, place, cause).await;
        }
        search.found(layout, material, place.clone()).await;
    }
}
