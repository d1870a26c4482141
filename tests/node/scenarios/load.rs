//! Much at once.

use std::thread;

use super::expect;
use crate::node::{Image, Node, Path, Result, Suite, cri, registry::Published, signing::Layout};

const IMAGES: usize = 64;
const LAYERS: usize = 20;

/// Every call through the transfer gate comes back through the diff gate while the first one waits: whoever holds
/// anything across that call stops here.
pub fn many_pulls(suite: Suite) -> Result<()> {
    let node = Node::gated(suite)?;
    let images: Vec<Published> = (0..IMAGES)
        .map(|number| node.plant("demo/many", &Image::of_small_layers(&format!("image {number}"), LAYERS)?))
        .collect::<Result<_>>()?;
    node.sign_all(&images, "demo", Layout::usual(suite))?;
    let answers: Vec<Result<()>> = thread::scope(|scope| {
        let pulls: Vec<_> = images.iter().map(|image| scope.spawn(|| bring(&node, image))).collect();
        pulls.into_iter().map(|pull| pull.join().unwrap_or_else(|_| Err("a pull panicked".into()))).collect()
    });
    answers.into_iter().collect::<Result<Vec<()>>>()?;
    for image in &images {
        let unpacked = node.unpacked(path(suite).namespace(), &image.image.chain())?;
        expect::holds(unpacked, || format!("{} is not unpacked", image.name))?;
    }
    Ok(())
}

/// By the path that a suite's containerd takes dozens of at once: 2.1 is slow beyond measure over the progress of that
/// many pulls, and 1.7 stops dead over that many imports, both without any gate.
fn path(suite: Suite) -> Path {
    match suite {
        Suite::Trixie => Path::CriPull,
        Suite::Forky => Path::CtrImport,
    }
}

fn bring(node: &Node, image: &Published) -> Result<()> {
    if path(node.suite) == Path::CriPull {
        cri::pull_image(&node.containerd_socket(), &image.name, None)??;
        return Ok(());
    }
    let archive = format!("/var/tmp/{}.tar", image.digest().replace(':', "-"));
    node.write(&archive, image.archive()?)?;
    node.run(&["ctr", "images", "import", "--local=false", &archive])?.ok()?;
    Ok(())
}
