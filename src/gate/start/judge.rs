//! What a container is made of, and what the policy says of it.

use std::sync::Arc;

use super::{Start, State};
use crate::{
    break_glass,
    containerd::{
        containers::{Container, Cri, CriContainer, CriSandbox},
        snapshots::Base,
    },
    decisions::Asking,
    evidence::content::{Manifests, Trouble},
    gate::{
        pieces::{self, Asked, By, NAME, Piece, UnderEach, described, other_layers, unreadable, within},
        subjects::{Called, all_under},
        unpack::trouble,
    },
    image::sanitize,
    limits,
    policy::{
        decision::{Code, Decision, Verdict, Violation},
        evaluate::{Namespace, Subject},
    },
    selftest::Gate,
    snapshot::Snapshot,
    verify::token::Bound,
};

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
    /// Whether its label breaks the glass, where that counts.
    pub(super) breaks_glass: bool,
    pub(super) uid: String,
}

/// Where a container is to run, and by what it is judged.
struct Place<'a> {
    snapshot: &'a Arc<Snapshot>,
    /// containerd's namespace.
    namespace: &'a str,
    snapshotter: &'a str,
    /// The namespace of its pod.
    within: Namespace,
    /// Its pod, where that breaks the glass.
    glass: Option<&'a Pod>,
}

/// What is decided about an image.
struct Looked {
    decision: Decision,
    /// What is to be verified behind the answer, where nothing on this node decides.
    open: Option<Vec<Subject>>,
}

impl From<Decision> for Looked {
    fn from(decision: Decision) -> Self {
        Self { decision, open: None }
    }
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
        let within = match &pod {
            Ok(pod) => {
                let bound = pod.as_deref().map(|pod| Bound { namespace: &pod.namespace, uid: &pod.uid });
                within(&snapshot, &container, bound, self.admission.now()).await
            }
            Err(violation) => Err(violation.clone()),
        };
        let (within, pieces) = match within.and_then(|within| Ok((within, pieces?))) {
            Ok(both) => both,
            Err(violation) => {
                return (pod.ok().flatten(), vec![Judged { image: said(&container), ..Judged::refused(violation) }]);
            }
        };
        let may_break = |pod: &&Pod| pod.breaks_glass && snapshot.config.break_glass.pods_of.contains(&pod.namespace);
        let glass = pod.as_ref().ok().and_then(Option::as_deref).filter(may_break);
        let place = Place { snapshot: &snapshot, namespace, snapshotter: &container.snapshotter, within, glass };
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
        let found = self.containerd.container(namespace, sandbox).await.map_err(|status| trouble(status.into()))?;
        let Some(sandbox) = pieces::sandbox(found)? else { return Ok(None) };
        let CriSandbox { namespace, name, uid, breaks_glass, .. } = sandbox;
        let pod = Arc::new(Pod { namespace, name, uid, breaks_glass });
        self.pods.insert(key, pod.clone());
        Ok(Some(pod))
    }

    /// The images of `container`: its own first.
    async fn pieces(&self, namespace: &str, container: &Container) -> Result<Vec<Piece>> {
        match &container.cri {
            Ok(Some(Cri::Container(cri))) => Piece::all(container, cri),
            // A pod's sandbox, or a container of another client: the name is all that says what it was made from.
            Ok(_) => self.by_name(namespace, container).await.map(|piece| vec![piece]),
            Err(why) => Err(unreadable(&why.0)),
        }
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
            Ok(Looked { decision, open: None }) => decision,
            Ok(Looked { decision, open: Some(subjects) }) => {
                self.verify_behind(subjects);
                decision
            }
            Err(violation) => Decision::refused(violation),
        };
        Judged { image, decision }
    }

    async fn look(&self, place: &Place<'_>, piece: &Piece) -> Result<Looked> {
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
                    return Err(piece.has_other_files());
                }
                return self.under_names(place, piece, &manifests).await;
            }
        };
        if self.content.chain_of(namespace, config).await.map_err(trouble)? != base {
            return Err(piece.has_other_files());
        }
        if let Some(decision) = self.admission.one_time().decision(Gate::Start, config) {
            return Ok(decision.into());
        }
        // What was met before and does not lead to an allow may not be all.
        if let Some(manifests) = self.content.remembered(namespace, config) {
            let looked = self.under_names(place, piece, &manifests).await?;
            if looked.decision.verdict == Verdict::Allow {
                return Ok(looked);
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
    /// one, else the first on paper.
    async fn under_names(&self, place: &Place<'_>, piece: &Piece, manifests: &Manifests) -> Result<Looked> {
        let records = match &piece.asked {
            Asked::By(_) => Vec::new(),
            Asked::ByAnyName => self.records(place.namespace, manifests).await.map_err(trouble)?,
        };
        let names = piece.asked.names(records.iter().map(String::as_str)).map_err(trouble)?;
        let (mut all, mut open) = (UnderEach::default(), None);
        for called in names {
            let looked = self.under_name(place, manifests, &called).await;
            open = open.or(looked.open.clone());
            let mut decision = looked.decision;
            // Only over what the policy says: a container that is not of its image never comes here.
            if let Some(pod) = place.glass.filter(|_| decision.verdict != Verdict::Allow && !decision.audit_only) {
                decision = break_glass::admit_by_label(&pod.namespace, &pod.name, decision);
            }
            if let Some(refused) = all.add(decision) {
                return Ok(Looked { decision: refused, open: looked.open });
            }
        }
        Ok(Looked { decision: all.end(), open })
    }

    async fn under_name(&self, place: &Place<'_>, manifests: &Manifests, called: &Called) -> Looked {
        let Place { snapshot, namespace, within, .. } = place;
        let subjects = all_under(snapshot, manifests, called, within);
        let decision = self.admission.decide(snapshot, subjects.clone(), Asking::Offline).await;
        let not_asked = decision.violations.iter().any(|violation| violation.code == Code::RegistryUnreachable);
        match decision.verdict {
            Verdict::Allow => {
                let is_decided =
                    |document: &crate::evidence::content::NamedDocument| Some(document.digest) == decision.digest;
                if let Some(documents) = manifests.iter().find(|documents| documents.iter().any(is_decided))
                    && let Some(digest) = &decision.digest
                {
                    self.content.keep(namespace, documents, digest).await;
                }
                decision.into()
            }
            // Whoever asks nobody else learns from a registry only that it was not asked.
            Verdict::Inconclusive if not_asked => Looked { decision: not_verified_yet(decision), open: Some(subjects) },
            _ => decision.into(),
        }
    }

    /// The names of the image records that lead to any of `manifests`.
    async fn records(&self, namespace: &str, manifests: &Manifests) -> std::result::Result<Vec<String>, Trouble> {
        let mut names = Vec::new();
        for document in manifests.iter().flatten() {
            let records = self.containerd.images(namespace, &document.digest).await?;
            names.extend(records.into_iter().map(|record| record.name));
        }
        Ok(names)
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
