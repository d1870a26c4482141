//! The plan that connects containerd: what to write, and proof that nothing else changes by it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    Obstacle,
    change::{Content, Edit, Record},
    dump::Dump,
    imports::{self, Read, fits},
    lines::{self, Part},
    process::Process,
    run, vendor,
    verifiers::{self, Place},
    version::{Editing, Version},
    wanted::{Running, Wanted},
};
use crate::containerd::{Containerd, Loaded};

/// What is imported where the administrator's file imports nothing. A pattern may stand for no file at all.
const IMPORT: &str = "conf.d/99-pullgate*.toml";
/// Names of pullgate's file: the first that sorts behind all others.
const NAMES: [&str; 2] = ["99-pullgate.toml", "zz-pullgate.toml"];

/// containerd as it is.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its process.
    pub process: Process,
    /// Its version, the one that its program has now: what the next start runs.
    pub version: Version,
    /// The configuration in force once it is started.
    pub dump: Dump,
    /// Its files, in its order.
    pub files: Vec<Read>,
    /// Its plugins.
    pub loaded: Vec<Loaded>,
    /// What an administrator should know.
    pub notes: Vec<String>,
}

/// What to do. Several can be made of one node; none is done by being made.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// What to write; nothing when all is there.
    pub edits: Vec<Edit>,
    /// The import that is added to the main file.
    pub import: Option<String>,
    /// What an administrator should know.
    pub notes: Vec<String>,
}

impl Found {
    /// The containerd behind `socket`.
    ///
    /// # Errors
    /// Where it cannot be looked at, or cannot be connected at all.
    pub async fn look(containerd: &Containerd, socket: &Path) -> Result<Self, Obstacle> {
        let choose = "Choose one with `address` under [containerd] in /etc/pullgate/config.toml";
        let silent = |error: String| {
            Obstacle::new(
                format!("containerd does not answer on {}: {error}", socket.display()),
                format!("Start it, or run as root. {choose}"),
            )
        };
        let pid = containerd.process().await.map_err(|error| silent(error.to_string()))?;
        let pid = pid.ok_or_else(|| silent("its process is not known".to_owned()))?;
        let process = Process::of(pid).map_err(silent)?;
        let said = containerd.version().await.map_err(|status| silent(status.message().to_owned()))?;
        let running: Result<Version, _> = said.parse();
        let mut notes = Vec::new();
        for vendor in vendor::detect(&process, socket, running.clone().ok(), Path::new("/")) {
            if vendor.refuses {
                return Err(Obstacle::new(format!("{} owns containerd's configuration", vendor.name), vendor.advice));
            }
            notes.push(format!("{}: {}", vendor.name, vendor.advice));
        }
        for other in process.others() {
            let at = other.address.as_deref().map_or_else(|| other.config.clone(), Into::into);
            notes.push(format!(
                "another containerd runs here (process {}, {}); this is about the one on {}. {choose}",
                other.pid,
                at.display(),
                socket.display()
            ));
        }
        let update = |why| Obstacle::new(why, "Install a containerd from 1.7.4 on; nothing was written");
        let version = run(&process.program, &["--version"]).and_then(|text| text.parse::<Version>()).map_err(update)?;
        version.editing().map_err(update)?;
        if let Ok(running) = running
            && running != version
        {
            notes.push(format!("containerd {running} runs; its next start is containerd {version}"));
        }
        let unreadable = |why| Obstacle::new(why, "containerd would not start with this configuration; mend it first");
        let files = imports::read(&process.config).map_err(unreadable)?;
        let dump = dump(&process.program, (!files.is_empty()).then_some(&process.config)).map_err(unreadable)?;
        let loaded = containerd.loaded().await.map_err(|status| silent(status.message().to_owned()))?;
        Ok(Self { process, version, dump, files, loaded, notes })
    }

    fn running(&self) -> Running {
        let of = |kind: &str| {
            let runs = |plugin: &&Loaded| plugin.kind == kind && plugin.error.is_none();
            self.loaded.iter().filter(runs).map(|plugin| plugin.id.clone()).collect()
        };
        Running { snapshotters: of("io.containerd.snapshotter.v1"), differs: of("io.containerd.differ.v1") }
    }

