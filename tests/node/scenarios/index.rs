//! Either the index or the child may be signed.

use super::expect;
use crate::node::{
    Image, Node, Path, Result, Suite, image::Index, product::SERVICE, registry::Published, signing::Layout,
};

pub fn children(suite: Suite) -> Result<()> {
    let node = Node::gated(suite)?;
    let layout = Layout::usual(suite);

    let signed = push(&node, "index-signed")?;
    node.sign(&signed, "demo", layout)?;

    let child_signed = push(&node, "child-signed")?;
    let child = Published { index: None, ..child_signed.clone() };
    node.sign(&child, "demo", layout)?;

    let unsigned = push(&node, "nothing-signed")?;

    // The index is signed; another child than those that it lists goes under its name.
    let swapped = push(&node, "swapped")?;
    node.sign(&swapped, "demo", layout)?;
    let evil = Index::new(Image::of_small_layers("evil", 2)?, Image::of_small_layers("swapped foreign", 2)?);
    let swapped = node.push_index("demo/swapped:v1", &evil)?;

    for path in Path::of(suite) {
        for good in [&signed, &child_signed] {
            node.clean()?;
            expect::admitted(&node, *path, good)?;
        }
        for bad in [&unsigned, &swapped] {
            node.clean()?;
            expect::refused(&node, *path, bad, &["PG101"])?;
        }
    }
    Ok(())
}

/// containerd forgets an index whose tag moved on; the image that came with it is still the one that it admitted.
pub fn forgotten(suite: Suite) -> Result<()> {
    let node = Node::gated(suite)?;
    let signed = push(&node, "index-signed")?;
    node.sign(&signed, "demo", Layout::usual(suite))?;
    let child = Published { index: None, ..signed.clone() };
    let archives = || Path::of(suite).iter().filter(|path| path.is_archive());
    for path in archives() {
        expect::refused(&node, *path, &child, &["PG101"])?;
        node.clean()?;
    }
    expect::admitted(&node, Path::CriPull, &signed)?;
    node.wait_until("the index is on the disk", || {
        Ok(node.sh("grep -l demo/index-signed /var/lib/pullgate/evidence-2/*.json")?.success())
    })?;
    node.stop_registry()?;
    node.systemctl(&["restart", SERVICE])?;
    for path in archives() {
        node.clean()?;
        expect::admitted(&node, *path, &child)?;
    }
    node.sh("rm /var/lib/pullgate/evidence-2/*")?.ok()?;
    node.systemctl(&["restart", SERVICE])?;
    for path in archives() {
        node.clean()?;
        expect::refused(&node, *path, &child, &["PG302"])?;
    }
    Ok(())
}

fn push(node: &Node, name: &str) -> Result<Published> {
    let native = Image::of_small_layers(name, 2)?;
    let foreign = Image::of_small_layers(&format!("{name} foreign"), 2)?;
    node.push_index(&format!("demo/{name}:v1"), &Index::new(native, foreign))
}
