//! The start gate: what a container is made of decides whether it starts, and the name that it was made with.

use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use super::expect;
use crate::node::{
    Image, Node, Path, Result, Suite,
    cri::{Answer, ContainerConfig, ContainerMetadata, ImageSpec, Mount},
    pod::{PODS, Pod, container_config, pod_config},
    product::{CONFIG, CONFIG_FILE, POLICY, POLICY_FILE, SERVICE, in_registry, policy_with},
    registry::Published,
    signing::Layout,
};

pub(super) const SLEEP: [&str; 3] = ["/bin/busybox", "sleep", "1000000"];
const RULES: &str = r#"
[[attestor]]
name = "release"
may-sign = ["signature"]
keys = [{ file = "/etc/pullgate/keys/release.pub", algorithm = "ecdsa-p256-sha256" }]
[[rule]]
name = "prod"
images = ["127.0.0.1:5000/prod/**"]
require = { all = ["release"] }
[[rule]]
name = "dev"
images = ["127.0.0.1:5000/dev/**"]
require = { all = ["demo"] }
"#;
/// A refused container keeps its name until it is removed.
static ATTEMPTS: AtomicU32 = AtomicU32::new(0);

impl Node {
    /// A node with pods whose every gate is connected; `before` is done to it while none is.
    fn with_start_gate(suite: Suite, before: impl FnOnce(&Self) -> Result<()>) -> Result<Self> {
        let node = Self::unconnected(suite)?;
        node.prepare_pods()?;
        let key = node.make_key("release")?;
        node.write("/etc/pullgate/keys/release.pub", node.read(&key)?)?;
        node.write(POLICY_FILE, policy_with(RULES))?;
        node.reload()?;
        before(&node)?;
        node.connect_start_gate("")?;
        Ok(node)
    }

    fn connect_start_gate(&self, more: &str) -> Result<()> {
        self.write_configuration(more)?;
        self.run(&["pullgate", "enable", "--start", "--restart", "--watch=1"])?.ok()?;
        Ok(())
    }

    /// Brings an image among those of pods without asking a gate about its layers, which are there or nowhere.
    pub(super) fn slip_in(&self, image: &Published, arguments: &[&str]) -> Result<()> {
        self.write("/var/tmp/slip.tar", image.archive()?)?;
        let import = ["ctr", "-n", PODS, "images", "import"];
        self.run(&[&import[..], arguments, &["/var/tmp/slip.tar"]].concat())?.ok()?;
        self.wait_until("pods can use it", || {
            Ok(self.pod_images()?.iter().any(|listed| listed.repo_tags.contains(&image.name)))
        })
    }
}

/// As the kubelet asks: by the identifier of the image, with the name that the pod says.
pub(super) fn as_kubelet(name: &str, image: &Image, called: &str, command: &[&str]) -> ContainerConfig {
    let image =
        ImageSpec { image: image.config_digest(), user_specified_image: called.to_owned(), ..ImageSpec::default() };
    ContainerConfig { image: Some(image), ..container_config(name, called, command) }
}

pub(super) fn run(pod: &Pod<'_>, mut config: ContainerConfig) -> Result<Answer<String>> {
    let attempt = ATTEMPTS.fetch_add(1, Ordering::Relaxed);
    config.metadata = config.metadata.map(|metadata| ContainerMetadata { attempt, ..metadata });
    pod.run_of(config)
}

/// A container of the image starts; it is removed again.
pub(super) fn starts(pod: &Pod<'_>, config: ContainerConfig) -> Result<()> {
    let said = format!("{:?}", config.image);
    let id = run(pod, config)?.map_err(|status| format!("{said} does not start: {}", status.message()))?;
    expect::holds(pod.is_running(&id)?, || format!("{said} does not run"))?;
    pod.remove_container(&id)
}

