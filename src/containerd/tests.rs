use containerd_client::services::v1::{
    Container, GetImageResponse, ListContainerMessage, ListContentResponse, ReadContentResponse,
};
use containerd_client::types::Descriptor;
use prost::Message;

use super::{
    fake::{Answer, FakeContainerd},
    *,
};

fn blobs(count: usize) -> Answer {
    let info = |i: usize| Info { digest: Digest::of(&i.to_le_bytes()).to_string(), ..Info::default() };
    let pages: Vec<Info> = (0..count).map(info).collect();
    Answer::Messages(
        pages.chunks(1000).map(|page| ListContentResponse { info: page.to_vec() }.encode_to_vec()).collect(),
    )
}

#[tokio::test(start_paused = true)]
async fn no_call_is_waited_for_without_end() {
    let fake = FakeContainerd::start(|_, _| Answer::Silence);
    let containerd = fake.client();
    let begun = tokio::time::Instant::now();
    assert!(containerd.target("k8s.io", "x").await.is_err());
    assert!(containerd.plugins().await.is_err());
    assert!(containerd.blobs("k8s.io", Vec::new(), 1).await.is_err());
    assert!(containerd.images_in_use("k8s.io", String::new(), 1).await.is_err());
    assert!(containerd.read("k8s.io", &Digest::of(b"x"), 1).await.is_err());
    let waited = begun.elapsed();
    assert!(waited >= 5 * limits::CONTAINERD_CALL && waited < 6 * limits::CONTAINERD_CALL, "{waited:?}");
    assert_eq!(fake.asked().len(), 5);
}

#[tokio::test]
async fn a_list_that_is_too_long_is_no_list() {
    let fake = FakeContainerd::start(|_, _| blobs(3000));
    let found = fake.client().blobs("k8s.io", Vec::new(), 3000).await.unwrap();
    assert_eq!(found.len(), 3000);
    let status = fake.client().blobs("k8s.io", Vec::new(), 2999).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "more than 2999 documents are about this"));
}

#[tokio::test]
async fn a_blob_is_read_as_far_as_the_limit() {
    let pieces = || [b"abc", b"def"].map(|data| ReadContentResponse { offset: 0, data: data.to_vec() }.encode_to_vec());
    let fake = FakeContainerd::start(move |_, _| Answer::Messages(pieces().into()));
    let digest = Digest::of(b"abcdef");
    assert_eq!(fake.client().read("k8s.io", &digest, 6).await.unwrap().unwrap(), b"abcdef");
    assert_eq!(fake.client().read("k8s.io", &digest, 5).await.unwrap_err().code(), Code::OutOfRange);
    let empty = FakeContainerd::start(|_, _| Answer::missing());
    assert_eq!(empty.client().read("k8s.io", &digest, 5).await.unwrap(), None);
}

#[tokio::test]
async fn a_name_stands_for_one_digest_or_for_none() {
    let image = |digest: &str| {
        let target = Some(Descriptor { digest: digest.to_owned(), ..Descriptor::default() });
        GetImageResponse { image: Some(Image { target, ..Image::default() }) }
    };
    let target = async |answer: fn() -> Answer| {
        let fake = FakeContainerd::start(move |_, _| answer());
        fake.client().target("k8s.io", "x").await.map_err(|status| status.code())
    };
    assert_eq!(target(Answer::missing).await, Ok(None));
    let digest = Digest::of(b"x");
    let fake = FakeContainerd::start(move |_, _| Answer::message(&image(&digest.to_string())));
    assert_eq!(fake.client().target("k8s.io", "x").await.unwrap(), Some(digest));
    let fake = FakeContainerd::start(move |_, _| Answer::message(&image("sha512:00")));
    assert!(fake.client().target("k8s.io", "x").await.is_err());
    assert_eq!(target(|| Answer::message(&GetImageResponse::default())).await, Err(Code::Internal));
    assert_eq!(target(|| Answer::Error(Status::unavailable("no"))).await, Err(Code::Unavailable));
}

#[tokio::test]
async fn the_images_of_containers_are_told_once_each_up_to_the_limit() {
    let container = |image: &str| {
        let container = Some(Container { image: image.to_owned(), ..Container::default() });
        ListContainerMessage { container }.encode_to_vec()
    };
    let images = async |count: usize| {
        let mut messages: Vec<_> = (0..count).map(|i| container(&format!("reg.io/a{i:05}"))).collect();
        messages.extend([container(""), container("reg.io/a00000"), ListContainerMessage::default().encode_to_vec()]);
        let fake = FakeContainerd::start(move |_, _| Answer::Messages(messages.clone()));
        fake.client().images_in_use("k8s.io", String::new(), limits::ESSENTIAL_IMAGES).await.unwrap()
    };
    let (found, more) = images(limits::ESSENTIAL_IMAGES).await;
    assert_eq!((found.len(), more), (limits::ESSENTIAL_IMAGES, false));
    let (found, more) = images(limits::ESSENTIAL_IMAGES + 1).await;
    assert_eq!((found.len(), more), (limits::ESSENTIAL_IMAGES, true));
}

#[test]
fn only_the_key_of_an_unpack_names_a_chain() {
    let chain = Digest::of(b"chain");
    let of = |key: String| ExtractSnapshot::of(key).map(|extract| extract.chain);
    assert_eq!(of(format!("extract-123-abcd {chain}")), Some(chain));
    for key in [
        String::new(),
        chain.to_string(),
        format!(" {chain}"),
        format!("other-123 {chain}"),
        format!("k8s.io/5/extract-1 {chain}"),
        format!("extract-1 {chain} "),
        format!("extract-1 x {chain}"),
        "extract-1 sha256:00".to_owned(),
        "extract-1".to_owned(),
    ] {
        assert_eq!(of(key.clone()), None, "{key}");
    }
}
