//! The start gate: the hook in the base spec of every runtime handler.

use toml::Value;

use super::super::{
    super::{base_spec, connection::Gate, runtimes::Handler, version::Version},
    Configured, Place,
};
use super::{Facts, Found, Known, or_closed};
use crate::image::sanitize;

/// What puts the hook in.
const ENABLE_START: &str = "pullgate enable --start --restart";
/// What serves pods.
const CRI: (&str, &str) = ("io.containerd.grpc.v1", "cri");
/// Runtimes that are known to run hooks on the node.
const RUNTIMES: [&str; 2] = ["io.containerd.runc.v2", "io.containerd.crun.v1"];
/// Programs under them that are.
const PROGRAMS: [&str; 4] = ["runc", "crun", "youki", "nvidia-container-runtime"];
/// Characters of a handler's name.
const NAME: usize = 80;

/// What a base spec comes to.
#[derive(Debug, PartialEq)]
enum Hook {
    /// The hook is in it.
    There,
    /// It is not, for this reason.
    Missing(String),
    /// containerd serves no pods with it, for this reason.
    Broken(String),
}

/// Whether each handler has the hook.
pub(super) fn hook(facts: &Facts) -> Known<Vec<Found>> {
    let Some(handlers) = handlers(facts)? else { return Ok(no_pods()) };
    let configured = facts.configured()?;
    if handlers.iter().all(|handler| handler.base_spec.is_none()) {
        let what = "no runtime handler has the start hook: what is on the node already starts unasked";
        return Ok(vec![Found::open(what, ENABLE_START)]);
    }
    let (mut found, mut hooked) = (Vec::new(), Vec::new());
    for handler in handlers.iter().filter(|handler| handler.runs_hooks()) {
        let name = sanitize(&handler.name, NAME);
        let told = match hook_of(facts, handler) {
            Ok(Hook::There) => {
                hooked.push(name);
                continue;
            }
            Ok(Hook::Missing(why)) => {
                Found::open(format!("runtime handler {name} {why}: pods that choose it start unasked"), ENABLE_START)
            }
            Ok(Hook::Broken(why)) => {
                let what = format!("runtime handler {name}: {why}: after its next start containerd serves no pods");
                Found::warning(what, ENABLE_START)
            }
            Err(why) => Found::unknown(format!("runtime handler {name}: {why}"), ENABLE_START),
        };
        found.push(told.at(place(configured, handler)));
    }
    Ok(or_closed(found, format!("runtime handlers with the start hook: {}", hooked.join(", "))))
}

/// Whether the base specs are those that `enable` would write now, and containerd runs with them.
pub(super) fn base_spec(facts: &Facts) -> Known<Vec<Found>> {
    let Some(handlers) = handlers(facts)? else { return Ok(no_pods()) };
    let start = facts.start.as_ref().map_err(Clone::clone)?;
    let mut found = Vec::new();
    // Where the hook is missing, that is said already.
    for handler in handlers.iter().filter(|handler| hook_of(facts, handler) == Ok(Hook::There)) {
        let name = sanitize(&handler.name, NAME);
        let gate = start.0.iter().find(|(known, _)| *known == handler.name).map(|(_, gate)| gate);
        let told = match gate {
            Some(Gate::Live | Gate::Open(_)) => continue,
            Some(Gate::Drifted(why)) => {
                Found::warning(format!("runtime handler {name}: {}", sanitize(why, 300)), ENABLE_START)
            }
            Some(Gate::NotLive) => Found::open(
                format!("runtime handler {name} has the start hook, and containerd runs without it"),
                "systemctl restart containerd",
            ),
            Some(Gate::NotConnected | Gate::StillAsked) | None => Found::unknown(
                format!("what containerd runs handler {name} with is not what its files say"),
                "systemctl restart containerd",
            ),
        };
        let place = handler.base_spec.as_deref().map(Place::whole);
        found.push(told.at(place));
    }
    Ok(or_closed(found, "containerd runs with the base specs that `pullgate enable` wrote"))
}

