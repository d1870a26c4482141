//! `enable --start`: every runtime handler asks before a container starts, and nothing else about its containers changes.

use super::{
    enable::{MAIN, WATCH, changes, dump, files, same, says},
    expect,
};
use crate::node::{
    Image, Node, Result, Suite,
    image::Layer,
    pod::{PODS, Pod, container_config, pod_config},
    registry::Published,
    signing::Layout,
};

/// An administrator's base spec.
const OWN: &str = "/etc/containerd/own.json";
const SPEC: &str = "/etc/pullgate/base-spec.json";
const OF_OWN: &str = "/etc/pullgate/base-spec-own.json";
const HOOK: &str = "/usr/libexec/pullgate/verifiers/pullgate-verifier";
/// The handlers of these nodes; the empty one is the default.
const HANDLERS: [&str; 3] = ["", "tuned", "own"];

/// A container's specification before and after differs in `hooks` alone, for a handler that containerd has itself, one
/// with options, and one with a base spec of the administrator's; there and back to the byte.
pub fn only_hooks_differ(suite: Suite) -> Result<()> {
    let node = node(suite)?;
    let image = image(&node)?;
    let (before, text) = (specs(&node, &image)?, files(&node)?);
    let configured = dump(&node)?;
    let limits: Vec<String> = before.iter().map(|(_, limit)| limit.clone()).collect();
    expect::holds(limits[0] == limits[1] && limits[2] == "4321", || format!("open files: {limits:?}"))?;

    let said = says(&node, &["enable", "--start"], Some(0), "Nothing was written")?;
    for words in ["runc, tuned", "boot list always starts", "-    \"rlimits\"", "+        \"path\"", "runtimes.own]"] {
        expect::holds(said.contains(words), || format!("the difference does not show `{words}`: {said}"))?;
    }
    same(&node, &text, "looking at the difference")?;
    says(&node, &["enable", "--restart", WATCH], Some(0), "The start gate is not connected")?;
    start(&node, "NOT CONNECTED on own, runc, tuned")?;
    says(&node, &["enable", "--check"], Some(0), "")?;
    says(&node, &["enable", "--start", "--check"], Some(1), "the start gate is not live")?;
    says(&node, &["enable", "--start", "--write"], Some(0), "once you have restarted it")?;
    start(&node, "CONFIGURED, NOT LIVE on own, runc, tuned")?;
    says(&node, &["enable", "--start", "--restart", WATCH], Some(0), "Connected")?;
    start(&node, "live on own, runc, tuned")?;
    let connected = files(&node)?;
    for again in [&["enable", "--restart"][..], &["enable", "--start", "--restart"], &["enable", "--check"]] {
        says(&node, again, Some(0), if again.len() > 2 || again[1] == "--restart" { "Already connected" } else { "" })?;
        same(&node, &connected, "enabling twice")?;
    }
    let changed = changes(&configured, &dump(&node)?);
    let ours = ["imports", "proxy_plugins", "unpack_config", "diff-service.default", "bin_dir", "base_runtime_spec"];
    expect::holds(changed.iter().all(|key| ours.iter().any(|ours| key.contains(ours))), || {
        format!("more than our keys changed: {changed:?}")
    })?;
    expect::holds(changed.iter().filter(|key| key.contains("base_runtime_spec")).count() == 3, || {
        format!("not every handler has a base spec: {changed:?}")
    })?;

    for (handler, (before, after)) in HANDLERS.iter().zip(before.iter().zip(specs(&node, &image)?)) {
        let mut spec: serde_json::Value = serde_json::from_str(&after.0)?;
        let hooks = spec.as_object_mut().and_then(|spec| spec.remove("hooks")).unwrap_or_default();
        let ours = &hooks["createRuntime"][0];
        expect::holds(
            ours["path"] == HOOK && ours["args"][1] == "create-runtime" && hooks["createRuntime"][1].is_null(),
            || format!("hooks of `{handler}`: {hooks}"),
        )?;
        let earlier: serde_json::Value = serde_json::from_str(&before.0)?;
        expect::holds(spec == earlier, || format!("`{handler}` changed:\n{earlier:#}\n{spec:#}"))?;
        expect::holds(before.1 == after.1, || format!("open files of `{handler}`: {} then {}", before.1, after.1))?;
    }

    says(&node, &["disable", "--restart", WATCH], Some(0), "Disconnected")?;
    same(&node, &text, "there and back")?;
    start(&node, "NOT CONNECTED on own, runc, tuned")?;
    expect::holds(specs(&node, &image)? == before, || "a container is not what it was".to_owned())
}

