//! The tags of cosign's older layout: `sha256-<hex>.sig` and `sha256-<hex>.att` (cosign SIGNATURE_SPEC.md
//! and ATTESTATION_SPEC.md). Each is one image manifest whose layers are the evidence.

use std::sync::Arc;

use super::{
    pieces::read_all,
    search::{ACCEPT_MANIFEST, Answered, Search, Slots},
};
use crate::{
    evidence::{
        Cause, Layout,
        artifact::{self, DSSE_ENVELOPE, Entry, SIMPLE_SIGNING, not_sha256},
    },
    image::Digest,
};

/// Hands out the signatures under the `.sig` tag.
pub(super) async fn signatures(search: &Arc<Search>, slots: &Slots, answered: Answered) {
    let is_payload = |media_type: &str| media_type == SIMPLE_SIGNING;
    read_tag(search, slots, answered, Layout::SignatureTag, ".sig", is_payload).await;
}

/// Hands out the attestations under the `.att` tag.
pub(super) async fn attestations(search: &Arc<Search>, slots: &Slots, answered: Answered) {
    let is_envelope = |media_type: &str| media_type == DSSE_ENVELOPE;
    read_tag(search, slots, answered, Layout::AttestationTag, ".att", is_envelope).await;
}

async fn read_tag(
    search: &Arc<Search>,
    slots: &Slots,
    answered: Answered,
    layout: Layout,
    suffix: &str,
    wanted: fn(&str) -> bool,
) {
    let tag = format!("sha256-{}{suffix}", search.digest.hex());
    let place = format!("{}:{tag}", search.place.repository);
    let (manifest, layers) = match layers(search, slots, &tag).await {
        Ok(Some(found)) => found,
        Ok(None) => return,
        Err(cause) => return search.gap(layout, place, cause).await,
    };
    answered.yes();
    let limit = search.registry.http.bounds.evidence_items;
    let listed = artifact::pieces(manifest, layers, wanted, || search.counts());
    if !listed.all {
        search.too_many(layout, place.clone(), limit, "signatures or attestations").await;
    }
    if !listed.sound {
        search.gap(layout, place, not_sha256()).await;
    }
    read_all(search, slots, layout, listed.pieces).await;
}

/// The layers of the manifest under `tag`, and its digest; none if there is no such tag.
async fn layers(search: &Search, slots: &Slots, tag: &str) -> Result<Option<(Digest, Vec<Entry>)>, Cause> {
    let _slot = slots.take().await;
    let Some(answer) = search.tagged(tag, ACCEPT_MANIFEST).await? else { return Ok(None) };
    let layers = artifact::layers(&answer.body, answer.media_type().unwrap_or_default())?;
    Ok(Some((Digest::of(&answer.body), layers)))
}
