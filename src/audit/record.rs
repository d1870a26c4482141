//! What an entry says.

use std::{fmt, time::Duration};

use serde::Serialize;

use super::{
    Field, Id,
    entry::{clip, encode},
};
use crate::{
    config::NodeMode,
    image::{Digest, sanitize},
    limits,
    policy::{
        decision::{Code, Decision, Verdict, Violation},
        grounds::Grounds,
    },
    selftest::{Proof, Report, State},
};

macro_rules! kinds {
    ($($(#[doc = $meaning:literal])+ $variant:ident = $id:literal $priority:literal,)*) => {
        /// What kind of entry it is. Each has its text in `systemd/pullgate.catalog`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Kind { $($(#[doc = $meaning])+ $variant,)* }

        impl Kind {
            /// Every kind there is.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// What it means, for a person.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($meaning),+).trim_ascii(),)* }
            }

            /// Its name for programs, such as `audit-only`.
            pub fn name(self) -> String {
                let name = match self { $(Self::$variant => stringify!($variant),)* };
                let words = name.split_inclusive(|_: char| true).map(|letter| match letter.to_ascii_lowercase() {
                    lower if lower == letter => lower,
                    lower => format!("-{lower}"),
                });
                words.collect::<String>().trim_start_matches('-').to_owned()
            }

            /// The kind whose `MESSAGE_ID` this is.
            pub fn of(message_id: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|kind| kind.message_id() == message_id)
            }

            /// The `MESSAGE_ID`: 32 hexadecimal digits.
            pub fn message_id(self) -> &'static str {
                match self { $(Self::$variant => $id,)* }
            }

            fn priority(self) -> &'static str {
                match self { $(Self::$variant => $priority,)* }
            }
        }
    };
}

kinds! {
    /// The image was admitted.
    Allow = "84cfa2247fd04fec992f425e8f5f410d" "6",
    /// The image was refused: the evidence or the policy says no.
    Deny = "0b6399b47b0a48dba4435948f17941fc" "4",
    /// The image was refused: pullgate could not look.
    Inconclusive = "af3ea33091e349e3a20d58d5503b6b1a" "4",
    /// The image was admitted although the verdict was not allow: the node or the rule only audits.
    AuditOnly = "54181896cbf54b70b6accf7b50ad004e" "5",
    /// The daemon started.
    Started = "b3b4ebfe126f450fbe985004ebef4d28" "6",
    /// The daemon stopped as it was told to.
    Stopped = "fbddd9a797ec49f8940d81ba98533059" "6",
    /// A policy came into force.
    PolicyActivated = "cd43cff6853e4e76b9a6f97c23ec5727" "5",
    /// A policy or configuration cannot be used.
    PolicyRejected = "ba4c2e67a5bb4190800662134a5c7d5b" "3",
    /// The images on the node were judged under a policy.
    NodeJudged = "5d1b90a7e2f44c0c8f6a3c2b7d9e4f18" "5",
    /// An image is on the node that the policy does not admit.
    ImageNotAdmitted = "2f6b7c0d94c84a6fb1c1f1f36d2a7e05" "4",
    /// A container runs whose image the policy does not admit.
    ContainerNotAdmitted = "7d0e5a1c3b9f4d2e8a64c7f0b1952e3d" "4",
    /// A container of a pod was made without the hook of the start gate.
    StartGateBypassed = "c95d2b8e60f74e1ab3d8f42a7e01c6b9" "1",
    /// The records of an image that the policy refuses are removed.
    ImageQuarantined = "e18a4f7b2c6d4903b5f0a9d37c84e261" "4",
    /// Image records stay that the policy refuses: as many as may be within an hour were removed.
    QuarantineExhausted = "40c7e9d1a5b24f86937be2f80d6a1c5e" "1",
    /// Each gate that is connected was seen to refuse and to admit.
    GatesProven = "3f9b6d1c52b94a0e8d7e4c1a90f2b6d5" "5",
    /// It is not known of each gate that it refuses.
    GatesUnproven = "c7d2e8a4016f4b3f9a5c0b8e6d41f793" "4",
    /// A gate let pass what it must refuse.
    GateOpen = "9e41b7f05d2c4e6ab8f3d07c1a5e9264" "1",
    /// Root breaks the glass: what a pass is about is admitted for some time whatever the policy says.
    BreakGlassMade = "5e0c8d72b4a94f1d9c36a1e7f2b80d45" "1",
    /// The image was admitted by break-glass alone.
    BreakGlassUsed = "a7f31c9e06d84b52b8e4d5209c7a1f63" "1",
    /// A pass of break-glass is over.
    BreakGlassOver = "1c84e6b9f53a47d0a2d97b60e8f4c315" "1",
    /// The passes of break-glass that were kept cannot be used: none of them admits anything.
    BreakGlassUnreadable = "d29a5f40c7e1486eb1f83c6d07b9e2a4" "1",
    /// A verifier or hook had no answer from the daemon. It writes this entry itself, outside the chain.
    Unanswered = "06f1767da48b4809916e7dfbfd80746c" "3",
}

