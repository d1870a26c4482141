//! From a subject and its findings to a decision. Total: every path ends in a decision, and the last one denies.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::{
    Mode, Policy, Requirement, Rule,
    decision::{Code, Decision, Verdict, Violation},
};
use crate::{
    evidence::{Asked, Cause, Gap},
    image::{Digest, Repository, sanitize},
    limits,
    trust::Attestor,
    verify::{Unusable, Vouched},
};

/// What is decided about: a digest, under a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subject {
    /// The manifest or index.
    pub digest: Digest,
    /// The name that selects the rule. Without one the default governs.
    pub name: Option<Repository>,
    /// Where the name comes from.
    pub origin: Origin,
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
    /// The rule settles it.
    Settled(Decision),
    /// The rule needs evidence; see [`Policy::evaluate`].
    NeedsEvidence(&'p Rule),
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
        for exempt in &self.exempt {
            let named = || subject.origin.proves_name() && self.exempts_name(&exempt.insecure_images, subject);
            if exempt.digests.contains(&subject.digest) || named() {
                return Answer::Settled(Decision {
                    verdict: Verdict::Allow,
                    rule: Some(exempt.name.clone()),
                    rule_at: self.at(exempt.line),
                    ..self.about(subject)
                });
            }
        }
        let rule = self.select(subject.name.as_ref(), labels);
        let refused = |code, found: String, fix: &str| {
            let violation = Violation { code, found, fix: fix.to_owned() };
            Answer::Settled(Decision {
                verdict: code.verdict(),
                violations: vec![violation],
                valid_until: None,
                ..self.under(rule, subject, now)
            })
        };
        match &rule.require {
            Requirement::AtLeast { .. } => Answer::NeedsEvidence(rule),
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
                Answer::Settled(Decision { verdict: Verdict::Allow, ..self.under(rule, subject, now) })
            }
            Requirement::InsecureAcceptAnything => refused(
                Code::NameNotProven,
                format!("the rule admits by name, and {} is only what an archive says", name_of(subject)),
                "pull it from the registry, or require an attestor",
            ),
        }
    }

    fn exempts_name(&self, patterns: &[super::scope::Pattern], subject: &Subject) -> bool {
        subject.name.as_ref().is_some_and(|name| patterns.iter().any(|pattern| pattern.matches(name)))
    }

    /// The decision that `findings` lead to under `rule`.
    ///
    /// More evidence never makes it stricter and less never laxer: an allow needs vouching signers only, and neither
    /// unusable evidence nor a gap beside them counts against them.
    pub fn evaluate(&self, rule: &Rule, subject: &Subject, findings: &Findings, now: Timestamp) -> Decision {
        let decision =
            Decision { grounds: self.grounds(rule, subject, findings, now), ..self.under(rule, subject, now) };
        if let Some(attestors) = self.satisfied(rule, subject, &findings.vouched) {
            return Decision { verdict: Verdict::Allow, attestors, ..decision };
        }
        let mut violations: Vec<Violation> = findings.gaps.iter().map(gap_violation).collect();
        violations.push(self.shortfall(rule, subject, findings));
        for text in violations.iter_mut().flat_map(|violation| [&mut violation.found, &mut violation.fix]) {
            *text = sanitize(text, limits::VIOLATION_CHARS);
        }
        let verdict = violations.first().map_or(Verdict::Deny, |violation| violation.code.verdict());
        let valid_until = match verdict {
            Verdict::Deny => now.checked_add(limits::ABSENT_LIFE).ok().min(decision.valid_until),
            _ => None,
        };
        Decision { verdict, violations, valid_until, ..decision }
    }

    /// `decided`, which holds for every rule of the same content, in the words of `rule` and of this policy.
    pub fn restate(&self, decided: Decision, rule: &Rule, subject: &Subject, now: Timestamp) -> Decision {
        let Decision { rule, rule_at, contact, audit_only, revision, .. } = self.under(rule, subject, now);
        Decision { rule, rule_at, contact, audit_only, revision, ..decided }
    }

    /// The attestors that meet `rule` for `subject`, each by a signer of its own.
    pub fn satisfied(&self, rule: &Rule, subject: &Subject, vouched: &[Vouched]) -> Option<Vec<String>> {
        let Requirement::AtLeast { count, .. } = &rule.require else { return None };
        let attestors = self.attestors_of(rule);
        let matched = distinct_signers(&attestors, subject, vouched);
        (*count > 0 && matched.len() >= *count).then_some(matched)
    }

    fn shortfall(&self, rule: &Rule, subject: &Subject, findings: &Findings) -> Violation {
        let required = self.attestors_of(rule);
        let have = distinct_signers(&required, subject, &findings.vouched);
        let missing = required.iter().filter(|attestor| !have.contains(&attestor.name));
        let missing = listed(missing.map(|attestor| format!("\"{}\"", attestor.name)));
        let fix = format!("sign {} with {missing}", short(&subject.digest));
        let pieces = findings.unusable.len() + findings.vouched.len();
        for unusable in &findings.unusable {
            match unusable {
                Unusable::OtherDigest(attestor) => {
                    let found = format!("the signature by \"{attestor}\" is about another digest");
                    return Violation { code: Code::OtherDigest, found, fix };
                }
                Unusable::OtherPurpose(attestor, purpose) => {
                    let purpose = sanitize(&purpose.to_string(), limits::GROUNDS_CHARS);
                    let found = format!("\"{attestor}\" signed a {purpose}, which it may not sign or nobody asked for");
                    return Violation { code: Code::OtherPurpose, found, fix };
                }
                Unusable::OtherAnnotations(attestor) => {
                    let found =
                        format!("the signature by \"{attestor}\" lacks the annotations that the policy asks for");
                    return Violation { code: Code::OtherPurpose, found, fix };
                }
                Unusable::UntrustedSigner | Unusable::Malformed(_) => {}
            }
        }
        match pieces {
            0 if subject.name.is_none() => Violation {
                code: Code::Unsigned,
                found: format!(
                    "{} came without a name, hence no registry to look for signatures in",
                    short(&subject.digest)
                ),
                fix: "pull it from a registry, or exempt the digest".to_owned(),
            },
            0 => Violation { code: Code::Unsigned, found: format!("no signature for {}", name_of(subject)), fix },
            n => {
                let others = match findings.others.is_empty() {
                    true => String::new(),
                    false => format!(" (found {})", listed(findings.others.iter().cloned())),
                };
                let found = format!("{n} signature{}, none by {missing}{others}", if n == 1 { "" } else { "s" });
                Violation { code: Code::UntrustedAttestor, found, fix }
            }
        }
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
        Decision {
            rule: Some(rule.name.clone()),
            rule_at: self.at(rule.line),
            contact: rule.contact.as_ref().map(|contact| sanitize(contact, limits::GROUNDS_CHARS)),
            // A rule that only audits admits by its scope, and a scope that only an archive claims admits nothing.
            audit_only: subject.origin.proves_name() && !rule.mode.enforces(now),
            valid_until: match rule.mode {
                Mode::Audit(Some(until)) if until > now => recheck.min(Some(until)),
                _ => recheck,
            },
            ..self.about(subject)
        }
    }
}

