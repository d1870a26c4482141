//! What a container is made of, and what the policy says of it.

use std::{path::Path, sync::Arc};

use super::{Start, State};
use crate::{
    containerd::{
        containers::{Container, Cri, CriContainer, ImageVolume},
        snapshots::Base,
    },
    decisions::Asking,
    evidence::content::{Manifests, Trouble},
    gate::{
        subjects::{Called, under},
        unpack::trouble,
    },
    image::{Digest, sanitize},
    limits,
    policy::{
        decision::{Code, Decision, Verdict, Violation},
        evaluate::{Namespace, Subject, Tag},
    },
    selftest::Gate,
    snapshot::Snapshot,
};

/// Characters of a name in a message.
const NAME: usize = 80;

/// A decision about one image of a container.
#[derive(Debug)]
pub(super) struct Judged {
    /// The image as the container names it.
    pub(super) image: Option<String>,
    pub(super) decision: Decision,
}

impl Judged {
    pub(super) fn refused(violation: Violation) -> Self {
        Self { image: None, decision: Decision::refused(violation) }
    }
}

/// The pod of a container, as the record of its sandbox says.
#[derive(Debug)]
pub(super) struct Pod {
    pub(super) namespace: String,
    pub(super) name: String,
}

/// An image of a container: the one it is made from, or one that is mounted into it.
struct Piece {
    /// As the container names it.
    image: String,
    /// By what its manifest is found.
    by: By,
    asked: Asked,
    /// The snapshot that its files are.
    key: String,
}

enum By {
    /// The image configuration.
    Config(Digest),
    /// The manifest or index that was taken.
    Target(Digest),
}

enum Asked {
    /// By this name, which selects the rule.
    By(Called),
    /// By a digest: every name that leads to it has to admit it.
    ByAnyName,
}

/// Where a container is to run, and by what it is judged.
struct Place<'a> {
    snapshot: &'a Arc<Snapshot>,
    /// containerd's namespace.
    namespace: &'a str,
    snapshotter: &'a str,
    /// The namespace of its pod.
    within: Namespace,
}

type Result<T> = std::result::Result<T, Violation>;

impl Start {
    /// Judges every image of the container: its own first.
    pub(super) async fn judge(
        self: Arc<Self>,
        snapshot: Arc<Snapshot>,
        state: Arc<State>,
    ) -> (Option<Arc<Pod>>, Vec<Judged>) {
        let State { namespace, id } = &*state;
        let container = match self.containerd.container(namespace, id).await {
            Ok(Some(container)) => container,
            Ok(None) => return (None, vec![Judged::refused(no_such_container(namespace))]),
            Err(status) => return (None, vec![Judged::refused(trouble(status.into()))]),
        };
        let (pod, pieces) = tokio::join!(self.pod(namespace, &container), self.pieces(namespace, &container));
        let within = pod.as_ref().map_err(Clone::clone).and_then(|pod| within(&snapshot, &container, pod.as_deref()));
        let (within, pieces) = match within.and_then(|within| Ok((within, pieces?))) {
            Ok(both) => both,
            Err(violation) => {
                return (pod.ok().flatten(), vec![Judged { image: said(&container), ..Judged::refused(violation) }]);
            }
        };
        let place = Place { snapshot: &snapshot, namespace, snapshotter: &container.snapshotter, within };
        let mut judged = Vec::new();
        for piece in pieces {
            judged.push(self.decide(&place, piece).await);
        }
        (pod.ok().flatten(), judged)
    }

