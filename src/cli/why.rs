//! `pullgate why`: the story of one entry of the audit, from the journal alone.

pub(super) mod value;

use std::{path::Path, process::ExitCode};

use super::{
    BAD_CONFIGURATION, INCONCLUSIVE, Output,
    journalctl::{Query, Trouble},
    page::{self, Page},
    paths,
    story::{self, Files},
};
use crate::{
    activation::{Activation, Outcome},
    audit::{Decided, Field, Id, Kind, Told},
    image::Repository,
    policy::decision::Verdict,
    snapshot::Snapshot,
};
use jiff::{Timestamp, tz::TimeZone};

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The number at the end of a refusal.
    #[arg(required_unless_present = "last")]
    id: Option<Id>,
    /// The newest refusal instead.
    #[arg(long, conflicts_with = "id")]
    last: bool,
    /// How to say it.
    #[arg(short, long, default_value = "text")]
    output: Output,
}

/// No such entry.
const NOT_THERE: u8 = 1;
/// Entries with one number that are counted: more than one means that the numbers began anew.
const NAMESAKES: usize = 64;

/// What is told beside the entry itself.
struct Beside {
    /// Older entries with the same number.
    namesakes: usize,
    /// The newest decision that admitted an image of the same repository.
    admitted: Option<Told>,
    /// The policy on disk.
    policy: Now,
}

/// How the policy on disk stands to the one that decided.
enum Now {
    Same,
    Changed(String),
    Unusable(String),
}

pub(super) fn run(config: &Path, arguments: &Arguments) -> ExitCode {
    match look(arguments.id) {
        Ok(Some((told, namesakes))) => {
            let (snapshot, now) = policy_now(config, &told);
            let admitted = match last_admitted(&told) {
                Ok(admitted) => admitted,
                Err(trouble) => return could_not_look(&trouble),
            };
            let beside = Beside { namesakes, admitted, policy: now };
            let boot = paths(config, None).boot;
            let files = Files {
                policy: snapshot.as_ref().map_or(Path::new("/etc/pullgate/policy.toml"), |s| &s.config.policy),
                boot: &boot,
            };
            let text = match arguments.output {
                Output::Json => page::json(&value::in_json(&told, &beside, &files)),
                Output::Text => in_text(&told, &beside, &files, snapshot.as_ref(), &TimeZone::system()),
            };
            page::print(&text, ExitCode::SUCCESS)
        }
        Ok(None) => match arguments.id {
            Some(id) => not_there(id),
            None => {
                warn!("pullgate: there is no refusal in the journal");
                ExitCode::from(NOT_THERE)
            }
        },
        Err(trouble) => could_not_look(&trouble),
    }
}

/// The newest entry with this number, or the newest refusal, and how many older ones have the number too.
fn look(id: Option<Id>) -> Result<Option<(Told, usize)>, Trouble> {
    let Some(id) = id else {
        let refusals = Query::daemon().kinds(&[Kind::Deny, Kind::Inconclusive, Kind::AuditOnly]);
        return Ok(refusals.newest_first().first()?.map(|entry| (Told::from(&entry), 0)));
    };
    let mut entries = Query::daemon().field(Field::Id, id).newest_first().read()?;
    let Some(newest) = entries.next().transpose()? else { return Ok(None) };
    Ok(Some((Told::from(&newest), entries.take(NAMESAKES).filter(Result::is_ok).count())))
}

fn last_admitted(told: &Told) -> Result<Option<Told>, Trouble> {
    let Some(name) = told.decided.as_ref().and_then(|decided| decided.decision.name.as_ref()) else { return Ok(None) };
    let admitted = Query::daemon().kinds(&[Kind::Allow]).field(Field::Repository, name).newest_first().first()?;
    Ok(admitted.as_ref().map(Told::from))
}

fn policy_now(config: &Path, told: &Told) -> (Option<Snapshot>, Now) {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let Ok(runtime) = runtime else { return (None, Now::Unusable("it could not be read".to_owned())) };
    let activation = Activation::new(paths(config, None), |_, _| ());
    let (snapshot, outcome) = runtime.block_on(activation.load());
    let now = match outcome {
        Outcome::Rejected(trouble) => Now::Unusable(format!("{} {}", trouble.code, trouble.message)),
        _ if told.revision.as_deref() == Some(snapshot.revision()) => Now::Same,
        _ => Now::Changed(snapshot.revision().to_owned()),
    };
    (Some(Snapshot::clone(&snapshot)), now)
}