/// The hooks in an administrator's base spec stay, and run behind pullgate's.
pub fn own_hooks(suite: Suite) -> Result<()> {
    let node = node(suite)?;
    let image = image(&node)?;
    node.write("/usr/local/bin/site-hook", "#!/bin/sh\ncat > /run/site-hook\n")?;
    node.sh("chmod 755 /usr/local/bin/site-hook")?.ok()?;
    let own: serde_json::Value = serde_json::from_slice(&node.read(OWN)?)?;
    let mut own = own;
    own["hooks"] = serde_json::json!({
        "createRuntime": [{ "path": "/usr/local/bin/site-hook" }],
        "poststop": [{ "path": "/bin/true", "timeout": 7 }],
    });
    node.write(OWN, own.to_string())?;
    node.restart_containerd()?;
    let before = files(&node)?;
    says(&node, &["enable", "--start", "--restart", WATCH], Some(0), "Connected")?;
    let made: serde_json::Value = serde_json::from_slice(&node.read(OF_OWN)?)?;
    expect::holds(
        made["hooks"]["createRuntime"][0]["path"] == HOOK
            && made["hooks"]["createRuntime"][1] == own["hooks"]["createRuntime"][0]
            && made["hooks"]["poststop"] == own["hooks"]["poststop"]
            && made["process"] == own["process"],
        || format!("the administrator's is not kept: {made}"),
    )?;
    let container = run(&node, "own", &image)?;
    expect::holds(node.outside("/run/site-hook").exists(), || "the administrator's hook did not run".to_owned())?;
    container.remove()?;

    // It changes: the one that was made from it is older.
    own["hooks"]["poststop"][0]["timeout"] = 8.into();
    node.write(OWN, own.to_string())?;
    start(&node, "base-spec-own.json is older than /etc/containerd/own.json on own")?;
    says(&node, &["enable", "--restart", WATCH], Some(0), "Connected")?;
    let made: serde_json::Value = serde_json::from_slice(&node.read(OF_OWN)?)?;
    expect::holds(made["hooks"]["poststop"][0]["timeout"] == 8, || format!("not made again: {made}"))?;
    start(&node, "live on own, runc, tuned")?;
    own["hooks"]["poststop"][0]["timeout"] = 7.into();
    node.write(OWN, own.to_string())?;
    says(&node, &["disable", "--restart", WATCH], Some(0), "Disconnected")?;
    same(&node, &before, "there and back")
}

