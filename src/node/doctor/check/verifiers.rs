//! The resolve gate: containerd's image verifiers. containerd 1.7 has none.

use std::time::Duration;

use super::super::super::{
    doctor::{Configured, Place, VerifierDirectory},
    dump::VERIFIERS,
    verifiers::{DIRECTORY, NAME},
    version::Version,
};
use super::{ENABLE, Facts, Found, Known, node::is_connected, or_closed};
use crate::go_duration;

/// The kind of the plugin, and its id.
const PLUGIN: (&str, &str) = ("io.containerd.image-verifier.v1", "bindir");
/// What pullgate's verifier takes at most.
const OWN: Duration = Duration::from_secs(8);
/// What containerd waits where nothing is said.
const USUAL: Duration = Duration::from_secs(10);

/// Whether containerd asks verifiers at all.
pub(super) fn plugin(facts: &Facts) -> Known<Vec<Found>> {
    let Some(configured) = there(facts)? else { return Ok(Vec::new()) };
    if configured.dump.disabled_plugins().iter().any(|plugin| plugin == VERIFIERS) {
        // Up to 2.2 the transfer service does not start without it.
        let what = match configured.version < LOADS_WITHOUT {
            true => "disabled_plugins names the image verifiers: the transfer service and CRI do not start",
            false => "disabled_plugins names the image verifiers: no pull asks them",
        };
        let mend = "take it out of disabled_plugins, and restart containerd";
        return Ok(vec![Found::open(what, mend).at(configured.place(&[&["disabled_plugins"]]))]);
    }
    let running = facts.running()?;
    Ok(vec![match running.plugin(PLUGIN.0, PLUGIN.1) {
        Some(plugin) if plugin.error.is_none() => Found::closed("containerd runs image verifiers"),
        Some(plugin) => Found::open(
            format!("containerd runs no image verifiers: {}", plugin.error.as_deref().unwrap_or_default()),
            "look at `ctr plugins ls -d id==bindir`",
        ),
        None => Found::open("containerd runs without image verifiers", "restart containerd"),
    }])
}

/// Whether the directory is there, with pullgate's verifier in it.
pub(super) fn directory(facts: &Facts) -> Known<Vec<Found>> {
    let Some((configured, directory)) = looked_at(facts)? else { return Ok(Vec::new()) };
    let path = directory.path.display();
    let named = directory.programs.iter().find(|program| program.name == NAME);
    let what = if !directory.exists {
        format!("bin_dir {path} is not there: every image passes")
    } else if directory.programs.is_empty() {
        format!("bin_dir {path} is empty: every image passes")
    } else if let Some(ours) = directory.programs.iter().find(|program| program.ours) {
        if ours.runs {
            return Ok(vec![Found::closed(format!("pullgate-verifier is in {path}"))]);
        }
        let what = format!("{path}/{} cannot be executed: every pull fails", ours.name);
        return Ok(vec![Found::warning(what, "install the package again")]);
    } else if named.is_some() {
        format!("{path}/{NAME} is not pullgate's program")
    } else {
        format!("bin_dir {path} has {} other verifiers, and not pullgate's", directory.programs.len())
    };
    let mend = match directory.path.as_os_str() == DIRECTORY {
        true => "install the package again",
        false => ENABLE,
    };
    Ok(vec![Found::open(what, mend).at(place(configured, "bin_dir"))])
}

/// Whether containerd comes as far as pullgate's verifier.
pub(super) fn order(facts: &Facts) -> Known<Vec<Found>> {
    let Some((configured, directory)) = looked_at(facts)? else { return Ok(Vec::new()) };
    let Some((_, Some(most))) = configured.dump.verifiers() else {
        return Ok(vec![Found::closed("every verifier in the directory is run")]);
    };
    let before = directory.programs.iter().position(|program| program.ours);
    let open = |what: String| {
        let mend = format!("set max_verifiers = {} or more", directory.programs.len().max(10));
        Ok(vec![Found::open(what, mend).at(place(configured, "max_verifiers"))])
    };
    match before {
        _ if most == 0 => open("max_verifiers = 0: no verifier is run".to_owned()),
        Some(before) if before >= most => open(format!(
            "containerd runs the first {most} of {} verifiers, and pullgate's is the {}.",
            directory.programs.len(),
            before + 1
        )),
        _ => Ok(vec![Found::closed(format!("containerd runs up to {most} verifiers"))]),
    }
}

/// Entries that containerd cannot run.
pub(super) fn programs(facts: &Facts) -> Known<Vec<Found>> {
    let Some((_, directory)) = looked_at(facts)? else { return Ok(Vec::new()) };
    let broken = directory.programs.iter().filter(|program| !program.runs && !program.ours);
    let found = broken.map(|program| {
        let path = directory.path.join(&program.name);
        let what = "is no program: containerd fails every pull that asks verifiers";
        Found::warning(what, format!("take it out of {}", directory.path.display())).at(Some(Place::whole(path)))
    });
    Ok(or_closed(found.collect(), "every entry beside pullgate-verifier can be run"))
}

/// Whether somebody else than root could put another program there.
pub(super) fn writable(facts: &Facts) -> Known<Vec<Found>> {
    let Some((_, directory)) = looked_at(facts)? else { return Ok(Vec::new()) };
    let found = directory.writable.iter().map(|path| {
        let what = "can be written to by others than root: the verifier can be replaced";
        Found::open(what, format!("chown root:root {0}; chmod go-w {0}", path.display())).at(Some(Place::whole(path)))
    });
    Ok(or_closed(found.collect(), "only root can change the verifiers"))
}

/// Whether containerd waits for the answer.
pub(super) fn timeout(facts: &Facts) -> Known<Vec<Found>> {
    let Some((configured, _)) = looked_at(facts)? else { return Ok(Vec::new()) };
    let said = configured.dump.verifier_timeout();
    let Some(waits) = said.as_deref().map_or(Some(USUAL), go_duration::parse) else {
        return Err(format!("per_verifier_timeout = {said:?} is not understood"));
    };
    let seconds = waits.as_secs_f64();
    if waits > OWN {
        return Ok(vec![Found::closed(format!("containerd waits {seconds} s for a verifier"))]);
    }
    let what = format!(
        "containerd waits {seconds} s for a verifier, and pullgate's may take {} s: pulls fail without a reason",
        OWN.as_secs()
    );
    let mend = "set per_verifier_timeout = \"10s\"";
    Ok(vec![Found::warning(what, mend).at(place(configured, "per_verifier_timeout"))])
}

/// From here on the transfer service starts without image verifiers.
const LOADS_WITHOUT: Version = Version(2, 3, 0);

fn there(facts: &Facts) -> Known<Option<&Configured>> {
    let configured = facts.configured()?;
    Ok((configured.version >= Version::VERIFIERS && is_connected(facts)?).then_some(configured))
}

fn looked_at(facts: &Facts) -> Known<Option<(&Configured, &VerifierDirectory)>> {
    let Some(configured) = there(facts)? else { return Ok(None) };
    let directory = facts.verifiers.as_ref().map_err(Clone::clone)?;
    Ok(directory.as_ref().map(|directory| (configured, directory)))
}

fn place(configured: &Configured, key: &str) -> Option<Place> {
    configured.place(&[&["plugins", VERIFIERS, key]])
}
