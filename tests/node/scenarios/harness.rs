//! The harness itself, without the product: if these fail, no other result means anything.

use crate::node::{Image, Node, Path, Result, Suite, path::Outcome, signing::Layout};

pub fn every_path(suite: Suite) -> Result<()> {
    let node = Node::boot(suite)?;
    node.start_registry()?;
    if suite.has_docker() {
        node.start_docker()?;
    }
    node.make_key("demo")?;
    let image = Image::of_layers(&node.read("/usr/bin/busybox")?, "one", 3)?;
    let published = node.push("demo/one:v1", &image)?;
    for layout in Layout::of(suite) {
        node.sign(&published, "demo", *layout)?;
        node.attest(&published, "demo", *layout)?;
    }
    // Twice: what the first round left behind would show in the second.
    for path in [Path::of(suite), Path::of(suite)].concat() {
        if node.unpacked(path.namespace(), &image.chain())? {
            return Err(format!("{}: already unpacked", path.name(suite)).into());
        }
        match node.bring(path, &published)? {
            Outcome::Admitted => {}
            other => return Err(format!("{}: {other}", path.name(suite)).into()),
        }
        let records = node.image_records(path.namespace())?;
        if !records.iter().any(|record| record.name == published.name && record.digest == image.digest()) {
            return Err(format!("{}: {} is not among {records:?}", path.name(suite), published.name).into());
        }
        node.clean()?;
    }
    Ok(())
}
