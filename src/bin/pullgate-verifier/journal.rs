//! The entry that the daemon cannot write, in journald's native protocol, each value with its length. Nothing depends on
//! it.

use std::{os::unix::net::UnixDatagram, time::Duration};

use crate::{Places, trouble::Trouble};

/// Bytes of somebody else's word.
const WORD_BYTES: usize = 512;
/// Time for journald to take an entry.
const PATIENCE: Duration = Duration::from_millis(250);
/// The entry's kind; its text is in pullgate's catalog.
const MESSAGE_ID: &str = "06f1767da48b4809916e7dfbfd80746c";

/// Writes the entry of `gate`. `unit` is a process of the unit that the entry belongs to (systemd.journal-fields(7)): this
/// one may have ended before journald looks it up. `about` are further fields, in somebody else's words.
pub(crate) fn log(
    places: &Places,
    gate: &str,
    trouble: &Trouble,
    audits: bool,
    unit: u32,
    about: &[(&str, Option<&[u8]>)],
) {
    let mut fields = vec![
        ("MESSAGE", trouble.line(audits)),
        ("MESSAGE_ID", MESSAGE_ID.to_owned()),
        ("PRIORITY", "3".to_owned()),
        ("SYSLOG_IDENTIFIER", "pullgate-verifier".to_owned()),
        ("OBJECT_PID", unit.to_string()),
        ("PULLGATE_GATE", gate.to_owned()),
        ("PULLGATE_VERDICT", trouble.verdict.1.to_owned()),
        ("PULLGATE_CODE", trouble.code.to_owned()),
        ("PULLGATE_MODE", if audits { "audit" } else { "enforce" }.to_owned()),
        ("PULLGATE_ENFORCED", if audits { "no" } else { "yes" }.to_owned()),
        ("PULLGATE_REASON", format!("{}; {}", trouble.found, trouble.fix)),
    ];
    fields.extend(about.iter().filter_map(|(name, value)| Some((*name, word((*value)?)))));
    let mut entry = Vec::new();
    for (name, value) in fields {
        entry.extend_from_slice(name.as_bytes());
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
        entry.extend_from_slice(value.as_bytes());
        entry.push(b'\n');
    }
    if let Ok(socket) = UnixDatagram::unbound() {
        let _ = socket.set_write_timeout(Some(PATIENCE)).and_then(|()| socket.send_to(&entry, &places.journal));
    }
}

/// Names, digests and identifiers are printable ASCII; whatever else somebody wrote is shown as `?`.
fn word(bytes: &[u8]) -> String {
    bytes.iter().take(WORD_BYTES).map(|b| if b.is_ascii_graphic() { char::from(*b) } else { '?' }).collect()
}
