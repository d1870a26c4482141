//! containerd's API as pullgate uses it: read-only but for one delegated `Diff.Apply`, and the image records that quarantine
//! removes.

pub mod containers;
mod events;
pub mod snapshots;
mod tasks;

use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use containerd_client::{
    services::v1::{
        ApplyRequest, ApplyResponse, DeleteImageRequest, GetImageRequest, Image, Info, ListContainersRequest,
        ListContentRequest, ListImagesRequest, ListNamespacesRequest, PluginsRequest, ReadContentRequest,
        containers_client::ContainersClient,
        content_client::ContentClient,
        diff_client::DiffClient,
        images_client::ImagesClient,
        introspection_client::IntrospectionClient,
        namespaces_client::NamespacesClient,
        snapshots::{ListSnapshotsRequest, MountsRequest, snapshots_client::SnapshotsClient},
        version_client::VersionClient,
    },
    types::{Descriptor, Mount},
};
use hyper_util::rt::TokioIo;
use tonic::{
    Code, Request, Status,
    metadata::MetadataValue,
    transport::{Channel, Endpoint, Uri},
};

pub use self::events::{Event, Events, Told};
use crate::{image::Digest, limits};

const NAMESPACE: &str = "containerd-namespace";
const LEASE: &str = "containerd-lease";
/// Plugins change only with a restart of containerd; a short memory spares a call for each layer.
const PLUGINS_LIFE: Duration = Duration::from_secs(10);
/// A list of a busy store is longer than the 4 MiB that gRPC expects.
const LIST_BYTES: usize = 64 << 20;

/// A connection to containerd that is made when it is needed, and again after containerd was restarted.
pub struct Containerd {
    socket: Arc<Mutex<PathBuf>>,
    channel: Channel,
    plugins: Mutex<Option<(Instant, Plugins)>>,
}

/// What pullgate needs to know about containerd's plugins.
#[derive(Clone, Debug, Default)]
pub struct Plugins {
    /// The snapshotters that are running, `overlayfs` first.
    pub snapshotters: Vec<String>,
    /// Where the content store keeps its files, if it said so.
    pub content_root: Option<PathBuf>,
}

/// One plugin of containerd.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What it is, `io.containerd.differ.v1` for example.
    pub kind: String,
    /// Its name.
    pub id: String,
    /// Why it does not run.
    pub error: Option<String>,
}

/// A snapshot that an unpack is filling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtractSnapshot {
    /// Its key.
    pub key: String,
    /// The chain id that it becomes.
    pub chain: Digest,
}

impl ExtractSnapshot {
    fn of(key: String) -> Option<Self> {
        let (unique, chain) = key.split_once(' ')?;
        let chain = chain.parse().ok().filter(|_| unique.starts_with("extract-"))?;
        Some(Self { key, chain })
    }
}

/// A blob and its labels.
#[derive(Clone, Debug)]
pub struct Blob {
    /// Its digest as containerd says.
    pub digest: Digest,
    /// Its labels.
    pub labels: HashMap<String, String>,
}

