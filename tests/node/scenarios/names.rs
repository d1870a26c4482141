//! A name is not an origin.

use super::expect;
use crate::node::{Image, Node, Path, Result, Suite, product, registry::Published};

const BY_NAME: &str = r#"[[rule]]
name = "open"
images = ["127.0.0.1:5000/open/**"]
require = "insecure-accept-anything"
"#;

/// A rule that admits by name admits what containerd fetched from there, and no archive that says so.
pub fn archive(suite: Suite) -> Result<()> {
    let node = Node::gated(suite)?;
    node.configure(product::CONFIG, &product::policy_with(BY_NAME))?;
    let real = node.push("open/real:v1", &Image::of_small_layers("real", 2)?)?;
    let image = Image::of_small_layers("impostor", 2)?;
    let impostors = ["127.0.0.1:5000/open/real:v1", "127.0.0.1/open/real:v1"].map(|name| Published {
        name: name.to_owned(),
        image: image.clone(),
        index: None,
    });
    for path in Path::of(suite).iter().filter(|path| !path.is_archive()) {
        node.clean()?;
        expect::admitted(&node, *path, &real)?;
    }
    for path in Path::of(suite).iter().filter(|path| path.is_archive()) {
        for impostor in &impostors {
            node.clean()?;
            expect::refused(&node, *path, impostor, &["PG203", "PG201"])?;
            // The real one is on the node, fetched from the real place.
            expect::admitted(&node, Path::CtrPullLocal, &real)?;
            expect::refused(&node, *path, impostor, &["PG203", "PG201"])?;
        }
        // The bytes of the real one from an archive: the name is as unproven.
        node.clean()?;
        expect::refused(&node, *path, &real, &["PG203", "PG201"])?;
    }
    Ok(())
}