/// What the gate knows about a request beside the decision.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The gate: `unpack`, …
    pub gate: &'static str,
    /// The node's mode.
    pub mode: NodeMode,
    /// Whether the answer follows the verdict. Only a verdict that is not allow can lack it.
    pub enforced: bool,
    /// The name asked for; without it the one that the decision found the rule under.
    pub image: Option<&'a str>,
    /// The digest asked about; without it the decision's.
    pub digest: Option<&'a Digest>,
    /// The layer about to be unpacked.
    pub layer: Option<&'a Digest>,
    /// containerd's namespace, where it is known.
    pub namespace: Option<&'a str>,
    /// The container about to start.
    pub container: Option<&'a str>,
    /// The Kubernetes namespace and the name of its pod, where it is of one.
    pub pod: Option<(&'a str, &'a str)>,
    /// How long the decision took.
    pub duration: Duration,
}

/// What an entry says, before it has its place in the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    kind: Kind,
    fields: Vec<(Field, String)>,
}

impl Record {
    /// The entry of one decision, which a person will find under `id`.
    pub fn decision(id: &Id, decision: &Decision, facts: &Facts<'_>) -> Self {
        if let Some(glass) = &decision.glass {
            return Self::break_glass_used(id, glass, decision, facts);
        }
        let image = facts.image.or(decision.name.as_deref());
        let digest = facts.digest.or(decision.digest.as_ref());
        let (kind, message) = match decision.verdict {
            Verdict::Allow => (Kind::Allow, admission(decision, image, digest)),
            _ if !facts.enforced => {
                (Kind::AuditOnly, format!("AUDIT would be refused: {}", decision.message(Some(&id.to_string()))))
            }
            Verdict::Deny => (Kind::Deny, decision.message(Some(&id.to_string()))),
            Verdict::Inconclusive => (Kind::Inconclusive, decision.message(Some(&id.to_string()))),
        };
        Self::about(kind, message, decision, facts)
    }

    /// An entry about `decision`.
    pub(super) fn about(kind: Kind, message: String, decision: &Decision, facts: &Facts<'_>) -> Self {
        let image = facts.image.or(decision.name.as_deref());
        let digest = facts.digest.or(decision.digest.as_ref());
        let mut record = Self::new(kind, message);
        record.set(Field::Verdict, decision.verdict.name());
        record.set_some(Field::Code, decision.code());
        record.set_all(Field::Codes, decision.violations.iter().map(|violation| violation.code));
        record.set(Field::Gate, facts.gate);
        record.set(Field::Mode, facts.mode);
        record.set(Field::Enforced, if facts.enforced { "yes" } else { "no" });
        record.set_some(Field::SelfTest, decision.self_test.then_some("yes"));
        record.set_some(Field::Image, image);
        record.set_some(Field::Digest, digest);
        record.set_some(Field::Layer, facts.layer);
        record.set_some(Field::Namespace, facts.namespace);
        record.set_some(Field::Container, facts.container);
        record.set_some(Field::PodNamespace, facts.pod.map(|(namespace, _)| namespace));
        record.set_some(Field::Pod, facts.pod.map(|(_, name)| name));
        record.set_some(Field::Repository, decision.name.as_ref());
        record.set_some(Field::Rule, decision.rule.as_ref());
        record.set_some(Field::RuleAt, decision.rule_at.as_ref());
        record.set_some(Field::Contact, decision.contact.as_ref());
        record.set_some(Field::Advice, decision.advice.as_ref());
        record.set_some(Field::Revision, Some(&decision.revision).filter(|revision| !revision.is_empty()));
        record.set_all(Field::Attestors, decision.attestors.iter());
        record.set_all(Field::Reason, decision.violations.iter().map(reason));
        let fixes = decision.violations.iter().filter(|violation| !violation.fix.is_empty());
        record.set_all(
            Field::Fix,
            fixes.map(|Violation { code, fix, .. }| format!("{code} {fix}")).collect::<Vec<_>>().into_iter(),
        );
        record.set_some(Field::Meaning, decision.code().map(meaning));
        record.set_grounds(&decision.grounds);
        if let Some(glass) = &decision.glass {
            record.set_glass(glass);
        }
        record.set(Field::DurationUs, facts.duration.as_micros());
        record
    }

