//! Documents that two readers understand differently. Each is exempt by its digest, so that nothing but the document
//! itself can be the reason.

use super::expect;
use crate::node::{
    Image, Node, Path, Result, Suite,
    image::descriptor,
    path::Outcome,
    product::{self, policy_with},
    registry::Published,
};

type Spoil = fn(&Image) -> Image;

const SPOILS: [(&str, Spoil); 7] = [
    ("layers-twice", |image| with_manifest(image, |text| text.replacen("\"layers\":", "\"layers\":[],\"layers\":", 1))),
    ("layers-in-two-cases", |image| with_manifest(image, |text| text.replacen('{', "{\"Layers\":[],", 1))),
    ("index-and-manifest", |image| with_manifest(image, |text| text.replacen('{', "{\"manifests\":[],", 1))),
    ("schema-one-layers", |image| with_manifest(image, |text| text.replacen('{', "{\"fsLayers\":[],", 1))),
    ("another-media-type", |image| with_manifest(image, |text| text.replacen("image.manifest", "image.index", 1))),
    ("five-megabytes", |image| with_manifest(image, |text| format!("{text}{}", " ".repeat(5 << 20)))),
    ("diff-ids-twice", |image| {
        with_config(image, |text| text.replacen("\"diff_ids\":", "\"diff_ids\":[],\"diff_ids\":", 1))
    }),
];

/// What containerd takes without a word.
const UNNOTICED: [&str; 3] = ["layers-twice", "layers-in-two-cases", "diff-ids-twice"];

pub fn documents(suite: Suite) -> Result<()> {
    let node = Node::gated(suite)?;
    let sound = node.plant("demo/malformed", &Image::of_small_layers("sound", 2)?)?;
    let spoilt: Vec<Published> = SPOILS
        .iter()
        .map(|(name, spoil)| node.plant("demo/malformed", &spoil(&Image::of_small_layers(name, 2)?)))
        .collect::<Result<_>>()?;
    let digests: Vec<String> =
        [&sound].into_iter().chain(&spoilt).map(|image| format!("{:?}", image.digest())).collect();
    let exempt = format!("[[exempt]]\nname = \"malformed\"\ndigests = [{}]\n", digests.join(", "));
    node.configure(product::CONFIG, &policy_with(&exempt))?;
    for path in Path::of(suite) {
        node.clean()?;
        expect::admitted(&node, *path, &sound)?;
        for ((what, _), image) in SPOILS.iter().zip(&spoilt) {
            node.clean()?;
            match node.bring(*path, image)? {
                Outcome::Refused { code, .. } if code == "PG107" => {}
                // containerd was the first to object.
                Outcome::Failed(_) if !UNNOTICED.contains(what) => {}
                other => return Err(format!("{}, {what}: {other}", path.name(suite)).into()),
            }
        }
    }
    Ok(())
}

fn with_manifest(image: &Image, change: impl Fn(String) -> String) -> Image {
    let manifest = change(String::from_utf8_lossy(&image.manifest).into_owned()).into_bytes();
    Image { manifest, ..image.clone() }
}

fn with_config(image: &Image, change: impl Fn(String) -> String) -> Image {
    let config = change(String::from_utf8_lossy(&image.config).into_owned()).into_bytes();
    let (old, new) = (descriptor("", &image.config), descriptor("", &config));
    let swap = |text: String, key: &str| text.replacen(&old[key].to_string(), &new[key].to_string(), 1);
    let image = with_manifest(image, |text| swap(swap(text, "digest"), "size"));
    Image { config, ..image }
}
