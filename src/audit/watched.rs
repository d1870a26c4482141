//! What the watch says: about what is on the node, whoever brought or started it.

use super::{Facts, Field, Id, Kind, Record, record::subject_of};
use crate::{
    image::sanitize,
    limits,
    policy::decision::{Decision, Verdict},
};

/// A container that an entry is about.
#[derive(Clone, Copy, Debug)]
pub struct Container<'a> {
    /// Its identifier.
    pub id: &'a str,
    /// Whether a client made it that never asks the start gate.
    pub beside_start_gate: bool,
}

/// Digits of a container's identifier that a person is shown.
const SHOWN: usize = 12;

impl Record {
    /// An image is on the node, and `decision` does not admit it.
    pub fn image_not_admitted(id: &Id, decision: &Decision, facts: &Facts<'_>) -> Self {
        let message = format!("{} is on this node: {}", subject_of(decision, facts), said(id, decision));
        Self::about(Kind::ImageNotAdmitted, message, decision, facts)
    }

    /// A container runs, and `decision` does not admit its image.
    pub fn container_not_admitted(id: &Id, container: Container<'_>, decision: &Decision, facts: &Facts<'_>) -> Self {
        let how = if container.beside_start_gate { "started without the start gate (by no pod), runs" } else { "runs" };
        let message =
            format!("container {} {how} {}: {}", short(container.id), subject_of(decision, facts), said(id, decision));
        let mut record = Self::about(Kind::ContainerNotAdmitted, message, decision, facts);
        record.set(Field::Container, container.id);
        record
    }

    /// The container `container` of a pod has no hook of the start gate; `image` is what its maker called its image.
    pub fn start_gate_bypassed(container: &str, image: &str, namespace: &str, runtime: &str) -> Self {
        let word = |text: &str| sanitize(text, limits::AUDIT_WORD_CHARS);
        let message = format!(
            "container {} ({}) of a pod was made without the hook of the start gate (runtime {}). Fix: give its runtime \
             handler the hook with pullgate enable --start",
            short(container),
            word(image),
            word(runtime)
        );
        let mut record = Self::new(Kind::StartGateBypassed, message);
        record.set(Field::Gate, "watch");
        record.set(Field::Container, container);
        record.set(Field::Image, image);
        record.set(Field::Namespace, namespace);
        record
    }

    /// The records `removed` of an image, which `decision` refuses, are about to be removed.
    pub fn image_quarantined(id: &Id, removed: &[String], decision: &Decision, facts: &Facts<'_>) -> Self {
        let message = format!("{} is removed from this node: {}", subject_of(decision, facts), said(id, decision));
        let mut record = Self::about(Kind::ImageQuarantined, message, decision, facts);
        record.set_all(Field::Removed, removed.iter());
        record
    }

    /// The policy `revision` refuses more images than may be removed within an hour: `removed` were, of `images`.
    pub fn quarantine_exhausted(revision: &str, removed: usize, images: usize) -> Self {
        let message = format!(
            "policy {}: quarantine removed {removed} of {images} images within an hour and stops there; others that it \
             refuses stay. Fix: look whether the policy is right",
            sanitize(revision, limits::AUDIT_WORD_CHARS)
        );
        let mut record = Self::new(Kind::QuarantineExhausted, message);
        record.set(Field::Gate, "watch");
        record.set(Field::Revision, revision);
        record
    }
}

fn said(id: &Id, decision: &Decision) -> String {
    match decision.verdict {
        // Nobody asks about what is admitted.
        Verdict::Allow => Verdict::Allow.word().to_owned(),
        _ => decision.message(Some(&id.to_string())),
    }
}

fn short(container: &str) -> String {
    sanitize(container, SHOWN)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        config::NodeMode,
        image::Digest,
        policy::decision::{Code, Violation},
    };

    fn facts() -> Facts<'static> {
        Facts {
            gate: "watch",
            mode: NodeMode::Enforce,
            enforced: true,
            image: Some("reg.io/app:1\u{202e}"),
            digest: None,
            layer: None,
            namespace: Some("k8s.io"),
            container: None,
            pod: None,
            duration: Duration::ZERO,
        }
    }

    fn refused() -> Decision {
        let violation = Violation { code: Code::Unsigned, found: "no signature".to_owned(), fix: "sign it".to_owned() };
        Decision { digest: Some(Digest::of(b"m")), revision: "r1".to_owned(), ..Decision::refused(violation) }
    }

    fn only(record: &Record, field: Field) -> String {
        let values: Vec<&str> = record.values(field).collect();
        assert_eq!(values.len(), 1, "{field:?}: {values:?}");
        values[0].to_owned()
    }

    #[test]
    fn what_is_on_the_node_is_told_with_why_and_whose_it_is() {
        let (id, container) = (Id::new(42), "0123456789abcdef");
        let digest = Digest::of(b"m");
        let image = Record::image_not_admitted(&id, &refused(), &facts());
        let message = only(&image, Field::Message);
        assert!(
            message.starts_with(&format!("reg.io/app:1?@{digest} is on this node: DENY PG101: no signature.")),
            "{message}"
        );
        assert!(message.ends_with("On node: pullgate why 1A"), "{message}");
        assert_eq!((only(&image, Field::Verdict), only(&image, Field::Gate)), ("deny".to_owned(), "watch".to_owned()));
        for (beside_start_gate, how) in [(false, "runs"), (true, "started without the start gate (by no pod), runs")] {
            let container = Container { id: container, beside_start_gate };
            let record = Record::container_not_admitted(&id, container, &refused(), &facts());
            let message = only(&record, Field::Message);
            assert!(message.starts_with(&format!("container 0123456789a… {how} reg.io/app:1?@")), "{message}");
            assert_eq!(only(&record, Field::Container), container.id);
        }
        let removed = ["reg.io/app:1".to_owned(), digest.to_string()];
        let record = Record::image_quarantined(&id, &removed, &refused(), &facts());
        assert_eq!(record.values(Field::Removed).collect::<Vec<_>>(), removed);
        assert_eq!(only(&record, Field::Priority), "4");
    }

    #[test]
    fn what_nobody_may_overlook_is_an_alert() {
        let bypass = Record::start_gate_bypassed("0123456789abcdef", "x\ny", "k8s.io", "io.containerd.kata.v2");
        let exhausted = Record::quarantine_exhausted("r1", 3, 30);
        for record in [&bypass, &exhausted] {
            assert_eq!(only(record, Field::Priority), "1");
            assert_eq!(record.values(Field::Verdict).count(), 0);
            assert!(!only(record, Field::Message).contains('\n'));
        }
    }
}
