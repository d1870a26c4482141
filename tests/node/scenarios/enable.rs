//! `enable` and `disable`: containerd is connected, stays what it was otherwise, and is disconnected again.

use super::expect;
use crate::node::{
    Image, Node, Path, Result, Suite,
    machine::Output,
    product::{CONFIG, CONFIG_FILE, POLICY},
    registry::Published,
    signing::Layout,
};

pub(super) const MAIN: &str = "/etc/containerd/config.toml";
/// The watch in these tests, which look at containerd afterwards themselves.
pub(super) const WATCH: &str = "--watch=2";

/// Connected, asked by every path, disconnected: containerd's files are the same to the byte.
pub fn there_and_back(suite: Suite) -> Result<()> {
    let stage = Stage::set(suite)?;
    let node = &stage.node;
    let before = files(node)?;
    let busybox = node.push("demo/lives:v1", &Image::of_layers(&node.read("/usr/bin/busybox")?, "lives", 2)?)?;
    expect::admitted(node, Path::CtrPullLocal, &busybox)?;
    node.run(&[
        "ctr",
        "run",
        "--detach",
        "--cpu-shares=0",
        &busybox.name,
        "lives",
        "/bin/busybox",
        "sleep",
        "1000000",
    ])?
    .ok()?;
    let container = node.run(&["ctr", "tasks", "ls"])?.ok()?;
    gates(node, "NOT CONNECTED")?;
    says(node, &["disable", "--restart"], Some(0), "Not connected")?;

    says(node, &["enable"], Some(0), "+default = [\"pullgate\", \"walking\"]")?;
    same(node, &before, "looking at the difference")?;
    says(node, &["enable", "--write"], Some(0), "once you have restarted it")?;
    gates(node, "CONFIGURED, NOT LIVE")?;
    says(node, &["enable"], Some(0), "containerd runs without it")?;
    says(node, &["enable", "--check"], Some(1), "not all gates are live")?;
    let process = node.property("containerd.service", "MainPID")?;
    says(node, &["enable", "--restart", WATCH], Some(0), "Connected")?;
    expect::holds(node.property("containerd.service", "MainPID")? != process, || "not restarted".to_owned())?;
    let lives = node.run(&["ctr", "tasks", "ls"])?.ok()?;
    expect::holds(lives == container && lives.contains("RUNNING"), || format!("the container: {container}{lives}"))?;
    stage.refuses_by_every_path()?;
    gates(node, "live")?;

    let connected = files(node)?;
    let process = node.property("containerd.service", "MainPID")?;
    says(node, &["enable", "--restart"], Some(0), "Already connected")?;
    says(node, &["enable", "--check"], Some(0), "")?;
    same(node, &connected, "enabling twice")?;
    expect::holds(node.property("containerd.service", "MainPID")? == process, || "restarted for nothing".to_owned())?;

    says(node, &["disable"], Some(0), "Nothing was written")?;
    same(node, &connected, "looking at the difference")?;
    says(node, &["disable", "--restart", WATCH], Some(0), "Disconnected")?;
    same(node, &before, "there and back")?;
    stage.admits_unsigned()?;
    gates(node, "NOT CONNECTED")?;
    says(node, &["disable", "--restart"], Some(0), "Not connected")?;
    Ok(())
}

