//! Who is on the other end of a gate's socket.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

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

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let number = |n: Option<String>| n.unwrap_or_else(|| "unknown".to_owned());
        write!(f, "uid {}, pid {}", number(self.uid.map(|n| n.to_string())), number(self.pid.map(|n| n.to_string())))
    }
}

impl Connection {
    pub(super) fn new(stream: UnixStream) -> Self {
        let credentials = stream.peer_cred().ok();
        let uid = credentials.map(|credentials| credentials.uid());
        let pid = credentials.and_then(|credentials| credentials.pid());
        Self { stream, peer: Arc::new(Peer { uid, pid, is_containerd: OnceCell::new() }) }
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
