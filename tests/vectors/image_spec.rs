//! The OCI image specification's own examples of what is valid and what is not.

use pullgate::image::{Config, Document, Malformed, media_type};

use super::*;

/// Where pullgate judges otherwise than the specification's schema, and why.
const OTHERWISE: [(&str, &str); 12] = [
    ("manifest-05.json", "an image without layers has none to unpack; Docker makes such images"),
    ("descriptor-17.json", "urls are not read, and nothing is fetched from there"),
    ("descriptor-19.json", "the artifact type of a child is not read"),
    ("descriptor-29.json", "embedded data is not read; content comes from the store, by digest"),
    ("config-02.json", "nothing is run by the configuration here: containerd reads what it says about the process"),
    ("config-09.json", "nothing is run by the configuration here: containerd reads what it says about the process"),
    ("descriptor-21.json", "only sha256 digests are supported"),
    ("descriptor-22.json", "only sha256 digests are supported"),
    ("descriptor-23.json", "only sha256 digests are supported"),
    ("descriptor-24.json", "only sha256 digests are supported"),
    ("descriptor-25.json", "only sha256 digests are supported"),
    ("descriptor-27.json", "only sha256 digests are supported"),
];

#[test]
fn documents_are_read_as_the_specification_says() {
    let Some(folder) = vectors("image-spec") else { return };
    let (mut run, mut otherwise) = (0, 0);
    for case in read_json(&folder.join("cases.json")).as_array().unwrap() {
        let file = text(case, "file");
        let Some(read) = read(file, &std::fs::read(folder.join("cases").join(file)).unwrap()) else {
            println!("{file} does not apply: layouts are not read");
            continue;
        };
        let valid = match text(case, "expected") {
            "VALID" => true,
            "INVALID" => false,
            other => panic!("{other} is no expectation"),
        };
        let expected = match OTHERWISE.iter().find(|(name, _)| *name == file) {
            Some((_, why)) => {
                println!("{file} is judged otherwise: {why}");
                otherwise += 1;
                !valid
            }
            None => valid,
        };
        assert_eq!(read.is_ok(), expected, "{file}: {read:?}: {}", text(case, "note"));
        run += 1;
    }
    assert_eq!((run, otherwise), (66, OTHERWISE.len()));
}

/// What becomes of the document in `file`; none for what pullgate has no eyes for.
fn read(file: &str, bytes: &[u8]) -> Option<Result<(), Malformed>> {
    let document = |bytes: &[u8], media_type| Document::parse(bytes, media_type).map(|_| ());
    Some(match file.rsplit_once('-')?.0 {
        "manifest" => document(bytes, media_type::MANIFEST),
        "imageindex" => document(bytes, media_type::INDEX),
        "config" => Config::parse(bytes).map(|_| ()),
        // A descriptor is read where one stands.
        "descriptor" => {
            let descriptor = std::str::from_utf8(bytes).unwrap();
            let manifest = format!(r#"{{"schemaVersion":2,"config":{descriptor},"layers":[]}}"#);
            document(manifest.as_bytes(), media_type::MANIFEST)
        }
        // What Docker Hub served before there was a specification: an index, a manifest and a configuration.
        "backwards_compatibility" => match file {
            "backwards_compatibility-00.json" => document(bytes, media_type::DOCKER_INDEX),
            "backwards_compatibility-01.json" => document(bytes, media_type::DOCKER_MANIFEST),
            _ => Config::parse(bytes).map(|_| ()),
        },
        "imagelayout" => return None,
        other => panic!("{other} is a kind of case that is not known"),
    })
}
