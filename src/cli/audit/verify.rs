//! Whether the chain of entries holds.

use std::{io::Write, process::ExitCode};

use serde_json::json;

use super::{Arguments, Ended, within};
use crate::{
    audit::{
        Id,
        chain::{Break, Report, verify_chain},
    },
    cli::{
        Output,
        journalctl::{Query, Trouble},
        page,
    },
    limits,
};

/// The chain is broken.
const BROKEN: u8 = 1;

/// Follows the chain through all that the daemon's unit wrote, also what this version does not know.
pub(super) fn run(out: &mut impl Write, arguments: &Arguments) -> Result<ExitCode, Ended> {
    let mut trouble = None;
    let entries = within(Query::daemon(), arguments).read()?;
    let sound = entries.map_while(|entry| entry.map_err(|why| trouble = Some(why)).ok());
    let report = verify_chain(sound);
    if let Some(trouble) = trouble {
        return Err(trouble.into());
    }
    if report.entries == 0 && !nix::unistd::geteuid().is_root() {
        return Err(Trouble::NotAllowed.into());
    }
    let holds = holds(&report);
    match arguments.output {
        Output::Json => out.write_all(page::json(&in_json(&report, holds)).as_bytes())?,
        Output::Text => out.write_all(in_text(&report, holds).as_bytes())?,
    }
    Ok(if holds { ExitCode::SUCCESS } else { ExitCode::from(BROKEN) })
}

/// Whether nothing shows that an entry is missing or was changed.
pub(super) fn holds(report: &Report) -> bool {
    report.breaks.iter().all(is_restart)
}

/// Numbers are skipped where the daemon was killed: nothing need be missing.
fn is_restart(place: &Break) -> bool {
    matches!(place, Break::Unclean { .. })
}

pub(super) fn in_text(report: &Report, holds: bool) -> String {
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let restarts = report.breaks.iter().filter(|place| is_restart(place)).count();
    let verdict = match (holds, report.entries) {
        (_, 0) => "there are no entries".to_owned(),
        (true, entries) => format!("{entries} entries, none missing and none changed"),
        (false, entries) => {
            format!(
                "BROKEN: {entries} entries, and {} where the chain does not hold",
                count(report.breaks.len() - restarts, "place")
            )
        }
    };
    let mut text = verdict;
    if restarts > 0 {
        text.push_str(&format!("; {} after an unclean stop", count(restarts, "restart")));
    }
    text.push('\n');
    for place in report.breaks.iter().take(limits::BREAKS_TOLD) {
        text.push_str(&format!("  {}\n", told(place)));
    }
    if report.breaks.len() > limits::BREAKS_TOLD {
        text.push_str(&format!("  and {} more\n", report.breaks.len() - limits::BREAKS_TOLD));
    }
    if report.entries > 0 {
        text.push_str("What journald removed before the first entry cannot be told, nor what root changed together with the hashes.\n");
    }
    text
}

fn told(place: &Break) -> String {
    let id = |sequence: &u64| Id::new(*sequence);
    match place {
        Break::Missing { after, before } => {
            format!("missing: {} between {} and {}", before - after - 1, id(after), id(before))
        }
        Break::Unclean { after, before } => {
            format!(
                "unclean stop: the daemon ended after {} and began again with {}; up to {} were lost, most likely none",
                id(after),
                id(before),
                before - after - 1
            )
        }
        Break::Changed { at } => format!("changed: {} does not follow on the entry before it", id(at)),
        Break::Unreadable { after: 0 } => "unreadable: an entry without a number, at the beginning".to_owned(),
        Break::Unreadable { after } => format!("unreadable: an entry without a number, after {}", id(after)),
    }
}

fn in_json(report: &Report, holds: bool) -> serde_json::Value {
    let place = |place: &Break| match place {
        Break::Missing { after, before } => json!({ "break": "missing", "after": after, "before": before }),
        Break::Unclean { after, before } => json!({ "break": "unclean-stop", "after": after, "before": before }),
        Break::Changed { at } => json!({ "break": "changed", "at": at }),
        Break::Unreadable { after } => json!({ "break": "unreadable", "after": after }),
    };
    json!({ "holds": holds, "entries": report.entries, "breaks": report.breaks.iter().map(place).collect::<Vec<_>>() })
}
