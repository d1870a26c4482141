//! The program, as containerd and the runtime start it, before a daemon that answers in every wrong way.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot be set up has failed")]

#[path = "verifier/hook.rs"]
mod hook;
#[path = "verifier/stage.rs"]
mod stage;

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    thread,
    time::Duration,
};

use nix::sys::socket::{Backlog, listen};
use pullgate::audit::Kind;
use stage::{Seen, Stage, Use, connect_at_once};

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const DESCRIPTOR: &[u8] = b"{\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"digest\":\"x\",\"size\":1}\n";
const NAME: &str = "reg.example.com/prod/app:1";

impl Stage {
    fn set() -> Self {
        Self::of(Use::Verifier)
    }

    /// As containerd does it.
    fn ask(&self) -> Seen {
        self.ask_with(&usual(), DESCRIPTOR)
    }
}

fn usual() -> Vec<&'static str> {
    vec!["-name", NAME, "-digest", DIGEST, "-stdin-media-type", "application/vnd.oci.descriptor.v1+json"]
}

#[test]
fn the_question_is_what_containerd_gave() {
    let stage = Stage::set();
    let daemon = stage.daemon(|mut stream| {
        let mut question = Vec::new();
        stream.read_to_end(&mut question).unwrap();
        stream.write_all(b"ALLOW 1J4\n").unwrap();
        question
    });
    let seen = stage.ask();
    assert_eq!((seen.code, seen.line.as_str()), (Some(0), "ALLOW 1J4"));
    assert!(seen.entry.is_none(), "{seen:?}");
    let mut expected = vec![1, 0, 0, 0, 6];
    for part in usual().iter().map(|argument| argument.as_bytes()).chain([DESCRIPTOR]) {
        expected.extend((part.len() as u32).to_be_bytes());
        expected.extend(part);
    }
    assert_eq!(daemon.join().unwrap(), expected);
}

#[test]
fn a_refusal_reaches_the_client_in_the_daemons_words() {
    for line in ["DENY PG101 rule \"prod\": no signature.", "RETRY PG302: reg.example.com does not answer – later."] {
        let stage = Stage::set();
        stage.answering(format!("{line}\n").into_bytes());
        let seen = stage.ask();
        assert_eq!((seen.code, seen.line.as_str()), (Some(1), line));
        assert!(seen.entry.is_none(), "{seen:?}");
    }
}

#[test]
fn a_broken_answer_refuses() {
    let long = format!("ALLOW {}\n", "x".repeat(1024)).into_bytes();
    let answers: &[&[u8]] = &[
        b"",
        b"\n",
        b"ALLOW",
        b"ALLOW 1J4",
        b"ALLOWED\n",
        b"allow\n",
        b" ALLOW\n",
        b"ALLOW\nDENY\n",
        b"ALLOW\n\n",
        b"ALLOW 1\r\n",
        b"ALLOW \x1b[2J\n",
        b"ALLOW \xff\n",
        b"\0ALLOW\n",
        b"MAYBE PG101\n",
        &long,
    ];
    for answer in answers {
        let stage = Stage::set();
        stage.answering(answer.to_vec());
        stage.ask().refuses("PG408");
    }
}

#[test]
fn without_a_daemon_nothing_passes_and_the_journal_says_so() {
    let stage = Stage::set();
    let seen = stage.ask();
    seen.refuses("PG408");
    assert!(seen.line.starts_with("RETRY PG408: pullgate is not there"), "{seen:?}");
    assert!(seen.line.contains("systemctl start"), "{seen:?}");
    assert_eq!(seen.field("MESSAGE_ID"), Kind::Unanswered.message_id());
    assert_eq!(seen.field("SYSLOG_IDENTIFIER"), "pullgate-verifier");
    assert_eq!(seen.field("OBJECT_PID"), std::process::id().to_string());
    assert_eq!((seen.field("PULLGATE_GATE"), seen.field("PULLGATE_VERDICT")), ("resolve", "inconclusive"));
    assert_eq!((seen.field("PULLGATE_IMAGE"), seen.field("PULLGATE_DIGEST")), (NAME, DIGEST));

    // A socket that nobody listens on any more, a file, a directory in its place.
    let socket = stage.socket();
    drop(UnixListener::bind(&socket).unwrap());
    stage.ask().refuses("PG408");
    fs::remove_file(&socket).unwrap();
    fs::write(&socket, "ALLOW\n").unwrap();
    stage.ask().refuses("PG408");
    fs::remove_file(&socket).unwrap();
    fs::create_dir(&socket).unwrap();
    stage.ask().refuses("PG408");
}

#[test]
fn a_daemon_that_hangs_up_refuses() {
    let stage = Stage::set();
    stage.daemon(drop);
    stage.ask().refuses("PG408");
}

