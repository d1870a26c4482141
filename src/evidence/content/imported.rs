//! Evidence that an archive brought along with its image: containerd has it under the names of records, in the index of
//! the archive, or as referrers, for as long as something keeps it from being collected.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tonic::{Code, Status};

use super::{CHILD, ContentStore, positions};
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
            if let Err(status) = store.in_all_namespaces(Wanted { digest, formats }, &out).await {
                out.gap(SHOWN.to_owned(), unreachable(&status)).await;
            }
        })
    }

    /// An archive is imported into any namespace, and what was signed is the same in all.
    async fn in_all_namespaces(&self, wanted: Wanted, out: &Out) -> Result<(), Status> {
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
            let namespace = Namespace { store: self, name };
            // What is called after the image is found at once, and mostly is all there is.
            let called = namespace.called(&wanted.digest).await?;
            listed::search(&namespace, called, true, wanted, &mut room, out).await;
            if !out.is_over() {
                let listed = namespace.listed(wanted, out).await?;
                listed::search(&namespace, listed, false, wanted, &mut room, out).await;
            }
        }
        Ok(())
    }
}

struct Namespace<'a> {
    store: &'a ContentStore,
    name: &'a str,
}

impl Namespace<'_> {
    /// What records call after `digest`: `repository:sha256-<hex>.sig`, and so on.
    async fn called(&self, digest: &Digest) -> Result<Vec<Entry>, Status> {
        let pattern = format!("sha256-{}([.](sig|att))?$", digest.hex());
        let records = self.store.containerd.images_named(self.name, &pattern).await?;
        let entry = |image: containerd_client::services::v1::Image| {
            let target = image.target?;
            let size = u64::try_from(target.size).ok()?;
            Some(Entry::named(target.media_type, &target.digest.parse().ok()?, size, image.name))
        };
        Ok(records.into_iter().filter_map(entry).take(limits::LAYOUT_DOCUMENTS).collect())
    }

    /// What stands beside the image in the indexes that list it, and what containerd noted as its referrers.
    async fn listed(&self, wanted: Wanted, out: &Out) -> Result<Vec<Entry>, Status> {
        let (containerd, digest) = (&self.store.containerd, wanted.digest);
        let mut entries = Vec::new();
        for blob in containerd.blobs(self.name, vec![format!("digest=={digest}")], 1).await? {
            let referrer = format!("{CHILD}.referrer.");
            let noted = blob.labels.iter().filter(|(label, _)| label.starts_with(&referrer));
            let noted = noted.filter_map(|(_, digest)| digest.parse().ok());
            // A label says no more than the digest.
            let entry =
                |digest| Entry::named(media_type::MANIFEST.into(), &digest, limits::MANIFEST_BYTES, String::new());
            entries.extend(noted.map(entry));
        }
        let above = [positions("m.", &digest), positions("", &digest)].concat();
        for index in containerd.blobs(self.name, above, limits::PARENT_INDEXES).await? {
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
        Ok(entries)
    }
}

impl Blobs for Namespace<'_> {
    async fn read(&self, digest: &Digest, limit: u64) -> Result<Option<Vec<u8>>, Cause> {
        match self.store.containerd.read(self.name, digest, limit).await {
            Ok(Some(bytes)) if Digest::of(&bytes) != *digest => {
                Err(Cause::Misbehaved("its bytes do not have the digest that they are stored under".to_owned()))
            }
            Ok(bytes) => Ok(bytes),
            Err(status) if status.code() == Code::OutOfRange => {
                Err(Cause::TooLarge(format!("it is larger than {limit} bytes")))
            }
            Err(status) => Err(unreachable(&status)),
        }
    }

    fn place_of(&self, digest: &Digest) -> String {
        format!("{SHOWN}, {}@{digest}", self.name)
    }
}

fn unreachable(status: &Status) -> Cause {
    Cause::Unreachable(format!("containerd: {}", status.message()))
}

#[cfg(test)]
mod tests;
