//! `pullgate why` and `pullgate audit` against a journalctl that lies, fails, is missing, or has no end.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::{Command, Output},
};

/// A folder with a `journalctl` of the test's own.
struct Journalctl(tempfile::TempDir);

const OURS: &str = "_SYSTEMD_UNIT=pullgate.service\n";
const DENY: &str = "MESSAGE_ID=0b6399b47b0a48dba4435948f17941fc\n";

impl Journalctl {
    /// One that runs `script`, in which `$*` is how it was called.
    fn new(script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journalctl");
        fs::write(&path, format!("#!/bin/sh\nprintf '%s\\n' \"$@\" >> \"$(dirname \"$0\")/asked\"\n{script}\n"))
            .unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self(folder)
    }

    /// One that writes `export`, whatever it is asked.
    fn writing(export: &str) -> Self {
        let journalctl = Self::new("cat \"$(dirname \"$0\")/export\"");
        fs::write(journalctl.0.path().join("export"), export).unwrap();
        journalctl
    }

    fn pullgate(&self, arguments: &[&str]) -> Output {
        self.shell(&format!("exec {} \"$@\"", env!("CARGO_BIN_EXE_pullgate")), arguments)
    }

    fn shell(&self, script: &str, arguments: &[&str]) -> Output {
        let path = format!("{}:/usr/bin:/bin", self.0.path().display());
        let mut shell = Command::new("sh");
        shell.args(["-c", script, "sh", "--config", "/nonexistent/config.toml"]).args(arguments);
        shell.env("PATH", path).env("TZ", "UTC").output().unwrap()
    }

