//! containerd restarted, and watched until it is known to live.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use super::{
    dump::{DIFF_PROXY, TRANSFER_PROXY},
    process::{self, Process},
    program, run,
};
use crate::{containerd::Containerd, cri::Cri, image::sanitize, limits};

/// Pause between two looks at containerd.
const PAUSE: Duration = Duration::from_millis(250);
/// Lines of the journal that are told when containerd did not come up.
const LINES: usize = 8;
/// Levels of containerd's log that tell nothing about that.
const QUIET: [&str; 2] = ["level=info", "level=debug"];

/// What containerd did before it was restarted, and has to do again.
#[derive(Clone, Debug)]
pub struct Before {
    /// Its process.
    pub process: Process,
    /// Its unit.
    pub unit: String,
    /// Its plugins that ran.
    pub plugins: BTreeSet<String>,
    /// Whether the kubelet's interface answered.
    pub cri: bool,
}

/// What the watch tells about its progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// systemd restarts it.
    Restarting,
    /// It is not there yet.
    Waiting,
    /// It lives, and has to for this long still.
    Lives(Duration),
}

impl Before {
    /// What `containerd` does now.
    ///
    /// # Errors
    /// Where it does not answer.
    pub async fn look(containerd: &Containerd, process: &Process, unit: &str) -> Result<Self, String> {
        let plugins = containerd.loaded().await.map_err(|status| status.message().to_owned())?;
        let plugins: BTreeSet<String> = plugins
            .into_iter()
            .filter(|plugin| plugin.error.is_none())
            .map(|plugin| format!("{}.{}", plugin.kind, plugin.id))
            .collect();
        let cri = Cri::of(containerd).version().await.is_ok();
        Ok(Self { process: process.clone(), unit: unit.to_owned(), plugins, cri })
    }

    /// Restarts containerd and watches it for `watch`: it comes up, all that ran before runs again, with the gates if
    /// `gated`, the kubelet's interface answers if it did, and no other process takes its place.
    ///
    /// # Errors
    /// What it does not do, with what its journal said last.
    pub async fn restart(
        &self,
        containerd: &Containerd,
        gated: bool,
        watch: Duration,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Process, String> {
        progress(Progress::Restarting);
        let since = format!("@{}", now());
        // Starts that failed before must not keep systemd from this one. A unit that never failed is no unit to it.
        let _ = run("systemctl", &["reset-failed", &self.unit]);
        if let Err(why) = program::run_within(limits::RESTART, "systemctl", &["restart", &self.unit]) {
            return Err(self.journal(&why, &since));
        }
        let deadline = Instant::now() + watch;
        let mut came: Option<Process> = None;
        loop {
            let seen = self.look_again(containerd, gated, came.as_ref()).await;
            let left = deadline.saturating_duration_since(Instant::now());
            match (seen, came.is_some()) {
                (Ok(process), _) if left.is_zero() => return Ok(process),
                (Ok(process), _) => came = Some(process),
                // What lived once and does not any more was not ready to live.
                (Err(why), true) => return Err(self.journal(&why, &since)),
                (Err(why), false) if left.is_zero() => return Err(self.journal(&why, &since)),
                (Err(_), false) => {}
            }
            progress(if came.is_some() { Progress::Lives(left) } else { Progress::Waiting });
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn look_again(
        &self,
        containerd: &Containerd,
        gated: bool,
        came: Option<&Process>,
    ) -> Result<Process, String> {
        let pid = containerd.process().await.map_err(|error| format!("containerd does not listen: {error}"))?;
        let process = Process::of(pid.ok_or("containerd's process is not known")?)?;
        if let Some(came) = came
            && (came.pid, came.ticks) != (process.pid, process.ticks)
        {
            return Err(format!("containerd ended and was started again (process {}, then {})", came.pid, process.pid));
        }
        if (process.pid, process.ticks) == (self.process.pid, self.process.ticks) {
            return Err(format!("containerd was not restarted: process {} lives on", process.pid));
        }
        containerd.version().await.map_err(|status| format!("containerd does not answer: {}", status.message()))?;
        let loaded = containerd.loaded().await.map_err(|status| status.message().to_owned())?;
        let mut wanted = self.plugins.clone();
        let gates = [DIFF_PROXY.0, TRANSFER_PROXY.0].map(|name| format!("io.containerd.differ.v1.{name}"));
        for gate in gates {
            if gated {
                wanted.insert(gate)
            } else {
                wanted.remove(&gate)
            };
        }
        for plugin in wanted {
            let found = loaded.iter().find(|found| format!("{}.{}", found.kind, found.id) == plugin);
            match found.map(|found| &found.error) {
                Some(None) => {}
                Some(Some(why)) => {
                    return Err(format!("plugin {plugin} does not run any more: {}", sanitize(why, 300)));
                }
                None => return Err(format!("plugin {plugin} is not there any more")),
            }
        }
        if self.cri {
            let told = |status: tonic::Status| format!("the kubelet's interface does not answer: {}", status.message());
            Cri::of(containerd).version().await.map_err(told)?;
        }
        Ok(process)
    }

    /// `why`, with the last words of containerd.
    fn journal(&self, why: &str, since: &str) -> String {
        let arguments = ["-u", &self.unit, "--since", since, "-o", "cat", "--no-pager", "-q"];
        let all = run("journalctl", &arguments).unwrap_or_default();
        let mut said: Vec<&str> = all.lines().filter(|line| !QUIET.iter().any(|level| line.contains(level))).collect();
        said.drain(..said.len().saturating_sub(LINES));
        let lines: Vec<String> = said.into_iter().map(|line| format!("\n    {}", sanitize(line, 300))).collect();
        match lines.is_empty() {
            true => why.to_owned(),
            false => format!("{why}\n  {} said last:{}", self.unit, lines.concat()),
        }
    }
}

/// Whether containerd can be restarted by this name.
///
/// # Errors
/// Where it is no main process of a unit.
pub fn unit_of(process: &Process) -> Result<&str, super::Obstacle> {
    process.unit.as_deref().filter(|unit| process::main_process(unit) == Some(process.pid)).ok_or_else(|| {
        super::Obstacle::new(
            format!("containerd (process {}) is no service of systemd: pullgate cannot restart it", process.pid),
            "Run the command with --write instead of --restart, and restart containerd yourself",
        )
    })
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
