//! `pullgate policy show`: the rules in the order in which they are asked.

use std::process::ExitCode;

use serde_json::json;

use super::{Output, page, table};
use crate::{
    cli::page::Page,
    policy::{Member, Mode, Policy, Requirement, Rule, requirement::Group, scope::Pattern},
};

pub(super) fn run(policy: &Policy, output: Output) -> ExitCode {
    let text = match output {
        Output::Json => in_json(policy),
        Output::Text => in_text(policy),
    };
    page::print(&text, ExitCode::SUCCESS)
}

fn in_text(policy: &Policy) -> String {
    let mut page = Page::default();
    let mut rows: Vec<[String; 5]> = Vec::new();
    for floor in &policy.floors {
        let names = floor.images.iter().map(|pattern| ["+".to_owned(), pattern.to_string()]);
        rows.extend(names.map(|[place, images]| row(policy, floor, place, images)));
    }
    for exempt in &policy.exempt {
        let digests = Some(exempt.digests.len()).filter(|count| *count > 0).map(|count| super::many(count, "digest"));
        let images = exempt.insecure_images.iter().map(ToString::to_string).chain(digests);
        rows.extend(images.map(|images| {
            [
                "0".to_owned(),
                images,
                "everywhere".to_owned(),
                "nothing".to_owned(),
                format!("{}:{}", exempt.name, exempt.line),
            ]
        }));
    }
    for (place, (rule, pattern)) in (1..).zip(policy.in_order()) {
        rows.push(row(policy, rule, place.to_string(), named(rule, pattern)));
    }
    rows.push(row(policy, &policy.default, "-".to_owned(), "everything else".to_owned()));
    table::add(&mut page, ["#", "IMAGES", "WHERE", "NEED", "RULE:LINE"], &rows);
    page.gap();
    page.line("Of the rules about an image the first in this list governs; what is exempt (0) needs none.");
    if !policy.floors.is_empty() {
        page.line("Every floor (+) about it counts as well.");
    }
    page.text()
}

fn row(policy: &Policy, rule: &Rule, place: String, images: String) -> [String; 5] {
    [place, images, whereabouts(rule), needs(policy, rule), format!("{}:{}", rule.name, rule.line)]
}

fn named(rule: &Rule, pattern: &Pattern) -> String {
    match rule.tags.get(pattern) {
        None => pattern.to_string(),
        Some(tags) => {
            let tags: Vec<String> = tags.iter().map(ToString::to_string).collect();
            format!("{pattern}:{}", tags.join("|"))
        }
    }
}

/// The service accounts that a rule is for.
pub(super) fn accounts(rule: &Rule) -> Vec<String> {
    rule.accounts.iter().map(ToString::to_string).collect()
}

/// Where a rule counts, in short.
pub(super) fn whereabouts(rule: &Rule) -> String {
    let nodes = Some(rule.nodes.to_string()).filter(|nodes| !nodes.is_empty());
    let namespaces = Some(&rule.namespaces).filter(|namespaces| !namespaces.is_empty());
    let namespaces = namespaces.map(|namespaces| format!("ns {}", namespaces.join(",")));
    let accounts = Some(accounts(rule)).filter(|accounts| !accounts.is_empty());
    let accounts = accounts.map(|accounts| format!("sa {}", accounts.join(",")));
    let all: Vec<String> = nodes.into_iter().chain(namespaces).chain(accounts).collect();
    if all.is_empty() { "everywhere".to_owned() } else { all.join(" ") }
}

/// What a rule asks for, in short.
pub(super) fn needs(policy: &Policy, rule: &Rule) -> String {
    let needs = match &rule.require {
        Requirement::Deny => "denied".to_owned(),
        Requirement::InsecureAcceptAnything => "its name only".to_owned(),
        Requirement::Of(group) => group_in_words(policy, group),
    };
    match rule.mode {
        Mode::Enforce => needs,
        Mode::Audit(None) => format!("{needs} (audit)"),
        Mode::Audit(Some(until)) => format!("{needs} (audit until {})", until.strftime("%Y-%m-%d")),
    }
}

fn group_in_words(policy: &Policy, group: &Group) -> String {
    let member = |member: &Member| match member {
        Member::Attestor(at) => policy.attestors.get(*at).map(|attestor| attestor.name.clone()).unwrap_or_default(),
        Member::Digests(digests) => super::many(digests.len(), "pinned digest"),
        Member::Group(inner) => format!("({})", group_in_words(policy, inner)),
    };
    let members: Vec<String> = group.of.iter().map(member).collect();
    match group.count {
        all if all == members.len() => members.join(" + "),
        1 => members.join(" or "),
        some => format!("{some} of {}", members.join(", ")),
    }
}

fn in_json(policy: &Policy) -> String {
    let rule = |rule: &Rule, kind: &str| {
        let images: Vec<String> = rule.images.iter().map(|pattern| named(rule, pattern)).collect();
        json!({
            "kind": kind, "name": rule.name, "line": rule.line, "images": images, "nodes": rule.nodes.0,
            "namespaces": rule.namespaces, "service-accounts": accounts(rule), "needs": needs(policy, rule), "contact": rule.contact, "message": rule.message,
        })
    };
    let exempt = policy.exempt.iter().map(|exempt| {
        let images: Vec<String> = exempt.insecure_images.iter().map(ToString::to_string).collect();
        json!({ "kind": "exempt", "name": exempt.name, "line": exempt.line, "images": images, "digests": exempt.digests })
    });
    let floors = policy.floors.iter().map(|floor| rule(floor, "floor"));
    let rules = policy.rules.iter().map(|one| rule(one, "rule"));
    let all: Vec<_> = floors.chain(exempt).chain(rules).chain([rule(&policy.default, "default")]).collect();
    page::json(&json!({ "file": policy.file, "revision": policy.revision, "rules": all }))
}
