//! Which images a container is made of, and what the policy says of them. Image records may be gone, or lead elsewhere by
//! now: the CRI plugin notes the configuration that it took, and every other client leaves the snapshot that it stands on.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use jiff::Timestamp;

use super::{Walk, digests, judge, unknown};
use crate::{
    containerd::{
        containers::{Container, Cri, CriSandbox, Hook},
        snapshots::Base,
    },
    decisions::Asking,
    evidence::content::{Inventory, NamedDocument, OnNode, Trouble},
    gate::{
        pieces::{self, Asked, By, Piece, Under, UnderEach, other_layers, unreadable},
        subjects::all_under,
        unpack::trouble,
    },
    image::Digest,
    node::base_spec,
    policy::{
        decision::{Decision, Verdict, Violation},
        evaluate::Namespace,
    },
    snapshot::Snapshot,
    verify::token::Bound,
};

/// Who made a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The CRI plugin, for a pod: its runtime handler has the hook of the start gate, or a way around it is open.
    Pod,
    /// The CRI plugin, to hold a pod's namespaces. It runs no hooks for that.
    Sandbox,
    /// Another client, such as docker, nerdctl or ctr. These never ask the start gate.
    Client,
}

/// A container on the node, and what the policy says of its images.
#[derive(Clone, Debug)]
pub struct ContainerStanding {
    /// containerd's namespace.
    pub namespace: String,
    /// Its identifier.
    pub id: String,
    /// The image as its maker named it; empty where it has none.
    pub image: String,
    /// Who made it.
    pub origin: Origin,
    /// Whether the start gate is asked before it starts.
    pub hooked: bool,
    /// Whether the self-test made it, which is nobody's else.
    pub self_test: bool,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// What runs it.
    pub runtime: String,
    /// Its images: the one that it was made from, then those that are mounted into it. Empty before it is judged.
    pub pieces: Vec<PieceStanding>,
}

/// An image of a container, and what the policy says of it.
#[derive(Clone, Debug)]
pub struct PieceStanding {
    /// The image as the container names it; empty where it does not.
    pub image: String,
    /// Everything that can admit it: the manifests that could be it, and the indexes that list them.
    pub documents: BTreeSet<Digest>,
    /// The decision; where several could be it, the one that refuses.
    pub decision: Decision,
    /// Under what it is judged; none for any name of its image, in any namespace.
    pub(in crate::gate) under: Option<Under>,
}

/// By what an image of a container is known, so that each is judged once in a walk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Known {
    by: Identity,
    base: Base,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Identity {
    /// As the CRI plugin noted it, for a Kubernetes namespace.
    Noted(By, Asked, Namespace),
    /// By the image record that another client took, and the snapshotter.
    Record(String, String),
}

/// What is the same for several containers of a walk.
#[derive(Default)]
pub(super) struct Alike {
    pieces: HashMap<Known, PieceStanding>,
    /// By a sandbox: its pod.
    pods: HashMap<String, Result<Option<CriSandbox>, Violation>>,
}

impl ContainerStanding {
    /// Whether a container of a pod started without the start gate, which is to be asked about it.
    pub fn bypasses(&self) -> bool {
        self.origin == Origin::Pod && !self.hooked && !self.self_test
    }

    /// Of its images the one that decides: the first that is refused, else the first that nobody can tell about, else one
    /// of these whose rule only audits, else its own. None before it is judged.
    pub fn decisive(&self) -> Option<&PieceStanding> {
        let first = |verdict, on_paper| {
            let decides = |decision: &Decision| decision.verdict == verdict && decision.audit_only == on_paper;
            self.pieces.iter().find(|piece| decides(&piece.decision))
        };
        let refusals = [
            (Verdict::Deny, false),
            (Verdict::Inconclusive, false),
            (Verdict::Deny, true),
            (Verdict::Inconclusive, true),
        ];
        refusals.into_iter().find_map(|(verdict, on_paper)| first(verdict, on_paper)).or(self.pieces.first())
    }

