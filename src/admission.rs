//! The product on one page: from a request to its decision.
//!
//! The boot list comes first, since a node must always boot. Then, for each digest and name that the request could be
//! about, the policy either settles it or says which evidence would; that is gathered, verified and evaluated, unless a
//! decision still holds. What this node has is looked at before anybody is asked. One subject that is admitted
//! admits the request; what the policy does not admit, or cannot tell, a pass of break-glass may.

mod private;

use std::{collections::HashSet, sync::Arc};

use jiff::Timestamp;
use tokio::task::JoinSet;

use self::private::Private;
use crate::{
    break_glass::Passes,
    clock::Clock,
    decisions::{Asking, Decisions, Key},
    evidence::{
        Found, Gap, Place,
        kept::Kept,
        sources::{Sources, Wanted},
    },
    limits,
    policy::{
        Policy,
        decision::{Decision, Verdict, Violation},
        evaluate::{Answer, Findings, Origin, Subject},
        governing::Governing,
    },
    selftest::OneTime,
    snapshot::Snapshot,
    trust::Attestor,
    verify::{Seen, Unusable, verify},
};

/// Pieces of evidence that are looked at again to say who signed, when nobody did whom the rule names.
const EXPLAINED: usize = 8;
/// Gaps that one decision tells about.
const GAPS: usize = 16;

/// Decides about requests.
pub struct Admission {
    decisions: Decisions,
    sources: Sources,
    clock: Arc<Clock>,
    one_time: OneTime,
    passes: Arc<Passes>,
    private: Private,
}

impl Admission {
    /// Decides by the time of `clock`, and remembers evidence in `kept`.
    pub fn new(clock: Arc<Clock>, kept: Kept) -> Self {
        Self::with_sources(clock, Sources::new(kept))
    }

    /// Decides by the time of `clock`, by evidence from `sources`, and remembers it there.
    pub fn with_sources(clock: Arc<Clock>, sources: Sources) -> Self {
        let (one_time, passes) = (OneTime::default(), Arc::new(Passes::none()));
        let (decisions, private) = (Decisions::default(), Private::default());
        Self { decisions, sources, clock, one_time, passes, private }
    }

    /// As well by `passes` of break-glass.
    #[must_use]
    pub fn with_passes(self, passes: Arc<Passes>) -> Self {
        Self { passes, ..self }
    }

    /// The images of the self-test. Each gate looks here first: no policy is about them, and each gate has its own answer.
    pub fn one_time(&self) -> &OneTime {
        &self.one_time
    }

    /// The passes of break-glass, which admit what the policy does not.
    pub fn passes(&self) -> &Passes {
        &self.passes
    }

    /// The time by which it decides; none where the clock is not set.
    pub fn now(&self) -> Option<Timestamp> {
        self.clock.now().ok()
    }

    /// How many decisions are remembered.
    pub fn remembered(&self) -> u64 {
        self.decisions.len()
    }

    /// Images that could not be judged of late because their registry wants credentials.
    pub fn unauthorized(&self) -> usize {
        self.private.count()
    }

    /// Decides about a request that is about any of `subjects`: the digests and names of one image.
    pub async fn decide(
        self: &Arc<Self>,
        snapshot: &Arc<Snapshot>,
        subjects: Vec<Subject>,
        asking: Asking,
    ) -> Decision {
        if let Some(subject) = subjects.iter().find(|subject| snapshot.boot.contains(&subject.digest)) {
            return boot_listed(snapshot, subject);
        }
        let covering = || self.passes.covering(&snapshot.config.break_glass, &subjects);
        // With a pass in hand nobody waits for a registry.
        let asking = if covering().is_some() { Asking::Offline } else { asking };
        let decision = self.by_policy(snapshot, subjects.clone(), asking).await;
        if let Some(digest) = decision.digest {
            self.private.note(digest, &decision);
        }
        let is_admitted = decision.verdict == Verdict::Allow || decision.audit_only;
        match covering().filter(|_| !is_admitted) {
            Some((pass, subject)) => pass.admit(&subject, decision),
            None => decision,
        }
    }