/// What an administrator and others set up stays in force; what they write while pullgate is connected outlives it.
pub fn others_are_kept(suite: Suite) -> Result<()> {
    let stage = Stage::set(suite)?;
    let node = &stage.node;
    let (runtime, registry) = match suite {
        Suite::Trixie => ("io.containerd.grpc.v1.cri\".containerd", "io.containerd.grpc.v1.cri"),
        Suite::Forky => ("io.containerd.cri.v1.runtime\".containerd", "io.containerd.cri.v1.images"),
    };
    let version = if suite == Suite::Trixie { 2 } else { 3 };
    node.sh("ctr oci spec > /etc/containerd/base.json")?.ok()?;
    node.write(
        "/etc/containerd/conf.d/20-site.toml",
        format!("version = {version}\n[timeouts]\n  \"io.containerd.timeout.task.state\" = \"7s\"\n"),
    )?;
    node.write(
        MAIN,
        format!(
            "# Ours.\nversion = {version}\nimports = [\"conf.d/*.toml\"] # and what the site says\n\n\
             [plugins.\"{runtime}.runtimes.runc]\n  runtime_type = \"io.containerd.runc.v2\"\n  \
             base_runtime_spec = \"/etc/containerd/base.json\"\n  \
             [plugins.\"{runtime}.runtimes.runc.options]\n    SystemdCgroup = true\n\
             [plugins.\"{registry}\".registry]\n  config_path = \"/etc/containerd/certs.d\"\n\
             [plugins.\"io.containerd.service.v1.diff-service\"]\n  default = [\"walking\"] # as ever\n\
             [[plugins.\"io.containerd.transfer.v1.local\".unpack_config]]\n  platform = \"linux/amd64\"\n  \
             snapshotter = \"overlayfs\"\n\
             [[plugins.\"io.containerd.transfer.v1.local\".unpack_config]]\n  platform = \"linux/amd64\"\n  \
             snapshotter = \"native\"\n  differ = \"walking\"\n"
        ),
    )?;
    // A vendor's verifier, which notes what it was asked.
    node.write("/opt/containerd/image-verifier/bin/vendor", "#!/bin/sh\necho \"$2\" >> /run/vendor\n")?;
    node.sh("chmod 755 /opt/containerd/image-verifier/bin/vendor; chown daemon /etc/containerd/config.toml; chmod 640 /etc/containerd/config.toml")?.ok()?;
    node.restart_containerd()?;
    let (before, dump) = (files(node)?, dump(node)?);

    says(node, &["enable", "--restart", WATCH], Some(0), "Connected")?;
    let connected = self::dump(node)?;
    let changed = changes(&dump, &connected);
    let ours = |key: &String| {
        ["imports", "proxy_plugins", "unpack_config", "diff-service.default"].iter().any(|ours| key.contains(ours))
    };
    expect::holds(changed.iter().all(ours), || format!("more than our keys changed: {changed:?}"))?;
    let text = connected.to_string();
    for kept in ["SystemdCgroup = true", "/etc/containerd/base.json", "/etc/containerd/certs.d", "7s", "native"] {
        expect::holds(text.contains(kept), || format!("{kept} is lost: {text}"))?;
    }
    stage.refuses_by_every_path()?;
    if suite == Suite::Forky {
        let asked = String::from_utf8(node.read("/run/vendor")?)?;
        expect::holds(asked.contains(&stage.signed.name), || format!("the vendor's verifier was not asked: {asked}"))?;
    }

    // Somebody writes while pullgate is connected.
    node.sh("printf '[metrics]\\n  address = \"127.0.0.1:1338\"\\n' >> /etc/containerd/config.toml")?.ok()?;
    node.write(
        "/etc/containerd/conf.d/30-later.toml",
        format!("version = {version}\n[timeouts]\n  \"io.containerd.timeout.shim.load\" = \"9s\"\n"),
    )?;
    let expected_note = if suite == Suite::Trixie { "only pullgate's lines are taken out" } else { "Disconnected" };
    says(node, &["disable", "--restart", WATCH], Some(0), expected_note)?;
    let after = self::dump(node)?;
    let mut changed = changes(&dump, &after);
    changed.retain(|key| key != "imports");
    let expected = match suite {
        Suite::Trixie => vec!["metrics.address", "timeouts.io.containerd.timeout.shim.load"],
        Suite::Forky => vec!["metrics.address", "timeouts.io.containerd.timeout.shim.load"],
    };
    expect::holds(changed == expected, || format!("what others wrote is lost, or ours is not: {changed:?}"))?;
    let left = node.sh("grep -rl pullgate /etc/containerd /opt/containerd; find /opt/containerd -name '*pullgate*'")?;
    expect::holds(left.stdout.is_empty(), || format!("left behind: {}", left.stdout))?;
    expect::holds(
        before
            .lines()
            .filter(|line| line.contains("vendor"))
            .all(|line| files(node).is_ok_and(|now| now.contains(line))),
        || "the vendor's verifier was touched".to_owned(),
    )?;
    stage.admits_unsigned()
}

