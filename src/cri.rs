//! The Kubernetes runtime interface of containerd, as the kubelet calls it (CRI v1, `api.proto`): the calls that pullgate
//! makes, and of their messages the fields that it needs.

use std::{collections::HashMap, time::Duration};

use prost::Message;
use tonic::{Request, Status, client::Grpc, codegen::http::uri::PathAndQuery, transport::Channel};

use crate::{containerd::Containerd, limits};

/// containerd as the kubelet sees it.
#[derive(Clone)]
pub struct Cri(Channel);

impl Cri {
    /// The interface of `containerd`.
    pub fn of(containerd: &Containerd) -> Self {
        Self(containerd.channel())
    }

    /// Whether it answers.
    ///
    /// # Errors
    /// [`tonic::Code::Unimplemented`] when this containerd serves no pods.
    pub async fn version(&self) -> Result<(), Status> {
        // Neither what is asked nor what is answered matters.
        self.call::<(), ()>("/runtime.v1.RuntimeService/Version", (), limits::CONTAINERD_CALL).await
    }

    /// What it tells about itself, JSON by name: `config` above all.
    ///
    /// # Errors
    /// As [`Self::version`].
    pub async fn info(&self) -> Result<HashMap<String, String>, Status> {
        let status = StatusRequest { verbose: true };
        let answer: StatusResponse =
            self.call("/runtime.v1.RuntimeService/Status", status, limits::CONTAINERD_CALL).await?;
        Ok(answer.info)
    }

    /// Pulls `image` within `time`; returns the digest of its configuration.
    ///
    /// # Errors
    /// What the kubelet would be told.
    pub async fn pull(&self, image: &str, time: Duration) -> Result<String, Status> {
        let pull = PullImageRequest { image: Some(ImageSpec { image: image.to_owned() }) };
        let answer: PullImageResponse = self.call("/runtime.v1.ImageService/PullImage", pull, time).await?;
        Ok(answer.image_ref)
    }

    /// Starts a pod by the runtime handler `handler` (empty for the default) within `time`; returns its id.
    ///
    /// # Errors
    /// What the kubelet would be told.
    pub async fn run_pod(&self, pod: &Pod, handler: &str, time: Duration) -> Result<String, Status> {
        let run = RunPodSandboxRequest { config: Some(pod.clone()), runtime_handler: handler.to_owned() };
        let answer: RunPodSandboxResponse = self.call("/runtime.v1.RuntimeService/RunPodSandbox", run, time).await?;
        Ok(answer.id)
    }

    /// The ids of the pods that have the label `key`, whatever its value.
    ///
    /// # Errors
    /// What the kubelet would be told.
    pub async fn pods_with(&self, key: &str) -> Result<Vec<String>, Status> {
        let answer: ListPodSandboxResponse =
            self.call("/runtime.v1.RuntimeService/ListPodSandbox", (), limits::CONTAINERD_CALL).await?;
        let labelled = answer.items.into_iter().filter(|pod| pod.labels.contains_key(key));
        Ok(labelled.map(|pod| pod.id).collect())
    }

    /// Stops and removes the pod `id` with its containers, within `time` each. One that is not there is removed.
    ///
    /// # Errors
    /// What the kubelet would be told.
    pub async fn remove_pod(&self, id: &str, time: Duration) -> Result<(), Status> {
        let named = || PodSandboxId { id: id.to_owned() };
        self.call::<_, ()>("/runtime.v1.RuntimeService/StopPodSandbox", named(), time).await?;
        self.call::<_, ()>("/runtime.v1.RuntimeService/RemovePodSandbox", named(), time).await
    }

    /// Makes a container `name` of `image`, which is on the node, in the pod `id`; returns its id.
    ///
    /// # Errors
    /// What the kubelet would be told.
    pub async fn create(&self, id: &str, pod: &Pod, name: &str, image: &str, time: Duration) -> Result<String, Status> {
        let create = CreateContainerRequest {
            pod: id.to_owned(),
            config: Some(ContainerConfig {
                metadata: Some(ContainerMetadata { name: name.to_owned() }),
                image: Some(ImageSpec { image: image.to_owned() }),
                labels: pod.labels.clone(),
                linux: Some(LinuxContainerConfig {
                    security_context: Some(LinuxContainerSecurityContext {
                        namespaces: pod.linux.as_ref().and_then(|linux| linux.security_context.clone()?.namespaces),
                        readonly_rootfs: true,
                        no_new_privs: true,
                    }),
                }),
            }),
            sandbox_config: Some(pod.clone()),
        };
        let answer: ContainerId = self.call("/runtime.v1.RuntimeService/CreateContainer", create, time).await?;
        Ok(answer.id)
    }