    /// The daemon started, in `mode`.
    pub fn started(mode: NodeMode) -> Self {
        let message = format!("pullgate {} started, mode {mode}", env!("CARGO_PKG_VERSION"));
        let mut record = Self::new(Kind::Started, message);
        record.set(Field::Mode, mode);
        record
    }

    /// The daemon stops as it was told to.
    pub fn stopped() -> Self {
        Self::new(Kind::Stopped, format!("pullgate {} stopped", env!("CARGO_PKG_VERSION")))
    }

    /// The policy `revision` is in force, read from `source`.
    pub fn policy_activated(revision: &str, source: &str, mode: NodeMode) -> Self {
        let message = format!(
            "policy {} of {} is in force, mode {mode}",
            sanitize(revision, limits::AUDIT_WORD_CHARS),
            sanitize(source, limits::AUDIT_WORD_CHARS),
        );
        let mut record = Self::new(Kind::PolicyActivated, message);
        record.set(Field::Revision, revision);
        record.set(Field::Policy, source);
        record.set(Field::Mode, mode);
        record
    }

    /// What is on disk cannot be used, because of `violation`; `revision` stays in force, or only the
    /// boot list is admitted.
    pub fn policy_rejected(violation: &Violation, revision: Option<&str>) -> Self {
        let instead = match revision {
            Some(revision) => format!("policy {} stays in force", sanitize(revision, limits::AUDIT_WORD_CHARS)),
            None => "only the boot list is admitted".to_owned(),
        };
        let found = sanitize(&violation.found, limits::MESSAGE_CHARS);
        let mut record = Self::new(Kind::PolicyRejected, format!("{} {found}; {instead}", violation.code));
        record.set(Field::Code, violation.code);
        record.set_some(Field::Revision, revision);
        record.set(Field::Reason, reason(violation));
        record.set(Field::Meaning, meaning(violation.code));
        record
    }

    /// The images on the node under the policy `revision`: how many there are, and the names of those that it does not
    /// admit and of those that cannot be told without asking a registry; how many containers run, and of how many the image
    /// is not admitted.
    pub fn node_judged(
        revision: &str,
        images: usize,
        refused: &[String],
        unknown: &[String],
        (containers, without): (usize, usize),
    ) -> Self {
        let listed = |names: &[String]| match names {
            [] => "none".to_owned(),
            [first, ..] => format!("{} ({}…)", names.len(), sanitize(first, limits::AUDIT_WORD_CHARS)),
        };
        let message = format!(
            "policy {}: {images} images on this node, {} admitted; refused: {}; cannot be told without a registry: {}; \
             {containers} containers run, {without} of them without an allow",
            sanitize(revision, limits::AUDIT_WORD_CHARS),
            images.saturating_sub(refused.len() + unknown.len()),
            listed(refused),
            listed(unknown),
        );
        let mut record = Self::new(Kind::NodeJudged, message);
        record.set(Field::Revision, revision);
        record.set_all(Field::Refused, refused.iter());
        record.set_all(Field::Unknown, unknown.iter());
        record
    }

    /// What is known of the gates has changed: `report` is what the self-test says now.
    pub fn gates(report: &Report, mode: NodeMode) -> Self {
        let kind = match () {
            () if report.is_open() => Kind::GateOpen,
            () if report.is_unknown() => Kind::GatesUnproven,
            () => Kind::GatesProven,
        };
        let mut told: Vec<&Proof> = report.gates.iter().filter(|proof| proof.state != State::Absent).collect();
        // What is open comes first: a line has an end.
        told.sort_by_key(|proof| (proof.state != State::Open, proof.state != State::Unknown));
        let line = match told.as_slice() {
            [] => "no gate is connected".to_owned(),
            told => told.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
        };
        let mut record = Self::new(kind, sanitize(&format!("self-test: {line}"), 2 * limits::AUDIT_WORD_CHARS));
        record.set(Field::Mode, mode);
        record.set_all(Field::Proof, report.gates.iter());
        record.set_some(Field::SelfTestRun, Some(&report.run).filter(|run| !run.is_empty()));
        record
    }

