//! Asks pullgate, and passes the answer on. It reads neither the question nor the policy: what it was given goes to the
//! daemon as it came.
//!
//! - containerd's image verifier (containerd 2.0 and newer, `docs/image-verification.md`): may an image be fetched?
//! - `create-runtime`, a hook of the runtime (OCI runtime specification, "Posix-platform Hooks"): may a container start?
//!
//! Standard library only, since it runs for every pull and every container. No answer, a slow one or one that is broken
//! refuses; only while the daemon has left word that this node audits does it pass without one.

mod answer;
mod hook;
mod journal;
mod question;
mod trouble;
mod verifier;

use std::{env, ffi::OsString, fs, path::PathBuf, process::ExitCode, sync::mpsc, thread, time::Duration};

use self::{answer::Answer, trouble::Trouble};

/// Time for everything. containerd kills a verifier after ten seconds, and says nothing useful then; so does the runtime
/// with a hook.
const PATIENCE: Duration = Duration::from_secs(8);
/// Time for everything where the node only audits: the daemon itself waits one second then.
const PATIENCE_IN_AUDIT: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let places = Places::here();
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let allows = match arguments.first().is_some_and(|first| first == hook::ARGUMENT) {
        true => hook::run(&places, &arguments),
        false => verifier::run(&places, &arguments),
    };
    if allows { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Where the daemon is. Only whoever configures containerd says otherwise than the default.
struct Places {
    runtime: PathBuf,
    journal: PathBuf,
}

impl Places {
    fn here() -> Self {
        let at = |variable: &str, default: &str| env::var_os(variable).map_or(PathBuf::from(default), PathBuf::from);
        Self {
            runtime: at("PULLGATE_RUNTIME", "/run/pullgate"),
            journal: at("PULLGATE_JOURNAL", "/run/systemd/journal/socket"),
        }
    }

    /// Whether the daemon left word that this node only audits. Root alone can write to the directory.
    fn audits(&self) -> bool {
        fs::symlink_metadata(self.runtime.join("audit-mode")).is_ok_and(|meta| meta.is_file())
    }
}

/// Runs `ask` on another thread, so that nothing that blocks there (a standard input that never ends, a daemon that hangs)
/// outlasts `patience`.
fn within(
    patience: Duration,
    ask: impl FnOnce() -> Result<Answer, Trouble> + Send + 'static,
) -> Result<Answer, Trouble> {
    let (sender, answers) = mpsc::channel();
    let asking = thread::Builder::new().spawn(move || {
        // Nobody listens any more only when the time is up.
        let _ = sender.send(ask());
    });
    if let Err(error) = asking {
        return Err(Trouble::unreachable(format!("no thread could be started ({error})")));
    }
    let slow = || Trouble::unreachable(format!("pullgate did not answer in {} s", patience.as_secs()));
    answers.recv_timeout(patience).unwrap_or_else(|_| Err(slow()))
}
