//! A pass: what it is about, how long it lasts, and the decision that it makes of a refusal. Pure.
//!
//! It ends by the time since boot or by the wall clock, whichever comes first, so that neither a clock that is set back nor
//! a machine that is started anew makes it longer.

#![deny(clippy::disallowed_methods)]

#[cfg(test)]
pub(super) mod tests;

use std::{fmt, time::Duration};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    image::{Digest, sanitize},
    limits,
    policy::{
        decision::{Decision, Verdict},
        evaluate::Subject,
        scope::Pattern,
    },
};

/// The rule that an admission by break-glass names.
pub const RULE: &str = "break-glass";
/// The label with which a pod breaks the glass, and its value: the one of Binary Authorization.
pub const LABEL: (&str, &str) = ("image-policy.k8s.io/break-glass", "true");

/// What a pass is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// A manifest, or an index with all that it lists.
    Digest(Digest),
    /// What containerd itself fetched from these repositories.
    Images(Pattern),
}

impl Scope {
    /// Reads a digest, or a pattern over repositories.
    ///
    /// # Errors
    /// What is wrong with it, and what to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Ok(digest) = text.parse() {
            return Ok(Self::Digest(digest));
        }
        if let Some((_, digest)) = text.split_once('@') {
            return Err(format!("a digest says it all: write `{}` alone", sanitize(digest, limits::SHOWN_CHARS)));
        }
        let path = text.split_once('/').map_or(text, |(_, path)| path);
        if path.contains(':') {
            return Err(match text.starts_with("sha256:") || text.starts_with("sha512:") {
                true => "not a digest: `sha256:` and 64 digits".to_owned(),
                false => "a tag can point to another image in the next moment: write the digest, or the repository \
                          without the tag"
                    .to_owned(),
            });
        }
        match Pattern::parse(text)? {
            pattern if pattern.is_everything() => {
                Err("`**` would admit every image: write the digest, or name a registry".to_owned())
            }
            pattern => Ok(Self::Images(pattern)),
        }
    }

    /// Whether it is about `subject`. A name counts only where containerd itself proved it.
    pub fn covers(&self, subject: &Subject) -> bool {
        match self {
            Self::Digest(digest) => *digest == subject.digest,
            Self::Images(pattern) => {
                subject.origin.proves_name() && subject.name.as_ref().is_some_and(|name| pattern.matches(name))
            }
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Digest(digest) => digest.fmt(f),
            Self::Images(pattern) => pattern.fmt(f),
        }
    }
}

impl Serialize for Scope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Scope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// Why a pass is made, as it is kept: one line without anything that a terminal obeys.
///
/// # Errors
/// When it says nothing, or more than [`limits::BREAK_GLASS_REASON`] characters.
pub fn reason(text: &str) -> Result<String, String> {
    let text = text.trim();
    match text.chars().count() {
        0 => Err("say why: `--reason` is in every entry that this leads to".to_owned()),
        many if many > limits::BREAK_GLASS_REASON => {
            Err(format!("the reason has {many} characters, more than {}", limits::BREAK_GLASS_REASON))
        }
        _ => Ok(sanitize(text, limits::BREAK_GLASS_REASON)),
    }
}

/// Who asked, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// The user that the process runs as.
    pub uid: u32,
    /// The user who logged in, whoever they became since; none where nobody did, or the kernel does not keep it.
    pub login: Option<u32>,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uid {}", self.uid)?;
        match self.login {
            Some(login) => write!(f, ", logged in as uid {login}"),
            None => Ok(()),
        }
    }
}

/// One moment on one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The time; none when no clock can be trusted.
    pub wall: Option<Timestamp>,
    /// Which boot it is: the kernel invents a name for each.
    pub boot: String,
    /// How long the machine has been up, suspended time included.
    pub up: Duration,
    /// Which machine it is.
    pub machine: Digest,
}

/// How far a pass had come at a moment that was noted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Noted {
    boot: String,
    up_ms: u64,
    left_ms: u64,
}

