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

use super::*;
use crate::{
    activation::Paths,
    admission::Admission,
    clock::Clock,
    containerd::fake::{Answer, FakeContainerd},
    cri::StatusResponse,
    evidence::{content::ContentStore, kept::Kept},
    image::media_type,
};

/// What is in the one namespace of a containerd.
#[derive(Default)]
struct Content {
    /// With their labels.
    blobs: Vec<(Vec<u8>, HashMap<String, String>)>,
    images: Vec<Image>,
    containers: Vec<ContainerRecord>,
    running: Vec<String>,
    /// The parents of snapshots.
    parents: HashMap<String, String>,
    connected: bool,
}

/// A node with images and containers, and a watch over it.
struct Node {
    content: Arc<Mutex<Content>>,
    folder: tempfile::TempDir,
    /// What journald takes, as long as it lives.
    journal: Option<Arc<Mutex<Vec<String>>>>,
    /// Entries that were looked at.
    seen: AtomicU64,
    activation: Arc<Activation>,
    admission: Arc<Admission>,
    watch: Arc<Watch>,
    _containerd: FakeContainerd,
}

const SOURCE: &str = "containerd.io/distribution.source.reg.io";
const DENY: &str = "schema = 1\n[[exempt]]\nname = \"good\"\ndigests = [\"DIGEST\"]\n[default]\nrequire = \"deny\"\n";

/// An image without layers whose name makes it one of its own: its configuration and manifest.
fn image(name: &str) -> [Vec<u8>; 2] {
    let config = format!(
        r#"{{"os":"linux","architecture":"amd64","author":"{name}","rootfs":{{"type":"layers","diff_ids":[]}}}}"#
    );
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"{}","digest":"{}","size":{}}},"layers":[]}}"#,
        media_type::MANIFEST,
        media_type::CONFIG,
        Digest::of(config.as_bytes()),
        config.len()
    );
    [config.into_bytes(), manifest.into_bytes()]
}

fn digest(name: &str) -> Digest {
    Digest::of(&image(name)[1])
}

/// The first field of an entry.
fn message(entry: &[u8]) -> String {
    let (size, value) = entry.strip_prefix(b"MESSAGE\n").unwrap().split_first_chunk().unwrap();
    String::from_utf8(value[..usize::try_from(u64::from_le_bytes(*size)).unwrap()].to_vec()).unwrap()
}

