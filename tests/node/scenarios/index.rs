//! Either the index or the child may be signed.

use super::expect;
use crate::node::{Image, Node, Path, Result, Suite, image::Index, registry::Published, signing::Layout};

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

fn push(node: &Node, name: &str) -> Result<Published> {
    let native = Image::of_small_layers(name, 2)?;
    let foreign = Image::of_small_layers(&format!("{name} foreign"), 2)?;
    node.push_index(&format!("demo/{name}:v1"), &Index::new(native, foreign))
}
