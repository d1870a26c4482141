//! The images that could not be judged because a registry wants credentials which the node does not have: what a node that
//! begins to refuse would meet first.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use tokio::time::Instant;

use crate::{
    image::Digest,
    limits,
    policy::decision::{Code, Decision, Verdict},
};

/// Which, and when they were last asked for.
#[derive(Debug, Default)]
pub(super) struct Private(Mutex<HashMap<Digest, Instant>>);

impl Private {
    /// Takes note of what was decided about the image `digest`.
    pub(super) fn note(&self, digest: Digest, decision: &Decision) {
        let private = decision.violations.iter().any(|violation| violation.code == Code::RegistryUnauthorized);
        let mut images = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if private {
            if images.len() < limits::PRIVATE_IMAGES || images.contains_key(&digest) {
                images.insert(digest, Instant::now());
            }
        } else if decision.verdict != Verdict::Inconclusive {
            images.remove(&digest);
        }
    }

    /// How many there were within [`limits::PRIVATE_MEMORY`].
    pub(super) fn count(&self) -> usize {
        let mut images = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        images.retain(|_, asked| asked.elapsed() < limits::PRIVATE_MEMORY);
        images.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::decision::Violation;

    fn decision(code: Code) -> Decision {
        Decision::refused(Violation { code, found: String::new(), fix: String::new() })
    }

    #[tokio::test(start_paused = true)]
    async fn an_image_counts_until_it_could_be_judged_or_nobody_asks_for_it_any_more() {
        let private = Private::default();
        let images = [b"a", b"b", b"c"].map(|name| Digest::of(name));
        for _ in 0..3 {
            images.iter().for_each(|image| private.note(*image, &decision(Code::RegistryUnauthorized)));
        }
        assert_eq!(private.count(), 3);
        private.note(images[0], &decision(Code::RegistryTimeout));
        assert_eq!(private.count(), 3, "nobody could look");
        private.note(images[0], &decision(Code::Unsigned));
        private.note(images[1], &Decision { verdict: Verdict::Allow, ..Decision::default() });
        assert_eq!(private.count(), 1);
        tokio::time::advance(limits::PRIVATE_MEMORY).await;
        assert_eq!(private.count(), 0);
        for number in 0..=limits::PRIVATE_IMAGES {
            private.note(Digest::of(number.to_string().as_bytes()), &decision(Code::RegistryUnauthorized));
        }
        assert_eq!(private.count(), limits::PRIVATE_IMAGES);
    }
}
