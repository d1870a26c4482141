//! No record, no admission.

use super::expect;
use crate::node::{Image, Node, Path, Result, Suite, signing::Layout};

const JOURNALD: [&str; 4] = [
    "systemd-journald.socket",
    "systemd-journald-dev-log.socket",
    "systemd-journald-audit.socket",
    "systemd-journald.service",
];

pub fn stopped(suite: Suite) -> Result<()> {
    let node = Node::gated(suite)?;
    let signed = node.push("demo/signed:v1", &Image::of_small_layers("signed", 2)?)?;
    node.sign(&signed, "demo", Layout::usual(suite))?;
    let unsigned = node.push("demo/unsigned:v1", &Image::of_small_layers("unsigned", 2)?)?;
    node.systemctl(&[&["stop"], JOURNALD.as_slice()].concat())?;
    for unit in JOURNALD {
        expect::holds(!node.is_active(unit)?, || format!("{unit} is still active"))?;
    }
    for path in Path::of(suite) {
        node.clean()?;
        expect::refused(&node, *path, &signed, &["PG404"])?;
        node.clean()?;
        expect::refused(&node, *path, &unsigned, &["PG101", "PG404"])?;
    }
    node.systemctl(&[
        "start",
        "systemd-journald.socket",
        "systemd-journald-dev-log.socket",
        "systemd-journald.service",
    ])?;
    let cursor = node.cursor()?;
    node.clean()?;
    expect::admitted(&node, Path::CriPull, &signed)?;
    let entries = node.audit_since(&cursor)?;
    let recorded = entries.iter().any(|entry| entry.verdict == "allow");
    expect::holds(recorded, || format!("admitted without an entry: {entries:?}"))
}
