//! journald's socket: never blocks a thread, survives journald's restart, passes large entries by memfd.

use std::{
    fs::File,
    io::{self, Write as _},
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    libc,
    sys::{
        memfd::{MFdFlags, memfd_create},
        socket::{ControlMessage, MsgFlags, sendmsg},
    },
};
use tokio::{
    io::Interest,
    net::UnixDatagram,
    time::{Instant, sleep_until, timeout_at},
};

use super::AuditError;
use crate::limits;

/// A connection to journald, made when it is first needed.
pub(super) struct Socket {
    path: PathBuf,
    // Connected: only then does the kernel tell when the other side has room again.
    connected: Option<UnixDatagram>,
}

impl Socket {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), connected: None }
    }

    /// Hands `entry` to journald. Tries at least once, and again until `deadline` while journald is
    /// slow or restarting. After an error, journald does not have the entry.
    pub(super) async fn send(&mut self, entry: &[u8], deadline: Instant) -> Result<(), AuditError> {
        loop {
            match self.attempt(entry) {
                Ok(()) => return Ok(()),
                Err(error) if is_busy(&error) => self.wait(deadline).await?,
                Err(error) if is_gone(&error) => {
                    self.connected = None;
                    if Instant::now() >= deadline {
                        return Err(AuditError::Gone { path: self.path.clone(), error });
                    }
                    sleep_until(deadline.min(Instant::now() + limits::AUDIT_PAUSE)).await;
                }
                Err(error) => return Err(AuditError::Refused(error)),
            }
        }
    }

    fn attempt(&mut self, entry: &[u8]) -> io::Result<()> {
        let socket = match &self.connected {
            Some(socket) => socket,
            None => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(&self.path)?;
                self.connected.insert(socket)
            }
        };
        match socket.try_send(entry) {
            Ok(_) => Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                let sealed = sealed(entry)?;
                socket.try_io(Interest::WRITABLE, || pass(socket, &sealed))
            }
            Err(error) => Err(error),
        }
    }

    async fn wait(&self, deadline: Instant) -> Result<(), AuditError> {
        let Some(socket) = &self.connected else { return Ok(()) };
        match timeout_at(deadline, socket.writable()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(AuditError::Refused(error)),
            Err(_) => Err(AuditError::Stalled),
        }
    }
}

fn is_busy(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Errors that journald's restart causes, and one that passes when memory is free again.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::NotConnected
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::NotFound
    ) || error.raw_os_error() == Some(libc::ENOBUFS)
}

/// `entry` in memory that nobody can change any more, as journald insists.
fn sealed(entry: &[u8]) -> io::Result<OwnedFd> {
    let memory = memfd_create(c"pullgate-audit", MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_CLOEXEC)?;
    let mut file = File::from(memory);
    file.write_all(entry)?;
    fcntl(
        &file,
        FcntlArg::F_ADD_SEALS(
            SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL,
        ),
    )?;
    Ok(file.into())
}

fn pass(socket: &UnixDatagram, memory: &OwnedFd) -> io::Result<()> {
    let descriptors = [memory.as_raw_fd()];
    let message = [ControlMessage::ScmRights(&descriptors)];
    sendmsg::<()>(socket.as_raw_fd(), &[], &message, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT, None)?;
    Ok(())
}
