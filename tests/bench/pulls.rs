//! A pull through the gates beside the same pull without: two containerds on one node, one of them gated, that take
//! turns; half way through they change roles.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use crate::{
    layers::{self, LAYERS},
    node::{
        Image, Node, Result, product,
        product::SERVICE,
        registry::{Published, REGISTRY},
        signing::Layout,
    },
    policy::{self, Policy, daemon_pid, status, systemctl},
    prepare::KEY,
    report::{Row, Section, spread, time},
    statistics::{Ratio, median},
};

/// Pairs for each target.
const ROUNDS: usize = 30;
const IMAGES: &str = "/var/tmp/bench-images";
const GATED: &str = "/etc/bench/gated.toml";
const PLAIN: &str = "/etc/bench/plain.toml";
const SKIP: &str = "[unpack]\ninsecure-skip-layer-rehash = true\n";
/// Directories that are no overlay, which containerd's snapshotter cannot stack on.
const PLACES: [&str; 2] = ["/var/lib/containerd/bench", "/var/lib/docker/bench"];

/// Pushes and signs the images, and leaves containerd's two configurations.
///
/// # Errors
/// Where the registry, cosign or containerd fails.
pub fn prepare(node: &Node) -> Result<()> {
    // Two for each round, and two for the first pulls of each half.
    let index = layers::images(2 * (ROUNDS + PLACES.len()))?;
    let all = node.push_index("bench/pulled:all", &index)?;
    let published = |image: &Image| Published { name: all.name.clone(), image: image.clone(), index: None };
    let images: Vec<Published> = index.children.iter().map(published).collect();
    node.sign_all(&images, KEY, Layout::Bundle)?;
    node.write(IMAGES, images.iter().map(Published::by_digest).collect::<Vec<_>>().join("\n"))?;
    // Another part may have left word of a containerd of its own.
    node.configure(product::CONFIG, product::POLICY)?;
    node.connect_gates()?;
    node.write(GATED, node.read("/etc/containerd/config.toml")?)?;
    node.configure_containerd("")?;
    node.write(PLAIN, node.read("/etc/containerd/config.toml")?)?;
    Ok(())
}

const LONGEST_SELFTEST: Duration = Duration::from_secs(60);

/// A way to pull.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Arm {
    Plain,
    Rehashing,
    Skipping,
}

pub fn measure() -> Result<Vec<Section>> {
    let images = fs::read_to_string(IMAGES)?;
    let mut images = images.lines();
    let mut next = || images.next().ok_or("too few images");
    let mut seconds: [Vec<f64>; 3] = Default::default();
    let mut cpu = [0.0; 3];
    for gated in 0..PLACES.len() {
        let pair = Pair::start(gated)?;
        // The first pull of a containerd makes its directories.
        for arm in [Arm::Plain, Arm::Rehashing] {
            pair.prepare(arm)?;
            pair.pull(arm, next()?)?;
        }
        for round in 0..ROUNDS / PLACES.len() {
            let fresh = [next()?, next()?];
            let mut arms = [(Arm::Plain, fresh[0]), (Arm::Rehashing, fresh[0]), (Arm::Skipping, fresh[1])];
            arms.rotate_left(round % 3);
            for (arm, image) in arms {
                let before = pair.prepare(arm)?;
                seconds[arm as usize].push(pair.pull(arm, image)?);
                cpu[arm as usize] += daemon_cpu()? - before;
            }
        }
    }
    Ok(vec![section(&seconds, &cpu)])
}

fn section([plain, rehashing, skipping]: &[Vec<f64>; 3], cpu: &[f64; 3]) -> Section {
    let mut section = Section::new(format!(
        "A pull of {LAYERS} layers by containerd's transfer service ({} interleaved pairs, each with an image not decided \
         about before)",
        plain.len()
    ));
    let row = |what: &str, ours: &[f64], bound: f64| {
        let ratio = Ratio::of(ours, plain);
        let row = Row::new(what, spread(ours)).beside("no gates", &time(median(plain))).ratio(&ratio);
        row.target(format!("{bound}"), ratio.median <= bound)
    };
    section.rows.push(row("gates, layers re-hashed", rehashing, 1.08));
    section.rows.push(row("gates, insecure-skip-layer-rehash", skipping, 1.02));
    let extra: Vec<f64> = rehashing.iter().zip(plain).map(|(ours, theirs)| ours - theirs).collect();
    section.note(format!("Re-hashed, the gates add {} to the median pair.", time(median(&extra))));
    let [_, rehashing, skipping] = cpu.map(|cpu| time(cpu / plain.len() as f64));
    section.note(format!("The daemon's own processor time in a pull: {rehashing} re-hashing, {skipping} not."));
    section
}

