//! The service account of a pod, as far as the token proves it that the kubelet mounted.
//!
//! Which volume is mounted where the token is expected is the choice of the pod's author, and so is what lies in it. So the
//! volume has to be one that the kubelet made for this very pod, nothing on the way to it is followed that could lead
//! elsewhere, and of what is read only the issuer's signature is believed.

use std::{
    fs::File,
    io::Read,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, OFlag, openat, readlinkat},
    sys::stat::Mode,
};

use crate::{
    config::ServiceAccounts, containerd::containers::Container, limits, policy::scope::Account, snapshot::Snapshot,
    verify::token::Bound,
};

/// Where the kubelet mounts the token.
const MOUNTED: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The kind of volume that it lies in.
const PROJECTED: &str = "kubernetes.io~projected";
/// How the kubelet writes a volume's files: in a folder of their own, to which this link leads (Kubernetes,
/// `pkg/volume/util/atomic_writer.go`).
const DATA: &str = "..data";
const TOKEN: &str = "token";

/// The service account that `container` of `pod` proves at `now`; none where the policy says the same for every account, or
/// where none is proven.
pub(super) async fn proven(
    snapshot: &Snapshot,
    container: &Container,
    pod: Bound<'_>,
    now: Option<Timestamp>,
) -> Option<Account> {
    let asks = |namespace| snapshot.policy.as_ref().is_some_and(|policy| policy.asks_for_accounts_of(namespace));
    if !asks(pod.namespace) {
        return None;
    }
    match prove(snapshot.config.service_accounts.as_ref(), container, pod, now).await {
        Ok(name) => Some(Account { namespace: pod.namespace.to_owned(), name }),
        Err(why) => {
            tracing::info!("container {}: no service account of {} is proven: {why}", container.id, pod.namespace);
            None
        }
    }
}

async fn prove(
    accounts: Option<&ServiceAccounts>,
    container: &Container,
    pod: Bound<'_>,
    now: Option<Timestamp>,
) -> Result<String, String> {
    let accounts = accounts.ok_or("config.toml has no [service-accounts]")?;
    let now = now.ok_or("this node does not know the time")?;
    let volume = volume(accounts, container, pod.uid)?;
    let reading = tokio::task::spawn_blocking(move || volume.read());
    let token = reading.await.map_err(|error| error.to_string())??;
    accounts.issuer.account(&token, pod, now)
}

/// A projected volume of a pod.
#[derive(Debug, PartialEq, Eq)]
struct Volume {
    /// The kubelet's folder for pods.
    pods: PathBuf,
    uid: String,
    name: String,
}

/// The one volume that is mounted where the token is expected.
fn volume(accounts: &ServiceAccounts, container: &Container, uid: &str) -> Result<Volume, String> {
    let spec = container.spec.as_ref().map_err(|why| why.0.clone())?;
    let mut mounts = spec.mounts.iter().filter(|mount| mount.destination.trim_end_matches('/') == MOUNTED);
    let mount = match (mounts.next(), mounts.next()) {
        (Some(mount), None) => mount,
        (None, _) => return Err("no token is mounted".to_owned()),
        (Some(_), Some(_)) => return Err("several volumes are mounted where the token is expected".to_owned()),
    };
    let is_uid = !uid.is_empty() && uid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let pods = accounts.kubelet.join("pods");
    let of_pod = pods.join(uid).join("volumes").join(PROJECTED);
    let name = mount.source.strip_prefix(&format!("{}/", of_pod.display())).filter(|_| is_uid);
    match name {
        Some(name) if !name.is_empty() && !name.contains('/') && name != "." && name != ".." => {
            Ok(Volume { pods, uid: uid.to_owned(), name: name.to_owned() })
        }
        _ => {
            Err("what is mounted where the token is expected is no volume that the kubelet made for this pod"
                .to_owned())
        }
    }
}

impl Volume {
    /// The token in it.
    fn read(&self) -> Result<Vec<u8>, String> {
        let refused = |errno: Errno| match errno {
            Errno::EACCES => {
                "its token cannot be read: the daemon needs CAP_DAC_READ_SEARCH (docs/policy.md)".to_owned()
            }
            errno => format!("its token cannot be read: {}", errno.desc()),
        };
        // The kubelet's own folder may be a link: no pod has a say in that.
        let pods = open(AT_FDCWD, &self.pods, OFlag::O_DIRECTORY).map_err(refused)?;
        let mut folder = pods;
        for part in [self.uid.as_str(), "volumes", PROJECTED, &self.name] {
            folder = open(&folder, Path::new(part), OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW).map_err(refused)?;
        }
        let data = readlinkat(&folder, DATA).map_err(refused)?;
        let is_beside =
            data.to_str().is_some_and(|data| data.starts_with("..") && data.len() > 2 && !data.contains('/'));
        if !is_beside {
            return Err("the kubelet did not write it".to_owned());
        }
        let data = open(&folder, Path::new(&data), OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW).map_err(refused)?;
        // Opening a FIFO would wait for whoever writes to it.
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let file = File::from(open(&data, Path::new(TOKEN), flags).map_err(refused)?);
        if !file.metadata().is_ok_and(|meta| meta.is_file()) {
            return Err("its token is not a plain file".to_owned());
        }
        let mut token = Vec::new();
        let most = limits::SERVICE_ACCOUNT_TOKEN_BYTES;
        file.take(most + 1).read_to_end(&mut token).map_err(|error| error.to_string())?;
        match token.len() as u64 > most {
            true => Err(format!("its token is larger than {most} bytes")),
            false => Ok(token),
        }
    }
}

fn open(folder: impl std::os::fd::AsFd, path: &Path, flags: OFlag) -> Result<OwnedFd, Errno> {
    openat(folder, path, flags | OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
}
