//! The live self-test, as the daemon runs it for whoever asks.

use std::{
    io::{self, IsTerminal, Write},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use crate::{
    image::sanitize,
    selftest::{self, Gate, Report, State},
};

/// Time between two signs of life on a terminal.
const TICK: Duration = Duration::from_millis(50);

/// The report of a run that is made now.
///
/// # Errors
/// Why there is none.
pub(super) fn run(runtime: &Path) -> Result<Report, String> {
    let begun = Instant::now();
    let report = thread::scope(|scope| {
        let asking = scope.spawn(|| selftest::ask(runtime));
        while !asking.is_finished() {
            progress(begun.elapsed());
            thread::sleep(TICK);
        }
        asking.join().unwrap_or_else(|_| Err("it was given up".to_owned()))
    });
    if io::stderr().is_terminal() {
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
    report.map_err(|why| format!("the daemon ran none: {why}"))
}

fn progress(since: Duration) {
    if io::stderr().is_terminal() {
        let _ = write!(io::stderr(), "\r\x1b[Kself-test: each gate is asked to refuse ({} s)", since.as_secs());
        let _ = io::stderr().flush();
    }
}

/// The gates that were seen to refuse, each with its ways: `start (runc, gpu)`.
pub(super) fn enforcing(report: &Report) -> Vec<String> {
    gates(report, |state| state == State::Enforcing)
}

/// The gates of which `state` holds in every way that this node has; with a gate's handlers each counts for itself.
pub(super) fn gates(report: &Report, is: fn(State) -> bool) -> Vec<String> {
    let of = |gate: Gate| {
        let proofs = report.gates.iter().filter(move |proof| proof.gate == gate && proof.state != State::Absent);
        let ways: Vec<String> = proofs
            .clone()
            .filter(|proof| is(proof.state))
            .map(|it| sanitize(it.way.as_deref().unwrap_or(""), 60))
            .collect();
        let all = ways.len() == proofs.count();
        (!ways.is_empty()).then(|| {
            let ways: Vec<&str> = ways.iter().map(String::as_str).filter(|way| !way.is_empty()).collect();
            match ways.is_empty() || (all && gate != Gate::Start) {
                true => gate.name().to_owned(),
                false => format!("{} ({})", gate.name(), ways.join(", ")),
            }
        })
    };
    [Gate::Resolve, Gate::Unpack, Gate::Start].into_iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::selftest::Proof;

    #[test]
    fn a_report_is_waited_for_and_its_absence_has_a_reason() {
        let answer = |bytes: &[u8]| {
            let folder = tempfile::tempdir().unwrap();
            let listener = UnixListener::bind(folder.path().join(selftest::SOCKET)).unwrap();
            thread::scope(|scope| {
                scope.spawn(|| {
                    // Who does not read on is no reason to fail.
                    let _ = listener.accept().unwrap().0.write_all(bytes);
                });
                run(folder.path())
            })
        };
        let report = Report { run: "x".into(), ..Report::default() };
        assert_eq!(answer(&serde_json::to_vec(&report).unwrap()), Ok(report));
        assert_eq!(answer(b"too many ask").unwrap_err(), "the daemon ran none: too many ask");
        assert!(answer(b"").is_err());
        assert!(run(Path::new("/nowhere")).unwrap_err().contains("No such file"));
    }

    #[test]
    fn gates_are_named_with_their_ways_where_not_all_are_the_same() {
        let proof = |gate, way: &str, state| Proof {
            gate,
            way: (!way.is_empty()).then(|| way.to_owned()),
            state,
            why: String::new(),
            entries: Vec::new(),
        };
        let report = Report {
            gates: vec![
                proof(Gate::Resolve, "", State::Absent),
                proof(Gate::Unpack, "kubelet", State::Enforcing),
                proof(Gate::Unpack, "client", State::Enforcing),
                proof(Gate::Start, "runc", State::Enforcing),
                proof(Gate::Start, "gpu", State::Open),
            ],
            ..Report::default()
        };
        assert_eq!(enforcing(&report), ["unpack", "start (runc)"]);
        assert_eq!(gates(&report, |state| state == State::Open), ["start (gpu)"]);
        let mut half = report;
        half.gates[2].state = State::Unknown;
        assert_eq!(enforcing(&half)[0], "unpack (kubelet)");
        assert_eq!(enforcing(&Report::default()), Vec::<String>::new());
    }
}
