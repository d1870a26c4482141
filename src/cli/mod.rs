//! The command line.

#![deny(clippy::print_stdout, clippy::print_stderr)]

/// Prints a line. Whether anybody reads it makes no difference to what a command does.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}

/// Prints a line on standard error, as [`say!`].
macro_rules! warn {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}

mod audit;
mod boot_list;
mod break_glass;
mod change;
mod check;
mod daemon;
mod disable;
mod doctor;
mod enable;
mod journalctl;
mod mode;
mod page;
mod policy;
#[cfg(test)]
mod samples;
mod status;
mod story;
mod why;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand, ValueEnum};

use crate::{activation::Paths, policy::decision::Verdict};

/// Decides which images may come onto this node.
#[derive(Parser)]
#[command(name = "pullgate", version, about, max_term_width = 100)]
struct Arguments {
    /// The node's configuration.
    #[arg(long, global = true, value_name = "FILE", default_value = "/etc/pullgate/config.toml")]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the daemon: systemd does this.
    Daemon(daemon::Arguments),
    /// Decide about an image as the gates would, from the files of this node.
    Check(check::Arguments),
    /// Show what the daemon does.
    Status(status::Arguments),
    /// Look for ways around the gates, and see each gate refuse.
    Doctor(doctor::DoctorArguments),
    /// Tell the story of one decision: the number at the end of a refusal.
    Why(why::Arguments),
    /// List the decisions of this node, count them, or verify that none is missing.
    Audit(audit::Arguments),
    /// Check, explain and test a policy, on any machine.
    Policy(policy::Arguments),
    /// Admit an image for some time whatever the policy says; lists the passes in force.
    BreakGlass(break_glass::Arguments),
    /// Show the boot list, and what this node runs that is not in it.
    BootList(boot_list::Arguments),
    /// Put pullgate in front of containerd: shows what would be written, and writes with --restart.
    Enable(enable::Arguments),
    /// Take pullgate out of containerd's configuration: shows what would be written, and writes with --restart.
    Disable(change::Arguments),
    /// Refuse what the policy refuses, or only record it. Shows the mode when none is given.
    Mode(mode::Arguments),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For a person.
    #[default]
    Text,
    /// For a program.
    Json,
}

/// Where the daemon keeps what outlives a restart.
const STATE: &str = "/var/lib/pullgate";
/// Wrong usage, or a configuration or policy that cannot be used.
const BAD_CONFIGURATION: u8 = 2;
/// pullgate could not look.
const INCONCLUSIVE: u8 = 3;

/// Runs the command line of this process.
///
/// The exit code is 0 for an allow or a success, 1 for a denial, 3 when it could not be told, and 2 for wrong usage or
/// a configuration that cannot be used.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    let config = &arguments.config;
    match arguments.command {
        Command::Daemon(arguments) => daemon::run(config, &arguments),
        Command::Check(arguments) => check::run(config, &arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Doctor(arguments) => doctor::run(config, &arguments),
        Command::Why(arguments) => why::run(config, &arguments),
        Command::Audit(arguments) => audit::run(config, &arguments),
        Command::Policy(arguments) => policy::run(config, &arguments),
        Command::BreakGlass(arguments) => break_glass::run(&arguments),
        Command::BootList(arguments) => boot_list::run(config, &arguments),
        Command::Enable(arguments) => enable::run(config, &arguments),
        Command::Disable(arguments) => disable::run(config, &arguments),
        Command::Mode(arguments) => mode::run(config, &arguments),
    }
}

/// The files that go with the configuration `config`.
fn paths(config: &std::path::Path, state: Option<PathBuf>) -> Paths {
    let boot = config.parent().unwrap_or(std::path::Path::new("/")).join("boot.d");
    Paths { config: config.to_owned(), boot, state }
}

fn exit_code(verdict: Verdict) -> ExitCode {
    ExitCode::from(match verdict {
        Verdict::Allow => 0,
        Verdict::Deny => 1,
        Verdict::Inconclusive => INCONCLUSIVE,
    })
}

/// An error of usage or configuration, told on standard error.
fn complain(message: impl std::fmt::Display) -> ExitCode {
    warn!("pullgate: {message}");
    ExitCode::from(BAD_CONFIGURATION)
}

fn digests(count: usize) -> String {
    format!("{count} {}", if count == 1 { "digest" } else { "digests" })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Arguments;

    /// What clap finds wrong about a command line it finds only in debug builds, when somebody runs that command.
    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }
}