#[test]
fn hostile_words_are_harmless_in_the_journal() {
    let stage = Stage::set();
    let name = format!("reg\nPULLGATE_VERDICT=allow\u{202e}{}", "x".repeat(1000));
    let seen = stage.ask_with(&["-name", &name, "-digest"], DESCRIPTOR);
    seen.refuses("PG408");
    let image = seen.field("PULLGATE_IMAGE");
    assert!(image.starts_with("reg?PULLGATE_VERDICT=allow???x") && image.len() == 512, "{image}");
    assert!(seen.entry.as_ref().unwrap().iter().all(|(name, _)| name != "PULLGATE_DIGEST"));
}

#[test]
fn more_than_containerd_ever_sends_is_refused_unasked() {
    let most = 64 << 10;
    for (input, code) in [(most, "PG408"), (most + 1, "PG410"), (most * 64, "PG410")] {
        // Nobody is there to be asked.
        Stage::set().ask_with(&usual(), &vec![b' '; input]).refuses(code);
    }
    let long = "x".repeat(most + 1);
    Stage::set().ask_with(&["-name", &long], DESCRIPTOR).refuses("PG410");
}

#[test]
fn what_never_ends_is_ended() {
    let never_ending = |with: fn(UnixStream)| {
        thread::spawn(move || {
            let stage = Stage::set();
            stage.daemon(with);
            let seen = stage.ask();
            seen.refuses("PG408");
            assert!(seen.line.contains("did not answer in 8 s"), "{seen:?}");
        })
    };
    let hold = |stream: UnixStream| {
        thread::sleep(Duration::from_secs(60));
        drop(stream);
    };
    let mut all = vec![
        // It neither reads nor answers.
        never_ending(hold),
        // It answers, and does not say that this was all.
        never_ending(|mut stream| {
            stream.write_all(b"ALLOW\n").unwrap();
            thread::sleep(Duration::from_secs(60));
        }),
        // It answers a byte at a time.
        never_ending(|mut stream| {
            for byte in b"ALLOW 1".iter().chain(&[b'x'; 600]) {
                if stream.write_all(&[*byte]).is_err() {
                    break;
                }
                thread::sleep(Duration::from_millis(100));
            }
        }),
    ];
    // containerd never ends its descriptor.
    all.push(thread::spawn(|| {
        let stage = Stage::set();
        stage.answering(b"ALLOW\n".to_vec());
        let (child, mut input) = stage.start(&usual());
        input.write_all(DESCRIPTOR).unwrap();
        stage.seen(child).refuses("PG408");
    }));
    // The socket's queue is full: connecting blocks.
    all.push(thread::spawn(|| {
        let stage = Stage::set();
        let socket = stage.socket();
        let listener = UnixListener::bind(&socket).unwrap();
        listen(&listener, Backlog::new(1).unwrap()).unwrap();
        let waiting: Vec<_> = std::iter::from_fn(|| connect_at_once(&socket)).collect();
        stage.ask().refuses("PG408");
        drop(waiting);
    }));
    for one in all {
        one.join().unwrap();
    }
}

#[test]
fn a_node_that_audits_admits_without_a_daemon_and_says_so() {
    let stage = Stage::set();
    stage.audit_mode();
    let seen = stage.ask();
    assert_eq!(seen.code, Some(0), "{seen:?}");
    assert!(seen.line.starts_with("AUDIT would be refused: RETRY PG408: "), "{seen:?}");
    assert_eq!((seen.field("PULLGATE_MODE"), seen.field("PULLGATE_ENFORCED")), ("audit", "no"));
    assert_eq!((seen.field("PULLGATE_CODE"), seen.field("PULLGATE_VERDICT")), ("PG408", "inconclusive"));
    // One that hangs is not waited for as long.
    stage.daemon(|stream| {
        thread::sleep(Duration::from_secs(60));
        drop(stream);
    });
    let seen = stage.ask();
    assert_eq!(seen.code, Some(0), "{seen:?}");
    assert!(seen.line.contains("did not answer in 2 s"), "{seen:?}");
}

#[test]
fn word_of_audit_mode_does_not_overrule_a_daemon_that_answers() {
    let stage = Stage::set();
    stage.audit_mode();
    stage.answering(b"DENY PG407: somebody else asks.\n".to_vec());
    assert_eq!(stage.ask().code, Some(1));
}

#[test]
fn only_a_plain_file_says_that_the_node_audits() {
    let stage = Stage::set();
    let word = stage.folder.path().join("audit-mode");
    fs::create_dir(&word).unwrap();
    stage.ask().refuses("PG408");
    fs::remove_dir(&word).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", &word).unwrap();
    stage.ask().refuses("PG408");
}

#[test]
fn without_a_journal_the_answer_is_the_same() {
    let stage = Stage::set();
    fs::remove_file(stage.folder.path().join("journal")).unwrap();
    let (child, input) = stage.start(&usual());
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stdout).unwrap().starts_with("RETRY PG408"));
}
