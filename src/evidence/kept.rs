//! Evidence kept on this node: what admitted an image once admits it again without any registry, after a restart and
//! under another policy that it satisfies.
//!
//! One file for each image, which may be deleted at any time. Nothing in it is believed but when a
//! signature was first seen, which only root can have written: signatures are verified anew and indexes hashed anew each
//! time, so that who writes here gains nothing else over who writes to a registry. Files are
//! written behind the answers, by a thread of their own; the least recently used go first.

use std::{
    collections::HashMap,
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::SystemTime,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Found, content::Name};
use crate::{files, image::Digest, limits};

/// The form of the files. Files of another form lie in another directory and are left alone.
const DIRECTORY: &str = "evidence-2";
const EXTENSION: &str = "json";

/// The evidence on disk. Cheap to clone.
#[derive(Clone, Default)]
pub struct Kept(Option<Arc<Inner>>);

struct Inner {
    directory: PathBuf,
    /// None for who only reads.
    orders: Option<mpsc::SyncSender<Order>>,
    lost: Arc<AtomicU64>,
}

/// What is to be added to the file of an image.
struct Order {
    image: Digest,
    evidence: Vec<Piece>,
    indexes: Vec<Index>,
}

/// What is kept about one image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct About {
    evidence: Vec<Piece>,
    indexes: Vec<Index>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Piece {
    first_seen: Timestamp,
    found: Found,
}

/// An index that admitted a manifest it lists. containerd forgets it as soon as its tag moves on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Index {
    /// Its bytes. They are hashed by whoever uses them.
    #[serde(with = "super::base64_bytes")]
    pub bytes: Vec<u8>,
    /// Its names.
    pub names: Vec<Name>,
}

