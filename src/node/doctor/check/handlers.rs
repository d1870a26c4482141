//! The start gate: the hook in the base spec of every runtime handler.

use serde_json::Value;

use super::super::super::{
    doctor::{Configured, Place, settings::Handler},
    dump::VERIFIERS_DIRECTORY,
    verifiers::NAME,
    version::Version,
};
use super::{Facts, Found, Known, or_closed};

/// What puts the hook in.
const ENABLE_START: &str = "pullgate enable --start --restart";
/// Runtimes that run hooks on the node.
const RUNC: &str = "io.containerd.runc.v2";
/// Programs under that runtime that do.
const PROGRAMS: [&str; 4] = ["runc", "crun", "youki", "nvidia-container-runtime"];

/// Whether each handler has the hook, before all others.
pub(super) fn hook(facts: &Facts) -> Known<Vec<Found>> {
    let configured = facts.configured()?;
    let handlers = configured.dump.handlers();
    let hooked = |handler: &Handler| missing_hook(facts, handler).map(|missing| missing.is_none());
    if !handlers.is_empty() && handlers.iter().all(|handler| handler.base_spec.is_none()) {
        let what = "no runtime handler has the start hook: what is on the node already starts unasked";
        return Ok(vec![Found::open(what, ENABLE_START)]);
    }
    let mut found = Vec::new();
    for handler in &handlers {
        let name = &handler.name;
        let place = place(configured, handler);
        match missing_hook(facts, handler) {
            Ok(None) => {}
            Ok(Some(why)) => {
                let what = format!("runtime handler {name} {why}: pods that choose it start unasked");
                found.push(Found::open(what, ENABLE_START).at(place));
            }
            Err(why) => {
                let what = format!("runtime handler {name}: {why}");
                found.push(Found::unknown(what, ENABLE_START).at(place));
            }
        }
    }
    let names: Vec<&str> = handlers.iter().filter(|it| hooked(it) == Ok(true)).map(|it| it.name.as_str()).collect();
    Ok(or_closed(found, format!("runtime handlers with the start hook: {}", names.join(", "))))
}

/// Whether the handler's runtime runs hooks on the node at all.
pub(super) fn kind(facts: &Facts) -> Known<Vec<Found>> {
    let configured = facts.configured()?;
    let mut found = Vec::new();
    for handler in configured.dump.handlers() {
        let (name, kind) = (&handler.name, &handler.runtime);
        let program = handler.program.as_deref().and_then(|path| path.rsplit('/').next());
        let place = place(configured, &handler);
        if kind != RUNC {
            let what = format!("runtime handler {name} is {kind}, which may run no hooks on the node");
            let mend = format!("see the self-test; without need for it take the handler {name} out");
            found.push(Found::open(what, mend).at(place));
        } else if let Some(program) = program.filter(|program| !PROGRAMS.contains(program)) {
            let what = format!("runtime handler {name} runs {program}: whether it runs hooks is not known");
            found.push(Found::warning(what, "see the self-test").at(place));
        }
    }
    Ok(or_closed(found, "every runtime handler runs hooks on the node"))
}

/// Containers that come out of a checkpoint: their files are no image's layers.
pub(super) fn checkpoint(facts: &Facts) -> Known<Vec<Found>> {
    let configured = facts.configured()?;
    let within = (Version(2, 1, 0)..Version(2, 4, 0)).contains(&configured.version);
    let said = configured.dump.restores_checkpoints();
    // Patch releases of 2.2 and 2.3 have the key, and it is off; those before restore without a word.
    if !within || said == Some(false) {
        return Ok(vec![Found::closed("containers are not made from checkpoints")]);
    }
    let handlers = configured.dump.handlers();
    if handlers.iter().all(|handler| missing_hook(facts, handler) == Ok(None)) {
        return Ok(vec![Found::closed("containers from checkpoints are refused before they start")]);
    }
    let what = match said {
        Some(_) => "enable_experimental_restore_via_create: containers are made from checkpoints".to_owned(),
        None => format!("containerd {} makes containers from checkpoints", configured.version),
    };
    let keys = ["enable_experimental_restore_via_create"];
    let place = keys.iter().find_map(|key| {
        let ways: [&[&str]; 2] =
            [&["plugins", "io.containerd.cri.v1.runtime", key], &["plugins", "io.containerd.grpc.v1.cri", key]];
        configured.place(&ways)
    });
    let what = format!("{what}, whose files are no image's, and not every runtime handler has the start hook");
    Ok(vec![Found::open(what, ENABLE_START).at(place)])
}

/// Why the hook is not asked with this handler; none when it is.
fn missing_hook(facts: &Facts, handler: &Handler) -> Known<Option<String>> {
    let Some(path) = &handler.base_spec else { return Ok(Some("has no base spec".to_owned())) };
    let Some(spec) = facts.base_specs.get(path) else {
        return Err(format!("its base spec {} was not looked at", path.display()));
    };
    let document = spec.document.as_ref().map_err(|why| format!("its base spec cannot be read: {why}"))?;
    let hooks = document.pointer("/hooks/createRuntime").and_then(Value::as_array);
    Ok(match hooks.and_then(|hooks| hooks.iter().position(is_ours)) {
        Some(0) => None,
        Some(_) => Some(format!("runs other hooks before pullgate's ({})", path.display())),
        None => Some(format!("has no start hook in its base spec {}", path.display())),
    })
}

/// Whether a hook is pullgate's: its program, with the word that makes it a hook.
fn is_ours(hook: &Value) -> bool {
    let path = format!("{VERIFIERS_DIRECTORY}/{NAME}");
    let word = hook.pointer("/args/1").and_then(Value::as_str);
    hook.get("path").and_then(Value::as_str) == Some(&path) && word == Some("create-runtime")
}

fn place(configured: &Configured, handler: &Handler) -> Option<Place> {
    let name = handler.name.as_str();
    let new = ["plugins", "io.containerd.cri.v1.runtime", "containerd", "runtimes", name];
    let old = ["plugins", "io.containerd.grpc.v1.cri", "containerd", "runtimes", name];
    configured.place(&[&new, &old])
}
