//! Settings of containerd that change what is in its content store when the gate looks.

use super::expect;
use crate::node::{Image, Node, Path, Result, Suite, signing::Layout};

pub fn discarded_layers(suite: Suite) -> Result<()> {
    let node = Node::gated(suite)?;
    node.connect_gates_with(&format!("{}\n  discard_unpacked_layers = true\n", node.cri_images_section()))?;
    decides_as_ever(&node)
}

pub fn isolated_content(suite: Suite) -> Result<()> {
    let node = Node::gated(suite)?;
    node.connect_gates_with("[plugins.\"io.containerd.metadata.v1.bolt\"]\n  content_sharing_policy = \"isolated\"\n")?;
    decides_as_ever(&node)
}

/// By each path alone, and with the image in every other namespace already.
fn decides_as_ever(node: &Node) -> Result<()> {
    let signed = node.push("demo/signed:v1", &Image::of_small_layers("signed", 3)?)?;
    node.sign(&signed, "demo", Layout::usual(node.suite))?;
    let unsigned = node.push("demo/unsigned:v1", &Image::of_small_layers("unsigned", 3)?)?;
    for path in Path::of(node.suite) {
        node.clean()?;
        expect::admitted(node, *path, &signed)?;
        expect::refused(node, *path, &unsigned, &["PG101"])?;
    }
    node.clean()?;
    for path in Path::of(node.suite) {
        if !node.unpacked(path.namespace(), &signed.image.chain())? {
            expect::admitted(node, *path, &signed)?;
        }
        expect::refused(node, *path, &unsigned, &["PG101"])?;
    }
    Ok(())
}
