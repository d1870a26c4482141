//! Break-glass: root admits for some time what the policy does not, with a reason, and all of it is in the journal.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::expect;
use crate::node::{
    Image, Node, Path, Result, Suite,
    cri::{ContainerMetadata, PodSandboxConfig},
    image::Layer,
    pod::{PODS, container_config, pod_config},
    product::{CONFIG, CONFIG_FILE, POLICY, POLICY_FILE, SERVICE},
    registry::Published,
};

const SLEEP: [&str; 3] = ["/bin/busybox", "sleep", "1000000"];
const REASON: &str = "CVE-2026-1: cannot wait";
const LABEL: &str = "image-policy.k8s.io/break-glass";
const STATE: &str = "/var/lib/pullgate/break-glass.json";
const MADE: &str = "5e0c8d72b4a94f1d9c36a1e7f2b80d45";
const USED: &str = "a7f31c9e06d84b52b8e4d5209c7a1f63";
const OVER: &str = "1c84e6b9f53a47d0a2d97b60e8f4c315";
const UNREADABLE: &str = "d29a5f40c7e1486eb1f83c6d07b9e2a4";
/// A refused container keeps its name until it is removed.
static ATTEMPTS: AtomicU32 = AtomicU32::new(0);

/// A node with pods, and an image that nobody signed.
fn stage(suite: Suite) -> Result<(Node, Published)> {
    let node = Node::gated_with_pods(suite)?;
    let busybox = Layer::with_file("bin/busybox", 0o755, &node.read("/usr/bin/busybox")?)?;
    let own = Layer::with_file("own", 0o644, b"evil")?;
    let evil = node.push("demo/evil:v1", &Image::running(vec![busybox, own], "evil", &SLEEP))?;
    Ok((node, evil))
}

impl Node {
    /// Makes a pass; returns its number.
    fn break_glass(&self, scope: &str, time: &str) -> Result<String> {
        let command = ["pullgate", "break-glass", scope, "--for", time, "--reason", REASON, "-o", "json"];
        let made: Value = serde_json::from_str(&self.run(&command)?.ok()?)?;
        Ok(made["id"].as_str().ok_or("a pass without a number")?.to_owned())
    }

    fn end_glass(&self, id: &str) -> Result<()> {
        self.run(&["pullgate", "break-glass", "end", id])?.ok()?;
        Ok(())
    }

    /// The entries of a kind since `cursor`, each an alert.
    fn alerts(&self, cursor: &str, kind: &str) -> Result<Vec<Value>> {
        self.run(&["journalctl", "--sync"])?.ok()?;
        let (after, kind) = (format!("--after-cursor={cursor}"), format!("MESSAGE_ID={kind}"));
        let entries = self.journal(&[&after, "_SYSTEMD_UNIT=pullgate.service", &kind])?;
        for entry in &entries {
            expect::holds(entry["PRIORITY"] == "1", || format!("no alert: {entry:#}"))?;
        }
        Ok(entries)
    }

    /// Waits for the entry that says that the pass `id` is over.
    fn over(&self, cursor: &str, id: &str) -> Result<Value> {
        let mut found = None;
        self.wait_until("the pass is over", || {
            found = self.alerts(cursor, OVER)?.into_iter().find(|entry| entry["PULLGATE_PASS"] == id);
            Ok(found.is_some())
        })?;
        Ok(found.unwrap_or_default())
    }

    fn passes(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.run(&["pullgate", "break-glass", "-o", "json"])?.ok()?)?)
    }
}

/// A container of `image` starts in a pod, or what is said instead.
fn start(node: &Node, pod: PodSandboxConfig, image: &str) -> Result<std::result::Result<(), String>> {
    let attempt = ATTEMPTS.fetch_add(1, Ordering::Relaxed);
    let name = pod.metadata.as_ref().map(|metadata| metadata.name.clone()).unwrap_or_default();
    let mut pod = pod;
    pod.metadata = pod.metadata.map(|mut metadata| {
        metadata.name = format!("{name}-{attempt}");
        metadata.uid = format!("uid-{name}-{attempt}");
        metadata
    });
    let pod = node.pod_of(pod, "")??;
    let mut config = container_config("x", image, &SLEEP);
    config.metadata = config.metadata.map(|metadata| ContainerMetadata { attempt, ..metadata });
    let answer = pod.run_of(config)?;
    let outcome = match answer {
        Ok(id) => {
            expect::holds(pod.is_running(&id)?, || format!("{image} does not run"))?;
            Ok(())
        }
        Err(status) => Err(status.message().to_owned()),
    };
    pod.remove()?;
    Ok(outcome)
}

