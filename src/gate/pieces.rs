//! The images that a container of a pod is made of, as the CRI plugin noted them. The start gate and the watch read them
//! alike: what was judged when the container started is what is judged as long as it runs.

use std::path::Path;

use jiff::Timestamp;

use super::{account, subjects::Called};
use crate::{
    containerd::containers::{Container, Cri, CriContainer, CriSandbox, ImageVolume},
    evidence::content::Trouble,
    image::{Digest, sanitize},
    limits,
    policy::{
        decision::{Code, Decision, Verdict, Violation},
        evaluate::{Namespace, Tag},
    },
    snapshot::Snapshot,
    verify::token::Bound,
};

/// Characters of a name in a message.
pub(super) const NAME: usize = 80;

/// An image of a container: the one it is made from, or one that is mounted into it.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    /// As the container names it.
    pub(super) image: String,
    /// By what its manifest is found.
    pub(super) by: By,
    pub(super) asked: Asked,
    /// The snapshot that its files are.
    pub(super) key: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum By {
    /// The image configuration.
    Config(Digest),
    /// The manifest or index that was taken.
    Target(Digest),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Asked {
    /// By this name, which selects the rule.
    By(Called),
    /// By a digest: every name that leads to it has to admit it.
    ByAnyName,
}

/// Under what an image is judged.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Under {
    /// Its names, each of which has to admit it.
    pub(super) called: Vec<Called>,
    /// The Kubernetes namespace that it is for.
    pub(super) within: Namespace,
}

impl Piece {
    /// The images of `container`, of which the CRI plugin noted `cri`: its own first.
    ///
    /// # Errors
    /// When it is more than its images, or when what was noted does not tell them all.
    pub(super) fn all(container: &Container, cri: &CriContainer) -> Result<Vec<Self>, Violation> {
        if cri.restored {
            let found = "it continues from a checkpoint, whose memory and files nobody signed".to_owned();
            let fix = "start it from its image".to_owned();
            return Err(Violation { code: Code::RestoredCheckpoint, found, fix });
        }
        let own = Self {
            image: cri.image.clone().unwrap_or_else(|| container.image.clone()),
            by: By::Config(cri.config),
            asked: Asked::of(cri.image.as_deref(), &cri.requested),
            key: container.snapshot_key.clone(),
        };
        let volumes = cri.image_volumes.iter().map(|volume| Self::mounted(cri, volume));
        std::iter::once(Ok(own)).chain(volumes).collect()
    }

    /// The image that is mounted as `volume`: its snapshot is called as the place where it is mounted, a folder with the
    /// digest of the manifest or index in one with the identifier of the sandbox (containerd, `container_image_mount.go`).
    fn mounted(cri: &CriContainer, volume: &ImageVolume) -> Result<Self, Violation> {
        let folders: Vec<&str> = volume.host_path.split('/').collect();
        let place = folders.iter().position(|folder| *folder == cri.sandbox).and_then(|at| {
            let digest = format!("sha256:{}", folders.get(at + 1)?).parse().ok()?;
            Some((folders.get(..at + 2)?.join("/"), digest))
        });
        let (key, target) = place.filter(|(key, _)| Path::new(key).is_absolute()).ok_or_else(|| {
            unreadable("an image is mounted from a place that tells neither its digest nor its snapshot")
        })?;
        let image = volume.image.clone().unwrap_or_else(|| volume.requested.clone());
        let asked = Asked::of(volume.image.as_deref(), &volume.requested);
        Ok(Self { image, by: By::Target(target), asked, key })
    }

    /// That the files are another image's.
    pub(super) fn has_other_files(&self) -> Violation {
        other_layers(&format!("its files are not those of {}", described(&self.image)))
    }
}

impl Asked {
    /// As its pod called it, which is `written`, or else as it was asked for. An identifier, or its first digits, reads
    /// like the name of one of Docker Hub's repositories, and is none.
    fn of(written: Option<&str>, requested: &str) -> Self {
        let is_identifier =
            |text: &str| text.starts_with("sha256:") || text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match written.filter(|written| !is_identifier(written)) {
            Some(written) => Self::By(Called::by(written)),
            None if is_identifier(requested) => Self::ByAnyName,
            None => Self::By(Called::by(requested)),
        }
    }

    /// The names that have to admit it, where image records of these names lead to it; nothing that is known where there
    /// is no such record.
    ///
    /// # Errors
    /// When they are more than [`limits::NAMES`].
    pub(super) fn names<'a>(&self, records: impl IntoIterator<Item = &'a str>) -> Result<Vec<Called>, Trouble> {
        if let Self::By(name) = self {
            return Ok(vec![name.clone()]);
        }
        let mut names: Vec<Called> = Vec::new();
        for record in records {
            let name = Called::by(record);
            if name.repository.is_some() && record.contains('/') && !names.contains(&name) {
                names.push(name);
            }
        }
        // Whoever fetches by a tag gets a record by the digest beside it.
        let tagged: Vec<_> = names.iter().filter(|name| name.tag != Tag::None).cloned().collect();
        names.retain(|name| name.tag != Tag::None || !tagged.iter().any(|other| other.repository == name.repository));
        match names.len() {
            0 => Ok(vec![Called::default()]),
            1..=limits::NAMES => Ok(names),
            many => Err(Trouble::Unreachable(format!("{many} names lead to its image, more than {}", limits::NAMES))),
        }
    }
}