/// A container of the image does not start; returns what a person sees.
pub(super) fn refused(pod: &Pod<'_>, config: ContainerConfig, codes: &[&str]) -> Result<String> {
    let said = format!("{:?}", config.image);
    let message = match run(pod, config)? {
        Err(status) => status.message().to_owned(),
        Ok(_) => return Err(format!("{said} starts").into()),
    };
    let is_expected =
        codes.iter().any(|code| message.contains(&format!("{code} ")) || message.contains(&format!("{code}:")));
    expect::holds(is_expected && message.contains("pullgate why "), || format!("{said}: {message}"))?;
    Ok(message)
}

/// Nothing on the node decides about it, so it is refused and verified behind that, and then refused with these codes.
fn refused_twice(node: &Node, pod: &Pod<'_>, config: &dyn Fn() -> ContainerConfig, codes: &[&str]) -> Result<String> {
    refused(pod, config(), &["PG309"])?;
    refused_at_last(node, pod, config, codes)
}

/// As soon as it is verified, it is refused with these codes.
pub(super) fn refused_at_last(
    node: &Node,
    pod: &Pod<'_>,
    config: &dyn Fn() -> ContainerConfig,
    codes: &[&str],
) -> Result<String> {
    let mut last = String::new();
    node.wait_until("it was verified", || {
        last = refused(pod, config(), &[codes, &["PG309"]].concat())?;
        Ok(!last.contains("PG309"))
    })?;
    Ok(last)
}

/// Nothing on the node decides about it, so it is refused and verified behind that, and then it starts.
fn starts_at_last(node: &Node, pod: &Pod<'_>, config: &dyn Fn() -> ContainerConfig) -> Result<()> {
    refused(pod, config(), &["PG309"])?;
    starts_once_verified(node, pod, config)
}

pub(super) fn starts_once_verified(node: &Node, pod: &Pod<'_>, config: &dyn Fn() -> ContainerConfig) -> Result<()> {
    node.wait_until("it starts", || match run(pod, config())? {
        Ok(id) => pod.remove_container(&id).map(|()| true),
        Err(status) if status.message().contains("PG309") => Ok(false),
        Err(status) => Err(status.message().into()),
    })
}

