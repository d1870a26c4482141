//! A directory that is read through its descriptor: nothing below it leads elsewhere, whatever is renamed meanwhile.

use std::{
    fs::File,
    io::Read,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use nix::{
    dir::{Dir, Type},
    errno::Errno,
    fcntl::{AtFlags, OFlag, openat},
    sys::stat::{Mode, SFlag, fstatat},
};

use super::belongs;

/// Who may have written what is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writer {
    /// Nobody but root, or whoever runs pullgate.
    Trusted,
    /// Anybody: a person who runs a command names it.
    Anybody,
}

/// An open directory.
pub(crate) struct Directory {
    file: File,
    writer: Writer,
}

/// Why something in a directory cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unread {
    /// It is not there.
    Absent,
    /// It is larger than it may be.
    TooLarge(u64),
    /// What is wrong with it, and what to do.
    Bad(String),
}

impl std::fmt::Display for Unread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Absent => f.write_str("it is not there"),
            Self::TooLarge(limit) => write!(f, "it is larger than {limit} bytes"),
            Self::Bad(why) => f.write_str(why),
        }
    }
}

/// Something in a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Named {
    /// What it is called.
    pub(crate) name: String,
    /// Whether it may be a directory: it is one, or a symbolic link.
    pub(crate) may_be_directory: bool,
}

impl Directory {
    /// The directory at `path`, which alone may be reached through symbolic links.
    ///
    /// # Errors
    /// When it is not there, is no directory, or somebody else than `writer` may write to it.
    pub(crate) fn open(path: &Path, writer: Writer) -> Result<Self, Unread> {
        let opened = nix::fcntl::open(path, OFlag::O_DIRECTORY | flags(), Mode::empty());
        Self::of(opened.map_err(unread)?, writer)
    }

    /// The directory `name` in this one.
    ///
    /// # Errors
    /// As [`Self::open`], and when it is a symbolic link.
    pub(crate) fn directory(&self, name: &str) -> Result<Self, Unread> {
        Self::of(self.at(name, OFlag::O_DIRECTORY)?, self.writer)
    }

    /// The bytes of the file `name` in this directory, at most `limit`.
    ///
    /// # Errors
    /// When it is not there, is larger, no plain file, a symbolic link, or somebody else may write to it.
    pub(crate) fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, Unread> {
        let file = File::from(self.at(name, OFlag::empty())?);
        let bad = |error: std::io::Error| Unread::Bad(error.to_string());
        let meta = file.metadata().map_err(bad)?;
        if !meta.is_file() {
            return Err(Unread::Bad("not a plain file".to_owned()));
        }
        self.belongs(&meta)?;
        if meta.len() > limit {
            return Err(Unread::TooLarge(limit));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(meta.len()).unwrap_or_default());
        file.take(limit + 1).read_to_end(&mut bytes).map_err(bad)?;
        if bytes.len() as u64 > limit {
            return Err(Unread::TooLarge(limit));
        }
        Ok(bytes)
    }

    /// What is in this directory, in the order of the names, and whether that is all: at most `limit`. Names that are not
    /// UTF-8 are nobody's here.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn names(&self, limit: usize) -> Result<(Vec<Named>, bool), Unread> {
        let mut directory = Dir::from_fd(self.at(".", OFlag::O_DIRECTORY)?).map_err(unread)?;
        let mut names = Vec::new();
        for entry in directory.iter() {
            let entry = entry.map_err(unread)?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if matches!(name, "." | "..") {
                continue;
            }
            if names.len() == limit {
                return Ok((names, false));
            }
            let may_be_directory = match entry.file_type() {
                Some(kind) => matches!(kind, Type::Directory | Type::Symlink),
                // Not every file system tells.
                None => fstatat(self.file.as_fd(), name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok_and(|stat| {
                    let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
                    kind == SFlag::S_IFDIR || kind == SFlag::S_IFLNK
                }),
            };
            names.push(Named { name: name.to_owned(), may_be_directory });
        }
        names.sort_unstable();
        Ok((names, true))
    }

    /// Whether something in this directory is called `name`.
    pub(crate) fn has(&self, name: &str) -> bool {
        !matches!(self.at(name, OFlag::O_PATH), Err(Unread::Absent))
    }

