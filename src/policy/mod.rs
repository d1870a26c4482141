//! What the policy says. Pure: no clock, no files, no network.

#![deny(clippy::disallowed_methods)]

pub mod decision;
mod document;
pub mod draft;
pub mod evaluate;
pub mod governing;
pub mod grounds;
mod index;
pub mod lint;
pub mod requirement;
pub mod scope;
mod shortfall;
mod signers;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use jiff::Timestamp;

pub use document::{KEYS, ReadKey};

/// The JSON Schema of the document, as an editor wants it.
pub const SCHEMA: &str = include_str!("schema.json");

pub use requirement::{Group, Member, Requirement};

use crate::{
    image::{Digest, Host},
    trust::{Attestor, TrustRoot},
};
use index::{Index, Rules};
use scope::{Account, NodeSelector, Pattern, TagPattern, Whose};

/// A policy that was read and checked in full.
#[derive(Debug)]
pub struct Policy {
    /// The document, as the administrator knows it.
    pub file: String,
    /// The first 12 hexadecimal digits of the SHA-256 of the document and its keys.
    pub revision: String,
    /// Who vouches for signers and for times.
    pub roots: Vec<Arc<TrustRoot>>,
    /// Who may vouch.
    pub attestors: Vec<Attestor>,
    /// What each image needs; the narrowest governs.
    pub rules: Vec<Rule>,
    /// What images need beside that: every one that is about an image counts, also for what is exempt.
    pub floors: Vec<Rule>,
    /// What is admitted before any rule is asked.
    pub exempt: Vec<Exempt>,
    /// What governs everything else.
    pub default: Rule,
    tables: Tables,
}

/// What finds the rules about an image.
#[derive(Debug, Default)]
struct Tables {
    rules: Index<Rules>,
    floors: Index<Vec<usize>>,
    exempt_names: Index<Vec<usize>>,
    exempt_digests: HashMap<Digest, usize>,
    hosts: Vec<Host>,
}

/// What images of a scope need.
#[derive(Debug)]
pub struct Rule {
    /// The rule's name.
    pub name: String,
    /// The line of the document, from 1, on which it begins.
    pub line: usize,
    /// SHA-256 over the rule, its attestors and their keys: a decision under it is a decision under no other.
    pub content: Digest,
    /// Which images. Empty for the default.
    pub images: Vec<Pattern>,
    /// The tags that are admitted of the images of a pattern. A pattern that is not in here admits all of them, and
    /// images that were asked for by digest.
    pub tags: BTreeMap<Pattern, Vec<TagPattern>>,
    /// Which nodes.
    pub nodes: NodeSelector,
    /// Which Kubernetes namespaces. Empty: all of them, and whatever is in none.
    pub namespaces: Vec<String>,
    /// Which Kubernetes service accounts. Empty: all of them, and whatever has none. Who names these names no namespaces.
    pub accounts: Vec<Account>,
    /// What they need.
    pub require: Requirement,
    /// Whether violations refuse.
    pub mode: Mode,
    /// Who can be asked about the rule.
    pub contact: Option<String>,
    /// What its author tells who meets a refusal.
    pub message: Option<String>,
}

impl Rule {
    /// For whose containers it is.
    pub fn whose(&self) -> impl Iterator<Item = Whose<'_>> {
        Whose::all(&self.accounts, &self.namespaces)
    }

    /// Whether it is for everybody's.
    pub fn is_for_anybody(&self) -> bool {
        self.accounts.is_empty() && self.namespaces.is_empty()
    }
}

/// Whether a violation refuses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// It does.
    #[default]
    Enforce,
    /// It is recorded, and the image admitted; until the given time where there is one.
    Audit(Option<Timestamp>),
}

impl Mode {
    /// Whether a violation refuses at `now`.
    pub fn enforces(self, now: Timestamp) -> bool {
        match self {
            Self::Enforce => true,
            Self::Audit(None) => false,
            Self::Audit(Some(until)) => now >= until,
        }
    }
}

/// Images that are admitted before any rule is asked.
#[derive(Debug)]
pub struct Exempt {
    /// The exemption's name.
    pub name: String,
    /// The line of the document, from 1, on which it begins.
    pub line: usize,
    /// Digests of manifests or indexes.
    pub digests: Vec<Digest>,
    /// Repositories by name alone.
    pub insecure_images: Vec<Pattern>,
}

/// The parts of a policy, before they are ready to be asked.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) file: String,
    pub(crate) revision: String,
    pub(crate) roots: Vec<Arc<TrustRoot>>,
    pub(crate) attestors: Vec<Attestor>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) floors: Vec<Rule>,
    pub(crate) exempt: Vec<Exempt>,
    pub(crate) default: Rule,
}

impl From<Parts> for Policy {
    fn from(parts: Parts) -> Self {
        let Parts { file, revision, roots, attestors, rules, floors, exempt, default } = parts;
        let mut tables = Tables::default();
        for (at, rule) in rules.iter().enumerate() {
            for pattern in &rule.images {
                tables.rules.cell(pattern).add(at, rule.whose(), &rule.nodes);
            }
        }
        for (at, floor) in floors.iter().enumerate() {
            floor.images.iter().for_each(|pattern| tables.floors.cell(pattern).push(at));
        }
        for (at, exempt) in exempt.iter().enumerate() {
            exempt.insecure_images.iter().for_each(|pattern| tables.exempt_names.cell(pattern).push(at));
            exempt.digests.iter().for_each(|digest| {
                tables.exempt_digests.entry(*digest).or_insert(at);
            });
        }
        let patterns = tables.rules.iter().map(|(pattern, _)| pattern);
        let patterns = patterns.chain(tables.floors.iter().map(|(pattern, _)| pattern));
        let patterns = patterns.chain(tables.exempt_names.iter().map(|(pattern, _)| pattern));
        let mut seen = std::collections::HashSet::new();
        tables.hosts = patterns.filter_map(Pattern::host).filter(|host| seen.insert(*host)).cloned().collect();
        Self { file, revision, roots, attestors, rules, floors, exempt, default, tables }
    }
}

impl Policy {
    /// The registries that a pattern names, each once, so that a name that lost its port can be completed.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.tables.hosts.iter()
    }

    /// Whether `digest` is exempt.
    pub fn exempts(&self, digest: &Digest) -> bool {
        self.tables.exempt_digests.contains_key(digest)
    }

    /// The attestors that `rule` names.
    pub fn attestors_of(&self, rule: &Rule) -> Vec<&Attestor> {
        rule.require.attestors().into_iter().filter_map(|at| self.attestors.get(at)).collect()
    }
}