/// A handler that came later, a base spec that was edited or taken away: told, and mended by one command.
pub fn drift(suite: Suite) -> Result<()> {
    let node = node(suite)?;
    let image = image(&node)?;
    let main = String::from_utf8(node.read(MAIN)?)?;
    says(&node, &["enable", "--start", "--restart", WATCH], Some(0), "Connected")?;
    let connected = String::from_utf8(node.read(MAIN)?)?;
    let cri = cri(suite);
    let later = format!(
        "[plugins.\"{cri}\".containerd.runtimes.later]\n  runtime_type = \"io.containerd.runc.v2\"\n\
         [plugins.\"{cri}\".containerd.runtimes.kata]\n  runtime_type = \"io.containerd.kata.v2\"\n"
    );
    node.write(MAIN, format!("{connected}{later}"))?;
    node.restart_containerd()?;
    let status = start(&node, "DRIFTED: no hook on later")?;
    for words in
        ["open (its runtime runs no hooks on the host) on kata", "live on own, runc, tuned", "enable --start --restart"]
    {
        expect::holds(status.contains(words), || format!("status must say `{words}`: {status}"))?;
    }
    expect::holds(!node.run(&["pullgate", "status"])?.success(), || "drift is no failure".to_owned())?;
    let said = says(&node, &["enable", "--start", "--restart", WATCH], Some(0), "Connected")?;
    expect::holds(said.contains("OPEN for kata (io.containerd.kata.v2)"), || format!("kata is not told: {said}"))?;
    start(&node, "live on later, own, runc, tuned")?;

    // Without a hook; and gone: what runs is not harmed, and after a restart there are no pods until it is mended.
    let container = run(&node, "", &image)?;
    let spec = String::from_utf8(node.read(SPEC)?)?;
    node.write(SPEC, spec.replace("create-runtime", "x"))?;
    start(&node, "DRIFTED: no hook in /etc/pullgate/base-spec.json on later, runc, tuned")?;
    node.sh(&format!("rm {SPEC}"))?.ok()?;
    start(&node, "DRIFTED: /etc/pullgate/base-spec.json is missing")?;
    node.restart_containerd()?;
    expect::holds(node.pod("default", "closed").is_err(), || "a pod without the gate".to_owned())?;
    start(&node, "DRIFTED: /etc/pullgate/base-spec.json is missing")?;
    says(&node, &["enable", "--restart", WATCH], Some(0), "Connected")?;
    start(&node, "live on later, own, runc, tuned")?;
    container.remove()?;
    run(&node, "later", &image)?.remove()?;

    // The hook cannot be run: no container starts, and that is said.
    node.sh(&format!("chmod 644 {HOOK}"))?.ok()?;
    start(&node, "DRIFTED: no container starts")?;
    let refused = node.pod("default", "refused")?;
    expect::holds(refused.run("main", &image.name, &["/bin/busybox", "true"])?.is_err(), || "started".to_owned())?;
    refused.remove()?;
    node.sh(&format!("chmod 755 {HOOK}"))?.ok()?;

    // What came later stays when pullgate goes.
    says(&node, &["disable", "--restart", WATCH], Some(0), "Disconnected")?;
    let left: toml::Table = String::from_utf8(node.read(MAIN)?)?.parse()?;
    let expected: toml::Table = format!("{main}{later}").parse()?;
    let kept = changes(&expected, &left);
    expect::holds(kept.is_empty(), || format!("left behind, or lost: {kept:?}"))?;
    let none = node.sh("ls /etc/pullgate/base-spec* ; grep -r pullgate /etc/containerd")?;
    expect::holds(none.stdout.is_empty(), || format!("left behind: {}", none.stdout))?;
    start(&node, "NOT CONNECTED on later, own, runc, tuned")?;
    run(&node, "", &image)?.remove()
}

