//! What no gate sees is seen: images and containers that came by another way, and what a policy no longer admits.

use super::expect;
use crate::node::{
    Image, Node, Path, Result, Suite,
    image::Layer,
    journal::Entry,
    pod::{PODS, pod_config},
    product::{CONFIG, CONFIG_FILE, POLICY, POLICY_FILE, policy_with},
    registry::Published,
    signing::Layout,
};

const ANOTHER_RULE: &str =
    "[[rule]]\nname = \"another\"\nimages = [\"127.0.0.1:5000/another/**\"]\nrequire = \"deny\"\n";
const SLEEP: [&str; 3] = ["/bin/busybox", "sleep", "1000000"];

/// A signed image that runs, and an unsigned one with the same layers and another configuration.
fn images(node: &Node) -> Result<(Published, Published)> {
    let busybox = Layer::with_file("bin/busybox", 0o755, &node.read("/usr/bin/busybox")?)?;
    let good = node.push("demo/good:v1", &Image::running(vec![busybox.clone()], "good", &SLEEP))?;
    node.sign(&good, "demo", Layout::usual(node.suite))?;
    let evil = node.push("demo/evil:v1", &Image::running(vec![busybox], "evil", &SLEEP))?;
    Ok((good, evil))
}

/// Puts an image into containerd as an archive, without unpacking it: no gate is asked.
fn import(node: &Node, namespace: &str, image: &Published) -> Result<()> {
    node.write("/var/tmp/import.tar", image.archive()?)?;
    node.run(&["ctr", "-n", namespace, "images", "import", "--no-unpack", "/var/tmp/import.tar"])?.ok()?;
    Ok(())
}

/// Waits until the watch has said so many things with these words since `cursor`.
fn said(node: &Node, cursor: &str, words: &str, count: usize) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let told = node.wait_until(&format!("the watch says {count} times: {words}"), || {
        entries = node.watched_since(cursor)?;
        Ok(entries.iter().filter(|entry| entry.message.contains(words)).count() >= count)
    });
    told.map_err(|error| format!("{error}; it said {entries:#?}"))?;
    let found: Vec<Entry> = entries.into_iter().filter(|entry| entry.message.contains(words)).collect();
    expect::holds(found.len() == count, || format!("not {count} times {words}: {found:#?}"))?;
    Ok(found)
}

/// Waits for a walk that begins from now on.
fn walked(node: &Node) -> Result<()> {
    let walk = || -> Result<serde_json::Value> {
        let status = node.run(&["pullgate", "status", "-o", "json"])?.stdout;
        Ok(serde_json::from_str::<serde_json::Value>(&status)?["watch"]["last-walk"]["number"].clone())
    };
    let before = walk()?;
    node.reload()?;
    node.wait_until("another walk ended", || Ok(walk()? != before))
}

/// An image and a container that pass no gate are told once, and once more for each policy.
pub fn told_once(suite: Suite) -> Result<()> {
    let node = Node::gated(suite)?;
    let (good, evil) = images(&node)?;
    expect::admitted(&node, Path::CtrPull, &good)?;
    let cursor = node.cursor()?;
    import(&node, "default", &evil)?;
    let on_node = "demo/evil:v1@";
    let seen = said(&node, &cursor, on_node, 1)?;
    expect::holds(seen[0].verdict == "deny" && seen[0].code == "PG101", || format!("{seen:#?}"))?;
    let run = ["ctr", "run", "--detach", "--net-host", &evil.name, "evil-1"];
    node.run(&[&run[..], &SLEEP].concat())?.ok()?;
    said(&node, &cursor, "container evil-1 started without the start gate (by no pod), runs", 1)?;
    let run = ["ctr", "run", "--detach", "--net-host", &good.name, "good-1"];
    node.run(&[&run[..], &SLEEP].concat())?.ok()?;
    let status = node.run(&["pullgate", "status"])?.text();
    expect::holds(status.contains("1 images and 1 running containers not admitted"), || status.clone())?;

    // Told once, however often it is looked at.
    walked(&node)?;
    walked(&node)?;
    said(&node, &cursor, "evil", 2)?;

    // Another policy: once more.
    let cursor = node.cursor()?;
    node.write(POLICY_FILE, policy_with(ANOTHER_RULE))?;
    walked(&node)?;
    said(&node, &cursor, "container evil-1", 1)?;
    walked(&node)?;
    said(&node, &cursor, "container evil-1", 1)?;

    // An exempt namespace is silent.
    let exempt = format!("{CONFIG}\n[watch]\nexempt-namespaces = [\"exempt\"]\n");
    node.write(CONFIG_FILE, &exempt)?;
    node.reload()?;
    let cursor = node.cursor()?;
    for namespace in ["exempt", "other"] {
        import(&node, namespace, &evil)?;
    }
    let seen = said(&node, &cursor, on_node, 1)?;
    expect::holds(seen[0].namespace == "other", || format!("{seen:#?}"))?;
    walked(&node)?;
    said(&node, &cursor, on_node, 1)?;
    node.write(CONFIG_FILE, CONFIG)?;
    walked(&node)?;
    said(&node, &cursor, on_node, 2)?;
    Ok(())
}

