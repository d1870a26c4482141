use jiff::Timestamp;

use super::*;
use crate::{
    node::doctor::Place,
    selftest::{Gate as Tested, Proof, Report, State as Seen},
};

fn finding(check: &'static str, gate: Gate, state: State, what: &str) -> Finding {
    let mend = (state != State::Closed).then(|| "pullgate enable --restart".to_owned());
    Finding { check, gate, state, what: what.to_owned(), place: None, mend }
}

fn proof(gate: Tested, way: &str, state: Seen) -> Proof {
    let why = if state == Seen::Open { "it was admitted" } else { "" };
    Proof { gate, way: Some(way.to_owned()), state, why: why.to_owned(), entries: Vec::new() }
}

fn report(gates: Vec<Proof>) -> Option<Result<Report, String>> {
    Some(Ok(Report { run: "x".to_owned(), at: Some(Timestamp::UNIX_EPOCH), took_ms: 1234, gates, ..Report::default() }))
}

fn well() -> Vec<Finding> {
    Gate::ALL.iter().map(|gate| finding("x", *gate, State::Closed, "all is well")).collect()
}

fn proven() -> Option<Result<Report, String>> {
    report(vec![
        proof(Tested::Resolve, "kubelet", Seen::Enforcing),
        proof(Tested::Unpack, "kubelet", Seen::Enforcing),
        proof(Tested::Start, "runc", Seen::Enforcing),
    ])
}

#[test]
fn a_node_in_order_is_a_few_lines() {
    let examined = Examined { findings: well(), live: proven() };
    assert_eq!(
        examined.page("containerd 2.1.9", false),
        "containerd 2.1.9\n\nnothing open in resolve, unpack, start, watch, node (5 checks)\n\n\
         self-test, 1.2 s\n  resolve  kubelet    enforcing\n  unpack   kubelet    enforcing\n  start    runc       enforcing\n\n\
         enforcing: resolve, unpack, start (runc)\n"
    );
    assert_eq!(examined.worst(), State::Closed);
    let all = examined.page("containerd 2.1.9", true);
    assert_eq!(all.matches("x: all is well").count(), 5, "{all}");
}

#[test]
fn the_worst_comes_first_with_its_place_and_mend() {
    let mut findings = well();
    let mut open = finding("diff-service", Gate::Unpack, State::Open, &"the diff service asks walking ".repeat(5));
    open.place = Some(Place { file: "/etc/containerd/config.toml".into(), line: Some(7) });
    findings.push(finding("cri-local-pull", Gate::Resolve, State::Warning, "CRI pulls by itself"));
    findings.push(open);
    let examined = Examined { findings, live: proven() };
    let page = examined.page("containerd 2.1.9", false);
    let (unpack, resolve) = (page.find("\nunpack\n").unwrap(), page.find("\nresolve\n").unwrap());
    assert!(unpack < resolve, "{page}");
    assert!(page.contains("\n  OPEN     the diff service asks"), "{page}");
    assert!(
        page.contains("\n           at    /etc/containerd/config.toml:7\n           mend  pullgate enable --restart\n")
    );
    assert!(page.lines().all(|line| line.chars().count() <= COLUMNS), "{page}");
    assert!(page.ends_with("OPEN: unpack; enforcing: resolve, unpack, start (runc)\n"), "{page}");
    assert_eq!(examined.worst(), State::Open);
}

#[test]
fn what_could_not_be_told_is_no_verdict() {
    let mut findings = well();
    findings.extend(["a", "b", "c"].map(|check| finding(check, Gate::Unpack, State::Unknown, "containerd is gone")));
    let examined = Examined { findings, live: Some(Err("the daemon runs no self-test: gone".to_owned())) };
    let page = examined.page("x", false);
    assert_eq!(page.matches("containerd is gone").count(), 1, "{page}");
    assert!(page.contains("unknown  3 checks could not be made: containerd is gone"), "{page}");
    assert!(page.ends_with("not known: unpack, the self-test; no gate enforces\n"), "{page}");
    assert_eq!(examined.worst(), State::Unknown);
    let untested = Examined { findings: well(), live: None };
    assert_eq!((untested.worst(), untested.verdict().as_str()), (State::Closed, "not tested live"));
    let never = Examined { findings: well(), live: report(Vec::new()) };
    assert_eq!(never.worst(), State::Unknown);
    assert_eq!(Examined { findings: Vec::new(), live: None }.worst(), State::Unknown);
}

#[test]
fn a_gate_that_was_seen_to_admit_is_open_whatever_the_files_say() {
    let live = report(vec![
        proof(Tested::Unpack, "kubelet", Seen::Enforcing),
        proof(Tested::Start, "runc", Seen::Enforcing),
        proof(Tested::Start, "gpu\u{1b}[2J", Seen::Open),
    ]);
    let examined = Examined { findings: well(), live };
    assert_eq!(examined.worst(), State::Open);
    let page = examined.page("x", false);
    assert!(page.contains("OPEN: it was admitted"), "{page}");
    assert!(page.contains("OPEN: start (gpu") && page.contains("enforcing: unpack, start (runc)"), "{page}");
    assert!(page.chars().all(|c| c == '\n' || !c.is_control()));
}

#[test]
fn lines_are_as_wide_as_a_page() {
    let long = "word ".repeat(100) + &"x".repeat(200);
    let lines = wrapped(&long, "    ");
    assert!(lines.iter().all(|line| line.chars().count() <= COLUMNS || line.trim().len() == 200));
    assert!(lines.iter().all(|line| line.starts_with("    ")));
    assert_eq!(wrapped("", "  "), ["  "]);
    assert_eq!(wrapped("a\nb", ""), ["a?b"]);
}
