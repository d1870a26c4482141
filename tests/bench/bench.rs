//! `make bench`: a Debian forky node in a box, and in it pullgate side by side with its peers. A figure that misses its
//! target is printed as such and fails nothing; what could not be measured does.
//!
//! `bench [PART…]` measures all parts, or those named. The program runs itself inside the node, where `bench inside
//! PART` measures, `bench run COMMAND…` runs one program alone, and `bench bare …` is the bare registry client.

#![allow(unreachable_pub, reason = "a program of several files")]

#[allow(unused_imports, reason = "shared by programs that each use a part")]
#[path = "../authority/mod.rs"]
mod authority;
#[path = "../registry/hostile.rs"]
mod hostile;
#[path = "../node/mod.rs"]
mod node;

mod bare;
mod check;
mod child;
mod containerd;
mod daemon;
mod evidence;
mod flood;
mod keyless;
mod layers;
mod policy;
mod prepare;
mod pulls;
mod pure;
mod report;
mod start;
mod start_gate;
mod statistics;
mod verifier;

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
    time::Instant,
};

use node::{Node, Result};
use report::Section;

/// Something to measure, inside the node.
struct Part {
    name: &'static str,
    /// What the node has to hold for it.
    prepare: fn(&Node) -> Result<()>,
    measure: fn() -> Result<Vec<Section>>,
    /// Seconds after which it is broken.
    longest: u64,
}

const PARTS: &[Part] = &[
    Part { name: "pure", prepare: nothing, measure: pure::measure, longest: 60 },
    Part { name: "start", prepare: nothing, measure: start::measure, longest: 60 },
    Part { name: "check", prepare: check::prepare, measure: check::measure, longest: 180 },
    Part { name: "flood", prepare: nothing, measure: flood::measure, longest: 120 },
    Part { name: "daemon", prepare: nothing, measure: daemon::measure, longest: 180 },
    Part { name: "start-gate", prepare: nothing, measure: start_gate::measure, longest: 60 },
    Part { name: "pulls", prepare: pulls::prepare, measure: pulls::measure, longest: 300 },
];

/// Characters of what a failure says.
const LINE: usize = 1000;

fn nothing(_: &Node) -> Result<()> {
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["inside", part] => inside(part),
        ["run", command @ ..] => child::run_alone(command),
        ["bare", arguments @ ..] => bare::run(arguments),
        parts => outside(parts),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Measures one part in the node and prints it for the program outside.
fn inside(name: &str) -> Result<bool> {
    let part = PARTS.iter().find(|part| part.name == name).ok_or_else(|| format!("no part is called {name}"))?;
    let sections = (part.measure)()?;
    println!("{}", serde_json::to_string(&sections)?);
    Ok(true)
}

/// Boots a node, measures in it, and prints the table. False where something could not be measured.
fn outside(wanted: &[&str]) -> Result<bool> {
    if let Some(unknown) = wanted.iter().find(|name| PARTS.iter().all(|part| part.name != **name)) {
        let known: Vec<_> = PARTS.iter().map(|part| part.name).collect();
        return Err(format!("no part is called {unknown}; parts: {}", known.join(", ")).into());
    }
    let begun = Instant::now();
    progress("boot a Debian forky node, install the package");
    let node = prepare::node()?;
    let machine = report::machine(&node)?;
    let (mut sections, mut failures) = (Vec::new(), Vec::new());
    for part in PARTS.iter().filter(|part| wanted.is_empty() || wanted.contains(&part.name)) {
        progress(&format!("measure: {}", part.name));
        match measured(&node, part) {
            Ok(found) => sections.extend(found),
            Err(error) => {
                failures.push(format!("{}: {}", part.name, error.to_string().chars().take(LINE).collect::<String>()));
            }
        }
    }
    drop(node);
    progress("");
    println!("{machine}\n");
    report::print(&sections);
    println!("\n{:.0} s in all", begun.elapsed().as_secs_f64());
    for failure in &failures {
        println!("NOT MEASURED: {failure}");
    }
    Ok(failures.is_empty())
}

fn measured(node: &Node, part: &Part) -> Result<Vec<Section>> {
    (part.prepare)(node)?;
    let said = node.run_within(part.longest, &[prepare::PROGRAM, "inside", part.name])?.ok()?;
    let last = said.lines().last().ok_or("it said nothing")?;
    Ok(serde_json::from_str(last)?)
}

/// One line that is overwritten by the next, on a terminal only.
fn progress(line: &str) {
    if io::stderr().is_terminal() {
        let _ = write!(io::stderr(), "\r\x1b[K{line}").and_then(|()| io::stderr().flush());
    }
}
