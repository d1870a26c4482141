//! Changes of files, made all or not at all, that can be taken back.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::imports;
use crate::files;

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    /// A file of text.
    #[serde(rename_all = "kebab-case")]
    File {
        /// Its text.
        text: String,
        /// Its permissions.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
    },
    /// A symbolic link.
    #[serde(rename_all = "kebab-case")]
    Link {
        /// Where it leads.
        target: PathBuf,
    },
}

impl Content {
    /// A new file that everybody may read and root owns, as configuration is.
    pub fn new(text: String) -> Self {
        Self::File { text, mode: 0o644, uid: 0, gid: 0 }
    }

    /// The file at `path`, through links to it; none where there is none.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn of_file(path: &Path) -> Result<Option<Self>, String> {
        let told = |error: io::Error| format!("{}: {error}", path.display());
        match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(told(error)),
            Ok(meta) => Ok(Some(Self::File {
                text: imports::text(path).map_err(told)?,
                mode: meta.mode() & 0o7777,
                uid: meta.uid(),
                gid: meta.gid(),
            })),
        }
    }

    /// What is at `path`, links not followed.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub(super) fn at(path: &Path) -> Result<Option<Self>, String> {
        match fs::read_link(path) {
            Ok(target) => Ok(Some(Self::Link { target })),
            Err(_) => Self::of_file(path),
        }
    }

    /// Its text; a link has none.
    pub fn text(&self) -> &str {
        match self {
            Self::File { text, .. } => text,
            Self::Link { .. } => "",
        }
    }

    /// The same file with another text.
    #[must_use]
    pub fn with_text(&self, fresh: String) -> Self {
        match self {
            Self::File { mode, uid, gid, .. } => Self::File { text: fresh, mode: *mode, uid: *uid, gid: *gid },
            Self::Link { .. } => Self::new(fresh),
        }
    }
}

/// One path before and after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Edit {
    /// The path.
    pub path: PathBuf,
    /// None: nothing was there.
    pub before: Option<Content>,
    /// None: nothing is to be there.
    pub after: Option<Content>,
}

impl Edit {
    /// The way back.
    #[must_use]
    pub fn reversed(&self) -> Self {
        Self { path: self.path.clone(), before: self.after.clone(), after: self.before.clone() }
    }

    fn make(&self) -> Result<(), String> {
        let told = |error: io::Error| told(&self.path, &error);
        match &self.after {
            None => match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(told(error)),
                _ => Ok(()),
            },
            Some(Content::Link { target }) => {
                if fs::read_link(&self.path).is_ok_and(|found| found == *target) {
                    return Ok(());
                }
                symlink(target, &self.path).map_err(told)
            }
            Some(Content::File { text, mode, uid, gid }) => {
                files::replace_as(&self.path, text.as_bytes(), (*mode, *uid, *gid)).map_err(told)
            }
        }
    }
}

/// Makes all of `edits`, or none: what was made before a failure is taken back. Returns the directories that were made.
///
/// # Errors
/// What failed, and what could not be taken back.
pub fn make(edits: &[Edit]) -> Result<Vec<PathBuf>, String> {
    let mut directories = Vec::new();
    for (made, edit) in edits.iter().enumerate() {
        let done = check(edit).and_then(|()| parents(edit, &mut directories)).and_then(|()| edit.make());
        if let Err(why) = done {
            let mut trouble = vec![why];
            // The edit that failed has left its path as it was.
            trouble.extend(undo(edits.get(..made).unwrap_or_default(), &directories).err());
            return Err(trouble.join("; "));
        }
    }
    Ok(directories)
}

/// Takes `edits` back, the last first, and then the directories.
///
/// # Errors
/// All that could not be taken back.
pub fn undo(edits: &[Edit], directories: &[PathBuf]) -> Result<(), String> {
    let trouble: Vec<String> = edits.iter().rev().filter_map(|edit| edit.reversed().make().err()).collect();
    for directory in directories.iter().rev() {
        // Somebody else's files keep it.
        let _ = fs::remove_dir(directory);
    }
    if trouble.is_empty() { Ok(()) } else { Err(trouble.join("; ")) }
}

