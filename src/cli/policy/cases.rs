//! The cases of a policy test: what they say, and what they come to.

use std::{collections::BTreeMap, path::Path};

use jiff::Timestamp;
use serde::Deserialize;
use toml::Spanned;

use super::stand_in::StandIns;
use crate::{
    document::{Places, Problem, Problems, read},
    evidence::{Cause, Found, Gap},
    files,
    image::{Digest, Reference},
    limits,
    policy::{
        Policy,
        decision::{Decision, Verdict},
        evaluate::{Answer, Findings, Namespace, Origin, Subject},
    },
    verify::{Seen, verify},
};

/// A file of cases.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    /// When the cases are decided, unless they say so themselves.
    time: Option<Timestamp>,
    case: Vec<Spanned<Table>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Table {
    name: String,
    image: Spanned<String>,
    #[serde(default)]
    signed_by: Vec<Spanned<String>>,
    #[serde(default)]
    evidence: Vec<Spanned<String>>,
    #[serde(default)]
    node: BTreeMap<String, String>,
    namespace: Option<String>,
    service_account: Option<Spanned<String>>,
    time: Option<Timestamp>,
    #[serde(default)]
    claimed: bool,
    #[serde(default)]
    unreachable: bool,
    expect: Expected,
}

/// What a case is to come to. What is left out is not compared.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Expected {
    pub(super) verdict: Verdict,
    pub(super) rule: Option<String>,
    pub(super) code: Option<String>,
}

/// One case, ready to be decided.
pub(super) struct Case {
    pub(super) name: String,
    /// File and line.
    pub(super) at: String,
    pub(super) expected: Expected,
    pub(super) subject: Subject,
    pub(super) labels: BTreeMap<String, String>,
    evidence: Vec<Found>,
    unreachable: bool,
    time: Timestamp,
}

/// A file of recorded evidence, as a node keeps it below `/var/lib/pullgate/evidence-2`.
#[derive(Deserialize)]
struct Recorded {
    evidence: Vec<Piece>,
}

#[derive(Deserialize)]
struct Piece {
    found: Found,
}

/// The cases in `file`, with the signatures of `stand_ins`.
///
/// # Errors
/// Everything that is wrong with it.
pub(super) fn read_cases(file: &Path, policy: &Policy, stand_ins: &StandIns) -> Result<Vec<Case>, Problems> {
    let name = file.display().to_string();
    let text = files::read(file, limits::DOCUMENT_BYTES).map_err(|why| Problems::whole(&name, why))?;
    let File { time, case } = read(&name, &text)?;
    let places = Places::new(&name, &text);
    let mut reader = Cases { file, places, policy, stand_ins, time, problems: Vec::new() };
    let cases: Vec<Case> = case.into_iter().filter_map(|table| reader.case(table)).collect();
    match reader.problems.is_empty() {
        true => Ok(cases),
        false => Err(Problems(reader.problems)),
    }
}

struct Cases<'a> {
    file: &'a Path,
    places: Places<'a>,
    policy: &'a Policy,
    stand_ins: &'a StandIns,
    time: Option<Timestamp>,
    problems: Vec<Problem>,
}

