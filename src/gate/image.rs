//! An image that is still in its registry, or in a layout: an index or a manifest, of which containerd has nothing yet.

use std::sync::Arc;

use crate::{
    admission::Admission,
    decisions::Asking,
    evidence::{Place, layout::OciLayout},
    image::{Digest, Document, NodePlatform, media_type},
    limits,
    policy::{
        decision::{Code, Decision, Verdict, Violation},
        evaluate::{Subject, Tag, gap_violation},
    },
    snapshot::Snapshot,
};

/// Where an image is.
#[derive(Debug)]
pub enum Home {
    /// In a repository.
    Registry(Place),
    /// In an OCI layout on this node's disk.
    Layout(OciLayout),
}

/// What was decided about an image, and about the children that had to be asked.
#[derive(Debug)]
pub struct InRegistry {
    /// The decision about the image.
    pub decision: Decision,
    /// Where an index is not admitted itself: its children that this node could choose.
    pub children: Vec<(Digest, Decision)>,
}

/// Decides about the index or manifest `digest` at `home`, each document of it under the names that `subjects` says.
///
/// An index that is not admitted itself is admitted if every child is that one of containerd's platform matchers could
/// choose on this node; it is fetched for that. `media_type` is what the descriptor says, where there is one.
pub async fn decide(
    admission: &Arc<Admission>,
    snapshot: &Arc<Snapshot>,
    home: &Home,
    digest: Digest,
    media_type: Option<&str>,
    asking: Asking,
    subjects: impl Fn(Digest) -> Vec<Subject>,
) -> InRegistry {
    let asked = subjects(digest);
    let tag = asked.iter().find_map(|subject| match &subject.tag {
        Tag::Is(tag) => Some(tag.clone()),
        Tag::None | Tag::NotKept => None,
    });
    let decision = admission.decide(snapshot, asked, asking).await;
    let alone = |decision| InRegistry { decision, children: Vec::new() };
    let may_be_index = media_type.is_none_or(media_type::is_index);
    if decision.verdict == Verdict::Allow || !may_be_index || !children_could_differ(admission, snapshot, &decision) {
        return alone(decision);
    }
    let choices = match choices(snapshot, home, &digest, tag.as_deref(), media_type).await {
        Ok(Some(choices)) => choices,
        Ok(None) => return alone(decision),
        // Whose rule it is, and whether that only audits, stays as it is.
        Err(why) => return alone(Decision { verdict: why.code.verdict(), violations: vec![why], ..decision }),
    };
    let mut children = Vec::new();
    for child in choices {
        children.push((child, admission.decide(snapshot, subjects(child), asking).await));
    }
    InRegistry { decision: of_children(decision, &children), children }
}

/// A rule that settles it by the name settles it for the children as well, unless their digests are listed.
fn children_could_differ(admission: &Admission, snapshot: &Snapshot, decision: &Decision) -> bool {
    let by_name = matches!(
        decision.code(),
        Some(Code::NoMatchingRule | Code::DeniedByRule | Code::NameNotProven | Code::TagNotAdmitted)
    );
    let exempt = snapshot.policy.iter().flat_map(|policy| &policy.exempt);
    let listed = !snapshot.boot.is_empty() || !admission.passes().is_empty();
    !by_name || listed || exempt.into_iter().any(|exempt| !exempt.digests.is_empty())
}

impl Home {
    /// The document with `digest`, its bytes hashed.
    ///
    /// # Errors
    /// When it is not there, cannot be asked for, or is refused.
    pub async fn document(
        &self,
        snapshot: &Snapshot,
        digest: &Digest,
        tag: Option<&str>,
        media_type: Option<&str>,
    ) -> Result<Document, Violation> {
        let missing = |found: String, fix: &str| Violation { code: Code::NoSuchImage, found, fix: fix.to_owned() };
        let parsed = match self {
            Self::Registry(place) => {
                let found = snapshot.registry.manifest(place, digest, tag).await.map_err(|gap| gap_violation(&gap))?;
                let missing = || missing(format!("{}@{digest} is not in the registry", place.repository), "push it");
                let (bytes, stated) = found.ok_or_else(missing)?;
                Document::parse(&bytes, media_type.unwrap_or(&stated))
            }
            Self::Layout(layout) => {
                let found = layout.document(digest).await.map_err(|gap| gap_violation(&gap))?;
                let missing = || missing(format!("{digest} is not in the layout {}", layout.path().display()), "");
                Document::parse_undescribed(&found.ok_or_else(missing)?)
            }
        };
        parsed.map_err(|why| self.malformed(digest, &why.0))
    }

    fn malformed(&self, digest: &Digest, why: &str) -> Violation {
        let found = match self {
            Self::Registry(place) => format!("{}@{digest}: {why}", place.repository),
            Self::Layout(layout) => format!("{}@{digest}: {why}", layout.path().display()),
        };
        Violation { code: Code::MalformedImage, found, fix: "build the image again with a current tool".to_owned() }
    }
}

