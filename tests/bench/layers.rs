//! Images as they are in registries: compressed layers of some mebibytes, with files in them that compress as programs
//! and texts do.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use crate::{
    node::{
        Image, Result,
        image::{Index, Layer, descriptor, digest, tar_header},
    },
    statistics::Draws,
};

pub const LAYERS: usize = 20;
const FILES: usize = 40;
const WORDS: usize = 4096;
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// `count` images that share their layers and differ in their configuration, so that each is decided about anew; in
/// one index, by which all are pushed at once.
///
/// # Errors
/// Where a layer cannot be compressed.
pub fn images(count: usize) -> Result<Index> {
    let layers = (0..LAYERS).map(Compressed::new).collect::<Result<Vec<_>>>()?;
    let mut children: Vec<Image> = (0..count).map(|number| image(&layers, number)).collect();
    // The bytes of the layers are pushed once.
    let blobs = layers.into_iter().map(|layer| Layer { digest: digest(&layer.gzip), tar: layer.gzip });
    if let Some(first) = children.first_mut() {
        first.layers = blobs.collect();
    }
    let manifests: Vec<_> = children.iter().map(Image::descriptor).collect();
    let bytes = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests }).to_string().into_bytes();
    Ok(Index { bytes, children })
}

fn image(layers: &[Compressed], number: usize) -> Image {
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": { "Labels": { "number": number.to_string() } },
        "rootfs": { "type": "layers", "diff_ids": layers.iter().map(|layer| &layer.diff_id).collect::<Vec<_>>() },
    });
    let config = config.to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, &config),
        "layers": layers.iter().map(|layer| &layer.descriptor).collect::<Vec<_>>(),
    });
    Image { manifest: manifest.to_string().into_bytes(), config, layers: Vec::new() }
}

struct Compressed {
    diff_id: String,
    descriptor: Value,
    gzip: Vec<u8>,
}

impl Compressed {
    /// Layer `number`, of 1 to 4 MiB once it is compressed.
    fn new(number: usize) -> Result<Self> {
        let mut draws = Draws::new(number as u64);
        let words: Vec<Vec<u8>> =
            (0..WORDS).map(|_| (0..2 + draws.below(10)).map(|_| draws.next() as u8).collect()).collect();
        let unpacked = (2 + number % 4 * 2) << 20;
        let mut tar = Vec::new();
        for file in 0..FILES {
            let mut content = Vec::new();
            while content.len() < unpacked / FILES {
                content.extend(&words[draws.below(WORDS)]);
            }
            tar.extend(tar_header(&format!("layer-{number}/file-{file}"), 0o644, content.len() as u64)?);
            tar.extend(&content);
            tar.resize(tar.len().next_multiple_of(512), 0);
        }
        tar.resize(tar.len() + 1024, 0);
        let diff_id = digest(&tar);
        let gzip = gzip(tar)?;
        Ok(Self { diff_id, descriptor: descriptor(LAYER, &gzip), gzip })
    }
}

fn gzip(bytes: Vec<u8>) -> Result<Vec<u8>> {
    let mut gzip = Command::new("gzip").args(["-n", "-c"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut input = gzip.stdin.take().ok_or("gzip has no input")?;
    let writing = std::thread::spawn(move || input.write_all(&bytes));
    let ended = gzip.wait_with_output()?;
    writing.join().map_err(|_| "gzip was not fed")??;
    if ended.status.success() { Ok(ended.stdout) } else { Err("gzip failed".into()) }
}
