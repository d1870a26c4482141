//! A node with an image that is admitted and some that are not, and how it is told what became of one.

use std::{
    fmt,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::{docker, past};
use crate::node::{
    Image, Node, Result, Suite,
    image::Layer,
    journal::Entry,
    product::{CONFIG, CONFIG_FILE, POLICY_FILE, SERVICE, policy_with},
    registry::Published,
    signing::Layout,
};

/// What every image says when it runs.
pub const SAID: &str = "it runs";
pub const OVERLAY: &str = "overlayfs";

/// What becomes of an image that the policy refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    RefusedBeforeFetch,
    RefusedBeforeUnpack,
    RefusedBeforeStart,
    /// It got there, and an entry of the watch names it or its image.
    Detected,
    /// It got there, and nothing says so.
    Open,
    /// There is no such path.
    Absent(&'static str),
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RefusedBeforeFetch => f.write_str("refused before fetch"),
            Self::RefusedBeforeUnpack => f.write_str("refused before unpack"),
            Self::RefusedBeforeStart => f.write_str("refused before start"),
            Self::Detected => f.write_str("detected"),
            Self::Open => f.write_str("**open**"),
            Self::Absent(why) => write!(f, "– ({why})"),
        }
    }
}

/// What somebody tried with an image, and what it led to.
#[derive(Debug)]
pub struct Attempt {
    pub aim: Aim,
    /// The container that was made, where its identifier is known.
    pub container: Option<String>,
    /// What the client said, or why it failed.
    pub answer: std::result::Result<String, String>,
}

/// What the attempt was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    /// To have its layers unpacked by a snapshotter in a namespace.
    Unpack { snapshotter: &'static str, namespace: &'static str },
    /// To have it run in a namespace.
    Run(&'static str),
}

impl Attempt {
    pub fn run(namespace: &'static str, answer: std::result::Result<String, String>) -> Self {
        Self { aim: Aim::Run(namespace), container: None, answer }
    }

    pub fn unpack(namespace: &'static str, answer: std::result::Result<String, String>) -> Self {
        Self { aim: Aim::Unpack { snapshotter: OVERLAY, namespace }, container: None, answer }
    }
}

pub struct Ground {
    pub node: Node,
    pub suite: Suite,
    /// Signed.
    pub good: Published,
    /// Signed by nobody.
    pub evil: Published,
    /// Signed by nobody, and made of the layers of `good` under another configuration.
    pub swapped: Published,
    /// As `swapped`, with the first of the layers alone.
    pub prefix: Published,
    /// Signed by nobody, and without layers.
    pub bare: Published,
    /// As `bare`, and signed.
    pub bare_good: Published,
    /// As `evil`, and on the node before pullgate was.
    pub earlier: Published,
    /// As `good`, and on the node before pullgate was.
    pub earlier_good: Published,
    /// Signed, until a policy refuses it.
    pub since: Published,
    /// Signed by those who may sign for `dev` alone.
    pub dev: Published,
    count: AtomicUsize,
    /// Whether the document says of this path that it is detected.
    pub expects_detection: AtomicBool,
}

const DEV: &str = r#"[[attestor]]
name = "dev"
may-sign = ["signature"]
keys = [{ file = "/etc/pullgate/keys/dev.pub", algorithm = "ecdsa-p256-sha256" }]

[[rule]]
name = "dev"
images = ["127.0.0.1:5000/dev/**"]
require = { all = ["dev"] }
"#;

impl Ground {
    /// A node that had images before pullgate came, and is connected now.
    pub fn prepare(suite: Suite) -> Result<Self> {
        let node = Node::unconnected(suite)?;
        node.prepare_pods()?;
        let dev_key = node.make_key("dev")?;
        node.write("/etc/pullgate/keys/dev.pub", node.read(&dev_key)?)?;
        let busybox = Layer::with_file("bin/busybox", 0o755, &node.read("/usr/bin/busybox")?)?;
        let of_layers =
            |layers: &[Layer], name: &str| Image::running(layers.to_vec(), name, &["/bin/busybox", "echo", SAID]);
        let make = |name: &str| -> Result<Image> {
            Ok(of_layers(&[busybox.clone(), Layer::with_file(name, 0o644, name.as_bytes())?], name))
        };
        let push = |name: &str, image: &Image| node.push(&format!("{name}:v1"), image);
        let good = push("demo/good", &make("good")?)?;
        let dev = push("dev/app", &make("of-dev")?)?;
        push("demo/promoted", &dev.image)?;
        let ground = Self {
            suite,
            evil: push("demo/evil", &make("evil")?)?,
            swapped: push("demo/swapped", &of_layers(&good.image.layers, "swapped"))?,
            prefix: push("demo/prefix", &of_layers(std::slice::from_ref(&busybox), "prefix"))?,
            bare: push("demo/bare", &of_layers(&[], "bare"))?,
            bare_good: push("demo/bare-good", &of_layers(&[], "bare-good"))?,
            earlier: push("demo/earlier", &make("earlier")?)?,
            earlier_good: push("demo/earlier-good", &make("earlier-good")?)?,
            since: push("demo/since", &make("since")?)?,
            good,
            dev,
            node,
            count: AtomicUsize::new(0),
            expects_detection: AtomicBool::new(false),
        };
        let layout = Layout::usual(suite);
        let signed = [&ground.good, &ground.bare_good, &ground.earlier_good, &ground.since].map(Clone::clone);
        ground.node.sign_all(&signed, "demo", layout)?;
        ground.node.sign(&ground.dev, "dev", layout)?;
        docker::prepare(&ground)?;
        past::bring_earlier(&ground)?;
        ground.node.configure(CONFIG, &ground.policy(""))?;
        ground.node.connect_pods()?;
        Ok(ground)
    }

