//! The evidence in what an index lists, on disk and in containerd's content store alike: tools save an image together
//! with its signatures in many ways (cosign, skopeo, oras, regctl, containerd's own import).
//!
//! | an entry | is read |
//! |---|---|
//! | called `sha256-<hex>.sig`, or of cosign's kind `sigs` | as signatures |
//! | called `sha256-<hex>.att`, or of cosign's kind `atts` | as attestations |
//! | called `sha256-<hex>` | as the list of referrers under the fallback tag |
//! | another manifest that may be a bundle | as a bundle, if its `subject` is the image |
//! | another index | for what it lists |

use std::collections::{HashSet, VecDeque};

use super::{
    Cause, Formats,
    artifact::{self, DSSE_ENVELOPE, Entry, Kind, Piece, SIMPLE_SIGNING, is_bundle, not_sha256},
    stream::Out,
};
use crate::{
    image::{Digest, media_type},
    limits,
};

/// Blobs by their digest.
pub(super) trait Blobs: Sync {
    /// The bytes under `digest`, hashed, at most `limit`; none if there are none.
    fn read(&self, digest: &Digest, limit: u64) -> impl Future<Output = Result<Option<Vec<u8>>, Cause>> + Send;

    /// How a person finds `digest` again.
    fn place_of(&self, digest: &Digest) -> String;
}

/// What is looked for.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    /// The evidence about this manifest or index.
    pub(super) digest: Digest,
    /// In these forms.
    pub(super) formats: Formats,
}

/// What may still be read about one digest, in all places of one source together.
pub(super) struct Room {
    documents: usize,
    pub(super) pieces: usize,
    pub(super) bytes: u64,
}

impl Default for Room {
    fn default() -> Self {
        let documents = limits::LAYOUT_DOCUMENTS;
        Self { documents, pieces: limits::EVIDENCE_ITEMS, bytes: limits::EVIDENCE_TOTAL_BYTES }
    }
}

impl Room {
    /// Takes room for so many bytes.
    pub(super) fn take(&mut self, bytes: u64) -> Result<(), Cause> {
        let more = || Cause::TooLarge("there is more evidence for this digest than is read".to_owned());
        self.bytes = self.bytes.checked_sub(bytes).ok_or_else(more)?;
        Ok(())
    }

    /// Takes room for one piece of evidence.
    pub(super) fn counts(&mut self) -> bool {
        let left = self.pieces.checked_sub(1);
        self.pieces = left.unwrap_or_default();
        left.is_some()
    }
}

/// Hands to `out` the evidence in `entries`, what is called after the image first. Where an index lists what is not there
/// because nobody saved it, that is no gap; `complete` says that `entries` are none of those.
pub(super) async fn search(
    blobs: &impl Blobs,
    entries: Vec<Entry>,
    complete: bool,
    wanted: Wanted,
    room: &mut Room,
    out: &Out,
) {
    let opened = HashSet::from([wanted.digest]);
    let mut search =
        Search { blobs, wanted, room, out, opened, taken: HashSet::new(), pieces: Vec::new(), is_full: false };
    let is_named = |entry: &Entry| matches!(lead(entry, wanted), Lead::Evidence(_) | Lead::Referrers);
    let (named, rest): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(is_named);
    for entry in named {
        search.look_at(&entry, true).await;
    }
    search.hand_out().await;
    let mut rest: VecDeque<_> = rest.into_iter().map(|entry| (entry, 0)).collect();
    while let Some((entry, depth)) = rest.pop_front() {
        if out.is_over() || search.is_full {
            break;
        }
        let listed = search.look_at(&entry, complete && depth == 0).await;
        if depth == limits::LAYOUT_DEPTH && !listed.is_empty() {
            let deeper = format!("more than {} indexes within each other", limits::LAYOUT_DEPTH);
            search.broke(&entry, Cause::TooLarge(deeper)).await;
        } else {
            rest.extend(listed.into_iter().map(|entry| (entry, depth + 1)));
        }
    }
    search.hand_out().await;
}