    /// The decision about it; a denial before it is judged.
    pub fn decision(&self) -> Decision {
        self.decisive().map(|piece| piece.decision.clone()).unwrap_or_default()
    }

    /// Whether any of its images is, or can be, `target`.
    pub fn has(&self, target: &Digest) -> bool {
        self.pieces.iter().any(|piece| piece.documents.contains(target))
    }
}

impl PieceStanding {
    /// `decision` about what is called `image`, which any of `documents` can admit under any of its names.
    pub fn new(image: &str, documents: BTreeSet<Digest>, decision: Decision) -> Self {
        Self { image: image.to_owned(), documents, decision, under: None }
    }

    fn refused(image: &str, violation: Violation) -> Self {
        Self::new(image, BTreeSet::new(), Decision::refused(violation))
    }
}

fn is_ours(hook: &Hook) -> bool {
    hook.path == base_spec::program() && hook.args.get(1).is_some_and(|argument| argument == base_spec::ARGUMENT)
}

impl Walk {
    /// What the record of `container` alone says: its images are not judged yet, which is no allow, but for the self-test's.
    fn standing(&self, namespace: &str, container: &Container) -> ContainerStanding {
        let (origin, config, named) = match &container.cri {
            Ok(Some(Cri::Sandbox(_))) => (Origin::Sandbox, None, None),
            Ok(Some(Cri::Container(cri))) => (Origin::Pod, Some(cri.config), cri.image.clone()),
            Ok(None) => (Origin::Client, None, None),
            // Who writes what cannot be read must not thereby leave the pods.
            Err(_) => (Origin::Pod, None, None),
        };
        let image = named.unwrap_or_else(|| container.image.clone());
        let self_test = config.is_some_and(|config| self.admission.one_time().lists(&config));
        let allow = || {
            let decision = Decision { verdict: Verdict::Allow, self_test, ..Decision::default() };
            PieceStanding::new(&image, BTreeSet::new(), decision)
        };
        ContainerStanding {
            namespace: namespace.to_owned(),
            id: container.id.clone(),
            origin,
            hooked: container.spec.as_ref().is_ok_and(|spec| spec.create_runtime.iter().any(is_ours)),
            self_test,
            created: container.created,
            runtime: container.runtime.clone(),
            pieces: self_test.then(allow).into_iter().collect(),
            image,
        }
    }

    /// Judges `container` of `inventory`'s namespace; what is `alike` was judged before.
    ///
    /// # Errors
    /// When containerd did not answer.
    pub(super) async fn container(
        &self,
        snapshot: &Arc<Snapshot>,
        asking: Asking,
        inventory: &Inventory,
        container: Container,
        alike: &mut Alike,
    ) -> Result<ContainerStanding, Trouble> {
        let standing = self.standing(inventory.namespace(), &container);
        if standing.self_test {
            return Ok(standing);
        }
        let refused = |violation| PieceStanding::refused(&standing.image, violation);
        let images: Vec<(String, String, Identity)> = match &container.cri {
            Ok(Some(Cri::Container(cri))) => {
                let within = self.within(snapshot, inventory.namespace(), &container, &cri.sandbox, alike).await?;
                match within.and_then(|within| Ok((within, Piece::all(&container, cri)?))) {
                    Ok((within, noted)) => noted
                        .into_iter()
                        .map(|Piece { image, by, asked, key }| (image, key, Identity::Noted(by, asked, within.clone())))
                        .collect(),
                    Err(violation) => return Ok(ContainerStanding { pieces: vec![refused(violation)], ..standing }),
                }
            }
            Ok(_) => {
                let record = Identity::Record(container.image.clone(), container.snapshotter.clone());
                vec![(container.image.clone(), container.snapshot_key.clone(), record)]
            }
            Err(why) => {
                let pieces = vec![refused(unreadable(&why.0))];
                return Ok(ContainerStanding { pieces, ..standing });
            }
        };
        let mut pieces = Vec::new();
        for (image, key, by) in images {
            let base = match key.is_empty() {
                true => None,
                false => self.containerd.base(inventory.namespace(), &container.snapshotter, &key).await?,
            };
            let Some(base) = base else {
                let found = "its files are in no snapshot, which alone tells what image they are".to_owned();
                pieces.push(PieceStanding::new(&image, BTreeSet::new(), unknown(found, "start it anew")));
                continue;
            };
            let known = Known { by, base };
            let judged = match alike.pieces.get(&known) {
                Some(judged) => PieceStanding { image, ..judged.clone() },
                None => {
                    let judged = self.piece(snapshot, asking, inventory, image, &known).await?;
                    alike.pieces.insert(known, judged.clone());
                    judged
                }
            };
            pieces.push(judged);
        }
        Ok(ContainerStanding { pieces, ..standing })
    }

