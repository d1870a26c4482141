//! A booted Debian machine: systemd, journald and containerd, with nothing but loopback for a network.

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::{
    Result,
    root::{self, Root, Suite},
};

/// Longest time for a machine to boot or a service to start. Reached only by something broken.
const PATIENCE: Duration = Duration::from_secs(120);
/// Seconds that one command in the machine may take, unless said otherwise.
const COMMAND_SECONDS: u64 = 120;
/// Where containerd finds runc first.
const RUNC: &str = "/usr/local/sbin/runc";
const PAUSE: Duration = Duration::from_millis(20);

/// A running machine. Dropping it, or the end of this process for whatever reason, takes it off the host.
#[derive(Debug)]
pub struct Node {
    pub suite: Suite,
    directory: PathBuf,
    guardian: Child,
    /// The guardian ends the machine when this closes.
    lifeline: Option<ChildStdin>,
    pid: u32,
}

/// Where a machine keeps containerd's and docker's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Quick, 6 GiB at most.
    Memory,
    Disk,
}

impl Storage {
    fn word(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
        }
    }
}

/// What a command said.
#[derive(Clone, Debug)]
pub struct Output {
    /// The exit code; 124 where the command ran out of time.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    pub fn success(&self) -> bool {
        self.code == 0
    }

    /// Standard output of a command that had to succeed.
    ///
    /// # Errors
    /// What the command said, where it failed.
    pub fn ok(self) -> Result<String> {
        if self.success() { Ok(self.stdout) } else { Err(format!("exit code {}: {}", self.code, self.text()).into()) }
    }

    /// Both outputs.
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr).trim().to_owned()
    }
}

impl Node {
    /// Boots a machine of `suite` and waits for its systemd and its containerd.
    ///
    /// # Errors
    /// Where the host cannot (not root, a program missing), or the machine does not come up.
    pub fn boot(suite: Suite) -> Result<Self> {
        Self::boot_on(suite, Storage::Memory)
    }

    /// As [`Node::boot`], with containerd's data where `storage` says.
    ///
    /// # Errors
    /// As [`Node::boot`].
    pub fn boot_on(suite: Suite, storage: Storage) -> Result<Self> {
        let root = Root::of(suite)?;
        let nodes = root::cache().join("nodes");
        fs::create_dir_all(&nodes)?;
        // A machine's guardian holds its lock by the time this one is released.
        let booting = fs::File::create(nodes.join("lock"))?;
        booting.lock()?;
        sweep(&nodes);
        let name = unique_name(suite);
        let directory = nodes.join(&name);
        fs::create_dir(&directory)?;
        let mut guardian = Command::new("setsid")
            .args(["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c"])
            .arg(include_str!("guardian.sh"))
            .args([
                Path::new("guardian"),
                &directory,
                &lower_directories(&root, &directory)?,
                Path::new(&name),
                Path::new(storage.word()),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(fs::File::create(directory.join("guardian"))?)
            .spawn()?;
        let lifeline = guardian.stdin.take();
        let mut node = Self { suite, directory, guardian, lifeline, pid: 0 };
        node.wait_for_first_process()?;
        drop(booting);
        node.wait_for_boot()?;
        node.write(RUNC, include_bytes!("runc"))?;
        fs::set_permissions(node.outside(RUNC), fs::Permissions::from_mode(0o755))?;
        node.wait_for_containerd()?;
        Ok(node)
    }

    fn wait_for_first_process(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.guardian.try_wait()? {
                return Err(format!("the machine ended ({status}): {}", self.console()).into());
            }
            if let Some(pid) = first_process(self.guardian.id()) {
                self.pid = pid;
                return Ok(());
            }
            self.pause(deadline)?;
        }
    }

    fn wait_for_boot(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let state = self.run(&["systemctl", "is-system-running", "--wait"])?;
            if matches!(state.stdout.trim(), "running" | "degraded") {
                return Ok(());
            }
            self.pause(deadline)?;
        }
    }

    fn pause(&self, deadline: Instant) -> Result<()> {
        if Instant::now() > deadline {
            return Err(format!("the machine did not come up: {}", self.console()).into());
        }
        thread::sleep(PAUSE);
        Ok(())
    }

    fn console(&self) -> String {
        ["guardian", "console"].iter().filter_map(|file| fs::read_to_string(self.directory.join(file)).ok()).collect()
    }

    /// Runs a command in the machine and waits for its end.
    ///
    /// # Errors
    /// Where it cannot be started. A command that fails is an [`Output`].
    pub fn run<S: AsRef<str>>(&self, command: &[S]) -> Result<Output> {
        self.run_within(COMMAND_SECONDS, command)
    }

