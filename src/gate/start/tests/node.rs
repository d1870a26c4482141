//! A node as containerd would tell of it.

use std::collections::{BTreeMap, HashMap};

use containerd_client::{
    services::v1::{
        Container, GetContainerRequest, GetContainerResponse, GetImageRequest, GetImageResponse, Image, Info,
        ListContentRequest, ListContentResponse, ListImagesRequest, ListImagesResponse, ReadContentRequest,
        ReadContentResponse,
        snapshots::{Info as Snapshot, StatSnapshotRequest, StatSnapshotResponse},
    },
    types::Descriptor,
};
use prost::Message;
use prost_types::Any;
use serde_json::{Value, json};

use crate::{
    containerd::fake::{Answer, FakeContainerd},
    image::{Digest, chain_ids, media_type},
};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(super) const SANDBOX: &str = "51b0";

/// What is on a node.
#[derive(Clone, Default)]
pub(super) struct Node {
    blobs: BTreeMap<String, (Vec<u8>, HashMap<String, String>)>,
    images: BTreeMap<String, String>,
    containers: BTreeMap<String, Container>,
    snapshots: BTreeMap<String, Snapshot>,
}

/// An image.
#[derive(Clone)]
pub(super) struct Made {
    pub(super) manifest: Digest,
    pub(super) config: Digest,
    pub(super) chain: Option<Digest>,
}

