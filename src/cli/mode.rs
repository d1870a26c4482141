//! `pullgate mode`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::ValueEnum;

use super::{audit::images, change, complain, journalctl::Query, status};
use crate::{
    audit::{Decided, Field, Kind, Told},
    config::NodeMode,
    decisions::Asking,
    gate::Standing,
    image::{Digest, sanitize},
    limits,
    node::{
        self, Obstacle,
        change::{Content, Edit},
        connection,
        sandbox::Sandbox,
    },
    policy::decision::{Code, Verdict},
    reload,
    status::Status,
    systemd,
};

/// Images that are listed one by one.
const LISTED: usize = 50;

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The mode to take.
    mode: Option<Mode>,
    /// Take it though images that are on the node would be refused, or could not be told about.
    #[arg(long)]
    yes: bool,
    /// Take it though the audit of the last day has images whose registry wanted credentials that this node does not have
    /// (PG301).
    #[arg(long)]
    despite_unauthorized: bool,
    /// Where the daemon keeps what outlives a restart.
    #[arg(long, value_name = "DIR", default_value = super::STATE, hide = true)]
    state: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum Mode {
    /// What the policy refuses is recorded and admitted.
    Audit,
    /// What the policy refuses is refused.
    Enforce,
}

pub(super) fn run(config: &Path, arguments: &Arguments) -> ExitCode {
    let present = match change::configuration(config) {
        Ok(present) => present,
        Err(why) => return complain(why),
    };
    let mode = match arguments.mode {
        None => {
            say!("{}", present.mode);
            return ExitCode::SUCCESS;
        }
        Some(Mode::Audit) => NodeMode::Audit,
        Some(Mode::Enforce) => NodeMode::Enforce,
    };
    let switched =
        audited(mode, arguments).and_then(|()| preview(config, mode, arguments)).and_then(|()| switch(config, mode));
    match switched {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Obstacle(obstacle)) => {
            change::complain(&obstacle);
            ExitCode::from(1)
        }
        Err(Failure::Configuration(why)) => complain(why),
    }
}

enum Failure {
    Obstacle(Obstacle),
    Configuration(String),
}

fn obstacle(what: impl Into<String>, fix: impl Into<String>) -> Failure {
    Failure::Obstacle(Obstacle::new(what, fix))
}

/// Before this node refuses: the images that it could not judge of late for want of credentials.
fn audited(mode: NodeMode, arguments: &Arguments) -> Result<(), Failure> {
    if mode == NodeMode::Audit || arguments.despite_unauthorized {
        return Ok(());
    }
    let since = format!("--since=-{}s", limits::PRIVATE_MEMORY.as_secs());
    let entries = ["allow", "deny", "inconclusive"]
        .into_iter()
        .fold(Query::daemon().kinds(Kind::ALL).with(since), |query, verdict| query.field(Field::Verdict, verdict))
        .read();
    let told = entries.and_then(|entries| entries.map(|entry| Ok(Told::from(&entry?))).collect::<Result<Private, _>>());
    let images = match told {
        Ok(Private(images)) => images,
        Err(why) => {
            say!("Whether images could not be judged of late ({}) is not known: {why}", Code::RegistryUnauthorized);
            return Ok(());
        }
    };
    if images.is_empty() {
        return Ok(());
    }
    say!("The audit of the last day has images whose registry wanted credentials ({}):", Code::RegistryUnauthorized);
    images.values().take(LISTED).for_each(|image| say!("  {}", sanitize(image, 200)));
    if images.len() > LISTED {
        say!("  … and {} more", images.len() - LISTED);
    }
    Err(obstacle(
        "nothing was changed: this node would refuse these images, signed or not",
        "Give pullgate read-only credentials, or an evidence repository: docs/registries.md. To enforce all the same: \
         pullgate mode enforce --despite-unauthorized",
    ))
}

/// The images, by digest, whose newest decision that could be made had no credentials: entries come oldest first.
struct Private(BTreeMap<Digest, String>);

impl FromIterator<Told> for Private {
    fn from_iter<T: IntoIterator<Item = Told>>(all: T) -> Self {
        let mut images = BTreeMap::new();
        for Decided { decision, image, .. } in all.into_iter().filter_map(|told| told.decided) {
            let Some(digest) = decision.digest else { continue };
            if decision.violations.iter().any(|violation| violation.code == Code::RegistryUnauthorized) {
                if images.len() < limits::PRIVATE_IMAGES {
                    images.insert(digest, image.or(decision.name).unwrap_or_else(|| digest.to_string()));
                }
            } else if decision.verdict != Verdict::Inconclusive {
                images.remove(&digest);
            }
        }
        Self(images)
    }
}

