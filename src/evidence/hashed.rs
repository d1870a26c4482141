//! Files of containerd's content store whose bytes were hashed here, each once.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::Arc,
};

use moka::future::Cache;
use sha2::{Digest as _, Sha256};
use tokio::{sync::Semaphore, task::spawn_blocking};

use crate::{image::Digest, limits};

/// Files whose hash is remembered.
const FILES: u64 = 4096;
/// Bytes that are read at a time.
const PIECE: usize = 256 << 10;

/// The files that have the digest that they are stored under.
pub(super) struct Hashed {
    good: Cache<(Digest, Identity), ()>,
    turns: Arc<Semaphore>,
}

/// Which file it is. The store replaces files, it never writes to one that is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

/// Why a file does not count.
#[derive(Clone, Debug)]
pub(super) enum Bad {
    /// There is no such plain file.
    Absent,
    /// Its bytes have another digest.
    OtherBytes,
    /// It cannot be read.
    Unreadable(String),
}

impl Default for Hashed {
    fn default() -> Self {
        Self { good: Cache::new(FILES), turns: Arc::new(Semaphore::new(limits::PARALLEL_HASHES)) }
    }
}

impl Hashed {
    /// Whether the bytes of the file at `path` have `digest`. Who asks for the same file meanwhile waits for the one hash.
    pub(super) async fn check(&self, path: PathBuf, digest: Digest) -> Result<(), Bad> {
        let unreadable = |why: String| Bad::Unreadable(why);
        let opened = spawn_blocking(move || open(&path)).await.map_err(|error| unreadable(error.to_string()))?;
        let (file, identity) = opened.ok_or(Bad::Absent)?;
        let hashing = async {
            // Never closed.
            let turn = self.turns.clone().acquire_owned().await;
            let hashed = spawn_blocking(move || {
                let _turn = turn;
                hash(file)
            });
            match hashed.await.map_err(io::Error::other).flatten() {
                Ok(actual) if actual == digest => Ok(()),
                Ok(_) => Err(Bad::OtherBytes),
                Err(error) => Err(Bad::Unreadable(error.to_string())),
            }
        };
        self.good.try_get_with((digest, identity), hashing).await.map_err(|bad| (*bad).clone())
    }
}

fn open(path: &std::path::Path) -> Option<(File, Identity)> {
    let file = File::open(path).ok()?;
    let meta = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    let modified = (meta.mtime(), meta.mtime_nsec());
    Some((file, Identity { device: meta.dev(), inode: meta.ino(), size: meta.len(), modified }))
}

fn hash(mut file: File) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; PIECE];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Digest::from_bytes(hasher.finalize().into())),
            n => hasher.update(&buffer[..n]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_bytes_of_the_digest_are_good_and_each_file_is_looked_at_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("layer");
        let (hashed, digest) = (Hashed::default(), Digest::of(b"layer"));
        assert!(matches!(hashed.check(path.clone(), digest).await, Err(Bad::Absent)));
        assert!(matches!(hashed.check(folder.path().to_owned(), digest).await, Err(Bad::Absent)));
        std::fs::write(&path, "other").unwrap();
        for _ in 0..2 {
            assert!(matches!(hashed.check(path.clone(), digest).await, Err(Bad::OtherBytes)));
        }
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "layer").unwrap();
        for _ in 0..2 {
            assert!(hashed.check(path.clone(), digest).await.is_ok());
        }
        // The same name, another file.
        let fresh = folder.path().join("fresh");
        std::fs::write(&fresh, "wrong").unwrap();
        std::fs::rename(&fresh, &path).unwrap();
        assert!(matches!(hashed.check(path, digest).await, Err(Bad::OtherBytes)));
    }

    #[tokio::test]
    async fn a_hash_that_nobody_waits_for_any_more_is_none_that_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("layer");
        std::fs::write(&path, vec![7; 8 << 20]).unwrap();
        let (hashed, digest) = (Hashed::default(), Digest::of(b"not these bytes"));
        let (first, second) = tokio::join!(
            tokio::time::timeout(std::time::Duration::ZERO, hashed.check(path.clone(), digest)),
            hashed.check(path.clone(), digest)
        );
        assert!(first.is_err() || first.is_ok_and(|checked| checked.is_err()));
        assert!(matches!(second, Err(Bad::OtherBytes)));
    }

    #[tokio::test(start_paused = true)]
    async fn files_are_hashed_a_few_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("layer");
        std::fs::write(&path, "layer").unwrap();
        let (hashed, digest) = (Hashed::default(), Digest::of(b"layer"));
        let mut others = Vec::new();
        while let Ok(turn) = hashed.turns.clone().try_acquire_owned() {
            others.push(turn);
        }
        assert_eq!(others.len(), limits::PARALLEL_HASHES);
        let hashing = hashed.check(path, digest);
        tokio::pin!(hashing);
        let waited = tokio::time::timeout(std::time::Duration::from_secs(3600), &mut hashing).await;
        assert!(waited.is_err(), "all turns are taken");
        others.pop();
        assert!(hashing.await.is_ok());
    }
}
