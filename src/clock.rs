//! The time that decisions are made at. It never goes back.
//!
//! A node whose clock was set back would believe in keys, audit periods and decisions that have ended. So the time is the
//! later of the system clock and the newest time that was seen, which goes on with the clock that runs from boot on and
//! survives a restart in a file. Before anything was seen there is the time of the build: a clock before that is wrong.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use nix::time::{ClockId, clock_gettime};

use crate::{
    files, limits,
    policy::decision::{Code, Violation},
};

/// Tells the time. One for the whole process.
pub struct Clock {
    newest: Mutex<Seen>,
    file: Option<PathBuf>,
    system: Box<dyn Fn() -> Timestamp + Send + Sync>,
}

/// A time, and how long the machine had been up then.
#[derive(Clone, Copy, Debug)]
struct Seen {
    time: Timestamp,
    up: Duration,
}

/// The system clock shows a time before pullgate was built, and no later one is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system clock shows {0:.0}, which is before pullgate was built")]
pub struct NotSet(Timestamp);

impl From<NotSet> for Violation {
    fn from(why: NotSet) -> Self {
        Self { code: Code::ClockNotSet, found: why.to_string(), fix: "set the clock".to_owned() }
    }
}

impl Clock {
    /// The clock that continues what the file `newest-time` in the directory `state` says.
    pub fn open(state: &Path) -> Self {
        Self::of(Timestamp::now, Some(state))
    }

    /// A clock that remembers nothing beyond this process.
    pub fn unkept() -> Self {
        Self::of(Timestamp::now, None)
    }

    /// A clock on top of `system`, which continues what the directory `state` says.
    pub fn of(system: impl Fn() -> Timestamp + Send + Sync + 'static, state: Option<&Path>) -> Self {
        let system = Box::new(system);
        let Some(state) = state else {
            return Self { newest: Mutex::new(Seen { time: Timestamp::MIN, up: up() }), file: None, system };
        };
        let file = state.join("newest-time");
        let seen = files::read_trusted(&file, 64)
            .and_then(|text| text.trim().parse::<Timestamp>().map_err(|_| "not a time; it is written anew".to_owned()));
        let time = seen.unwrap_or_else(|why| {
            if file.exists() {
                tracing::warn!("{}: {why}", file.display());
            }
            Timestamp::MIN
        });
        let clock = Self { newest: Mutex::new(Seen { time, up: up() }), file: Some(file), system };
        if let Some(behind) = clock.behind() {
            tracing::warn!("{behind}");
        }
        clock
    }

    /// The time to decide by.
    ///
    /// # Errors
    /// When no time after the build is known.
    pub fn now(&self) -> Result<Timestamp, NotSet> {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        *newest = newest.at((self.system)(), up());
        match newest.time < built() {
            true => Err(NotSet(newest.time)),
            false => Ok(newest.time),
        }
    }

    /// What to say when the system clock is far behind the newest time that was seen: one of them is wrong.
    pub fn behind(&self) -> Option<String> {
        let newest = self.now().ok()?;
        let behind = newest.duration_since((self.system)());
        let file = self.file.as_ref()?.display();
        (behind > SignedDuration::try_from(limits::CLOCK_BEHIND).unwrap_or_default()).then(|| {
            format!(
                "the system clock is {} min behind the newest time seen, {newest:.0}, which is used; if that was wrong, \
                 set the clock, remove {file} and restart pullgate",
                behind.as_mins()
            )
        })
    }

    /// Writes down the newest time now and then, for ever.
    pub async fn keep(&self) {
        let mut beat = tokio::time::interval(limits::CLOCK_KEPT);
        loop {
            beat.tick().await;
            self.save();
        }
    }

    /// Writes down the newest time.
    pub fn save(&self) {
        let (Some(file), Ok(now)) = (&self.file, self.now()) else { return };
        if let Err(error) = files::replace(file, format!("{now:.0}\n").as_bytes()) {
            tracing::error!("{} cannot be written: {error}", file.display());
        }
    }
}

impl Seen {
    /// The newest time when the system clock shows `wall` and the machine has been up for `up`.
    fn at(self, wall: Timestamp, up: Duration) -> Self {
        let elapsed = SignedDuration::try_from(up.saturating_sub(self.up)).unwrap_or_default();
        let time = self.time.checked_add(elapsed).unwrap_or(self.time).max(wall);
        Self { time, up }
    }
}