    /// The arguments of all calls, one a line.
    fn asked(&self) -> String {
        fs::read_to_string(self.0.path().join("asked")).unwrap()
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A refusal as the journal exports it.
fn refusal(number: u64, image: &str) -> String {
    format!(
        "__REALTIME_TIMESTAMP=1795435200000000\n{OURS}{DENY}MESSAGE=DENY PG101\nPULLGATE_SEQ={number}\nPULLGATE_ID={number}\n\
         PULLGATE_VERDICT=deny\nPULLGATE_CODE=PG101\nPULLGATE_GATE=unpack\nPULLGATE_ENFORCED=yes\nPULLGATE_IMAGE={image}\n\
         PULLGATE_REPOSITORY={image}\nPULLGATE_RULE=prod\nPULLGATE_REASON=PG101 unsigned: no signature; sign it\n\
         PULLGATE_FIX=PG101 sign it\n\n"
    )
}

#[test]
fn what_the_daemon_did_not_send_is_never_shown_even_if_journalctl_says_it() {
    let forged = |unit: &str| refusal(5, "reg.io/forged").replace(OURS, unit);
    let export = [
        forged(""),
        forged("_SYSTEMD_UNIT=user@1000.service\n_SYSTEMD_USER_UNIT=pullgate.service\n"),
        forged("SYSTEMD_UNIT=pullgate.service\n"),
        forged("_SYSTEMD_UNIT=pullgate.service.evil\n"),
        refusal(5, "reg.io/true"),
        forged("_SYSTEMD_UNIT=containerd.service\n"),
    ];
    let journalctl = Journalctl::writing(&export.concat());
    for arguments in [
        &["why", "5"][..],
        &["why", "--last", "-o", "json"],
        &["audit"],
        &["audit", "--summary"],
        &["audit", "-o", "json"],
    ] {
        let output = journalctl.pullgate(arguments);
        let text = stdout(&output);
        assert!(
            output.status.success() && text.contains("reg.io/true") && !text.contains("forged"),
            "{arguments:?}: {text}"
        );
    }
    let doubtful = stdout(&journalctl.pullgate(&["audit", "--unattributed"]));
    assert!(doubtful.contains("reg.io/forged") && !doubtful.contains("reg.io/true"), "{doubtful}");
    assert_eq!(doubtful.lines().count(), doubtful.matches("not authenticated").count());
    assert!(journalctl.asked().contains("\n_SYSTEMD_UNIT=pullgate.service\n"));
}

#[test]
fn every_word_of_a_question_is_one_argument() {
    let journalctl = Journalctl::writing("");
    let evil = "x\" ; touch /tmp/evil --output=json";
    for arguments in [
        &["audit", "--rule", evil, "--gate=--reverse", "--since", "--file=/etc/shadow"][..],
        &["audit", "--until", "2h", "-n", "3"],
        &["audit", "--code", "pg101", "--verdict", "inconclusive"],
        &["why", "o1-iL"],
    ] {
        journalctl.pullgate(arguments);
    }
    let asked = journalctl.asked();
    for line in [
        &format!("PULLGATE_RULE={evil}"),
        "PULLGATE_GATE=--reverse",
        "--since=--file=/etc/shadow",
        "--until=-2h",
        "--reverse",
        "PULLGATE_CODE=PG101",
        "PULLGATE_VERDICT=inconclusive",
        "PULLGATE_ID=111",
        "--system",
    ] {
        assert!(asked.lines().any(|asked| asked == line), "{line}:\n{asked}");
    }
}

#[test]
fn what_keeps_it_from_looking_is_said_and_is_not_an_absence() {
    let missing = Journalctl::new("");
    fs::remove_file(missing.0.path().join("journalctl")).unwrap();
    let nothing = |script: &str| Journalctl::new(script);
    for (journalctl, code, words) in [
        (
            nothing("echo 'No journal files were opened due to insufficient permissions.' >&2; exit 1"),
            3,
            "systemd-journal",
        ),
        (nothing("echo 'Failed to open files: \u{1b}[31mbad' >&2; exit 1"), 3, "Failed to open files: ?[31mbad"),
        (nothing("exit 7"), 3, "ended with"),
        (nothing("head -c 100000 /dev/zero >&2; printf 'MESSAGE=x'; exit 0"), 3, "cut short"),
        (nothing("yes MESSAGE | tr -d '\\n'"), 3, "an entry of more than"),
        (nothing("printf 'MESSAGE=x\\n'; kill -9 $$"), 3, "ended with"),
        (nothing("echo 'Failed to parse timestamp: nonsense' >&2; exit 1"), 2, "nonsense"),
    ] {
        for arguments in [&["why", "5"][..], &["audit", "--since", "nonsense"], &["audit", "--verify"]] {
            let output = journalctl.pullgate(arguments);
            assert_eq!(output.status.code(), Some(code), "{words}, {arguments:?}: {}", stderr(&output));
            assert!(
                stderr(&output).contains(words) && !stderr(&output).contains('\u{1b}'),
                "{words}: {}",
                stderr(&output)
            );
        }
    }
    let only = format!("PATH={} exec {} \"$@\"", missing.0.path().display(), env!("CARGO_BIN_EXE_pullgate"));
    let output = missing.shell(&only, &["why", "5"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("there is no `journalctl` here"), "{}", stderr(&output));
}

#[test]
fn an_entry_that_is_not_there_is_told_from_one_that_is_gone() {
    let answers = |own: &str| {
        Journalctl::new(&format!(
            "case \"$*\" in *PULLGATE_ID=*) ;; *--reverse*) printf '{}' ;; *) printf '{}' ;; esac",
            own.replace("NUMBER", "900").replace('\n', "\\n"),
            own.replace("NUMBER", "40").replace('\n', "\\n"),
        ))
    };
    let entry = format!("__REALTIME_TIMESTAMP=1795435200000000\n{OURS}{DENY}PULLGATE_SEQ=NUMBER\n\n");
    for (id, words) in [
        ("7", "the oldest one that journald still keeps is 18, of 2026-11-23 12:00:00 UTC"),
        ("zzz", "the newest one is W4; is it another node's?"),
        ("3g", "skipped by an unclean stop, or the entry is lost"),
    ] {
        let output = answers(&entry).pullgate(&["why", id]);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert!(stderr(&output).contains(words), "{id}: {}", stderr(&output));
    }
    let empty = Journalctl::writing("").pullgate(&["why", "5"]);
    assert_eq!(empty.status.code(), Some(1));
    assert!(stderr(&empty).contains("none of pullgate's at all"), "{}", stderr(&empty));
    assert_eq!(Journalctl::writing("").pullgate(&["why", "--last"]).status.code(), Some(1));
    for arguments in [&["why"][..], &["why", "1U"], &["why", ""], &["why", "5", "--last"], &["why", "5", "6"]] {
        assert_eq!(Journalctl::writing("").pullgate(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn of_two_entries_with_one_number_the_newest_is_told() {
    let journalctl = Journalctl::writing(&[refusal(5, "reg.io/new"), refusal(5, "reg.io/old")].concat());
    let text = stdout(&journalctl.pullgate(&["why", "5"]));
    assert!(text.contains("image     reg.io/new\n") && text.contains("1 older entries have this number too"), "{text}");
}

#[test]
fn a_broken_chain_ends_with_one() {
    let entry = |number: u64, previous: &str| format!("{OURS}PULLGATE_SEQ={number}\nPULLGATE_PREVIOUS={previous}\n\n");
    for (export, code, words) in [
        (entry(1, "none"), 0, "1 entries, none missing"),
        ([entry(1, "none"), entry(9, "unknown")].concat(), 0, "1 restart after an unclean stop"),
        ([entry(1, "none"), entry(9, "sha256:00")].concat(), 1, "missing: 7 between 1 and 9"),
        (String::new(), 0, "there are no entries"),
    ] {
        let output = Journalctl::writing(&export).pullgate(&["audit", "--verify"]);
        assert_eq!(output.status.code(), Some(code), "{}{}", stdout(&output), stderr(&output));
        assert!(stdout(&output).contains(words), "{words}: {}", stdout(&output));
    }
}

#[test]
fn following_ends_with_its_reader_though_nothing_new_comes() {
    let journalctl = Journalctl::new("cat \"$(dirname \"$0\")/export\"; exec sleep 600");
    fs::write(journalctl.0.path().join("export"), refusal(5, "reg.io/x")).unwrap();
    let piped = format!("{{ {} \"$@\"; echo \"ended with $?\" >&2; }} | head -n 1", env!("CARGO_BIN_EXE_pullgate"));
    let output = journalctl.shell(&piped, &["audit", "--follow"]);
    assert_eq!((stdout(&output).lines().count(), stderr(&output).as_str()), (1, "ended with 0\n"));
    assert!(journalctl.asked().contains("--follow\n--lines=10\n"));
}

/// A million of them, and pullgate may take no more than 200 MiB of addresses.
#[test]
fn a_million_entries_are_read_one_at_a_time() {
    let thousand: String = (0..1000).map(|number| refusal(number, &format!("reg.io/{}", number % 7))).collect();
    let journalctl = Journalctl::new("for i in $(seq 1000); do cat \"$(dirname \"$0\")/export\" || exit; done");
    fs::write(journalctl.0.path().join("export"), thousand).unwrap();
    let small = format!("ulimit -v 204800; exec {} \"$@\"", env!("CARGO_BIN_EXE_pullgate"));
    let summary = journalctl.shell(&small, &["audit", "--summary"]);
    assert!(stdout(&summary).starts_with("1000000 decisions\n"), "{}{}", stdout(&summary), stderr(&summary));
    let newest = journalctl.shell(&small, &["audit", "-n", "10000"]);
    assert_eq!(stdout(&newest).lines().count(), 10_000, "{}", stderr(&newest));
    let piped = format!("{{ {} \"$@\"; echo \"ended with $?\" >&2; }} | head -n 1", env!("CARGO_BIN_EXE_pullgate"));
    let output = journalctl.shell(&piped, &["audit"]);
    assert_eq!((stdout(&output).lines().count(), stderr(&output).as_str()), (1, "ended with 0\n"));
}
