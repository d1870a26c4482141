//! Paths that run what is on the node already.

use super::{
    Group, Row,
    bring::{NO_DOCKER, client, import_only},
    ground::{Attempt, Cell, Ground, SAID},
};
use crate::node::{
    Image, Path, Result, cri,
    cri::{ContainerConfig, ImageSpec, Mount, PodSandboxConfig},
    pod::{PAUSE, PODS, Pod, container_config, pod_config},
    registry::Published,
};

pub const PODS_OF: Group = Group {
    name: "A pod of an image that the policy refuses, whose layers are there",
    rows: &[
        Row { path: "imported without unpacking", walk: imported },
        Row {
            path: "an admitted image's layers under another configuration, imported",
            walk: |it| beside_good(it, &it.swapped),
        },
        Row { path: "an admitted image's layers under another configuration, pulled", walk: swapped_pull },
        Row {
            path: "the first layers of an admitted image under another configuration",
            walk: |it| beside_good(it, &it.prefix),
        },
        Row { path: "no layers at all, programs from the host", walk: without_layers },
        Row { path: "renamed to a name that the policy admits", walk: renamed },
        Row { path: "admitted under another name, renamed", walk: another_name },
        Row { path: "admitted under another name, pulled", walk: another_name_pulled },
        Row { path: "annotations that name an admitted image", walk: forged },
        Row { path: "layers committed as snapshots, as builders do", walk: committed },
        Row { path: "named by its identifier, where a rule is about Docker Hub's own images", walk: by_identifier },
        Row { path: "pulled under the sandbox image's name, as the sandbox of any pod", walk: sandbox_replaced },
    ],
};

pub const OTHERS: Group = Group {
    name: "Another client runs an image that the policy refuses, whose layers are there",
    rows: &[
        Row { path: "`ctr run`, imported without unpacking", walk: ctr_imported },
        Row { path: "`ctr run` of an admitted image's layers under another configuration", walk: ctr_swapped },
        Row { path: "`docker run` of an admitted image's layers under another configuration", walk: docker_swapped },
    ],
};

/// Runs a pod of one container, with what the image itself says.
pub fn in_pod(ground: &Ground, image: &Published) -> Result<Attempt> {
    in_pod_of(ground, pod_config("default", &ground.unique("pod")), "", container_config("app", &image.name, &[]))
}

/// As [`in_pod`], of any configuration and by any runtime handler. What is being verified is started again, as the
/// kubelet does.
pub fn in_pod_of(ground: &Ground, pod: PodSandboxConfig, handler: &str, config: ContainerConfig) -> Result<Attempt> {
    let pod = ground.node.pod_of(pod, handler)??;
    let mut answer = Err(String::new());
    ground.node.wait_until("it is verified", || {
        answer = once(&pod, config.clone())?;
        Ok(answer.as_ref().map_or_else(|message| !message.contains(VERIFYING), |_| true))
    })?;
    pod.remove()?;
    Ok(Attempt::run(PODS, answer))
}

/// What the start gate says while it asks behind its answer.
const VERIFYING: &str = "RETRY PG309";

fn once(pod: &Pod<'_>, config: ContainerConfig) -> Result<std::result::Result<String, String>> {
    let container = match pod.create(config)? {
        Ok(container) => container,
        Err(status) => return Ok(Err(status.message().to_owned())),
    };
    let answer = match pod.start(&container)? {
        Ok(()) => {
            pod.wait(&container)?;
            Ok(pod.log("app")?)
        }
        Err(status) => Err(status.message().to_owned()),
    };
    pod.remove_container(&container)?;
    Ok(answer)
}

/// Says that it runs, and runs long enough to be seen.
pub const FOR_A_WHILE: [&str; 4] = ["/bin/busybox", "sh", "-c", "echo it runs; /bin/busybox sleep 1"];

pub fn by_ctr(ground: &Ground, image: &Published) -> Result<Attempt> {
    let id = ground.unique("container");
    let run = ["ctr", "run", "--rm", "--net-host", &image.name, &id];
    let answer = client(ground, &[&run[..], &FOR_A_WHILE].concat())?;
    Ok(Attempt { container: Some(id), ..Attempt::run("default", answer) })
}

pub fn by_docker(ground: &Ground, name: &str) -> Result<Attempt> {
    let output = ground.node.docker_run(name, &FOR_A_WHILE)?;
    Ok(Attempt::run("moby", if output.success() { Ok(output.text()) } else { Err(output.text()) }))
}

