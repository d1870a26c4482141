//! Which image a container runs, and what the policy says of that. The image record may be gone, or lead elsewhere by now:
//! the CRI plugin notes the configuration that it took, and every other client leaves the snapshot that it stands on.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use jiff::Timestamp;

use super::{Walk, digests, judge, unknown};
use crate::{
    containerd::{
        containers::{Container, Cri, Hook},
        snapshots::Base,
    },
    decisions::Asking,
    evidence::content::{Inventory, NamedDocument, OnNode, Trouble},
    image::Digest,
    policy::decision::{Decision, Verdict},
    snapshot::Snapshot,
};

/// The program of the start gate's hook, and the argument that selects it, as `enable` writes them.
const HOOK: (&str, &str) = ("/usr/libexec/pullgate/verifiers/pullgate-verifier", "create-runtime");

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

/// A container on the node, and what the policy says of its image.
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
    /// Everything that can admit its image: the manifests that could be it, and the indexes that list them.
    pub documents: BTreeSet<Digest>,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// What runs it.
    pub runtime: String,
    /// The decision about its image; where several could be it, the one that refuses.
    pub decision: Decision,
}

/// By what an image of a container is known, so that each is judged once in a walk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Known {
    Config(Digest),
    Base { image: String, snapshotter: String, base: Option<Base> },
}

pub(super) type Alike = HashMap<Known, (Decision, BTreeSet<Digest>)>;

impl ContainerStanding {
    /// Whether a container of a pod started without the start gate, which is to be asked about it.
    pub fn bypasses(&self) -> bool {
        self.origin == Origin::Pod && !self.hooked && !self.self_test
    }
}

fn is_ours(hook: &Hook) -> bool {
    hook.path == HOOK.0 && hook.args.get(1).is_some_and(|argument| argument == HOOK.1)
}

impl Walk {
    /// What the record of `container` alone says: no decision yet, which is a denial, but for the self-test's.
    fn standing(&self, namespace: &str, container: &Container) -> ContainerStanding {
        let (origin, config, named) = match &container.cri {
            Ok(Some(Cri::Sandbox(_))) => (Origin::Sandbox, None, None),
            Ok(Some(Cri::Container(cri))) => (Origin::Pod, Some(cri.config), cri.image.clone()),
            Ok(None) => (Origin::Client, None, None),
            // Who writes what cannot be read must not thereby leave the pods.
            Err(_) => (Origin::Pod, None, None),
        };
        let self_test = config.is_some_and(|config| self.admission.one_time().lists(&config));
        let verdict = if self_test { Verdict::Allow } else { Verdict::default() };
        ContainerStanding {
            namespace: namespace.to_owned(),
            id: container.id.clone(),
            image: named.unwrap_or_else(|| container.image.clone()),
            origin,
            hooked: container.spec.as_ref().is_ok_and(|spec| spec.create_runtime.iter().any(is_ours)),
            self_test,
            documents: BTreeSet::new(),
            created: container.created,
            runtime: container.runtime.clone(),
            decision: Decision { verdict, self_test, ..Decision::default() },
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
        let known = self.known(inventory.namespace(), &container).await?;
        if let Known::Base { base: None, .. } = known {
            let found = "its files are in no snapshot, which alone tells what image they are".to_owned();
            return Ok(ContainerStanding { decision: unknown(found, "start it anew"), ..standing });
        }
        let (decision, documents) = match alike.get(&known) {
            Some(judged) => judged.clone(),
            None => {
                let manifests = self.manifests_of(inventory, &known).await?;
                let documents: BTreeSet<Digest> = digests(&manifests).collect();
                let decision = match documents.first() {
                    None => unknown(format!("{} is not on this node any more", said(&standing.image)), "start it anew"),
                    Some(target) => {
                        let image = OnNode { records: Vec::new(), target: *target, manifests };
                        judge(&self.admission, snapshot, &image, asking).await
                    }
                };
                alike.insert(known, (decision.clone(), documents.clone()));
                (decision, documents)
            }
        };
        Ok(ContainerStanding { decision, documents, ..standing })
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
                let mut alike = Alike::new();
                Ok(Some(self.container(snapshot, asking, inventory, container, &mut alike).await?))
            }
            None => Ok(None),
        }
    }

    async fn known(&self, namespace: &str, container: &Container) -> Result<Known, Trouble> {
        if let Ok(Some(Cri::Container(cri))) = &container.cri {
            return Ok(Known::Config(cri.config));
        }
        let Container { image, snapshotter, snapshot_key, .. } = container;
        let base = match snapshot_key.is_empty() {
            true => None,
            false => self.containerd.base(namespace, snapshotter, snapshot_key).await?,
        };
        Ok(Known::Base { image: image.clone(), snapshotter: snapshotter.clone(), base })
    }

    /// The manifests that can be the image: the one that its record leads to where that has these layers, else all that
    /// have them.
    async fn manifests_of(&self, inventory: &Inventory, known: &Known) -> Result<Vec<Vec<NamedDocument>>, Trouble> {
        let (image, snapshotter, base) = match known {
            Known::Config(config) => return self.content.of_config(inventory, config).await,
            Known::Base { image, snapshotter, base } => (image, snapshotter, base),
        };
        let named = match inventory.target(image) {
            Some(target) => self.content.on_node(inventory, target).await?.manifests,
            None => Vec::new(),
        };
        let chain = match base {
            None => return Ok(named),
            // Other layers on top of an image's are no image's.
            Some(Base::Other(_)) => return Ok(Vec::new()),
            Some(Base::Empty) => None,
            Some(Base::Chain(chain)) => Some(chain),
        };
        // Labels only say what was unpacked: another image of the same layers needs no unpacking, and has none.
        let mut stands_on = Vec::new();
        for documents in named {
            let manifest = documents.first().map(|manifest| manifest.digest);
            if let Some(manifest) = manifest
                && self.content.completes(inventory.namespace(), &manifest, chain).await?
            {
                stands_on.push(documents);
            }
        }
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
}

fn said(image: &str) -> String {
    match image {
        "" => "what it was made from".to_owned(),
        name => crate::image::sanitize(name, crate::limits::AUDIT_WORD_CHARS),
    }
}
