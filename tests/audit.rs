//! The audit against a journald that is slow, full, gone, restarted, or busy.

#![allow(clippy::unwrap_used, reason = "the functions beside the tests are tests as well")]

use std::{
    collections::HashSet,
    fs,
    io::{IoSliceMut, Read as _, Seek as _},
    os::{fd::AsRawFd as _, unix::net::UnixDatagram},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::socket::{ControlMessageOwned, MsgFlags, recvmsg},
};
use pullgate::{
    audit::{
        AuditError, Facts, Field, Id, Journal, Kind, Record,
        chain::{BadExport, Break, Exported, Report, exported, verify_chain},
    },
    config::NodeMode,
    image::Digest,
    limits,
    policy::decision::{Code, Decision, Verdict, Violation},
};

/// A journald of the test's own: a socket that is read only when the test says so.
struct Journald {
    folder: tempfile::TempDir,
    socket: Option<UnixDatagram>,
}

impl Journald {
    fn start() -> Self {
        let mut journald = Self { folder: tempfile::tempdir().unwrap(), socket: None };
        journald.restart();
        journald
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("audit.json")
    }

    fn journal(&self) -> Journal {
        Journal::open(&self.path(), &self.state())
    }

    fn stop(&mut self) {
        self.socket = None;
        fs::remove_file(self.path()).unwrap();
    }

    fn restart(&mut self) {
        let socket = UnixDatagram::bind(self.path()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        self.socket = Some(socket);
    }

    /// Waits for the next entry.
    fn read(&self) -> Vec<u8> {
        receive(self.socket.as_ref().unwrap())
    }

    /// The entries that are there now.
    fn drain(&self) -> Vec<Exported> {
        let socket = self.socket.as_ref().unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut entries = Vec::new();
        let mut datagram = vec![0; 1 << 20];
        while let Ok(length) = socket.recv(&mut datagram) {
            entries.push(entry(&datagram[..length]));
        }
        socket.set_nonblocking(false).unwrap();
        entries
    }
}

/// One datagram, or the sealed memory that came with it.
fn receive(socket: &UnixDatagram) -> Vec<u8> {
    let mut bytes = vec![0; 1 << 20];
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC).unwrap();
    let length = message.bytes;
    let passed = message.cmsgs().unwrap().find_map(|control| match control {
        ControlMessageOwned::ScmRights(descriptors) => descriptors.first().copied(),
        _ => None,
    });
    match passed {
        None => {
            bytes.truncate(length);
            bytes
        }
        Some(descriptor) => sealed_content(descriptor),
    }
}

fn sealed_content(descriptor: i32) -> Vec<u8> {
    let mut file = fs::File::open(format!("/proc/self/fd/{descriptor}")).unwrap();
    nix::unistd::close(descriptor).unwrap();
    let seals = SealFlag::from_bits_truncate(fcntl(&file, FcntlArg::F_GET_SEALS).unwrap());
    assert!(
        seals
            .contains(SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL)
    );
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

/// journald stores what it received and exports it: the native form is a form of the export format.
fn entry(datagram: &[u8]) -> Exported {
    let mut entries = exported(datagram);
    let entry = entries.next().unwrap().unwrap();
    assert!(entries.next().is_none());
    entry
}

fn facts(enforced: bool) -> Facts<'static> {
    Facts {
        gate: "unpack",
        mode: if enforced { NodeMode::Enforce } else { NodeMode::Audit },
        enforced,
        image: None,
        digest: None,
        layer: None,
        namespace: Some("k8s.io"),
        duration: Duration::from_micros(1234),
    }
}

fn allowed() -> Decision {
    Decision {
        verdict: Verdict::Allow,
        rule: Some("prod".to_owned()),
        digest: Some(Digest::of(b"manifest")),
        name: Some("registry.example.com/prod/app:1".to_owned()),
        attestors: vec!["release".to_owned(), "qa".to_owned()],
        revision: "r1".to_owned(),
        ..Decision::default()
    }
}

fn violation(code: Code, found: &str, fix: &str) -> Violation {
    Violation { code, found: found.to_owned(), fix: fix.to_owned() }
}

fn allow(id: &Id) -> Record {
    Record::decision(id, &allowed(), &facts(true))
}

fn only(record: &Record, field: Field) -> &str {
    let values: Vec<_> = record.values(field).collect();
    assert_eq!(values.len(), 1, "{field:?}: {values:?}");
    values[0]
}