fn could_not_look(trouble: &Trouble) -> ExitCode {
    warn!("pullgate: {trouble}");
    ExitCode::from(match trouble {
        Trouble::Time(_) => BAD_CONFIGURATION,
        _ => INCONCLUSIVE,
    })
}

/// Says which entries there are instead.
fn not_there(id: Id) -> ExitCode {
    let oldest = Query::daemon().kinds(Kind::ALL).first();
    let newest = Query::daemon().kinds(Kind::ALL).newest_first().first();
    let (oldest, newest) = match (oldest, newest) {
        (Ok(oldest), Ok(newest)) => (oldest, newest),
        (Err(trouble), _) | (_, Err(trouble)) => return could_not_look(&trouble),
    };
    let Some((oldest, newest)) = oldest.as_ref().map(Told::from).zip(newest.as_ref().map(Told::from)) else {
        if !nix::unistd::geteuid().is_root() {
            return could_not_look(&Trouble::NotAllowed);
        }
        warn!("pullgate: there is no entry {id}: the journal has none of pullgate's at all");
        return ExitCode::from(NOT_THERE);
    };
    let why = match (oldest.id, newest.id) {
        (Some(oldest_id), _) if id < oldest_id => {
            let since = oldest.at.map(|at| format!(", of {}", moment(at, &TimeZone::system()))).unwrap_or_default();
            format!("the oldest one that journald still keeps is {oldest_id}{since}")
        }
        (_, Some(newest_id)) if id > newest_id => format!("the newest one is {newest_id}; is it another node's?"),
        _ => {
            "the number was skipped by an unclean stop, or the entry is lost: see `pullgate audit --verify`".to_owned()
        }
    };
    warn!("pullgate: there is no entry {id}: {why}");
    ExitCode::from(NOT_THERE)
}

fn in_text(told: &Told, beside: &Beside, files: &Files<'_>, snapshot: Option<&Snapshot>, zone: &TimeZone) -> String {
    let mut page = Page::default();
    match &told.decided {
        Some(decided) => tell_decision(&mut page, told, decided, beside, files, snapshot, zone),
        None => tell_event(&mut page, told, zone),
    }
    if beside.namesakes > 0 {
        page.gap();
        page.line(format!(
            "{} older entries have this number too: the state directory was emptied. This is the newest.",
            beside.namesakes
        ));
    }
    page.text()
}

fn tell_decision(
    page: &mut Page,
    told: &Told,
    decided: &Decided,
    beside: &Beside,
    files: &Files<'_>,
    snapshot: Option<&Snapshot>,
    zone: &TimeZone,
) {
    let decision = &decided.decision;
    page.line(headline(told, decided));
    page.gap();
    page.row("image", decided.image.as_deref().or(decision.name.as_deref()).unwrap_or("without a name"));
    if let (Some(image), Some(name)) = (&decided.image, &decision.name)
        && image != name
    {
        page.row("", format!("known to the policy as {name}"));
    }
    page.row("digest", decision.digest.map_or_else(|| "not known".to_owned(), |digest| digest.to_string()));
    if let Some(at) = told.at {
        let took = decided.microseconds.map(|us| format!(", decided in {} ms", us.div_ceil(1000))).unwrap_or_default();
        page.row("when", format!("{}{took}", moment(at, zone)));
    }
    if let Some(looked) = decision.grounds.looked_at
        && told.at.is_none_or(|at| at.duration_since(looked).as_secs() >= 1)
    {
        page.row("", format!("by what was found at {}", moment(looked, zone)));
    }
    let namespace = decided.namespace.as_ref().map(|name| format!(", containerd namespace {name}")).unwrap_or_default();
    page.row("gate", format!("{}{namespace}", decided.gate));
    if let Some(layer) = &decided.layer {
        page.row("", format!("layer {layer}"));
    }
    page.row("answer", answer(told, decided));
    story::tell(page, decision);
    if decision.violations.is_empty() {
        // Of codes that this version does not know.
        told.reasons.iter().for_each(|reason| page.row("found", reason));
    }
    match &beside.policy {
        Now::Same => {}
        Now::Changed(revision) => {
            page.row("CHANGED", format!("since then: the policy on disk is {revision}, and may decide otherwise"))
        }
        Now::Unusable(why) => page.row("CHANGED", format!("the policy on disk cannot be used: {why}")),
    }
    story::mend(page, decision, files, snapshot.and_then(|snapshot| snapshot.policy.as_deref()));
    if decision.verdict == Verdict::Allow {
        page.gap();
    }
    if let Some((admitted, digest)) =
        beside.admitted.as_ref().and_then(|told| Some((told, told.decided.as_ref()?.decision.digest?)))
        && admitted.id != told.id
    {
        let same = if Some(digest) == decision.digest { " (the same)" } else { "" };
        page.row("admitted", format!("last of this repository: {digest}{same}"));
        page.row("", when_and_id(admitted, zone));
    }
    if let Some(command) = check_command(decided) {
        page.row("reproduce", command);
    }
}

