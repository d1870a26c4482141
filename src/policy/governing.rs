//! Which rules an image has to meet: the order of the policy.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{
    Exempt, Policy, Rule,
    evaluate::{Namespace, Subject, Tag},
    index::{OnNodes, Rules},
    scope::{Pattern, TagPattern, Whose},
};
use crate::{
    evidence::Formats,
    image::{Digest, Repository},
    trust::{Attestor, Purpose},
};

/// What governs an image: one of the ways must be met. There are several where the image could be admitted into
/// several Kubernetes namespaces, and the gate does not know into which.
#[derive(Clone, Debug)]
pub struct Governing<'p> {
    /// Never empty. The first is the one outside of all namespaces that the policy speaks of.
    pub(super) ways: Vec<Way<'p>>,
}

/// A rule or an exemption, and every floor that counts beside it.
#[derive(Clone, Debug)]
pub(super) struct Way<'p> {
    pub(super) base: Base<'p>,
    /// What governs instead for service accounts that could be the one that it is for. All of it must be met.
    also: Vec<Base<'p>>,
    pub(super) floors: Vec<&'p Rule>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Base<'p> {
    Exempt(&'p Exempt),
    /// With the tags that it admits; none where it admits all.
    Rule(&'p Rule, Option<&'p [TagPattern]>),
}

impl<'p> Way<'p> {
    /// The rules of which every one must be met.
    pub(super) fn rules(&self) -> impl Iterator<Item = &'p Rule> {
        self.base.rule().into_iter().chain(self.rules_beside())
    }

    /// Those of them that count beside the first.
    pub(super) fn rules_beside(&self) -> impl Iterator<Item = &'p Rule> {
        self.also.iter().filter_map(Base::rule).chain(self.floors.iter().copied())
    }

    /// What stands in the place of a rule: the exemption, or a rule for whomever it could be.
    pub(super) fn bases(&self) -> impl Iterator<Item = Base<'p>> {
        std::iter::once(self.base).chain(self.also.iter().copied())
    }

    /// The same that must be met along `other` as well.
    fn and(mut self, other: Self) -> Self {
        if other.base.identity() != self.base.identity()
            && self.also.iter().all(|base| base.identity() != other.base.identity())
        {
            self.also.push(other.base);
        }
        for floor in other.floors {
            if !self.floors.iter().any(|known| std::ptr::eq(*known, floor)) {
                self.floors.push(floor);
            }
        }
        self
    }

    /// What tells it apart from other ways of one policy.
    fn identity(&self) -> (*const (), Vec<*const Rule>) {
        (self.base.identity(), self.rules_beside().map(std::ptr::from_ref).collect())
    }
}

impl<'p> Base<'p> {
    fn rule(&self) -> Option<&'p Rule> {
        match self {
            Self::Rule(rule, _) => Some(rule),
            Self::Exempt(_) => None,
        }
    }

    fn identity(&self) -> *const () {
        match self {
            Self::Exempt(exempt) => std::ptr::from_ref(*exempt).cast(),
            Self::Rule(rule, _) => std::ptr::from_ref(*rule).cast(),
        }
    }
}