fn number(datagram: &[u8]) -> u64 {
    entry(datagram).sequence().unwrap()
}

/// Fills the socket until it takes no more.
async fn fill(journal: &Journal) -> u64 {
    let mut accepted = 0;
    loop {
        match journal.write(allow).await {
            Ok(_) => accepted += 1,
            Err(AuditError::Stalled) => return accepted,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn an_allow_says_who_vouched_for_what_under_which_rule() {
    let record = Record::decision(&Id::new(1), &allowed(), &facts(true));
    let digest = Digest::of(b"manifest");
    let message = format!("ALLOW rule \"prod\": registry.example.com/prod/app:1@{digest} by release, qa");
    assert_eq!(only(&record, Field::Message), message);
    assert_eq!(record.kind(), Kind::Allow);
    for (field, value) in [
        (Field::MessageId, "84cfa2247fd04fec992f425e8f5f410d"),
        (Field::Priority, "6"),
        (Field::SyslogIdentifier, "pullgate"),
        (Field::Verdict, "allow"),
        (Field::Gate, "unpack"),
        (Field::Mode, "enforce"),
        (Field::Enforced, "yes"),
        (Field::Image, "registry.example.com/prod/app:1"),
        (Field::Digest, &digest.to_string()),
        (Field::Namespace, "k8s.io"),
        (Field::Rule, "prod"),
        (Field::Revision, "r1"),
        (Field::DurationUs, "1234"),
    ] {
        assert_eq!(only(&record, field), value);
    }
    assert_eq!(record.values(Field::Attestors).collect::<Vec<_>>(), ["release", "qa"]);
    for absent in [Field::Code, Field::Codes, Field::Layer, Field::Reason] {
        assert_eq!(record.values(absent).count(), 0);
    }
}

#[test]
fn a_refusal_says_the_line_that_the_person_saw() {
    let decision = Decision {
        violations: vec![
            violation(Code::UntrustedAttestor, "2 signatures, none by \"release\"", "sign with release"),
            violation(Code::OtherDigest, "one is about another digest", ""),
        ],
        ..Decision { verdict: Verdict::Deny, attestors: Vec::new(), ..allowed() }
    };
    let id = Id::new(1234);
    let record = Record::decision(&id, &decision, &facts(true));
    assert_eq!(record.kind(), Kind::Deny);
    assert_eq!(only(&record, Field::Message), decision.message(Some("16J")));
    assert_eq!(only(&record, Field::Code), "PG102");
    assert_eq!(record.values(Field::Codes).collect::<Vec<_>>(), ["PG102", "PG103"]);
    assert_eq!(
        record.values(Field::Reason).collect::<Vec<_>>(),
        [
            "PG102 untrusted-attestor: 2 signatures, none by \"release\"; sign with release",
            "PG103 other-digest: one is about another digest"
        ]
    );

    let audited = Record::decision(&id, &decision, &facts(false));
    assert_eq!(audited.kind(), Kind::AuditOnly);
    assert_eq!(only(&audited, Field::Verdict), "deny");
    assert_eq!(only(&audited, Field::Enforced), "no");
    let message = only(&audited, Field::Message);
    assert!(message.starts_with("AUDIT would be refused: DENY PG102 rule \"prod\": 2 signatures"), "{message}");
}

#[test]
fn could_not_tell_stays_apart_from_no() {
    let decision = Decision::refused(violation(Code::RegistryUnreachable, "no answer in 5 s", "try again"));
    let record = Record::decision(&Id::new(1), &decision, &facts(true));
    assert_eq!(record.kind(), Kind::Inconclusive);
    assert_eq!(only(&record, Field::Verdict), "inconclusive");
    assert!(only(&record, Field::Message).starts_with("RETRY PG302"));
    let audited = Record::decision(&Id::new(1), &decision, &facts(false));
    assert_eq!((audited.kind(), only(&audited, Field::Verdict)), (Kind::AuditOnly, "inconclusive"));
}

#[test]
fn every_kind_of_entry_has_a_text_in_the_catalog_and_every_text_a_kind() {
    let catalog = include_str!("../systemd/pullgate.catalog");
    let texts: Vec<_> = catalog.lines().filter_map(|line| line.strip_prefix("-- ")).collect();
    let kinds: HashSet<_> = Kind::ALL.iter().map(|kind| kind.message_id()).collect();
    assert_eq!(kinds.len(), Kind::ALL.len());
    assert_eq!(texts.len(), kinds.len());
    assert_eq!(texts.into_iter().collect::<HashSet<_>>(), kinds);
    for id in kinds {
        assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)), "{id}");
    }
    let fields: HashSet<_> = Field::ALL.iter().map(|field| field.name()).collect();
    for name in catalog.split('@').skip(1).step_by(2) {
        assert!(fields.contains(name), "the catalog shows a field that no entry has: {name}");
    }
}