impl Containerd {
    /// containerd behind `socket`. Does not connect yet.
    pub fn new(socket: &Path) -> Self {
        let socket = Arc::new(Mutex::new(socket.to_owned()));
        let at = socket.clone();
        let connect = tower::service_fn(move |_: Uri| {
            let path = lock(&at).clone();
            async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(connect);
        Self { socket, channel, plugins: Mutex::new(None) }
    }

    /// From the next connection on, containerd is behind `socket`.
    pub fn locate(&self, socket: &Path) {
        socket.clone_into(&mut lock(&self.socket));
    }

    /// The process that listens on containerd's socket now: containerd itself.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn process(&self) -> std::io::Result<Option<i32>> {
        let socket = lock(&self.socket).clone();
        Ok(tokio::net::UnixStream::connect(socket).await?.peer_cred()?.pid())
    }

    /// containerd's version.
    pub async fn version(&self) -> Result<String, Status> {
        let answer = VersionClient::new(self.channel.clone()).version(request((), None)).await?;
        Ok(answer.into_inner().version)
    }

    /// The snapshotters and the content store.
    pub async fn plugins(&self) -> Result<Plugins, Status> {
        if let Some((at, plugins)) = lock(&self.plugins).as_ref()
            && at.elapsed() < PLUGINS_LIFE
        {
            return Ok(plugins.clone());
        }
        let mut client = IntrospectionClient::new(self.channel.clone());
        let filters =
            vec!["type==io.containerd.snapshotter.v1".to_owned(), "type==io.containerd.content.v1".to_owned()];
        let answer = client.plugins(request(PluginsRequest { filters }, None)).await?.into_inner();
        let mut plugins = Plugins::default();
        for plugin in answer.plugins.into_iter().filter(|plugin| plugin.init_err.is_none()) {
            if plugin.r#type == "io.containerd.content.v1" {
                plugins.content_root = plugin.exports.get("root").map(PathBuf::from);
            } else {
                plugins.snapshotters.push(plugin.id);
            }
        }
        plugins.snapshotters.sort_by_key(|name| (name != "overlayfs", name.clone()));
        *lock(&self.plugins) = Some((Instant::now(), plugins.clone()));
        Ok(plugins)
    }

    /// Every plugin that containerd knows.
    pub async fn loaded(&self) -> Result<Vec<Loaded>, Status> {
        let mut client = IntrospectionClient::new(self.channel.clone());
        let answer = client.plugins(request(PluginsRequest { filters: Vec::new() }, None)).await?.into_inner();
        let loaded = |plugin: containerd_client::services::v1::Plugin| Loaded {
            kind: plugin.r#type,
            id: plugin.id,
            error: plugin.init_err.map(|status| status.message),
        };
        Ok(answer.plugins.into_iter().map(loaded).collect())
    }

    /// The namespaces there are.
    pub async fn namespaces(&self) -> Result<Vec<String>, Status> {
        let mut client = NamespacesClient::new(self.channel.clone());
        let answer = client.list(request(ListNamespacesRequest { filter: String::new() }, None)).await?;
        Ok(answer.into_inner().namespaces.into_iter().map(|namespace| namespace.name).collect())
    }

    /// The snapshots of `snapshotter` that an unpack is filling: their key is `extract-UNIQUE CHAINID`.
    pub async fn extract_snapshots(&self, namespace: &str, snapshotter: &str) -> Result<Vec<ExtractSnapshot>, Status> {
        let mut client = SnapshotsClient::new(self.channel.clone()).max_decoding_message_size(LIST_BYTES);
        let list = ListSnapshotsRequest {
            snapshotter: snapshotter.to_owned(),
            filters: vec!["kind==active,name~=/^extract-/".to_owned()],
        };
        let mut stream = client.list(request(list, Some(namespace))).await?.into_inner();
        let mut found = Vec::new();
        while let Some(page) = stream.message().await? {
            found.extend(page.info.into_iter().filter_map(|info| ExtractSnapshot::of(info.name)));
        }
        Ok(found)
    }

    /// The mounts of an active snapshot; none when it is gone by now.
    pub async fn mounts(&self, namespace: &str, snapshotter: &str, key: &str) -> Result<Option<Vec<Mount>>, Status> {
        let mut client = SnapshotsClient::new(self.channel.clone());
        let mounts = MountsRequest { snapshotter: snapshotter.to_owned(), key: key.to_owned() };
        match client.mounts(request(mounts, Some(namespace))).await {
            Ok(answer) => Ok(Some(answer.into_inner().mounts)),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(status),
        }
    }

    /// The blobs of `namespace` that match one of `filters`.
    ///
    /// # Errors
    /// [`Code::ResourceExhausted`] when there are more than `limit`: what a part of them says is not the whole truth.
    pub async fn blobs(&self, namespace: &str, filters: Vec<String>, limit: usize) -> Result<Vec<Blob>, Status> {
        let mut found = Vec::new();
        let each = |blob| {
            found.push(blob);
            Ok(())
        };
        self.each_blob(namespace, filters, limit, each).await?;
        Ok(found)
    }

