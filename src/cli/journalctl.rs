//! The journal, read with `journalctl` as a child process, one entry in memory at a time.

use std::{
    io::{self, BufReader, Read},
    os::fd::AsFd,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use crate::{
    audit::{
        Field, Kind, UNIT,
        chain::{BadExport, Exported, exported},
    },
    image::sanitize,
    limits,
};

/// A question to the journal. Every word is an argument of its own, and every value stands behind the name of its field.
pub(super) struct Query {
    arguments: Vec<String>,
    sender: Sender,
}

/// Whose entries are read. Anyone on the node can send entries with our fields, and only journald knows who did.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sender {
    /// The daemon's unit, by journald's own word.
    Daemon,
    /// Anybody else.
    Others,
}

/// Why the journal could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error("there is no `journalctl` here: the audit is in the journal of systemd, on the node itself")]
    Missing,
    #[error("the system's journal may not be read: run as root, or as a member of the group systemd-journal")]
    NotAllowed,
    #[error("journalctl does not take the time: {0}")]
    Time(String),
    #[error("journalctl: {0}")]
    Failed(String),
    #[error("what journalctl wrote cannot be read: {0}")]
    Garbled(#[from] BadExport),
}

impl Query {
    /// Entries of the daemon alone, oldest first.
    pub(super) fn daemon() -> Self {
        let query = Self::new(Sender::Daemon);
        query.with(format!("_SYSTEMD_UNIT={}", UNIT))
    }

    /// Decisions that somebody else sent: true or not, nobody can tell.
    pub(super) fn others() -> Self {
        let query = Self::new(Sender::Others);
        ["allow", "deny", "inconclusive"].into_iter().fold(query, |query, verdict| query.field(Field::Verdict, verdict))
    }

    fn new(sender: Sender) -> Self {
        let arguments = ["--no-pager", "--quiet", "--system", "--all", "--output=export"];
        Self { arguments: arguments.map(str::to_owned).into(), sender }
    }

    /// Those with this value in `field`; of several values of one field, those with any.
    pub(super) fn field(self, field: Field, value: impl std::fmt::Display) -> Self {
        self.with(format!("{}={value}", field.name()))
    }

    /// Those of any of `kinds`.
    pub(super) fn kinds(self, kinds: &[Kind]) -> Self {
        kinds.iter().fold(self, |query, kind| query.field(Field::MessageId, kind.message_id()))
    }

    /// With another option of journalctl's: `--name` or `--name=value`.
    pub(super) fn with(mut self, option: impl Into<String>) -> Self {
        self.arguments.push(option.into());
        self
    }

    /// Newest first.
    pub(super) fn newest_first(self) -> Self {
        self.with("--reverse")
    }

    /// Starts to read.
    ///
    /// # Errors
    /// Where there is no journalctl, or it cannot be started.
    pub(super) fn read(self) -> Result<Entries, Trouble> {
        let mut child = Command::new("journalctl")
            .args(&self.arguments)
            // Its complaints are looked at.
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => Trouble::Missing,
                _ => Trouble::Failed(error.to_string()),
            })?;
        let broken = || Trouble::Failed("it has no output".to_owned());
        let (output, complaints) = child.stdout.take().zip(child.stderr.take()).ok_or_else(broken)?;
        let complaints = std::thread::spawn(move || read_some(complaints));
        let entries = Box::new(exported(BufReader::with_capacity(1 << 16, output)));
        let child = Arc::new(Mutex::new(child));
        let (complaints, unread) = (Some(complaints), Arc::default());
        Ok(Entries { child, entries: Some(entries), complaints, sender: self.sender, unread })
    }

    /// The first entry.
    ///
    /// # Errors
    /// As [`Query::read`], and where the journal cannot be read.
    pub(super) fn first(self) -> Result<Option<Exported>, Trouble> {
        self.read()?.next().transpose()
    }
}

