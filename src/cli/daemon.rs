//! `pullgate daemon`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use serde_json::json;

use super::{Output, complain, paths};
use crate::{
    activation::{Activation, Outcome},
    audit::Journal,
    daemon::{self, Options},
    log::Log,
    reload::{self, Reloaded},
    systemd,
};

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Read configuration, policy, keys and boot list, say what is wrong with them, and end.
    #[arg(long)]
    check: bool,
    /// Have the daemon that runs read them again; ends when they are in force, and fails where they are refused.
    #[arg(long, conflicts_with = "check")]
    reload: bool,
    /// How to say it.
    #[arg(short, long, requires = "check", default_value = "text")]
    output: Output,
    /// Where what outlives a restart is kept.
    #[arg(long, value_name = "DIR", default_value = super::STATE)]
    state: PathBuf,
    /// The directory of the sockets.
    #[arg(long, value_name = "DIR", default_value = systemd::DIRECTORY)]
    runtime: PathBuf,
    /// journald's socket.
    #[arg(long, value_name = "SOCKET", default_value = Journal::SOCKET)]
    journal: PathBuf,
}

pub(super) fn run(config: &Path, arguments: &Arguments) -> ExitCode {
    if arguments.check {
        return check(config, arguments.output);
    }
    if arguments.reload {
        return reload(&arguments.runtime);
    }
    let filter = std::env::var("PULLGATE_LOG").unwrap_or_else(|_| "info".to_owned());
    let log = match Log::start(&filter) {
        Ok(log) => log,
        Err(error) => return complain(format!("PULLGATE_LOG: {error}")),
    };
    let options = Options {
        paths: paths(config, Some(arguments.state.clone())),
        runtime: arguments.runtime.clone(),
        journal: arguments.journal.clone(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(daemon::run(options, log))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(error),
    }
}

/// Says only what went wrong: what took force is in the journal.
fn reload(runtime: &Path) -> ExitCode {
    match reload::ask(runtime) {
        Ok(Reloaded { trouble: None, .. }) => ExitCode::SUCCESS,
        Ok(Reloaded { trouble: Some(trouble), mode, revision }) => {
            let policy =
                revision.map_or_else(|| "the boot list alone".to_owned(), |revision| format!("policy {revision}"));
            complain(format!("{trouble}\nIn force: mode {mode}, {policy}"))
        }
        Err(why) => {
            warn!("pullgate: whether the files are in force is not known: the daemon: {why}");
            ExitCode::from(super::INCONCLUSIVE)
        }
    }
}

fn check(config: &Path, output: Output) -> ExitCode {
    let activation = Activation::new(paths(config, None), |_, _| ());
    let runtime = match tokio::runtime::Builder::new_current_thread().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(error),
    };
    let (snapshot, outcome) = runtime.block_on(activation.load());
    match (outcome, output) {
        (Outcome::Rejected(trouble), Output::Text) => complain(format!("{} {}", trouble.code, trouble.message)),
        (Outcome::Rejected(trouble), Output::Json) => {
            say!("{}", json!({ "good": false, "code": trouble.code, "message": trouble.message }));
            ExitCode::from(super::BAD_CONFIGURATION)
        }
        (Outcome::Activated, output) => {
            let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
            let (rules, attestors) =
                snapshot.policy.as_ref().map_or((0, 0), |policy| (policy.rules.len(), policy.attestors.len()));
            match output {
                Output::Text => say!(
                    "good: mode {}, policy {} with {} and {}, {} in the boot list",
                    snapshot.config.mode,
                    snapshot.revision(),
                    count(rules, "rule"),
                    count(attestors, "attestor"),
                    count(snapshot.boot.len(), "digest"),
                ),
                Output::Json => say!(
                    "{}",
                    json!({ "good": true, "mode": snapshot.config.mode.to_string(), "revision": snapshot.revision(),
                            "rules": rules, "attestors": attestors, "boot-list": snapshot.boot.len() })
                ),
            }
            ExitCode::SUCCESS
        }
    }
}
