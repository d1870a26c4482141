//! What was found, for a person: the worst first, each way around with its mend, and one line of verdict.

use std::{collections::BTreeMap, io::IsTerminal};

use super::live;
use crate::{
    image::sanitize,
    limits,
    node::doctor::{Finding, Gate, State},
    selftest,
};

/// Columns of a page.
const COLUMNS: usize = 80;
/// Columns before the text of a finding.
const INDENT: usize = 11;

/// All that `doctor` found.
pub(super) struct Examined {
    /// What the checks found, the worst first.
    pub(super) findings: Vec<Finding>,
    /// What the self-test found; none where it was not to run.
    pub(super) live: Option<Result<selftest::Report, String>>,
}

impl Examined {
    /// What it all comes to.
    pub(super) fn worst(&self) -> State {
        let checks = self.findings.iter().map(|finding| finding.state);
        let live = self.live.iter().map(|live| match live {
            Ok(report) if report.is_open() => State::Open,
            Ok(report) if !report.is_unknown() => State::Closed,
            Ok(_) | Err(_) => State::Unknown,
        });
        checks.chain(live).max().unwrap_or(State::Unknown)
    }

    /// The last line: which gates enforce, or what is open.
    pub(super) fn verdict(&self) -> String {
        let open = self.with(State::Open);
        let unknown = self.with(State::Unknown);
        let report = self.live.as_ref().and_then(|live| live.as_ref().ok());
        let enforcing = report.map(live::enforcing).unwrap_or_default().join(", ");
        let mut said = Vec::new();
        if !open.is_empty() {
            said.push(format!("OPEN: {}", open.join(", ")));
        }
        if !unknown.is_empty() {
            said.push(format!("not known: {}", unknown.join(", ")));
        }
        match (enforcing.as_str(), &self.live) {
            ("", None) => said.push("not tested live".to_owned()),
            ("", Some(_)) => said.push("no gate enforces".to_owned()),
            (gates, _) => said.push(format!("enforcing: {gates}")),
        }
        said.join("; ")
    }

    /// The gates with a finding of `state`, and those of which the self-test says so.
    fn with(&self, state: State) -> Vec<String> {
        let seen = match (state, &self.live) {
            (State::Open, Some(Ok(report))) => live::gates(report, |state| state == selftest::State::Open),
            (State::Unknown, Some(Ok(report))) => live::gates(report, |state| state == selftest::State::Unknown),
            (State::Unknown, Some(Err(_))) => vec!["the self-test".to_owned()],
            _ => Vec::new(),
        };
        let mut named: Vec<String> = Vec::new();
        for gate in Gate::ALL {
            let name = gate.name();
            let live = seen.iter().find(|seen| seen.split(' ').next() == Some(name));
            let checked = self.findings.iter().any(|finding| finding.gate == gate && finding.state == state);
            match live {
                _ if checked => named.push(name.to_owned()),
                Some(live) => named.push(live.clone()),
                None => {}
            }
        }
        named.extend(seen.into_iter().filter(|seen| seen.starts_with("the ")));
        named
    }

    /// The page.
    pub(super) fn page(&self, heading: &str, verbose: bool) -> String {
        let mut lines: Vec<String> = heading.lines().flat_map(|line| wrapped(line, "")).collect();
        lines.push(String::new());
        let (mut quiet, mut checks) = (Vec::new(), 0);
        for gate in self.gates() {
            let of_gate: Vec<&Finding> = self.findings.iter().filter(|finding| finding.gate == gate).collect();
            let told: Vec<&&Finding> = of_gate.iter().filter(|it| verbose || it.state != State::Closed).collect();
            if told.is_empty() {
                if !of_gate.is_empty() {
                    quiet.push(gate.name());
                    checks += of_gate.len();
                }
                continue;
            }
            lines.push(gate.to_string());
            for group in same(&told) {
                finding(&mut lines, &group, verbose);
            }
        }
        if !quiet.is_empty() {
            lines.extend(wrapped(&format!("nothing open in {} ({checks} checks)", quiet.join(", ")), ""));
        }
        if let Some(live) = &self.live {
            lines.push(String::new());
            self_test(&mut lines, live);
        }
        lines.push(String::new());
        lines.extend(wrapped(&self.verdict(), ""));
        lines.join("\n") + "\n"
    }

