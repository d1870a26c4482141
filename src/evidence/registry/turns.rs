//! How many ask one registry at the same time: one that is slow must not take the turns of all others.

use std::{collections::BTreeSet, sync::Arc};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{evidence::Place, limits};

/// The turns, by registry. Names that are only claimed take theirs together: they cost nothing to invent.
pub(super) struct Turns(moka::sync::Cache<String, Arc<Semaphore>>);

impl Default for Turns {
    fn default() -> Self {
        Self(moka::sync::Cache::new(limits::REGISTRY_HABITS as u64))
    }
}

impl Turns {
    /// A turn at each registry of `places`. They are taken in one order by all, so that nobody waits for who waits for him.
    pub(super) async fn take(&self, places: &[Place]) -> Vec<OwnedSemaphorePermit> {
        let key = |place: &Place| if place.proven { place.repository.host.to_string() } else { String::new() };
        let keys: BTreeSet<String> = places.iter().map(key).collect();
        let mut taken = Vec::new();
        for key in keys {
            let turns = self.0.get_with(key, || Arc::new(Semaphore::new(limits::PARALLEL_OF_REGISTRY)));
            taken.extend(turns.acquire_owned().await.ok());
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    fn place(host: &str, proven: bool) -> Place {
        Place { repository: format!("{host}/app").parse().unwrap(), proven }
    }

    #[tokio::test(start_paused = true)]
    async fn one_registry_takes_no_turn_of_another_and_claims_share_theirs() {
        let turns = Turns::default();
        let mut held = Vec::new();
        for number in 0..limits::PARALLEL_OF_REGISTRY {
            // Twice the same registry is one turn.
            held.push(turns.take(&[place("slow.io", true), place("slow.io", true)]).await);
            held.push(turns.take(&[place(&format!("claimed{number}.io"), false)]).await);
        }
        let later = async |place: Place| timeout(Duration::from_secs(3600), turns.take(&[place])).await.is_err();
        assert!(later(place("slow.io", true)).await);
        assert!(later(place("yet-another.io", false)).await);
        assert!(!later(place("quick.io", true)).await);
        held.clear();
        assert!(!later(place("slow.io", true)).await);
    }
}
