//! Passes in memory, on disk and in the audit.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        net::UnixDatagram,
    },
    path::PathBuf,
    sync::{Arc, Mutex},
};

use super::*;
use crate::{
    break_glass::{
        pass::tests::{HOUR, at},
        socket::{self, Answer, Question, Service, ask},
    },
    image::Digest,
    policy::evaluate::Origin,
};

const CONFIG: &str = "/etc/pullgate/config.toml";

/// A machine whose clocks are set by hand, with a state directory and journald's socket.
struct Machine {
    folder: tempfile::TempDir,
    now: Arc<Mutex<Result<Moment, String>>>,
    journald: UnixDatagram,
    journal: Arc<Journal>,
    config: BreakGlass,
}

impl Machine {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let journald = UnixDatagram::bind(folder.path().join("journal")).unwrap();
        journald.set_nonblocking(true).unwrap();
        let journal = Arc::new(Journal::open(&folder.path().join("journal"), &folder.path().join("numbers")));
        let now = Arc::new(Mutex::new(Ok(at("one", 100, Some(0)))));
        Self { folder, now, journald, journal, config: BreakGlass::default() }
    }

    /// As the daemon that starts now finds them.
    fn passes(&self) -> Passes {
        let now = self.now.clone();
        Passes::of(Some(self.folder.path()), move || now.lock().unwrap().clone())
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("break-glass.json")
    }

    fn is(&self, now: Moment) {
        *self.now.lock().unwrap() = Ok(now);
    }

    async fn make(&self, passes: &Passes, scope: &str, seconds: u64, reason: &str) -> Result<Shown, Refused> {
        let who = Who { uid: 0, login: Some(1000) };
        let wanted = Wanted { scope, length: Duration::from_secs(seconds), reason, who };
        passes.make(wanted, &self.config, CONFIG.as_ref(), &self.journal).await
    }

    fn admits(&self, passes: &Passes) -> bool {
        let subject = Subject::new(Digest::of(b"image"), None, Origin::Claimed);
        passes.covering(&self.config, &[subject]).is_some()
    }

    /// The messages that journald got since the last look.
    fn told(&self) -> Vec<String> {
        let mut told = Vec::new();
        let mut bytes = vec![0; 1 << 16];
        while let Ok(length) = self.journald.recv(&mut bytes) {
            let entry = crate::audit::chain::exported(&bytes[..length]).next().unwrap().unwrap();
            told.push(entry.text(crate::audit::Field::Message).unwrap().to_owned());
        }
        told
    }
}

fn image() -> String {
    Digest::of(b"image").to_string()
}