/// Entries as journalctl writes them. Dropped early, they end journalctl.
pub(super) struct Entries {
    child: Arc<Mutex<Child>>,
    entries: Option<Box<dyn Iterator<Item = Result<Exported, BadExport>>>>,
    complaints: Option<JoinHandle<String>>,
    sender: Sender,
    /// Whether journalctl was ended because nobody reads on.
    unread: Arc<AtomicBool>,
}

impl Iterator for Entries {
    type Item = Result<Exported, Trouble>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let entry = self.entries.as_mut()?.next();
            if self.unread.load(Ordering::SeqCst) {
                return None;
            }
            match entry {
                Some(Ok(entry)) => {
                    let daemons = entry.unit() == Some(UNIT);
                    if daemons == (self.sender == Sender::Daemon) {
                        return Some(Ok(entry));
                    }
                }
                Some(Err(bad)) => {
                    return Some(Err(match self.end() {
                        // That nobody read on says less than why.
                        None | Some(Trouble::Failed(_)) => Trouble::from(bad),
                        Some(trouble) => trouble,
                    }));
                }
                None => return self.end().map(Err),
            }
        }
    }
}

impl Entries {
    /// Ends this process as soon as nobody reads what it prints, also while there is nothing to print.
    pub(super) fn end_with_reader(&self) {
        let (child, unread) = (self.child.clone(), self.unread.clone());
        std::thread::spawn(move || {
            let stdout = io::stdout();
            let mut watched = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
            let polled = loop {
                match poll(&mut watched, PollTimeout::NONE) {
                    Err(Errno::EINTR) => {}
                    polled => break polled,
                }
            };
            if polled.is_ok() {
                unread.store(true, Ordering::SeqCst);
                end(&child);
                std::process::exit(0);
            }
        });
    }

    /// Waits for journalctl's end; what it had to complain about, if it failed.
    fn end(&mut self) -> Option<Trouble> {
        self.entries = None;
        let status = self.child.lock().unwrap_or_else(PoisonError::into_inner).wait();
        let complaints = self.complaints.take().and_then(|reader| reader.join().ok()).unwrap_or_default();
        let complaint = sanitize(complaints.lines().next().unwrap_or_default(), 400);
        match status {
            Ok(status) if status.success() => None,
            // Nothing matched, say some versions.
            Ok(status) if status.code() == Some(1) && complaint.is_empty() => None,
            _ if complaints.contains("insufficient permissions") => Some(Trouble::NotAllowed),
            _ if complaints.contains("timestamp") => Some(Trouble::Time(complaint)),
            Ok(status) if complaint.is_empty() => Some(Trouble::Failed(format!("it ended with {status}"))),
            Ok(_) => Some(Trouble::Failed(complaint)),
            Err(error) => Some(Trouble::Failed(error.to_string())),
        }
    }
}

impl Drop for Entries {
    fn drop(&mut self) {
        // Closed first: journalctl may wait for somebody to read.
        self.entries = None;
        end(&self.child);
    }
}

fn end(child: &Mutex<Child>) {
    let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
    let _ = child.kill();
    let _ = child.wait();
}

/// The beginning of `stream`; the rest is read and forgotten, so that who writes does not wait.
fn read_some(mut stream: impl Read) -> String {
    let mut beginning = Vec::new();
    let _ = (&mut stream).take(limits::COMPLAINT_BYTES).read_to_end(&mut beginning);
    let _ = io::copy(&mut stream, &mut io::sink());
    String::from_utf8_lossy(&beginning).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_complaints_the_beginning_is_kept_and_all_is_read() {
        let limit = usize::try_from(limits::COMPLAINT_BYTES).unwrap();
        for length in [0, limit, limit + 1, 100 * limit] {
            let bytes = vec![b'x'; length];
            let mut stream = io::Cursor::new(&bytes);
            assert_eq!(read_some(&mut stream).len(), length.min(limit));
            assert_eq!(stream.position(), length as u64, "who writes is not kept waiting");
        }
    }
}
