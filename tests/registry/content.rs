//! What the registry holds, and what it rightly answers (OCI distribution specification 1.1, reading).

use std::{collections::HashMap, path::Path};

use pullgate::image::Digest;
use serde_json::{Value, json};

use super::wire::{Reply, Request};

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const BUNDLE_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
pub(crate) const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
pub(crate) const ENVELOPE: &str = "application/vnd.dsse.envelope.v1+json";
pub(crate) const EMPTY_CONFIG: &str = "application/vnd.oci.empty.v1+json";

/// Manifests, tags and blobs.
#[derive(Default)]
pub(crate) struct Content {
    /// Whether there is a referrers API.
    pub(crate) referrers_api: bool,
    blobs: HashMap<Digest, Vec<u8>>,
    /// In the order in which they came: that of the lists of referrers.
    manifests: Vec<Stored>,
    tags: HashMap<(String, String), Digest>,
}

struct Stored {
    repository: String,
    digest: Digest,
    media_type: String,
    bytes: Vec<u8>,
    subject: Option<Digest>,
}

impl Content {
    /// Stores a blob.
    pub(crate) fn blob(&mut self, bytes: impl Into<Vec<u8>>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::of(&bytes);
        self.blobs.insert(digest, bytes);
        digest
    }

    /// Stores a manifest or index.
    pub(crate) fn manifest(&mut self, repository: &str, media_type: &str, bytes: impl Into<Vec<u8>>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::of(&bytes);
        let document: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let subject = document["subject"]["digest"].as_str().and_then(|digest| digest.parse().ok());
        let (repository, media_type) = (repository.to_owned(), media_type.to_owned());
        if !self.manifests.iter().any(|stored| stored.digest == digest && stored.repository == repository) {
            self.manifests.push(Stored { repository, digest, media_type, bytes, subject });
        }
        digest
    }

    /// Makes `tag` stand for `digest`.
    pub(crate) fn tag(&mut self, repository: &str, tag: &str, digest: Digest) {
        self.tags.insert((repository.to_owned(), tag.to_owned()), digest);
    }

