//! From a subject and its findings to a decision. Total: every path ends in a decision, and the last one denies.

use std::{cmp::Reverse, collections::BTreeMap};

use jiff::{SignedDuration, Timestamp};

use super::{
    Mode, Policy, Requirement, Rule,
    decision::{Code, Decision, Verdict, Violation},
    governing::{Base, Governing, Way},
    scope::{Account, TagPattern},
    shortfall::{name_of, short},
    signers::Matching,
};
use crate::{
    evidence::{Asked, Gap},
    image::{Digest, Reference, Repository, sanitize},
    limits,
    verify::{Unusable, Vouched},
};

pub use super::shortfall::gap_violation;

/// What is decided about: a digest, under a name, as far as the gate knows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subject {
    /// The manifest or index.
    pub digest: Digest,
    /// The name that selects the rule. Without one the default governs.
    pub name: Option<Repository>,
    /// Where the name comes from.
    pub origin: Origin,
    /// The tag that was asked for.
    pub tag: Tag,
    /// The Kubernetes namespace that it is for.
    pub namespace: Namespace,
}

impl Subject {
    /// `digest` under `name`, asked for without a tag.
    pub fn new(digest: Digest, name: Option<Repository>, origin: Origin) -> Self {
        Self { digest, name, origin, tag: Tag::None, namespace: Namespace::NotKnown }
    }

    /// The same with what is known about its tag.
    #[must_use]
    pub fn tagged(self, tag: Tag) -> Self {
        Self { tag, ..self }
    }

    /// The same for a namespace.
    #[must_use]
    pub fn in_namespace(self, namespace: Namespace) -> Self {
        Self { namespace, ..self }
    }
}

/// Which tag was asked for. A rule that admits some tags only admits nothing that came without one.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tag {
    /// None: it was asked for by its digest.
    #[default]
    None,
    /// This one.
    Is(String),
    /// The gate cannot know: containerd keeps no tag with content. The resolve and the start gate do.
    NotKept,
}

impl From<&Reference> for Tag {
    /// Beside a digest a tag is anybody's word: nobody looks where it points to.
    fn from(asked: &Reference) -> Self {
        match asked.digest {
            Some(_) => Self::None,
            None => Self::Is(asked.tag.clone().unwrap_or_else(|| "latest".to_owned())),
        }
    }
}

/// The Kubernetes namespace that an image is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Namespace {
    /// A gate before the start cannot know: it is enough that it would be admitted into some namespace on this node.
    #[default]
    NotKnown,
    /// None: what is made of it belongs to no pod. Only rules that name no namespace are about it.
    Outside,
    /// This one, for a service account that is not proven: whichever of those that the policy names it is, and if it is none
    /// of them, the image has to be admitted.
    Is(String),
    /// That of a service account that is proven.
    Of(Account),
}

impl Namespace {
    /// Its name, where it is known and there is one.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Is(name) => Some(name),
            Self::Of(account) => Some(&account.namespace),
            Self::NotKnown | Self::Outside => None,
        }
    }
}

impl Namespace {
    /// The service account, where one is proven.
    pub fn account(&self) -> Option<&Account> {
        match self {
            Self::Of(account) => Some(account),
            Self::NotKnown | Self::Outside | Self::Is(_) => None,
        }
    }
}

/// Without a name it is not known.
impl From<Option<String>> for Namespace {
    fn from(name: Option<String>) -> Self {
        name.map_or(Self::NotKnown, Self::Is)
    }
}

/// Where a name comes from. A name is not an origin: only what containerd noted when it fetched proves one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// containerd fetched the content from this registry.
    Fetched,
    /// containerd fetched it from this host, but which of its ports it asked is not known.
    FetchedFromHost,
    /// An archive or an image record says so.
    Claimed,
}

impl Origin {
    /// Whether a rule that admits by name alone counts.
    pub fn proves_name(self) -> bool {
        self == Self::Fetched
    }

    /// Whether containerd spoke to this host, so that asking it for evidence reaches nothing new.
    pub fn proves_host(self) -> bool {
        self != Self::Claimed
    }
}

/// What the policy says before any evidence is at hand.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "one for each subject, and short-lived")]
pub enum Answer<'p> {
    /// The rules settle it.
    Settled(Decision),
    /// The rules need evidence; see [`Policy::evaluate`].
    NeedsEvidence(Governing<'p>),
}

