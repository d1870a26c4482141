//! A program run to its end, and what it took.

use std::{
    process::{Command, Stdio},
    time::Instant,
};

use nix::sys::resource::{UsageWho, getrusage};
use serde::{Deserialize, Serialize};

use crate::node::Result;

/// What a program took, its own children included.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Took {
    /// Seconds from before it was started until its end was seen.
    pub wall: f64,
    /// Seconds of processor time, in the program and in the kernel on its behalf (getrusage(2)).
    pub cpu: f64,
    /// KiB of memory at its peak.
    pub peak: f64,
    pub code: i32,
    pub said: String,
}

/// Runs `command` as the only child of a process of its own, since the kernel tells the peak of memory only of all
/// children together.
///
/// # Errors
/// Where it cannot be started.
pub fn measure<S: AsRef<str>>(command: &[S]) -> Result<Took> {
    let command = command.iter().map(AsRef::as_ref);
    let ended = Command::new(std::env::current_exe()?).arg("run").args(command).stdin(Stdio::null()).output()?;
    if !ended.status.success() {
        return Err(String::from_utf8_lossy(&ended.stderr).into_owned().into());
    }
    Ok(serde_json::from_slice(&ended.stdout)?)
}

/// As [`measure`], for a command that has to end with `code`.
///
/// # Errors
/// What it said, where it ends with another.
pub fn measure_ending<S: AsRef<str>>(code: i32, command: &[S]) -> Result<Took> {
    let took = measure(command)?;
    if took.code == code {
        return Ok(took);
    }
    let command: Vec<_> = command.iter().map(AsRef::as_ref).collect();
    Err(format!("exit code {} in place of {code}: {}: {}", took.code, command.join(" "), took.said.trim()).into())
}

/// `bench run COMMAND…`: runs it and prints what it took.
///
/// # Errors
/// Where it cannot be started.
pub fn run_alone(command: &[&str]) -> Result<bool> {
    let (program, arguments) = command.split_first().ok_or("usage: bench run COMMAND…")?;
    let begun = Instant::now();
    let ended = Command::new(program).args(arguments).stdin(Stdio::null()).output()?;
    let wall = begun.elapsed().as_secs_f64();
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    let took = Took {
        wall,
        cpu: seconds(usage.user_time()) + seconds(usage.system_time()),
        peak: usage.max_rss() as f64,
        code: ended.status.code().unwrap_or(-1),
        said: String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).into_owned(),
    };
    println!("{}", serde_json::to_string(&took)?);
    Ok(true)
}
