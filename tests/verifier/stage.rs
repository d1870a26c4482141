//! A stage on which the program is run: what it meets, and what is seen of it.

use std::{
    fs,
    io::{Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::{UnixDatagram, UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    thread::{self, JoinHandle},
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket as open};

/// As what the program is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Verifier,
    Hook,
}

/// A directory with journald's socket, and pullgate's where a daemon is played.
pub(crate) struct Stage {
    pub(crate) folder: tempfile::TempDir,
    journal: UnixDatagram,
    started_as: Use,
}

/// What containerd and the runtime see.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) code: Option<i32>,
    /// The reason; a hook that lets pass gives none.
    pub(crate) line: String,
    /// What journald took, by field.
    pub(crate) entry: Option<Vec<(String, String)>>,
}

impl Stage {
    pub(crate) fn of(started_as: Use) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let journal = UnixDatagram::bind(folder.path().join("journal")).unwrap();
        journal.set_nonblocking(true).unwrap();
        Self { folder, journal, started_as }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join(match self.started_as {
            Use::Verifier => "verify.sock",
            Use::Hook => "start.sock",
        })
    }

    /// A daemon that does as `with` says, with the one connection that it gets.
    pub(crate) fn daemon<T: Send + 'static>(
        &self,
        with: impl FnOnce(UnixStream) -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let listener = UnixListener::bind(self.socket()).unwrap();
        thread::spawn(move || with(listener.accept().unwrap().0))
    }

    /// A daemon that reads the question and answers like this.
    pub(crate) fn answering(&self, answer: Vec<u8>) {
        self.daemon(move |mut stream| {
            stream.read_to_end(&mut Vec::new()).unwrap();
            stream.write_all(&answer).unwrap();
        });
    }

    pub(crate) fn audit_mode(&self) {
        fs::write(self.folder.path().join("audit-mode"), []).unwrap();
    }

    pub(crate) fn start(&self, arguments: &[&str]) -> (Child, ChildStdin) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_pullgate-verifier"))
            .args(arguments)
            .env("PULLGATE_RUNTIME", self.folder.path())
            .env("PULLGATE_JOURNAL", self.folder.path().join("journal"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        (child, input)
    }

    pub(crate) fn ask_with(&self, arguments: &[&str], descriptor: &[u8]) -> Seen {
        let (child, mut input) = self.start(arguments);
        // The verifier need not read more than it takes.
        let _ = input.write_all(descriptor);
        drop(input);
        self.seen(child)
    }

    pub(crate) fn seen(&self, child: Child) -> Seen {
        let output = child.wait_with_output().unwrap();
        let (said, silent) = match self.started_as {
            Use::Verifier => (output.stdout, output.stderr),
            Use::Hook => (output.stderr, output.stdout),
        };
        assert!(silent.is_empty(), "{}", String::from_utf8_lossy(&silent));
        let line = String::from_utf8(said).unwrap();
        let passes_in_silence = self.started_as == Use::Hook && output.status.success();
        let lines = if passes_in_silence { 0 } else { 1 };
        assert!(line.lines().count() == lines && (lines == 0 || line.ends_with('\n')), "{line:?}");
        let mut bytes = vec![0; 1 << 16];
        let entry = self.journal.recv(&mut bytes).ok().map(|length| fields(&bytes[..length]));
        Seen { code: output.status.code(), line: line.trim_end().to_owned(), entry }
    }
}

/// The fields of an entry in journald's native protocol, each with its length.
fn fields(mut entry: &[u8]) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    while !entry.is_empty() {
        let end = entry.iter().position(|b| *b == b'\n').unwrap();
        let name = String::from_utf8(entry[..end].to_vec()).unwrap();
        let (length, rest) = entry[end + 1..].split_first_chunk().unwrap();
        let (value, rest) = rest.split_at(u64::from_le_bytes(*length) as usize);
        fields.push((name, String::from_utf8(value.to_vec()).unwrap()));
        entry = rest.strip_prefix(b"\n").unwrap();
    }
    fields
}

impl Seen {
    pub(crate) fn field(&self, name: &str) -> &str {
        let entry = self.entry.as_ref().unwrap_or_else(|| panic!("nothing in the journal: {self:?}"));
        let values: Vec<_> = entry.iter().filter(|(found, _)| found == name).collect();
        assert_eq!(values.len(), 1, "{name}: {entry:?}");
        &values[0].1
    }

    /// It was refused for want of an answer, and logged.
    pub(crate) fn refuses(&self, code: &str) {
        assert_eq!(self.code, Some(1), "{self:?}");
        assert!(self.line.contains(code) && self.line.contains(" Fix: "), "{self:?}");
        assert!(self.line.chars().count() <= 200, "{self:?}");
        assert_eq!(self.field("MESSAGE"), self.line);
        assert_eq!(self.field("PULLGATE_CODE"), code);
        assert_eq!((self.field("PULLGATE_MODE"), self.field("PULLGATE_ENFORCED")), ("enforce", "yes"));
    }
}

/// A connection, unless the queue is full.
pub(crate) fn connect_at_once(socket: &Path) -> Option<OwnedFd> {
    let stream = open(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_NONBLOCK, None).unwrap();
    connect(stream.as_raw_fd(), &UnixAddr::new(socket).unwrap()).ok().map(|()| stream)
}
