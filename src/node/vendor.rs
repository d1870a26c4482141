//! Tools that write containerd's configuration themselves, and what to do beside them.

use std::{fs, path::Path};

use super::{
    base_spec::OF_CONTAINERD,
    dump::{DIFF, DIFF_PROXY, TRANSFER, TRANSFER_PROXY, VERIFIERS},
    process::Process,
    runtimes::{BASE_SPEC, CRI_1, CRI_2},
    verifiers,
    version::Version,
};

/// A tool that writes the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vendor {
    /// What it is called.
    pub name: &'static str,
    /// Whether lines in the file would be lost, or cannot be written.
    pub refuses: bool,
    /// What to do.
    pub advice: String,
}

/// The tools on a node whose root directory is `root`.
pub fn detect(process: &Process, socket: &Path, version: Option<Version>, root: &Path) -> Vec<Vendor> {
    let there = |path: &str| root.join(path.trim_start_matches('/')).exists();
    let config = process.config.to_string_lossy().into_owned();
    let program = process.program.to_string_lossy().into_owned();
    let mut found = Vec::new();
    let mut add = |name, refuses, advice: String| found.push(Vendor { name, refuses, advice });
    for (name, folder) in [("k3s", "/var/lib/rancher/k3s"), ("rke2", "/var/lib/rancher/rke2")] {
        let own = config.starts_with(folder) || program.starts_with(folder);
        if own || (name == "k3s" && socket.starts_with("/run/k3s") && there(folder)) {
            let template = match version {
                Some(version) if version < Version(2, 0, 0) => "config.toml.tmpl",
                _ => "config-v3.toml.tmpl",
            };
            add(name, true, rancher(name, folder, template, version));
        }
    }
    let release = fs::read_to_string(root.join("etc/os-release")).unwrap_or_default();
    let is = |id: &str| {
        release.lines().any(|line| line.trim_matches('"') == format!("ID={id}") || line == format!("ID=\"{id}\""))
    };
    if is("bottlerocket") {
        add(
            "Bottlerocket",
            true,
            "its root file system is read-only and its settings have no diff proxies: pullgate cannot be connected there"
                .to_owned(),
        );
    }
    if is("talos") {
        add(
            "Talos",
            true,
            format!(
                "put these lines into /etc/cri/conf.d/20-customization.part with machine.files of the machine configuration:\n{}",
                lines(version)
            ),
        );
    }
    if there("/etc/eks") || there("/usr/bin/nodeadm") {
        add(
            "EKS",
            false,
            format!(
                "nodeadm writes {config} at every boot. Run `pullgate enable --restart` from the node's user data, after \
                 nodeadm, or put the lines into spec.containerd.config of the NodeConfig"
            ),
        );
    }
    if there("/home/kubernetes/kube-env") || there("/home/kubernetes/bin/configure-helper.sh") {
        add(
            "GKE",
            false,
            format!("its start-up scripts write {config} at every boot. Run `pullgate enable --restart` after them"),
        );
    }
    if ["/usr/bin/nvidia-ctk", "/usr/local/nvidia/toolkit/nvidia-ctk"].iter().any(|path| there(path)) {
        add(
            "nvidia-ctk",
            false,
            "it adds runtime handlers to the file and leaves pullgate's lines. Look at `pullgate status` after it ran"
                .to_owned(),
        );
    }
    for (name, folder, place) in [
        ("MicroK8s", "/var/snap/microk8s", "/var/snap/microk8s/current/args/containerd-template.toml"),
        ("k0s", "/run/k0s", "a file in /etc/k0s/containerd.d"),
    ] {
        if config.starts_with(folder) {
            add(name, true, format!("it writes {config} itself. Put these lines into {place}:\n{}", lines(version)));
        }
    }
    found
}

fn rancher(name: &str, folder: &str, template: &str, version: Option<Version>) -> String {
    let directory = format!("{folder}/agent/etc/containerd");
    let service = if name == "k3s" { "k3s (or k3s-agent)" } else { "rke2-server (or rke2-agent)" };
    format!(
        "{name} writes {directory}/config.toml anew at every start. Put these lines into {directory}/{template} and restart \
         {service}:\n\n{{{{ template \"base\" . }}}}\n{}",
        lines(version)
    )
}

