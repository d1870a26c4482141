//! The ways to say in containerd's files what pullgate wants, each tried by containerd itself before anything is written.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    Obstacle,
    change::{Content, Edit},
    dump::{Dump, StandFor},
    enable::{Found, dump},
    imports::{Read, fits},
    lines::{self, Part},
    record::Record,
    version::Editing,
    wanted::Wanted,
};
use crate::files;

/// What is imported where the administrator's file imports nothing. A pattern may stand for no file at all.
const IMPORT: &str = "conf.d/99-pullgate*.toml";
/// Names of pullgate's file: the first that sorts behind all others.
const NAMES: [&str; 2] = ["99-pullgate.toml", "zz-pullgate.toml"];

/// One way to say it.
#[derive(Clone, Debug, Default)]
pub(super) struct Candidate {
    pub(super) edits: Vec<Edit>,
    pub(super) import: Option<String>,
    /// What the main file then imports; empty: as before.
    imports: Vec<PathBuf>,
}

fn edit(path: &Path, after: Option<String>) -> Result<Edit, Obstacle> {
    let before = Content::of_file(path).map_err(|why| Obstacle::new(why, "Run as root"))?;
    let after = after.map(|text| match &before {
        Some(before) => before.with_text(text),
        None => Content::new(text),
    });
    Ok(Edit { path: path.to_owned(), before, after })
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

impl Found {
    /// The ways to say it, the best first.
    pub(super) fn candidates(
        &self,
        editing: Editing,
        wanted: &Wanted,
        record: Option<&Record>,
    ) -> Result<Vec<Candidate>, Obstacle> {
        let cannot = |path: &Path, why: String| {
            let fix = match why.contains("version 1") {
                true => "Bring it to the present form: containerd config migrate. Nothing was written",
                false => "Nothing was written",
            };
            Obstacle::new(format!("{}: {why}", path.display()), fix)
        };
        let Some(main) = self.files.first() else { return Ok(vec![self.whole(editing, wanted)?]) };
        let fresh = lines::versioned(&main.text).map_err(|why| cannot(&main.path, why))?;
        if editing == Editing::InPlace {
            let mut candidate = Candidate::default();
            // The last file with a section replaces those before it.
            let target = |part| self.files.iter().rposition(|file| lines::has_section(&file.text, part)).unwrap_or(0);
            for (index, file) in self.files.iter().enumerate() {
                let mut parts = vec![Part::Differs, Part::Unpack];
                if !wanted.handlers.is_empty() {
                    parts.push(Part::Handlers);
                }
                parts.retain(|part| target(*part) == index);
                if index == 0 {
                    parts.push(Part::Proxies);
                }
                if parts.is_empty() {
                    continue;
                }
                let text = if index == 0 { &fresh } else { &file.text };
                let after = lines::put(text, wanted, &parts).map_err(|why| cannot(&file.path, why))?;
                candidate.edits.push(edit(&file.path, Some(after))?);
            }
            return Ok(vec![candidate]);
        }
        let version = self.files.iter().rev().find_map(|file| file.version.filter(|version| *version > 0)).unwrap_or(3);
        let text = lines::drop_in(wanted, version).map_err(|why| cannot(&main.path, why))?;
        // The file that is there already is the place for it.
        let old = record.into_iter().flat_map(|record| &record.edits).map(|edit| edit.path.clone());
        let known = |path: &PathBuf| self.files.iter().any(|file| file.path == *path) && *path != main.path;
        if let Some(path) = old.into_iter().find(known) {
            let import = record.and_then(|record| record.import.clone());
            let last =
                Candidate { edits: vec![edit(&path, Some(text.clone()))?], import, imports: self.direct_imports() };
            return Ok(vec![last]);
        }
        let mut candidates = Vec::new();
        for (pattern, found) in main.imports.iter().rev() {
            if let Some(path) = self.last_in(main, pattern, found) {
                let mut imports = Vec::new();
                for (other, found) in &main.imports {
                    imports.extend(found.clone());
                    if other == pattern {
                        imports.push(path.clone());
                    }
                }
                candidates.push(Candidate { edits: vec![edit(&path, Some(text.clone()))?], import: None, imports });
            }
        }
        let beside = main.path.parent().unwrap_or(Path::new("/"));
        let pattern = beside.join(IMPORT).display().to_string();
        let path = beside.join("conf.d").join(NAMES[0]);
        let with_import = lines::import(&main.text, &pattern).map_err(|why| cannot(&main.path, why))?;
        let mut imports = self.direct_imports();
        imports.push(path.clone());
        // The import comes last: without its file it stands for nothing, and the file without it is not read.
        candidates.push(Candidate {
            edits: vec![edit(&path, Some(text))?, edit(&main.path, Some(with_import))?],
            import: Some(pattern),
            imports,
        });
        Ok(candidates)
    }

    /// Where there is no file at all.
    fn whole(&self, editing: Editing, wanted: &Wanted) -> Result<Candidate, Obstacle> {
        let text = match editing {
            Editing::InPlace => lines::put("version = 2\n", wanted, &Part::ALL),
            Editing::DropIn => lines::drop_in(wanted, 3),
        };
        let text = text.map_err(|why| Obstacle::new(why, "Nothing was written"))?;
        Ok(Candidate { edits: vec![edit(&self.process.config, Some(text))?], ..Candidate::default() })
    }

    fn direct_imports(&self) -> Vec<PathBuf> {
        self.files
            .first()
            .into_iter()
            .flat_map(|main| main.imports.iter().flat_map(|(_, found)| found.clone()))
            .collect()
    }

    /// A path in the directory of a pattern that is read after all others there.
    fn last_in(&self, main: &Read, pattern: &str, found: &[PathBuf]) -> Option<PathBuf> {
        let whole = main.path.parent()?.join(pattern);
        let (directory, last) = (whole.parent()?, whole.file_name()?.to_str()?);
        if directory.to_string_lossy().contains('*') || !last.contains('*') {
            return None;
        }
        let names = NAMES.iter().filter(|name| fits(last.as_bytes(), name.as_bytes()));
        let mut paths = names.map(|name| directory.join(name));
        paths.find(|path| found.iter().all(|other| other <= path))
    }

    /// Lets containerd read the candidate from files of its own, and compares.
    pub(super) fn prove(
        &self,
        candidate: &Candidate,
        wanted: &Wanted,
        base_specs: &StandFor,
        state: &Path,
    ) -> Result<(), Obstacle> {
        let trial = state.join("candidate");
        let failed = |error: std::io::Error| {
            Obstacle::new(format!("{}: {error}", trial.display()), "Run as root, and see that the disk has room")
        };
        let _ = fs::remove_dir_all(&trial);
        files::private_directory(&trial).map_err(failed)?;
        let result = self.candidate_dump(candidate, &trial);
        fs::remove_dir_all(&trial).map_err(failed)?;
        let _ = fs::remove_dir(state);
        let after = result.map_err(|why| {
            Obstacle::new(format!("containerd refuses the new configuration: {why}"), "Nothing was written")
        })?;
        let changes = self.dump.changes(&after, base_specs);
        if !changes.is_empty() {
            let what = format!("more than pullgate's keys would change: {}", changes.join(", "));
            return Err(Obstacle::new(
                what,
                "Nothing was written. The lines can be put in by hand: /usr/share/doc/pullgate/containerd.md",
            ));
        }
        let missing = wanted.missing(&after);
        if !missing.is_empty() {
            let ours = |path: &PathBuf| candidate.edits.iter().any(|edit| edit.path == *path);
            let sets = |file: &&Read| {
                [Part::Differs, Part::Unpack, Part::Handlers].iter().any(|part| lines::has_section(&file.text, *part))
            };
            let others = self.files.iter().filter(sets).filter(|file| !ours(&file.path));
            let others: Vec<String> = others.map(|file| file.path.display().to_string()).collect();
            let missing = missing.join(", ");
            return Err(match others.is_empty() {
                true => Obstacle::new(
                    format!("containerd does not take {missing}"),
                    "Nothing was written. Look at `disabled_plugins`, and for the section on one line, as `{ … }`",
                ),
                false => Obstacle::new(
                    format!("{missing} would not take force: {} sets it later", others.join(" or ")),
                    "Nothing was written. Take those keys out of that file first",
                ),
            });
        }
        Ok(())
    }

    fn candidate_dump(&self, candidate: &Candidate, trial: &Path) -> Result<Dump, String> {
        let mut places: Vec<(PathBuf, PathBuf)> = Vec::new();
        for (number, edit) in candidate.edits.iter().enumerate() {
            let place = trial.join(format!("{number}.toml"));
            let text = edit.after.as_ref().map_or("", Content::text);
            write(&place, text)?;
            places.push((edit.path.clone(), place));
        }
        let moved = |path: &PathBuf| {
            places.iter().find(|(from, _)| from == path).map_or_else(|| path.clone(), |(_, to)| to.clone())
        };
        let imports = if candidate.imports.is_empty() { self.direct_imports() } else { candidate.imports.clone() };
        if places.iter().skip(1).any(|(path, _)| *path != self.process.config && !imports.contains(path)) {
            return Err("the section to change is in a file that another imported file imports".to_owned());
        }
        let config = &self.process.config;
        let edited = candidate.edits.iter().find(|edit| edit.path == *config);
        let main = match (edited, self.files.first()) {
            (Some(edit), _) => edit.after.as_ref().map_or("", Content::text),
            (None, Some(main)) => &main.text,
            (None, None) => "",
        };
        let imports: Vec<String> = imports.iter().map(|path| moved(path).display().to_string()).collect();
        let main = lines::with_imports(main, &imports)?;
        let place = trial.join("config.toml");
        write(&place, &main)?;
        dump(&self.process.program, Some(&place))
    }
}
