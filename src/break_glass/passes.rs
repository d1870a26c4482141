//! The passes of this node: in memory to be asked, on disk to outlive a restart, in the audit before anybody relies on one.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Mutex as AsyncMutex, watch},
    time::sleep,
};

use super::{Moment, Over, Pass, Report, Scope, Shown, Standing, Who, machine, reason};
use crate::{
    activation::Activation,
    audit::{Journal, Record},
    clock::Clock,
    config::BreakGlass,
    files, limits,
    policy::evaluate::Subject,
};

const FILE: &str = "break-glass.json";
const SCHEMA: u32 = 1;

/// The passes of this node.
pub struct Passes {
    /// Where they are kept; none keeps nothing, and then none can be made.
    file: Option<PathBuf>,
    now: Box<dyn Fn() -> Result<Moment, String> + Send + Sync>,
    held: Mutex<Held>,
    /// Whoever makes or ends one has this.
    changing: AsyncMutex<()>,
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct Held {
    passes: Vec<Pass>,
    /// Why what was kept cannot be used.
    trouble: Option<String>,
    trouble_is_told: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    schema: u32,
    passes: Vec<Pass>,
}

/// Why there is no pass, or it was not ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It was asked for wrongly.
    #[error("{0}")]
    Usage(String),
    /// It could not be done.
    #[error("{0}")]
    Trouble(String),
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// A digest or a pattern.
    pub scope: &'a str,
    /// For how long.
    pub length: Duration,
    /// Why.
    pub reason: &'a str,
    /// Who asks.
    pub who: Who,
}

impl Passes {
    /// No passes, and none can be made: for whoever is not the daemon.
    pub fn none() -> Self {
        Self::of(None, || Err("there are no passes here".to_owned()))
    }

    /// The passes that the directory `state` keeps, by the time of `clock`.
    pub fn open(state: &Path, clock: Arc<Clock>) -> Self {
        Self::of(Some(state), move || machine::moment(&clock))
    }

    pub(crate) fn of(state: Option<&Path>, now: impl Fn() -> Result<Moment, String> + Send + Sync + 'static) -> Self {
        let file = state.map(|state| state.join(FILE));
        let held = file.as_deref().map(read).unwrap_or_default();
        Self {
            file,
            now: Box::new(now),
            held: Mutex::new(held),
            changing: AsyncMutex::new(()),
            changes: watch::Sender::new(0),
        }
    }

    /// The first of `subjects` that a pass is about which is in force now, and that pass.
    pub fn covering(&self, config: &BreakGlass, subjects: &[Subject]) -> Option<(Pass, Subject)> {
        let held = self.held();
        if held.passes.is_empty() || config.longest.is_zero() {
            return None;
        }
        let now = (self.now)().ok()?;
        let in_force = |pass: &&Pass| matches!(pass.standing(&now), Standing::InForce(_));
        held.passes.iter().filter(in_force).find_map(|pass| {
            let subject = subjects.iter().find(|subject| pass.scope.covers(subject))?;
            Some((pass.clone(), subject.clone()))
        })
    }

    /// Whether the pass `id` is in force now.
    pub fn admits(&self, id: &str) -> bool {
        let Ok(now) = (self.now)() else { return false };
        let in_force = |pass: &Pass| pass.id == id && matches!(pass.standing(&now), Standing::InForce(_));
        self.held().passes.iter().any(in_force)
    }

    /// Whether there is none that could be in force.
    pub fn is_empty(&self) -> bool {
        self.held().passes.is_empty()
    }

    /// What there is to say about them.
    pub fn report(&self) -> Report {
        let now = (self.now)();
        let held = self.held();
        let passes = held.passes.iter().filter(|pass| match &now {
            Ok(now) => !matches!(pass.standing(now), Standing::Over(_)),
            Err(_) => true,
        });
        let trouble = now.as_ref().err().filter(|_| !held.passes.is_empty());
        Report {
            passes: passes.map(|pass| pass.shown(now.as_ref().ok())).collect(),
            trouble: held.trouble.clone().or_else(|| trouble.map(|why| format!("no pass is in force: {why}"))),
        }
    }

