//! What the daemon says about itself, on `status.sock`, for `pullgate status`.

use std::{
    collections::BTreeMap,
    os::unix::net::UnixListener,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::{io::AsyncWriteExt, time::timeout};

use crate::{
    activation::Activation,
    audit::Journal,
    break_glass::{self, Passes},
    clock::Clock,
    evidence::kept::Kept,
    gate::{Counts, Resolve, Start, Unpack, Watch, WatchReport},
    log::Log,
    node::sandbox::{Sandbox, SandboxWatch},
    selftest::{self, SelfTest},
    snapshot::Snapshot,
    systemd,
};

/// Time for containerd's version, and for a reader to take the answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// One report, the same for the tool and for `-o json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    /// The version of the daemon.
    pub version: String,
    /// Seconds since it started.
    pub up_seconds: u64,
    /// Whether the node refuses: `enforce` or `audit`.
    pub mode: String,
    /// The policy document.
    pub policy: String,
    /// The revision in force; none means that the boot list alone is admitted.
    pub revision: Option<String>,
    /// Rules of the policy.
    pub rules: usize,
    /// Attestors of the policy.
    pub attestors: usize,
    /// Digests of the boot list.
    pub boot_list: usize,
    /// How many of them each file lists.
    pub boot_files: BTreeMap<String, usize>,
    /// Lines and files of the boot list that could not be read.
    pub boot_problems: Vec<String>,
    /// Whether the sandbox image is in the boot list.
    pub sandbox: Sandbox,
    /// What is wrong with the system clock, if anything is.
    pub clock: Option<String>,
    /// What is wrong with the files on disk: code, file, line, and the mend.
    pub trouble: Option<String>,
    /// containerd's socket.
    pub containerd: String,
    /// containerd's version, or why it is not known.
    pub containerd_version: Result<String, String>,
    /// What the resolve gate answered since the start.
    #[serde(default)]
    pub resolve: Answers,
    /// What the unpack gate answered since the start.
    pub unpack: Answers,
    /// What the watch saw.
    #[serde(default)]
    pub watch: WatchReport,
    /// The passes of break-glass.
    #[serde(default)]
    pub break_glass: break_glass::Report,
    /// What the self-test saw of each gate: it alone says whether the node enforces.
    #[serde(default)]
    pub enforcing: selftest::Report,
    /// What the start gate answered since the start.
    #[serde(default)]
    pub start: Answers,
    /// Decisions that still hold.
    pub decisions: u64,
    /// Requests to registries.
    pub registry_requests: u64,
    /// Images that could not be judged within the last day because their registry wants credentials (PG301).
    #[serde(default)]
    pub unauthorized_images: usize,
    /// How often evidence that admitted could not be kept on the disk.
    pub evidence_lost: u64,
    /// Audit entries that journald accepted, and those that it did not.
    pub audit_written: u64,
    /// See [`Self::audit_written`].
    pub audit_failed: u64,
    /// Lines of the operational log that were dropped.
    pub log_dropped: u64,
}

/// What a gate answered.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Answers {
    /// Images admitted because the verdict was allow.
    pub allowed: u64,
    /// Images refused by policy or evidence.
    pub denied: u64,
    /// Images refused because pullgate could not look.
    pub inconclusive: u64,
    /// Images admitted though the verdict was not allow.
    pub audit_only: u64,
    /// Layers that passed.
    pub layers: u64,
}

impl Answers {
    fn of(counts: &Counts, layers: u64) -> Self {
        Self {
            allowed: counts.allowed.load(Ordering::Relaxed),
            denied: counts.denied.load(Ordering::Relaxed),
            inconclusive: counts.inconclusive.load(Ordering::Relaxed),
            audit_only: counts.audit_only.load(Ordering::Relaxed),
            layers,
        }
    }
}

/// Where the daemon's report comes from.
pub struct Report {
    /// The snapshot in force.
    pub activation: Arc<Activation>,
    /// The resolve gate.
    pub resolve: Arc<Resolve>,
    /// The unpack gate.
    pub unpack: Arc<Unpack>,
    /// The watch over the node.
    pub watch: Arc<Watch>,
    /// The self-test.
    pub selftest: Arc<SelfTest>,
    /// The start gate.
    pub start: Arc<Start>,
    /// The watch on the sandbox image.
    pub sandbox: Arc<SandboxWatch>,
    /// The passes of break-glass.
    pub passes: Arc<Passes>,
    /// The time to decide by.
    pub clock: Arc<Clock>,
    /// The evidence on disk.
    pub kept: Kept,
    /// The audit.
    pub journal: Arc<Journal>,
    /// The operational log.
    pub log: Log,
    /// When the daemon started.
    pub started: Instant,
}