    /// What has to be written so that every gate is asked; `state` is for files that nobody reads yet.
    ///
    /// # Errors
    /// Where it cannot be done without changing anything else.
    pub fn plan(&self, record: Option<&Record>, state: &Path) -> Result<Plan, Obstacle> {
        let mut plan = Plan { notes: self.notes.clone(), ..Plan::default() };
        let own = Path::new(verifiers::DIRECTORY);
        let mut verifiers = None;
        if self.version < Version::VERIFIERS {
            plan.notes.push(format!(
                "containerd {} asks no image verifiers: images are refused when they are unpacked",
                self.version
            ));
        } else if let Some((directory, most)) = self.dump.verifiers() {
            match verifiers::place(own, &directory, most).map_err(|why| Obstacle::new(why, "Nothing was written"))? {
                Place::Own => verifiers = Some(own.to_owned()),
                Place::Beside(link) => {
                    plan.notes.push(format!(
                        "the image verifiers in {} stay; pullgate's stands beside them",
                        directory.display()
                    ));
                    if !verifiers::is_in(own, &directory) {
                        let target = own.join(verifiers::NAME);
                        plan.edits.push(Edit { path: link, before: None, after: Some(Content::Link { target }) });
                    }
                }
            }
            let not_asked = match self.version < Version::CRI_TRANSFERS {
                true => Some(format!("CRI of containerd {} pulls by itself", self.version)),
                false => self.dump.verifiers_not_asked(),
            };
            if let Some(why) = not_asked {
                plan.notes.push(format!("the kubelet's pulls are refused when they are unpacked, not before: {why}"));
            }
        }
        let wanted = Wanted::over(&self.dump, self.version, &self.running(), verifiers)
            .map_err(|why| Obstacle::new(why, "Nothing was written"))?;
        if wanted.missing(&self.dump).is_empty() {
            return Ok(plan);
        }
        let editing = self.version.editing().map_err(|why| Obstacle::new(why, "Nothing was written"))?;
        let mut refused =
            Obstacle::new("containerd's files leave no place for pullgate's lines", "Nothing was written");
        for candidate in self.candidates(editing, &wanted, record)? {
            match self.prove(&candidate, &wanted, state) {
                Ok(()) => {
                    plan.import = candidate.import;
                    plan.edits.extend(candidate.edits.into_iter().filter(|edit| edit.before != edit.after));
                    return Ok(plan);
                }
                Err(obstacle) => refused = obstacle,
            }
        }
        Err(refused)
    }

    /// The ways to say it, the best first.
    fn candidates(
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
            Editing::InPlace => lines::put("version = 2\n", wanted, &[Part::Proxies, Part::Differs, Part::Unpack]),
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
    fn prove(&self, candidate: &Candidate, wanted: &Wanted, state: &Path) -> Result<(), Obstacle> {
        let trial = state.join("candidate");
        let failed = |error: std::io::Error| {
            Obstacle::new(format!("{}: {error}", trial.display()), "Run as root, and see that the disk has room")
        };
        let _ = fs::remove_dir_all(&trial);
        fs::create_dir_all(&trial).map_err(failed)?;
        let result = self.candidate_dump(candidate, &trial);
        fs::remove_dir_all(&trial).map_err(failed)?;
        let _ = fs::remove_dir(state);
        let after = result.map_err(|why| {
            Obstacle::new(format!("containerd refuses the new configuration: {why}"), "Nothing was written")
        })?;
        let changes = self.dump.changes(&after);
        if !changes.is_empty() {
            let what = format!("more than pullgate's keys would change: {}", changes.join(", "));
            return Err(Obstacle::new(
                what,
                "Nothing was written. The lines can be put in by hand: docs/containerd.md",
            ));
        }
        let missing = wanted.missing(&after);
        if !missing.is_empty() {
            let ours = |path: &PathBuf| candidate.edits.iter().any(|edit| edit.path == *path);
            let sets =
                |file: &&Read| [Part::Differs, Part::Unpack].iter().any(|part| lines::has_section(&file.text, *part));
            let others = self.files.iter().filter(sets).filter(|file| !ours(&file.path));
            let others: Vec<String> = others.map(|file| file.path.display().to_string()).collect();
            let what = format!("{} would not take force: {} sets it later", missing.join(", "), others.join(" or "));
            return Err(Obstacle::new(what, "Nothing was written. Take those keys out of that file first"));
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

impl Plan {
    /// The record of this plan over the one before: what it takes to go back to a node without pullgate.
    pub fn record(&self, found: &Found, before: Option<&Record>) -> Record {
        let mut record = before.cloned().unwrap_or_default();
        record.pullgate = env!("CARGO_PKG_VERSION").to_owned();
        record.config.clone_from(&found.process.config);
        record.live = None;
        if self.import.is_some() {
            record.import.clone_from(&self.import);
        }
        for edit in &self.edits {
            match record.edits.iter_mut().find(|old| old.path == edit.path) {
                Some(old) if old.after == edit.before => old.after.clone_from(&edit.after),
                Some(old) => {
                    // Somebody else wrote in between: the way back leads to what they wrote, without our lines.
                    let original = old.before.as_ref().map(Content::text);
                    let theirs = edit.before.as_ref().and_then(|now| {
                        let text = lines::take_out(now.text(), original, record.import.as_deref()).ok()??;
                        Some(now.with_text(text))
                    });
                    *old = Edit { before: theirs, ..edit.clone() };
                }
                None => record.edits.push(edit.clone()),
            }
        }
        record
    }
}

/// One way to say it.
#[derive(Clone, Debug, Default)]
struct Candidate {
    edits: Vec<Edit>,
    import: Option<String>,
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

/// The configuration that `program` would run with.
///
/// # Errors
/// What containerd says about it.
pub fn dump(program: &Path, config: Option<&PathBuf>) -> Result<Dump, String> {
    let text = match config {
        Some(config) => run(program, &["--config", &config.display().to_string(), "config", "dump"])?,
        None => run(program, &["config", "default"])?,
    };
    Dump::parse(&text)
}
