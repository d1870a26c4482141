//! Signed manifests are public: their layers and their very bytes can be put into other images.

use super::expect;
use crate::node::{
    Image, Node, Path, Result, Suite,
    image::{Layer, archive, descriptor, named},
    product::in_registry,
    registry::Published,
    signing::Layout,
};

/// Layers of admitted images in another order, without some, or with one more.
pub fn rearranged(suite: Suite) -> Result<()> {
    let node = Node::gated(suite)?;
    let good = signed(&node, "good", 4)?;
    let other = node.push("demo/other:v1", &Image::of_small_layers("other", 2)?)?;
    node.sign(&other, "demo", Layout::usual(suite))?;
    let with_more = |order: &[usize], words: &str| {
        let mut layers = good.image.rearranged(order, words).layers;
        layers.extend(other.image.layers.last().cloned());
        Image::new(layers, words)
    };
    let attacks = [
        ("reordered", good.image.rearranged(&[3, 1, 2, 0], "reordered")),
        ("first-and-third", good.image.rearranged(&[0, 2], "first-and-third")),
        ("last-two", good.image.rearranged(&[2, 3], "last-two")),
        ("twice", good.image.rearranged(&[0, 0, 1, 2, 3], "twice")),
        ("all-and-one-more", with_more(&[0, 1, 2, 3], "all-and-one-more")),
        ("first-and-one-of-another", with_more(&[0], "first-and-one-of-another")),
    ];
    for (name, image) in attacks {
        let attack = node.push(&format!("demo/{name}:v1"), &image)?;
        for path in Path::of(suite) {
            node.clean()?;
            expect::admitted(&node, *path, &good)?;
            expect::admitted(&node, *path, &other)?;
            expect::refused(&node, *path, &attack, &["PG101", "PG106"])?;
            only_prefixes_of(&node, *path, &attack.image, &[&good.image, &other.image])?;

            // The same with the admitted image's bytes at hand, and nothing of it unpacked.
            if path.is_archive() && *path != Path::DockerLoad {
                node.clean()?;
                node.write("/var/tmp/good.tar", good.archive()?)?;
                node.run(&["ctr", "images", "import", "--no-unpack", "/var/tmp/good.tar"])?.ok()?;
                expect::refused(&node, *path, &attack, &["PG101", "PG106"])?;
                only_prefixes_of(&node, *path, &attack.image, &[&good.image])?;
            }
        }
    }
    Ok(())
}

/// A signed manifest as the layer and as the configuration of another image, and carried along as such.
pub fn signed_bytes(suite: Suite) -> Result<()> {
    let node = Node::gated(suite)?;
    let good = signed(&node, "good", 3)?;
    let signed = Layer { digest: good.image.digest(), tar: good.image.manifest.clone() };
    let as_layer = published("demo/as-layer:v1", Image::new(vec![signed.clone()], "as-layer"));
    let evil = good.image.rearranged(&[2, 1, 0], "evil");
    let as_config = Image { config: good.image.manifest.clone(), ..evil.clone() }.with_manifest_of_its_config();
    let as_config = published("demo/as-config:v1", as_config);
    let evil = published("demo/evil:v1", evil);
    for path in Path::of(suite).iter().filter(|path| path.is_archive()) {
        node.clean()?;
        expect::refused(&node, *path, &as_layer, &["PG101", "PG106", "PG107"])?;
        node.clean()?;
        expect::kept_out(&node, *path, &as_config)?;

        // The signed manifest lies in the store as a layer and as a configuration of images that came before.
        expect::kept_out(&node, *path, &as_layer)?;
        expect::refused(&node, *path, &evil, &["PG101", "PG106"])?;

        // And in the same archive as the image that is to profit from it.
        node.clean()?;
        let all = archive(
            &[named(evil.image.descriptor(), &evil.name), as_layer.image.descriptor(), good.image.descriptor()],
            evil.image.blobs().chain(as_layer.image.blobs()).chain([good.image.config.as_slice()]),
        )?;
        let outcome = node.import(*path, &all, &evil.image)?;
        expect::refusal(&node, *path, "an archive with signed bytes", outcome, &["PG101", "PG106", "PG201"])?;
    }
    Ok(())
}

impl Image {
    fn with_manifest_of_its_config(mut self) -> Self {
        let config = descriptor("application/vnd.oci.image.config.v1+json", &self.config);
        let mut manifest: serde_json::Value = serde_json::from_slice(&self.manifest).unwrap_or_default();
        manifest["config"] = config;
        self.manifest = manifest.to_string().into_bytes();
        self
    }
}

fn signed(node: &Node, name: &str, layers: usize) -> Result<Published> {
    let image = Image::of_layers(&node.read("/usr/bin/busybox")?, name, layers)?;
    let published = node.push(&format!("demo/{name}:v1"), &image)?;
    node.sign(&published, "demo", Layout::usual(node.suite))?;
    Ok(published)
}

fn published(path: &str, image: Image) -> Published {
    Published { name: in_registry(path), image, index: None }
}

/// Of the attack's chains, only those that an admitted image has as well may exist.
fn only_prefixes_of(node: &Node, path: Path, attack: &Image, admitted: &[&Image]) -> Result<()> {
    for (depth, chain) in attack.chains().iter().enumerate() {
        if node.unpacked(path.namespace(), chain)? {
            let known = admitted.iter().any(|image| image.chains().contains(chain));
            expect::holds(known, || format!("{}: the first {} layers are unpacked", path.name(node.suite), depth + 1))?;
        }
    }
    Ok(())
}
