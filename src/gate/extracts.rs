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
    containerd::{Containerd, Event, ExtractSnapshot, Told},
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
    /// Hears of a snapshot that begins to be filled.
    pub(super) fn hear(&self, told: &Told) {
        if let Event::Extract(snapshotter, extract) = &told.event {
            let (namespace, snapshotter) = (told.namespace.clone(), snapshotter.clone());
            let mut all = self.open();
            all.push_front(Begun { namespace, snapshotter, extract: extract.clone(), mounts: None });
            all.truncate(limits::EXTRACTS_TOLD);
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

#[cfg(test)]
mod tests {
    use containerd_client::services::v1::snapshots::{MountsRequest, MountsResponse};
    use prost::Message;

    use super::*;
    use crate::{
        containerd::fake::{Answer, FakeContainerd},
        image::Digest,
    };

    fn key(number: usize) -> String {
        format!("extract-{number}-x {}", Digest::of(&number.to_le_bytes()))
    }

    fn mounts(key: &str) -> Vec<Mount> {
        vec![Mount { source: key.to_owned(), ..Mount::default() }]
    }

    /// Extracts that heard of `count` snapshots.
    fn heard(count: usize) -> Extracts {
        let extracts = Extracts::default();
        for number in 0..count {
            let extract = ExtractSnapshot { key: key(number), chain: Digest::of(&number.to_le_bytes()) };
            let event = Event::Extract("overlayfs".to_owned(), extract);
            extracts.hear(&Told { namespace: "k8s.io".to_owned(), event });
        }
        extracts
    }

    /// A containerd where the mounts of each snapshot are its key; the first one is gone.
    fn containerd() -> FakeContainerd {
        FakeContainerd::start(|method, message| match (method, MountsRequest::decode(message)) {
            ("Snapshots/Mounts", Ok(asked)) if asked.key != key(0) => {
                Answer::message(&MountsResponse { mounts: mounts(&asked.key) })
            }
            _ => Answer::missing(),
        })
    }

    #[tokio::test]
    async fn a_snapshot_is_found_once_and_by_the_mounts_that_it_has_now() {
        let fake = containerd();
        let (extracts, client) = (heard(3), fake.client());
        let find = async |namespace, key: String| {
            let found = extracts.find(&client, namespace, &mounts(&key)).await.unwrap();
            found.map(|(namespace, extract)| (namespace, extract.key))
        };
        assert_eq!(find(Some("k8s.io"), "elsewhere".to_owned()).await, None);
        assert_eq!(find(Some("default"), key(1)).await, None);
        // It is gone by now.
        assert_eq!(find(None, key(0)).await, None);
        for number in [1, 2] {
            assert_eq!(find(None, key(number)).await, Some(("k8s.io".to_owned(), key(number))));
            assert_eq!(find(None, key(number)).await, None);
        }
    }

    #[test]
    fn what_is_told_is_bounded_and_the_newest_stay() {
        let extracts = heard(limits::EXTRACTS_TOLD + 2);
        let told: Vec<String> = extracts.open().iter().map(|begun| begun.extract.key.clone()).collect();
        assert_eq!(told.len(), limits::EXTRACTS_TOLD);
        assert_eq!((&told[0], &told[told.len() - 1]), (&key(limits::EXTRACTS_TOLD + 1), &key(2)));
    }
}
