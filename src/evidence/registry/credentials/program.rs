//! Programs that know credentials, run so that none of them holds anybody up or gets in by the side.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::{Pid, geteuid},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
    sync::Semaphore,
    time::timeout,
};

use crate::limits;

/// What programs find in their environment, beside what the configuration of a provider adds.
const ENVIRONMENT: [(&str, &str); 3] =
    [("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), ("HOME", "/root"), ("LANG", "C.UTF-8")];

/// The programs that run.
pub(super) struct Programs {
    patience: Duration,
    turns: Mutex<HashMap<PathBuf, Arc<Semaphore>>>,
}

/// A program to be run.
pub(super) struct Run<'a> {
    /// Its directory, which the configuration names.
    pub(super) directory: &'a Path,
    /// Its name in there.
    pub(super) name: &'a str,
    pub(super) arguments: &'a [String],
    pub(super) environment: &'a [(String, String)],
    /// What it reads.
    pub(super) input: Vec<u8>,
}

/// What a program said.
pub(super) struct Said {
    pub(super) output: Vec<u8>,
    pub(super) status: ExitStatus,
}

impl Programs {
    pub(super) fn new(patience: Duration) -> Self {
        Self { patience, turns: Mutex::default() }
    }

    /// Runs a program to its end, [`limits::PARALLEL_HELPERS`] of one at a time. What it says on standard error is not read:
    /// it may have secrets in it.
    ///
    /// # Errors
    /// Where it is not there, somebody else could have put it there, it prints too much or takes too long.
    pub(super) async fn run(&self, run: Run<'_>) -> Result<Said, String> {
        let path = run.directory.join(run.name);
        let turns = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.entry(path.clone()).or_insert_with(|| Arc::new(Semaphore::new(limits::PARALLEL_HELPERS))).clone()
        };
        let shown = path.display();
        let running = async {
            let _turn = turns.acquire().await.map_err(|error| error.to_string())?;
            exchange(&path, run).await
        };
        match timeout(self.patience, running).await {
            Ok(said) => said.map_err(|why| format!("{shown}: {why}")),
            Err(_) => Err(format!("{shown}: no end after {:.1} s", self.patience.as_secs_f64())),
        }
    }
}

async fn exchange(path: &Path, run: Run<'_>) -> Result<Said, String> {
    let failed = |error: io::Error| error.to_string();
    let owned = path.to_owned();
    let program =
        tokio::task::spawn_blocking(move || only_roots(&owned)).await.map_err(|error| error.to_string())??;
    let mut command = Command::new(program);
    command.args(run.arguments).env_clear().envs(ENVIRONMENT);
    command.envs(run.environment.iter().map(|(name, value)| (name, value)));
    command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    // A group of its own, so that what it starts ends with it.
    let mut running = Running(command.process_group(0).spawn().map_err(failed)?);
    let (input, output) = (running.0.stdin.take(), running.0.stdout.take());
    let writing = async {
        if let Some(mut pipe) = input {
            // A program that does not read what it is asked says so by what it answers.
            let _ = pipe.write_all(&run.input).await;
        }
    };
    let reading = async {
        let mut bytes = Vec::new();
        if let Some(pipe) = output {
            pipe.take(limits::HELPER_BYTES + 1).read_to_end(&mut bytes).await.map_err(failed)?;
        }
        if bytes.len() as u64 > limits::HELPER_BYTES {
            return Err(format!("it prints more than {} bytes", limits::HELPER_BYTES));
        }
        Ok(bytes)
    };
    let ((), output) = tokio::join!(writing, reading);
    let output = output?;
    let status = running.0.wait().await.map_err(failed)?;
    Ok(Said { output, status })
}

/// A program that ends, with all that it started, when nobody waits for it any more.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // As long as it was not waited for, no other group can have its number.
        if let Some(id) = self.0.id().and_then(|id| i32::try_from(id).ok()) {
            let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
        }
    }
}

/// The program at `path`, links followed, if nobody but root, or whoever runs pullgate, could have put it there.
fn only_roots(path: &Path) -> Result<PathBuf, String> {
    let real = path.canonicalize().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => "the program is not there".to_owned(),
        _ => error.to_string(),
    })?;
    for part in real.ancestors() {
        let meta = fs::symlink_metadata(part).map_err(|error| error.to_string())?;
        let whose = part.display();
        if meta.uid() != 0 && meta.uid() != geteuid().as_raw() {
            return Err(format!("{whose} belongs to uid {}; run `chown root`", meta.uid()));
        }
        // In a sticky directory nobody replaces what is another's.
        let sticky = meta.is_dir() && meta.mode() & 0o1000 != 0;
        if meta.mode() & 0o022 != 0 && !sticky {
            return Err(format!("others can write to {whose}; run `chmod go-w`"));
        }
    }
    let meta = fs::metadata(&real).map_err(|error| error.to_string())?;
    match meta.is_file() && meta.mode() & 0o111 != 0 {
        true => Ok(real),
        false => Err("not a program: a plain file that may be executed".to_owned()),
    }
}
