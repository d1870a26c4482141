//! containerd as pullgate sees it, played by this process: it listens where containerd would, so it is the one peer
//! that the gates serve, and what the daemon takes is measured without what the real one would do with its answers.
//!
//! Every namespace `WORD-N…` holds image number N, as a pull leaves it while its layers are being unpacked. The namespace
//! `walk` holds the images that were recorded, as finished pulls leave them.

use std::{
    collections::HashMap,
    convert::Infallible,
    fs,
    ops::Range,
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use containerd_client::{
    services::v1::{
        Container, GetContainerRequest, GetContainerResponse, Image, Info, ListContainerMessage, ListContainersRequest,
        ListContentRequest, ListContentResponse, ListImagesRequest, ListImagesResponse, ListNamespacesRequest,
        ListNamespacesResponse, ListTasksRequest, ListTasksResponse, Namespace, Plugin, PluginsRequest,
        PluginsResponse, ReadContentRequest, ReadContentResponse, VersionResponse,
        snapshots::{
            Info as Snapshot, ListSnapshotsRequest, ListSnapshotsResponse, MountsRequest, MountsResponse,
            StatSnapshotRequest, StatSnapshotResponse,
        },
    },
    types::{Descriptor, Mount},
};
use prost::Message;
use pullgate::image::{Digest, chain_ids};
use serde_json::json;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{
    Request, Response, Status,
    body::Body,
    codegen::{BoxFuture, Service, http},
    server::Grpc,
    transport::Server,
};
use tonic_prost::ProstCodec;
use tower::service_fn;

use crate::node::Result;

pub const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";
/// What `distribution.source` says; containerd notes no port.
const SOURCE: &str = "containerd.io/distribution.source.127.0.0.1";
/// The sandbox of every container.
const POD: &str = "pod";
/// The namespace of what was recorded.
const WALK: &str = "walk";
const ROOT: &str = "/run/bench/content";

/// The images, and what was asked about them.
pub struct Store {
    images: Vec<Stored>,
    /// The layers that all have.
    pub layers: Vec<Digest>,
    /// Bytes of each.
    pub layer_size: i64,
    chains: Vec<Digest>,
    /// Which layer is being unpacked.
    unpacking: AtomicUsize,
    /// Calls that were answered.
    pub calls: AtomicU64,
    /// What containers call their image.
    pub called: String,
    recorded: OnceLock<Recorded>,
}

/// Images with records.
struct Recorded {
    numbers: Range<usize>,
    /// By digest: manifests and configurations.
    documents: HashMap<String, Vec<u8>>,
}

/// One image's documents.
pub struct Stored {
    manifest: Vec<u8>,
    config: Vec<u8>,
    pub digest: Digest,
}

impl Store {
    /// A store with `count` images of two layers of `size` bytes each.
    ///
    /// # Errors
    /// Where a layer cannot be written.
    pub fn new(count: usize, size: usize) -> Result<Self> {
        let blobs = Path::new(ROOT).join("blobs/sha256");
        fs::create_dir_all(&blobs)?;
        let mut layers = Vec::new();
        for layer in [vec![b'0'; size], vec![b'1'; size]] {
            let digest = Digest::of(&layer);
            fs::write(blobs.join(digest.hex()), &layer)?;
            layers.push(digest);
        }
        Ok(Self {
            images: (0..count).map(|number| Stored::new(number, &layers, size)).collect(),
            chains: chain_ids(&layers),
            layers,
            layer_size: size as i64,
            unpacking: AtomicUsize::new(0),
            calls: AtomicU64::new(0),
            called: String::new(),
            recorded: OnceLock::new(),
        })
    }

    /// From now on layer `number` is being unpacked, in every namespace.
    pub fn unpack(&self, number: usize) {
        self.unpacking.store(number, Ordering::Relaxed);
    }

    /// The layer that is being unpacked.
    pub fn layer(&self) -> Digest {
        self.layers[self.unpacking.load(Ordering::Relaxed)]
    }

    /// From now on the images `numbers` have records, in a namespace of their own.
    ///
    /// # Errors
    /// Where others had them before.
    pub fn record(&self, numbers: Range<usize>) -> Result<()> {
        let images = self.images.get(numbers.clone()).ok_or("there are not as many images")?;
        let documents = images.iter().flat_map(|image| [&image.manifest, &image.config]);
        let documents = documents.map(|bytes| (Digest::of(bytes).to_string(), bytes.clone())).collect();
        self.recorded.set(Recorded { numbers, documents }).map_err(|_| "other images have records".into())
    }

    pub fn images(&self) -> impl Iterator<Item = &Stored> {
        self.images.iter()
    }

    /// Mounts of the snapshot that is being filled in `namespace`.
    pub fn mounts(namespace: &str) -> Vec<Mount> {
        let options = vec!["workdir=/work".to_owned(), format!("upperdir=/{namespace}"), "lowerdir=/lower".to_owned()];
        vec![Mount { r#type: "overlay".to_owned(), source: "overlay".to_owned(), target: String::new(), options }]
    }

    fn image(&self, namespace: &str) -> std::result::Result<&Stored, Status> {
        let number = namespace.split('-').nth(1).and_then(|number| number.parse::<usize>().ok());
        number.and_then(|number| self.images.get(number)).ok_or_else(|| Status::not_found("no such namespace"))
    }

    fn blobs(&self, namespace: &str, request: &ListContentRequest) -> std::result::Result<ListContentResponse, Status> {
        let about_image =
            |filter: &String| ["l.", "config"].iter().any(|kind| filter.contains(&format!("gc.ref.content.{kind}")));
        let is_image = request.filters.first().is_some_and(about_image);
        let images = match namespace {
            WALK => self.on_record(),
            namespace => std::slice::from_ref(self.image(namespace)?),
        };
        let info = |image: &Stored| self.info(image);
        Ok(ListContentResponse { info: images.iter().filter(|_| is_image).map(info).collect() })
    }

    /// A manifest, as a pull notes it.
    fn info(&self, image: &Stored) -> Info {
        let layer = |(number, digest): (usize, &Digest)| {
            (format!("containerd.io/gc.ref.content.l.{number}"), digest.to_string())
        };
        let source = (SOURCE.to_owned(), "bench/app".to_owned());
        let config = ("containerd.io/gc.ref.content.config".to_owned(), Digest::of(&image.config).to_string());
        Info {
            digest: image.digest.to_string(),
            size: image.manifest.len() as i64,
            labels: self.layers.iter().enumerate().map(layer).chain([source, config]).collect(),
            ..Info::default()
        }
    }

    fn on_record(&self) -> &[Stored] {
        self.recorded.get().and_then(|recorded| self.images.get(recorded.numbers.clone())).unwrap_or_default()
    }

    fn namespaces(&self) -> ListNamespacesResponse {
        let walk = self.recorded.get().map(|_| Namespace { name: WALK.to_owned(), ..Namespace::default() });
        ListNamespacesResponse { namespaces: walk.into_iter().collect() }
    }

    fn records(&self, namespace: &str) -> ListImagesResponse {
        let record = |image: &Stored| {
            let target = Descriptor { digest: image.digest.to_string(), ..Descriptor::default() };
            Image { name: format!("bench-{}", image.digest.hex()), target: Some(target), ..Image::default() }
        };
        let images = if namespace == WALK { self.on_record() } else { &[] };
        ListImagesResponse { images: images.iter().map(record).collect() }
    }

    fn read(&self, namespace: &str, digest: &str) -> std::result::Result<ReadContentResponse, Status> {
        if namespace == WALK {
            let document = self.recorded.get().and_then(|recorded| recorded.documents.get(digest));
            let data = document.ok_or_else(|| Status::not_found("no such document"))?.clone();
            return Ok(ReadContentResponse { offset: 0, data });
        }
        let image = self.image(namespace)?;
        let data = if digest == image.digest.to_string() { &image.manifest } else { &image.config };
        Ok(ReadContentResponse { offset: 0, data: data.clone() })
    }

    /// A pod's container `id` of the image in `namespace`.
    fn container(&self, namespace: &str, id: String) -> std::result::Result<GetContainerResponse, Status> {
        let config = Digest::of(&self.image(namespace)?.config);
        let noted = json!({
            "Version": "v1",
            "Metadata": {
                "SandboxID": POD, "ImageRef": config,
                "Config": { "image": { "image": config, "user_specified_image": self.called } },
            },
        });
        let of_pod = json!({ "Version": "v1", "Metadata": { "Config": { "metadata": { "name": "pod", "namespace": "shop" } } } });
        let (kind, noted) = if id == POD { ("sandbox", of_pod) } else { ("container", noted) };
        let noted = prost_types::Any { type_url: String::new(), value: noted.to_string().into_bytes() };
        let container = Container {
            snapshotter: "overlayfs".to_owned(),
            snapshot_key: id.clone(),
            extensions: [(format!("io.cri-containerd.{kind}.metadata"), noted)].into(),
            id,
            ..Container::default()
        };
        Ok(GetContainerResponse { container: Some(container) })
    }

    /// The snapshot of any container: it stands on the layers that all images have.
    fn of_container(&self) -> StatSnapshotResponse {
        let parent = self.chains.last().map(ToString::to_string).unwrap_or_default();
        StatSnapshotResponse { info: Some(Snapshot { parent, ..Snapshot::default() }) }
    }

    fn plugins() -> PluginsResponse {
        let plugin = |kind: &str, id: &str| Plugin { r#type: kind.to_owned(), id: id.to_owned(), ..Plugin::default() };
        let content = Plugin {
            exports: [("root".to_owned(), ROOT.to_owned())].into(),
            ..plugin("io.containerd.content.v1", "content")
        };
        PluginsResponse { plugins: vec![plugin("io.containerd.snapshotter.v1", "overlayfs"), content] }
    }

    fn snapshots(&self) -> ListSnapshotsResponse {
        let name = format!("extract-1-abcd {}", self.chains[self.unpacking.load(Ordering::Relaxed)]);
        ListSnapshotsResponse { info: vec![Snapshot { name, ..Snapshot::default() }] }
    }
}

impl Stored {
    fn new(number: usize, layers: &[Digest], size: usize) -> Self {
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": { "Labels": { "number": number.to_string() } },
            "rootfs": { "type": "layers", "diff_ids": layers },
        });
        let config = config.to_string().into_bytes();
        let layer = |digest: &Digest| json!({ "mediaType": LAYER_TYPE, "digest": digest, "size": size });
        let layers: Vec<_> = layers.iter().map(layer).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": Digest::of(&config), "size": config.len(),
            },
            "layers": layers,
        });
        let manifest = manifest.to_string().into_bytes();
        Self { digest: Digest::of(&manifest), manifest, config }
    }
}