/// What an entry of an index is worth a look for.
enum Lead {
    /// A manifest with layers of these media types.
    Evidence(fn(&str) -> bool),
    /// A list of referrers of the image.
    Referrers,
    /// It has to be read to know.
    Open,
    Nothing,
}

fn lead(entry: &Entry, wanted: Wanted) -> Lead {
    let formats = wanted.formats;
    let signatures =
        |asked| if asked { Lead::Evidence(|media_type| media_type == SIMPLE_SIGNING) } else { Lead::Nothing };
    let attestations =
        |asked| if asked { Lead::Evidence(|media_type| media_type == DSSE_ENVELOPE) } else { Lead::Nothing };
    match entry.kind() {
        // There is one image in such a layout.
        Some("dev.cosignproject.cosign/sigs") => return signatures(formats.simple_signing),
        Some("dev.cosignproject.cosign/atts") => return attestations(formats.attestation_tag),
        _ => {}
    }
    let hex = wanted.digest.hex();
    let mut of_another = false;
    for tag in entry.tags() {
        let Some(rest) = tag.strip_prefix("sha256-") else { continue };
        match rest.strip_prefix(hex.as_str()) {
            Some(".sig") => return signatures(formats.simple_signing),
            Some(".att") => return attestations(formats.attestation_tag),
            Some("") if formats.bundle => return Lead::Referrers,
            _ => of_another = true,
        }
    }
    let may_lead = media_type::is_index(&entry.media_type)
        || formats.bundle && media_type::is_manifest(&entry.media_type) && entry.may_be_bundle();
    if may_lead && !of_another { Lead::Open } else { Lead::Nothing }
}

struct Search<'a, B> {
    blobs: &'a B,
    wanted: Wanted,
    room: &'a mut Room,
    out: &'a Out,
    /// What was looked into to know what it is, and the image itself.
    opened: HashSet<Digest>,
    /// What is evidence, and was taken.
    taken: HashSet<Digest>,
    /// What is to be handed out.
    pieces: Vec<Piece>,
    /// Whether as many documents were read as are.
    is_full: bool,
}