/// What is said in one line where no request was answered.
fn tell_event(page: &mut Page, told: &Told, zone: &TimeZone) {
    page.line(&told.message);
    page.gap();
    page.row(
        "what",
        match told.kind {
            Some(kind) => kind.meaning(),
            None => "an entry of a kind that this version does not know",
        },
    );
    if let Some(at) = told.at {
        page.row("when", moment(at, zone));
    }
    if let Some(pass) = &told.pass {
        page.row("pass", format!("{} for {}", pass.id, pass.scope));
        page.row("by", &pass.by);
        page.row("because", &pass.reason);
        if let Some(ends) = pass.ends {
            page.row("until", moment(ends, zone));
        }
        if let Some(over) = &pass.over {
            page.row("over", over);
        }
        page.row("used", format!("journalctl -u {} PULLGATE_PASS={}", crate::audit::UNIT, pass.id));
    }
    for (name, value) in [("policy", &told.revision), ("mode", &told.mode)] {
        if let Some(value) = value {
            page.row(name, value);
        }
    }
    for (name, values) in [("found", &told.reasons), ("refused", &told.refused), ("unknown", &told.unknown)] {
        values.iter().for_each(|value| page.row(name, value));
    }
    if let Some(code) = told.code.as_ref().and_then(|code| code.parse::<crate::policy::decision::Code>().ok()) {
        page.row("means", format!("{code} {}: {}", code.name(), code.meaning()));
        page.row("to do", code.remedy());
    }
}

/// As [`story::headline`], also for codes of another version.
fn headline(told: &Told, decided: &Decided) -> String {
    match (&told.code, decided.decision.code()) {
        (Some(code), None) => {
            format!("{} {code}, a code that this version does not know", decided.decision.verdict.word())
        }
        _ => story::headline(&decided.decision),
    }
}

fn answer(told: &Told, decided: &Decided) -> &'static str {
    match (decided.decision.verdict, decided.enforced, told.mode.as_deref()) {
        (Verdict::Allow, ..) if decided.decision.glass.is_some() => "admitted by break-glass alone",
        (Verdict::Allow, ..) => "admitted",
        (_, true, _) => "refused",
        (_, false, Some("enforce")) => "admitted all the same: the rule only audits",
        (_, false, _) => "admitted all the same: the node only audits",
    }
}

fn when_and_id(told: &Told, zone: &TimeZone) -> String {
    let at = told.at.map(|at| moment(at, zone)).unwrap_or_default();
    told.id.map_or(at.clone(), |id| format!("{at}, entry {id}"))
}

/// The time here and in UTC.
pub(super) fn moment(at: Timestamp, zone: &TimeZone) -> String {
    let (here, utc) = (at.to_zoned(zone.clone()), at.to_zoned(TimeZone::UTC));
    let utc = utc.strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
    match here.offset().seconds() {
        0 => utc,
        _ => format!("{} ({utc})", here.strftime("%Y-%m-%d %H:%M:%S %:z")),
    }
}

/// The command that comes to the same verdict, while nothing changes. Made of checked parts only: it will be pasted.
fn check_command(decided: &Decided) -> Option<String> {
    let repository: Repository = decided.decision.name.as_ref()?.parse().ok()?;
    Some(format!("pullgate check {repository}@{}", decided.decision.digest?))
}

#[cfg(test)]
mod tests;