impl Kept {
    /// The evidence in the directory `state`. Where it cannot be made nothing is kept, which is said once.
    pub fn open(state: &Path) -> Self {
        let directory = state.join(DIRECTORY);
        if let Err(error) = files::private_directory(&directory) {
            tracing::error!("{} cannot be made, no evidence is kept: {error}", directory.display());
            return Self::default();
        }
        let (orders, receiver) = mpsc::sync_channel(limits::KEPT_WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        let writer = Writer { directory: directory.clone(), lost: lost.clone(), files: HashMap::new(), bytes: 0 };
        let spawned = thread::Builder::new().name("kept-evidence".to_owned()).spawn(move || writer.run(&receiver));
        if let Err(error) = spawned {
            tracing::error!("no thread for it, no evidence is kept: {error}");
            return Self::default();
        }
        Self(Some(Arc::new(Inner { directory, orders: Some(orders), lost })))
    }

    /// The evidence that the daemon keeps in the directory `state`, to be read only.
    pub fn of_daemon(state: &Path) -> Self {
        Self(Some(Arc::new(Inner { directory: state.join(DIRECTORY), orders: None, lost: Arc::default() })))
    }

    /// The evidence that was kept about `image`, with the time at which each piece first vouched for it.
    pub async fn evidence(&self, image: &Digest) -> Vec<(Timestamp, Found)> {
        self.about(image).await.evidence.into_iter().map(|piece| (piece.first_seen, piece.found)).collect()
    }

    /// The indexes that admitted `manifest` before.
    pub async fn indexes(&self, manifest: &Digest) -> Vec<Index> {
        self.about(manifest).await.indexes
    }

    /// Keeps what admitted `image` at `now`.
    pub fn keep(&self, image: Digest, evidence: Vec<Found>, now: Timestamp) {
        let evidence = evidence.into_iter().map(|found| Piece { first_seen: now, found }).collect();
        self.order(Order { image, evidence, indexes: Vec::new() });
    }

    /// Keeps the index that admitted `manifest`.
    pub fn keep_index(&self, manifest: Digest, index: Index) {
        self.order(Order { image: manifest, evidence: Vec::new(), indexes: vec![index] });
    }

    /// How often something could not be kept.
    pub fn lost(&self) -> u64 {
        self.0.as_ref().map_or(0, |inner| inner.lost.load(Ordering::Relaxed))
    }

    fn order(&self, order: Order) {
        let Some(inner) = &self.0 else { return };
        let Some(orders) = &inner.orders else { return };
        if orders.try_send(order).is_err() {
            inner.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn about(&self, image: &Digest) -> About {
        let Some(inner) = &self.0 else { return About::default() };
        let path = path(&inner.directory, image);
        tokio::task::spawn_blocking(move || read(&path)).await.unwrap_or_default()
    }
}

fn path(directory: &Path, image: &Digest) -> PathBuf {
    directory.join(image.hex()).with_extension(EXTENSION)
}

/// What a file says. One that cannot be read says nothing: the registry will be asked, and the file written anew.
fn read(path: &Path) -> About {
    // Most images are asked about for the first time.
    if !path.exists() {
        return About::default();
    }
    let about = files::read_trusted(path, 2 * limits::KEPT_IMAGE_BYTES)
        .and_then(|text| serde_json::from_str(&text).map_err(|error| error.to_string()));
    about.unwrap_or_else(|why| {
        tracing::warn!("{} is not used: {why}", path.display());
        About::default()
    })
}

/// Adds to the files, one order after the other, and keeps the directory within its bounds.
struct Writer {
    directory: PathBuf,
    lost: Arc<AtomicU64>,
    files: HashMap<PathBuf, (SystemTime, u64)>,
    bytes: u64,
}

impl Writer {
    fn run(mut self, orders: &mpsc::Receiver<Order>) {
        for path in files::in_directory(&self.directory, EXTENSION) {
            self.note(path);
        }
        self.sweep(limits::KEPT_IMAGES, limits::KEPT_BYTES);
        while let Ok(order) = orders.recv() {
            self.add(order);
            self.sweep(limits::KEPT_IMAGES, limits::KEPT_BYTES);
        }
    }

    fn add(&mut self, order: Order) {
        let path = path(&self.directory, &order.image);
        let before = read(&path);
        let about = before.clone().with(order);
        let written = match about == before {
            true => File::open(&path).and_then(|file| file.set_modified(SystemTime::now())),
            false => serde_json::to_vec(&about).map_err(Into::into).and_then(|text| files::replace(&path, &text)),
        };
        if let Err(error) = written {
            self.lost.fetch_add(1, Ordering::Relaxed);
            tracing::warn!("{} cannot be written: {error}", path.display());
        }
        self.note(path);
    }

    fn note(&mut self, path: PathBuf) {
        let found = fs::metadata(&path).and_then(|meta| Ok((meta.modified()?, meta.len()))).ok();
        self.bytes += found.map_or(0, |(_, size)| size);
        let before = match found {
            Some(found) => self.files.insert(path, found),
            None => self.files.remove(&path),
        };
        self.bytes -= before.map_or(0, |(_, size)| size);
    }

    /// Beyond a bound a tenth is removed, so that this is rare.
    fn sweep(&mut self, images: usize, bytes: u64) {
        if self.files.len() <= images && self.bytes <= bytes {
            return;
        }
        let mut oldest: Vec<_> = self.files.iter().map(|(path, (used, _))| (*used, path.clone())).collect();
        oldest.sort_unstable();
        for (_, path) in oldest {
            if self.files.len() <= images / 10 * 9 && self.bytes <= bytes / 10 * 9 {
                return;
            }
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!("{} cannot be removed: {error}", path.display());
            }
            let size = self.files.remove(&path).map_or(0, |(_, size)| size);
            self.bytes -= size;
        }
    }
}

impl About {
    /// This with what `order` brings. Where there is no room for all, the oldest goes: a key may have been changed since.
    fn with(mut self, order: Order) -> Self {
        for piece in order.evidence {
            let known = self.evidence.iter().any(|kept| kept.found.material == piece.found.material);
            if !known && piece.found.bytes() <= limits::KEPT_IMAGE_BYTES {
                self.evidence.push(piece);
            }
        }
        for index in order.indexes {
            self.indexes.retain(|kept| kept.bytes != index.bytes || kept.names == index.names);
            if !self.indexes.contains(&index) && index.size() <= limits::KEPT_IMAGE_BYTES {
                self.indexes.push(index);
            }
        }
        while self.evidence.len() > limits::KEPT_PIECES {
            self.evidence.remove(0);
        }
        while self.indexes.len() > limits::KEPT_PIECES {
            self.indexes.remove(0);
        }
        // What an index admits needs the evidence about it, which is kept about the index.
        while self.bytes() > limits::KEPT_IMAGE_BYTES {
            if self.indexes.is_empty() || self.evidence.len() > 1 {
                self.evidence.remove(0);
            } else {
                self.indexes.remove(0);
            }
        }
        self
    }

    fn bytes(&self) -> u64 {
        let indexes = self.indexes.iter().map(Index::size);
        self.evidence.iter().map(|piece| piece.found.bytes()).chain(indexes).sum()
    }
}

impl Index {
    fn size(&self) -> u64 {
        let name = |name: &Name| match name {
            Name::Fetched(host, path) => host.len() + path.len(),
            Name::Claimed(repository) => repository.host.as_str().len() + repository.path.len(),
        };
        (self.bytes.len() + self.names.iter().map(name).sum::<usize>()) as u64
    }
}

#[cfg(test)]
mod tests;
