//! `pullgate audit`: the decisions of this node, from its journal.

pub(super) mod images;
mod summary;
mod verify;

use std::{
    collections::VecDeque,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use jiff::tz::TimeZone;

use self::summary::Summary;
use super::{
    BAD_CONFIGURATION, INCONCLUSIVE, Output, complain,
    journalctl::{Query, Trouble},
    page, why,
};
use crate::{
    audit::{Field, Kind, Told},
    image::sanitize,
    limits,
    policy::decision::{Code, Verdict},
};

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    instead: Option<Instead>,
    /// Only what is newer: a time as journalctl takes it ("2026-11-23 12:00", yesterday, "1 hour ago"), or 30min, 2h, 1d.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    since: Option<String>,
    /// Only what is older.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    until: Option<String>,
    /// Only images with this text in their name; with a `*` at its end, names that begin with it.
    #[arg(long, value_name = "TEXT")]
    image: Option<String>,
    /// Only this verdict.
    #[arg(long, value_enum)]
    verdict: Option<VerdictWord>,
    /// Only this code, such as PG101.
    #[arg(long)]
    code: Option<Code>,
    /// Only what this rule decided.
    #[arg(long, value_name = "NAME")]
    rule: Option<String>,
    /// Only what this gate was asked.
    #[arg(long, value_name = "NAME")]
    gate: Option<String>,
    /// Only the newest so many.
    #[arg(short = 'n', long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=limits::ENTRIES_HELD))]
    lines: Option<u32>,
    /// Go on with new entries as they come; begins with the newest ten, or --lines.
    #[arg(short, long, conflicts_with_all = ["until", "summary", "verify"])]
    follow: bool,
    /// Count instead: by verdict, code, rule and image.
    #[arg(long, conflicts_with_all = ["lines", "verify"])]
    summary: bool,
    /// Verify the chain of entries instead: whether any is missing or was changed.
    #[arg(long, conflicts_with_all = ["image", "verdict", "code", "rule", "gate", "lines", "unattributed"])]
    verify: bool,
    /// Decisions that others sent instead, such as a verifier that found no daemon. Nothing proves that they are true.
    #[arg(long)]
    unattributed: bool,
    /// How to say it; json is one object a line.
    #[arg(short, long, default_value = "text")]
    output: Output,
}

