//! What the policy says. Pure: no clock, no files, no network.

#![deny(clippy::disallowed_methods)]

pub mod decision;
mod document;
pub mod evaluate;
pub mod grounds;
pub mod scope;

use std::collections::BTreeMap;

use jiff::Timestamp;

pub use document::ReadKey;

use crate::{
    evidence::Formats,
    image::{Digest, Repository},
    trust::{Attestor, Purpose},
};
use scope::{NodeSelector, Pattern, Scope};

/// A policy that was read and checked in full.
#[derive(Debug)]
pub struct Policy {
    /// The document, as the administrator knows it.
    pub file: String,
    /// The first 12 hexadecimal digits of the SHA-256 of the document and its keys.
    pub revision: String,
    /// Who may vouch.
    pub attestors: Vec<Attestor>,
    /// What each image needs; `select` finds the one that governs.
    pub rules: Vec<Rule>,
    /// What is admitted before any rule is asked.
    pub exempt: Vec<Exempt>,
    /// What governs everything else.
    pub default: Rule,
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
    /// Which nodes.
    pub nodes: NodeSelector,
    /// What they need.
    pub require: Requirement,
    /// Whether violations refuse.
    pub mode: Mode,
    /// Who can be asked about the rule.
    pub contact: Option<String>,
}

/// What an image needs to be admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// Nothing admits.
    Deny,
    /// The name is enough. It counts only where containerd itself fetched the content from that registry.
    InsecureAcceptAnything,
    /// At least `count` of `of` must vouch, each with a signer of its own.
    AtLeast {
        /// How many, at least 1.
        count: usize,
        /// Indices into [`Policy::attestors`].
        of: Vec<usize>,
    },
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

impl Policy {
    /// The rule that governs `repository` on a node with `labels`: the narrowest that matches, else the default.
    pub fn select(&self, repository: Option<&Repository>, labels: &BTreeMap<String, String>) -> &Rule {
        let Some(repository) = repository else { return &self.default };
        let scopes = self.rules.iter().filter(|rule| rule.nodes.selects(labels)).flat_map(|rule| {
            let matching = rule.images.iter().filter(|pattern| pattern.matches(repository));
            matching.map(move |images| (Scope { nodes: &rule.nodes, images }, rule))
        });
        scopes.max_by(|(a, _), (b, _)| a.cmp_narrowness(b)).map_or(&self.default, |(_, rule)| rule)
    }

    /// The attestors that `rule` names.
    pub fn attestors_of(&self, rule: &Rule) -> Vec<&Attestor> {
        match &rule.require {
            Requirement::AtLeast { of, .. } => of.iter().filter_map(|i| self.attestors.get(*i)).collect(),
            _ => Vec::new(),
        }
    }

    /// The forms of evidence that could meet `rule`.
    pub fn formats_for(&self, rule: &Rule) -> Formats {
        let mut formats = Formats { simple_signing: false, bundle: false, attestation_tag: false };
        for attestor in self.attestors_of(rule) {
            let signs = attestor.may_sign.contains(&Purpose::Signature);
            let attests = attestor.may_sign.iter().any(|purpose| *purpose != Purpose::Signature);
            formats.bundle |= attestor.formats.bundle;
            formats.simple_signing |= attestor.formats.simple_signing && signs;
            formats.attestation_tag |= attestor.formats.attestation_tag && attests;
        }
        formats
    }

    /// The registries that a pattern names, so that a name that lost its port can be completed.
    pub fn hosts(&self) -> impl Iterator<Item = &crate::image::Host> {
        let exempt = self.exempt.iter().flat_map(|exempt| &exempt.insecure_images);
        self.rules.iter().flat_map(|rule| &rule.images).chain(exempt).filter_map(Pattern::host)
    }
}
