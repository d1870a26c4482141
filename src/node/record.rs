//! The way back from what `enable` wrote, kept on disk.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    change::{Edit, make, told, undo},
    dump::StandFor,
    process::Process,
    start::plan::stand_for,
};
use crate::{files, image::Digest};

/// What `enable` did, kept for `disable`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Record {
    /// The version of pullgate that did it.
    pub pullgate: String,
    /// containerd's main file.
    pub config: PathBuf,
    /// The import that was added to it.
    pub import: Option<String>,
    /// The edits, in the order in which they were made.
    pub edits: Vec<Edit>,
    /// Directories that were made for them, the outer first.
    pub directories: Vec<PathBuf>,
    /// The process and its start that were seen with the gates in force.
    pub live: Option<(i32, u64)>,
    /// Whether the start gate is connected too.
    #[serde(default)]
    pub start: bool,
    /// What the base specs were made from.
    #[serde(default)]
    pub base_specs: Vec<Made>,
}

/// What a base spec of pullgate's was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Made {
    /// Where it is.
    pub path: PathBuf,
    /// The administrator's base spec; none where it was containerd's own default.
    pub own: Option<PathBuf>,
    /// The hash of that.
    pub of: Digest,
}

impl Record {
    /// The record in `state`, if there is one.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn load(state: &Path) -> Result<Option<Self>, String> {
        let path = state.join(FILE);
        let told = |why: String| format!("{}: {why}", path.display());
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(told(error.to_string())),
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| told(error.to_string())),
        }
    }

    /// Keeps it in `state`.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn save(&self, state: &Path) -> Result<(), String> {
        let path = state.join(FILE);
        let bytes = serde_json::to_vec_pretty(self).map_err(|error| error.to_string())?;
        files::private_directory(state)
            .and_then(|()| files::replace(&path, &bytes))
            .map_err(|error| told(&path, &error))
    }

    /// Takes it away.
    ///
    /// # Errors
    /// Where that does not succeed.
    pub fn forget(state: &Path) -> Result<(), String> {
        match fs::remove_file(state.join(FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(format!("{}: {error}", state.display())),
            _ => {
                // Only ours, and only if nothing else is in it.
                let _ = fs::remove_dir(state);
                Ok(())
            }
        }
    }
}

/// Its name in the directory of the state.
pub(super) const FILE: &str = "record.json";

/// Edits that were made, and the way back from them.
#[derive(Clone, Debug)]
pub struct Written {
    state: PathBuf,
    edits: Vec<Edit>,
    directories: Vec<PathBuf>,
    before: Option<Record>,
    after: Option<Record>,
}

impl Written {
    /// Makes `edits`; `state` then has the record `after` instead of `before`. A crash at any moment leaves a record that
    /// leads back.
    ///
    /// # Errors
    /// What failed; everything is as it was then, or the error says what is not.
    pub fn write(
        state: &Path,
        edits: &[Edit],
        before: Option<Record>,
        mut after: Option<Record>,
    ) -> Result<Self, String> {
        if let Some(record) = &after {
            record.save(state)?;
        }
        let keep_before = || before.as_ref().map_or_else(|| Record::forget(state), |record| record.save(state));
        let made = make(edits).and_then(|directories| {
            let Some(record) = &mut after else { return Ok(directories) };
            record.directories.extend(directories.iter().cloned());
            record.save(state).map(|()| directories).inspect_err(|_| drop(undo(edits, &[])))
        });
        let directories = made.map_err(|why| match keep_before() {
            Ok(()) => why,
            Err(more) => format!("{why}; {more}"),
        })?;
        let written = Self { state: state.to_owned(), edits: edits.to_vec(), directories, before, after };
        if written.after.is_none() {
            for directory in written.before.iter().flat_map(|record| &record.directories).rev() {
                let _ = fs::remove_dir(directory);
            }
            Record::forget(state)?;
        }
        Ok(written)
    }

    /// What pullgate's base specs stand for, before and after.
    pub fn base_specs(&self) -> StandFor {
        stand_for([&self.before, &self.after].into_iter().flatten().flat_map(|record| &record.base_specs))
    }

    /// Puts everything back.
    ///
    /// # Errors
    /// What could not be put back.
    pub fn take_back(&self) -> Result<(), String> {
        // Directories that went with the files come back with them.
        for edit in self.edits.iter().filter(|edit| edit.before.is_some()) {
            if let Some(directory) = edit.path.parent() {
                fs::create_dir_all(directory).map_err(|error| told(directory, &error))?;
            }
        }
        undo(&self.edits, &self.directories)?;
        match &self.before {
            Some(record) => record.save(&self.state),
            None => Record::forget(&self.state),
        }
    }

    /// Notes that `process` was seen with the gates in force.
    ///
    /// # Errors
    /// Where the record cannot be written.
    pub fn live(&self, process: &Process) -> Result<(), String> {
        match self.after.clone() {
            Some(record) => Record { live: Some((process.pid, process.ticks)), ..record }.save(&self.state),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::change::Content;

    #[test]
    fn a_record_outlives_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("enable");
        assert_eq!(Record::load(&state), Ok(None));
        let record = Record {
            config: "/etc/containerd/config.toml".into(),
            edits: vec![Edit { path: "/x".into(), before: None, after: Some(Content::Link { target: "/y".into() }) }],
            live: Some((7, 8)),
            start: true,
            base_specs: vec![Made { path: "/b".into(), own: Some("/c".into()), of: Digest::of(b"x") }],
            ..Record::default()
        };
        record.save(&state).unwrap();
        assert_eq!(Record::load(&state), Ok(Some(record)));
        fs::write(state.join(FILE), "{").unwrap();
        assert!(Record::load(&state).unwrap_err().contains("record.json"));
        Record::forget(&state).unwrap();
        Record::forget(&state).unwrap();
        assert!(!state.exists());
    }
}