impl Node {
    async fn new(config: &str) -> Self {
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

    async fn configure(&self, config: &str, policy: &str) -> Arc<crate::snapshot::Snapshot> {
        self.file("config.toml", config);
        self.file("policy.toml", policy);
        let (snapshot, outcome) = self.activation.load().await;
        assert_eq!(outcome, crate::activation::Outcome::Activated);
        snapshot
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// Brings the image `name` onto the node, under this name of a record.
    fn bring(&self, name: &str, record: &str) {
        let [config, manifest] = image(name);
        let target = Descriptor { digest: Digest::of(&manifest).to_string(), ..Descriptor::default() };
        let label = ("containerd.io/gc.ref.content.config".to_owned(), Digest::of(&config).to_string());
        let chain = ("containerd.io/gc.ref.snapshot.overlayfs".to_owned(), Digest::of(name.as_bytes()).to_string());
        let mut content = self.content();
        content.blobs.push((config, [chain].into()));
        // containerd noted where it fetched it.
        let source = record.split_once("reg.io/").map(|(_, path)| (SOURCE.to_owned(), path.to_owned()));
        content.blobs.push((manifest, source.into_iter().chain([label]).collect()));
        content.images.push(Image { name: record.to_owned(), target: Some(target), ..Image::default() });
    }

    /// Makes a container of the image `name`: of a pod, by the CRI plugin, or by another client.
    fn run(&self, id: &str, name: &str, pod: bool, hooked: bool) {
        let hook = r#"{"hooks":{"createRuntime":[{"path":"/usr/libexec/pullgate/verifiers/pullgate-verifier","args":["pullgate-verifier","create-runtime"]}]}}"#;
        let any = |text: &str| prost_types::Any { type_url: String::new(), value: text.as_bytes().to_vec() };
        let config = Digest::of(&image(name)[0]);
        let noted = format!(
            r#"{{"Version":"v1","Metadata":{{"SandboxID":"s","ImageRef":"{config}","Config":{{"image":{{"user_specified_image":"reg.io/{name}"}}}}}}}}"#
        );
        let noted = pod.then(|| ("io.cri-containerd.container.metadata".to_owned(), any(&noted)));
        let now = Timestamp::now();
        let mut content = self.content();
        content.parents.insert(id.to_owned(), Digest::of(name.as_bytes()).to_string());
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

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap()
    }

    async fn walk(&self) {
        let snapshot = self.activation.current().await;
        self.watch.walk_over(&snapshot).await.unwrap();
    }

    /// What containerd tells, looked at.
    async fn told(&self, event: Event) {
        let found = self.watch.take("k8s.io", event).await;
        let snapshot = self.activation.current().await;
        self.watch.judge(&snapshot, "k8s.io", found.into_iter().collect()).await.unwrap();
    }

    /// The messages of entries since the last time.
    fn entries(&self) -> Vec<String> {
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
    fn news(&self) -> Vec<String> {
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
                    Some(parent) => {
                        Answer::message(&StatSnapshotResponse { info: Some(Snapshot { parent, ..Snapshot::default() }) })
                    }
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

const ENFORCE: &str = "mode = \"enforce\"\n";

#[tokio::test]
async fn what_is_not_admitted_is_told_once_for_each_policy() {
    let node = Node::new(ENFORCE).await;
    node.bring("good", "reg.io/good");
    node.bring("evil", "reg.io/evil");
    node.run("c1", "evil", true, true);
    node.run("c2", "good", true, true);
    node.walk().await;
    let entries = node.entries();
    assert_eq!(entries.len(), 3, "{entries:?}");
    assert!(
        entries[0].starts_with(&format!("reg.io/evil@{} is on this node: DENY PG201", digest("evil"))),
        "{entries:?}"
    );
    assert!(entries[1].starts_with("container c1 runs reg.io/evil@sha256:"), "{entries:?}");
    assert!(entries[2].contains("2 images on this node, 1 admitted; refused: 1 (reg.io/evil…)"), "{entries:?}");
    assert!(entries[2].ends_with("2 containers run, 1 of them without an allow"), "{entries:?}");
    for _ in 0..3 {
        node.walk().await;
        node.told(Event::Image("reg.io/evil".to_owned())).await;
        node.told(Event::Started("c1".to_owned())).await;
    }
    assert_eq!(node.entries(), [""; 0]);
    let report = node.watch.report();
    assert_eq!((report.images_without_allow, report.containers_without_allow), (1, 1));
    assert_eq!(report.last_walk.map(|last| (last.images, last.containers)), Some((2, 2)));
    let another = DENY.replace("DIGEST", &digest("evil").to_string());
    let snapshot = node.configure(ENFORCE, &another).await;
    node.watch.prepare(snapshot).await;
    node.walk().await;
    let entries = node.entries();
    assert_eq!(entries.len(), 3, "{entries:?}");
    assert!(entries[0].starts_with("reg.io/good@") && entries[1].starts_with("container c2 runs reg.io/good@"));
}

#[tokio::test]
async fn a_container_that_ended_is_forgotten_and_another_start_is_told_again() {
    let node = Node::new(ENFORCE).await;
    node.bring("evil", "reg.io/evil");
    node.run("c1", "evil", false, false);
    node.told(Event::Started("c1".to_owned())).await;
    let told = |entries: Vec<String>| {
        let expected = "container c1 started without the start gate (by no pod), runs reg.io/evil@";
        assert!(entries.len() == 1 && entries[0].starts_with(expected), "{entries:?}");
    };
    told(node.entries());
    node.told(Event::Started("c1".to_owned())).await;
    assert_eq!(node.entries(), [""; 0]);
    node.told(Event::Ended("c1".to_owned())).await;
    assert_eq!(node.watch.report().containers_without_allow, 0);
    node.told(Event::Started("c1".to_owned())).await;
    told(node.entries());
    node.content().running.clear();
    tokio::time::sleep(Duration::from_millis(1)).await;
    node.walk().await;
    assert_eq!(node.watch.report().containers_without_allow, 0);
}

#[tokio::test]
async fn a_container_is_judged_by_what_it_runs_though_its_record_is_gone_or_leads_elsewhere() {
    let node = Node::new(ENFORCE).await;
    node.bring("good", "reg.io/good");
    node.bring("evil", "reg.io/evil");
    for (id, pod) in [("pod", true), ("docker", false)] {
        node.run(id, "evil", pod, true);
    }
    let target = node.content().images[0].target.clone();
    node.content().images[1].target = target;
    node.walk().await;
    let mut news = node.news();
    news.sort();
    assert_eq!(news.len(), 2, "{news:?}");
    assert!(news.iter().all(|entry| entry.contains(&digest("evil").to_string())), "{news:?}");
    node.content().images.clear();
    let snapshot = node.configure(ENFORCE, &(DENY.replace("DIGEST", &digest("good").to_string()) + "\n")).await;
    node.watch.prepare(snapshot).await;
    let news = node.news();
    assert!(news.len() == 2 && news.iter().all(|entry| entry.contains(&digest("evil").to_string())), "{news:?}");
    // Nothing of it is left to judge.
    node.content().blobs.clear();
    node.walk().await;
    let news = node.news();
    assert!(news.len() == 2 && news.iter().all(|entry| entry.contains("RETRY PG307")), "{news:?}");
}

#[tokio::test]
async fn a_name_alone_vouches_for_no_container() {
    let node = Node::new(ENFORCE).await;
    node.bring("good", "reg.io/good");
    for id in ["gone", "directory", "unnamed", "there"] {
        node.run(id, "good", false, false);
    }
    {
        let mut content = node.content();
        content.parents.remove("gone");
        content.containers[1].snapshot_key.clear();
        content.containers[2].snapshot_key.clear();
        content.containers[2].image.clear();
    }
    node.walk().await;
    let mut news = node.news();
    news.sort();
    assert_eq!(news.len(), 3, "{news:?}");
    for (entry, id) in news.iter().zip(["directory", "gone", "unnamed"]) {
        let begins = entry.starts_with(&format!("container {id} started without the start gate (by no pod), runs "));
        assert!(begins && entry.contains("RETRY PG307: its files are in no snapshot"), "{news:?}");
    }
}

#[tokio::test]
async fn a_container_of_a_pod_without_the_hook_is_a_way_around_where_others_have_it() {
    let node = Node::new(ENFORCE).await;
    node.bring("good", "reg.io/good");
    node.content().connected = true;
    node.run("old", "good", true, false);
    node.content().containers[0].created_at = Some(prost_types::Timestamp { seconds: 1, nanos: 0 });
    node.walk().await;
    assert_eq!(node.news(), [""; 0]);
    for (id, pod, hooked) in [("pod", true, true), ("docker", false, false), ("around", true, false)] {
        node.run(id, "good", pod, hooked);
        node.told(Event::Container(id.to_owned())).await;
    }
    let news = node.news();
    assert!(
        news.len() == 1 && news[0].starts_with("container around (reg.io/good) of a pod was made without"),
        "{news:?}"
    );
    assert_eq!(node.watch.report().bypasses, 1);
    node.told(Event::Container("around".to_owned())).await;
    node.walk().await;
    assert_eq!(node.news(), [""; 0]);
    // A walk finds what nobody told of.
    node.run("unheard", "good", true, false);
    node.walk().await;
    assert_eq!(node.news().len(), 1);
    // What cannot be read is no way out.
    node.run("garbled", "good", true, false);
    for container in &mut node.content().containers {
        container.extensions.values_mut().for_each(|value| value.value = b"{".to_vec());
    }
    node.told(Event::Container("garbled".to_owned())).await;
    assert_eq!(node.news().len(), 1);
    node.content().connected = false;
    node.walk().await;
    node.news();
    node.run("later", "good", true, false);
    node.told(Event::Container("later".to_owned())).await;
    assert_eq!(node.news(), [""; 0]);
}

#[tokio::test]
async fn what_the_self_test_made_is_nobodys() {
    let node = Node::new(ENFORCE).await;
    node.content().connected = true;
    node.walk().await;
    let [config, manifest] = image("one-time");
    let listed = node.admission.one_time().list([Digest::of(&manifest), Digest::of(&config)], None);
    node.bring("one-time", "reg.io/one-time");
    node.run("c", "one-time", true, false);
    node.told(Event::Container("c".to_owned())).await;
    node.told(Event::Started("c".to_owned())).await;
    node.walk().await;
    assert_eq!(node.news(), [""; 0]);
    drop(listed);
    node.walk().await;
    assert_eq!(node.news().len(), 3);
}

/// Runs the watch on what `events` tell until `entries` were written.
async fn watched(node: &Node, events: Vec<Told>, entries: usize) -> Vec<String> {
    let (connected, connections) = tokio::sync::watch::channel(0);
    let running = tokio::spawn(node.watch.clone().run(node.activation.clone(), connections));
    connected.send_modify(|count| *count += 1);
    while node.watch.report().last_walk.is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    events.iter().for_each(|told| node.watch.hear(told));
    let mut found = Vec::new();
    while found.len() < entries {
        tokio::time::sleep(Duration::from_millis(1)).await;
        found.extend(node.news());
    }
    running.abort();
    found
}

fn told(namespace: &str, event: Event) -> Told {
    Told { namespace: namespace.to_owned(), event }
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_is_exempt_is_silent() {
    let exempt = format!("{ENFORCE}[watch]\nexempt-namespaces = [\"k8s.io\"]\n");
    let node = Node::new(&exempt).await;
    node.bring("evil", "reg.io/evil");
    node.run("c", "evil", false, false);
    node.walk().await;
    assert_eq!(node.entries(), [""; 0]);
    let events = |namespace: &str| {
        vec![told(namespace, Event::Image("reg.io/evil".into())), told(namespace, Event::Started("c".into()))]
    };
    let both = [events("k8s.io"), events("moby")].concat();
    let found = watched(&node, both, 2).await;
    assert!(found.len() == 2 && found.iter().all(|entry| entry.contains("reg.io/evil")), "{found:?}");
}

#[tokio::test(start_paused = true)]
async fn more_than_there_is_room_for_leads_to_a_walk() {
    let node = Node::new(ENFORCE).await;
    for _ in 0..limits::TOLD_WAITING {
        node.watch.hear(&told("k8s.io", Event::ImageGone("x".into())));
    }
    node.bring("evil", "reg.io/evil");
    let overflow = tokio::time::timeout(Duration::from_millis(1), node.watch.overflow.notified());
    assert!(overflow.await.is_err(), "there is room for as many");
    node.watch.hear(&told("k8s.io", Event::Image("reg.io/evil".into())));
    node.watch.overflow.notified().await;
    let node = Node::new(ENFORCE).await;
    let before = watched(&node, Vec::new(), 0).await;
    assert_eq!(before, [""; 0]);
    let (connected, connections) = tokio::sync::watch::channel(0);
    *node.watch.hearing.lock().unwrap() = Some(mpsc::channel(1).1);
    let snapshot = node.activation.current().await;
    node.bring("evil", "reg.io/evil");
    tokio::select! {
        () = node.watch.walks(&node.activation, connections) => {}
        () = async {
            connected.send_modify(|count| *count += 1);
            tokio::time::sleep(snapshot.config.watch.every / 2).await;
            node.news();
            node.bring("worse", "reg.io/worse");
            node.watch.overflow.notify_one();
            tokio::time::sleep(limits::EVENTS_PAUSE * 4).await;
        } => {}
    }
    let news = node.news();
    assert!(news.len() == 1 && news[0].starts_with("reg.io/worse"), "{news:?}");
}

#[tokio::test(start_paused = true)]
async fn several_records_of_one_image_are_looked_at_together_and_what_happens_meanwhile_too() {
    let node = Node::new(ENFORCE).await;
    node.bring("evil", "reg.io/later");
    node.content().images.clear();
    watched(&node, Vec::new(), 0).await;
    let (told, hearing) = mpsc::channel(8);
    let sent = async {
        for name in ["reg.io/a", "reg.io/b"] {
            node.bring("evil", name);
            told.send(Told { namespace: "k8s.io".into(), event: Event::Image(name.into()) }).await.unwrap();
        }
        tokio::time::sleep(limits::TOLD_PAUSE / 2).await;
        let early = node.news();
        tokio::time::sleep(limits::TOLD_PAUSE * 2).await;
        (early, node.news())
    };
    let (early, late) = tokio::select! {
        () = node.watch.listen(&node.activation, hearing) => panic!("it ended"),
        found = sent => found,
    };
    assert_eq!((early.len(), late.len()), (0, 1), "{late:?}");
}

const ASKS: &str = "schema = 1\n[[attestor]]\nname = \"a\"\nmay-sign = [\"signature\"]\n\
    keys = [{ file = \"a.pub\", algorithm = \"ed25519\" }]\n[default]\nrequire = { all = [\"a\"] }\n";
const KEY: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";

#[tokio::test]
async fn what_only_a_registry_can_tell_is_asked_once_and_told_when_it_is_known() {
    let node = Node::new(ENFORCE).await;
    node.file("a.pub", KEY);
    node.configure(ENFORCE, ASKS).await;
    node.bring("asked", "127.0.0.1:1/asked");
    node.run("c", "asked", true, true);
    node.walk().await;
    assert_eq!(node.news(), [""; 0]);
    let asked = || async { node.activation.current().await.registry.requests() };
    node.watch.verify(&node.activation).await;
    let news = node.news();
    assert_eq!(news.len(), 2, "{news:?}");
    assert!(news.iter().all(|entry| entry.contains("RETRY PG306")), "{news:?}");
    let requests = asked().await;
    for _ in 0..3 {
        node.walk().await;
        node.watch.verify(&node.activation).await;
    }
    assert_eq!((node.news(), asked().await), (Vec::new(), requests));
}

/// Which records are left when quarantine had its turn, a minute after the policy came into force.
async fn left(node: &Node) -> Vec<String> {
    node.walk().await;
    node.watch.state().activated = Instant::now().checked_sub(Duration::from_secs(61)).unwrap();
    node.watch.quarantine(&node.activation).await;
    let mut left: Vec<String> = node.content().images.iter().map(|image| image.name.clone()).collect();
    left.sort();
    left
}

const QUARANTINE: &str = "[quarantine]\nimages = true\nminutes-after-activation = 1\npercent-an-hour = 100\n";

/// A node with an image that may go, and those that must not.
async fn quarantined(config: &str) -> Node {
    let node = Node::new(config).await;
    node.file("boot.d/boot.list", &format!("{}\n", digest("boot")));
    let policy = DENY.replace("DIGEST", &digest("good").to_string());
    node.file("a.pub", KEY);
    let rule = "[[attestor]]\nname = \"a\"\nmay-sign = [\"signature\"]\nkeys = [{ file = \"a.pub\", algorithm = \"ed25519\" }]\n\
                [[rule]]\nname = \"asks\"\nimages = [\"127.0.0.1:1/**\"]\nrequire = { all = [\"a\"] }\n\
                [[rule]]\nname = \"trial\"\nimages = [\"reg.io/trial/**\"]\nrequire = \"deny\"\nmode = \"audit\"\n";
    node.configure(config, &policy.replace("[default]", &format!("{rule}[default]"))).await;
    for name in ["good", "boot", "evil", "pinned", "trial/x"] {
        node.bring(name, &format!("reg.io/{name}"));
    }
    node.bring("asked", "127.0.0.1:1/asked");
    node.bring("evil", "sha256:evil");
    let mut content = node.content();
    let pinned = content.images.iter_mut().find(|image| image.name == "reg.io/pinned").unwrap();
    pinned.labels.insert("io.cri-containerd.pinned".to_owned(), "pinned".to_owned());
    drop(content);
    node
}

const KEPT: [&str; 5] = ["127.0.0.1:1/asked", "reg.io/boot", "reg.io/good", "reg.io/pinned", "reg.io/trial/x"];

#[tokio::test]
async fn quarantine_removes_what_is_refused_and_nothing_that_must_stay() {
    let node = quarantined(&format!("{ENFORCE}{QUARANTINE}")).await;
    assert_eq!(left(&node).await, KEPT);
    let entries = node.entries();
    let removed = format!("reg.io/evil@{} is removed from this node: DENY PG201", digest("evil"));
    assert_eq!(entries.iter().filter(|entry| entry.starts_with(&removed)).count(), 1, "{entries:?}");
    assert_eq!(node.watch.report().quarantined, 1);
    for config in [ENFORCE.to_owned(), format!("mode = \"audit\"\n{QUARANTINE}")] {
        let node = quarantined(&config).await;
        assert_eq!(left(&node).await.len(), KEPT.len() + 2, "{config}");
    }
    let node = quarantined(&format!("{ENFORCE}{QUARANTINE}[watch]\nexempt-namespaces = [\"k8s.io\"]\n")).await;
    assert_eq!(left(&node).await.len(), KEPT.len() + 2);
}

#[tokio::test]
async fn quarantine_waits_after_a_policy_came_into_force_and_stays_out_of_trouble() {
    let node = quarantined(&format!("{ENFORCE}{QUARANTINE}")).await;
    node.walk().await;
    node.watch.quarantine(&node.activation).await;
    assert_eq!(node.content().images.len(), KEPT.len() + 2);
    node.file("policy.toml", "schema = ");
    let _ = node.activation.load().await;
    assert_eq!(left(&node).await.len(), KEPT.len() + 2);
}

#[tokio::test]
async fn nothing_is_removed_that_was_not_said_before() {
    let mut node = quarantined(&format!("{ENFORCE}{QUARANTINE}")).await;
    node.walk().await;
    node.journal = None;
    std::thread::sleep(Duration::from_millis(60));
    let state = || node.watch.state();
    state().activated = Instant::now().checked_sub(Duration::from_secs(61)).unwrap();
    node.watch.quarantine(&node.activation).await;
    assert_eq!(node.content().images.len(), KEPT.len() + 2);
    assert_eq!(node.watch.report().quarantined, 0);
}

#[tokio::test]
async fn a_policy_that_refuses_everything_empties_no_node() {
    let config = format!("{ENFORCE}{QUARANTINE}").replace("= 100", "= 10");
    let node = Node::new(&config).await;
    for number in 0..30 {
        node.bring(&format!("image-{number}"), &format!("reg.io/image-{number}"));
    }
    assert_eq!(left(&node).await.len(), 27);
    let alarm = "quarantine removed 3 of 30 images within an hour and stops there";
    assert_eq!(node.entries().iter().filter(|entry| entry.contains(alarm)).count(), 1);
    assert_eq!(left(&node).await.len(), 27);
    assert!(!node.entries().iter().any(|entry| entry.contains("stops there")));
}

#[tokio::test]
async fn the_containers_of_a_namespace_are_bounded() {
    let node = Node::new(ENFORCE).await;
    node.bring("good", "reg.io/good");
    node.run("c", "good", true, true);
    let one = node.content().containers[0].clone();
    node.content().containers = vec![one.clone(); limits::NODE_CONTAINERS];
    node.walk().await;
    node.content().containers.push(one);
    let snapshot = node.activation.current().await;
    let trouble = node.watch.walk_over(&snapshot).await.unwrap_err();
    assert!(trouble.to_string().contains("more than 4096 containers"), "{trouble}");
}

#[tokio::test(start_paused = true)]
async fn a_walk_that_fails_is_tried_again_ever_later_and_one_that_hangs_ends() {
    let node = Node::new(ENFORCE).await;
    let fails = FakeContainerd::start(|_, _| Answer::Error(tonic::Status::unavailable("no")));
    let namespace = |number: usize| Namespace { name: format!("n{number}"), ..Namespace::default() };
    let many = ListNamespacesResponse { namespaces: (0..1000).map(namespace).collect() };
    let hangs = FakeContainerd::start(move |method, _| match method {
        "Namespaces/List" => Answer::message(&many),
        "Introspection/Plugins" => Answer::Messages(vec![Vec::new()]),
        _ => Answer::Later(limits::CONTAINERD_CALL / 2, Box::new(Answer::Messages(Vec::new()))),
    });
    let fail = limits::WALK_RETRY * 100;
    for (containerd, long, walks) in [(&fails, fail, 4..=8), (&hangs, limits::WALK_LONGEST * 3, 2..=6)] {
        let store = Arc::new(ContentStore::new(containerd.client(), Kept::default()));
        let walk = Arc::new(Walk::new(containerd.client(), store, node.admission.clone()));
        let watch = Watch::new(containerd.client(), walk, node.watch.journal.clone());
        let (connected, connections) = tokio::sync::watch::channel(0);
        connected.send_modify(|count| *count += 1);
        assert!(tokio::time::timeout(long, watch.walks(&node.activation, connections)).await.is_err());
        let asked = containerd.asked();
        let begun = asked.iter().filter(|method| *method == "Namespaces/List").count();
        assert!(walks.contains(&begun), "{begun}");
    }
}

/// A registry that asks everybody for less, and the most images that it was asked about at the same time.
async fn throttling() -> (u16, Arc<Mutex<(BTreeMap<String, usize>, usize)>>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(Mutex::new((BTreeMap::<String, usize>::new(), 0)));
    let seen = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let seen = seen.clone();
            tokio::spawn(async move {
                let mut bytes = vec![0; 1 << 14];
                while let Ok(length @ 1..) = stream.read(&mut bytes).await {
                    let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
                    let image = text.split('/').nth(2).unwrap_or_default().to_owned();
                    {
                        let mut seen = seen.lock().unwrap();
                        *seen.0.entry(image.clone()).or_default() += 1;
                        seen.1 = seen.1.max(seen.0.values().filter(|count| **count > 0).count());
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    *seen.lock().unwrap().0.entry(image).or_default() -= 1;
                    let answer = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n";
                    if stream.write_all(answer).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    (port, asked)
}

#[tokio::test]
async fn registries_are_asked_little_at_a_time_and_left_in_peace_when_they_ask_for_it() {
    let (port, asked) = throttling().await;
    let config = format!("{ENFORCE}[registry.\"127.0.0.1:{port}\"]\ninsecure-plain-http = true\n");
    let node = Node::new(&config).await;
    node.file("a.pub", KEY);
    node.configure(&config, ASKS).await;
    for number in 0..=verifying::SLICE {
        node.bring(&format!("image-{number}"), &format!("127.0.0.1:{port}/image-{number}"));
    }
    node.walk().await;
    let left = || node.watch.state().pending.len();
    assert_eq!(left(), verifying::SLICE + 1);
    let verifying = node.watch.verify(&node.activation);
    tokio::pin!(verifying);
    let paused = async {
        while left() > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    tokio::select! {
        () = &mut verifying => panic!("nothing was left in peace"),
        () = paused => {}
    }
    assert_eq!((left(), asked.lock().unwrap().1), (1, limits::PARALLEL_VERIFICATIONS));
    let news = node.news();
    assert_eq!(news.iter().filter(|entry| entry.contains("RETRY PG303")).count(), verifying::SLICE, "{news:?}");
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    verifying.await;
    assert_eq!(left(), 0);
    assert!(begun.elapsed() > limits::VERIFY_PAUSE - Duration::from_secs(5), "{:?}", begun.elapsed());
}
