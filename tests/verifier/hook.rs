//! As the runtime starts it, before a container's own process.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    process::{Child, ChildStdin},
    thread,
    time::Duration,
};

use pullgate::audit::Kind;

use crate::stage::{Seen, Stage, Use};

const ID: &str = "4d5f0a1e";
const STATE: &[u8] = b"{\"ociVersion\":\"1.2.0\",\"id\":\"4d5f0a1e\",\"status\":\"creating\",\"pid\":7,\
    \"bundle\":\"/run/containerd/io.containerd.runtime.v2.task/k8s.io/4d5f0a1e\"}";
const MOST: usize = 512 << 10;

fn stage() -> Stage {
    Stage::of(Use::Hook)
}

/// As the runtime does it.
fn start(stage: &Stage) -> (Child, ChildStdin) {
    stage.start(&["create-runtime"])
}

fn ask(stage: &Stage) -> Seen {
    stage.ask_with(&["create-runtime"], STATE)
}

#[test]
fn the_question_is_the_state_as_it_came() {
    let stage = stage();
    let daemon = stage.daemon(|mut stream| {
        let mut question = Vec::new();
        stream.read_to_end(&mut question).unwrap();
        stream.write_all(b"ALLOW 1J4\n").unwrap();
        question
    });
    let seen = ask(&stage);
    assert_eq!((seen.code, seen.line.as_str()), (Some(0), ""));
    assert!(seen.entry.is_none(), "{seen:?}");
    let mut expected = vec![1, 0, 0, 0, 1];
    for part in [b"create-runtime", STATE] {
        expected.extend((part.len() as u32).to_be_bytes());
        expected.extend(part);
    }
    assert_eq!(daemon.join().unwrap(), expected);
}

#[test]
fn a_refusal_reaches_the_runtime_in_the_daemons_words() {
    for line in ["DENY PG101 rule \"prod\": no signature.", "RETRY PG309: it is being verified now."] {
        let stage = stage();
        stage.answering(format!("{line}\n").into_bytes());
        let seen = ask(&stage);
        assert_eq!((seen.code, seen.line.as_str()), (Some(1), line));
        assert!(seen.entry.is_none(), "{seen:?}");
    }
}

#[test]
fn a_broken_answer_refuses_at_once() {
    let long = format!("ALLOW {}\n", "x".repeat(1024)).into_bytes();
    let answers: &[&[u8]] =
        &[b"\n", b"ALLOW", b"ALLOWED\n", b"allow\n", b"ALLOW\nDENY\n", b"ALLOW \xff\n", b"MAYBE PG101\n", &long];
    for answer in answers {
        let stage = stage();
        stage.answering(answer.to_vec());
        ask(&stage).refuses("PG408");
    }
}

#[test]
fn a_daemon_that_comes_back_is_asked_again() {
    let later = |with: fn(&Stage)| {
        thread::spawn(move || {
            let stage = stage();
            with(&stage);
            let socket = stage.socket();
            let (child, mut input) = start(&stage);
            input.write_all(STATE).unwrap();
            drop(input);
            thread::sleep(Duration::from_millis(500));
            // As a socket unit that is started again.
            let _ = fs::remove_file(&socket);
            stage.answering(b"ALLOW 1J4\n".to_vec());
            let seen = stage.seen(child);
            assert_eq!((seen.code, seen.entry.is_none()), (Some(0), true), "{seen:?}");
        })
    };
    let all = [
        // There is no socket.
        later(|_| ()),
        // Nobody listens on it any more.
        later(|stage| drop(UnixListener::bind(stage.socket()).unwrap())),
        // The daemon is killed before it has read the question, and before it answers.
        later(|stage| drop(stage.daemon(drop))),
        later(|stage| {
            stage.daemon(|mut stream: UnixStream| {
                stream.read_to_end(&mut Vec::new()).unwrap();
            });
        }),
    ];
    for one in all {
        one.join().unwrap();
    }
}

