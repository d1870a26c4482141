//! The self-test sees what is so: each gate refusing, or standing open.

use std::{thread, time::Duration};

use pullgate::selftest::{self, Gate, Report, State};
use serde_json::Value;

use super::expect;
use crate::node::{
    Node, Result, Suite,
    product::{CONFIG, POLICY, SERVICE},
};

const LATER: &str = "/etc/containerd/conf.d/99-pullgatezzz.toml";
/// Takes the gate out that clients are asked by which unpack themselves.
const NO_DIFFER: &str = "[plugins.\"io.containerd.service.v1.diff-service\"]\n  default = [\"walking\"]\n";
/// Takes the verifier out.
const NO_VERIFIER: &str =
    "[plugins.\"io.containerd.image-verifier.v1.bindir\"]\n  bin_dir = \"/var/lib/no-verifiers\"\n";
/// The way of clients, and that of the kubelet.
const WAYS: [&str; 2] = ["client", "kubelet"];

/// On a connected node every gate is proven, in both modes, and nothing of it stays.
pub fn proven(suite: Suite) -> Result<()> {
    let node = Node::gated_with_pods(suite)?;
    for (mode, config) in [(State::Enforcing, CONFIG.to_owned()), (State::Proven, CONFIG.replace("enforce", "audit"))] {
        node.configure(&config, POLICY)?;
        let before = node.cursor()?;
        let report = run(&node)?;
        says(&report, Gate::Resolve, None, resolve(suite, mode))?;
        for way in WAYS {
            says(&report, Gate::Unpack, Some(way), mode)?;
        }
        says(&report, Gate::Start, Some("runc"), mode)?;
        expect::holds(report.took_ms < 30_000, || format!("it took {} ms", report.took_ms))?;
        nothing_left(&node)?;
        let entries = node.journal(&[&format!("--after-cursor={before}"), "PULLGATE_SELF_TEST=yes"])?;
        let of = |gate: &str, verdict: &str| {
            let is = |entry: &&Value| entry["PULLGATE_GATE"] == gate && entry["PULLGATE_VERDICT"] == verdict;
            entries.iter().filter(is).count()
        };
        let found =
            [("unpack", "deny"), ("unpack", "allow"), ("start", "deny"), ("start", "allow"), ("resolve", "deny")]
                .map(|(gate, verdict)| of(gate, verdict));
        let expected = [2, 2, 1, 1, usize::from(suite == Suite::Forky)];
        expect::holds(found.iter().zip(&expected).all(|(found, expected)| found >= expected), || {
            format!("entries: {found:?}, not {expected:?}")
        })?;
        // Neither counted, nor kept, nor asked about anywhere.
        let status = status(&node)?.1;
        for gate in ["resolve", "unpack", "start"] {
            expect::holds(status[gate]["denied"] == 0 && status[gate]["audit-only"] == 0, || format!("{status:#}"))?;
        }
        expect::holds(status["registry-requests"] == 0, || format!("{status:#}"))?;
        let kept = node.sh("find /var/lib/pullgate/evidence-2 -type f 2>/dev/null | wc -l")?.ok()?;
        expect::holds(kept.trim() == "0", || format!("{kept} pieces of evidence were kept"))?;
        unknown_afterwards(&node, &report)?;
    }
    Ok(())
}

/// What takes the gate out is seen without anybody asking, at once, and so is its return.
pub fn taken_out(suite: Suite) -> Result<()> {
    let node = Node::gated_with_pods(suite)?;
    run(&node)?;
    let (code, _) = status(&node)?;
    expect::holds(code == 0, || format!("status ends with {code} on a node that enforces"))?;
    let main = "/etc/containerd/config.toml";
    let text = String::from_utf8(node.read(main)?)?;
    if !text.contains("imports") {
        let import = "imports = [\"/etc/containerd/conf.d/99-pullgate*.toml\"]";
        node.write(main, text.replacen("\n", &format!("\n{import}\n"), 1))?;
    }
    let cursor = node.cursor()?;
    let version = if suite == Suite::Trixie { 2 } else { 3 };
    node.write(LATER, format!("version = {version}\n{NO_DIFFER}"))?;
    node.restart_containerd()?;
    let now = status(&node)?.1;
    expect::holds(!now["enforcing"]["gates"].to_string().contains("\"enforcing\""), || {
        format!("enforcing though another containerd runs: {:#}", now["enforcing"])
    })?;
    // On 1.7 the kubelet's pulls go by the same list.
    let kubelet = if suite == Suite::Trixie { State::Open } else { State::Enforcing };
    becomes(&node, &[("client", State::Open), ("kubelet", kubelet)], resolve(suite, State::Enforcing))?;
    let (code, _) = status(&node)?;
    expect::holds(code == 1, || format!("status ends with {code} on an open node"))?;
    let alarm = format!("MESSAGE_ID={}", pullgate::audit::Kind::GateOpen.message_id());
    let after = format!("--after-cursor={cursor}");
    node.wait_until("the entry is there", || Ok(!node.journal(&[&after, &alarm])?.is_empty()))?;
    let alarms = node.journal(&[&after, &alarm])?;
    let said = alarms[0]["MESSAGE"].as_str().unwrap_or_default();
    expect::holds(alarms.len() == 1 && alarms[0]["PRIORITY"] == "1" && said.contains("unpack (client): OPEN"), || {
        format!("{} alarms, the first: {said}", alarms.len())
    })?;
    if suite == Suite::Forky {
        node.write(LATER, format!("version = {version}\n{NO_VERIFIER}"))?;
        node.restart_containerd()?;
        becomes(&node, &[("client", State::Enforcing), ("kubelet", State::Enforcing)], State::Open)?;
    }
    node.run(&["rm", LATER])?.ok()?;
    node.restart_containerd()?;
    becomes(&node, &WAYS.map(|way| (way, State::Enforcing)), resolve(suite, State::Enforcing))?;
    nothing_left(&node)
}

