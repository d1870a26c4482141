//! The plan that connects containerd: what to write, and proof that nothing else changes by it.

use std::path::{Path, PathBuf};

use super::{
    Obstacle, base_spec,
    change::{Content, Edit},
    dump::Dump,
    imports::{self, Read},
    lines::{self, Since},
    process::Process,
    record::{Made, Record},
    run,
    start::{self, plan::stand_for},
    vendor,
    verifiers::{self, Place},
    version::Version,
    wanted::{Running, Wanted},
};
use crate::containerd::{Containerd, Loaded};

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
    /// Whether the start gate is connected by it, or stays so.
    pub start: bool,
    /// What the base specs are made from.
    pub base_specs: Vec<Made>,
    /// The path of each base spec, where it is from, and what is there.
    pub sources: Vec<(PathBuf, String, String)>,
}

impl Found {
    /// The containerd behind `socket`.
    ///
    /// # Errors
    /// Where it cannot be looked at, or cannot be connected at all.
    pub async fn look(containerd: &Containerd, socket: &Path) -> Result<Self, Obstacle> {
        let choose = "Choose one with `address` under [containerd] in /etc/pullgate/config.toml";
        let silent = |error: String| {
            let there: Vec<String> = Process::all().iter().map(|other| format!(" There is one: {other}.")).collect();
            Obstacle::new(
                format!("containerd does not answer on {}: {error}", socket.display()),
                format!("Start it, or run as root.{} {choose}", there.concat()),
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
            notes.push(format!(
                "another containerd runs here ({other}); this is about the one on {}. {choose}",
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

    /// What has to be written so that every gate is asked, the start gate if `start` or if it is connected already; `state`
    /// is for files that nobody reads yet.
    ///
    /// # Errors
    /// Where it cannot be done without changing anything else.
    pub fn plan(&self, record: Option<&Record>, state: &Path, start: bool) -> Result<Plan, Obstacle> {
        let start = start || record.is_some_and(|record| record.start);
        let mut plan = Plan { notes: self.notes.clone(), start, ..Plan::default() };
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
        let mut wanted = Wanted::over(&self.dump, self.version, &self.running(), verifiers)
            .map_err(|why| Obstacle::new(why, "Nothing was written"))?;
        let mut stand_for = stand_for(record.into_iter().flat_map(|record| &record.base_specs));
        if start && !self.serves_pods() {
            plan.notes.push("start gate: containerd serves no pods here: there is no container to refuse".to_owned());
        } else if start {
            let base_specs = self.base_specs(record)?;
            stand_for.extend(start::plan::stand_for(base_specs.made.iter()));
            plan.notes.extend(base_specs.notes);
            // They are there before anything names them.
            plan.edits.extend(base_specs.edits);
            plan.base_specs = base_specs.made;
            plan.sources = base_specs.sources;
            wanted.handlers = base_specs.handlers;
        }
        if wanted.missing(&self.dump).is_empty() {
            return Ok(plan);
        }
        let editing = self.version.editing().map_err(|why| Obstacle::new(why, "Nothing was written"))?;
        let mut refused =
            Obstacle::new("containerd's files leave no place for pullgate's lines", "Nothing was written");
        for candidate in self.candidates(editing, &wanted, record)? {
            match self.prove(&candidate, &wanted, &stand_for, state) {
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
}

impl Plan {
    /// The record of this plan over the one before: what it takes to go back to a node without pullgate.
    pub fn record(&self, found: &Found, before: Option<&Record>) -> Record {
        self.record_over(&found.process.config, before)
    }

    pub(super) fn record_over(&self, config: &Path, before: Option<&Record>) -> Record {
        let mut record = before.cloned().unwrap_or_default();
        record.pullgate = env!("CARGO_PKG_VERSION").to_owned();
        config.clone_into(&mut record.config);
        record.live = None;
        record.start = self.start;
        for made in &self.base_specs {
            record.base_specs.retain(|old| old.path != made.path);
            record.base_specs.push(made.clone());
        }
        if self.import.is_some() {
            record.import.clone_from(&self.import);
        }
        let base_specs = stand_for(record.base_specs.iter());
        for edit in &self.edits {
            match record.edits.iter_mut().find(|old| old.path == edit.path) {
                Some(old) if old.after == edit.before => old.after.clone_from(&edit.after),
                Some(old) => {
                    // Somebody else wrote in between: the way back leads to what they wrote, without our lines.
                    let original = old.before.as_ref().map(Content::text);
                    let written = old.after.as_ref().map(Content::text);
                    let since = Since { original, written, pattern: record.import.as_deref() };
                    let theirs = edit.before.as_ref().and_then(|now| {
                        let text = lines::take_out(now.text(), since, &base_specs).ok()??;
                        Some(now.with_text(text))
                    });
                    // A base spec is nobody else's.
                    let before = if base_spec::is_ours(&edit.path) { old.before.clone() } else { theirs };
                    *old = Edit { before, ..edit.clone() };
                }
                // The way back is the other way round: nothing names a base spec any more when it goes.
                None if base_spec::is_ours(&edit.path) => record.edits.insert(0, edit.clone()),
                None => record.edits.push(edit.clone()),
            }
        }
        record
    }
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