    /// What the policy says of any of `subjects`.
    async fn by_policy(self: &Arc<Self>, snapshot: &Arc<Snapshot>, subjects: Vec<Subject>, asking: Asking) -> Decision {
        let Some(policy) = &snapshot.policy else {
            return refused_unseen(&subjects, snapshot.no_policy());
        };
        let now = match self.clock.now() {
            Ok(now) => now,
            Err(not_set) => return refused_unseen(&subjects, not_set.into()),
        };
        let mut waiting = in_order(snapshot, policy, subjects).into_iter().enumerate();
        let mut deciding = JoinSet::new();
        let mut refusal: Option<(usize, Decision)> = None;
        loop {
            while deciding.len() < limits::PARALLEL_SUBJECTS
                && let Some((place, subject)) = waiting.next()
            {
                let (admission, snapshot, policy) = (self.clone(), snapshot.clone(), policy.clone());
                deciding.spawn(async move {
                    (place, admission.decide_subject(&snapshot, &policy, subject, asking, now).await)
                });
            }
            let Some(decided) = deciding.join_next().await else { break };
            let Ok((place, decision)) = decided else { continue };
            if decision.verdict == Verdict::Allow {
                return decision;
            }
            // Of equals the one that was asked about first is told, whichever was decided first.
            let better = |(at, other): &(usize, Decision)| {
                decision.tells_more(other) || place < *at && !other.tells_more(&decision)
            };
            if refusal.as_ref().is_none_or(better) {
                refusal = Some((place, decision));
            }
        }
        refusal.map(|(_, decision)| decision).unwrap_or_default()
    }

    async fn decide_subject(
        &self,
        snapshot: &Snapshot,
        policy: &Policy,
        subject: Subject,
        asking: Asking,
        now: Timestamp,
    ) -> Decision {
        let governing = match policy.ask(&subject, &snapshot.config.labels, now) {
            Answer::Settled(decision) => return decision,
            Answer::NeedsEvidence(governing) => governing,
        };
        let place = subject.name.clone().map(|repository| Place { repository, proven: subject.origin.proves_host() });
        let key = Key { digest: subject.digest, rule: governing.identity(&subject, now), place: place.clone() };
        let decide = async {
            let mut gathered = Gathered::new(policy, &governing, &subject, now);
            self.gather(snapshot, &mut gathered, place.as_ref(), asking).await;
            let decision = policy.evaluate(&governing, &subject, &gathered.findings, now);
            if decision.verdict == Verdict::Allow {
                self.sources.kept().keep(subject.digest, gathered.vouching, now);
            }
            decision
        };
        let decided = self.decisions.get_or(key, asking, now, decide).await;
        policy.restate(decided, &governing, &subject, now)
    }

    /// Looks for evidence until what governs is satisfied or everything was asked.
    async fn gather(&self, snapshot: &Snapshot, gathered: &mut Gathered<'_>, place: Option<&Place>, asking: Asking) {
        let formats = gathered.governing.formats(gathered.policy);
        let offline = asking == Asking::Offline;
        let wanted = Wanted { digest: gathered.subject.digest, place, formats, offline };
        let elsewhere = snapshot.config.evidence_for(place.map(|place| &place.repository));
        let mut search = self.sources.search(&snapshot.registry, wanted, elsewhere);
        let mut satisfied = false;
        while !satisfied && let Some(item) = search.next().await {
            match item {
                Ok((found, first_seen)) => satisfied = gathered.take(found, first_seen),
                Err(gap) => gathered.gap(gap),
            }
        }
        gathered.findings.asked = search.asked();
        if !satisfied {
            gathered.name_other_signers();
        }
    }
}

/// The evidence about one subject under one rule, as it comes in.
struct Gathered<'a> {
    policy: &'a Policy,
    governing: &'a Governing<'a>,
    /// Whom its rules name.
    attestors: Vec<&'a Attestor>,
    subject: &'a Subject,
    findings: Findings,
    /// What vouches: what anybody else may push is not worth keeping.
    vouching: Vec<Found>,
    /// Some of the rest.
    unexplained: Vec<Found>,
    now: Timestamp,
}

impl<'a> Gathered<'a> {
    fn new(policy: &'a Policy, governing: &'a Governing<'a>, subject: &'a Subject, now: Timestamp) -> Self {
        let attestors = governing.attestors(policy);
        let (findings, vouching, unexplained) = (Findings::default(), Vec::new(), Vec::new());
        Self { policy, governing, attestors, subject, findings, vouching, unexplained, now }
    }

