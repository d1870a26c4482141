//! Bad files: one clear error, nothing lost, and the next pull works once they are mended.

use std::time::{Duration, Instant};

use super::expect;
use crate::node::{
    Image, Node, Path, Result, Suite,
    product::{CONFIG, CONFIG_FILE, KEY_FILE, POLICY, POLICY_FILE, SERVICE, policy_with},
    registry::Published,
    signing::Layout,
};

/// A word that no table has, on line 3, near enough to be understood.
const TYPO: &str = "schema = 1\n\n[[attestr]]\nname = \"demo\"\n";

pub fn policy_at_reload(suite: Suite) -> Result<()> {
    let stage = Stage::set(suite)?;
    let node = &stage.node;
    for broken in [TYPO, "", "schema = 1\n[default", "schema = 2\n[default]\nrequire = \"deny\"\n"] {
        node.write(POLICY_FILE, broken)?;
        node.reload_refused()?;
        stage.goes_on("a broken policy")?;
    }
    node.write(POLICY_FILE, TYPO)?;
    let said = node.reload_refused()?;
    let all = ["pullgate: PG402", "policy.toml:3", "In force: mode enforce, policy "];
    expect::holds(all.iter().all(|words| said.contains(words)), || format!("the reload does not say why: {said}"))?;
    expect::holds(node.is_active(SERVICE)?, || "a reload that was refused stopped the daemon".to_owned())?;
    stage.says("policy.toml:3")?;
    node.write(POLICY_FILE, POLICY)?;
    node.reload()?;
    stage.goes_on("a mended policy")
}

/// The first request after a reload is decided by the policy that was read.
pub fn in_force_after_reload(suite: Suite) -> Result<()> {
    let stage = Stage::set(suite)?;
    let node = &stage.node;
    expect::admitted(node, Path::CriPull, &stage.signed)?;
    for turn in 0..5 {
        let deny = POLICY.replace("require = { all = [\"demo\"] }", "require = \"deny\"");
        node.write(POLICY_FILE, format!("{deny}# {turn}\n"))?;
        node.clean()?;
        node.reload()?;
        expect::refused(node, Path::CriPull, &stage.signed, &["PG202"])
            .map_err(|error| format!("turn {turn}: {error}"))?;
        node.write(POLICY_FILE, format!("{POLICY}# {turn}\n"))?;
        node.clean()?;
        node.reload()?;
        expect::admitted(node, Path::CriPull, &stage.signed).map_err(|error| format!("turn {turn}: {error}"))?;
    }
    // Whoever only sends the signal, as before, is heard as well.
    let main = node.property(SERVICE, "MainPID")?;
    node.write(POLICY_FILE, TYPO)?;
    node.run(&["kill", "-HUP", &main])?.ok()?;
    node.wait_until("the signal is heard", || Ok(node.property(SERVICE, "StatusText")?.contains("policy.toml:3")))?;
    // A daemon that hangs is not waited for without end.
    node.run(&["kill", "-STOP", &main])?.ok()?;
    let begun = Instant::now();
    let refused = node.run(&["systemctl", "reload", SERVICE])?;
    let took = begun.elapsed();
    // systemd may have ended it by then.
    node.run(&["kill", "-CONT", &main])?;
    expect::holds(!refused.success() && took < Duration::from_secs(40), || format!("{took:?}: {}", refused.text()))
}

pub fn policy_at_start(suite: Suite) -> Result<()> {
    let stage = Stage::set(suite)?;
    stage.start_from_nothing(CONFIG, TYPO)?;
    for path in Path::of(suite) {
        stage.node.clean()?;
        let message = expect::refused(&stage.node, *path, &stage.signed, &["PG402"])?;
        expect::holds(message.contains("policy.toml:3"), || format!("the message does not say where: {message}"))?;
    }
    expect::holds(stage.node.is_active(SERVICE)?, || "the daemon stopped".to_owned())?;
    // Nobody touches systemd.
    stage.node.write(POLICY_FILE, POLICY)?;
    stage.goes_on("a mended policy")
}

pub fn config_at_reload(suite: Suite) -> Result<()> {
    let stage = Stage::set(suite)?;
    for broken in ["mdoe = \"enforce\"\n", "", "mode = \"audit", "mode = \"on\"\n"] {
        stage.node.write(CONFIG_FILE, broken)?;
        stage.node.reload_refused()?;
        stage.goes_on("a broken configuration")?;
    }
    stage.says("config.toml:1")?;
    stage.node.write(CONFIG_FILE, CONFIG)?;
    stage.node.reload()?;
    stage.goes_on("a mended configuration")
}