/// Before this node refuses: what is on it that would be refused.
fn preview(config: &Path, mode: NodeMode, Arguments { yes, state, .. }: &Arguments) -> Result<(), Failure> {
    if mode == NodeMode::Audit {
        return Ok(());
    }
    let (_, judged) = images::look(config, state, Asking::Usual).map_err(Failure::Configuration)?;
    // What starts without a pull is not in the list below.
    if let Ok(connection) = change::configuration(config).and_then(|config| connection::now(&config.containerd))
        && !connection.start.is_closed()
    {
        say!("Containers that start unasked: start gate {}", connection.start);
    }
    let standing = match judged {
        Ok(judged) => judged.images,
        Err(_) if *yes => return Ok(()),
        Err(trouble) => {
            let what = format!("the images on this node could not be judged: {trouble}");
            return Err(obstacle(what, "Nothing was changed. To enforce all the same: pullgate mode enforce --yes"));
        }
    };
    let open: Vec<&Standing> = standing
        .iter()
        .filter(|standing| standing.decision.verdict != Verdict::Allow && !standing.decision.audit_only)
        .collect();
    if open.is_empty() {
        say!("{} images are on this node, and the policy admits them all.", standing.len());
        return Ok(());
    }
    say!("Of {} images on this node, the policy would not admit {}:", standing.len(), open.len());
    for standing in open.iter().take(LISTED) {
        say!(
            "  {} ({}): {}",
            sanitize(&standing.name(), 200),
            sanitize(&standing.namespace, 80),
            standing.decision.message(None)
        );
    }
    if open.len() > LISTED {
        say!("  … and {} more", open.len() - LISTED);
    }
    let unauthorized = |standing: &&&Standing| {
        standing.decision.violations.iter().any(|violation| violation.code == Code::RegistryUnauthorized)
    };
    let private = open.iter().filter(unauthorized).count();
    if private > 0 {
        say!(
            "{private} of them end in {}: their registry wants credentials that this node does not have. Give pullgate \
             read-only credentials, or an evidence repository, first.",
            Code::RegistryUnauthorized
        );
    }
    match *yes {
        true => Ok(()),
        false => Err(obstacle(
            "nothing was changed: these images could not come onto this node again",
            "Sign them, or change the policy. To enforce all the same: pullgate mode enforce --yes",
        )),
    }
}

/// Writes the mode and lets the daemon read it.
fn switch(config: &Path, mode: NodeMode) -> Result<(), Failure> {
    let unread = |why: String| Failure::Configuration(format!("{}: {why}", config.display()));
    let before = Content::of_file(config).map_err(Failure::Configuration)?;
    let before = before.ok_or_else(|| unread("the file is not there".to_owned()))?;
    let text = node::mode::set(before.text(), mode).map_err(unread)?;
    let written = text != before.text();
    if written {
        let after = Some(before.with_text(text));
        let edit = Edit { path: config.to_owned(), before: Some(before), after };
        node::change::make(&[edit]).map_err(|why| obstacle(why, "Nothing was changed"))?;
    }
    let active = node::run("systemctl", &["is-active", "pullgate.service"]).is_ok();
    if !active {
        say!("{mode}: written to {}; it takes force when pullgate.service starts", config.display());
        return Ok(());
    }
    let look = "Look at: systemctl status pullgate.service";
    let runtime = Path::new(systemd::DIRECTORY);
    let reloaded = reload::ask(runtime)
        .map_err(|why| obstacle(format!("{mode} is written; whether it is in force is not known: {why}"), look))?;
    if reloaded.mode != mode.to_string() {
        let why = reloaded.trouble.unwrap_or_else(|| format!("the daemon is in mode {}", reloaded.mode));
        return Err(obstacle(format!("{mode} is written, and not in force: {why}"), look));
    }
    let policy = reloaded.revision.as_deref().unwrap_or("none");
    say!("{mode}: in force{}, policy {policy}", if written { "" } else { " already" });
    match status::ask(runtime) {
        Ok(status) => notes(mode, &status).iter().for_each(|note| say!("note: {note}")),
        Err(why) => say!("note: what keeps it from doing what it says is not known: {why}"),
    }
    Ok(())
}

/// What keeps a mode from doing what it says, or from doing it to the good of the node.
fn notes(mode: NodeMode, status: &Status) -> Vec<String> {
    let mut notes: Vec<String> = status.trouble.iter().map(|trouble| sanitize(trouble, 1000)).collect();
    if mode == NodeMode::Enforce {
        let socket = Path::new(&status.containerd);
        let connection = connection::now(socket);
        if !connection.as_ref().is_ok_and(|connection| connection.is_live()) {
            let how = connection.map_or_else(|why| format!("not known: {why}"), |connection| connection.to_string());
            notes.push(format!("containerd does not ask every gate: {how}"));
        }
        if matches!(status.sandbox, Sandbox::NotListed { .. } | Sandbox::NotHere { .. }) {
            notes.push(status.sandbox.to_string());
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::samples::{self, told};

    #[test]
    fn an_image_stands_in_the_way_until_it_could_be_judged() {
        let entry = |code: Option<Code>, byte: u8| {
            let allowed = || crate::policy::decision::Decision { verdict: Verdict::Allow, ..Default::default() };
            let mut told = told(1, &code.map_or_else(allowed, samples::refusal), NodeMode::Audit);
            let decided = told.decided.as_mut().unwrap();
            decided.decision.digest = Some(Digest::of(&[byte]));
            decided.image = Some(format!("reg.io/{byte}:v1"));
            told
        };
        let private = Some(Code::RegistryUnauthorized);
        for (entries, expected) in [
            (vec![], vec![]),
            (vec![entry(private, 1), entry(private, 1), entry(private, 2)], vec!["reg.io/1:v1", "reg.io/2:v1"]),
            (vec![entry(private, 1), entry(Some(Code::RegistryTimeout), 1)], vec!["reg.io/1:v1"]),
            (vec![entry(private, 1), entry(Some(Code::Unsigned), 1)], vec![]),
            (vec![entry(private, 1), entry(None, 1)], vec![]),
            (vec![entry(None, 1), entry(private, 1)], vec!["reg.io/1:v1"]),
        ] {
            let mut found: Vec<String> = Private::from_iter(entries).0.into_values().collect();
            found.sort();
            assert_eq!(found, expected);
        }
    }
}
