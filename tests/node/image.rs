//! Images made to measure: layers, a configuration, a manifest, and the archive that holds them (OCI image
//! specification 1.1). Bytes are the same on every run.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Result;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// An uncompressed layer, whose digest is hence its `diff_id` as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    pub digest: String,
    pub tar: Vec<u8>,
}

impl Layer {
    /// A layer with one file.
    ///
    /// # Errors
    /// Where the path does not fit a tar header (100 bytes).
    pub fn with_file(path: &str, mode: u32, content: &[u8]) -> Result<Self> {
        let tar = tar(&[(path, mode, content)])?;
        Ok(Self { digest: digest(&tar), tar })
    }
}

/// An image: what it says, and the layers that it says it of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    pub manifest: Vec<u8>,
    pub config: Vec<u8>,
    pub layers: Vec<Layer>,
}

impl Image {
    /// An image of these layers; `words` make its configuration one of its own.
    pub fn new(layers: Vec<Layer>, words: &str) -> Self {
        Self::running(layers, words, &["/bin/busybox", "sh"])
    }

    /// As [`Image::new`], an image that runs `command` unless told otherwise.
    pub fn running(layers: Vec<Layer>, words: &str, command: &[&str]) -> Self {
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": { "Cmd": command, "Labels": { "words": words } },
            "rootfs": { "type": "layers", "diff_ids": layers.iter().map(|layer| &layer.digest).collect::<Vec<_>>() },
        });
        let config = config.to_string().into_bytes();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &config),
            "layers": layers.iter().map(|layer| descriptor(LAYER, &layer.tar)).collect::<Vec<_>>(),
        });
        Self { manifest: manifest.to_string().into_bytes(), config, layers }
    }

    /// An image of `count` small layers that only it has, and nothing in them that runs.
    ///
    /// # Errors
    /// As [`Layer::with_file`].
    pub fn of_small_layers(name: &str, count: usize) -> Result<Self> {
        let layer = |number| Layer::with_file(&format!("layer-{number}"), 0o644, format!("{name} {number}").as_bytes());
        Ok(Self::new((0..count).map(layer).collect::<Result<_>>()?, name))
    }

    /// An image of `count` layers that only it has, but for the first, which holds `busybox`.
    ///
    /// # Errors
    /// As [`Layer::with_file`].
    pub fn of_layers(busybox: &[u8], name: &str, count: usize) -> Result<Self> {
        let mut layers = vec![Layer::with_file("bin/busybox", 0o755, busybox)?];
        for number in 1..=count.saturating_sub(1) {
            layers.push(Layer::with_file(&format!("layer-{number}"), 0o644, format!("{name} {number}\n").as_bytes())?);
        }
        Ok(Self::new(layers, name))
    }

    /// Another image of some of these layers, in another order, under its own configuration: every layer is one
    /// that this image vouches for.
    pub fn rearranged(&self, order: &[usize], words: &str) -> Self {
        Self::new(order.iter().filter_map(|at| self.layers.get(*at).cloned()).collect(), words)
    }

    pub fn digest(&self) -> String {
        digest(&self.manifest)
    }

    /// The digest of the configuration: the image's identifier.
    pub fn config_digest(&self) -> String {
        digest(&self.config)
    }

    /// The chain id of all layers (image specification, "Layer ChainID"): the name of the finished snapshot.
    pub fn chain(&self) -> String {
        self.chains().pop().unwrap_or_default()
    }

    /// The chain ids of the first layer, of the first two, and so on.
    pub fn chains(&self) -> Vec<String> {
        let mut chains: Vec<String> = Vec::new();
        for layer in &self.layers {
            chains.push(match chains.last() {
                None => layer.digest.clone(),
                Some(below) => digest(format!("{below} {}", layer.digest).as_bytes()),
            });
        }
        chains
    }

    /// The descriptor of the manifest.
    pub fn descriptor(&self) -> Value {
        descriptor(MANIFEST, &self.manifest)
    }

    /// An OCI archive of this image that calls it `name`, as `skopeo copy … oci-archive:` and `docker save` do.
    ///
    /// # Errors
    /// Never for these paths.
    pub fn archive(&self, name: &str) -> Result<Vec<u8>> {
        archive(&[named(self.descriptor(), name)], self.blobs())
    }

    /// Every blob of the image.
    pub fn blobs(&self) -> impl Iterator<Item = &[u8]> {
        [self.manifest.as_slice(), &self.config].into_iter().chain(self.layers.iter().map(|layer| layer.tar.as_slice()))
    }
}

