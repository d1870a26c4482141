//! The start gate in containerd's configuration: which runtime handlers ask pullgate before a container starts.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{
    base_spec,
    change::Content,
    connection::Gate,
    dump::Dump,
    lines,
    process::{self, Process},
    record::{Made, Record},
    runtimes::Handler,
    version::{Editing, Version},
};
use crate::{
    containerd::{Containerd, Loaded},
    cri::Cri,
    image::{Digest, sanitize},
};

pub(super) mod plan;

/// The plugin that serves the kubelet.
const CRI: (&str, &str) = ("io.containerd.grpc.v1", "cri");

/// The start gate of each runtime handler, by the handler's name; none where containerd serves no pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Start(pub Vec<(String, Gate)>);

/// What is known about a node apart from its configuration.
#[derive(Clone, Debug, Default)]
struct Facts {
    /// The base spec that each handler runs with, as containerd says; none where it does not say.
    running: Option<BTreeMap<String, PathBuf>>,
    /// What is at each base spec's path.
    files: BTreeMap<PathBuf, Result<Option<String>, String>>,
    /// What `enable` made, and the hash of what each was made from as that is now.
    made: Vec<(Made, Option<Digest>)>,
    /// What it wrote.
    written: BTreeMap<PathBuf, String>,
    /// Those that were changed after containerd read them.
    stale: Vec<PathBuf>,
    /// The administrator's base spec of each handler, where another of pullgate's lies over it.
    own: BTreeMap<String, PathBuf>,
    /// Whether `enable` connected the start gate.
    enabled: bool,
    /// What is the matter with the hook.
    program: Option<String>,
}

/// The base spec of pullgate's that the configuration names, and that is not there: with it containerd would serve no
/// pods.
pub fn dangling(dump: &Dump) -> Option<String> {
    let handlers = dump.runtime_handlers();
    let gone =
        |handler: &&Handler| handler.base_spec.as_ref().is_some_and(|path| base_spec::is_ours(path) && !path.is_file());
    let handler = handlers.iter().find(gone)?;
    let path = handler.base_spec.as_deref().unwrap_or(Path::new(""));
    Some(format!("base_runtime_spec of {} names {}, which is not there", sanitize(&handler.name, 80), path.display()))
}

/// Whether a container with the base spec at `path` is started by pullgate's leave alone, or not at all.
pub fn asks(path: &Path) -> bool {
    let text = Content::of_file(path).ok().flatten();
    base_spec::is_ours(path) || text.is_some_and(|text| base_spec::has_hook(text.text()) == Ok(true))
}

/// The base spec of each runtime handler that has one, as containerd runs now.
async fn running(containerd: &Containerd) -> Result<BTreeMap<String, PathBuf>, String> {
    let info = Cri::of(containerd).info().await.map_err(|status| status.message().to_owned())?;
    let config = info.get("config").ok_or("containerd does not say how it runs")?;
    base_specs_of(config).ok_or_else(|| "containerd does not say which runtime handlers it has".to_owned())
}

fn base_specs_of(config: &str) -> Option<BTreeMap<String, PathBuf>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Runtime {
        #[serde(default)]
        base_runtime_spec: PathBuf,
    }
    #[derive(Deserialize)]
    struct Runtimes {
        runtimes: BTreeMap<String, Runtime>,
    }
    #[derive(Deserialize)]
    struct Config {
        containerd: Runtimes,
    }
    let runtimes = serde_json::from_str::<Config>(config).ok()?.containerd.runtimes;
    let named = |(name, runtime): (String, Runtime)| {
        (!runtime.base_runtime_spec.as_os_str().is_empty()).then_some((name, runtime.base_runtime_spec))
    };
    Some(runtimes.into_iter().filter_map(named).collect())
}

