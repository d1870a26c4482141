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

#[cfg(test)]
mod tests {
    use containerd_client::{
        events::SnapshotPrepare,
        services::v1::snapshots::{MountsRequest, MountsResponse},
        types::Envelope,
    };
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

    /// The event that the snapshot `key` begins to be filled.
    fn begins(key: String) -> Vec<u8> {
        let prepared = SnapshotPrepare { key, parent: String::new(), snapshotter: "overlayfs".to_owned() };
        let event = prost_types::Any { type_url: String::new(), value: prepared.encode_to_vec() };
        Envelope { namespace: "k8s.io".to_owned(), event: Some(event), ..Envelope::default() }.encode_to_vec()
    }

    /// A containerd that tells about `count` snapshots each time that it is listened to; the mounts of each are its key.
    fn containerd(count: usize) -> FakeContainerd {
        FakeContainerd::start(move |method, message| match method {
            "Events/Subscribe" => Answer::Messages((0..count).map(|number| begins(key(number))).collect()),
            "Snapshots/Mounts" => match MountsRequest::decode(message) {
                Ok(asked) if asked.key == key(0) => Answer::missing(),
                Ok(asked) => Answer::message(&MountsResponse { mounts: mounts(&asked.key) }),
                Err(_) => Answer::missing(),
            },
            _ => Answer::missing(),
        })
    }

    /// Extracts that have listened to `fake` once.
    async fn listened(fake: &FakeContainerd) -> Extracts {
        let extracts = Extracts::default();
        let client = fake.client();
        let half = limits::EXTRACTS_PAUSE / 2;
        assert!(tokio::time::timeout(half, extracts.follow(&client)).await.is_err());
        extracts
    }

    #[tokio::test(start_paused = true)]
    async fn a_snapshot_is_found_once_and_by_the_mounts_that_it_has_now() {
        let fake = containerd(3);
        let (extracts, client) = (listened(&fake).await, fake.client());
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

    #[tokio::test(start_paused = true)]
    async fn what_is_told_is_bounded_and_the_newest_stay() {
        let fake = containerd(limits::EXTRACTS_TOLD + 2);
        let extracts = listened(&fake).await;
        let told: Vec<String> = extracts.open().iter().map(|begun| begun.extract.key.clone()).collect();
        assert_eq!(told.len(), limits::EXTRACTS_TOLD);
        assert_eq!((&told[0], &told[told.len() - 1]), (&key(limits::EXTRACTS_TOLD + 1), &key(2)));
    }

    #[tokio::test(start_paused = true)]
    async fn who_stops_telling_is_listened_to_again_after_a_pause() {
        let fake = containerd(0);
        let (extracts, client) = (Extracts::default(), fake.client());
        let long = limits::EXTRACTS_PAUSE * 7 / 2;
        assert!(tokio::time::timeout(long, extracts.follow(&client)).await.is_err());
        assert_eq!(fake.asked(), ["Events/Subscribe"; 4]);
    }
}
