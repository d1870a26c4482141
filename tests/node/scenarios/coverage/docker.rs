//! Docker's builders and `docker commit`: images that nobody pulls.

use base64::Engine;

use super::{
    Group, Row,
    bring::NO_DOCKER,
    ground::{Attempt, Cell, Ground, SAID},
    run::by_docker,
};
use crate::node::{Path, Result, registry::Published};

pub const BUILDS: Group = Group {
    name: "Images that docker makes on the node",
    rows: &[
        Row { path: "`docker build`, on a base that the policy refuses", walk: |it| base(it, &it.evil) },
        Row { path: "`docker build`, on an admitted base that was not pulled before", walk: |it| base(it, &it.good) },
        Row { path: "`docker build`, on an admitted base that was pulled before", walk: built },
        Row { path: "`docker build --cache-from` an image that the policy refuses", walk: cache_from },
        Row { path: "`docker build` without BuildKit, on an admitted base", walk: built_the_old_way },
        Row { path: "`docker commit` of an admitted image's container", walk: committed },
    ],
};

/// A step that only the builder makes anew, or takes from a cache.
const STEPS: &str = "COPY added /added\nRUN [\"/bin/busybox\", \"touch\", \"/ran\"]\n";
const CONTEXT: &str = "127.0.0.1:8000";
/// In the registry, with the results of [`STEPS`] on the good image; nobody signed it.
const CACHED: &str = "127.0.0.1:5000/demo/cached:v1";

/// Builds, and leaves in the registry, what others take for a cache: for the time before the gates are connected.
pub fn prepare(ground: &Ground) -> Result<()> {
    if !ground.suite.has_docker() {
        return Ok(());
    }
    let node = &ground.node;
    let serve = ["busybox", "httpd", "-f", "-p", CONTEXT, "-h", "/var/tmp/build"];
    node.run(&[&["mkdir", "-p"][..], &["/var/tmp/build/context"]].concat())?.ok()?;
    node.run(&[&["systemd-run", "--quiet", "--collect"][..], &serve].concat())?.ok()?;
    let there = ["curl", "-s", "-o", "/dev/null", &format!("http://{CONTEXT}/")];
    node.wait_until("the build's context is served", || Ok(node.run(&there)?.success()))?;
    let inline = "&buildargs=%7B%22BUILDKIT_INLINE_CACHE%22%3A%221%22%7D";
    build(ground, &ground.good.name, STEPS, &format!("&t={CACHED}{inline}"))??;
    node.run(&["docker", "push", "--quiet", CACHED])?.ok()?;
    node.run(&["docker", "rmi", "--force", CACHED])?.ok()?;
    forget(ground)
}

/// A step of a build is run by an image that is on the node.
pub fn run_step(ground: &Ground) -> Result<Cell> {
    with_docker(ground, || {
        ground.judged(&ground.earlier_good, &ground.earlier, |image| {
            let answer = build(ground, &image.name, "RUN [\"/bin/busybox\", \"true\"]\n", "")?;
            // What comes of it cannot be unpacked, and is made only after the step succeeded.
            let ran = answer.as_ref().unwrap_or_else(|message| message).contains("exporting to image");
            Ok(Attempt::run("moby", if ran { Ok(SAID.to_owned()) } else { answer }))
        })
    })
}

fn with_docker(ground: &Ground, walk: impl Fn() -> Result<Cell>) -> Result<Cell> {
    if ground.suite.has_docker() { walk() } else { Ok(NO_DOCKER) }
}