/// Whether the handler's runtime runs hooks on the node at all.
pub(super) fn kind(facts: &Facts) -> Known<Vec<Found>> {
    let Some(handlers) = handlers(facts)? else { return Ok(no_pods()) };
    let configured = facts.configured()?;
    let mut found = Vec::new();
    for handler in handlers {
        let (name, kind) = (sanitize(&handler.name, NAME), sanitize(handler.runtime(), NAME));
        let program = text(handler.keys.get("runtime_path"))
            .or_else(|| text(handler.keys.get("options").and_then(|options| options.get("BinaryName"))));
        let program = program.map(|path| path.rsplit('/').next().unwrap_or_default());
        let place = place(configured, &handler);
        if !handler.runs_hooks() {
            let what = format!(
                "runtime handler {name} is {kind}, which runs no hooks on the node: pods that choose it start unasked"
            );
            let mend = format!(
                "without need for it take the handler {name} out; its images are asked about when they are unpacked"
            );
            found.push(Found::open(what, mend).at(place));
        } else if !RUNTIMES.contains(&handler.runtime()) {
            let what = format!("runtime handler {name} is {kind}: whether it runs hooks on the node is not known");
            found.push(Found::warning(what, "see the self-test").at(place));
        } else if let Some(program) = program.filter(|program| !PROGRAMS.contains(program)) {
            let what =
                format!("runtime handler {name} runs {}: whether it runs hooks is not known", sanitize(program, NAME));
            found.push(Found::warning(what, "see the self-test").at(place));
        }
    }
    Ok(or_closed(found, "every runtime handler runs hooks on the node"))
}

fn text(value: Option<&Value>) -> Option<&str> {
    value.and_then(Value::as_str).filter(|text| !text.is_empty())
}

/// Containers that come out of a checkpoint: their files are no image's layers.
pub(super) fn checkpoint(facts: &Facts) -> Known<Vec<Found>> {
    const KEY: &str = "enable_experimental_restore_via_create";
    let Some(handlers) = handlers(facts)? else { return Ok(no_pods()) };
    let configured = facts.configured()?;
    let within = (Version(2, 1, 0)..Version(2, 4, 0)).contains(&configured.version);
    let said = configured.dump.restores_checkpoints();
    // Patch releases of 2.2 and 2.3 have the key, and it is off; those before restore without a word.
    if !within || said == Some(false) {
        return Ok(vec![Found::closed("containers are not made from checkpoints")]);
    }
    if handlers.iter().all(|handler| handler.runs_hooks() && hook_of(facts, handler) == Ok(Hook::There)) {
        return Ok(vec![Found::closed("containers from checkpoints are refused before they start")]);
    }
    let makes = match said {
        Some(_) => format!("{KEY}: containers are made from checkpoints"),
        None => format!("containerd {} makes containers from checkpoints", configured.version),
    };
    let ways: [&[&str]; 2] =
        [&["plugins", "io.containerd.cri.v1.runtime", KEY], &["plugins", "io.containerd.grpc.v1.cri", KEY]];
    let what = format!("{makes}, whose files are no image's, and not every runtime handler has the start hook");
    Ok(vec![Found::open(what, ENABLE_START).at(configured.place(&ways))])
}

/// The handlers; none where containerd serves no pods.
fn handlers(facts: &Facts) -> Known<Option<Vec<Handler>>> {
    let handlers = facts.configured()?.dump.runtime_handlers();
    let unserved = facts.running().is_ok_and(|running| !running.runs(CRI.0, CRI.1));
    Ok((!handlers.is_empty() && !unserved).then_some(handlers))
}

fn no_pods() -> Vec<Found> {
    vec![Found::closed("containerd serves no pods")]
}

fn hook_of(facts: &Facts, handler: &Handler) -> Known<Hook> {
    let Some(path) = &handler.base_spec else { return Ok(Hook::Missing("has no base spec".to_owned())) };
    let told = path.display();
    let text = facts.base_specs.get(path).ok_or_else(|| format!("{told} was not looked at"))?;
    Ok(match text.as_ref().map_err(Clone::clone)? {
        None => Hook::Broken(format!("its base spec {told} is not there")),
        Some(text) => match base_spec::has_hook(text) {
            Ok(true) => Hook::There,
            Ok(false) => Hook::Missing(format!("has no start hook in its base spec {told}")),
            Err(why) => Hook::Missing(format!("has a base spec {told} that can be read in two ways ({why})")),
        },
    })
}

fn place(configured: &Configured, handler: &Handler) -> Option<Place> {
    let below: Vec<&str> = handler.section.iter().skip(1).map(String::as_str).collect();
    let way = |plugin| [&["plugins", plugin], below.as_slice()].concat();
    configured.place(&[&way(super::super::super::runtimes::CRI_2), &way(super::super::super::runtimes::CRI_1)])
}