#[tokio::test]
async fn no_value_can_add_a_field_or_a_line() {
    let journald = Journald::start();
    let journal = journald.journal();
    let hostile = "x\nPULLGATE_VERDICT=allow\nMESSAGE_ID=0\n\nMESSAGE=second entry\u{202e}";
    let decision = Decision {
        rule: Some(hostile.to_owned()),
        name: Some(hostile.to_owned()),
        violations: vec![violation(Code::Unsigned, hostile, hostile)],
        ..Decision::default()
    };
    let layer = Digest::of(b"layer");
    let facts = Facts { image: Some(hostile), namespace: Some(hostile), layer: Some(&layer), ..facts(true) };
    journal.write(|id| Record::decision(id, &decision, &facts)).await.unwrap();
    let entry = entry(&journald.read());
    for (field, value) in
        [(Field::Verdict, "deny"), (Field::Image, hostile), (Field::Namespace, hostile), (Field::Rule, hostile)]
    {
        assert_eq!(entry.text(field), Some(value));
    }
    assert_eq!(entry.text(Field::MessageId), Some(Kind::Deny.message_id()));
    let message = entry.text(Field::Message).unwrap();
    assert!(!message.contains(['\n', '\u{202e}']), "{message}");

    let admitted = Decision { violations: Vec::new(), verdict: Verdict::Allow, ..decision };
    let record = Record::decision(&Id::new(1), &admitted, &facts);
    assert!(!only(&record, Field::Message).contains(['\n', '\u{202e}']));
}

#[tokio::test]
async fn an_oversize_entry_is_passed_in_sealed_memory_and_keeps_the_chain() {
    let journald = Journald::start();
    let journal = journald.journal();
    let huge = "é".repeat(limits::AUDIT_FIELD_BYTES);
    let violations: Vec<_> = (0..2 * limits::AUDIT_VALUES)
        .map(|place| violation(Code::Unsigned, &format!("{place} {huge}"), &huge))
        .collect();
    let decision = Decision { violations, ..Decision::default() };
    journal.write(allow).await.unwrap();
    journal.write(|id| Record::decision(id, &decision, &facts(true))).await.unwrap();
    journal.write(allow).await.unwrap();
    let entries: Vec<_> = (0..3).map(|_| entry(&journald.read())).collect();
    let reasons: Vec<_> = entries[1].values(Field::Reason).collect();
    assert_eq!(reasons.len(), limits::AUDIT_VALUES + 1);
    assert!(reasons.iter().all(|reason| reason.len() <= limits::AUDIT_FIELD_BYTES));
    assert!(reasons.contains(&format!("… {} more", limits::AUDIT_VALUES).as_bytes()));
    assert_eq!(verify_chain(entries), Report { entries: 3, breaks: Vec::new() });
}

// The clock is the test's: it moves only when everybody waits.
#[tokio::test(start_paused = true)]
async fn a_stalled_journald_withholds_and_each_caller_waits_at_most_its_own_time() {
    let journald = Journald::start();
    let journal = Arc::new(journald.journal());
    let accepted = fill(&journal).await;

    let begun = tokio::time::Instant::now();
    let callers: Vec<_> = (0..100)
        .map(|_| {
            let journal = Arc::clone(&journal);
            tokio::spawn(async move { journal.write(allow).await })
        })
        .collect();
    for caller in callers {
        assert!(matches!(caller.await.unwrap(), Err(AuditError::Stalled)));
    }
    assert!(begun.elapsed() < 2 * limits::AUDIT_WAIT, "callers waited one after another: {:?}", begun.elapsed());
    assert_eq!(AuditError::Stalled.violation().code, Code::AuditUnavailable);

    // Drained, it takes entries again, and what was withheld left no gap.
    let mut entries = journald.drain();
    assert_eq!(entries.len() as u64, accepted);
    journal.write(allow).await.unwrap();
    entries.extend(journald.drain());
    assert_eq!(verify_chain(entries), Report { entries: accepted + 1, breaks: Vec::new() });
    assert_eq!((journal.written(), journal.failed()), (accepted + 1, 101));
}

