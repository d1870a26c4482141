//! An OCI layout on this node's disk (OCI image specification, image-layout.md): an image, its evidence, or both.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::{runtime::Handle, sync::Semaphore, task::spawn_blocking};

use super::{
    Asked, Cause, Formats, Gap, Layout, Stream,
    artifact::{self, Entry},
    listed::{self, Blobs, Room, Wanted},
    stream::Out,
};
use crate::{
    files::{Directory, Unread, Writer},
    image::{Digest, media_type},
    limits,
};

/// The index that is the root of a layout.
pub(super) const INDEX: &str = "index.json";

/// An OCI layout that a person named, whoever wrote it. Read anew for each question.
#[derive(Clone, Debug)]
pub struct OciLayout(PathBuf);

impl OciLayout {
    /// The layout at `path`. Nothing is read yet.
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The manifest or index that is called `tag`; none if nothing is.
    ///
    /// # Errors
    /// A gap when it is no layout that can be read, or several are called so.
    pub async fn resolve(&self, tag: &str) -> Result<Option<Digest>, Gap> {
        let wanted = tag.to_owned();
        let resolve = move |layout: &OpenLayout| {
            let entries = layout.entries()?;
            let called = entries.iter().filter(|entry| entry.tags().any(|tag| tag == wanted));
            let mut found = None;
            for entry in called {
                let digest = entry.digest().ok_or_else(artifact::not_sha256)?;
                if found.replace(digest).is_some_and(|other| other != digest) {
                    return Err(Cause::Misbehaved("it calls several images so".to_owned()));
                }
            }
            Ok(found)
        };
        self.ask(format!("{}:{tag}", self.0.display()), resolve).await
    }

    /// The manifest or index with `digest`, its bytes hashed; none if it is not there.
    ///
    /// # Errors
    /// A gap when it cannot be read.
    pub async fn document(&self, digest: &Digest) -> Result<Option<Vec<u8>>, Gap> {
        let wanted = *digest;
        let place = format!("{}@{digest}", self.0.display());
        self.ask(place, move |layout| layout.blob(&wanted, limits::MANIFEST_BYTES)).await
    }

    async fn ask<T: Send + 'static>(
        &self,
        place: String,
        question: impl FnOnce(&OpenLayout) -> Result<T, Cause> + Send + 'static,
    ) -> Result<T, Gap> {
        let path = self.0.clone();
        let asked = spawn_blocking(move || {
            let directory = Directory::open(&path, Writer::Anybody).map_err(cause)?;
            question(&OpenLayout::of(directory, path.display().to_string())?)
        });
        let answer = asked.await.unwrap_or_else(|error| Err(Cause::Unreachable(error.to_string())));
        answer.map_err(|cause| Gap { place, cause: cause.on_node() })
    }

    /// The evidence in it for `digest`, in the forms of `formats`, as it comes in. Must be called within a tokio runtime.
    pub(super) fn evidence(&self, digest: Digest, formats: Formats, turns: Arc<Semaphore>) -> Stream {
        let path = self.0.clone();
        let shown = path.display().to_string();
        on_disk(Asked::new(&shown, Layout::OciLayout), turns, async move |out| {
            let wanted = Wanted { digest, formats };
            let opened = Directory::open(&path, Writer::Anybody).map_err(cause);
            match opened.and_then(|directory| OpenLayout::of(directory, shown.clone())) {
                Ok(layout) => layout.evidence(wanted, &mut Room::default(), &out).await,
                Err(cause) => out.gap(shown, cause).await,
            }
        })
    }
}

/// The answer of the disk, which `answer` reads on a thread of its own: one that hangs keeps it, and its turn.
pub(super) fn on_disk<F>(asked: Asked, turns: Arc<Semaphore>, answer: F) -> Stream
where
    F: AsyncFnOnce(Out) + Send + 'static,
{
    let place = asked.repository.clone();
    Stream::of(asked, async move |out| {
        // Never closed.
        let turn = turns.acquire_owned().await;
        let (handle, to) = (Handle::current(), out.clone());
        let reading = spawn_blocking(move || {
            handle.block_on(answer(to));
            drop(turn);
        });
        if let Err(error) = reading.await {
            out.gap(place, Cause::Unreachable(format!("the search broke off: {error}"))).await;
        }
    })
}

/// A layout whose directories are open.
pub(super) struct OpenLayout {
    directory: Directory,
    blobs: Directory,
    shown: String,
}

impl OpenLayout {
    /// The layout in `directory`, which is `shown` to a person so.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn of(directory: Directory, shown: String) -> Result<Self, Cause> {
        let blobs = directory.directory("blobs").and_then(|blobs| blobs.directory("sha256"));
        let blobs = blobs.map_err(|why| within("blobs/sha256", why))?;
        Ok(Self { directory, blobs, shown })
    }

    /// Hands to `out` what is there.
    pub(super) async fn evidence(&self, wanted: Wanted, room: &mut Room, out: &Out) {
        match self.entries() {
            Ok(entries) => listed::search(self, entries, true, wanted, room, out).await,
            Err(cause) => out.gap(self.shown.clone(), cause).await,
        }
    }

    fn entries(&self) -> Result<Vec<Entry>, Cause> {
        let bytes = self.directory.read(INDEX, limits::MANIFEST_BYTES).map_err(|why| within(INDEX, why))?;
        artifact::entries(&bytes, None, media_type::is_index)
    }

    fn blob(&self, digest: &Digest, limit: u64) -> Result<Option<Vec<u8>>, Cause> {
        match self.blobs.read(&digest.hex(), limit) {
            Ok(bytes) if Digest::of(&bytes) == *digest => Ok(Some(bytes)),
            Ok(_) => Err(Cause::Misbehaved("its bytes do not have the digest that they are stored under".to_owned())),
            Err(Unread::Absent) => Ok(None),
            Err(why) => Err(cause(why)),
        }
    }
}

impl Blobs for OpenLayout {
    async fn read(&self, digest: &Digest, limit: u64) -> Result<Option<Vec<u8>>, Cause> {
        self.blob(digest, limit)
    }

    fn place_of(&self, digest: &Digest) -> String {
        format!("{}@{digest}", self.shown)
    }
}

/// What it means for a decision that something cannot be read.
pub(super) fn cause(why: Unread) -> Cause {
    match why {
        Unread::TooLarge(_) => Cause::TooLarge(why.to_string()),
        Unread::Absent | Unread::Bad(_) => Cause::Unreadable(why.to_string()),
    }
}

fn within(name: &str, why: Unread) -> Cause {
    match cause(why) {
        Cause::TooLarge(why) => Cause::TooLarge(format!("{name}: {why}")),
        cause => Cause::Unreadable(format!("{name}: {cause}")),
    }
}