fn usage(outcome: Result<Shown, Refused>) -> String {
    match outcome {
        Err(Refused::Usage(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_pass_is_recorded_kept_and_then_in_force_also_after_a_restart() {
    let machine = Machine::new();
    let passes = machine.passes();
    assert!(passes.is_empty() && !machine.admits(&passes));
    let made = machine.make(&passes, &image(), HOUR, "no time").await.unwrap();
    assert_eq!((made.left_seconds, made.in_force, made.who.login), (HOUR, true, Some(1000)));
    assert!(machine.admits(&passes) && passes.admits(&made.id) && !passes.admits("other"));
    let told = machine.told();
    assert!(told.len() == 1 && told[0].starts_with(&format!("BREAK-GLASS {}: {}", made.id, image())), "{told:?}");
    assert_eq!(fs::metadata(machine.file()).unwrap().mode() & 0o777, 0o600);
    machine.is(at("one", 100 + HOUR / 2, Some(0)));
    let restarted = machine.passes();
    assert!(machine.admits(&restarted));
    assert_eq!(restarted.report().passes[0].left_seconds, HOUR / 2);
    // Another subject than the pass is about.
    let other = Subject::new(Digest::of(b"other"), None, Origin::Claimed);
    assert_eq!(restarted.covering(&machine.config, std::slice::from_ref(&other)), None);
    let both = [other, Subject::new(Digest::of(b"image"), None, Origin::Claimed)];
    assert_eq!(restarted.covering(&machine.config, &both).unwrap().1, both[1]);
    // Who does not allow passes any more does not wait for anybody to end them.
    let none = BreakGlass { longest: Duration::ZERO, pods_of: Vec::new() };
    assert_eq!(restarted.covering(&none, &both), None);
}

#[tokio::test]
async fn what_is_asked_for_wrongly_is_refused_with_the_reason() {
    let mut machine = Machine::new();
    let passes = machine.passes();
    for (scope, seconds, reason, why) in [
        ("**", HOUR, "x", "every image"),
        ("reg.io/app:v1", HOUR, "x", "a tag can point"),
        (&image(), HOUR, " ", "say why"),
        (&image(), 0, "x", "for how long?"),
        (&image(), 4 * HOUR + 1, "x", "/etc/pullgate/config.toml allows 240 min at most: `longest-minutes`"),
        (&image(), u64::MAX, "x", "allows 240 min at most"),
    ] {
        let found = usage(machine.make(&passes, scope, seconds, reason).await);
        assert!(found.contains(why), "{found}");
    }
    assert_eq!(machine.told(), Vec::<String>::new());
    let first = machine.make(&passes, &image(), 4 * HOUR, "x").await.unwrap();
    let found = usage(machine.make(&passes, &image(), HOUR, "y").await);
    assert!(found.contains(&format!("pullgate break-glass end {}", first.id)), "{found}");
    machine.config.longest = Duration::ZERO;
    let found = usage(machine.make(&passes, "reg.io/app", 1, "x").await);
    assert!(found.contains("config.toml forbids break-glass"), "{found}");
    assert_eq!(passes.report().passes.len(), 1);
}

#[tokio::test]
async fn there_are_only_so_many() {
    let machine = Machine::new();
    let passes = machine.passes();
    for number in 0..limits::BREAK_GLASS {
        let reason = "é".repeat(limits::BREAK_GLASS_REASON);
        machine.make(&passes, &Digest::of(&number.to_le_bytes()).to_string(), HOUR, &reason).await.unwrap();
        machine.told();
    }
    assert!(usage(machine.make(&passes, &image(), HOUR, "x").await).contains("no more can be"));
    // All of them have room in the file, and one more is not read.
    let bytes = fs::read(machine.file()).unwrap();
    assert!((bytes.len() as u64) < limits::BREAK_GLASS_BYTES, "{}", bytes.len());
    assert_eq!(machine.passes().report().passes.len(), limits::BREAK_GLASS);
    let mut kept: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let one = kept["passes"][0].clone();
    kept["passes"].as_array_mut().unwrap().push(one);
    fs::write(machine.file(), kept.to_string()).unwrap();
    assert!(machine.passes().report().trouble.unwrap().contains("17 passes, more than 16"));
}

#[tokio::test]
async fn what_cannot_be_recorded_or_kept_is_not_in_force() {
    let machine = Machine::new();
    let passes = machine.passes();
    // A directory in its place.
    fs::create_dir(machine.file()).unwrap();
    let passes_of_trouble = machine.passes();
    for passes in [&passes, &passes_of_trouble] {
        fs::create_dir_all(machine.file()).unwrap();
        let refused = machine.make(passes, &image(), HOUR, "x").await;
        if let Err(refused) = refused {
            assert!(matches!(&refused, Refused::Trouble(why) if why.contains("could not be written")), "{refused}");
            assert!(!machine.admits(passes) && passes.is_empty());
        } else {
            // What was in the way was set aside with an alarm.
            assert!(passes.report().trouble.is_some());
        }
    }
    let told = machine.told();
    assert!(told.iter().any(|message| message.contains("never was in force")), "{told:?}");
    let machine = Machine::new();
    let passes = machine.passes();
    fs::remove_file(machine.folder.path().join("journal")).unwrap();
    let refused = machine.make(&passes, &image(), HOUR, "x").await.unwrap_err();
    assert!(matches!(&refused, Refused::Trouble(why) if why.contains("no entry could be written")), "{refused}");
    assert!(!machine.admits(&passes) && !machine.file().exists());
    *machine.now.lock().unwrap() = Err("no machine-id".to_owned());
    let refused = machine.make(&passes, &image(), HOUR, "x").await.unwrap_err();
    assert!(matches!(&refused, Refused::Trouble(why) if why.contains("no machine-id")), "{refused}");
    assert!(machine.make(&Passes::none(), &image(), HOUR, "x").await.is_err());
}

#[tokio::test]
async fn its_end_is_recorded_once_by_time_by_root_or_after_a_restart() {
    let machine = Machine::new();
    let passes = machine.passes();
    assert_eq!(passes.settle(false, &machine.journal).await, None);
    machine.make(&passes, &image(), 30, "x").await.unwrap();
    let other = machine.make(&passes, "reg.io/app", HOUR, "y").await.unwrap();
    machine.told();
    assert_eq!(passes.settle(false, &machine.journal).await, Some(Duration::from_millis(30_001)));
    machine.is(at("one", 130, Some(0)));
    assert!(!machine.admits(&passes));
    assert_eq!(passes.settle(false, &machine.journal).await, Some(limits::BREAK_GLASS_NOTED));
    let told = machine.told();
    assert!(told.len() == 1 && told[0].contains("is over: its time has passed"), "{told:?}");
    // By root.
    let who = Who { uid: 0, login: None };
    assert!(matches!(passes.end("nothing", who, &machine.journal).await, Err(Refused::Usage(_))));
    let ended = passes.end(&other.id, who, &machine.journal).await.unwrap();
    assert_eq!(ended.scope, "reg.io/app");
    let told = machine.told();
    assert!(told.len() == 1 && told[0].contains("is over: ended by uid 0. Reason was: y"), "{told:?}");
    assert!(passes.is_empty() && machine.passes().is_empty());
    assert!(passes.end(&other.id, who, &machine.journal).await.is_err());
    // While the daemon was down.
    machine.make(&passes, &image(), 30, "z").await.unwrap();
    machine.told();
    machine.is(at("two", 31, Some(5)));
    let restarted = machine.passes();
    assert!(!machine.admits(&restarted) && restarted.report().passes.is_empty());
    restarted.settle(false, &machine.journal).await;
    let told = machine.told();
    assert!(told.len() == 1 && told[0].contains("its time has passed"), "{told:?}");
    assert!(machine.passes().is_empty());
}

#[tokio::test]
async fn an_end_that_could_not_be_recorded_is_one_and_is_recorded_later() {
    let machine = Machine::new();
    let passes = machine.passes();
    let made = machine.make(&passes, &image(), HOUR, "x").await.unwrap();
    let gone = Journal::open(&machine.folder.path().join("gone"), &machine.folder.path().join("other-numbers"));
    let who = Who { uid: 0, login: None };
    let trouble = passes.end(&made.id, who, &gone).await.unwrap_err();
    assert!(matches!(&trouble, Refused::Trouble(why) if why.starts_with("it is over, but")), "{trouble}");
    assert!(!machine.admits(&passes) && passes.report().passes.is_empty());
    // A clock that is set back, or a restart, brings nothing back.
    machine.is(at("one", 100, Some(-3600)));
    let restarted = machine.passes();
    assert!(!machine.admits(&restarted));
    assert_eq!(restarted.settle(false, &gone).await, Some(limits::BREAK_GLASS_NOTED));
    machine.told();
    assert_eq!(restarted.settle(false, &machine.journal).await, None);
    let told = machine.told();
    assert!(told.len() == 1 && told[0].contains("ended by uid 0"), "{told:?}");
}

#[tokio::test]
async fn what_has_passed_is_noted_so_that_restarts_do_not_give_it_back() {
    let machine = Machine::new();
    let passes = machine.passes();
    machine.make(&passes, &image(), HOUR, "x").await.unwrap();
    machine.is(at("one", 100 + HOUR - 60, Some(0)));
    passes.settle(false, &machine.journal).await;
    machine.is(at("two", 59, Some(0)));
    let restarted = machine.passes();
    assert_eq!(restarted.report().passes[0].left_seconds, 1);
    machine.is(at("two", 60, Some(0)));
    assert!(!machine.admits(&restarted));
}

#[tokio::test]
async fn on_a_copy_of_the_machine_and_where_passes_are_forbidden_it_is_dropped_and_that_is_recorded() {
    let machine = Machine::new();
    machine.make(&machine.passes(), &image(), HOUR, "x").await.unwrap();
    machine.told();
    let kept = fs::read(machine.file()).unwrap();
    machine.is(Moment { machine: Digest::of(b"copy"), ..at("one", 100, Some(0)) });
    let copy = machine.passes();
    assert!(!machine.admits(&copy));
    copy.settle(false, &machine.journal).await;
    assert!(machine.told()[0].contains("this is not the machine that it was made on"));
    machine.is(at("one", 101, Some(1)));
    assert!(copy.is_empty() && machine.passes().is_empty(), "dropped for good");
    fs::write(machine.file(), kept).unwrap();
    let passes = machine.passes();
    assert!(machine.admits(&passes));
    passes.settle(true, &machine.journal).await;
    assert!(machine.told()[0].contains("the configuration allows none any more"));
    assert!(!machine.admits(&passes) && machine.passes().is_empty());
    // Which machine it is may not be told for a moment: then nobody is admitted, and nothing dropped.
    machine.make(&passes, &image(), HOUR, "x").await.unwrap();
    *machine.now.lock().unwrap() = Err("no machine-id".to_owned());
    assert!(!machine.admits(&passes));
    assert_eq!(passes.report().trouble.as_deref(), Some("no pass is in force: no machine-id"));
    passes.settle(false, &machine.journal).await;
    machine.is(at("one", 102, Some(2)));
    assert!(machine.admits(&passes));
}

#[tokio::test]
async fn a_damaged_file_admits_nobody_raises_the_alarm_and_stands_in_nobodys_way() {
    let machine = Machine::new();
    machine.make(&machine.passes(), &image(), HOUR, "x").await.unwrap();
    machine.told();
    let kept = fs::read_to_string(machine.file()).unwrap();
    let long = kept.clone() + &" ".repeat(usize::try_from(limits::BREAK_GLASS_BYTES).unwrap());
    for damaged in [
        "",
        "{}",
        "null",
        &kept[..kept.len() - 9],
        &kept.replace("\"schema\":1", "\"schema\":2"),
        &kept.replace(&image(), "**"),
        &kept.replace("\"left-ms\":", "\"left-ms\":-"),
        &kept.replace("\"over\"", "\"ove\""),
        &long,
    ] {
        let _ = fs::remove_file(machine.file());
        fs::write(machine.file(), damaged).unwrap();
        fs::set_permissions(machine.file(), fs::Permissions::from_mode(0o600)).unwrap();
        let passes = machine.passes();
        assert!(!machine.admits(&passes) && passes.is_empty(), "{damaged}");
        assert!(passes.report().words().unwrap().contains("break-glass.json cannot be used"), "{damaged}");
        for _ in 0..2 {
            passes.settle(false, &machine.journal).await;
        }
        let told = machine.told();
        assert!(told.len() == 1 && told[0].contains("no pass that it kept is in force"), "{told:?}");
        assert!(!machine.file().exists(), "it is set aside");
        machine.make(&passes, &image(), HOUR, "x").await.unwrap();
        machine.told();
        assert!(machine.admits(&passes));
    }
    fs::write(machine.file(), &kept).unwrap();
    fs::set_permissions(machine.file(), fs::Permissions::from_mode(0o666)).unwrap();
    assert!(!machine.admits(&machine.passes()), "anybody could have written it");
}

/// Over the socket, as root in these tests or as nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn root_asks_over_a_socket_in_bounds() {
    let machine = Machine::new();
    let config = machine.folder.path().join("config.toml");
    fs::write(&config, "mode = \"enforce\"\n[break-glass]\nlongest-minutes = 60").unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
    let paths = crate::activation::Paths { config: config.clone(), boot: "/nothing".into(), state: None };
    let activation = Arc::new(crate::activation::Activation::new(paths, |_, _| ()));
    activation.load().await;
    let passes = Arc::new(machine.passes());
    let listener = std::os::unix::net::UnixListener::bind(machine.folder.path().join(socket::SOCKET)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let service = Service { passes: passes.clone(), activation, config, journal: machine.journal.clone() };
    let serving = tokio::spawn(service.serve(listener));
    let runtime = machine.folder.path().to_owned();
    let asked = async |question: Question| {
        let runtime = runtime.clone();
        tokio::task::spawn_blocking(move || ask(&runtime, &question)).await.unwrap()
    };
    let make = |seconds, reason: &str| Question::Make { scope: image(), seconds, reason: reason.to_owned() };
    if !nix::unistd::geteuid().is_root() {
        assert!(matches!(asked(make(60, "x")).await.unwrap(), Answer::Trouble(why) if why.contains("only root")));
        return;
    }
    let Answer::Made(made) = asked(make(3600, "x")).await.unwrap() else { panic!("not made") };
    assert!(passes.admits(&made.id));
    assert!(
        matches!(asked(make(3601, "x")).await.unwrap(), Answer::Usage(why) if why.contains("allows 60 min at most"))
    );
    let long = "x".repeat(usize::try_from(limits::BREAK_GLASS_QUESTION).unwrap());
    match asked(make(1, &long)).await {
        Ok(Answer::Usage(why)) => assert!(why.contains("more than 8192 bytes")),
        // It was not read to its end.
        outcome => assert_eq!(outcome.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset),
    }
    let Answer::List(report) = asked(Question::List).await.unwrap() else { panic!("no list") };
    assert_eq!(report.passes.iter().map(|pass| &pass.id).collect::<Vec<_>>(), [&made.id]);
    assert!(
        matches!(asked(Question::End { id: made.id.clone() }).await.unwrap(), Answer::Ended(ended) if ended.id == made.id)
    );
    assert!(!passes.admits(&made.id));
    for garbage in ["", "{", "{\"make\":{}}", "{\"unmake\":{}}", "[\"list\"]"] {
        let path = runtime.join(socket::SOCKET);
        let answer = tokio::task::spawn_blocking(move || {
            use std::io::{Read as _, Write as _};
            let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
            stream.write_all(garbage.as_bytes()).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        });
        assert!(answer.await.unwrap().contains("the question cannot be read"), "{garbage}");
    }
    // Who says nothing holds up nobody for long.
    let _silent = std::os::unix::net::UnixStream::connect(runtime.join(socket::SOCKET)).unwrap();
    assert!(matches!(asked(Question::List).await.unwrap(), Answer::List(report) if report.passes.is_empty()));
    serving.abort();
}
