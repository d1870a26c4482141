//! A walk over the images on the node: what the policy says of each now.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::subjects::subjects;
use crate::{
    admission::Admission,
    containerd::Containerd,
    decisions::Asking,
    evidence::content::{ContentStore, OnNode, Trouble},
    image::Digest,
    limits,
    policy::decision::{Code, Decision, Verdict, Violation},
    snapshot::Snapshot,
};

/// An image on the node, and what the policy says of it.
#[derive(Clone, Debug)]
pub struct Standing {
    /// containerd's namespace.
    pub namespace: String,
    /// The names of its image records.
    pub names: Vec<String>,
    /// The manifest or index that they lead to.
    pub target: Digest,
    /// The decision; of several manifests of an index, the one that refuses.
    pub decision: Decision,
}

impl Standing {
    /// What a person calls it.
    pub fn name(&self) -> String {
        match self.names.iter().find(|name| name.contains('/')).or(self.names.first()) {
            Some(name) => name.clone(),
            None => self.target.to_string(),
        }
    }
}

/// Looks at every image on the node.
pub struct Walk {
    containerd: Arc<Containerd>,
    content: Arc<ContentStore>,
    admission: Arc<Admission>,
}

impl Walk {
    /// Over the images of `containerd`.
    pub fn new(containerd: Arc<Containerd>, content: Arc<ContentStore>, admission: Arc<Admission>) -> Self {
        Self { containerd, content, admission }
    }

    /// Judges every image record of every namespace under `snapshot`.
    ///
    /// # Errors
    /// When containerd does not say what is there. An image that cannot be judged is [`Verdict::Inconclusive`].
    pub async fn judge(&self, snapshot: &Arc<Snapshot>, asking: Asking) -> Result<Vec<Standing>, Trouble> {
        let mut standing = Vec::new();
        for namespace in self.containerd.namespaces().await? {
            let images = self.content.on_node(&namespace).await?;
            let mut waiting = images.into_iter();
            let mut judging = JoinSet::new();
            loop {
                while judging.len() < limits::PARALLEL_SUBJECTS
                    && let Some(image) = waiting.next()
                {
                    let (admission, snapshot, namespace) =
                        (self.admission.clone(), snapshot.clone(), namespace.clone());
                    judging.spawn(async move {
                        let decision = judge(&admission, &snapshot, &image, asking).await;
                        Standing { namespace, names: image.names, target: image.target, decision }
                    });
                }
                match judging.join_next().await {
                    Some(judged) => standing.extend(judged.ok()),
                    None => break,
                }
            }
        }
        standing.sort_by(|a, b| (&a.namespace, a.name()).cmp(&(&b.namespace, b.name())));
        Ok(standing)
    }
}

async fn judge(admission: &Arc<Admission>, snapshot: &Arc<Snapshot>, image: &OnNode, asking: Asking) -> Decision {
    let mut admitted = None;
    for documents in &image.manifests {
        let decision = admission.decide(snapshot, subjects(snapshot, documents), asking).await;
        if decision.verdict != Verdict::Allow {
            return decision;
        }
        admitted = Some(decision);
    }
    admitted.unwrap_or_else(|| {
        let found = format!("{} has no manifest in the content store", image.target);
        let fix = "pull it again, or remove it".to_owned();
        Decision::refused(Violation { code: Code::ContainerdUnreachable, found, fix })
    })
}