    /// Hands the blobs of `namespace` that match one of `filters` to `each`, as they come.
    ///
    /// # Errors
    /// As [`Self::blobs`], and whatever `each` says.
    pub async fn each_blob(
        &self,
        namespace: &str,
        filters: Vec<String>,
        limit: usize,
        mut each: impl FnMut(Blob) -> Result<(), Status>,
    ) -> Result<(), Status> {
        let mut client = ContentClient::new(self.channel.clone()).max_decoding_message_size(LIST_BYTES);
        let mut stream = client.list(request(ListContentRequest { filters }, Some(namespace))).await?.into_inner();
        let mut count = 0;
        while let Some(page) = stream.message().await? {
            count += page.info.len();
            if count > limit {
                return Err(Status::resource_exhausted(format!("more than {limit} documents are about this")));
            }
            for Info { digest, labels, .. } in page.info {
                if let Ok(digest) = digest.parse() {
                    each(Blob { digest, labels })?;
                }
            }
        }
        Ok(())
    }

    /// The bytes stored under `digest`, at most `limit`; none when there are none.
    ///
    /// # Errors
    /// [`Code::OutOfRange`] when there are more.
    pub async fn read(&self, namespace: &str, digest: &Digest, limit: u64) -> Result<Option<Vec<u8>>, Status> {
        let mut bytes = Vec::new();
        let mut more = |chunk: &[u8]| {
            bytes.extend_from_slice(chunk);
            match bytes.len() as u64 > limit {
                true => Err(Status::out_of_range(format!("more than {limit} bytes"))),
                false => Ok(()),
            }
        };
        Ok(self.stream(namespace, digest, &mut more).await?.then_some(bytes))
    }

    /// Hands the bytes stored under `digest` to `sink`, piece by piece. False when there are none. Each piece has
    /// [`limits::CONTAINERD_CALL`]; there may be many.
    pub async fn stream(
        &self,
        namespace: &str,
        digest: &Digest,
        sink: &mut (dyn FnMut(&[u8]) -> Result<(), Status> + Send),
    ) -> Result<bool, Status> {
        let mut client = ContentClient::new(self.channel.clone()).max_decoding_message_size(LIST_BYTES);
        let read = ReadContentRequest { digest: digest.to_string(), offset: 0, size: 0 };
        let mut call = Request::new(read);
        insert(&mut call, NAMESPACE, namespace);
        let mut stream = match in_time(client.read(call)).await {
            Ok(answer) => answer.into_inner(),
            Err(status) if status.code() == Code::NotFound => return Ok(false),
            Err(status) => return Err(status),
        };
        loop {
            match in_time(stream.message()).await {
                Ok(Some(piece)) => sink(&piece.data)?,
                Ok(None) => return Ok(true),
                Err(status) if status.code() == Code::NotFound => return Ok(false),
                Err(status) => return Err(status),
            }
        }
    }

    /// The image records whose target is `target`.
    pub async fn images(&self, namespace: &str, target: &Digest) -> Result<Vec<Image>, Status> {
        self.images_that(namespace, vec![format!("target.digest=={target}")]).await
    }

    /// Every image record.
    pub async fn all_images(&self, namespace: &str) -> Result<Vec<Image>, Status> {
        self.images_that(namespace, Vec::new()).await
    }

    async fn images_that(&self, namespace: &str, filters: Vec<String>) -> Result<Vec<Image>, Status> {
        let mut client = ImagesClient::new(self.channel.clone()).max_decoding_message_size(LIST_BYTES);
        Ok(client.list(request(ListImagesRequest { filters }, Some(namespace))).await?.into_inner().images)
    }

    /// Removes the image record `name` if it still leads to `target`; containerd 1.7 removes it in any case. That there is
    /// none is no error. What it leads to goes when nothing needs it any more.
    pub async fn remove_image(&self, namespace: &str, name: &str, target: &Digest) -> Result<(), Status> {
        let target = Descriptor { digest: target.to_string(), ..Descriptor::default() };
        let delete = DeleteImageRequest { name: name.to_owned(), sync: false, target: Some(target) };
        match ImagesClient::new(self.channel.clone()).delete(request(delete, Some(namespace))).await {
            Err(status) if status.code() != Code::NotFound => Err(status),
            _ => Ok(()),
        }
    }

