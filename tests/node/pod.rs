//! Pods as the kubelet runs them, on the node's network, and containers that other clients run.

use super::{
    Image, Node, Result, Suite,
    cri::{
        self, Answer, ContainerConfig, ContainerMetadata, ContainerStatus, ContainerStatusResponse,
        CreateContainerRequest, Empty, LinuxContainerConfig, LinuxContainerSecurityContext, LinuxPodSandboxConfig,
        LinuxSandboxSecurityContext, ListImagesResponse, ListPodSandboxResponse, ListedImage, NamespaceOption,
        PodSandboxConfig, PodSandboxMetadata, RemoveImageRequest, RunPodSandboxRequest, State, StopContainerRequest,
        VersionResponse, Word,
    },
    image::Layer,
    machine::Output,
    product::in_registry,
    registry::Published,
};

/// The containerd namespace of pods.
pub const PODS: &str = "k8s.io";
/// Names the image of every pod's sandbox; the node's configuration names it while this is there.
const PAUSE_LIST: &str = "/etc/pullgate/boot.d/pause.list";
/// Where the registry has the sandbox image.
pub const PAUSE: &str = "k8s/pause:1";
const LOGS: &str = "/var/log/pods";
const NODES_OWN: i32 = 2;

/// A pod's sandbox, and what containers are put into it.
#[derive(Clone, Debug)]
pub struct Pod<'a> {
    node: &'a Node,
    pub id: String,
    pub config: PodSandboxConfig,
}

impl Node {
    /// As [`Node::gated`], with all that pods need.
    ///
    /// # Errors
    /// As [`Node::gated`].
    pub fn gated_with_pods(suite: Suite) -> Result<Self> {
        let node = Self::unconnected(suite)?;
        node.prepare_pods()?;
        node.connect_pods()?;
        Ok(node)
    }

    /// Puts every gate in front of containerd, as an administrator of pods does.
    ///
    /// # Errors
    /// What `pullgate enable` says, where it does not succeed.
    pub fn connect_pods(&self) -> Result<()> {
        self.connect_pods_with("")
    }

    /// As [`Node::connect_pods`], with `more` sections in containerd's configuration.
    ///
    /// # Errors
    /// As [`Node::connect_pods`].
    pub fn connect_pods_with(&self, more: &str) -> Result<()> {
        self.write_configuration(more)?;
        self.run(&["pullgate", "enable", "--start", "--restart", "--watch=1"])?.ok()?;
        Ok(())
    }

    /// Puts a sandbox image into the registry, onto the node and into the boot list. The next configuration that is
    /// written for containerd names it.
    ///
    /// # Errors
    /// Where one of these fails.
    pub fn prepare_pods(&self) -> Result<()> {
        let busybox = Layer::with_file("bin/busybox", 0o755, &self.read("/usr/bin/busybox")?)?;
        let pause = Image::running(vec![busybox], "pause", &["/bin/busybox", "sleep", "1000000"]);
        let pause = self.push(PAUSE, &pause)?;
        self.write("/var/tmp/pause.tar", pause.archive()?)?;
        self.run(&["ctr", "-n", PODS, "images", "import", "/var/tmp/pause.tar"])?.ok()?;
        self.write(PAUSE_LIST, format!("{}  # sandbox image\n", pause.digest()))?;
        self.reload()
    }

    /// containerd's configuration with the sandbox image, where there is one.
    pub(super) fn with_sandbox(&self, configuration: &str) -> String {
        if !self.outside(PAUSE_LIST).exists() {
            return configuration.to_owned();
        }
        let pause = in_registry(PAUSE);
        match self.suite {
            Suite::Trixie => {
                let section = "[plugins.\"io.containerd.grpc.v1.cri\"]\n";
                configuration.replace(section, &format!("{section}    sandbox_image = \"{pause}\"\n"))
            }
            Suite::Forky => format!(
                "{configuration}\n[plugins.\"io.containerd.cri.v1.images\".pinned_images]\n  sandbox = \"{pause}\"\n"
            ),
        }
    }

