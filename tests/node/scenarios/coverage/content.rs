//! Calls to containerd's own services, by whoever holds its socket.

use super::{
    Group, Row,
    ground::{Attempt, Cell, Ground},
    run::FOR_A_WHILE,
};
use crate::node::Result;

pub const DIRECT: Group = Group {
    name: "Whoever holds containerd's socket: root",
    rows: &[
        Row { path: "`Diff.Apply` on a directory of the host", walk: apply },
        Row { path: "`ctr run --rootfs` of a directory", walk: rootfs },
    ],
};

fn apply(ground: &Ground) -> Result<Cell> {
    let node = &ground.node;
    node.clean()?;
    node.bring(crate::node::Path::CtrPullLocal, &ground.good)?;
    node.run(&["mkdir", "-p", "/var/tmp/victim"])?.ok()?;
    ground.judge(&ground.good, |image| {
        let answer = super::super::gates::apply(node, "/run/containerd/containerd.sock", image)?;
        let written = node.run(&["find", "/var/tmp/victim", "-mindepth", "1"])?.ok()?;
        Ok(Attempt::run(
            "default",
            match answer {
                Ok(()) => Ok(written),
                Err(status) if written.is_empty() => Err(status.message().to_owned()),
                Err(status) => return Err(format!("written all the same: {status}").into()),
            },
        ))
    })
}

fn rootfs(ground: &Ground) -> Result<Cell> {
    let node = &ground.node;
    node.sh("mkdir -p /var/tmp/rootfs/bin && cp /usr/bin/busybox /var/tmp/rootfs/bin/")?.ok()?;
    ground.judge(&ground.evil, |_| {
        let id = ground.unique("rootfs");
        let run = ["ctr", "run", "--rm", "--net-host", "--rootfs", "/var/tmp/rootfs", &id];
        let answer = super::bring::client(ground, &[&run[..], &FOR_A_WHILE].concat())?;
        Ok(Attempt { container: Some(id), ..Attempt::run("default", answer) })
    })
}
