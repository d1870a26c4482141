use std::{path::Path, time::Duration};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::{
    activation::Paths,
    clock::Clock,
    evidence::kept::Kept,
    image::Digest,
    trust::testing::{key, pem},
};

/// A gate whose policy asks registries, without a containerd that would vouch for who asks.
async fn gate(folder: &Path) -> Arc<Resolve> {
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        path
    };
    let config = write("config.toml", "mode = \"enforce\"\n");
    write("ci.pub", &pem(&key()));
    let attestor = "name = \"ci\"\nmay-sign = [\"signature\"]\n\
         keys = [{ file = \"ci.pub\", algorithm = \"ecdsa-p256-sha256\" }]";
    write("policy.toml", &format!("schema = 1\n[[attestor]]\n{attestor}\n[default]\nrequire = {{ all = [\"ci\"] }}\n"));
    let paths = Paths { config, boot: folder.into(), state: None };
    let activation = Arc::new(Activation::new(paths, |_, _| ()));
    let _ = activation.load().await;
    let journal = Arc::new(Journal::open(&folder.join("journal"), &folder.join("numbers")));
    let admission = Arc::new(Admission::new(Arc::new(Clock::unkept()), Kept::default()));
    let containerd = Arc::new(Containerd::new(&folder.join("containerd.sock")));
    Arc::new(Resolve::new(containerd, admission, activation, journal))
}

fn question(image: &str) -> Vec<u8> {
    let digest = Digest::of(b"x").to_string();
    let kind = "application/vnd.oci.descriptor.v1+json";
    let mut bytes = vec![1];
    bytes.extend(6u32.to_be_bytes());
    for word in ["-name", image, "-digest", &digest, "-stdin-media-type", kind] {
        bytes.extend(u32::try_from(word.len()).unwrap().to_be_bytes());
        bytes.extend(word.as_bytes());
    }
    let manifest = "application/vnd.oci.image.manifest.v1+json";
    let descriptor = format!(r#"{{"mediaType":"{manifest}","digest":"{digest}","size":1}}"#);
    bytes.extend(u32::try_from(descriptor.len()).unwrap().to_be_bytes());
    bytes.extend(descriptor.as_bytes());
    bytes
}

#[tokio::test(start_paused = true)]
async fn a_question_is_decided_in_time_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let image = format!("{}/app", silent.local_addr().unwrap());
    let gate = gate(folder.path()).await;
    let snapshot = gate.activation.current().await;
    let begun = tokio::time::Instant::now();
    let received = Ok(question(&image));
    let refusal = gate.judge_and_record(snapshot, received, Instant::now()).await.unwrap_err();
    assert!(refusal.message().contains("no decision in 7 s"), "{}", refusal.message());
    assert!(begun.elapsed() >= limits::RESOLVE_DEADLINE - Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn verifiers_that_say_nothing_are_not_waited_for_and_hold_up_only_so_many() {
    for (silent, waits) in [(limits::PARALLEL_QUESTIONS - 1, false), (limits::PARALLEL_QUESTIONS, true)] {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("verify.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let serving = tokio::spawn(gate(folder.path()).await.serve(listener, std::future::pending()));
        let mut others = Vec::new();
        for _ in 0..silent {
            others.push(UnixStream::connect(&socket).await.unwrap());
        }
        let begun = tokio::time::Instant::now();
        let mut asking = UnixStream::connect(&socket).await.unwrap();
        asking.write_all(&question("reg.io/app")).await.unwrap();
        asking.shutdown().await.unwrap();
        let mut line = String::new();
        asking.read_to_string(&mut line).await.unwrap();
        assert!(!line.starts_with("ALLOW") && line.ends_with('\n'), "{line}");
        assert_eq!(begun.elapsed() >= limits::VERIFIER_PATIENCE, waits, "{silent}: {:?}", begun.elapsed());
        serving.abort();
    }
}