pub fn what_it_is_made_of(suite: Suite) -> Result<()> {
    let busybox = |node: &Node| node.read("/usr/bin/busybox");
    let mut early = None;
    let node = Node::with_start_gate(suite, |node| {
        // Else the watch verifies what comes, sooner or later than a container starts.
        let unwatched = format!("{CONFIG}\n[watch]\nexempt-namespaces = [\"{PODS}\"]\n");
        node.write(CONFIG_FILE, unwatched)?;
        node.reload()?;
        // Unpacked before there was a gate.
        let signed = node.push("demo/before:v1", &Image::of_layers(&busybox(node)?, "before", 2)?)?;
        node.sign(&signed, "demo", Layout::usual(suite))?;
        let unsigned = node.push("demo/evil-before:v1", &Image::of_layers(&busybox(node)?, "evil-before", 2)?)?;
        for image in [&signed, &unsigned] {
            node.slip_in(image, &[])?;
        }
        early = Some((signed, unsigned));
        Ok(())
    })?;
    let pod = node.pod("shop", "one")?;
    let (signed, unsigned) = early.ok_or("nothing was brought")?;
    starts_at_last(&node, &pod, &|| container_config("x", &signed.name, &SLEEP))?;
    refused_twice(&node, &pod, &|| container_config("x", &unsigned.name, &SLEEP), &["PG101"])?;

    let good = node.push("demo/good:v1", &Image::of_layers(&busybox(&node)?, "good", 3)?)?;
    node.sign(&good, "demo", Layout::usual(suite))?;
    expect::admitted(&node, Path::CriPull, &good)?;
    let cursor = node.cursor()?;
    starts(&pod, container_config("x", &good.name, &SLEEP))?;
    starts(&pod, container_config("x", &good.image.config_digest(), &SLEEP))?;
    starts(&pod, as_kubelet("x", &good.image, &good.name, &SLEEP))?;
    starts(&pod, as_kubelet("x", &good.image, &good.by_digest(), &SLEEP))?;
    let entries = node.audit_since(&cursor)?;
    let allowed = entries.iter().filter(|entry| entry.gate == "start" && entry.verdict == "allow").count();
    expect::holds(allowed == 4 && entries.len() == 4, || format!("{entries:#?}"))?;

    // Its layers under another configuration: no gate was asked about them.
    let swapped = Image::running(good.image.layers.clone(), "swapped", &["/bin/busybox", "echo", "pwned"]);
    let swapped = node.push("demo/swapped:v1", &swapped)?;
    node.slip_in(&swapped, &[])?;
    let message = refused_twice(&node, &pod, &|| container_config("x", &swapped.name, &[]), &["PG101"])?;
    expect::holds(message.contains("DENY PG101 rule \"demo\": no signature for"), || message.clone())?;
    refused_at_last(&node, &pod, &|| as_kubelet("x", &swapped.image, &good.name, &[]), &["PG101"])?;

    // Its first layer alone, and none at all.
    let prefix = node.push("demo/prefix:v1", &good.image.rearranged(&[0], "prefix"))?;
    let empty = node.push("demo/empty:v1", &Image::running(Vec::new(), "empty", &SLEEP))?;
    for image in [&prefix, &empty] {
        node.slip_in(image, &[])?;
        refused_twice(&node, &pod, &|| container_config("x", &image.name, &SLEEP), &["PG101"])?;
    }
    node.sign(&empty, "demo", Layout::usual(suite))?;
    let cursor = node.cursor()?;
    node.wait_until("it is verified again", || {
        let answer: Answer<String> = run(&pod, container_config("x", &empty.name, &SLEEP))?;
        let message = answer.err().map(|status| status.message().to_owned()).unwrap_or_default();
        // There is nothing to run in it.
        Ok(message.contains("busybox") && !message.contains("pullgate why"))
    })?;
    let entries = node.audit_since(&cursor)?;
    let admitted = |image: &str| entries.iter().any(|entry| entry.verdict == "allow" && entry.image == image);
    expect::holds(admitted(&empty.name), || format!("{entries:#?}"))?;

    // Its very configuration by another manifest, which nobody signed, is the same image.
    let mut manifest: Value = serde_json::from_slice(&good.image.manifest)?;
    manifest["annotations"] = json!({ "other": "manifest" });
    let twin = Image { manifest: manifest.to_string().into_bytes(), ..good.image.clone() };
    let twin = node.push("demo/twin:v1", &twin)?;
    node.slip_in(&twin, &[])?;
    starts(&pod, container_config("x", &twin.name, &SLEEP))?;

    // Never unpacked: then the unpack gate is asked when the container is made.
    let packed = node.push("demo/packed:v1", &Image::of_layers(&busybox(&node)?, "packed", 2)?)?;
    node.slip_in(&packed, &["--no-unpack"])?;
    refused_at_last(&node, &pod, &|| container_config("x", &packed.name, &SLEEP), &["PG101"])?;

    // What the policy has admitted and does not admit any more.
    node.write(POLICY_FILE, POLICY.replace("require = { all = [\"demo\"] }", "require = \"deny\""))?;
    node.reload()?;
    refused(&pod, as_kubelet("x", &good.image, &good.name, &SLEEP), &["PG202"]).map(drop)
}

