//! The demo's matrix, on every suite.

use crate::node::{Node, Result, Suite, matrix};

pub fn every_sort(suite: Suite) -> Result<()> {
    let node = Node::gated(suite)?;
    let cases = matrix::cases(&node)?;
    let cells = matrix::run(&node, &cases, |_, _| {})?;
    let wrongs = matrix::wrongs(suite, &cells);
    if wrongs.is_empty() {
        return Ok(());
    }
    Err(format!("{}\n{}", matrix::table(suite, &cells), wrongs.join("\n")).into())
}