    /// The pod of `container`: never by what its annotations say.
    async fn pod(&self, namespace: &str, container: &Container) -> Result<Option<Arc<Pod>>> {
        let Ok(Some(Cri::Container(CriContainer { sandbox, .. }))) = &container.cri else { return Ok(None) };
        let key = (namespace.to_owned(), sandbox.clone());
        if let Some(pod) = self.pods.get(&key) {
            return Ok(Some(pod));
        }
        match self.containerd.container(namespace, sandbox).await.map(|found| found.map(|sandbox| sandbox.cri)) {
            Ok(Some(Ok(Some(Cri::Sandbox(sandbox))))) => {
                let pod = Arc::new(Pod { namespace: sandbox.namespace, name: sandbox.name });
                self.pods.insert(key, pod.clone());
                Ok(Some(pod))
            }
            // Other sandboxers than containerd's own make no container for it.
            Ok(None) => Ok(None),
            Ok(Some(Err(why))) => Err(unreadable(&why.0)),
            Ok(Some(Ok(_))) => Err(unreadable("the sandbox of its pod is none")),
            Err(status) => Err(trouble(status.into())),
        }
    }

    /// The images of `container`: its own first.
    async fn pieces(&self, namespace: &str, container: &Container) -> Result<Vec<Piece>> {
        let cri = match &container.cri {
            Ok(Some(Cri::Container(cri))) => cri,
            // A pod's sandbox, or a container of another client: the name is all that says what it was made from.
            Ok(_) => return self.by_name(namespace, container).await.map(|piece| vec![piece]),
            Err(why) => return Err(unreadable(&why.0)),
        };
        if cri.restored {
            let found = "it continues from a checkpoint, whose memory and files nobody signed".to_owned();
            let fix = "start it from its image".to_owned();
            return Err(Violation { code: Code::RestoredCheckpoint, found, fix });
        }
        let image = cri.image.clone().unwrap_or_else(|| container.image.clone());
        let own = Piece {
            image,
            by: By::Config(cri.config),
            asked: Asked::of(cri.image.as_deref(), &cri.requested),
            key: container.snapshot_key.clone(),
        };
        let volumes = cri.image_volumes.iter().map(|volume| mounted(cri, volume));
        std::iter::once(Ok(own)).chain(volumes).collect()
    }

    /// The image of a container that no CRI plugin made.
    async fn by_name(&self, namespace: &str, container: &Container) -> Result<Piece> {
        let image = container.image.clone();
        let target = match image.is_empty() {
            true => None,
            false => self.containerd.target(namespace, &image).await.map_err(|status| trouble(status.into()))?,
        };
        let Some(target) = target else {
            return Err(no_image(format!("{} is no image on this node", described(&image))));
        };
        let asked = Asked::By(Called::by(&image));
        Ok(Piece { image, by: By::Target(target), asked, key: container.snapshot_key.clone() })
    }

    async fn decide(&self, place: &Place<'_>, piece: Piece) -> Judged {
        let image = Some(shown(&piece.image));
        let decision = match self.look(place, &piece).await {
            Ok(decision) => decision,
            Err(violation) => Decision::refused(violation),
        };
        Judged { image, decision }
    }

    async fn look(&self, place: &Place<'_>, piece: &Piece) -> Result<Decision> {
        let &Place { namespace, snapshotter, .. } = place;
        let base = self.containerd.base(namespace, snapshotter, &piece.key).await;
        let base = match base.map_err(|status| trouble(status.into()))? {
            Some(Base::Empty) => None,
            Some(Base::Chain(chain)) => Some(chain),
            Some(Base::Other(_)) => return Err(other_layers("its files stand on a snapshot that is no image's")),
            None => return Err(other_layers("its files are in no snapshot")),
        };
        let config = match &piece.by {
            By::Config(config) => config,
            By::Target(target) => {
                let manifests = self.content.with_layers(namespace, target, base.as_ref()).await.map_err(trouble)?;
                if manifests.is_empty() {
                    return Err(other_layers(&format!("its files are not those of {}", described(&piece.image))));
                }
                return self.under_names(place, piece, &manifests).await;
            }
        };
        if self.content.chain_of(namespace, config).await.map_err(trouble)? != base {
            return Err(other_layers(&format!("its files are not those of {}", described(&piece.image))));
        }
        if let Some(decision) = self.admission.one_time().decision(Gate::Start, config) {
            return Ok(decision);
        }
        // What was met before and does not lead to an allow may not be all.
        if let Some(manifests) = self.content.remembered(namespace, config) {
            let decision = self.under_names(place, piece, &manifests).await?;
            if decision.verdict == Verdict::Allow {
                return Ok(decision);
            }
        }
        let manifests = self.content.with_config(namespace, config).await.map_err(trouble)?;
        if manifests.is_empty() {
            return Err(no_image(format!(
                "no manifest on this node has the configuration of {}",
                described(&piece.image)
            )));
        }
        self.under_names(place, piece, &manifests).await
    }

