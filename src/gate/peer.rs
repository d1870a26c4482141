//! Who is on the other end of a gate's socket.

use std::{
    fs,
    os::fd::{AsFd, OwnedFd},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{getsockopt, sockopt},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
    sync::OnceCell,
};
use tonic::transport::server::Connected;

use crate::containerd::Containerd;

/// A connection to a gate, with what the kernel says about the process that made it.
pub(super) struct Connection {
    stream: UnixStream,
    peer: Arc<Peer>,
}

/// The process that made a connection (unix(7), SO_PEERCRED), and whether it is containerd once that was looked at.
#[derive(Debug)]
pub(super) struct Peer {
    uid: Option<u32>,
    pid: Option<i32>,
    is_containerd: OnceCell<bool>,
}

impl Peer {
    fn of(stream: &UnixStream) -> Self {
        let credentials = stream.peer_cred().ok();
        let uid = credentials.map(|credentials| credentials.uid());
        let pid = credentials.and_then(|credentials| credentials.pid());
        Self { uid, pid, is_containerd: OnceCell::new() }
    }

    /// Whether this is containerd: root, and the very process that listens on containerd's socket.
    ///
    /// The requests name mounts of the caller's choice, so a root process in a container that got hold of the socket
    /// must not be served. The control group that systemd gave containerd would let its shims in as well.
    ///
    /// # Errors
    /// When containerd's socket cannot be reached, so that it cannot be told.
    pub(super) async fn is_containerd(&self, containerd: &Containerd) -> std::io::Result<bool> {
        let look = || async {
            let listener = containerd.process().await?;
            Ok(self.uid == Some(0) && self.pid.is_some_and(|pid| pid > 0) && self.pid == listener)
        };
        self.is_containerd.get_or_try_init(look).await.copied()
    }
}

/// A program that containerd may have started: the process at the other end of `stream`.
pub(super) struct Program {
    peer: Peer,
    /// Refers to the process itself and not to its number, which may go to another one. From Linux 6.5 on.
    process: Option<OwnedFd>,
}

impl Program {
    pub(super) fn of(stream: &UnixStream) -> Self {
        Self { peer: Peer::of(stream), process: getsockopt(stream, sockopt::PeerPidfd).ok() }
    }

    /// Whether containerd started it and it still runs: root, and a child of the process that listens on containerd's
    /// socket. What runs in a container is a child of its shim.
    ///
    /// # Errors
    /// When containerd's socket cannot be reached, so that it cannot be told.
    pub(super) async fn is_containerds(&self, containerd: &Containerd) -> std::io::Result<bool> {
        let listener = containerd.process().await?;
        let parent = self.peer.pid.and_then(parent);
        // Looked at last: while it runs, nobody else has its number.
        Ok(self.peer.uid == Some(0) && parent.is_some() && parent == listener && self.runs())
    }

    /// Whether it is root on this node, not only in a user namespace of its own.
    pub(super) fn is_root(&self) -> bool {
        self.peer.uid == Some(0)
    }

    fn runs(&self) -> bool {
        let Some(process) = &self.process else { return true };
        // A process that has ended is readable (pidfd_open(2)).
        poll(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO) == Ok(0)
    }
}

impl std::fmt::Display for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.peer.fmt(f)
    }
}

/// The process that started `pid` (proc_pid_stat(5)).
fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, is whatever the process calls itself.
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(1)?.parse().ok().filter(|parent| *parent > 0)
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let number = |n: Option<String>| n.unwrap_or_else(|| "unknown".to_owned());
        write!(f, "uid {}, pid {}", number(self.uid.map(|n| n.to_string())), number(self.pid.map(|n| n.to_string())))
    }
}

impl Connection {
    pub(super) fn new(stream: UnixStream) -> Self {
        let peer = Arc::new(Peer::of(&stream));
        Self { stream, peer }
    }
}

impl Connected for Connection {
    type ConnectInfo = Arc<Peer>;

    fn connect_info(&self) -> Arc<Peer> {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_that_has_ended_or_has_another_parent_is_not_containerds() {
        let folder = tempfile::tempdir().unwrap();
        let listener = std::os::unix::net::UnixListener::bind(folder.path().join("containerd")).unwrap();
        let containerd = Containerd::new(&folder.path().join("containerd"));
        // This process listens where containerd would, and is no child of its own.
        let (stream, _other) = UnixStream::pair().unwrap();
        assert!(!Program::of(&stream).is_containerds(&containerd).await.unwrap());
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let program = |pid: u32, uid| {
            let peer = Peer { uid: Some(uid), pid: i32::try_from(pid).ok(), is_containerd: OnceCell::new() };
            Program { peer, process: None }
        };
        assert!(program(child.id(), 0).is_containerds(&containerd).await.unwrap());
        assert!(!program(child.id(), 1000).is_containerds(&containerd).await.unwrap());
        let id = child.id();
        child.kill().and_then(|()| child.wait()).unwrap();
        assert!(!program(id, 0).is_containerds(&containerd).await.unwrap());
        drop(listener);
        assert!(program(id, 0).is_containerds(&containerd).await.is_err());
    }
}
