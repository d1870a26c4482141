//! What `enable` and `disable` have in common: the difference shown, the files written, containerd watched.

use std::{
    fs::File,
    io::{self, IsTerminal, Write},
    os::unix::{fs::FileTypeExt, net::UnixStream},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::unistd::geteuid;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    config::Config,
    containerd::Containerd,
    files,
    image::sanitize,
    limits,
    node::{
        Obstacle, base_spec,
        change::{Content, Edit},
        dump::Dump,
        live::{Before, Progress},
        process::Process,
        record::Written,
        unified::{self, Line},
    },
    systemd,
};

/// How long containerd is watched when it runs again as before.
const WATCH_BACK: Duration = Duration::from_secs(15);

#[derive(clap::Args)]
#[group(skip)]
pub(super) struct Arguments {
    /// Write the files, restart containerd and watch it. What does not come up is put back.
    #[arg(long)]
    pub(super) restart: bool,
    /// Write the files, and leave the restart of containerd to you.
    #[arg(long, conflicts_with = "restart")]
    pub(super) write: bool,
    /// Write nothing; end with exit code 1 unless there is nothing to do.
    #[arg(long, conflicts_with_all = ["restart", "write"])]
    pub(super) check: bool,
    /// How long containerd has to live after the restart.
    #[arg(long, value_name = "SECONDS", default_value = "15", value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(super) watch: u64,
    /// Where what is needed to go back is kept.
    #[arg(long, value_name = "DIR", default_value = crate::node::STATE, hide = true)]
    pub(super) state: PathBuf,
}

/// The node's configuration.
pub(super) fn configuration(path: &Path) -> Result<Config, String> {
    let text = files::read_trusted(path, limits::DOCUMENT_BYTES).map_err(|why| format!("{}: {why}", path.display()))?;
    Config::parse(path, &text).map_err(|problems| problems.to_string())
}

pub(super) fn root() -> Result<(), Obstacle> {
    match geteuid().is_root() {
        true => Ok(()),
        false => Err(Obstacle::new("containerd's configuration belongs to root", "Run this as root")),
    }
}

/// Two at a time would take each other's lines for somebody else's. Holds until it is dropped.
pub(super) fn alone(state: &Path) -> Result<File, Obstacle> {
    let path = state.with_extension("lock");
    let cannot = |error: io::Error| Obstacle::new(format!("{}: {error}", path.display()), "Nothing was written");
    files::private_directory(path.parent().unwrap_or(Path::new("/"))).map_err(cannot)?;
    let file = File::create(&path).map_err(cannot)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(_) => Err(Obstacle::new("another pullgate changes containerd's configuration now", "Wait for its end")),
    }
}

/// A connected containerd without a daemon pulls nothing.
pub(super) fn daemon() -> Result<(), Obstacle> {
    let socket = Path::new(systemd::DIRECTORY).join("status.sock");
    UnixStream::connect(&socket).map(drop).map_err(|error| {
        Obstacle::new(
            format!("pullgate's daemon does not answer on {}: {error}", socket.display()),
            "Run: systemctl enable --now pullgate-gates.socket pullgate.service",
        )
    })
}

/// Nor does one start a container where nobody listens to the hook: a daemon of before the start gate.
pub(super) fn listens_to_starts() -> Result<(), Obstacle> {
    let socket = Path::new(systemd::DIRECTORY).join("start.sock");
    match socket.metadata().is_ok_and(|meta| meta.file_type().is_socket()) {
        true => Ok(()),
        false => Err(Obstacle::new(
            format!("nobody listens on {}: no container would start", socket.display()),
            "Run: systemctl restart pullgate-gates.socket pullgate.service",
        )),
    }
}

pub(super) fn note(notes: &[String]) {
    for note in notes {
        say!("note: {note}");
    }
}

/// The difference, in colours on a terminal.
pub(super) fn show(edits: &[Edit]) {
    let paint = painter();
    for Edit { path, before, after } in edits {
        let link = |content: &Option<Content>| match content {
            Some(Content::Link { target }) => Some(target.display().to_string()),
            _ => None,
        };
        if let Some(target) = link(after) {
            paint("32", &format!("+++ {} -> {target}", path.display()));
            continue;
        }
        if let Some(target) = link(before) {
            paint("31", &format!("--- {} -> {target}", path.display()));
            continue;
        }
        let name = |content: &Option<Content>| match content {
            Some(_) => path.display().to_string(),
            None => "/dev/null".to_owned(),
        };
        let text =
            |content: &Option<Content>| content.as_ref().map_or(String::new(), |content| content.text().to_owned());
        lines(&name(before), &name(after), &text(before), &text(after), &paint);
    }
}

