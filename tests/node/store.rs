//! What containerd holds, over its own interface: the snapshots that prove an image was unpacked, and the
//! removal of everything between two cases.

use std::{collections::HashSet, future::Future, time::Duration};

use containerd_client::{
    Client,
    services::v1::{
        CreateRequest, DeleteContainerRequest, DeleteContentRequest, DeleteImageRequest, DeleteRequest,
        DeleteTaskRequest, InfoRequest, KillRequest, ListContainersRequest, ListContentRequest, ListImagesRequest,
        ListNamespacesRequest, ListRequest,
        snapshots::{Kind, ListSnapshotsRequest, RemoveSnapshotRequest, StatSnapshotRequest},
    },
};
use tonic::{Code, IntoRequest, Request, Status};

use super::{Result, machine::Node};

const SNAPSHOTTER: &str = "overlayfs";
const SNAPSHOTTERS: [&str; 2] = [SNAPSHOTTER, "native"];

/// Times that the snapshots of a namespace are listed to be removed: each removes one of every chain.
const PASSES: usize = 512;

/// A call that takes longer hangs.
const LONGEST: Duration = Duration::from_secs(300);

/// Runs a future to its end on this thread.
///
/// # Errors
/// What the future says, or that it hangs.
pub fn wait<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { tokio::time::timeout(LONGEST, future).await? })
}

/// A name that an image goes by, and the digest it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub name: String,
    pub digest: String,
}

impl Node {
    /// Whether the snapshot of this chain of layers is there, complete.
    ///
    /// # Errors
    /// Where containerd cannot tell.
    pub fn unpacked(&self, namespace: &str, chain: &str) -> Result<bool> {
        self.unpacked_by(SNAPSHOTTER, namespace, chain)
    }

    /// As [`Node::unpacked`], for any snapshotter.
    ///
    /// # Errors
    /// As [`Node::unpacked`].
    pub fn unpacked_by(&self, snapshotter: &str, namespace: &str, chain: &str) -> Result<bool> {
        wait(async {
            let client = Client::from_path(self.containerd_socket()).await?;
            let request = StatSnapshotRequest { snapshotter: snapshotter.to_owned(), key: chain.to_owned() };
            match client.snapshots().stat(within(namespace, request)?).await {
                Ok(answer) => Ok(answer.into_inner().info.is_some_and(|info| info.kind == Kind::Committed as i32)),
                Err(status) if status.code() == Code::NotFound => Ok(false),
                Err(status) => Err(status.into()),
            }
        })
    }

    /// Whether a namespace has this blob.
    ///
    /// # Errors
    /// Where containerd cannot tell.
    pub fn holds_blob(&self, namespace: &str, digest: &str) -> Result<bool> {
        wait(async {
            let client = Client::from_path(self.containerd_socket()).await?;
            let request = InfoRequest { digest: digest.to_owned() };
            match client.content().info(within(namespace, request)?).await {
                Ok(_) => Ok(true),
                Err(status) if status.code() == Code::NotFound => Ok(false),
                Err(status) => Err(status.into()),
            }
        })
    }

    /// The image records of a namespace.
    ///
    /// # Errors
    /// Where containerd cannot tell.
    pub fn image_records(&self, namespace: &str) -> Result<Vec<Record>> {
        wait(async {
            let client = Client::from_path(self.containerd_socket()).await?;
            let images = client.images().list(within(namespace, ListImagesRequest::default())?).await?.into_inner();
            Ok(images
                .images
                .into_iter()
                .map(|image| Record { digest: image.target.map(|it| it.digest).unwrap_or_default(), name: image.name })
                .collect())
        })
    }

    /// Removes every pod, container, image, lease, snapshot and blob, in every namespace.
    ///
    /// # Errors
    /// Where something stays behind: a layer that does is not unpacked again, and no gate is asked.
    pub fn clean(&self) -> Result<()> {
        let mut removed = Ok(());
        // What is being made at this moment, as by the self-test after containerd's start, can be removed in the next.
        let waited = self.wait_until("everything is removed", || {
            removed = self.remove_everything();
            Ok(removed.is_ok())
        });
        removed.and(waited)
    }

    fn remove_everything(&self) -> Result<()> {
        self.remove_pods()?;
        wait(async {
            let client = Client::from_path(self.containerd_socket()).await?;
            let namespaces = client.namespaces().list(ListNamespacesRequest::default()).await?.into_inner().namespaces;
            for namespace in namespaces {
                let namespace = Namespace { client: &client, name: &namespace.name };
                namespace.remove_containers().await?;
                namespace.remove_images().await?;
                namespace.remove_leases().await?;
                for snapshotter in SNAPSHOTTERS {
                    namespace.remove_snapshots(snapshotter).await?;
                }
                namespace.remove_content().await?;
            }
            Ok(())
        })
    }
}