    /// What the record of the container `id` says; none when there is no such container.
    ///
    /// # Errors
    /// When containerd did not answer.
    pub async fn record(&self, namespace: &str, id: &str) -> Result<Option<ContainerStanding>, Trouble> {
        let container = self.containerd.container(namespace, id).await?;
        Ok(container.map(|container| self.standing(namespace, &container)))
    }

    /// Judges the container `id`; none when there is no such container.
    ///
    /// # Errors
    /// When containerd did not answer.
    pub async fn container_with(
        &self,
        snapshot: &Arc<Snapshot>,
        asking: Asking,
        inventory: &Inventory,
        id: &str,
    ) -> Result<Option<ContainerStanding>, Trouble> {
        match self.containerd.container(inventory.namespace(), id).await? {
            Some(container) => {
                let mut alike = Alike::default();
                Ok(Some(self.container(snapshot, asking, inventory, container, &mut alike).await?))
            }
            None => Ok(None),
        }
    }

    /// Judges the image of a container that calls it `image`.
    async fn piece(
        &self,
        snapshot: &Arc<Snapshot>,
        asking: Asking,
        inventory: &Inventory,
        image: String,
        known: &Known,
    ) -> Result<PieceStanding, Trouble> {
        let found = match &known.by {
            Identity::Noted(by, ..) => self.noted(inventory, by, &known.base).await,
            Identity::Record(name, snapshotter) => {
                self.recorded(inventory, name, snapshotter, &known.base).await.map(Ok)
            }
        };
        let manifests = match found? {
            Ok(manifests) => manifests,
            Err(violation) => return Ok(PieceStanding::refused(&image, violation)),
        };
        let documents: BTreeSet<Digest> = digests(&manifests).collect();
        let Some(target) = documents.first().copied() else {
            let found = format!("{} is not on this node any more", said(&image));
            return Ok(PieceStanding::new(&image, documents, unknown(found, "start it anew")));
        };
        let Identity::Noted(_, asked, within) = &known.by else {
            let on_node = OnNode { records: Vec::new(), target, manifests };
            let decision = judge(&self.admission, snapshot, &on_node, asking).await;
            return Ok(PieceStanding::new(&image, documents, decision));
        };
        let called = match asked.names(documents.iter().flat_map(|document| inventory.names(document))) {
            Ok(called) => called,
            Err(many) => return Ok(PieceStanding::refused(&image, trouble(many))),
        };
        let (mut all, mut refused) = (UnderEach::default(), None);
        for name in &called {
            let subjects = all_under(snapshot, &manifests, name, within);
            refused = all.add(self.admission.decide(snapshot, subjects, asking).await);
            if refused.is_some() {
                break;
            }
        }
        let decision = refused.unwrap_or_else(|| all.end());
        let under = Some(Under { called, within: within.clone() });
        Ok(PieceStanding { image, documents, decision, under })
    }

