//! Which rules an image has to meet: the order of the policy.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{
    Exempt, Policy, Rule,
    evaluate::{Namespace, Subject, Tag},
    index::{OnNodes, Rules},
    scope::{Pattern, TagPattern},
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
        let base = match self.base {
            Base::Rule(rule, _) => Some(rule),
            Base::Exempt(_) => None,
        };
        base.into_iter().chain(self.floors.iter().copied())
    }

    /// What tells it apart from other ways of one policy.
    fn identity(&self) -> (*const (), Vec<*const Rule>) {
        let base = match self.base {
            Base::Exempt(exempt) => std::ptr::from_ref(exempt).cast(),
            Base::Rule(rule, _) => std::ptr::from_ref(rule).cast(),
        };
        (base, self.floors.iter().map(|floor| std::ptr::from_ref(*floor)).collect())
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
            text.push_str(match way.base {
                Base::Exempt(exempt) => &exempt.name,
                Base::Rule(_, Some(tags)) if !subject.has_tag_of(tags) => ":",
                Base::Rule(..) => "",
            });
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
        let namespaces: Vec<Option<&str>> = match &subject.namespace {
            Namespace::Is(namespace) => vec![Some(namespace)],
            Namespace::Outside => vec![None],
            Namespace::NotKnown => {
                let of_rules = rules.iter().flat_map(|(_, rules)| rules.in_namespace.keys());
                let of_rules = of_rules.filter(|_| exempt.is_none());
                let of_floors = floors.iter().flat_map(|floor| &floor.namespaces);
                let named: BTreeSet<&str> = of_rules.chain(of_floors).map(String::as_str).collect();
                std::iter::once(None).chain(named.into_iter().map(Some)).collect()
            }
        };
        let (mut ways, mut known): (Vec<Way<'_>>, _) = (Vec::with_capacity(namespaces.len()), BTreeSet::new());
        for namespace in namespaces {
            let base = match exempt {
                Some(exempt) => Base::Exempt(exempt),
                None => self.narrowest(&rules, labels, namespace),
            };
            let counts = |floor: &&Rule| floor.counts_in(namespace);
            let way = Way { base, floors: floors.iter().copied().filter(counts).collect() };
            if known.insert(way.identity()) {
                ways.push(way);
            }
        }
        Governing { ways }
    }

    /// The rule that governs `repository` in `namespace` on a node with `labels`: the narrowest that is about it, else the
    /// default. Without a namespace those count that name none.
    pub fn select(
        &self,
        repository: Option<&Repository>,
        labels: &BTreeMap<String, String>,
        namespace: Option<&str>,
    ) -> &Rule {
        let rules = self.tables.rules.about(repository);
        match self.narrowest(&rules, labels, namespace) {
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
            (rule.namespaces.is_empty(), rule.nodes.0.is_empty(), images.reading_order())
        });
        rules
    }

    /// Whether anything but the default is about `subject`.
    pub fn speaks_of(&self, subject: &Subject, labels: &BTreeMap<String, String>) -> bool {
        let governing = self.governing(subject, labels);
        governing.ways.iter().any(|way| !matches!(way.base, Base::Rule(rule, _) if rule.images.is_empty()))
    }

    /// Whether what governs an image can depend on the Kubernetes namespace that it is for.
    pub fn asks_for_namespaces(&self) -> bool {
        self.rules.iter().chain(&self.floors).any(|rule| !rule.namespaces.is_empty())
    }

    fn narrowest<'p>(
        &'p self,
        about: &[(&'p Pattern, &'p Rules)],
        labels: &BTreeMap<String, String>,
        namespace: Option<&str>,
    ) -> Base<'p> {
        let found = |at: usize, pattern: &Pattern| {
            let rule = self.rules.get(at)?;
            Some(Base::Rule(rule, rule.tags.get(pattern).map(Vec::as_slice)))
        };
        // The order of the policy: by namespace, by node, by pattern, the narrowest first.
        for within in namespace.map(Some).into_iter().chain([None]) {
            let on_nodes = || about.iter().filter_map(|(pattern, rules)| Some((*pattern, rules.within(within)?)));
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
    fn counts_in(&self, namespace: Option<&str>) -> bool {
        self.namespaces.is_empty()
            || namespace.is_some_and(|namespace| self.namespaces.iter().any(|known| known == namespace))
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
