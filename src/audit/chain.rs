//! The chain of entries, read back: whether any is missing or was changed. Pure.
//!
//! Only entries that journald attributes to the daemon may be given to it (`_SYSTEMD_UNIT=pullgate.service`):
//! anyone on the node can send entries that look the same.

#![deny(clippy::disallowed_methods)]

use std::{
    collections::BTreeMap,
    io::{self, BufRead, ErrorKind},
};

use jiff::Timestamp;

use super::{Field, Kind, entry::encode};
use crate::{image::Digest, limits};

/// One entry of the journal, as `journalctl -o export` writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exported(BTreeMap<Vec<u8>, Vec<Vec<u8>>>);

/// The text is not what `journalctl -o export` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadExport {
    /// Another format, or cut short.
    #[error("not a journal export, or cut short")]
    Format,
    /// One entry has more than [`limits::JOURNAL_ENTRY_BYTES`].
    #[error("an entry of more than {} bytes", limits::JOURNAL_ENTRY_BYTES)]
    TooLarge,
    /// It could not be read.
    #[error("{0}")]
    Read(ErrorKind),
}

/// The entries that `reader` has, in systemd's export format (JOURNAL_EXPORT_FORMATS.md, "Journal Export Format"), one
/// in memory at a time.
///
/// # Errors
/// Once, at the first place that is not in that format; nothing follows it.
pub fn exported(reader: impl BufRead) -> impl Iterator<Item = Result<Exported, BadExport>> {
    let mut rest = Some(reader);
    std::iter::from_fn(move || {
        let read = one(rest.as_mut()?).transpose();
        if !matches!(read, Some(Ok(_))) {
            rest = None;
        }
        read
    })
}

/// The next entry, if there is one.
fn one(reader: &mut impl BufRead) -> Result<Option<Exported>, BadExport> {
    let mut entry = Exported::default();
    let mut left = limits::JOURNAL_ENTRY_BYTES;
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = io::Read::take(&mut *reader, left as u64).read_until(b'\n', &mut line).map_err(broken)?;
        left -= length;
        match line.pop() {
            None if left == 0 => return Err(BadExport::TooLarge),
            None => return Ok(Some(entry).filter(|entry| !entry.0.is_empty())),
            Some(b'\n') if line.is_empty() && entry.0.is_empty() => continue,
            Some(b'\n') if line.is_empty() => return Ok(Some(entry)),
            Some(b'\n') => {}
            Some(_) if left == 0 => return Err(BadExport::TooLarge),
            Some(_) => return Err(BadExport::Format),
        }
        let (name, value) = match line.iter().position(|byte| *byte == b'=') {
            Some(equals) => (line[..equals].to_vec(), line[equals + 1..].to_vec()),
            None => {
                let mut length = [0; 8];
                reader.read_exact(&mut length).map_err(broken)?;
                let length = usize::try_from(u64::from_le_bytes(length)).map_err(|_| BadExport::TooLarge)?;
                left = left.checked_sub(length).ok_or(BadExport::TooLarge)?;
                let mut value = vec![0; length];
                reader.read_exact(&mut value).map_err(broken)?;
                let mut end = [0];
                reader.read_exact(&mut end).map_err(broken)?;
                if end != *b"\n" {
                    return Err(BadExport::Format);
                }
                (line.clone(), value)
            }
        };
        entry.0.entry(name).or_default().push(value);
    }
}

fn broken(error: io::Error) -> BadExport {
    match error.kind() {
        ErrorKind::UnexpectedEof => BadExport::Format,
        kind => BadExport::Read(kind),
    }
}

impl Exported {
    /// The values of `field`.
    pub fn values(&self, field: Field) -> impl Iterator<Item = &[u8]> {
        self.0.get(field.name().as_bytes()).into_iter().flatten().map(Vec::as_slice)
    }

