//! `reload.sock`: whoever connects, and only root can, has the files read again, and is told what came of it once it is in
//! force. systemd knows only from 253 on of daemons that say themselves when they have reloaded, and of none that refuse.

use std::{
    io::{self, Read as _},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{io::AsyncWriteExt, time::timeout};

use crate::{
    activation::{Activation, Outcome},
    limits,
    snapshot::Snapshot,
};

/// The name of the socket in the directory of the sockets.
pub const SOCKET: &str = "reload.sock";
/// Time for a reader to take the answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Bytes of an answer.
const ANSWER_BYTES: u64 = 1 << 16;

/// What is in force after the files were read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Reloaded {
    /// Whether the node refuses: `enforce` or `audit`.
    pub mode: String,
    /// The revision of the policy; none means that the boot list alone is admitted.
    pub revision: Option<String>,
    /// Why the files are not what is in force, if they are not: code, file, line, and the mend.
    pub trouble: Option<String>,
}

impl Reloaded {
    fn of(snapshot: &Snapshot, outcome: &Outcome) -> Self {
        let trouble = match outcome {
            Outcome::Activated => None,
            Outcome::Rejected(trouble) => Some(format!("{} {}", trouble.code, trouble.message)),
        };
        let revision = snapshot.policy.as_ref().map(|policy| policy.revision.clone());
        Self { mode: snapshot.config.mode.to_string(), revision, trouble }
    }
}

/// Serves `listener`: one after the other, each with files that were read after it connected. Nothing is ever read from a
/// connection.
pub async fn serve(listener: UnixListener, activation: Arc<Activation>) {
    let listener = match tokio::net::UnixListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!("the socket for reloading cannot be served: {error}"),
    };
    loop {
        match listener.accept().await {
            Ok((mut stream, _)) => {
                let (snapshot, outcome) = activation.load().await;
                let mut text = serde_json::to_vec(&Reloaded::of(&snapshot, &outcome)).unwrap_or_default();
                text.push(b'\n');
                // A reader that went away or does not read has itself to blame.
                let _ = timeout(PATIENCE, stream.write_all(&text)).await;
            }
            Err(error) => {
                tracing::warn!("a connection for reloading failed: {error}");
                tokio::time::sleep(PATIENCE).await;
            }
        }
    }
}

/// Has the daemon whose sockets are in `runtime` read its files again, and waits until they are in force or refused.
///
/// # Errors
/// When it does not answer within [`limits::RELOAD`]: then it is not known what is in force.
pub fn ask(runtime: &Path) -> Result<Reloaded, String> {
    ask_within(runtime, limits::RELOAD)
}

fn ask_within(runtime: &Path, time: Duration) -> Result<Reloaded, String> {
    let told = |error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => format!("it did not answer in {time:?}"),
        _ => error.to_string(),
    };
    let stream = UnixStream::connect(runtime.join(SOCKET)).map_err(told)?;
    stream.set_read_timeout(Some(time)).map_err(told)?;
    let mut text = String::new();
    stream.take(ANSWER_BYTES).read_to_string(&mut text).map_err(told)?;
    serde_json::from_str(&text).map_err(|_| "it ended before it answered".to_owned())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;
    use crate::activation::Paths;

    const POLICY: &str = "schema = 1\n[default]\nrequire = \"deny\"\n";

    struct Daemon {
        folder: tempfile::TempDir,
        activation: Arc<Activation>,
    }

    impl Daemon {
        fn new(prepare: Duration) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let at = |name: &str| folder.path().join(name);
            let paths = Paths { config: at("config.toml"), boot: at("boot.d"), state: None };
            let activation =
                Activation::new(paths, |_, _| ()).preparing(move |_| async move { tokio::time::sleep(prepare).await });
            let daemon = Self { folder, activation: Arc::new(activation) };
            daemon.write("config.toml", "mode = \"enforce\"\n");
            daemon.write("policy.toml", POLICY);
            daemon
        }

        fn write(&self, name: &str, text: &str) {
            let path = self.folder.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }

        fn listener(&self) -> UnixListener {
            let listener = UnixListener::bind(self.folder.path().join(SOCKET)).unwrap();
            listener.set_nonblocking(true).unwrap();
            listener
        }

        async fn ask(&self) -> Reloaded {
            let runtime = self.folder.path().to_owned();
            tokio::task::spawn_blocking(move || ask(&runtime)).await.unwrap().unwrap()
        }
    }

    #[tokio::test]
    async fn who_is_answered_finds_in_force_what_the_answer_says() {
        let daemon = Daemon::new(Duration::from_millis(50));
        let serving = tokio::spawn(serve(daemon.listener(), daemon.activation.clone()));
        let first = daemon.ask().await;
        assert_eq!((first.mode.as_str(), &first.trouble), ("enforce", &None));
        for number in 0..3 {
            daemon.write("policy.toml", &format!("{POLICY}# {number}\n"));
            let told = daemon.ask().await;
            let now = daemon.activation.peek().unwrap();
            assert_eq!(told.revision.as_deref(), Some(now.revision()));
            assert_ne!(told.revision, first.revision);
        }
        let good = daemon.ask().await;
        daemon.write("policy.toml", "schema = 1\n\n[[rul]]\n");
        let refused = daemon.ask().await;
        assert!(refused.trouble.as_ref().is_some_and(|why| why.contains("policy.toml:3")), "{refused:?}");
        assert_eq!((&refused.mode, &refused.revision), (&good.mode, &good.revision), "the last good one stays");
        daemon.write("policy.toml", POLICY);
        assert_eq!(daemon.ask().await, first);
        serving.abort();
    }

    #[test]
    fn a_daemon_that_does_not_answer_is_not_waited_for_without_end() {
        let daemon = Daemon::new(Duration::ZERO);
        let _listener = daemon.listener();
        let said = ask_within(daemon.folder.path(), Duration::from_millis(20)).unwrap_err();
        assert_eq!(said, "it did not answer in 20ms");
        assert!(limits::RELOAD > limits::WALK, "a policy takes force after what is here was judged");
        let nobody = tempfile::tempdir().unwrap();
        assert!(ask(nobody.path()).is_err());
    }
}
