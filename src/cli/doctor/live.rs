//! The live self-test, as the daemon runs it for whoever asks.

use std::{
    io::{self, IsTerminal, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use crate::{
    image::sanitize,
    selftest::{Gate, Report, State},
};

/// Time for a run: it pulls images and starts pods in turn.
const PATIENCE: Duration = Duration::from_secs(300);
/// Bytes of a report.
const REPORT_BYTES: usize = 1 << 20;
/// Time between two signs of life on a terminal.
const TICK: Duration = Duration::from_millis(500);

/// The report of a run that is made now.
///
/// # Errors
/// Why there is none.
pub(super) fn run(runtime: &Path) -> Result<Report, String> {
    let told = |error: io::Error| format!("the daemon runs no self-test: {error}");
    let stream = UnixStream::connect(runtime.join("selftest.sock")).map_err(told)?;
    let text = read(stream).map_err(told);
    if io::stderr().is_terminal() {
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
    serde_json::from_slice(&text?).map_err(|error| format!("the self-test's report cannot be read: {error}"))
}

fn read(mut stream: UnixStream) -> io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(TICK))?;
    let begun = Instant::now();
    let mut text = Vec::new();
    let mut buffer = [0; 16 << 10];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(text),
            Ok(read) => text.extend_from_slice(buffer.get(..read).unwrap_or_default()),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                progress(begun.elapsed());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if begun.elapsed() > PATIENCE || text.len() > REPORT_BYTES {
            return Err(io::Error::other("its report does not end"));
        }
    }
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
    use std::{os::unix::net::UnixListener, thread};

    use super::*;
    use crate::selftest::Proof;

    fn answer(bytes: Vec<u8>) -> Result<Report, String> {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("selftest.sock")).unwrap();
        let server = thread::spawn(move || {
            // Who does not read on is no reason to fail.
            let _ = listener.accept().unwrap().0.write_all(&bytes);
        });
        let report = run(folder.path());
        server.join().unwrap();
        report
    }

    #[test]
    fn a_report_is_read_whole_and_bounded() {
        let report = Report { run: "x".into(), ..Report::default() };
        assert_eq!(answer(serde_json::to_vec(&report).unwrap()), Ok(report));
        assert!(answer(b"{".to_vec()).unwrap_err().contains("cannot be read"));
        assert!(answer(Vec::new()).is_err());
        assert!(answer(vec![b' '; REPORT_BYTES + (64 << 10)]).unwrap_err().contains("does not end"));
        assert!(run(Path::new("/nowhere")).unwrap_err().contains("runs no self-test"));
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
