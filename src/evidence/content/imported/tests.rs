use std::time::Duration;

use containerd_client::{
    services::v1::{
        Image, Info, ListContentResponse, ListImagesResponse, ListNamespacesResponse, Namespace as Space,
        ReadContentRequest, ReadContentResponse,
    },
    types::Descriptor,
};
use prost::Message;

use tonic::Status;

use super::{super::CHILD, *};
use crate::{
    containerd::fake::{Answer, FakeContainerd},
    evidence::{
        Elsewhere, Gap,
        artifact::SIMPLE_SIGNING,
        kept::Kept,
        sources::{Sources, Wanted as Question},
    },
};

const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

fn image() -> Digest {
    Digest::of(b"image")
}

/// What an archive left in a containerd.
#[derive(Clone, Default)]
struct Imported {
    blobs: Vec<Vec<u8>>,
    /// Names and targets of records.
    records: Vec<(String, Digest)>,
    /// Digests and labels of what is listed.
    labelled: Vec<(Digest, String, String)>,
    namespaces: usize,
}

impl Imported {
    fn add(&mut self, bytes: String) -> (Digest, usize) {
        let (digest, size) = (Digest::of(bytes.as_bytes()), bytes.len());
        self.blobs.push(bytes.into_bytes());
        (digest, size)
    }

