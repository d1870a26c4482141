//! What a policy says that its author may not have meant. It loads all the same.

mod near;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use self::near::Near;
use super::{
    Mode, Policy, Requirement, Rule,
    scope::{NodeSelector, Pattern},
};
use crate::{
    image::Digest,
    limits,
    trust::{Attestor, Identity, Matcher},
};

/// Attestors up to which it is tried out whether one requirement can be met without another.
const TRIED: usize = 12;
/// Registries where anybody may have a repository.
const PUBLIC: &[&str] = &["docker.io", "quay.io", "ghcr.io", "gcr.io", "public.ecr.aws", "registry.gitlab.com"];

/// One thing that was noticed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Remark {
    /// The line of the document, from 1.
    pub line: usize,
    /// Its name, for programs.
    pub kind: &'static str,
    /// What it means, and what to write instead.
    pub message: String,
}

/// A rule for namespaces or service accounts by which the gates before the start admit more than without it.
#[derive(Clone, Debug)]
pub struct Opening<'p> {
    /// The rule.
    pub rule: &'p Rule,
    /// Its images.
    pub images: &'p Pattern,
    /// Whose refusals it turns into admissions until the start.
    pub against: &'p Rule,
}

impl Policy {
    /// Everything that is noticed at `now`, in the order of the document.
    pub fn lint(&self, now: Timestamp) -> Vec<Remark> {
        let mut remarks = Remarks(Vec::new());
        self.lint_default(&mut remarks, now);
        self.lint_order(&mut remarks, now);
        for rule in self.rules.iter().chain(&self.floors).chain([&self.default]) {
            self.lint_rule(rule, &mut remarks, now);
        }
        self.lint_exempt(&mut remarks);
        self.lint_attestors(&mut remarks, now);
        self.lint_roots(&mut remarks, now);
        remarks.0.sort();
        remarks.0.dedup();
        remarks.0
    }

