//! Runs scenarios, a few at a time, and says what became of each. Understands as much of libtest's command line
//! as `cargo test` and nextest use.

use std::{
    collections::VecDeque,
    io::{self, IsTerminal},
    panic::{self, AssertUnwindSafe},
    process::ExitCode,
    sync::Mutex,
    thread,
    time::Instant,
};

use crate::node::{Result, Suite};

/// Nodes at a time: one more than the smallest machine that runs this has cores, since each also waits.
const WORKERS: usize = 3;

/// Something that must hold on a node.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    pub name: &'static str,
    pub suites: &'static [Suite],
    pub run: fn(Suite) -> Result<()>,
}

struct Job {
    name: String,
    suite: Suite,
    run: fn(Suite) -> Result<()>,
}

struct Ended {
    name: String,
    failure: Option<String>,
}

/// Runs what the command line asks for. The exit code is a failure where a scenario failed.
pub fn run(scenarios: &[Scenario]) -> ExitCode {
    let arguments = Arguments::parse(std::env::args().skip(1));
    let (jobs, others): (Vec<Job>, Vec<Job>) = scenarios
        .iter()
        .flat_map(|scenario| scenario.suites.iter().map(|suite| job(scenario, *suite)))
        .partition(|job| arguments.wants(&job.name));
    if arguments.list {
        jobs.iter().for_each(|job| println!("{}: test", job.name));
        return ExitCode::SUCCESS;
    }
    let begun = Instant::now();
    let wanted = jobs.len();
    let queue = Mutex::new(VecDeque::from(jobs));
    let ended = Mutex::new(Vec::new());
    println!("\nrunning {wanted} tests");
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| work(&queue, &ended));
        }
    });
    let failures: Vec<Ended> =
        ended.into_inner().unwrap_or_default().into_iter().filter(|ended| ended.failure.is_some()).collect();
    for Ended { name, failure } in &failures {
        println!("\n---- {name} ----\n{}", failure.as_deref().unwrap_or_default());
    }
    let (passed, failed) = (wanted - failures.len(), failures.len());
    println!(
        "\ntest result: {}. {passed} passed; {failed} failed; 0 ignored; 0 measured; {} filtered out; finished in {:.2}s\n",
        if failed == 0 { "ok" } else { "FAILED" },
        others.len(),
        begun.elapsed().as_secs_f32(),
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn job(scenario: &Scenario, suite: Suite) -> Job {
    Job { name: format!("{}::{}", suite.name(), scenario.name), suite, run: scenario.run }
}

fn work(queue: &Mutex<VecDeque<Job>>, ended: &Mutex<Vec<Ended>>) {
    loop {
        let next = queue.lock().ok().and_then(|mut queue| queue.pop_front());
        let Some(job) = next else { return };
        if io::stdout().is_terminal() {
            println!("test {} …", job.name);
        }
        let begun = Instant::now();
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| (job.run)(job.suite)));
        let failure = match outcome {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("it panicked".to_owned()),
        };
        let word = if failure.is_none() { "ok" } else { "FAILED" };
        println!("test {} ... {word} ({:.1} s)", job.name, begun.elapsed().as_secs_f32());
        // Whoever watches need not wait for the end.
        failure.iter().for_each(|failure| println!("{failure}"));
        if let Ok(mut ended) = ended.lock() {
            ended.push(Ended { name: job.name, failure });
        }
    }
}

#[derive(Default)]
struct Arguments {
    list: bool,
    exact: bool,
    ignored: bool,
    filters: Vec<String>,
    skip: Vec<String>,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Self {
        let mut arguments = Self::default();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--list" => arguments.list = true,
                "--exact" => arguments.exact = true,
                "--ignored" => arguments.ignored = true,
                "--skip" => arguments.skip.extend(words.next()),
                "--format" | "--color" | "--test-threads" | "--logfile" | "-Z" => drop(words.next()),
                flag if flag.starts_with('-') => {}
                filter => arguments.filters.push(filter.to_owned()),
            }
        }
        arguments
    }

    fn wants(&self, name: &str) -> bool {
        let meets = |filter: &String| if self.exact { name == filter } else { name.contains(filter.as_str()) };
        !self.ignored && !self.skip.iter().any(meets) && (self.filters.is_empty() || self.filters.iter().any(meets))
    }
}