/// All that is known about a subject once its evidence was gathered and verified.
#[derive(Debug, Default)]
pub struct Findings {
    /// Who vouches for it.
    pub vouched: Vec<Vouched>,
    /// What was found and does not count.
    pub unusable: Vec<Unusable>,
    /// Attestors of the policy, not of this rule, that signed it.
    pub others: Vec<String>,
    /// What could not be asked.
    pub gaps: Vec<Gap>,
    /// Where evidence was looked for, and what came back.
    pub asked: Vec<Asked>,
}

impl Policy {
    /// What the policy says about `subject` on a node with `labels` at `now`.
    pub fn ask(&self, subject: &Subject, labels: &BTreeMap<String, String>, now: Timestamp) -> Answer<'_> {
        let governing = self.governing(subject, labels);
        let mut best: Option<Decision> = None;
        for way in &governing.ways {
            match self.along(way, subject, None, now) {
                None => return Answer::NeedsEvidence(governing),
                Some(decision) if decision.verdict == Verdict::Allow => return Answer::Settled(decision),
                Some(decision) => best = Some(better(best, decision)),
            }
        }
        Answer::Settled(best.unwrap_or_default())
    }

    /// The decision that `findings` lead to under what governs `subject`.
    ///
    /// More evidence never makes it stricter and less never laxer: an allow needs vouching signers only, and neither
    /// unusable evidence nor a gap beside them counts against them.
    pub fn evaluate(
        &self,
        governing: &Governing<'_>,
        subject: &Subject,
        findings: &Findings,
        now: Timestamp,
    ) -> Decision {
        let satisfied = governing.ways.iter().find(|way| self.satisfied_along(way, subject, &findings.vouched));
        if let Some(decision) = satisfied.and_then(|way| self.along(way, subject, Some(findings), now)) {
            return decision;
        }
        let ways = governing.ways.iter().filter_map(|way| self.along(way, subject, Some(findings), now));
        let refusal = ways.fold(None, |best, decision| Some(better(best, decision))).unwrap_or_default();
        match refusal.verdict {
            // What was looked at once is not looked at again for every layer.
            Verdict::Deny => {
                let soon = now.checked_add(limits::ABSENT_LIFE).ok();
                Decision { valid_until: refusal.valid_until.or(soon), ..refusal }
            }
            _ => refusal,
        }
    }

    /// Whether `vouched` are enough to admit `subject`.
    pub fn satisfied(&self, governing: &Governing<'_>, subject: &Subject, vouched: &[Vouched]) -> bool {
        governing.ways.iter().any(|way| self.satisfied_along(way, subject, vouched))
    }

    /// `decided`, which holds for what governs alike, in the words of `governing` and of this policy.
    pub fn restate(&self, decided: Decision, governing: &Governing<'_>, subject: &Subject, now: Timestamp) -> Decision {
        let of_rule = |rule: &Rule| self.under(rule, subject, now);
        let named = |name: &String| {
            let rule = governing.rules().into_iter().find(|rule| rule.name == *name).map(of_rule);
            rule.or_else(|| {
                governing.exempt().filter(|exempt| exempt.name == *name).map(|it| self.exempted(it, subject))
            })
        };
        let Some(Decision { rule, rule_at, contact, advice, audit_only, revision, .. }) =
            decided.rule.as_ref().and_then(named)
        else {
            return Decision { revision: self.revision.clone(), ..decided };
        };
        Decision { rule, rule_at, contact, advice, audit_only, revision, ..decided }
    }

    fn satisfied_along(&self, way: &Way<'_>, subject: &Subject, vouched: &[Vouched]) -> bool {
        let has_tag = |base: &Base<'_>| match base {
            Base::Rule(_, Some(tags)) => subject.has_tag_of(tags),
            _ => true,
        };
        way.bases().all(|base| has_tag(&base))
            && way.rules().all(|rule| match &rule.require {
                Requirement::Deny => false,
                Requirement::InsecureAcceptAnything => subject.origin.proves_name(),
                Requirement::Of(group) => Matching::of(group, &self.attestors, subject, vouched).met,
            })
    }

    /// The decision along one way, if it can be told without evidence or there are `findings`.
    fn along(&self, way: &Way<'_>, subject: &Subject, findings: Option<&Findings>, now: Timestamp) -> Option<Decision> {
        let bases = way.bases().map(|base| match base {
            Base::Exempt(exempt) => Some(self.exempted(exempt, subject)),
            Base::Rule(rule, tags) => self.by_rule(rule, tags.unwrap_or_default(), subject, findings, now),
        });
        let floors = way.floors.iter().map(|floor| self.by_rule(floor, &[], subject, findings, now));
        let parts: Vec<Option<Decision>> = bases.chain(floors).collect();
        let refused = |part: &&Option<Decision>| part.as_ref().is_some_and(|part| severity(part) == REFUSED);
        if parts.iter().any(|part| part.is_none()) && !parts.iter().any(|part| refused(&part)) {
            return None;
        }
        let decision = together(parts.into_iter().flatten().collect());
        let Some(findings) = findings else { return Some(decision) };
        Some(Decision { grounds: self.grounds(way, subject, findings, now), ..decision })
    }

    fn by_rule(
        &self,
        rule: &Rule,
        tags: &[TagPattern],
        subject: &Subject,
        findings: Option<&Findings>,
        now: Timestamp,
    ) -> Option<Decision> {
        let refused = |code: Code, found: String, fix: &str| {
            let violation = Violation { code, found: told(&found), fix: fix.to_owned() };
            let (verdict, violations) = (code.verdict(), vec![violation]);
            Some(Decision { verdict, violations, valid_until: None, ..self.under(rule, subject, now) })
        };
        if !tags.is_empty() && !subject.has_tag_of(tags) {
            let admitted = tags.iter().take(limits::NAMES_TOLD).map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let found = match &subject.tag {
                Tag::Is(tag) => format!("the tag is {tag}, and the rule admits {admitted}"),
                _ => format!("asked for by digest, and the rule admits the tags {admitted}"),
            };
            return refused(Code::TagNotAdmitted, found, "ask for a tag that the rule admits, or change the rule");
        }
        match &rule.require {
            Requirement::Of(group) => {
                let pinned = group.is_met(&subject.digest, &|_| false);
                if pinned {
                    return Some(Decision { verdict: Verdict::Allow, ..self.under(rule, subject, now) });
                }
                if !group.is_met(&subject.digest, &|_| true) {
                    let found = format!("{} is not one of the digests that the rule pins", name_of(subject));
                    return refused(Code::DigestNotPinned, found, "pin the digest in the rule");
                }
                findings.map(|findings| self.by_evidence(rule, group, subject, findings, now))
            }
            Requirement::Deny if rule.images.is_empty() => {
                let found = match &subject.name {
                    Some(name) => format!("no rule is about {name}, and the default denies"),
                    None => format!("{} came without a name, and the default denies", short(&subject.digest)),
                };
                refused(Code::NoMatchingRule, found, "add a rule for this repository, or exempt the digest")
            }
            Requirement::Deny => {
                refused(Code::DeniedByRule, format!("the rule denies {}", name_of(subject)), "change the rule")
            }
            Requirement::InsecureAcceptAnything if subject.origin.proves_name() => {
                Some(Decision { verdict: Verdict::Allow, ..self.under(rule, subject, now) })
            }
            Requirement::InsecureAcceptAnything => refused(
                Code::NameNotProven,
                format!("the rule admits by name, and {} is only what an archive says", name_of(subject)),
                "pull it from the registry, or require an attestor",
            ),
        }
    }

    fn by_evidence(
        &self,
        rule: &Rule,
        group: &super::Group,
        subject: &Subject,
        findings: &Findings,
        now: Timestamp,
    ) -> Decision {
        let decision = self.under(rule, subject, now);
        let matching = Matching::of(group, &self.attestors, subject, &findings.vouched);
        if matching.met {
            let attestors = matching.signers.keys().filter_map(|at| self.attestors.get(*at));
            let attestors = attestors.map(|attestor| attestor.name.clone()).collect();
            let used = findings.vouched.iter().filter(|vouched| matching.is_by(vouched.signer_id()));
            let valid_until = used.filter_map(Vouched::until).chain(decision.valid_until).min();
            return Decision { verdict: Verdict::Allow, attestors, valid_until, ..decision };
        }
        let mut violations: Vec<Violation> = findings.gaps.iter().map(gap_violation).collect();
        violations.push(self.shortfall(group, &matching, subject, findings, now));
        for text in violations.iter_mut().flat_map(|violation| [&mut violation.found, &mut violation.fix]) {
            *text = told(text);
        }
        let verdict = violations.first().map_or(Verdict::Deny, |violation| violation.code.verdict());
        let valid_until = match verdict {
            Verdict::Deny => now.checked_add(limits::ABSENT_LIFE).ok().min(decision.valid_until),
            _ => None,
        };
        Decision { verdict, violations, valid_until, ..decision }
    }

    fn exempted(&self, exempt: &super::Exempt, subject: &Subject) -> Decision {
        let (rule, rule_at) = (Some(exempt.name.clone()), self.at(exempt.line));
        Decision { verdict: Verdict::Allow, rule, rule_at, ..self.about(subject) }
    }

    fn about(&self, subject: &Subject) -> Decision {
        Decision {
            digest: Some(subject.digest),
            name: subject.name.as_ref().map(ToString::to_string),
            revision: self.revision.clone(),
            ..Decision::default()
        }
    }

    fn at(&self, line: usize) -> Option<String> {
        Some(format!("{}:{line}", self.file))
    }

    fn under(&self, rule: &Rule, subject: &Subject, now: Timestamp) -> Decision {
        let recheck = SignedDuration::try_from(limits::RECHECK_AFTER).unwrap_or_default();
        let recheck = now.checked_add(recheck).ok();
        let words = |text: &Option<String>, most| text.as_ref().map(|text| sanitize(text, most));
        Decision {
            rule: Some(rule.name.clone()),
            rule_at: self.at(rule.line),
            contact: words(&rule.contact, limits::CONTACT_CHARS),
            advice: words(&rule.message, limits::RULE_MESSAGE_CHARS),
            audit_only: subject.audits(rule, now),
            valid_until: match rule.mode {
                Mode::Audit(Some(until)) if until > now => recheck.min(Some(until)),
                _ => recheck,
            },
            ..self.about(subject)
        }
    }
}