/// Serves `store` on `socket` until the runtime ends.
///
/// # Errors
/// Where the socket cannot be taken.
pub fn serve(store: Arc<Store>, socket: &str) -> Result<()> {
    let _ = fs::remove_file(socket);
    let listener = UnixListenerStream::new(tokio::net::UnixListener::bind(socket)?);
    tokio::spawn(Server::builder().serve_with_incoming(Containerd(store), listener));
    Ok(())
}

#[derive(Clone)]
struct Containerd(Arc<Store>);

impl Service<http::Request<Body>> for Containerd {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: http::Request<Body>) -> Self::Future {
        let store = self.0.clone();
        store.calls.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            let path = call.uri().path().trim_start_matches("/containerd.services.").to_owned();
            Ok(match path.as_str() {
                "version.v1.Version/Version" => one(call, |_, (): ()| Ok(VersionResponse::default())).await,
                "introspection.v1.Introspection/Plugins" => {
                    one(call, |_, _: PluginsRequest| Ok(Store::plugins())).await
                }
                "namespaces.v1.Namespaces/List" => {
                    one(call, |_, _: ListNamespacesRequest| Ok(store.namespaces())).await
                }
                "images.v1.Images/List" => {
                    one(call, |namespace, _: ListImagesRequest| Ok(store.records(namespace))).await
                }
                "containers.v1.Containers/ListStream" => {
                    stream(call, |_, _: ListContainersRequest| Ok(ListContainerMessage::default())).await
                }
                "tasks.v1.Tasks/List" => one(call, |_, _: ListTasksRequest| Ok(ListTasksResponse::default())).await,
                "snapshots.v1.Snapshots/List" => stream(call, |_, _: ListSnapshotsRequest| Ok(store.snapshots())).await,
                "snapshots.v1.Snapshots/Stat" => one(call, |_, _: StatSnapshotRequest| Ok(store.of_container())).await,
                "containers.v1.Containers/Get" => {
                    one(call, |namespace, get: GetContainerRequest| store.container(namespace, get.id)).await
                }
                "snapshots.v1.Snapshots/Mounts" => {
                    let mounts = |namespace: &str| MountsResponse { mounts: Store::mounts(namespace) };
                    one(call, |namespace, _: MountsRequest| Ok(mounts(namespace))).await
                }
                "content.v1.Content/List" => {
                    stream(call, |namespace, list: ListContentRequest| store.blobs(namespace, &list)).await
                }
                "content.v1.Content/Read" => {
                    stream(call, |namespace, read: ReadContentRequest| store.read(namespace, &read.digest)).await
                }
                _ => Status::unimplemented(path).into_http(),
            })
        })
    }
}

