//! A directory of evidence on this node, for nodes that reach no registry. It is read anew for each question, so that what
//! is put there counts at once.
//!
//! | in it | is |
//! |---|---|
//! | `sha256-<hex>.sigstore.json`, `sha256-<hex>.<anything>.sigstore.json` | a sigstore bundle about that digest |
//! | `index.json` and `blobs` | the directory is an OCI layout itself |
//! | a directory with an `index.json` | an OCI layout; called `sha256-<hex>`, about that digest alone |
//!
//! Nothing in it is believed. That nobody else may write to it, and that no link leads out of it, keeps others from
//! hiding evidence, and from letting the daemon read their files.

use std::{path::PathBuf, sync::Arc};

use tokio::sync::Semaphore;

use super::{
    Asked, Cause, Formats, Layout, Material, Stream,
    layout::{INDEX, OpenLayout, cause, on_disk},
    listed::{Room, Wanted},
    stream::Out,
};
use crate::{
    files::{Directory, Named, Unread, Writer},
    image::{Digest, sanitize},
    limits,
};

const BUNDLE: &str = ".sigstore.json";
/// Characters of a file's name that a person is shown.
const NAME_CHARS: usize = 160;

/// The evidence for `digest` in the directory `path`, in the forms of `formats`, as it comes in. Must be called within a
/// tokio runtime.
pub(super) fn evidence(path: PathBuf, digest: Digest, formats: Formats, turns: Arc<Semaphore>) -> Stream {
    let shown = path.display().to_string();
    on_disk(Asked::new(&shown, Layout::Directory), turns, async move |out| {
        let wanted = Wanted { digest, formats };
        match Directory::open(&path, Writer::Trusted) {
            Ok(directory) => Reading { wanted, room: Room::default(), out, shown }.read(directory).await,
            Err(why) => out.gap(shown, cause(why)).await,
        }
    })
}

struct Reading {
    wanted: Wanted,
    room: Room,
    out: Out,
    shown: String,
}

impl Reading {
    async fn read(mut self, directory: Directory) {
        let names = match directory.names(limits::DIRECTORY_NAMES) {
            Ok((names, true)) => names,
            Ok((names, false)) => {
                let more = format!("there are more than {} names in it", limits::DIRECTORY_NAMES);
                self.out.gap(self.shown.clone(), Cause::TooLarge(more)).await;
                names
            }
            Err(why) => return self.out.gap(self.shown.clone(), cause(why)).await,
        };
        let about = format!("sha256-{}", self.wanted.digest.hex());
        if self.wanted.formats.bundle {
            for Named { name, .. } in names.iter().filter(|named| is_bundle_about(&named.name, &about)) {
                self.bundle(&directory, name).await;
            }
        }
        let of_another = |name: &str| name.starts_with("sha256-") && name != about;
        for Named { name, .. } in names.iter().filter(|named| named.may_be_directory && !of_another(&named.name)) {
            if self.out.is_over() {
                return;
            }
            self.below(&directory, name).await;
        }
        if names.iter().any(|named| named.name == INDEX) {
            self.layout(directory, self.shown.clone()).await;
        }
    }

    async fn bundle(&mut self, directory: &Directory, name: &str) {
        let place = self.place_of(name);
        if !self.room.counts() {
            let more = format!("there are more than {} bundles", limits::EVIDENCE_ITEMS);
            return self.out.gap(place, Cause::TooLarge(more)).await;
        }
        let read = directory.read(name, limits::EVIDENCE_BYTES).map_err(cause);
        match read.and_then(|bytes| self.room.take(bytes.len() as u64).map(|()| bytes)) {
            Ok(bytes) => self.out.found(Material::Bundle(bytes), place).await,
            Err(cause) => self.out.gap(place, cause).await,
        }
    }

    /// Reads the directory `name`, if it is a layout.
    async fn below(&mut self, directory: &Directory, name: &str) {
        let place = self.place_of(name);
        match directory.directory(name) {
            Ok(below) if below.has(INDEX) => self.layout(below, place).await,
            Ok(_) | Err(Unread::Absent) => {}
            Err(why) => self.out.gap(place, cause(why)).await,
        }
    }

    async fn layout(&mut self, directory: Directory, shown: String) {
        match OpenLayout::of(directory, shown.clone()) {
            Ok(layout) => layout.evidence(self.wanted, &mut self.room, &self.out).await,
            Err(cause) => self.out.gap(shown, cause).await,
        }
    }

    fn place_of(&self, name: &str) -> String {
        format!("{}/{}", self.shown, sanitize(name, NAME_CHARS))
    }
}

/// Whether a file of this name is a bundle `about` a digest.
fn is_bundle_about(name: &str, about: &str) -> bool {
    let rest = name.strip_prefix(about).and_then(|rest| rest.strip_suffix(BUNDLE));
    rest.is_some_and(|between| between.is_empty() || between.starts_with('.'))
}