/// A later file takes the gate out of a list: `status` says so, and `enable` either mends it or names that file.
pub fn drift(suite: Suite) -> Result<()> {
    let stage = Stage::set(suite)?;
    let node = &stage.node;
    let main = String::from_utf8(node.read(MAIN)?)?;
    node.write(MAIN, main.replacen("version = 2", "version = 2\nimports = [\"/etc/containerd/conf.d/*.toml\"]", 1))?;
    node.restart_containerd()?;
    says(node, &["enable", "--restart", WATCH], Some(0), "Connected")?;
    node.write(
        "/etc/containerd/conf.d/zzz.toml",
        "version = 2\n[plugins.\"io.containerd.service.v1.diff-service\"]\n  default = [\"walking\"]\n",
    )?;
    gates(node, "DRIFTED: default of the diff service")?;
    node.restart_containerd()?;
    gates(node, "DRIFTED: default of the diff service")?;
    match suite {
        // There a file is changed where it is.
        Suite::Trixie => {
            says(node, &["enable", "--restart", WATCH], Some(0), "Connected")?;
        }
        Suite::Forky => {
            let before = files(node)?;
            says(node, &["enable", "--restart", WATCH], Some(1), "/etc/containerd/conf.d/zzz.toml")?;
            same(node, &before, "a refusal")?;
            node.sh("rm /etc/containerd/conf.d/zzz.toml")?.ok()?;
            says(node, &["enable", "--restart", WATCH], Some(0), "Connected")?;
        }
    }
    gates(node, "live")?;
    stage.refuses_by_every_path()
}

/// A containerd that does not start with the gates, and one that dies with them: everything is put back.
pub fn rolled_back(suite: Suite) -> Result<()> {
    let stage = Stage::set(suite)?;
    let node = &stage.node;
    let unit = "/etc/systemd/system/containerd.service.d/test.conf";
    let before = files(node)?;
    node.write(unit, "[Service]\nExecStartPre=/bin/sh -c 'if grep -rq pullgate /etc/containerd; then echo no gates here >&2; exit 1; fi'\n")?;
    node.systemctl(&["daemon-reload"])?;
    let said = says(node, &["enable", "--restart", WATCH], Some(1), "containerd runs as before")?;
    expect::holds(said.contains("no gates here"), || format!("the journal is not told: {said}"))?;
    same(node, &before, "a containerd that did not start")?;
    stage.admits_unsigned()?;

    // It comes up, and is killed as soon as it runs with the gates.
    node.write(unit, "[Service]\nRestartSec=100ms\nExecStartPost=-/bin/sh -c 'if grep -rq pullgate /etc/containerd; then (sleep 1; kill -9 $MAINPID) & fi'\n")?;
    node.systemctl(&["daemon-reload"])?;
    says(node, &["enable", "--restart", "--watch=10"], Some(1), "containerd runs as before")?;
    same(node, &before, "a containerd that died")?;
    node.wait_for_containerd()?;
    stage.admits_unsigned()?;
    gates(node, "NOT CONNECTED")?;

    // The connection to the node breaks while containerd does not come up.
    node.write(unit, "[Service]\nRestartSec=100ms\nExecStartPre=/bin/sh -c 'if grep -rq pullgate /etc/containerd; then sleep 2; exit 1; fi'\n")?;
    node.systemctl(&["daemon-reload"])?;
    node.sh("pullgate enable --restart > /dev/null 2>&1 & sleep 1.5; kill -HUP $!; wait $!; [ $? = 1 ]")?.ok()?;
    same(node, &before, "a connection that broke")?;
    node.wait_for_containerd()?;
    gates(node, "NOT CONNECTED")?;

    // The way back is watched as well.
    node.sh(&format!("rm {unit}"))?.ok()?;
    node.systemctl(&["daemon-reload"])?;
    says(node, &["enable", "--restart", WATCH], Some(0), "Connected")?;
    let connected = files(node)?;
    node.write(unit, "[Service]\nExecStartPre=/bin/sh -c 'grep -rq pullgate /etc/containerd'\n")?;
    node.systemctl(&["daemon-reload"])?;
    says(node, &["disable", "--restart", WATCH], Some(1), "containerd runs as before")?;
    same(node, &connected, "a containerd that did not start without the gates")?;
    gates(node, "live")?;
    stage.refuses_by_every_path()
}