fn imported(ground: &Ground) -> Result<Cell> {
    ground.judged(&ground.good, &ground.evil, |image| {
        ground.node.clean()?;
        import_only(ground, PODS, image)?;
        in_pod(ground, image)
    })
}

/// The bad image comes without its layers being unpacked: the good one's are there.
fn beside_good(ground: &Ground, bad: &Published) -> Result<Cell> {
    ground.judged(&ground.good, bad, |image| {
        good_is_there(ground)?;
        import_only(ground, PODS, image)?;
        in_pod(ground, image)
    })
}

pub fn good_is_there(ground: &Ground) -> Result<()> {
    ground.node.clean()?;
    super::super::expect::admitted(&ground.node, Path::CriPull, &ground.good)
}

fn swapped_pull(ground: &Ground) -> Result<Cell> {
    ground.judged(&ground.good, &ground.swapped, |image| {
        good_is_there(ground)?;
        pull_and_run(ground, image)
    })
}

/// As the kubelet does with a pod whose image may be newer in the registry.
pub fn pull_and_run(ground: &Ground, image: &Published) -> Result<Attempt> {
    match cri::pull_image(&ground.node.containerd_socket(), &image.name, None)? {
        Ok(_) => in_pod(ground, image),
        Err(status) => Ok(Attempt::run(PODS, Err(status.message().to_owned()))),
    }
}

fn without_layers(ground: &Ground) -> Result<Cell> {
    ground.judged(&ground.bare_good, &ground.bare, |image| {
        ground.node.clean()?;
        import_only(ground, PODS, image)?;
        let mut config = container_config("app", &image.name, &[]);
        let host = |path: &str| Mount {
            container_path: path.to_owned(),
            host_path: "/usr/bin".to_owned(),
            ..Mount::default()
        };
        config.mounts = vec![host("/bin")];
        in_pod_of(ground, pod_config("default", &ground.unique("bare")), "", config)
    })
}

/// Gives the image that `image` names another name, and waits until pods can use that.
fn rename(ground: &Ground, image: &Published, name: &str) -> Result<Published> {
    let node = &ground.node;
    node.run(&["ctr", "-n", PODS, "images", "tag", "--force", &image.name, name])?.ok()?;
    let id = image.image.config_digest();
    node.wait_until("the new name is known", || {
        Ok(node.pod_images()?.iter().any(|image| image.id == id && image.repo_tags.iter().any(|tag| tag == name)))
    })?;
    Ok(Published { name: name.to_owned(), ..image.clone() })
}

fn renamed(ground: &Ground) -> Result<Cell> {
    ground.judged(&ground.good, &ground.swapped, |image| {
        good_is_there(ground)?;
        import_only(ground, PODS, image)?;
        in_pod(ground, &rename(ground, image, "127.0.0.1:5000/demo/good:v2")?)
    })
}

/// Signed by those who may sign for `dev`, and for nothing else.
fn another_name(ground: &Ground) -> Result<Cell> {
    let node = &ground.node;
    let walk = |image: &Published| {
        node.clean()?;
        super::super::expect::admitted(node, Path::CriPull, image)?;
        in_pod(ground, &rename(ground, image, "127.0.0.1:5000/demo/renamed:v1")?)
    };
    ground.judged(&ground.good, &ground.dev, walk)
}

fn another_name_pulled(ground: &Ground) -> Result<Cell> {
    let node = &ground.node;
    let copied = Published { name: "127.0.0.1:5000/demo/promoted:v1".to_owned(), ..ground.dev.clone() };
    ground.judged(&ground.good, &copied, |image| {
        node.clean()?;
        super::super::expect::admitted(node, Path::CriPull, &ground.dev)?;
        pull_and_run(ground, image)
    })
}

fn forged(ground: &Ground) -> Result<Cell> {
    ground.judged(&ground.good, &ground.swapped, |image| {
        good_is_there(ground)?;
        import_only(ground, PODS, image)?;
        let forged = [
            ("io.kubernetes.cri.image-name", ground.good.name.as_str()),
            ("io.kubernetes.cri.container-type", "sandbox"),
            ("io.kubernetes.cri.sandbox-namespace", "kube-system"),
            ("io.kubernetes.cri.podsandbox.image-name", &ground.good.name),
            ("org.opencontainers.image.ref.name", &ground.good.name),
        ];
        let mut config = container_config("app", &image.name, &[]);
        let mut pod = pod_config("default", &ground.unique("forged"));
        for (key, value) in forged {
            config.annotations.insert(key.to_owned(), value.to_owned());
            config.labels.insert(key.to_owned(), value.to_owned());
            pod.annotations.insert(key.to_owned(), value.to_owned());
        }
        let spec = ImageSpec {
            image: image.name.clone(),
            user_specified_image: ground.good.name.clone(),
            ..ImageSpec::default()
        };
        config.image = Some(spec);
        in_pod_of(ground, pod, "", config)
    })
}