/// What was made of `from`, as a difference to it.
pub(super) fn show_made(path: &Path, from: &str, source: &str, made: &str) {
    let pretty = |text: &str| base_spec::pretty(text).unwrap_or_else(|_| text.to_owned());
    lines(&sanitize(from, 400), &path.display().to_string(), &pretty(source), &pretty(made), &painter());
}

fn painter() -> impl Fn(&str, &str) {
    let colours = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    move |code, text| match colours {
        true => say!("\x1b[{code}m{text}\x1b[0m"),
        false => say!("{text}"),
    }
}

fn lines(from: &str, to: &str, before: &str, after: &str, paint: &impl Fn(&str, &str)) {
    paint("1", &format!("--- {from}"));
    paint("1", &format!("+++ {to}"));
    for line in unified::difference(before, after) {
        // Somebody else's file may hold what is not for a terminal.
        let safe = |line: String| sanitize(&line.replace('\t', "    "), 400);
        match line {
            Line::Place(line) => paint("36", &line),
            Line::Same(line) => say!(" {}", safe(line)),
            Line::Removed(line) => paint("31", &format!("-{}", safe(line))),
            Line::Added(line) => paint("32", &format!("+{}", safe(line))),
        }
    }
}

/// Sees that nothing but pullgate's keys changed; else everything goes back.
pub(super) fn verify(written: &Written, process: &Process, before: &Dump) -> Result<(), Obstacle> {
    let config = process.config.exists().then_some(&process.config);
    let why = match crate::node::enable::dump(&process.program, config) {
        Err(why) => format!("containerd refuses the new configuration: {why}"),
        Ok(after) => match (before.changes(&after, &written.base_specs()), crate::node::start::dangling(&after)) {
            (changes, _) if !changes.is_empty() => {
                format!("more than pullgate's keys changed: {}", changes.join(", "))
            }
            (_, Some(why)) => why,
            (_, None) => return Ok(()),
        },
    };
    Err(back(written, &why))
}

/// Restarts containerd and watches it; what does not live goes back, and containerd is restarted once more.
pub(super) async fn restart(
    containerd: &Containerd,
    written: &Written,
    before: &Before,
    gated: bool,
    watch: Duration,
) -> Result<Process, Obstacle> {
    let mut progress = progress;
    // Nobody may end this half way: a containerd that does not live would stay so.
    let restarted = match interruption() {
        Err(error) => Err(format!("signals cannot be received: {error}")),
        Ok(interruption) => tokio::select! {
            restarted = before.restart(containerd, gated, watch, &mut progress) => restarted,
            name = interruption => Err(format!("interrupted by {name}")),
        },
    };
    let why = match restarted {
        Ok(process) => {
            end_progress();
            return Ok(process);
        }
        Err(why) => why,
    };
    end_progress();
    let obstacle = back(written, &why);
    warn!("pullgate: {}; everything is put back, and containerd is restarted once more", first_line(&why));
    let again = before.restart(containerd, !gated, watch.min(WATCH_BACK), &mut progress).await;
    end_progress();
    Err(match again {
        Ok(_) => Obstacle::new(obstacle.what, format!("{}. containerd runs as before", obstacle.fix)),
        Err(again) => Obstacle::new(
            obstacle.what,
            format!("{}. AND containerd does not come up as before: {again}", obstacle.fix),
        ),
    })
}

/// Waits for whatever would end this process: a key, `kill`, or a connection to the node that broke. From here on none of
/// them does.
fn interruption() -> io::Result<impl Future<Output = &'static str>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
            _ = hangup.recv() => "SIGHUP",
        }
    })
}

fn first_line(text: &str) -> String {
    sanitize(text.lines().next().unwrap_or_default(), 300)
}

fn back(written: &Written, why: &str) -> Obstacle {
    match written.take_back() {
        Ok(()) => Obstacle::new(why, "Every file is as it was"),
        Err(more) => Obstacle::new(why, format!("NOT every file could be put back: {more}")),
    }
}

fn progress(progress: Progress) {
    if !io::stderr().is_terminal() {
        return;
    }
    let text = match progress {
        Progress::Restarting => "restarting containerd".to_owned(),
        Progress::Waiting => "waiting for containerd".to_owned(),
        Progress::Lives(left) => format!("containerd is up; watching it for {} s", left.as_secs()),
    };
    let _ = write!(io::stderr(), "\r\x1b[K{text}");
    let _ = io::stderr().flush();
}

fn end_progress() {
    if io::stderr().is_terminal() {
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
}

/// Tells an obstacle on standard error, each line safe for a terminal.
pub(super) fn complain(obstacle: &Obstacle) {
    for (number, line) in obstacle.to_string().lines().enumerate() {
        let start = if number == 0 { "pullgate: " } else { "" };
        warn!("{start}{}", sanitize(line, 2000));
    }
}
