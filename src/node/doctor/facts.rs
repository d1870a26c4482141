//! What is known about the node. Whatever could not be looked at says why: it is never taken for absent.

use std::{collections::BTreeMap, path::PathBuf};

use super::super::{dump::Dump, imports::Read, start::Start, version::Version};
use crate::{config::Acknowledged, containerd::Loaded, image::Repository, status::Status};

/// What is known, or why it is not.
pub type Known<T> = Result<T, String>;

/// The node, looked at once.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The namespaces that pullgate's own configuration exempts from the watch, or what is wrong with it.
    pub own: Known<Vec<String>>,
    /// Containers that it says may reach what is the node's.
    pub acknowledged: Vec<Acknowledged>,
    /// containerd's socket, as pullgate's configuration says; where that says nothing, as the daemon does.
    pub socket: PathBuf,
    /// What containerd's files say: what its next start runs with.
    pub configured: Known<Configured>,
    /// What containerd runs with.
    pub running: Known<Running>,
    /// Where containerd looks for image verifiers; none where it has no such thing.
    pub verifiers: Known<Option<VerifierDirectory>>,
    /// What `enable` did; none when it did nothing.
    pub enabled: Known<Option<Enabled>>,
    /// The text of each base spec that a runtime handler names; none where the file is not there.
    pub base_specs: BTreeMap<PathBuf, Known<Option<String>>>,
    /// The start gate of each runtime handler, as containerd runs.
    pub start: Known<Start>,
    /// What the daemon says about itself.
    pub daemon: Known<Status>,
    /// What systemd says about pullgate's units.
    pub units: Known<Units>,
    /// The containers, and what of the node is mounted into each.
    pub containers: Known<Mounts>,
    /// What else on this node brings images or opens a way.
    pub foreign: Foreign,
    /// The directory of the NRI socket, where somebody else than root can connect to it.
    pub nri_open: Known<Option<PathBuf>>,
}

/// containerd's files and program.
#[derive(Clone, Debug)]
pub struct Configured {
    /// The main file, which need not be there.
    pub main: PathBuf,
    /// All files, in their order.
    pub files: Vec<Read>,
    /// All files and the defaults together.
    pub dump: Dump,
    /// The version of the program.
    pub version: Version,
}

/// containerd's process.
#[derive(Clone, Debug)]
pub struct Running {
    /// Its plugins.
    pub loaded: Vec<Loaded>,
    /// Files and directories of its configuration that changed after it was started.
    pub unread: Vec<PathBuf>,
    /// Other containerds outside of containers, each with whether its own configuration names pullgate.
    pub others: Vec<String>,
}

/// A directory of image verifiers.
#[derive(Clone, Debug, Default)]
pub struct VerifierDirectory {
    /// Its path.
    pub path: PathBuf,
    /// Whether it is there.
    pub exists: bool,
    /// Its entries, in the order in which containerd runs them.
    pub programs: Vec<Program>,
    /// Paths that somebody else than root may write to: the directory, and pullgate's verifier with what is above it.
    pub writable: Vec<PathBuf>,
}

/// One entry of such a directory.
#[derive(Clone, Debug)]
pub struct Program {
    /// Its name.
    pub name: String,
    /// Whether it is pullgate's verifier, by whatever name.
    pub ours: bool,
    /// Whether it can be run: a file, and executable.
    pub runs: bool,
}

/// What `enable` did.
#[derive(Clone, Debug, Default)]
pub struct Enabled {
    /// Files that are not any more as it wrote them.
    pub changed: Vec<PathBuf>,
}

/// pullgate's units.
#[derive(Clone, Debug, Default)]
pub struct Units {
    /// Whether the sockets are there.
    pub sockets_active: bool,
    /// Whether the sockets come back after a boot.
    pub sockets_enabled: bool,
    /// Microseconds in which journald takes at most [`Self::rate_burst`] entries, as systemd writes it.
    pub rate_interval: String,
    /// Entries that journald takes in that time.
    pub rate_burst: u64,
}

/// What is mounted where.
#[derive(Clone, Debug, Default)]
pub struct Mounts {
    /// Containers with any mount from the node.
    pub containers: Vec<ContainerMounts>,
    /// The snapshotters that containers use, each with how many do.
    pub snapshotters: BTreeMap<String, usize>,
    /// Containers whose record cannot be read, each with why.
    pub unreadable: Vec<String>,
}

/// A container, and what of the node it sees.
#[derive(Clone, Debug)]
pub struct ContainerMounts {
    /// containerd's namespace.
    pub namespace: String,
    /// Its pod, as `namespace/name`, where it is of one.
    pub pod: Option<String>,
    /// Its name in the pod, or else its id.
    pub name: String,
    /// What its pod calls its image, where that is a name.
    pub image: Option<Repository>,
    /// Its mounts.
    pub mounts: Vec<Mount>,
}

/// A part of the node inside of a container.
#[derive(Clone, Debug)]
pub struct Mount {
    /// The path on the node as the container names it.
    pub source: PathBuf,
    /// The same without symbolic links.
    pub canonical: PathBuf,
    /// Whether files in it cannot be changed. A socket in it can be spoken to all the same.
    pub read_only: bool,
}

/// What else on the node has to do with images.
#[derive(Clone, Debug, Default)]
pub struct Foreign {
    /// Programs that run: `dockerd`, `buildkitd`, `crio`.
    pub programs: Vec<String>,
    /// What docker says about its images, where it runs: whether containerd stores them.
    pub docker_in_containerd: Option<Known<bool>>,
}

impl Facts {
    pub(super) fn configured(&self) -> Known<&Configured> {
        self.configured.as_ref().map_err(Clone::clone)
    }

    pub(super) fn running(&self) -> Known<&Running> {
        self.running.as_ref().map_err(Clone::clone)
    }

    pub(super) fn daemon(&self) -> Known<&Status> {
        self.daemon.as_ref().map_err(|why| format!("the daemon does not answer: {why}"))
    }

    pub(super) fn containers(&self) -> Known<&Mounts> {
        self.containers.as_ref().map_err(Clone::clone)
    }
}

impl Running {
    /// The plugin of this kind and name.
    pub(super) fn plugin(&self, kind: &str, id: &str) -> Option<&Loaded> {
        self.loaded.iter().find(|plugin| plugin.kind == kind && plugin.id == id)
    }

    /// Whether a plugin of this kind and name runs.
    pub(super) fn runs(&self, kind: &str, id: &str) -> bool {
        self.plugin(kind, id).is_some_and(|plugin| plugin.error.is_none())
    }
}

impl Configured {
    /// Where a value is set.
    pub(super) fn place(&self, ways: &[&[&str]]) -> Option<super::Place> {
        super::place::of(&self.files, ways)
    }
}
