//! Images made to measure: layers, a configuration, a manifest, and the archive that holds them (OCI image
//! specification 1.1). Bytes are the same on every run.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Result;

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
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": { "Cmd": ["/bin/busybox", "sh"], "Labels": { "words": words } },
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

    /// An image of `count` layers that only it has, the first of which holds `busybox`.
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

    /// The chain id of all layers (image specification, "Layer ChainID"): the name of the finished snapshot.
    pub fn chain(&self) -> String {
        self.layers.iter().fold(String::new(), |chain, layer| match chain.as_str() {
            "" => layer.digest.clone(),
            below => digest(format!("{below} {}", layer.digest).as_bytes()),
        })
    }

    /// An OCI archive of this image that calls it `name`, as `skopeo copy … oci-archive:` and `docker save` do.
    /// `more` are further blobs to carry along.
    ///
    /// # Errors
    /// Never for these paths.
    pub fn archive(&self, name: &str, more: &[&[u8]]) -> Result<Vec<u8>> {
        let mut manifest = descriptor(MANIFEST, &self.manifest);
        manifest["annotations"] = json!({
            "io.containerd.image.name": name,
            "org.opencontainers.image.ref.name": name,
        });
        archive(&[manifest], self.blobs().chain(more.iter().copied()))
    }

    /// Every blob of the image.
    pub fn blobs(&self) -> impl Iterator<Item = &[u8]> {
        [self.manifest.as_slice(), &self.config].into_iter().chain(self.layers.iter().map(|layer| layer.tar.as_slice()))
    }
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

/// The header of a regular file of `size` bytes.
///
/// # Errors
/// Where the path is longer than 100 bytes or the size has more than eleven octal digits.
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
    put(124, 12, &format!("{size:011o}"))?;
    put(136, 12, "00000000000")?;
    put(148, 8, "        ")?;
    put(156, 1, "0")?;
    put(257, 8, "ustar\x0000")?;
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(header)
}
