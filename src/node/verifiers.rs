//! The place of pullgate's image verifier among those of others.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

pub use super::dump::VERIFIERS_DIRECTORY as DIRECTORY;

/// Its name, there and in the directory of others.
pub const NAME: &str = "pullgate-verifier";
/// Where containerd looks unless told otherwise.
const OF_CONTAINERD: &str = "/opt/containerd/image-verifier/bin";

/// Where containerd finds the verifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In [`DIRECTORY`], which `bin_dir` names.
    Own,
    /// In the directory of somebody else, by a link of this path.
    Beside(PathBuf),
}

/// Where the verifier belongs when containerd looks in `directory` and runs `most` of what it finds: nobody's verifier
/// is to lose its place.
///
/// # Errors
/// When the program is missing, or the directory has no room for it.
pub fn place(own: &Path, directory: &Path, most: Option<usize>) -> Result<Place, String> {
    let program = own.join(NAME);
    match fs::metadata(&program) {
        Ok(meta) if meta.is_file() && meta.permissions().mode() & 0o111 == 0o111 => {}
        Ok(_) => return Err(format!("{} cannot be executed. Install the package again", program.display())),
        Err(error) => return Err(format!("{}: {error}. Install the package again", program.display())),
    }
    if directory == own {
        return Ok(Place::Own);
    }
    let names = match fs::read_dir(directory) {
        Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.file_name())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(format!("{}: {error}", directory.display())),
    };
    if names.is_empty() && directory == Path::new(OF_CONTAINERD) {
        return Ok(Place::Own);
    }
    let link = directory.join(NAME);
    let there = names.iter().any(|name| name == NAME);
    if there && !is_ours(own, &link) {
        return Err(format!("{} is not pullgate's. Take it away", link.display()));
    }
    let count = names.len() + usize::from(!there);
    match most {
        Some(most) if count > most => Err(format!(
            "{} has {} image verifiers, and max_verifiers = {most} leaves none for pullgate's. Raise max_verifiers",
            directory.display(),
            names.len()
        )),
        _ => Ok(Place::Beside(link)),
    }
}

/// Whether containerd, looking in `directory`, finds pullgate's verifier.
pub fn is_in(own: &Path, directory: &Path) -> bool {
    is_ours(own, &directory.join(NAME))
}

fn is_ours(own: &Path, path: &Path) -> bool {
    matches!((path.canonicalize(), own.join(NAME).canonicalize()), (Ok(found), Ok(ours)) if found == ours)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn program(path: &Path) {
        fs::write(path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn nobody_loses_a_place() {
        let folder = tempfile::tempdir().unwrap();
        let (own, others) = (folder.path().join("own"), folder.path().join("others"));
        fs::create_dir(&own).unwrap();
        fs::create_dir(&others).unwrap();
        assert!(place(&own, &others, None).unwrap_err().contains("Install"));
        program(&own.join(NAME));
        assert_eq!(place(&own, &own, Some(10)), Ok(Place::Own));
        // A directory that an administrator chose is kept, whatever is in it.
        let link = others.join(NAME);
        assert_eq!(place(&own, &others, Some(10)), Ok(Place::Beside(link.clone())));
        for name in ["a", "z"] {
            program(&others.join(name));
        }
        assert_eq!(place(&own, &others, Some(3)), Ok(Place::Beside(link.clone())));
        assert_eq!(place(&own, &others, None), Ok(Place::Beside(link.clone())));
        assert!(place(&own, &others, Some(2)).unwrap_err().contains("max_verifiers = 2"));
        assert!(!is_in(&own, &others));
        symlink(own.join(NAME), &link).unwrap();
        assert_eq!(place(&own, &others, Some(3)), Ok(Place::Beside(link.clone())));
        assert!(is_in(&own, &others) && is_in(&own, &own));
        fs::remove_file(&link).unwrap();
        program(&link);
        assert!(place(&own, &others, None).unwrap_err().contains("not pullgate's"));
        fs::set_permissions(own.join(NAME), fs::Permissions::from_mode(0o600)).unwrap();
        assert!(place(&own, &others, None).unwrap_err().contains("executed"));
    }

    #[test]
    fn the_usual_directory_is_left_only_while_it_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        program(&folder.path().join(NAME));
        let usual = Path::new(OF_CONTAINERD);
        if !usual.exists() {
            assert_eq!(place(folder.path(), usual, Some(10)), Ok(Place::Own));
        }
    }
}