/// Somebody may have written between reading and now.
fn check(edit: &Edit) -> Result<(), String> {
    let is_link = |content: &Option<Content>| matches!(content, Some(Content::Link { .. }));
    let now = match is_link(&edit.before) || is_link(&edit.after) {
        true => Content::at(&edit.path)?,
        false => Content::of_file(&edit.path)?,
    };
    if now == edit.before || now == edit.after {
        return Ok(());
    }
    Err(format!("{}: changed in between; nothing was written to it", edit.path.display()))
}

pub(super) fn told(path: &Path, error: &io::Error) -> String {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => format!("{path}: it is on a read-only file system"),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => format!("{path}: the disk is full"),
        _ => format!("{path}: {error}"),
    }
}

fn parents(edit: &Edit, made: &mut Vec<PathBuf>) -> Result<(), String> {
    if edit.after.is_none() {
        return Ok(());
    }
    let above: Vec<&Path> = edit.path.ancestors().skip(1).take_while(|path| !path.exists()).collect();
    for directory in above.into_iter().rev() {
        fs::create_dir(directory).map_err(|error| told(directory, &error))?;
        made.push(directory.to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(text: &str, path: &Path) -> Content {
        // Tests need not run as root: the owner is who runs them.
        let meta = fs::metadata(path.parent().unwrap()).unwrap();
        Content::File { text: text.into(), mode: 0o640, uid: meta.uid(), gid: meta.gid() }
    }

    #[test]
    fn files_come_and_go_with_their_permissions() {
        let folder = tempfile::tempdir().unwrap();
        let main = folder.path().join("config.toml");
        fs::write(&main, "old").unwrap();
        fs::set_permissions(&main, fs::Permissions::from_mode(0o640)).unwrap();
        let before = Content::of_file(&main).unwrap().unwrap();
        let drop_in = folder.path().join("a/b/99.toml");
        let link = folder.path().join("verifier");
        let edits = [
            Edit { path: link.clone(), before: None, after: Some(Content::Link { target: "/x".into() }) },
            Edit { path: drop_in.clone(), before: None, after: Some(file("new", &main)) },
            Edit { path: main.clone(), before: Some(before.clone()), after: Some(before.with_text("new".into())) },
        ];
        let directories = make(&edits).unwrap();
        assert_eq!(directories, [folder.path().join("a"), folder.path().join("a/b")]);
        assert_eq!(Content::of_file(&main).unwrap().unwrap(), file("new", &main));
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("/x"));
        undo(&edits, &directories).unwrap();
        assert_eq!(Content::of_file(&main).unwrap(), Some(before));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_to_the_file_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real.toml"), folder.path().join("config.toml"));
        fs::write(&real, "old").unwrap();
        symlink("real.toml", &link).unwrap();
        let before = Content::of_file(&link).unwrap();
        let after = before.as_ref().map(|content| content.with_text("new".into()));
        make(&[Edit { path: link.clone(), before, after }]).unwrap();
        assert_eq!(fs::read_to_string(&real).unwrap(), "new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }

    #[test]
    fn all_or_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("d/one"), folder.path().join("two"));
        fs::write(&two, "theirs").unwrap();
        let edits = [
            Edit { path: one.clone(), before: None, after: Some(file("1", &two)) },
            Edit { path: two.clone(), before: Some(file("mine", &two)), after: Some(file("2", &two)) },
        ];
        let why = make(&edits).unwrap_err();
        assert!(why.contains("changed in between"), "{why}");
        assert_eq!(fs::read_to_string(&two).unwrap(), "theirs");
        assert!(!one.exists() && !folder.path().join("d").exists());
        // A directory in the way.
        let blocked = [Edit { path: two.join("x"), before: None, after: Some(file("3", &two)) }];
        assert!(make(&blocked).is_err());
    }
}
