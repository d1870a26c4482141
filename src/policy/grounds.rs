//! What a decision rests on, so that it can tell its whole story later: without the registry, and under another policy.

use std::mem::size_of;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    Group, Member, Policy, Requirement, Rule,
    evaluate::{Findings, Subject},
    governing::{Base, Way},
    signers::{Matching, counts},
};
use crate::{
    evidence::Asked,
    image::{Digest, sanitize},
    limits,
    trust::{Purpose, Signer},
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
    /// How many members of the rule's requirement must be met.
    pub needed: u32,
    /// What the rule requires, and after it what every floor does, as a tree: a group stands before its members, and of
    /// these what is met comes first.
    pub required: Vec<Required>,
    /// Where evidence was looked for, and what came back.
    pub asked: Vec<Asked>,
    /// Evidence that does not count.
    pub uncounted: Vec<Uncounted>,
    /// How many of all these were left out for want of room.
    pub omitted: u32,
}

/// One member of a requirement: an attestor, pinned digests or a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Required {
    /// The attestor's name, or the floor's whose requirement this is. Empty for other groups and for digests.
    pub attestor: String,
    /// How it vouched for the image, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vouched: Option<Vouching>,
    /// Where it stands in the tree: the second member of the first group is `[0, 1]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub at: Vec<u32>,
    /// What it is, where it is no attestor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
}

/// What a member of a requirement is that is no attestor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// A group of members that follow.
    Group {
        /// How many of them must be met.
        needed: u32,
        /// Whether they are.
        met: bool,
    },
    /// So many digests, of which one is the image's.
    Digests {
        /// How many.
        listed: u32,
        /// Whether it is.
        met: bool,
    },
    /// A floor that has no members: it denies, or asks for a proven name.
    Floor {
        /// Whether it is met.
        met: bool,
    },
}

impl Required {
    /// Whether it is what a floor requires, of which every one counts beside the rule.
    pub fn is_floor(&self) -> bool {
        self.part.is_some() && !self.attestor.is_empty()
    }

    /// Whether it is met.
    pub fn is_met(&self) -> bool {
        match self.part {
            None => self.vouched.is_some(),
            Some(Part::Group { met, .. } | Part::Digests { met, .. } | Part::Floor { met }) => met,
        }
    }
}

/// A signature that counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vouching {
    /// SHA-256 of the key that signed, or of the identity.
    pub key: Digest,
    /// The identity that signed: subject and issuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// When an authority first saw the signature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed_at: Option<Timestamp>,
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
        let texts = vouched.map_or(0, |v| {
            v.place.len() + [&v.predicate, &v.identity].into_iter().flatten().map(String::len).sum::<usize>()
        });
        size_of::<Self>() + self.attestor.len() + size_of_val(self.at.as_slice()) + texts
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
    /// What the decision about `subject` along `way` rests on.
    pub(super) fn grounds(&self, way: &Way<'_>, subject: &Subject, findings: &Findings, now: Timestamp) -> Grounds {
        let name = subject.name.as_ref().map(ToString::to_string).unwrap_or_default();
        let mut tree = Tree { policy: self, subject, findings, name: &name, required: Vec::new() };
        let mut needed = 0;
        if let Base::Rule(Rule { require: Requirement::Of(group), .. }, _) = way.base {
            needed = count(group.count);
            let matching = Matching::of(group, &self.attestors, subject, &findings.vouched);
            tree.members(group, &matching, &[]);
        }
        let first = count(tree.required.iter().filter(|required| required.at.len() == 1).count());
        for (number, rule) in (first..).zip(way.rules_beside()) {
            tree.floor(rule, number);
        }
        let required = tree.required;
        if required.is_empty() {
            return Grounds::default();
        }
        let asked =
            findings.asked.iter().map(|asked| Asked { repository: without(&name, &asked.repository), ..asked.clone() });
        let (uncounted, omitted) = uncounted(&findings.unusable);
        Grounds { looked_at: Some(now), needed, required, asked: asked.collect(), uncounted, omitted }.bounded()
    }
}

