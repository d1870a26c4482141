//! Paths that bring an image onto a node.

use super::{
    Group, Row,
    ground::{Aim, Attempt, Cell, Ground},
};
use crate::node::{Path, Result, Suite, image::Index, path::Outcome, pod::PODS, registry::Published};

pub const PULLS: Group = Group {
    name: "An image that the policy refuses is pulled",
    rows: &[
        Row { path: "CRI PullImage, by tag", walk: |ground| brought(ground, Path::CriPull) },
        Row { path: "CRI PullImage, by digest", walk: cri_by_digest },
        Row { path: "CRI PullImage of a multi-architecture index", walk: index },
        Row { path: "`ctr images pull`", walk: ctr_pull },
        Row { path: "`ctr images pull --local`", walk: |ground| brought(ground, Path::CtrPullLocal) },
        Row { path: "`ctr images pull --local`, another containerd namespace", walk: another_namespace },
        Row { path: "`ctr images pull --local --snapshotter native`", walk: native },
        Row { path: "`docker pull`", walk: |ground| brought(ground, Path::DockerPull) },
    ],
};

pub const ARCHIVES: Group = Group {
    name: "An image that the policy refuses comes in an archive",
    rows: &[
        Row { path: "`ctr images import`, by the transfer service", walk: |ground| brought(ground, Path::CtrImport) },
        Row { path: "`ctr images import --local`", walk: |ground| brought(ground, Path::CtrImportLocal) },
        Row { path: "`docker load`", walk: |ground| brought(ground, Path::DockerLoad) },
    ],
};

pub const NO_DOCKER: Cell = Cell::Absent("no docker here");

fn brought(ground: &Ground, path: Path) -> Result<Cell> {
    if !Path::of(ground.suite).contains(&path) {
        return Ok(NO_DOCKER);
    }
    ground.judged(&ground.good, &ground.evil, |image| bring(ground, path, image))
}

fn bring(ground: &Ground, path: Path, image: &Published) -> Result<Attempt> {
    ground.node.clean()?;
    let answer = match ground.node.bring(path, image)? {
        Outcome::Admitted | Outcome::NotUnpacked => Ok(String::new()),
        other => Err(other.told()),
    };
    Ok(Attempt::unpack(path.namespace(), answer))
}

fn cri_by_digest(ground: &Ground) -> Result<Cell> {
    ground.judged(&ground.good, &ground.evil, |image| {
        let by_digest = Published { name: image.by_digest(), ..image.clone() };
        bring(ground, Path::CriPull, &by_digest)
    })
}

fn ctr_pull(ground: &Ground) -> Result<Cell> {
    match ground.suite {
        Suite::Trixie => Ok(Cell::Absent("as `--local`")),
        Suite::Forky => brought(ground, Path::CtrPull),
    }
}

/// An index that nobody signed, with a child for this platform that nobody signed and one for another that is signed.
fn index(ground: &Ground) -> Result<Cell> {
    let node = &ground.node;
    let good =
        node.push_index("demo/index:good", &Index::new(ground.good.image.clone(), ground.earlier_good.image.clone()))?;
    let evil = node.push_index("demo/index:evil", &Index::new(ground.evil.image.clone(), ground.good.image.clone()))?;
    ground.judged(&good, &evil, |image| bring(ground, Path::CriPull, image))
}

fn another_namespace(ground: &Ground) -> Result<Cell> {
    ground.judged(&ground.good, &ground.evil, |image| {
        ground.node.clean()?;
        // It is in the usual places already.
        ground.node.bring(Path::CriPull, &ground.good)?;
        ground.node.bring(Path::CtrPullLocal, &ground.good)?;
        let pull = ["ctr", "-n", "elsewhere", "images", "pull", "--local", "--plain-http", &image.name];
        let answer = client(ground, &pull)?;
        Ok(Attempt::unpack("elsewhere", answer))
    })
}

fn native(ground: &Ground) -> Result<Cell> {
    ground.judged(&ground.good, &ground.evil, |image| {
        ground.node.clean()?;
        let pull = ["ctr", "images", "pull", "--local", "--snapshotter", "native", "--plain-http", &image.name];
        let answer = client(ground, &pull)?;
        Ok(Attempt {
            aim: Aim::Unpack { snapshotter: "native", namespace: "default" },
            ..Attempt::unpack("default", answer)
        })
    })
}

/// Runs a client of containerd; trixie's has no `--local` for pulls, and pulls no other way.
pub fn client(ground: &Ground, command: &[&str]) -> Result<std::result::Result<String, String>> {
    let spoken = |word: &&&str| !(ground.suite == Suite::Trixie && **word == "--local" && command.contains(&"pull"));
    let command: Vec<&str> = command.iter().filter(spoken).copied().collect();
    let output = ground.node.run(&command)?;
    Ok(if output.success() { Ok(output.text()) } else { Err(output.text()) })
}

/// Puts an image into a namespace as an archive, and unpacks nothing.
pub fn import_only(ground: &Ground, namespace: &str, image: &Published) -> Result<()> {
    let node = &ground.node;
    if namespace == PODS {
        return node.import_for_pods(image);
    }
    node.write("/var/tmp/only.tar", image.archive()?)?;
    node.run(&["ctr", "-n", namespace, "images", "import", "--local", "--no-unpack", "/var/tmp/only.tar"])?.ok()?;
    Ok(())
}