    /// What kind of entry it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The values of `field`, in the order in which they were said.
    pub fn values(&self, field: Field) -> impl Iterator<Item = &str> {
        self.fields.iter().filter(move |(name, _)| *name == field).map(|(_, value)| value.as_str())
    }

    /// The bytes of the entry in its place: number `id`, after the entry whose hash is `previous`.
    pub(crate) fn seal(mut self, id: Id, previous: impl fmt::Display) -> Vec<u8> {
        self.set(Field::Id, id);
        self.set(Field::Seq, id.sequence());
        self.set(Field::Previous, previous);
        encode(self.fields.iter().map(|(field, value)| (field.name().as_bytes(), value.as_bytes())))
    }

    pub(super) fn new(kind: Kind, message: String) -> Self {
        let mut record = Self { kind, fields: Vec::with_capacity(32) };
        record.set(Field::Message, message);
        record.set(Field::MessageId, kind.message_id());
        record.set(Field::Priority, kind.priority());
        record.set(Field::SyslogIdentifier, "pullgate");
        record
    }

    pub(super) fn set(&mut self, field: Field, value: impl fmt::Display) {
        self.fields.push((field, clip(value.to_string())));
    }

    fn set_some(&mut self, field: Field, value: Option<impl fmt::Display>) {
        if let Some(value) = value {
            self.set(field, value);
        }
    }

    fn set_grounds(&mut self, grounds: &Grounds) {
        if grounds.is_empty() {
            return;
        }
        self.set(Field::Needed, grounds.needed);
        self.set_all(Field::Requirement, grounds.required.iter().map(json));
        self.set_all(Field::Asked, grounds.asked.iter().map(json));
        self.set_all(Field::Uncounted, grounds.uncounted.iter().map(json));
        self.set_some(Field::Omitted, Some(grounds.omitted).filter(|omitted| *omitted > 0));
        self.set_some(Field::LookedAt, grounds.looked_at);
    }

    /// One field for each value, so that `journalctl FIELD=VALUE` finds every one of them.
    pub(super) fn set_all(&mut self, field: Field, values: impl ExactSizeIterator<Item = impl fmt::Display>) {
        let more = values.len().saturating_sub(limits::AUDIT_VALUES);
        for value in values.take(limits::AUDIT_VALUES) {
            self.set(field, value);
        }
        if more > 0 {
            self.set(field, format!("… {more} more"));
        }
    }
}

fn admission(decision: &Decision, image: Option<&str>, digest: Option<&Digest>) -> String {
    let word = |text: &str| sanitize(text, limits::AUDIT_WORD_CHARS);
    let rule = decision.rule.as_deref().map(|rule| format!(" rule \"{}\"", word(rule))).unwrap_or_default();
    let subject = named(image, digest);
    let vouched = match decision.attestors.as_slice() {
        [] => String::new(),
        attestors => format!(" by {}", sanitize(&attestors.join(", "), limits::MESSAGE_CHARS)),
    };
    format!("{}{rule}: {subject}{vouched}", Verdict::Allow.word())
}

/// What `decision` is about, for a person.
pub(super) fn subject_of(decision: &Decision, facts: &Facts<'_>) -> String {
    named(facts.image.or(decision.name.as_deref()), facts.digest.or(decision.digest.as_ref()))
}

fn named(image: Option<&str>, digest: Option<&Digest>) -> String {
    let word = |text: &str| sanitize(text, limits::AUDIT_WORD_CHARS);
    match (image, digest) {
        (Some(image), Some(digest)) if !image.contains('@') => format!("{}@{digest}", word(image)),
        (Some(image), _) => word(image),
        (None, Some(digest)) => digest.to_string(),
        (None, None) => "no name, no digest".to_owned(),
    }
}

/// Values that hold nothing which JSON cannot say.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn meaning(code: Code) -> String {
    format!("{code} {}: {}. What to do: {}.", code.name(), code.meaning(), code.remedy())
}

fn reason(violation: &Violation) -> String {
    let Violation { code, found, fix } = violation;
    match fix.as_str() {
        "" => format!("{code} {}: {found}", code.name()),
        fix => format!("{code} {}: {found}; {fix}", code.name()),
    }
}

#[cfg(test)]
mod tests;