/// What cannot be done is not begun, and what does not live is put back, base specs too.
pub fn not_written(suite: Suite) -> Result<()> {
    let node = node(suite)?;
    let before = files(&node)?;
    let refused = |words: &str| -> Result<()> {
        says(&node, &["enable", "--start", "--restart", WATCH], Some(1), words)?;
        same(&node, &before, words)
    };
    node.sh(&format!("chmod 644 {HOOK}"))?.ok()?;
    refused("cannot be executed")?;
    node.sh(&format!("chmod 777 {HOOK}"))?.ok()?;
    refused("replaced by somebody else")?;
    node.sh(&format!("chmod 755 {HOOK}; mv {HOOK} /run/hook"))?.ok()?;
    refused("No such file")?;
    node.sh(&format!("mv /run/hook {HOOK}; mv /run/pullgate/start.sock /run/start.sock"))?.ok()?;
    refused("no container would start")?;
    node.sh("mv /run/start.sock /run/pullgate/start.sock; mv /usr/bin/ctr /run/ctr")?.ok()?;
    refused("/usr/bin/ctr has to be the one of containerd")?;
    node.sh("mv /run/ctr /usr/bin/ctr")?.ok()?;
    let own = node.read(OWN)?;
    node.write(OWN, "{\"hooks\":{},\"Hooks\":{}}")?;
    says(&node, &["enable", "--start", "--restart", WATCH], Some(1), "differs from")?;
    node.write(OWN, own)?;
    same(&node, &before, "a base spec that can be read in two ways")?;

    let unit = "/etc/systemd/system/containerd.service.d/test.conf";
    node.write(
        unit,
        "[Service]\nExecStartPre=/bin/sh -c 'if grep -rq base-spec /etc/containerd; then echo no hooks here >&2; exit 1; fi'\n",
    )?;
    node.systemctl(&["daemon-reload"])?;
    refused("containerd runs as before")?;
    start(&node, "NOT CONNECTED on own, runc, tuned")?;
    // Connected without the start gate, that is what is put back.
    says(&node, &["enable", "--restart", WATCH], Some(0), "Connected")?;
    let connected = files(&node)?;
    says(&node, &["enable", "--start", "--restart", WATCH], Some(1), "containerd runs as before")?;
    same(&node, &connected, "a containerd that did not start with the start gate")?;
    node.sh(&format!("rm {unit}"))?.ok()?;
    node.systemctl(&["daemon-reload"])?;
    says(&node, &["enable", "--start", "--restart", WATCH], Some(0), "Connected")?;

    // On the way back the base specs are there until nothing names them.
    let connected = files(&node)?;
    node.write(unit, "[Service]\nExecStartPre=/bin/sh -c 'grep -rq base-spec /etc/containerd'\n")?;
    node.systemctl(&["daemon-reload"])?;
    says(&node, &["disable", "--restart", WATCH], Some(1), "containerd runs as before")?;
    same(&node, &connected, "a containerd that did not start without the start gate")?;
    start(&node, "live on own, runc, tuned")?;
    Ok(())
}

/// The package does not go while a container's start needs its hook.
pub fn removal(suite: Suite) -> Result<()> {
    let node = node(suite)?;
    let image = image(&node)?;
    says(&node, &["enable", "--start", "--restart", WATCH], Some(0), "Connected")?;
    let remove = "DEBIAN_FRONTEND=noninteractive apt-get -q -y remove pullgate";
    let refused = node.sh(remove)?;
    expect::holds(!refused.success() && refused.text().contains("start no container"), || {
        format!("removal must be refused, and says: {}", refused.text())
    })?;
    node.sh("DEBIAN_FRONTEND=noninteractive apt-get -q -y --reinstall install /var/tmp/package.deb")?.ok()?;
    start(&node, "live on own, runc, tuned")?;
    run(&node, "", &image)?.remove()?;
    says(&node, &["disable", "--write"], Some(0), "until you have restarted it")?;
    start(&node, "taken out, still asked on own, runc, tuned")?;
    expect::holds(!node.sh(remove)?.success(), || "removed while containers still ask".to_owned())?;
    node.restart_containerd()?;
    node.sh(remove)?.ok()?;
    run(&node, "", &image)?.remove()
}

/// A node with the package and three handlers.
fn node(suite: Suite) -> Result<Node> {
    let node = Node::unconnected(suite)?;
    node.prepare_pods()?;
    let spec = node.run(&["ctr", "oci", "spec"])?.ok()?;
    let mut own: serde_json::Value = serde_json::from_str(&spec)?;
    own["process"]["rlimits"] = serde_json::json!([{ "type": "RLIMIT_NOFILE", "soft": 4321, "hard": 4321 }]);
    node.write(OWN, own.to_string())?;
    let cri = cri(suite);
    let section = |name: &str, more: &str| {
        format!("[plugins.\"{cri}\".containerd.runtimes.{name}]\n  runtime_type = \"io.containerd.runc.v2\"\n{more}")
    };
    // On 1.7 a file that has one handler has no other.
    let runc = if suite == Suite::Trixie { section("runc", "") } else { String::new() };
    let tuned = section("tuned", "  pod_annotations = [\"site.example/*\"]\n");
    let options = format!("[plugins.\"{cri}\".containerd.runtimes.tuned.options]\n  NoNewKeyring = true\n");
    let own = section("own", &format!("  base_runtime_spec = \"{OWN}\"\n"));
    node.configure_containerd(&format!("{runc}{tuned}{options}{own}"))?;
    Ok(node)
}