    /// The decision about an image that any of `manifests` is, under each of its names; the first refusal where there is
    /// one.
    async fn under_names(&self, place: &Place<'_>, piece: &Piece, manifests: &Manifests) -> Result<Decision> {
        let names = match &piece.asked {
            Asked::By(name) => vec![name.clone()],
            Asked::ByAnyName => self.names(place.namespace, manifests).await.map_err(trouble)?,
        };
        let mut admitted = None;
        for name in names {
            let decision = self.under_name(place, manifests, &name).await;
            if decision.verdict != Verdict::Allow {
                return Ok(decision);
            }
            admitted = admitted.or(Some(decision));
        }
        Ok(admitted.unwrap_or_default())
    }

    async fn under_name(&self, place: &Place<'_>, manifests: &Manifests, called: &Called) -> Decision {
        let Place { snapshot, namespace, within, .. } = place;
        let subjects = manifests.iter().flat_map(|documents| under(snapshot, documents, called, within));
        let subjects: Vec<Subject> = subjects.collect();
        let decision = self.admission.decide(snapshot, subjects.clone(), Asking::Offline).await;
        match (decision.verdict, decision.code()) {
            (Verdict::Allow, _) => {
                let is_decided =
                    |document: &crate::evidence::content::NamedDocument| Some(document.digest) == decision.digest;
                if let Some(documents) = manifests.iter().find(|documents| documents.iter().any(is_decided))
                    && let Some(digest) = &decision.digest
                {
                    self.content.keep(namespace, documents, digest).await;
                }
                decision
            }
            // Whoever asks nobody else learns from a registry only that it was not asked.
            (Verdict::Inconclusive, Some(Code::RegistryUnreachable)) => {
                self.verify_behind(subjects);
                not_verified_yet(decision)
            }
            _ => decision,
        }
    }