    /// The policy of this node, with more rules.
    pub fn policy(&self, rules: &str) -> String {
        policy_with(&format!("{DEV}\n{rules}"))
    }

    /// Puts a policy in force.
    pub fn with_policy(&self, policy: &str) -> Result<()> {
        self.configured(POLICY_FILE, policy)
    }

    /// Puts the node into a mode.
    pub fn with_mode(&self, mode: &str) -> Result<()> {
        self.configured(CONFIG_FILE, &CONFIG.replace("enforce", mode))
    }

    fn configured(&self, file: &str, text: &str) -> Result<()> {
        let cursor = self.node.cursor()?;
        self.node.write(file, text)?;
        self.node.reload()?;
        self.node.wait_until("it is in force", || {
            let after = format!("--after-cursor={cursor}");
            let said = self.node.run(&["journalctl", "-q", "--no-pager", "-o", "cat", "-u", SERVICE, &after])?.ok()?;
            Ok(said.contains("is in force"))
        })
    }

    /// The version of containerd, as the table heads its column.
    pub fn line(&self) -> Result<String> {
        let version = self.node.runtime_version()?.runtime_version;
        Ok(version.trim_start_matches('v').split(['~', '+', '-']).next().unwrap_or_default().to_owned())
    }

    /// An identifier that no container had.
    pub fn unique(&self, what: &str) -> String {
        format!("{what}-{}", self.count.fetch_add(1, Ordering::Relaxed))
    }

    /// What became of the images on a path: `good` has to arrive.
    pub fn judged(
        &self,
        good: &Published,
        bad: &Published,
        walk: impl Fn(&Published) -> Result<Attempt>,
    ) -> Result<Cell> {
        let attempt = walk(good)?;
        if !self.arrived(good, &attempt)? {
            return Err(format!("{} must arrive: {:?}", good.name, attempt.answer).into());
        }
        self.judge(bad, walk)
    }

    /// What became of a bad image.
    pub fn judge(&self, bad: &Published, walk: impl Fn(&Published) -> Result<Attempt>) -> Result<Cell> {
        let cursor = self.node.cursor()?;
        let attempt = walk(bad)?;
        if self.arrived(bad, &attempt)? {
            return Ok(if self.detected(bad, &attempt)? { Cell::Detected } else { Cell::Open });
        }
        let entries = self.node.audit_since(&cursor)?;
        let by_a_gate = |entry: &&Entry| entry.verdict != "allow" && entry.gate != "watch" && says(&attempt, entry);
        match entries.iter().rev().find(by_a_gate) {
            Some(refusal) => self.refused_at(bad, refusal),
            None => Err(format!("{}: neither arrived nor refused: {:?}; {entries:?}", bad.name, attempt.answer).into()),
        }
    }

    fn refused_at(&self, bad: &Published, refusal: &Entry) -> Result<Cell> {
        match refusal.gate.as_str() {
            "resolve" if self.fetched(bad)? => Err(format!("{}: refused at resolve, and fetched", bad.name).into()),
            "resolve" => Ok(Cell::RefusedBeforeFetch),
            "unpack" => Ok(Cell::RefusedBeforeUnpack),
            "start" => Ok(Cell::RefusedBeforeStart),
            other => Err(format!("refused at {other}").into()),
        }
    }

    /// The bytes of some are there for a good reason: under another name they are admitted.
    fn fetched(&self, image: &Published) -> Result<bool> {
        if image.image == self.dev.image {
            return Ok(false);
        }
        for namespace in ["default", "k8s.io", "moby"] {
            if self.node.holds_blob(namespace, &image.image.config_digest())? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn arrived(&self, image: &Published, attempt: &Attempt) -> Result<bool> {
        match attempt.aim {
            Aim::Unpack { snapshotter, namespace } => {
                self.node.unpacked_by(snapshotter, namespace, &image.image.chain())
            }
            Aim::Run(_) => Ok(attempt.answer.as_ref().is_ok_and(|said| said.contains(SAID))),
        }
    }

    /// The watch says something of the image, or of what was made of it. An image is told of once, so that may be earlier.
    fn detected(&self, bad: &Published, attempt: &Attempt) -> Result<bool> {
        let (Aim::Run(namespace) | Aim::Unpack { namespace, .. }) = attempt.aim;
        let deadline = Instant::now() + if self.expects_detection.load(Ordering::Relaxed) { PATIENCE } else { GRACE };
        loop {
            self.node.run(&["journalctl", "--sync"])?.ok()?;
            let entries = self.node.journal(&["_SYSTEMD_UNIT=pullgate.service", "PULLGATE_GATE=watch"])?;
            let found = entries.iter().any(|entry| {
                let is = |field: &str, value: &str| entry[field].as_str() == Some(value);
                let of_container = attempt.container.as_ref().is_some_and(|id| is("PULLGATE_CONTAINER", id));
                of_container || is("PULLGATE_NAMESPACE", namespace) && is("PULLGATE_DIGEST", &bad.image.digest())
            });
            if found || Instant::now() > deadline {
                return Ok(found);
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}

/// For an entry that must come.
const PATIENCE: Duration = Duration::from_secs(30);
/// For one that must not.
const GRACE: Duration = Duration::from_secs(3);

/// The client was told what the journal says.
fn says(attempt: &Attempt, refusal: &Entry) -> bool {
    attempt.answer.as_ref().is_err_and(|message| message.contains(&refusal.code))
}
