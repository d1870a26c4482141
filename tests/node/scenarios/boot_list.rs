//! The boot list: seeded from what the node runs, and all that is left when everything else is broken.

use serde_json::Value;

use super::expect;
use crate::node::{
    Image, Node, Path, Result, Suite,
    image::Index,
    product::{CONFIG, CONFIG_FILE, POLICY, POLICY_FILE, SERVICE},
    registry::Published,
    signing::Layout,
};

const MANIFESTS: &str = "/etc/kubernetes/manifests";
const OWN_LIST: &str = "/etc/pullgate/boot.d/node.list";
const ALARM: &str = "is not in the boot list: after a broken policy no pod would start";
const CONTAINERD: &str = "/etc/containerd/config.toml";

/// A node in audit mode with what a cluster's node has: a sandbox image, a static pod, something in kube-system, and
/// something of somebody else's.
struct Cluster {
    node: Node,
    pause: Published,
    pause_foreign: Image,
    apiserver: Published,
    proxy: Published,
    shop: Published,
}

pub fn seeded(suite: Suite) -> Result<()> {
    let cluster = Cluster::set(suite)?;
    let node = &cluster.node;
    let before = node.cursor()?;
    cluster.status(0, "pause:3.10 is not on the node yet")?;
    cluster.arrives()?;
    // Each change is told once, however often it is asked for.
    for _ in 0..3 {
        cluster.status(1, ALARM)?;
    }
    cluster.told(&before, ALARM, 1)?;
    let line = node.property(SERVICE, "StatusText")?;
    expect::holds(line.contains(ALARM), || format!("the unit's status does not say it: {line}"))?;
    node.systemctl(&["restart", SERVICE])?;
    node.wait_until("the alarm at start", || Ok(node.property(SERVICE, "StatusText")?.contains(ALARM)))?;

    let proposed = cluster.proposed()?;
    let mut expected = cluster.essential_digests();
    expected.sort();
    expect::holds(proposed == expected, || format!("proposed {proposed:?}, not {expected:?}"))?;
    let shown = node.run(&["pullgate", "boot-list"])?.ok()?;
    for words in
        ["(sandbox image, kube-system)", "(static pod apiserver.yaml)", "k8s/absent:1", "pull it, then run this again"]
    {
        expect::holds(shown.contains(words), || format!("boot-list does not say `{words}`: {shown}"))?;
    }
    expect::holds(!node.outside(OWN_LIST).exists(), || "a look wrote the list".to_owned())?;

    let mine = format!("sha256:{}", "1".repeat(64));
    node.write("/etc/pullgate/boot.d/mine.list", format!("{mine}  # the administrator's\n"))?;
    node.write(OWN_LIST, format!("sha256:{}", "2".repeat(64)))?;
    node.run(&["pullgate", "boot-list", "--write"])?.ok()?;
    let written = String::from_utf8(node.read(OWN_LIST)?)?;
    expect::holds(written.lines().count() == 1 + expected.len(), || format!("node.list: {written}"))?;
    node.run(&["pullgate", "boot-list", "--write"])?.ok()?;
    expect::holds(node.read(OWN_LIST)? == written.as_bytes(), || "written twice".to_owned())?;
    cluster.status(1, ALARM)?;
    cluster.reloads(&format!("{} digests in {OWN_LIST}", 1 + expected.len()))?;
    cluster.status(0, &format!("{} digests in {OWN_LIST}", 1 + expected.len()))?;
    let status: Value = serde_json::from_str(&node.run(&["pullgate", "status", "-o", "json"])?.ok()?)?;
    expect::holds(status["sandbox"]["state"] == "listed", || format!("status: {status}"))?;

    // Another sandbox image, as an upgrade brings it.
    let bumped = node.push("k8s/pause:3.11", &Image::of_small_layers("pause 3.11", 1)?)?;
    cluster.configure_sandbox(&bumped.name)?;
    cluster.status(0, "pause:3.11 is not on the node yet")?;
    expect::admitted(node, Path::CriPull, &bumped)?;
    cluster.status(1, ALARM)?;
    node.write("/etc/pullgate/boot.d/more.list", bumped.digest())?;
    cluster.reloads("1 digest in /etc/pullgate/boot.d/more.list")?;
    cluster.status(0, "1 digest in /etc/pullgate/boot.d/more.list")?;

    cluster.without_pods()
}