    /// Starts the container `id`.
    ///
    /// # Errors
    /// What the kubelet would be told.
    pub async fn start(&self, id: &str, time: Duration) -> Result<(), Status> {
        let start = ContainerId { id: id.to_owned() };
        self.call("/runtime.v1.RuntimeService/StartContainer", start, time).await
    }

    /// With what the container `id` ended; none while it runs.
    ///
    /// # Errors
    /// What the kubelet would be told.
    pub async fn exit_code(&self, id: &str) -> Result<Option<i32>, Status> {
        const EXITED: i32 = 2;
        let asked = ContainerId { id: id.to_owned() };
        let answer: ContainerStatusResponse =
            self.call("/runtime.v1.RuntimeService/ContainerStatus", asked, limits::CONTAINERD_CALL).await?;
        Ok(answer.status.filter(|status| status.state == EXITED).map(|status| status.exit_code))
    }

    async fn call<Q, A>(&self, method: &'static str, question: Q, time: Duration) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let asked = async {
            let mut client = Grpc::new(self.0.clone()).max_decoding_message_size(ANSWER_BYTES);
            client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            let mut request = Request::new(question);
            // containerd gives up as well.
            request.set_timeout(time);
            let codec = tonic_prost::ProstCodec::<Q, A>::default();
            client.unary(request, PathAndQuery::from_static(method), codec).await
        };
        let late = |_| Status::deadline_exceeded("containerd does not answer");
        Ok(tokio::time::timeout(time, asked).await.map_err(late)??.into_inner())
    }
}

/// The pods and the configuration of a large node.
const ANSWER_BYTES: usize = 16 << 20;

/// A pod as the kubelet describes it to containerd.
#[derive(Clone, PartialEq, Message)]
pub struct Pod {
    #[prost(message, optional, tag = "1")]
    metadata: Option<PodMetadata>,
    #[prost(map = "string, string", tag = "6")]
    labels: HashMap<String, String>,
    #[prost(message, optional, tag = "8")]
    linux: Option<LinuxPod>,
}

impl Pod {
    /// A pod with nothing of its own but its processes: the network is the node's, and there are no volumes and no logs.
    pub fn bare(namespace: &str, name: &str, label: (&str, &str), cgroup_parent: &str) -> Self {
        const NODE: i32 = 2;
        let namespaces = Some(Namespaces { network: NODE });
        Self {
            metadata: Some(PodMetadata {
                name: name.to_owned(),
                uid: name.to_owned(),
                namespace: namespace.to_owned(),
            }),
            labels: [(label.0.to_owned(), label.1.to_owned())].into(),
            linux: Some(LinuxPod {
                cgroup_parent: cgroup_parent.to_owned(),
                security_context: Some(PodSecurityContext { namespaces }),
            }),
        }
    }
}

#[derive(Clone, PartialEq, Message)]
struct PodMetadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
}

#[derive(Clone, PartialEq, Message)]
struct LinuxPod {
    #[prost(string, tag = "1")]
    cgroup_parent: String,
    #[prost(message, optional, tag = "2")]
    security_context: Option<PodSecurityContext>,
}

#[derive(Clone, PartialEq, Message)]
struct PodSecurityContext {
    #[prost(message, optional, tag = "1")]
    namespaces: Option<Namespaces>,
}

#[derive(Clone, PartialEq, Message)]
struct Namespaces {
    #[prost(int32, tag = "1")]
    network: i32,
}

