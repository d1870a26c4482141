//! `pullgate policy check` and `pullgate policy lint`.

use std::process::ExitCode;

use jiff::Timestamp;
use serde_json::json;

use super::{Output, many, page, show};
use crate::{
    cli::page::Page,
    policy::{
        Policy,
        lint::{Opening, Remark, within},
    },
};

/// Something was noticed.
const NOTICED: u8 = 1;
/// Openings that a person is shown in full.
const OPENINGS: usize = 8;

pub(super) fn check(policy: &Policy, output: Output) -> ExitCode {
    let openings = policy.openings(Timestamp::now());
    let remarks = policy.lint(Timestamp::now());
    if output == Output::Json {
        let opening = |opening: &Opening<'_>| {
            json!({
                "rule": opening.rule.name, "line": opening.rule.line, "images": opening.images.to_string(),
                "nodes": opening.rule.nodes.0, "namespaces": opening.rule.namespaces,
                "service-accounts": show::accounts(opening.rule), "against": opening.against.name,
            })
        };
        let openings: Vec<_> = openings.iter().map(opening).collect();
        let value = json!({
            "usable": true, "file": policy.file, "revision": policy.revision, "attestors": policy.attestors.len(),
            "rules": policy.rules.len(), "floors": policy.floors.len(), "exempt": policy.exempt.len(),
            "openings": openings, "remarks": remarks.len(),
        });
        return page::print(&page::json(&value), ExitCode::SUCCESS);
    }
    let mut page = Page::default();
    page.line(format!("{} can be used, revision {}", policy.file, policy.revision));
    page.row("", counts(policy));
    for opening in openings.iter().take(OPENINGS) {
        page.gap();
        page.line(format!("Open before the start, {}: {}", nodes(opening), opening.images));
        page.row("rule", format!("\"{}\" at {}:{}", opening.rule.name, policy.file, opening.rule.line));
        page.row("", format!("{} is known only when a container starts, so resolve and unpack", whose(opening)));
        page.row("", format!("there also admit what \"{}\" refuses. The start gate decides;", opening.against.name));
        page.row("", "what starts past it (docker, ctr) is admitted. Give the namespace nodes of its own.");
    }
    if let Some(more) = openings.len().checked_sub(OPENINGS).filter(|more| *more > 0) {
        page.gap();
        page.line(format!(
            "{}, opened by namespaces alike: `pullgate policy lint` has a line for each",
            many(more, "more pattern")
        ));
    }
    if !remarks.is_empty() {
        page.gap();
        page.line(format!("{}: `pullgate policy lint` has more", many(remarks.len(), "remark")));
    }
    page::print(&page.text(), ExitCode::SUCCESS)
}

fn nodes(opening: &Opening<'_>) -> String {
    match opening.rule.nodes.0.is_empty() {
        true => "on every node".to_owned(),
        false => format!("on nodes {}", opening.rule.nodes),
    }
}

fn whose(opening: &Opening<'_>) -> String {
    let (accounts, namespaces) = (show::accounts(opening.rule), &opening.rule.namespaces);
    match (accounts.as_slice(), namespaces.as_slice()) {
        ([one], _) => format!("The account {one}"),
        ([], [one]) => format!("The namespace {one}"),
        ([], some) => format!("Each of the namespaces {}", some.join(", ")),
        (some, _) => format!("Each of the accounts {}", some.join(", ")),
    }
}

fn counts(policy: &Policy) -> String {
    [
        many(policy.attestors.len(), "attestor"),
        many(policy.rules.len(), "rule"),
        many(policy.floors.len(), "floor"),
        many(policy.exempt.len(), "exemption"),
    ]
    .join(", ")
}

pub(super) fn run(policy: &Policy, output: Output) -> ExitCode {
    let remarks = policy.lint(Timestamp::now());
    let openings = policy.openings(Timestamp::now());
    let opens = openings.iter().map(|opening| Remark {
        line: opening.rule.line,
        kind: "open-before-start",
        message: format!(
            "rule \"{}\": {}, it also opens resolve and unpack for what \"{}\" refuses",
            opening.rule.name,
            within(opening.rule),
            opening.against.name
        ),
    });
    let mut all: Vec<Remark> = remarks.into_iter().chain(opens).collect();
    all.sort();
    let code = if all.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(NOTICED) };
    if output == Output::Json {
        let remark = |remark: &Remark| json!({ "file": policy.file, "line": remark.line, "kind": remark.kind, "message": remark.message });
        let value = json!({ "remarks": all.iter().map(remark).collect::<Vec<_>>() });
        return page::print(&page::json(&value), code);
    }
    let mut page = Page::default();
    for Remark { line, kind, message } in &all {
        let at = if *line == 0 { String::new() } else { format!(":{line}") };
        page.line(format!("{}{at}: {message} ({kind})", policy.file));
    }
    page.line(match all.len() {
        0 => format!("{}: nothing to remark", policy.file),
        count => many(count, "remark"),
    });
    page::print(&page.text(), code)
}
