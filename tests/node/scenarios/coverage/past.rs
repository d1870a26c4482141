//! What was unpacked while it could be: before pullgate came, under another policy, in audit mode.

use super::{
    Group, Row,
    bring::NO_DOCKER,
    ground::{Attempt, Cell, Ground},
    run::{by_ctr, by_docker, in_pod, in_pod_of, pull_and_run, pull_and_run_by_docker},
};
use crate::node::{
    Path, Result, Suite,
    cri::{self, Mount},
    pod::{container_config, pod_config},
    registry::Published,
};

pub const BEFORE: Group = Group {
    name: "An image that the policy refuses was unpacked before pullgate came",
    rows: &[
        Row { path: "a pod runs it", walk: |it| it.judged(&it.earlier_good, &it.earlier, |image| in_pod(it, image)) },
        Row { path: "a pod has it as an image volume", walk: volume },
        Row { path: "`ctr run`", walk: |it| it.judged(&it.earlier_good, &it.earlier, |image| by_ctr(it, image)) },
        Row { path: "`docker run`", walk: docker },
        Row { path: "`docker build`: a step is run", walk: super::docker::run_step },
    ],
};

pub const SINCE: Group = Group {
    name: "An image was admitted, and a newer policy refuses it",
    rows: &[
        Row { path: "a pod runs it, under the newer policy", walk: |it| since(it, Path::CriPull, in_pod) },
        Row { path: "`ctr run`, under the newer policy", walk: |it| since(it, Path::CtrPullLocal, by_ctr) },
        Row {
            path: "`docker run`, under the newer policy",
            walk: |it| since(it, Path::DockerPull, |it, image| by_docker(it, &image.name)),
        },
    ],
};

pub const HELD: Group = Group {
    name: "A refused image's layers are held by a container that runs since audit mode, and it is removed and pulled again",
    rows: &[
        Row { path: "CRI PullImage, then a pod", walk: |it| held(it, Path::CriPull, pull_and_run) },
        Row { path: "`ctr images pull --local`, then `ctr run`", walk: |it| held(it, Path::CtrPullLocal, ctr_again) },
        Row { path: "`docker pull`, then `docker run`", walk: |it| held(it, Path::DockerPull, pull_and_run_by_docker) },
    ],
};

/// In every namespace, unpacked: for the time before the gates are connected.
pub fn bring_earlier(ground: &Ground) -> Result<()> {
    for path in clients(ground) {
        for image in [&ground.earlier_good, &ground.earlier] {
            super::super::expect::admitted(&ground.node, path, image)?;
        }
    }
    Ok(())
}

fn clients(ground: &Ground) -> impl Iterator<Item = Path> + use<> {
    let there = Path::of(ground.suite);
    [Path::CriPull, Path::CtrPullLocal, Path::DockerPull].into_iter().filter(|path| there.contains(path))
}

fn volume(ground: &Ground) -> Result<Cell> {
    if ground.suite == Suite::Trixie {
        return Ok(Cell::Absent("image volumes come with 2.1"));
    }
    ground.judged(&ground.earlier_good, &ground.earlier, |image| {
        let mut config =
            container_config("app", &ground.earlier_good.name, &["/volume/bin/busybox", "echo", "it runs"]);
        config.mounts = vec![Mount {
            container_path: "/volume".to_owned(),
            image: cri::spec(&image.name),
            readonly: true,
            ..Mount::default()
        }];
        in_pod_of(ground, pod_config("default", &ground.unique("volume")), "", config)
    })
}

fn docker(ground: &Ground) -> Result<Cell> {
    if !ground.suite.has_docker() {
        return Ok(NO_DOCKER);
    }
    ground.judged(&ground.earlier_good, &ground.earlier, |image| by_docker(ground, &image.name))
}

fn since(ground: &Ground, by: Path, walk: fn(&Ground, &Published) -> Result<Attempt>) -> Result<Cell> {
    if !Path::of(ground.suite).contains(&by) {
        return Ok(NO_DOCKER);
    }
    let node = &ground.node;
    node.clean()?;
    for image in [&ground.good, &ground.since] {
        super::super::expect::admitted(node, by, image)?;
    }
    let refuses = "[[rule]]\nname = \"since\"\nimages = [\"127.0.0.1:5000/demo/since\"]\nrequire = \"deny\"\n";
    ground.with_policy(&ground.policy(refuses))?;
    let cell = ground.judged(&ground.good, &ground.since, |image| walk(ground, image));
    ground.with_policy(&ground.policy(""))?;
    cell
}

fn ctr_again(ground: &Ground, image: &Published) -> Result<Attempt> {
    match ground.node.bring(Path::CtrPullLocal, image)? {
        crate::node::path::Outcome::Admitted => by_ctr(ground, image),
        other => Ok(Attempt::run("default", Err(other.told()))),
    }
}

fn held(ground: &Ground, by: Path, walk: fn(&Ground, &Published) -> Result<Attempt>) -> Result<Cell> {
    if !Path::of(ground.suite).contains(&by) {
        return Ok(NO_DOCKER);
    }
    let node = &ground.node;
    node.clean()?;
    ground.with_mode("audit")?;
    let sleeps = ["/bin/busybox", "sleep", "1000000"];
    let name = ground.evil.name.as_str();
    super::super::expect::admitted(node, by, &ground.evil)?;
    super::super::expect::admitted(node, by, &ground.good)?;
    let holder = ground.unique("holder");
    match by {
        Path::CriPull => drop(node.pod("default", &holder)?.run("app", name, &sleeps)??),
        Path::DockerPull => {
            let run = ["docker", "run", "--detach", "--pull=never", "--network=host", "--name", &holder, name];
            node.run(&[&run[..], &sleeps].concat())?.ok()?;
        }
        _ => drop(node.run(&[&["ctr", "run", "--detach", "--net-host", name, &holder][..], &sleeps].concat())?.ok()?),
    }
    ground.with_mode("enforce")?;
    match by {
        Path::CriPull => node.remove_pod_image(name)?,
        Path::DockerPull => drop(node.run(&["docker", "rmi", "--force", name])?.ok()?),
        _ => drop(node.run(&["ctr", "images", "rm", "--sync", name])?.ok()?),
    }
    let cell = ground.judged(&ground.good, &ground.evil, |image| walk(ground, image));
    if by == Path::DockerPull {
        node.run(&["docker", "rm", "--force", &holder])?.ok()?;
    }
    cell
}
