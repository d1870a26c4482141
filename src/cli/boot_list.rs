//! `pullgate boot-list`.

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use serde_json::json;

use super::{Output, complain, digests, exit_code, paths};
use crate::{
    activation::Activation,
    boot::{self, BootList, Entry},
    containerd::Containerd,
    image::sanitize,
    limits,
    node::essentials::{self, Seeded},
    policy::decision::Verdict,
    reload, systemd,
};

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Add what this node runs now: the sandbox image, static pods, kube-system.
    #[arg(long)]
    write: bool,
    /// How to say it.
    #[arg(short, long, default_value = "text")]
    output: Output,
}

pub(super) fn run(config: &Path, arguments: &Arguments) -> ExitCode {
    let directory = paths(config, None).boot;
    let seeded = match seed(config) {
        Ok(seeded) => seeded,
        Err(error) => return complain(error),
    };
    let list = BootList::read(&directory);
    let missing = list.missing(&seeded.entries);
    if arguments.write
        && let Err(error) = boot::add(&directory, &missing)
    {
        return complain(error);
    }
    match arguments.output {
        Output::Json => print_json(&list, &missing, &seeded, arguments.write),
        Output::Text => print(&list, &missing, &seeded, arguments.write),
    }
    match seeded.incomplete {
        true => exit_code(Verdict::Inconclusive),
        false => ExitCode::SUCCESS,
    }
}

/// Prints what this node cannot do without as a file of the boot list, whether it is listed or not.
pub(super) fn suggest(config: &Path) -> ExitCode {
    let seeded = match seed(config) {
        Ok(seeded) => seeded,
        Err(error) => return complain(error),
    };
    seeded.entries.iter().for_each(|entry| say!("{entry}"));
    for problem in &seeded.problems {
        say!("# not in it: {problem}");
        warn!("pullgate: not in it: {problem}");
    }
    match seeded.problems.is_empty() {
        true => ExitCode::SUCCESS,
        false => exit_code(Verdict::Inconclusive),
    }
}

fn seed(config: &Path) -> io::Result<Seeded> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(async {
        // A configuration that cannot be used is when this list counts: then containerd is where it always is.
        let (snapshot, _) = Activation::new(paths(config, None), |_, _| ()).load().await;
        essentials::seed(&Arc::new(Containerd::new(&snapshot.config.containerd))).await
    }))
}

/// What this node cannot do without and the list in `directory` does not have.
pub(super) struct Proposal {
    directory: PathBuf,
    missing: Vec<Entry>,
    problems: Vec<String>,
}

impl Proposal {
    /// Looks at the node.
    pub(super) async fn look(containerd: &Arc<Containerd>, directory: PathBuf) -> Self {
        let seeded = essentials::seed(containerd).await;
        let list = BootList::read(&directory);
        Self { missing: list.missing(&seeded.entries), problems: [list.problems, seeded.problems].concat(), directory }
    }

    /// Whether there is nothing to add.
    pub(super) fn is_empty(&self) -> bool {
        self.missing.is_empty()
    }

    /// Shows what would be added.
    pub(super) fn show(&self) {
        if !self.missing.is_empty() {
            say!("+++ {} (the boot list: admitted whatever else is broken)", self.directory.display());
            self.missing.iter().for_each(|entry| say!("+{entry}"));
            say!("Whatever runs here now would be trusted, whoever brought it: look at each, or say --no-boot-list.");
        }
        for problem in &self.problems {
            say!("note: not in the boot list: {}", sanitize(problem, limits::REFERENCE_CHARS));
        }
    }

    /// Adds it, and lets the daemon read it.
    ///
    /// # Errors
    /// When the list cannot be written, and is as it was then, or cannot be read yet.
    pub(super) fn write(&self) -> Result<(), String> {
        let added = boot::add(&self.directory, &self.missing).map_err(|error| error.to_string())?;
        if added.is_empty() {
            return Ok(());
        }
        say!("{} added to the boot list. See: pullgate boot-list", digests(added.len()));
        reload::ask(Path::new(systemd::DIRECTORY))
            .map(drop)
            .map_err(|why| format!("the daemon does not read it: {why}"))
    }
}

fn print(list: &BootList, missing: &[Entry], seeded: &Seeded, written: bool) {
    say!("boot list: {}, admitted whatever else is broken", digests(list.len()));
    for (digest, origin) in list.entries() {
        say!("  {digest}  # {}\n    {}", origin.comment, sanitize(&origin.to_string(), limits::REFERENCE_CHARS));
    }
    if !missing.is_empty() {
        let done = if written { "added" } else { "this node runs, and the list does not have" };
        say!("{done}: {}", digests(missing.len()));
        missing.iter().for_each(|entry| say!("  {entry}"));
    }
    for problem in list.problems.iter().chain(&seeded.problems) {
        say!("not in it: {}", sanitize(problem, limits::REFERENCE_CHARS));
    }
    match (missing.is_empty(), written) {
        (true, _) => {}
        (false, true) => say!("They count from the next `systemctl reload pullgate` on."),
        (false, false) => say!(
            "No policy is asked about a digest in the boot list, so look at each: whatever runs here now would be \
             trusted, whoever brought it. Then run `pullgate boot-list --write`."
        ),
    }
}

fn print_json(list: &BootList, missing: &[Entry], seeded: &Seeded, written: bool) {
    let entries: Vec<_> =
        list.entries().map(|(digest, origin)| json!({ "digest": digest, "origin": origin })).collect();
    let problems: Vec<_> = list.problems.iter().chain(&seeded.problems).collect();
    say!("{}", json!({ "entries": entries, "missing": missing, "written": written, "problems": problems }));
}