/// A node whose configuration, policy and state are all lost.
pub fn all_else_broken(suite: Suite) -> Result<()> {
    let cluster = Cluster::set(suite)?;
    let node = &cluster.node;
    cluster.arrives()?;
    node.run(&["pullgate", "boot-list", "--write"])?.ok()?;
    let signed = node.push("demo/signed:v1", &Image::of_small_layers("signed", 2)?)?;
    node.sign(&signed, "demo", Layout::usual(suite))?;
    let boots = [&cluster.pause, &cluster.apiserver, &cluster.proxy];
    for (config, policy, code, place) in [
        (CONFIG, "schema = 1\n[defualt]\n", "PG402", "policy.toml:2"),
        ("mdoe = \"enforce\"\n", POLICY, "PG403", "config.toml:1"),
        ("\0", "\0", "PG403", "config.toml:1"),
    ] {
        node.systemctl(&["stop", SERVICE, "containerd.service"])?;
        node.sh("rm -rf /var/lib/pullgate/*")?.ok()?;
        node.write(CONFIG_FILE, config)?;
        node.write(POLICY_FILE, policy)?;
        node.wait_for_containerd()?;
        node.systemctl(&["start", SERVICE])?;
        for path in Path::of(suite) {
            for image in boots {
                node.clean()?;
                expect::admitted(node, *path, image)?;
            }
            for image in [&cluster.shop, &signed] {
                node.clean()?;
                let message = expect::refused(node, *path, image, &[code])?;
                expect::holds(message.contains(place), || format!("the message does not say where: {message}"))?;
            }
        }
        node.clean()?;
        expect::admitted(node, Path::CriPull, &cluster.pause)?;
        cluster.status(1, place)?;
        cluster.status(1, "none; only the boot list is admitted")?;
        cluster.status(1, &format!("{} digests in {OWN_LIST}", cluster.essential_digests().len()))?;
        let shown = node.run(&["pullgate", "boot-list"])?;
        expect::holds(shown.text().contains(&cluster.pause.digest()), || shown.text())?;
    }
    // A list that is mended by hand counts with the next pull, as the files do.
    node.write("/etc/pullgate/boot.d/mine.list", cluster.shop.digest())?;
    node.clean()?;
    expect::admitted(node, Path::CriPull, &cluster.shop)?;
    // Neither registry nor network.
    node.stop_registry()?;
    node.clean()?;
    expect::admitted(node, Path::CtrImportLocal, &cluster.pause)
}

/// Who connects containerd sees what would be listed, and it is listed unless they say otherwise.
pub fn by_enable(suite: Suite) -> Result<()> {
    let cluster = Cluster::set(suite)?;
    let node = &cluster.node;
    cluster.arrives()?;
    let run = |arguments: &[&str]| node.run(&[&["pullgate"], arguments].concat())?.ok();
    let says = |text: &str, words: &str| expect::holds(text.contains(words), || format!("no `{words}` in: {text}"));
    says(&run(&["enable"])?, "pullgate boot-list --write")?;
    run(&["disable", "--restart", "--watch=1"])?;
    let shown = run(&["enable"])?;
    for words in ["(sandbox image, kube-system)", "(static pod apiserver.yaml)", "whoever brought it"] {
        says(&shown, words)?;
    }
    run(&["enable", "--restart", "--watch=1", "--no-boot-list"])?;
    run(&["disable", "--restart", "--watch=1"])?;
    expect::holds(!node.outside(OWN_LIST).exists(), || "the list was written all the same".to_owned())?;
    says(&run(&["enable", "--restart", "--watch=1"])?, "added to the boot list")?;
    node.wait_until("no alarm any more", || Ok(node.run(&["pullgate", "status"])?.success()))?;
    let listed = String::from_utf8(node.read(OWN_LIST)?)?;
    for digest in cluster.essential_digests() {
        says(&listed, &digest)?;
    }
    says(&run(&["status", "-o", "json"])?, "\"unpack\": \"live\"")
}

impl Cluster {
    fn set(suite: Suite) -> Result<Self> {
        let node = Node::gated(suite)?;
        node.configure(&CONFIG.replace("enforce", "audit"), POLICY)?;
        let image = |name: &str| Image::of_small_layers(name, 2);
        let (native, foreign) = (image("pause")?, image("pause elsewhere")?);
        let pause = node.push_index("k8s/pause:3.10", &Index::new(native, foreign.clone()))?;
        let push = |name: &str| node.push(&format!("k8s/{name}:1"), &image(name)?);
        let (apiserver, proxy, shop) = (push("apiserver")?, push("proxy")?, push("shop")?);
        let cluster = Self { node, pause, pause_foreign: foreign, apiserver, proxy, shop };
        cluster.configure_sandbox(&cluster.pause.name)?;
        Ok(cluster)
    }

