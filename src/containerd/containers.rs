//! The records of containers: what each was made from, as containerd and its CRI plugin noted it.
//!
//! Labels, annotations and names in them are the words of whoever made the container. The digest of the image
//! configuration is not: the CRI plugin writes it once it knows which image it takes.

use std::collections::HashMap;

use containerd_client::services::v1::{
    Container as Record, GetContainerRequest, ListContainersRequest, containers_client::ContainersClient,
};
use jiff::Timestamp;
use prost_types::Any;
use serde::{Deserialize, de::DeserializeOwned};
use tonic::{Code, Status};

use super::{Containerd, request};
use crate::{break_glass, image::Digest, limits};

/// Under which the CRI plugin keeps what it knows of a container, and of a pod's sandbox.
const CONTAINER: &str = "io.cri-containerd.container.metadata";
const SANDBOX: &str = "io.cri-containerd.sandbox.metadata";
/// The only form of either that there has been.
const VERSION: &str = "v1";
/// What the CRI plugin adds to the annotations of a container that it restores from a checkpoint.
const RESTORED: [&str; 3] = ["restored", "checkpointedAt", "checkpointImage"];

/// A container, as containerd has it on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Its identifier.
    pub id: String,
    /// The name of the image record that it was made from; empty where it was made from a directory.
    pub image: String,
    /// The snapshotter that its file system lies in.
    pub snapshotter: String,
    /// The key of the snapshot that is its file system; empty where that is none.
    pub snapshot_key: String,
    /// What runs it, `io.containerd.runc.v2` for example.
    pub runtime: String,
    /// Labels of the image and of whoever made it.
    pub labels: HashMap<String, String>,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// What the runtime is told to do.
    pub spec: Result<Spec, Unreadable>,
    /// What the CRI plugin noted; none where it did not make this container.
    pub cri: Result<Option<Cri>, Unreadable>,
}

/// Why a part of a record says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(pub String);

/// What pullgate needs of a container's specification (OCI runtime specification, config.md).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spec {
    /// What runs before the container's own process, in the runtime's namespaces (`hooks.createRuntime`).
    pub create_runtime: Vec<Hook>,
    /// What is mounted into it.
    pub mounts: Vec<Mount>,
}

/// A program that the runtime starts.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Hook {
    /// The program.
    pub path: String,
    /// Its arguments, its own name first.
    #[serde(default, deserialize_with = "or_null")]
    pub args: Vec<String>,
    /// Seconds that it may take; without them there is no end.
    #[serde(default)]
    pub timeout: Option<i64>,
}

/// A mount of a container.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Mount {
    /// Where it is seen in the container.
    pub destination: String,
    /// What is mounted: a path on the node where it is a bind mount.
    #[serde(default)]
    pub source: String,
    /// Its options.
    #[serde(default, deserialize_with = "or_null")]
    pub options: Vec<String>,
}

/// What the CRI plugin noted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cri {
    /// A container of a pod.
    Container(CriContainer),
    /// The sandbox of a pod: the container that holds its namespaces.
    Sandbox(CriSandbox),
}

/// A container of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CriContainer {
    /// Its name within the pod.
    pub name: String,
    /// The sandbox of its pod.
    pub sandbox: String,
    /// The image configuration that it was made from.
    pub config: Digest,
    /// The image as the pod names it; none where the client does not say.
    pub image: Option<String>,
    /// What was asked for: a name, a digest or an identifier.
    pub requested: String,
    /// Images that are mounted into it.
    pub image_volumes: Vec<ImageVolume>,
    /// Whether it continues where a checkpoint ended, with memory and files that are in no image.
    pub restored: bool,
}

/// An image that is mounted into a container (CRI `Mount.image`; containerd 2.1 and newer).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageVolume {
    /// The image as the pod names it; none where the client does not say.
    pub image: Option<String>,
    /// What was asked for: a name or a digest.
    pub requested: String,
    /// Where it is mounted on the node, which is its snapshot's key, or below.
    pub host_path: String,
}

