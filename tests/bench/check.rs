//! The one-shot check, cold, beside cosign's and beside a client that only asks.

use std::{fs, process::Command};

use crate::{
    child::{self, Took},
    evidence::Signer,
    hostile::HostileRegistry,
    keyless,
    node::{Image, Node, Result, product, registry::REGISTRY, signing::Layout},
    policy::{self, Policy},
    prepare::KEY,
    report::{Row, Section, mebibytes, spread, time},
    statistics::{Ratio, median},
};

const ROUNDS: usize = 60;
/// The same registry once more, with a log of its requests.
const COUNTING: &str = "127.0.0.1:5001";
const ACCESS_LOG: &str = "/var/log/registry-access";
const COUNTING_CONFIG: &str = "version: 0.1
log: { level: error }
storage: { filesystem: { rootdirectory: /var/lib/registry } }
http: { addr: '127.0.0.1:5001' }
";

/// Pushes the images that are checked.
///
/// # Errors
/// Where the registry or cosign fails.
pub fn prepare(node: &Node) -> Result<()> {
    for (tag, layout) in [("sig", Some(Layout::SigTag)), ("bundle", Some(Layout::Bundle)), ("unsigned", None)] {
        let image = node.push(&format!("bench/app:{tag}"), &Image::of_small_layers(tag, 3)?)?;
        if let Some(layout) = layout {
            node.sign(&image, KEY, layout)?;
        }
    }
    keyless::prepare(node)
}

/// An image, and how it is asked about.
struct Case {
    tag: &'static str,
    formats: &'static [&'static str],
    /// The requests that the bare client makes.
    bare: &'static str,
    words: &'static str,
    requests: usize,
}

const CASES: &[Case] = &[
    Case { tag: "sig", formats: &[], bare: "sig", words: ".sig", requests: 3 },
    Case {
        tag: "bundle",
        formats: &["bundle"],
        bare: "bundle",
        words: "bundle by fallback tag, formats = [\"bundle\"]",
        requests: 5,
    },
    Case {
        tag: "bundle",
        formats: &[],
        bare: "sig-then-bundle",
        words: "bundle by fallback tag, formats unset",
        requests: 5,
    },
];

pub fn measure() -> Result<Vec<Section>> {
    Ok(vec![costs()?, requests()?])
}

fn costs() -> Result<Section> {
    let mut commands = Vec::new();
    for case in CASES {
        let image = format!("{REGISTRY}/bench/app:{}", case.tag);
        commands.push(pullgate(REGISTRY, case.formats, product::KEY_FILE, &image)?);
        commands.push(cosign(case.tag == "bundle", product::KEY_FILE, &image));
        commands.push(vec![crate::prepare::PROGRAM.to_owned(), "bare".to_owned(), case.bare.to_owned(), image]);
    }
    let keyless = keyless::commands()?;
    let cases: Vec<&str> = CASES.iter().map(|case| case.words).chain([keyless::WORDS]).collect();
    commands.extend(keyless);
    let mut all: Vec<Vec<Took>> = commands.iter().map(|_| Vec::new()).collect();
    for round in 0..=ROUNDS {
        // Each takes its turn at being first.
        for turn in 0..commands.len() {
            let at = (round + turn) % commands.len();
            let took = child::measure_ending(0, &commands[at])?;
            // The first round fills the caches of files and of the registry.
            if round > 0 {
                all[at].push(took);
            }
        }
    }
    let mut section = Section::new(format!("One-shot check, cold ({ROUNDS} rounds, interleaved; median [quartiles])"));
    for (words, took) in cases.into_iter().zip(all.chunks(3)) {
        section.rows.extend(rows(words, took));
    }
    Ok(section)
}

fn rows(words: &str, took: &[Vec<Took>]) -> Vec<Row> {
    let of = |at: usize, figure: fn(&Took) -> f64| took[at].iter().map(figure).collect::<Vec<f64>>();
    let [ours, cosigns, bares] = [0, 1, 2].map(|at| of(at, |took| took.wall));
    let [cpu, cosign_cpu] = [0, 1].map(|at| of(at, |took| took.cpu));
    let [peak, cosign_peak] = [0, 1].map(|at| median(&of(at, |took| took.peak)));
    let beside = |what: &str, ours: &[f64], whose: &str, theirs: &[f64], target: &str, bound: f64| {
        let ratio = Ratio::of(ours, theirs);
        let row = Row::new(format!("{words}: {what}"), spread(ours)).beside(whose, &time(median(theirs)));
        row.ratio(&ratio).target(target, ratio.median <= bound)
    };
    vec![
        beside("CPU", &cpu, "cosign", &cosign_cpu, "1/8 (0.125; aim 0.083)", 1.0 / 8.0),
        beside("wall time", &ours, "cosign", &cosigns, "1/4 (0.25)", 1.0 / 4.0),
        beside("wall time, the requests alone", &ours, "bare client", &bares, "1.5", 1.5),
        Row::new(format!("{words}: memory at its peak"), mebibytes(peak)).beside("cosign", &mebibytes(cosign_peak)),
    ]
}

