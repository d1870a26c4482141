//! The facts, gathered once.

mod containers;
mod disk;

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{
    super::{
        enable, imports,
        process::{self, CONFIG, Process},
        record::{FILE, Record},
        run,
        start::Start,
        verifiers::DIRECTORY,
        version::Version,
    },
    Configured, Facts, Foreign, Known, Running, Units,
};
use crate::{config::Config, containerd::Containerd, image::sanitize, status::Status};

/// Where containerd's program is when it does not run.
const PROGRAMS: [&str; 2] = ["/usr/bin/containerd", "/usr/local/bin/containerd"];
/// Programs beside containerd that unpack images.
const ENGINES: [&str; 3] = ["dockerd", "buildkitd", "crio"];
/// Characters of a reason.
const TOLD: usize = 300;

/// Looks at the containerd behind `socket`. `own` is pullgate's configuration, `state` where `enable` keeps its record,
/// and `daemon` what the daemon says.
pub async fn gather(own: Known<Config>, socket: &Path, state: &Path, daemon: Known<Status>) -> Facts {
    let containerd = Containerd::new(socket);
    let process = process_of(&containerd, socket).await;
    let configured = configured(process.as_ref().ok()).map_err(told);
    let record = Record::load(state);
    let running = match (&process, &configured) {
        (Ok(process), Ok(configured)) => running(&containerd, process, configured, &record, state).await,
        (Err(why), _) | (_, Err(why)) => Err(why.clone()),
    };
    let dump = configured.as_ref().map(|configured| &configured.dump);
    let verifiers = match &configured {
        Ok(configured) if configured.version >= Version::VERIFIERS => match configured.dump.verifiers() {
            Some((directory, _)) => disk::verifiers(Path::new(DIRECTORY), &directory).map(Some),
            None => Ok(None),
        },
        Ok(_) => Ok(None),
        Err(why) => Err(why.clone()),
    };
    let start = match (&process, &configured, &running) {
        (Ok(process), Ok(configured), Ok(running)) => {
            let texts: Vec<&str> = configured.files.iter().map(|file| file.text.as_str()).collect();
            let known = (configured.version, &configured.dump, running.loaded.as_slice(), texts.as_slice());
            Ok(Start::look(&containerd, process, known, record.as_ref().ok().and_then(Option::as_ref)).await)
        }
        (Err(why), ..) | (_, Err(why), _) | (.., Err(why)) => Err(why.clone()),
    };
    Facts {
        acknowledged: own.as_ref().map(|config| config.acknowledged.clone()).unwrap_or_default(),
        own: own.map(|config| config.watch.exempt),
        socket: socket.to_owned(),
        verifiers: verifiers.map_err(told),
        enabled: record.map(|record| record.map(|record| disk::enabled(&record))).map_err(told),
        base_specs: dump.map(disk::base_specs).unwrap_or_default(),
        start: start.map_err(told),
        containers: containers::mounts(&containerd).await.map_err(told),
        foreign: foreign(),
        nri_open: dump.map(disk::nri_open).map_err(Clone::clone),
        units: units().map_err(told),
        configured,
        running: running.map_err(told),
        daemon,
    }
}

fn told(why: String) -> String {
    sanitize(&why, TOLD)
}

async fn process_of(containerd: &Containerd, socket: &Path) -> Known<Process> {
    let silent = |why: String| format!("containerd does not answer on {}: {why}", socket.display());
    let pid = containerd.process().await.map_err(|error| silent(error.to_string()))?;
    Process::of(pid.ok_or_else(|| silent("its process is not known".to_owned()))?)
}

/// What the next start of containerd runs with. Its program and file are the usual ones when it does not run.
fn configured(process: Option<&Process>) -> Known<Configured> {
    let usual = || PROGRAMS.iter().map(PathBuf::from).find(|program| program.is_file());
    let program = process.map(|process| process.program.clone()).or_else(usual);
    let program = program.ok_or_else(|| format!("containerd does not run, and is not in {}", PROGRAMS.join(" or ")))?;
    let main = process.map_or_else(|| CONFIG.into(), |process| process.config.clone());
    let version: Version = run(&program, &["--version"])?.parse()?;
    let files = imports::read(&main)?;
    let dump = enable::dump(&program, (!files.is_empty()).then_some(&main))?;
    Ok(Configured { main, files, dump, version })
}

async fn running(
    containerd: &Containerd,
    process: &Process,
    configured: &Configured,
    record: &Known<Option<Record>>,
    state: &Path,
) -> Known<Running> {
    let loaded = containerd.loaded().await.map_err(|status| format!("containerd: {}", status.message()))?;
    // What was seen in force by `enable` was read, whatever a clock that was set in between says.
    let seen = |record: &Record| record.live == Some((process.pid, process.ticks));
    let noted = match record {
        Ok(Some(record)) if seen(record) => process::changed(&state.join(FILE)),
        _ => None,
    };
    let read = noted.map_or(process.started, |noted: SystemTime| noted.max(process.started));
    let mut unread: Vec<PathBuf> = configured.files.iter().flat_map(imports::Read::places).collect();
    unread.retain(|path| process::changed(path).is_none_or(|changed| changed > read));
    unread.dedup();
    Ok(Running { loaded, unread, others: process.others().iter().map(ToString::to_string).collect() })
}

/// The values of some properties of a unit, in the order in which systemd prints them: sorted by nothing, so by name.
fn properties(unit: &str, names: &[&str]) -> Known<Vec<String>> {
    let wanted = format!("--property={}", names.join(","));
    let shown = run("systemctl", &["show", &wanted, unit])?;
    let value = |name: &&str| {
        let start = format!("{name}=");
        shown.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or_default().to_owned()
    };
    Ok(names.iter().map(value).collect())
}

fn units() -> Known<Units> {
    let sockets = properties("pullgate-gates.socket", &["ActiveState", "UnitFileState"])?;
    let service = properties("pullgate.service", &["LogRateLimitIntervalUSec", "LogRateLimitBurst"])?;
    let [active, enabled] = sockets.as_slice() else { return Err("systemctl show says nothing".to_owned()) };
    let [interval, burst] = service.as_slice() else { return Err("systemctl show says nothing".to_owned()) };
    Ok(Units {
        sockets_active: active == "active",
        sockets_enabled: enabled.starts_with("enabled"),
        rate_interval: interval.clone(),
        rate_burst: burst.parse().map_err(|_| format!("LogRateLimitBurst={burst} is no number"))?,
    })
}

fn foreign() -> Foreign {
    let programs = engines();
    let docker = programs.iter().any(|program| program == "dockerd").then(|| {
        let said = run("docker", &["info", "--format", "{{json .DriverStatus}}"])?;
        Ok(said.contains("io.containerd.snapshotter.v1"))
    });
    let docker_in_containerd = docker.map(|said: Known<bool>| said.map_err(told));
    Foreign { programs, docker_in_containerd }
}

/// Those of [`ENGINES`] that run outside of containers.
fn engines() -> Vec<String> {
    let namespace = |of: &Path| fs::read_link(of.join("ns/mnt")).ok();
    let own = namespace(Path::new("/proc/self"));
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut found: Vec<String> = entries
        .filter_map(|entry| {
            let name = fs::read_to_string(entry.path().join("comm")).ok()?;
            let name = name.trim();
            (ENGINES.contains(&name) && namespace(&entry.path()) == own).then(|| name.to_owned())
        })
        .collect();
    found.sort();
    found.dedup();
    found
}
