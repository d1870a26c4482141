//! Why evidence is not enough, in the words that a person meets.

use jiff::Timestamp;

use super::{
    Group, Policy,
    decision::{Code, Violation},
    evaluate::{Findings, Subject},
    signers::Matching,
};
use crate::{
    evidence::{Cause, Gap},
    image::{Digest, sanitize},
    limits,
    trust::{Attestor, Signer},
    verify::Unusable,
};

impl Policy {
    /// What keeps `findings` from meeting `group`, of which `matching` is met.
    pub(super) fn shortfall(
        &self,
        group: &Group,
        matching: &Matching,
        subject: &Subject,
        findings: &Findings,
        now: Timestamp,
    ) -> Violation {
        let name = |at: usize| format!("\"{}\"", self.attestors.get(at).map_or("?", |attestor| &attestor.name));
        let vouches = |at: usize| matching.signers.contains_key(&at);
        let missing = group.missing(&subject.digest, &vouches, &name);
        let fix = format!("sign {} with {missing}", short(&subject.digest));
        let is_named = |attestor: &str| {
            let named = group.attestors();
            named.iter().any(|at| self.attestors.get(*at).is_some_and(|known| known.name == attestor))
        };
        if let Some(ended) = self.ended(group, findings, now) {
            return ended;
        }
        for unusable in &findings.unusable {
            match unusable {
                Unusable::OtherDigest(attestor) if is_named(attestor) => {
                    let found = format!("the signature by \"{attestor}\" is about another digest");
                    return Violation { code: Code::OtherDigest, found, fix };
                }
                Unusable::OtherPurpose(attestor, purpose) if is_named(attestor) => {
                    let purpose = sanitize(&purpose.to_string(), limits::GROUNDS_CHARS);
                    let found = format!("\"{attestor}\" signed a {purpose}, which it may not sign or nobody asked for");
                    return Violation { code: Code::OtherPurpose, found, fix };
                }
                Unusable::OtherAnnotations(attestor) if is_named(attestor) => {
                    let found =
                        format!("the signature by \"{attestor}\" lacks the annotations that the policy asks for");
                    return Violation { code: Code::OtherPurpose, found, fix };
                }
                Unusable::OtherRepository(attestor) if is_named(attestor) => {
                    let found = format!("the signature by \"{attestor}\" names another repository");
                    return Violation { code: Code::OtherPurpose, found, fix };
                }
                Unusable::OutsideValidity(attestor, at) if is_named(attestor) => {
                    let when = at.map_or_else(|| "no authority saw when".to_owned(), |at| format!("at {at}"));
                    let found = format!("\"{attestor}\" signed when its key did not count: {when}");
                    return Violation { code: Code::KeyNotValid, found, fix };
                }
                _ => {}
            }
        }
        if findings.vouched.is_empty()
            && let Some(violation) = not_proven(findings, &fix)
        {
            return violation;
        }
        match findings.unusable.len() + findings.vouched.len() {
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
                let others = match listed(others(findings).into_iter()) {
                    names if names.is_empty() => names,
                    names => format!(" (found {names})"),
                };
                let some = missing.starts_with(|c: char| c.is_ascii_digit());
                let none = if matching.signers.is_empty() && !some { "none by" } else { "still missing" };
                let found = format!("{n} signature{}, {none} {missing}{others}", if n == 1 { "" } else { "s" });
                Violation { code: Code::UntrustedAttestor, found, fix }
            }
        }
    }

    /// That the time is over of a trust root that does not vouch for what was found: it could not tell, whatever else was
    /// pushed beside it.
    fn ended(&self, group: &Group, findings: &Findings, now: Timestamp) -> Option<Violation> {
        let is_unproven = |name: &str| {
            findings.unusable.iter().any(|unusable| matches!(unusable, Unusable::NotProven(root, _) if root == name))
        };
        let named = group.attestors();
        let mut roots = named.iter().filter_map(|at| self.attestors.get(*at)).flat_map(Attestor::roots);
        let ended =
            roots.find(|root| root.ended().is_some_and(|ended| ended <= now) && is_unproven(root.name.as_str()))?;
        let found = format!("the authorities of trust root \"{}\" have ended", ended.name);
        let fix = format!("bring a newer {}", sanitize(&ended.file, limits::QUOTED_CHARS));
        Some(Violation { code: Code::TrustRootEnded, found, fix })
    }
}