    /// Calls the runtime interface.
    ///
    /// # Errors
    /// Where containerd cannot be reached.
    pub fn cri<Q, A>(&self, method: &str, request: Q) -> Result<Answer<A>>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        cri::call(&self.containerd_socket(), method, request)
    }

    /// Runs the sandbox of a pod of that name in a Kubernetes namespace.
    ///
    /// # Errors
    /// What containerd says.
    pub fn pod(&self, namespace: &str, name: &str) -> Result<Pod<'_>> {
        Ok(self.pod_of(pod_config(namespace, name), "")??)
    }

    /// Runs the sandbox of a pod by a runtime handler (empty: the default one).
    ///
    /// # Errors
    /// Where containerd cannot be reached.
    pub fn pod_of(&self, config: PodSandboxConfig, handler: &str) -> Result<Answer<Pod<'_>>> {
        let request = RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: handler.to_owned() };
        let answer = self.cri::<_, Word>("RuntimeService/RunPodSandbox", request)?;
        Ok(answer.map(|answer| Pod { node: self, id: answer.word, config }))
    }

    /// Stops and removes every pod and its containers.
    ///
    /// # Errors
    /// What containerd says.
    pub fn remove_pods(&self) -> Result<()> {
        let pods: ListPodSandboxResponse = match self.cri("RuntimeService/ListPodSandbox", Empty {})? {
            // No pods are served on this node.
            Err(status) if status.code() == tonic::Code::Unimplemented => return Ok(()),
            answer => answer?,
        };
        for pod in pods.items {
            self.cri::<_, Empty>("RuntimeService/StopPodSandbox", pod.clone())??;
            self.cri::<_, Empty>("RuntimeService/RemovePodSandbox", pod)??;
        }
        Ok(())
    }

    /// What serves pods.
    ///
    /// # Errors
    /// What containerd says.
    pub fn runtime_version(&self) -> Result<VersionResponse> {
        Ok(self.cri("RuntimeService/Version", Empty {})??)
    }

    /// The images that pods can use.
    ///
    /// # Errors
    /// What containerd says.
    pub fn pod_images(&self) -> Result<Vec<ListedImage>> {
        Ok(self.cri::<_, ListImagesResponse>("ImageService/ListImages", Empty {})??.images)
    }

    /// Puts an image among those that pods can use, from an archive, and unpacks nothing.
    ///
    /// # Errors
    /// Where containerd does not take it.
    pub fn import_for_pods(&self, image: &Published) -> Result<()> {
        let archive = format!("/var/tmp/pods-{}.tar", image.digest().replace(':', "-"));
        self.write(&archive, image.archive()?)?;
        self.run(&["ctr", "-n", PODS, "images", "import", "--local", "--no-unpack", &archive])?.ok()?;
        self.run(&["rm", &archive])?.ok()?;
        let id = image.image.config_digest();
        self.wait_until("pods can use it", || Ok(self.pod_images()?.iter().any(|image| image.id == id)))
    }

    /// Removes an image as the kubelet does.
    ///
    /// # Errors
    /// What containerd says.
    pub fn remove_pod_image(&self, image: &str) -> Result<()> {
        self.cri::<_, Empty>("ImageService/RemoveImage", RemoveImageRequest { image: cri::spec(image) })??;
        Ok(())
    }

    /// Runs a container to its end with `ctr run`.
    ///
    /// # Errors
    /// As [`Node::run`].
    pub fn ctr_run(&self, namespace: &str, image: &str, id: &str, command: &[&str]) -> Result<Output> {
        let run = ["ctr", "-n", namespace, "run", "--rm", "--net-host", image, id];
        self.run(&[&run[..], command].concat())
    }

    /// Runs a container to its end with `docker run`, from what is on the node.
    ///
    /// # Errors
    /// As [`Node::run`].
    pub fn docker_run(&self, image: &str, command: &[&str]) -> Result<Output> {
        self.run(&[&["docker", "run", "--rm", "--pull=never", "--network=host", image][..], command].concat())
    }
}