impl Start {
    /// Looks at the handlers of the containerd behind `containerd`, whose configuration in force is `dump` and is read from
    /// `texts`.
    pub(super) async fn look(
        containerd: &Containerd,
        process: &Process,
        (version, dump, loaded, texts): (Version, &Dump, &[Loaded], &[&str]),
        record: Option<&Record>,
    ) -> Self {
        let Some(cri) = loaded.iter().find(|plugin| (plugin.kind.as_str(), plugin.id.as_str()) == CRI) else {
            return Self::default();
        };
        let handlers = dump.runtime_handlers();
        let mut facts = Facts {
            enabled: record.is_some_and(|record| record.start),
            program: plan::program(Path::new(&base_spec::program())).err(),
            ..Facts::default()
        };
        // A CRI that did not come up has nothing running that would ask or not ask.
        if cri.error.is_none() {
            facts.running = running(containerd).await.ok();
        }
        let seen = record.is_some_and(|record| record.live == Some((process.pid, process.ticks)));
        for handler in &handlers {
            let running = facts.running.as_ref().and_then(|running| running.get(&handler.name).cloned());
            for path in [handler.base_spec.clone(), running].into_iter().flatten() {
                if !seen && process::changed(&path).is_some_and(|changed| changed > process.started) {
                    facts.stale.push(path.clone());
                }
                let text = Content::of_file(&path).map(|found| found.map(|found| found.text().to_owned()));
                facts.files.insert(path, text);
            }
            if version.editing() == Ok(Editing::DropIn) {
                let mut said = texts.iter().filter_map(|text| lines::base_spec_of(text, &handler.name));
                if let Some(own) = said.rfind(|path| !base_spec::is_ours(path)) {
                    facts.own.insert(handler.name.clone(), own);
                }
            }
        }
        for made in record.iter().flat_map(|record| &record.base_specs) {
            let now = match &made.own {
                Some(own) => Content::of_file(own).ok().flatten().map(|found| Digest::of(found.text().as_bytes())),
                None => plan::default_of(&process.program, version).ok().map(|text| Digest::of(text.as_bytes())),
            };
            facts.made.push((made.clone(), now));
        }
        for edit in record.iter().flat_map(|record| &record.edits) {
            if let Some(after) = &edit.after {
                facts.written.insert(edit.path.clone(), after.text().to_owned());
            }
        }
        Self::judge(&handlers, &facts)
    }

    fn judge(handlers: &[Handler], facts: &Facts) -> Self {
        Self(handlers.iter().map(|handler| (handler.name.clone(), facts.gate(handler))).collect())
    }

    /// Whether every handler asks that can.
    pub fn is_live(&self) -> bool {
        self.0.iter().all(|(_, gate)| matches!(gate, Gate::Live | Gate::Open(_)))
    }

    /// Whether no container of a pod starts unasked.
    pub fn is_closed(&self) -> bool {
        self.0.iter().all(|(_, gate)| *gate == Gate::Live)
    }

    /// Whether any handler asks, or will once containerd is restarted, or did when it was started.
    pub fn is_anywhere(&self) -> bool {
        self.0.iter().any(|(_, gate)| !matches!(gate, Gate::NotConnected | Gate::Open(_)))
    }

    /// Whether a handler asks once containerd is restarted.
    pub fn is_configured(&self) -> bool {
        let out = |gate: &Gate| matches!(gate, Gate::NotConnected | Gate::Open(_) | Gate::StillAsked);
        self.0.iter().any(|(_, gate)| !out(gate))
    }

    /// Whether a handler that is to ask does not, or soon will not.
    pub fn has_drifted(&self) -> bool {
        self.0.iter().any(|(_, gate)| matches!(gate, Gate::Drifted(_)))
    }