#[derive(clap::Subcommand)]
enum Instead {
    /// Judge the images and running containers that are on this node now.
    ///
    /// The exit code is 0 when all are admitted, 1 when any is refused, else 3 when any is not known.
    Images(images::Arguments),
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum VerdictWord {
    Allow,
    Deny,
    Inconclusive,
}

/// Why the listing ended before its end.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Journal(#[from] Trouble),
    #[error(transparent)]
    Output(#[from] io::Error),
}

pub(super) fn run(config: &Path, arguments: &Arguments) -> ExitCode {
    if let Some(Instead::Images(arguments)) = &arguments.instead {
        return images::run(config, arguments);
    }
    let mut out = io::BufWriter::new(io::stdout().lock());
    let ended = match arguments {
        Arguments { verify: true, .. } => verify::run(&mut out, arguments),
        Arguments { summary: true, .. } => summarise(&mut out, arguments),
        _ => list(&mut out, arguments),
    };
    match ended.and_then(|code| Ok(out.flush().map(|()| code)?)) {
        Ok(code) => code,
        // Nobody reads on.
        Err(Ended::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(Ended::Output(error)) => complain(error),
        Err(Ended::Journal(trouble)) => {
            warn!("pullgate: {trouble}");
            ExitCode::from(if matches!(trouble, Trouble::Time(_)) { BAD_CONFIGURATION } else { INCONCLUSIVE })
        }
    }
}

fn list(out: &mut impl Write, arguments: &Arguments) -> Result<ExitCode, Ended> {
    let zone = TimeZone::system();
    let show = |out: &mut dyn Write, told: &Told| match arguments.output {
        Output::Json => out.write_all(page::json(&json(told, arguments)).as_bytes()),
        Output::Text => writeln!(out, "{}", line(told, arguments, &zone)),
    };
    let told = told(arguments)?;
    match arguments.lines {
        Some(lines) if !arguments.follow => {
            let mut newest: VecDeque<Told> = VecDeque::new();
            for told in told.take(lines as usize) {
                newest.push_front(told?);
            }
            newest.iter().try_for_each(|told| show(out, told))?;
        }
        _ => {
            for told in told {
                show(out, &told?)?;
                if arguments.follow {
                    out.flush()?;
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn summarise(out: &mut impl Write, arguments: &Arguments) -> Result<ExitCode, Ended> {
    let mut summary = Summary::default();
    for told in told(arguments)? {
        summary.add(&told?);
    }
    match arguments.output {
        Output::Json => out.write_all(page::json(&summary.json()).as_bytes())?,
        Output::Text => out.write_all(summary.text().as_bytes())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The entries asked for, in the order in which they are shown; the newest first where only so many are.
fn told(arguments: &Arguments) -> Result<impl Iterator<Item = Result<Told, Trouble>>, Trouble> {
    let image = arguments.image.clone();
    let entries = query(arguments).read()?;
    if arguments.follow {
        entries.end_with_reader();
    }
    Ok(entries.map(|entry| entry.map(|entry| Told::from(&entry))).filter(move |told| match (told, &image) {
        (Ok(told), Some(image)) => told.decided.as_ref().is_some_and(|decided| {
            [&decided.image, &decided.decision.name].into_iter().flatten().any(|name| is_named(name, image))
        }),
        _ => true,
    }))
}

fn query(arguments: &Arguments) -> Query {
    let query = if arguments.unattributed { Query::others() } else { Query::daemon().kinds(Kind::ALL) };
    let verdict = arguments.verdict.map(|verdict| match verdict {
        VerdictWord::Allow => "allow",
        VerdictWord::Deny => "deny",
        VerdictWord::Inconclusive => "inconclusive",
    });
    let code = arguments.code.map(|code| code.to_string());
    let fields = [
        (Field::Verdict, verdict),
        (Field::Code, code.as_deref()),
        (Field::Rule, arguments.rule.as_deref()),
        (Field::Gate, arguments.gate.as_deref()),
    ];
    let query = fields
        .into_iter()
        .filter_map(|(field, value)| value.map(|value| (field, value)))
        .fold(query, |query, (field, value)| query.field(field, value));
    let query = within(query, arguments);
    match (arguments.follow, arguments.lines) {
        (true, lines) => query.with("--follow").with(format!("--lines={}", lines.unwrap_or(10))),
        (false, Some(_)) => query.newest_first(),
        (false, None) => query,
    }
}

/// `query` between the times that were asked for.
fn within(query: Query, arguments: &Arguments) -> Query {
    let times = [("--since", &arguments.since), ("--until", &arguments.until)];
    times.into_iter().fold(query, |query, (option, time)| match time {
        Some(time) => query.with(format!("{option}={}", journal_time(time))),
        None => query,
    })
}

/// A bare span such as `2h` means so long ago; the rest is journalctl's to understand.
fn journal_time(text: &str) -> String {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let is_span = !unit.is_empty() && unit.len() < text.len() && unit.chars().all(|c| c.is_ascii_lowercase());
    if is_span { format!("-{text}") } else { text.to_owned() }
}

fn is_named(name: &str, wanted: &str) -> bool {
    match wanted.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name.contains(wanted),
    }
}

fn json(told: &Told, arguments: &Arguments) -> serde_json::Value {
    let mut value = why::value::told_json(told);
    if arguments.unattributed
        && let Some(object) = value.as_object_mut()
    {
        object.insert("authenticated".to_owned(), false.into());
    }
    value
}

/// One line: when, number, verdict, code, gate, rule, image.
fn line(told: &Told, arguments: &Arguments, zone: &TimeZone) -> String {
    let at = told.at.map(|at| at.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string());
    let id = told.id.filter(|_| !arguments.unattributed).map(|id| id.to_string());
    let start = format!("{:19}  {:>5}", at.unwrap_or_default(), id.as_deref().unwrap_or("?"));
    let Some(decided) = &told.decided else {
        return format!("{start}  {:5}  {}", "", sanitize(&told.message, limits::SHOWN_CHARS));
    };
    let decision = &decided.decision;
    let word = |text: &str| sanitize(text, limits::AUDIT_WORD_CHARS);
    let digest = decision.digest.map(|digest| format!("@sha256:{}…", &digest.hex()[..12])).unwrap_or_default();
    let image = decided.image.as_deref().unwrap_or(if digest.is_empty() { "-" } else { "" });
    let admitted = match (decision.verdict, decided.enforced) {
        (Verdict::Allow, _) | (_, true) => "",
        (_, false) => "  (admitted: audit)",
    };
    let doubt = if arguments.unattributed { "  (not authenticated: anyone can write this)" } else { "" };
    format!(
        "{start}  {}  {:5}  {:8}  {:12}  {}{digest}{admitted}{doubt}",
        page::word(decision.verdict, 5),
        word(told.code.as_deref().unwrap_or("-")),
        word(&decided.gate),
        word(decision.rule.as_deref().unwrap_or("-")),
        word(image),
    )
}

#[cfg(test)]
mod tests;
