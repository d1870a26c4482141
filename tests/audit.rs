//! The audit against a journald that is slow, full, gone, restarted, or busy.

use std::{
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
        chain::{Break, Exported, Report, exported, verify_chain},
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
        container: None,
        pod: None,
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
    assert!(record.values(Field::Message).all(|message| !message.contains(['\n', '\u{202e}'])));
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
