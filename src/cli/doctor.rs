//! `pullgate doctor`.

mod live;
mod report;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use nix::unistd::geteuid;
use serde_json::json;

use self::report::Examined;
use super::{INCONCLUSIVE, Output, change, complain, page, status};
use crate::{
    image::sanitize,
    node::doctor::{self, Facts, State},
    systemd,
};

#[derive(clap::Args)]
pub(super) struct DoctorArguments {
    /// How to say it.
    #[arg(short, long, default_value = "text")]
    output: Output,
    /// Only look; do not let the daemon prove each gate with images of its own.
    #[arg(long)]
    no_self_test: bool,
    /// Tell what is in order as well.
    #[arg(short, long)]
    verbose: bool,
    /// The directory of the sockets.
    #[arg(long, value_name = "DIR", default_value = systemd::DIRECTORY, hide = true)]
    runtime: PathBuf,
    /// Where `enable` keeps what is needed to go back.
    #[arg(long, value_name = "DIR", default_value = crate::node::STATE, hide = true)]
    state: PathBuf,
}

/// Where containerd is unless somebody says otherwise.
const USUAL_SOCKET: &str = "/run/containerd/containerd.sock";

pub(super) fn run(config: &Path, arguments: &DoctorArguments) -> ExitCode {
    if !geteuid().is_root() {
        warn!("pullgate: only root can look at containerd and its files; run this as root");
        return ExitCode::from(INCONCLUSIVE);
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(error),
    };
    let daemon = status::ask(&arguments.runtime).map_err(|why| sanitize(&why, 200));
    let own = change::configuration(config);
    let socket = match (&own, &daemon) {
        (Ok(config), _) => config.containerd.clone(),
        (Err(_), Ok(daemon)) => PathBuf::from(&daemon.containerd),
        (Err(_), Err(_)) => USUAL_SOCKET.into(),
    };
    let facts = runtime.block_on(doctor::gather(own, &socket, &arguments.state, daemon));
    let live = (!arguments.no_self_test).then(|| live::run(&arguments.runtime));
    let examined = Examined { findings: doctor::examine(&facts), live };
    let text = match arguments.output {
        Output::Json => document(&facts, &examined),
        Output::Text => examined.page(&heading(&facts), arguments.verbose),
    };
    page::print(&text, exit_code(&examined))
}

/// 0 nothing is open, 1 something is, 3 something could not be told.
fn exit_code(examined: &Examined) -> ExitCode {
    match examined.worst() {
        State::Open => ExitCode::from(1),
        State::Unknown => ExitCode::from(INCONCLUSIVE),
        State::Warning | State::Closed => ExitCode::SUCCESS,
    }
}

fn heading(facts: &Facts) -> String {
    let version =
        facts.configured.as_ref().map_or_else(|_| "containerd".to_owned(), |it| format!("containerd {}", it.version));
    let mode = match &facts.daemon {
        Ok(daemon) => format!("pullgate {} in {} mode", daemon.version, daemon.mode),
        Err(_) => "pullgate's daemon does not answer".to_owned(),
    };
    format!("{version} on {}\n{mode}", facts.socket.display())
}

fn document(facts: &Facts, examined: &Examined) -> String {
    let self_test = match &examined.live {
        None => json!(null),
        Some(Ok(report)) => json!(report),
        Some(Err(why)) => json!({ "error": why }),
    };
    let document = json!({
        "containerd": facts.configured.as_ref().ok().map(|configured| configured.version.to_string()),
        "address": facts.socket,
        "mode": facts.daemon.as_ref().ok().map(|daemon| daemon.mode.clone()),
        "verdict": examined.verdict(),
        "state": examined.worst(),
        "findings": examined.findings,
        "self-test": self_test,
    });
    page::json(&document)
}
