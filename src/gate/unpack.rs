//! The unpack gate: containerd is about to apply a layer.
//!
//! A request says which layer and which mounts, and nothing else that can be believed. The mounts lead to the snapshot
//! that is being filled, the snapshot's key to the chain id it becomes, and only an admitted image that has this layer
//! exactly there lets it pass.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use containerd_client::services::v1::ApplyRequest;
use moka::sync::Cache;
use tokio::time::timeout;
use tonic::Status;

use super::{
    answer::{About, Answers, Counts, Refusal, refused},
    extracts::Extracts,
    subjects::subjects,
};
use crate::{
    activation::Activation,
    admission::Admission,
    audit::Journal,
    config::NodeMode,
    containerd::{Containerd, Told},
    decisions::Asking,
    evidence::content::{ContentStore, ImageOfLayer, Trouble},
    image::{Descriptor, Digest},
    limits,
    policy::decision::{Code, Decision, Verdict, Violation},
    selftest,
    snapshot::Snapshot,
};

/// The unpack gate.
pub struct Unpack {
    containerd: Arc<Containerd>,
    content: Arc<ContentStore>,
    admission: Arc<Admission>,
    activation: Arc<Activation>,
    /// Each with what comes of it.
    passes: Cache<Pass, Passing>,
    extracts: Extracts,
    answers: Answers,
    layers: AtomicU64,
}

/// A layer of an image that was decided about, at its place: it passes once without another decision or entry, so that
/// each unpacking of an image has one entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Pass {
    generation: u64,
    namespace: String,
    layer: Digest,
    media_type: String,
    size: u64,
    chain: Digest,
}

/// What belongs to a layer that passes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Passing {
    /// The layer that comes after it.
    next: Option<Digest>,
    /// The pass of break-glass that its image was admitted by.
    glass: Option<String>,
}

/// Where a layer is about to go.
struct Target {
    namespace: String,
    chain: Digest,
}

/// What the gate knows once it has looked.
#[allow(clippy::large_enum_variant, reason = "one for each request, and short-lived")]
enum Judgement {
    /// A decision that was made and recorded covers this layer; the digest is that of the next one.
    Covered(Target, Option<Digest>),
    /// A decision was made.
    Decided(Judged),
}

/// A decision with what it covers.
struct Judged {
    decision: Decision,
    namespace: Option<String>,
    /// Every layer of the image, with the chain id that it completes.
    layers: Vec<(Descriptor, Digest)>,
    chain: Option<Digest>,
}

impl Judged {
    fn refused(violation: Violation, target: Option<Target>) -> Self {
        let (namespace, chain) = target.map(|target| (target.namespace, target.chain)).unzip();
        Self { decision: Decision::refused(violation), namespace, layers: Vec::new(), chain }
    }
}

impl Unpack {
    /// The gate in front of `containerd`.
    pub fn new(
        containerd: Arc<Containerd>,
        content: Arc<ContentStore>,
        admission: Arc<Admission>,
        activation: Arc<Activation>,
        journal: Arc<Journal>,
    ) -> Self {
        let passes = passes(limits::PASS_LIFE);
        let answers = Answers::new("unpack", journal);
        let (extracts, layers) = (Extracts::default(), AtomicU64::new(0));
        Self { containerd, content, admission, activation, passes, extracts, answers, layers }
    }

    /// containerd, which the delegated calls go to.
    pub fn containerd(&self) -> &Containerd {
        &self.containerd
    }

    /// Hears what containerd tells, so that layers are found sooner.
    pub fn hear(&self, told: &Told) {
        self.extracts.hear(told);
    }

    /// Waits until there is something to decide by.
    pub(super) async fn ready(&self) {
        self.activation.current().await;
    }

    /// Decisions that still hold.
    pub fn remembered(&self) -> u64 {
        self.admission.remembered()
    }