    /// What to do about it; none when nothing is to be done.
    pub fn advice(&self) -> Option<&'static str> {
        let any = |is: fn(&Gate) -> bool| self.0.iter().any(|(_, gate)| is(gate));
        if any(|gate| matches!(gate, Gate::Drifted(_))) {
            Some("run: pullgate enable --start --restart")
        } else if any(|gate| matches!(gate, Gate::NotLive | Gate::StillAsked)) {
            Some("restart containerd")
        } else if any(|gate| *gate == Gate::NotConnected) {
            Some("run: pullgate enable --start")
        } else {
            None
        }
    }
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("containerd serves no pods");
        }
        let mut kinds: Vec<(String, Vec<String>)> = Vec::new();
        for (name, gate) in &self.0 {
            let gate = gate.to_string();
            match kinds.iter_mut().find(|(kind, _)| *kind == gate) {
                Some((_, names)) => names.push(sanitize(name, 80)),
                None => kinds.push((gate, vec![sanitize(name, 80)])),
            }
        }
        let each: Vec<String> =
            kinds.into_iter().map(|(kind, names)| format!("{kind} on {}", names.join(", "))).collect();
        f.write_str(&each.join("; "))?;
        self.advice().map_or(Ok(()), |advice| write!(f, "; {advice}"))
    }
}

impl Facts {
    fn gate(&self, handler: &Handler) -> Gate {
        let running = self.running.as_ref().map(|running| running.get(&handler.name));
        let hooked = |path: &PathBuf| {
            let text = self.files.get(path).and_then(|found| found.as_ref().ok()?.as_deref());
            text.is_some_and(|text| base_spec::has_hook(text) == Ok(true))
        };
        if !handler.runs_hooks() {
            return Gate::Open("its runtime runs no hooks on the host".to_owned());
        }
        let still = running.flatten().is_some_and(|path| base_spec::is_ours(path) || hooked(path));
        let out = || if still { Gate::StillAsked } else { Gate::NotConnected };
        let Some(path) = &handler.base_spec else {
            return if self.enabled && !still { Gate::Drifted("no hook".to_owned()) } else { out() };
        };
        let told = sanitize(&path.display().to_string(), 200);
        let ours = base_spec::is_ours(path);
        let text = match self.files.get(path) {
            Some(Ok(Some(text))) => text,
            Some(Err(why)) => return Gate::Drifted(sanitize(why, 200)),
            Some(Ok(None)) | None if ours || self.enabled => {
                return Gate::Drifted(format!(
                    "{told} is missing: after its next restart containerd serves no pod at all"
                ));
            }
            Some(Ok(None)) | None => return out(),
        };
        match base_spec::has_hook(text) {
            Ok(true) => {}
            Err(why) if ours || self.enabled => return Gate::Drifted(format!("{told}: {}", sanitize(&why, 200))),
            Ok(false) if ours || self.enabled => return Gate::Drifted(format!("no hook in {told}")),
            Ok(false) | Err(_) => return out(),
        }
        if let Some(why) = &self.program {
            return Gate::Drifted(format!("no container starts: {}", sanitize(why, 200)));
        }
        if running.is_some_and(|running| running != Some(path)) || self.stale.contains(path) {
            return Gate::NotLive;
        }
        match self.outdated(handler, path, text) {
            Some(why) => Gate::Drifted(why),
            None if running.is_some() => Gate::Live,
            None => Gate::NotLive,
        }
    }

    /// Why the base spec at `path` is not the one that `enable` would write now, though the hook is in it.
    fn outdated(&self, handler: &Handler, path: &Path, text: &str) -> Option<String> {
        let (made, now) = self.made.iter().find(|(made, _)| made.path == path)?;
        let asks = format!("asks, but {}", sanitize(&path.display().to_string(), 200));
        if self.written.get(path).is_some_and(|written| written != text) {
            return Some(format!("{asks} was edited"));
        }
        if self.own.get(&handler.name).is_some_and(|own| made.own.as_ref() != Some(own)) {
            return Some(format!("{asks} was made before containerd's configuration named another"));
        }
        match (now, &made.own) {
            (Some(now), _) if *now == made.of => None,
            (Some(_), None) => Some(format!("{asks} is of another containerd, which has another default")),
            (None, None) => None,
            (_, Some(own)) => Some(format!("{asks} is older than {}", sanitize(&own.display().to_string(), 200))),
        }
    }
}

#[cfg(test)]
mod tests;