/// The sandbox of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CriSandbox {
    /// The pod's Kubernetes namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's UID.
    pub uid: String,
    /// The runtime handler; empty for the default.
    pub handler: String,
    /// Whether the pod's own label breaks the glass.
    pub breaks_glass: bool,
}

impl Containerd {
    /// The record of the container `id`; none when there is no such container.
    pub async fn container(&self, namespace: &str, id: &str) -> Result<Option<Container>, Status> {
        let mut client = ContainersClient::new(self.channel.clone()).max_decoding_message_size(limits::RECORD_BYTES);
        match client.get(request(GetContainerRequest { id: id.to_owned() }, Some(namespace))).await {
            Ok(answer) => Ok(answer.into_inner().container.map(Container::of)),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(status),
        }
    }

    /// The records of the containers of `namespace` that match one of `filters` (all without any), at most `limit`, and
    /// whether there are more.
    pub async fn containers(
        &self,
        namespace: &str,
        filters: Vec<String>,
        limit: usize,
    ) -> Result<(Vec<Container>, bool), Status> {
        let mut client = ContainersClient::new(self.channel.clone()).max_decoding_message_size(limits::RECORD_BYTES);
        let list = ListContainersRequest { filters };
        let mut stream = client.list_stream(request(list, Some(namespace))).await?.into_inner();
        let mut containers = Vec::new();
        while let Some(message) = stream.message().await? {
            let Some(record) = message.container else { continue };
            if containers.len() == limit {
                return Ok((containers, true));
            }
            containers.push(Container::of(record));
        }
        Ok((containers, false))
    }
}

impl Container {
    fn of(record: Record) -> Self {
        let cri = cri(&record.extensions);
        let spec = match &record.spec {
            Some(spec) => Spec::read(&spec.value),
            None => Err(Unreadable("there is no specification".to_owned())),
        };
        let created = record.created_at.and_then(|at| Timestamp::new(at.seconds, at.nanos).ok());
        Self {
            id: record.id,
            image: record.image,
            snapshotter: record.snapshotter,
            snapshot_key: record.snapshot_key,
            runtime: record.runtime.map(|runtime| runtime.name).unwrap_or_default(),
            labels: record.labels,
            created,
            spec,
            cri,
        }
    }
}

impl Spec {
    fn read(json: &[u8]) -> Result<Self, Unreadable> {
        #[derive(Deserialize)]
        struct Document {
            hooks: Option<Hooks>,
            #[serde(default, deserialize_with = "or_null")]
            mounts: Vec<Mount>,
        }
        #[derive(Deserialize)]
        struct Hooks {
            #[serde(default, rename = "createRuntime", deserialize_with = "or_null")]
            create_runtime: Vec<Hook>,
        }
        let read = |json| serde_json::from_slice::<Document>(json).map_err(|e| Unreadable(format!("its spec: {e}")));
        let Document { hooks, mounts } = read(json)?;
        let create_runtime = hooks.map(|hooks| hooks.create_runtime).unwrap_or_default();
        bounded("hooks", create_runtime.len())?;
        bounded("mounts", mounts.len())?;
        Ok(Self { create_runtime, mounts })
    }
}

fn cri(extensions: &HashMap<String, Any>) -> Result<Option<Cri>, Unreadable> {
    match (extensions.get(CONTAINER), extensions.get(SANDBOX)) {
        (None, None) => Ok(None),
        (Some(container), None) => CriContainer::read(&container.value).map(|read| Some(Cri::Container(read))),
        (None, Some(sandbox)) => CriSandbox::read(&sandbox.value).map(|read| Some(Cri::Sandbox(read))),
        (Some(_), Some(_)) => Err(Unreadable("it says to be a container and a sandbox".to_owned())),
    }
}

/// What the CRI plugin wraps around all that it keeps.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Versioned<T> {
    version: String,
    metadata: T,
}