/// When pullgate was built.
fn built() -> Timestamp {
    env!("PULLGATE_BUILT").parse().ok().and_then(|seconds| Timestamp::from_second(seconds).ok()).unwrap_or_default()
}

/// How long the machine has been up, suspended time included.
fn up() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn the_time_goes_on_when_the_clock_is_set_back_and_follows_when_it_is_set_forward() {
        let mut seen = Seen { time: second(1000), up: secs(10) };
        for (wall, up, expected) in
            [(1005, 15, 1005), (400, 20, 1010), (400, 30, 1020), (5000, 31, 5000), (0, 33, 5002)]
        {
            seen = seen.at(second(wall), secs(up));
            assert_eq!(seen.time, second(expected), "{wall} {up}");
        }
        let rebooted = seen.at(second(5003), secs(1));
        assert_eq!(rebooted.time, second(5003));
    }

    #[test]
    fn the_end_of_time_is_no_trouble() {
        let seen = Seen { time: Timestamp::MAX, up: secs(1) };
        assert_eq!(seen.at(second(0), secs(100)).time, Timestamp::MAX);
    }

    #[test]
    fn the_newest_time_survives_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("newest-time");
        let ahead = Timestamp::now() + SignedDuration::from_hours(24 * 3650);
        fs::write(&file, format!("{ahead}\n")).unwrap();
        let clock = Clock::open(folder.path());
        assert!(clock.now().unwrap() >= ahead);
        assert!(clock.behind().unwrap().contains("newest-time and restart pullgate"));
        fs::write(&file, "").unwrap();
        clock.save();
        assert!(Clock::open(folder.path()).now().unwrap() >= ahead - SignedDuration::from_secs(1));
    }

    #[test]
    fn a_clock_that_is_far_behind_is_told() {
        let behind = |seconds: u64| {
            let folder = tempfile::tempdir().unwrap();
            let seen = built() + SignedDuration::from_hours(24);
            fs::write(folder.path().join("newest-time"), format!("{seen}\n")).unwrap();
            let system = seen - SignedDuration::try_from(secs(seconds)).unwrap();
            Clock::of(move || system, Some(folder.path())).behind()
        };
        let limit = limits::CLOCK_BEHIND.as_secs();
        assert_eq!(behind(limit - 60), None);
        assert!(behind(limit + 1).unwrap().contains("5 min behind"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_newest_time_is_noted_now_and_then() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("newest-time");
        let clock = Clock::open(folder.path());
        let noted = async |pause: Duration| {
            let _ = fs::remove_file(&file);
            let _ = tokio::time::timeout(pause, clock.keep()).await;
            file.exists()
        };
        assert!(noted(Duration::from_millis(1)).await, "at once");
        let keeping = clock.keep();
        tokio::pin!(keeping);
        let _ = tokio::time::timeout(limits::CLOCK_KEPT / 2, &mut keeping).await;
        fs::remove_file(&file).unwrap();
        let _ = tokio::time::timeout(limits::CLOCK_KEPT / 4, &mut keeping).await;
        assert!(!file.exists());
        let _ = tokio::time::timeout(limits::CLOCK_KEPT / 2, &mut keeping).await;
        assert!(file.exists());
    }

    #[test]
    fn a_file_that_cannot_be_used_is_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("newest-time");
        for text in ["", "2026", "2026-11-23T11:", "nonsense", &"9".repeat(100)] {
            fs::write(&file, text).unwrap();
            let clock = Clock::open(folder.path());
            assert!(clock.now().unwrap().duration_since(Timestamp::now()).abs() < SignedDuration::from_hours(1));
            assert_eq!(clock.behind(), None);
        }
    }

    #[test]
    fn a_time_before_the_build_is_not_set() {
        let unset = Violation::from(NotSet(second(0)));
        assert_eq!(unset.code, Code::ClockNotSet);
        assert_eq!(unset.found, "the system clock shows 1970-01-01T00:00:00Z, which is before pullgate was built");
        assert!(built() > second(1_700_000_000));
    }
}
