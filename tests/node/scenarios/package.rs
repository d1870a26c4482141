//! The package comes and goes, and containerd stays as it was.

use super::expect;
use crate::node::{
    Image, Node, Path, Result, Suite,
    product::{self, CONFIG_FILE, POLICY_FILE, SERVICE, SOCKETS},
};

const CONTAINERD_CONFIG: &str = "/etc/containerd/config.toml";

pub fn comes_and_goes(suite: Suite) -> Result<()> {
    let node = Node::boot(suite)?;
    node.start_registry()?;
    let image = node.push("demo/unsigned:v1", &Image::of_small_layers("unsigned", 2)?)?;
    let before = containerd(&node)?;

    node.install_deb(&product::package()?)?;
    untouched(&node, &before, "installing")?;
    expect::holds(node.is_active(SERVICE)? && node.is_active(SOCKETS)?, || "not active after installing".to_owned())?;
    for file in [CONFIG_FILE, POLICY_FILE] {
        let text = String::from_utf8(node.read(file)?)?;
        expect::holds(text.lines().any(|line| line.starts_with('#')), || format!("{file} explains nothing"))?;
    }
    let config = String::from_utf8(node.read(CONFIG_FILE)?)?;
    expect::holds(config.lines().any(|line| line == "mode = \"audit\""), || format!("not in audit mode: {config}"))?;
    node.run(&["pullgate", "daemon", "--check"])?.ok()?;
    expect::admitted(&node, Path::CtrPullLocal, &image)?;

    // The default policy, with the gates connected: recorded and admitted.
    node.clean()?;
    node.connect_gates()?;
    let before = containerd(&node)?;
    let cursor = node.cursor()?;
    expect::admitted(&node, Path::CriPull, &image)?;
    expect::holds(!node.audit_since(&cursor)?.is_empty(), || "nothing in the journal".to_owned())?;

    node.install_deb(&product::package()?)?;
    node.sh("DEBIAN_FRONTEND=noninteractive apt-get -q -y --reinstall install /var/tmp/package.deb")?.ok()?;
    untouched(&node, &before, "installing again")?;
    node.clean()?;
    expect::admitted(&node, Path::CriPull, &image)?;

    node.disconnect_gates()?;
    let before = containerd(&node)?;
    node.sh("DEBIAN_FRONTEND=noninteractive apt-get -q -y purge pullgate")?.ok()?;
    untouched(&node, &before, "removing")?;
    let left = node.sh(
        "find / -xdev -path '*pullgate*' -not -path '/proc/*' -not -path '/sys/*' -not -path '/var/log/*' 2>/dev/null",
    )?;
    expect::holds(left.stdout.trim().is_empty(), || format!("left behind by purge: {}", left.stdout))?;
    node.clean()?;
    expect::admitted(&node, Path::CriPull, &image)
}

/// Its configuration and its process.
fn containerd(node: &Node) -> Result<(Vec<u8>, String)> {
    Ok((node.read(CONTAINERD_CONFIG)?, node.property("containerd.service", "MainPID")?))
}

fn untouched(node: &Node, before: &(Vec<u8>, String), by: &str) -> Result<()> {
    expect::holds(containerd(node)? == *before, || format!("{by} touched containerd"))
}
