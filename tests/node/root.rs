//! Debian roots for nodes: made once with mmdebstrap, kept in a cache, never written to afterwards.

use std::{
    fs::{self, File},
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use sha2::{Digest, Sha256};

use super::Result;

/// A Debian suite, hence a containerd and a cosign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Suite {
    /// containerd 1.7.24, cosign 2.5 (`.sig` tags).
    Trixie,
    /// containerd 2.1.9, cosign 3.1 (bundles), docker 28.5.
    Forky,
}

impl Suite {
    pub const ALL: [Self; 2] = [Self::Trixie, Self::Forky];

    pub fn name(self) -> &'static str {
        match self {
            Self::Trixie => "trixie",
            Self::Forky => "forky",
        }
    }

    /// Whether the suite's nodes have docker with the containerd image store.
    pub fn has_docker(self) -> bool {
        self == Self::Forky
    }

    fn packages(self) -> Vec<&'static str> {
        let mut packages = vec![
            "systemd",
            "systemd-sysv",
            "dbus",
            "containerd",
            "runc",
            "ca-certificates",
            "iproute2",
            "procps",
            "skopeo",
            "busybox-static",
            "curl",
            "cosign",
        ];
        if self.has_docker() {
            packages.extend(["docker.io", "docker-cli", "iptables"]);
        }
        packages
    }
}

/// docker-registry's maintainer script fails in a root that is not booted, so its program is taken out of the package.
/// Docker is started by those who want it. Nodes are thrown away: dpkg need not wait for the disk.
const CUSTOMIZE: &str = r#"
cd "$1/tmp"
chroot "$1" sh -ec 'cd /tmp; apt-get -q download docker-registry; dpkg-deb -x docker-registry_*.deb unpacked;
    mv unpacked/usr/bin/docker-registry /usr/bin/; rm -r unpacked docker-registry_*.deb'
for unit in docker.service docker.socket; do chroot "$1" systemctl -q disable $unit 2>/dev/null || true; done
for unit in dev-hugepages.mount sys-kernel-debug.mount sys-kernel-tracing.mount; do chroot "$1" systemctl -q mask $unit; done
rm -f "$1/etc/hostname"
echo force-unsafe-io > "$1/etc/dpkg/dpkg.cfg.d/node"
"#;

/// A finished root in the cache.
#[derive(Clone, Debug)]
pub struct Root {
    pub suite: Suite,
    pub path: PathBuf,
}

impl Root {
    /// The cached root of `suite`; makes it if this list of packages has none yet (about a minute).
    ///
    /// # Errors
    /// Where mmdebstrap or systemd-nspawn is missing, or the root cannot be made.
    pub fn of(suite: Suite) -> Result<Self> {
        for (program, package) in [("mmdebstrap", "mmdebstrap"), ("systemd-nspawn", "systemd-container")] {
            if !in_path(program) {
                return Err(format!("{program} is missing. Fix: apt-get install {package}").into());
            }
        }
        let roots = cache().join("roots");
        fs::create_dir_all(&roots)?;
        let lock = File::create(roots.join(format!("{}.lock", suite.name())))?;
        lock.lock()?;
        let path = roots.join(format!("{}-{}", suite.name(), recipe(suite)));
        if !path.exists() {
            make(suite, &path)?;
        }
        Ok(Self { suite, path })
    }
}

/// Where roots and running nodes live: `PULLGATE_CACHE`, or `/var/cache/pullgate`.
pub fn cache() -> PathBuf {
    std::env::var_os("PULLGATE_CACHE").map_or_else(|| PathBuf::from("/var/cache/pullgate"), PathBuf::from)
}

fn make(suite: Suite, path: &Path) -> Result<()> {
    let unfinished = path.with_extension("unfinished");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    if io::stderr().is_terminal() {
        eprintln!("making the {} root, once (about a minute)", suite.name());
    }
    let made = Command::new("mmdebstrap")
        .args(["--quiet", "--variant=apt", "--aptopt=Acquire::Check-Valid-Until \"false\""])
        .arg(format!("--include={}", suite.packages().join(",")))
        .arg(format!("--customize-hook={CUSTOMIZE}"))
        .arg(suite.name())
        .arg(&unfinished)
        .stdin(Stdio::null())
        .output()?;
    if !made.status.success() {
        return Err(format!("mmdebstrap {}: {}", suite.name(), String::from_utf8_lossy(&made.stderr)).into());
    }
    fs::rename(&unfinished, path)?;
    Ok(())
}

fn recipe(suite: Suite) -> String {
    let digest = Sha256::digest(format!("{}\n{CUSTOMIZE}", suite.packages().join("\n")));
    hex::encode(&digest[..6])
}

fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}
