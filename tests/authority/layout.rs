//! OCI image layouts on disk (image-spec `image-layout.md`).

use std::{fs, path::Path};

use serde_json::{Value, json};

use super::layers::Artifact;

/// Writes `artifacts` below `folder`, each listed in its index with these annotations. A tag is
/// `org.opencontainers.image.ref.name`; what cosign saves is told apart by `kind`.
pub(crate) fn write_layout(folder: &Path, artifacts: &[(&Artifact, Value)]) {
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let mut manifests = Vec::new();
    for (artifact, annotations) in artifacts {
        for blob in artifact.blobs.iter().chain([&artifact.manifest]) {
            fs::write(blobs.join(&super::layers::digest(blob)["sha256:".len()..]), blob).unwrap();
        }
        let mut descriptor = artifact.descriptor();
        descriptor["annotations"] = annotations.clone();
        manifests.push(descriptor);
    }
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests,
    });
    fs::write(folder.join("index.json"), index.to_string()).unwrap();
    fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}