/// That no trust root vouches for what was found, if it is nothing else that is wrong with it.
fn not_proven(findings: &Findings, fix: &str) -> Option<Violation> {
    let is_unproven = |unusable: &Unusable| matches!(unusable, Unusable::NotProven(..));
    let Unusable::NotProven(root, why) = findings.unusable.first()? else { return None };
    findings.unusable.iter().all(is_unproven).then(|| {
        let found = format!("\"{root}\" does not vouch for the signature: {why}");
        Violation { code: Code::SignerNotProven, found, fix: fix.to_owned() }
    })
}

/// Who else signed: other attestors of the policy, and whom certificates name.
fn others(findings: &Findings) -> Vec<String> {
    let mut others = findings.others.clone();
    for unusable in &findings.unusable {
        if let Unusable::OtherIdentity(Signer::Identity { subject, .. }) = unusable {
            let subject = sanitize(subject, limits::GROUNDS_CHARS);
            if !others.contains(&subject) {
                others.push(subject);
            }
        }
    }
    others
}

/// The names, as many as a person reads.
fn listed(mut names: impl Iterator<Item = String>) -> String {
    let told: Vec<String> = names.by_ref().take(limits::NAMES_TOLD).collect();
    match names.count() {
        0 => told.join(", "),
        more => format!("{} and {more} more", told.join(", ")),
    }
}

pub(super) fn name_of(subject: &Subject) -> String {
    match &subject.name {
        Some(name) => format!("{name}@{}", short(&subject.digest)),
        None => short(&subject.digest),
    }
}

pub(super) fn short(digest: &Digest) -> String {
    format!("sha256:{}…", &digest.hex()[..12])
}

/// The violation that `gap` is.
pub fn gap_violation(gap: &Gap) -> Violation {
    let (code, fix) = match &gap.cause {
        Cause::Unauthorized => {
            (Code::RegistryUnauthorized, "give the node read access, or put signatures where it has")
        }
        Cause::Withheld(_) => (Code::RegistryUnauthorized, "add the line that the reason names to config.toml"),
        Cause::NoCredential(_) => (Code::CredentialUnavailable, "look at [credentials] in config.toml"),
        Cause::Forbidden => (Code::RegistryForbidden, "give the node's credential read access"),
        Cause::Throttled => (Code::RegistryThrottled, ""),
        Cause::TimedOut(_) => (Code::RegistryTimeout, ""),
        Cause::Redirected(_) => (Code::RegistryRedirects, "look at the registry"),
        Cause::HostsUnreadable(_) => (Code::HostsUnreadable, "mend the file"),
        Cause::Unreachable(_) | Cause::NotAsked => (Code::RegistryUnreachable, ""),
        Cause::Misbehaved(_) => (Code::RegistryMisbehaved, "look at the registry"),
        Cause::TooLarge(_) => (Code::EvidenceTooLarge, "remove signatures that nobody needs"),
        Cause::Unreadable(_) => (Code::EvidenceUnreadable, "mend it, or take it away"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_names_are_told_as_a_person_reads() {
        let names = |count: usize| listed((0..count).map(|i| i.to_string()));
        assert_eq!(names(limits::NAMES_TOLD).split(", ").count(), limits::NAMES_TOLD);
        let more = names(limits::NAMES_TOLD + 7);
        assert!(more.starts_with(&names(limits::NAMES_TOLD)) && more.ends_with(" and 7 more"), "{more}");
    }

    #[test]
    fn the_cause_of_a_gap_is_not_crowded_out_by_a_digest() {
        let hex = "0123456789abcdef".repeat(4);
        for (place, shown) in [
            (format!("reg.io/face:sha256-{hex}.sig"), "reg.io/face:sha256-0123456789ab….sig"),
            (format!("reg.io/x@sha256:{hex}"), "reg.io/x@sha256:0123456789ab…"),
            (format!("{hex}{hex}é{hex}"), &*format!("{hex}{hex}é0123456789ab…")),
            (String::new(), ""),
            ("é".to_owned(), "é"),
        ] {
            let violation = gap_violation(&Gap { place, cause: Cause::Unauthorized });
            assert_eq!(violation.found, format!("{shown}: it asks for credentials"));
        }
    }
}
