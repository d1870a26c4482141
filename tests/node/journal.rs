//! The node's journal, as pullgate's readers see it.

use serde_json::Value;

use super::{Node, Result};

/// Who says what no gate was asked about.
const WATCH: &str = "watch";

/// One entry of pullgate's audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Microseconds since 1970.
    pub at: u64,
    pub verdict: String,
    pub code: String,
    pub gate: String,
    pub image: String,
    pub digest: String,
    pub rule: String,
    pub namespace: String,
    pub id: String,
    pub message: String,
}

impl Node {
    /// Journal entries that match `filter` (as `journalctl` takes it), oldest first.
    ///
    /// # Errors
    /// What journalctl says.
    pub fn journal(&self, filter: &[&str]) -> Result<Vec<Value>> {
        let command = [&["journalctl", "--no-pager", "--quiet", "--output=json"], filter].concat();
        let lines = self.run(&command)?.ok()?;
        lines.lines().map(|line| serde_json::from_str(line).map_err(Into::into)).collect()
    }

    /// What gates answered since `cursor` (see [`Node::cursor`]): only what pullgate's unit itself wrote, and nothing about
    /// the images of its self-test, which may run at any time.
    ///
    /// # Errors
    /// As [`Node::journal`].
    pub fn audit_since(&self, cursor: &str) -> Result<Vec<Entry>> {
        let entries = self.entries_since(cursor)?;
        Ok(entries.into_iter().filter(|entry| !entry.verdict.is_empty() && entry.gate != WATCH).collect())
    }

    /// As [`Node::audit_since`], what the watch saw.
    ///
    /// # Errors
    /// As [`Node::journal`].
    pub fn watched_since(&self, cursor: &str) -> Result<Vec<Entry>> {
        let entries = self.entries_since(cursor)?;
        Ok(entries.into_iter().filter(|entry| entry.gate == WATCH).collect())
    }

    fn entries_since(&self, cursor: &str) -> Result<Vec<Entry>> {
        // What journald's socket took need not be in the journal yet.
        self.run(&["journalctl", "--sync"])?.ok()?;
        let after = format!("--after-cursor={cursor}");
        let entries = self.journal(&[&after, "_SYSTEMD_UNIT=pullgate.service"])?;
        let others = entries.iter().filter(|entry| entry.get("PULLGATE_SELF_TEST").is_none());
        Ok(others.map(entry).collect())
    }

    /// The present end of the journal.
    ///
    /// # Errors
    /// As [`Node::journal`].
    pub fn cursor(&self) -> Result<String> {
        let last = self.journal(&["--lines=1"])?;
        let cursor = last.last().and_then(|entry| entry.get("__CURSOR")).and_then(Value::as_str);
        Ok(cursor.ok_or("the journal is empty")?.to_owned())
    }
}

impl Entry {
    /// The time of day, UTC, to the millisecond.
    pub fn clock(&self) -> String {
        let milliseconds = self.at / 1000;
        let (seconds, milliseconds) = (milliseconds / 1000 % 86400, milliseconds % 1000);
        format!("{:02}:{:02}:{:02}.{milliseconds:03}", seconds / 3600, seconds / 60 % 60, seconds % 60)
    }
}

fn entry(fields: &Value) -> Entry {
    let field = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    Entry {
        at: field("__REALTIME_TIMESTAMP").parse().unwrap_or_default(),
        verdict: field("PULLGATE_VERDICT"),
        code: field("PULLGATE_CODE"),
        gate: field("PULLGATE_GATE"),
        image: field("PULLGATE_IMAGE"),
        digest: field("PULLGATE_DIGEST"),
        rule: field("PULLGATE_RULE"),
        namespace: field("PULLGATE_NAMESPACE"),
        id: field("PULLGATE_ID"),
        message: field("MESSAGE"),
    }
}