impl<'p> Governing<'p> {
    /// The rules that the image may have to meet, each once: what governs first, then what counts beside it.
    pub fn rules(&self) -> Vec<&'p Rule> {
        let mut rules: Vec<&Rule> = Vec::new();
        for rule in self.ways.iter().flat_map(Way::rules) {
            if !rules.iter().any(|known| std::ptr::eq(*known, rule)) {
                rules.push(rule);
            }
        }
        rules
    }

    /// The exemption that stands in the place of a rule.
    pub fn exempt(&self) -> Option<&'p Exempt> {
        self.ways.iter().find_map(|way| match way.base {
            Base::Exempt(exempt) => Some(exempt),
            Base::Rule(..) => None,
        })
    }

    /// The attestors that its rules name, each once.
    pub fn attestors(&self, policy: &'p Policy) -> Vec<&'p Attestor> {
        let named = self.rules().into_iter().flat_map(|rule| rule.require.attestors());
        let mut seen = BTreeSet::new();
        named.filter(|at| seen.insert(*at)).filter_map(|at| policy.attestors.get(at)).collect()
    }

    /// The forms of evidence that could meet its rules.
    pub fn formats(&self, policy: &Policy) -> Formats {
        let mut formats = Formats { simple_signing: false, bundle: false, attestation_tag: false };
        for attestor in self.attestors(policy) {
            let signs = attestor.may_sign.contains(&Purpose::Signature);
            let attests = attestor.may_sign.iter().any(|purpose| *purpose != Purpose::Signature);
            formats.bundle |= attestor.formats.bundle;
            formats.simple_signing |= attestor.formats.simple_signing && signs;
            formats.attestation_tag |= attestor.formats.attestation_tag && attests;
        }
        formats
    }

    /// Under which a decision about `subject` may be kept: all that it follows from beside the evidence.
    pub fn identity(&self, subject: &Subject, now: Timestamp) -> Digest {
        let mut text = format!("{}\n", subject.origin.proves_name());
        for way in &self.ways {
            for base in way.bases() {
                text.push_str(match base {
                    Base::Exempt(exempt) => &exempt.name,
                    Base::Rule(_, Some(tags)) if !subject.has_tag_of(tags) => ":",
                    Base::Rule(..) => ".",
                });
            }
            for rule in way.rules() {
                let audits = subject.audits(rule, now);
                text.push_str(&format!("\n{} {audits} {:?} {}", rule.content, rule.mode, rule.name));
            }
            text.push_str("\n\n");
        }
        Digest::of(text.as_bytes())
    }
}

