//! As a hook of the runtime: the container's state comes on standard input, and the reason goes to standard error, which
//! the runtime passes on.
//!
//! A container that was refused is not tried again by everybody, so a daemon that is on its way back is waited for. Asking
//! twice does no harm.

use std::{
    ffi::OsString,
    fs,
    io::{self, Write},
    os::unix::{ffi::OsStrExt, process::parent_id},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use crate::{
    PATIENCE, PATIENCE_IN_AUDIT, Places,
    answer::{Answer, ask},
    journal,
    question::question,
    trouble::Trouble,
    within,
};

/// What tells this use from the other.
pub(crate) const ARGUMENT: &str = "create-runtime";
/// Bytes of the state, which has the annotations of the container in it.
const STATE_BYTES: usize = 512 << 10;
/// Pause before a daemon that is not there is asked again.
const PAUSE: Duration = Duration::from_millis(50);

/// Whether the container may start.
pub(crate) fn run(places: &Places, arguments: &[OsString]) -> bool {
    let audits = places.audits();
    let patience = if audits { PATIENCE_IN_AUDIT } else { PATIENCE };
    let socket = places.runtime.join("start.sock");
    let given: Vec<Vec<u8>> = arguments.iter().map(|argument| argument.as_bytes().to_vec()).collect();
    // What was read is told also when there was no answer in time, and so is what kept it from coming.
    let seen = Arc::new(Mutex::new(Seen::default()));
    let seeing = seen.clone();
    let answer = within(patience, move || {
        let question = question(&given, io::stdin(), STATE_BYTES)?;
        lock(&seeing).container = container(&question).map(<[u8]>::to_vec);
        let asked = || ask(&socket, &question);
        // Where nothing is refused nothing waits either.
        if audits { asked() } else { patiently(asked, |trouble| lock(&seeing).found = Some(trouble.found.clone())) }
    });
    let Seen { container, found } = std::mem::take(&mut *lock(&seen));
    let answer = answer.unwrap_or_else(|trouble| {
        let trouble = match found {
            Some(found) => Trouble { found: format!("{found}, for {} s", patience.as_secs()), ..trouble },
            None => trouble,
        };
        journal::log(places, "start", &trouble, audits, unit(), &[("PULLGATE_CONTAINER", container.as_deref())]);
        Answer { allows: audits, line: trouble.line(audits) }
    });
    if !answer.allows {
        // A reader that went away does not change the answer.
        let _ = io::stderr().write_all(format!("{}\n", answer.line).as_bytes());
    }
    answer.allows
}

/// What was learned so far.
#[derive(Default)]
struct Seen {
    container: Option<Vec<u8>>,
    found: Option<String>,
}

fn lock(seen: &Mutex<Seen>) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks until there is an answer, or trouble that does not pass. Ends with the process at the latest.
fn patiently(ask: impl Fn() -> Result<Answer, Trouble>, noted: impl Fn(&Trouble)) -> Result<Answer, Trouble> {
    loop {
        match ask() {
            Err(trouble) if trouble.may_pass => noted(&trouble),
            answered => return answered,
        }
        thread::sleep(PAUSE);
    }
}

/// The identifier that the state begins with, for the journal alone.
fn container(question: &[u8]) -> Option<&[u8]> {
    const KEY: &[u8] = b"\"id\":\"";
    let at = question.windows(KEY.len()).position(|window| window == KEY)?;
    question.get(at + KEY.len()..)?.split(|byte| *byte == b'"').next()
}

/// The shim, which has started the runtime, which has started this: it belongs to containerd's unit and lives on.
fn unit() -> u32 {
    parent_of(parent_id()).unwrap_or_else(parent_id)
}

/// The process that started `pid` (proc_pid_stat(5)).
fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    // The name, in brackets, is whatever the process calls itself.
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(1)?.parse().ok().filter(|parent| *parent > 0)
}