    /// Stores an image without layers under `tag`; images of different `name` differ.
    pub(crate) fn image(&mut self, repository: &str, tag: &str, name: &str) -> Digest {
        let config = format!(r#"{{"name":"{name}"}}"#);
        let descriptor = json!({
            "mediaType": "application/vnd.oci.image.config.v1+json", "digest": self.blob(config.clone()), "size": config.len(),
        });
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor, "layers": [] });
        let digest = self.manifest(repository, MANIFEST, manifest.to_string());
        self.tag(repository, tag, digest);
        digest
    }

    /// Stores `layers` (media type, bytes, signature annotation) as one manifest under `tag`.
    pub(crate) fn artifact(&mut self, repository: &str, tag: &str, layers: &[(&str, &[u8], Option<&str>)]) -> Digest {
        let layers: Vec<Value> = layers
            .iter()
            .map(|(media_type, bytes, signature)| {
                let mut layer = self.descriptor(media_type, bytes);
                if let Some(signature) = signature {
                    layer["annotations"] = json!({ "dev.cosignproject.cosign/signature": signature });
                }
                layer
            })
            .collect();
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": self.descriptor(EMPTY_CONFIG, b"{}"), "layers": layers });
        let digest = self.manifest(repository, MANIFEST, manifest.to_string());
        self.tag(repository, tag, digest);
        digest
    }

    /// Stores signatures (payload, signature) of `image` under its `.sig` tag.
    pub(crate) fn signatures(&mut self, repository: &str, image: Digest, signatures: &[(&[u8], &str)]) -> Digest {
        let layers: Vec<_> =
            signatures.iter().map(|(payload, signature)| (SIMPLE_SIGNING, *payload, Some(*signature))).collect();
        self.artifact(repository, &format!("sha256-{}.sig", image.hex()), &layers)
    }

    /// Stores attestations of `image` under its `.att` tag.
    pub(crate) fn attestations(&mut self, repository: &str, image: Digest, envelopes: &[&[u8]]) -> Digest {
        let layers: Vec<_> = envelopes.iter().map(|envelope| (ENVELOPE, *envelope, Some(""))).collect();
        self.artifact(repository, &format!("sha256-{}.att", image.hex()), &layers)
    }

    /// Stores a bundle as a referrer of `image`, as cosign 3.1 does.
    pub(crate) fn bundle(&mut self, repository: &str, image: Digest, bundle: &[u8]) -> Digest {
        self.referrer(repository, image, BUNDLE_TYPE, bundle)
    }

    /// Stores a referrer of `image` with one layer, and the artifact type of that.
    pub(crate) fn referrer(&mut self, repository: &str, image: Digest, media_type: &str, layer: &[u8]) -> Digest {
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": media_type,
            "config": self.descriptor(EMPTY_CONFIG, b"{}"), "layers": [self.descriptor(media_type, layer)],
            "subject": { "mediaType": MANIFEST, "digest": image, "size": 2 },
        });
        self.manifest(repository, MANIFEST, manifest.to_string())
    }

    /// Writes the referrers of `image` under the fallback tag, as cosign 3.1 does: with the type of the
    /// configuration in place of the artifact's.
    pub(crate) fn fallback_tag(&mut self, repository: &str, image: Digest) -> Digest {
        let list = self.referrers(repository, image, |_| json!(EMPTY_CONFIG));
        let digest = self.manifest(repository, INDEX, list);
        self.tag(repository, &format!("sha256-{}", image.hex()), digest);
        digest
    }

    /// Takes in an OCI image layout: each manifest of its `index.json` under the tag in its annotation
    /// `org.opencontainers.image.ref.name`, and all blobs.
    pub(crate) fn load_layout(&mut self, layout: &Path, repository: &str) {
        let index = std::fs::read(layout.join("index.json")).expect("the layout has an index");
        let index: Value = serde_json::from_slice(&index).expect("the index is JSON");
        for blob in std::fs::read_dir(layout.join("blobs/sha256")).expect("the layout has blobs") {
            self.blob(std::fs::read(blob.expect("a blob").path()).expect("a readable blob"));
        }
        let mut descriptors = index["manifests"].as_array().cloned().unwrap_or_default();
        while let Some(descriptor) = descriptors.pop() {
            let digest: Digest = descriptor["digest"].as_str().and_then(|text| text.parse().ok()).expect("a digest");
            let Some(bytes) = self.blobs.get(&digest).cloned() else { continue };
            let media_type = descriptor["mediaType"].as_str().expect("a media type");
            self.manifest(repository, media_type, bytes.clone());
            if let Some(tag) = descriptor["annotations"]["org.opencontainers.image.ref.name"].as_str() {
                self.tag(repository, tag, digest);
            }
            if media_type == INDEX {
                let document: Value = serde_json::from_slice(&bytes).unwrap_or_default();
                descriptors.extend(document["manifests"].as_array().cloned().unwrap_or_default());
            }
        }
    }

    /// The list of referrers of `image`; `artifact_type` says what is told of the manifest with that type.
    pub(crate) fn referrers(&self, repository: &str, image: Digest, artifact_type: impl Fn(&str) -> Value) -> String {
        let list: Vec<Value> = self
            .manifests
            .iter()
            .filter(|stored| stored.repository == repository && stored.subject == Some(image))
            .map(|stored| {
                let document: Value = serde_json::from_slice(&stored.bytes).unwrap_or_default();
                let own = document["artifactType"].as_str().or(document["config"]["mediaType"].as_str());
                json!({
                    "mediaType": stored.media_type, "digest": stored.digest, "size": stored.bytes.len(),
                    "artifactType": artifact_type(own.unwrap_or_default()),
                })
            })
            .collect();
        json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": list }).to_string()
    }

    fn descriptor(&mut self, media_type: &str, bytes: &[u8]) -> Value {
        json!({ "mediaType": media_type, "digest": self.blob(bytes), "size": bytes.len() })
    }

    /// The right answer to `request`.
    pub(crate) fn reply(&self, request: &Request) -> Reply {
        let not_found = Reply::json(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#);
        let Some(path) = request.path().strip_prefix("/v2/") else { return not_found };
        let mut parts = path.rsplitn(3, '/');
        let (Some(name), Some(kind), Some(repository)) = (parts.next(), parts.next(), parts.next()) else {
            return not_found;
        };
        let digest: Option<Digest> = name.parse().ok();
        match (kind, digest) {
            ("blobs", Some(digest)) => match self.blobs.get(&digest) {
                Some(bytes) => Reply::new(200, "application/octet-stream", bytes.clone()),
                None => not_found,
            },
            ("referrers", Some(image)) if self.referrers_api => {
                Reply::new(200, INDEX, self.referrers(repository, image, |own| json!(own)))
            }
            ("referrers", _) => Reply::new(404, "text/plain", "404 page not found\n"),
            ("manifests", _) => {
                let tagged = || self.tags.get(&(repository.to_owned(), name.to_owned())).copied();
                let digest = digest.or_else(tagged);
                let stored = self
                    .manifests
                    .iter()
                    .find(|stored| Some(stored.digest) == digest && stored.repository == repository);
                match stored {
                    Some(stored) => Reply::new(200, &stored.media_type, stored.bytes.clone())
                        .with("Docker-Content-Digest", &stored.digest.to_string()),
                    None => not_found,
                }
            }
            _ => not_found,
        }
    }
}