    /// Images that could not be judged of late because their registry wants credentials.
    pub fn unauthorized(&self) -> usize {
        self.admission.unauthorized()
    }

    /// What was answered since the start.
    pub fn counts(&self) -> &Counts {
        &self.answers.counts
    }

    /// Layers that passed since the start, each time they did.
    pub fn layers(&self) -> u64 {
        self.layers.load(Ordering::Relaxed)
    }

    /// Whether the layer may be applied: the namespace it goes to, or the refusal as containerd's client will see it.
    ///
    /// # Errors
    /// `PermissionDenied` refuses, `Unavailable` could not tell. Never `Unimplemented`, which would admit.
    pub async fn answer(self: &Arc<Self>, apply: &ApplyRequest, namespace: Option<&str>) -> Result<String, Status> {
        let snapshot = self.activation.current().await;
        let question = self.clone().judge_and_record(snapshot.clone(), apply.clone(), namespace.map(str::to_owned));
        let meanwhile = match namespace {
            Some(namespace) => namespace.to_owned(),
            None => self.namespace_of(&snapshot, apply).await,
        };
        Answers::in_mode(snapshot.config.mode, meanwhile, question).await.map_err(|refusal| status(&refusal))
    }

    /// Where a layer goes that nobody names a namespace for, as far as it matters: where nothing is refused, containerd may
    /// have to apply it before it is decided about.
    async fn namespace_of(&self, snapshot: &Snapshot, apply: &ApplyRequest) -> String {
        let target = match snapshot.config.mode {
            NodeMode::Enforce => None,
            NodeMode::Audit => timeout(limits::AUDIT_MODE_WAIT, self.target(apply, None)).await.ok(),
        };
        let target = target.and_then(Result::ok).flatten();
        target.map_or_else(|| "default".to_owned(), |target| target.namespace)
    }

    /// Refuses a call that is not a question about an image, whatever the mode.
    pub async fn refuse(&self, violation: Violation) -> Status {
        let snapshot = self.activation.current().await;
        status(&self.answers.refuse(&snapshot, violation, About::nothing(Instant::now())).await)
    }

    async fn judge_and_record(
        self: Arc<Self>,
        snapshot: Arc<Snapshot>,
        apply: ApplyRequest,
        namespace: Option<String>,
    ) -> Result<String, Refusal> {
        let started = Instant::now();
        let layer = match layer_of(&apply) {
            Ok(layer) => layer,
            Err(violation) => {
                let judged = Judged::refused(violation, None);
                return self.conclude(&snapshot, judged, None, namespace, started).await;
            }
        };
        let judging = self.judge(&snapshot, &apply, &layer, namespace.as_deref());
        let mut judged = match timeout(limits::DECISION_DEADLINE, judging).await {
            Ok(Judgement::Decided(judged)) => judged,
            Ok(Judgement::Covered(target, next)) => match self.rehash(&snapshot, &target.namespace, &layer).await {
                Ok(()) => {
                    self.layers.fetch_add(1, Ordering::Relaxed);
                    self.look_ahead(&snapshot, next);
                    return Ok(target.namespace);
                }
                Err(violation) => Judged::refused(violation, Some(target)),
            },
            Err(_) => {
                let found = format!("no decision in {} s", limits::DECISION_DEADLINE.as_secs());
                Judged::refused(Violation { code: Code::DeadlineExceeded, found, fix: String::new() }, None)
            }
        };
        // Layers take as long to hash as they are large: no deadline here.
        if judged.decision.verdict == Verdict::Allow
            && let Some(target) = judged.namespace.clone()
            && let Err(violation) = self.rehash(&snapshot, &target, &layer).await
        {
            judged.decision = Decision { attestors: Vec::new(), ..refused(judged.decision, violation) };
        }
        self.conclude(&snapshot, judged, Some(&layer.digest), namespace, started).await
    }

