//! The answer to a request, and the words for it.

use std::fmt;

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use crate::{
    image::{Digest, sanitize},
    limits,
};

/// Whether an image may come onto the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[must_use]
pub enum Verdict {
    /// The evidence satisfies the policy.
    Allow,
    /// The evidence, complete, does not satisfy the policy. Change the image or the policy.
    #[default]
    Deny,
    /// pullgate could not look, so nothing is known. Trying again may help.
    Inconclusive,
}

impl Verdict {
    /// The word that messages, entries and metrics begin with.
    pub fn word(self) -> &'static str {
        match self {
            Self::Allow => "ALLOW",
            Self::Deny => "DENY",
            Self::Inconclusive => "RETRY",
        }
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $number:literal $name:literal,)*) => {
        /// Why a request was not allowed: a stable number and name, the same in the message, the journal and the manual.
        ///
        /// 1xx the evidence says no, 2xx the policy says no, 3xx pullgate could not tell, 4xx the node itself.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum Code { $($(#[$doc])* $variant = $number,)* }

        impl Code {
            /// Every code there is.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name beside the number.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

codes! {
    /// No signature exists for this digest.
    Unsigned = 101 "unsigned",
    /// Signatures exist, but not by the attestors that the rule requires.
    UntrustedAttestor = 102 "untrusted-attestor",
    /// A signature of a required attestor is about another digest.
    OtherDigest = 103 "other-digest",
    /// A required attestor's key signed something that it may not sign, or that was not asked for.
    OtherPurpose = 104 "other-purpose",
    /// The registry does not have the image.
    NoSuchImage = 105 "no-such-image",
    /// No manifest in the content store has this layer at the place where it is being unpacked.
    NoImageForLayer = 106 "no-image-for-layer",
    /// The manifest, index or configuration is not what containerd and pullgate would read alike.
    MalformedImage = 107 "malformed-image",
    /// The bytes in the content store do not have the digest that they are stored under.
    WrongBytes = 108 "wrong-bytes",
    /// No rule governs this image, and the default denies.
    NoMatchingRule = 201 "no-matching-rule",
    /// The rule denies.
    DeniedByRule = 202 "denied-by-rule",
    /// The rule admits by name alone, and containerd did not fetch the content under that name.
    NameNotProven = 203 "name-not-proven",
    /// A registry asks for credentials that the node does not have.
    RegistryUnauthorized = 301 "registry-unauthorized",
    /// A registry did not answer.
    RegistryUnreachable = 302 "registry-unreachable",
    /// A registry limits the rate of requests.
    RegistryThrottled = 303 "registry-throttled",
    /// A registry answered with something that is not what was asked for.
    RegistryMisbehaved = 304 "registry-misbehaved",
    /// There is more evidence than pullgate reads.
    EvidenceTooLarge = 305 "evidence-too-large",
    /// The registry must not be asked.
    RegistryNotAllowed = 306 "registry-not-allowed",
    /// containerd did not answer.
    ContainerdUnreachable = 307 "containerd-unreachable",
    /// The decision took longer than its deadline.
    DeadlineExceeded = 308 "deadline-exceeded",
    /// The policy cannot be used.
    PolicyInvalid = 402 "policy-invalid",
    /// The configuration cannot be used.
    ConfigInvalid = 403 "config-invalid",
    /// The audit entry could not be written.
    AuditUnavailable = 404 "audit-unavailable",
    /// The mounts of the request are not those of an image being unpacked.
    NoExtractSnapshot = 405 "no-extract-snapshot",
    /// A delegated call came back on the socket that delegates.
    DelegationLoop = 406 "delegation-loop",
    /// The caller is not containerd.
    UntrustedPeer = 407 "untrusted-peer",
    /// The clock of this node shows a time that cannot be.
    ClockNotSet = 409 "clock-not-set",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PG{}", *self as u16)
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Code {
    /// The verdict that this reason alone leads to.
    pub fn verdict(self) -> Verdict {
        match self {
            Self::ContainerdUnreachable | Self::AuditUnavailable | Self::ClockNotSet => Verdict::Inconclusive,
            code if (300..400).contains(&(code as u16)) => Verdict::Inconclusive,
            _ => Verdict::Deny,
        }
    }
}

/// One reason why a request was not allowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// The reason.
    pub code: Code,
    /// What was expected against what was found, without line breaks.
    pub found: String,
    /// What makes it pass.
    pub fix: String,
}

/// The answer to one request. The default denies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[must_use]
pub struct Decision {
    /// Whether the image may come onto the node.
    pub verdict: Verdict,
    /// The name of the rule that governed, where one did.
    pub rule: Option<String>,
    /// The image that was decided about: the manifest, or the digest that was asked for.
    pub digest: Option<Digest>,
    /// The name under which the rule was found.
    pub name: Option<String>,
    /// Who vouched, for an allow.
    pub attestors: Vec<String>,
    /// Why not, for everything else; the first one is what a person is told.
    pub violations: Vec<Violation>,
    /// Whether the rule only audits: the violation is recorded, and the image admitted.
    pub audit_only: bool,
    /// The revision of the policy that decided.
    pub revision: String,
    /// The first instant at which a fact that was used changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<Timestamp>,
}

impl Decision {
    /// The decision that `violation` leads to.
    pub fn refused(violation: Violation) -> Self {
        Self { verdict: violation.code.verdict(), violations: vec![violation], ..Self::default() }
    }

    /// The code of the first violation.
    pub fn code(&self) -> Option<Code> {
        self.violations.first().map(|violation| violation.code)
    }

    /// The one line that a person sees, at most [`limits::MESSAGE_CHARS`] characters:
    /// verdict and code first, what was found, what to do, and under which `id` the journal has more.
    pub fn message(&self, id: Option<&str>) -> String {
        let Some(violation) = self.violations.first() else {
            return self.verdict.word().to_owned();
        };
        let head = format!("{} {}", self.verdict.word(), violation.code);
        let rule = match &self.rule {
            Some(rule) => format!(" rule \"{}\":", sanitize(rule, 32)),
            None => ":".to_owned(),
        };
        let tail = id.map(|id| format!(" On node: journalctl PULLGATE_ID={id}")).unwrap_or_default();
        let fix = match violation.fix.as_str() {
            "" => String::new(),
            fix => format!(" Fix: {}.", sanitize(fix, 72)),
        };
        let used = [&head, &rule, &fix, &tail].iter().map(|part| part.chars().count()).sum::<usize>();
        let room = limits::MESSAGE_CHARS.saturating_sub(used + 2);
        format!("{head}{rule} {}.{fix}{tail}", sanitize(&violation.found, room))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_said_is_a_denial() {
        assert_eq!(Decision::default().verdict, Verdict::Deny);
        assert_eq!(Verdict::default(), Verdict::Deny);
    }

    #[test]
    fn codes_have_distinct_numbers_and_names_and_stay_in_their_hundred() {
        let mut names: Vec<_> = Code::ALL.iter().map(|code| code.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Code::ALL.len());
        for code in Code::ALL {
            assert_ne!(code.verdict(), Verdict::Allow);
            if (300..400).contains(&(*code as u16)) {
                assert_eq!(code.verdict(), Verdict::Inconclusive, "{code}");
            }
            if (100..300).contains(&(*code as u16)) {
                assert_eq!(code.verdict(), Verdict::Deny, "{code}");
            }
        }
    }

    #[test]
    fn the_manual_has_a_row_for_every_code_and_no_other() {
        let manual = include_str!("../../docs/codes.md");
        let rows: Vec<&str> = manual.lines().filter(|line| line.starts_with("| PG")).collect();
        let expected: Vec<String> = Code::ALL.iter().map(|code| format!("| {code} | {} |", code.name())).collect();
        assert_eq!(rows.len(), expected.len());
        for (row, start) in rows.iter().zip(&expected) {
            assert!(row.starts_with(start.as_str()), "{row}");
        }
    }

    #[test]
    fn the_message_keeps_its_length_and_its_ends_whatever_is_put_in() {
        let long = "\u{202e}x\n".repeat(400);
        for code in Code::ALL {
            let decision = Decision {
                rule: Some(long.clone()),
                violations: vec![Violation { code: *code, found: long.clone(), fix: long.clone() }],
                ..Decision::default()
            };
            let message = decision.message(Some("ZZZZZZZZZZZZZ"));
            assert!(message.chars().count() <= limits::MESSAGE_CHARS, "{message}");
            assert!(message.starts_with(&format!("DENY {code}")), "{message}");
            assert!(message.ends_with("journalctl PULLGATE_ID=ZZZZZZZZZZZZZ"), "{message}");
            assert!(!message.contains(['\n', '\u{202e}']));
        }
    }
}