    /// The digest that the image record `name` stands for; none when there is no such record.
    ///
    /// # Errors
    /// When containerd does not answer, or the digest is of a kind that pullgate does not know.
    pub async fn target(&self, namespace: &str, name: &str) -> Result<Option<Digest>, Status> {
        let get = GetImageRequest { name: name.to_owned() };
        let image = match ImagesClient::new(self.channel.clone()).get(request(get, Some(namespace))).await {
            Ok(answer) => answer.into_inner().image,
            Err(status) if status.code() == Code::NotFound => return Ok(None),
            Err(status) => return Err(status),
        };
        let target = image.and_then(|image| image.target).ok_or_else(|| Status::internal("an image without target"))?;
        target.digest.parse().map(Some).map_err(|_| Status::unimplemented("its digest is not a SHA-256"))
    }

    /// The names of the images of all containers that `filter` selects, at most `limit`, and whether there are more.
    pub async fn images_in_use(
        &self,
        namespace: &str,
        filter: String,
        limit: usize,
    ) -> Result<(BTreeSet<String>, bool), Status> {
        let mut client = ContainersClient::new(self.channel.clone()).max_decoding_message_size(LIST_BYTES);
        let list = ListContainersRequest { filters: vec![filter] };
        let mut stream = client.list_stream(request(list, Some(namespace))).await?.into_inner();
        let mut images = BTreeSet::new();
        while let Some(message) = stream.message().await? {
            let image = message.container.map(|container| container.image).unwrap_or_default();
            // A container that was made from a directory has no image.
            if !image.is_empty() && !images.contains(&image) {
                if images.len() == limit {
                    return Ok((images, true));
                }
                images.insert(image);
            }
        }
        Ok((images, false))
    }

    /// The connection, for services that are asked one question only.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Lets containerd apply a layer. No deadline: a layer takes as long as it takes.
    pub async fn apply(
        &self,
        apply: ApplyRequest,
        namespace: &str,
        lease: Option<&str>,
    ) -> Result<ApplyResponse, Status> {
        let mut call = Request::new(apply);
        insert(&mut call, NAMESPACE, namespace);
        if let Some(lease) = lease {
            insert(&mut call, LEASE, lease);
        }
        Ok(DiffClient::new(self.channel.clone()).apply(call).await?.into_inner())
    }
}

/// The namespace that a call to pullgate names. Debian's containerd 1.7.24 does not pass it on.
pub fn namespace_of<T>(request: &Request<T>) -> Option<String> {
    header(request, NAMESPACE)
}

/// The lease that a call to pullgate names.
pub fn lease_of<T>(request: &Request<T>) -> Option<String> {
    header(request, LEASE)
}

fn header<T>(request: &Request<T>, name: &str) -> Option<String> {
    request.metadata().get(name)?.to_str().ok().map(str::to_owned)
}

/// A call within `namespace`; what it makes hangs on `lease`, if there is one.
pub(crate) fn leased<T>(message: T, namespace: &str, lease: Option<&str>) -> Request<T> {
    let mut request = request(message, Some(namespace));
    if let Some(lease) = lease {
        insert(&mut request, LEASE, lease);
    }
    request
}

fn request<T>(message: T, namespace: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limits::CONTAINERD_CALL);
    if let Some(namespace) = namespace {
        insert(&mut request, NAMESPACE, namespace);
    }
    request
}

async fn in_time<T>(answer: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let silent = |_| Status::deadline_exceeded("it does not answer");
    tokio::time::timeout(limits::CONTAINERD_CALL, answer).await.map_err(silent)?
}

/// A value that is no header value is left out: containerd then says that the namespace is missing.
fn insert<T>(request: &mut Request<T>, name: &'static str, value: &str) {
    if let Ok(value) = MetadataValue::try_from(value) {
        request.metadata_mut().insert(name, value);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;