impl Status {
    /// Whether something needs a person: `pullgate status` then ends with 1.
    pub fn is_trouble(&self) -> bool {
        let files = self.trouble.is_some() || self.sandbox.is_alarm() || self.break_glass.trouble.is_some();
        files || self.enforcing.is_open() || self.clock.is_some() || self.containerd_version.is_err()
    }
}

/// The line that `systemctl status` shows.
pub fn line(snapshot: &Snapshot, sandbox: Option<&Sandbox>, glass: &break_glass::Report) -> String {
    let line = match glass.words() {
        Some(words) => format!("{words}; {}", policy_line(snapshot)),
        None => policy_line(snapshot),
    };
    match sandbox {
        Some(sandbox @ (Sandbox::NotListed { .. } | Sandbox::NotHere { .. })) => format!("{line}; {sandbox}"),
        _ => line,
    }
}

fn policy_line(snapshot: &Snapshot) -> String {
    match (&snapshot.trouble, &snapshot.policy) {
        (None, _) => format!("{}: policy {}", snapshot.config.mode, snapshot.revision()),
        (Some(trouble), Some(policy)) => {
            format!("{} {}; policy {} stays in force", trouble.code, trouble.message, policy.revision)
        }
        (Some(trouble), None) => format!("{} {}; only the boot list is admitted", trouble.code, trouble.message),
    }
}

/// Tells whoever connects. Nothing is ever read from a connection.
pub async fn serve(listener: UnixListener, report: Report) {
    let listener = match tokio::net::UnixListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!("the status socket cannot be served: {error}"),
    };
    loop {
        match listener.accept().await {
            Ok((mut stream, _)) => {
                let mut text = serde_json::to_vec_pretty(&report.now().await).unwrap_or_default();
                text.push(b'\n');
                // A reader that went away or does not read has itself to blame.
                let _ = timeout(PATIENCE, stream.write_all(&text)).await;
            }
            Err(error) => {
                tracing::warn!("a connection to the status socket failed: {error}");
                tokio::time::sleep(PATIENCE).await;
            }
        }
    }
}

impl Report {
    async fn now(&self) -> Status {
        let snapshot = self.activation.current().await;
        let version = timeout(PATIENCE, self.unpack.containerd().version());
        let (version, (sandbox, changed)) = tokio::join!(version, self.sandbox.look(&snapshot.boot));
        if changed {
            systemd::status(&line(&snapshot, Some(&sandbox), &self.passes.report()));
        }
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            up_seconds: self.started.elapsed().as_secs(),
            mode: snapshot.config.mode.to_string(),
            policy: snapshot.config.policy.display().to_string(),
            revision: snapshot.policy.as_ref().map(|policy| policy.revision.clone()),
            rules: snapshot.policy.as_ref().map_or(0, |policy| policy.rules.len()),
            attestors: snapshot.policy.as_ref().map_or(0, |policy| policy.attestors.len()),
            boot_list: snapshot.boot.len(),
            boot_files: by_file(&snapshot),
            boot_problems: snapshot.boot.problems.clone(),
            sandbox,
            trouble: snapshot.trouble.as_ref().map(|trouble| format!("{} {}", trouble.code, trouble.message)),
            containerd: snapshot.config.containerd.display().to_string(),
            containerd_version: match version {
                Ok(answer) => answer.map_err(|status| status.message().to_owned()),
                Err(_) => Err("it does not answer".to_owned()),
            },
            resolve: Answers::of(self.resolve.counts(), 0),
            unpack: Answers::of(self.unpack.counts(), self.unpack.layers()),
            watch: self.watch.report(),
            break_glass: self.passes.report(),
            enforcing: self.selftest.now().await,
            start: Answers::of(self.start.counts(), 0),
            decisions: self.unpack.remembered(),
            clock: self.clock.now().err().map(|not_set| not_set.to_string()).or_else(|| self.clock.behind()),
            evidence_lost: self.kept.lost(),
            registry_requests: snapshot.registry.requests(),
            unauthorized_images: self.unpack.unauthorized(),
            audit_written: self.journal.written(),
            audit_failed: self.journal.failed(),
            log_dropped: self.log.dropped(),
        }
    }
}

fn by_file(snapshot: &Snapshot) -> BTreeMap<String, usize> {
    snapshot.boot.by_file().into_iter().map(|(file, count)| (file.display().to_string(), count)).collect()
}
