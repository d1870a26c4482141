//! The agreement with systemd: the sockets it hands over, and what it is told.

use std::{
    fs, io,
    os::{
        fd::{FromRawFd as _, OwnedFd},
        unix::{
            fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use nix::{
    sys::socket::{getsockopt, sockopt},
    unistd::geteuid,
};
use sd_notify::NotifyState;

use crate::{image::sanitize, limits};

/// Where the sockets are. `pullgate-gates.socket` owns it.
pub const DIRECTORY: &str = "/run/pullgate";

/// The sockets that the daemon serves. Non-blocking.
#[derive(Debug)]
pub struct Sockets {
    /// `diff.sock`: containerd's diff service asks here and falls through to its own differ.
    pub diff: UnixListener,
    /// `transfer.sock`: containerd's transfer service asks here; pullgate delegates.
    pub transfer: UnixListener,
    /// `verify.sock`: containerd's image verifier asks here.
    pub verify: UnixListener,
    /// `start.sock`: the runtime's hook asks here.
    pub start: UnixListener,
    /// `status.sock`: whoever connects is told the status; nothing is read.
    pub status: UnixListener,
    /// `selftest.sock`: whoever connects gets a self-test and its report; nothing is read.
    pub selftest: UnixListener,
    /// `reload.sock`: whoever connects has the files read again, and is told what came of it; nothing is read.
    pub reload: UnixListener,
    /// `break-glass.sock`: root asks for passes here.
    pub break_glass: UnixListener,
}

/// Why there is a socket that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// systemd handed over something that is not a listening Unix stream socket.
    #[error("a file descriptor from systemd is not a listening Unix socket: {0}")]
    NotListening(io::Error),
    /// The directory is somebody else's, open to others, or not a directory.
    #[error("{}: must be a directory of uid {uid} with mode 0700", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Who has to own it.
        uid: u32,
    },
    /// Another daemon listens on it.
    #[error("{}: another pullgate serves it", .0.display())]
    InUse(PathBuf),
    /// It cannot be made.
    #[error("{}: {error}", path.display())]
    Io {
        /// The socket or directory.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
}

impl Sockets {
    /// The sockets in `directory`: those that systemd hands over, told apart by their path (with one
    /// socket unit they all have the same name), and the others made here, as when the daemon is run by hand.
    ///
    /// # Errors
    /// When a socket is not one, is served by somebody else, or lies in a directory that others can write to.
    pub fn take(directory: &Path) -> Result<Self, SocketError> {
        Self::sort(directory, inherited()?)
    }

    fn sort(directory: &Path, inherited: Vec<OwnedFd>) -> Result<Self, SocketError> {
        let mut listeners = Vec::with_capacity(inherited.len());
        for descriptor in inherited {
            listeners.push(listening(descriptor).map_err(SocketError::NotListening)?);
        }
        let mut socket = |name: &str| {
            let path = directory.join(name);
            let own = |(_, at): &(_, Option<PathBuf>)| at.as_deref() == Some(path.as_path());
            match listeners.iter().position(own) {
                Some(index) => Ok(listeners.swap_remove(index).0),
                None => bind(directory, path),
            }
        };
        let sockets = Self {
            diff: socket("diff.sock")?,
            transfer: socket("transfer.sock")?,
            verify: socket("verify.sock")?,
            start: socket("start.sock")?,
            status: socket("status.sock")?,
            selftest: socket("selftest.sock")?,
            reload: socket("reload.sock")?,
            break_glass: socket("break-glass.sock")?,
        };
        for (_, path) in listeners {
            tracing::warn!("systemd handed over a socket that nothing here serves: {path:?}");
        }
        Ok(sockets)
    }
}

/// The descriptors that systemd opened for this process (sd_listen_fds(3)). Once only: they have one owner.
fn inherited() -> Result<Vec<OwnedFd>, SocketError> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    let descriptors = sd_notify::listen_fds().map_err(SocketError::NotListening)?;
    // SAFETY: `listen_fds` has checked LISTEN_PID, so systemd opened these descriptors for this process,
    // and has set a flag on each, so they are open; `TAKEN` lets them be owned once.
    #[allow(unsafe_code)]
    let own = |descriptor| unsafe { OwnedFd::from_raw_fd(descriptor) };
    Ok(descriptors.map(own).collect())
}

fn listening(descriptor: OwnedFd) -> io::Result<(UnixListener, Option<PathBuf>)> {
    if !getsockopt(&descriptor, sockopt::AcceptConn)? {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let listener = UnixListener::from(descriptor);
    let path = listener.local_addr()?.as_pathname().map(Path::to_owned);
    listener.set_nonblocking(true)?;
    Ok((listener, path))
}

fn bind(directory: &Path, path: PathBuf) -> Result<UnixListener, SocketError> {
    own_directory(directory)?;
    let bound = || {
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    if UnixStream::connect(&path).is_ok() {
        return Err(SocketError::InUse(path));
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(SocketError::Io { path, error }),
        _ => bound().map_err(|error| SocketError::Io { path: path.clone(), error }),
    }
}

/// Whoever can write to the directory can put a socket of their own in place of the daemon's.
fn own_directory(directory: &Path) -> Result<(), SocketError> {
    let path = directory.to_owned();
    match fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(SocketError::Io { path, error }),
        _ => {}
    }
    match fs::symlink_metadata(directory) {
        Ok(found) if found.is_dir() && found.uid() == geteuid().as_raw() && found.mode() & 0o077 == 0 => Ok(()),
        Ok(_) => Err(SocketError::Directory { path, uid: geteuid().as_raw() }),
        Err(error) => Err(SocketError::Io { path, error }),
    }
}

/// The daemon speaks on its sockets; `status` is what `systemctl status` shows.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(&line(status))]);
}

/// What `systemctl status` shows from now on.
pub fn status(status: &str) {
    tell(&[NotifyState::Status(&line(status))]);
}

/// The configuration is being read again; [`ready`] ends it.
pub fn reloading() {
    // systemd 253 and newer want the time with it.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// The daemon is stopping.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Tells systemd twice in each watchdog period that the daemon lives, as long as `alive` says so.
/// Returns at once when the unit has no watchdog.
pub async fn watchdog(alive: impl Fn() -> bool) {
    let Some(period) = sd_notify::watchdog_enabled() else { return };
    let mut beat = tokio::time::interval((period / 2).max(Duration::from_millis(1)));
    loop {
        beat.tick().await;
        if alive() {
            tell(&[NotifyState::Watchdog]);
        }
    }
}

/// A line break would begin another message to systemd.
fn line(status: &str) -> String {
    sanitize(status, limits::MESSAGE_CHARS)
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("systemd was not told {states:?}: {error}");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    fn private() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        folder
    }

    fn is_at(listener: &UnixListener, path: &Path) -> bool {
        listener.local_addr().unwrap().as_pathname() == Some(path)
    }

    #[test]
    fn by_hand_the_sockets_are_made_private() {
        let folder = private();
        let directory = folder.path().join("pullgate");
        let sockets = Sockets::sort(&directory, Vec::new()).unwrap();
        assert!(is_at(&sockets.diff, &directory.join("diff.sock")));
        assert!(is_at(&sockets.transfer, &directory.join("transfer.sock")));
        assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o777, 0o700);
        for name in [
            "diff.sock",
            "transfer.sock",
            "verify.sock",
            "status.sock",
            "selftest.sock",
            "reload.sock",
            "break-glass.sock",
        ] {
            assert_eq!(fs::metadata(directory.join(name)).unwrap().mode() & 0o777, 0o600, "{name}");
        }
        assert_eq!(sockets.diff.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn inherited_sockets_are_told_apart_by_path_whatever_their_order() {
        let folder = private();
        let at = |name: &str| UnixListener::bind(folder.path().join(name)).unwrap();
        let inherited = ["status.sock", "diff.sock", "other.sock", "verify.sock", "transfer.sock"]
            .map(|name| OwnedFd::from(at(name)));
        let sockets = Sockets::sort(folder.path(), inherited.into()).unwrap();
        assert!(is_at(&sockets.diff, &folder.path().join("diff.sock")));
        assert!(is_at(&sockets.transfer, &folder.path().join("transfer.sock")));
        assert!(is_at(&sockets.verify, &folder.path().join("verify.sock")));
        assert!(is_at(&sockets.status, &folder.path().join("status.sock")));
        assert_eq!(sockets.status.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn what_an_older_socket_unit_does_not_hand_over_is_made() {
        let folder = private();
        let diff = UnixListener::bind(folder.path().join("diff.sock")).unwrap();
        let sockets = Sockets::sort(folder.path(), vec![diff.into()]).unwrap();
        assert!(is_at(&sockets.status, &folder.path().join("status.sock")));
    }

    #[test]
    fn a_socket_left_behind_is_replaced_and_one_in_use_is_not() {
        let folder = private();
        drop(Sockets::sort(folder.path(), Vec::new()).unwrap());
        let first = Sockets::sort(folder.path(), Vec::new()).unwrap();
        assert!(matches!(Sockets::sort(folder.path(), Vec::new()), Err(SocketError::InUse(_))));
        drop(first);
    }

    #[test]
    fn a_directory_that_others_can_enter_is_refused() {
        let folder = private();
        let directory = folder.path().join("open");
        for mode in [0o755, 0o770, 0o701] {
            let _ = fs::remove_dir(&directory);
            fs::create_dir(&directory).unwrap();
            fs::set_permissions(&directory, fs::Permissions::from_mode(mode)).unwrap();
            let refused = Sockets::sort(&directory, Vec::new());
            assert!(matches!(refused, Err(SocketError::Directory { .. })), "{mode:o}");
        }
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path(), &link).unwrap();
        assert!(matches!(Sockets::sort(&link, Vec::new()), Err(SocketError::Directory { .. })));
    }

    #[test]
    fn what_does_not_listen_is_refused() {
        let folder = private();
        let datagram = UnixDatagram::bind(folder.path().join("diff.sock")).unwrap();
        let (stream, _other) = UnixStream::pair().unwrap();
        let file = fs::File::open("/dev/null").unwrap();
        for descriptor in [OwnedFd::from(datagram), stream.into(), file.into()] {
            let refused = Sockets::sort(folder.path(), vec![descriptor]);
            assert!(matches!(refused, Err(SocketError::NotListening(_))));
        }
    }

    #[test]
    fn a_status_cannot_say_more_than_a_status() {
        assert_eq!(line("policy.toml:3: bad\nREADY=1"), "policy.toml:3: bad?READY=1");
    }
}