/// The pod whose sandbox is on record as `found`.
///
/// # Errors
/// When that is no sandbox, or cannot be read. Other sandboxers than containerd's own make no container for it: that is
/// no error.
pub(super) fn sandbox(found: Option<Container>) -> Result<Option<CriSandbox>, Violation> {
    match found.map(|sandbox| sandbox.cri) {
        Some(Ok(Some(Cri::Sandbox(sandbox)))) => Ok(Some(sandbox)),
        None => Ok(None),
        Some(Err(why)) => Err(unreadable(&why.0)),
        Some(Ok(_)) => Err(unreadable("the sandbox of its pod is none")),
    }
}

/// The Kubernetes namespace, and the service account where one is proven at `now`, whose rules are about `container` of
/// `pod`. What belongs to a pod that is not known is refused where that could make a difference.
pub(super) async fn within(
    snapshot: &Snapshot,
    container: &Container,
    pod: Option<Bound<'_>>,
    now: Option<Timestamp>,
) -> Result<Namespace, Violation> {
    let is_of_pod = matches!(container.cri, Ok(Some(Cri::Container(_))));
    match pod {
        Some(pod) => Ok(match account::proven(snapshot, container, pod, now).await {
            Some(account) => Namespace::Of(account),
            None => Namespace::Is(pod.namespace.to_owned()),
        }),
        None if is_of_pod && snapshot.policy.as_ref().is_some_and(|policy| policy.asks_for_namespaces()) => {
            Err(unreadable("there is no sandbox of its pod, and the policy asks for its namespace"))
        }
        None => Ok(Namespace::Outside),
    }
}

/// What is decided about an image under each of its names: the first refusal, else what breaks the glass, since what the
/// policy alone does not admit is the news, else the first refusal on paper, else the first allow.
#[derive(Default)]
pub(super) struct UnderEach {
    by_glass: Option<Decision>,
    admitted: Option<Decision>,
    on_paper: Option<Decision>,
}

impl UnderEach {
    /// Adds the decision under one more name, and gives it back where it settles it.
    pub(super) fn add(&mut self, decision: Decision) -> Option<Decision> {
        match decision.verdict {
            Verdict::Allow if decision.glass.is_some() => self.by_glass = self.by_glass.take().or(Some(decision)),
            Verdict::Allow => self.admitted = self.admitted.take().or(Some(decision)),
            _ if decision.audit_only => self.on_paper = self.on_paper.take().or(Some(decision)),
            _ => return Some(decision),
        }
        None
    }

    /// The decision under all of them; without any, a denial.
    pub(super) fn end(self) -> Decision {
        self.by_glass.or(self.on_paper).or(self.admitted).unwrap_or_default()
    }
}

/// `image` within a sentence.
pub(super) fn described(image: &str) -> String {
    match image {
        "" => "an image without a name".to_owned(),
        image => sanitize(image, NAME),
    }
}

pub(super) fn other_layers(found: &str) -> Violation {
    let fix = "remove the container, and make it anew".to_owned();
    Violation { code: Code::OtherLayers, found: found.to_owned(), fix }
}

pub(super) fn unreadable(why: &str) -> Violation {
    let found = format!("containerd's record of it cannot be read: {}", sanitize(why, NAME));
    Violation { code: Code::UnreadableRecord, found, fix: "update pullgate".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_on_paper_hides_none_and_an_allow_hides_no_refusal() {
        let decision = |verdict, audit_only| Decision { verdict, audit_only, ..Decision::default() };
        let (allow, deny) = (decision(Verdict::Allow, false), decision(Verdict::Deny, false));
        let (retry, paper) = (decision(Verdict::Inconclusive, false), decision(Verdict::Deny, true));
        let of = |decisions: &[&Decision]| {
            let mut all = UnderEach::default();
            let settled = decisions.iter().find_map(|decision| all.add((*decision).clone()));
            settled.unwrap_or_else(|| all.end())
        };
        assert_eq!(of(&[]).verdict, Verdict::Deny);
        assert_eq!(of(&[&allow, &allow]), allow);
        assert_eq!(of(&[&allow, &paper, &allow]), paper);
        assert_eq!(of(&[&paper, &allow, &deny]), deny);
        assert_eq!(of(&[&paper, &retry, &deny]), retry);
    }
}