    /// The namespace rules by which the gates before the start admit what is refused elsewhere, each with one rule that
    /// would refuse it.
    pub fn openings(&self, now: Timestamp) -> Vec<Opening<'_>> {
        let mut openings = Vec::new();
        let near = Near::of(self.rules.iter().filter(|rule| rule.is_for_anybody()));
        for rule in self.rules.iter().filter(|rule| !rule.is_for_anybody()) {
            for images in &rule.images {
                let elsewhere = near.overlapping(images);
                let covering = |other: &&&Rule| other.images.iter().any(|pattern| pattern.covers(images));
                let covering: Vec<&Rule> = elsewhere.iter().filter(covering).copied().collect();
                let about = |other: &&Rule| {
                    other.nodes.overlaps(&rule.nodes)
                        && self.is_laxer(rule, other, now)
                        && !is_superseded(other, &covering, images, &rule.nodes)
                };
                if let Some(against) = elsewhere.iter().copied().chain([&self.default]).find(about) {
                    openings.push(Opening { rule, images, against });
                }
            }
        }
        openings
    }

    fn lint_default(&self, remarks: &mut Remarks, now: Timestamp) {
        let stricter = self.rules.iter().find(|rule| self.is_laxer(&self.default, rule, now));
        if let Some(rule) = stricter {
            let message = format!(
                "the default is laxer than \"{}\": an image that no rule is about, or whose name is not known, passes more easily than one that is spoken of",
                rule.name
            );
            remarks.add(&self.default, "lax-default", message);
        }
    }

    /// Rules whose images another rule takes away, though its pattern is the wider one.
    fn lint_order(&self, remarks: &mut Remarks, now: Timestamp) {
        let rank = |rule: &Rule| (!rule.accounts.is_empty(), !rule.namespaces.is_empty(), !rule.nodes.0.is_empty());
        let near = Near::of(self.rules.iter().filter(|rule| rank(rule) > (false, false, false)));
        for rule in &self.rules {
            let others: BTreeMap<(usize, &str), &Rule> = rule
                .images
                .iter()
                .flat_map(|images| near.overlapping(images))
                .map(|other| ((other.line, other.name.as_str()), other))
                .collect();
            for other in others.into_values() {
                let wider = rank(other) > rank(rule)
                    && other.nodes.overlaps(&rule.nodes)
                    && other
                        .whose()
                        .any(|theirs| theirs.and_wider().any(|wider| rule.whose().any(|ours| ours == wider)));
                let takes =
                    |pattern: &&Pattern| other.images.iter().any(|wide| wide != *pattern && wide.covers(pattern));
                if let Some(pattern) =
                    rule.images.iter().find(takes).filter(|_| wider && self.is_laxer(other, rule, now))
                {
                    let message = format!(
                        "\"{}\" comes first {}, and is laxer about `{pattern}`: what must hold there as well is a [[floor]]",
                        other.name,
                        within(other)
                    );
                    remarks.add(rule, "shadowed", message);
                }
            }
        }
    }

    fn lint_rule(&self, rule: &Rule, remarks: &mut Remarks, now: Timestamp) {
        if let Requirement::Of(group) = &rule.require {
            let has_keys = |at: usize| self.attestors.get(at).is_some_and(Attestor::has_signers);
            let nobody = Digest::of(b"no image has this digest");
            let digest = group.pinned().into_iter().next().unwrap_or(nobody);
            let name = |at: usize| self.attestors.get(at).map(|attestor| attestor.name.clone()).unwrap_or_default();
            if !group.is_met(&digest, &has_keys) {
                let missing = group.missing(&digest, &has_keys, &name);
                remarks.add(rule, "never-met", format!("nothing can meet it: there are no keys of {missing}"));
            }
        }
        if rule.require == Requirement::InsecureAcceptAnything {
            for pattern in &rule.images {
                let open = match pattern.host() {
                    None => Some("every registry there is".to_owned()),
                    Some(host) if PUBLIC.contains(&host.as_str()) && !pattern.prefix().contains('/') => {
                        Some(format!("{host}, where anybody may have a repository"))
                    }
                    Some(_) => None,
                };
                if let Some(open) = open {
                    remarks.add(rule, "matches-anyone", format!("`{pattern}` admits without a signature from {open}"));
                }
            }
        }
        for pattern in rule.images.iter().filter(|pattern| pattern.ends_within_a_word()) {
            let host = pattern.host().map(ToString::to_string).unwrap_or_default();
            let word = format!("{host}/{}", pattern.prefix());
            let message =
                format!("`{pattern}` means {word}-anything as well: write `{word}/**` for what is below {word}");
            remarks.add(rule, "within-a-word", message);
        }
        if let Mode::Audit(Some(until)) = rule.mode
            && until <= now
        {
            remarks.add(
                rule,
                "audit-ended",
                format!("its audit ended at {until}: it refuses, so delete `mode` and `audit-until`"),
            );
        }
        let length = rule.message.as_ref().map_or(0, |message| message.chars().count());
        if length > limits::ADVICE_CHARS {
            let message = format!(
                "its message has {length} characters: the line of a refusal has room for {}, the rest is in `pullgate why`",
                limits::ADVICE_CHARS
            );
            remarks.add(rule, "long-message", message);
        }
    }

    fn lint_exempt(&self, remarks: &mut Remarks) {
        for exempt in &self.exempt {
            let mut add = |kind, message: String| {
                remarks.0.push(Remark {
                    line: exempt.line,
                    kind,
                    message: format!("exempt \"{}\": {message}", exempt.name),
                });
            };
            if exempt.digests.is_empty() && exempt.insecure_images.is_empty() {
                add("exempts-nothing", "it names no image".to_owned());
            }
            for pattern in &exempt.insecure_images {
                if pattern.is_everything() {
                    add("matches-anyone", "`**` admits everything before any rule is asked".to_owned());
                }
                let hidden = self.rules.iter().find(|rule| rule.images.iter().all(|images| pattern.covers(images)));
                if let Some(rule) = hidden.filter(|_| !pattern.is_everything()) {
                    add(
                        "shadowed",
                        format!("`{pattern}` is about all that \"{}\" is about, and comes first", rule.name),
                    );
                }
            }
        }
    }

    fn lint_attestors(&self, remarks: &mut Remarks, now: Timestamp) {
        let rules = self.rules.iter().chain(&self.floors).chain([&self.default]);
        let named: BTreeSet<usize> = rules.flat_map(|rule| rule.require.attestors()).collect();
        for (_, attestor) in self.attestors.iter().enumerate().filter(|(at, _)| !named.contains(at)) {
            let message = format!("attestor \"{}\": no rule asks for it", attestor.name);
            remarks.0.push(Remark { line: 0, kind: "unused-attestor", message });
        }
        for attestor in &self.attestors {
            let mut add = |kind, message: String| {
                let message = format!("attestor \"{}\": {message}", attestor.name);
                remarks.0.push(Remark { line: 0, kind, message });
            };
            for until in attestor.keys.iter().filter_map(|key| key.until).filter(|until| *until <= now) {
                add("key-ended", format!("a key of it ended at {until}, and signs nothing any more"));
            }
            let anybody = |identity: &&Identity| matches!(identity.subject, Matcher::Anything);
            for identity in attestor.identities.iter().filter(anybody) {
                let whom = &identity.issuer;
                add("anybody-signs", format!("whoever has an account with {whom} can sign for it"));
            }
            if attestor.authorities.iter().any(|authority| authority.email.is_none() && authority.host.is_none()) {
                add("anybody-signs", "whoever has a certificate of its authority can sign for it".to_owned());
            }
        }
    }

    fn lint_roots(&self, remarks: &mut Remarks, now: Timestamp) {
        let named: BTreeSet<&str> =
            self.attestors.iter().flat_map(Attestor::roots).map(|root| root.name.as_str()).collect();
        for root in &self.roots {
            let mut add = |kind, message: String| {
                let message = format!("trust root \"{}\": {message}", root.name);
                remarks.0.push(Remark { line: 0, kind, message });
            };
            if !named.contains(root.name.as_str()) {
                add("unused-trust-root", "no attestor names it".to_owned());
            }
            if let Some(ended) = root.ended().filter(|ended| *ended <= now) {
                let message = format!(
                    "its authorities ended at {ended}: what is signed since does not count; bring a newer file"
                );
                add("trust-root-ended", message);
            }
        }
    }

    /// Whether `rule` admits what `other` refuses.
    fn is_laxer(&self, rule: &Rule, other: &Rule, now: Timestamp) -> bool {
        match (rule.mode.enforces(now), other.mode.enforces(now)) {
            (_, false) => return false,
            (false, true) => return true,
            (true, true) => {}
        }
        match (&rule.require, &other.require) {
            (Requirement::Deny, _) | (_, Requirement::InsecureAcceptAnything) => false,
            (_, Requirement::Deny) | (Requirement::InsecureAcceptAnything, _) => true,
            (ours, theirs) if ours == theirs => false,
            (Requirement::Of(ours), Requirement::Of(theirs)) => {
                let all: BTreeSet<usize> = ours.attestors().into_iter().chain(theirs.attestors()).collect();
                let places: BTreeMap<usize, usize> = all.into_iter().zip(0..).collect();
                if places.len() > TRIED {
                    // Too many to try: laxer where it asks for fewer.
                    return ours.attestors().len() < theirs.attestors().len();
                }
                let mut digests: Vec<Digest> = ours.pinned().into_iter().collect();
                digests.push(Digest::of(b"no image has this digest"));
                (0..1usize << places.len()).any(|who| {
                    let vouches = |at: usize| places.get(&at).is_some_and(|place| who >> place & 1 == 1);
                    digests.iter().any(|digest| ours.is_met(digest, &vouches) && !theirs.is_met(digest, &vouches))
                })
            }
        }
    }
}