/// A runtime handler that came later has no hook: the start gate is proven for the one, and open for the other.
pub fn handler_added(suite: Suite) -> Result<()> {
    let node = Node::gated_with_pods(suite)?;
    says(&run(&node)?, Gate::Start, Some("runc"), State::Enforcing)?;
    let cri = if suite == Suite::Trixie { "grpc.v1.cri" } else { "cri.v1.runtime" };
    let handler = format!(
        "\n[plugins.\"io.containerd.{cri}\".containerd.runtimes.added]\n  runtime_type = \"io.containerd.runc.v2\"\n"
    );
    let main = "/etc/containerd/config.toml";
    let text = String::from_utf8(node.read(main)?)?;
    node.write(main, text.clone() + &handler)?;
    node.restart_containerd()?;
    let seen = |runc: State, added: Option<State>| {
        let mut last = Report::default();
        let waited = node.wait_until("each handler is as it is", || {
            last = serde_json::from_value(status(&node)?.1["enforcing"].clone())?;
            let of = |name: &str| {
                let proof = last.gates.iter().find(|it| it.gate == Gate::Start && it.way.as_deref() == Some(name));
                proof.map(|proof| proof.state)
            };
            Ok(of("runc") == Some(runc) && of("added") == added)
        });
        waited.map_err(|error| format!("{error}: {:#?}", last.gates))
    };
    seen(State::Enforcing, Some(State::Open))?;
    let (code, _) = status(&node)?;
    expect::holds(code == 1, || format!("status ends with {code} though a handler is open"))?;
    node.write(main, text)?;
    node.restart_containerd()?;
    seen(State::Enforcing, None)?;
    nothing_left(&node)
}

/// A daemon that is restarted proves everything anew, and one that is killed in the middle of a run leaves nothing for
/// long.
pub fn killed(suite: Suite) -> Result<()> {
    let node = Node::gated_with_pods(suite)?;
    for moment in (0..12).map(|step| Duration::from_millis(30 * step)) {
        thread::scope(|scope| -> Result<()> {
            // It gets no answer from a daemon that is killed.
            scope.spawn(|| drop(run(&node)));
            thread::sleep(moment);
            node.kill_daemon()
        })?;
        node.wait_until("the daemon is back", || node.is_active(SERVICE))?;
    }
    becomes(&node, &WAYS.map(|way| (way, State::Enforcing)), resolve(suite, State::Enforcing))?;
    run(&node)?;
    nothing_left(&node)?;
    // Stopped in the middle of a run, it takes away what it made before it ends.
    thread::scope(|scope| -> Result<()> {
        scope.spawn(|| drop(run(&node)));
        thread::sleep(Duration::from_millis(150));
        node.systemctl(&["stop", "pullgate-gates.socket", SERVICE])
    })?;
    nothing_left(&node)
}

