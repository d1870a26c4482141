//! Files that decide: read only when nobody but root, or whoever runs pullgate, can write to them.

mod directory;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use nix::unistd::geteuid;

pub(crate) use self::directory::{Directory, Named, Unread, Writer};

/// The text of `path`, at most `limit` bytes.
///
/// # Errors
/// What is wrong with the file, and what to do: it is missing, too large, not UTF-8, not a plain file, or writable by
/// somebody who could then decide which images run.
pub(crate) fn read_trusted(path: &Path, limit: u64) -> Result<String, String> {
    let file = open_plain(path)?;
    belongs(&file.metadata().map_err(|error| error.to_string())?)?;
    text_of(file, limit)
}

/// Whether nobody but root, or whoever runs pullgate, can write to what `meta` tells of.
fn belongs(meta: &fs::Metadata) -> Result<(), String> {
    if meta.uid() != 0 && meta.uid() != geteuid().as_raw() {
        return Err(format!("it belongs to uid {}; run `chown root`", meta.uid()));
    }
    if meta.mode() & 0o022 != 0 {
        return Err("others can write to it; run `chmod go-w`".to_owned());
    }
    Ok(())
}

/// The text of `path`, at most `limit` bytes, whoever wrote it: for files that take no force on this node.
///
/// # Errors
/// What is wrong with the file.
pub(crate) fn read(path: &Path, limit: u64) -> Result<String, String> {
    text_of(open_plain(path)?, limit)
}

fn open_plain(path: &Path) -> Result<File, String> {
    let read = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => "the file is not there".to_owned(),
        _ => error.to_string(),
    };
    // A FIFO would block whoever opens it.
    let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path).map_err(read)?;
    match file.metadata().map_err(read)?.is_file() {
        true => Ok(file),
        false => Err("not a plain file".to_owned()),
    }
}

fn text_of(file: File, limit: u64) -> Result<String, String> {
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > limit {
        return Err(format!("larger than {limit} bytes"));
    }
    String::from_utf8(bytes).map_err(|_| "not UTF-8 text".to_owned())
}

/// The files in `directory` whose name ends in `.EXTENSION`, in the order of their names.
pub(crate) fn in_directory(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|found| found == extension));
    paths.sort();
    paths
}

/// Replaces `path` by `bytes` so that a reader, or a crash, finds the old content or the new and nothing between.
///
/// # Errors
/// When the disk is full or read-only; the old content is then untouched.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let written =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
    if let Err(error) = written.and_then(|()| fs::rename(&fresh, path)) {
        let _ = fs::remove_file(&fresh);
        return Err(error);
    }
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

/// Makes the directory `path` for this user alone, or leaves it as it is.
///
/// # Errors
/// When it cannot be made, or is something else.
pub(crate) fn private_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Puts `path` out of the way, for whoever wants to look at it: beside it, with the end `.set-aside`. What was there before
/// is lost.
pub(crate) fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".set-aside");
    fs::rename(path, &aside)?;
    Ok(aside.into())
}

/// As [`replace`], for a file of these permissions, owner and group, and through a link to it.
///
/// # Errors
/// As [`replace`], and where the file cannot be given to its owner.
pub(crate) fn replace_as(path: &Path, bytes: &[u8], (mode, uid, gid): (u32, u32, u32)) -> io::Result<()> {
    let path = path.canonicalize().or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Ok(path.to_owned()),
        _ => Err(error),
    })?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    // In no pattern of files that somebody reads.
    name.push(".pullgate-new");
    let fresh = path.with_file_name(name);
    let written =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh).and_then(|mut file| {
            file.write_all(bytes)?;
            let meta = file.metadata()?;
            if (meta.uid(), meta.gid()) != (uid, gid) {
                std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
            }
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            file.sync_all()
        });
    if let Err(error) = written.and_then(|()| fs::rename(&fresh, &path)) {
        let _ = fs::remove_file(&fresh);
        return Err(error);
    }
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

/// What tells whether a file was changed: device, inode, size, and the seconds and nanoseconds of its change.
pub(crate) type Fingerprint = (u64, u64, u64, i64, i64);

/// How the file at `path` looks now. None when it is not there.
pub(crate) fn fingerprint(path: &Path) -> Option<Fingerprint> {
    let meta = fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino(), meta.size(), meta.ctime(), meta.ctime_nsec()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_a_plain_file_that_nobody_else_can_write_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.toml");
        assert_eq!(read_trusted(&path, 10), Err("the file is not there".into()));
        fs::write(&path, "text").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(read_trusted(&path, 4), Ok("text".into()));
        assert_eq!(read_trusted(&path, 3), Err("larger than 3 bytes".into()));
        for mode in [0o664, 0o646, 0o666] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(read_trusted(&path, 4), Err("others can write to it; run `chmod go-w`".into()), "{mode:o}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(&path, [0xff]).unwrap();
        assert_eq!(read_trusted(&path, 4), Err("not UTF-8 text".into()));
        assert_eq!(read_trusted(folder.path(), 4), Err("not a plain file".into()));
        let fifo = folder.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(read_trusted(&fifo, 4), Err("not a plain file".into()));
        let loop_ = folder.path().join("loop");
        symlink(&loop_, &loop_).unwrap();
        assert!(read_trusted(&loop_, 4).is_err());
        if geteuid().is_root() {
            fs::write(&path, "text").unwrap();
            std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
            assert!(read_trusted(&path, 4).unwrap_err().contains("belongs to uid 12345"));
        }
    }

    #[test]
    fn a_file_is_replaced_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        replace(&path, b"one").unwrap();
        let before = fingerprint(&path);
        replace(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_ne!(fingerprint(&path), before);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(replace(&folder.path().join("missing/state.json"), b"x").is_err());
    }
}
