use std::collections::HashMap;

use super::*;
use crate::evidence::{Asked, Found, Gap, Layout, Material, Stream};

const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

#[derive(Clone, Default)]
struct Memory(HashMap<Digest, Vec<u8>>);

impl Blobs for Memory {
    async fn read(&self, digest: &Digest, limit: u64) -> Result<Option<Vec<u8>>, Cause> {
        match self.0.get(digest) {
            Some(bytes) if bytes.len() as u64 > limit => Err(Cause::TooLarge("too large".to_owned())),
            found => Ok(found.cloned()),
        }
    }

    fn place_of(&self, digest: &Digest) -> String {
        digest.to_string()
    }
}

impl Memory {
    fn add(&mut self, bytes: impl Into<Vec<u8>>) -> (Digest, usize) {
        let bytes = bytes.into();
        let (digest, size) = (Digest::of(&bytes), bytes.len());
        self.0.insert(digest, bytes);
        (digest, size)
    }

    /// The entry of a manifest with one layer, `bytes`, of this type; `more` are members of the manifest.
    fn manifest(&mut self, media_type: &str, bytes: &str, more: &str, annotations: &str) -> String {
        let (layer, size) = self.add(bytes);
        let manifest = format!(
            r#"{{"layers":[{{"mediaType":"{media_type}","digest":"{layer}","size":{size},"annotations":{{"dev.cosignproject.cosign/signature":"s"}}}}]{more}}}"#
        );
        self.entry(media_type::MANIFEST, &manifest, annotations)
    }

