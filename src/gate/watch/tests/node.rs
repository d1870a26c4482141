//! A node with images and containers, as containerd would tell of it.

use std::{
    collections::HashMap,
    fs,
    os::unix::{fs::PermissionsExt, net::UnixDatagram},
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
};

use containerd_client::{
    services::v1::{
        Container as ContainerRecord, DeleteImageRequest, GetContainerRequest, GetContainerResponse, Image, Info,
        ListContainerMessage, ListContentResponse, ListImagesResponse, ListNamespacesResponse, ListTasksResponse,
        Namespace, Plugin, PluginsResponse, ReadContentRequest, ReadContentResponse,
        snapshots::{Info as Snapshot, StatSnapshotRequest, StatSnapshotResponse},
    },
    types::{Descriptor, v1::Process},
};
use prost::Message;

use super::super::*;
use crate::{
    activation::Paths,
    admission::Admission,
    clock::Clock,
    containerd::fake::{Answer, FakeContainerd},
    cri::StatusResponse,
    evidence::{content::ContentStore, kept::Kept},
    image::media_type,
};

pub(super) const ENFORCE: &str = "mode = \"enforce\"\n";
pub(super) const KEY: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";

/// What is in the one namespace of a containerd.
#[derive(Default)]
pub(super) struct Content {
    /// With their labels.
    pub(super) blobs: Vec<(Vec<u8>, HashMap<String, String>)>,
    pub(super) images: Vec<Image>,
    pub(super) containers: Vec<ContainerRecord>,
    pub(super) running: Vec<String>,
    /// The parents of snapshots.
    pub(super) parents: HashMap<String, String>,
    pub(super) connected: bool,
}

/// A node with images and containers, and a watch over it.
pub(super) struct Node {
    pub(super) content: Arc<Mutex<Content>>,
    folder: tempfile::TempDir,
    /// What journald takes, as long as it lives.
    pub(super) journal: Option<Arc<Mutex<Vec<String>>>>,
    /// Entries that were looked at.
    seen: AtomicU64,
    pub(super) activation: Arc<Activation>,
    pub(super) admission: Arc<Admission>,
    pub(super) watch: Arc<Watch>,
    _containerd: FakeContainerd,
}

const SOURCE: &str = "containerd.io/distribution.source.reg.io";
pub(super) const DENY: &str =
    "schema = 1\n[[exempt]]\nname = \"good\"\ndigests = [\"DIGEST\"]\n[default]\nrequire = \"deny\"\n";

/// An image of one layer whose name makes it one of its own: its configuration and manifest.
pub(super) fn image(name: &str) -> [Vec<u8>; 2] {
    let layer = chain(name);
    let config = format!(
        r#"{{"os":"linux","architecture":"amd64","author":"{name}","rootfs":{{"type":"layers","diff_ids":["{layer}"]}}}}"#
    );
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"{}","digest":"{}","size":{}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{layer}","size":1}}]}}"#,
        media_type::MANIFEST,
        media_type::CONFIG,
        Digest::of(config.as_bytes()),
        config.len()
    );
    [config.into_bytes(), manifest.into_bytes()]
}

