//! What the audit says about break-glass: that a pass was made, that it admitted an image, that it is over.

use super::{Facts, Field, Id, Kind, Record, record::subject_of};
use crate::{
    break_glass::{Glass, Over, Pass},
    image::sanitize,
    limits,
    policy::decision::Decision,
};

impl Record {
    /// The pass `id` is about to be in force.
    pub fn break_glass_made(id: &str, pass: &Pass) -> Self {
        let scope = word(&pass.scope.to_string());
        let message = format!(
            "BREAK-GLASS {id}: {scope} is admitted for {}, whatever the policy says. Reason: {}. By {}",
            length(pass.seconds),
            word(&pass.reason),
            pass.who
        );
        Self::new(Kind::BreakGlassMade, message).with_pass(id, pass)
    }

    /// The pass is over.
    pub fn break_glass_over(pass: &Pass, over: Over) -> Self {
        let scope = word(&pass.scope.to_string());
        let message =
            format!("BREAK-GLASS {} for {scope} is over: {over}. Reason was: {}", pass.id, word(&pass.reason));
        let mut record = Self::new(Kind::BreakGlassOver, message).with_pass(&pass.id, pass);
        record.set(Field::PassOver, over);
        record
    }

    /// The passes that were kept cannot be used, as `trouble` says.
    pub fn break_glass_unreadable(trouble: &str) -> Self {
        let mut record = Self::new(Kind::BreakGlassUnreadable, format!("BREAK-GLASS: {}", word(trouble)));
        record.set(Field::Reason, trouble);
        record
    }

    /// The entry of a decision that admits by break-glass alone.
    pub(super) fn break_glass_used(id: &Id, glass: &Glass, decision: &Decision, facts: &Facts<'_>) -> Self {
        let by = glass.pass.as_ref().map_or_else(|| word(&glass.who), |pass| word(pass));
        let message = format!(
            "BREAK-GLASS {by} admits {}. Reason: {}. The policy: {}",
            subject_of(decision, facts),
            word(&glass.reason),
            glass.refusal(decision).message(Some(&id.to_string())),
        );
        Self::about(Kind::BreakGlassUsed, message, decision, facts)
    }

    /// What every entry about an admission by `glass` has.
    pub(super) fn set_glass(&mut self, glass: &Glass) {
        if let Some(pass) = &glass.pass {
            self.set(Field::Pass, pass);
        }
        self.set(Field::PassReason, &glass.reason);
        self.set(Field::PassBy, &glass.who);
        self.set(Field::Otherwise, glass.otherwise.name());
        if let Some(rule) = &glass.otherwise_rule {
            self.set(Field::OtherwiseRule, rule);
        }
    }

    fn with_pass(mut self, id: &str, pass: &Pass) -> Self {
        self.set(Field::Pass, id);
        self.set(Field::PassScope, &pass.scope);
        self.set(Field::PassReason, &pass.reason);
        self.set(Field::PassBy, pass.who);
        self.set(Field::PassSeconds, pass.seconds);
        if let Some(ends) = pass.ends {
            self.set(Field::PassEnds, format!("{ends:.0}"));
        }
        self
    }
}

fn word(text: &str) -> String {
    sanitize(text, limits::AUDIT_WORD_CHARS)
}

