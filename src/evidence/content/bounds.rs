//! What the content store is asked for at most, reached.

use containerd_client::services::v1::{
    Info, ListContentRequest, ListContentResponse, ListImagesResponse, ReadContentRequest, ReadContentResponse,
};
use prost::Message;

use super::*;
use crate::containerd::fake::{Answer, FakeContainerd};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

fn descriptor(media_type: &str, bytes: &[u8]) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
        annotations: Default::default(),
    }
}

fn json(descriptor: &Descriptor) -> String {
    let Descriptor { media_type, digest, size, .. } = descriptor;
    format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size}}}"#)
}

/// The configuration and the manifest of an image with one layer, `layer`.
fn image(layer: &[u8]) -> [Vec<u8>; 2] {
    let digest = Digest::of(layer);
    let config =
        format!(r#"{{"os":"linux","architecture":"amd64","rootfs":{{"type":"layers","diff_ids":["{digest}"]}}}}"#);
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{},"layers":[{}]}}"#,
        media_type::MANIFEST,
        json(&descriptor(media_type::CONFIG, config.as_bytes())),
        json(&descriptor(LAYER, layer))
    );
    [config.into_bytes(), manifest.into_bytes()]
}

/// containerd with these blobs; what it lists is up to `list`, by the filters.
fn containerd(blobs: Vec<Vec<u8>>, list: impl Fn(&str) -> Vec<Digest> + Send + Sync + 'static) -> FakeContainerd {
    FakeContainerd::start(move |method, message| match method {
        "Content/List" => {
            let filters = ListContentRequest::decode(message).unwrap().filters.join(",");
            let info = |digest: Digest| Info { digest: digest.to_string(), ..Info::default() };
            Answer::message(&ListContentResponse { info: list(&filters).into_iter().map(info).collect() })
        }
        "Content/Read" => {
            let digest = ReadContentRequest::decode(message).unwrap().digest;
            match blobs.iter().find(|blob| Digest::of(blob).to_string() == digest) {
                Some(blob) => {
                    let piece = |data: &[u8]| ReadContentResponse { offset: 0, data: data.to_vec() }.encode_to_vec();
                    Answer::Messages(blob.chunks(1 << 20).map(piece).collect())
                }
                None => Answer::missing(),
            }
        }
        "Images/List" => Answer::message(&ListImagesResponse::default()),
        _ => Answer::missing(),
    })
}

#[tokio::test]
async fn a_document_is_bounded() {
    let room = usize::try_from(limits::MANIFEST_BYTES).unwrap();
    let [_, manifest] = image(b"layer");
    let padded = |size: usize| {
        let mut bytes = manifest.clone();
        bytes.resize(size, b' ');
        bytes
    };
    let (largest, larger) = (padded(room), padded(room + 1));
    let digests = [Digest::of(&largest), Digest::of(&larger)];
    let fake = containerd(vec![largest, larger], |_| Vec::new());
    let store = ContentStore::new(fake.client(), Kept::default());
    assert!(store.document("k8s.io", &digests[0]).await.is_ok());
    let refused = store.document("k8s.io", &digests[1]).await.unwrap_err();
    assert!(matches!(&refused, Trouble::Malformed(_, why) if why.contains("more than")), "{refused}");
}

#[tokio::test]
async fn the_manifests_that_list_a_layer_are_bounded() {
    let layer = descriptor(LAYER, b"layer");
    for count in [limits::CANDIDATE_MANIFESTS, limits::CANDIDATE_MANIFESTS + 1] {
        let ([config, manifest], [_, other]) = (image(b"layer"), image(b"other"));
        let (digest, another) = (Digest::of(&manifest), Digest::of(&other));
        let fake = containerd(vec![config, manifest, other], move |filters| match filters.contains(".l.") {
            true => [vec![another; count - 1], vec![digest]].concat(),
            false => Vec::new(),
        });
        let found =
            ContentStore::new(fake.client(), Kept::default()).images_of("k8s.io", &layer, &Digest::of(b"layer")).await;
        match count > limits::CANDIDATE_MANIFESTS {
            false => assert_eq!(found.unwrap().len(), 1, "what is not there says nothing about what is"),
            true => assert!(matches!(found.unwrap_err(), Trouble::Unreachable(why) if why.contains("more than"))),
        }
    }
}

#[tokio::test]
async fn the_indexes_that_list_a_manifest_are_bounded() {
    let layer = descriptor(LAYER, b"layer");
    for count in [limits::PARENT_INDEXES, limits::PARENT_INDEXES + 1] {
        let ([config, manifest], [_, other]) = (image(b"layer"), image(b"other"));
        let (digest, another) = (Digest::of(&manifest), Digest::of(&other));
        let fake = containerd(vec![config, manifest, other], move |filters| match filters.contains(".l.") {
            true => vec![digest],
            false => vec![another; count],
        });
        let found =
            ContentStore::new(fake.client(), Kept::default()).images_of("k8s.io", &layer, &Digest::of(b"layer")).await;
        match count > limits::PARENT_INDEXES {
            false => assert_eq!(found.unwrap().len(), 1),
            true => assert!(matches!(found.unwrap_err(), Trouble::Unreachable(why) if why.contains("more than"))),
        }
    }
}