struct Namespace<'a> {
    client: &'a Client,
    name: &'a str,
}

impl Namespace<'_> {
    async fn remove_containers(&self) -> Result<()> {
        let request = within(self.name, ListContainersRequest::default())?;
        for container in self.client.containers().list(request).await?.into_inner().containers {
            let id = container.id;
            let kill = KillRequest { container_id: id.clone(), signal: 9, all: true, ..KillRequest::default() };
            if gone(self.client.tasks().kill(within(self.name, kill)?).await)? {
                let wait =
                    containerd_client::services::v1::WaitRequest { container_id: id.clone(), ..Default::default() };
                gone(self.client.tasks().wait(within(self.name, wait)?).await)?;
            }
            gone(self.client.tasks().delete(within(self.name, DeleteTaskRequest { container_id: id.clone() })?).await)?;
            gone(self.client.containers().delete(within(self.name, DeleteContainerRequest { id })?).await)?;
        }
        Ok(())
    }

    async fn remove_images(&self) -> Result<()> {
        let request = within(self.name, ListImagesRequest::default())?;
        for image in self.client.images().list(request).await?.into_inner().images {
            let request = DeleteImageRequest { name: image.name, ..DeleteImageRequest::default() };
            gone(self.client.images().delete(within(self.name, request)?).await)?;
        }
        Ok(())
    }

    async fn remove_leases(&self) -> Result<()> {
        let request = within(self.name, ListRequest::default())?;
        for lease in self.client.leases().list(request).await?.into_inner().leases {
            let request = DeleteRequest { id: lease.id, sync: true };
            gone(self.client.leases().delete(within(self.name, request)?).await)?;
        }
        Ok(())
    }

    /// Leaf first: a snapshot that another one stands on cannot be removed. Collection runs beside this, and an
    /// unpacking that was refused may still be cleaning up after itself. A snapshot that docker removes at the same
    /// time can be gone and count as a child for good; the collector does not ask for children.
    async fn remove_snapshots(&self, snapshotter: &str) -> Result<()> {
        for _ in 0..PASSES {
            let request = ListSnapshotsRequest { snapshotter: snapshotter.to_owned(), ..Default::default() };
            let mut answer = self.client.snapshots().list(within(self.name, request)?).await?.into_inner();
            let mut snapshots = Vec::new();
            while let Some(page) = answer.message().await? {
                snapshots.extend(page.info);
            }
            if snapshots.is_empty() {
                return Ok(());
            }
            let parents: HashSet<_> = snapshots.iter().map(|snapshot| snapshot.parent.clone()).collect();
            let mut is_held = false;
            for leaf in snapshots.iter().filter(|snapshot| !parents.contains(&snapshot.name)) {
                let request = RemoveSnapshotRequest { snapshotter: snapshotter.to_owned(), key: leaf.name.clone() };
                match self.client.snapshots().remove(within(self.name, request)?).await {
                    Err(status) if status.code() == Code::FailedPrecondition => is_held = true,
                    answer => drop(gone(answer)?),
                }
            }
            if is_held {
                self.collect().await?;
            }
        }
        Err(format!("{}: snapshots of {snapshotter} stay behind", self.name).into())
    }

    /// Has containerd collect what nothing keeps, and waits for it.
    async fn collect(&self) -> Result<()> {
        let lease = CreateRequest { id: "pullgate-tests-collect".to_owned(), ..CreateRequest::default() };
        let id = lease.id.clone();
        self.client.leases().create(within(self.name, lease)?).await?;
        gone(self.client.leases().delete(within(self.name, DeleteRequest { id, sync: true })?).await)?;
        Ok(())
    }

    async fn remove_content(&self) -> Result<()> {
        let request = within(self.name, ListContentRequest::default())?;
        let mut answer = self.client.content().list(request).await?.into_inner();
        let mut digests = Vec::new();
        while let Some(page) = answer.message().await? {
            digests.extend(page.info.into_iter().map(|info| info.digest));
        }
        for digest in digests {
            gone(self.client.content().delete(within(self.name, DeleteContentRequest { digest })?).await)?;
        }
        Ok(())
    }
}

/// `message` addressed to a namespace.
///
/// # Errors
/// Where the name is none.
pub fn within<T>(namespace: &str, message: impl IntoRequest<T>) -> Result<Request<T>> {
    let mut request = message.into_request();
    request.metadata_mut().insert("containerd-namespace", namespace.parse()?);
    Ok(request)
}

/// Whether it was there to be removed; that containerd's collector was faster is no trouble.
fn gone<T>(answer: std::result::Result<T, Status>) -> Result<bool> {
    match answer {
        Ok(_) => Ok(true),
        Err(status) if status.code() == Code::NotFound => Ok(false),
        Err(status) => Err(status.into()),
    }
}
