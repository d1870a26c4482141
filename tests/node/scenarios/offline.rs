//! Nodes that reach no registry: the evidence is in a directory, or comes in the archive with its image.

use serde_json::{Value, json};

use super::expect;
use crate::node::{
    Image, Node, Path, Result, Suite,
    image::{archive, descriptor, digest, named},
    path::{Outcome, judge},
    product::{CONFIG, POLICY, SERVICE},
    registry::{Published, REGISTRY},
    signing::Layout,
};

const DIRECTORY: &str = "/var/lib/pullgate-evidence";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Without a registry, and without waiting for one, a directory admits what it has the evidence of.
pub fn directory(suite: Suite) -> Result<()> {
    let node = Node::gated(suite)?;
    let signed = node.push("demo/signed:v1", &Image::of_small_layers("signed", 2)?)?;
    node.sign(&signed, "demo", Layout::usual(suite))?;
    let unsigned = node.push("demo/unsigned:v1", &Image::of_small_layers("unsigned", 2)?)?;
    let tag = evidence_tag(&signed, Layout::usual(suite));
    let (from, to) = (format!("docker://{REGISTRY}/demo/signed:{tag}"), format!("oci:/root/carried:{tag}"));
    let plain = "--src-tls-verify=false";
    node.run(&["skopeo", "copy", "--quiet", "--insecure-policy", "--all", plain, &from, &to])?.ok()?;
    let image = format!("oci:/root/image:{}", signed.name);
    let from = format!("docker://{}", signed.name);
    let as_it_is = ["--preserve-digests", "--dest-oci-accept-uncompressed-layers", &from, &image];
    node.run(&[&["skopeo", "copy", "--quiet", "--insecure-policy", plain][..], &as_it_is].concat())?.ok()?;

    let only = format!("{CONFIG}\n[[evidence]]\nimages = [\"**\"]\ndirectory = \"{DIRECTORY}\"\nonly = true\n");
    node.stop_registry()?;
    node.configure(&only, POLICY)?;
    expect::refused(&node, Path::CtrImport, &signed, &["PG315"])?;
    node.run(&["install", "-d", DIRECTORY])?.ok()?;
    forget(&node)?;
    expect::refused(&node, Path::CtrImport, &signed, &["PG101"])?;
    // Nobody restarts anything when it comes.
    node.sh(&format!("cp -r /root/carried {DIRECTORY}/.new && mv {DIRECTORY}/.new {DIRECTORY}/carried"))?.ok()?;
    for path in Path::of(suite).iter().filter(|path| path.is_archive()) {
        forget(&node)?;
        expect::refused(&node, *path, &unsigned, &["PG101"])?;
        expect::admitted(&node, *path, &signed)?;
    }
    let by_digest = format!("oci:/root/image@{}", signed.digest());
    let check = ["pullgate", "check", &by_digest, "--as", &signed.name];
    let checked = node.run(&[&check[..], &["--state", "/nowhere"]].concat())?;
    let is_told = checked.text().contains("ALLOW") && checked.text().contains(DIRECTORY);
    expect::holds(checked.success() && is_told, || checked.text())?;
    let refused = node.sh(&format!("chmod -R o+w {DIRECTORY}/carried && {} --state /nowhere", check.join(" ")))?;
    expect::holds(refused.text().contains("RETRY PG315") && refused.text().contains("chmod go-w"), || refused.text())?;
    forget(&node)?;
    expect::refused(&node, Path::CtrImport, &signed, &["PG315"])?;
    Ok(())
}

