//! What registries did before, so that the likely question is asked first. It changes the order of
//! questions, never which of them are asked before evidence counts as absent.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{evidence::Layout, image::Host, limits};

/// What is remembered, by registry. Lost with the process; the oldest habits go when there are too many.
#[derive(Default)]
pub(super) struct Habits(Mutex<HashMap<Host, Habit>>);

#[derive(Clone, Copy)]
struct Habit {
    seen: Instant,
    layout: Option<Layout>,
    no_referrers_api: Option<Instant>,
}

impl Habits {
    /// The layout that last had evidence at `host`.
    pub(super) fn layout(&self, host: &Host) -> Option<Layout> {
        self.read(host)?.layout
    }

    /// Whether `host` had no referrers API when it was last asked for it, at most `memory` ago.
    pub(super) fn lacks_referrers_api(&self, host: &Host, memory: Duration) -> bool {
        let since = self.read(host).and_then(|habit| habit.no_referrers_api);
        since.is_some_and(|since| since.elapsed() < memory)
    }

    /// Remembers that `layout` had evidence.
    pub(super) fn had_evidence(&self, host: &Host, layout: Layout) {
        self.change(host, |habit| habit.layout = Some(layout));
    }

    /// Remembers whether there is a referrers API.
    pub(super) fn has_referrers_api(&self, host: &Host, has: bool) {
        self.change(host, |habit| habit.no_referrers_api = (!has).then(Instant::now));
    }

    fn read(&self, host: &Host) -> Option<Habit> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(host).copied()
    }

    fn change(&self, host: &Host, change: impl FnOnce(&mut Habit)) {
        let mut habits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if habits.len() >= limits::REGISTRY_HABITS && !habits.contains_key(host) {
            let oldest = habits.iter().min_by_key(|(_, habit)| habit.seen).map(|(host, _)| host.clone());
            oldest.and_then(|host| habits.remove(&host));
        }
        let habit = habits.entry(host.clone()).or_insert(Habit { seen: now, layout: None, no_referrers_api: None });
        habit.seen = now;
        change(habit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_memory_is_bounded() {
        let habits = Habits::default();
        for number in 0..limits::REGISTRY_HABITS + 10 {
            habits.had_evidence(&format!("r{number}.example.com").parse().unwrap(), Layout::Referrers);
        }
        assert_eq!(habits.0.lock().unwrap().len(), limits::REGISTRY_HABITS);
        let newest = format!("r{}.example.com", limits::REGISTRY_HABITS + 9).parse().unwrap();
        assert_eq!(habits.layout(&newest), Some(Layout::Referrers));
    }

    #[tokio::test]
    async fn a_missing_referrers_api_is_believed_for_a_while() {
        let (habits, host) = (Habits::default(), "reg.example.com".parse().unwrap());
        let memory = Duration::from_secs(3600);
        assert!(!habits.lacks_referrers_api(&host, memory));
        habits.has_referrers_api(&host, false);
        assert!(habits.lacks_referrers_api(&host, memory));
        assert!(!habits.lacks_referrers_api(&host, Duration::ZERO));
        habits.has_referrers_api(&host, true);
        assert!(!habits.lacks_referrers_api(&host, memory));
    }
}