    fn of(opened: OwnedFd, writer: Writer) -> Result<Self, Unread> {
        let directory = Self { file: File::from(opened), writer };
        let meta = directory.file.metadata().map_err(|error| Unread::Bad(error.to_string()))?;
        directory.belongs(&meta)?;
        Ok(directory)
    }

    fn belongs(&self, meta: &std::fs::Metadata) -> Result<(), Unread> {
        match self.writer {
            Writer::Trusted => belongs(meta).map_err(Unread::Bad),
            Writer::Anybody => Ok(()),
        }
    }

    /// Opens what is called `name` right here.
    fn at(&self, name: &str, kind: OFlag) -> Result<OwnedFd, Unread> {
        if name.contains('/') || name == ".." {
            return Err(Unread::Bad("not the name of a file".to_owned()));
        }
        // A FIFO would block whoever opens it.
        openat(self.file.as_fd(), name, kind | flags() | OFlag::O_NOFOLLOW, Mode::empty()).map_err(unread)
    }
}

fn flags() -> OFlag {
    OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK
}

fn unread(error: Errno) -> Unread {
    match error {
        Errno::ENOENT => Unread::Absent,
        Errno::ELOOP => Unread::Bad("a symbolic link, which is not followed".to_owned()),
        Errno::ENOTDIR => Unread::Bad("not a directory, or a symbolic link, which is not followed".to_owned()),
        error => Unread::Bad(error.desc().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt, symlink},
    };

    use super::*;

    fn open(path: &Path) -> Result<Directory, Unread> {
        Directory::open(path, Writer::Trusted)
    }

    fn bad(result: Result<impl Sized, Unread>) -> String {
        match result.err().unwrap() {
            Unread::Bad(why) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_file_is_read_to_its_bound_and_only_a_plain_one_that_nobody_else_can_write() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "text").unwrap();
        let directory = open(folder.path()).unwrap();
        assert_eq!(directory.read("file", 4), Ok(b"text".to_vec()));
        assert_eq!(directory.read("file", 3), Err(Unread::TooLarge(3)));
        assert_eq!(directory.read("other", 4), Err(Unread::Absent));
        for name in ["../file", "..", "a/b", "/etc/passwd"] {
            assert!(bad(directory.read(name, 1 << 20)).contains("not the name"), "{name}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(bad(directory.read("file", 4)).contains("chmod go-w"));
        assert!(Directory::open(folder.path(), Writer::Anybody).unwrap().read("file", 4).is_ok());
        nix::unistd::mkfifo(&folder.path().join("fifo"), Mode::S_IRWXU).unwrap();
        assert_eq!(bad(directory.read("fifo", 4)), "not a plain file");
        fs::create_dir(folder.path().join("folder")).unwrap();
        assert_eq!(bad(directory.read("folder", 4)), "not a plain file");
    }

    #[test]
    fn no_symbolic_link_is_followed_below_the_directory_that_was_named() {
        let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(elsewhere.path().join("file"), "text").unwrap();
        symlink(elsewhere.path().join("file"), folder.path().join("file")).unwrap();
        symlink(elsewhere.path(), folder.path().join("folder")).unwrap();
        let directory = open(folder.path()).unwrap();
        assert!(bad(directory.read("file", 4)).contains("symbolic link"));
        assert!(bad(directory.directory("folder")).contains("symbolic link"));
        let named = |name: &str| Named { name: name.to_owned(), may_be_directory: true };
        assert_eq!(directory.names(2), Ok((vec![named("file"), named("folder")], true)));
        assert_eq!(directory.names(1).map(|(names, all)| (names.len(), all)), Ok((1, false)));
        assert!(open(&folder.path().join("folder")).unwrap().read("file", 4).is_ok(), "the administrator named it");
    }

    #[test]
    fn a_directory_that_others_write_to_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("below");
        fs::create_dir(&below).unwrap();
        for mode in [0o775, 0o757, 0o777] {
            fs::set_permissions(&below, fs::Permissions::from_mode(mode)).unwrap();
            assert!(bad(open(&below)).contains("chmod go-w"), "{mode:o}");
            assert!(bad(open(folder.path()).unwrap().directory("below")).contains("chmod go-w"), "{mode:o}");
        }
        assert_eq!(open(&folder.path().join("missing")).err(), Some(Unread::Absent));
        fs::write(folder.path().join("file"), "text").unwrap();
        assert!(bad(open(&folder.path().join("file"))).contains("not a directory"));
    }
}
