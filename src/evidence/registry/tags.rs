//! The tags of cosign's older layout: `sha256-<hex>.sig` and `sha256-<hex>.att` (cosign SIGNATURE_SPEC.md
//! and ATTESTATION_SPEC.md). Each is one image manifest whose layers are the evidence.

use std::{collections::HashMap, sync::Arc};

use super::{
    artifact::{ArtifactManifest, DSSE_ENVELOPE, Entry, SIMPLE_SIGNING, not_sha256},
    pieces::{Kind, Piece, read_all},
    search::{ACCEPT_MANIFEST, Answered, Search, Slots, check_kind},
};
use crate::{
    evidence::{Cause, Layout},
    image::{Digest, media_type},
};

/// Hands out the signatures under the `.sig` tag.
pub(super) async fn signatures(search: &Arc<Search>, slots: &Slots, answered: Answered) {
    read_tag(search, slots, answered, Layout::SignatureTag, ".sig", SIMPLE_SIGNING).await;
}

/// Hands out the attestations under the `.att` tag.
pub(super) async fn attestations(search: &Arc<Search>, slots: &Slots, answered: Answered) {
    read_tag(search, slots, answered, Layout::AttestationTag, ".att", DSSE_ENVELOPE).await;
}

async fn read_tag(
    search: &Arc<Search>,
    slots: &Slots,
    answered: Answered,
    layout: Layout,
    suffix: &str,
    layer_type: &'static str,
) {
    let tag = format!("sha256-{}{suffix}", search.digest.hex());
    let place = format!("{}:{tag}", search.place.repository);
    let (manifest, layers) = match layers(search, slots, &tag, layer_type).await {
        Ok(Some(found)) => found,
        Ok(None) => return,
        Err(cause) => return search.gap(layout, place, cause).await,
    };
    answered.yes();
    let limit = search.registry.http.bounds.evidence_items;
    let listed = pieces(search, manifest, layers);
    if !listed.all {
        search.too_many(layout, place.clone(), limit, "signatures or attestations").await;
    }
    if !listed.sound {
        search.gap(layout, place, not_sha256()).await;
    }
    read_all(search, slots, layout, listed.pieces).await;
}

/// The layers of `layer_type` under `tag`, and the digest of their manifest; none if there is no such tag.
async fn layers(
    search: &Search,
    slots: &Slots,
    tag: &str,
    layer_type: &str,
) -> Result<Option<(Digest, Vec<Entry>)>, Cause> {
    let _slot = slots.take().await;
    let Some(answer) = search.tagged(tag, ACCEPT_MANIFEST).await? else { return Ok(None) };
    let manifest: ArtifactManifest = serde_json::from_slice(&answer.body)
        .map_err(|_| Cause::Misbehaved("it is not a manifest that can be read".to_owned()))?;
    check_kind(&answer, manifest.media_type.as_deref(), media_type::is_manifest)?;
    let mut layers = manifest.layers;
    layers.retain(|layer| layer.media_type == layer_type);
    Ok(Some((Digest::of(&answer.body), layers)))
}

/// The pieces that a manifest lists.
struct Listed {
    pieces: Vec<Piece>,
    /// Whether that is all of them, not only as many as are read.
    all: bool,
    /// Whether each has a digest that can be read.
    sound: bool,
}

/// The pieces that `layers` list. Several signatures over one payload are one piece: it is read once.
fn pieces(search: &Search, manifest: Digest, layers: Vec<Entry>) -> Listed {
    let mut listed = Listed { pieces: Vec::new(), all: true, sound: true };
    let mut places: HashMap<(Digest, u64), usize> = HashMap::new();
    for mut layer in layers {
        if !search.counts() {
            listed.all = false;
            break;
        }
        let Some(digest) = layer.digest() else {
            listed.sound = false;
            continue;
        };
        let (size, annotations) = (layer.size, layer.annotations());
        let place = *places.entry((digest, size)).or_insert(listed.pieces.len());
        match listed.pieces.get_mut(place).map(|piece| &mut piece.kind) {
            Some(Kind::SimpleSigning(signatures)) => signatures.push(annotations),
            // The signature is in the envelope: listed again with the same beside it, it is the same.
            Some(Kind::Envelope(several)) if !several.contains(&annotations) => several.push(annotations),
            Some(Kind::Envelope(_) | Kind::Bundle) => {}
            None => {
                let is_payload = layer.media_type == SIMPLE_SIGNING;
                let annotations = vec![annotations];
                let kind = if is_payload { Kind::SimpleSigning(annotations) } else { Kind::Envelope(annotations) };
                listed.pieces.push(Piece { digest, size, kind, manifest });
            }
        }
    }
    listed
}