    /// The one value of `field`, where it is text.
    pub fn text(&self, field: Field) -> Option<&str> {
        let mut values = self.values(field);
        let value = values.next()?;
        if values.next().is_some() { None } else { std::str::from_utf8(value).ok() }
    }

    /// The values of `field` that are text.
    pub fn texts(&self, field: Field) -> impl Iterator<Item = &str> {
        self.values(field).filter_map(|value| std::str::from_utf8(value).ok())
    }

    /// The unit whose process sent it, by journald's own word.
    pub fn unit(&self) -> Option<&str> {
        self.journalds("_SYSTEMD_UNIT")
    }

    /// When journald received it.
    pub fn at(&self) -> Option<Timestamp> {
        Timestamp::from_microsecond(self.journalds("__REALTIME_TIMESTAMP")?.parse().ok()?).ok()
    }

    /// A field that journald adds itself: no sender can set a name that begins with `_`.
    fn journalds(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.0.get(name.as_bytes())?.first()?).ok()
    }

    /// Whether this is an entry of the audit, not a line of the operational log or of systemd about the unit.
    pub fn is_audit(&self) -> bool {
        self.texts(Field::MessageId).any(|id| Kind::of(id).is_some()) || self.values(Field::Seq).next().is_some()
    }

    /// The number of the entry.
    pub fn sequence(&self) -> Option<u64> {
        self.text(Field::Seq)?.parse().ok()
    }

    /// The hash of the entry as it was sent, which the next one carries: over the fields that pullgate
    /// sends, not those that journald adds.
    pub fn hash(&self) -> Digest {
        let ours = [Field::Message, Field::MessageId, Field::Priority, Field::SyslogIdentifier];
        let ours = |name: &[u8]| name.starts_with(b"PULLGATE_") || ours.iter().any(|f| f.name().as_bytes() == name);
        let fields = self.0.iter().filter(|(name, _)| ours(name));
        Digest::of(&encode(fields.flat_map(|(name, values)| values.iter().map(|v| (name.as_slice(), v.as_slice())))))
    }
}

/// What a chain of entries shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Audit entries that were read.
    pub entries: u64,
    /// Where the chain does not hold, in order.
    pub breaks: Vec<Break>,
}

/// A place where the chain does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// Entries between these two numbers are missing.
    Missing {
        /// The last one before.
        after: u64,
        /// The first one that is there again.
        before: u64,
    },
    /// The daemon did not stop cleanly. Entries between these two numbers may never have existed, or be missing.
    Unclean {
        /// The last one before.
        after: u64,
        /// The first one of the new daemon.
        before: u64,
    },
    /// This entry does not follow on the one before it: either was changed, or a number was used twice.
    Changed {
        /// Its number.
        at: u64,
    },
    /// An audit entry without a number or hash, after the one with this number (0: at the beginning).
    Unreadable {
        /// The number before it.
        after: u64,
    },
}