/// What was there before anything refused is told once the node refuses, and the table shows it.
pub fn from_before(suite: Suite) -> Result<()> {
    let node = Node::unconnected(suite)?;
    let (good, evil) = images(&node)?;
    node.configure(&CONFIG.replace("enforce", "audit"), POLICY)?;
    let cursor = node.cursor()?;
    for image in [&good, &evil] {
        expect::admitted(&node, Path::CtrPullLocal, image)?;
    }
    let other = node.push("other/x:v1", &Image::of_small_layers("other", 1)?)?;
    expect::admitted(&node, Path::CtrPullLocal, &other)?;
    said(&node, &cursor, "demo/evil:v1@", 1)?;
    said(&node, &cursor, "other/x:v1@", 1)?;
    let cursor = node.cursor()?;
    node.run(&["pullgate", "mode", "enforce", "--yes"])?.ok()?;
    said(&node, &cursor, "demo/evil:v1@", 1)?;
    said(&node, &cursor, "other/x:v1@", 1)?;
    expect::holds(!node.watched_since(&cursor)?.iter().any(|entry| entry.image == good.name), || "good told".into())?;
    for (arguments, code, words) in [
        (&["pullgate", "audit", "images"][..], 1, ["DENY     PG201", "RETRY    PG302", "--ask"]),
        (&["pullgate", "audit", "images", "--ask"], 1, ["DENY     PG201", "DENY     PG101", "ALLOW    -"]),
        (&["pullgate", "audit", "images", "-o", "json"], 1, ["\"verdict\":\"deny\"", "\"names\":", "\"containers\":"]),
    ] {
        let output = node.run(arguments)?;
        let all = output.code == code && words.iter().all(|word| output.stdout.contains(word));
        expect::holds(all, || format!("{arguments:?}: {} {}", output.code, output.text()))?;
    }
    node.run(&["ctr", "images", "rm", &other.name])?.ok()?;
    let unknown = node.run(&["pullgate", "audit", "images"])?;
    expect::holds(unknown.code == 3, || format!("{} {}", unknown.code, unknown.text()))?;
    node.run(&["ctr", "images", "rm", &evil.name])?.ok()?;
    let asked = node.run(&["pullgate", "audit", "images", "--ask"])?;
    expect::holds(asked.code == 0, || format!("{} {}", asked.code, asked.text()))
}

/// A runtime handler without the hook is a way around the start gate, and is told at once.
pub fn way_around(suite: Suite) -> Result<()> {
    let node = Node::unconnected(suite)?;
    node.prepare_pods()?;
    let mut spec: serde_json::Value = serde_json::from_str(&node.run(&["ctr", "oci", "spec"])?.ok()?)?;
    let hook = "/usr/libexec/pullgate/verifiers/pullgate-verifier";
    spec["hooks"]["createRuntime"] =
        serde_json::json!([{ "path": hook, "args": ["pullgate-verifier", "create-runtime"], "timeout": 10 }]);
    node.write("/etc/pullgate/base-spec.json", spec.to_string())?;
    let section = match suite {
        Suite::Trixie => "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes",
        Suite::Forky => "[plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes",
    };
    let runc = "runtime_type = \"io.containerd.runc.v2\"\n";
    let handlers = format!(
        "\n{section}.runc]\n{runc}base_runtime_spec = \"/etc/pullgate/base-spec.json\"\n{section}.bare]\n{runc}"
    );
    node.connect_gates_with(&handlers)?;
    let (good, _) = images(&node)?;
    expect::admitted(&node, Path::CriPull, &good)?;
    walked(&node)?;
    let cursor = node.cursor()?;
    let pod = node.pod_of(pod_config("shop", "hooked"), "runc")??;
    // Whether the gate lets it start is not the question here.
    let _ = pod.run("web", &good.name, &SLEEP)?;
    let pod = node.pod_of(pod_config("shop", "bare"), "bare")??;
    let id = pod.run("web", &good.name, &SLEEP)??;
    let around = format!("container {}", &id[..11]);
    let told = said(&node, &cursor, "without the hook of the start gate", 1)?;
    expect::holds(told[0].message.starts_with(&around), || format!("{told:#?}"))?;
    let info: serde_json::Value =
        serde_json::from_str(&node.run(&["ctr", "-n", PODS, "containers", "info", &id])?.ok()?)?;
    let made: jiff::Timestamp = info["CreatedAt"].as_str().ok_or("no time")?.parse()?;
    let late = u128::from(told[0].at).saturating_sub(u128::try_from(made.as_microsecond())?);
    expect::holds(late < 1_000_000, || format!("told {late} us after it was made"))?;
    walked(&node)?;
    said(&node, &cursor, "without the hook of the start gate", 1)?;
    let status: serde_json::Value = serde_json::from_str(&node.run(&["pullgate", "status", "-o", "json"])?.stdout)?;
    expect::holds(status["watch"]["bypasses"] == 1, || status.to_string())
}