/// What the only layer of the image `name` completes: itself.
pub(super) fn chain(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

pub(super) fn digest(name: &str) -> Digest {
    Digest::of(&image(name)[1])
}

/// The first field of an entry.
fn message(entry: &[u8]) -> String {
    let (size, value) = entry.strip_prefix(b"MESSAGE\n").unwrap().split_first_chunk().unwrap();
    String::from_utf8(value[..usize::try_from(u64::from_le_bytes(*size)).unwrap()].to_vec()).unwrap()
}

impl Node {
    pub(super) async fn new(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let journal = UnixDatagram::bind(folder.path().join("journal")).unwrap();
        journal.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let taken = Arc::new(Mutex::new(Vec::new()));
        let taking = Arc::downgrade(&taken);
        std::thread::spawn(move || {
            let mut bytes = vec![0; 1 << 16];
            while let Some(taken) = taking.upgrade() {
                if let Ok(length) = journal.recv(&mut bytes) {
                    taken.lock().unwrap().push(message(&bytes[..length]));
                }
            }
        });
        let content = Arc::new(Mutex::new(Content::default()));
        let served = content.clone();
        let containerd = FakeContainerd::start(move |method, message| served.lock().unwrap().answer(method, message));
        let paths =
            Paths { config: folder.path().join("config.toml"), boot: folder.path().join("boot.d"), state: None };
        let store = Arc::new(ContentStore::new(containerd.client(), Kept::default()));
        let admission = Arc::new(Admission::new(Arc::new(Clock::unkept()), Kept::default()));
        let walk = Arc::new(Walk::new(containerd.client(), store, admission.clone()));
        let writer = Arc::new(Journal::open(&folder.path().join("journal"), &folder.path().join("numbers")));
        let watch = Arc::new(Watch::new(containerd.client(), walk, writer));
        let activation = Arc::new(Activation::new(paths, |_, _| ()));
        let node = Self {
            content,
            folder,
            journal: Some(taken),
            seen: AtomicU64::new(0),
            activation,
            admission,
            watch,
            _containerd: containerd,
        };
        fs::create_dir(node.folder.path().join("boot.d")).unwrap();
        node.configure(config, &DENY.replace("DIGEST", &digest("good").to_string())).await;
        node
    }

    pub(super) async fn configure(&self, config: &str, policy: &str) -> Arc<crate::snapshot::Snapshot> {
        self.file("config.toml", config);
        self.file("policy.toml", policy);
        let (snapshot, outcome) = self.activation.load().await;
        assert_eq!(outcome, crate::activation::Outcome::Activated);
        snapshot
    }

    pub(super) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// Brings the image `name` onto the node, under this name of a record.
    pub(super) fn bring(&self, name: &str, record: &str) {
        let [config, manifest] = image(name);
        let target = Descriptor { digest: Digest::of(&manifest).to_string(), ..Descriptor::default() };
        let label = ("containerd.io/gc.ref.content.config".to_owned(), Digest::of(&config).to_string());
        let chain = ("containerd.io/gc.ref.snapshot.overlayfs".to_owned(), chain(name).to_string());
        let mut content = self.content();
        content.blobs.push((config, [chain].into()));
        // containerd noted where it fetched it.
        let source = record.split_once("reg.io/").map(|(_, path)| (SOURCE.to_owned(), path.to_owned()));
        content.blobs.push((manifest, source.into_iter().chain([label]).collect()));
        content.images.push(Image { name: record.to_owned(), target: Some(target), ..Image::default() });
    }

    /// Makes a container of the image `name`: of a pod, by the CRI plugin, or by another client.
    pub(super) fn run(&self, id: &str, name: &str, pod: bool, hooked: bool) {
        let hook = r#"{"hooks":{"createRuntime":[{"path":"/usr/libexec/pullgate/verifiers/pullgate-verifier","args":["pullgate-verifier","create-runtime"]}]}}"#;
        let any = |text: &str| prost_types::Any { type_url: String::new(), value: text.as_bytes().to_vec() };
        let config = Digest::of(&image(name)[0]);
        let target = digest(name).to_string();
        let records = self.content().images.clone();
        let leads = |image: &&Image| image.target.as_ref().is_some_and(|other| other.digest == target);
        let called = records.iter().find(leads).map_or_else(|| format!("reg.io/{name}"), |image| image.name.clone());
        let noted = format!(
            r#"{{"Version":"v1","Metadata":{{"SandboxID":"s","ImageRef":"{config}","Config":{{"image":{{"user_specified_image":"{called}"}}}}}}}}"#
        );
        let noted = pod.then(|| ("io.cri-containerd.container.metadata".to_owned(), any(&noted)));
        let now = Timestamp::now();
        let mut content = self.content();
        content.parents.insert(id.to_owned(), chain(name).to_string());
        content.containers.push(ContainerRecord {
            id: id.to_owned(),
            image: format!("reg.io/{name}"),
            snapshotter: "overlayfs".to_owned(),
            snapshot_key: id.to_owned(),
            spec: Some(any(if hooked { hook } else { "{}" })),
            created_at: Some(prost_types::Timestamp { seconds: now.as_second(), nanos: now.subsec_nanosecond() }),
            extensions: noted.into_iter().collect(),
            ..ContainerRecord::default()
        });
        content.running.push(id.to_owned());
    }

    /// Changes what the CRI plugin noted of the container `id`.
    pub(super) fn noted(&self, id: &str, change: impl FnOnce(&mut serde_json::Value)) {
        let mut content = self.content();
        let container = content.containers.iter_mut().find(|container| container.id == id).unwrap();
        let noted = container.extensions.values_mut().next().unwrap();
        let mut value = serde_json::from_slice(&noted.value).unwrap();
        change(&mut value);
        noted.value = value.to_string().into_bytes();
    }

    pub(super) fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap()
    }

    pub(super) async fn walk(&self) {
        let snapshot = self.activation.current().await;
        self.watch.walk_over(&snapshot).await.unwrap();
    }

    /// What containerd tells, looked at.
    pub(super) async fn told(&self, event: Event) {
        let found = self.watch.take("k8s.io", event).await;
        let snapshot = self.activation.current().await;
        self.watch.judge(&snapshot, "k8s.io", found.into_iter().collect()).await.unwrap();
    }

    /// The messages of entries since the last time.
    pub(super) fn entries(&self) -> Vec<String> {
        let Some(taken) = &self.journal else { return Vec::new() };
        let written = self.watch.journal.written() - self.seen.load(Ordering::Relaxed);
        // The other thread takes what is in the socket.
        while (taken.lock().unwrap().len() as u64) < written {
            std::thread::sleep(Duration::from_millis(1));
        }
        let entries = std::mem::take(&mut *taken.lock().unwrap());
        self.seen.fetch_add(entries.len() as u64, Ordering::Relaxed);
        entries
    }

    /// As [`Self::entries`], without those that sum up.
    pub(super) fn news(&self) -> Vec<String> {
        self.entries().into_iter().filter(|entry| !entry.starts_with("policy ")).collect()
    }
}