    /// The gates, the worst first.
    fn gates(&self) -> Vec<Gate> {
        let worst = |gate: &Gate| self.findings.iter().filter(|it| it.gate == *gate).map(|it| it.state).max();
        let mut gates = Gate::ALL.to_vec();
        gates.sort_by_key(|gate| std::cmp::Reverse(worst(gate)));
        gates
    }
}

/// Checks that could not be made for the same reason are told once.
fn same<'a>(findings: &[&&'a Finding]) -> Vec<Vec<&'a Finding>> {
    let mut groups: Vec<Vec<&Finding>> = Vec::new();
    let mut unknown: BTreeMap<&str, usize> = BTreeMap::new();
    for finding in findings {
        match unknown.get(finding.what.as_str()).copied() {
            Some(group) if finding.state == State::Unknown => groups[group].push(finding),
            _ => {
                if finding.state == State::Unknown {
                    unknown.insert(&finding.what, groups.len());
                }
                groups.push(vec![finding]);
            }
        }
    }
    groups
}

fn finding(lines: &mut Vec<String>, group: &[&Finding], verbose: bool) {
    let Some(finding) = group.first() else { return };
    let word = painted(finding.state);
    let mut what = finding.what.clone();
    if verbose {
        let checks: Vec<&str> = group.iter().map(|finding| finding.check).collect();
        what = format!("{}: {what}", checks.join(", "));
    } else if group.len() > 1 {
        what = format!("{} checks could not be made: {what}", group.len());
    }
    let mut text = wrapped(&what, &" ".repeat(INDENT));
    if let Some(first) = text.first_mut() {
        let rest = first.get(INDENT..).unwrap_or_default().to_owned();
        *first = format!("  {word} {rest}");
    }
    lines.append(&mut text);
    let mut row = |name: &str, value: &str| {
        let indent = " ".repeat(INDENT + 6);
        let mut text = wrapped(value, &indent);
        if let Some(first) = text.first_mut() {
            let rest = first.get(indent.len()..).unwrap_or_default().to_owned();
            *first = format!("{}{name:<6}{rest}", " ".repeat(INDENT));
        }
        lines.append(&mut text);
    };
    if let Some(place) = &finding.place {
        row("at", &place.to_string());
    }
    if let Some(mend) = &finding.mend {
        row("mend", mend);
    }
}

fn self_test(lines: &mut Vec<String>, live: &Result<selftest::Report, String>) {
    let report = match live {
        Ok(report) => report,
        Err(why) => return lines.extend(wrapped(&format!("self-test: {why}"), "")),
    };
    lines.push(format!("self-test, {:.1} s", report.took_ms as f64 / 1000.0));
    for proof in &report.gates {
        let way = sanitize(proof.way.as_deref().unwrap_or_default(), 20);
        let start = format!("  {:<8} {way:<10} ", proof.gate.name());
        let indent = " ".repeat(start.chars().count());
        let text = match proof.why.as_str() {
            "" => proof.state.word().to_owned(),
            why => format!("{}: {why}", proof.state.word()),
        };
        let mut text = wrapped(&text, &indent);
        if let Some(first) = text.first_mut() {
            *first = format!("{start}{}", first.trim_start());
        }
        lines.append(&mut text);
    }
}

/// The word for a state, as wide as the widest, coloured on a terminal whose user did not ask for none.
fn painted(state: State) -> String {
    let word = format!("{state:<8}");
    if !std::io::stdout().is_terminal() || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) {
        return word;
    }
    let colour = match state {
        State::Open => 31,
        State::Unknown | State::Warning => 33,
        State::Closed => 32,
    };
    format!("\x1b[{colour}m{word}\x1b[0m")
}

/// `text` in lines of a page, each after `indent`. A word that is longer than a line has one of its own.
fn wrapped(text: &str, indent: &str) -> Vec<String> {
    let mut lines = vec![indent.to_owned()];
    for word in sanitize(text, limits::SHOWN_CHARS).split(' ').filter(|word| !word.is_empty()) {
        let Some(line) = lines.last_mut() else { break };
        let empty = line.len() == indent.len();
        if !empty && line.chars().count() + 1 + word.chars().count() > COLUMNS {
            lines.push(format!("{indent}{word}"));
        } else {
            line.push_str(if empty { "" } else { " " });
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests;
