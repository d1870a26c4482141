//! The harness itself, without the product: if these fail, no other result means anything.

use super::expect;
use crate::node::{Image, Node, Path, Result, Suite, path::Outcome, signing::Layout};

pub fn every_path(suite: Suite) -> Result<()> {
    let node = Node::boot(suite)?;
    node.start_registry()?;
    if suite.has_docker() {
        node.start_docker()?;
    }
    node.make_key("demo")?;
    let image = Image::of_layers(&node.read("/usr/bin/busybox")?, "one", 3)?;
    let published = node.push("demo/one:v1", &image)?;
    for layout in Layout::of(suite) {
        node.sign(&published, "demo", *layout)?;
        node.attest(&published, "demo", *layout)?;
    }
    // Twice: what the first round left behind would show in the second.
    for path in [Path::of(suite), Path::of(suite)].concat() {
        if node.unpacked(path.namespace(), &image.chain())? {
            return Err(format!("{}: already unpacked", path.name(suite)).into());
        }
        match node.bring(path, &published)? {
            Outcome::Admitted => {}
            other => return Err(format!("{}: {other}", path.name(suite)).into()),
        }
        let records = node.image_records(path.namespace())?;
        if !records.iter().any(|record| record.name == published.name && record.digest == image.digest()) {
            return Err(format!("{}: {} is not among {records:?}", path.name(suite), published.name).into());
        }
        node.clean()?;
    }
    Ok(())
}

/// Containers run: in pods, by `ctr run` and by docker, on a node that decides about their images.
pub fn containers(suite: Suite) -> Result<()> {
    let node = Node::gated_with_pods(suite)?;
    let image = node.push("demo/one:v1", &Image::of_layers(&node.read("/usr/bin/busybox")?, "one", 2)?)?;
    node.sign(&image, "demo", Layout::usual(suite))?;
    let said = ["/bin/busybox", "echo", "it runs"];
    let version = node.runtime_version()?;
    expect::holds(version.runtime_name == "containerd", || format!("served by {version:?}"))?;
    // Twice: what the first round left behind would show in the second.
    for round in 0..2 {
        expect::admitted(&node, Path::CriPull, &image)?;
        expect::admitted(&node, Path::CtrPullLocal, &image)?;
        let listed = node.pod_images()?;
        let id = image.image.config_digest();
        expect::holds(listed.iter().any(|listed| listed.id == id), || format!("{id} is not among {listed:?}"))?;

        let pod = node.pod("default", "one")?;
        for (name, image) in [("by-name", &image.name), ("by-id", &id), ("by-digest", &image.by_digest())] {
            let container = pod.run(name, image, &said)??;
            let code = pod.wait(&container)?;
            let log = pod.log(name)?;
            expect::holds(code == 0 && log.contains("it runs"), || format!("{name}: exit code {code}: {log}"))?;
            pod.remove_container(&container)?;
        }
        let lives = pod.run("lives", &image.name, &["/bin/busybox", "sleep", "1000000"])??;
        expect::holds(pod.is_running(&lives)?, || format!("{:?}", pod.status(&lives)))?;
        if round == 0 {
            pod.remove()?;
        }

        let ran = node.ctr_run("default", &image.name, "one", &said)?;
        expect::holds(ran.success() && ran.text().contains("it runs"), || format!("ctr run: {}", ran.text()))?;
        if suite.has_docker() {
            expect::admitted(&node, Path::DockerPull, &image)?;
            let ran = node.docker_run(&image.name, &said)?;
            expect::holds(ran.success() && ran.text().contains("it runs"), || format!("docker run: {}", ran.text()))?;
        }
        node.remove_pod_image(&image.name)?;
        node.clean()?;
        let left = node.run(&["ctr", "-n", "k8s.io", "tasks", "ls", "-q"])?.ok()?;
        expect::holds(left.is_empty(), || format!("left: {left}"))?;
    }
    Ok(())
}
