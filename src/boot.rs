//! The boot list: digests that are admitted whatever else is broken, so that a node always boots.
//!
//! `/etc/pullgate/boot.d/*.list` hold one digest a line; `#` begins a comment. The list is read apart from
//! configuration and policy, and a line that is no digest costs only itself.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
};

use serde::Serialize;

use crate::{
    files,
    image::{Digest, sanitize},
    limits,
};

/// The file that pullgate itself adds to.
const OWN_FILE: &str = "node.list";

/// The digests that are admitted whatever else is broken, and where each was first listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BootList {
    entries: BTreeMap<Digest, Origin>,
    /// What could not be read: file, line, and why.
    pub problems: Vec<String>,
}

/// The line that lists a digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// The comment beside it, harmless to show.
    pub comment: String,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// A digest to be listed, and what to say beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// The digest of a manifest or of an index.
    pub digest: Digest,
    /// Which image it is, and why it is listed.
    pub comment: String,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A comment that could end its line would list what it likes.
        write!(f, "{}  # {}", self.digest, sanitize(&self.comment, limits::REFERENCE_CHARS))
    }
}

impl BootList {
    /// What the files in `directory` list. A missing directory is an empty list.
    pub fn read(directory: &Path) -> Self {
        let mut list = Self::default();
        for path in files_of(directory) {
            match files::read_trusted(&path, limits::BOOT_FILE_BYTES) {
                Ok(text) => list.parse(&path, &text),
                Err(why) => list.problems.push(format!("{}: {why}", path.display())),
            }
        }
        list
    }

    fn parse(&mut self, file: &Path, text: &str) {
        for (i, line) in text.lines().enumerate() {
            let (entry, comment) = line.split_once('#').unwrap_or((line, ""));
            let entry = entry.trim();
            if entry.is_empty() {
                continue;
            }
            let comment = sanitize(comment.trim(), limits::REFERENCE_CHARS);
            let origin = Origin { file: file.to_owned(), line: i + 1, comment };
            match entry.parse() {
                Ok(digest) if self.entries.contains_key(&digest) => {}
                Ok(digest) if self.entries.len() < limits::BOOT_DIGESTS => {
                    self.entries.insert(digest, origin);
                }
                Ok(_) => {
                    self.problems.push(format!("{origin}: more than {} digests", limits::BOOT_DIGESTS));
                    return;
                }
                Err(why) => self.problems.push(format!("{origin}: {why}")),
            }
        }
    }

    /// Whether `digest` is listed.
    pub fn contains(&self, digest: &Digest) -> bool {
        self.entries.contains_key(digest)
    }

    /// How many digests are listed.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is listed.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Every digest and the line that lists it.
    pub fn entries(&self) -> impl Iterator<Item = (&Digest, &Origin)> {
        self.entries.iter()
    }

    /// How many digests each file lists that no file before it does.
    pub fn by_file(&self) -> BTreeMap<&Path, usize> {
        let mut files = BTreeMap::new();
        for origin in self.entries.values() {
            *files.entry(origin.file.as_path()).or_default() += 1;
        }
        files
    }

    /// Those of `entries` that are not listed yet, each once.
    pub fn missing(&self, entries: &[Entry]) -> Vec<Entry> {
        let mut missing: Vec<Entry> = Vec::new();
        for entry in entries.iter().filter(|entry| !self.contains(&entry.digest)) {
            if missing.iter().all(|other| other.digest != entry.digest) {
                missing.push(entry.clone());
            }
        }
        missing
    }
}

impl<const N: usize> From<[Digest; N]> for BootList {
    /// A list that no file holds.
    fn from(digests: [Digest; N]) -> Self {
        let nowhere = Origin { file: PathBuf::new(), line: 0, comment: String::new() };
        Self { entries: digests.map(|digest| (digest, nowhere.clone())).into(), problems: Vec::new() }
    }
}

/// The files of the list in `directory`, in the order in which they are read.
pub fn files_of(directory: &Path) -> Vec<PathBuf> {
    files::in_directory(directory, "list")
}

/// Adds those of `entries` that no file in `directory` lists to the file there that is pullgate's own, and returns them.
/// What is listed stays as it is written.
///
/// # Errors
/// When the file cannot be read or written, or would be larger than is read: nothing was written then.
pub fn add(directory: &Path, entries: &[Entry]) -> io::Result<Vec<Entry>> {
    let list = BootList::read(directory);
    let missing = list.missing(entries);
    if missing.is_empty() {
        return Ok(missing);
    }
    let path = directory.join(OWN_FILE);
    let refuse = |why: String| io::Error::other(format!("{}: {why}", path.display()));
    let before = match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => BEGINNING.to_owned(),
        // Replacing what cannot be read would lose what it lists.
        _ => files::read_trusted(&path, limits::BOOT_FILE_BYTES).map_err(refuse)?,
    };
    let text = with(&before, &missing);
    if text.len() as u64 > limits::BOOT_FILE_BYTES || list.len() + missing.len() > limits::BOOT_DIGESTS {
        let (bytes, digests) = (limits::BOOT_FILE_BYTES, limits::BOOT_DIGESTS);
        return Err(refuse(format!("it would be larger than {bytes} bytes, or the list than {digests} digests")));
    }
    fs::create_dir_all(directory)?;
    files::replace(&path, text.as_bytes())?;
    Ok(missing)
}

const BEGINNING: &str =
    "# What this node ran when `pullgate enable` or `pullgate boot-list --write` looked. Lines may be removed.\n";

/// `text` with a line more for each of `entries`.
fn with(text: &str, entries: &[Entry]) -> String {
    let mut text = text.to_owned();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    for entry in entries {
        text += &format!("{entry}\n");
    }
    text
}

#[cfg(test)]
mod tests;
