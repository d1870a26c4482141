//! pullgate's own daemon and units.

use super::{Facts, Found, Known, or_closed};
use crate::image::sanitize;

/// Characters of what the daemon says that are told.
const TOLD: usize = 300;

/// Whether pullgate's configuration can be read.
pub(super) fn own_configuration(facts: &Facts) -> Known<Vec<Found>> {
    Ok(vec![match &facts.own {
        Ok(_) => Found::closed("config.toml is in order"),
        Err(why) => Found::warning(sanitize(why, TOLD), "mend that line; the next pull reads it"),
    }])
}

/// Whether the node refuses at all.
pub(super) fn mode(facts: &Facts) -> Known<Vec<Found>> {
    let mode = &facts.daemon()?.mode;
    Ok(vec![match mode.as_str() {
        "enforce" => Found::closed("what the policy refuses is refused"),
        _ => Found::open(
            format!("the node is in {} mode: what the policy refuses is recorded and admitted", sanitize(mode, 20)),
            "pullgate mode enforce",
        ),
    }])
}

/// Whether the daemon lives, with the files as they are.
pub(super) fn daemon(facts: &Facts) -> Known<Vec<Found>> {
    let daemon = match &facts.daemon {
        Ok(daemon) => daemon,
        Err(why) => {
            let what = format!("the daemon does not answer, and without it nothing can be pulled: {why}");
            return Ok(vec![Found::unknown(what, "systemctl status pullgate.service")]);
        }
    };
    let mut found = Vec::new();
    if let Some(trouble) = &daemon.trouble {
        let fallback = match daemon.revision.is_some() {
            true => "an earlier policy stays in force",
            false => "only the boot list is admitted",
        };
        let what = format!("{}; {fallback}", sanitize(trouble, TOLD));
        found.push(Found::warning(what, "mend that file; the next pull reads it"));
    }
    if let Err(why) = &daemon.containerd_version {
        let what = format!("the daemon does not reach containerd: {}", sanitize(why, TOLD));
        found.push(Found::warning(what, "systemctl status containerd pullgate"));
    }
    for problem in &daemon.boot_problems {
        let what = format!("a part of the boot list is not read: {}", sanitize(problem, TOLD));
        found.push(Found::warning(what, "mend that line, then: systemctl reload pullgate"));
    }
    Ok(or_closed(found, "the daemon runs, and its files are in order"))
}

/// Whether the gates answer, and will after a boot.
pub(super) fn sockets(facts: &Facts) -> Known<Vec<Found>> {
    let units = facts.units.as_ref().map_err(Clone::clone)?;
    let mut found = Vec::new();
    if !units.sockets_active {
        let what = "pullgate-gates.socket is not active: a connected containerd can unpack nothing";
        found.push(Found::warning(what, "systemctl start pullgate-gates.socket"));
    }
    if !units.sockets_enabled {
        let what = "pullgate-gates.socket does not come back after a boot: nothing can be unpacked then";
        found.push(Found::warning(what, "systemctl enable pullgate-gates.socket pullgate.service"));
    }
    Ok(or_closed(found, "the gates' sockets are active"))
}

/// Whether there is a time to decide by.
pub(super) fn clock(facts: &Facts) -> Known<Vec<Found>> {
    let found = facts.daemon()?.clock.iter();
    let found = found.map(|clock| Found::warning(sanitize(clock, TOLD), "set the clock: timedatectl"));
    Ok(or_closed(found.collect(), "the clock is in order"))
}

/// Whether a broken policy leaves a node that starts pods.
pub(super) fn boot_list(facts: &Facts) -> Known<Vec<Found>> {
    let sandbox = &facts.daemon()?.sandbox;
    Ok(vec![match sandbox.is_alarm() {
        true => Found::warning(sandbox.to_string(), "pullgate boot-list --write; systemctl reload pullgate"),
        false => Found::closed(sandbox.to_string()),
    }])
}

/// Whether each decision is on record.
pub(super) fn audit(facts: &Facts) -> Known<Vec<Found>> {
    let daemon = facts.daemon()?;
    let mut found = Vec::new();
    if daemon.audit_failed > 0 {
        let what = format!("{} audit entries were not taken by journald", daemon.audit_failed);
        found.push(Found::warning(what, "systemctl status systemd-journald; see that its disk has room"));
    }
    if daemon.evidence_lost > 0 {
        let what = format!(
            "{} pieces of evidence could not be kept: a restart of the daemon asks the registry again",
            daemon.evidence_lost
        );
        found.push(Found::warning(what, "see that the disk of /var/lib/pullgate has room"));
    }
    Ok(or_closed(found, "every decision is in the journal"))
}

/// Whether journald keeps what it accepts.
pub(super) fn rate_limit(facts: &Facts) -> Known<Vec<Found>> {
    let units = facts.units.as_ref().map_err(Clone::clone)?;
    if (units.rate_interval.as_str(), units.rate_burst) == ("1s", RATE_BURST) {
        return Ok(vec![Found::closed("journald drops no audit entry")]);
    }
    let what = format!(
        "journald drops audit entries beyond {} in {} although it accepts them",
        units.rate_burst,
        sanitize(&units.rate_interval, 20)
    );
    let mend = "take LogRateLimitIntervalSec= and LogRateLimitBurst= out of the drop-ins of pullgate.service \
                (systemctl cat pullgate.service)";
    Ok(vec![Found::warning(what, mend)])
}

/// What the unit sets, in one second.
const RATE_BURST: u64 = 10_000_000;