/// Files that cannot be written: nothing is half done, and containerd goes on.
pub fn not_writable(suite: Suite) -> Result<()> {
    let stage = Stage::set(suite)?;
    let node = &stage.node;
    let process = node.property("containerd.service", "MainPID")?;
    let before = files(node)?;
    node.sh(
        "busybox mount --bind /etc/containerd /etc/containerd && busybox mount -o remount,bind,ro /etc/containerd",
    )?
    .ok()?;
    says(node, &["enable", "--restart", WATCH], Some(1), "read-only")?;
    same(node, &before, "a read-only /etc")?;
    node.sh("busybox umount /etc/containerd")?.ok()?;

    // Room for what is there, and for nothing more.
    node.sh("cp -a /etc/containerd /run/kept && busybox mount -t tmpfs -o size=4k tmpfs /etc/containerd && cp -a /run/kept/. /etc/containerd/")?.ok()?;
    let full = files(node)?;
    says(node, &["enable", "--restart", WATCH], Some(1), "the disk is full")?;
    same(node, &full, "a full disk")?;
    node.sh("busybox umount /etc/containerd")?.ok()?;
    same(node, &before, "a full disk")?;

    node.write(CONFIG_FILE, "mode = \"audi\"\n")?;
    says(node, &["enable", "--restart", WATCH], Some(2), "config.toml:1")?;
    node.write(CONFIG_FILE, CONFIG)?;
    node.write(MAIN, "version = 2\n[broken\n")?;
    says(node, &["enable", "--restart", WATCH], Some(1), "line 2")?;
    gates(node, "not known")?;
    node.write(MAIN, "[plugins.cri]\n  stream_server_port = \"1\"\n")?;
    says(node, &["enable", "--restart", WATCH], Some(1), "version 1")?;
    expect::holds(node.property("containerd.service", "MainPID")? == process, || {
        "containerd was restarted".to_owned()
    })?;

    node.sh("cp -a /run/kept/. /etc/containerd/; systemctl stop pullgate-gates.socket pullgate.service")?.ok()?;
    says(node, &["enable", "--restart", WATCH], Some(1), "daemon does not answer")?;
    same(node, &before, "a refusal without a daemon")
}

/// Two containerds: it is said which one is meant, and the other stays as it is.
pub fn two_containerds(suite: Suite) -> Result<()> {
    let stage = Stage::set(suite)?;
    let node = &stage.node;
    let usual = files(node)?;
    node.write(
        "/etc/second/config.toml",
        "version = 2\nroot = \"/var/lib/second\"\nstate = \"/run/second\"\n[grpc]\n  address = \"/run/second/containerd.sock\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\"]\n  stream_server_port = \"0\"\n\
         [plugins.\"io.containerd.internal.v1.opt\"]\n  path = \"/var/lib/second/opt\"\n",
    )?;
    node.sh(
        "systemd-run --unit=second -p Type=notify -p KillMode=process -p Delegate=yes /usr/bin/containerd --config /etc/second/config.toml",
    )?
    .ok()?;
    says(node, &["enable"], Some(0), "another containerd runs here")?;
    let said = says(node, &["enable"], Some(0), "/etc/second/config.toml")?;
    expect::holds(said.contains("address") && said.contains("/etc/pullgate/config.toml"), || {
        format!("how to choose: {said}")
    })?;

    node.configure(&format!("{CONFIG}\n[containerd]\naddress = \"/run/second/containerd.sock\"\n"), POLICY)?;
    says(node, &["enable", "--restart", WATCH], Some(0), "Connected")?;
    same(node, &usual, "connecting the other containerd")?;
    let second = String::from_utf8(
        node.sh("cat /etc/second/config.toml /etc/second/conf.d/* 2>/dev/null")?.stdout.into_bytes(),
    )?;
    expect::holds(second.contains("pullgate-transfer"), || format!("not written to the second: {second}"))?;
    gates(node, "live")?;
    let refused = node.run(&[
        "ctr",
        "-a",
        "/run/second/containerd.sock",
        "images",
        "pull",
        "--local",
        "--plain-http",
        &stage.unsigned.name,
    ])?;
    expect::holds(refused.text().contains("PG101"), || format!("not refused: {}", refused.text()))?;
    says(node, &["disable", "--restart", WATCH], Some(0), "Disconnected")?;

    // One that systemd does not know is not restarted.
    node.sh("systemctl stop second; sleep 0; (setsid /usr/bin/containerd --config /etc/second/config.toml >/dev/null 2>&1 &)")?.ok()?;
    node.wait_until("the second containerd serves", || {
        Ok(node.run(&["ctr", "-a", "/run/second/containerd.sock", "version"])?.success())
    })?;
    says(node, &["enable", "--restart", WATCH], Some(1), "no service of systemd")?;
    same(node, &usual, "a refusal")
}

