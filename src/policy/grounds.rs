//! What a decision rests on, so that it can tell its whole story later: without the registry, and under another policy.

use std::mem::size_of;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    Policy, Requirement, Rule,
    evaluate::{Findings, Subject, counts, distinct_signers},
};
use crate::{
    evidence::Asked,
    image::{Digest, sanitize},
    limits,
    trust::{Attestor, Purpose},
    verify::{Unusable, Vouched},
};

/// What was required, where it was looked for, and what was found. At most [`limits::GROUNDS_BYTES`] in memory; all
/// texts are harmless to show.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Grounds {
    /// When the evidence was looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub looked_at: Option<Timestamp>,
    /// How many of `required` must have vouched.
    pub needed: u32,
    /// The attestors that the rule names, those who vouched first.
    pub required: Vec<Required>,
    /// Where evidence was looked for, and what came back.
    pub asked: Vec<Asked>,
    /// Evidence that does not count.
    pub uncounted: Vec<Uncounted>,
    /// How many of all these were left out for want of room.
    pub omitted: u32,
}

/// An attestor that the rule names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Required {
    /// Its name.
    pub attestor: String,
    /// How it vouched for the image, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vouched: Option<Vouching>,
}

/// A signature that counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vouching {
    /// SHA-256 of the key that signed.
    pub key: Digest,
    /// The predicate type that was signed; none for a plain signature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicate: Option<String>,
    /// Where the evidence lies: `host/path@sha256:…`, without `host/path` where that is the decision's own name.
    pub place: String,
}

/// Evidence that does not count, and how often it was met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uncounted {
    /// Whose it is, and why it does not count.
    pub what: String,
    /// How many pieces.
    pub pieces: u32,
}

impl Grounds {
    /// Whether nothing was required and nothing looked for.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The bytes that it takes in memory.
    pub fn bytes(&self) -> usize {
        let required: usize = self.required.iter().map(Required::bytes).sum();
        let asked: usize = self.asked.iter().map(asked_bytes).sum();
        let uncounted: usize = self.uncounted.iter().map(Uncounted::bytes).sum();
        size_of::<Self>() + required + asked + uncounted
    }

    /// The same with as much as [`limits::GROUNDS_BYTES`] has room for.
    fn bounded(mut self) -> Self {
        let mut left = limits::GROUNDS_BYTES - size_of::<Self>();
        let mut omitted = 0;
        keep(&mut self.asked, asked_bytes, &mut left, &mut omitted);
        keep(&mut self.required, Required::bytes, &mut left, &mut omitted);
        keep(&mut self.uncounted, Uncounted::bytes, &mut left, &mut omitted);
        self.omitted = self.omitted.saturating_add(omitted);
        self
    }
}

/// Keeps the first `items` for which there is room.
fn keep<T>(items: &mut Vec<T>, bytes: fn(&T) -> usize, left: &mut usize, omitted: &mut u32) {
    let fitting = items.iter().take_while(|item| match left.checked_sub(bytes(item)) {
        Some(rest) => {
            *left = rest;
            true
        }
        None => false,
    });
    let fitting = fitting.count();
    *omitted = omitted.saturating_add(count(items.len() - fitting));
    items.truncate(fitting);
    items.shrink_to_fit();
}

impl Required {
    fn bytes(&self) -> usize {
        let vouched = self.vouched.as_ref();
        let texts = vouched.map_or(0, |v| v.place.len() + v.predicate.as_ref().map_or(0, String::len));
        size_of::<Self>() + self.attestor.len() + texts
    }
}

impl Uncounted {
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.what.len()
    }
}

fn asked_bytes(asked: &Asked) -> usize {
    size_of::<Asked>() + asked.repository.len() + asked.gap.as_ref().map_or(0, String::len)
}

impl Policy {
    /// What the decision about `subject` under `rule` rests on.
    pub(super) fn grounds(&self, rule: &Rule, subject: &Subject, findings: &Findings, now: Timestamp) -> Grounds {
        let Requirement::AtLeast { count: needed, .. } = &rule.require else { return Grounds::default() };
        let name = subject.name.as_ref().map(ToString::to_string).unwrap_or_default();
        let attestors = self.attestors_of(rule);
        let signers = distinct_signers(&attestors, subject, &findings.vouched);
        let required = |attestor: &&Attestor| {
            let counts = |vouched: &&Vouched| signers.contains(&attestor.name) && counts(attestor, subject, vouched);
            let vouched = findings.vouched.iter().find(counts);
            let vouched = vouched.map(|vouched| Vouching {
                key: *vouched.key(),
                predicate: match vouched.purpose() {
                    Purpose::Signature => None,
                    Purpose::Predicate(uri) => Some(sanitize(uri, limits::GROUNDS_CHARS)),
                },
                place: without(&name, vouched.place()),
            });
            Required { attestor: sanitize(&attestor.name, limits::GROUNDS_CHARS), vouched }
        };
        let mut required: Vec<Required> = attestors.iter().map(required).collect();
        required.sort_by_key(|required| required.vouched.is_none());
        let asked =
            findings.asked.iter().map(|asked| Asked { repository: without(&name, &asked.repository), ..asked.clone() });
        let (uncounted, omitted) = uncounted(&findings.unusable);
        Grounds { looked_at: Some(now), needed: count(*needed), required, asked: asked.collect(), uncounted, omitted }
            .bounded()
    }
}

/// `place` without the repository `name` that it begins with, harmless to show.
fn without(name: &str, place: &str) -> String {
    let rest = place.strip_prefix(name).filter(|rest| !name.is_empty() && (rest.is_empty() || rest.starts_with('@')));
    sanitize(rest.unwrap_or(place), limits::REFERENCE_CHARS + limits::GROUNDS_CHARS)
}

/// What does not count, by its kind, and how many pieces of further kinds there are.
fn uncounted(unusable: &[Unusable]) -> (Vec<Uncounted>, u32) {
    let (mut kinds, mut others) = (Vec::<Uncounted>::new(), 0);
    for piece in unusable {
        let what = sanitize(&what_is_wrong(piece), limits::GROUNDS_CHARS);
        match kinds.iter().position(|kind| kind.what == what) {
            Some(known) => kinds[known].pieces = kinds[known].pieces.saturating_add(1),
            None if kinds.len() < limits::UNCOUNTED_KINDS => kinds.push(Uncounted { what, pieces: 1 }),
            None => others += 1,
        }
    }
    (kinds, others)
}

fn what_is_wrong(unusable: &Unusable) -> String {
    match unusable {
        Unusable::UntrustedSigner => "signed by a key that the rule does not name".to_owned(),
        Unusable::OtherDigest(attestor) => format!("signed by \"{attestor}\", about another digest"),
        Unusable::OtherPurpose(attestor, purpose) => {
            let purpose = sanitize(&purpose.to_string(), limits::GROUNDS_CHARS / 2);
            format!("signed by \"{attestor}\" as a {purpose}, which it may not sign or nobody asked for")
        }
        Unusable::OtherAnnotations(attestor) => {
            format!("signed by \"{attestor}\", without the annotations that the policy asks for")
        }
        Unusable::Malformed(why) => format!("not readable: {why}"),
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