fn length(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60, seconds) {
        (hours, _, seconds) if hours > 0 && seconds % 3600 == 0 => format!("{hours} h"),
        (_, minutes, seconds) if minutes > 0 && seconds % 60 == 0 => format!("{minutes} min"),
        (_, _, seconds) => format!("{seconds} s"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        break_glass::{Moment, Scope, Who},
        config::NodeMode,
        image::Digest,
        policy::{
            decision::{Code, Verdict, Violation},
            evaluate::{Origin, Subject},
        },
    };

    fn pass() -> Pass {
        let now = Moment {
            wall: Some("2026-11-23T12:00:00Z".parse().unwrap()),
            boot: "boot".to_owned(),
            up: Duration::from_secs(100),
            machine: Digest::of(b"machine"),
        };
        let who = Who { uid: 0, login: Some(1000) };
        let scope = Scope::Digest(Digest::of(b"image"));
        let mut pass = Pass::new(scope, "CVE-1: no time\u{202e}".to_owned(), who, Duration::from_secs(5400), &now);
        pass.id = "1J4".to_owned();
        pass
    }

    fn only(record: &Record, field: Field) -> String {
        let values: Vec<&str> = record.values(field).collect();
        assert_eq!(values.len(), 1, "{field:?}: {values:?}");
        values[0].to_owned()
    }

    #[test]
    fn all_of_it_is_an_alert_that_says_who_why_and_for_how_long() {
        let digest = Digest::of(b"image");
        let made = Record::break_glass_made("1J4", &pass());
        assert_eq!(
            only(&made, Field::Message),
            format!(
                "BREAK-GLASS 1J4: {digest} is admitted for 90 min, whatever the policy says. Reason: CVE-1: no time?. \
                 By uid 0, logged in as uid 1000"
            )
        );
        let over = Record::break_glass_over(&pass(), Over::Time);
        assert_eq!(
            only(&over, Field::Message),
            format!("BREAK-GLASS 1J4 for {digest} is over: its time has passed. Reason was: CVE-1: no time?")
        );
        for record in [&made, &over] {
            assert_eq!(only(record, Field::Priority), "1");
            assert_eq!(only(record, Field::Pass), "1J4");
            assert_eq!(only(record, Field::PassScope), digest.to_string());
            assert_eq!(only(record, Field::PassReason), "CVE-1: no time\u{202e}");
            assert_eq!(only(record, Field::PassBy), "uid 0, logged in as uid 1000");
            assert_eq!(only(record, Field::PassEnds), "2026-11-23T13:30:00Z");
            assert_eq!(record.values(Field::Verdict).count(), 0);
        }
        assert_eq!(only(&Record::break_glass_unreadable("x"), Field::Priority), "1");
        assert_eq!([59, 60, 90, 7200].map(length), ["59 s", "1 min", "90 s", "2 h"]);
    }

    #[test]
    fn what_a_pass_admits_says_what_the_policy_would_have_said() {
        let violation = Violation { code: Code::Unsigned, found: "no signature".to_owned(), fix: "sign it".to_owned() };
        let refusal = Decision { rule: Some("prod".to_owned()), ..Decision::refused(violation) };
        let subject = Subject::new(Digest::of(b"image"), Some("reg.io/prod/app".parse().unwrap()), Origin::Fetched);
        let decision = pass().admit(&subject, refusal.clone());
        assert_eq!((decision.verdict, decision.rule.as_deref()), (Verdict::Allow, Some("break-glass")));
        let facts = Facts {
            gate: "resolve",
            mode: NodeMode::Enforce,
            enforced: true,
            image: Some("reg.io/prod/app:1"),
            digest: None,
            layer: None,
            namespace: None,
            container: None,
            pod: None,
            duration: Duration::ZERO,
        };
        let record = Record::decision(&Id::new(42), &decision, &facts);
        let digest = Digest::of(b"image");
        assert_eq!(
            only(&record, Field::Message),
            format!(
                "BREAK-GLASS 1J4 admits reg.io/prod/app:1@{digest}. Reason: CVE-1: no time?. The policy: \
                 DENY PG101 rule \"prod\": no signature. Fix: sign it. On node: pullgate why 1A"
            )
        );
        for (field, value) in [
            (Field::Priority, "1"),
            (Field::Verdict, "allow"),
            (Field::Rule, "break-glass"),
            (Field::Code, "PG101"),
            (Field::Pass, "1J4"),
            (Field::PassBy, "uid 0, logged in as uid 1000"),
            (Field::Otherwise, "deny"),
            (Field::OtherwiseRule, "prod"),
        ] {
            assert_eq!(only(&record, field), value);
        }
        assert_eq!(record.kind(), Kind::BreakGlassUsed);
        let glass = decision.glass.as_deref().unwrap();
        assert_eq!(glass.refusal(&decision).verdict, Verdict::Deny);
    }
}