struct Remarks(Vec<Remark>);

impl Remarks {
    fn add(&mut self, rule: &Rule, kind: &'static str, message: String) {
        let message = match rule.images.is_empty() {
            true if kind == "lax-default" => message,
            true => format!("default: {message}"),
            false => format!("rule \"{}\": {message}", rule.name),
        };
        self.0.push(Remark { line: rule.line, kind, message });
    }
}

/// Whether one of the rules `covering`, which are about all of `images` outside of all namespaces, governs them on every one
/// of `nodes` before `rule` is asked.
fn is_superseded(rule: &Rule, covering: &[&Rule], images: &Pattern, nodes: &NodeSelector) -> bool {
    let about = rule.images.iter().filter(|pattern| pattern.overlaps(images));
    let narrowest = about.max_by_key(|pattern| pattern.narrowness());
    covering.iter().any(|other| {
        let everywhere = other.nodes.0.iter().all(|(label, value)| nodes.0.get(label) == Some(value));
        let first = |pattern: &Pattern| match narrowest {
            None => true,
            Some(ours) => {
                (!other.nodes.0.is_empty(), pattern.narrowness()) > (!rule.nodes.0.is_empty(), ours.narrowness())
            }
        };
        everywhere && other.images.iter().filter(|pattern| pattern.covers(images)).any(first)
    })
}

/// Where `rule` counts, in words.
pub fn within(rule: &Rule) -> String {
    let nodes = match &rule.nodes {
        NodeSelector(labels) if labels.is_empty() => "on every node".to_owned(),
        nodes => format!("on nodes {nodes}"),
    };
    let accounts: Vec<String> = rule.accounts.iter().map(ToString::to_string).collect();
    match rule.namespaces.as_slice() {
        [] if !accounts.is_empty() => format!("{nodes} for {}", accounts.join(", ")),
        [] => nodes,
        [one] => format!("{nodes} in namespace {one}"),
        some => format!("{nodes} in namespaces {}", some.join(", ")),
    }
}

#[cfg(test)]
mod tests;