fn cri(suite: Suite) -> &'static str {
    match suite {
        Suite::Trixie => "io.containerd.grpc.v1.cri",
        Suite::Forky => "io.containerd.cri.v1.runtime",
    }
}

/// A signed image with a shell.
fn image(node: &Node) -> Result<Published> {
    let busybox = Layer::with_file("bin/busybox", 0o755, &node.read("/usr/bin/busybox")?)?;
    let image =
        node.push("demo/box:v1", &Image::running(vec![busybox], "box", &["/bin/busybox", "sleep", "1000000"]))?;
    node.sign(&image, "demo", Layout::usual(node.suite))?;
    node.run(&["ctr", "-n", PODS, "images", "pull", "--plain-http", &image.name])?.ok()?;
    Ok(image)
}

/// A pod with a container that runs, by a handler.
fn run<'a>(node: &'a Node, handler: &str, image: &Published) -> Result<Pod<'a>> {
    let pod = node.pod_of(pod_config("default", "it"), handler)??;
    let id = started(node, &pod, &image.name, &["/bin/busybox", "sleep", "1000000"])?;
    expect::holds(pod.is_running(&id)?, || format!("no container runs by `{handler}`"))?;
    Ok(pod)
}

/// A container that was started: what was here before pullgate is verified once somebody wants to start it.
fn started(node: &Node, pod: &Pod<'_>, image: &str, command: &[&str]) -> Result<String> {
    let mut started = None;
    node.wait_until("the container is started", || {
        let id = pod.create(container_config("main", image, command))??;
        match pod.start(&id)? {
            Ok(()) => started = Some(id),
            Err(status) if status.message().contains("PG309") => pod.remove_container(&id)?,
            Err(status) => return Err(status.into()),
        }
        Ok(started.is_some())
    })?;
    Ok(started.unwrap_or_default())
}

/// For each handler, a container's specification without what differs from one to the next, and how many files it may
/// open.
fn specs(node: &Node, image: &Published) -> Result<Vec<(String, String)>> {
    let of = |handler: &&str| {
        let pod = node.pod_of(pod_config("default", "it"), handler)??;
        let id = started(node, &pod, &image.name, &["/bin/busybox", "sh", "-c", "ulimit -n"])?;
        let info: serde_json::Value =
            serde_json::from_str(&node.run(&["ctr", "-n", PODS, "containers", "info", &id])?.ok()?)?;
        pod.wait(&id)?;
        let log = pod.log("main")?;
        let limit = log.lines().last().and_then(|line| line.rsplit(' ').next()).unwrap_or_default().to_owned();
        let spec = without_processes(&info["Spec"].to_string().replace(&id, "CONTAINER").replace(&pod.id, "POD"));
        pod.remove()?;
        Ok((spec, limit))
    };
    HANDLERS.iter().map(of).collect()
}

/// Namespaces are named by the process that holds them.
fn without_processes(spec: &str) -> String {
    let mut parts = spec.split("/proc/");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text += "/proc/";
        text += part.trim_start_matches(|c: char| c.is_ascii_digit());
    }
    text
}

/// The line of `status` about the start gate says `words`.
fn start(node: &Node, words: &str) -> Result<String> {
    let status = node.run(&["pullgate", "status"])?.text();
    let line = status.lines().find_map(|line| line.strip_prefix("start ")).unwrap_or_default().trim_start();
    // `live` is no part of `NOT LIVE`.
    let is = |part: &str| part.starts_with(words) || !words.starts_with("live") && part.contains(words);
    let found = line.split("; ").any(is);
    expect::holds(found, || format!("status must say `{words}` of the start gate, and says: {status}"))?;
    Ok(line.to_owned())
}