#[derive(Clone, PartialEq, Message)]
struct StatusRequest {
    #[prost(bool, tag = "1")]
    verbose: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct StatusResponse {
    #[prost(map = "string, string", tag = "2")]
    pub(crate) info: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ImageSpec {
    #[prost(string, tag = "1")]
    pub(crate) image: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PullImageRequest {
    #[prost(message, optional, tag = "1")]
    pub(crate) image: Option<ImageSpec>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PullImageResponse {
    #[prost(string, tag = "1")]
    pub(crate) image_ref: String,
}

#[derive(Clone, PartialEq, Message)]
struct RunPodSandboxRequest {
    #[prost(message, optional, tag = "1")]
    config: Option<Pod>,
    #[prost(string, tag = "2")]
    runtime_handler: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct RunPodSandboxResponse {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxId {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandbox {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(map = "string, string", tag = "5")]
    labels: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct ListPodSandboxResponse {
    #[prost(message, repeated, tag = "1")]
    items: Vec<PodSandbox>,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerMetadata {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ContainerMetadata>,
    #[prost(message, optional, tag = "2")]
    image: Option<ImageSpec>,
    #[prost(map = "string, string", tag = "9")]
    labels: HashMap<String, String>,
    #[prost(message, optional, tag = "15")]
    linux: Option<LinuxContainerConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct LinuxContainerConfig {
    #[prost(message, optional, tag = "2")]
    security_context: Option<LinuxContainerSecurityContext>,
}

#[derive(Clone, PartialEq, Message)]
struct LinuxContainerSecurityContext {
    #[prost(message, optional, tag = "3")]
    namespaces: Option<Namespaces>,
    #[prost(bool, tag = "7")]
    readonly_rootfs: bool,
    #[prost(bool, tag = "11")]
    no_new_privs: bool,
}

#[derive(Clone, PartialEq, Message)]
struct CreateContainerRequest {
    #[prost(string, tag = "1")]
    pod: String,
    #[prost(message, optional, tag = "2")]
    config: Option<ContainerConfig>,
    #[prost(message, optional, tag = "3")]
    sandbox_config: Option<Pod>,
}

/// A request that names a container, and the answer that does.
#[derive(Clone, PartialEq, Message)]
struct ContainerId {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerStatus {
    #[prost(int32, tag = "3")]
    state: i32,
    #[prost(int32, tag = "7")]
    exit_code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerStatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<ContainerStatus>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containerd::fake::{Answer, FakeContainerd};

    #[tokio::test(start_paused = true)]
    async fn no_call_takes_longer_than_it_may() {
        let fake = FakeContainerd::start(|_, _| Answer::Silence);
        let cri = Cri::of(&fake.client());
        let begun = tokio::time::Instant::now();
        let second = Duration::from_secs(1);
        assert!(cri.start("x", second).await.is_err());
        assert!(cri.remove_pod("x", second).await.is_err());
        let waited = begun.elapsed();
        assert!(waited >= 2 * second && waited < 3 * second, "{waited:?}");
    }

    #[tokio::test]
    async fn only_pods_with_the_label_are_named() {
        let pod = |id: &str, labels: &[&str]| PodSandbox {
            id: id.to_owned(),
            labels: labels.iter().map(|key| ((*key).to_owned(), String::new())).collect(),
        };
        let items = vec![pod("a", &["x"]), pod("b", &[]), pod("c", &["y", "x"]), pod("d", &["xx"])];
        let fake = FakeContainerd::start(move |_, _| Answer::message(&ListPodSandboxResponse { items: items.clone() }));
        assert_eq!(Cri::of(&fake.client()).pods_with("x").await.unwrap(), ["a", "c"]);
    }

    #[tokio::test]
    async fn a_container_has_a_code_once_it_has_ended() {
        for (state, expected) in [(0, None), (1, None), (2, Some(7)), (3, None)] {
            let fake = FakeContainerd::start(move |_, _| {
                Answer::message(&ContainerStatusResponse { status: Some(ContainerStatus { state, exit_code: 7 }) })
            });
            assert_eq!(Cri::of(&fake.client()).exit_code("x").await.unwrap(), expected);
        }
    }

    #[test]
    fn a_pod_reads_as_the_kubelet_would_have_written_it() {
        let pod = Pod::bare("n", "p", ("k", "v"), "/c");
        let metadata = b"\x0a\x09\x0a\x01p\x12\x01p\x1a\x01n";
        let labels = b"\x32\x06\x0a\x01k\x12\x01v";
        let linux = b"\x42\x0a\x0a\x02/c\x12\x04\x0a\x02\x08\x02";
        assert_eq!(pod.encode_to_vec(), [&metadata[..], labels, linux].concat());
    }
}