    /// The Kubernetes namespace whose rules are about `container`, whose pod has this `sandbox`.
    async fn within(
        &self,
        snapshot: &Snapshot,
        namespace: &str,
        container: &Container,
        sandbox: &str,
        alike: &mut Alike,
    ) -> Result<Result<Namespace, Violation>, Trouble> {
        let found = match alike.pods.get(sandbox) {
            Some(found) => found.clone(),
            None => {
                let record = self.containerd.container(namespace, sandbox).await?;
                let found = pieces::sandbox(record);
                alike.pods.insert(sandbox.to_owned(), found.clone());
                found
            }
        };
        let found = match found {
            Ok(found) => found,
            Err(violation) => return Ok(Err(violation)),
        };
        let pod = found.as_ref().map(|pod| Bound { namespace: &pod.namespace, uid: &pod.uid });
        Ok(pieces::within(snapshot, container, pod, self.admission.now()).await)
    }

    /// The manifests that can be an image that the CRI plugin noted; or why its files are not those.
    async fn noted(
        &self,
        inventory: &Inventory,
        by: &By,
        base: &Base,
    ) -> Result<Result<Vec<Vec<NamedDocument>>, Violation>, Trouble> {
        let chain = match base {
            Base::Empty => None,
            Base::Chain(chain) => Some(chain),
            Base::Other(_) => return Ok(Err(other_layers("its files stand on a snapshot that is no image's"))),
        };
        let other_files = || Ok(Err(other_layers("its files are not those of its image")));
        match by {
            By::Config(config) => {
                let manifests = self.content.of_config(inventory, config).await?;
                match self.content.chain_of(inventory.namespace(), config).await {
                    Ok(own) if own.as_ref() == chain => Ok(Ok(manifests)),
                    Ok(_) => other_files(),
                    // That it is gone is said of the image.
                    Err(Trouble::Missing(_)) => Ok(Ok(Vec::new())),
                    Err(Trouble::Unreachable(why)) => Err(Trouble::Unreachable(why)),
                    Err(refused) => Ok(Err(trouble(refused))),
                }
            }
            By::Target(target) => {
                let on_node = self.content.on_node(inventory, *target).await?.manifests;
                let were_there = !on_node.is_empty();
                match self.complete(inventory, on_node, chain).await? {
                    none if none.is_empty() && were_there => other_files(),
                    manifests => Ok(Ok(manifests)),
                }
            }
        }
    }

    /// The manifests that can be the image: the one that its record leads to where that has these layers, else all that
    /// have them.
    async fn recorded(
        &self,
        inventory: &Inventory,
        image: &str,
        snapshotter: &str,
        base: &Base,
    ) -> Result<Vec<Vec<NamedDocument>>, Trouble> {
        let chain = match base {
            // Other layers on top of an image's are no image's.
            Base::Other(_) => return Ok(Vec::new()),
            Base::Empty => None,
            Base::Chain(chain) => Some(chain),
        };
        let named = match inventory.target(image) {
            Some(target) => self.content.on_node(inventory, target).await?.manifests,
            None => Vec::new(),
        };
        // Labels only say what was unpacked: another image of the same layers needs no unpacking, and has none.
        let mut stands_on = self.complete(inventory, named, chain).await?;
        // Without its record it could be any image of these layers. Who runs it chose the command as well, so all that an
        // image can vouch for are the layers.
        if stands_on.is_empty() {
            let chain = chain.map(ToString::to_string).unwrap_or_default();
            for config in inventory.configs_of(snapshotter, &chain) {
                stands_on.extend(self.content.of_config(inventory, config).await?);
            }
        }
        Ok(stands_on)
    }

    /// Those of `manifests` whose layers, all of them, complete `chain`.
    async fn complete(
        &self,
        inventory: &Inventory,
        manifests: Vec<Vec<NamedDocument>>,
        chain: Option<&Digest>,
    ) -> Result<Vec<Vec<NamedDocument>>, Trouble> {
        let mut complete = Vec::new();
        for documents in manifests {
            if let Some(manifest) = documents.first().map(|manifest| manifest.digest)
                && self.content.completes(inventory.namespace(), &manifest, chain).await?
            {
                complete.push(documents);
            }
        }
        Ok(complete)
    }
}

fn said(image: &str) -> String {
    match image {
        "" => "what it was made from".to_owned(),
        name => crate::image::sanitize(name, crate::limits::AUDIT_WORD_CHARS),
    }
}