fn starts(node: &Node, image: &str) -> Result<()> {
    start(node, pod_config("shop", "pod"), image)?.map_err(|why| format!("{image} does not start: {why}").into())
}

/// As the start gate says it: what it has not verified yet it verifies behind the first answer.
fn is_not_started(node: &Node, pod: &dyn Fn() -> PodSandboxConfig, image: &str, code: &str) -> Result<()> {
    node.wait_until("it was verified", || match start(node, pod(), image)? {
        Ok(()) => Err(format!("{image} starts").into()),
        Err(why) if why.contains("PG309") => Ok(false),
        Err(why) if why.contains(code) => Ok(true),
        Err(why) => Err(why.into()),
    })
}

fn usage(node: &Node, arguments: &[&str], words: &str) -> Result<()> {
    let said = node.run(&[&["pullgate", "break-glass"], arguments].concat())?;
    expect::holds(said.code == 2 && said.text().contains(words), || format!("{arguments:?}: {said:?}"))
}

/// Refused, admitted with a pass, and refused again once that is over.
pub fn there_and_back(suite: Suite) -> Result<()> {
    let (node, evil) = stage(suite)?;
    let digest = evil.digest();
    let shop = || pod_config("shop", "pod");
    for path in [Path::CriPull, Path::CtrPull] {
        expect::refused(&node, path, &evil, &["PG101"])?;
        node.run(&["journalctl", "--sync"])?.ok()?;
        let story = node.run(&["pullgate", "why", "--last"])?.ok()?;
        let line = format!("pullgate break-glass {digest} --for 1h --reason ");
        expect::holds(story.contains(&line), || story.clone())?;
        node.clean()?;
    }

    // Not so.
    let reason = ["--for", "1h", "--reason", REASON];
    usage(&node, &[&digest], "--for")?;
    usage(&node, &[&digest, "--for", "1h"], "--reason")?;
    usage(&node, &[&digest, "--for", "1h", "--reason", " "], "say why")?;
    usage(&node, &[&["**"], &reason[..]].concat(), "every image")?;
    usage(&node, &[&[evil.name.as_str()], &reason[..]].concat(), "a tag can point")?;
    usage(&node, &[&digest, "--for", "5h", "--reason", REASON], "/etc/pullgate/config.toml allows 240 min at most")?;
    usage(&node, &["end", "ZZZZ"], "there is no pass ZZZZ")?;
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "pullgate", "break-glass", &digest];
    let said = node.run(&[&nobody, &reason[..]].concat())?;
    expect::holds(said.code == 3 && said.text().contains("only root"), || format!("{said:?}"))?;
    expect::holds(node.passes()?["passes"] == Value::Array(Vec::new()), || "there is a pass".to_owned())?;

    let cursor = node.cursor()?;
    let id = node.break_glass(&digest, "1h")?;
    usage(&node, &[&[digest.as_str()], &reason[..]].concat(), &format!("pullgate break-glass end {id}"))?;
    for path in [Path::CtrPull, Path::CriPull] {
        expect::admitted(&node, path, &evil)?;
    }
    starts(&node, &evil.name)?;
    let made = node.alerts(&cursor, MADE)?;
    let is_made = |entry: &Value| {
        entry["PULLGATE_PASS"] == id.as_str()
            && entry["PULLGATE_PASS_REASON"] == REASON
            && entry["PULLGATE_PASS_BY"].as_str().is_some_and(|by| by.starts_with("uid 0"))
    };
    expect::holds(made.len() == 1 && is_made(&made[0]), || format!("{made:#?}"))?;
    let used = node.alerts(&cursor, USED)?;
    let gates = used.iter().filter_map(|entry| entry["PULLGATE_GATE"].as_str());
    let expected: &[&str] = match suite {
        Suite::Trixie => &["unpack", "unpack", "start"],
        Suite::Forky => &["resolve", "unpack", "resolve", "unpack", "start"],
    };
    expect::holds(gates.clone().eq(expected.iter().copied()), || format!("{used:#?}"))?;
    for entry in &used {
        let right = is_made(entry)
            && entry["PULLGATE_VERDICT"] == "allow"
            && entry["PULLGATE_RULE"] == "break-glass"
            && entry["PULLGATE_OTHERWISE_RULE"] == "demo";
        expect::holds(right, || format!("{entry:#}"))?;
    }
    let story = node.run(&["pullgate", "why", used[0]["PULLGATE_ID"].as_str().unwrap_or_default()])?.ok()?;
    expect::holds(story.contains("admitted by break-glass alone") && story.contains(REASON), || story.clone())?;
    let story = node.run(&["pullgate", "why", &id])?.ok()?;
    expect::holds(story.contains(&format!("{id} for {digest}")) && story.contains(REASON), || story.clone())?;
    let status = node.run(&["pullgate", "status"])?.text();
    let line = format!("BREAK-GLASS  pass {id}: {digest}, 59 min left");
    expect::holds(status.contains(&line) && status.contains(REASON), || status.clone())?;
    let unit = node.property(SERVICE, "StatusText")?;
    expect::holds(unit.starts_with("BREAK-GLASS: 1 pass in force; "), || unit.clone())?;

    // By root, and another by time: nothing of what it admitted is admitted any more.
    let cursor = node.cursor()?;
    node.end_glass(&id)?;
    let over = node.over(&cursor, &id)?;
    let by_root = over["PULLGATE_PASS_OVER"].as_str().is_some_and(|over| over.starts_with("ended by uid 0"));
    expect::holds(by_root, || format!("{over:#}"))?;
    is_not_started(&node, &shop, &evil.name, "PG101")?;
    let told = |cursor: &str| {
        let words = "demo/evil:v1@";
        node.wait_until("the watch tells it", || {
            Ok(node.watched_since(cursor)?.iter().any(|entry| entry.message.contains(words) && entry.code == "PG101"))
        })
    };
    told(&cursor)?;
    for path in [Path::CriPull, Path::CtrPull] {
        node.clean()?;
        expect::refused(&node, path, &evil, &["PG101"])?;
    }
    let cursor = node.cursor()?;
    let begun = Instant::now();
    let id = node.break_glass("127.0.0.1:5000/demo/**", "40s")?;
    node.clean()?;
    expect::admitted(&node, Path::CriPull, &evil)?;
    starts(&node, &evil.name)?;
    expect::holds(begun.elapsed() < Duration::from_secs(40), || "this machine is too slow to tell".to_owned())?;
    let over = node.over(&cursor, &id)?;
    expect::holds(begun.elapsed() >= Duration::from_secs(40), || format!("too early: {over:#}"))?;
    expect::holds(over["PULLGATE_PASS_OVER"] == "its time has passed", || format!("{over:#}"))?;
    is_not_started(&node, &shop, &evil.name, "PG101")?;
    told(&cursor)?;
    node.clean()?;
    expect::refused(&node, Path::CriPull, &evil, &["PG101"])?;
    let unit = node.property(SERVICE, "StatusText")?;
    expect::holds(!unit.contains("BREAK-GLASS"), || unit.clone())?;

    // An archive chooses its own names, and no digest.
    node.break_glass("127.0.0.1:5000/demo/**", "1h")?;
    node.clean()?;
    expect::refused(&node, Path::CtrImport, &evil, &["PG101"])?;
    node.break_glass(&digest, "1h")?;
    node.clean()?;
    expect::admitted(&node, Path::CtrImport, &evil)
}

