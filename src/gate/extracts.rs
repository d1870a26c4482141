//! The snapshots that are being filled, as containerd tells when one begins: asking for them all would take longer the
//! more snapshots there are on the node, and each layer has to be found.
//!
//! What was told only says which snapshot to ask about. Its mounts are asked for each time before it counts, and what is
//! not found this way is looked for among all.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use containerd_client::types::Mount;
use tonic::Status;

use crate::{
    containerd::{Containerd, ExtractSnapshot},
    limits,
};

/// Snapshots that began to be filled and were not found yet, the newest first.
#[derive(Default)]
pub(super) struct Extracts(Mutex<VecDeque<Begun>>);

/// A snapshot that began to be filled.
#[derive(Clone, Debug)]
struct Begun {
    namespace: String,
    snapshotter: String,
    extract: ExtractSnapshot,
    /// Its mounts as they were once.
    mounts: Option<Vec<Mount>>,
}

impl Extracts {
    /// Listens for snapshots that begin to be filled, and again whenever containerd has gone.
    pub(super) async fn follow(&self, containerd: &Containerd) {
        loop {
            let begins = |namespace: String, snapshotter: String, extract| {
                let mut all = self.open();
                all.push_front(Begun { namespace, snapshotter, extract, mounts: None });
                all.truncate(limits::EXTRACTS_TOLD);
            };
            // Why it ended makes no difference: without it everything is looked for among all.
            let _ = containerd.extracts(begins).await;
            tokio::time::sleep(limits::EXTRACTS_PAUSE).await;
        }
    }

    /// The snapshot of `namespace`, or of any, whose mounts are `wanted` now, with its namespace.
    pub(super) async fn find(
        &self,
        containerd: &Containerd,
        namespace: Option<&str>,
        wanted: &[Mount],
    ) -> Result<Option<(String, ExtractSnapshot)>, Status> {
        let told: Vec<Begun> = self.open().iter().cloned().collect();
        for begun in told.into_iter().filter(|begun| namespace.is_none_or(|namespace| begun.namespace == namespace)) {
            if begun.mounts.as_deref().is_some_and(|mounts| mounts != wanted) {
                continue;
            }
            let Begun { namespace, snapshotter, extract, .. } = begun;
            match containerd.mounts(&namespace, &snapshotter, &extract.key).await? {
                // Each is found once.
                Some(mounts) if mounts == wanted => {
                    self.forget(&namespace, &extract);
                    return Ok(Some((namespace, extract)));
                }
                Some(mounts) => self.remember(&namespace, &extract, mounts),
                None => self.forget(&namespace, &extract),
            }
        }
        Ok(None)
    }

    fn forget(&self, namespace: &str, extract: &ExtractSnapshot) {
        self.open().retain(|begun| begun.namespace != namespace || begun.extract != *extract);
    }

    fn remember(&self, namespace: &str, extract: &ExtractSnapshot, mounts: Vec<Mount>) {
        let mut all = self.open();
        let this = |begun: &&mut Begun| begun.namespace == namespace && begun.extract == *extract;
        if let Some(begun) = all.iter_mut().find(this) {
            begun.mounts = Some(mounts);
        }
    }

    fn open(&self) -> MutexGuard<'_, VecDeque<Begun>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