    fn manifest(&mut self, media_type: &str, bytes: &str, more: &str) -> (Digest, usize) {
        let (layer, size) = self.add(bytes.to_owned());
        self.add(format!(r#"{{"layers":[{{"mediaType":"{media_type}","digest":"{layer}","size":{size}}}]{more}}}"#))
    }

    fn bundle(&mut self, bytes: &str) -> (Digest, usize) {
        self.manifest(BUNDLE, bytes, &format!(r#","subject":{{"digest":"{}"}}"#, image()))
    }

    fn start(self) -> FakeContainerd {
        FakeContainerd::start(move |method, message| match method {
            "Namespaces/List" => {
                let space = |i: usize| Space { name: format!("n{i}"), ..Space::default() };
                Answer::message(&ListNamespacesResponse {
                    namespaces: (0..self.namespaces.max(1)).map(space).collect(),
                })
            }
            "Introspection/Plugins" => Answer::Messages(vec![Vec::new()]),
            "Images/List" => {
                let record = |(name, digest): &(String, Digest)| {
                    let size = self.blobs.iter().find(|blob| Digest::of(blob) == *digest).map_or(7, Vec::len);
                    let target = Descriptor {
                        media_type: media_type::MANIFEST.to_owned(),
                        digest: digest.to_string(),
                        size: i64::try_from(size).unwrap(),
                        ..Descriptor::default()
                    };
                    Image { name: name.clone(), target: Some(target), ..Image::default() }
                };
                Answer::message(&ListImagesResponse { images: self.records.iter().map(record).collect() })
            }
            "Content/List" => {
                let info = |(digest, label, value): &(Digest, String, String)| Info {
                    digest: digest.to_string(),
                    labels: [(label.clone(), value.clone())].into(),
                    ..Info::default()
                };
                Answer::message(&ListContentResponse { info: self.labelled.iter().map(info).collect() })
            }
            "Content/Read" => {
                let digest = ReadContentRequest::decode(message).unwrap().digest;
                match self.blobs.iter().find(|blob| Digest::of(blob).to_string() == digest) {
                    Some(blob) => Answer::message(&ReadContentResponse { offset: 0, data: blob.clone() }),
                    None => Answer::missing(),
                }
            }
            _ => Answer::missing(),
        })
    }
}

/// How many pieces there are, and what could not be told.
async fn found(fake: &FakeContainerd) -> (u32, Vec<Gap>) {
    let store = Arc::new(ContentStore::new(fake.client(), Kept::default()));
    let mut stream = store.evidence(image(), Formats::ALL, Arc::new(Semaphore::new(1)));
    let mut gaps = Vec::new();
    while let Some(item) = stream.items.recv().await {
        gaps.extend(item.err());
    }
    (stream.questions.so_far()[0].found, gaps)
}

#[tokio::test]
async fn what_an_archive_brought_is_found_by_record_by_index_and_by_containerds_own_note() {
    let tag = format!("import:sha256-{}.sig", image().hex());
    let mut by_record = Imported::default();
    let (signature, _) = by_record.manifest(SIMPLE_SIGNING, "payload", "");
    by_record.records.push((tag.clone(), signature));

    let mut by_index = Imported::default();
    let (bundle, size) = by_index.bundle("bundle");
    let entry =
        |digest, size| format!(r#"{{"mediaType":"{}","digest":"{digest}","size":{size}}}"#, media_type::MANIFEST);
    // Of the platforms only this node's is there.
    let entries = [entry(image(), 5), entry(bundle, size), entry(Digest::of(b"other platform"), 5)].join(",");
    let (index, _) = by_index.add(format!(r#"{{"manifests":[{entries}]}}"#));
    by_index.labelled.push((index, format!("{CHILD}.m.0"), image().to_string()));

    let mut by_note = Imported::default();
    let (bundle, _) = by_note.bundle("bundle");
    by_note.labelled.push((image(), format!("{CHILD}.referrer.sha256.1"), bundle.to_string()));

    for imported in [by_record.clone(), by_index, by_note] {
        let without = Imported { blobs: Vec::new(), ..imported.clone() };
        assert_eq!(found(&imported.start()).await, (1, vec![]));
        // Of what a record names and garbage collection took, it cannot be told what it was.
        let (count, gaps) = found(&without.clone().start()).await;
        assert_eq!((count, gaps.len()), (0, without.records.len()));
    }
    // A record says what it likes; what it leads to is read by its digest.
    let wrong = Imported { records: vec![(tag, Digest::of(b"other"))], ..by_record };
    assert_eq!(found(&wrong.start()).await.0, 0);
}

#[tokio::test]
async fn bytes_that_are_not_those_of_their_digest_are_a_gap() {
    let fake = FakeContainerd::start(|method, _| match method {
        "Namespaces/List" => {
            let namespaces = vec![Space { name: "n".to_owned(), ..Space::default() }];
            Answer::message(&ListNamespacesResponse { namespaces })
        }
        "Images/List" => {
            let target = Descriptor {
                media_type: media_type::MANIFEST.to_owned(),
                digest: Digest::of(b"signature").to_string(),
                size: 100,
                ..Descriptor::default()
            };
            let name = format!("x:sha256-{}.sig", image().hex());
            Answer::message(&ListImagesResponse {
                images: vec![Image { name, target: Some(target), ..Image::default() }],
            })
        }
        "Content/Read" => Answer::message(&ReadContentResponse { offset: 0, data: br#"{"layers":[]}"#.to_vec() }),
        "Introspection/Plugins" => Answer::Messages(vec![Vec::new()]),
        _ => Answer::message(&ListContentResponse::default()),
    });
    let (count, gaps) = found(&fake).await;
    assert_eq!(count, 0);
    assert!(matches!(&gaps[..], [Gap { cause: Cause::Unreadable(why), .. }] if why.contains("do not have the digest")));
}

#[tokio::test]
async fn a_containerd_that_fails_is_a_gap_and_its_namespaces_are_bounded() {
    let fake = FakeContainerd::start(|_, _| Answer::Error(Status::unavailable("gone")));
    let (count, gaps) = found(&fake).await;
    assert!(count == 0 && matches!(&gaps[..], [Gap { cause: Cause::Unreadable(_), .. }]), "{gaps:?}");
    for (namespaces, expected) in [(limits::EVIDENCE_NAMESPACES, 0), (limits::EVIDENCE_NAMESPACES + 1, 1)] {
        let fake = Imported { namespaces, ..Imported::default() }.start();
        assert_eq!(found(&fake).await.1.len(), expected);
        let looked_into = fake.asked().iter().filter(|method| *method == "Images/List").count();
        assert_eq!(looked_into, limits::EVIDENCE_NAMESPACES);
    }
}

#[tokio::test]
async fn searches_take_turns() {
    let fake = FakeContainerd::start(|_, _| Answer::Silence);
    let store = Arc::new(ContentStore::new(fake.client(), Kept::default()));
    let turns = Arc::new(Semaphore::new(limits::PARALLEL_SEARCHES));
    let search = |_| store.evidence(image(), Formats::ALL, turns.clone());
    let mut searches: Vec<Stream> = (0..3 * limits::PARALLEL_SEARCHES).map(search).collect();
    let asked = async |count: usize| {
        while fake.asked().len() < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        fake.asked().len()
    };
    assert_eq!(asked(limits::PARALLEL_SEARCHES).await, limits::PARALLEL_SEARCHES);
    // Who stops waiting gives the turn back.
    searches.remove(0);
    assert_eq!(asked(limits::PARALLEL_SEARCHES + 1).await, limits::PARALLEL_SEARCHES + 1);
}

#[tokio::test]
async fn a_source_that_hangs_is_left_for_the_next() {
    let fake = FakeContainerd::start(|_, _| Answer::Silence);
    let store = Arc::new(ContentStore::new(fake.client(), Kept::default()));
    let folder = tempfile::tempdir().unwrap();
    let layout = crate::evidence::layout::OciLayout::new(folder.path());
    let sources = Sources::new(Kept::default()).with_content(store).with_layout(layout);
    let registry = crate::evidence::registry::Registry::new(Default::default());
    let wanted = Question { digest: image(), place: None, formats: Formats::ALL, offline: false };
    let started = std::time::Instant::now();
    let mut search = sources.search(&registry, wanted, Elsewhere::default());
    let mut gaps = Vec::new();
    while let Some(item) = search.next().await {
        gaps.push(item.unwrap_err().place);
    }
    assert_eq!(gaps, [SHOWN.to_owned(), folder.path().display().to_string()]);
    assert!((limits::EVIDENCE_ON_NODE..2 * limits::EVIDENCE_ON_NODE).contains(&started.elapsed()));
    let asked = search.asked();
    assert!(asked[0].layout == Layout::ContentStore && asked[0].gap.as_ref().unwrap().contains("no complete answer"));
}

#[tokio::test]
async fn what_is_there_is_listed_once_for_many_that_are_asked_about_at_a_time_and_anew_for_what_is_new() {
    let image = image();
    let known =
        Imported { labelled: vec![(image, format!("{CHILD}.config"), image.to_string())], ..Imported::default() };
    let fake = known.start();
    let store = Arc::new(ContentStore::new(fake.client(), Kept::default()));
    let listed = || fake.asked().iter().filter(|method| *method == "Content/List").count();
    for (digest, expected) in [(image, 1), (image, 1), (Digest::of(b"new"), 2), (Digest::of(b"new"), 3), (image, 3)] {
        let mut stream = store.evidence(digest, Formats::ALL, Arc::new(Semaphore::new(1)));
        assert!(stream.items.recv().await.is_none());
        assert_eq!(listed(), expected);
    }
    tokio::time::sleep(limits::INVENTORY_LIFE).await;
    let mut stream = store.evidence(image, Formats::ALL, Arc::new(Semaphore::new(1)));
    assert!(stream.items.recv().await.is_none());
    assert_eq!(listed(), 4);
}