    /// As [`Node::run`], for a command that may take `seconds`.
    ///
    /// # Errors
    /// As [`Node::run`].
    pub fn run_within<S: AsRef<str>>(&self, seconds: u64, command: &[S]) -> Result<Output> {
        let ended = self.command(seconds, command).stdin(Stdio::null()).output()?;
        Ok(Output {
            code: ended.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&ended.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&ended.stderr).into_owned(),
        })
    }

    /// Runs a shell script in the machine.
    ///
    /// # Errors
    /// As [`Node::run`].
    pub fn sh(&self, script: &str) -> Result<Output> {
        self.run(&["sh", "-c", script])
    }

    /// The command that runs `command` in the machine for at most `seconds`, to be started by the caller.
    pub fn command<S: AsRef<str>>(&self, seconds: u64, command: &[S]) -> Command {
        let mut enter = Command::new("nsenter");
        enter
            .args(["-t", &self.pid.to_string(), "-m", "-u", "-i", "-n", "-p", "-C", "--"])
            .args(["timeout", "--kill-after=2", &seconds.to_string()])
            .args(command.iter().map(AsRef::as_ref))
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/root");
        enter
    }

    /// Writes a file of the machine, and the directories above it.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let path = self.outside(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::File::create(&path)?.write_all(content.as_ref())?;
        Ok(())
    }

    /// The content of a file of the machine.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn read(&self, path: &str) -> Result<Vec<u8>> {
        Ok(fs::read(self.outside(path))?)
    }

    /// Where the host sees the machine's `path`, which must not lead over an absolute symbolic link.
    pub fn outside(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.pid))
    }

    /// Installs a package with apt, maintainer scripts and all.
    ///
    /// # Errors
    /// What apt said.
    pub fn install_deb(&self, deb: &Path) -> Result<String> {
        fs::copy(deb, self.outside("/var/tmp/package.deb")).map_err(|error| format!("{}: {error}", deb.display()))?;
        self.sh("DEBIAN_FRONTEND=noninteractive apt-get -q -y install /var/tmp/package.deb")?.ok()
    }

    /// Waits until `probe` says yes.
    ///
    /// # Errors
    /// Where it never does; `what` says what was waited for.
    pub fn wait_until(&self, what: &str, mut probe: impl FnMut() -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !probe()? {
            if Instant::now() > deadline {
                return Err(format!("waited in vain until {what}").into());
            }
            thread::sleep(PAUSE);
        }
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.lifeline.take();
        // The guardian kills, unmounts and removes; it has nothing to wait for.
        let _ = self.guardian.wait();
    }
}

/// Takes away directories of machines whose guardian was itself killed.
fn sweep(nodes: &Path) {
    for entry in fs::read_dir(nodes).into_iter().flatten().flatten() {
        let path = entry.path();
        let held = fs::File::open(path.join("lock")).is_ok_and(|lock| lock.try_lock().is_err());
        if path.is_dir() && !held {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

fn unique_name(suite: Suite) -> String {
    static BOOTED: AtomicUsize = AtomicUsize::new(0);
    format!("pullgate-{}-{}-{}", suite.name(), std::process::id(), BOOTED.fetch_add(1, Ordering::Relaxed))
}

/// The root, and over it the containerd of `PULLGATE_CONTAINERD_BIN` where one is given (forky only).
fn lower_directories(root: &Root, node: &Path) -> Result<PathBuf> {
    let Some(given) = std::env::var_os("PULLGATE_CONTAINERD_BIN") else { return Ok(root.path.clone()) };
    if root.suite != Suite::Forky {
        return Ok(root.path.clone());
    }
    let given = PathBuf::from(given);
    let layer = node.join("given");
    let programs = layer.join("usr/bin");
    fs::create_dir_all(&programs)?;
    for program in ["containerd", "ctr", "containerd-shim-runc-v2"] {
        fs::copy(given.join(program), programs.join(program))
            .map_err(|error| format!("PULLGATE_CONTAINERD_BIN: {}: {error}", given.join(program).display()))?;
    }
    Ok(PathBuf::from(format!("{}:{}", layer.display(), root.path.display())))
}

/// The machine's systemd as the host counts processes: the child of the systemd-nspawn below `ancestor`.
fn first_process(ancestor: u32) -> Option<u32> {
    let parents: std::collections::HashMap<u32, (u32, String)> = fs::read_dir("/proc")
        .ok()?
        .filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let (head, tail) = stat.rsplit_once(") ")?;
            let parent = tail.split(' ').nth(1)?.parse().ok()?;
            Some((pid, (parent, head.split_once('(')?.1.to_owned())))
        })
        .collect();
    let below = |mut pid: u32| {
        while let Some((parent, _)) = parents.get(&pid) {
            if *parent == ancestor {
                return true;
            }
            pid = *parent;
        }
        false
    };
    parents
        .iter()
        .find(|(pid, (parent, name))| {
            name == "systemd" && parents.get(parent).is_some_and(|(_, name)| name == "systemd-nspawn") && below(**pid)
        })
        .map(|(pid, _)| *pid)
}
