//! The hook as the runtime starts it, the whole process, about a container whose image was decided about: what a start
//! costs more with the start gate.

use std::{
    fs,
    io::Write,
    process::{Command, Output, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use crate::{
    containerd::{self, Store},
    evidence::Signer,
    hostile::HostileRegistry,
    node::{Result, containerd::VERIFIERS, product::SERVICE},
    policy::{Policy, status, systemctl},
    report::{Row, Section, tail},
    statistics::quantile,
};

const SOCKET: &str = "/run/bench/containerd.sock";
const MORE: &str = "[containerd]\naddress = \"/run/bench/containerd.sock\"\n";
const LAYER: usize = 1 << 10;
const RUNS: usize = 1000;
/// Times that it is asked until what is verified behind the answers is decided.
const TRIES: usize = 100;
const PAUSE: Duration = Duration::from_millis(50);
const STATE: &str = "{\"ociVersion\":\"1.2.0\",\"id\":\"bench\",\"status\":\"creating\",\"pid\":1,\
    \"bundle\":\"/run/containerd/io.containerd.runtime.v2.task/bench-0/bench\"}";

pub fn measure() -> Result<Vec<Section>> {
    fs::create_dir_all("/run/bench")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let registry = HostileRegistry::start().await;
        let signer = Signer::new("/etc/pullgate/keys/bench.pub")?;
        let mut store = Store::new(1, LAYER)?;
        store.called = format!("{}/bench/app:v1", registry.host());
        let digest = store.images().next().ok_or("no images")?.digest;
        let (payload, signature) = signer.simple(&digest)?;
        registry.content().signatures("bench/app", digest, &[(payload.as_bytes(), &signature)]);
        containerd::serve(Arc::new(store), SOCKET)?;
        Policy { host: &registry.host(), key: &signer.public, formats: &[] }.write_for_daemon(MORE)?;
        tokio::task::spawn_blocking(|| systemctl(&["restart", SERVICE])).await??;
        Ok(vec![tokio::task::spawn_blocking(hooks).await??])
    })
}

fn hooks() -> Result<Section> {
    let program = format!("{VERIFIERS}/pullgate-verifier");
    let arguments = ["create-runtime"];
    let mut tries = 0;
    while !run(&program, &arguments)?.0.status.success() {
        tries += 1;
        if tries == TRIES {
            let said = run(&program, &arguments)?.0.stderr;
            return Err(String::from_utf8_lossy(&said).into_owned().into());
        }
        thread::sleep(PAUSE);
    }
    let before = status()?;
    let (mut ours, mut nothing) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let (ended, seconds) = run(&program, &arguments)?;
        if !ended.status.success() {
            return Err(String::from_utf8_lossy(&ended.stderr).into_owned().into());
        }
        ours.push(seconds);
        nothing.push(run("/bin/true", &[])?.1);
    }
    let after = status()?;
    if after.start.allowed - before.start.allowed != RUNS as u64 {
        return Err(format!("{} of {RUNS} were admitted", after.start.allowed - before.start.allowed).into());
    }
    if after.registry_requests != before.registry_requests {
        return Err("a registry was asked for a stored decision".into());
    }
    let mut section = Section::new("The hook, from its start to its end, with its audit entry (one after the other)");
    let row = Row::new("a stored decision", tail(&ours)).beside("/bin/true", &tail(&nothing));
    section.rows.push(row.target("p99 5 ms", quantile(&ours, 0.99) < 5e-3));
    section.note("containerd is the bench's own: its two answers to each come from memory.");
    Ok(section)
}

/// What `program` said, and the seconds from its start to its end.
fn run(program: &str, arguments: &[&str]) -> Result<(Output, f64)> {
    let begun = Instant::now();
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // Whoever reads nothing may have ended already.
        let _ = stdin.write_all(STATE.as_bytes());
    }
    let ended = child.wait_with_output()?;
    Ok((ended, begun.elapsed().as_secs_f64()))
}