/// What an archive brings along is verified like any evidence: the image that it is about is admitted, no other.
pub fn imported(suite: Suite) -> Result<()> {
    let node = Node::gated(suite)?;
    let signed = node.push("demo/signed:v1", &Image::of_small_layers("signed", 2)?)?;
    node.sign(&signed, "demo", Layout::usual(suite))?;
    let unsigned = node.push("demo/unsigned:v1", &Image::of_small_layers("unsigned", 2)?)?;
    let evidence = Evidence::of(&node, &signed, Layout::usual(suite))?;
    node.stop_registry()?;
    for path in Path::of(suite).iter().filter(|path| path.is_archive()) {
        forget(&node)?;
        expect::refused(&node, *path, &signed, &["PG302"])?;
        forget(&node)?;
        let outcome = node.import(*path, &evidence.beside(&unsigned)?, &unsigned.image)?;
        expect::refusal(&node, *path, &unsigned.name, outcome, &["PG302"])?;
        forget(&node)?;
        let archive = match path {
            // It has let go of the archive's index when it unpacks, and names keep what they name.
            Path::DockerLoad => evidence.named_beside(&signed)?,
            _ => evidence.beside(&signed)?,
        };
        match node.import(*path, &archive, &signed.image)? {
            Outcome::Admitted => {}
            other => return Err(format!("{}: {}", path.name(suite), other.told()).into()),
        }
    }
    // Under a name of its own, which keeps it when the archive is long gone.
    forget(&node)?;
    node.write("/var/tmp/named.tar", evidence.named_beside(&signed)?)?;
    node.run(&["ctr", "images", "import", "--local", "--no-unpack", "/var/tmp/named.tar"])?.ok()?;
    let mount = format!("mkdir -p /mnt/image && ctr images mount {} /mnt/image", signed.name);
    let mounted = node.sh(&mount)?;
    let answer = if mounted.success() { Ok(()) } else { Err(mounted.text()) };
    match judge(answer, node.unpacked("default", &signed.image.chain())?) {
        Outcome::Admitted => Ok(()),
        other => Err(format!("under a name of its own: {}", other.told()).into()),
    }
}

/// Evidence as it lies in the registry.
struct Evidence {
    tag: String,
    /// What an archive lists for it.
    entries: Vec<Value>,
    blobs: Vec<Vec<u8>>,
    /// The document under the tag.
    tagged: Value,
}

impl Evidence {
    fn of(node: &Node, image: &Published, layout: Layout) -> Result<Self> {
        let tag = evidence_tag(image, layout);
        let document = node.blob(&node.digest_of(&format!("demo/signed:{tag}"))?)?;
        let read: Value = serde_json::from_slice(&document)?;
        let mut blobs = vec![document.clone()];
        let listed = match read["manifests"].as_array() {
            Some(listed) => listed.clone(),
            None => vec![descriptor(MANIFEST, &document)],
        };
        for entry in &listed {
            let manifest = node.blob(entry["digest"].as_str().ok_or("no digest")?)?;
            let parts: Value = serde_json::from_slice(&manifest)?;
            let layers = parts["layers"].as_array().ok_or("no layers")?;
            for part in [&parts["config"]].into_iter().chain(layers) {
                blobs.push(node.blob(part["digest"].as_str().ok_or("no digest")?)?);
            }
            blobs.push(manifest);
        }
        let kind = match layout {
            Layout::SigTag => json!({ "kind": "dev.cosignproject.cosign/sigs" }),
            Layout::Bundle => json!({}),
        };
        let entry = |entry: &Value| json!({ "mediaType": MANIFEST, "digest": entry["digest"], "size": entry["size"], "annotations": kind });
        let media_type = read["mediaType"].as_str().unwrap_or(MANIFEST);
        Ok(Self { tag, entries: listed.iter().map(entry).collect(), tagged: descriptor(media_type, &document), blobs })
    }

    /// An archive with `image` under its name, and this beside it without one.
    fn beside(&self, image: &Published) -> Result<Vec<u8>> {
        self.archive(image, &self.entries)
    }

    /// As [`Self::beside`], under its tag.
    fn named_beside(&self, image: &Published) -> Result<Vec<u8>> {
        self.archive(image, &[named(self.tagged.clone(), &format!("{}:{}", image.repository(), self.tag))])
    }

    fn archive(&self, image: &Published, entries: &[Value]) -> Result<Vec<u8>> {
        let listed = [&[named(image.image.descriptor(), &image.name)], entries].concat();
        archive(&listed, image.image.blobs().chain(self.blobs.iter().map(Vec::as_slice)))
    }
}

/// Where cosign puts it.
fn evidence_tag(image: &Published, layout: Layout) -> String {
    let tag = digest(&image.image.manifest).replace(':', "-");
    match layout {
        Layout::SigTag => format!("{tag}.sig"),
        Layout::Bundle => tag,
    }
}

/// The daemon knows nothing of before, and containerd has no images.
fn forget(node: &Node) -> Result<()> {
    node.clean()?;
    node.systemctl(&["stop", SERVICE])?;
    node.sh("rm -rf /var/lib/pullgate/evidence-*")?.ok()?;
    node.systemctl(&["start", SERVICE])
}