/// `mode` shows first what is on the node and would be refused.
pub fn mode(suite: Suite) -> Result<()> {
    let stage = Stage::set(suite)?;
    let node = &stage.node;
    let commented = CONFIG.replace("mode = \"enforce\"", "# Watching for now.\nmode = \"audit\" # until December");
    node.configure(&commented, POLICY)?;
    let said = says(node, &["mode", "enforce"], Some(0), "enforce: in force")?;
    expect::holds(said.contains("NOT CONNECTED"), || format!("nobody asks, and nobody says so: {said}"))?;
    node.configure(&commented, POLICY)?;
    says(node, &["enable", "--restart", WATCH], Some(0), "Connected")?;
    expect::admitted(node, Path::CriPull, &stage.signed)?;
    says(node, &["mode"], Some(0), "audit")?;
    says(node, &["mode", "enforce"], Some(0), "enforce: in force")?;
    let written = String::from_utf8(node.read(CONFIG_FILE)?)?;
    expect::holds(written == commented.replace("\"audit\"", "\"enforce\""), || {
        format!("more than the mode: {written}")
    })?;
    says(node, &["mode", "enforce"], Some(0), "in force already")?;
    says(node, &["mode", "audit"], Some(0), "audit: in force")?;

    expect::admitted(node, Path::CriPull, &stage.unsigned)?;
    let said = says(node, &["mode", "enforce"], Some(1), &stage.unsigned.name)?;
    expect::holds(said.contains("PG101") && said.contains("--yes"), || format!("the preview: {said}"))?;
    says(node, &["mode"], Some(0), "audit")?;
    says(node, &["status"], None, "audit: what the policy refuses")?;
    says(node, &["mode", "enforce", "--yes"], Some(0), "enforce: in force")?;
    node.clean()?;
    expect::refused(node, Path::CriPull, &stage.unsigned, &["PG101"])?;

    node.write("/etc/pullgate/policy.toml", "schema = 1\n")?;
    says(node, &["mode", "enforce"], Some(2), "policy.toml")?;
    node.reload_refused()?;
    let said = says(node, &["mode", "audit"], Some(0), "audit: in force")?;
    expect::holds(said.contains("PG402"), || format!("the broken policy is not told: {said}"))?;
    node.systemctl(&["stop", "pullgate-gates.socket", "pullgate.service"])?;
    says(node, &["mode", "audit"], Some(0), "takes force when pullgate.service starts")?;
    Ok(())
}

/// The package does not go while containerd asks it.
pub fn removal(suite: Suite) -> Result<()> {
    let stage = Stage::set(suite)?;
    let node = &stage.node;
    says(node, &["enable", "--restart", WATCH], Some(0), "Connected")?;
    let remove = "DEBIAN_FRONTEND=noninteractive apt-get -q -y remove pullgate";
    let refused = node.sh(remove)?;
    expect::holds(!refused.success() && refused.text().contains("pullgate disable --restart"), || {
        format!("removal must be refused, and says: {}", refused.text())
    })?;
    expect::recovers(node, Path::CriPull, &stage.signed)?;
    // An upgrade is not concerned.
    node.sh("DEBIAN_FRONTEND=noninteractive apt-get -q -y --reinstall install /var/tmp/package.deb")?.ok()?;
    says(node, &["disable", "--write"], Some(0), "until you have restarted it")?;
    gates(node, "still asked")?;
    let refused = node.sh(remove)?;
    expect::holds(!refused.success(), || "removed while containerd still asks".to_owned())?;
    node.restart_containerd()?;
    node.sh(remove)?.ok()?;
    stage.admits_unsigned()
}

