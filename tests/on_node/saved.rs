//! Images and evidence as tools save them: an OCI layout on disk.

use std::{fs, path::Path};

use pullgate::image::Digest;

use super::signer::{BUNDLE, Signer};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// An OCI layout.
#[derive(Default)]
pub(crate) struct Saved {
    blobs: Vec<String>,
    entries: Vec<String>,
}

impl Saved {
    /// Adds `bytes`; its descriptor without the closing brace.
    fn blob(&mut self, media_type: &str, bytes: String) -> String {
        let (digest, size) = (Digest::of(bytes.as_bytes()), bytes.len());
        self.blobs.push(bytes);
        format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size}"#)
    }

    fn list(&mut self, media_type: &str, document: String, annotations: &str) {
        let entry = self.blob(media_type, document);
        self.entries.push(format!(r#"{entry},"annotations":{{{annotations}}}}}"#));
    }

    /// An image called `tag`, without layers.
    pub(crate) fn image(&mut self, tag: &str) -> Digest {
        let config = self.blob(CONFIG, format!(r#"{{"os":"linux","rootfs":{{"type":"layers"}},"author":"{tag}"}}"#));
        let manifest = format!(r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{config}}},"layers":[]}}"#);
        let digest = Digest::of(manifest.as_bytes());
        self.list(MANIFEST, manifest, &format!(r#""org.opencontainers.image.ref.name":"{tag}""#));
        digest
    }

    /// An index called `tag` that lists `image` for this node's platform.
    pub(crate) fn index(&mut self, tag: &str, image: Digest) -> Digest {
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let platform = format!(r#"{{"os":"linux","architecture":"{architecture}"}}"#);
        let child = format!(r#"{{"mediaType":"{MANIFEST}","digest":"{image}","size":1,"platform":{platform}}}"#);
        let index = format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{child}]}}"#);
        let digest = Digest::of(index.as_bytes());
        self.list(INDEX, index, &format!(r#""org.opencontainers.image.ref.name":"{tag}""#));
        digest
    }

    /// The signature of `image` under its tag.
    pub(crate) fn signature(&mut self, signer: &Signer, image: Digest) {
        let (payload, signature) = signer.payload(&image);
        let layer = self.blob("application/vnd.dev.cosign.simplesigning.v1+json", payload);
        let layer = format!(r#"{layer},"annotations":{{"dev.cosignproject.cosign/signature":"{signature}"}}}}"#);
        let tag = format!(r#""org.opencontainers.image.ref.name":"sha256-{}.sig""#, image.hex());
        self.list(MANIFEST, format!(r#"{{"schemaVersion":2,"layers":[{layer}]}}"#), &tag);
    }

    /// A bundle about `image`, by its subject.
    pub(crate) fn referrer(&mut self, signer: &Signer, image: Digest) {
        let layer = self.blob(BUNDLE, signer.bundle(&image));
        let subject = format!(r#"{{"mediaType":"{MANIFEST}","digest":"{image}","size":1}}"#);
        self.list(MANIFEST, format!(r#"{{"schemaVersion":2,"layers":[{layer}}}],"subject":{subject}}}"#), "");
    }

    /// Writes it into the directory `path`.
    pub(crate) fn write(&self, path: &Path) {
        let blobs = path.join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        for blob in &self.blobs {
            fs::write(blobs.join(Digest::of(blob.as_bytes()).hex()), blob).unwrap();
        }
        fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, self.entries.join(","));
        fs::write(path.join("index.json"), index).unwrap();
    }
}
