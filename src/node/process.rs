//! The containerd that runs on this node: its program, its configuration file, its unit.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use nix::{
    time::{ClockId, clock_gettime},
    unistd::{SysconfVar, sysconf},
};

use super::imports;

/// Where containerd's configuration is unless it was started with another.
pub const CONFIG: &str = "/etc/containerd/config.toml";

/// A containerd that runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// When it was started, in ticks after the boot: two processes of one id differ in it.
    pub ticks: u64,
    /// When it was started, to a hundredth of a second.
    pub started: SystemTime,
    /// Its program, as it lies on the disk now.
    pub program: PathBuf,
    /// Its configuration file, which need not be there.
    pub config: PathBuf,
    /// The socket that its arguments name.
    pub address: Option<PathBuf>,
    /// The unit of the system's systemd whose main process it is.
    pub unit: Option<String>,
}

impl Process {
    /// What `/proc` says about the process `pid`.
    ///
    /// # Errors
    /// When it ended meanwhile, or is in a container.
    pub fn of(pid: i32) -> Result<Self, String> {
        let about = PathBuf::from(format!("/proc/{pid}"));
        let gone = |error: io::Error| format!("process {pid} cannot be looked at: {error}. Run as root");
        let namespace = |of: &Path| fs::read_link(of.join("ns/mnt")).ok();
        if namespace(&about) != namespace(Path::new("/proc/self")) {
            return Err(format!("containerd (process {pid}) runs in a container, where its files are not this node's"));
        }
        let arguments: Vec<String> = fs::read(about.join("cmdline"))
            .map_err(gone)?
            .split(|byte| *byte == 0)
            .map(|argument| String::from_utf8_lossy(argument).into_owned())
            .collect();
        let directory = fs::read_link(about.join("cwd")).unwrap_or_else(|_| "/".into());
        let path = |name: &[&str]| argument(&arguments, name).map(|path| directory.join(path));
        let program = fs::read_link(about.join("exe")).map_err(gone)?;
        // After an upgrade the program that runs is gone, and another lies in its place.
        let program =
            program.to_str().and_then(|path| path.strip_suffix(" (deleted)")).map_or(program.clone(), Into::into);
        let unit = fs::read_to_string(about.join("cgroup")).ok().and_then(|text| unit(&text));
        let stat = fs::read_to_string(about.join("stat")).map_err(gone)?;
        let (ticks, started) = started(&stat).ok_or("the times of processes cannot be read")?;
        Ok(Self {
            pid,
            ticks,
            started,
            program,
            config: path(&CONFIG_OPTIONS).unwrap_or_else(|| CONFIG.into()),
            address: path(&["address", "a"]),
            unit: unit.filter(|unit| main_process(unit) == Some(pid)),
        })
    }

    /// Other containerds outside of containers.
    pub fn others(&self) -> Vec<Self> {
        let mut others = Self::all();
        others.retain(|other| other.pid != self.pid);
        others
    }

    /// Every containerd outside of containers.
    pub fn all() -> Vec<Self> {
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
        let is_containerd =
            |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "containerd");
        pids.filter(is_containerd).filter_map(|pid| Self::of(pid).ok()).collect()
    }
}

impl std::fmt::Display for Process {
    /// Enough to find it, and its socket where its files say it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let in_file = || {
            let table: toml::Table = imports::text(&self.config).ok()?.parse().ok()?;
            Some(PathBuf::from(table.get("grpc")?.get("address")?.as_str()?))
        };
        write!(f, "process {}, {}", self.pid, self.config.display())?;
        match self.address.clone().or_else(in_file) {
            Some(address) => write!(f, ", on {}", address.display()),
            None => Ok(()),
        }
    }
}

/// The names of the option that says where containerd's configuration is.
pub(super) const CONFIG_OPTIONS: [&str; 2] = ["config", "c"];

/// The value of an option in the ways that containerd takes it: `--name VALUE`, `--name=VALUE`, `-n VALUE`; the last counts.
pub(super) fn argument<'a>(arguments: &'a [String], names: &[&str]) -> Option<&'a str> {
    let mut found = None;
    let mut rest = arguments.iter().skip(1);
    while let Some(argument) = rest.next() {
        let Some(option) = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')) else { continue };
        match option.split_once('=') {
            Some((name, value)) if names.contains(&name) => found = Some(value),
            None if names.contains(&option) => found = rest.next().map(String::as_str),
            _ => {}
        }
    }
    found.filter(|value| !value.is_empty())
}

