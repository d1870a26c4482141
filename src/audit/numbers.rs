//! The numbers of the entries, on disk so that they survive a restart.
//!
//! Nothing is written for a single entry: numbers are taken from the disk [`limits::AUDIT_NUMBERS`] at
//! a time and ahead of need, and a clean stop writes what was really used and the hash of the last
//! entry. After a crash the numbers that were taken are skipped and the hash is not known. When the
//! disk fails, entries go on being numbered: only a crash could then repeat numbers.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{files, image::Digest, limits};

/// What the entry before is known to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// There is none: this is the node's first.
    None,
    /// There may be one, of a daemon that did not stop cleanly.
    Unknown,
    /// The hash of its bytes.
    Known(Digest),
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Unknown => f.write_str("unknown"),
            Self::Known(digest) => digest.fmt(f),
        }
    }
}

/// The file: the first number that no entry can have, and the hash of the last entry after a clean stop.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    next: u64,
    head: Option<Digest>,
}

/// Where the numbers come from.
pub(super) struct Numbers {
    path: PathBuf,
    taken: u64,
    order: Option<mpsc::SyncSender<u64>>,
    writer: Option<thread::JoinHandle<()>>,
}

impl Numbers {
    /// Reads `path` and takes the first numbers from it. Returns the next number and what is before it.
    pub(super) fn open(path: &Path) -> (Self, u64, Head) {
        let (next, head) = read(path);
        let taken = next.saturating_add(limits::AUDIT_NUMBERS);
        save(path, &Saved { next: taken, head: None });
        let (order, orders) = mpsc::sync_channel(1);
        let file = path.to_owned();
        let writer = thread::Builder::new()
            .name("audit-numbers".to_owned())
            .spawn(move || orders.iter().for_each(|next| save(&file, &Saved { next, head: None })))
            .inspect_err(|error| tracing::error!("audit numbers are not kept: no thread: {error}"))
            .ok();
        (Self { path: path.to_owned(), taken, order: Some(order), writer }, next, head)
    }

    /// Says that `next` is the next number, and takes more in time. Never waits for the disk.
    pub(super) fn used(&mut self, next: u64) {
        if next.saturating_add(limits::AUDIT_NUMBERS / 2) < self.taken {
            return;
        }
        let wanted = next.saturating_add(limits::AUDIT_NUMBERS);
        // A full queue means that the disk is slow; the next entry asks again.
        if self.order.as_ref().is_some_and(|order| order.try_send(wanted).is_ok()) {
            self.taken = wanted;
        }
    }

    /// Writes what a clean stop knows. Blocks.
    pub(super) fn close(mut self, next: u64, head: Head) {
        self.order = None;
        if let Some(writer) = self.writer.take() {
            // The writer only saves; had it panicked, the process would have ended.
            let _ = writer.join();
        }
        let head = match head {
            Head::Known(digest) => Some(digest),
            Head::None | Head::Unknown => None,
        };
        save(&self.path, &Saved { next, head });
    }
}

fn read(path: &Path) -> (u64, Head) {
    let saved = fs::read(path).and_then(|bytes| Ok(serde_json::from_slice::<Saved>(&bytes)?));
    match saved {
        Ok(Saved { next, head: Some(head) }) => (next, Head::Known(head)),
        Ok(Saved { next, head: None }) => (next, Head::Unknown),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (1, Head::None),
        Err(error) => {
            // Milliseconds since 1970 lie above any number that was counted up from 1.
            let next = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(1);
            tracing::error!("{}: {error}; audit numbers go on from {next}", path.display());
            (next, Head::Unknown)
        }
    }
}

fn save(path: &Path, saved: &Saved) {
    let saved = serde_json::to_vec(saved).map_err(io::Error::from).and_then(|bytes| files::replace(path, &bytes));
    if let Err(error) = saved {
        tracing::error!("{}: {error}; audit numbers may repeat after a crash", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest() -> Digest {
        Digest::of(b"entry")
    }

    #[test]
    fn the_first_number_is_one_and_a_clean_stop_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.json");
        let (numbers, next, head) = Numbers::open(&path);
        assert_eq!((next, head), (1, Head::None));
        numbers.close(17, Head::Known(digest()));
        let (_, next, head) = Numbers::open(&path);
        assert_eq!((next, head), (17, Head::Known(digest())));
    }

    #[test]
    fn a_crash_skips_numbers_and_repeats_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.json");
        let (mut numbers, mut next, _) = Numbers::open(&path);
        for _ in 0..3 * limits::AUDIT_NUMBERS {
            next += 1;
            numbers.used(next);
            while next + 8 > numbers.taken {
                thread::yield_now();
                numbers.used(next);
            }
        }
        // The thread ends when its orders do; a crash would leave the file at this point or later.
        numbers.order = None;
        numbers.writer.take().unwrap().join().unwrap();
        drop(numbers);
        let (_, after, head) = Numbers::open(&path);
        assert!(after >= next, "{after} < {next}");
        assert!(after <= next + 2 * limits::AUDIT_NUMBERS);
        assert_eq!(head, Head::Unknown);
    }

    #[test]
    fn a_damaged_file_leads_to_numbers_that_were_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.json");
        for damage in ["", "{", "[]", r#"{"next":-1,"head":null}"#, r#"{"next":1,"head":"sha256:0"}"#] {
            fs::write(&path, damage).unwrap();
            let (_, next, head) = Numbers::open(&path);
            assert!(next > 1_000_000_000_000, "{damage}: {next}");
            assert_eq!(head, Head::Unknown);
        }
    }

    #[test]
    fn a_disk_that_fails_stops_no_numbers() {
        let (mut numbers, next, head) = Numbers::open(Path::new("/proc/no/such/audit.json"));
        assert_eq!((next, head), (1, Head::None));
        numbers.used(2);
        numbers.close(2, Head::None);
    }
}