    /// A number that changes whenever one is made or is over.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Makes a pass: checks, writes the entry, keeps it on disk, and only then lets it be in force. `file` is the
    /// configuration, which says how long one may be.
    ///
    /// # Errors
    /// When it is asked for wrongly, or cannot be recorded or kept: then there is none.
    pub async fn make(
        &self,
        wanted: Wanted<'_>,
        config: &BreakGlass,
        file: &Path,
        journal: &Journal,
    ) -> Result<Shown, Refused> {
        let _one = self.changing.lock().await;
        let now = (self.now)().map_err(|why| Refused::Trouble(format!("it could not be told when it ends: {why}")))?;
        let mut pass = self.checked(wanted, config, file, &now)?;
        self.tell_trouble(journal).await;
        let record = |id: &crate::audit::Id| Record::break_glass_made(&id.to_string(), &pass);
        let id = journal.write(record).await;
        let id = id.map_err(|error| Refused::Trouble(format!("no entry could be written about it: {error}")))?;
        pass.id = id.to_string();
        let shown = pass.shown(Some(&now));
        let all: Vec<Pass> = self.held().passes.iter().cloned().chain([pass.clone()]).collect();
        if let Err(why) = self.keep(&all) {
            pass.over = Some(Over::NotKept);
            say_over(journal, &pass, Over::NotKept).await;
            return Err(Refused::Trouble(why));
        }
        self.held().passes = all;
        self.changed();
        Ok(shown)
    }

    fn checked(&self, wanted: Wanted<'_>, config: &BreakGlass, file: &Path, now: &Moment) -> Result<Pass, Refused> {
        let usage = |why: String| Err(Refused::Usage(why));
        let scope = Scope::parse(wanted.scope).map_err(Refused::Usage)?;
        let reason = reason(wanted.reason).map_err(Refused::Usage)?;
        let file = file.display();
        if config.longest.is_zero() {
            return usage(format!("{file} forbids break-glass: `longest-minutes` in [break-glass] is 0"));
        }
        if wanted.length > config.longest {
            let most = config.longest.as_secs() / 60;
            return usage(format!("{file} allows {most} min at most: `longest-minutes` in [break-glass]"));
        }
        if wanted.length < Duration::from_secs(1) {
            return usage("for how long? `--for` takes a time such as 30m or 4h".to_owned());
        }
        let held = self.held();
        let is_over = |pass: &Pass| matches!(pass.standing(now), Standing::Over(_));
        if let Some(same) = held.passes.iter().find(|pass| pass.scope == scope && !is_over(pass)) {
            let id = &same.id;
            return usage(format!("pass {id} is about that already; end it first: pullgate break-glass end {id}"));
        }
        // Those that are over and not yet recorded as such count as well.
        if held.passes.len() >= limits::BREAK_GLASS {
            return usage(format!("there are {} passes, and no more can be: end one", held.passes.len()));
        }
        if self.file.is_none() {
            return Err(Refused::Trouble("there is no state directory to keep it in".to_owned()));
        }
        Ok(Pass::new(scope, reason, wanted.who, wanted.length, now))
    }

    /// Ends the pass `id`. From now on it admits nothing, also where that could not be written down.
    ///
    /// # Errors
    /// When there is no such pass, or what was done could not be recorded or kept.
    pub async fn end(&self, id: &str, who: Who, journal: &Journal) -> Result<Shown, Refused> {
        let _one = self.changing.lock().await;
        let now = (self.now)();
        let (ended, all) = {
            let mut held = self.held();
            let mut ended = None;
            for pass in held.passes.iter_mut().filter(|pass| pass.id == id && pass.over.is_none()) {
                ended = Some(pass.shown(now.as_ref().ok()));
                pass.over = Some(Over::By(who));
            }
            (ended, held.passes.clone())
        };
        let Some(ended) = ended else { return Err(Refused::Usage(format!("there is no pass {id}"))) };
        self.changed();
        let kept = self.keep(&all);
        let told = self.tell_over(journal).await;
        let trouble = |why| Refused::Trouble(format!("it is over, but {why}"));
        kept.and(told).map(|()| ended).map_err(trouble)
    }

    /// Writes down what is over, and how far the others have come, until the end of the daemon.
    pub async fn mind(&self, activation: &Activation, journal: &Journal) {
        let mut changes = self.changes();
        let mut snapshots = activation.subscribe();
        loop {
            changes.mark_unchanged();
            let snapshot = snapshots.borrow_and_update().clone();
            let forbidden = snapshot.is_some_and(|snapshot| snapshot.config.break_glass.longest.is_zero());
            let next = self.settle(forbidden, journal).await;
            let ended = tokio::select! {
                () = sleep(next.unwrap_or_default()), if next.is_some() => false,
                changed = changes.changed() => changed.is_err(),
                changed = snapshots.changed() => changed.is_err(),
            };
            if ended {
                return;
            }
        }
    }

