//! containerd's image verifier (containerd 2.0 and newer, `docs/image-verification.md`): asks pullgate whether an image
//! may be fetched, and passes the answer on. It reads neither the question nor the policy: what containerd gave it goes to
//! the daemon as it came.
//!
//! Standard library only, since it runs for every pull. No answer, a slow one or one that is broken refuses; only while
//! the daemon has left word that this node audits does the image pass without it.

use std::{
    env,
    ffi::OsString,
    fs,
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::{
        ffi::OsStrExt,
        net::{UnixDatagram, UnixStream},
        process::parent_id,
    },
    path::{Path, PathBuf},
    process::ExitCode,
    sync::mpsc,
    thread,
    time::Duration,
};

/// Version of the question: `version, count, (length, argument)…, length, standard input`, numbers as 32 bits, big endian.
const VERSION: u8 = 1;
/// Time for everything. containerd kills after ten seconds, and says nothing useful then.
const PATIENCE: Duration = Duration::from_secs(8);
/// Time for everything where the node only audits: the daemon itself waits one second then.
const PATIENCE_IN_AUDIT: Duration = Duration::from_secs(2);
/// Bytes of the descriptor, and of all arguments together.
const QUESTION_BYTES: usize = 64 << 10;
/// Bytes of the answer: 200 characters, each of up to four bytes, a line break, and some room.
const ANSWER_BYTES: usize = 1024;
/// Characters of what is wrong, so that the line has at most 200.
const FOUND_CHARS: usize = 70;
/// Bytes of a name or digest in the journal.
const WORD_BYTES: usize = 512;
/// Time for journald to take an entry.
const JOURNAL_PATIENCE: Duration = Duration::from_millis(250);
/// The entry's kind; its text is in pullgate's catalog.
const MESSAGE_ID: &str = "06f1767da48b4809916e7dfbfd80746c";

/// Where the daemon is. Only whoever configures containerd says otherwise than the default.
struct Places {
    runtime: PathBuf,
    journal: PathBuf,
}

/// What the daemon said.
struct Answer {
    allows: bool,
    line: String,
}

/// Why there is no answer.
struct Trouble {
    /// As the messages begin, and as the journal has it.
    verdict: (&'static str, &'static str),
    code: &'static str,
    found: String,
    fix: &'static str,
}

