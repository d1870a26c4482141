//! Which layers of an image a container's file system stands on.

use std::collections::HashMap;

use containerd_client::services::v1::snapshots::{Info, StatSnapshotRequest, snapshots_client::SnapshotsClient};
use serde::Serialize;
use tonic::{Code, Status};

use super::{Containerd, request};
use crate::image::Digest;

/// How owners of files in a snapshot are changed for a user namespace: `container:host:size`, separated by commas.
const UID_MAPPING: &str = "containerd.io/snapshot/uidmapping";
const GID_MAPPING: &str = "containerd.io/snapshot/gidmapping";

/// What is below a snapshot that is written to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Base {
    /// Nothing: an image without layers.
    Empty,
    /// The layers that complete this chain id.
    Chain(Digest),
    /// Something that is no image's.
    Other(String),
}

impl Base {
    fn of(key: &str) -> Self {
        match key {
            "" => Self::Empty,
            key => key.parse().map_or_else(|_| Self::Other(key.to_owned()), Self::Chain),
        }
    }
}

impl Containerd {
    /// What the snapshot `key` stands on; none when there is no such snapshot.
    ///
    /// Where the owners of files had to be changed for a user namespace, a snapshot with the changed files is between
    /// (containerd, `client/snapshotter_opts_unix.go`). It counts only under the very name that containerd gives it: other
    /// snapshots on top of an image are other layers.
    pub async fn base(&self, namespace: &str, snapshotter: &str, key: &str) -> Result<Option<Base>, Status> {
        let Some(container) = self.snapshot(namespace, snapshotter, key).await? else { return Ok(None) };
        if let Some(mappings) = Mappings::of(&container.labels)
            && let Some(below) = self.snapshot(namespace, snapshotter, &container.parent).await?
            && mappings.names(&below.parent).contains(&container.parent)
        {
            return Ok(Some(Base::of(&below.parent)));
        }
        Ok(Some(Base::of(&container.parent)))
    }

    async fn snapshot(&self, namespace: &str, snapshotter: &str, key: &str) -> Result<Option<Info>, Status> {
        let stat = StatSnapshotRequest { snapshotter: snapshotter.to_owned(), key: key.to_owned() };
        match SnapshotsClient::new(self.channel.clone()).stat(request(stat, Some(namespace))).await {
            Ok(answer) => Ok(answer.into_inner().info),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(status),
        }
    }
}

/// For whom the owners of files are changed.
struct Mappings {
    uids: Vec<Mapping>,
    gids: Vec<Mapping>,
}

#[derive(Clone, Copy, Serialize)]
struct Mapping {
    #[serde(rename = "containerID")]
    container: u32,
    #[serde(rename = "hostID")]
    host: u32,
    size: u32,
}

impl Mappings {
    fn of(labels: &HashMap<String, String>) -> Option<Self> {
        let read = |label: &str| {
            let mut mappings: Vec<Mapping> =
                labels.get(label)?.split(',').map(Mapping::read).collect::<Option<Vec<_>>>()?;
            mappings.sort_by_key(|mapping| mapping.container);
            Some(mappings)
        };
        Some(Self { uids: read(UID_MAPPING)?, gids: read(GID_MAPPING)? })
    }

    /// The names that the changed files of the snapshot `parent` can have: of containerd before 2.1, since then, and since
    /// they keep file capabilities.
    fn names(&self, parent: &str) -> Vec<String> {
        #[derive(Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct Remapped<'a> {
            parent: &'a str,
            #[serde(rename = "IDMap")]
            mappings: Ids<'a>,
            #[serde(skip_serializing_if = "Option::is_none")]
            version: Option<u8>,
        }
        #[derive(Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct Ids<'a> {
            uid_map: &'a [Mapping],
            gid_map: &'a [Mapping],
        }
        let hashed = |version| {
            let mappings = Ids { uid_map: &self.uids, gid_map: &self.gids };
            let json = serde_json::to_vec(&Remapped { parent, mappings, version });
            json.ok().map(|json| Digest::of(&json).to_string())
        };
        let first = self.uids.first().zip(self.gids.first());
        let plain = first.map(|(uid, gid)| format!("{parent}-{}-{}", uid.host, gid.host));
        [plain, hashed(None), hashed(Some(1))].into_iter().flatten().collect()
    }
}

impl Mapping {
    fn read(text: &str) -> Option<Self> {
        let mut numbers = text.split(':').map(|number| number.parse().ok());
        let mapping = Self { container: numbers.next()??, host: numbers.next()??, size: numbers.next()?? };
        numbers.next().is_none().then_some(mapping)
    }
}

#[cfg(test)]
mod tests {
    use containerd_client::services::v1::snapshots::StatSnapshotResponse;
    use prost::Message as _;