    /// What the image records call any of `manifests` by; nothing that is known where there is no such record.
    async fn names(&self, namespace: &str, manifests: &Manifests) -> std::result::Result<Vec<Called>, Trouble> {
        let mut names: Vec<Called> = Vec::new();
        for document in manifests.iter().flatten() {
            for record in self.containerd.images(namespace, &document.digest).await? {
                let name = Called::by(&record.name);
                if name.repository.is_some() && record.name.contains('/') && !names.contains(&name) {
                    names.push(name);
                }
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

    /// Asks for `subjects` all that may be asked, for the next try.
    fn verify_behind(&self, subjects: Vec<Subject>) {
        let what = subjects.iter().map(|subject| format!("{} {:?};", subject.digest, subject.name)).collect();
        let (admission, activation) = (self.admission.clone(), self.activation.clone());
        self.behind.start(what, async move {
            let snapshot = activation.current().await;
            let name = subjects.iter().find_map(|subject| Some(subject.name.as_ref()?.to_string())).unwrap_or_default();
            let decision = admission.decide(&snapshot, subjects, Asking::Usual).await;
            tracing::info!("verified {name} for its next start: {}", decision.message(None));
        });
    }
}

impl Asked {
    /// As its pod called it, which is `written`, or else as it was asked for. An identifier, or its first digits, reads like the
    /// name of one of Docker Hub's repositories, and is none.
    fn of(written: Option<&str>, requested: &str) -> Self {
        let is_identifier =
            |text: &str| text.starts_with("sha256:") || text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match written.filter(|written| !is_identifier(written)) {
            Some(written) => Self::By(Called::by(written)),
            None if is_identifier(requested) => Self::ByAnyName,
            None => Self::By(Called::by(requested)),
        }
    }
}

/// The image that is mounted as `volume`: its snapshot is called as the place where it is mounted, a folder with the digest
/// of the manifest or index in one with the identifier of the sandbox (containerd, `container_image_mount.go`).
fn mounted(cri: &CriContainer, volume: &ImageVolume) -> Result<Piece> {
    let folders: Vec<&str> = volume.host_path.split('/').collect();
    let place = folders.iter().position(|folder| *folder == cri.sandbox).and_then(|at| {
        let digest = format!("sha256:{}", folders.get(at + 1)?).parse().ok()?;
        Some((folders.get(..at + 2)?.join("/"), digest))
    });
    let (key, target) = place
        .filter(|(key, _)| Path::new(key).is_absolute())
        .ok_or_else(|| unreadable("an image is mounted from a place that tells neither its digest nor its snapshot"))?;
    let image = volume.image.clone().unwrap_or_else(|| volume.requested.clone());
    let asked = Asked::of(volume.image.as_deref(), &volume.requested);
    Ok(Piece { image, by: By::Target(target), asked, key })
}

/// The Kubernetes namespace whose rules are about `container`. What belongs to a pod that is not known is refused where
/// that could make a difference.
fn within(snapshot: &Snapshot, container: &Container, pod: Option<&Pod>) -> Result<Namespace> {
    let is_of_pod = matches!(container.cri, Ok(Some(Cri::Container(_))));
    match pod {
        Some(pod) => Ok(Namespace::Is(pod.namespace.clone())),
        None if is_of_pod && snapshot.policy.as_ref().is_some_and(|policy| policy.asks_for_namespaces()) => {
            Err(unreadable("there is no sandbox of its pod, and the policy asks for its namespace"))
        }
        None => Ok(Namespace::Outside),
    }
}

fn said(container: &Container) -> Option<String> {
    let written = match &container.cri {
        Ok(Some(Cri::Container(cri))) => cri.image.as_ref(),
        _ => None,
    };
    Some(written.unwrap_or(&container.image)).filter(|image| !image.is_empty()).map(|image| shown(image))
}

fn shown(image: &str) -> String {
    sanitize(image, limits::REFERENCE_CHARS)
}

fn described(image: &str) -> String {
    match image {
        "" => "an image without a name".to_owned(),
        image => sanitize(image, NAME),
    }
}

/// Of `decision`, which asked nobody but this node, what a person can do.
fn not_verified_yet(mut decision: Decision) -> Decision {
    let name = decision.name.clone().unwrap_or_default();
    let found = format!("nothing on this node decides about {} yet; it is being verified now", sanitize(&name, NAME));
    let first = Violation { code: Code::NotVerifiedYet, found, fix: "start it again".to_owned() };
    decision.violations.insert(0, first);
    decision
}

fn no_such_container(namespace: &str) -> Violation {
    Violation {
        code: Code::NoSuchContainer,
        found: format!("containerd has no record of it in namespace {}", sanitize(namespace, NAME)),
        fix: "compare `address` in config.toml with the containerd that starts it".to_owned(),
    }
}

fn no_image(found: String) -> Violation {
    Violation { code: Code::NoImageForContainer, found, fix: "pull the image again".to_owned() }
}

fn other_layers(found: &str) -> Violation {
    let fix = "remove the container, and make it anew".to_owned();
    Violation { code: Code::OtherLayers, found: found.to_owned(), fix }
}

fn unreadable(why: &str) -> Violation {
    let found = format!("containerd's record of it cannot be read: {}", sanitize(why, NAME));
    Violation { code: Code::UnreadableRecord, found, fix: "update pullgate".to_owned() }
}