    fn arrives(&self) -> Result<()> {
        let node = &self.node;
        for image in [&self.pause, &self.apiserver, &self.proxy, &self.shop] {
            expect::admitted(node, Path::CriPull, image)?;
        }
        let pod = |images: &[&str]| {
            let containers: Vec<String> = images.iter().map(|image| format!("  - image: {image}\n")).collect();
            format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: x}}\nspec:\n  containers:\n{}", containers.concat())
        };
        node.write(&format!("{MANIFESTS}/apiserver.yaml"), pod(&[&self.apiserver.name]))?;
        node.write(&format!("{MANIFESTS}/absent.json"), pod(&["127.0.0.1:5000/k8s/absent:1", "x@sha256:1"]))?;
        for (name, namespace, image) in [
            ("proxy", "kube-system", &self.proxy),
            ("sandbox-of-proxy", "kube-system", &self.pause),
            ("shop", "shop", &self.shop),
        ] {
            let label = format!("io.kubernetes.pod.namespace={namespace}");
            node.run(&["ctr", "-n", "k8s.io", "containers", "create", "--label", &label, &image.name, name])?.ok()?;
        }
        Ok(())
    }

    fn essential_digests(&self) -> Vec<String> {
        vec![self.pause.digest(), self.pause.image.digest(), self.apiserver.digest(), self.proxy.digest()]
    }

    /// What `pullgate boot-list` would add, in order.
    fn proposed(&self) -> Result<Vec<String>> {
        let told: Value = serde_json::from_str(&self.node.run(&["pullgate", "boot-list", "-o", "json"])?.ok()?)?;
        let missing = told["missing"].as_array().ok_or_else(|| format!("boot-list -o json: {told}"))?;
        let mut digests: Vec<String> =
            missing.iter().filter_map(|entry| Some(entry["digest"].as_str()?.to_owned())).collect();
        digests.sort();
        expect::holds(!digests.contains(&self.pause_foreign.digest()), || "another platform's image".to_owned())?;
        Ok(digests)
    }

    /// containerd starts every pod with `image` from now on.
    fn configure_sandbox(&self, image: &str) -> Result<()> {
        let text = String::from_utf8(self.node.read(CONTAINERD)?)?;
        let kept = text.lines().filter(|line| !line.trim_start().starts_with(SANDBOX_KEY));
        let mut text: String = kept.flat_map(|line| [line, "\n"]).collect();
        let (section, key) = match self.node.suite {
            Suite::Trixie => ("[plugins.\"io.containerd.grpc.v1.cri\"]\n", "sandbox_image"),
            Suite::Forky => ("[plugins.\"io.containerd.cri.v1.images\".pinned_images]\n", "sandbox"),
        };
        if !text.contains(section) {
            text += section;
        }
        self.node.write(CONTAINERD, text.replace(section, &format!("{section}{key} = \"{image}\"\n")))?;
        self.node.restart_containerd()
    }

    /// Where containerd serves no pods there is nothing to be alarmed about.
    fn without_pods(&self) -> Result<()> {
        let text = String::from_utf8(self.node.read(CONTAINERD)?)?;
        let disabled = format!("disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n{text}");
        self.node.write(CONTAINERD, disabled)?;
        self.node.restart_containerd()?;
        let status: Value = serde_json::from_str(&self.node.run(&["pullgate", "status", "-o", "json"])?.ok()?)?;
        expect::holds(status["sandbox"]["state"] == "no-pods", || format!("status: {status}"))
    }

    /// Reads the files again, after which that shows.
    fn reloads(&self, words: &str) -> Result<()> {
        self.node.reload()?;
        let status = self.node.run(&["pullgate", "status"])?.text();
        expect::holds(status.contains(words), || format!("{words}: {status}"))
    }

    fn status(&self, code: i32, words: &str) -> Result<()> {
        let output = self.node.run(&["pullgate", "status"])?;
        expect::holds(output.code == code && output.text().contains(words), || {
            format!("status must end with {code} and say `{words}`, and ended with {}: {}", output.code, output.text())
        })
    }

    /// The journal says `words` so many times since `cursor`.
    fn told(&self, cursor: &str, words: &str, times: usize) -> Result<()> {
        self.node.run(&["journalctl", "--sync"])?.ok()?;
        let since = format!("--after-cursor={cursor}");
        let entries = self.node.journal(&[&since, "_SYSTEMD_UNIT=pullgate.service"])?;
        let message = |entry: &Value| entry["MESSAGE"].as_str().is_some_and(|message| message.contains(words));
        let found = entries.iter().filter(|entry| message(entry)).count();
        expect::holds(found == times, || format!("the journal says it {found} times: {entries:?}"))
    }
}

/// `sandbox = …` of containerd 2.x and `sandbox_image = …` of 1.7.
const SANDBOX_KEY: &str = "sandbox";