/// The service in a `/proc/PID/cgroup`.
fn unit(cgroup: &str) -> Option<String> {
    let line = |start: &str| cgroup.lines().find_map(|line| line.strip_prefix(start));
    let named = cgroup.lines().find_map(|line| line.split_once(":name=systemd:").map(|(_, path)| path));
    let service = |path: &str| path.rsplit('/').find(|part| part.ends_with(".service")).map(str::to_owned);
    line("0::").and_then(service).or_else(|| named.and_then(service))
}

/// The moment that a `/proc/PID/stat` names, which counts from the boot.
/// When the process `pid` was started, to a hundredth of a second.
pub fn started_at(pid: i32) -> Option<SystemTime> {
    started(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?).map(|(_, at)| at)
}

fn started(stat: &str) -> Option<(u64, SystemTime)> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let ticks: u64 = fields.split(' ').nth(19)?.parse().ok()?;
    let each = sysconf(SysconfVar::CLK_TCK).ok()??;
    let after_boot = Duration::from_millis(ticks.checked_mul(1000)? / u64::try_from(each).ok()?.max(1));
    let now = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?);
    Some((ticks, SystemTime::now().checked_sub(now.saturating_sub(after_boot))?))
}

/// When the process `pid` was started, in ticks after the boot; none when it is gone.
pub fn ticks(pid: i32) -> Option<u64> {
    started(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?).map(|(ticks, _)| ticks)
}

/// The main process of a unit.
pub fn main_process(unit: &str) -> Option<i32> {
    let shown = super::run("systemctl", &["show", "--value", "--property", "MainPID", unit]).ok()?;
    shown.trim().parse().ok().filter(|pid| *pid > 0)
}

/// When the content, the place or the owner of a file last changed.
pub fn changed(path: &Path) -> Option<SystemTime> {
    let meta = fs::metadata(path).ok()?;
    let after = Duration::new(u64::try_from(meta.ctime()).ok()?, u32::try_from(meta.ctime_nsec()).ok()?);
    SystemTime::UNIX_EPOCH.checked_add(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_the_last_that_the_arguments_name() {
        let found = |line: &str| {
            let arguments: Vec<String> = line.split(' ').map(str::to_owned).collect();
            argument(&arguments, &CONFIG_OPTIONS).map(str::to_owned)
        };
        assert_eq!(found("/usr/bin/containerd"), None);
        assert_eq!(found("containerd --config /a.toml"), Some("/a.toml".into()));
        assert_eq!(found("containerd --config=/a.toml --log-level debug"), Some("/a.toml".into()));
        assert_eq!(found("containerd -l debug -c /a.toml -c /b.toml"), Some("/b.toml".into()));
        assert_eq!(found("x --log-level debug --config /a.toml --root /b"), Some("/a.toml".into()));
        assert_eq!(found("x -c=/a.toml -c /b.toml"), Some("/b.toml".into()));
        for line in ["", "-c /a", "x --root /a", "x --config="] {
            assert_eq!(found(line), None, "{line}");
        }
        assert_eq!(found("containerd --configure /a.toml"), None);
        assert_eq!(found("containerd --config"), None);
    }

    #[test]
    fn the_unit_is_that_of_the_control_group() {
        assert_eq!(unit("0::/system.slice/containerd.service\n"), Some("containerd.service".into()));
        assert_eq!(unit("9:name=systemd:/system.slice/k3s.service\n8:pids:/x\n0::/\n"), Some("k3s.service".into()));
        assert_eq!(unit("0::/system.slice/docker.service/containerd\n"), Some("docker.service".into()));
        assert_eq!(unit("0::/user.slice/session-1.scope\n"), None);
        assert_eq!(unit(""), None);
    }

    #[test]
    fn this_process_was_started_a_moment_ago() {
        let mine = fs::read_to_string("/proc/self/stat").unwrap();
        let (_, started) = started(&mine).unwrap();
        assert!(started <= SystemTime::now() + Duration::from_secs(1));
        assert_eq!(super::started("1 (a) b"), None);
        let process = Process::of(std::process::id() as i32).unwrap();
        assert_eq!(process.unit, None);
        assert_eq!(process.config, Path::new(CONFIG));
    }
}
