//! A client of containerd that unpacks an image itself, as `ctr --local`, nerdctl and docker do: all that it makes hangs
//! on one lease, and goes with it.

use std::collections::HashMap;

use containerd_client::{
    services::v1::{
        ApplyRequest, CreateRequest, DeleteRequest, ListRequest, WriteAction, WriteContentRequest,
        content_client::ContentClient,
        diff_client::DiffClient,
        leases_client::LeasesClient,
        snapshots::{PrepareSnapshotRequest, snapshots_client::SnapshotsClient},
    },
    types::Descriptor,
};
use jiff::{SignedDuration, Timestamp};
use tonic::{Code, Status};

use super::{
    NAME,
    image::{Image, LAYER},
};
use crate::{
    containerd::{Containerd, leased},
    image::{Digest, media_type},
};

/// When containerd removes what a run that was killed left, unless the next run does before.
const LEASE_LIFE: SignedDuration = SignedDuration::from_mins(10);

/// Has the layer of `image` unpacked in `namespace`, and takes away whatever came of it.
///
/// # Errors
/// What containerd said, of whatever step.
pub(super) async fn unpack(containerd: &Containerd, namespace: &str, run: &str, image: &Image) -> Result<(), Status> {
    let id = format!("{NAME}-{run}");
    let ends = Timestamp::now().saturating_add(LEASE_LIFE).map_err(|_| Status::internal("no time"))?;
    let labels = [("containerd.io/gc.expire".to_owned(), format!("{ends:.0}"))].into();
    let create = CreateRequest { id: id.clone(), labels };
    LeasesClient::new(containerd.channel()).create(leased(create, namespace, None)).await?;
    let outcome = under_lease(containerd, namespace, &id, run, image).await;
    release(containerd, namespace, &id).await?;
    outcome
}

async fn under_lease(
    containerd: &Containerd,
    namespace: &str,
    lease: &str,
    run: &str,
    image: &Image,
) -> Result<(), Status> {
    for (kind, bytes) in image.blobs() {
        let labels = if kind == media_type::MANIFEST { children(image) } else { HashMap::new() };
        let length = i64::try_from(bytes.len()).map_err(|_| Status::internal("too large"))?;
        let digest = Digest::of(bytes).to_string();
        let write = WriteContentRequest {
            action: WriteAction::Commit.into(),
            r#ref: format!("{lease}-{digest}"),
            total: length,
            expected: digest,
            offset: 0,
            data: bytes.to_vec(),
            labels,
        };
        let mut answers = ContentClient::new(containerd.channel())
            .write(leased(tokio_stream::iter([write]), namespace, Some(lease)))
            .await?
            .into_inner();
        while answers.message().await?.is_some() {}
    }
    let layer = Digest::of(&image.layer);
    let snapshotter = containerd.plugins().await?.snapshotters.into_iter().next();
    let prepare = PrepareSnapshotRequest {
        snapshotter: snapshotter.ok_or_else(|| Status::unavailable("containerd has no snapshotter"))?,
        // The first layer's chain id is its own.
        key: format!("extract-{run} {layer}"),
        parent: String::new(),
        labels: HashMap::new(),
    };
    let prepared = SnapshotsClient::new(containerd.channel()).prepare(leased(prepare, namespace, Some(lease))).await?;
    let apply = ApplyRequest {
        diff: Some(Descriptor {
            media_type: LAYER.to_owned(),
            digest: layer.to_string(),
            size: i64::try_from(image.layer.len()).map_err(|_| Status::internal("too large"))?,
            annotations: HashMap::new(),
        }),
        mounts: prepared.into_inner().mounts,
        ..ApplyRequest::default()
    };
    DiffClient::new(containerd.channel()).apply(leased(apply, namespace, Some(lease))).await.map(drop)
}

fn children(image: &Image) -> HashMap<String, String> {
    let child =
        |name: &str, bytes: &[u8]| (format!("containerd.io/gc.ref.content.{name}"), Digest::of(bytes).to_string());
    [child("config", &image.config), child("l.0", &image.layer)].into()
}

/// Takes away what earlier runs left on their leases in `namespace`.
///
/// # Errors
/// What containerd said.
pub(super) async fn release_all(containerd: &Containerd, namespace: &str) -> Result<(), Status> {
    let all = ListRequest { filters: Vec::new() };
    let leases = LeasesClient::new(containerd.channel()).list(leased(all, namespace, None)).await?.into_inner().leases;
    for lease in leases.into_iter().filter(|lease| lease.id.starts_with(&format!("{NAME}-"))) {
        release(containerd, namespace, &lease.id).await?;
    }
    Ok(())
}

/// Returns once containerd has removed what only the lease held.
async fn release(containerd: &Containerd, namespace: &str, id: &str) -> Result<(), Status> {
    let delete = DeleteRequest { id: id.to_owned(), sync: true };
    match LeasesClient::new(containerd.channel()).delete(leased(delete, namespace, None)).await {
        Err(status) if status.code() != Code::NotFound => Err(status),
        _ => Ok(()),
    }
}
