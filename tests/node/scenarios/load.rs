//! Much at once.

use std::thread;

use super::expect;
use crate::node::{Image, Node, Path, Result, Suite, cri, registry::Published, signing::Layout};

const PULLS: usize = 64;
const LAYERS: usize = 20;

/// Every call through the transfer gate comes back through the diff gate while the first one waits: whoever holds
/// anything across that call stops here.
pub fn many_pulls(suite: Suite) -> Result<()> {
    let node = Node::gated(suite)?;
    let images: Vec<Published> = (0..PULLS)
        .map(|number| {
            let image = Image::of_small_layers(&format!("image {number}"), LAYERS)?;
            node.push(&format!("demo/image-{number}:v1"), &image)
        })
        .collect::<Result<_>>()?;
    node.sign_all(&images, "demo", Layout::usual(suite))?;
    let socket = node.containerd_socket();
    let answers: Vec<Result<()>> = thread::scope(|scope| {
        let pull = |image: &'_ Published| {
            let (socket, name) = (socket.clone(), image.name.clone());
            scope.spawn(move || {
                cri::pull_image(&socket, &name)?.map(drop).map_err(|status| format!("{name}: {status}").into())
            })
        };
        let pulls: Vec<_> = images.iter().map(pull).collect();
        pulls.into_iter().map(|pull| pull.join().unwrap_or_else(|_| Err("a pull panicked".into()))).collect()
    });
    answers.into_iter().collect::<Result<Vec<()>>>()?;
    for image in &images {
        let unpacked = node.unpacked(Path::CriPull.namespace(), &image.image.chain())?;
        expect::holds(unpacked, || format!("{} is not unpacked", image.name))?;
    }
    Ok(())
}