    use super::*;
    use crate::containerd::fake::{Answer, FakeContainerd};

    /// What the container's snapshot `c` stands on, where each of `snapshots` stands on its parent.
    async fn base(snapshots: &[(&str, &str)], mapping: Option<(&str, &str)>) -> Option<Base> {
        let snapshots: Vec<(String, String)> =
            snapshots.iter().map(|(key, parent)| ((*key).to_owned(), (*parent).to_owned())).collect();
        let labels: HashMap<String, String> = mapping
            .map(|(uids, gids)| [(UID_MAPPING.to_owned(), uids.to_owned()), (GID_MAPPING.to_owned(), gids.to_owned())])
            .into_iter()
            .flatten()
            .collect();
        let fake = FakeContainerd::start(move |_, message| {
            let asked = StatSnapshotRequest::decode(message).unwrap();
            match snapshots.iter().find(|(key, _)| *key == asked.key) {
                Some((key, parent)) => {
                    let labels = if key == "c" { labels.clone() } else { HashMap::new() };
                    let info = Info { name: key.clone(), parent: parent.clone(), labels, ..Info::default() };
                    Answer::message(&StatSnapshotResponse { info: Some(info) })
                }
                None => Answer::missing(),
            }
        });
        fake.client().base("k8s.io", "overlayfs", "c").await.unwrap()
    }

    const ONE: Option<(&str, &str)> = Some(("0:65536:65536", "0:131072:65536"));

    #[tokio::test]
    async fn a_container_stands_on_the_layers_of_its_image() {
        let chain = Digest::of(b"chain");
        assert_eq!(base(&[("c", &chain.to_string())], None).await, Some(Base::Chain(chain)));
        assert_eq!(base(&[("c", "")], None).await, Some(Base::Empty));
        assert_eq!(base(&[("c", "made-by-hand")], None).await, Some(Base::Other("made-by-hand".into())));
        assert_eq!(base(&[], None).await, None);
        // A snapshotter that maps owners itself needs no other files.
        let below = chain.to_string();
        assert_eq!(base(&[("c", &below), (&below, "")], ONE).await, Some(Base::Chain(chain)));
        assert_eq!(base(&[("c", &below)], ONE).await, Some(Base::Chain(chain)));
    }

    #[tokio::test]
    async fn files_with_changed_owners_stand_for_those_of_the_image() {
        let chain = Digest::of(b"chain");
        let of = |json: String| Digest::of(json.as_bytes()).to_string();
        for parent in [chain.to_string(), String::new()] {
            let ids = r#"{"UidMap":[{"containerID":0,"hostID":65536,"size":65536}],"GidMap":[{"containerID":0,"hostID":131072,"size":65536}]}"#;
            for name in [
                format!("{parent}-65536-131072"),
                of(format!(r#"{{"Parent":"{parent}","IDMap":{ids}}}"#)),
                of(format!(r#"{{"Parent":"{parent}","IDMap":{ids},"Version":1}}"#)),
            ] {
                let found = base(&[("c", &name), (&name, &parent)], ONE).await;
                assert_eq!(found, Some(Base::of(&parent)), "{name}");
                // Another user namespace has files of its own, and without one there are none.
                for mapping in [None, Some(("0:1:1", "0:1:1")), Some(("0:65536", "0:131072")), Some(("", ""))] {
                    assert_ne!(base(&[("c", &name), (&name, &parent)], mapping).await, found, "{name} {mapping:?}");
                }
            }
        }
    }

    #[tokio::test]
    async fn another_layer_on_top_is_another_image() {
        let (chain, other) = (Digest::of(b"chain"), Digest::of(b"other"));
        let (below, above) = (chain.to_string(), other.to_string());
        assert_eq!(base(&[("c", &above), (&above, &below)], ONE).await, Some(Base::Chain(other)));
        let named = format!("{below}-65536-131072-x");
        assert_eq!(base(&[("c", &named), (&named, &below)], ONE).await, Some(Base::Other(named.clone())));
    }

    #[test]
    fn several_ranges_are_in_the_order_of_the_container() {
        let labels = [(UID_MAPPING, "5:9:1,0:7:5"), (GID_MAPPING, "0:8:5")];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let names = Mappings::of(&labels).unwrap().names("p");
        assert_eq!(names[0], "p-7-8");
        let json = r#"{"Parent":"p","IDMap":{"UidMap":[{"containerID":0,"hostID":7,"size":5},{"containerID":5,"hostID":9,"size":1}],"GidMap":[{"containerID":0,"hostID":8,"size":5}]}}"#;
        assert_eq!(names[1], Digest::of(json.as_bytes()).to_string());
    }
}
