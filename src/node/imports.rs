//! The files that containerd reads, in its order.

use std::{
    collections::VecDeque,
    fs, io,
    path::{Component, Path, PathBuf},
};

use super::lines;
use crate::limits;

/// Files that are read at most. containerd has no bound; nobody has as many.
const FILES: usize = 256;

/// One of containerd's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// Where it is, as containerd finds it.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
    /// What it imports, with the files behind each.
    pub imports: Vec<(String, Vec<PathBuf>)>,
    /// The version that it says.
    pub version: Option<i64>,
}

impl Read {
    /// The file, and the directories in which files that it imports may come and go.
    pub fn places(&self) -> Vec<PathBuf> {
        let beside = self.path.parent().unwrap_or(Path::new("/"));
        let directories = self.imports.iter().filter(|(pattern, _)| pattern.contains('*'));
        let directory = |(pattern, _): &(String, Vec<PathBuf>)| Some(clean(beside.join(pattern).parent()?));
        let directories = directories.filter_map(directory).filter(|directory| directory.is_dir());
        std::iter::once(self.path.clone()).chain(directories).collect()
    }
}

/// `main` and all that it imports, breadth first; a later file wins over an earlier one. Empty when there is no `main`.
///
/// # Errors
/// The file that cannot be read, and why.
pub fn read(main: &Path) -> Result<Vec<Read>, String> {
    let mut files: Vec<Read> = Vec::new();
    let mut waiting = VecDeque::from([main.to_owned()]);
    while let Some(path) = waiting.pop_front() {
        if files.iter().any(|file| file.path == path) {
            continue;
        }
        if files.len() == FILES {
            return Err(format!("{}: imports more than {FILES} files", main.display()));
        }
        let text = match text(&path) {
            Ok(text) => text,
            Err(error) if files.is_empty() && error.kind() == io::ErrorKind::NotFound => return Ok(files),
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        let (patterns, version) = lines::head(&text).map_err(|why| format!("{}: {why}", path.display()))?;
        let beside = path.parent().unwrap_or(Path::new("/"));
        let imports: Vec<(String, Vec<PathBuf>)> = patterns
            .into_iter()
            .map(|pattern| {
                let found = matches(&clean(&beside.join(&pattern)));
                (pattern, found)
            })
            .collect();
        waiting.extend(imports.iter().flat_map(|(_, found)| found.clone()));
        files.push(Read { path, text, imports, version });
    }
    Ok(files)
}

/// The text of a file of configuration.
///
/// # Errors
/// Where it cannot be read, or is too large.
pub fn text(path: &Path) -> io::Result<String> {
    let meta = fs::metadata(path)?;
    if !meta.is_file() || meta.len() > limits::DOCUMENT_BYTES {
        let why = format!("not a plain file of at most {} bytes", limits::DOCUMENT_BYTES);
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    fs::read_to_string(path)
}

/// Without `.` and `..`.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                clean.pop();
            }
            Component::CurDir => {}
            part => clean.push(part),
        }
    }
    clean
}

/// The files that a pattern stands for: itself, unless it has a `*`.
fn matches(pattern: &Path) -> Vec<PathBuf> {
    if !pattern.to_string_lossy().contains('*') {
        return vec![pattern.to_owned()];
    }
    let mut found = vec![PathBuf::new()];
    for part in pattern.components() {
        let part = part.as_os_str().to_string_lossy().into_owned();
        if !part.contains(['*', '?', '[']) {
            found = found.into_iter().map(|path| path.join(&part)).filter(|path| path.exists()).collect();
            continue;
        }
        found = found
            .into_iter()
            .flat_map(|directory| {
                let names = fs::read_dir(&directory).into_iter().flatten().flatten();
                let mut names: Vec<PathBuf> = names
                    .filter(|entry| fits(part.as_bytes(), entry.file_name().as_encoded_bytes()))
                    .map(|entry| entry.path())
                    .collect();
                names.sort();
                names
            })
            .collect();
    }
    found
}

/// Whether a name fits a pattern of `*` and `?`; a pattern with brackets fits nothing but itself.
pub fn fits(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), None) => fits(rest, name),
        (Some((b'*', rest)), Some((_, shorter))) => fits(rest, name) || fits(pattern, shorter),
        (Some((b'?', rest)), Some((_, shorter))) => fits(rest, shorter),
        (Some((one, rest)), Some((other, shorter))) => one == other && fits(rest, shorter),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_in_the_order_of_containerd() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("conf.d")).unwrap();
        fs::write(at("main.toml"), "version = 2\nimports = [\"conf.d/*.toml\", \"./last.toml\"]\n").unwrap();
        fs::write(at("conf.d/b.toml"), "imports = [\"../nested.toml\", \"../main.toml\"]\n").unwrap();
        fs::write(at("conf.d/a.toml"), "").unwrap();
        fs::write(at("conf.d/c.txt"), "not toml").unwrap();
        fs::write(at("last.toml"), "version = 2\n").unwrap();
        fs::write(at("nested.toml"), "").unwrap();
        let files = read(&at("main.toml")).unwrap();
        let paths: Vec<PathBuf> = files.iter().map(|file| file.path.clone()).collect();
        assert_eq!(paths, ["main.toml", "conf.d/a.toml", "conf.d/b.toml", "last.toml", "nested.toml"].map(at));
        assert_eq!(files[0].imports[0].1.len(), 2);
        assert_eq!(files[0].places(), ["main.toml", "conf.d"].map(at));
        assert_eq!(files[2].places(), ["conf.d/b.toml"].map(at));
        assert_eq!((files[0].version, files[1].version), (Some(2), None));
        assert_eq!(read(&at("nowhere.toml")), Ok(Vec::new()));
        fs::remove_file(at("last.toml")).unwrap();
        assert!(read(&at("main.toml")).unwrap_err().contains("last.toml"));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read(folder.path()).unwrap_err().contains("plain file"));
        let bad = folder.path().join("bad.toml");
        fs::write(&bad, "version = 2\n[x\n").unwrap();
        assert!(read(&bad).unwrap_err().contains("bad.toml: line 2"), "{:?}", read(&bad));
    }

    #[test]
    fn stars_stand_for_any_part_of_a_name() {
        for (pattern, name, expected) in [
            ("*.toml", "a.toml", true),
            ("*.toml", "a.toml.new", false),
            ("99-pullgate*.toml", "99-pullgate.toml", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*", "", true),
            ("[a]", "a", false),
        ] {
            assert_eq!(fits(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }
}