/// Quarantine removes the refused image, keeps what it must keep, and stops before it empties a node.
pub fn quarantine(suite: Suite) -> Result<()> {
    let node = Node::gated(suite)?;
    let (good, evil) = images(&node)?;
    expect::admitted(&node, Path::CtrPull, &good)?;
    let small = |name: &str| -> Result<Published> {
        let image = node.push(&format!("{name}:v1"), &Image::of_small_layers(name, 1)?)?;
        import(&node, "default", &image)?;
        Ok(image)
    };
    import(&node, "default", &evil)?;
    let run = ["ctr", "run", "--detach", "--net-host", &evil.name, "evil-1"];
    node.run(&[&run[..], &SLEEP].concat())?.ok()?;
    let (boot, pinned) = (small("demo/boot")?, small("demo/pinned")?);
    node.write("/etc/pullgate/boot.d/test.list", format!("{}\n", boot.digest()))?;
    let pin = ["ctr", "images", "label", &pinned.name, "io.cri-containerd.pinned=pinned"];
    node.run(&pin)?.ok()?;
    let far = small("demo/far")?;
    node.run(&["ctr", "images", "tag", &far.name, "127.0.0.1:1/demo/far:v1"])?.ok()?;
    node.run(&["ctr", "images", "rm", &far.name])?.ok()?;
    let keeps = "[[rule]]\nname = \"far\"\nimages = [\"127.0.0.1:1/**\"]\nrequire = { all = [\"demo\"] }\n";
    node.write(POLICY_FILE, policy_with(keeps))?;
    let config = format!(
        "{CONFIG}[registry.\"127.0.0.1:1\"]\n[quarantine]\nimages = true\nminutes-after-activation = 1\npercent-an-hour = 34\n"
    );
    node.write(CONFIG_FILE, &config)?;
    let cursor = node.cursor()?;
    node.reload()?;
    said(&node, &cursor, "is removed from this node", 1)?;
    let names = |namespace: &str| -> Result<Vec<String>> {
        Ok(node.image_records(namespace)?.into_iter().map(|record| record.name).collect())
    };
    node.wait_until("the refused image is gone", || Ok(!names("default")?.contains(&evil.name)))?;
    let left = names("default")?;
    for kept in [&good.name, &boot.name, &pinned.name, &"127.0.0.1:1/demo/far:v1".to_owned()] {
        expect::holds(left.contains(kept), || format!("{kept} is gone: {left:?}"))?;
    }
    let tasks = node.run(&["ctr", "tasks", "ls"])?.ok()?;
    expect::holds(tasks.contains("evil-1") && tasks.contains("RUNNING"), || format!("it was hurt: {tasks}"))?;

    // A policy that refuses everything.
    let many: Vec<Published> = (0..6).map(|number| small(&format!("demo/many-{number}"))).collect::<Result<_>>()?;
    let cursor = node.cursor()?;
    node.write(POLICY_FILE, "schema = 1\n[default]\nrequire = \"deny\"\n")?;
    node.reload()?;
    said(&node, &cursor, "quarantine removed 3 of", 1)?;
    let left = names("default")?;
    let gone = many.iter().filter(|image| !left.contains(&image.name)).count();
    expect::holds(gone <= 3 && left.contains(&boot.name) && left.contains(&pinned.name), || format!("{left:?}"))?;
    Ok(())
}
