//! `pullgate policy suggest`: what is on a node becomes its policy, and no more than that.

use super::expect;
use crate::node::{
    Image, Node, Path, Result, Suite,
    image::Index,
    product::{CONFIG, CONFIG_FILE, POLICY_FILE},
    registry::Published,
    signing::Layout,
};

const SUGGEST: &str = "pullgate policy suggest --key /root/keys/release.pub > /etc/pullgate/policy.toml";

pub fn from_the_node(suite: Suite) -> Result<()> {
    let node = Node::gated(suite)?;
    node.make_key("release")?;
    let push = |name: &str| -> Result<Published> { node.push(name, &Image::of_small_layers(name, 2)?) };
    let signed = |name: &str, keys: &[&str]| -> Result<Published> {
        let image = push(name)?;
        for key in keys {
            node.sign(&image, key, Layout::usual(suite))?;
        }
        Ok(image)
    };
    let index = node.push_index(
        "shop/multi:v1",
        &Index::new(Image::of_small_layers("multi", 2)?, Image::of_small_layers("foreign", 2)?),
    )?;
    node.sign(&index, "release", Layout::usual(suite))?;
    let there = [
        signed("shop/both:v1", &["demo", "release"])?,
        signed("shop/one:v1", &["release"])?,
        signed("shop/one:v2", &["demo", "release"])?,
        signed("shop/mixed:v1", &["demo"])?,
        push("shop/mixed:v2")?,
        push("tools/unsigned:v1")?,
        index,
    ];
    node.write(CONFIG_FILE, CONFIG.replace("enforce", "audit"))?;
    node.reload()?;
    for image in &there {
        expect::admitted(&node, Path::CriPull, image)?;
    }

    // The shell empties the policy before pullgate reads it: its attestor is remembered.
    let suggested = node.sh(SUGGEST)?;
    let text = String::from_utf8(node.read(POLICY_FILE)?)?;
    expect::holds(suggested.success(), || format!("suggest: {}\n{text}", suggested.text()))?;
    for part in ["name = \"demo\"", "name = \"release\"", "nobody known: pinned by digest"] {
        expect::holds(text.contains(part), || format!("no `{part}` in {text}"))?;
    }
    let checked = node.run(&["pullgate", "policy", "check"])?;
    expect::holds(checked.success(), || format!("{}\n{text}", checked.text()))?;
    node.write(CONFIG_FILE, CONFIG)?;
    node.reload()?;
    let images = node.run(&["pullgate", "audit", "images", "--ask"])?;
    expect::holds(images.success(), || format!("{}\n{text}", images.text()))?;

    for image in &there {
        node.clean()?;
        expect::admitted(&node, Path::CriPull, image)?;
    }
    node.clean()?;
    expect::admitted(&node, Path::CriPull, &signed("shop/one:v3", &["release"])?)?;
    for (image, code) in [
        (signed("shop/both:v2", &["release"])?, "PG102"),
        (push("shop/one:v4")?, "PG101"),
        (push("tools/unsigned:v2")?, "PG204"),
        (signed("tools/other:v1", &["demo", "release"])?, "PG201"),
    ] {
        node.clean()?;
        expect::refused(&node, Path::CriPull, &image, &[code])?;
    }

    // What cannot be looked at is said, and pinned.
    node.clean()?;
    expect::admitted(&node, Path::CriPull, &there[5])?;
    node.stop_registry()?;
    let far = node.run(&["pullgate", "policy", "suggest"])?;
    expect::holds(far.code == 3 && far.stdout.contains("# Not looked at: 127.0.0.1:5000"), || far.text())?;
    expect::holds(far.stdout.contains(&there[5].digest()), || far.text())?;
    node.write("/root/policy.toml", &far.stdout)?;
    node.run(&["pullgate", "policy", "check", "/root/policy.toml"])?.ok()?;
    let boot = node.run(&["pullgate", "policy", "suggest", "--boot"])?;
    expect::holds(boot.stdout.lines().all(|line| line.starts_with("sha256:") || line.starts_with('#')), || boot.text())
}
