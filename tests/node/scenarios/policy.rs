//! One policy for every environment: what nodes, namespaces, tags and time make of the same image.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use serde_json::Value;

use super::{
    expect,
    start::{SLEEP, as_kubelet, refused, refused_at_last, run, starts, starts_once_verified},
};
use crate::node::{
    Image, Node, Path, Result, Suite,
    path::Outcome,
    pod::{Pod, container_config},
    product::{CONFIG, CONFIG_FILE, POLICY_FILE, SERVICE},
    registry::Published,
    signing::Layout,
};

const ATTESTORS: &str = r#"schema = 1
[[attestor]]
name = "qa"
may-sign = ["signature"]
keys = [{ file = "keys/qa.pub", algorithm = "ecdsa-p256-sha256" }]
[[attestor]]
name = "release"
may-sign = ["signature"]
keys = [{ file = "keys/release.pub", algorithm = "ecdsa-p256-sha256" }]
"#;

const STAGES: &str = r#"
[[rule]]
name = "qa"
images = ["127.0.0.1:5000/app/**"]
nodes = { env = "qa" }
require = { all = ["qa"] }
[[rule]]
name = "prod"
images = ["127.0.0.1:5000/app/**"]
nodes = { env = "prod" }
require = { all = ["qa", "release"] }
message = "ask #release to sign it"
[default]
require = "deny"
"#;

/// One document on two nodes; then what a node, or a rule, that only audits makes of it.
pub fn stages(suite: Suite) -> Result<()> {
    let [qa, prod] = [Node::gated(suite)?, Node::gated(suite)?];
    for key in ["qa", "release"] {
        qa.make_key(key)?;
        for file in ["key", "pub"] {
            let path = format!("/root/keys/{key}.{file}");
            prod.write(&path, qa.read(&path)?)?;
        }
    }
    let mut published = Vec::new();
    for (node, env) in [(&qa, "qa"), (&prod, "prod")] {
        node.install_keys()?;
        node.configure(&labelled(env), &format!("{ATTESTORS}{STAGES}"))?;
        let image = node.push("app/shop:v1", &Image::of_small_layers("shop", 2)?)?;
        node.sign(&image, "qa", Layout::usual(suite))?;
        published.push(image);
    }
    let image = &published[0];
    expect::holds(published[1].digest() == image.digest(), || "another image".to_owned())?;

    expect::admitted(&qa, Path::CriPull, image)?;
    // As it is printed its quotes are escaped.
    let message = expect::refused(&prod, Path::CriPull, image, &["PG102"])?.replace('\\', "");
    for part in ["DENY PG102 rule \"prod\"", "still missing \"release\"", "Fix: ask #release to sign it."] {
        expect::holds(message.contains(part), || format!("{part} is not in: {message}"))?;
    }
    prod.sign(image, "release", Layout::usual(suite))?;
    if suite == Suite::Trixie {
        // A pull there asks no gate that looks anew, and a refusal is remembered for a minute.
        prod.systemctl(&["restart", SERVICE])?;
    }
    expect::admitted(&prod, Path::CriPull, image)?;
    only_on_paper(&qa, &prod)
}

/// What would be refused is admitted and recorded: on a node in audit mode, and under a rule until its audit ends.
fn only_on_paper(qa: &Node, prod: &Node) -> Result<()> {
    let unsigned = prod.push("app/unsigned:v1", &Image::of_small_layers("unsigned", 2)?)?;
    expect::refused(prod, Path::CriPull, &unsigned, &["PG101"])?;
    prod.write(CONFIG_FILE, labelled("prod").replace("enforce", "audit"))?;
    prod.reload()?;
    prod.status_says("audit")?;
    let cursor = prod.cursor()?;
    expect::admitted(prod, Path::CriPull, &unsigned)?;
    prod.would_deny(&cursor, &unsigned, "prod", "PG101")?;

    let late = qa.push("app/late:v1", &Image::of_small_layers("late", 2)?)?;
    let until = qa.run(&["date", "--utc", "--date=12 seconds", "+%Y-%m-%dT%H:%M:%SZ"])?.ok()?;
    let audits = format!("require = {{ all = [\"release\"] }}\nmode = \"audit\"\naudit-until = \"{}\"", until.trim());
    qa.change_policy(&format!("{ATTESTORS}{STAGES}").replacen("require = { all = [\"qa\"] }", &audits, 1))?;
    let cursor = qa.cursor()?;
    expect::admitted(qa, Path::CriPull, &late)?;
    qa.would_deny(&cursor, &late, "qa", "PG101")?;
    // Nobody touches the node.
    let mut last = String::new();
    qa.wait_until("the audit has ended", || {
        qa.clean()?;
        let outcome = qa.bring(Path::CriPull, &late)?;
        last = outcome.told();
        Ok(matches!(outcome, Outcome::Refused { code, .. } if code == "PG101"))
    })
    .map_err(|error| format!("{error}: {last}").into())
}