impl Policy {
    /// What governs `subject` on a node with `labels`.
    pub fn governing(&self, subject: &Subject, labels: &BTreeMap<String, String>) -> Governing<'_> {
        let name = subject.name.as_ref();
        let rules = self.tables.rules.about(name);
        let floors = self.floors_about(name, labels);
        let exempt = self.exempt_for(subject);
        let named = || {
            let of_rules = rules.iter().flat_map(|(_, rules)| {
                let accounts = rules.for_account.keys().map(Whose::Account);
                accounts.chain(rules.in_namespace.keys().map(|namespace| Whose::Namespace(namespace)))
            });
            let of_rules = of_rules.filter(|_| exempt.is_none());
            of_rules.chain(floors.iter().flat_map(|floor| floor.whose())).collect::<BTreeSet<Whose<'_>>>()
        };
        let along = |whose: Whose<'_>| {
            let base = match exempt {
                Some(exempt) => Base::Exempt(exempt),
                None => self.narrowest(&rules, labels, whose),
            };
            let counts = |floor: &&Rule| floor.counts_for(whose);
            Way { base, also: Vec::new(), floors: floors.iter().copied().filter(counts).collect() }
        };
        let ways = match &subject.namespace {
            Namespace::Outside => vec![along(Whose::Anybody)],
            Namespace::Of(account) => vec![along(Whose::Account(account))],
            // Whoever proves no account gets what every account would get, and nothing that one of them would not.
            Namespace::Is(namespace) => {
                let mut way = along(Whose::Namespace(namespace));
                for whose in named() {
                    if matches!(whose, Whose::Account(account) if account.namespace == *namespace) {
                        way = way.and(along(whose));
                    }
                }
                vec![way]
            }
            Namespace::NotKnown => {
                let mut known = BTreeSet::new();
                let all = std::iter::once(Whose::Anybody).chain(named());
                all.map(along).filter(|way| known.insert(way.identity())).collect()
            }
        };
        Governing { ways }
    }

    /// The rule that governs `repository` for `whose` containers on a node with `labels`: the narrowest that is about it, else
    /// the default.
    pub fn select(
        &self,
        repository: Option<&Repository>,
        labels: &BTreeMap<String, String>,
        whose: Whose<'_>,
    ) -> &Rule {
        let rules = self.tables.rules.about(repository);
        match self.narrowest(&rules, labels, whose) {
            Base::Rule(rule, _) => rule,
            Base::Exempt(_) => &self.default,
        }
    }

    /// Each rule with each of its patterns, in the order in which they are asked: of those about one image, on one node and in
    /// one namespace, the first governs.
    pub fn in_order(&self) -> Vec<(&Rule, &Pattern)> {
        let mut rules: Vec<(&Rule, &Pattern)> =
            self.rules.iter().flat_map(|rule| rule.images.iter().map(move |images| (rule, images))).collect();
        rules.sort_by_cached_key(|(rule, images)| {
            (rule.accounts.is_empty(), rule.namespaces.is_empty(), rule.nodes.0.is_empty(), images.reading_order())
        });
        rules
    }

    /// Whether anything but the default is about `subject`.
    pub fn speaks_of(&self, subject: &Subject, labels: &BTreeMap<String, String>) -> bool {
        let governing = self.governing(subject, labels);
        let mut bases = governing.ways.iter().flat_map(Way::bases);
        bases.any(|base| !matches!(base, Base::Rule(rule, _) if rule.images.is_empty()))
    }

    /// Whether what governs an image can depend on the Kubernetes namespace that it is for.
    pub fn asks_for_namespaces(&self) -> bool {
        self.rules.iter().chain(&self.floors).any(|rule| !rule.is_for_anybody())
    }

    /// Whether it has rules for service accounts.
    pub fn asks_for_accounts(&self) -> bool {
        self.rules.iter().chain(&self.floors).any(|rule| !rule.accounts.is_empty())
    }

    /// Whether what governs an image can depend on which service account of `namespace` it is for.
    pub fn asks_for_accounts_of(&self, namespace: &str) -> bool {
        let mut accounts = self.rules.iter().chain(&self.floors).flat_map(|rule| &rule.accounts);
        accounts.any(|account| account.namespace == namespace)
    }

    fn narrowest<'p>(
        &'p self,
        about: &[(&'p Pattern, &'p Rules)],
        labels: &BTreeMap<String, String>,
        whose: Whose<'_>,
    ) -> Base<'p> {
        let found = |at: usize, pattern: &Pattern| {
            let rule = self.rules.get(at)?;
            Some(Base::Rule(rule, rule.tags.get(pattern).map(Vec::as_slice)))
        };
        // The order of the policy: by whose it is, by node, by pattern, the narrowest first.
        for whose in whose.and_wider() {
            let on_nodes = || about.iter().filter_map(|(pattern, rules)| Some((*pattern, rules.of(whose)?)));
            let selected = |rules: &OnNodes| {
                rules.with_label(labels).find(|at| self.rules.get(*at).is_some_and(|rule| rule.nodes.selects(labels)))
            };
            let selective = on_nodes().find_map(|(pattern, rules)| found(selected(rules)?, pattern));
            let everywhere = || on_nodes().find_map(|(pattern, rules)| found(*rules.everywhere.first()?, pattern));
            if let Some(base) = selective.or_else(everywhere) {
                return base;
            }
        }
        Base::Rule(&self.default, None)
    }

    fn floors_about(&self, name: Option<&Repository>, labels: &BTreeMap<String, String>) -> Vec<&Rule> {
        let about = self.tables.floors.about(name);
        let places: BTreeSet<usize> = about.into_iter().flat_map(|(_, floors)| floors).copied().collect();
        let floors = places.into_iter().filter_map(|at| self.floors.get(at));
        floors.filter(|floor| floor.nodes.selects(labels)).collect()
    }

    fn exempt_for(&self, subject: &Subject) -> Option<&Exempt> {
        if let Some(at) = self.tables.exempt_digests.get(&subject.digest) {
            return self.exempt.get(*at);
        }
        let name = subject.name.as_ref().filter(|_| subject.origin.proves_name())?;
        let named = self.tables.exempt_names.about(Some(name)).into_iter().flat_map(|(_, at)| at).min();
        self.exempt.get(*named?)
    }
}

impl Rule {
    fn counts_for(&self, whose: Whose<'_>) -> bool {
        whose.and_wider().any(|whose| self.whose().any(|ours| ours == whose))
    }
}

impl Subject {
    /// Whether a violation of `rule` is only recorded. A rule that only audits admits by its scope, and a scope that only an
    /// archive claims admits nothing.
    pub(super) fn audits(&self, rule: &Rule, now: Timestamp) -> bool {
        self.origin.proves_name() && !rule.mode.enforces(now)
    }

    /// Whether `tags` admit it.
    pub(super) fn has_tag_of(&self, tags: &[TagPattern]) -> bool {
        match &self.tag {
            Tag::NotKept => true,
            Tag::None => false,
            Tag::Is(tag) => tags.iter().any(|pattern| pattern.matches(tag)),
        }
    }
}

#[cfg(test)]
mod tests;