/// One image, admitted under one name, is not thereby admitted under another.
pub fn what_it_is_called(suite: Suite) -> Result<()> {
    let node = Node::with_start_gate(suite, |_| Ok(()))?;
    let image = node.push("dev/app:v1", &Image::of_layers(&node.read("/usr/bin/busybox")?, "app", 2)?)?;
    node.sign(&image, "demo", Layout::usual(suite))?;
    expect::admitted(&node, Path::CriPull, &image)?;
    let pod = node.pod("shop", "names")?;
    starts(&pod, as_kubelet("x", &image.image, &image.name, &SLEEP))?;
    starts(&pod, container_config("x", &image.image.config_digest(), &SLEEP))?;
    let prod = in_registry("prod/app:v1");
    let by_digest = format!("{}@{}", in_registry("prod/app"), image.digest());
    // The attestor of another rule signed it.
    refused_twice(&node, &pod, &|| as_kubelet("x", &image.image, &prod, &SLEEP), &["PG102"])?;
    let at_last = |config: &dyn Fn() -> ContainerConfig| refused_at_last(&node, &pod, config, &["PG102"]);
    at_last(&|| as_kubelet("x", &image.image, &by_digest, &SLEEP))?;
    node.run(&["ctr", "-n", PODS, "images", "tag", &image.name, &prod])?.ok()?;
    node.wait_until("pods can use the other name", || {
        Ok(node.pod_images()?.iter().any(|listed| listed.repo_tags.contains(&prod)))
    })?;
    at_last(&|| container_config("x", &prod, &SLEEP))?;
    // By its identifier alone it has both names by now.
    at_last(&|| container_config("x", &image.image.config_digest(), &SLEEP))?;
    for identifier in ["sha256:00", ""] {
        at_last(&|| as_kubelet("x", &image.image, identifier, &SLEEP))
            .map_err(|error| format!("{identifier:?}: {error}"))?;
    }
    for nonsense in ["reg.example/UPPER", "latest\nx"] {
        refused(&pod, as_kubelet("x", &image.image, nonsense, &SLEEP), &["PG201"])
            .map_err(|error| format!("{nonsense:?}: {error}"))?;
    }
    starts(&pod, as_kubelet("x", &image.image, &image.name, &SLEEP))?;

    // Annotations are whatever a pod's author writes.
    let mut forged = pod_config("shop", "forged");
    for (key, value) in [
        ("io.kubernetes.cri.sandbox-namespace", "kube-system"),
        ("io.kubernetes.cri.sandbox-name", "other"),
        ("io.kubernetes.cri.image-name", image.name.as_str()),
    ] {
        forged.annotations.insert(key.to_owned(), value.to_owned());
    }
    let forged = node.pod_of(forged, "")??;
    let cursor = node.cursor()?;
    let config = || {
        let mut config = as_kubelet("x", &image.image, &prod, &SLEEP);
        config.annotations.insert("io.kubernetes.cri.image-name".to_owned(), image.name.clone());
        config.annotations.insert("io.kubernetes.cri.sandbox-namespace".to_owned(), "kube-system".to_owned());
        config
    };
    refused_at_last(&node, &forged, &config, &["PG102"])?;
    let filter = [format!("--after-cursor={cursor}"), "PULLGATE_GATE=start".to_owned()];
    let entries = node.journal(&filter.each_ref().map(String::as_str))?;
    let field = |name: &str| entries.first().and_then(|entry| entry.get(name)).and_then(Value::as_str);
    expect::holds(
        (field("PULLGATE_POD_NAMESPACE"), field("PULLGATE_POD")) == (Some("shop"), Some("forged"))
            && field("PULLGATE_IMAGE") == Some(&prod)
            && field("PULLGATE_CONTAINER").is_some_and(|id| id.len() == 64),
        || format!("{entries:#?}"),
    )?;
    judged_as_long_as_it_runs(&node, &pod, &image)
}