fn main() -> ExitCode {
    let places = Places::here();
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let audits = places.audits();
    let patience = if audits { PATIENCE_IN_AUDIT } else { PATIENCE };
    let answer = ask_within(patience, &places, &arguments).unwrap_or_else(|trouble| {
        let line = trouble.line();
        let said = if audits { format!("AUDIT would be refused: {line}") } else { line };
        log(&places.journal, &trouble, &said, audits, &arguments);
        Answer { allows: audits, line: said }
    });
    // A reader that went away does not change the answer.
    let _ = io::stdout().write_all(format!("{}\n", answer.line).as_bytes());
    if answer.allows { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Places {
    fn here() -> Self {
        let at = |variable: &str, default: &str| env::var_os(variable).map_or(PathBuf::from(default), PathBuf::from);
        Self {
            runtime: at("PULLGATE_RUNTIME", "/run/pullgate"),
            journal: at("PULLGATE_JOURNAL", "/run/systemd/journal/socket"),
        }
    }

    /// Whether the daemon left word that this node only audits. Root alone can write to the directory.
    fn audits(&self) -> bool {
        fs::symlink_metadata(self.runtime.join("audit-mode")).is_ok_and(|meta| meta.is_file())
    }
}

impl Trouble {
    fn unreachable(found: impl Into<String>) -> Self {
        Self {
            verdict: ("RETRY", "inconclusive"),
            code: "PG408",
            found: found.into(),
            fix: "systemctl start pullgate-gates.socket pullgate.service, then journalctl -u pullgate",
        }
    }

    fn line(&self) -> String {
        let found: String = self.found.chars().take(FOUND_CHARS).collect();
        format!("{} {}: {found}. Fix: {}", self.verdict.0, self.code, self.fix)
    }
}

/// Asks on another thread, so that nothing that blocks there (a standard input that never ends, a daemon that hangs)
/// outlasts `patience`.
fn ask_within(patience: Duration, places: &Places, arguments: &[OsString]) -> Result<Answer, Trouble> {
    let (sender, answers) = mpsc::channel();
    let socket = places.runtime.join("verify.sock");
    let arguments: Vec<Vec<u8>> = arguments.iter().map(|argument| argument.as_bytes().to_vec()).collect();
    let asking = thread::Builder::new().spawn(move || {
        // Nobody listens any more only when the time is up.
        let _ = sender.send(question(&arguments, io::stdin()).and_then(|question| ask(&socket, &question)));
    });
    if let Err(error) = asking {
        return Err(Trouble::unreachable(format!("no thread could be started ({error})")));
    }
    let slow = || Trouble::unreachable(format!("pullgate did not answer in {} s", patience.as_secs()));
    answers.recv_timeout(patience).unwrap_or_else(|_| Err(slow()))
}

fn question(arguments: &[Vec<u8>], input: impl Read) -> Result<Vec<u8>, Trouble> {
    let malformed = |found: String| Trouble {
        verdict: ("DENY", "deny"),
        code: "PG410",
        found,
        fix: "look at containerd, which asks like this",
    };
    let mut read = Vec::new();
    let most = QUESTION_BYTES as u64;
    input.take(most + 1).read_to_end(&mut read).map_err(|e| malformed(format!("no descriptor came ({e})")))?;
    if read.len() > QUESTION_BYTES || arguments.iter().map(Vec::len).sum::<usize>() > QUESTION_BYTES {
        return Err(malformed(format!("containerd asks with more than {QUESTION_BYTES} bytes")));
    }
    let mut question = vec![VERSION];
    // Neither number is larger than `QUESTION_BYTES`, but for the count, which the kernel bounds to less.
    question.extend_from_slice(&(arguments.len() as u32).to_be_bytes());
    for part in arguments.iter().chain([&read]) {
        question.extend_from_slice(&(part.len() as u32).to_be_bytes());
        question.extend_from_slice(part);
    }
    Ok(question)
}

fn ask(socket: &Path, question: &[u8]) -> Result<Answer, Trouble> {
    let silent = |error: io::Error| Trouble::unreachable(format!("pullgate is not there ({error})"));
    let mut stream = UnixStream::connect(socket).map_err(silent)?;
    stream.write_all(question).and_then(|()| stream.shutdown(Shutdown::Write)).map_err(silent)?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES as u64 + 1).read_to_end(&mut answer).map_err(silent)?;
    understood(&answer)
}

/// One line that begins with a verdict, ended by a line break, and nothing more.
fn understood(answer: &[u8]) -> Result<Answer, Trouble> {
    let broken = || Trouble::unreachable("pullgate's answer is broken");
    let whole = answer.len() <= ANSWER_BYTES;
    let line = answer.strip_suffix(b"\n").filter(|_| whole).ok_or_else(broken)?;
    let line = std::str::from_utf8(line).map_err(|_| broken())?;
    if line.chars().any(char::is_control) {
        return Err(broken());
    }
    let allows = match line.split(' ').next() {
        Some("ALLOW") => true,
        Some("DENY" | "RETRY") => false,
        _ => return Err(broken()),
    };
    Ok(Answer { allows, line: line.to_owned() })
}

/// The daemon cannot write this entry, so it is written here, in journald's native protocol, each value with its length.
/// Nothing depends on it.
fn log(journal: &Path, trouble: &Trouble, message: &str, audits: bool, arguments: &[OsString]) {
    let after = |flag: &str| {
        let at = arguments.iter().position(|argument| argument == flag)?;
        Some(word(arguments.get(at + 1)?.as_bytes()))
    };
    // This process may have ended before journald looks it up; containerd, which started it, has not: that finds the unit
    // (systemd.journal-fields(7)).
    let containerd = parent_id().to_string();
    let fields = [
        ("MESSAGE", Some(message.to_owned())),
        ("MESSAGE_ID", Some(MESSAGE_ID.to_owned())),
        ("PRIORITY", Some("3".to_owned())),
        ("SYSLOG_IDENTIFIER", Some("pullgate-verifier".to_owned())),
        ("OBJECT_PID", Some(containerd)),
        ("PULLGATE_GATE", Some("resolve".to_owned())),
        ("PULLGATE_VERDICT", Some(trouble.verdict.1.to_owned())),
        ("PULLGATE_CODE", Some(trouble.code.to_owned())),
        ("PULLGATE_MODE", Some(if audits { "audit" } else { "enforce" }.to_owned())),
        ("PULLGATE_ENFORCED", Some(if audits { "no" } else { "yes" }.to_owned())),
        ("PULLGATE_REASON", Some(format!("{}; {}", trouble.found, trouble.fix))),
        ("PULLGATE_IMAGE", after("-name")),
        ("PULLGATE_DIGEST", after("-digest")),
    ];
    let mut entry = Vec::new();
    for (name, value) in fields.iter().filter_map(|(name, value)| Some((name, value.as_ref()?))) {
        entry.extend_from_slice(name.as_bytes());
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
        entry.extend_from_slice(value.as_bytes());
        entry.push(b'\n');
    }
    if let Ok(socket) = UnixDatagram::unbound() {
        let _ = socket.set_write_timeout(Some(JOURNAL_PATIENCE)).and_then(|()| socket.send_to(&entry, journal));
    }
}

/// Names and digests are printable ASCII; whatever else somebody wrote is shown as `?`.
fn word(bytes: &[u8]) -> String {
    bytes.iter().take(WORD_BYTES).map(|b| if b.is_ascii_graphic() { char::from(*b) } else { '?' }).collect()
}
