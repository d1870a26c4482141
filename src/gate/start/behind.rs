//! Verifying behind the answers: a start waits for no registry, so what nothing on the node decides about is verified for
//! the next try.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Semaphore;

use crate::limits;

/// What is being verified. Cheap to clone.
#[derive(Clone)]
pub(super) struct Behind {
    at_hand: Arc<Mutex<HashSet<String>>>,
    turns: Arc<Semaphore>,
}

impl Default for Behind {
    fn default() -> Self {
        Self { at_hand: Arc::default(), turns: Arc::new(Semaphore::new(limits::PARALLEL_BEHIND)) }
    }
}

impl Behind {
    /// Does `work` about `what`, unless that is being done already or too much else waits.
    pub(super) fn start(&self, what: String, work: impl Future<Output = ()> + Send + 'static) {
        {
            let mut at_hand = self.open();
            if at_hand.len() >= limits::BEHIND || !at_hand.insert(what.clone()) {
                return;
            }
        }
        let behind = self.clone();
        tokio::spawn(async move {
            let _done = Done { behind: &behind, what };
            let _turn = behind.turns.acquire().await;
            work.await;
        });
    }

    fn open(&self) -> MutexGuard<'_, HashSet<String>> {
        self.at_hand.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends with the work, however that ends.
struct Done<'a> {
    behind: &'a Behind,
    what: String,
}

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.behind.open().remove(&self.what);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use super::*;

    async fn settle() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn each_is_verified_once_a_few_at_a_time_and_there_is_an_end() {
        let (behind, begun, ended) = (Behind::default(), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let start = |what: usize| {
            let (begun, ended) = (begun.clone(), ended.clone());
            behind.start(what.to_string(), async move {
                begun.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_secs(1)).await;
                ended.fetch_add(1, Ordering::SeqCst);
            });
        };
        (0..limits::BEHIND + 10).for_each(start);
        (0..limits::BEHIND + 10).for_each(start);
        settle().await;
        assert_eq!(begun.load(Ordering::SeqCst), limits::PARALLEL_BEHIND);
        let rounds = limits::BEHIND.div_ceil(limits::PARALLEL_BEHIND);
        tokio::time::sleep(Duration::from_secs(rounds as u64)).await;
        settle().await;
        assert_eq!(ended.load(Ordering::SeqCst), limits::BEHIND);
        assert!(behind.open().is_empty());
        start(0);
        settle().await;
        assert_eq!(begun.load(Ordering::SeqCst), limits::BEHIND + 1);
    }
}