/// Two containerds, the one gated and the other not.
struct Pair {
    gated: usize,
}

impl Pair {
    fn start(gated: usize) -> Result<Self> {
        for (at, place) in PLACES.iter().enumerate() {
            let config = fs::read_to_string(if at == gated { GATED } else { PLAIN })?;
            let (version, rest) = config.split_once('\n').ok_or("no configuration")?;
            let path = format!("/etc/bench/containerd-{at}.toml");
            let own = format!("root = \"{place}\"\nstate = \"/run/bench/{at}\"");
            fs::write(&path, format!("{version}\n{own}\n{rest}\n[grpc]\naddress = \"{}\"\n", socket(at)))?;
            let unit = format!("bench-{at}.service");
            // There is none yet the first time.
            let _ = systemctl(&["stop", &unit]);
            policy::run(&[
                "systemd-run",
                "--quiet",
                "--collect",
                "--service-type=notify",
                "--unit",
                &unit,
                "containerd",
                "--config",
                &path,
            ])?;
        }
        let pair = Self { gated };
        pair.configure(Arm::Rehashing)?;
        systemctl(&["restart", SERVICE])?;
        // Its self-test asks the gates as a pull does.
        let begun = Instant::now();
        while status()?.enforcing.at.is_none() {
            if begun.elapsed() > LONGEST_SELFTEST {
                return Err("the daemon does not test itself".into());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(pair)
    }

    fn configure(&self, arm: Arm) -> Result<()> {
        let skip = if arm == Arm::Skipping { SKIP } else { "" };
        let more = format!("[containerd]\naddress = \"{}\"\n{skip}", socket(self.gated));
        Policy { host: REGISTRY, key: product::KEY_FILE, formats: &[] }.write_for_daemon(&more)
    }

    /// Makes the daemon ready for a pull. Returns the processor time that it has taken so far.
    fn prepare(&self, arm: Arm) -> Result<f64> {
        if arm != Arm::Plain {
            self.configure(arm)?;
            reload()?;
        }
        daemon_cpu()
    }

    /// Seconds that the pull takes. What it brought is removed again.
    fn pull(&self, arm: Arm, image: &str) -> Result<f64> {
        let at = if arm == Arm::Plain { 1 - self.gated } else { self.gated };
        let ctr = ["ctr", "--address", &socket(at)].map(str::to_owned);
        let ctr = |arguments: &[&str]| policy::run(&[&ctr.each_ref().map(String::as_str)[..], arguments].concat());
        let layers = status()?.unpack.layers;
        let begun = Instant::now();
        ctr(&["images", "pull", "--plain-http", image])?;
        let took = begun.elapsed().as_secs_f64();
        let passed = status()?.unpack.layers - layers;
        if passed != if arm == Arm::Plain { 0 } else { LAYERS as u64 } {
            return Err(format!("{passed} layers passed the gates").into());
        }
        ctr(&["images", "rm", "--sync", image])?;
        match ctr(&["content", "ls", "-q"])?.lines().count() {
            0 => Ok(took),
            left => Err(format!("{left} blobs stay behind after the pull").into()),
        }
    }
}

fn socket(at: usize) -> String {
    format!("/run/bench/{at}/containerd.sock")
}

/// Lets the daemon read its files again, and waits for the entry that says so.
fn reload() -> Result<()> {
    let before = status()?.audit_written;
    systemctl(&["reload", SERVICE])?;
    while status()?.audit_written == before {}
    Ok(())
}

/// Seconds of processor time that the daemon has taken (proc_pid_stat(5); a hundredth is its unit here).
fn daemon_cpu() -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", daemon_pid()?))?;
    let fields = stat.rsplit_once(") ").ok_or("no fields")?.1;
    let ticks: Vec<f64> = fields.split(' ').skip(11).take(2).map(str::parse).collect::<std::result::Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() / 100.0)
}