impl Content {
    fn answer(&mut self, method: &str, message: &[u8]) -> Answer {
        match method {
            "Namespaces/List" => Answer::message(&ListNamespacesResponse {
                namespaces: vec![Namespace { name: "k8s.io".to_owned(), ..Namespace::default() }],
            }),
            "Introspection/Plugins" => Answer::message(&PluginsResponse {
                plugins: vec![Plugin {
                    r#type: "io.containerd.snapshotter.v1".to_owned(),
                    id: "overlayfs".to_owned(),
                    ..Plugin::default()
                }],
            }),
            "Content/List" => {
                let info = |(bytes, labels): &(Vec<u8>, HashMap<String, String>)| Info {
                    digest: Digest::of(bytes).to_string(),
                    labels: labels.clone(),
                    ..Info::default()
                };
                Answer::message(&ListContentResponse { info: self.blobs.iter().map(info).collect() })
            }
            "Content/Read" => {
                let asked = ReadContentRequest::decode(message).unwrap().digest;
                match self.blobs.iter().find(|(bytes, _)| Digest::of(bytes).to_string() == asked) {
                    Some((bytes, _)) => Answer::message(&ReadContentResponse { offset: 0, data: bytes.clone() }),
                    None => Answer::missing(),
                }
            }
            "Images/List" => Answer::message(&ListImagesResponse { images: self.images.clone() }),
            "Images/Delete" => {
                let name = DeleteImageRequest::decode(message).unwrap().name;
                self.images.retain(|image| image.name != name);
                Answer::message(&())
            }
            "Containers/Get" => {
                let id = GetContainerRequest::decode(message).unwrap().id;
                match self.containers.iter().find(|container| container.id == id) {
                    Some(found) => Answer::message(&GetContainerResponse { container: Some(found.clone()) }),
                    None => Answer::missing(),
                }
            }
            "Containers/ListStream" => {
                let message = |record: &ContainerRecord| ListContainerMessage { container: Some(record.clone()) };
                Answer::Messages(self.containers.iter().map(|record| message(record).encode_to_vec()).collect())
            }
            "Tasks/List" => {
                let process = |id: &String| Process { container_id: id.clone(), status: 2, ..Process::default() };
                Answer::message(&ListTasksResponse { tasks: self.running.iter().map(process).collect() })
            }
            "Snapshots/Stat" => {
                let key = StatSnapshotRequest::decode(message).unwrap().key;
                match self.parents.get(&key).cloned() {
                    Some(parent) => Answer::message(&StatSnapshotResponse {
                        info: Some(Snapshot { parent, ..Snapshot::default() }),
                    }),
                    None => Answer::missing(),
                }
            }
            "RuntimeService/Status" => {
                let spec = if self.connected { "/etc/pullgate/base-spec.json" } else { "" };
                let config = format!(r#"{{"containerd":{{"runtimes":{{"runc":{{"baseRuntimeSpec":"{spec}"}}}}}}}}"#);
                Answer::message(&StatusResponse { info: [("config".to_owned(), config)].into() })
            }
            _ => Answer::missing(),
        }
    }
}
