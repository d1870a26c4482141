//! The daemon comes and goes; nothing passes while it is away, and nothing that runs is hurt.

use super::expect;
use crate::node::{
    Image, Node, Path, Result, Suite,
    path::Outcome,
    product::{SERVICE, SOCKETS},
    registry::Published,
    signing::Layout,
};

pub fn stopped(suite: Suite) -> Result<()> {
    let node = Node::gated(suite)?;
    let image = signed(&node)?;
    node.systemctl(&["stop", SOCKETS, SERVICE])?;
    for path in Path::of(suite) {
        expect::kept_out(&node, *path, &image)?;
        node.clean()?;
    }
    expect::holds(!node.is_active(SERVICE)?, || "a pull started the stopped service".to_owned())?;
    node.systemctl(&["start", SOCKETS])?;
    for path in Path::of(suite) {
        expect::recovers(&node, *path, &image)?;
        node.clean()?;
    }
    Ok(())
}

pub fn started_by_pull(suite: Suite) -> Result<()> {
    let node = Node::gated(suite)?;
    let image = signed(&node)?;
    let unsigned = node.push("demo/unsigned:v1", &Image::of_small_layers("unsigned", 2)?)?;
    for path in Path::of(suite) {
        node.systemctl(&["stop", SERVICE])?;
        let sockets = node.sh("ls /run/pullgate/diff.sock /run/pullgate/transfer.sock")?;
        expect::holds(sockets.success(), || format!("the sockets went with the service: {}", sockets.text()))?;
        expect::admitted(&node, *path, &image)?;
        expect::holds(node.is_active(SERVICE)?, || "the image came without the service".to_owned())?;
        node.clean()?;
        node.systemctl(&["stop", SERVICE])?;
        expect::refused(&node, *path, &unsigned, &["PG101"])?;
        node.clean()?;
    }
    Ok(())
}

/// The daemon dies while it waits for a registry that does not answer.
pub fn killed_while_deciding(suite: Suite) -> Result<()> {
    let node = Node::gated(suite)?;
    let image = signed(&node)?;
    for path in Path::of(suite).iter().filter(|path| path.is_archive()) {
        node.clean()?;
        // What was admitted once needs no registry.
        node.systemctl(&["stop", SERVICE])?;
        node.sh("rm -rf /var/lib/pullgate/evidence-2")?.ok()?;
        node.systemctl(&["start", SERVICE])?;
        node.systemctl(&["kill", "--signal=SIGSTOP", "registry"])?;
        let outcome = std::thread::scope(|scope| -> Result<Outcome> {
            let import = scope.spawn(|| node.bring(*path, &image));
            node.wait_until("the daemon asks the registry", || {
                let asked = node.run(&["ss", "-Htnp", "state", "established", "dport", "=", ":5000"])?;
                Ok(asked.stdout.contains("pullgate"))
            })?;
            node.kill_daemon()?;
            import.join().map_err(|_| "the import panicked")?
        });
        node.systemctl(&["kill", "--signal=SIGCONT", "registry"])?;
        match outcome? {
            Outcome::Failed(_) | Outcome::Refused { .. } => {}
            other => return Err(format!("{}: killed while deciding: {other}", path.name(suite)).into()),
        }
        node.clean()?;
        expect::recovers(&node, *path, &image)?;
    }
    Ok(())
}

pub fn crashes(suite: Suite) -> Result<()> {
    let node = Node::gated(suite)?;
    let image = signed(&node)?;
    let crash = "/run/systemd/system/pullgate.service.d/crash.conf";
    node.write(crash, "[Service]\nType=simple\nExecStart=\nExecStart=/bin/false\n")?;
    node.systemctl(&["daemon-reload"])?;
    node.systemctl(&["restart", "--no-block", SERVICE])?;
    node.wait_until("it crashed a hundred times", || {
        Ok(node.property(SERVICE, "NRestarts")?.parse::<u32>().is_ok_and(|restarts| restarts >= 100))
    })?;
    expect::holds(node.is_active(SOCKETS)?, || "the sockets gave up".to_owned())?;
    expect::kept_out(&node, Path::CriPull, &image)?;
    node.run(&["rm", crash])?.ok()?;
    node.systemctl(&["daemon-reload"])?;
    // From here on nobody touches systemd.
    expect::recovers(&node, Path::CriPull, &image)?;
    expect::holds(node.is_active(SOCKETS)? && node.is_active(SERVICE)?, || "not active again".to_owned())
}

pub fn containers_live_on(suite: Suite) -> Result<()> {
    let node = Node::gated(suite)?;
    let image = signed(&node)?;
    expect::admitted(&node, Path::CtrPullLocal, &image)?;
    node.run(&["ctr", "run", "--detach", "--cpu-shares=0", &image.name, "lives", "/bin/busybox", "sleep", "1000000"])?
        .ok()?;
    let process = task(&node)?;
    node.kill_daemon()?;
    same(&node, &process, "a killed daemon")?;
    node.systemctl(&["stop", SERVICE])?;
    same(&node, &process, "a stopped service")?;
    node.systemctl(&["stop", SOCKETS])?;
    same(&node, &process, "stopped sockets")?;
    node.systemctl(&["start", SOCKETS, SERVICE])?;
    same(&node, &process, "a started service")?;
    node.restart_containerd()?;
    same(&node, &process, "a restarted containerd")
}

fn task(node: &Node) -> Result<String> {
    let tasks = node.run(&["ctr", "tasks", "ls"])?.ok()?;
    let line = tasks.lines().find(|line| line.starts_with("lives")).ok_or("the container has no task")?;
    Ok(line.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn same(node: &Node, process: &str, after: &str) -> Result<()> {
    let now = task(node)?;
    expect::holds(now == process && now.ends_with("RUNNING"), || format!("after {after}: {now}, was {process}"))
}

fn signed(node: &Node) -> Result<Published> {
    let image = Image::of_layers(&node.read("/usr/bin/busybox")?, "signed", 3)?;
    let published = node.push("demo/signed:v1", &image)?;
    node.sign(&published, "demo", Layout::usual(node.suite))?;
    Ok(published)
}