impl Node {
    /// Adds an image of these layers; `words` make its configuration, and `more` its manifest, its own.
    pub(super) fn image(&mut self, layers: &[&str], words: &str, more: &str) -> Made {
        let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer.as_bytes())).collect();
        let rootfs = json!({ "type": "layers", "diff_ids": diff_ids });
        let config = json!({ "os": "linux", "architecture": "amd64", "author": words, "rootfs": rootfs });
        let config = self.blob(config.to_string().into_bytes(), &[]);
        let descriptor =
            |media_type: &str, digest: &Digest| json!({ "mediaType": media_type, "digest": digest, "size": 1 });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type::MANIFEST,
            "config": descriptor(media_type::CONFIG, &config),
            "layers": diff_ids.iter().map(|digest| descriptor(LAYER, digest)).collect::<Vec<_>>(),
            "annotations": { "more": more },
        });
        let label = ("containerd.io/gc.ref.content.config".to_owned(), config.to_string());
        let manifest = self.blob(manifest.to_string().into_bytes(), &[label]);
        Made { manifest, config, chain: chain_ids(&diff_ids).pop() }
    }

    /// Adds an index that lists `image`.
    pub(super) fn index(&mut self, image: &Made, more: &str) -> Digest {
        let child = json!({ "mediaType": media_type::MANIFEST, "digest": image.manifest, "size": 1 });
        let index = json!({
            "schemaVersion": 2,
            "mediaType": media_type::INDEX,
            "manifests": [child],
            "annotations": { "more": more },
        });
        let label = ("containerd.io/gc.ref.content.m.0".to_owned(), image.manifest.to_string());
        self.blob(index.to_string().into_bytes(), &[label])
    }

    /// containerd fetched `digest` as `path` from `host`.
    pub(super) fn fetched(&mut self, digest: &Digest, host: &str, path: &str) {
        let (_, labels) = self.blobs.get_mut(&digest.to_string()).unwrap();
        labels.insert(format!("containerd.io/distribution.source.{host}"), path.to_owned());
    }

    pub(super) fn record(&mut self, name: &str, target: &Digest) {
        self.images.insert(name.to_owned(), target.to_string());
    }

    fn blob(&mut self, bytes: Vec<u8>, labels: &[(String, String)]) -> Digest {
        let digest = Digest::of(&bytes);
        self.blobs.insert(digest.to_string(), (bytes, labels.iter().cloned().collect()));
        digest
    }

    /// Somebody wrote other bytes where `digest` is.
    pub(super) fn corrupt(&mut self, digest: &Digest) {
        self.blobs.get_mut(&digest.to_string()).unwrap().0.push(b' ');
    }

    pub(super) fn forget(&mut self, digest: &Digest) {
        self.blobs.remove(&digest.to_string());
    }

    pub(super) fn forget_container(&mut self, id: &str) {
        self.containers.remove(id);
    }

    pub(super) fn forget_snapshot(&mut self, key: &str) {
        self.snapshots.remove(key);
    }

    pub(super) fn snapshot(&mut self, key: &str, parent: Option<&Digest>) {
        let parent = parent.map(ToString::to_string).unwrap_or_default();
        self.snapshots.insert(key.to_owned(), Snapshot { name: key.to_owned(), parent, ..Snapshot::default() });
    }

    /// Makes a container `id` of a pod from `image`, as the kubelet does; `change` may change what the CRI plugin notes.
    pub(super) fn pod_container(&mut self, id: &str, image: &Made, called: &str, change: impl FnOnce(&mut Value)) {
        let mut noted = json!({
            "Version": "v1",
            "Metadata": {
                "SandboxID": SANDBOX,
                "ImageRef": image.config,
                "Config": {
                    "metadata": { "name": "app" },
                    "image": { "image": image.config, "user_specified_image": called },
                    "mounts": [],
                    "annotations": { "io.kubernetes.cri.sandbox-namespace": "forged" },
                },
            }
        });
        change(&mut noted);
        self.container(id, "any.example/name:1", Some(("container", &noted)));
        self.snapshot(id, image.chain.as_ref());
        let sandbox = json!({
            "Version": "v1",
            "Metadata": { "Config": { "metadata": { "name": "pod", "uid": "u", "namespace": "shop" } } },
        });
        self.container(SANDBOX, "any.example/pause:1", Some(("sandbox", &sandbox)));
    }

    pub(super) fn container(&mut self, id: &str, image: &str, noted: Option<(&str, &Value)>) {
        let extension = |(kind, value): (&str, &Value)| {
            let value = Any { type_url: String::new(), value: value.to_string().into_bytes() };
            (format!("io.cri-containerd.{kind}.metadata"), value)
        };
        let container = Container {
            id: id.to_owned(),
            image: image.to_owned(),
            snapshotter: "overlayfs".to_owned(),
            snapshot_key: id.to_owned(),
            extensions: noted.map(extension).into_iter().collect(),
            ..Container::default()
        };
        self.containers.insert(id.to_owned(), container);
    }

    /// The container `id` has these mounts: where it sees them, and what they are on the node.
    pub(super) fn mounts(&mut self, id: &str, mounts: &[(&str, &str)]) {
        let mounts = mounts.iter().map(|(destination, source)| json!({ "destination": destination, "source": source }));
        let spec = json!({ "mounts": mounts.collect::<Vec<_>>() });
        let spec = Any { type_url: String::new(), value: spec.to_string().into_bytes() };
        self.containers.get_mut(id).unwrap().spec = Some(spec);
    }

    /// A containerd that tells this.
    pub(super) fn containerd(self) -> FakeContainerd {
        FakeContainerd::start(move |method, message| self.answer(method, message).unwrap_or_else(Answer::missing))
    }

    fn answer(&self, method: &str, message: &[u8]) -> Option<Answer> {
        Some(match method {
            "Containers/Get" => {
                let container = Some(self.containers.get(&GetContainerRequest::decode(message).ok()?.id)?.clone());
                Answer::message(&GetContainerResponse { container })
            }
            "Snapshots/Stat" => {
                let info = Some(self.snapshots.get(&StatSnapshotRequest::decode(message).ok()?.key)?.clone());
                Answer::message(&StatSnapshotResponse { info })
            }
            "Images/Get" => {
                let name = GetImageRequest::decode(message).ok()?.name;
                let image = Some(image(&name, self.images.get(&name)?));
                Answer::message(&GetImageResponse { image })
            }
            "Images/List" => {
                let filters = ListImagesRequest::decode(message).ok()?.filters;
                let selected = |target: &String| filters.contains(&format!("target.digest=={target}"));
                let images = self.images.iter().filter(|(_, target)| selected(target));
                Answer::message(&ListImagesResponse {
                    images: images.map(|(name, target)| image(name, target)).collect(),
                })
            }
            "Content/List" => {
                let filters = ListContentRequest::decode(message).ok()?.filters;
                let selected = |digest: &String, labels: &HashMap<String, String>| {
                    let label =
                        |(key, value): (&String, &String)| filters.contains(&format!("labels.\"{key}\"=={value}"));
                    filters.contains(&format!("digest=={digest}")) || labels.iter().any(label)
                };
                let blobs = self.blobs.iter().filter(|(digest, (_, labels))| selected(digest, labels));
                let info = |(digest, (_, labels)): (&String, &(Vec<u8>, HashMap<String, String>))| Info {
                    digest: digest.clone(),
                    labels: labels.clone(),
                    ..Info::default()
                };
                Answer::message(&ListContentResponse { info: blobs.map(info).collect() })
            }
            "Content/Read" => {
                let (data, _) = self.blobs.get(&ReadContentRequest::decode(message).ok()?.digest)?.clone();
                Answer::message(&ReadContentResponse { offset: 0, data })
            }
            _ => return None,
        })
    }
}

fn image(name: &str, target: &str) -> Image {
    let target = Some(Descriptor { digest: target.to_owned(), ..Descriptor::default() });
    Image { name: name.to_owned(), target, ..Image::default() }
}
