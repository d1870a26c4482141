//! The answer to a request, and the words for it.

use std::{fmt, str::FromStr};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::grounds::Grounds;
use crate::{
    break_glass::Glass,
    image::{Digest, sanitize},
    limits,
};

/// Whether an image may come onto the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
    /// Its name for programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Inconclusive => "inconclusive",
        }
    }

    /// The verdict of this name.
    pub fn of(name: &str) -> Option<Self> {
        [Self::Allow, Self::Deny, Self::Inconclusive].into_iter().find(|verdict| verdict.name() == name)
    }

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
    ($($variant:ident = $number:literal $name:literal $meaning:literal $remedy:literal,)*) => {
        /// Why a request was not allowed: a stable number and name, the same in the message, the journal and the manual.
        ///
        /// 1xx the evidence says no, 2xx the policy says no, 3xx pullgate could not tell, 4xx the node itself.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum Code { $(#[doc = $meaning] $variant = $number,)* }

        impl Code {
            /// Every code there is.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name beside the number.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What it means, for a person: the manual says the same.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }

            /// What to do about it.
            pub fn remedy(self) -> &'static str {
                match self { $(Self::$variant => $remedy,)* }
            }
        }
    };
}

// The table of docs/codes.md.
codes! {
    Unsigned = 101 "unsigned"
        "no signature exists for this digest"
        "sign it; a tag that moved names another digest",
    UntrustedAttestor = 102 "untrusted-attestor"
        "signatures exist, none (or too few) by the attestors of the rule"
        "sign with the attestor named, or trust the one found",
    OtherDigest = 103 "other-digest"
        "the attestor's signature is about another digest"
        "sign this digest: somebody copied a signature",
    OtherPurpose = 104 "other-purpose"
        "the attestor's key signed something it may not sign, or that nobody asked for"
        "sign the image, or extend `may-sign`",
    NoSuchImage = 105 "no-such-image"
        "the registry, or the layout, does not have the image (`check` only)"
        "push it",
    NoImageForLayer = 106 "no-image-for-layer"
        "no manifest on the node has this layer at this place"
        "bring the image in with its manifest",
    MalformedImage = 107 "malformed-image"
        "a manifest or configuration that containerd and pullgate might not read alike"
        "build it again with a current tool",
    WrongBytes = 108 "wrong-bytes"
        "the content store holds other bytes than the digest says"
        "remove the image, look at the disk",
    OtherLayers = 109 "other-layers"
        "the container's files are not those of the image that it names"
        "remove the container, and make it anew",
    RestoredCheckpoint = 110 "restored-checkpoint"
        "the container continues from a checkpoint, and nobody signs memory and files of one"
        "start it from its image",
    NoImageForContainer = 111 "no-image-for-container"
        "no manifest on the node has the container's image configuration"
        "pull the image again",
    SignerNotProven = 112 "signer-not-proven"
        "no trust root vouches for who signed, or for when"
        "sign it again; look at the trust root if all are refused",
    KeyNotValid = 113 "key-not-valid"
        "the attestor's key signed outside the time in which its signatures count"
        "sign with a key that is valid now",
    NoMatchingRule = 201 "no-matching-rule"
        "no rule is about the image, and the default denies"
        "add a rule, or exempt the digest",
    DeniedByRule = 202 "denied-by-rule"
        "the rule denies"
        "change the rule",
    NameNotProven = 203 "name-not-proven"
        "the rule admits by name, and only an archive says the name"
        "pull it from the registry, or require an attestor",
    DigestNotPinned = 204 "digest-not-pinned"
        "the rule admits the digests that it pins, and this is none of them"
        "pin the digest in the rule",
    TagNotAdmitted = 205 "tag-not-admitted"
        "the rule admits some tags, and another one or none was asked for"
        "ask for a tag that the rule admits, or change the rule",
    RegistryUnauthorized = 301 "registry-unauthorized"
        "the registry asks for credentials"
        "give the node read access, or put signatures where it has: `[[evidence]]` in config.toml",
    RegistryUnreachable = 302 "registry-unreachable"
        "the registry did not answer"
        "the client retries; look at the network",
    RegistryThrottled = 303 "registry-throttled"
        "the registry limits the rate of requests"
        "the client retries",
    RegistryMisbehaved = 304 "registry-misbehaved"
        "the registry answered with something else than was asked for"
        "look at the registry",
    EvidenceTooLarge = 305 "evidence-too-large"
        "there is more evidence than pullgate reads"
        "remove signatures that nobody needs",
    RegistryNotAllowed = 306 "registry-not-allowed"
        "plain HTTP, or an address of the node itself that only an archive names"
        "name the registry in config.toml",
    ContainerdUnreachable = 307 "containerd-unreachable"
        "containerd did not answer, or a blob or a snapshot is gone"
        "the client retries; look at containerd",
    DeadlineExceeded = 308 "deadline-exceeded"
        "the decision took too long"
        "the client retries",
    NotVerifiedYet = 309 "not-verified-yet"
        "nothing on the node decides about the image; it is being verified now, which a start does not wait for"
        "start it again; the kubelet does",
    RegistryForbidden = 310 "registry-forbidden"
        "the registry knows who asks, and forbids it (403)"
        "give the node's credential read access to the repository",
    RegistryRedirects = 311 "registry-redirects"
        "the registry redirects to where nobody is asked: plain HTTP, this node, in a circle"
        "look at the registry, or name the host in config.toml",
    RegistryTimeout = 312 "registry-timeout"
        "the registry took too long"
        "the client retries; look at the registry",
    CredentialUnavailable = 313 "credential-unavailable"
        "a file, helper or provider of `[credentials]` gives no credential"
        "look at what the message names",
    HostsUnreadable = 314 "hosts-unreadable"
        "a hosts.toml of containerd's, or a certificate beside it, cannot be used"
        "mend the file; the next pull works",
    EvidenceUnreadable = 315 "evidence-unreadable"
        "a directory of evidence, or something in it, cannot be read"
        "mend what the message names: its place, owner or permissions, or the file",
    TrustRootEnded = 320 "trust-root-ended"
        "the authorities of the trust root have ended, so nothing can be told by it"
        "bring a newer trusted_root.json",
    PolicyInvalid = 402 "policy-invalid"
        "there is no policy that can be used"
        "mend the file; the next pull works",
    ConfigInvalid = 403 "config-invalid"
        "there is no configuration that can be used"
        "mend the file; the next pull works",
    AuditUnavailable = 404 "audit-unavailable"
        "journald did not take the entry, so the allow was withheld"
        "look at systemd-journald",
    NoExtractSnapshot = 405 "no-extract-snapshot"
        "the mounts are not those of an image being unpacked"
        "unpack images through containerd",
    DelegationLoop = 406 "delegation-loop"
        "`pullgate-transfer` is in the diff service's list, or a call was replayed"
        "take it out",
    UntrustedPeer = 407 "untrusted-peer"
        "the caller is not the containerd of `address` in config.toml"
        "compare the addresses",
    DaemonUnreachable = 408 "daemon-unreachable"
        "the verifier or hook found no daemon, or got no answer in 8 seconds"
        "`systemctl start pullgate-gates.socket pullgate.service`",
    ClockNotSet = 409 "clock-not-set"
        "the clock shows a time before pullgate was built, and no later one was ever seen"
        "set the clock",
    MalformedRequest = 410 "malformed-request"
        "containerd asks in a way that pullgate does not know"
        "update pullgate, or look at who asks",
    SelfTest = 411 "self-test"
        "pullgate made this image to see its own gates refuse it, and one did"
        "nothing: it is a proof",
    NoSuchContainer = 412 "no-such-container"
        "containerd has no record of the container that is to start"
        "compare `address` in config.toml with the containerd that starts it",
    UnreadableRecord = 413 "unreadable-record"
        "containerd's record of the container cannot be read"
        "update pullgate",
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

impl FromStr for Code {
    type Err = BadCode;

    fn from_str(text: &str) -> Result<Self, BadCode> {
        let number =
            |text: &str| text.get(..2)?.eq_ignore_ascii_case("PG").then(|| text.get(2..)?.parse::<u16>().ok())?;
        let number = number(text).ok_or(BadCode)?;
        Self::ALL.iter().copied().find(|code| *code as u16 == number).ok_or(BadCode)
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The text is not a code that this version knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a code like PG101")]
pub struct BadCode;

impl Code {
    /// Whether an exemption of the digest would have settled the request.
    pub fn is_settled_by_exemption(self) -> bool {
        match self {
            Self::Unsigned
            | Self::UntrustedAttestor
            | Self::OtherDigest
            | Self::OtherPurpose
            | Self::SignerNotProven
            | Self::KeyNotValid
            | Self::TrustRootEnded
            | Self::NoMatchingRule
            | Self::DeniedByRule
            | Self::NameNotProven
            | Self::DigestNotPinned
            | Self::TagNotAdmitted
            | Self::RegistryUnauthorized
            | Self::RegistryUnreachable
            | Self::RegistryThrottled
            | Self::RegistryMisbehaved
            | Self::EvidenceTooLarge
            | Self::RegistryNotAllowed
            | Self::RegistryForbidden
            | Self::RegistryRedirects
            | Self::RegistryTimeout
            | Self::CredentialUnavailable
            | Self::HostsUnreadable
            | Self::EvidenceUnreadable
            | Self::NotVerifiedYet => true,
            Self::NoSuchImage
            | Self::NoImageForLayer
            | Self::MalformedImage
            | Self::WrongBytes
            | Self::OtherLayers
            | Self::RestoredCheckpoint
            | Self::NoImageForContainer
            | Self::NoSuchContainer
            | Self::UnreadableRecord
            | Self::ContainerdUnreachable
            | Self::DeadlineExceeded
            | Self::PolicyInvalid
            | Self::ConfigInvalid
            | Self::AuditUnavailable
            | Self::NoExtractSnapshot
            | Self::DelegationLoop
            | Self::UntrustedPeer
            | Self::DaemonUnreachable
            | Self::ClockNotSet
            | Self::MalformedRequest
            | Self::SelfTest => false,
        }
    }

    /// Whether the boot list would have admitted the digest.
    pub fn is_settled_by_boot_list(self) -> bool {
        self.is_settled_by_exemption() || matches!(self, Self::PolicyInvalid | Self::ConfigInvalid | Self::ClockNotSet)
    }

    /// Whether a pass of break-glass for the digest admits: over everything but what is wrong with the image or container
    /// itself. With one nobody waits for a registry.
    pub fn is_settled_by_break_glass(self) -> bool {
        self.is_settled_by_boot_list() || self == Self::DeadlineExceeded
    }

    /// The verdict that this reason alone leads to.
    pub fn verdict(self) -> Verdict {
        match self {
            Self::AuditUnavailable | Self::DaemonUnreachable | Self::ClockNotSet | Self::UnreadableRecord => {
                Verdict::Inconclusive
            }
            code if (300..400).contains(&(code as u16)) => Verdict::Inconclusive,
            _ => Verdict::Deny,
        }
    }
}

/// One reason why a request was not allowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// The reason.
    pub code: Code,
    /// What was expected against what was found, without line breaks.
    pub found: String,
    /// What makes it pass.
    pub fix: String,
}

/// The answer to one request. The default denies.
///
/// It is kept on disk in this form: what a version adds has a default, and what it does not know is passed over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[must_use]
pub struct Decision {
    /// Whether the image may come onto the node.
    pub verdict: Verdict,
    /// The name of the rule that governed, where one did.
    pub rule: Option<String>,
    /// Where it stands: `/etc/pullgate/policy.toml:12`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule_at: Option<String>,
    /// Who can be asked about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contact: Option<String>,
    /// What the author of the rule tells who meets a refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
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
    /// Whether it is about an image of the self-test: refused in whatever mode, and of no meaning for anything else.
    #[serde(skip)]
    pub self_test: bool,
    /// By what it is an allow that is not the policy's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub glass: Option<Box<Glass>>,
    /// The revision of the policy that decided.
    pub revision: String,
    /// The first instant at which a fact that was used changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<Timestamp>,
    /// What was required and what was found, where the rule needed evidence.
    #[serde(skip_serializing_if = "Grounds::is_empty")]
    pub grounds: Grounds,
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

    /// Of two refusals of one request, whether this is the one to report: one that only audits admits; what could not be
    /// looked at might have admitted; and evidence that came close says more than none.
    pub fn tells_more(&self, other: &Self) -> bool {
        fn rank(decision: &Decision) -> (bool, bool, u8) {
            let closeness = match decision.code() {
                Some(Code::OtherDigest) => 5,
                Some(Code::UntrustedAttestor) => 4,
                Some(Code::OtherPurpose) => 3,
                Some(Code::Unsigned | Code::DigestNotPinned) => 2,
                Some(Code::NameNotProven | Code::DeniedByRule | Code::TagNotAdmitted) => 1,
                _ => 0,
            };
            (decision.audit_only, decision.verdict == Verdict::Inconclusive, closeness)
        }
        rank(self) > rank(other)
    }

    /// The one line that a person sees, at most [`limits::MESSAGE_CHARS`] characters:
    /// verdict and code first, what was found, what to do, and under which `id` `pullgate why` has more.
    pub fn message(&self, id: Option<&str>) -> String {
        let Some(violation) = self.violations.first() else {
            return self.verdict.word().to_owned();
        };
        let head = format!("{} {}", self.verdict.word(), violation.code);
        let rule = match &self.rule {
            Some(rule) => format!(" rule \"{}\":", sanitize(rule, 32)),
            None => ":".to_owned(),
        };
        let tail = id.map(|id| format!(" On node: pullgate why {id}")).unwrap_or_default();
        // What the rule's author says is about this very case; what is generated fits every one.
        let fix = match self.advice.as_deref().unwrap_or(&violation.fix) {
            "" => String::new(),
            fix => format!(" Fix: {}.", sanitize(fix.trim_end_matches('.'), limits::ADVICE_CHARS)),
        };
        let used = [&head, &rule, &fix, &tail].iter().map(|part| part.chars().count()).sum::<usize>();
        let room = limits::MESSAGE_CHARS.saturating_sub(used + 2);
        format!("{head}{rule} {}.{fix}{tail}", sanitize(&violation.found, room))
    }
}

#[cfg(test)]
mod tests;