/// Answers a call that has one answer.
async fn one<Q, A>(
    call: http::Request<Body>,
    answer: impl Fn(&str, Q) -> std::result::Result<A, Status> + Sync,
) -> http::Response<Body>
where
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
{
    let answer = &answer;
    let service = service_fn(|request: Request<Q>| async move {
        let namespace = namespace_of(&request);
        answer(&namespace, request.into_inner()).map(Response::new)
    });
    Grpc::new(ProstCodec::<A, Q>::default()).unary(service, call).await
}

/// Answers a call whose answers are a stream, here of one.
async fn stream<Q, A>(
    call: http::Request<Body>,
    answer: impl Fn(&str, Q) -> std::result::Result<A, Status> + Sync,
) -> http::Response<Body>
where
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
{
    let answer = &answer;
    let service = service_fn(|request: Request<Q>| async move {
        let namespace = namespace_of(&request);
        let answer = answer(&namespace, request.into_inner())?;
        Ok::<_, Status>(Response::new(tokio_stream::iter([Ok(answer)])))
    });
    Grpc::new(ProstCodec::<A, Q>::default()).server_streaming(service, call).await
}

fn namespace_of<T>(request: &Request<T>) -> String {
    request.metadata().get("containerd-namespace").and_then(|name| name.to_str().ok()).unwrap_or_default().to_owned()
}