pub fn config_at_start(suite: Suite) -> Result<()> {
    let stage = Stage::set(suite)?;
    stage.start_from_nothing(&CONFIG.replace("mode", "mdoe"), POLICY)?;
    for path in Path::of(suite) {
        stage.node.clean()?;
        let message = expect::refused(&stage.node, *path, &stage.signed, &["PG403"])?;
        expect::holds(message.contains("config.toml:1"), || format!("the message does not say where: {message}"))?;
    }
    stage.node.write(CONFIG_FILE, CONFIG)?;
    stage.goes_on("a mended configuration")
}

pub fn bad_key(suite: Suite) -> Result<()> {
    let stage = Stage::set(suite)?;
    let key = stage.node.read(KEY_FILE)?;
    stage.node.write(KEY_FILE, "-----BEGIN PUBLIC KEY-----\nnot a key\n-----END PUBLIC KEY-----\n")?;
    stage.start_from_nothing(CONFIG, POLICY)?;
    let message = expect::refused(&stage.node, Path::CriPull, &stage.signed, &["PG402"])?;
    expect::holds(message.contains("demo.pub"), || format!("the message does not name the key file: {message}"))?;
    stage.node.write(KEY_FILE, key)?;
    stage.goes_on("a mended key file")
}

/// The node's mode admits and records everything; a rule's own mode only what containerd fetched under that name.
pub fn audit_mode(suite: Suite) -> Result<()> {
    let stage = Stage::set(suite)?;
    let node = &stage.node;
    node.configure(&CONFIG.replace("enforce", "audit"), POLICY)?;
    for path in Path::of(suite) {
        node.clean()?;
        let cursor = node.cursor()?;
        expect::admitted(node, *path, &stage.unsigned)?;
        recorded(node, &cursor, "PG101")?;
    }
    node.configure(CONFIG, &policy_with(AUDITED))?;
    let audited = node.push("audited/image:v1", &Image::of_small_layers("audited", 2)?)?;
    for path in Path::of(suite) {
        node.clean()?;
        if path.is_archive() {
            expect::refused(node, *path, &audited, &["PG201", "PG202"])?;
        } else {
            let cursor = node.cursor()?;
            expect::admitted(node, *path, &audited)?;
            recorded(node, &cursor, "PG202")?;
        }
    }
    node.configure(CONFIG, POLICY)?;
    stage.goes_on("enforcement again")
}

const AUDITED: &str = r#"[[rule]]
name = "audited"
images = ["127.0.0.1:5000/audited/**"]
require = "deny"
mode = "audit"
"#;

fn recorded(node: &Node, since: &str, code: &str) -> Result<()> {
    let entries = node.audit_since(since)?;
    let recorded = entries.iter().any(|entry| entry.verdict == "deny" && entry.code == code);
    expect::holds(recorded, || format!("no deny with {code} recorded: {entries:?}"))
}

/// A node with the demo's policy, and a signed and an unsigned image.
struct Stage {
    node: Node,
    signed: Published,
    unsigned: Published,
}

impl Stage {
    fn set(suite: Suite) -> Result<Self> {
        let node = Node::gated(suite)?;
        let signed = node.push("demo/signed:v1", &Image::of_small_layers("signed", 2)?)?;
        node.sign(&signed, "demo", Layout::usual(suite))?;
        let unsigned = node.push("demo/unsigned:v1", &Image::of_small_layers("unsigned", 2)?)?;
        Ok(Self { node, signed, unsigned })
    }

    /// A daemon that never saw a good file.
    fn start_from_nothing(&self, config: &str, policy: &str) -> Result<()> {
        self.node.systemctl(&["stop", SERVICE])?;
        self.node.sh("rm -rf /var/lib/pullgate/*")?.ok()?;
        self.node.write(CONFIG_FILE, config)?;
        self.node.write(POLICY_FILE, policy)?;
        self.node.systemctl(&["start", SERVICE])
    }

    /// The demo's policy is in force.
    fn goes_on(&self, under: &str) -> Result<()> {
        self.node.clean()?;
        expect::admitted(&self.node, Path::CriPull, &self.signed).map_err(|error| format!("under {under}: {error}"))?;
        self.node.clean()?;
        expect::refused(&self.node, Path::CriPull, &self.unsigned, &["PG101"])
            .map_err(|error| format!("under {under}: {error}"))?;
        Ok(())
    }

    /// The journal, `status` and the unit's status line all name the place.
    fn says(&self, place: &str) -> Result<()> {
        let journal = self.node.run(&["journalctl", "--no-pager", "-u", SERVICE, "-o", "cat"])?.ok()?;
        expect::holds(journal.contains(place), || format!("the journal does not name {place}: {journal}"))?;
        let line = self.node.property(SERVICE, "StatusText")?;
        expect::holds(line.contains(place), || format!("the unit's status does not name {place}: {line}"))?;
        let status = self.node.run(&["pullgate", "status"])?;
        expect::holds(status.text().contains(place), || format!("status does not name {place}: {}", status.text()))
    }
}
