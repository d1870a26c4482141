//! Delegated calls: containerd applies the layer, and its diff service asks pullgate again on the other socket.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use containerd_client::services::v1::ApplyRequest;
use prost::Message;
use prost_types::Any;

use crate::image::Digest;

/// The payload that marks a delegated call. containerd passes payloads that it does not know through unchanged.
const PAYLOAD: &str = "pullgate.delegated";

/// Calls that were delegated and have not come back yet.
#[derive(Default)]
pub(super) struct Delegations(Mutex<HashMap<[u8; 32], Digest>>);

/// One delegated call. Its nonce counts once, for the same layer and mounts, and not after this is dropped.
pub(super) struct Delegation<'a> {
    delegations: &'a Delegations,
    nonce: [u8; 32],
}

impl Delegations {
    /// Marks `apply` as delegated.
    ///
    /// # Errors
    /// When the system has no randomness: the call cannot be told from anybody else's then.
    pub(super) fn mark(&self, apply: &mut ApplyRequest) -> Result<Delegation<'_>, &'static str> {
        let mut nonce = [0; 32];
        SystemRandom::new().fill(&mut nonce).map_err(|_| "no randomness")?;
        self.open().insert(nonce, subject(apply));
        let mark = Any { type_url: PAYLOAD.to_owned(), value: nonce.to_vec() };
        apply.payloads.insert(PAYLOAD.to_owned(), mark);
        Ok(Delegation { delegations: self, nonce })
    }

    /// Whether `apply` says that it is delegated.
    pub(super) fn is_marked(apply: &ApplyRequest) -> bool {
        apply.payloads.contains_key(PAYLOAD)
    }

    /// Whether `apply` is a call that was delegated from here and comes back for the first time.
    pub(super) fn take(&self, apply: &ApplyRequest) -> bool {
        let nonce = apply.payloads.get(PAYLOAD).and_then(|mark| <[u8; 32]>::try_from(mark.value.as_slice()).ok());
        let expected = nonce.and_then(|nonce| self.open().remove(&nonce));
        expected.is_some_and(|expected| expected == subject(apply))
    }

    fn open(&self) -> MutexGuard<'_, HashMap<[u8; 32], Digest>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Delegation<'_> {
    fn drop(&mut self) {
        self.delegations.open().remove(&self.nonce);
    }
}

/// What a nonce is bound to: the layer and where it goes.
fn subject(apply: &ApplyRequest) -> Digest {
    let bound = ApplyRequest { diff: apply.diff.clone(), mounts: apply.mounts.clone(), ..ApplyRequest::default() };
    let mut annotations: Vec<_> = apply.diff.iter().flat_map(|diff| &diff.annotations).collect();
    annotations.sort();
    let bound = ApplyRequest {
        diff: bound.diff.map(|diff| containerd_client::types::Descriptor { annotations: HashMap::new(), ..diff }),
        ..bound
    };
    Digest::of(&[bound.encode_to_vec(), format!("{annotations:?}").into_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use containerd_client::types::{Descriptor, Mount};

    use super::*;

    fn apply(layer: &str, source: &str) -> ApplyRequest {
        ApplyRequest {
            diff: Some(Descriptor {
                digest: layer.into(),
                annotations: [("b".into(), "1".into()), ("a".into(), "2".into())].into(),
                ..Descriptor::default()
            }),
            mounts: vec![Mount { source: source.into(), ..Mount::default() }],
            ..ApplyRequest::default()
        }
    }

    #[test]
    fn a_nonce_counts_once_and_while_the_call_lasts() {
        let delegations = Delegations::default();
        let mut call = apply("l", "/s");
        let delegation = delegations.mark(&mut call).unwrap();
        assert!(Delegations::is_marked(&call) && delegations.take(&call));
        assert!(!delegations.take(&call));
        drop(delegation);
        let mut call = apply("l", "/s");
        drop(delegations.mark(&mut call).unwrap());
        assert!(!delegations.take(&call));
        assert!(delegations.open().is_empty());
    }

    #[test]
    fn a_nonce_counts_only_for_the_layer_and_the_mounts_it_was_made_for() {
        let delegations = Delegations::default();
        for other in [apply("m", "/s"), apply("l", "/etc"), apply("l", "/s")] {
            let same = other == apply("l", "/s");
            let mut call = apply("l", "/s");
            let _delegation = delegations.mark(&mut call).unwrap();
            let moved = ApplyRequest { payloads: call.payloads.clone(), ..other };
            assert_eq!(delegations.take(&moved), same);
        }
    }

    #[test]
    fn what_was_never_delegated_is_not_taken() {
        let delegations = Delegations::default();
        let mut call = apply("l", "/s");
        assert!(!Delegations::is_marked(&call) && !delegations.take(&call));
        for value in [vec![], vec![0; 32], vec![0; 33]] {
            call.payloads.insert(PAYLOAD.into(), Any { type_url: PAYLOAD.into(), value });
            assert!(Delegations::is_marked(&call) && !delegations.take(&call));
        }
    }
}
