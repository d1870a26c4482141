//! containers/image: the cases that a public key decides, and its manifests.

use std::path::Path;

use base64::{Engine, engine::general_purpose::STANDARD};
use pullgate::image::Document;

use super::*;

/// What stands before the JSON of a signature in a `dir:` image.
const SIGSTORE: &[u8] = b"\0sigstore-json\n";

/// Cases that ask for what no policy can say yet, or for nothing that could be decided.
const NOT_APPLICABLE: [(&str, &str); 12] = [
    ("ci-sgs-07", "the repository that a signature names is a requirement of its own"),
    ("ci-sgs-08", "a transparency log"),
    ("ci-sgs-09", "a transparency log"),
    ("ci-sgs-10", "a transparency log"),
    ("ci-sgs-11", "keyless identities"),
    ("ci-sgs-12", "keyless identities"),
    ("ci-sgs-13", "keyless identities"),
    ("ci-sgs-14", "keyless identities"),
    ("ci-sgs-15", "X.509 authorities"),
    ("ci-sgs-16", "keyless identities"),
    ("ci-sgs-18", "no manifest, hence no digest that could be asked about"),
    ("ci-gpg-", "PGP keys, and policies without a signature"),
];

#[tokio::test]
async fn what_a_key_decides_is_decided_alike() {
    let Some(folder) = vectors("containers-image") else { return };
    let fixtures = folder.join("image/signature/fixtures");
    let (mut run, mut left_out) = (0, 0);
    for case in read_json(&folder.join("cases.json")).as_array().unwrap() {
        let id = text(case, "id");
        if let Some((_, reason)) = NOT_APPLICABLE.iter().find(|(prefix, _)| id.starts_with(prefix)) {
            println!("{id} does not apply: {reason}");
            left_out += 1;
            continue;
        }
        let server = HostileRegistry::start().await;
        let image = load(&server, &fixtures.join(text(case, "dir")));
        let key = case["requirements"][0]["keyPath"].as_str().unwrap().rsplit('/').next().unwrap();
        let attestor = format!("may-sign = [\"signature\"]\n{}", p256(&fixtures.join(key)));
        let decision = decide(&server, image, &attestor).await;
        assert_eq!(decision.verdict, expected(case), "{id}: {}: {decision:?}", text(case, "why"));
        run += 1;
    }
    assert_eq!((run, left_out), (8, 26));
}

/// Puts the `dir:` image into the registry as cosign would: its signatures are layers of the `.sig` tag.
fn load(server: &HostileRegistry, image: &Path) -> Digest {
    let manifest = linked(&image.join("manifest.json")).unwrap_or_else(|| panic!("no manifest in {}", image.display()));
    let mut content = server.content();
    let digest = content.manifest(REPOSITORY, hostile::MANIFEST, manifest);
    let signatures: Vec<Value> = (1..)
        .map_while(|number| linked(&image.join(format!("signature-{number}"))))
        .filter_map(|bytes| Some(serde_json::from_slice(bytes.strip_prefix(SIGSTORE)?).unwrap()))
        .collect();
    let layers: Vec<(String, Vec<u8>, String)> = signatures
        .iter()
        .map(|signature| {
            let payload = STANDARD.decode(text(signature, "payload")).unwrap();
            let annotation = text(&signature["annotations"], "dev.cosignproject.cosign/signature");
            (text(signature, "mimeType").to_owned(), payload, annotation.to_owned())
        })
        .collect();
    let layers: Vec<(&str, &[u8], Option<&str>)> = layers
        .iter()
        .map(|(media_type, payload, signature)| (media_type.as_str(), payload.as_slice(), Some(signature.as_str())))
        .collect();
    if !layers.is_empty() {
        content.artifact(REPOSITORY, &format!("sha256-{}.sig", digest.hex()), &layers);
    }
    digest
}

/// The bytes of a file, or of the one that it links to: links were stored as their text.
fn linked(path: &Path) -> Option<Vec<u8>> {
    let bytes = std::fs::read(path).ok()?;
    match std::str::from_utf8(&bytes) {
        Ok(link) if link.starts_with("../") => linked(&path.parent()?.join(link.trim())),
        _ => Some(bytes),
    }
}

const INDEXES: [&str; 3] = ["ociv1.image.index.json", "ociv1nomime.image.index.json", "v2list.manifest.json"];

/// Everything else than an image that can be unpacked: schema 1, artifact manifests, no manifest at all.
const REFUSED: [(&str, &str); 9] = [
    ("non-json.manifest.json", "expected value"),
    ("ociv1.artifact.json", "layers is missing"),
    ("ociv1nomime.artifact.json", "layers is missing"),
    ("schema2-to-schema1-by-docker.json", "schema 1"),
    ("unknown-version.manifest.json", "schemaVersion is not 2"),
    ("v2s1-invalid-signatures.manifest.json", "schema 1"),
    ("v2s1-unsigned.manifest.json", "schema 1"),
    ("v2s1.everything.json", "schema 1"),
    ("v2s1.manifest.json", "schema 1"),
];

#[test]
fn manifests_are_read_or_refused() {
    let Some(folder) = vectors("containers-image/image/manifest/fixtures") else { return };
    let mut manifests = 0;
    for file in std::fs::read_dir(&folder).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let document = Document::parse_undescribed(&linked(&path).unwrap());
        let refused = REFUSED.iter().find(|(refused, _)| *refused == name);
        match (document, refused) {
            (Ok(Document::Manifest(_)), None) if !INDEXES.contains(&name) => manifests += 1,
            (Ok(Document::Index(_)), None) if INDEXES.contains(&name) => {}
            (Err(error), Some((_, why))) => assert!(error.to_string().contains(why), "{name}: {error}"),
            (document, _) => panic!("{name}: {document:?}"),
        }
    }
    assert_eq!(manifests, 16);
}
