//! A start gate, asked as a hook asks.

use std::{os::unix::net::UnixDatagram, sync::Mutex};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{super::*, node::Node};
use crate::{
    activation::Paths,
    clock::Clock,
    containerd::fake::FakeContainerd,
    evidence::kept::Kept,
    gate::questions::framed,
    trust::testing::{key, pem},
};

/// A gate in front of a scripted containerd, with journald's socket.
pub(super) struct Gate {
    pub(super) _folder: tempfile::TempDir,
    pub(super) journal: UnixDatagram,
    pub(super) last: Mutex<Option<String>>,
    pub(super) containerd: FakeContainerd,
    pub(super) start: Arc<Start>,
}

impl Gate {
    /// Under a policy that denies by default, and has `rules`.
    pub(super) async fn new(node: Node, rules: &str) -> Self {
        Self::of(node.containerd(), "enforce", rules).await
    }

    pub(super) async fn of(containerd: FakeContainerd, mode: &str, rules: &str) -> Self {
        Self::configured(containerd, &format!("mode = \"{mode}\"\n"), rules).await
    }

    pub(super) async fn configured(containerd: FakeContainerd, config: &str, rules: &str) -> Self {
        Self::within(tempfile::tempdir().unwrap(), containerd, config, rules).await
    }

    /// With its files in `folder`.
    pub(super) async fn within(
        folder: tempfile::TempDir,
        containerd: FakeContainerd,
        config: &str,
        rules: &str,
    ) -> Self {
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            path
        };
        let config = write("config.toml", config);
        write("ci.pub", &pem(&key()));
        let attestor = "name = \"ci\"\nmay-sign = [\"signature\"]\n\
             keys = [{ file = \"ci.pub\", algorithm = \"ecdsa-p256-sha256\" }]";
        let policy = format!("schema = 1\n[[attestor]]\n{attestor}\n{rules}\n[default]\nrequire = \"deny\"\n");
        write("policy.toml", &policy);
        let paths = Paths { config, boot: folder.path().join("boot.d"), state: None };
        let activation = Arc::new(Activation::new(paths, |_, _| ()));
        let (snapshot, _) = activation.load().await;
        assert_eq!(snapshot.trouble, None);
        let journal = UnixDatagram::bind(folder.path().join("journal")).unwrap();
        journal.set_nonblocking(true).unwrap();
        let audit = Arc::new(Journal::open(&folder.path().join("journal"), &folder.path().join("numbers")));
        let client = containerd.client();
        let content = Arc::new(ContentStore::new(client.clone(), Kept::default()));
        let admission = Arc::new(Admission::new(Arc::new(Clock::unkept()), Kept::default()));
        let start = Arc::new(Start::new(client, content, admission, activation, audit));
        Self { _folder: folder, journal, last: Mutex::default(), containerd, start }
    }

    /// What the hook of the container `id` is answered.
    pub(super) async fn ask(&self, id: &str) -> String {
        let bundle = format!("/run/containerd/io.containerd.runtime.v2.task/k8s.io/{id}");
        self.ask_with(&json!({ "id": id, "bundle": bundle }).to_string()).await
    }

    pub(super) async fn ask_with(&self, state: &str) -> String {
        let (mut hook, gate) = UnixStream::pair().unwrap();
        hook.write_all(&framed(&["create-runtime"], state.as_bytes())).await.unwrap();
        hook.shutdown().await.unwrap();
        self.start.clone().attend(gate).await;
        let mut line = String::new();
        hook.read_to_string(&mut line).await.unwrap();
        self.drain();
        line.trim_end().to_owned()
    }

    /// Nobody else reads, and a socket holds few entries.
    pub(super) fn drain(&self) {
        let mut bytes = vec![0; 1 << 16];
        while let Ok(length) = self.journal.recv(&mut bytes) {
            *self.last.lock().unwrap() = Some(String::from_utf8_lossy(&bytes[..length]).into_owned());
        }
    }

    /// The last entry, as text.
    pub(super) fn entry(&self) -> String {
        self.drain();
        self.last.lock().unwrap().clone().expect("an entry")
    }
}