    fn entry(&mut self, media_type: &str, document: &str, annotations: &str) -> String {
        let (digest, size) = self.add(document);
        format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size},"annotations":{{{annotations}}}}}"#)
    }

    fn bundle(&mut self, image: &Digest, bytes: &str) -> String {
        self.manifest(BUNDLE, bytes, &format!(r#","subject":{{"digest":"{image}"}}"#), "")
    }

    fn index(&mut self, entries: &[String], annotations: &str) -> String {
        self.entry(media_type::INDEX, &format!(r#"{{"manifests":[{}]}}"#, entries.join(",")), annotations)
    }
}

fn named(tag: &str) -> String {
    format!(r#""org.opencontainers.image.ref.name":"{tag}""#)
}

fn image() -> Digest {
    Digest::of(b"image")
}

/// What is found in an index of `entries`: payloads and bundles, and what could not be told.
async fn found(memory: &Memory, entries: &[String], complete: bool, formats: Formats) -> (Vec<String>, Vec<Cause>) {
    let text = format!(r#"{{"manifests":[{}]}}"#, entries.join(","));
    let (memory, wanted) = (memory.clone(), Wanted { digest: image(), formats });
    let mut stream = Stream::of(Asked::new("", Layout::Directory), async move |out: Out| {
        let entries = artifact::entries(text.as_bytes(), None, media_type::is_index).unwrap();
        search(&memory, entries, complete, wanted, &mut Room::default(), &out).await;
    });
    let (mut pieces, mut gaps) = (Vec::new(), Vec::new());
    while let Some(item) = stream.items.recv().await {
        match item {
            Ok(Found { material: Material::SimpleSigning { payload: bytes, .. }, .. })
            | Ok(Found { material: Material::Envelope { json: bytes, .. }, .. })
            | Ok(Found { material: Material::Bundle(bytes), .. }) => pieces.push(String::from_utf8(bytes).unwrap()),
            Err(Gap { cause, .. }) => gaps.push(cause),
        }
    }
    let asked = stream.questions.so_far();
    assert_eq!((asked[0].found as usize, asked[0].gap.is_some()), (pieces.len(), !gaps.is_empty()));
    assert!(asked[0].ended);
    pieces.sort();
    (pieces, gaps)
}

#[tokio::test]
async fn each_way_to_save_evidence_beside_an_image_is_known() {
    let hex = image().hex();
    let mut memory = Memory::default();
    let cosign = |what: &str| format!(r#""kind":"dev.cosignproject.cosign/{what}""#);
    let signature = |memory: &mut Memory, text: &str, name: &str| memory.manifest(SIMPLE_SIGNING, text, "", name);
    let referrer = memory.bundle(&image(), "fallback");
    let deep = memory.bundle(&image(), "deep");
    let inner = memory.index(&[deep], "");
    let entries = [
        signature(&mut memory, "tag", &named(&format!("sha256-{hex}.sig"))),
        signature(&mut memory, "name", &named(&format!("reg.io:5000/a:sha256-{hex}.sig"))),
        signature(&mut memory, "kind", &cosign("sigs")),
        memory.manifest(DSSE_ENVELOPE, "attested", "", &cosign("atts")),
        memory.manifest(DSSE_ENVELOPE, "by tag", "", &named(&format!("sha256-{hex}.att"))),
        memory.bundle(&image(), "subject"),
        memory.index(&[referrer], &named(&format!("sha256-{hex}"))),
        memory.index(&[inner], ""),
        // About others, or nothing at all.
        signature(&mut memory, "not this tag", &named("v1")),
        signature(&mut memory, "of another", &named(&format!("sha256-{}.sig", Digest::of(b"other").hex()))),
        memory.bundle(&Digest::of(b"other"), "about another"),
        memory.manifest(BUNDLE, "about nothing", "", ""),
        memory.entry(media_type::MANIFEST, "{}", &cosign("image")),
        memory.entry(media_type::MANIFEST, r#"{"config":{},"subject":null}"#, ""),
    ];
    let all = ["attested", "by tag", "deep", "fallback", "kind", "name", "subject", "tag"];
    assert_eq!(found(&memory, &entries, true, Formats::ALL).await, (all.map(String::from).to_vec(), vec![]));
    let none = Formats { simple_signing: false, bundle: false, attestation_tag: false };
    for (formats, expected) in [
        (Formats { simple_signing: true, ..none }, ["kind", "name", "tag"].as_slice()),
        (Formats { bundle: true, ..none }, &["deep", "fallback", "subject"]),
        (Formats { attestation_tag: true, ..none }, &["attested", "by tag"]),
        (none, &[]),
    ] {
        assert_eq!(found(&memory, &entries, true, formats).await.0, expected, "{formats:?}");
    }
}

#[tokio::test]
async fn what_is_named_and_not_there_is_a_gap_and_what_an_image_for_other_platforms_lacks_is_none() {
    let hex = image().hex();
    let missing = |annotations: &str| {
        let digest = Digest::of(annotations.as_bytes());
        format!(
            r#"{{"mediaType":"{}","digest":"{digest}","size":9,"annotations":{{{annotations}}}}}"#,
            media_type::MANIFEST
        )
    };
    let mut memory = Memory::default();
    let gaps =
        async |memory: &Memory, entry: String, complete| found(memory, &[entry], complete, Formats::ALL).await.1.len();
    for complete in [true, false] {
        assert_eq!(gaps(&memory, missing(&named(&format!("sha256-{hex}.sig"))), complete).await, 1);
    }
    let list = memory.index(&[missing("")], &named(&format!("sha256-{hex}")));
    assert_eq!(gaps(&memory, list, true).await, 1, "a list of referrers lists what there must be");
    assert_eq!(gaps(&memory, missing(""), true).await, 1);
    assert_eq!(gaps(&memory, missing(""), false).await, 0);
    let platforms = memory.index(&[missing("")], "");
    assert_eq!(gaps(&memory, platforms, true).await, 0);
}

#[tokio::test]
async fn what_cannot_be_read_is_a_gap_and_hides_nothing() {
    let mut memory = Memory::default();
    let good = memory.bundle(&image(), "good");
    let (other, size) = memory.add("{}");
    let sized = |size: u64| format!(r#"{{"mediaType":"{}","digest":"{other}","size":{size}}}"#, media_type::MANIFEST);
    let sha512 = format!(r#"{{"mediaType":"{}","digest":"sha512:00","size":1}}"#, media_type::MANIFEST);
    for bad in [
        memory.entry(media_type::MANIFEST, "no JSON", ""),
        memory.entry(media_type::MANIFEST, r#"{"subject":{"digest":1}}"#, ""),
        memory.entry(media_type::MANIFEST, r#"{"subject":{"digest":"a"},"subject":{"digest":"b"}}"#, ""),
        memory.entry(media_type::MANIFEST, &format!(r#"{{"subject":{{"digest":"{}"}}}}"#, image()), ""),
        memory.entry(media_type::INDEX, "no JSON", ""),
        memory.entry(media_type::INDEX, r#"{"mediaType":"application/json","manifests":[]}"#, ""),
        memory.manifest(
            BUNDLE,
            "kind",
            r#","mediaType":"application/json""#,
            &named(&format!("sha256-{}.sig", image().hex())),
        ),
        sized(size as u64 - 1),
        sized(limits::MANIFEST_BYTES + 1),
        sha512,
    ] {
        let (pieces, gaps) = found(&memory, &[bad.clone(), good.clone()], true, Formats::ALL).await;
        assert_eq!((pieces, gaps.len()), (vec!["good".to_owned()], 1), "{bad}");
    }
}

#[tokio::test]
async fn indexes_within_each_other_end() {
    let mut memory = Memory::default();
    let mut entry = memory.bundle(&image(), "deep");
    for depth in 0..limits::LAYOUT_DEPTH {
        entry = memory.index(&[entry], "");
        let (pieces, gaps) = found(&memory, &[entry.clone()], true, Formats::ALL).await;
        assert_eq!((pieces.len(), gaps.len()), (1, 0), "{depth}");
    }
    entry = memory.index(&[entry], "");
    let (pieces, gaps) = found(&memory, &[entry], true, Formats::ALL).await;
    assert!(pieces.is_empty() && matches!(&gaps[..], [Cause::TooLarge(_)]), "{gaps:?}");
}

#[tokio::test]
async fn the_documents_that_are_looked_into_are_bounded_and_what_is_named_comes_first() {
    let mut memory = Memory::default();
    let tag = named(&format!("sha256-{}.sig", image().hex()));
    let mut entries: Vec<String> = (1..limits::LAYOUT_DOCUMENTS)
        .map(|i| memory.entry(media_type::MANIFEST, &format!("{{\"a\":{i}}}"), ""))
        .collect();
    entries.push(memory.manifest(SIMPLE_SIGNING, "tag", "", &tag));
    assert_eq!(found(&memory, &entries, true, Formats::ALL).await, (vec!["tag".to_owned()], vec![]));
    entries.insert(0, memory.entry(media_type::MANIFEST, "{}", ""));
    let (pieces, gaps) = found(&memory, &entries, true, Formats::ALL).await;
    assert!(pieces == ["tag"] && matches!(&gaps[..], [Cause::TooLarge(_)]), "{pieces:?} {gaps:?}");
}

#[tokio::test]
async fn pieces_are_bounded_in_number_and_bytes() {
    let tag = named(&format!("sha256-{}.sig", image().hex()));
    for (count, gaps) in [(limits::EVIDENCE_ITEMS, 0), (limits::EVIDENCE_ITEMS + 1, 1)] {
        let mut memory = Memory::default();
        let (layer, size) = memory.add("payload");
        let layer = |i| {
            format!(
                r#"{{"mediaType":"{SIMPLE_SIGNING}","digest":"{layer}","size":{size},"annotations":{{"dev.cosignproject.cosign/signature":"{i}"}}}}"#
            )
        };
        let layers: Vec<String> = (0..count).map(layer).collect();
        let entry = memory.entry(media_type::MANIFEST, &format!(r#"{{"layers":[{}]}}"#, layers.join(",")), &tag);
        let found = found(&memory, &[entry], true, Formats::ALL).await;
        assert_eq!((found.0.len(), found.1.len()), (limits::EVIDENCE_ITEMS, gaps), "{count}");
    }
    let mut memory = Memory::default();
    let large = "x".repeat(usize::try_from(limits::EVIDENCE_BYTES).unwrap());
    let mut entries: Vec<String> = (0..8).map(|i| memory.bundle(&image(), &format!("{i}{}", &large[1..]))).collect();
    entries.push(memory.bundle(&image(), "small"));
    entries.push(memory.bundle(&image(), &format!("{large}y")));
    let (pieces, gaps) = found(&memory, &entries, true, Formats::ALL).await;
    assert!(pieces.contains(&"small".to_owned()) && pieces.len() == 8, "the small one is read first");
    assert!(gaps.len() == 2 && gaps.iter().all(|cause| matches!(cause, Cause::TooLarge(_))), "{gaps:?}");
}