/// Builds with BuildKit, over docker's own interface: the nodes have no client for it.
fn build(ground: &Ground, base: &str, steps: &str, more: &str) -> Result<std::result::Result<String, String>> {
    let node = &ground.node;
    node.write("/var/tmp/build/context/Dockerfile", format!("FROM {base}\n{steps}"))?;
    node.write("/var/tmp/build/context/added", "added")?;
    node.sh("tar -C /var/tmp/build/context -cf /var/tmp/build/context.tar .")?.ok()?;
    let url = format!("http://docker/build?version=2&networkmode=host&remote=http://{CONTEXT}/context.tar{more}");
    let said = node.run(&["curl", "-s", "--unix-socket", "/run/docker.sock", "-X", "POST", &url])?.ok()?;
    let told = said.lines().map(spoken).collect::<Vec<_>>().join("\n");
    Ok(if said.contains("\"moby.image.id\"") { Ok(told) } else { Err(told) })
}

/// A line of the builder's: its records are in base64.
fn spoken(line: &str) -> String {
    let value: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
    match value["aux"].as_str().map(|aux| base64::engine::general_purpose::STANDARD.decode(aux)) {
        Some(Ok(record)) => String::from_utf8_lossy(&record).into_owned(),
        _ => line.to_owned(),
    }
}

/// Takes away what the builder remembers, and everything else.
fn forget(ground: &Ground) -> Result<()> {
    ground.node.run(&["docker", "builder", "prune", "--all", "--force"])?.ok()?;
    ground.node.clean()
}

/// The builder keeps manifests to itself, so of no base is it known which image its layers are of.
fn base(ground: &Ground, image: &Published) -> Result<Cell> {
    with_docker(ground, || {
        forget(ground)?;
        ground.judge(image, |image| Ok(Attempt::unpack("moby", build(ground, &image.name, STEPS, "")?)))
    })
}

fn built(ground: &Ground) -> Result<Cell> {
    with_docker(ground, || {
        forget(ground)?;
        ground.node.bring(Path::DockerPull, &ground.good)?;
        ground.judge(&ground.good, |image| then_run(ground, build(ground, &image.name, STEPS, "&t=built:v1")?))
    })
}

fn cache_from(ground: &Ground) -> Result<Cell> {
    with_docker(ground, || {
        forget(ground)?;
        ground.node.bring(Path::DockerPull, &ground.good)?;
        ground.judge(&ground.good, |image| {
            let cache = format!("&t=built:v1&cachefrom=%5B%22{CACHED}%22%5D");
            then_run(ground, build(ground, &image.name, STEPS, &cache)?)
        })
    })
}

fn built_the_old_way(ground: &Ground) -> Result<Cell> {
    with_docker(ground, || {
        let node = &ground.node;
        forget(ground)?;
        ground.judge(&ground.good, |image| {
            node.write("/var/tmp/build/context/Dockerfile", format!("FROM {}\nCOPY added /added\n", image.name))?;
            let built = node.run(&["docker", "build", "--network=host", "-t", "built:v1", "/var/tmp/build/context"])?;
            then_run(ground, if built.success() { Ok(built.text()) } else { Err(built.text()) })
        })
    })
}

/// Whether what was built runs.
fn then_run(ground: &Ground, built: std::result::Result<String, String>) -> Result<Attempt> {
    match built {
        Ok(_) => by_docker(ground, "built:v1"),
        Err(message) => Ok(Attempt::run("moby", Err(message))),
    }
}

fn committed(ground: &Ground) -> Result<Cell> {
    with_docker(ground, || {
        let node = &ground.node;
        forget(ground)?;
        node.bring(Path::DockerPull, &ground.good)?;
        ground.judge(&ground.good, |image| {
            let run = ["docker", "run", "--name=changed", "--pull=never", "--network=host", &image.name];
            node.run(&[&run[..], &["/bin/busybox", "touch", "/changed"]].concat())?.ok()?;
            let command = "CMD [\"/bin/busybox\", \"echo\", \"it runs\"]";
            let commit = node.run(&["docker", "commit", "--change", command, "changed", "built:v1"])?;
            node.run(&["docker", "rm", "changed"])?.ok()?;
            then_run(ground, if commit.success() { Ok(commit.text()) } else { Err(commit.text()) })
        })
    })
}