#[test]
fn a_daemon_that_does_not_come_back_refuses_and_the_journal_says_so() {
    let never = |with: fn(&Stage), said: &'static str| {
        thread::spawn(move || {
            let stage = stage();
            with(&stage);
            let seen = ask(&stage);
            seen.refuses("PG408");
            assert!(seen.line.starts_with("RETRY PG408: ") && seen.line.contains(said), "{seen:?}");
            assert_eq!(seen.field("MESSAGE_ID"), Kind::Unanswered.message_id());
            assert_eq!(seen.field("SYSLOG_IDENTIFIER"), "pullgate-verifier");
            assert_eq!((seen.field("PULLGATE_GATE"), seen.field("PULLGATE_VERDICT")), ("start", "inconclusive"));
            assert_eq!(seen.field("PULLGATE_CONTAINER"), ID);
            assert_ne!(seen.field("OBJECT_PID"), std::process::id().to_string());
            seen.field("OBJECT_PID").parse::<u32>().unwrap();
        })
    };
    let hold = |stage: &Stage| {
        stage.daemon(|stream| {
            thread::sleep(Duration::from_secs(60));
            drop(stream);
        });
    };
    let all = [
        never(|_| (), "pullgate is not there"),
        never(|stage| fs::write(stage.socket(), "ALLOW\n").unwrap(), "pullgate is not there"),
        never(|stage| fs::create_dir(stage.socket()).unwrap(), "pullgate is not there"),
        never(hold, "did not answer in 8 s"),
    ];
    for one in all {
        one.join().unwrap();
    }
}

#[test]
fn a_state_of_any_kind_is_passed_on_or_refused() {
    for state in [&b""[..], b"\0\xff{", b"{}", &vec![b'['; MOST]] {
        let stage = stage();
        let length = state.len();
        let daemon = stage.daemon(move |mut stream| {
            let mut question = Vec::new();
            stream.read_to_end(&mut question).unwrap();
            stream.write_all(b"DENY PG410: it is no state.\n").unwrap();
            question.len()
        });
        let seen = stage.ask_with(&["create-runtime"], state);
        assert_eq!((seen.code, seen.line.as_str()), (Some(1), "DENY PG410: it is no state."));
        assert_eq!(daemon.join().unwrap(), 1 + 4 + 4 + "create-runtime".len() + 4 + length);
    }
    for more in [1, MOST * 8] {
        // Nobody is there to be asked.
        stage().ask_with(&["create-runtime"], &vec![b' '; MOST + more]).refuses("PG410");
    }
}

#[test]
fn a_state_that_never_ends_is_not_waited_for() {
    let stage = stage();
    stage.answering(b"ALLOW\n".to_vec());
    let (child, mut input) = start(&stage);
    input.write_all(STATE).unwrap();
    stage.seen(child).refuses("PG408");
}

#[test]
fn hostile_words_are_harmless_in_the_journal() {
    let stage = stage();
    stage.answering(b"MAYBE\n".to_vec());
    let state = format!("{{\"id\":\"x\nPULLGATE_VERDICT=allow\u{202e}{}\"}}", "x".repeat(1000));
    let seen = stage.ask_with(&["create-runtime"], state.as_bytes());
    seen.refuses("PG408");
    let container = seen.field("PULLGATE_CONTAINER");
    assert!(container.starts_with("x?PULLGATE_VERDICT=allow???x") && container.len() == 512, "{container}");
}

#[test]
fn a_node_that_audits_starts_without_a_daemon_and_says_so() {
    let stage = stage();
    stage.audit_mode();
    let seen = ask(&stage);
    assert_eq!(seen.code, Some(0), "{seen:?}");
    assert!(seen.field("MESSAGE").starts_with("AUDIT would be refused: RETRY PG408: "), "{seen:?}");
    assert_eq!((seen.field("PULLGATE_MODE"), seen.field("PULLGATE_ENFORCED")), ("audit", "no"));
    // One that answers has the last word.
    stage.answering(b"DENY PG407: somebody else asks.\n".to_vec());
    assert_eq!(ask(&stage).code, Some(1));
}

#[test]
fn without_a_journal_and_without_a_reader_the_answer_is_the_same() {
    let stage = stage();
    fs::remove_file(stage.folder.path().join("journal")).unwrap();
    stage.answering(b"MAYBE\n".to_vec());
    let (mut child, input) = start(&stage);
    drop(child.stderr.take());
    drop(input);
    assert_eq!(child.wait().unwrap().code(), Some(1));
}