    /// Adds `found`, which this node saw at `first` before, if it did. Whether the rule is satisfied now.
    fn take(&mut self, found: Found, first: Option<Timestamp>) -> bool {
        let mut vouches = false;
        for finding in verify(&found, &self.subject.digest, &self.attestors, Seen { now: self.now, first }) {
            match finding {
                Ok(vouched) => {
                    vouches = true;
                    self.findings.vouched.push(vouched);
                }
                Err(unusable) => self.findings.unusable.push(unusable),
            }
        }
        let (held, most, bytes) = match vouches {
            true => (&mut self.vouching, limits::KEPT_PIECES, limits::KEPT_IMAGE_BYTES),
            false => (&mut self.unexplained, EXPLAINED, limits::SMALL_EVIDENCE_BYTES),
        };
        // Not as much as whoever may push likes: it is held until every source was asked.
        if held.len() < most && found.bytes() + held.iter().map(Found::bytes).sum::<u64>() <= bytes {
            held.push(found);
        }
        vouches && self.policy.satisfied(self.governing, self.subject, &self.findings.vouched)
    }

    fn gap(&mut self, gap: Gap) {
        if self.findings.gaps.len() < GAPS {
            self.findings.gaps.push(gap);
        }
    }

    /// Says which attestors of the policy, other than those that are asked for, signed what was found.
    fn name_other_signers(&mut self) {
        let is_required = |name: &str| self.attestors.iter().any(|attestor| attestor.name == name);
        let others: Vec<_> = self.policy.attestors.iter().filter(|other| !is_required(&other.name)).collect();
        let again = |found: &Found| verify(found, &self.subject.digest, &others, Seen::at_first(self.now));
        for finding in self.unexplained.iter().chain(&self.vouching).flat_map(again) {
            let name = match finding {
                Ok(vouched) => vouched.attestor().to_owned(),
                Err(Unusable::OtherPurpose(attestor, _) | Unusable::OtherAnnotations(attestor)) => attestor,
                Err(_) => continue,
            };
            if !self.findings.others.contains(&name) {
                self.findings.others.push(name);
            }
        }
    }
}

/// Each of `subjects` once: first those that the policy speaks of, and of these first those that containerd vouches for.
/// So whoever makes an index that lists another's manifest under many names neither hides the right name nor delays it.
fn in_order(snapshot: &Snapshot, policy: &Policy, subjects: Vec<Subject>) -> Vec<Subject> {
    let mut seen = HashSet::new();
    let mut subjects: Vec<Subject> = subjects.into_iter().filter(|subject| seen.insert(subject.clone())).collect();
    subjects.sort_by_cached_key(|subject| {
        let exempt = policy.exempts(&subject.digest);
        let by_default = || !policy.speaks_of(subject, &snapshot.config.labels);
        (!exempt, !exempt && by_default(), subject.origin == Origin::Claimed)
    });
    subjects.truncate(limits::SUBJECTS);
    subjects
}

/// The refusal of a request that nobody looked at.
fn refused_unseen(subjects: &[Subject], violation: Violation) -> Decision {
    let first = subjects.first();
    Decision {
        digest: first.map(|subject| subject.digest),
        name: first.and_then(|subject| subject.name.as_ref()).map(ToString::to_string),
        ..Decision::refused(violation)
    }
}

