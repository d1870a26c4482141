//! The node that is measured in.

use std::fs;

use crate::node::{Node, Result, Suite, product};

/// This program, inside the node.
pub const PROGRAM: &str = "/usr/local/bin/bench";
/// The key that signs what is measured.
pub const KEY: &str = "demo";

/// Boots a node with a registry, the package under test and this program.
///
/// # Errors
/// Whatever of it does not work.
pub fn node() -> Result<Node> {
    let package = product::package()?;
    let node = Node::boot(Suite::Forky)?;
    node.start_registry()?;
    node.install_deb(&package)?;
    let key = node.make_key(KEY)?;
    node.write(product::KEY_FILE, node.read(&key)?)?;
    fs::copy(std::env::current_exe()?, node.outside(PROGRAM))?;
    Ok(node)
}
