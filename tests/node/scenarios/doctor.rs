//! `pullgate doctor`: each way around is named, nothing else with it, and its mend closes it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::expect;
use crate::node::{
    Image, Node, Path, Result, Suite,
    cri::Mount,
    machine::Output,
    pod::container_config,
    product::{CONFIG, CONFIG_FILE, POLICY, SERVICE, SOCKETS, in_registry},
    signing::Layout,
};

const MAIN: &str = "/etc/containerd/config.toml";
const VERIFIERS: &str = "/usr/libexec/pullgate/verifiers";

/// One change of the node, and what it comes to: `check STATE`, and a word of what is said about it.
struct Case {
    suites: &'static [Suite],
    script: &'static str,
    expected: &'static [&'static str],
    words: &'static str,
}

const fn both(script: &'static str, expected: &'static [&'static str], words: &'static str) -> Case {
    Case { suites: &Suite::ALL, script, expected, words }
}

const fn with_verifiers(script: &'static str, expected: &'static [&'static str], words: &'static str) -> Case {
    Case { suites: &[Suite::Forky], script, expected, words }
}

/// `$files` are containerd's, `$own` the one with pullgate's lines, `$images` and `$runtimes` CRI's sections.
const CONFIGURATIONS: &[Case] = &[
    both(
        "sed -i 's/\\[\"pullgate\", \"walking\"\\]/[\"walking\"]/' $files",
        &["diff-service OPEN"],
        "and not pullgate",
    ),
    both(
        "sed -i 's/\\[\"pullgate\", \"walking\"\\]/[\"walking\", \"pullgate\"]/' $files",
        &["diff-service OPEN"],
        "what walking applies, pullgate never sees",
    ),
    both(
        "sed -i 's/\\[\"pullgate\", \"walking\"\\]/[\"pullgate\", \"pullgate-transfer\", \"walking\"]/' $files",
        &["diff-loop warning"],
        "a loop",
    ),
    both(
        "sed -i 's,/run/pullgate/diff.sock,/run/elsewhere.sock,' $files",
        &["diff-proxies OPEN"],
        "/run/elsewhere.sock",
    ),
    both(
        "sed -i 's/differ = \"pullgate-transfer\"/differ = \"walking\"/' $files",
        &["transfer-unpack OPEN"],
        "with walking",
    ),
    both(
        "printf '[proxy_plugins.stargz]\\n  type = \"snapshot\"\\n  address = \"/run/stargz.sock\"\\n' >> $main",
        &["remote-snapshotter OPEN"],
        "snapshotter stargz",
    ),
    with_verifiers("sed -i '/bin_dir/a max_verifiers = 0' $own", &["verifier-order OPEN"], "max_verifiers = 0"),
    with_verifiers(
        "sed -i '/bin_dir/a per_verifier_timeout = \"5s\"' $own",
        &["verifier-timeout warning"],
        "waits 5 s",
    ),
    with_verifiers(
        "sed -i 's,^ *bin_dir = .*,bin_dir = \"/opt/nowhere\",' $own",
        &["verifier-directory OPEN"],
        "is not there: every image passes",
    ),
    with_verifiers(
        "sed -i '1i disabled_plugins = [\"io.containerd.image-verifier.v1.bindir\"]' $main",
        &["transfer-unpack warning", "verifier-plugin OPEN"],
        "disabled_plugins",
    ),
    with_verifiers(
        "printf '[plugins.\"%s\"]\\nuse_local_image_pull = true\\n' $images >> $main",
        LOCAL,
        "use_local_image_pull",
    ),
    with_verifiers(
        "printf '[plugins.\"%s\"]\\ndisable_snapshot_annotations = false\\n' $images >> $main",
        LOCAL,
        "disable_snapshot_annotations",
    ),
    with_verifiers(
        "printf '[plugins.\"%s\"]\\ndiscard_unpacked_layers = true\\n' $images >> $main",
        LOCAL,
        "discard_unpacked_layers",
    ),
    with_verifiers(
        "printf '[plugins.\"%s\"]\\nimage_pull_with_sync_fs = true\\n' $images >> $main",
        LOCAL,
        "image_pull_with_sync_fs",
    ),
    with_verifiers(
        "printf '[plugins.\"%s\"]\\nmax_concurrent_downloads = 5\\n' $images >> $main",
        LOCAL,
        "max_concurrent_downloads = 5",
    ),
    with_verifiers(
        "printf '[plugins.\"%s\".registry.mirrors.\"a.example\"]\\nendpoint = [\"http://b.example\"]\\n' $images >> $main",
        LOCAL,
        "registry.mirrors",
    ),
];

const LOCAL: &[&str] = &["cri-local-pull warning"];

/// Each mistake in containerd's configuration.
pub fn configurations(suite: Suite) -> Result<()> {
    let stage = Stage::set(suite)?;
    let node = &stage.node;
    for case in CONFIGURATIONS.iter().filter(|case| case.suites.contains(&suite)) {
        node.sh("rm -rf /run/kept && cp -a /etc/containerd /run/kept")?.ok()?;
        stage.sh(case.script)?;
        // It shows before containerd reads it.
        let unread = stage.more()?;
        expect::holds(unread.iter().any(|it| it.starts_with("configuration-not-read OPEN")), || {
            format!("{}: not read, and nobody says so: {unread:?}", case.script)
        })?;
        stage.restart()?;
        stage.finds(case)?;
        node.sh("cp -a /run/kept/. /etc/containerd/")?.ok()?;
        stage.restart()?;
        stage.is_mended(case.script)?;
    }
    Ok(())
}

const PROGRAMS: &[Case] = &[
    with_verifiers(
        "mv $verifier /run/kept",
        &["base-spec warning", "verifier-directory OPEN"],
        "is empty: every image passes",
    ),
    with_verifiers("chmod a-x $verifier", &["base-spec warning", "verifier-directory warning"], "every pull fails"),
    with_verifiers("mkdir $verifiers/data", &["verifier-programs warning"], "is no program"),
    with_verifiers(
        "for n in 0 1 2 3 4 5 6 7 8 9; do cp /bin/true $verifiers/a$n; done",
        &["verifier-order OPEN"],
        "containerd runs the first 10 of 11 verifiers",
    ),
    with_verifiers("chmod o+w $verifiers", &["verifier-writable OPEN"], "by others than root"),
    with_verifiers("chmod 755 /run/nri; chmod 777 /run/nri/nri.sock", &["nri-socket OPEN"], "others than root"),
    both("touch /etc/containerd/config.toml", &["configuration-not-read OPEN"], "changed after containerd was started"),
    both(
        "mkdir -p /run/systemd/system/pullgate.service.d; \
         printf '[Service]\\nLogRateLimitBurst=1000\\n' > /run/systemd/system/pullgate.service.d/x.conf; \
         systemctl daemon-reload",
        &["journal-rate-limit warning"],
        "beyond 1000 in 1s",
    ),
    both("systemctl disable -q pullgate-gates.socket", &["daemon-sockets warning"], "does not come back after a boot"),
    both(
        "mkdir -p /etc/second; printf 'version = 2\\nroot = \"/var/lib/second\"\\nstate = \"/run/second\"\\n\
         disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\\n[grpc]\\n  address = \"/run/second/containerd.sock\"\\n\
         [plugins.\"io.containerd.internal.v1.opt\"]\\n  path = \"/var/lib/second/opt\"\\n' > /etc/second/config.toml; \
         systemd-run -q --unit=second -p Type=notify /usr/bin/containerd --config /etc/second/config.toml",
        &["other-containerd OPEN"],
        "/etc/second/config.toml",
    ),
    with_verifiers(
        "sed -i 's/\"containerd-snapshotter\":true/\"containerd-snapshotter\":false/' /etc/docker/daemon.json; \
         systemctl restart docker",
        &["other-engine warning"],
        "docker unpacks images by itself",
    ),
    both(
        "sed -i 's/\"enforce\"/\"audit\"/' /etc/pullgate/config.toml; systemctl restart pullgate",
        &["mode OPEN"],
        "in audit mode",
    ),
];

/// What takes each of [`PROGRAMS`] back.
const BACK: &str = "[ ! -e /run/kept ] || mv /run/kept $verifier; chmod 755 $verifier $verifiers; rm -rf $verifiers/data $verifiers/a?; \
    chmod -f 700 /run/nri; chmod -f 755 /run/nri/nri.sock; rm -f /run/systemd/system/pullgate.service.d/x.conf; systemctl daemon-reload; \
    systemctl enable -q pullgate-gates.socket; systemctl stop second 2>/dev/null; \
    sed -i 's/\"audit\"/\"enforce\"/' /etc/pullgate/config.toml; systemctl restart pullgate; \
    if grep -qs 'containerd-snapshotter\":false' /etc/docker/daemon.json; then \
    sed -i 's/snapshotter\":false/snapshotter\":true/' /etc/docker/daemon.json; systemctl restart docker; fi; true";

/// Each mistake that containerd's configuration does not say.
pub fn around(suite: Suite) -> Result<()> {
    let stage = Stage::set(suite)?;
    let node = &stage.node;
    for case in PROGRAMS.iter().filter(|case| case.suites.contains(&suite)) {
        node.sh("rm -rf /run/kept")?.ok()?;
        stage.sh(case.script)?;
        stage.finds(case)?;
        stage.sh(BACK)?;
        if case.expected.contains(&"configuration-not-read OPEN") {
            stage.restart()?;
        }
        stage.is_mended(case.script)?;
    }
    Ok(())
}

const HANDLERS: &[Case] = &[
    both(
        "printf '[plugins.\"%s\".containerd.runtimes.gpu]\\n  runtime_type = \"io.containerd.runc.v2\"\\n' $runtimes >> $main",
        &["handler-hook OPEN"],
        "handler gpu has no base spec",
    ),
    both("ctr oci spec > $spec", &["handler-hook OPEN"], "has no start hook in its base spec"),
    both("sed -i 's/\"terminal\": *[a-z]*/\"terminal\": true/; 1s/$/ /' $spec", &["base-spec warning"], "was edited"),
    both(
        "printf '[plugins.\"%s\".containerd.runtimes.kata]\\n  runtime_type = \"io.containerd.kata.v2\"\\n' $runtimes >> $main",
        &["handler-kind OPEN"],
        "handler kata is io.containerd.kata.v2, which runs no hooks",
    ),
];

/// Handlers that others add, base specs that others write: said, and mended as it is said.
pub fn handlers(suite: Suite) -> Result<()> {
    let stage = Stage::set(suite)?;
    let node = &stage.node;
    for case in HANDLERS {
        let main = node.read(MAIN)?;
        stage.sh(case.script)?;
        stage.restart()?;
        stage.finds(case)?;
        let mend = "pullgate enable --start --restart";
        let said = stage.findings()?.1;
        let said = said.iter().any(|it| it["state"] != "closed" && it["mend"] == mend);
        if said && !case.expected.contains(&"handler-kind OPEN") {
            node.systemctl(&["reset-failed", "containerd.service"])?;
            node.sh(&format!("{mend} --watch=1"))?.ok()?;
        } else {
            node.write(MAIN, main)?;
            stage.restart()?;
        }
        stage.is_mended(case.script)?;
    }
    Ok(())
}

/// Somebody else's tools at work: a later file resets the lists, a handler is added, the sandbox image changes.
pub fn tools_of_others(suite: Suite) -> Result<()> {
    let stage = Stage::set(suite)?;
    let node = &stage.node;
    let late = "/etc/containerd/conf.d/zzz.toml";
    stage.sh("cp -a /etc/containerd /run/kept; sed -i '/^imports/d; s,^version.*,&\\nimports = [\"/etc/containerd/conf.d/*.toml\"],' $main")?;
    node.write(
        late,
        "version = 2\n[plugins.\"io.containerd.service.v1.diff-service\"]\n  default = [\"walking\"]\n\
         [[plugins.\"io.containerd.transfer.v1.local\".unpack_config]]\n  platform = \"linux/amd64\"\n  \
         snapshotter = \"overlayfs\"\n",
    )?;
    stage.restart()?;
    let findings = stage.examined(1)?;
    for (check, line) in [("diff-service", 3), ("transfer-unpack", 4)] {
        let found = findings.iter().find(|it| it["check"] == check && it["state"] == "open");
        let found = found.ok_or_else(|| format!("{check} is not told: {findings:?}"))?;
        expect::holds(found["place"] == json!({ "file": late, "line": line }), || format!("where it is: {found}"))?;
        let mend = found["mend"].as_str().unwrap_or_default();
        expect::holds(mend.contains(late) && mend.contains("pullgate enable --restart"), || format!("mend: {mend}"))?;
    }
    let page = node.run(&["pullgate", "doctor", "--no-self-test"])?;
    expect::holds(
        page.code == 1 && page.stdout.contains(&format!("at    {late}:3")) && page.stdout.contains("OPEN: unpack"),
        || format!("the page: {}", page.text()),
    )?;
    stage.sh("rm /etc/containerd/conf.d/zzz.toml; cp -a /run/kept/. /etc/containerd/")?;
    stage.restart()?;
    stage.is_mended("a later file")?;

    // As an upgrade of the cluster brings it: here, and not in the boot list.
    let bumped = node.push("k8s/pause:9", &Image::of_small_layers("pause", 1)?)?;
    node.configure(&CONFIG.replace("enforce", "audit"), POLICY)?;
    expect::admitted(node, Path::CriPull, &bumped)?;
    node.configure(CONFIG, POLICY)?;
    let section = match suite {
        Suite::Trixie => format!("sed -i 's,sandbox_image = .*,sandbox_image = \"{}\",' $main", bumped.name),
        Suite::Forky => format!("sed -i 's,sandbox = .*,sandbox = \"{}\",' $main", bumped.name),
    };
    stage.sh(&section)?;
    stage.restart()?;
    let more = stage.more()?;
    expect::holds(more.len() == 1 && more[0].starts_with("boot-list warning"), || {
        format!("a new sandbox image: {more:?}")
    })?;
    node.run(&["pullgate", "boot-list", "--write"])?.ok()?;
    node.reload()?;
    node.wait_until("the new sandbox image is listed", || Ok(stage.more()?.is_empty()))
}

/// Containers that could speak to a gate, by every spelling, of pods and of other clients.
pub fn mounts(suite: Suite) -> Result<()> {
    let stage = Stage::set(suite)?;
    let node = &stage.node;
    let image = node.push("demo/app:v1", &Image::of_layers(&node.read("/usr/bin/busybox")?, "app", 2)?)?;
    node.sign(&image, "demo", Layout::usual(suite))?;
    expect::admitted(node, Path::CriPull, &image)?;
    let pod = node.pod("shop", "web-0")?;
    let create = |name: &str, mounts: &[(&str, bool)]| -> Result<String> {
        let mut config = container_config(name, &image.name, &["/bin/busybox", "true"]);
        config.mounts = mounts
            .iter()
            .enumerate()
            .map(|(number, (host, readonly))| Mount {
                container_path: format!("/host/{number}"),
                host_path: (*host).to_owned(),
                readonly: *readonly,
                ..Mount::default()
            })
            .collect();
        Ok(pod.create(config)??)
    };
    node.sh("mkdir -p /srv/data; ln -s /run/containerd /srv/link")?.ok()?;
    create("plain", &[("/srv/data", false), ("/etc/containerd", true)])?;
    stage.is_mended("a container with harmless mounts")?;
    for (host, words) in [
        ("/", "pullgate's sockets"),
        ("/var/run", "containerd's socket"),
        ("/srv/link", "containerd's socket"),
        ("/run/pullgate/diff.sock", "pullgate's sockets"),
        ("/var/lib/pullgate", "pullgate's state"),
    ] {
        let id = create("agent", &[("/srv/data", false), (host, false)])?;
        let more = stage.more()?;
        expect::holds(
            more.len() == 1
                && more[0].starts_with("mounted-node-paths OPEN container agent of pod shop/web-0 mounts")
                && more[0].contains(words)
                && !more[0].contains("/srv/data"),
            || format!("{host}: {more:?}"),
        )?;
        pod.remove_container(&id)?;
        stage.is_mended(host)?;
    }
    let config = node.read(CONFIG_FILE)?;
    let config = String::from_utf8_lossy(&config).into_owned();
    let id = create("agent", &[("/", true)])?;
    for (pod_name, state) in [("web-*", "warning"), ("db-*", "OPEN")] {
        let repository = in_registry("demo/app");
        let table =
            format!("[[doctor.acknowledged]]\nnamespace = \"shop\"\npod = \"{pod_name}\"\nimage = \"{repository}\"\n");
        node.write(CONFIG_FILE, format!("{config}\n{table}"))?;
        node.reload()?;
        let more = stage.more()?;
        let expected = format!("mounted-node-paths {state} container agent of pod shop/web-0 mounts /");
        expect::holds(more.len() == 1 && more[0].starts_with(&expected), || format!("{pod_name}: {more:?}"))?;
    }
    node.write(CONFIG_FILE, config)?;
    node.reload()?;
    pod.remove_container(&id)?;
    stage.is_mended("what was acknowledged")?;
    pod.remove()?;
    node.run(&[
        "ctr",
        "-n",
        "k8s.io",
        "containers",
        "create",
        "--mount",
        "type=bind,src=/run,dst=/host,options=rbind:ro",
        &image.name,
        "by-ctr",
    ])?
    .ok()?;
    let more = stage.more()?;
    expect::holds(more.len() == 1 && more[0].contains("container by-ctr in namespace k8s.io mounts /run"), || {
        format!("a container of ctr: {more:?}")
    })?;
    node.run(&["ctr", "-n", "k8s.io", "containers", "delete", "by-ctr"])?.ok()?;
    stage.is_mended("a container of ctr")
}

/// Without the daemon, without containerd, without root: what cannot be looked at is not called closed.
pub fn without(suite: Suite) -> Result<()> {
    let stage = Stage::set(suite)?;
    let node = &stage.node;
    let page = node.run(&["pullgate", "doctor"])?;
    expect::holds(page.stdout.lines().all(|line| line.chars().count() <= 80), || format!("wide: {}", page.stdout))?;
    node.systemctl(&["stop", SOCKETS, SERVICE])?;
    let more = stage.more()?;
    for words in ["daemon unknown the daemon does not answer", "mode unknown", "daemon-sockets warning"] {
        expect::holds(more.iter().any(|it| it.starts_with(words)), || format!("without a daemon: {more:?}"))?;
    }
    expect::holds(!more.iter().any(|it| it.contains(" OPEN ")), || format!("without a daemon: {more:?}"))?;
    node.systemctl(&["start", SOCKETS, SERVICE])?;
    node.wait_until("the daemon is back", || Ok(stage.more()?.is_empty()))?;

    node.systemctl(&["stop", "containerd.service"])?;
    let more = stage.more()?;
    for words in ["diff-proxies unknown containerd does not answer", "mounted-node-paths unknown"] {
        expect::holds(more.iter().any(|it| it.starts_with(words)), || format!("without containerd: {more:?}"))?;
    }
    // Its files are looked at all the same.
    stage.sh("cp -a $own /run/kept; sed -i 's/\\[\"pullgate\", \"walking\"\\]/[\"walking\"]/' $files")?;
    let more = stage.more()?;
    expect::holds(more.iter().any(|it| it.starts_with("diff-service OPEN")), || format!("the files: {more:?}"))?;
    stage.sh("cp -a /run/kept $own")?;
    node.wait_for_containerd()?;
    stage.is_mended("no containerd")?;

    node.write("/etc/pullgate/config.toml", "mdoe = \"enforce\"\n")?;
    let more = stage.more()?;
    let named = more.iter().any(|it| it.starts_with("own-configuration warning") && it.contains(":1"));
    let open = more.iter().any(|it| it.contains(" OPEN "));
    expect::holds(named && !open, || format!("a broken config.toml: {more:?}"))?;
    node.configure(CONFIG, POLICY)?;
    let plain = node.run(&["setpriv", "--reuid=65534", "--clear-groups", "pullgate", "doctor"])?;
    expect::holds(plain.code == 3 && plain.stderr.contains("run this as root"), || plain.text())?;
    node.disconnect_gates()?;
    let more = stage.more()?;
    let told = |check: &str| more.iter().any(|it| it.starts_with(&format!("{check} OPEN")));
    let once = more.iter().filter(|it| !it.starts_with("checkpoint-restore")).count() == 2;
    expect::holds(once && told("connected") && told("handler-hook"), || format!("not connected: {more:?}"))
}

/// A node with every gate that this can be made with, and what is found on it then.
struct Stage {
    node: Node,
    before: BTreeSet<String>,
}

impl Stage {
    fn set(suite: Suite) -> Result<Self> {
        let node = Node::gated_with_pods(suite)?;
        node.run(&["pullgate", "enable", "--start", "--restart", "--watch=1"])?.ok()?;
        let mut stage = Self { node, before: BTreeSet::new() };
        // The first walk over the node may take a moment.
        stage.node.wait_until("the node was looked over", || {
            Ok(!told(&stage.findings()?.1).iter().any(|it| it.starts_with("watch-not-admitted unknown")))
        })?;
        stage.before = told(&stage.findings()?.1);
        // A node in order has nothing to tell.
        expect::holds(stage.before.is_empty(), || format!("before anything was changed: {:?}", stage.before))?;
        Ok(stage)
    }

    /// As often as the cases want it: systemd counts starts.
    fn restart(&self) -> Result<()> {
        self.node.systemctl(&["reset-failed", "containerd.service"])?;
        self.node.restart_containerd()
    }

    /// Runs a script that knows containerd's files by their names.
    fn sh(&self, script: &str) -> Result<()> {
        let (own, images, runtimes) = match self.node.suite {
            Suite::Trixie => (MAIN, "io.containerd.grpc.v1.cri", "io.containerd.grpc.v1.cri"),
            Suite::Forky => (
                "/etc/containerd/conf.d/99-pullgate.toml",
                "io.containerd.cri.v1.images",
                "io.containerd.cri.v1.runtime",
            ),
        };
        let names = format!(
            "main={MAIN}; own={own}; spec=/etc/pullgate/base-spec.json; images={images}; runtimes={runtimes}; verifiers={VERIFIERS}; \
             verifier={VERIFIERS}/pullgate-verifier; files=$(ls /etc/containerd/config.toml /etc/containerd/conf.d/*.toml 2>/dev/null); "
        );
        self.node.sh(&format!("{names}{script}"))?.ok().map(drop)
    }

    fn findings(&self) -> Result<(i32, Vec<Value>)> {
        let Output { code, stdout, stderr } = self.node.run(&["pullgate", "doctor", "--no-self-test", "-o", "json"])?;
        let document: Value = serde_json::from_str(&stdout).map_err(|error| format!("{error}: {stdout}{stderr}"))?;
        let findings = document["findings"].as_array().ok_or("no findings")?.clone();
        let state = |state: &str| findings.iter().any(|finding| finding["state"] == state);
        let expected = if state("open") {
            1
        } else if state("unknown") {
            3
        } else {
            0
        };
        expect::holds(code == expected, || format!("ended with {code}: {stdout}"))?;
        Ok((code, findings))
    }

    fn examined(&self, code: i32) -> Result<Vec<Value>> {
        let (ended, findings) = self.findings()?;
        expect::holds(ended == code, || format!("ended with {ended}: {findings:?}"))?;
        Ok(findings)
    }

    /// What is told and was not before, but for the note that a file of `enable` is another, and for what the watch thinks
    /// of the images that the scenarios bring.
    fn more(&self) -> Result<Vec<String>> {
        let now = told(&self.findings()?.1);
        Ok(now
            .difference(&self.before)
            .filter(|it| !it.starts_with("configuration-drift") && !it.starts_with("watch-not-admitted"))
            .cloned()
            .collect())
    }

    fn finds(&self, case: &Case) -> Result<()> {
        let more = self.more()?;
        let checks: BTreeSet<String> =
            more.iter().map(|it| it.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect();
        let expected: BTreeSet<String> = case.expected.iter().map(|it| (*it).to_owned()).collect();
        // Where a handler has no hook, checkpoints are no longer refused either.
        let handlers = case.expected.iter().any(|it| it.starts_with("handler-"));
        let mut checks = checks;
        checks.retain(|it| !(handlers && it == "checkpoint-restore OPEN"));
        expect::holds(checks == expected && more.iter().any(|it| it.contains(case.words)), || {
            format!("after `{}` must be {expected:?} with `{}`, and is {more:?}", case.script, case.words)
        })
    }

    fn is_mended(&self, what: &str) -> Result<()> {
        let more = self.more()?;
        expect::holds(more.is_empty(), || format!("after `{what}` was taken back: {more:?}"))
    }
}

/// What is not closed, as `check STATE what`.
fn told(findings: &[Value]) -> BTreeSet<String> {
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    let state = |finding: &Value| match text(finding, "state").as_str() {
        "open" => "OPEN".to_owned(),
        other => other.to_owned(),
    };
    let line = |finding: &Value| {
        let place = &finding["place"];
        let place =
            if place.is_null() { String::new() } else { format!(" ({}:{})", text(place, "file"), place["line"]) };
        format!("{} {} {}{place}", text(finding, "check"), state(finding), text(finding, "what"))
    };
    findings.iter().filter(|finding| finding["state"] != "closed").map(line).collect()
}