/// The snapshots of the bad image without an unpacking: made by hand, and called what an unpacking would have.
fn committed(ground: &Ground) -> Result<Cell> {
    let node = &ground.node;
    ground.judged(&ground.good, &ground.evil, |image| {
        good_is_there(ground)?;
        import_only(ground, PODS, image)?;
        let mut below = String::new();
        for (number, chain) in image.image.chains().into_iter().enumerate() {
            if !node.unpacked(PODS, &chain)? {
                let key = ground.unique(&format!("by-hand-{number}"));
                let snapshots =
                    |arguments: &[&str]| node.run(&[&["ctr", "-n", PODS, "snapshots"], arguments].concat())?.ok();
                snapshots(&["prepare", &key, &below])?;
                snapshots(&["commit", &chain, &key])?;
            }
            below = chain;
        }
        in_pod(ground, image)
    })
}

fn ctr_imported(ground: &Ground) -> Result<Cell> {
    ground.judged(&ground.good, &ground.evil, |image| {
        ground.node.clean()?;
        import_only(ground, "default", image)?;
        by_ctr(ground, image)
    })
}

fn ctr_swapped(ground: &Ground) -> Result<Cell> {
    ground.judged(&ground.good, &ground.swapped, |image| {
        ground.node.clean()?;
        ground.node.bring(Path::CtrPullLocal, &ground.good)?;
        import_only(ground, "default", image)?;
        by_ctr(ground, image)
    })
}

fn docker_swapped(ground: &Ground) -> Result<Cell> {
    if !ground.suite.has_docker() {
        return Ok(NO_DOCKER);
    }
    ground.judged(&ground.good, &ground.swapped, |image| {
        ground.node.clean()?;
        ground.node.bring(Path::DockerPull, &ground.good)?;
        pull_and_run_by_docker(ground, image)
    })
}

pub fn pull_and_run_by_docker(ground: &Ground, image: &Published) -> Result<Attempt> {
    let pulled = ground.node.run(&["docker", "pull", "--quiet", &image.name])?;
    if pulled.success() { by_docker(ground, &image.name) } else { Ok(Attempt::run("moby", Err(pulled.text()))) }
}

/// Whoever may push under the name of the sandbox image, and have it pulled: no hook is asked about sandboxes.
fn sandbox_replaced(ground: &Ground) -> Result<Cell> {
    let node = &ground.node;
    let sleeps = ["/bin/busybox", "sleep", "1000077"];
    let replaced = Image::running(ground.good.image.layers.clone(), "not the sandbox image", &sleeps);
    let cell = ground.judge(&node.push(PAUSE, &replaced)?, |image| {
        good_is_there(ground)?;
        if let Err(status) = cri::pull_image(&node.containerd_socket(), &image.name, None)? {
            return Ok(Attempt::run(PODS, Err(status.message().to_owned())));
        }
        let pod = node.pod("default", &ground.unique("sandbox"))?;
        let runs = node.run(&["pgrep", "-f", "sleep 1000077"])?.success();
        let answer = if runs { Ok(SAID.to_owned()) } else { Err("another sandbox".to_owned()) };
        Ok(Attempt { container: Some(pod.id), ..Attempt::run(PODS, answer) })
    });
    node.clean()?;
    node.prepare_pods()?;
    cell
}

/// An identifier reads like the name of a repository: of nobody's but Docker Hub's.
fn by_identifier(ground: &Ground) -> Result<Cell> {
    let hub = "[[rule]]\nname = \"hub\"\nimages = [\"docker.io/library/**\"]\nrequire = { all = [\"dev\"] }\n";
    ground.with_policy(&ground.policy(hub))?;
    let cell = ground.judged(&ground.good, &ground.dev, |image| {
        ground.node.clean()?;
        super::super::expect::admitted(&ground.node, Path::CriPull, image)?;
        rename(ground, image, "127.0.0.1:5000/demo/renamed:v1")?;
        let id = image.image.config_digest();
        let mut config = container_config("app", &id, &[]);
        config.image = Some(ImageSpec { image: id.clone(), user_specified_image: id, ..ImageSpec::default() });
        in_pod_of(ground, pod_config("default", &ground.unique("by-id")), "", config)
    });
    ground.with_policy(&ground.policy(""))?;
    cell
}