fn requests() -> Result<Section> {
    let mut section = Section::new("Requests of a one-shot check by tag, counted at the registry");
    let counting = Counting::start()?;
    for case in CASES {
        let image = format!("{COUNTING}/bench/app:{}", case.tag);
        let ours = counting.requests(0, &pullgate(COUNTING, case.formats, product::KEY_FILE, &image)?)?;
        let theirs = counting.requests(0, &cosign(case.tag == "bundle", product::KEY_FILE, &image))?;
        section.rows.push(counted(case.words, ours, case.requests).beside("cosign", &theirs.to_string()));
    }
    let image = format!("{COUNTING}/bench/app:unsigned");
    let none = counting.requests(1, &pullgate(COUNTING, &[], product::KEY_FILE, &image)?)?;
    section.rows.push(counted("none, to be sure of it", none, 4));
    section.rows.push(counted("bundle by API, formats = [\"bundle\"]", by_api(&["bundle"])?, 4));
    section.rows.push(counted("bundle by API, formats unset", by_api(&[])?, 4));
    section.note("By API: a registry of the project's own, since docker-registry 2.8 has none.");
    section.note("Where both forms count, the .sig tag is asked first, and a bundle takes a request more.");
    section.note("notation is not measured: pullgate does not verify its signatures.");
    Ok(section)
}

fn counted(words: &str, requests: usize, target: usize) -> Row {
    Row::new(words, requests.to_string()).target(format!("at most {target}"), requests <= target)
}

/// Requests for a bundle at a registry with the referrers API.
fn by_api(formats: &[&str]) -> Result<usize> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let registry = HostileRegistry::start().await;
        let signer = Signer::new("/var/tmp/bench-api.pub")?;
        let image = {
            let mut content = registry.content();
            content.referrers_api = true;
            let image = content.image("bench/app", "api", "api");
            content.bundle("bench/app", image, signer.bundle(&image)?.as_bytes());
            image
        };
        let command =
            pullgate(&registry.host(), formats, &signer.public, &format!("{}/bench/app:api", registry.host()))?;
        let took = tokio::task::spawn_blocking(move || child::measure_ending(0, &command)).await??;
        if !took.said.contains(&image.to_string()) {
            return Err(format!("another image was checked: {}", took.said).into());
        }
        Ok(registry.asked().len())
    })
}

pub fn pullgate(host: &str, formats: &[&str], key: &str, image: &str) -> Result<Vec<String>> {
    let directory = format!("/etc/bench/{}-{}", host.replace(':', "-"), formats.join("-"));
    let config = Policy { host, key, formats }.write(&directory, "")?;
    Ok(["pullgate", "--config", &config, "check", image].map(str::to_owned).to_vec())
}

pub fn cosign(bundle: bool, key: &str, image: &str) -> Vec<String> {
    let layout = format!("--new-bundle-format={bundle}");
    let flags = ["--allow-http-registry", "--insecure-ignore-tlog", &layout, "--key", key, image];
    ["cosign", "verify"].iter().chain(&flags).map(|word| (*word).to_owned()).collect()
}

/// A registry that logs its requests.
struct Counting;

impl Counting {
    fn start() -> Result<Self> {
        fs::write("/etc/counting.yml", COUNTING_CONFIG)?;
        let output = format!("StandardOutput=append:{ACCESS_LOG}");
        policy::run(&[
            "systemd-run",
            "--quiet",
            "--collect",
            "--unit=counting",
            "-p",
            &output,
            "docker-registry",
            "serve",
            "/etc/counting.yml",
        ])?;
        while !Command::new("curl").args(["-sf", &format!("http://{COUNTING}/v2/")]).output()?.status.success() {}
        Ok(Self)
    }

    /// How many requests `command`, which ends with `code`, makes.
    fn requests(&self, code: i32, command: &[String]) -> Result<usize> {
        let before = self.logged()?;
        child::measure_ending(code, command)?;
        Ok(self.logged()? - before)
    }

    /// The requests so far. One more is made and waited for, since the log is written after the answer.
    fn logged(&self) -> Result<usize> {
        let mark = format!("/v2/mark-{}/", fs::read_to_string(ACCESS_LOG).unwrap_or_default().lines().count());
        policy::run(&["curl", "-s", &format!("http://{COUNTING}{mark}tags/list")])?;
        loop {
            let log = fs::read_to_string(ACCESS_LOG)?;
            if log.contains(&mark) {
                return Ok(log.lines().filter(|line| line.contains(" /v2/") && !line.contains("/v2/mark-")).count());
            }
        }
    }
}