/// The names, as many as a person reads.
fn listed(mut names: impl Iterator<Item = String>) -> String {
    let told: Vec<String> = names.by_ref().take(limits::NAMES_TOLD).collect();
    match names.count() {
        0 => told.join(", "),
        more => format!("{} and {more} more", told.join(", ")),
    }
}

fn name_of(subject: &Subject) -> String {
    match &subject.name {
        Some(name) => format!("{name}@{}", short(&subject.digest)),
        None => short(&subject.digest),
    }
}

fn short(digest: &Digest) -> String {
    format!("sha256:{}…", &digest.hex()[..12])
}

/// The violation that `gap` is.
pub fn gap_violation(gap: &Gap) -> Violation {
    let (code, fix) = match &gap.cause {
        Cause::Unauthorized => {
            (Code::RegistryUnauthorized, "give the node read access, or put signatures where it has")
        }
        Cause::Throttled => (Code::RegistryThrottled, ""),
        Cause::Unreachable(_) | Cause::NotAsked => (Code::RegistryUnreachable, ""),
        Cause::Misbehaved(_) => (Code::RegistryMisbehaved, "look at the registry"),
        Cause::TooLarge(_) => (Code::EvidenceTooLarge, "remove signatures that nobody needs"),
        Cause::NotAllowed(_) => (Code::RegistryNotAllowed, "name the registry in config.toml"),
    };
    Violation { code, found: format!("{}: {}", with_short_digests(&gap.place), gap.cause), fix: fix.to_owned() }
}

/// `place` with 12 digits of each digest: a person reads what is behind it, and `why` has it whole.
fn with_short_digests(place: &str) -> String {
    const WHOLE: usize = 64;
    let mut text = String::with_capacity(place.len());
    let mut rest = place;
    while let Some(start) = rest.find(|c: char| c.is_ascii_hexdigit()) {
        let (before, from) = rest.split_at(start);
        let (digits, after) = from.split_at(from.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(from.len()));
        text.push_str(before);
        match digits.split_at_checked(12) {
            Some((first, _)) if digits.len() == WHOLE => text.extend([first, "…"]),
            _ => text.push_str(digits),
        }
        rest = after;
    }
    text + rest
}

/// The largest set of `attestors` to which distinct keys that vouch for `subject` can be assigned, by name.
///
/// A maximum bipartite matching by augmenting paths: with overlapping attestors, who counts as whom matters.
pub(super) fn distinct_signers(attestors: &[&Attestor], subject: &Subject, vouched: &[Vouched]) -> Vec<String> {
    let counts = |attestor: &Attestor, vouched: &Vouched| counts(attestor, subject, vouched);
    let mut owner: BTreeMap<Digest, usize> = BTreeMap::new();
    for i in 0..attestors.len() {
        let mut seen = std::collections::BTreeSet::new();
        assign(i, attestors, vouched, &counts, &mut owner, &mut seen);
    }
    let mut matched: Vec<usize> = owner.into_values().collect();
    matched.sort_unstable();
    matched.into_iter().filter_map(|i| attestors.get(i)).map(|attestor| attestor.name.clone()).collect()
}

/// Whether `vouched` is `attestor`'s word for `subject`.
pub(super) fn counts(attestor: &Attestor, subject: &Subject, vouched: &Vouched) -> bool {
    vouched.attestor() == attestor.name
        && *vouched.digest() == subject.digest
        && attestor.may_sign.contains(vouched.purpose())
}

fn assign(
    i: usize,
    attestors: &[&Attestor],
    vouched: &[Vouched],
    counts: &dyn Fn(&Attestor, &Vouched) -> bool,
    owner: &mut BTreeMap<Digest, usize>,
    seen: &mut std::collections::BTreeSet<Digest>,
) -> bool {
    let Some(attestor) = attestors.get(i) else { return false };
    for key in vouched.iter().filter(|vouched| counts(attestor, vouched)).map(|vouched| *vouched.key()) {
        if !seen.insert(key) {
            continue;
        }
        let free = match owner.get(&key) {
            None => true,
            Some(other) => assign(*other, attestors, vouched, counts, owner, seen),
        };
        if free {
            owner.insert(key, i);
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests;