/// A mirror for all registries does not answer: what cannot be told is not taken for enforcement.
pub fn led_away(suite: Suite) -> Result<()> {
    let node = Node::gated_with_pods(suite)?;
    let away =
        "server = \"http://127.0.0.1:9\"\n[host.\"http://127.0.0.1:9\"]\n  capabilities = [\"pull\", \"resolve\"]\n";
    node.write("/etc/containerd/certs.d/_default/hosts.toml", away)?;
    let section = match suite {
        Suite::Trixie => "[plugins.\"io.containerd.grpc.v1.cri\".registry]",
        Suite::Forky => "[plugins.\"io.containerd.cri.v1.images\".registry]",
    };
    let main = "/etc/containerd/config.toml";
    let text = String::from_utf8(node.read(main)?)?;
    node.write(main, format!("{text}\n{section}\n  config_path = \"/etc/containerd/certs.d\"\n"))?;
    node.restart_containerd()?;
    let report = run(&node)?;
    says(&report, Gate::Unpack, Some("kubelet"), State::Unknown)?;
    says(&report, Gate::Unpack, Some("client"), State::Enforcing)?;
    let why = report.gates.iter().map(|proof| proof.why.as_str()).find(|why| why.contains("hosts.toml"));
    expect::holds(why.is_some(), || format!("no mend is named: {:?}", report.gates))?;
    nothing_left(&node)
}

fn resolve(suite: Suite, there: State) -> State {
    if suite == Suite::Trixie { State::Absent } else { there }
}

/// One run, asked for as `pullgate doctor` does.
fn run(node: &Node) -> Result<Report> {
    Ok(selftest::ask(&node.outside("/run/pullgate"))?)
}

fn says(report: &Report, gate: Gate, way: Option<&str>, expected: State) -> Result<()> {
    let found = report.gates.iter().find(|proof| proof.gate == gate && (way.is_none() || proof.way.as_deref() == way));
    expect::holds(found.is_some_and(|proof| proof.state == expected), || {
        format!("{} {way:?} must be {expected:?}: {:#?}", gate.name(), report.gates)
    })
}

/// What `pullgate status` ends with, and says.
fn status(node: &Node) -> Result<(i32, Value)> {
    let told = node.run(&["pullgate", "status", "-o", "json"])?;
    let status = serde_json::from_str(&told.stdout).map_err(|error| format!("{error}: {}", told.text()))?;
    Ok((if told.success() { 0 } else { 1 }, status))
}

/// Waits until the daemon says so of the unpack gate and of the resolve gate, without being asked to test anything.
fn becomes(node: &Node, unpack: &[(&str, State)], resolve: State) -> Result<()> {
    let mut last = Report::default();
    let waited = node.wait_until("the gates are as they are", || {
        let told = status(node)?.1;
        last = serde_json::from_value(told["enforcing"].clone())?;
        let is = |gate: Gate, way: Option<&str>, state: State| says(&last, gate, way, state).is_ok();
        let unpack = unpack.iter().all(|(way, state)| is(Gate::Unpack, Some(way), *state));
        Ok(unpack && is(Gate::Resolve, None, resolve))
    });
    waited.map_err(|error| format!("{error}: {:#?}", last.gates).into())
}

/// Neither pod nor image, lease, snapshot, content or listening port of a run.
fn nothing_left(node: &Node) -> Result<()> {
    let look = |command: &str| node.sh(command)?.ok();
    let left = [
        look(
            "ctr -n k8s.io images ls | awk 'NR > 1 {print $1, $3}' | \
             grep -v \"$(ctr -n k8s.io images ls | awk '/k8s.pause/ {print $3; exit}')\" || true",
        )?,
        look("ctr -n k8s.io leases ls | grep pullgate-self-test || true")?,
        look("ctr -n k8s.io containers ls -q")?,
        look("ctr -n k8s.io snapshots ls | grep extract- || true")?,
        look("ss -Hltnp | grep '\"pullgate\"' || true")?,
    ];
    let content = look(
        "for d in $(ctr -n k8s.io content ls -q); do ctr -n k8s.io content get $d | grep -l pullgate.self-test >/dev/null && echo $d; done; true",
    )?;
    let left: Vec<&str> = left.iter().map(|text| text.trim()).filter(|text| !text.is_empty()).collect();
    expect::holds(left.is_empty() && content.trim().is_empty(), || format!("left: {left:?}, content: {content}"))
}

/// What a run admitted is nobody's afterwards: its registry is gone.
fn unknown_afterwards(node: &Node, report: &Report) -> Result<()> {
    let entries = node.journal(&["PULLGATE_SELF_TEST=yes", "PULLGATE_GATE=resolve", "PULLGATE_VERDICT=allow"])?;
    for entry in entries {
        let image = entry["PULLGATE_IMAGE"].as_str().unwrap_or_default();
        if image.contains(&report.run) {
            let pulled = node.run(&["ctr", "-n", "k8s.io", "images", "pull", "--plain-http", image])?;
            expect::holds(!pulled.success(), || format!("{image} came onto the node after the run"))?;
        }
    }
    Ok(())
}