/// A pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Pass {
    /// The number of the entry that says it was made.
    pub id: String,
    /// What it admits.
    pub scope: Scope,
    /// Why it was made.
    pub reason: String,
    /// Who made it.
    pub who: Who,
    /// When it was made; none when no clock could be trusted.
    pub begins: Option<Timestamp>,
    /// When it ends by the wall clock.
    pub ends: Option<Timestamp>,
    /// How long it was made for, in seconds.
    pub seconds: u64,
    /// In which boot it was made.
    boot: String,
    machine: Digest,
    noted: Noted,
    /// Why it is over; it is kept until the entry is written that says so.
    pub over: Option<Over>,
}

/// Why a pass is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Over {
    /// Its time has passed.
    Time,
    /// It was made while no clock could be trusted, and the machine was started anew.
    Boot,
    /// This is another machine, or a copy of the one that it was made on.
    Machine,
    /// The configuration does not allow passes any more.
    Forbidden,
    /// It could not be written down, and never was in force.
    NotKept,
    /// Somebody ended it.
    By(Who),
}

impl fmt::Display for Over {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time => f.write_str("its time has passed"),
            Self::Boot => f.write_str("made while no clock could be trusted, and the machine was started anew"),
            Self::Machine => f.write_str("this is not the machine that it was made on"),
            Self::Forbidden => f.write_str("the configuration allows none any more"),
            Self::NotKept => f.write_str("it could not be written down, and never was in force"),
            Self::By(who) => write!(f, "ended by {who}"),
        }
    }
}

/// How a pass stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It admits, for so long if nobody ends it.
    InForce(Duration),
    /// It admits nothing until there is a clock that can be trusted, and ends after so long in any case.
    Waiting(Duration),
    /// It admits nothing any more.
    Over(Over),
}

impl Pass {
    /// A pass that begins at `now`. It has no number yet.
    pub fn new(scope: Scope, reason: String, who: Who, length: Duration, now: &Moment) -> Self {
        let after = |begins: Timestamp| {
            let length = SignedDuration::try_from(length).unwrap_or(SignedDuration::MAX);
            begins.checked_add(length).unwrap_or(Timestamp::MAX)
        };
        Self {
            id: String::new(),
            scope,
            reason,
            who,
            begins: now.wall,
            ends: now.wall.map(after),
            seconds: length.as_secs(),
            boot: now.boot.clone(),
            machine: now.machine,
            noted: Noted { boot: now.boot.clone(), up_ms: ms(now.up), left_ms: ms(length) },
            over: None,
        }
    }

    /// How it stands at `now`.
    pub fn standing(&self, now: &Moment) -> Standing {
        if let Some(over) = self.over {
            return Standing::Over(over);
        }
        if self.machine != now.machine {
            return Standing::Over(Over::Machine);
        }
        let Some(left) = self.left(now) else { return Standing::Over(Over::Time) };
        let same_boot = self.boot == now.boot;
        match (self.begins, self.ends, now.wall) {
            (_, Some(ends), Some(wall)) if ends <= wall => Standing::Over(Over::Time),
            (Some(begins), Some(ends), Some(wall)) if same_boot || begins <= wall => {
                let until = ends.duration_since(wall).try_into().unwrap_or(Duration::ZERO);
                Standing::InForce(left.min(until))
            }
            _ if same_boot => Standing::InForce(left),
            (_, None, _) => Standing::Over(Over::Boot),
            // No clock, or one that shows a time before it was made.
            _ => Standing::Waiting(left),
        }
    }

    /// Notes how far it has come at `now`, so that what has passed counts in the next boot as well.
    pub fn note(&mut self, now: &Moment) {
        let left_ms = self.left(now).map_or(0, ms);
        self.noted = Noted { boot: now.boot.clone(), up_ms: ms(now.up), left_ms };
    }

    /// What is left by the time since boot. How long the machine was off is not known, and does not count.
    fn left(&self, now: &Moment) -> Option<Duration> {
        let spent = match self.noted.boot == now.boot {
            true => ms(now.up).checked_sub(self.noted.up_ms)?,
            false => ms(now.up),
        };
        self.noted.left_ms.checked_sub(spent).filter(|left| *left > 0).map(Duration::from_millis)
    }

