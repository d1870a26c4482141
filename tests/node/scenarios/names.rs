//! A name is not an origin.

use super::expect;
use crate::node::{Image, Node, Path, Result, Suite, product, registry::Published};

const BY_NAME: &str = r#"[[rule]]
name = "open"
images = ["127.0.0.1/open/**"]
require = "insecure-accept-anything"
"#;

/// A rule that admits by name admits what containerd fetched from there, and no archive that says so.
pub fn archive(suite: Suite) -> Result<()> {
    let node = Node::gated(suite)?;
    node.configure(product::CONFIG, &product::policy_with(BY_NAME))?;
    let by_port = node.push("open/real:v1", &Image::of_small_layers("real", 2)?)?;
    // A rule that admits by name has no port: it is about the registry on the usual one.
    node.start_registry_on(80)?;
    let real = Published { name: "127.0.0.1/open/real:v1".to_owned(), ..by_port.clone() };
    let image = Image::of_small_layers("impostor", 2)?;
    let impostors = ["127.0.0.1:5000/open/real:v1", "127.0.0.1/open/real:v1"].map(|name| Published {
        name: name.to_owned(),
        image: image.clone(),
        index: None,
    });
    // These speak HTTPS to a registry without a port.
    let over_https = |path| path == Path::DockerPull || path == Path::CriPull && suite == Suite::Forky;
    let fetches = |path: &&Path| !path.is_archive() && !over_https(**path);
    for path in Path::of(suite).iter().filter(fetches) {
        node.clean()?;
        expect::admitted(&node, *path, &real)?;
        // Where containerd says which registry it will ask, another port is another registry.
        if Path::verified(suite).contains(path) {
            node.clean()?;
            expect::refused(&node, *path, &by_port, &["PG201"])?;
        }
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
