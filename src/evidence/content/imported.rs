//! Evidence that an archive brought along with its image: containerd has it under the names of records, in the index of
//! the archive, or as referrers, for as long as something keeps it from being collected.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tonic::Code;

use super::{ContentStore, Inventory, Trouble};
use crate::{
    evidence::{
        Asked, Cause, Formats, Layout, Stream,
        artifact::{self, Entry},
        listed::{self, Blobs, Room, Wanted},
        stream::Out,
    },
    image::{Digest, media_type},
    limits,
};

/// How a person is told of the store.
const SHOWN: &str = "containerd's content store";

impl ContentStore {
    /// The evidence in the store for `digest`, in the forms of `formats`, as it comes in. Must be called within a tokio
    /// runtime.
    pub(in crate::evidence) fn evidence(
        self: &Arc<Self>,
        digest: Digest,
        formats: Formats,
        turns: Arc<Semaphore>,
    ) -> Stream {
        let store = self.clone();
        Stream::of(Asked::new("", Layout::ContentStore), async move |out: Out| {
            // Never closed.
            let _turn = turns.acquire_owned().await;
            if let Err(trouble) = store.in_all_namespaces(Wanted { digest, formats }, &out).await {
                out.gap(SHOWN.to_owned(), Cause::Unreachable(trouble.to_string())).await;
            }
        })
    }

    /// An archive is imported into any namespace, and what was signed is the same in all.
    async fn in_all_namespaces(&self, wanted: Wanted, out: &Out) -> Result<(), Trouble> {
        let mut namespaces = self.containerd.namespaces().await?;
        namespaces.sort();
        if namespaces.len() > limits::EVIDENCE_NAMESPACES {
            let more = format!("there are more than {} namespaces", limits::EVIDENCE_NAMESPACES);
            out.gap(SHOWN.to_owned(), Cause::TooLarge(more)).await;
        }
        let mut room = Room::default();
        for name in namespaces.iter().take(limits::EVIDENCE_NAMESPACES) {
            if out.is_over() {
                break;
            }
            let namespace = Namespace { store: self, inventory: self.recent(name, &wanted.digest).await? };
            // What is called after the image is found at once, and mostly is all there is.
            listed::search(&namespace, namespace.called(&wanted.digest), true, wanted, &mut room, out).await;
            if !out.is_over() {
                let listed = namespace.listed(&wanted.digest, out).await;
                listed::search(&namespace, listed, false, wanted, &mut room, out).await;
            }
        }
        Ok(())
    }

    /// What is in a namespace now, or was a moment ago if `digest` was there already: many are asked about in a row.
    async fn recent(&self, namespace: &str, digest: &Digest) -> Result<Arc<Inventory>, Trouble> {
        if let Some(recent) = self.recent.get(namespace).filter(|recent| recent.knows(digest)) {
            return Ok(recent);
        }
        let now = Arc::new(self.inventory(namespace).await?);
        self.recent.insert(namespace.to_owned(), now.clone());
        Ok(now)
    }
}

struct Namespace<'a> {
    store: &'a ContentStore,
    inventory: Arc<Inventory>,
}

impl Namespace<'_> {
    /// What records call after `digest`: `repository:sha256-<hex>.sig`, and so on.
    fn called(&self, digest: &Digest) -> Vec<Entry> {
        let tag = format!("sha256-{}", digest.hex());
        let entry = |(name, target): (&str, &Digest)| {
            let media_type = if name.ends_with(&tag) { media_type::INDEX } else { media_type::MANIFEST };
            // The record knows its size, and nobody needs it.
            Entry::named(media_type.to_owned(), target, limits::MANIFEST_BYTES, name.to_owned())
        };
        self.inventory.named(&tag).map(entry).take(limits::LAYOUT_DOCUMENTS).collect()
    }

    /// What stands beside the image in the indexes that list it, and what containerd noted as its referrers.
    async fn listed(&self, digest: &Digest, out: &Out) -> Vec<Entry> {
        let referrer =
            |digest| Entry::named(media_type::MANIFEST.into(), digest, limits::MANIFEST_BYTES, String::new());
        let mut entries: Vec<Entry> = self.inventory.referrers(digest).iter().map(referrer).collect();
        for index in self.inventory.above(digest) {
            let read = match self.read(&index.digest, limits::MANIFEST_BYTES).await {
                Ok(Some(bytes)) => artifact::entries(&bytes, None, media_type::is_index),
                Ok(None) => continue,
                Err(cause) => Err(cause),
            };
            match read {
                Ok(listed) => entries.extend(listed),
                Err(cause) => out.gap(self.place_of(&index.digest), cause).await,
            }
            if entries.len() > limits::LAYOUT_DOCUMENTS {
                break;
            }
        }
        entries
    }
}

impl Blobs for Namespace<'_> {
    async fn read(&self, digest: &Digest, limit: u64) -> Result<Option<Vec<u8>>, Cause> {
        match self.store.containerd.read(self.inventory.namespace(), digest, limit).await {
            Ok(Some(bytes)) if Digest::of(&bytes) != *digest => {
                Err(Cause::Misbehaved("its bytes do not have the digest that they are stored under".to_owned()))
            }
            Ok(bytes) => Ok(bytes),
            Err(status) if status.code() == Code::OutOfRange => {
                Err(Cause::TooLarge(format!("it is larger than {limit} bytes")))
            }
            Err(status) => Err(Cause::Unreachable(format!("containerd: {}", status.message()))),
        }
    }

    fn place_of(&self, digest: &Digest) -> String {
        format!("{SHOWN}, {}@{digest}", self.inventory.namespace())
    }
}

#[cfg(test)]
mod tests;
