//! Takes away what runs made: their own at the end, and what one that was killed left.

use containerd_client::services::v1::{DeleteImageRequest, images_client::ImagesClient};
use tonic::{Code, Status};

use super::{LABEL, NAME, POD_TIME, client, image::MARK};
use crate::{
    containerd::{Containerd, leased},
    cri::Cri,
    image::Digest,
    limits,
};

/// Bytes of a manifest that a run made.
const MANIFEST_BYTES: u64 = 4 << 10;

/// Removes the pods, images and leases of every run.
///
/// # Errors
/// The first thing that containerd did not remove; the others are removed all the same.
pub(super) async fn remove(containerd: &Containerd, namespace: &str) -> Result<(), String> {
    let told = |what: &str, status: Status| format!("{what}: {}", status.message());
    let pods = pods(containerd).await.map_err(|status| told("the pods of the self-test", status));
    let images = images(containerd, namespace).await.map_err(|status| told("the images of the self-test", status));
    let leases = client::release_all(containerd, namespace).await;
    let leases = leases.map_err(|status| told("the leases of the self-test", status));
    pods.and(images).and(leases)
}

async fn pods(containerd: &Containerd) -> Result<(), Status> {
    let cri = Cri::of(containerd);
    let pods = match cri.pods_with(LABEL).await {
        Err(status) if status.code() == Code::Unimplemented => Vec::new(),
        pods => pods?,
    };
    let mut outcome = Ok(());
    for pod in pods {
        outcome = cri.remove_pod(&pod, POD_TIME).await.and(outcome);
    }
    outcome
}

async fn images(containerd: &Containerd, namespace: &str) -> Result<(), Status> {
    let all = containerd.all_images(namespace).await?;
    let mut names: Vec<&str> = all.iter().map(|image| image.name.as_str()).filter(|name| is_ours(name)).collect();
    // The runtime interface names each image by its configuration too, also when the other name is gone by then.
    let pulled = vec![format!("labels.\"containerd.io/distribution.source.127.0.0.1\"~=\"{NAME}/\"")];
    let pulled = containerd.blobs(namespace, pulled, limits::CANDIDATE_MANIFESTS).await?;
    for image in all.iter().filter(|image| image.name.starts_with("sha256:")) {
        let target = image.target.as_ref().and_then(|target| target.digest.parse::<Digest>().ok());
        let target = target.filter(|target| pulled.iter().any(|blob| blob.digest == *target));
        // What somebody else gave our name stays.
        if let Some(target) = target
            && is_made_here(containerd, namespace, &target).await?
        {
            names.push(&image.name);
        }
    }
    let last = names.len().saturating_sub(1);
    for (at, name) in names.into_iter().enumerate() {
        // With the last one containerd removes their content before it answers.
        let delete = DeleteImageRequest { name: name.to_owned(), sync: at == last, target: None };
        match ImagesClient::new(containerd.channel()).delete(leased(delete, namespace, None)).await {
            Err(status) if status.code() != Code::NotFound => return Err(status),
            _ => {}
        }
    }
    Ok(())
}

/// Whether an image has a name of a run: `127.0.0.1:PORT/pullgate-self-test/RUN…`.
fn is_ours(name: &str) -> bool {
    let mut parts = name.splitn(3, '/');
    let host = parts.next().and_then(|host| host.strip_prefix("127.0.0.1:"));
    host.is_some_and(|port| port.parse::<u16>().is_ok()) && parts.next() == Some(NAME)
}

async fn is_made_here(containerd: &Containerd, namespace: &str, target: &Digest) -> Result<bool, Status> {
    let bytes = match containerd.read(namespace, target, MANIFEST_BYTES).await {
        Err(status) if status.code() == Code::OutOfRange => return Ok(false),
        bytes => bytes?.unwrap_or_default(),
    };
    let manifest: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
    Ok(Digest::of(&bytes) == *target && manifest["annotations"][MARK].is_string())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use containerd_client::{
        services::v1::{Image, Info, ListContentResponse, ListImagesResponse, ReadContentRequest, ReadContentResponse},
        types::Descriptor,
    };
    use prost::Message as _;

    use super::*;
    use crate::{
        containerd::fake::{Answer, FakeContainerd},
        selftest::image::Image as Made,
    };

    #[test]
    fn only_names_of_a_run_are_removed() {
        for name in ["127.0.0.1:1/pullgate-self-test/a@sha256:0", "127.0.0.1:65535/pullgate-self-test/a/b"] {
            assert!(is_ours(name), "{name}");
        }
        for name in [
            "",
            "127.0.0.1:5000/app",
            "127.0.0.1:5000/app/pullgate-self-test/x",
            "127.0.0.1:5000/pullgate-self-tests/x",
            "127.0.0.1:x/pullgate-self-test/x",
            "127.0.0.1/pullgate-self-test/x",
            "evil.example:5000/pullgate-self-test/x",
            "pullgate-self-test/x",
            "sha256:0",
        ] {
            assert!(!is_ours(name), "{name}");
        }
    }

    #[tokio::test]
    async fn an_image_that_somebody_else_gave_our_name_loses_that_name_alone() {
        let made = Made::new("x").unwrap();
        let [ours, theirs] = [made.manifest.clone(), br#"{"annotations":{}}"#.to_vec()];
        // Its other name went before this one came.
        let alone = Made::new("x").unwrap().manifest;
        let record = |name: &str, target: &[u8]| Image {
            name: name.to_owned(),
            target: Some(Descriptor { digest: Digest::of(target).to_string(), ..Descriptor::default() }),
            ..Image::default()
        };
        let images = vec![
            record("127.0.0.1:4000/pullgate-self-test/x@sha256:1", &ours),
            record("sha256:1", &ours),
            record("sha256:4", &alone),
            record("127.0.0.1:4000/pullgate-self-test/pause", &theirs),
            record("sha256:2", &theirs),
            record("registry.example.com/pause:3", &theirs),
            record("sha256:3", b"another"),
        ];
        let removed = Arc::new(Mutex::new(Vec::new()));
        let seen = removed.clone();
        let fake = FakeContainerd::start(move |method, message| match method {
            "Images/List" => Answer::message(&ListImagesResponse { images: images.clone() }),
            "Content/List" => {
                let info = |bytes: &Vec<u8>| Info { digest: Digest::of(bytes).to_string(), ..Info::default() };
                Answer::message(&ListContentResponse { info: [&ours, &theirs, &alone].map(info).into() })
            }
            "Content/Read" => {
                let asked = ReadContentRequest::decode(message).unwrap().digest;
                let found = [&ours, &theirs, &alone].into_iter().find(|bytes| Digest::of(bytes).to_string() == asked);
                found.map_or_else(Answer::missing, |data| {
                    Answer::message(&ReadContentResponse { offset: 0, data: data.clone() })
                })
            }
            "Images/Delete" => {
                let delete = DeleteImageRequest::decode(message).unwrap();
                seen.lock().unwrap().push((delete.name, delete.sync));
                Answer::message(&())
            }
            _ => Answer::Error(Status::unimplemented("no such service")),
        });
        super::images(&fake.client(), "k8s.io").await.unwrap();
        let expected = [
            ("127.0.0.1:4000/pullgate-self-test/x@sha256:1", false),
            ("127.0.0.1:4000/pullgate-self-test/pause", false),
            ("sha256:1", false),
            ("sha256:4", true),
        ];
        assert_eq!(*removed.lock().unwrap(), expected.map(|(name, sync)| (name.to_owned(), sync)));
    }
}
