//! The entries of a run, read back from the journal: what was not written was not audited.

use std::time::Duration;

use tokio::{
    process::Command,
    time::{Instant, sleep, timeout},
};

use super::Gate;
use crate::{
    audit::{Decided, Field, Told, UNIT, chain::exported},
    image::Digest,
    node::program::printed,
    policy::decision::Verdict,
};

/// Time for an entry to be readable once journald has accepted it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause before the journal is read again.
const PAUSE: Duration = Duration::from_millis(200);
/// Bytes of the entries of one run.
const BYTES: u64 = 1 << 20;

/// One entry of the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) id: String,
    pub(super) gate: String,
    pub(super) digest: Digest,
    pub(super) verdict: Verdict,
}

impl Entry {
    /// An entry of the self-test, if it is one: marked, by a gate, about a digest, and answered as it says.
    fn of(told: Told) -> Option<Self> {
        let (id, Decided { decision, gate, enforced, .. }) = (told.id?, told.decided?);
        let digest = decision.digest.filter(|_| decision.self_test && enforced)?;
        Some(Self { id: id.to_string(), gate, digest, verdict: decision.verdict })
    }

    /// Whether `gate` answered with `verdict` about one of `digests`.
    pub(super) fn says(&self, gate: Gate, verdict: Verdict, digests: &[Digest]) -> bool {
        self.gate == gate.name() && self.verdict == verdict && digests.contains(&self.digest)
    }
}

/// The entries about `digests` that journald attributes to the daemon, once `enough` says so or time is up.
///
/// # Errors
/// Why the journal cannot be read.
pub(super) async fn entries(digests: &[Digest], enough: impl Fn(&[Entry]) -> bool) -> Result<Vec<Entry>, String> {
    let begun = Instant::now();
    loop {
        let read = timeout(PATIENCE, read("journalctl", digests)).await;
        let entries = read.map_err(|_| "journalctl does not end".to_owned())??;
        if enough(&entries) || begun.elapsed() >= PATIENCE {
            return Ok(entries);
        }
        sleep(PAUSE).await;
    }
}

async fn read(program: &str, digests: &[Digest]) -> Result<Vec<Entry>, String> {
    let mut command = Command::new(program);
    command
        .args(["--no-pager", "--quiet", "--system", "--all", "--output=export"])
        .arg(format!("_SYSTEMD_UNIT={UNIT}"))
        .args(digests.iter().map(|digest| format!("{}={digest}", Field::Digest.name())))
        .env("LC_ALL", "C");
    let (bytes, ended) = printed(&mut command, BYTES).await.map_err(|why| format!("{program}: {why}"))?;
    // Some versions end with 1 when nothing matches.
    let nothing = ended.code() == Some(1) && bytes.is_empty();
    if !ended.success() && !nothing {
        return Err(format!("{program} ended with {ended}"));
    }
    let mut entries = Vec::new();
    for entry in exported(bytes.as_slice()) {
        let entry = entry.map_err(|bad| format!("{program}: {bad}"))?;
        entries.extend(Entry::of(Told::from(&entry)).filter(|_| entry.unit() == Some(UNIT)));
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// What stands for `journalctl` and prints `text`.
    async fn journal(text: &str) -> Result<Vec<Entry>, String> {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("journalctl");
        std::fs::write(folder.path().join("text"), text).unwrap();
        let script = format!("#!/bin/sh\ncat {}/text\n", folder.path().display());
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
        read(program.to_str().unwrap(), &[Digest::of(b"image")]).await
    }

    fn entry(fields: &[(&str, &str)]) -> String {
        let digest = Digest::of(b"image").to_string();
        let mut all = vec![
            ("_SYSTEMD_UNIT", UNIT),
            ("PULLGATE_SEQ", "1234"),
            ("PULLGATE_GATE", "unpack"),
            ("PULLGATE_VERDICT", "deny"),
            ("PULLGATE_ENFORCED", "yes"),
            ("PULLGATE_SELF_TEST", "yes"),
            ("PULLGATE_DIGEST", digest.as_str()),
        ];
        all.retain(|(name, _)| fields.iter().all(|(other, _)| other != name));
        all.extend(fields.iter().filter(|(_, value)| !value.is_empty()));
        all.iter().map(|(name, value)| format!("{name}={value}\n")).collect::<String>() + "\n"
    }

    #[tokio::test]
    async fn an_entry_counts_that_the_daemon_wrote_about_an_image_of_the_run() {
        let read = journal(&entry(&[])).await.unwrap();
        assert_eq!(read.len(), 1);
        assert_eq!(read[0].id, "16J");
        let digests = [Digest::of(b"other"), Digest::of(b"image")];
        assert!(read[0].says(Gate::Unpack, Verdict::Deny, &digests));
        assert!(!read[0].says(Gate::Resolve, Verdict::Deny, &digests));
        assert!(!read[0].says(Gate::Unpack, Verdict::Allow, &digests));
        assert!(!read[0].says(Gate::Unpack, Verdict::Deny, &digests[..1]));
    }

    #[tokio::test]
    async fn no_other_entry_counts() {
        for fields in [
            [("_SYSTEMD_UNIT", "evil.service")],
            [("_SYSTEMD_UNIT", "")],
            [("PULLGATE_SELF_TEST", "")],
            [("PULLGATE_SELF_TEST", "no")],
            [("PULLGATE_ENFORCED", "no")],
            [("PULLGATE_VERDICT", "")],
            [("PULLGATE_DIGEST", "")],
            [("PULLGATE_SEQ", "")],
        ] {
            assert_eq!(journal(&entry(&fields)).await, Ok(Vec::new()), "{fields:?}");
        }
        assert_eq!(journal("").await, Ok(Vec::new()));
        assert!(journal("not an export").await.is_err());
    }

    #[tokio::test]
    async fn a_journal_that_cannot_be_read_is_no_empty_journal() {
        let digests = [Digest::of(b"image")];
        assert!(read("/nonexistent/journalctl", &digests).await.is_err());
        assert!(read("/bin/false", &digests).await.is_ok(), "nothing matched, say some versions");
        let endless = journal(&entry(&[]).repeat(usize::try_from(BYTES).unwrap() / 100)).await;
        assert!(endless.unwrap_err().contains("more than"));
    }
}
