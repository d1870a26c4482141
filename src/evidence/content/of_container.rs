//! Which images a container can have been made from: its configuration says so, or the name that it was given.

use std::sync::Arc;

use super::{CHILD, ContentStore, NamedDocument, Source, Trouble};
use crate::{
    image::{Digest, Document, chain_ids},
    limits,
};

/// What can admit each of the manifests that were looked for: the manifest, and the indexes that list it.
pub type Manifests = Arc<Vec<Vec<NamedDocument>>>;

impl ContentStore {
    /// The chain id of all layers of the image configuration `config`; none where it has no layers.
    ///
    /// # Errors
    /// When it is not there, is not what its digest says, is refused, or containerd did not answer.
    pub async fn chain_of(&self, namespace: &str, config: &Digest) -> Result<Option<Digest>, Trouble> {
        Ok(chain_ids(&self.config(namespace, config).await?.diff_ids).pop())
    }

    /// The manifests that have the configuration `config`, as far as they were met before. Bytes have proven them, so they
    /// stay true; that there are no others is not said.
    pub fn remembered(&self, namespace: &str, config: &Digest) -> Option<Manifests> {
        self.by_config.get(&(namespace.to_owned(), *config))
    }

    /// The manifests in the store that have the configuration `config`, by their own bytes.
    ///
    /// # Errors
    /// When containerd did not answer, or when nothing was found and a document that may have been it is refused.
    pub async fn with_config(&self, namespace: &str, config: &Digest) -> Result<Manifests, Trouble> {
        let labelled = vec![format!("labels.\"{CHILD}.config\"=={config}")];
        let (mut found, mut refused) = (Vec::new(), None);
        for blob in self.containerd.blobs(namespace, labelled, limits::CANDIDATE_MANIFESTS).await? {
            match self.document(namespace, &blob.digest).await.as_deref() {
                Ok(Document::Manifest(manifest)) if manifest.config.digest == *config => {
                    found.push(self.documents(&Source::Asked(namespace), &blob).await?);
                }
                Err(Trouble::Unreachable(why)) => return Err(Trouble::Unreachable(why.clone())),
                Err(trouble) => refused = Some(trouble.clone()),
                Ok(_) => {}
            }
        }
        match refused {
            Some(trouble) if found.is_empty() => Err(trouble),
            _ => Ok(self.remember(namespace, config, found)),
        }
    }

    /// The manifests that the manifest or index `target` stands for and whose layers, all of them, complete `chain`.
    ///
    /// # Errors
    /// When `target` is not there, is not what its digest says, is refused, or containerd did not answer.
    pub async fn with_layers(
        &self,
        namespace: &str,
        target: &Digest,
        chain: Option<&Digest>,
    ) -> Result<Manifests, Trouble> {
        let candidates: Vec<Digest> = match &*self.document(namespace, target).await? {
            Document::Manifest(_) => vec![*target],
            Document::Index(index) => {
                index.children.iter().map(|child| child.descriptor.digest).filter(|child| index.lists(child)).collect()
            }
        };
        let is_candidate = candidates.iter().map(|digest| format!("digest=={digest}")).collect();
        let mut found = Vec::new();
        for blob in self.containerd.blobs(namespace, is_candidate, limits::INDEX_CHILDREN).await? {
            if candidates.contains(&blob.digest) && self.completes(namespace, &blob.digest, chain).await? {
                found.push(self.documents(&Source::Asked(namespace), &blob).await?);
            }
        }
        Ok(Arc::new(found))
    }

    /// Whether the layers of `manifest`, all of them, complete `chain`, by its own bytes; without a chain, whether it has no
    /// layers. What cannot be read does not: of an index, the children for other platforms are not there.
    ///
    /// # Errors
    /// When containerd did not answer.
    pub async fn completes(&self, namespace: &str, manifest: &Digest, chain: Option<&Digest>) -> Result<bool, Trouble> {
        match self.layers_of(namespace, manifest).await {
            Ok((_, chains)) => Ok(chains.last() == chain),
            Err(Trouble::Unreachable(why)) => Err(Trouble::Unreachable(why)),
            Err(_) => Ok(false),
        }
    }

    /// Remembers that `manifests` have the configuration `config`, which their bytes have shown.
    pub(super) fn remember(&self, namespace: &str, config: &Digest, manifests: Vec<Vec<NamedDocument>>) -> Manifests {
        let manifests = Arc::new(manifests);
        if !manifests.is_empty() {
            self.by_config.insert((namespace.to_owned(), *config), manifests.clone());
        }
        manifests
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{containerd::Containerd, evidence::kept::Kept};

    #[tokio::test]
    async fn what_is_remembered_is_bounded() {
        let content = ContentStore::new(Arc::new(Containerd::new(Path::new("/nonexistent"))), Kept::default());
        for number in 0..limits::CONFIGURATIONS + 500 {
            let digest = Digest::of(&number.to_le_bytes());
            content.remember("k8s.io", &digest, vec![vec![NamedDocument { digest, names: Vec::new() }]]);
        }
        content.by_config.run_pending_tasks();
        assert!(content.by_config.entry_count() <= limits::CONFIGURATIONS);
        let nothing = Digest::of(b"nothing");
        assert!(content.remember("k8s.io", &nothing, Vec::new()).is_empty());
        assert!(content.remembered("k8s.io", &nothing).is_none(), "that there is none is not remembered");
    }
}