impl Pod<'_> {
    /// Creates a container; returns its identifier.
    ///
    /// # Errors
    /// Where containerd cannot be reached.
    pub fn create(&self, config: ContainerConfig) -> Result<Answer<String>> {
        let request = CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        let answer = self.node.cri::<_, Word>("RuntimeService/CreateContainer", request)?;
        Ok(answer.map(|answer| answer.word))
    }

    /// Starts a container that was created.
    ///
    /// # Errors
    /// Where containerd cannot be reached.
    pub fn start(&self, id: &str) -> Result<Answer<()>> {
        let request = Word { word: id.to_owned() };
        Ok(self.node.cri::<_, Empty>("RuntimeService/StartContainer", request)?.map(drop))
    }

    /// Creates a container of `image` (a name, a digest or an identifier) and starts it; returns its identifier.
    ///
    /// # Errors
    /// Where containerd cannot be reached.
    pub fn run(&self, name: &str, image: &str, command: &[&str]) -> Result<Answer<String>> {
        self.run_of(container_config(name, image, command))
    }

    /// As [`Pod::run`], of any configuration.
    ///
    /// # Errors
    /// As [`Pod::run`].
    pub fn run_of(&self, config: ContainerConfig) -> Result<Answer<String>> {
        let id = match self.create(config)? {
            Ok(id) => id,
            Err(status) => return Ok(Err(status)),
        };
        Ok(self.start(&id)?.map(|()| id))
    }

    /// What containerd says of a container.
    ///
    /// # Errors
    /// What it says instead.
    pub fn status(&self, id: &str) -> Result<ContainerStatus> {
        let request = Word { word: id.to_owned() };
        let answer: ContainerStatusResponse = self.node.cri("RuntimeService/ContainerStatus", request)??;
        Ok(answer.status.ok_or("a container without a status")?)
    }

    /// Whether a container runs now.
    ///
    /// # Errors
    /// As [`Pod::status`].
    pub fn is_running(&self, id: &str) -> Result<bool> {
        Ok(self.status(id)?.state() == State::Running)
    }

    /// Waits for the end of a container; returns its exit code.
    ///
    /// # Errors
    /// Where it does not end.
    pub fn wait(&self, id: &str) -> Result<i32> {
        self.node.wait_until("the container ended", || Ok(self.status(id)?.state() == State::Exited))?;
        Ok(self.status(id)?.exit_code)
    }

    /// What a container wrote.
    ///
    /// # Errors
    /// Where there is no log.
    pub fn log(&self, name: &str) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.node.read(&format!("{}/{name}.log", self.config.log_directory))?).into_owned())
    }

    /// Stops a container and removes it.
    ///
    /// # Errors
    /// What containerd says.
    pub fn remove_container(&self, id: &str) -> Result<()> {
        let stop = StopContainerRequest { container_id: id.to_owned(), timeout: 0 };
        self.node.cri::<_, Empty>("RuntimeService/StopContainer", stop)??;
        self.node.cri::<_, Empty>("RuntimeService/RemoveContainer", Word { word: id.to_owned() })??;
        Ok(())
    }

    /// Stops the pod and removes it, its containers with it.
    ///
    /// # Errors
    /// What containerd says.
    pub fn remove(&self) -> Result<()> {
        let pod = Word { word: self.id.clone() };
        self.node.cri::<_, Empty>("RuntimeService/StopPodSandbox", pod.clone())??;
        self.node.cri::<_, Empty>("RuntimeService/RemovePodSandbox", pod)??;
        Ok(())
    }
}

/// A pod on the node's network: the nodes have no other.
pub fn pod_config(namespace: &str, name: &str) -> PodSandboxConfig {
    let metadata = PodSandboxMetadata {
        name: name.to_owned(),
        uid: format!("uid-{name}"),
        namespace: namespace.to_owned(),
        attempt: 0,
    };
    let security_context = LinuxSandboxSecurityContext { namespace_options: Some(on_the_nodes_network()) };
    PodSandboxConfig {
        metadata: Some(metadata),
        log_directory: format!("{LOGS}/{namespace}_{name}"),
        linux: Some(LinuxPodSandboxConfig { security_context: Some(security_context) }),
        ..PodSandboxConfig::default()
    }
}

/// A container of `image`, with its log beside those of its pod.
pub fn container_config(name: &str, image: &str, command: &[&str]) -> ContainerConfig {
    let security_context = LinuxContainerSecurityContext { namespace_options: Some(on_the_nodes_network()) };
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: name.to_owned(), attempt: 0 }),
        image: cri::spec(image),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        log_path: format!("{name}.log"),
        linux: Some(LinuxContainerConfig { security_context: Some(security_context) }),
        ..ContainerConfig::default()
    }
}

fn on_the_nodes_network() -> NamespaceOption {
    NamespaceOption { network: NODES_OWN, ..NamespaceOption::default() }
}