fn boot_listed(snapshot: &Snapshot, subject: &Subject) -> Decision {
    Decision {
        verdict: Verdict::Allow,
        rule: Some("boot-list".to_owned()),
        digest: Some(subject.digest),
        name: subject.name.as_ref().map(ToString::to_string),
        revision: snapshot.revision().to_owned(),
        ..Decision::default()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{config::Config, image::Digest, policy::decision::Code};

    fn snapshot(policy: &str) -> Arc<Snapshot> {
        let config = Config::parse(Path::new("/etc/pullgate/config.toml"), "mode = \"enforce\"").unwrap();
        let policy = Policy::parse("policy.toml", policy, &|_| Err("no file".into())).unwrap();
        Arc::new(Snapshot::new(config, Some(policy)))
    }

    fn admission() -> Arc<Admission> {
        Arc::new(Admission::new(Arc::new(Clock::unkept()), Kept::default()))
    }

    fn subject(digest: &[u8], name: &str, origin: Origin) -> Subject {
        Subject::new(Digest::of(digest), Some(name.parse().unwrap()), origin)
    }

    #[tokio::test]
    async fn of_refusals_alike_the_first_subject_is_told() {
        let snapshot = snapshot("schema = 1\n[default]\nrequire = \"deny\"");
        let admission = admission();
        let subjects: Vec<Subject> = (0..40u8).map(|i| subject(&[i], "reg.io/archive/x", Origin::Claimed)).collect();
        for _ in 0..20 {
            let decision = admission.decide(&snapshot, subjects.clone(), Asking::Usual).await;
            assert_eq!(decision.digest, Some(subjects[0].digest));
        }
    }

    /// Root made a pass on a machine that never was off.
    async fn with_pass(scope: &str) -> (tempfile::TempDir, Arc<Admission>, Arc<std::sync::Mutex<u64>>) {
        use crate::{
            audit::Journal,
            break_glass::{Moment, Who, passes::Wanted},
        };
        let folder = tempfile::tempdir().unwrap();
        let up = Arc::new(std::sync::Mutex::new(100));
        let now = up.clone();
        let passes = Passes::of(Some(folder.path()), move || {
            let up = std::time::Duration::from_secs(*now.lock().unwrap());
            Ok(Moment { wall: None, boot: "one".to_owned(), up, machine: Digest::of(b"machine") })
        });
        let _journald = std::os::unix::net::UnixDatagram::bind(folder.path().join("journal")).unwrap();
        let journal = Journal::open(&folder.path().join("journal"), &folder.path().join("numbers"));
        let (length, who) = (std::time::Duration::from_secs(60), Who { uid: 0, login: None });
        let wanted = Wanted { scope, length, reason: "why", who };
        passes.make(wanted, &Default::default(), Path::new("config.toml"), &journal).await.unwrap();
        let admission = Admission::new(Arc::new(Clock::unkept()), Kept::default()).with_passes(Arc::new(passes));
        (folder, Arc::new(admission), up)
    }

    #[tokio::test]
    async fn a_pass_admits_what_the_policy_does_not_and_is_looked_at_anew_each_time() {
        let snapshot = snapshot("schema = 1\n[default]\nrequire = \"deny\"");
        let (_folder, admission, up) = with_pass(&Digest::of(b"image").to_string()).await;
        let [other, image] = [b"other", b"image"].map(|digest| subject(digest, "reg.io/x", Origin::Claimed));
        let both = || vec![other.clone(), image.clone()];
        for _ in 0..2 {
            let decision = admission.decide(&snapshot, both(), Asking::Usual).await;
            assert_eq!((decision.verdict, decision.rule.as_deref()), (Verdict::Allow, Some("break-glass")));
            assert_eq!((decision.digest, decision.code()), (Some(image.digest), Some(Code::NoMatchingRule)));
            assert_eq!(decision.glass.unwrap().otherwise, Verdict::Deny);
        }
        assert_eq!(admission.decide(&snapshot, vec![other.clone()], Asking::Usual).await.verdict, Verdict::Deny);
        *up.lock().unwrap() = 160;
        let decision = admission.decide(&snapshot, both(), Asking::Usual).await;
        assert_eq!((decision.verdict, decision.glass), (Verdict::Deny, None));
    }

    #[tokio::test]
    async fn a_pass_is_for_when_there_is_no_policy_or_no_clock_and_not_for_what_is_admitted_anyway() {
        let accepting = snapshot(
            "schema = 1\n[[rule]]\nname = \"open\"\nimages = [\"reg.io/open/**\"]\nrequire = \"insecure-accept-anything\"\n\
             [[rule]]\nname = \"audited\"\nimages = [\"reg.io/audited/**\"]\nrequire = \"deny\"\nmode = \"audit\"\n\
             [default]\nrequire = \"deny\"",
        );
        let (_folder, admission, _) = with_pass("reg.io/**").await;
        let ask = async |admission: &Arc<Admission>, snapshot, name: &str, origin| {
            admission.decide(snapshot, vec![subject(b"image", name, origin)], Asking::Usual).await
        };
        let open = ask(&admission, &accepting, "reg.io/open/x", Origin::Fetched).await;
        assert_eq!((open.verdict, open.rule.as_deref(), open.glass), (Verdict::Allow, Some("open"), None));
        let audited = ask(&admission, &accepting, "reg.io/audited/x", Origin::Fetched).await;
        assert_eq!((audited.verdict, audited.audit_only, audited.glass), (Verdict::Deny, true, None));
        let broken = Arc::new(Snapshot { policy: None, ..Snapshot::clone(&accepting) });
        let without = ask(&admission, &broken, "reg.io/x", Origin::Fetched).await;
        assert_eq!((without.verdict, without.code()), (Verdict::Allow, Some(Code::PolicyInvalid)));
        // An archive chooses its own names.
        for snapshot in [&accepting, &broken] {
            assert_eq!(ask(&admission, snapshot, "reg.io/x", Origin::Claimed).await.verdict, Verdict::Deny);
        }
        let unset = Arc::new(Clock::of(|| Timestamp::UNIX_EPOCH, None));
        let unset = Arc::new(Admission::new(unset, Kept::default()).with_passes(admission.passes.clone()));
        let decision = ask(&unset, &accepting, "reg.io/x", Origin::Fetched).await;
        assert_eq!((decision.verdict, decision.code()), (Verdict::Allow, Some(Code::ClockNotSet)));
    }

    #[test]
    fn of_evidence_that_was_looked_at_a_little_is_held() {
        let snapshot = snapshot(&format!(
            "schema = 1\n[[attestor]]\nname = \"a\"\nmay-sign = [\"signature\"]\nkeys = [{{ pem = '''{}''', \
             algorithm = \"ecdsa-p256-sha256\" }}]\n[default]\nrequire = {{ all = [\"a\"] }}",
            crate::trust::testing::pem(&crate::trust::testing::key())
        ));
        let (policy, subject) = (snapshot.policy.as_ref().unwrap(), subject(b"image", "reg.io/x", Origin::Fetched));
        let now = Timestamp::now();
        let Answer::NeedsEvidence(governing) = policy.ask(&subject, &Default::default(), now) else { panic!() };
        let mut gathered = Gathered::new(policy, &governing, &subject, now);
        for size in [1 << 20, 200 << 10, 100 << 10, 50 << 10] {
            let material = crate::evidence::Material::Bundle(vec![b' '; size]);
            assert!(!gathered.take(Found { material, place: String::new() }, None));
        }
        let held: Vec<u64> = gathered.unexplained.iter().map(Found::bytes).collect();
        assert_eq!(held, [200 << 10, 50 << 10]);
        assert_eq!(gathered.findings.unusable.len(), 4);
    }

    #[test]
    fn the_subjects_of_one_request_are_bounded() {
        let snapshot = snapshot("schema = 1\n[default]\nrequire = \"deny\"");
        let policy = snapshot.policy.clone().unwrap();
        let subjects = |count: usize| {
            let of = |i: usize| subject(&i.to_le_bytes(), "reg.io/x", Origin::Claimed);
            in_order(&snapshot, &policy, (0..count).map(of).collect()).len()
        };
        assert_eq!(subjects(limits::SUBJECTS), limits::SUBJECTS);
        assert_eq!(subjects(10 * limits::SUBJECTS), limits::SUBJECTS);
    }

    #[tokio::test]
    async fn names_that_others_invent_do_not_crowd_out_the_right_one() {
        let snapshot = snapshot(&format!(
            "schema = 1\n[[rule]]\nname = \"open\"\nimages = [\"reg.io/open/**\"]\nrequire = \"insecure-accept-anything\"\n\
             [[exempt]]\nname = \"agents\"\ndigests = [\"{}\"]\n[default]\nrequire = \"deny\"",
            Digest::of(b"agent")
        ));
        let admission = admission();
        let invented = |i: usize| {
            [
                subject(b"index", &format!("reg.io/open/a{i}"), Origin::Claimed),
                subject(b"image", &format!("a.evil.example/a{i}"), Origin::Fetched),
                subject(b"image", &format!("a.evil.example/a{i}"), Origin::Claimed),
            ]
        };
        let invented: Vec<Subject> = (0..limits::SUBJECTS).flat_map(invented).collect();
        for right in
            [subject(b"image", "reg.io/open/x", Origin::Fetched), subject(b"agent", "z.example/agent", Origin::Claimed)]
        {
            let subjects = invented.iter().cloned().chain([right.clone()]).collect();
            let decision = admission.decide(&snapshot, subjects, Asking::Usual).await;
            assert_eq!((decision.verdict, decision.digest), (Verdict::Allow, Some(right.digest)));
        }
        assert_eq!(admission.decide(&snapshot, invented, Asking::Usual).await.verdict, Verdict::Deny);
    }
}
