//! pullgate on a node: its package, its configuration, its policy, its units.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{Node, Result, Suite, machine::Storage, registry::REGISTRY};

pub const SERVICE: &str = "pullgate.service";
pub const SOCKETS: &str = "pullgate-gates.socket";
pub const CONFIG_FILE: &str = "/etc/pullgate/config.toml";
pub const POLICY_FILE: &str = "/etc/pullgate/policy.toml";
/// The attestor's public key, where [`POLICY`] looks for it.
pub const KEY_FILE: &str = "/etc/pullgate/keys/demo.pub";

pub const CONFIG: &str = r#"mode = "enforce"

[registry."127.0.0.1:5000"]
"#;

pub const POLICY: &str = r#"schema = 1

[[attestor]]
name = "demo"
may-sign = ["signature"]
keys = [{ file = "/etc/pullgate/keys/demo.pub", algorithm = "ecdsa-p256-sha256" }]

[[rule]]
name = "demo"
images = ["127.0.0.1:5000/demo/**"]
require = { all = ["demo"] }

[default]
require = "deny"
"#;

impl Node {
    /// A node with a registry, docker where the suite has it, the package, [`POLICY`] in force and every gate connected.
    ///
    /// # Errors
    /// Whatever of it does not work.
    pub fn gated(suite: Suite) -> Result<Self> {
        Self::gated_on(suite, Storage::Memory)
    }

    /// As [`Node::gated`], with containerd's data where `storage` says.
    ///
    /// # Errors
    /// As [`Node::gated`].
    pub fn gated_on(suite: Suite, storage: Storage) -> Result<Self> {
        let node = Self::unconnected_on(suite, storage)?;
        node.connect_gates()?;
        Ok(node)
    }

    /// As [`Node::gated`], with containerd as its package left it.
    ///
    /// # Errors
    /// As [`Node::gated`].
    pub fn unconnected(suite: Suite) -> Result<Self> {
        Self::unconnected_on(suite, Storage::Memory)
    }

    fn unconnected_on(suite: Suite, storage: Storage) -> Result<Self> {
        let package = package()?;
        let node = Self::boot_on(suite, storage)?;
        node.start_registry()?;
        if suite.has_docker() {
            node.start_docker()?;
        }
        node.install_deb(&package)?;
        let key = node.make_key("demo")?;
        node.write(KEY_FILE, node.read(&key)?)?;
        node.configure(CONFIG, POLICY)?;
        Ok(node)
    }

    /// Writes configuration and policy, and lets the daemon read them.
    ///
    /// # Errors
    /// What systemd says.
    pub fn configure(&self, config: &str, policy: &str) -> Result<()> {
        self.write(CONFIG_FILE, config)?;
        self.write(POLICY_FILE, policy)?;
        self.systemctl(&["restart", SERVICE])
    }

    /// Lets the daemon read its files again: they are in force afterwards.
    ///
    /// # Errors
    /// What systemd says.
    pub fn reload(&self) -> Result<()> {
        self.systemctl(&["reload", SERVICE])
    }

    /// Lets the daemon read its files again, which it refuses; returns what it says of them in the journal.
    ///
    /// # Errors
    /// Where it takes them.
    pub fn reload_refused(&self) -> Result<String> {
        let cursor = self.cursor()?;
        let output = self.run(&["systemctl", "reload", SERVICE])?;
        if output.success() {
            return Err("the daemon took the files".into());
        }
        self.run(&["journalctl", "--sync"])?.ok()?;
        let since = format!("--after-cursor={cursor}");
        self.run(&["journalctl", "--no-pager", "-u", SERVICE, "-o", "cat", &since])?.ok()
    }

    /// Runs systemctl, which has to succeed.
    ///
    /// # Errors
    /// What it says.
    pub fn systemctl(&self, arguments: &[&str]) -> Result<()> {
        self.run(&[&["systemctl"], arguments].concat())?.ok()?;
        Ok(())
    }

    /// A unit's property as `systemctl show` prints it.
    ///
    /// # Errors
    /// What it says.
    pub fn property(&self, unit: &str, property: &str) -> Result<String> {
        let shown = self.run(&["systemctl", "show", "--value", "--property", property, unit])?.ok()?;
        Ok(shown.trim().to_owned())
    }

    /// Whether a unit is active.
    ///
    /// # Errors
    /// As [`Node::property`].
    pub fn is_active(&self, unit: &str) -> Result<bool> {
        Ok(self.property(unit, "ActiveState")? == "active")
    }

    /// Kills the daemon as the kernel would.
    ///
    /// # Errors
    /// What systemd says.
    pub fn kill_daemon(&self) -> Result<()> {
        self.systemctl(&["kill", "--signal=SIGKILL", SERVICE])
    }
}

/// [`POLICY`] with `rules` before the default.
pub fn policy_with(rules: &str) -> String {
    POLICY.replace("[default]", &format!("{rules}\n\n[default]"))
}

/// `path` in the node's registry.
pub fn in_registry(path: &str) -> String {
    format!("{REGISTRY}/{path}")
}

/// The package under test: `PULLGATE_DEB`, else the one that `make deb` left in `target/debian`.
///
/// # Errors
/// Where there is none, or it is older than the sources.
pub fn package() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("PULLGATE_DEB") {
        return Ok(given.into());
    }
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = fs::read_dir(here.join("target/debian"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .filter_map(|path| Some((path.metadata().ok()?.modified().ok()?, path)))
        .max();
    let Some((built, package)) = found else {
        return Err("no package to test. Fix: make deb, or set PULLGATE_DEB".into());
    };
    for source in ["Cargo.lock", "build.rs", "src", "systemd", "config", "packaging"] {
        if newest(&here.join(source)).is_some_and(|changed| changed > built) {
            return Err(
                format!("{} is older than {source}. Fix: make deb, or set PULLGATE_DEB", package.display()).into()
            );
        }
    }
    Ok(package)
}

fn newest(path: &Path) -> Option<SystemTime> {
    let own = path.metadata().ok()?;
    if own.is_file() {
        return own.modified().ok();
    }
    fs::read_dir(path).ok()?.flatten().filter_map(|entry| newest(&entry.path())).max()
}