fn versioned<T: DeserializeOwned>(json: &[u8]) -> Result<T, Unreadable> {
    let Versioned { version, metadata } = serde_json::from_slice::<Versioned<T>>(json)
        .map_err(|e| Unreadable(format!("what the CRI plugin noted: {e}")))?;
    match version.as_str() {
        VERSION => Ok(metadata),
        _ => Err(Unreadable("the CRI plugin noted it in a form that is not known".to_owned())),
    }
}

#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    name: String,
    #[serde(default)]
    uid: String,
    #[serde(default)]
    namespace: String,
}

#[derive(Deserialize)]
struct Image {
    #[serde(default)]
    image: String,
    #[serde(default)]
    user_specified_image: String,
}

impl Image {
    fn written(self) -> Option<String> {
        Some(self.user_specified_image).filter(|name| !name.is_empty())
    }
}

impl CriContainer {
    fn read(json: &[u8]) -> Result<Self, Unreadable> {
        #[derive(Deserialize)]
        struct Metadata {
            #[serde(rename = "SandboxID")]
            sandbox: String,
            #[serde(rename = "ImageRef")]
            image: String,
            #[serde(rename = "Config")]
            config: Config,
        }
        #[derive(Deserialize)]
        struct Config {
            metadata: Option<Named>,
            image: Option<Image>,
            #[serde(default, deserialize_with = "or_null")]
            mounts: Vec<Mounted>,
            #[serde(default, deserialize_with = "or_null")]
            annotations: HashMap<String, String>,
        }
        #[derive(Deserialize)]
        struct Mounted {
            #[serde(default)]
            host_path: String,
            image: Option<Image>,
        }
        let Metadata { sandbox, image, config } = versioned(json)?;
        bounded("mounts", config.mounts.len())?;
        let requested = config.image.as_ref().map(|image| image.image.clone()).unwrap_or_default();
        let volume = |Mounted { host_path, image }| {
            let image: Image = image?;
            Some(ImageVolume { requested: image.image.clone(), image: image.written(), host_path })
        };
        Ok(Self {
            name: config.metadata.map(|metadata| metadata.name).unwrap_or_default(),
            sandbox,
            config: image
                .parse()
                .map_err(|_| Unreadable("the CRI plugin noted no SHA-256 digest of its image".to_owned()))?,
            image: config.image.and_then(Image::written),
            requested,
            image_volumes: config.mounts.into_iter().filter_map(volume).collect(),
            restored: RESTORED.iter().any(|key| config.annotations.contains_key(*key)),
        })
    }
}

impl CriSandbox {
    fn read(json: &[u8]) -> Result<Self, Unreadable> {
        #[derive(Deserialize)]
        struct Metadata {
            #[serde(rename = "Config")]
            config: Config,
            #[serde(default, rename = "RuntimeHandler")]
            handler: String,
        }
        #[derive(Deserialize)]
        struct Config {
            metadata: Named,
            #[serde(default, deserialize_with = "or_null")]
            labels: HashMap<String, String>,
        }
        let Metadata { config: Config { metadata, labels }, handler } = versioned(json)?;
        let Named { name, uid, namespace } = metadata;
        if namespace.is_empty() || name.is_empty() {
            return Err(Unreadable("the CRI plugin noted no name or namespace of its pod".to_owned()));
        }
        let (label, value) = break_glass::LABEL;
        let breaks_glass = labels.get(label).is_some_and(|found| found == value);
        Ok(Self { namespace, name, uid, handler, breaks_glass })
    }
}

fn bounded(what: &str, count: usize) -> Result<(), Unreadable> {
    match count > limits::CONTAINER_PARTS {
        true => Err(Unreadable(format!("{count} {what}, more than {}", limits::CONTAINER_PARTS))),
        false => Ok(()),
    }
}

/// Go writes `null` for a list or map without members.
fn or_null<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests;
