//! Configurations and policies to measure under.

use std::{collections::BTreeMap, fmt::Write, fs, hint::black_box, path::Path, process::Command, time::Instant};

use jiff::Timestamp;
use pullgate::{
    image::{Digest, Repository},
    policy::{
        Policy as Read,
        evaluate::{Answer, Findings, Origin, Subject},
    },
    status::Status,
};
use sigstore_crypto::KeyPair;

use crate::{
    node::{Result, product, product::SERVICE},
    report::{Row, tail, time},
    statistics::{Draws, median, quantile},
};

/// What a policy says about the one repository that it admits from.
pub struct Policy<'a> {
    /// The registry.
    pub host: &'a str,
    /// The file of the public key that has to have signed.
    pub key: &'a str,
    /// The forms in which signatures count; all of them where none is named.
    pub formats: &'a [&'a str],
}

impl Policy<'_> {
    /// Writes the policy, and a configuration with `more` sections, into `directory`. Returns the configuration's path.
    ///
    /// # Errors
    /// Where they cannot be written.
    pub fn write(&self, directory: &str, more: &str) -> Result<String> {
        let directory = Path::new(directory);
        fs::create_dir_all(directory)?;
        let config = directory.join("config.toml");
        fs::write(directory.join("policy.toml"), self.document())?;
        fs::write(&config, format!("mode = \"enforce\"\n[registry.\"{}\"]\n{more}", self.host))?;
        Ok(config.display().to_string())
    }

    /// Lets the daemon decide by this policy from its next start on.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write_for_daemon(&self, more: &str) -> Result<()> {
        let directory = Path::new(product::CONFIG_FILE).parent().ok_or("no directory")?;
        self.write(&directory.to_string_lossy(), more)?;
        Ok(())
    }

    /// The policy as a text.
    pub fn document(&self) -> String {
        let Self { host, key, formats } = self;
        let formats = if formats.is_empty() { String::new() } else { format!("formats = {formats:?}\n") };
        format!(
            r#"schema = 1
[[attestor]]
name = "release"
may-sign = ["signature"]
{formats}keys = [{{ file = "{key}", algorithm = "ecdsa-p256-sha256" }}]
[[rule]]
name = "bench"
images = ["{host}/bench/**"]
require = {{ all = ["release"] }}
[default]
require = "deny"
"#
        )
    }
}

/// Runs systemctl, which has to succeed.
///
/// # Errors
/// What it says.
pub fn systemctl(arguments: &[&str]) -> Result<()> {
    run(&[&["systemctl"], arguments].concat())?;
    Ok(())
}

/// What a command says that has to succeed.
///
/// # Errors
/// What it says where it fails.
pub fn run(command: &[&str]) -> Result<String> {
    let (program, arguments) = command.split_first().ok_or("no command")?;
    let ended = Command::new(program).args(arguments).output()?;
    if ended.status.success() {
        return Ok(String::from_utf8_lossy(&ended.stdout).into_owned());
    }
    Err(format!("{}: {}", command.join(" "), String::from_utf8_lossy(&ended.stderr).trim()).into())
}

/// What the daemon says about itself.
///
/// # Errors
/// Where it says nothing.
pub fn status() -> Result<Status> {
    Ok(serde_json::from_str(&run(&["pullgate", "status", "-o", "json"])?)?)
}

/// The daemon's process.
///
/// # Errors
/// What systemd says.
pub fn daemon_pid() -> Result<String> {
    Ok(run(&["systemctl", "show", "--value", "--property", "MainPID", SERVICE])?.trim().to_owned())
}

const RULES: [usize; 3] = [100, 1_000, 10_000];
const ATTESTORS: usize = 200;
const STAGES: [&str; 4] = ["dev", "qa", "canary", "prod"];
const HOST: &str = "reg.example.com";

