//! The writer of the audit.

use std::{
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use tokio::{
    sync::Mutex,
    time::{Instant, timeout_at},
};

use super::{
    Id, Record,
    numbers::{Head, Numbers},
    socket::Socket,
};
use crate::{
    image::Digest,
    limits,
    policy::decision::{Code, Violation},
};

/// The journal that audit entries go to. Shared by all requests.
pub struct Journal {
    tail: Mutex<Option<Tail>>,
    written: AtomicU64,
    failed: AtomicU64,
}

/// The end of the chain: what the next entry is bound to.
struct Tail {
    next: u64,
    head: Head,
    numbers: Numbers,
    socket: Socket,
}

/// Why journald does not have an entry. An allow that depends on it is withheld.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// journald's socket stayed full.
    #[error("journald takes no entries (waited {} ms)", limits::AUDIT_WAIT.as_millis())]
    Stalled,
    /// Nobody listens on the socket.
    #[error("journald is gone: {}: {error}", path.display())]
    Gone {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// The kernel refuses the entry.
    #[error("journald's socket refuses the entry: {0}")]
    Refused(io::Error),
    /// The daemon is stopping.
    #[error("pullgate is stopping")]
    Closed,
}

impl AuditError {
    /// What the person is told whose image waits for this entry.
    pub fn violation(&self) -> Violation {
        Violation {
            code: Code::AuditUnavailable,
            found: format!("the audit entry could not be written: {self}"),
            fix: "systemctl status systemd-journald".to_owned(),
        }
    }
}

impl Journal {
    /// journald's socket.
    pub const SOCKET: &'static str = "/run/systemd/journal/socket";

    /// A journal behind `socket`, with its numbers kept in the file `state`. Neither need be there:
    /// the socket is connected to when there is an entry, and numbers that cannot be kept are logged.
    pub fn open(socket: &Path, state: &Path) -> Self {
        let (numbers, next, head) = Numbers::open(state);
        let tail = Tail { next, head, numbers, socket: Socket::new(socket) };
        Self { tail: Mutex::new(Some(tail)), written: AtomicU64::new(0), failed: AtomicU64::new(0) }
    }

    /// Writes the record that `build` makes for the next number, and returns that number once journald
    /// has accepted the entry. Takes at most [`limits::AUDIT_WAIT`], other callers' turns included.
    ///
    /// Dropping the future writes the entry wholly or not at all.
    ///
    /// # Errors
    /// When journald did not accept it in time. The number goes to the next entry.
    pub async fn write(&self, build: impl FnOnce(&Id) -> Record) -> Result<Id, AuditError> {
        let outcome = self.append(build, Instant::now() + limits::AUDIT_WAIT).await;
        let counter = if outcome.is_ok() { &self.written } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
        outcome
    }

    async fn append(&self, build: impl FnOnce(&Id) -> Record, deadline: Instant) -> Result<Id, AuditError> {
        let mut tail = timeout_at(deadline, self.tail.lock()).await.map_err(|_| AuditError::Stalled)?;
        let tail = tail.as_mut().ok_or(AuditError::Closed)?;
        let id = Id::new(tail.next);
        let entry = build(&id).seal(id, tail.head);
        tail.socket.send(&entry, deadline).await?;
        tail.head = Head::Known(Digest::of(&entry));
        tail.next = tail.next.saturating_add(1);
        tail.numbers.used(tail.next);
        Ok(id)
    }

    /// Ends the journal: later writes fail. Keeps the last number and hash, so that the chain goes on
    /// unbroken at the next start. Waits for the disk.
    pub async fn close(&self) {
        let Some(Tail { next, head, numbers, .. }) = self.tail.lock().await.take() else { return };
        let closing = tokio::task::spawn_blocking(move || numbers.close(next, head));
        if let Err(error) = closing.await {
            tracing::error!("audit numbers were not kept: {error}");
        }
    }

    /// Entries that journald accepted since the start.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Entries that it did not.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }
}
