//! Quarantine: image records that the policy refuses go, where the node is told so. What runs goes on.
//!
//! A policy can be wrong about many images at once, so nothing goes right after it came into force, and little at a time.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use super::{Standing, Watch, seen::is_about_image};
use crate::{
    activation::Activation,
    audit::Record,
    config::{NodeMode, Quarantine},
    decisions::Asking,
    image::Digest,
    policy::decision::Verdict,
    snapshot::Snapshot,
};

const HOUR: Duration = Duration::from_secs(3600);

/// What was removed within the last hour.
#[derive(Default)]
pub(super) struct Removed {
    at: VecDeque<Instant>,
    exhausted: bool,
}

/// Whether another image may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    Some,
    /// As many went as may within an hour; whether this is the first time that it is said.
    None {
        first: bool,
    },
}

impl Removed {
    fn room(&mut self, percent: u32, images: usize, now: Instant) -> Room {
        while self.at.front().is_some_and(|at| now.duration_since(*at) >= HOUR) {
            self.at.pop_front();
        }
        let share = images.saturating_mul(percent as usize) / 100;
        match self.at.len() < share.max(1) {
            true => {
                self.exhausted = false;
                Room::Some
            }
            false => Room::None { first: !std::mem::replace(&mut self.exhausted, true) },
        }
    }

    fn note(&mut self, now: Instant) {
        self.at.push_back(now);
    }
}

/// Whether `standing` may go: refused with all evidence at hand, on a node that refuses, and nothing that it must keep.
fn may_go(snapshot: &Snapshot, standing: &Standing) -> bool {
    let decision = &standing.decision;
    snapshot.config.mode == NodeMode::Enforce
        && snapshot.trouble.is_none()
        && decision.verdict == Verdict::Deny
        && !decision.audit_only
        && decision.violations.iter().all(|violation| is_about_image(violation.code))
        && standing.complete
        && !standing.documents.iter().any(|digest| snapshot.boot.contains(digest))
        && !standing.records.iter().any(|record| record.pinned)
}

impl Watch {
    /// When quarantine may begin under the policy in force; none where it is off.
    pub(super) fn quarantine_from(&self, snapshot: &Snapshot) -> Option<Instant> {
        let Quarantine { after_activation, .. } = snapshot.config.quarantine?;
        self.state().activated.checked_add(after_activation)
    }

    /// Removes what the policy refuses, as far as it may be.
    pub(super) async fn quarantine(&self, activation: &Activation) {
        let refused = self.state().images.refused();
        for (namespace, target) in refused {
            let snapshot = activation.current().await;
            let Some(Quarantine { percent_an_hour, .. }) = snapshot.config.quarantine else { return };
            let begun = self.quarantine_from(&snapshot).is_some_and(|from| from <= Instant::now());
            if !begun || snapshot.config.mode != NodeMode::Enforce {
                return;
            }
            if snapshot.config.watch.exempt.contains(&namespace) {
                continue;
            }
            // Since it was refused somebody may have signed it.
            let Some(standing) = self.judge_anew(&snapshot, &namespace, target).await else { continue };
            if !may_go(&snapshot, &standing) {
                continue;
            }
            let (room, images, removed) = {
                let mut state = self.state();
                let images = state.last.as_ref().map_or(0, |last| last.images);
                (state.removed.room(percent_an_hour, images, Instant::now()), images, state.removed.at.len())
            };
            match room {
                Room::Some => self.remove(&snapshot, &standing).await,
                Room::None { first: true } => {
                    tracing::warn!("quarantine stops: {removed} of {images} images were removed within an hour");
                    self.write(|_| Record::quarantine_exhausted(snapshot.revision(), removed, images)).await;
                    return;
                }
                Room::None { first: false } => return,
            }
        }
    }

    async fn judge_anew(&self, snapshot: &Arc<Snapshot>, namespace: &str, target: Digest) -> Option<Standing> {
        let inventory = self.walk.inventory(namespace).await.ok()?;
        let there = inventory.targets().any(|other| other == target);
        let targets = if there { vec![target] } else { Vec::new() };
        let standing = self.walk.images(snapshot, Asking::Anew, &inventory, targets, 1, &|_| ()).await.ok()?;
        if standing.is_empty() {
            self.state().images.forget(namespace, &target);
        }
        standing.into_iter().next()
    }

    /// Says that the records go, and lets them go: never the other way round.
    async fn remove(&self, snapshot: &Snapshot, standing: &Standing) {
        let Standing { namespace, records, target, decision, .. } = standing;
        let names: Vec<String> = records.iter().map(|record| record.name.clone()).collect();
        let name = standing.name();
        let facts = super::facts(snapshot, decision, &name, Some(target), namespace);
        if !self.write(|id| Record::image_quarantined(id, &names, decision, &facts)).await {
            return;
        }
        self.state().removed.note(Instant::now());
        self.quarantined.fetch_add(1, Ordering::Relaxed);
        for name in &names {
            if let Err(status) = self.containerd.remove_image(namespace, name, target).await {
                tracing::warn!("an image record was not removed: {}", status.message());
            }
        }
        self.state().images.forget(namespace, target);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_images_goes_within_an_hour_and_the_alarm_is_raised_once() {
        let (mut removed, start) = (Removed::default(), Instant::now());
        for _ in 0..3 {
            assert_eq!(removed.room(10, 39, start), Room::Some);
            removed.note(start);
        }
        assert_eq!(removed.room(10, 39, start), Room::None { first: true });
        assert_eq!(removed.room(10, 39, start), Room::None { first: false });
        let later = start + HOUR;
        assert_eq!(removed.room(10, 39, later - Duration::from_millis(1)), Room::None { first: false });
        // There is more room on a node with more images, until that is used up as well.
        assert_eq!(removed.room(10, 40, start), Room::Some);
        assert_eq!(removed.room(10, 39, start), Room::None { first: true });
        assert_eq!(removed.room(10, 39, later), Room::Some);
        for _ in 0..3 {
            removed.note(later);
        }
        assert_eq!(removed.room(10, 39, later), Room::None { first: true });
    }

    #[test]
    fn one_image_may_go_from_the_smallest_node() {
        let (mut removed, now) = (Removed::default(), Instant::now());
        assert_eq!(removed.room(1, 0, now), Room::Some);
        removed.note(now);
        assert_eq!(removed.room(1, 99, now), Room::None { first: true });
        assert_eq!(removed.room(100, usize::MAX, now), Room::Some);
    }
}
