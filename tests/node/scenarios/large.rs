//! Large layers, by archive, exempt by digest: no registry, no signature, only bytes.

use std::{
    fs::File,
    io::{Seek, SeekFrom, Write},
    process::Stdio,
};

use super::expect;
use crate::node::{
    Image, Node, Path, Result, Suite,
    image::{Layer, named, tar_header},
    machine::Storage,
    product::{self, in_registry},
    registry::Published,
    signing::Layout,
};

const LAYOUT: &str = "/var/tmp/layout";
const SECONDS: u64 = 3600;

/// `PULLGATE_LARGE_LAYER_MIB` says how large. With 20480 the hashing alone takes longer than any deadline; the disk
/// then needs 40 GiB.
pub fn admitted(suite: Suite) -> Result<()> {
    let mib = std::env::var("PULLGATE_LARGE_LAYER_MIB").ok().and_then(|size| size.parse().ok()).unwrap_or(512);
    let node = Node::gated_on(suite, if mib > 1024 { Storage::Disk } else { Storage::Memory })?;
    let large = Large::lay_out(&node, mib << 20)?;
    large.exempt(&node)?;
    for local in ["--local=false", "--local"] {
        node.clean()?;
        let said = node.run_within(SECONDS, &large.import(local))?;
        expect::holds(said.success(), || format!("import {local} of {mib} MiB: {}", said.text()))?;
        let unpacked = node.unpacked("default", &large.chain)?;
        expect::holds(unpacked, || format!("import {local} of {mib} MiB: not unpacked"))?;
    }
    Ok(())
}

/// The daemon dies while containerd applies a layer on its behalf: that import fails, the next one works.
pub fn daemon_killed(suite: Suite) -> Result<()> {
    let node = Node::gated(suite)?;
    let small = node.push("demo/small:v1", &Image::of_small_layers("small", 2)?)?;
    node.sign(&small, "demo", Layout::usual(suite))?;
    let large = Large::lay_out(&node, 512 << 20)?;
    large.exempt(&node)?;
    let import = node
        .command(SECONDS, &large.import("--local=false"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    node.wait_until("the layer is being applied", || {
        let begun = "ls /var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/*/fs/large";
        Ok(node.sh(begun)?.success())
    })?;
    node.kill_daemon()?;
    let import = import.wait_with_output()?;
    let unpacked = node.unpacked("default", &large.chain)?;
    expect::holds(import.status.success() == unpacked, || "client and store disagree".to_owned())?;
    expect::holds(!unpacked, || "the layer was applied though its gate died: raise its size".to_owned())?;
    expect::recovers(&node, Path::CriPull, &small)?;
    node.run_within(SECONDS, &large.import("--local=false"))?.ok()?;
    expect::holds(node.unpacked("default", &large.chain)?, || "not unpacked the second time".to_owned())
}

/// An OCI layout on the node with an image of one layer, which holds one file of zeros: sparse on the disk.
struct Large {
    digest: String,
    chain: String,
}

impl Large {
    fn lay_out(node: &Node, size: u64) -> Result<Self> {
        let blobs = format!("{LAYOUT}/blobs/sha256");
        node.run(&["mkdir", "-p", &blobs])?.ok()?;
        let mut file = File::create(node.outside(&format!("{blobs}/large")))?;
        file.write_all(&tar_header("large", 0o644, size)?)?;
        file.seek(SeekFrom::Start(512 + size.next_multiple_of(512)))?;
        file.write_all(&[0; 1024])?;
        let all = file.metadata()?.len();
        let sum = node.run_within(SECONDS, &["sha256sum", &format!("{blobs}/large")])?.ok()?;
        let hex = sum.split_whitespace().next().ok_or("no sum")?;
        node.run(&["mv", &format!("{blobs}/large"), &format!("{blobs}/{hex}")])?.ok()?;

        let digest = format!("sha256:{hex}");
        let mut image = Image::new(vec![Layer { digest: digest.clone(), tar: Vec::new() }], "large");
        let mut manifest: serde_json::Value = serde_json::from_slice(&image.manifest)?;
        manifest["layers"][0]["digest"] = digest.into();
        manifest["layers"][0]["size"] = all.into();
        image.manifest = manifest.to_string().into_bytes();
        let published = Published { name: in_registry("demo/large:v1"), image, index: None };
        let index = serde_json::json!({
            "schemaVersion": 2, "manifests": [named(published.image.descriptor(), &published.name)]
        });
        node.write(&format!("{LAYOUT}/index.json"), index.to_string())?;
        node.write(&format!("{LAYOUT}/oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        for blob in [&published.image.manifest, &published.image.config] {
            let path = crate::node::image::digest(blob).replace("sha256:", &format!("{blobs}/"));
            node.write(&path, blob)?;
        }
        Ok(Self { digest: published.digest(), chain: published.image.chain() })
    }

    fn exempt(&self, node: &Node) -> Result<()> {
        let exempt = format!("[[exempt]]\nname = \"large\"\ndigests = [\"{}\"]\n", self.digest);
        node.configure(product::CONFIG, &product::policy_with(&exempt))
    }

    fn import(&self, local: &str) -> [String; 3] {
        ["sh".to_owned(), "-c".to_owned(), format!("tar -C {LAYOUT} -cf - . | ctr images import {local} -")]
    }
}