/// An index: images, one a platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    pub bytes: Vec<u8>,
    pub children: Vec<Image>,
}

impl Index {
    /// An index of an image for this machine's platform and one for another.
    pub fn new(native: Image, foreign: Image) -> Self {
        let other = if architecture() == "amd64" { "arm64" } else { "amd64" };
        let child = |image: &Image, architecture: &str| {
            let mut child = image.descriptor();
            child["platform"] = json!({ "architecture": architecture, "os": "linux" });
            child
        };
        let children = [child(&native, architecture()), child(&foreign, other)];
        Self { children: vec![native, foreign], ..Self::listing(&children) }
    }

    /// An index of these descriptors, whatever they are.
    pub fn listing(descriptors: &[Value]) -> Self {
        let bytes = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": descriptors });
        Self { bytes: bytes.to_string().into_bytes(), children: Vec::new() }
    }

    /// The descriptor of the index.
    pub fn descriptor(&self) -> Value {
        descriptor(INDEX, &self.bytes)
    }

    pub fn digest(&self) -> String {
        digest(&self.bytes)
    }

    /// As [`Image::archive`], with every child.
    ///
    /// # Errors
    /// Never for these paths.
    pub fn archive(&self, name: &str) -> Result<Vec<u8>> {
        let blobs = self.children.iter().flat_map(Image::blobs);
        archive(&[named(descriptor(INDEX, &self.bytes), name)], [self.bytes.as_slice()].into_iter().chain(blobs))
    }
}

/// `descriptor` with the annotations by which an archive names an image.
pub fn named(mut descriptor: Value, name: &str) -> Value {
    descriptor["annotations"] = json!({ "io.containerd.image.name": name, "org.opencontainers.image.ref.name": name });
    descriptor
}

/// An OCI archive with these entries in its index.
///
/// # Errors
/// Never for these paths.
pub fn archive<'a>(manifests: &[Value], blobs: impl Iterator<Item = &'a [u8]>) -> Result<Vec<u8>> {
    let index = json!({ "schemaVersion": 2, "manifests": manifests }).to_string();
    let mut files = vec![
        ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.as_slice()),
        ("index.json".to_owned(), index.as_bytes()),
    ];
    for blob in blobs {
        let path = format!("blobs/{}", digest(blob).replace(':', "/"));
        if files.iter().all(|(known, _)| *known != path) {
            files.push((path, blob));
        }
    }
    let files: Vec<_> = files.iter().map(|(path, content)| (path.as_str(), 0o644, *content)).collect();
    tar(&files)
}

pub fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(content), "size": content.len() })
}

pub fn digest(content: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(content)))
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A POSIX ustar archive of regular files.
fn tar(files: &[(&str, u32, &[u8])]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for (path, mode, content) in files {
        out.extend(tar_header(path, *mode, content.len() as u64)?);
        out.extend(*content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    Ok(out)
}

/// The header of a regular file of `size` bytes. From 8 GiB on the size is written as GNU tar does, in binary.
///
/// # Errors
/// Where the path is longer than 100 bytes.
pub fn tar_header(path: &str, mode: u32, size: u64) -> Result<[u8; 512]> {
    let mut header = [0_u8; 512];
    let mut put = |at: usize, room: usize, value: &str| -> Result<()> {
        let field = header.get_mut(at..at + room).ok_or("a field beyond the header")?;
        field.get_mut(..value.len()).ok_or_else(|| format!("{value} does not fit"))?.copy_from_slice(value.as_bytes());
        Ok(())
    };
    put(0, 100, path)?;
    put(100, 8, &format!("{mode:07o}"))?;
    put(108, 8, "0000000")?;
    put(116, 8, "0000000")?;
    if size < 1 << 33 {
        put(124, 12, &format!("{size:011o}"))?;
    }
    put(136, 12, "00000000000")?;
    put(148, 8, "        ")?;
    put(156, 1, "0")?;
    put(257, 8, "ustar\x0000")?;
    if size >= 1 << 33 {
        header[124] = 0x80;
        header[128..136].copy_from_slice(&size.to_be_bytes());
    }
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(header)
}