#[tokio::test]
async fn an_entry_waits_for_room_rather_than_being_refused() {
    let journald = Journald::start();
    let journal = Arc::new(journald.journal());
    let accepted = fill(&journal).await;
    let waiting = {
        let journal = Arc::clone(&journal);
        tokio::spawn(async move { journal.write(allow).await })
    };
    tokio::task::yield_now().await;
    let first = journald.read();
    assert_eq!(waiting.await.unwrap().unwrap().sequence(), accepted + 1);
    assert_eq!(number(&first), 1);
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_nothing_behind() {
    let journald = Journald::start();
    let journal = Arc::new(journald.journal());
    let accepted = fill(&journal).await;
    let callers: Vec<_> = (0..10)
        .map(|_| {
            let journal = Arc::clone(&journal);
            tokio::spawn(async move { journal.write(allow).await })
        })
        .collect();
    tokio::task::yield_now().await;
    for caller in &callers {
        caller.abort();
    }
    for caller in callers {
        assert!(caller.await.unwrap_err().is_cancelled());
    }
    let mut entries = journald.drain();
    journal.write(allow).await.unwrap();
    entries.extend(journald.drain());
    assert_eq!(verify_chain(entries), Report { entries: accepted + 1, breaks: Vec::new() });
}

#[tokio::test]
async fn without_journald_nothing_is_written_and_its_return_is_noticed() {
    let mut journald = Journald::start();
    journald.stop();
    let journal = journald.journal();
    let error = journal.write(allow).await.unwrap_err();
    assert!(matches!(&error, AuditError::Gone { path, .. } if *path == journald.path()), "{error}");

    journald.restart();
    journal.write(allow).await.unwrap();
    let before = entry(&journald.read());

    // The reader dies, its socket file stays: nobody listens.
    journald.socket = None;
    assert!(matches!(journal.write(allow).await, Err(AuditError::Gone { .. })));

    fs::remove_file(journald.path()).unwrap();
    journald.restart();
    journal.write(allow).await.unwrap();
    let after = entry(&journald.read());
    assert_eq!((before.sequence(), after.sequence()), (Some(1), Some(2)));
    assert_eq!(verify_chain([before, after]).breaks, []);
}

#[tokio::test]
async fn a_restart_while_an_entry_waits_for_room_is_survived() {
    let mut journald = Journald::start();
    let journal = Arc::new(journald.journal());
    let accepted = fill(&journal).await;
    let waiting = {
        let journal = Arc::clone(&journal);
        tokio::spawn(async move { journal.write(allow).await })
    };
    tokio::task::yield_now().await;
    journald.stop();
    journald.restart();
    assert_eq!(waiting.await.unwrap().unwrap().sequence(), accepted + 1);
    assert_eq!(number(&journald.read()), accepted + 1);
}

#[tokio::test]
async fn the_chain_goes_on_after_a_clean_stop_and_names_an_unclean_one() {
    let journald = Journald::start();
    let mut entries = Vec::new();
    for _ in 0..2 {
        let journal = journald.journal();
        journal.write(|_| Record::started(NodeMode::Enforce)).await.unwrap();
        journal.write(allow).await.unwrap();
        journal.write(|_| Record::stopped()).await.unwrap();
        journal.close().await;
        assert!(matches!(journal.write(allow).await, Err(AuditError::Closed)));
        entries.extend(journald.drain());
    }
    assert_eq!(entries[0].text(Field::Previous), Some("none"));
    assert_eq!(entries.iter().map(|entry| entry.sequence().unwrap()).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    assert_eq!(verify_chain(entries.clone()).breaks, []);

    let journal = journald.journal();
    journal.write(|_| Record::started(NodeMode::Enforce)).await.unwrap();
    drop(journal);
    let journal = journald.journal();
    journal.write(|_| Record::started(NodeMode::Enforce)).await.unwrap();
    entries.extend(journald.drain());
    let last = entries.last().unwrap();
    assert_eq!(last.text(Field::Previous), Some("unknown"));
    let before = last.sequence().unwrap();
    assert!(before > 7);
    assert_eq!(verify_chain(entries).breaks, [Break::Unclean { after: 7, before }]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_150_000_entries_from_many_callers_none_is_lost() {
    const ENTRIES: u64 = 150_000;
    const CALLERS: u64 = 50;
    let journald = Journald::start();
    let journal = Arc::new(journald.journal());
    let reader = {
        let socket = journald.socket.as_ref().unwrap().try_clone().unwrap();
        std::thread::spawn(move || {
            let mut datagram = vec![0; 1 << 16];
            let entries = (0..ENTRIES).map(|_| {
                let length = socket.recv(&mut datagram).unwrap();
                entry(&datagram[..length])
            });
            verify_chain(entries)
        })
    };
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let journal = Arc::clone(&journal);
            tokio::spawn(async move {
                for _ in 0..ENTRIES / CALLERS {
                    // On a machine that is busy with something else an entry may be withheld, as it should; the gate tries again.
                    while journal.write(allow).await.is_err() {}
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(reader.join().unwrap(), Report { entries: ENTRIES, breaks: Vec::new() });
    assert_eq!(journal.written(), ENTRIES);
}

#[tokio::test]
async fn loss_and_change_show() {
    let journald = Journald::start();
    let journal = journald.journal();
    let mut entries = Vec::new();
    for _ in 0..6 {
        journal.write(allow).await.unwrap();
        entries.extend(journald.drain());
    }
    let breaks = |entries: Vec<Exported>| verify_chain(entries).breaks;
    assert_eq!(breaks(entries.clone()), []);
    assert_eq!(breaks(entries[3..].to_vec()), [], "the beginning may have been vacuumed");

    let mut lost = entries.clone();
    lost.drain(2..4);
    assert_eq!(breaks(lost), [Break::Missing { after: 2, before: 5 }]);

    let mut twice = entries.clone();
    twice.insert(2, entries[1].clone());
    assert_eq!(breaks(twice), [Break::Changed { at: 2 }]);

    let mut swapped = entries.clone();
    swapped.swap(2, 3);
    assert!(!breaks(swapped).is_empty());

    let text = String::from_utf8_lossy(&journald_export(&entries[2])).replace("prod/app", "prod/bad");
    let mut changed = entries.clone();
    changed[2] = entry(text.as_bytes());
    assert_eq!(breaks(changed), [Break::Changed { at: 4 }]);

    let mut foreign = entries;
    foreign.insert(2, entry(b"MESSAGE=hello\n"));
    assert_eq!(breaks(foreign), [Break::Unreadable { after: 2 }]);
    assert_eq!(verify_chain([]), Report::default());
}

/// The entry as `journalctl -o export` shows it: text where it is text, and journald's own fields beside.
fn journald_export(entry: &Exported) -> Vec<u8> {
    let mut text = "__CURSOR=s=1;i=2\n_UID=0\n_SYSTEMD_UNIT=pullgate.service\n".to_owned();
    for field in Field::ALL {
        for value in entry.values(*field) {
            text.push_str(&format!("{}={}\n", field.name(), std::str::from_utf8(value).unwrap()));
        }
    }
    text.into_bytes()
}

#[tokio::test]
async fn what_journald_adds_and_how_it_writes_fields_does_not_matter() {
    let journald = Journald::start();
    let journal = journald.journal();
    journal.write(allow).await.unwrap();
    let sent = entry(&journald.read());
    let shown = entry(&journald_export(&sent));
    assert_ne!(shown, sent);
    assert_eq!(shown.hash(), sent.hash());
}

#[test]
fn exports_that_are_not_exports_are_errors_and_never_panics() {
    let read = |bytes: &[u8]| exported(bytes).collect::<Result<Vec<_>, _>>();
    assert_eq!(read(b"").unwrap(), []);
    assert_eq!(read(b"\n\n").unwrap(), []);
    assert_eq!(read(b"A=1\nB=2\n\nA=3\n").unwrap().len(), 2);
    assert_eq!(read(b"A\n\x03\0\0\0\0\0\0\0x\ny\n\nA=3\n").unwrap().len(), 2);
    let damaged: &[&[u8]] = &[
        b"A=1",
        b"A\n",
        b"A\n\x03\0\0\0\0\0\0\0x\n",
        b"A\n\xff\xff\xff\xff\xff\xff\xff\xffx\n",
        b"A\n\x01\0\0\0\0\0\0\0xy",
        b"A=1\n\nB",
    ];
    for bytes in damaged {
        assert_eq!(read(bytes), Err(BadExport), "{bytes:?}");
        assert!(exported(bytes).count() <= 2);
    }
}
