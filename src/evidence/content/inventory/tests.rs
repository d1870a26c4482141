use containerd_client::services::v1::{Info, ListContentResponse, ListImagesResponse};
use prost::Message;

use super::*;
use crate::{
    containerd::fake::{Answer, FakeContainerd},
    evidence::kept::Kept,
};

/// What is in a containerd with `count` documents, each of which says to list so many others.
async fn inventory(count: usize, links: usize) -> Result<Inventory, Trouble> {
    let label = |at: usize| (format!("{CHILD}.m.{at}"), Digest::of(&at.to_le_bytes()).to_string());
    let info = move |number: usize| Info {
        digest: Digest::of(&number.to_le_bytes()).to_string(),
        labels: (0..links).map(label).collect(),
        ..Info::default()
    };
    let fake = FakeContainerd::start(move |method, _| match method {
        "Introspection/Plugins" => Answer::Messages(vec![Vec::new()]),
        "Content/List" => {
            let numbers: Vec<usize> = (0..count).collect();
            let page = |numbers: &[usize]| ListContentResponse { info: numbers.iter().map(|n| info(*n)).collect() };
            Answer::Messages(numbers.chunks(100).map(|numbers| page(numbers).encode_to_vec()).collect())
        }
        "Images/List" => Answer::message(&ListImagesResponse::default()),
        _ => Answer::missing(),
    });
    ContentStore::new(fake.client(), Kept::default()).inventory("k8s.io").await
}

#[tokio::test]
async fn the_documents_of_a_namespace_are_bounded() {
    assert_eq!(inventory(limits::NODE_DOCUMENTS, 1).await.unwrap().documents.len(), limits::NODE_DOCUMENTS);
    let refused = inventory(limits::NODE_DOCUMENTS + 1, 1).await.err().unwrap();
    assert!(matches!(&refused, Trouble::Unreachable(why) if why.contains("more than 16384")), "{refused}");
}

#[tokio::test]
async fn what_documents_list_is_bounded() {
    let each = 1024;
    assert!(inventory(limits::NODE_LINKS / each, each).await.is_ok());
    let refused = inventory(limits::NODE_LINKS / each + 1, each).await.err().unwrap();
    assert!(matches!(&refused, Trouble::Unreachable(why) if why.contains("list more than 131072")), "{refused}");
}
