//! containers/image: the cases that sigstore signatures decide, and its manifests.

use std::path::{Path, PathBuf};

use base64::{Engine, engine::general_purpose::STANDARD};
use pullgate::image::Document;
use serde_json::json;
use sigstore_types::{DerCertificate, DerPublicKey};

use super::*;

/// What stands before the JSON of a signature in a `dir:` image.
const SIGSTORE: &[u8] = b"\0sigstore-json\n";

/// Cases about PGP keys, and about policies without a signature.
const PGP: &str = "ci-gpg-";

/// Cases whose policy is none, and what keeps its like from being one here.
const NO_POLICY: [(&str, &str); 2] =
    [("ci-sgs-14", "of transparency logs 1 are asked for, and it has 0"), ("ci-sgs-16", "unknown key `issuer`")];

#[tokio::test]
async fn what_is_signed_with_sigstore_is_decided_alike() {
    let Some(folder) = vectors("containers-image") else { return };
    let fixtures = folder.join("image/signature/fixtures");
    let written = tempfile::tempdir().unwrap();
    let mut run = 0;
    for case in read_json(&folder.join("cases.json")).as_array().unwrap() {
        let id = text(case, "id");
        if id.starts_with(PGP) {
            continue;
        }
        run += 1;
        let directory = fixtures.join(text(case, "dir"));
        if !directory.join("manifest.json").exists() {
            assert_eq!(expected(case), Verdict::Deny, "{id}: there is nothing that could be admitted");
            continue;
        }
        let (roots, attestor) = said(&case["requirements"][0], &fixtures, written.path());
        if let Some((_, why)) = NO_POLICY.iter().find(|(no_policy, _)| *no_policy == id) {
            let policy =
                format!("schema = 1\n{roots}[[attestor]]\nname = \"a\"\n{attestor}[default]\nrequire = \"deny\"\n");
            let read = |file: &str| std::fs::read_to_string(file).map_err(|error| error.to_string());
            let told = Policy::parse("policy.toml", &policy, &read).expect_err(id).to_string();
            assert!(told.contains(why), "{id}: {told}");
            assert_eq!(expected(case), Verdict::Deny, "{id}");
            continue;
        }
        let server = HostileRegistry::start().await;
        let image = load(&server, &directory);
        let decision = decide_under(&server, image, &roots, &attestor).await;
        assert_eq!(decision.verdict, expected(case), "{id}: {}: {decision:?}", text(case, "why"));
    }
    assert_eq!(run, 19);
}

/// What `requirement` says, as a trust root and an attestor.
fn said(requirement: &Value, fixtures: &Path, written: &Path) -> (String, String) {
    let file = |value: &Value| value.as_str().map(|path| fixtures.join(path.rsplit('/').next().unwrap()));
    let (fulcio, pki) = (&requirement["fulcio"], &requirement["pki"]);
    let rekor = file(&requirement["rekorPublicKeyPath"]);
    let has_root = rekor.is_some() || fulcio.is_object();
    let root = match has_root {
        true => {
            let authorities = file(&fulcio["caPath"]).into_iter().collect();
            let path = written.join(format!("{}.json", Digest::of(requirement.to_string().as_bytes()).hex()));
            std::fs::write(&path, trusted_root_of(rekor, authorities)).unwrap();
            trust_root(&path, "insecure-ignore-sct = true\n")
        }
        false => String::new(),
    };
    let mut attestor = "may-sign = [\"signature\"]\n".to_owned();
    attestor += &format!("repositories = [{}]\n", requirement["signedIdentity"]["dockerRepository"]);
    let whom =
        fulcio.is_object().then(|| format!("issuer = {}, subject = {}", fulcio["oidcIssuer"], fulcio["subjectEmail"]));
    if let Some(key) = file(&requirement["keyPath"]) {
        let under = if has_root { ", root = \"root\"" } else { "" };
        let whom = whom.map(|whom| format!(", {whom}")).unwrap_or_default();
        attestor += &format!("keys = [{{ file = {key:?}, algorithm = \"ecdsa-p256-sha256\"{under}{whom} }}]\n");
    } else if let Some(whom) = whom {
        attestor += &format!("identities = [{{ root = \"root\", {whom} }}]\n");
    } else {
        let [roots, leading] = ["caRootsPath", "caIntermediatesPath"].map(|path| file(&pki[path]).unwrap());
        let (email, host) = (&pki["subjectEmail"], &pki["subjectHostname"]);
        attestor += &format!(
            "authorities = [{{ file = {roots:?}, intermediates = {leading:?}, email = {email}, host = {host} }}]\n"
        );
    }
    (root, attestor)
}

/// A trusted root of a log's key and certificate authorities.
fn trusted_root_of(log: Option<PathBuf>, authorities: Vec<PathBuf>) -> String {
    let begun = json!({ "start": "2020-01-01T00:00:00Z" });
    let logs = log.into_iter().map(|key| {
        let key = DerPublicKey::from_pem(std::str::from_utf8(&linked(&key).unwrap()).unwrap()).unwrap();
        json!({
            "baseUrl": "https://rekor.example",
            "hashAlgorithm": "SHA2_256",
            "publicKey": {
                "rawBytes": STANDARD.encode(key.as_bytes()),
                "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                "validFor": begun,
            },
            "logId": { "keyId": STANDARD.encode(Digest::of(key.as_bytes()).as_bytes()) },
        })
    });
    let authorities = authorities.into_iter().map(|file| {
        let certificate = DerCertificate::from_pem(std::str::from_utf8(&linked(&file).unwrap()).unwrap()).unwrap();
        let certificates = json!([{ "rawBytes": STANDARD.encode(certificate.as_bytes()) }]);
        json!({ "uri": "https://fulcio.example", "certChain": { "certificates": certificates }, "validFor": begun })
    });
    json!({
        "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
        "tlogs": logs.collect::<Vec<_>>(),
        "certificateAuthorities": authorities.collect::<Vec<_>>(),
    })
    .to_string()
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
    let layers: Vec<Value> = signatures
        .iter()
        .map(|signature| {
            let payload = STANDARD.decode(text(signature, "payload")).unwrap();
            let (media_type, size) = (text(signature, "mimeType"), payload.len());
            let digest = content.blob(payload);
            json!({ "mediaType": media_type, "digest": digest, "size": size, "annotations": signature["annotations"] })
        })
        .collect();
    if !layers.is_empty() {
        let config = content.blob("{}");
        let config = json!({ "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2 });
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": hostile::MANIFEST, "config": config, "layers": layers });
        let manifest = content.manifest(REPOSITORY, hostile::MANIFEST, manifest.to_string());
        content.tag(REPOSITORY, &format!("sha256-{}.sig", digest.hex()), manifest);
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