const PLACES: &str = r#"
[[rule]]
name = "app"
images = ["127.0.0.1:5000/app/**"]
require = { all = ["qa"] }
[[rule]]
name = "payments"
images = ["127.0.0.1:5000/app/**"]
namespaces = ["payments"]
require = { all = ["qa", "release"] }
[[rule]]
name = "lab"
images = ["127.0.0.1:5000/lab/**"]
require = "deny"
[[rule]]
name = "open"
images = ["127.0.0.1:5000/lab/**"]
namespaces = ["sandbox"]
require = { all = ["qa"] }
[[rule]]
name = "tagged"
images = ["127.0.0.1:5000/tagged/app:v1"]
require = { all = ["qa"] }
[[rule]]
name = "hub"
images = ["docker.io/library/**"]
require = "deny"
[[rule]]
name = "frozen"
images = ["127.0.0.1:5000/app/**"]
nodes = { env = "frozen" }
require = "deny"
[[floor]]
name = "vault"
images = ["**"]
namespaces = ["vault"]
require = { all = ["release"] }
[default]
require = { all = ["qa"] }
"#;

/// Namespaces, tags, names and labels, each decided anew when a container starts; and a policy that changes meanwhile.
pub fn places(suite: Suite) -> Result<()> {
    let node = Node::gated_with_pods(suite)?;
    for key in ["qa", "release"] {
        node.make_key(key)?;
    }
    node.install_keys()?;
    node.configure(CONFIG, &format!("{ATTESTORS}{PLACES}"))?;
    let busybox = node.read("/usr/bin/busybox")?;
    let make = |path: &str| node.push(path, &Image::of_layers(&busybox, path, 2)?);
    let (app, both, lab) = (make("app/shop:v1")?, make("app/both:v1")?, make("lab/toy:v1")?);
    let tagged = make("tagged/app:v1")?;
    let again = node.push("tagged/app:v2", &tagged.image)?;
    let signed = [app.clone(), both.clone(), lab.clone(), tagged.clone()];
    node.sign_all(&signed, "qa", Layout::usual(suite))?;
    node.sign(&both, "release", Layout::usual(suite))?;
    if suite == Suite::Forky {
        // containerd 1.7 asks no gate that knows the tag before the start.
        let by_digest = Published { name: tagged.by_digest(), ..tagged.clone() };
        for other in [&again, &by_digest] {
            expect::refused(&node, Path::CriPull, other, &["PG205"])?;
        }
    }
    for image in &signed {
        // The gates before the start let in what some namespace admits.
        expect::admitted(&node, Path::CriPull, image)?;
    }
    namespaces(&node, [&app, &both, &lab])?;
    tags(&node, &tagged, &again)?;
    names(&node, &app)?;
    labels(&node, &app)?;
    under_load(&node, &busybox)
}

