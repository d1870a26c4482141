//! The verifier as containerd starts it, the whole process: this one plays containerd, whose children are answered.

use std::{
    io::Write,
    process::{Command, Stdio},
    time::Instant,
};

use crate::{
    node::{Result, containerd::VERIFIERS},
    policy::status,
    report::{Row, Section, tail},
    statistics::quantile,
};

const RUNS: usize = 1000;

/// Asks about `digest`, about which there is a decision, by `name`.
///
/// # Errors
/// Where it is not admitted, or evidence is fetched for it.
pub fn measure(name: &str, digest: &str) -> Result<Section> {
    let descriptor = format!(
        "{{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"digest\":\"{digest}\",\"size\":1000}}\n"
    );
    let program = format!("{VERIFIERS}/pullgate-verifier");
    let arguments = ["-name", name, "-digest", digest, "-stdin-media-type", "application/vnd.oci.descriptor.v1+json"];
    let before = status()?;
    let (mut ours, mut nothing) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        ours.push(run(&program, &arguments, &descriptor)?);
        nothing.push(run("/bin/true", &[], &descriptor)?);
    }
    let after = status()?;
    if after.resolve.allowed - before.resolve.allowed != RUNS as u64 {
        return Err(format!("{} of {RUNS} were admitted", after.resolve.allowed - before.resolve.allowed).into());
    }
    if after.registry_requests != before.registry_requests {
        return Err("evidence was fetched for a stored decision".into());
    }
    let mut section =
        Section::new("The verifier, from its start to its end, with its audit entry (one after the other)");
    let met = quantile(&ours, 0.5) < 3e-3 && quantile(&ours, 0.99) < 6e-3;
    let row = Row::new("a stored decision", tail(&ours)).beside("/bin/true", &tail(&nothing));
    section.rows.push(row.target("p50 3 ms, p99 6 ms", met));
    Ok(section)
}

/// Seconds from the start of `program` to its end, which has to be good.
fn run(program: &str, arguments: &[&str], input: &str) -> Result<f64> {
    let begun = Instant::now();
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // Whoever reads nothing may have ended already.
        let _ = stdin.write_all(input.as_bytes());
    }
    let ended = child.wait_with_output()?;
    match ended.status.success() {
        true => Ok(begun.elapsed().as_secs_f64()),
        false => Err(String::from_utf8_lossy(&ended.stdout).into_owned().into()),
    }
}
