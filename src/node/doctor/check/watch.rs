//! What the watch saw, and what it does not look at.

use super::{Facts, Found, Known, or_closed};
use crate::image::sanitize;

/// Containers that were made around the start gate.
pub(super) fn bypasses(facts: &Facts) -> Known<Vec<Found>> {
    let bypasses = facts.daemon()?.watch.bypasses;
    if bypasses == 0 {
        return Ok(vec![Found::closed("no container of a pod was made around the start gate")]);
    }
    let what = format!("{bypasses} containers of pods were made without the start hook since the daemon started");
    Ok(vec![Found::warning(what, "pullgate audit; then the findings of the start gate here")])
}

/// What is on the node and would not be admitted now.
pub(super) fn not_admitted(facts: &Facts) -> Known<Vec<Found>> {
    let watch = &facts.daemon()?.watch;
    if watch.last_walk.is_none() {
        return Err("what is on the node was not judged yet since the daemon started".to_owned());
    }
    let (images, containers) = (watch.images_without_allow, watch.containers_without_allow);
    if images + containers == 0 {
        return Ok(vec![Found::closed("what is on the node is admitted")]);
    }
    let what =
        format!("{images} images on the node and {containers} running containers are not admitted by the policy");
    Ok(vec![Found::warning(what, "pullgate mode enforce, which lists them first, or pullgate audit")])
}

/// Namespaces that nobody watches.
pub(super) fn exempt(facts: &Facts) -> Known<Vec<Found>> {
    let exempt = facts.own.as_ref().map_err(Clone::clone)?;
    let found = exempt.iter().map(|namespace| {
        let what = format!("containerd's namespace {} is exempt from the watch", sanitize(namespace, 80));
        Found::warning(what, "take it out of exempt-namespaces under [watch] in config.toml")
    });
    Ok(or_closed(found.collect(), "every namespace is watched"))
}
