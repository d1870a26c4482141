//! containerd's service and configuration on a node.

use std::path::PathBuf;

use super::{Result, machine::Node, root::Suite};

pub const DIFF_SOCKET: &str = "/run/pullgate/diff.sock";
pub const TRANSFER_SOCKET: &str = "/run/pullgate/transfer.sock";
/// Where the package puts the image verifier.
pub const VERIFIERS: &str = "/usr/libexec/pullgate/verifiers";

impl Node {
    /// containerd's socket as the host reaches it.
    pub fn containerd_socket(&self) -> PathBuf {
        self.outside("/run/containerd/containerd.sock")
    }

    /// Waits until containerd serves.
    ///
    /// # Errors
    /// What systemd says, where it does not start.
    pub fn wait_for_containerd(&self) -> Result<()> {
        // Type=notify: the command returns when containerd says that it is ready.
        self.run(&["systemctl", "start", "containerd.service"])?.ok()?;
        self.run(&["ctr", "version"])?.ok()?;
        Ok(())
    }

    /// Restarts containerd and waits until it serves.
    ///
    /// # Errors
    /// What systemd and containerd's journal say, where it does not start.
    pub fn restart_containerd(&self) -> Result<()> {
        let restarted = self.run(&["systemctl", "restart", "containerd.service"])?;
        if !restarted.success() {
            let journal = self.run(&["journalctl", "-u", "containerd", "-n", "30", "-o", "cat"])?;
            return Err(format!("{}\n{}", restarted.text(), journal.text()).into());
        }
        self.wait_for_containerd()
    }

    /// Puts pullgate in front of containerd, as an administrator does.
    ///
    /// # Errors
    /// What `pullgate enable` says, where it does not succeed.
    pub fn connect_gates(&self) -> Result<()> {
        self.connect_gates_with("")
    }

    /// As [`Node::connect_gates`], with `more` sections in containerd's configuration.
    ///
    /// # Errors
    /// As [`Node::connect_gates`].
    pub fn connect_gates_with(&self, more: &str) -> Result<()> {
        self.write_configuration(more)?;
        self.run(&["pullgate", "enable", "--restart", "--watch=1"])?.ok()?;
        Ok(())
    }

    /// Takes pullgate out again, as an administrator does.
    ///
    /// # Errors
    /// What `pullgate disable` says, where it does not succeed.
    pub fn disconnect_gates(&self) -> Result<()> {
        self.run(&["pullgate", "disable", "--restart", "--watch=1"])?.ok()?;
        Ok(())
    }

    /// Connects the resolve gate, and no other: a node where only the verifier is asked.
    ///
    /// # Errors
    /// As [`Node::restart_containerd`].
    pub fn connect_verifier_alone(&self) -> Result<()> {
        self.configure_containerd(self.verifier())
    }

    /// The section of the image verifier, where containerd has one.
    fn verifier(&self) -> &'static str {
        match self.suite {
            Suite::Trixie => "",
            Suite::Forky => VERIFIER,
        }
    }

    /// The misconfiguration that asks the delegating socket from the diff service as well.
    ///
    /// # Errors
    /// As [`Node::restart_containerd`].
    pub fn connect_gates_in_a_loop(&self) -> Result<()> {
        self.configure_containerd(&format!("{PROXIES}{}", gates("[\"pullgate-transfer\", \"walking\"]")))
    }

    /// Writes containerd's configuration: what Debian ships, and `more`, and restarts containerd.
    ///
    /// # Errors
    /// As [`Node::restart_containerd`].
    pub fn configure_containerd(&self, more: &str) -> Result<()> {
        self.write_configuration(more)?;
        self.restart_containerd()
    }

    pub(crate) fn write_configuration(&self, more: &str) -> Result<()> {
        let debian = match self.suite {
            Suite::Trixie => DEBIAN_1_7,
            Suite::Forky => DEBIAN_2,
        };
        self.write("/etc/containerd/config.toml", format!("{}{more}", self.with_sandbox(debian)))
    }

    /// The name of the CRI image section, which keys like `discard_unpacked_layers` belong in.
    pub fn cri_images_section(&self) -> &'static str {
        match self.suite {
            Suite::Trixie => "[plugins.\"io.containerd.grpc.v1.cri\".containerd]",
            Suite::Forky => "[plugins.\"io.containerd.cri.v1.images\"]",
        }
    }
}

const DEBIAN_1_7: &str = r#"version = 2

[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    [plugins."io.containerd.grpc.v1.cri".cni]
      bin_dir = "/usr/lib/cni"
      conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.internal.v1.opt"]
    path = "/var/lib/containerd/opt"
"#;

const DEBIAN_2: &str = r#"version = 3

[plugins]
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.internal.v1.opt"]
    path = "/var/lib/containerd/opt"
"#;

const PROXIES: &str = r#"
[proxy_plugins.pullgate]
  type = "diff"
  address = "/run/pullgate/diff.sock"
[proxy_plugins.pullgate-transfer]
  type = "diff"
  address = "/run/pullgate/transfer.sock"
"#;

const VERIFIER: &str = r#"
[plugins."io.containerd.image-verifier.v1.bindir"]
  bin_dir = "/usr/libexec/pullgate/verifiers"
"#;

fn gates(differs: &str) -> String {
    let platform = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!(
        r#"
[plugins."io.containerd.service.v1.diff-service"]
  default = {differs}
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "linux/{platform}"
  snapshotter = "overlayfs"
  differ = "pullgate-transfer"
"#
    )
}