/// What runs is judged under the name that it was made with, and what is mounted into it under its own, whatever else the
/// images are called by now.
fn judged_as_long_as_it_runs(node: &Node, pod: &Pod<'_>, image: &Published) -> Result<()> {
    let mut running = vec![run(pod, as_kubelet("x", &image.image, &image.name, &SLEEP))??];
    if node.suite == Suite::Forky {
        let other = node.push("demo/other:v1", &Image::of_layers(&node.read("/usr/bin/busybox")?, "other", 1)?)?;
        node.sign(&other, "demo", Layout::usual(node.suite))?;
        expect::admitted(node, Path::CriPull, &other)?;
        let mut config = as_kubelet("x", &other.image, &other.name, &SLEEP);
        let image = ImageSpec { image: image.name.clone(), ..ImageSpec::default() };
        let container_path = "/volume".to_owned();
        config.mounts = vec![Mount { container_path, readonly: true, image: Some(image), ..Mount::default() }];
        running.push(run(pod, config)??);
    }
    let cursor = node.cursor()?;
    let rules =
        RULES.replace("require = { all = [\"demo\"] }", "require = \"deny\"").replace("\"release\"] }", "\"demo\"] }");
    node.write(POLICY_FILE, policy_with(&rules))?;
    node.reload()?;
    starts_once_verified(node, pod, &|| as_kubelet("x", &image.image, &in_registry("prod/app:v1"), &SLEEP))?;
    let mut entries = Vec::new();
    for id in &running {
        let told = format!("container {} runs {}", &id[..11], image.name);
        node.wait_until(&told, || {
            entries = node.watched_since(&cursor)?;
            Ok(entries.iter().any(|entry| entry.code == "PG202" && entry.message.contains(&id[..11])))
        })
        .map_err(|error| format!("{error}: {entries:#?}"))?;
        let about = entries.iter().find(|entry| entry.message.contains(&id[..11]));
        expect::holds(about.is_some_and(|entry| entry.image == image.name), || format!("{told}: {entries:#?}"))?;
    }
    Ok(())
}

/// What runs once must not fail for good: what was admitted starts whatever is away or has just changed.
pub fn runs_once(suite: Suite) -> Result<()> {
    let node = Node::with_start_gate(suite, |_| Ok(()))?;
    let good = node.push("demo/good:v1", &Image::of_layers(&node.read("/usr/bin/busybox")?, "good", 2)?)?;
    node.sign(&good, "demo", Layout::usual(suite))?;
    expect::admitted(&node, Path::CriPull, &good)?;
    node.stop_registry()?;
    let pod = node.pod("shop", "once")?;
    let once = || as_kubelet("x", &good.image, &good.name, &["/bin/busybox", "true"]);
    let completes = |when: &str| -> Result<()> {
        let id = run(&pod, once())?.map_err(|status| format!("{when}: {}", status.message()))?;
        let code = pod.wait(&id)?;
        expect::holds(code == 0, || format!("{when}: exit code {code}"))?;
        pod.remove_container(&id)
    };
    completes("with a decision")?;
    node.write(POLICY_FILE, policy_with(&RULES.replace("prod", "other")))?;
    node.reload()?;
    completes("right after a change of the policy")?;
    node.systemctl(&["restart", SERVICE])?;
    completes("right after a restart of the daemon")?;
    node.restart_containerd()?;
    completes("right after a restart of containerd")?;
    for _ in 0..5 {
        node.kill_daemon()?;
        completes("right after the daemon was killed")?;
    }
    // It is killed while it is asked: the hook asks again.
    let killing = "for i in 1 2 3 4 5 6 7 8; do systemctl kill --signal=SIGKILL pullgate.service; sleep 0.2; done";
    let unit = "--unit=killing";
    node.run(&["systemd-run", "--quiet", "--collect", unit, "sh", "-c", killing])?.ok()?;
    for _ in 0..8 {
        completes("while the daemon is killed again and again")?;
    }
    node.wait_until("it is over", || Ok(!node.is_active("killing.service")?))?;
    // Without a daemon nothing starts, and that is said.
    node.systemctl(&["stop", SERVICE, "pullgate-gates.socket"])?;
    let cursor = node.cursor()?;
    let refusal = run(&pod, once())?.err().map(|status| status.message().to_owned()).unwrap_or_default();
    expect::holds(refusal.contains("RETRY PG408: pullgate is not there"), || format!("without a daemon: {refusal}"))?;
    node.run(&["journalctl", "--sync"])?.ok()?;
    let said = node.journal(&[&format!("--after-cursor={cursor}"), "PULLGATE_GATE=start", "PULLGATE_CODE=PG408"])?;
    expect::holds(said.len() == 1, || format!("{said:#?}"))?;
    node.systemctl(&["start", "pullgate-gates.socket", SERVICE])?;
    completes("after the daemon came back")
}