/// What a large policy costs: to read it, and to decide by it, without any signature to check.
///
/// # Errors
/// Where it cannot be read.
pub fn many_rules() -> Result<Vec<Row>> {
    let keys: Vec<String> = (0..ATTESTORS)
        .map(|_| Ok(KeyPair::generate_ecdsa_p256()?.public_key_der()?.to_pem()))
        .collect::<Result<_>>()?;
    let mut rows = Vec::new();
    let mut figures = Vec::new();
    for rules in RULES {
        let text = document(rules, &keys)?;
        let mut reading = Vec::new();
        for _ in 0..9 {
            let begun = Instant::now();
            black_box(Read::parse("policy.toml", black_box(&text), &|_| Err("no file".to_owned()))?);
            reading.push(begun.elapsed().as_secs_f64());
        }
        let policy = Read::parse("policy.toml", &text, &|_| Err("no file".to_owned()))?;
        let times = decisions(&policy, rules)?;
        let (reading, p99) = (median(&reading), quantile(&times, 0.99));
        figures.push((rules, reading, p99));
        let largest = rules == RULES[RULES.len() - 1];
        let [read, decided] = [
            Row::new(format!("{rules} rules, {ATTESTORS} attestors: read and checked"), time(reading)),
            Row::new(format!("{rules} rules, {ATTESTORS} attestors: the rule, and the refusal"), tail(&times)),
        ];
        rows.push(if largest { read.target("100 ms", reading <= 0.1) } else { read });
        rows.push(decided.target("p99 50 µs", p99 <= 50e-6));
    }
    if let [(few, _, before), .., (many, _, after)] = figures[..] {
        let (growth, linear) = (after / before, many as f64 / few as f64);
        let row = Row::new(format!("p99 at {many} rules over {few}"), format!("{growth:.2}"));
        rows.push(row.target(format!("below {linear}"), growth < linear / 10.0));
    }
    Ok(rows)
}

/// `rules` rules over repositories of teams, of which each has a rule for every stage and for a namespace; some floors.
fn document(rules: usize, keys: &[String]) -> Result<String> {
    let mut text = String::from("schema = 1\n");
    for (number, pem) in keys.iter().enumerate() {
        write!(
            text,
            "[[attestor]]\nname = \"a{number}\"\nmay-sign = [\"signature\"]\nkeys = [{{ pem = '''{pem}''', algorithm = \"ecdsa-p256-sha256\" }}]\n"
        )?;
    }
    for number in 0..rules {
        let (team, kind) = (number / 5, number % 5);
        let scope = match STAGES.get(kind) {
            Some(stage) => format!("nodes = {{ env = \"{stage}\" }}"),
            None => format!("namespaces = [\"team-{team}\"]"),
        };
        let one = |offset: usize| (team + offset) % ATTESTORS;
        write!(
            text,
            "[[rule]]\nname = \"r{number}\"\nimages = [\"{HOST}/team-{team}/**\", \"{HOST}/team-{team}/base/*\"]\n{scope}\n\
             require = {{ all = [\"a{}\", {{ any = [\"a{}\", \"a{}\"] }}] }}\n",
            one(0),
            one(1),
            one(2)
        )?;
    }
    for number in 0..10 {
        write!(
            text,
            "[[floor]]\nname = \"f{number}\"\nimages = [\"{HOST}/team-{number}/**\"]\nrequire = {{ any = [\"a{number}\"] }}\n"
        )?;
    }
    text.push_str("[default]\nrequire = \"deny\"\n");
    Ok(text)
}

/// Seconds for each of many decisions by `policy`.
fn decisions(policy: &Read, rules: usize) -> Result<Vec<f64>> {
    let labels = BTreeMap::from([("env".to_owned(), "prod".to_owned()), ("zone".to_owned(), "a".to_owned())]);
    let (mut draws, mut times, findings) = (Draws::new(1), Vec::new(), Findings::default());
    for number in 0..5000 {
        let repository: Repository = format!("{HOST}/team-{}/base/app", draws.below(rules / 5)).parse()?;
        let namespace = (number % 2 == 0).then(|| "web".to_owned());
        let subject =
            Subject::new(Digest::of(b"image"), Some(repository), Origin::Fetched).in_namespace(namespace.into());
        let begun = Instant::now();
        let Answer::NeedsEvidence(governing) = policy.ask(black_box(&subject), &labels, Timestamp::UNIX_EPOCH) else {
            return Err("decided without evidence".into());
        };
        let decision = policy.evaluate(&governing, &subject, &findings, Timestamp::UNIX_EPOCH);
        times.push(begun.elapsed().as_secs_f64());
        let _ = black_box(decision);
    }
    Ok(times)
}