/// The children of an index that this node could choose; none where it is a manifest.
async fn choices(
    snapshot: &Snapshot,
    home: &Home,
    digest: &Digest,
    tag: Option<&str>,
    media_type: Option<&str>,
) -> Result<Option<Vec<Digest>>, Violation> {
    let malformed = |why: String| home.malformed(digest, &why);
    let document = home.document(snapshot, digest, tag, media_type).await?;
    let Document::Index(index) = document else { return Ok(None) };
    let mut choices: Vec<Digest> = Vec::new();
    for child in NodePlatform::here().choices(&index) {
        if media_type::is_index(&child.descriptor.media_type) {
            return Err(malformed("an index in an index".to_owned()));
        }
        if !choices.contains(&child.descriptor.digest) {
            choices.push(child.descriptor.digest);
        }
    }
    match choices.len() {
        0..=limits::INDEX_CHOICES => Ok(Some(choices)),
        many => Err(malformed(format!("{many} children for this node, more than {}", limits::INDEX_CHOICES))),
    }
}

/// What the decisions about the children make of the one about their index. A child that is refused only on paper is
/// admitted, and stands in the way of none beside it that is refused.
fn of_children(index: Decision, children: &[(Digest, Decision)]) -> Decision {
    let refused = |verdict| children.iter().find(|(_, child)| child.verdict == verdict && !child.audit_only);
    match (refused(Verdict::Deny), refused(Verdict::Inconclusive)) {
        (Some((digest, child)), _) => {
            let about_child = child.violations.first().map(|violation| Violation {
                found: format!("its child {digest}: {}", violation.found),
                ..violation.clone()
            });
            Decision { violations: index.violations.into_iter().chain(about_child).collect(), ..index }
        }
        (None, Some((_, child))) if index.verdict == Verdict::Deny && !index.audit_only => child.clone(),
        (None, Some(_)) => index,
        (None, None) => {
            let on_paper = children.iter().find(|(_, child)| child.verdict != Verdict::Allow);
            // What the policy alone does not admit is the news.
            let by_glass = children.iter().find(|(_, child)| child.glass.is_some());
            by_glass.or(on_paper).or(children.first()).map_or(index, |(_, child)| child.clone())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(verdict: Verdict, code: Option<Code>) -> Decision {
        let violation = code.map(|code| Violation { code, found: "found".into(), fix: String::new() });
        Decision { verdict, violations: violation.into_iter().collect(), ..Decision::default() }
    }

    #[test]
    fn an_index_is_what_all_its_children_are() {
        let allow = || decision(Verdict::Allow, None);
        let deny = || decision(Verdict::Deny, Some(Code::UntrustedAttestor));
        let retry = || decision(Verdict::Inconclusive, Some(Code::RegistryUnreachable));
        let index = || decision(Verdict::Deny, Some(Code::Unsigned));
        let of = |index, children: Vec<Decision>| {
            let children: Vec<_> = children.into_iter().map(|child| (Digest::of(b"child"), child)).collect();
            of_children(index, &children)
        };
        for (children, verdict, code) in [
            (vec![], Verdict::Deny, Some(Code::Unsigned)),
            (vec![allow()], Verdict::Allow, None),
            (vec![allow(), allow()], Verdict::Allow, None),
            (vec![allow(), deny()], Verdict::Deny, Some(Code::Unsigned)),
            (vec![retry(), deny()], Verdict::Deny, Some(Code::Unsigned)),
            (vec![allow(), retry()], Verdict::Inconclusive, Some(Code::RegistryUnreachable)),
        ] {
            let decided = of(index(), children.clone());
            assert_eq!((decided.verdict, decided.code()), (verdict, code), "{children:?}");
        }
        let glass = || Decision { glass: Some(Default::default()), ..allow() };
        assert!(of(index(), vec![allow(), glass()]).glass.is_some(), "of those that are admitted it is the news");
        assert_eq!(of(index(), vec![glass(), deny()]).verdict, Verdict::Deny);
        assert_eq!(of(retry(), vec![]).verdict, Verdict::Inconclusive);
        assert_eq!(of(retry(), vec![allow()]).verdict, Verdict::Allow);
        assert_eq!(of(retry(), vec![deny()]).verdict, Verdict::Inconclusive);
        let on_paper = |decision: Decision| Decision { audit_only: true, ..decision };
        for (children, verdict, refuses) in [
            (vec![on_paper(deny()), allow()], Verdict::Deny, false),
            (vec![allow(), on_paper(retry())], Verdict::Inconclusive, false),
            (vec![on_paper(retry()), retry()], Verdict::Inconclusive, true),
            (vec![on_paper(retry()), deny()], Verdict::Deny, true),
            (vec![on_paper(deny()), retry()], Verdict::Inconclusive, true),
        ] {
            let decided = of(index(), children.clone());
            assert_eq!((decided.verdict, !decided.audit_only), (verdict, refuses), "{children:?}");
        }
        let codes: Vec<_> = of(index(), vec![deny()]).violations.iter().map(|violation| violation.code).collect();
        assert_eq!(codes, [Code::Unsigned, Code::UntrustedAttestor]);
    }
}