fn told(text: &str) -> String {
    sanitize(text, limits::VIOLATION_CHARS)
}

/// A refusal that nothing else can soften.
const REFUSED: u8 = 3;

/// How much a decision stands in the way: not at all, only on paper, until it can be told, or for good.
fn severity(decision: &Decision) -> u8 {
    match decision.verdict {
        Verdict::Allow => 0,
        _ if decision.audit_only => 1,
        Verdict::Inconclusive => 2,
        Verdict::Deny => REFUSED,
    }
}

/// Of two ways of which one is enough, what is told.
fn better(best: Option<Decision>, decision: Decision) -> Decision {
    match best {
        Some(best)
            if best.verdict == Verdict::Allow || decision.verdict != Verdict::Allow && !decision.tells_more(&best) =>
        {
            best
        }
        _ => decision,
    }
}

/// What the decisions come to of which every one must allow: the first one's, or the one that most stands in the way.
fn together(mut parts: Vec<Decision>) -> Decision {
    let Some(worst) = (0..parts.len()).min_by_key(|at| Reverse(severity(&parts[*at]))) else {
        return Decision::default();
    };
    let until = parts.iter().filter_map(|part| part.valid_until).min();
    let decision = parts.swap_remove(worst);
    let valid_until = match decision.verdict {
        Verdict::Inconclusive => None,
        _ if decision.valid_until.is_none() && severity(&decision) == REFUSED => None,
        _ => until,
    };
    let mut attestors = decision.attestors;
    let mut violations = decision.violations;
    for part in &parts {
        let new = |name: &&String| !attestors.contains(name);
        let more: Vec<String> = part.attestors.iter().filter(new).cloned().collect();
        attestors.extend(more);
        let rule = part.rule.as_deref().unwrap_or_default();
        violations.extend(part.violations.iter().map(|violation| Violation {
            found: told(&format!("rule \"{rule}\" as well: {}", violation.found)),
            ..violation.clone()
        }));
    }
    if decision.verdict != Verdict::Allow {
        attestors.clear();
    }
    Decision { attestors, violations, valid_until, ..decision }
}

#[cfg(test)]
mod tests;