    /// Writes down what is over and how far the others have come. When to do it again; none when there is no pass.
    pub(super) async fn settle(&self, forbidden: bool, journal: &Journal) -> Option<Duration> {
        let _one = self.changing.lock().await;
        self.tell_trouble(journal).await;
        if self.is_empty() {
            return None;
        }
        let now = match (self.now)() {
            Ok(now) => now,
            Err(why) => {
                tracing::error!("no pass of break-glass is in force: {why}");
                return Some(limits::BREAK_GLASS_NOTED);
            }
        };
        let (all, news) = self.held().note(&now, forbidden);
        if news {
            self.changed();
        }
        // What is seen to be over stays over, whatever the clocks show later.
        if let Err(why) = self.keep(&all) {
            tracing::error!("break-glass: {why}");
        }
        if let Err(why) = self.tell_over(journal).await {
            tracing::error!("break-glass: {why}");
        }
        self.held().next(&now)
    }

    /// Writes the entries of what is over, and forgets it.
    async fn tell_over(&self, journal: &Journal) -> Result<(), String> {
        let over: Vec<(Pass, Over)> =
            self.held().passes.iter().filter_map(|pass| Some((pass.clone(), pass.over?))).collect();
        if over.is_empty() {
            return Ok(());
        }
        for (pass, why) in over {
            if !say_over(journal, &pass, why).await {
                return Err("no entry could be written about it; that is tried again".to_owned());
            }
            self.held().passes.retain(|other| *other != pass);
        }
        let all = self.held().passes.clone();
        self.keep(&all)
    }

    /// Raises the alarm about a file that cannot be used, and puts it out of the way.
    async fn tell_trouble(&self, journal: &Journal) {
        let untold = {
            let held = self.held();
            held.trouble.clone().filter(|_| !held.trouble_is_told)
        };
        let (Some(trouble), Some(file)) = (untold, &self.file) else { return };
        tracing::error!("{trouble}");
        if let Err(error) = journal.write(|_| Record::break_glass_unreadable(&trouble)).await {
            return tracing::error!("an audit entry was not written: {error}");
        }
        self.held().trouble_is_told = true;
        if let Err(error) = files::set_aside(file) {
            tracing::error!("{} stays where it is: {error}", file.display());
        }
    }

    fn keep(&self, passes: &[Pass]) -> Result<(), String> {
        let Some(file) = &self.file else { return Ok(()) };
        let told = |why: String| format!("{} could not be written: {why}", file.display());
        let kept = Kept { schema: SCHEMA, passes: passes.to_vec() };
        let bytes = serde_json::to_vec(&kept).map_err(|error| told(error.to_string()))?;
        files::replace(file, &bytes).map_err(|error| told(error.to_string()))
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Notes at `now` what is over, and how far the others have come. All of them, and whether any is over now.
    fn note(&mut self, now: &Moment, forbidden: bool) -> (Vec<Pass>, bool) {
        let mut news = false;
        for pass in self.passes.iter_mut().filter(|pass| pass.over.is_none()) {
            pass.over = match pass.standing(now) {
                Standing::Over(over) => Some(over),
                _ if forbidden => Some(Over::Forbidden),
                Standing::InForce(_) | Standing::Waiting(_) => None,
            };
            news |= pass.over.is_some();
            pass.note(now);
        }
        (self.passes.clone(), news)
    }

    /// When the next one may be over, or is to be noted.
    fn next(&self, now: &Moment) -> Option<Duration> {
        let left = self.passes.iter().map(|pass| match pass.standing(now) {
            // Not a moment before.
            Standing::InForce(left) | Standing::Waiting(left) => left + Duration::from_millis(1),
            Standing::Over(_) => limits::BREAK_GLASS_NOTED,
        });
        left.min().map(|left| left.min(limits::BREAK_GLASS_NOTED))
    }
}

/// What `file` keeps. What cannot be read admits nobody.
fn read(file: &Path) -> Held {
    if file.symlink_metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
        return Held::default();
    }
    let kept = files::read_trusted(file, limits::BREAK_GLASS_BYTES).and_then(|text| {
        let kept: Kept = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        match (kept.schema, kept.passes.len()) {
            (SCHEMA, 0..=limits::BREAK_GLASS) => Ok(kept.passes),
            (SCHEMA, many) => Err(format!("{many} passes, more than {}", limits::BREAK_GLASS)),
            (other, _) => Err(format!("it has schema {other}, not {SCHEMA}")),
        }
    });
    match kept {
        Ok(passes) => Held { passes, ..Held::default() },
        Err(why) => {
            let trouble = format!("{} cannot be used ({why}): no pass that it kept is in force", file.display());
            Held { trouble: Some(trouble), ..Held::default() }
        }
    }
}

async fn say_over(journal: &Journal, pass: &Pass, over: Over) -> bool {
    let written = journal.write(|_| Record::break_glass_over(pass, over)).await;
    if let Err(error) = &written {
        tracing::error!("an audit entry was not written: {error}");
    }
    written.is_ok()
}

#[cfg(test)]
mod tests;