/// Over restarts, with everything else broken, and not on a copy of the machine.
pub fn whatever_else_is_broken(suite: Suite) -> Result<()> {
    let (node, evil) = stage(suite)?;
    let digest = evil.digest();
    // Where evidence is looked for nobody answers.
    node.start_registry_on(5001)?;
    let evidence = "[[evidence]]\nimages = [\"127.0.0.1:5000/**\"]\nrepository = \"127.0.0.1:5001/signatures\"\n";
    node.configure(&format!("{CONFIG}{evidence}[registry.\"127.0.0.1:5001\"]\n"), POLICY)?;
    node.systemctl(&["kill", "--signal=SIGSTOP", "registry-5001"])?;
    expect::refused(&node, Path::CriPull, &evil, &["PG308", "PG312"])?;
    node.run(&["journalctl", "--sync"])?.ok()?;
    let story = node.run(&["pullgate", "why", "--last"])?.ok()?;
    expect::holds(story.contains(&format!("pullgate break-glass {digest} ")), || story.clone())?;
    let id = node.break_glass(&digest, "1h")?;
    node.clean()?;
    let begun = Instant::now();
    expect::admitted(&node, Path::CriPull, &evil)?;
    starts(&node, &evil.name)?;
    expect::holds(begun.elapsed() < Duration::from_secs(30), || format!("it took {:?}", begun.elapsed()))?;
    node.systemctl(&["kill", "--signal=SIGKILL", "registry-5001"])?;

    // No policy, no configuration, nothing in memory.
    let admitted = |what: &str| -> Result<()> {
        node.clean()?;
        let outcome = expect::recovers(&node, Path::CriPull, &evil).and_then(|()| starts(&node, &evil.name));
        outcome.map_err(|error| format!("{what}: {error}").into())
    };
    node.systemctl(&["restart", SERVICE])?;
    admitted("restarted")?;
    node.kill_daemon()?;
    admitted("killed")?;
    node.write(POLICY_FILE, "schema = 1\n[[attestr]]\n")?;
    node.run(&["rm", "-f", "/var/lib/pullgate/last-good.json"])?.ok()?;
    node.systemctl(&["restart", SERVICE])?;
    admitted("a broken policy")?;
    node.write(CONFIG_FILE, "mdoe = 1\n")?;
    node.systemctl(&["restart", SERVICE])?;
    admitted("a broken configuration")?;
    let cursor = node.cursor()?;
    node.end_glass(&id)?;
    node.over(&cursor, &id)?;
    node.clean()?;
    expect::refused(&node, Path::CriPull, &evil, &["PG403"])?;
    let id = node.break_glass(&digest, "1h")?;
    admitted("made while all is broken")?;
    node.end_glass(&id)?;
    node.configure(CONFIG, POLICY)?;

    // A copy of the machine has another identifier; a damaged file is nobody's pass.
    let id = node.break_glass(&digest, "1h")?;
    let cursor = node.cursor()?;
    let own = node.read("/etc/machine-id")?;
    node.systemctl(&["stop", SERVICE])?;
    node.write("/etc/machine-id", "0123456789abcdef0123456789abcdef\n")?;
    node.systemctl(&["start", SERVICE])?;
    node.wait_until("it is forgotten", || Ok(!String::from_utf8_lossy(&node.read(STATE)?).contains(&digest)))?;
    let listed = node.passes()?;
    expect::holds(listed["passes"] == Value::Array(Vec::new()), || listed.to_string())?;
    // The journal of another machine is not shown.
    node.systemctl(&["stop", SERVICE])?;
    node.write("/etc/machine-id", own)?;
    let over = node.over(&cursor, &id)?;
    let why = "this is not the machine that it was made on";
    expect::holds(over["PULLGATE_PASS_OVER"] == why, || format!("{over:#}"))?;
    node.systemctl(&["start", SERVICE])?;
    node.clean()?;
    expect::refused(&node, Path::CriPull, &evil, &["PG101"])?;
    node.break_glass(&digest, "1h")?;
    let cursor = node.cursor()?;
    node.systemctl(&["stop", SERVICE])?;
    node.write(STATE, "{\"schema\":1,")?;
    node.systemctl(&["start", SERVICE])?;
    node.clean()?;
    expect::refused(&node, Path::CriPull, &evil, &["PG101"])?;
    let alarms = node.alerts(&cursor, UNREADABLE)?;
    expect::holds(alarms.len() == 1, || format!("{alarms:#?}"))?;
    let status = node.run(&["pullgate", "status"])?;
    let says = status.code == 1 && status.text().contains("break-glass.json cannot be used");
    expect::holds(says, || format!("{status:?}"))?;
    node.break_glass(&digest, "1h")?;
    admitted("after a damaged file")
}

