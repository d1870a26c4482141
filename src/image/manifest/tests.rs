use super::*;

const LAYER: &str = r#"{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":1}"#;
const CONFIG: &str = r#"{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":1}"#;

fn manifest(text: &str) -> Result<Document, Malformed> {
    Document::parse(text.as_bytes(), media_type::MANIFEST)
}

fn index(text: &str) -> Result<Document, Malformed> {
    Document::parse(text.as_bytes(), media_type::INDEX)
}

#[test]
fn a_plain_manifest_and_a_plain_index_parse() {
    let Ok(Document::Manifest(read)) =
        manifest(&format!(r#"{{"schemaVersion":2,"config":{CONFIG},"layers":[{LAYER},{LAYER}]}}"#))
    else {
        panic!("not a manifest");
    };
    assert_eq!(read.layers.len(), 2);
    let child = CONFIG.replace("image.config", "image.manifest");
    let Ok(Document::Index(read)) = index(&format!(r#"{{"schemaVersion":2,"manifests":[{child}]}}"#)) else {
        panic!("not an index");
    };
    assert!(read.lists(&Digest::of(b"")));
    assert!(!read.lists(&Digest::of(b"other")));
}

#[test]
fn what_containerd_could_read_differently_is_refused() {
    for (why, text) in [
        ("empty", String::new()),
        ("not an object", "[]".into()),
        ("trailing bytes", format!(r#"{{"schemaVersion":2,"config":{CONFIG},"layers":[]}} {{}}"#)),
        ("duplicate key", format!(r#"{{"schemaVersion":2,"config":{CONFIG},"layers":[],"layers":[{LAYER}]}}"#)),
        ("duplicate unknown key", format!(r#"{{"schemaVersion":2,"config":{CONFIG},"layers":[],"x":1,"x":1}}"#)),
        ("escaped duplicate", format!(r#"{{"schemaVersion":2,"config":{CONFIG},"layers":[],"\u006cayers":[]}}"#)),
        ("case-folded key", format!(r#"{{"schemaVersion":2,"config":{CONFIG},"layers":[],"Layers":[{LAYER}]}}"#)),
        ("only a folded key", format!(r#"{{"schemaVersion":2,"config":{CONFIG},"Layers":[{LAYER}]}}"#)),
        ("folded long s", format!(r#"{{"schemaVersion":2,"config":{CONFIG},"layers":[],"layerſ":[{LAYER}]}}"#)),
        ("polyglot", format!(r#"{{"schemaVersion":2,"config":{CONFIG},"layers":[],"manifests":[]}}"#)),
        ("schema 1", r#"{"schemaVersion":1,"fsLayers":[],"history":[]}"#.into()),
        ("schema 1 in disguise", format!(r#"{{"schemaVersion":2,"config":{CONFIG},"layers":[],"fsLayers":[1]}}"#)),
        ("schema version", format!(r#"{{"schemaVersion":3,"config":{CONFIG},"layers":[]}}"#)),
        ("no schema version", format!(r#"{{"config":{CONFIG},"layers":[]}}"#)),
        ("no config", r#"{"schemaVersion":2,"layers":[]}"#.into()),
        ("no layers", format!(r#"{{"schemaVersion":2,"config":{CONFIG}}}"#)),
        (
            "another media type",
            format!(r#"{{"schemaVersion":2,"mediaType":"{}","config":{CONFIG},"layers":[]}}"#, media_type::INDEX),
        ),
        (
            "sha512",
            format!(r#"{{"schemaVersion":2,"config":{CONFIG},"layers":[{}]}}"#, LAYER.replace("sha256", "sha512")),
        ),
        (
            "negative size",
            format!(r#"{{"schemaVersion":2,"config":{CONFIG},"layers":[{}]}}"#, LAYER.replace(":1}", ":-1}")),
        ),
        (
            "folded key in a layer",
            format!(
                r#"{{"schemaVersion":2,"config":{CONFIG},"layers":[{}]}}"#,
                LAYER.replace(r#""size""#, r#""Digest":"x","size""#)
            ),
        ),
        (
            "too many layers",
            format!(
                r#"{{"schemaVersion":2,"config":{CONFIG},"layers":[{}]}}"#,
                vec![LAYER; limits::LAYERS + 1].join(",")
            ),
        ),
        (
            "too long",
            format!(
                r#"{{"schemaVersion":2,"config":{CONFIG},"layers":[],"x":"{}"}}"#,
                "x".repeat(limits::MANIFEST_BYTES as usize)
            ),
        ),
        (
            "deep",
            format!(
                r#"{{"schemaVersion":2,"config":{CONFIG},"layers":{}{}}}"#,
                "[".repeat(100_000),
                "]".repeat(100_000)
            ),
        ),
    ] {
        assert!(manifest(&text).is_err(), "{why}");
    }
    for (why, text) in [
        ("index with layers", r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#.to_owned()),
        ("index with a config", format!(r#"{{"schemaVersion":2,"manifests":[],"config":{CONFIG}}}"#)),
        ("no manifests", r#"{"schemaVersion":2}"#.into()),
    ] {
        assert!(index(&text).is_err(), "{why}");
    }
    assert!(Document::parse(b"{}", "application/json").is_err());
}

#[test]
fn a_document_without_a_descriptor_is_what_it_says_it_is() {
    let undescribed = |text: &str| Document::parse_undescribed(text.as_bytes());
    let image = format!(r#"{{"schemaVersion":2,"config":{CONFIG},"layers":[]}}"#);
    assert!(matches!(undescribed(&image), Ok(Document::Manifest(_))));
    assert!(matches!(undescribed(r#"{"schemaVersion":2,"manifests":[]}"#), Ok(Document::Index(_))));
    let lying = image.replacen('{', &format!(r#"{{"mediaType":"{}","#, media_type::INDEX), 1);
    for text in [lying.as_str(), "", "[]", "{}", r#"{"mediaType":"text/plain","schemaVersion":2}"#] {
        assert!(undescribed(text).is_err(), "{text}");
    }
}

#[test]
fn a_configuration_is_read_as_strictly() {
    let config = |text: &str| Config::parse(text.as_bytes());
    let good = r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}}"#;
    assert_eq!(config(good).map(|config| config.diff_ids), Ok(vec![Digest::of(b"")]));
    for text in [
        &good.replace("layers", "other"),
        &good.replace("diff_ids", "Diff_IDs"),
        &good.replace(r#""rootfs""#, r#""Rootfs":{},"rootfs""#),
        &good.replace("sha256", "sha512"),
        r#"{"architecture":"amd64","os":"linux"}"#,
        "",
    ] {
        assert!(config(text).is_err(), "{text}");
    }
}

#[test]
fn an_index_child_of_another_depth_or_kind_is_not_listed_as_a_manifest() {
    let nested = CONFIG.replace("application/vnd.oci.image.config.v1+json", media_type::INDEX);
    let Ok(Document::Index(read)) = index(&format!(r#"{{"schemaVersion":2,"manifests":[{nested}]}}"#)) else {
        panic!("not an index");
    };
    assert!(!read.lists(&Digest::of(b"")));
}

#[test]
fn a_node_could_choose_what_its_processor_runs_and_what_states_no_platform() {
    let child =
        |platform: &str| CONFIG.replace("image.config", "image.manifest").replace(":1}", &format!(":1{platform}}}"));
    let platform = |os: &str, arch: &str| child(&format!(r#","platform":{{"os":"{os}","architecture":"{arch}"}}"#));
    let text = [
        platform("linux", "amd64"),
        platform("linux", "386"),
        platform("linux", "arm64"),
        platform("windows", "amd64"),
        child(""),
    ]
    .join(",");
    let Ok(Document::Index(read)) = index(&format!(r#"{{"schemaVersion":2,"manifests":[{text}]}}"#)) else {
        panic!("not an index");
    };
    assert_eq!(crate::image::NodePlatform { architecture: "amd64" }.choices(&read).count(), 3);
    assert_eq!(crate::image::NodePlatform { architecture: "arm64" }.choices(&read).count(), 2);
}

#[test]
fn what_a_document_lists_is_bounded() {
    let layers = |count: usize| {
        manifest(&format!(r#"{{"schemaVersion":2,"config":{CONFIG},"layers":[{}]}}"#, vec![LAYER; count].join(",")))
    };
    assert!(layers(limits::LAYERS).is_ok() && layers(limits::LAYERS + 1).is_err());
    let digest = Digest::of(b"diff");
    let config = |count: usize| {
        let ids = vec![format!("\"{digest}\""); count].join(",");
        Config::parse(
            format!(r#"{{"os":"linux","architecture":"amd64","rootfs":{{"type":"layers","diff_ids":[{ids}]}}}}"#)
                .as_bytes(),
        )
    };
    assert!(config(limits::LAYERS).is_ok() && config(limits::LAYERS + 1).is_err());
    let child = format!(r#"{{"mediaType":"{}","digest":"{digest}","size":1}}"#, media_type::MANIFEST);
    let children = |count: usize| {
        index(&format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, vec![child.as_str(); count].join(",")))
    };
    assert!(children(limits::INDEX_CHILDREN).is_ok() && children(limits::INDEX_CHILDREN + 1).is_err());
}