fn namespaces(node: &Node, [app, both, lab]: [&Published; 3]) -> Result<()> {
    let checked = node.run(&["pullgate", "policy", "check"])?.ok()?;
    expect::holds(checked.contains("Open before the start") && checked.contains("rule      \"open\""), || checked)?;
    let pods = |namespace| node.pod(namespace, "one");
    let [shop, payments, sandbox, vault] = [pods("shop")?, pods("payments")?, pods("sandbox")?, pods("vault")?];
    let of = |image: &Published| container_config("x", &image.name, &SLEEP);
    // What one namespace admits first is no decision for another.
    starts(&sandbox, of(lab))?;
    let message = refused(&shop, of(lab), &["PG202"])?;
    expect::holds(message.contains("rule \"lab\""), || message)?;
    starts(&shop, of(app))?;
    for (pod, rule) in [(&payments, "payments"), (&vault, "vault")] {
        let message = refused_at_last(node, pod, &|| of(app), &["PG102"])?;
        expect::holds(message.contains(&format!("rule \"{rule}\"")) && message.contains("\"release\""), || message)?;
        starts_once_verified(node, pod, &|| of(both))?;
    }
    node.remove_pods()
}

/// A rule for one tag admits no other tag of the same digest, and no pull by digest.
fn tags(node: &Node, tagged: &Published, again: &Published) -> Result<()> {
    let pod = node.pod("shop", "tags")?;
    starts(&pod, container_config("x", &tagged.name, &SLEEP))?;
    for called in [&again.name, &tagged.by_digest(), &format!("{}@{}", tagged.name, tagged.digest())] {
        let message = refused(&pod, as_kubelet("x", &tagged.image, called, &SLEEP), &["PG205"])?;
        expect::holds(message.contains("rule \"tagged\""), || message)?;
    }
    pod.remove()
}

/// A name that means another registry, or the same one in another spelling, never selects a laxer rule.
fn names(node: &Node, app: &Published) -> Result<()> {
    let pod = node.pod("payments", "names")?;
    let called = |name: &str| as_kubelet("x", &app.image, name, &SLEEP);
    for same in ["127.0.0.1:05000/app/shop:v1", "127.0.0.1.:5000/app/shop:v1"] {
        let message = refused_at_last(node, &pod, &|| called(same), &["PG102"])?;
        expect::holds(message.contains("rule \"payments\""), || format!("{same}: {message}"))?;
    }
    for hub in
        ["shop:v1", "docker.io/shop:v1", "Index.Docker.io/library/shop:v1", "registry-1.docker.io.:443/library/shop"]
    {
        let message = refused(&pod, called(hub), &["PG202"])?;
        expect::holds(message.contains("rule \"hub\""), || format!("{hub}: {message}"))?;
    }
    pod.remove()
}

/// The labels of a node that change select another rule at once.
fn labels(node: &Node, app: &Published) -> Result<()> {
    let pod = node.pod("shop", "labels")?;
    let of = || container_config("x", &app.name, &SLEEP);
    starts(&pod, of())?;
    node.write(CONFIG_FILE, labelled("frozen"))?;
    node.reload()?;
    node.wait_until("the label is in force", || match run(&pod, of())? {
        Ok(id) => pod.remove_container(&id).map(|()| false),
        Err(status) => Ok(status.message().contains("PG202 rule \"frozen\"")),
    })?;
    node.write(CONFIG_FILE, CONFIG)?;
    node.reload()?;
    node.wait_until("the label is gone", || match run(&pod, of())? {
        Ok(id) => pod.remove_container(&id).map(|()| true),
        Err(_) => Ok(false),
    })?;
    pod.remove()
}

const CHANGES: usize = 20;
const ROUNDS: usize = 8;