/// What is required, as it is told.
struct Tree<'a> {
    policy: &'a Policy,
    subject: &'a Subject,
    findings: &'a Findings,
    /// The image's name.
    name: &'a str,
    required: Vec<Required>,
}

impl Tree<'_> {
    fn members(&mut self, group: &Group, matching: &Matching, before: &[u32]) {
        let digest = &self.subject.digest;
        let vouches = |at: usize| matching.signers.contains_key(&at);
        let mut members: Vec<(bool, &Member)> =
            group.of.iter().map(|member| (member.is_met(digest, &vouches), member)).collect();
        members.sort_by_key(|(met, _)| !met);
        for (number, (met, member)) in (0..).zip(members) {
            let at = [before, &[number]].concat();
            match member {
                Member::Attestor(attestor) => self.attestor(*attestor, matching, at),
                Member::Digests(digests) => {
                    let part = Some(Part::Digests { listed: count(digests.len()), met });
                    self.required.push(Required { at, part, ..Required::default() });
                }
                Member::Group(group) => {
                    let part = Some(Part::Group { needed: count(group.count), met });
                    self.required.push(Required { at: at.clone(), part, ..Required::default() });
                    self.members(group, matching, &at);
                }
            }
        }
    }

    fn attestor(&mut self, attestor: usize, matching: &Matching, at: Vec<u32>) {
        let Some(known) = self.policy.attestors.get(attestor) else { return };
        let signer = matching.signers.get(&attestor);
        let by_signer = |v: &&Vouched| Some(v.signer_id()) == signer && counts(known, self.subject, v);
        let vouched = self.findings.vouched.iter().find(by_signer).map(|vouched| Vouching {
            key: *vouched.signer_id(),
            identity: match vouched.signer() {
                Signer::Key(_) => None,
                identity => Some(sanitize(&identity.to_string(), limits::GROUNDS_CHARS)),
            },
            signed_at: vouched.signed_at(),
            predicate: match vouched.purpose() {
                Purpose::Signature => None,
                Purpose::Predicate(uri) => Some(sanitize(uri, limits::GROUNDS_CHARS)),
            },
            place: without(self.name, vouched.place()),
        });
        self.required.push(Required {
            attestor: sanitize(&known.name, limits::GROUNDS_CHARS),
            vouched,
            at,
            part: None,
        });
    }

    fn floor(&mut self, floor: &Rule, number: u32) {
        let mut row = Required {
            attestor: sanitize(&floor.name, limits::GROUNDS_CHARS),
            at: vec![number],
            ..Required::default()
        };
        match &floor.require {
            Requirement::Of(group) => {
                let matching = Matching::of(group, &self.policy.attestors, self.subject, &self.findings.vouched);
                row.part = Some(Part::Group { needed: count(group.count), met: matching.met });
                self.required.push(row);
                self.members(group, &matching, &[number]);
            }
            Requirement::Deny => self.required.push(Required { part: Some(Part::Floor { met: false }), ..row }),
            Requirement::InsecureAcceptAnything => {
                let met = self.subject.origin.proves_name();
                self.required.push(Required { part: Some(Part::Floor { met }), ..row });
            }
        }
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
        Unusable::UntrustedSigner => "signed by nobody whom the rule names".to_owned(),
        Unusable::OtherIdentity(signer) => format!("signed by {signer}, whom the rule does not name"),
        Unusable::NotProven(root, why) => format!("\"{root}\" does not vouch for it: {why}"),
        Unusable::OutsideValidity(attestor, at) => {
            let at = at.map(|at| format!(", at {at}")).unwrap_or_default();
            format!("signed by \"{attestor}\" when its key did not count{at}")
        }
        Unusable::OtherRepository(attestor) => format!("signed by \"{attestor}\", for another repository"),
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
