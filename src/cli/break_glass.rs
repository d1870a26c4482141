//! `pullgate break-glass`.

use std::{io::ErrorKind, path::PathBuf, process::ExitCode};

use jiff::{SignedDuration, tz::TimeZone};
use serde_json::json;

use super::{BAD_CONFIGURATION, INCONCLUSIVE, Output, complain, page, why::moment};
use crate::{
    audit::Id,
    break_glass::{
        self, Report, Scope, Shown,
        socket::{Answer, Question, SOCKET, ask},
    },
    image::sanitize,
    limits, systemd,
};

/// Admit an image for some time whatever the policy says, and say why. Without arguments: the passes in force.
///
/// Only root on this node can, and needs no network for it. Each pass, each image that it admits and its end are an alert
/// in the journal, with the reason. A pass ends by itself, also over a restart, at the latest by `longest-minutes` of
/// [break-glass] in config.toml.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    instead: Option<Instead>,
    /// A digest, as the refusal names it; or repositories, such as reg.example.com/prod/** (only what containerd itself
    /// fetched from there).
    #[arg(value_name = "DIGEST|PATTERN", requires_all = ["length", "reason"])]
    scope: Option<String>,
    /// For how long: 30m, 4h, 90s.
    #[arg(long = "for", value_name = "TIME", value_parser = length, requires = "scope")]
    length: Option<u64>,
    /// Why. It is in every entry that this leads to.
    #[arg(long, value_name = "TEXT", requires = "scope")]
    reason: Option<String>,
    /// List the passes, as without arguments.
    #[arg(long, conflicts_with = "scope")]
    list: bool,
    #[command(flatten)]
    how: How,
}

#[derive(clap::Args)]
struct How {
    /// How to say it.
    #[arg(short, long, default_value = "text")]
    output: Output,
    /// The directory of the sockets.
    #[arg(long, value_name = "DIR", default_value = systemd::DIRECTORY)]
    runtime: PathBuf,
}

#[derive(clap::Subcommand)]
enum Instead {
    /// End a pass now.
    End {
        /// Its number, as `pullgate break-glass` lists it.
        id: Id,
        #[command(flatten)]
        how: How,
    },
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let (question, how) = match arguments {
        Arguments { instead: Some(Instead::End { id, how }), .. } => (Question::End { id: id.to_string() }, how),
        Arguments { scope: Some(scope), length: Some(seconds), reason: Some(reason), how, .. } => {
            // The daemon says the same, later.
            if let Err(why) = Scope::parse(scope).map(drop).and_then(|()| break_glass::reason(reason).map(drop)) {
                return complain(why);
            }
            (Question::Make { scope: scope.clone(), seconds: *seconds, reason: reason.clone() }, how)
        }
        Arguments { how, .. } => (Question::List, how),
    };
    match ask(&how.runtime, &question) {
        Ok(answer) => tell(answer, how.output),
        Err(error) => {
            warn!("pullgate: the daemon does not answer on {}: {error}", how.runtime.join(SOCKET).display());
            warn!(
                "  {}",
                match error.kind() {
                    ErrorKind::PermissionDenied => "only root breaks the glass",
                    _ => "look at `systemctl status pullgate.service pullgate-gates.socket`",
                }
            );
            ExitCode::from(INCONCLUSIVE)
        }
    }
}

fn tell(answer: Answer, output: Output) -> ExitCode {
    let said = match (&answer, output) {
        (Answer::Usage(why), _) => {
            warn!("pullgate: {}", sanitize(why, limits::SHOWN_CHARS));
            return ExitCode::from(BAD_CONFIGURATION);
        }
        (Answer::Trouble(why), _) => {
            warn!("pullgate: {}", sanitize(why, limits::SHOWN_CHARS));
            return ExitCode::from(INCONCLUSIVE);
        }
        (Answer::Made(pass) | Answer::Ended(pass), Output::Json) => page::json(&json!(pass)),
        (Answer::List(report), Output::Json) => page::json(&json!(report)),
        (Answer::Made(pass), Output::Text) => format!(
            "pass {}: {} is admitted for {}, whatever the policy says.\nAll that it admits is an alert in the journal. \
             To end it: pullgate break-glass end {}\n",
            pass.id,
            shown(&pass.scope),
            left(pass.left_seconds),
            pass.id
        ),
        (Answer::Ended(pass), Output::Text) => format!("pass {} for {} is over.\n", pass.id, shown(&pass.scope)),
        (Answer::List(report), Output::Text) => in_text(report, &TimeZone::system()),
    };
    page::print(&said, ExitCode::SUCCESS)
}

fn in_text(report: &Report, zone: &TimeZone) -> String {
    let trouble = report.trouble.iter().map(|trouble| format!("TROUBLE: {}\n", shown(trouble)));
    let mut text: String = trouble.collect();
    if report.passes.is_empty() {
        text.push_str("no pass is in force\n");
    }
    for pass in &report.passes {
        text.push_str(&format!("{:<6} {}\n", shown(&pass.id), shown(&pass.scope)));
        text.push_str(&format!("       {}\n", standing(pass)));
        if let (Some(begins), Some(ends)) = (pass.begins, pass.ends) {
            text.push_str(&format!("       from {}\n       to   {}\n", moment(begins, zone), moment(ends, zone)));
        }
        text.push_str(&format!("       by {}: {}\n", pass.who, shown(&pass.reason)));
    }
    text
}

/// How `pass` stands, in a few words.
pub(super) fn standing(pass: &Shown) -> String {
    match pass.in_force {
        true => format!("{} left", left(pass.left_seconds)),
        false => "not in force: waits for a clock that can be trusted".to_owned(),
    }
}

fn shown(text: &str) -> String {
    sanitize(text, limits::SHOWN_CHARS)
}

fn left(seconds: u64) -> String {
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds} s"),
        (0, minutes) => format!("{minutes} min"),
        (hours, 0) => format!("{hours} h"),
        (hours, minutes) => format!("{hours} h {minutes} min"),
    }
}

fn length(text: &str) -> Result<u64, String> {
    let length: SignedDuration = text.parse().map_err(|_| "write a time such as 30m, 4h or 90s".to_owned())?;
    u64::try_from(length.as_secs()).ok().filter(|seconds| *seconds > 0).ok_or("at least one second".to_owned())
}

/// The command that makes a pass for `digest`, but for the reason.
pub(super) fn command(digest: &crate::image::Digest) -> String {
    format!("pullgate break-glass {digest} --for 1h --reason 'WHY'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_as_people_write_it() {
        for (text, seconds) in [("4h", 14_400), ("30m", 1800), ("30min", 1800), ("90s", 90), ("1h30m", 5400), ("1d", 0)]
        {
            assert_eq!(length(text).unwrap_or_default(), seconds, "{text}");
        }
        for text in ["", "4", "h", "-4h", "0s", "0.5s", "4 hours or so", "99999999999999999999h", "tomorrow"] {
            assert!(length(text).is_err(), "{text}");
        }
        assert_eq!([59, 60, 3599, 3600, 5400].map(left), ["59 s", "1 min", "59 min", "1 h", "1 h 30 min"]);
    }
}
