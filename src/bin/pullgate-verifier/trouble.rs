//! Why there is no answer.

/// Characters of what is wrong, so that the line has at most 200.
const FOUND_CHARS: usize = 70;

pub(crate) struct Trouble {
    /// As the messages begin, and as the journal has it.
    pub(crate) verdict: (&'static str, &'static str),
    pub(crate) code: &'static str,
    pub(crate) found: String,
    pub(crate) fix: &'static str,
    /// Whether the daemon may just be on its way back.
    pub(crate) may_pass: bool,
}

impl Trouble {
    pub(crate) fn unreachable(found: impl Into<String>) -> Self {
        Self {
            verdict: ("RETRY", "inconclusive"),
            code: "PG408",
            found: found.into(),
            fix: "systemctl start pullgate-gates.socket pullgate.service, then journalctl -u pullgate",
            may_pass: false,
        }
    }

    pub(crate) fn malformed(found: impl Into<String>) -> Self {
        Self {
            verdict: ("DENY", "deny"),
            code: "PG410",
            found: found.into(),
            fix: "look at containerd, which asks like this",
            may_pass: false,
        }
    }

    /// What a person is told, in words of one node that only audits or of one that enforces.
    pub(crate) fn line(&self, audits: bool) -> String {
        let found: String = self.found.chars().take(FOUND_CHARS).collect();
        let line = format!("{} {}: {found}. Fix: {}", self.verdict.0, self.code, self.fix);
        if audits { format!("AUDIT would be refused: {line}") } else { line }
    }
}