    /// Finds where the layer goes and which images have it there, and asks for the decision about them.
    async fn judge(
        &self,
        snapshot: &Arc<Snapshot>,
        apply: &ApplyRequest,
        layer: &Descriptor,
        namespace: Option<&str>,
    ) -> Judgement {
        let refuse = |violation, target| Judgement::Decided(Judged::refused(violation, target));
        let target = match self.target(apply, namespace).await {
            Ok(Some(target)) => target,
            Ok(None) => {
                let found = "the mounts are not those of an image that is being unpacked".to_owned();
                let fix = "unpack images through containerd".to_owned();
                return refuse(Violation { code: Code::NoExtractSnapshot, found, fix }, None);
            }
            Err(status) => return refuse(trouble(Trouble::from(status)), None),
        };
        let passing = take(&self.passes, &pass(snapshot, &target.namespace, layer, target.chain));
        // What break-glass admitted ends with it.
        let holds = |passing: &Passing| passing.glass.as_ref().is_none_or(|id| self.admission.passes().admits(id));
        if let Some(Passing { next, .. }) = passing.filter(holds) {
            return Judgement::Covered(target, next);
        }
        let images = match self.content.images_of(&target.namespace, layer, &target.chain).await {
            Ok(images) => images,
            Err(why) => return refuse(trouble(why), Some(target)),
        };
        if images.is_empty() {
            let found = format!("no image has layer sha256:{}… at this place", &layer.digest.hex()[..12]);
            let fix = "bring the image in with its manifest".to_owned();
            return refuse(Violation { code: Code::NoImageForLayer, found, fix }, Some(target));
        }
        let mut documents = images.iter().flat_map(|image| &image.documents);
        let one_time = self.admission.one_time();
        let decision = match documents.find_map(|document| one_time.decision(selftest::Gate::Unpack, &document.digest))
        {
            Some(decision) => decision,
            None => {
                let subjects = images.iter().flat_map(|image| subjects(snapshot, &image.documents)).collect();
                self.admission.decide(snapshot, subjects, Asking::Usual).await
            }
        };
        let is_decided =
            |image: &ImageOfLayer| image.documents.iter().any(|document| Some(document.digest) == decision.digest);
        let decided = images.into_iter().find(is_decided);
        if let (Verdict::Allow, Some(image), Some(admitted)) = (decision.verdict, &decided, &decision.digest) {
            self.content.keep_image(&target.namespace, image, admitted).await;
        }
        let layers = decided.map(|image| image.layers).unwrap_or_default();
        Judgement::Decided(Judged { decision, namespace: Some(target.namespace), layers, chain: Some(target.chain) })
    }

    /// The snapshot whose mounts these are. This also finds the namespace, which not every containerd passes on.
    async fn target(&self, apply: &ApplyRequest, namespace: Option<&str>) -> Result<Option<Target>, Status> {
        if apply.mounts.is_empty() {
            return Ok(None);
        }
        if let Some((namespace, extract)) = self.extracts.find(&self.containerd, namespace, &apply.mounts).await? {
            return Ok(Some(Target { namespace, chain: extract.chain }));
        }
        let namespaces = match namespace {
            Some(namespace) => vec![namespace.to_owned()],
            None => self.containerd.namespaces().await?,
        };
        for snapshotter in &self.containerd.plugins().await?.snapshotters {
            for namespace in &namespaces {
                for extract in self.containerd.extract_snapshots(namespace, snapshotter).await? {
                    let mounts = self.containerd.mounts(namespace, snapshotter, &extract.key).await?;
                    if mounts.is_some_and(|mounts| mounts == apply.mounts) {
                        return Ok(Some(Target { namespace: namespace.clone(), chain: extract.chain }));
                    }
                }
            }
        }
        Ok(None)
    }

    async fn rehash(&self, snapshot: &Snapshot, namespace: &str, layer: &Descriptor) -> Result<(), Violation> {
        match snapshot.config.insecure_skip_layer_rehash {
            true => Ok(()),
            false => self.content.rehash(namespace, &layer.digest).await.map_err(trouble),
        }
    }

