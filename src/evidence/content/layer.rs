//! The bytes of layers: hashed once, and never held.

use std::path::PathBuf;

use sha2::{Digest as _, Sha256};

use super::{ContentStore, Trouble};
use crate::{evidence::hashed::Bad, image::Digest};

impl ContentStore {
    /// Hashes the layer `digest` once, straight from the store's file where there is one.
    ///
    /// # Errors
    /// When its bytes are not those of its digest, or cannot be read.
    pub async fn rehash(&self, namespace: &str, digest: &Digest) -> Result<(), Trouble> {
        let in_file = match self.file(digest).await? {
            Some(path) => self.hashed.check(path, *digest).await,
            None => Err(Bad::Absent),
        };
        match in_file {
            Ok(()) => Ok(()),
            Err(Bad::OtherBytes) => Err(Trouble::WrongBytes(*digest)),
            Err(Bad::Unreadable(why)) => Err(Trouble::Unreachable(format!("content store: {why}"))),
            Err(Bad::Absent) => match self.hash_through_containerd(namespace, digest).await? == *digest {
                true => Ok(()),
                false => Err(Trouble::WrongBytes(*digest)),
            },
        }
    }

    /// Hashes the layer `digest` before it is asked about, if it is there already. Says nothing: [`Self::rehash`] does.
    pub async fn rehash_ahead(&self, digest: &Digest) {
        if let Ok(Some(path)) = self.file(digest).await {
            let _ = self.hashed.check(path, *digest).await;
        }
    }

    /// Where the store keeps a blob, if it says where it keeps its files.
    async fn file(&self, digest: &Digest) -> Result<Option<PathBuf>, Trouble> {
        let root = self.containerd.plugins().await?.content_root;
        Ok(root.map(|root| root.join("blobs/sha256").join(digest.hex())))
    }

    async fn hash_through_containerd(&self, namespace: &str, digest: &Digest) -> Result<Digest, Trouble> {
        let mut hasher = Sha256::new();
        let mut update = |piece: &[u8]| {
            hasher.update(piece);
            Ok(())
        };
        match self.containerd.stream(namespace, digest, &mut update).await? {
            true => Ok(Digest::from_bytes(hasher.finalize().into())),
            false => Err(Trouble::Missing(*digest)),
        }
    }
}
