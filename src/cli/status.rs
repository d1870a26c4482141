//! `pullgate status`.

use std::{
    io::Read,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use serde_json::json;

use super::{Output, break_glass, complain, digests};
use crate::{
    gate::{LastWalk, WatchReport},
    image::sanitize,
    node::{
        connection::{self, Connection, Gate},
        sandbox::Sandbox,
    },
    selftest::Report,
    status::{Answers, Status},
    systemd,
};

/// Time for the daemon to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a report.
const REPORT_BYTES: u64 = 1 << 20;

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// How to say it.
    #[arg(short, long, default_value = "text")]
    output: Output,
    /// The directory of the sockets.
    #[arg(long, value_name = "DIR", default_value = systemd::DIRECTORY)]
    runtime: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let socket = arguments.runtime.join("status.sock");
    let text = match report(&socket) {
        Ok(text) => text,
        Err(error) => {
            warn!("pullgate: the daemon does not answer on {}: {error}", socket.display());
            warn!("  run as root; look at `systemctl status pullgate.service pullgate-gates.socket`");
            return ExitCode::from(3);
        }
    };
    let status: Status = match serde_json::from_str(&text) {
        Ok(status) => status,
        Err(error) => return complain(format!("the daemon's report cannot be read: {error}")),
    };
    let connection = connection::now(Path::new(&status.containerd));
    match arguments.output {
        Output::Json => print_json(&status, &connection),
        Output::Text => print(&status, &connection),
    }
    // Who set out to refuse must hear that nothing asks.
    let gates_are_open =
        |connection: &Connection| connection.has_drifted() || status.mode == "enforce" && !connection.is_configured();
    match status.is_trouble() || connection.is_ok_and(|connection| gates_are_open(&connection)) {
        true => ExitCode::from(1),
        false => ExitCode::SUCCESS,
    }
}

/// What the daemon whose sockets are in `runtime` says about itself.
pub(super) fn ask(runtime: &Path) -> Result<Status, String> {
    let text = report(&runtime.join("status.sock")).map_err(|error| error.to_string())?;
    serde_json::from_str(&text).map_err(|error| error.to_string())
}

fn report(socket: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.take(REPORT_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// The daemon's report, and how containerd is connected, which only root can see.
fn print_json(status: &Status, connection: &Result<Connection, String>) {
    let gates = connection.as_ref().map(|connection| {
        let told = |(name, gate): (&str, &Gate)| (name.to_owned(), json!(gate.to_string()));
        let mut gates: serde_json::Map<_, _> = connection.gates().map(told).collect();
        let handlers = connection.start.0.iter().map(|(name, gate)| told((name.as_str(), gate)));
        gates.insert("start".to_owned(), handlers.collect());
        gates
    });
    let mut report = json!(status);
    report["gates"] = json!(gates);
    say!("{report:#}");
}

fn print(status: &Status, connection: &Result<Connection, String>) {
    let row = |name: &str, value: String| say!("{name:<13}{value}");
    row("pullgate", format!("{}, up {}", status.version, duration(status.up_seconds)));
    row(
        "mode",
        match status.mode.as_str() {
            "audit" => "audit: what the policy refuses is recorded and admitted".to_owned(),
            mode => mode.to_owned(),
        },
    );
    row(
        "policy",
        match &status.revision {
            Some(revision) => {
                format!("{revision} of {}: {} rules, {} attestors", status.policy, status.rules, status.attestors)
            }
            None => format!("none; only the boot list is admitted ({})", status.policy),
        },
    );
    if let Some(trouble) = &status.trouble {
        row("TROUBLE", sanitize(trouble, 1000));
    }
    if let Some(clock) = &status.clock {
        row("TROUBLE", sanitize(clock, 400));
    }
    if let Some(trouble) = &status.break_glass.trouble {
        row("TROUBLE", sanitize(trouble, 400));
    }
    for (number, pass) in status.break_glass.passes.iter().enumerate() {
        let title = if number == 0 { "BREAK-GLASS" } else { "" };
        row(title, format!("pass {}: {}, {}", pass.id, sanitize(&pass.scope, 200), break_glass::standing(pass)));
        row("", sanitize(&format!("by {}: {}", pass.who, pass.reason), 400));
    }
    match &status.sandbox {
        sandbox @ Sandbox::NotListed { .. } => row("TROUBLE", sandbox.to_string()),
        Sandbox::NotHere { .. } | Sandbox::Unknown { .. } => row("sandbox", status.sandbox.to_string()),
        Sandbox::NoPods | Sandbox::Listed { .. } => {}
    }
    row("boot list", digests(status.boot_list));
    for (file, count) in &status.boot_files {
        row("", format!("{} in {}", digests(*count), sanitize(file, 200)));
    }
    for problem in &status.boot_problems {
        row("", format!("not read: {}", sanitize(problem, 200)));
    }
    row(
        "containerd",
        match &status.containerd_version {
            Ok(version) => format!("{} at {}", sanitize(version, 80), status.containerd),
            Err(why) => format!("NOT REACHED at {}: {}", status.containerd, sanitize(why, 200)),
        },
    );
    row(
        "gates",
        match connection {
            Ok(connection) => connection.to_string(),
            Err(why) => format!("not known: {why}"),
        },
    );
    if let Ok(connection) = connection {
        row("start", connection.start.to_string());
    }
    print_proofs(&status.enforcing);
    let gate = |answers: &Answers| {
        let Answers { allowed, denied, inconclusive, audit_only, .. } = answers;
        format!("{allowed} allowed, {denied} denied, {inconclusive} could not tell, {audit_only} admitted by audit")
    };
    row("resolve gate", gate(&status.resolve));
    row("unpack gate", format!("{}; {} layers", gate(&status.unpack), status.unpack.layers));
    row("watch", watch(&status.watch));
    row("start gate", gate(&status.start));
    row(
        "evidence",
        format!(
            "{} registry requests, {} decisions remembered, {} pieces not kept",
            status.registry_requests, status.decisions, status.evidence_lost
        ),
    );
    if status.unauthorized_images > 0 {
        let images = status.unauthorized_images;
        row(
            "",
            format!(
                "{images} images of the last day not judged: PG301, their registry wants credentials (docs/registries.md)"
            ),
        );
    }
    row(
        "audit",
        format!(
            "{} entries written, {} not; {} log lines dropped",
            status.audit_written, status.audit_failed, status.log_dropped
        ),
    );
}

fn watch(report: &WatchReport) -> String {
    let WatchReport { bypasses, containers_without_allow, images_without_allow, quarantined, last_walk } = report;
    let last = match last_walk {
        None => "not yet walked".to_owned(),
        Some(LastWalk { at, images, containers, milliseconds, .. }) => {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
            let ago = duration(now.saturating_sub(*at));
            format!("walked {ago} ago over {images} images and {containers} containers in {milliseconds} ms")
        }
    };
    format!(
        "{images_without_allow} images and {containers_without_allow} running containers not admitted, {bypasses} ways \
         around the start gate, {quarantined} quarantined; {last}"
    )
}

/// A line for each gate: what the self-test saw of it, and when.
fn print_proofs(report: &Report) {
    let when = match report.at {
        Some(at) if !report.run.is_empty() => format!("last run {at:.0}, {} ms", report.took_ms),
        _ => "has not run yet".to_owned(),
    };
    say!("{:<13}{when}", "self-test");
    for proof in &report.gates {
        say!("{:<13}{proof}", "");
    }
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}