/// A node with the package, and containerd as its own package left it.
struct Stage {
    node: Node,
    signed: Published,
    unsigned: Published,
}

impl Stage {
    fn set(suite: Suite) -> Result<Self> {
        let node = Node::unconnected(suite)?;
        let signed = node.push("demo/signed:v1", &Image::of_small_layers("signed", 2)?)?;
        node.sign(&signed, "demo", Layout::usual(suite))?;
        let unsigned = node.push("demo/unsigned:v1", &Image::of_small_layers("unsigned", 2)?)?;
        Ok(Self { node, signed, unsigned })
    }

    fn refuses_by_every_path(&self) -> Result<()> {
        for path in Path::of(self.node.suite) {
            self.node.clean()?;
            expect::refused(&self.node, *path, &self.unsigned, &["PG101"])?;
            self.node.clean()?;
            expect::admitted(&self.node, *path, &self.signed)?;
        }
        Ok(())
    }

    /// As on a node without pullgate.
    fn admits_unsigned(&self) -> Result<()> {
        for path in [Path::CriPull, Path::CtrPullLocal] {
            self.node.clean()?;
            expect::admitted(&self.node, path, &self.unsigned)?;
        }
        self.node.clean()
    }
}

/// Runs pullgate, which has to end with `code` and say `words`. Returns all it said.
pub(super) fn says(node: &Node, arguments: &[&str], code: Option<i32>, words: &str) -> Result<String> {
    let output: Output = node.run_within(300, &[&["pullgate"], arguments].concat())?;
    let as_expected = code.is_none_or(|code| code == output.code) && output.text().contains(words);
    expect::holds(as_expected, || {
        let code = code.map_or("any code".to_owned(), |code| code.to_string());
        let found = output.text();
        format!(
            "`pullgate {}` must end with {code} and say `{words}`, and ended with {}: {found}",
            arguments.join(" "),
            output.code
        )
    })?;
    Ok(output.text())
}

/// The line of `status` about the gates says `words`.
fn gates(node: &Node, words: &str) -> Result<()> {
    let status = node.run(&["pullgate", "status"])?.text();
    let line = status.lines().find_map(|line| line.strip_prefix("gates ")).unwrap_or_default().trim_start();
    // `live` is no part of `NOT LIVE`.
    expect::holds(line.contains(words), || format!("status must say `{words}` of the gates, and says: {status}"))
}

/// Every file of containerd's, and base specs of pullgate's: its place, kind, permissions, owner and bytes.
pub(super) fn files(node: &Node) -> Result<String> {
    let list = "for root in /etc/containerd /opt/containerd /etc/pullgate/base-spec*; do [ -e $root ] || continue; \
                find $root -printf '%p %M %U %G %l\\n' | sort; find $root -type f -print0 | sort -z | xargs -r -0 sha256sum; done";
    node.sh(list)?.ok()
}

pub(super) fn same(node: &Node, before: &str, after: &str) -> Result<()> {
    let now = files(node)?;
    expect::holds(now == before, || format!("{after} changed containerd's files:\n{before}\n{now}"))
}

pub(super) fn dump(node: &Node) -> Result<toml::Table> {
    Ok(node.run(&["containerd", "config", "dump"])?.ok()?.parse()?)
}

/// The keys whose values differ.
pub(super) fn changes(before: &toml::Table, after: &toml::Table) -> Vec<String> {
    fn flat(table: &toml::Table, path: &str, into: &mut std::collections::BTreeMap<String, toml::Value>) {
        for (key, value) in table {
            let at = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            match value {
                toml::Value::Table(table) => flat(table, &at, into),
                value => {
                    into.insert(at, value.clone());
                }
            }
        }
    }
    let (mut old, mut new) = Default::default();
    flat(before, "", &mut old);
    flat(after, "", &mut new);
    let mut keys: Vec<String> = old.keys().chain(new.keys()).cloned().collect();
    keys.sort();
    keys.dedup();
    keys.retain(|key| old.get(key) != new.get(key));
    keys
}