impl Cases<'_> {
    fn case(&mut self, table: Spanned<Table>) -> Option<Case> {
        let span = table.span();
        let line = self.places.line(span.start);
        let table = table.into_inner();
        let before = self.problems.len();
        let reference = self.noted(&table.image, table.image.get_ref().parse::<Reference>());
        let Some(time) = table.time.or(self.time) else {
            let message =
                "when? write `time = \"2026-11-23T12:00:00Z\"` above the first case, so that the test stays the same";
            self.problems.push(self.places.problem(span, message));
            return None;
        };
        let reference = reference?;
        // Where none is named every name has one of its own.
        let digest = reference.digest.unwrap_or_else(|| Digest::of(reference.to_string().as_bytes()));
        let mut evidence = Vec::new();
        for attestor in &table.signed_by {
            let found = self.signature(attestor.get_ref(), &digest);
            evidence.extend(self.noted(attestor, found).unwrap_or_default());
        }
        for recorded in &table.evidence {
            let found = self.recorded(recorded.get_ref());
            evidence.extend(self.noted(recorded, found).unwrap_or_default());
        }
        let namespace = match &table.service_account {
            None => table.namespace.into(),
            Some(account) if table.namespace.is_some() => {
                let message = "a service account says its namespace: leave out `namespace`";
                self.problems.push(self.places.problem(account.span(), message));
                return None;
            }
            Some(account) => Namespace::Of(self.noted(account, account.get_ref().parse())?),
        };
        let origin = if table.claimed { Origin::Claimed } else { Origin::Fetched };
        let subject = Subject::new(digest, Some(reference.repository.clone()), origin)
            .tagged((&reference).into())
            .in_namespace(namespace);
        (self.problems.len() == before).then(|| Case {
            name: table.name,
            at: format!("{}:{line}", self.file.display()),
            expected: table.expect,
            subject,
            labels: table.node,
            evidence,
            unreachable: table.unreachable,
            time,
        })
    }

    fn noted<T, U, E: std::fmt::Display>(&mut self, at: &Spanned<U>, result: Result<T, E>) -> Option<T> {
        result.map_err(|why| self.problems.push(self.places.problem(at.span(), why.to_string()))).ok()
    }

    fn signature(&self, name: &str, digest: &Digest) -> Result<Vec<Found>, String> {
        let at = self.policy.attestors.iter().position(|attestor| attestor.name == name);
        let at = at.ok_or_else(|| format!("no attestor is called `{name}`"))?;
        self.stand_ins.sign(at, &self.policy.attestors[at], digest)
    }

    fn recorded(&self, name: &str) -> Result<Vec<Found>, String> {
        let path = self.file.parent().unwrap_or(Path::new(".")).join(name);
        let text = files::read(&path, limits::EVIDENCE_TOTAL_BYTES)?;
        let recorded: Recorded =
            serde_json::from_str(&text).map_err(|why| format!("not evidence that a node kept: {why}"))?;
        Ok(recorded.evidence.into_iter().map(|piece| piece.found).collect())
    }
}

impl Case {
    /// What `policy` decides, as a gate would.
    pub(super) fn decide(&self, policy: &Policy) -> Decision {
        let governing = match policy.ask(&self.subject, &self.labels, self.time) {
            Answer::Settled(decision) => return decision,
            Answer::NeedsEvidence(governing) => governing,
        };
        let attestors = governing.attestors(policy);
        let (mut findings, seen) = (Findings::default(), Seen::at_first(self.time));
        for finding in self.evidence.iter().flat_map(|found| verify(found, &self.subject.digest, &attestors, seen)) {
            match finding {
                Ok(vouched) => findings.vouched.push(vouched),
                Err(unusable) => findings.unusable.push(unusable),
            }
        }
        if self.unreachable {
            let place = self.subject.name.as_ref().map(|name| name.host.to_string()).unwrap_or_default();
            findings.gaps.push(Gap { place, cause: Cause::Unreachable("the case says so".to_owned()) });
        }
        policy.evaluate(&governing, &self.subject, &findings, self.time)
    }

    /// What of `decision` is not as expected, in words.
    pub(super) fn differs(&self, decision: &Decision) -> Vec<String> {
        let expected = &self.expected;
        let mut differs = Vec::new();
        if expected.verdict != decision.verdict {
            differs.push(format!("expected {}, is {}", expected.verdict.word(), decision.verdict.word()));
        }
        let rule = decision.rule.as_deref().unwrap_or("none");
        if expected.rule.as_ref().is_some_and(|expected| expected != rule) {
            differs.push(format!("expected rule \"{}\", is \"{rule}\"", expected.rule.as_deref().unwrap_or_default()));
        }
        if let Some(expected) = &expected.code {
            let code =
                decision.code().map(|code| format!("{code} {}", code.name())).unwrap_or_else(|| "none".to_owned());
            let is_it = decision
                .code()
                .is_some_and(|code| expected == code.name() || code.to_string() == expected.to_uppercase());
            if !is_it {
                differs.push(format!("expected {expected}, is {code}"));
            }
        }
        differs
    }
}
