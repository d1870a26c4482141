//! The bytes of an entry: journald's native protocol (systemd, JOURNAL_NATIVE_PROTOCOL.md).

#![deny(clippy::disallowed_methods)]

use crate::limits;

macro_rules! fields {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// The fields of an entry. Names come from here only, never from data.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Field { $($(#[$doc])* $variant,)* }

        impl Field {
            /// Every field there is.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name in the journal.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

fields! {
    /// The line that `journalctl` shows.
    Message = "MESSAGE",
    /// What kind of entry it is; the catalog explains each.
    MessageId = "MESSAGE_ID",
    /// The priority of syslog, 0 to 7.
    Priority = "PRIORITY",
    /// `pullgate`.
    SyslogIdentifier = "SYSLOG_IDENTIFIER",
    /// `allow`, `deny` or `inconclusive`.
    Verdict = "PULLGATE_VERDICT",
    /// The code that a person is told.
    Code = "PULLGATE_CODE",
    /// Every code, one field each.
    Codes = "PULLGATE_CODES",
    /// The gate that asked: `unpack`, …
    Gate = "PULLGATE_GATE",
    /// The node's mode: `enforce` or `audit`.
    Mode = "PULLGATE_MODE",
    /// Whether the answer followed the verdict: `yes` or `no`.
    Enforced = "PULLGATE_ENFORCED",
    /// `yes` for an image of the self-test.
    SelfTest = "PULLGATE_SELF_TEST",
    /// What the self-test says of one gate, one field each.
    Proof = "PULLGATE_PROOF",
    /// Which run of the self-test said so.
    SelfTestRun = "PULLGATE_SELF_TEST_RUN",
    /// The name of the image, as it was asked for.
    Image = "PULLGATE_IMAGE",
    /// The digest that was decided about.
    Digest = "PULLGATE_DIGEST",
    /// The layer that was about to be unpacked.
    Layer = "PULLGATE_LAYER",
    /// containerd's namespace.
    Namespace = "PULLGATE_NAMESPACE",
    /// The container, by its identifier.
    Container = "PULLGATE_CONTAINER",
    /// An image record that is removed, one field each.
    Removed = "PULLGATE_REMOVED",
    /// The Kubernetes namespace of its pod.
    PodNamespace = "PULLGATE_POD_NAMESPACE",
    /// The name of its pod.
    Pod = "PULLGATE_POD",
    /// The repository under which the rule was found.
    Repository = "PULLGATE_REPOSITORY",
    /// The name of the rule that governed.
    Rule = "PULLGATE_RULE",
    /// Where it stands: file and line.
    RuleAt = "PULLGATE_RULE_AT",
    /// Who can be asked about it.
    Contact = "PULLGATE_CONTACT",
    /// What its author tells who meets a refusal.
    Advice = "PULLGATE_ADVICE",
    /// The policy document that came into force.
    Policy = "PULLGATE_POLICY",
    /// The revision of the policy that decided.
    Revision = "PULLGATE_REVISION",
    /// Who vouched, one field each.
    Attestors = "PULLGATE_ATTESTORS",
    /// The pass of break-glass, by its number.
    Pass = "PULLGATE_PASS",
    /// What it admits: a digest or a pattern.
    PassScope = "PULLGATE_PASS_SCOPE",
    /// Why it was made.
    PassReason = "PULLGATE_PASS_REASON",
    /// Who made it, or which pod has the label.
    PassBy = "PULLGATE_PASS_BY",
    /// For how many seconds it was made.
    PassSeconds = "PULLGATE_PASS_SECONDS",
    /// When it ends by the wall clock.
    PassEnds = "PULLGATE_PASS_ENDS",
    /// Why it is over.
    PassOver = "PULLGATE_PASS_OVER",
    /// What the policy came to where break-glass admits: `deny` or `inconclusive`.
    Otherwise = "PULLGATE_OTHERWISE",
    /// The rule by which it did.
    OtherwiseRule = "PULLGATE_OTHERWISE_RULE",
    /// Why not and what makes it pass, one field for each violation.
    Reason = "PULLGATE_REASON",
    /// An image on the node that a policy does not admit, one field each.
    Refused = "PULLGATE_REFUSED",
    /// An image on the node of which nothing can be said without asking a registry, one field each.
    Unknown = "PULLGATE_UNKNOWN",
    /// What makes it pass: the code and the words with which its reason ends, one field for each violation that has any.
    Fix = "PULLGATE_FIX",
    /// What the code means and what to do, for anybody.
    Meaning = "PULLGATE_MEANING",
    /// How many of the attestors that the rule names must vouch.
    Needed = "PULLGATE_NEEDED",
    /// One attestor that the rule names and how it vouched, as JSON; one field each.
    Requirement = "PULLGATE_REQUIREMENT",
    /// One place where evidence was looked for and what came back, as JSON; one field each.
    Asked = "PULLGATE_ASKED",
    /// One kind of evidence that does not count, as JSON; one field each.
    Uncounted = "PULLGATE_UNCOUNTED",
    /// How many of these three there is no room for.
    Omitted = "PULLGATE_OMITTED",
    /// When the evidence was looked at; a decision may be older than the entry.
    LookedAt = "PULLGATE_LOOKED_AT",
    /// How long the decision took, in microseconds.
    DurationUs = "PULLGATE_DURATION_US",
    /// The entry's number in Crockford's base 32.
    Id = "PULLGATE_ID",
    /// The entry's number in decimal digits.
    Seq = "PULLGATE_SEQ",
    /// The hash of the entry before; `none` for the first, `unknown` after an unclean stop.
    Previous = "PULLGATE_PREVIOUS",
}

/// Entries are hashed as they are sent: fields in the order of their names and values, each with its
/// length, and none twice. journald keeps neither order nor repetition, so this is what can be built again from it.
pub(super) fn encode<'a>(fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Vec<u8> {
    let mut fields: Vec<_> = fields.into_iter().collect();
    fields.sort_unstable();
    fields.dedup();
    let mut entry = Vec::with_capacity(fields.iter().map(|(name, value)| name.len() + value.len() + 10).sum());
    for (name, value) in fields {
        entry.extend_from_slice(name);
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
        entry.extend_from_slice(value);
        entry.push(b'\n');
    }
    entry
}

/// `value` within [`limits::AUDIT_FIELD_BYTES`], cut between characters and marked where it was.
pub(super) fn clip(mut value: String) -> String {
    const MARK: &str = "…";
    if value.len() > limits::AUDIT_FIELD_BYTES {
        value.truncate(value.floor_char_boundary(limits::AUDIT_FIELD_BYTES - MARK.len()));
        value.push_str(MARK);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_journald_accepts() {
        for field in Field::ALL {
            let name = field.name();
            assert!((1..=64).contains(&name.len()));
            assert!(name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_') && !name.starts_with('_'), "{name}");
        }
    }

    #[test]
    fn order_and_repetition_make_no_difference() {
        let one: &[(&[u8], &[u8])] = &[(b"B", b"2"), (b"A", b"1"), (b"B", b"1"), (b"B", b"2")];
        let other: &[(&[u8], &[u8])] = &[(b"A", b"1"), (b"B", b"1"), (b"B", b"2")];
        assert_eq!(encode(one.iter().copied()), encode(other.iter().copied()));
        assert_eq!(encode([(&b"A"[..], &b"1\nB=2"[..])]), b"A\n\x05\0\0\0\0\0\0\x001\nB=2\n");
    }

    #[test]
    fn long_values_are_cut_between_characters() {
        let long = clip("ä".repeat(limits::AUDIT_FIELD_BYTES));
        assert!(long.len() <= limits::AUDIT_FIELD_BYTES && long.len() > limits::AUDIT_FIELD_BYTES - 8);
        assert!(long.ends_with("ä…"));
        let fits = "x".repeat(limits::AUDIT_FIELD_BYTES);
        assert_eq!(clip(fits.clone()), fits);
    }
}