/// A pod's label counts where that is said, for the image and nothing else.
pub fn pods(suite: Suite) -> Result<()> {
    let (node, evil) = stage(suite)?;
    let labelled = |namespace: &str| {
        let mut pod = pod_config(namespace, "labelled");
        pod.labels.insert(LABEL.to_owned(), "true".to_owned());
        pod
    };
    let id = node.break_glass(&evil.digest(), "1h")?;
    expect::admitted(&node, Path::CriPull, &evil)?;
    node.end_glass(&id)?;
    // By default nowhere.
    is_not_started(&node, &|| labelled("kube-system"), &evil.name, "PG101")?;
    node.write(CONFIG_FILE, format!("{CONFIG}[break-glass]\npods-of = [\"kube-system\"]\n"))?;
    node.reload()?;
    let cursor = node.cursor()?;
    start(&node, labelled("kube-system"), &evil.name)?.map_err(|why| format!("the label does not count: {why}"))?;
    let used = node.alerts(&cursor, USED)?;
    let right = |entry: &Value| {
        let pod = entry["PULLGATE_POD"].as_str().unwrap_or_default();
        entry["PULLGATE_GATE"] == "start"
            && entry["PULLGATE_POD_NAMESPACE"] == "kube-system"
            && pod.starts_with("labelled-")
            && entry["PULLGATE_PASS_BY"] == format!("pod kube-system/{pod}")
            && entry.get("PULLGATE_PASS").is_none()
    };
    expect::holds(used.len() == 1 && right(&used[0]), || format!("{used:#?}"))?;

    let mut other_value = labelled("kube-system");
    other_value.labels.insert(LABEL.to_owned(), "yes".to_owned());
    // Annotations are whatever a pod's author writes, and so is the container's own label.
    let mut annotated = pod_config("kube-system", "annotated");
    annotated.annotations.insert(LABEL.to_owned(), "true".to_owned());
    annotated.annotations.insert("alpha.image-policy.k8s.io/break-glass".to_owned(), "true".to_owned());
    for pod in [pod_config("kube-system", "plain"), labelled("shop"), other_value, annotated] {
        is_not_started(&node, &|| pod.clone(), &evil.name, "PG101")?;
    }
    // Not on the node: there no pod is known.
    node.clean()?;
    expect::refused(&node, Path::CriPull, &evil, &["PG101"])?;

    // Files of another image are not what the label is about.
    let id = node.break_glass(&evil.digest(), "1h")?;
    expect::admitted(&node, Path::CriPull, &evil)?;
    node.end_glass(&id)?;
    let pod = node.pod_of(labelled("kube-system"), "")??;
    let container = pod.create(container_config("x", &evil.name, &SLEEP))??;
    let listed = node.run(&["ctr", "-n", PODS, "containers", "info", &container])?.ok()?;
    let record: Value = serde_json::from_str(&listed)?;
    let (key, snapshotter) = (record["SnapshotKey"].as_str(), record["Snapshotter"].as_str());
    let (key, snapshotter) = key.zip(snapshotter).ok_or("a container without files")?;
    let snapshots = ["ctr", "-n", PODS, "snapshots", "--snapshotter", snapshotter];
    node.run(&[&snapshots[..], &["rm", key]].concat())?.ok()?;
    node.run(&[&snapshots[..], &["prepare", key]].concat())?.ok()?;
    let said = match pod.start(&container)? {
        Ok(()) => return Err("a container of other files starts".into()),
        Err(status) => status.message().to_owned(),
    };
    expect::holds(said.contains("PG109"), || said.clone())
}
