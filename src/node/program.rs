//! Other programs of the node, run to their end.

use std::{
    io::{self, Read},
    process::{Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use tokio::io::AsyncReadExt;

use crate::{image::sanitize, limits};

const PAUSE: Duration = Duration::from_millis(5);

/// What a program printed on standard output, once it ended well.
///
/// # Errors
/// Where it cannot be started, fails, prints more than a document may have, or has not ended after
/// [`limits::PROGRAM`]; it is killed then.
pub fn run(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Result<String, String> {
    run_within(limits::PROGRAM, program, arguments)
}

/// As [`run`], for a program that may take `patience`.
///
/// # Errors
/// As [`run`].
pub(super) fn run_within(
    patience: Duration,
    program: impl AsRef<std::ffi::OsStr>,
    arguments: &[&str],
) -> Result<String, String> {
    let line = || format!("{} {}", program.as_ref().display(), arguments.join(" "));
    let mut child = Command::new(program.as_ref())
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{}: {error}", line()))?;
    let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let deadline = Instant::now() + patience;
    let status = loop {
        match child.try_wait().map_err(|error| format!("{}: {error}", line()))? {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("{}: no end after {} s", line(), patience.as_secs()));
            }
            None => thread::sleep(PAUSE),
        }
    };
    let text =
        |thread: thread::JoinHandle<Vec<u8>>| String::from_utf8_lossy(&thread.join().unwrap_or_default()).into_owned();
    let (stdout, stderr) = (text(stdout), text(stderr));
    // The beginning of a document is none.
    if stdout.len() as u64 > limits::DOCUMENT_BYTES {
        return Err(format!("{}: it prints more than {} bytes", line(), limits::DOCUMENT_BYTES));
    }
    if status.success() {
        return Ok(stdout);
    }
    let said = stderr.trim().lines().last().unwrap_or_default();
    Err(format!("{}: {status}: {}", line(), sanitize(said, 500)))
}

/// What `command` prints on standard output, and how it ended. It is killed when nobody waits for it any more.
///
/// # Errors
/// Where it cannot be started, or prints more than `most` bytes.
pub async fn printed(command: &mut tokio::process::Command, most: u64) -> Result<(Vec<u8>, ExitStatus), String> {
    let failed = |error: io::Error| error.to_string();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let mut bytes = Vec::new();
    if let Some(output) = child.stdout.take() {
        output.take(most.saturating_add(1)).read_to_end(&mut bytes).await.map_err(failed)?;
    }
    if bytes.len() as u64 > most {
        return Err(format!("more than {most} bytes"));
    }
    Ok((bytes, child.wait().await.map_err(failed)?))
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(pipe) = pipe {
            let _ = pipe.take(limits::DOCUMENT_BYTES + 1).read_to_end(&mut bytes);
        }
        bytes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_fails_says_why_and_one_that_hangs_is_ended() {
        assert_eq!(run("sh", &["-c", "echo out; echo err >&2"]), Ok("out\n".into()));
        let why = run("sh", &["-c", "echo first >&2; echo last >&2; exit 3"]).unwrap_err();
        assert!(why.contains("exit status: 3: last"), "{why}");
        assert!(run("/nowhere/program", &[]).unwrap_err().contains("/nowhere/program"));
        let hanging = run_within(Duration::from_millis(50), "sleep", &["600"]);
        assert!(hanging.unwrap_err().contains("no end"));
        let large = run("sh", &["-c", "head -c 300000 /dev/zero"]).unwrap();
        assert_eq!(large.len(), 300_000);
        let most = limits::DOCUMENT_BYTES;
        assert_eq!(run("head", &["-c", &most.to_string(), "/dev/zero"]).unwrap().len() as u64, most);
        let more = run("head", &["-c", &(most + 1).to_string(), "/dev/zero"]).unwrap_err();
        assert!(more.contains("it prints more than"), "{more}");
    }
}