/// While the policy changes between two documents that agree about these images, none that they admit is refused, and
/// none that they refuse admitted.
fn under_load(node: &Node, busybox: &[u8]) -> Result<()> {
    let suite = node.suite;
    let make = |path: String| node.push(&path, &Image::of_layers(busybox, &path, 2)?);
    let good: Vec<Published> =
        (0..ROUNDS).map(|number| make(format!("app/good-{number}:v1"))).collect::<Result<_>>()?;
    let evil: Vec<Published> =
        (0..ROUNDS).map(|number| make(format!("app/evil-{number}:v1"))).collect::<Result<_>>()?;
    node.sign_all(&good, "qa", Layout::usual(suite))?;
    expect::admitted(node, Path::CriPull, &good[0])?;
    let swapped = Image::running(good[0].image.layers.clone(), "swapped", &SLEEP);
    let swapped = node.push("app/swapped:v1", &swapped)?;
    node.slip_in(&swapped, &[])?;
    let pod = node.pod("shop", "load")?;

    let one = format!("{ATTESTORS}{PLACES}");
    let other = one.replace("require = { all = [\"qa\"] }", "require = { any = [\"qa\", \"release\"] }");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let changing = scope.spawn(|| {
            let changed =
                (0..CHANGES).try_for_each(|number| node.change_policy(if number % 2 == 0 { &other } else { &one }));
            over.store(true, Ordering::SeqCst);
            changed
        });
        let mut round = 0;
        let mut asked = Ok(());
        // Each image is pulled anew once, and started as long as there are changes.
        while asked.is_ok() && (round < ROUNDS || !over.load(Ordering::SeqCst)) {
            asked = one_round(node, &pod, good.get(round).zip(evil.get(round)), &good[0], &swapped)
                .map_err(|error| format!("round {round}: {error}").into());
            round += 1;
        }
        let changed = changing.join().unwrap_or_else(|_| Err("changing the policy panicked".into()));
        changed.and(asked)
    })
}

fn one_round(
    node: &Node,
    pod: &Pod<'_>,
    pulled: Option<(&Published, &Published)>,
    good: &Published,
    swapped: &Published,
) -> Result<()> {
    if let Some((good, evil)) = pulled {
        expect::admitted(node, Path::CriPull, good)?;
        expect::refused(node, Path::CriPull, evil, &["PG101"])?;
    }
    starts(pod, container_config("x", &good.name, &SLEEP))?;
    refused(pod, container_config("x", &swapped.name, &SLEEP), &["PG101", "PG309"]).map(drop)
}

fn labelled(env: &str) -> String {
    format!("{CONFIG}\n[node]\nlabels = {{ env = \"{env}\" }}\n")
}

impl Node {
    /// Puts the public keys where [`ATTESTORS`] looks for them.
    fn install_keys(&self) -> Result<()> {
        for key in ["qa", "release"] {
            self.write(&format!("/etc/pullgate/keys/{key}.pub"), self.read(&format!("/root/keys/{key}.pub"))?)?;
        }
        Ok(())
    }

    /// Writes a policy, lets the daemon read it, and waits until it is in force.
    fn change_policy(&self, policy: &str) -> Result<()> {
        self.write(POLICY_FILE, policy)?;
        self.reload()?;
        let checked = self.run(&["pullgate", "policy", "check"])?.ok()?;
        let revision = checked.split("revision ").nth(1).and_then(|rest| rest.split_whitespace().next());
        self.status_says(revision.ok_or("no revision")?)
    }

    fn status_says(&self, word: &str) -> Result<()> {
        self.wait_until(&format!("status says {word}"), || Ok(self.run(&["pullgate", "status"])?.text().contains(word)))
    }

    /// Since `cursor` one gate recorded that `rule` would refuse `image`, and that it was not refused.
    fn would_deny(&self, cursor: &str, image: &Published, rule: &str, code: &str) -> Result<()> {
        self.run(&["journalctl", "--sync"])?.ok()?;
        let fields = [("VERDICT", "deny"), ("ENFORCED", "no"), ("RULE", rule), ("CODE", code)];
        let filter: Vec<String> = fields.iter().map(|(name, value)| format!("PULLGATE_{name}={value}")).collect();
        let filter: Vec<&str> = filter.iter().map(String::as_str).collect();
        let after = format!("--after-cursor={cursor}");
        let entries = self.journal(&[&[after.as_str(), "_SYSTEMD_UNIT=pullgate.service"], &filter[..]].concat())?;
        let about = |entry: &Value| {
            let field = |name: &str| entry.get(name).and_then(Value::as_str);
            field("PULLGATE_DIGEST") == Some(&image.digest())
                && field("MESSAGE").is_some_and(|line| line.contains(code))
        };
        expect::holds(entries.iter().any(about), || format!("{entries:#?}"))
    }
}
