//! The checks. Each looks at the facts and says what is closed, what is open, and what mends it. Pure.

#![deny(clippy::disallowed_methods)]

mod daemon;
mod differs;
mod exposed;
mod handlers;
mod node;
mod pulls;
mod snapshotters;
mod unpack;
mod verifiers;
mod watch;

use super::{Facts, Finding, Gate, Known, Place, State};

/// One check.
#[derive(Clone, Copy)]
pub struct Check {
    /// Its id: stable, for programs and for the documentation.
    pub id: &'static str,
    /// The gate that it is about.
    pub gate: Gate,
    run: fn(&Facts) -> Known<Vec<Found>>,
}

const fn check(id: &'static str, gate: Gate, run: fn(&Facts) -> Known<Vec<Found>>) -> Check {
    Check { id, gate, run }
}

/// Every check. `docs/doctor.md` says what each means.
pub const ALL: &[Check] = &[
    check("configuration-not-read", Gate::Node, node::not_read),
    check("configuration-drift", Gate::Node, node::drift),
    check("other-containerd", Gate::Node, node::other_containerd),
    check("other-address", Gate::Node, node::other_address),
    check("other-engine", Gate::Node, node::other_engine),
    check("mounted-node-paths", Gate::Node, exposed::mounted),
    check("nri-socket", Gate::Node, exposed::nri),
    check("own-configuration", Gate::Node, daemon::own_configuration),
    check("mode", Gate::Node, daemon::mode),
    check("daemon", Gate::Node, daemon::daemon),
    check("daemon-sockets", Gate::Node, daemon::sockets),
    check("clock", Gate::Node, daemon::clock),
    check("boot-list", Gate::Node, daemon::boot_list),
    check("audit-entries", Gate::Node, daemon::audit),
    check("journal-rate-limit", Gate::Node, daemon::rate_limit),
    check("verifier-plugin", Gate::Resolve, verifiers::plugin),
    check("verifier-directory", Gate::Resolve, verifiers::directory),
    check("verifier-order", Gate::Resolve, verifiers::order),
    check("verifier-programs", Gate::Resolve, verifiers::programs),
    check("verifier-writable", Gate::Resolve, verifiers::writable),
    check("verifier-timeout", Gate::Resolve, verifiers::timeout),
    check("cri-local-pull", Gate::Resolve, pulls::local),
    check("connected", Gate::Unpack, node::connected),
    check("diff-service", Gate::Unpack, differs::service),
    check("diff-loop", Gate::Unpack, differs::in_a_loop),
    check("diff-proxies", Gate::Unpack, differs::proxies),
    check("transfer-unpack", Gate::Unpack, unpack::entries),
    check("snapshotter-entry", Gate::Unpack, unpack::snapshotters),
    check("remote-snapshotter", Gate::Unpack, snapshotters::remote),
    check("staged-layers", Gate::Unpack, snapshotters::staged),
    check("handler-hook", Gate::Start, handlers::hook),
    check("base-spec", Gate::Start, handlers::base_spec),
    check("handler-kind", Gate::Start, handlers::kind),
    check("checkpoint-restore", Gate::Start, handlers::checkpoint),
    check("watch-bypass", Gate::Watch, watch::bypasses),
    check("watch-not-admitted", Gate::Watch, watch::not_admitted),
    check("watch-exempt", Gate::Watch, watch::exempt),
];

impl Check {
    /// What it finds; one finding at least, unless it is about something that this node does not have.
    pub(super) fn findings(&self, facts: &Facts) -> Vec<Finding> {
        let found = (self.run)(facts).unwrap_or_else(|why| vec![Found::new(State::Unknown, why, None)]);
        let finding = |found: Found| Finding {
            check: self.id,
            gate: self.gate,
            state: found.state,
            what: found.what,
            place: found.place,
            mend: found.mend,
        };
        found.into_iter().map(finding).collect()
    }
}

/// What a check says, before its name is on it.
struct Found {
    state: State,
    what: String,
    place: Option<Place>,
    mend: Option<String>,
}

impl Found {
    fn new(state: State, what: impl Into<String>, mend: Option<String>) -> Self {
        Self { state, what: what.into(), place: None, mend }
    }

    fn closed(what: impl Into<String>) -> Self {
        Self::new(State::Closed, what, None)
    }

    fn open(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::new(State::Open, what, Some(mend.into()))
    }

    fn warning(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::new(State::Warning, what, Some(mend.into()))
    }

    fn unknown(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::new(State::Unknown, what, Some(mend.into()))
    }

    fn at(mut self, place: Option<Place>) -> Self {
        self.place = place;
        self
    }
}

/// `found`, or that all is well.
fn or_closed(found: Vec<Found>, well: impl Into<String>) -> Vec<Found> {
    match found.is_empty() {
        true => vec![Found::closed(well)],
        false => found,
    }
}

/// What brings pullgate's lines back.
const ENABLE: &str = "pullgate enable --restart";

#[cfg(test)]
mod tests;