/// The lines for a containerd of this version, as a person pastes them.
fn lines(version: Option<Version>) -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let proxy =
        |(name, socket): (&str, &str)| format!("[proxy_plugins.{name}]\n  type = \"diff\"\n  address = \"{socket}\"\n");
    let verifiers = match version {
        Some(version) if version >= Version::VERIFIERS => {
            format!("[plugins.\"{VERIFIERS}\"]\n  bin_dir = \"{}\"\n", verifiers::DIRECTORY)
        }
        _ => String::new(),
    };
    let cri = match version {
        Some(version) if version >= Version(2, 0, 0) => CRI_2,
        _ => CRI_1,
    };
    format!(
        "{}{}{verifiers}[plugins.\"{DIFF}\"]\n  default = [\"{}\", \"walking\"]\n[[plugins.\"{TRANSFER}\".unpack_config]]\n  \
         platform = \"linux/{architecture}\"\n  snapshotter = \"overlayfs\"\n  differ = \"{}\"\n\
         # The start gate: this key in the section of every runtime handler that is there already. How the file is made:\n\
         # /usr/share/doc/pullgate/containerd.md, \"By hand\"\n\
         # [plugins.\"{cri}\".containerd.runtimes.runc]\n#   {BASE_SPEC} = \"{OF_CONTAINERD}\"\n",
        proxy(DIFF_PROXY),
        proxy(TRANSFER_PROXY),
        DIFF_PROXY.0,
        TRANSFER_PROXY.0
    )
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, time::SystemTime};

    use super::*;

    fn found(program: &str, config: &str, socket: &str, files: &[(&str, &str)]) -> Vec<Vendor> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let process = Process {
            pid: 1,
            ticks: 1,
            started: SystemTime::UNIX_EPOCH,
            program: program.into(),
            config: PathBuf::from(config),
            address: None,
            unit: None,
        };
        detect(&process, Path::new(socket), Some(Version(2, 0, 5)), root.path())
    }

    const PROGRAM: &str = "/usr/bin/containerd";
    const CONFIG: &str = "/etc/containerd/config.toml";
    const SOCKET: &str = "/run/containerd/containerd.sock";

    #[test]
    fn a_plain_node_has_none() {
        assert_eq!(found(PROGRAM, CONFIG, SOCKET, &[("/etc/os-release", "ID=debian\n")]), []);
    }

    #[test]
    fn generated_files_are_refused_with_the_lines_for_their_template() {
        let config = "/var/lib/rancher/k3s/agent/etc/containerd/config.toml";
        let k3s =
            found("/var/lib/rancher/k3s/data/x/bin/containerd", config, "/run/k3s/containerd/containerd.sock", &[]);
        assert!(k3s.len() == 1 && k3s[0].refuses && k3s[0].name == "k3s", "{k3s:?}");
        let (_, lines) = k3s[0].advice.split_once("{{ template \"base\" . }}\n").unwrap();
        let read: toml::Table = lines.parse().unwrap();
        assert_eq!(read["proxy_plugins"]["pullgate"]["type"].as_str(), Some("diff"));
        assert_eq!(read["plugins"][VERIFIERS]["bin_dir"].as_str(), Some(verifiers::DIRECTORY));
        assert!(k3s[0].advice.contains("config-v3.toml.tmpl"));
        assert!(!super::lines(Some(Version(1, 7, 24))).contains("bin_dir"));
        assert!(
            super::lines(Some(Version(1, 7, 24)))
                .contains("[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes")
        );
        assert!(lines.contains("# [plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.runc]"), "{lines}");
        let rke2 = found(PROGRAM, "/var/lib/rancher/rke2/agent/etc/containerd/config.toml", SOCKET, &[]);
        assert!(rke2[0].refuses && rke2[0].name == "rke2");
        for id in ["ID=talos", "ID=bottlerocket", "ID=\"bottlerocket\""] {
            assert!(found(PROGRAM, CONFIG, SOCKET, &[("/etc/os-release", id)])[0].refuses, "{id}");
        }
        assert!(found(PROGRAM, "/run/k0s/containerd-cri.toml", "/run/k0s/containerd.sock", &[])[0].refuses);
    }

    #[test]
    fn tools_that_write_now_and_then_are_noted() {
        for (path, name) in
            [("/etc/eks/x", "EKS"), ("/home/kubernetes/kube-env", "GKE"), ("/usr/bin/nvidia-ctk", "nvidia-ctk")]
        {
            let found = found(PROGRAM, CONFIG, SOCKET, &[(path, "")]);
            assert!(found.len() == 1 && !found[0].refuses && found[0].name == name, "{found:?}");
        }
    }
}
