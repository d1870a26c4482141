//! `make demo`: a node in a box, containerd with pullgate's gates, images of every sort by every path, and what
//! became of each.

use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

#[path = "../node/mod.rs"]
mod node;

use node::{
    Node, Path, Result, Suite,
    matrix::{self, Case, Cell},
    product,
};

fn main() -> ExitCode {
    match demo() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::from(2)
        }
    }
}

fn demo() -> Result<bool> {
    let deb = package()?;
    let mut stages = Stages::default();
    let node = stages.time("boot a Debian forky node", || Node::boot(Suite::Forky))?;
    stages.time("start a registry and docker in it", || node.start_registry().and_then(|()| node.start_docker()))?;
    stages.time("install the package with apt", || node.install_deb(&deb))?;
    stages.time("make a key, write the policy, connect containerd", || connect(&node))?;
    let cases = stages.time("make, push and sign images", || matrix::cases(&node))?;
    let all = cases.len() * Path::of(node.suite).len();
    let mut done = 0;
    let cells = stages.time("bring each onto the node by each path", || {
        matrix::run(&node, &cases, |case: &Case, path| {
            done += 1;
            progress(&format!("{done}/{all} {}: {}", path.name(Suite::Forky), case.name));
        })
    })?;
    stages.time("take the node away", || {
        drop(node);
        Ok(())
    })?;
    report(&cells, &stages);
    Ok(cells.iter().all(|cell| cell.wrong.is_none()))
}

/// The package to show: `--deb PATH`, else the one that `make deb` left.
fn package() -> Result<PathBuf> {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next()) {
        (None, _) => product::package(),
        (Some("--deb"), Some(path)) => Ok(path.into()),
        _ => Err("usage: demo [--deb PATH]".into()),
    }
}

fn connect(node: &Node) -> Result<()> {
    let key = node.make_key("demo")?;
    node.write(product::KEY_FILE, node.read(&key)?)?;
    node.configure(product::CONFIG, product::POLICY)?;
    node.connect_gates()
}

fn report(cells: &[Cell], stages: &Stages) {
    println!("\nWhat became of each image\n\n{}", matrix::table(Suite::Forky, cells));
    println!("What the journal says\n");
    for entry in cells.iter().flat_map(|cell| &cell.entries) {
        println!(
            "{}  {:5} {:5}  {:7} {:7}  {}  rule {}",
            entry.clock(),
            entry.verdict,
            entry.code,
            entry.gate,
            entry.namespace,
            entry.image,
            entry.rule,
        );
    }
    println!("\nWhere the time went\n");
    for (stage, took) in &stages.ended {
        println!("{:7.1} s  {stage}", took.as_secs_f32());
    }
    println!("{:7.1} s  all", stages.ended.iter().map(|(_, took)| *took).sum::<Duration>().as_secs_f32());
    let wrongs = matrix::wrongs(Suite::Forky, cells);
    println!("\n{} of {} cells are as they must be", cells.len() - wrongs.len(), cells.len());
    for wrong in wrongs {
        println!("WRONG: {wrong}");
    }
}

/// What was done, and how long it took.
#[derive(Default)]
struct Stages {
    ended: Vec<(&'static str, Duration)>,
}

impl Stages {
    fn time<T>(&mut self, name: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        progress(name);
        let begun = Instant::now();
        let result = work();
        self.ended.push((name, begun.elapsed()));
        progress("");
        result
    }
}

/// One line that is overwritten by the next, on a terminal only.
fn progress(line: &str) {
    if io::stderr().is_terminal() {
        let line: String = line.chars().take(100).collect();
        let _ = write!(io::stderr(), "\r\x1b[K{line}").and_then(|()| io::stderr().flush());
    }
}