/// Follows the chain through `entries`, in the order of the journal; other entries are passed over. What
/// came before the first of them (journald removes old entries) cannot be told.
pub fn verify_chain(entries: impl IntoIterator<Item = Exported>) -> Report {
    let mut report = Report::default();
    let mut last: Option<(u64, Digest)> = None;
    for entry in entries.into_iter().filter(Exported::is_audit) {
        report.entries += 1;
        let (Some(sequence), Some(previous)) = (entry.sequence(), entry.text(Field::Previous)) else {
            report.breaks.push(Break::Unreadable { after: last.map_or(0, |(sequence, _)| sequence) });
            continue;
        };
        if let Some((after, hash)) = last {
            let follows = previous == hash.to_string();
            let place = match sequence.checked_sub(after) {
                Some(1) if follows => None,
                Some(1..) if previous == "unknown" => Some(Break::Unclean { after, before: sequence }),
                Some(2..) => Some(Break::Missing { after, before: sequence }),
                _ => Some(Break::Changed { at: sequence }),
            };
            report.breaks.extend(place);
        }
        last = Some((sequence, entry.hash()));
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        audit::{Id, Record},
        config::NodeMode,
    };

    /// Entries as journald receives them.
    fn sent(count: u64) -> Vec<Exported> {
        let mut previous = "none".to_owned();
        let entries = (1..=count).map(|sequence| {
            let bytes = Record::started(NodeMode::Enforce).seal(Id::new(sequence), &previous);
            previous = Digest::of(&bytes).to_string();
            entry(&bytes)
        });
        entries.collect()
    }

    /// The native form is a form of the export format.
    fn entry(bytes: &[u8]) -> Exported {
        let mut entries = exported(bytes);
        let entry = entries.next().unwrap().unwrap();
        assert_eq!(entries.next(), None);
        entry
    }

    #[test]
    fn loss_and_change_show() {
        let entries = sent(6);
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

        let mut changed = entries.clone();
        let text = String::from_utf8(shown(&entries[2])).unwrap();
        changed[2] = entry(text.replace("mode enforce", "mode audit").as_bytes());
        assert_eq!(breaks(changed), [Break::Changed { at: 4 }]);

        let mut stripped = entries.clone();
        stripped.insert(2, entry(format!("MESSAGE_ID={}\n", Kind::Deny.message_id()).as_bytes()));
        assert_eq!(breaks(stripped), [Break::Unreadable { after: 2 }]);

        let mut beside = entries;
        beside.insert(2, entry(b"MESSAGE=a line of the operational log\n"));
        assert_eq!(verify_chain(beside), Report { entries: 6, breaks: Vec::new() });
        assert_eq!(verify_chain([]), Report::default());
    }

    /// The entry as `journalctl -o export` shows it: text where it is text, and journald's own fields beside.
    fn shown(entry: &Exported) -> Vec<u8> {
        let mut text = "__CURSOR=s=1;i=2\n_UID=0\n_SYSTEMD_UNIT=pullgate.service\n".to_owned();
        for field in Field::ALL {
            for value in entry.values(*field) {
                text.push_str(&format!("{}={}\n", field.name(), std::str::from_utf8(value).unwrap()));
            }
        }
        text.into_bytes()
    }

    #[test]
    fn what_journald_adds_and_how_it_writes_fields_does_not_matter() {
        let sent = sent(1).remove(0);
        let shown = entry(&shown(&sent));
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
        let damaged: &[&[u8]] = &[b"A=1", b"A\n", b"A\n\x03\0\0\0\0\0\0\0x\n", b"A\n\x01\0\0\0\0\0\0\0xy", b"A=1\n\nB"];
        for bytes in damaged {
            assert_eq!(read(bytes), Err(BadExport::Format), "{bytes:?}");
            assert!(exported(*bytes).count() <= 2);
        }
        assert_eq!(read(b"A\n\xff\xff\xff\xff\xff\xff\xff\xffx\n"), Err(BadExport::TooLarge));
    }

    #[test]
    fn entries_are_read_one_at_a_time_and_each_is_bounded() {
        let endless = io::repeat(b'x');
        assert_eq!(exported(io::BufReader::new(endless)).collect::<Vec<_>>(), [Err(BadExport::TooLarge)]);
        let line = [b"A=".as_slice(), &vec![b'x'; limits::JOURNAL_ENTRY_BYTES / 2], b"\n"].concat();
        assert_eq!(exported(line.repeat(2).as_slice()).collect::<Vec<_>>(), [Err(BadExport::TooLarge)]);
        assert_eq!(exported([&line[..], b"\n"].concat().repeat(3).as_slice()).filter(Result::is_ok).count(), 3);
        let endless = io::Read::chain(&b"A=1\n\nA=2\n\n"[..], io::repeat(b'\n'));
        assert_eq!(exported(io::BufReader::new(endless)).take(2).filter(Result::is_ok).count(), 2);
    }
}