    /// Hashes the next layer while containerd applies this one: it has come already, or it is hashed when its turn comes.
    fn look_ahead(&self, snapshot: &Snapshot, next: Option<Digest>) {
        if let Some(next) = next.filter(|_| !snapshot.config.insecure_skip_layer_rehash) {
            let content = self.content.clone();
            tokio::spawn(async move { content.rehash_ahead(&next).await });
        }
    }

    async fn conclude(
        &self,
        snapshot: &Snapshot,
        judged: Judged,
        layer: Option<&Digest>,
        namespace: Option<String>,
        started: Instant,
    ) -> Result<String, Refusal> {
        let about = About { layer, namespace: judged.namespace.as_deref(), ..About::nothing(started) };
        let glass = judged.decision.glass.as_ref().and_then(|glass| glass.pass.clone());
        self.answers.conclude(snapshot, judged.decision, about).await?;
        let namespace = judged.namespace.or(namespace).unwrap_or_else(|| "default".to_owned());
        for (at, (layer, chain)) in judged.layers.iter().enumerate() {
            let next = judged.layers.get(at + 1).map(|(next, _)| next.digest);
            match judged.chain == Some(*chain) {
                true => self.look_ahead(snapshot, next),
                false => {
                    let passing = Passing { next, glass: glass.clone() };
                    self.passes.insert(pass(snapshot, &namespace, layer, *chain), passing);
                }
            }
        }
        self.layers.fetch_add(1, Ordering::Relaxed);
        Ok(namespace)
    }
}

fn passes(life: Duration) -> Cache<Pass, Passing> {
    Cache::builder().max_capacity(limits::PASSES).time_to_live(life).build()
}

/// What belongs to `pass`: once, and not when its life is over, which removing alone would not look at.
fn take(passes: &Cache<Pass, Passing>, pass: &Pass) -> Option<Passing> {
    passes.contains_key(pass).then(|| passes.remove(pass)).flatten()
}

fn pass(snapshot: &Snapshot, namespace: &str, layer: &Descriptor, chain: Digest) -> Pass {
    Pass {
        generation: snapshot.generation,
        namespace: namespace.to_owned(),
        layer: layer.digest,
        media_type: layer.media_type.clone(),
        size: layer.size,
        chain,
    }
}

fn status(refusal: &Refusal) -> Status {
    match refusal.is_inconclusive() {
        true => Status::unavailable(refusal.message()),
        false => Status::permission_denied(refusal.message()),
    }
}

fn layer_of(apply: &ApplyRequest) -> Result<Descriptor, Violation> {
    let malformed = |found: &str| Violation {
        code: Code::MalformedImage,
        found: found.to_owned(),
        fix: "push the image with sha256 digests".to_owned(),
    };
    let diff = apply.diff.as_ref().ok_or_else(|| malformed("the request names no layer"))?;
    let digest = diff.digest.parse().map_err(|_| malformed("the layer's digest is not a sha256 digest"))?;
    let size = u64::try_from(diff.size).map_err(|_| malformed("the layer's size is negative"))?;
    Ok(Descriptor { media_type: diff.media_type.clone(), digest, size, annotations: Default::default() })
}

pub(super) fn trouble(trouble: Trouble) -> Violation {
    let (code, fix) = match &trouble {
        Trouble::Unreachable(_) | Trouble::Missing(_) => (Code::ContainerdUnreachable, ""),
        Trouble::WrongBytes(_) => (Code::WrongBytes, "remove the image and its content, and look at the disk"),
        Trouble::Malformed(..) => (Code::MalformedImage, "build the image again with a current tool"),
    };
    Violation { code, found: trouble.to_string(), fix: fix.to_owned() }
}

#[cfg(test)]
mod tests;