    /// The pass as a person and a program see it at `now`.
    pub fn shown(&self, now: Option<&Moment>) -> Shown {
        let standing = now.map(|now| self.standing(now));
        let left = match standing {
            Some(Standing::InForce(left) | Standing::Waiting(left)) => left.as_secs(),
            Some(Standing::Over(_)) | None => 0,
        };
        Shown {
            id: self.id.clone(),
            scope: self.scope.to_string(),
            reason: self.reason.clone(),
            who: self.who,
            begins: self.begins,
            ends: self.ends,
            seconds: self.seconds,
            left_seconds: left,
            in_force: matches!(standing, Some(Standing::InForce(_))),
        }
    }

    /// What admits `subject` though the policy comes to `refusal`.
    pub fn admit(&self, subject: &Subject, refusal: Decision) -> Decision {
        let (digest, name) = (subject.digest, subject.name.as_ref().map(ToString::to_string));
        let decision = Decision { digest: Some(digest), name, ..refusal };
        admit(decision, Some(self.id.clone()), self.reason.clone(), self.who.to_string())
    }
}

/// What admits the container of a pod that breaks the glass by its label, though the policy comes to `refusal`.
pub fn admit_by_label(namespace: &str, pod: &str, refusal: Decision) -> Decision {
    let who = sanitize(&format!("pod {namespace}/{pod}"), limits::AUDIT_WORD_CHARS);
    admit(refusal, None, format!("the label {}", LABEL.0), who)
}

fn admit(refusal: Decision, pass: Option<String>, reason: String, who: String) -> Decision {
    let Decision { verdict, rule, .. } = &refusal;
    let glass = Glass { pass, reason, who, otherwise: *verdict, otherwise_rule: rule.clone() };
    Decision {
        verdict: Verdict::Allow,
        rule: Some(RULE.to_owned()),
        rule_at: None,
        contact: None,
        advice: None,
        attestors: Vec::new(),
        valid_until: None,
        glass: Some(Box::new(glass)),
        ..refusal
    }
}

/// By what an image was admitted that the policy does not admit. The violations beside it are what the policy said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Glass {
    /// The pass; none where a pod's label did it.
    pub pass: Option<String>,
    /// Why.
    pub reason: String,
    /// Who made the pass, or which pod has the label.
    pub who: String,
    /// What the policy came to.
    pub otherwise: Verdict,
    /// The rule by which it did.
    pub otherwise_rule: Option<String>,
}

impl Glass {
    /// What the policy said, of the decision `decision` that this is a part of.
    pub fn refusal(&self, decision: &Decision) -> Decision {
        Decision { verdict: self.otherwise, rule: self.otherwise_rule.clone(), glass: None, ..decision.clone() }
    }
}

/// A pass as it is listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Shown {
    /// Its number.
    pub id: String,
    /// The digest or pattern.
    pub scope: String,
    /// Why it was made.
    pub reason: String,
    /// Who made it.
    pub who: Who,
    /// When it was made; none when no clock could be trusted.
    pub begins: Option<Timestamp>,
    /// When it ends by the wall clock; it may end before by the time since boot.
    pub ends: Option<Timestamp>,
    /// How long it was made for.
    pub seconds: u64,
    /// How long it has left.
    pub left_seconds: u64,
    /// Whether it admits now. If not, it waits for a clock that can be trusted.
    pub in_force: bool,
}

/// What there is to say about break-glass on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Report {
    /// The passes that are not over.
    pub passes: Vec<Shown>,
    /// What is wrong with those that were kept.
    pub trouble: Option<String>,
}

impl Report {
    /// A few words for a line of status; none when there is nothing to say.
    pub fn words(&self) -> Option<String> {
        match (self.passes.len(), &self.trouble) {
            (0, None) => None,
            (0, Some(trouble)) => Some(trouble.clone()),
            (1, _) => Some("BREAK-GLASS: 1 pass in force".to_owned()),
            (many, _) => Some(format!("BREAK-GLASS: {many} passes in force")),
        }
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