impl<B: Blobs> Search<'_, B> {
    /// Takes what is wanted behind `entry`. Of an index that has to be looked into, what it lists.
    async fn look_at(&mut self, entry: &Entry, must_be_there: bool) -> Vec<Entry> {
        let looked = match lead(entry, self.wanted) {
            Lead::Nothing => Ok(Vec::new()),
            Lead::Evidence(is_wanted) => self.manifest(entry, is_wanted).await.map(|()| Vec::new()),
            Lead::Referrers => self.fallback(entry).await.map(|()| Vec::new()),
            Lead::Open => self.open(entry, must_be_there).await,
        };
        match looked {
            Ok(listed) => listed,
            Err(cause) => {
                self.broke(entry, cause).await;
                Vec::new()
            }
        }
    }

    /// Takes the pieces in a manifest: layers of the types that are wanted.
    async fn manifest(&mut self, entry: &Entry, is_wanted: fn(&str) -> bool) -> Result<(), Cause> {
        let digest = entry.digest().ok_or_else(not_sha256)?;
        if self.taken.insert(digest) {
            let bytes = self.document(&digest, entry).await?.ok_or_else(absent)?;
            self.take(digest, artifact::layers(&bytes, &entry.media_type)?, is_wanted).await;
        }
        Ok(())
    }

    /// Takes the bundles in a list of referrers. What each of them is about is what was signed.
    async fn fallback(&mut self, entry: &Entry) -> Result<(), Cause> {
        let digest = entry.digest().ok_or_else(not_sha256)?;
        let bytes = self.document(&digest, entry).await?.ok_or_else(absent)?;
        for referrer in artifact::entries(&bytes, Some(&entry.media_type), media_type::is_index)? {
            if media_type::is_manifest(&referrer.media_type)
                && referrer.may_be_bundle()
                && let Err(cause) = self.manifest(&referrer, is_bundle).await
            {
                self.broke(&referrer, cause).await;
            }
        }
        Ok(())
    }

    /// Looks into what does not say what it is: of an index what it lists, of a manifest about the image its bundles.
    async fn open(&mut self, entry: &Entry, must_be_there: bool) -> Result<Vec<Entry>, Cause> {
        let digest = entry.digest().ok_or_else(not_sha256)?;
        if self.taken.contains(&digest) || !self.opened.insert(digest) {
            return Ok(Vec::new());
        }
        let Some(bytes) = self.document(&digest, entry).await? else {
            return if must_be_there { Err(absent()) } else { Ok(Vec::new()) };
        };
        if media_type::is_index(&entry.media_type) {
            return artifact::entries(&bytes, Some(&entry.media_type), media_type::is_index);
        }
        if artifact::refers_to(&bytes, &self.wanted.digest)? {
            self.taken.insert(digest);
            self.take(digest, artifact::layers(&bytes, &entry.media_type)?, is_bundle).await;
        }
        Ok(Vec::new())
    }

    /// The bytes of a manifest or index, none if it is not there.
    async fn document(&mut self, digest: &Digest, entry: &Entry) -> Result<Option<Vec<u8>>, Cause> {
        let Some(left) = self.room.documents.checked_sub(1) else {
            self.is_full = true;
            let limit = limits::LAYOUT_DOCUMENTS;
            return Err(Cause::TooLarge(format!("there are more than {limit} manifests and indexes")));
        };
        self.room.documents = left;
        self.blob(digest, entry.size, limits::MANIFEST_BYTES).await
    }

    async fn blob(&mut self, digest: &Digest, size: u64, limit: u64) -> Result<Option<Vec<u8>>, Cause> {
        if size > limit {
            return Err(Cause::TooLarge(format!("it is larger than {limit} bytes")));
        }
        let bytes = self.blobs.read(digest, size).await?;
        self.room.take(bytes.as_ref().map_or(0, Vec::len) as u64)?;
        Ok(bytes)
    }

    /// Takes the pieces among the `layers` of `manifest`.
    async fn take(&mut self, manifest: Digest, layers: Vec<Entry>, is_wanted: fn(&str) -> bool) {
        let listed = artifact::pieces(manifest, layers, is_wanted, || self.room.counts());
        self.pieces.extend(listed.pieces);
        if !listed.all {
            let more = format!("there are more than {} signatures, attestations or bundles", limits::EVIDENCE_ITEMS);
            self.out.gap(self.blobs.place_of(&manifest), Cause::TooLarge(more)).await;
        }
        if !listed.sound {
            self.out.gap(self.blobs.place_of(&manifest), not_sha256()).await;
        }
    }

    /// Reads the pieces, the smallest first, and hands them out.
    async fn hand_out(&mut self) {
        let mut pieces = std::mem::take(&mut self.pieces);
        pieces.sort_by_key(|piece| piece.size);
        for Piece { digest, size, kind, manifest } in pieces {
            if self.out.is_over() {
                return;
            }
            match self.blob(&digest, size, limits::EVIDENCE_BYTES).await.and_then(|bytes| bytes.ok_or_else(absent)) {
                Ok(bytes) => self.hand_out_one(kind, bytes, self.blobs.place_of(&manifest)).await,
                Err(cause) => self.out.gap(self.blobs.place_of(&digest), cause).await,
            }
        }
    }

    async fn hand_out_one(&mut self, kind: Kind, bytes: Vec<u8>, place: String) {
        let size = bytes.len() as u64;
        for (i, material) in kind.materials(bytes).enumerate() {
            // The first copy was paid for when it was read.
            if i > 0
                && let Err(cause) = self.room.take(size)
            {
                return self.out.gap(place, cause).await;
            }
            self.out.found(material, place.clone()).await;
        }
    }

    async fn broke(&self, entry: &Entry, cause: Cause) {
        let place = entry.digest().unwrap_or(self.wanted.digest);
        self.out.gap(self.blobs.place_of(&place), cause).await;
    }
}

fn absent() -> Cause {
    Cause::Misbehaved("it is listed, but not there".to_owned())
}

#[cfg(test)]
mod tests;
