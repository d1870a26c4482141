//! Whether containerd asks pullgate: what its configuration says, and what it runs with.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use super::{
    dump::{DIFF_PROXY, Dump, TRANSFER_PROXY},
    enable, imports,
    process::{self, Process},
    record::Record,
    run,
    start::Start,
    verifiers,
    version::Version,
};
use crate::{
    containerd::{Containerd, Loaded},
    image::sanitize,
};

/// One gate, as containerd is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gate {
    /// containerd asks it.
    Live,
    /// It is configured, and containerd runs without it until it is restarted.
    NotLive,
    /// It is configured, and something keeps containerd from asking it.
    Drifted(String),
    /// It is not configured.
    NotConnected,
    /// It is not configured any more, and containerd asks it until it is restarted.
    StillAsked,
    /// There is no way to make it ask, for this reason.
    Open(String),
}

/// The gates of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// What clients ask that unpack themselves.
    pub diff: Gate,
    /// What the transfer service asks.
    pub transfer: Gate,
    /// The image verifier; none where this containerd has no such thing.
    pub resolve: Option<Gate>,
    /// What each runtime handler of the kubelet asks before a container starts.
    pub start: Start,
}

impl Connection {
    /// Looks at the containerd behind `socket`; `state` is where `enable` keeps its record.
    ///
    /// # Errors
    /// Why it cannot be told: not root, or no containerd.
    pub async fn look(containerd: &Containerd, state: &Path) -> Result<Self, String> {
        let pid = containerd.process().await.map_err(|error| error.to_string())?.ok_or("no process")?;
        let process = Process::of(pid)?;
        let version: Version = run(&process.program, &["--version"])?.parse()?;
        let files = imports::read(&process.config)?;
        let dump = enable::dump(&process.program, (!files.is_empty()).then_some(&process.config))?;
        let loaded = containerd.loaded().await.map_err(|status| status.message().to_owned())?;
        let record = Record::load(state)?;
        let texts: Vec<&str> = files.iter().map(|file| file.text.as_str()).collect();
        let start = Start::look(containerd, &process, (version, &dump, &loaded, &texts), record.as_ref()).await;
        let paths: Vec<PathBuf> = files.iter().flat_map(imports::Read::places).collect();
        let seen = record.as_ref().is_some_and(|record| record.live == Some((process.pid, process.ticks)));
        let read_before =
            !seen && paths.iter().any(|path| process::changed(path).is_none_or(|changed| changed > process.started));
        let judged =
            Self::judge(&dump, &loaded, version, record.is_some(), read_before, Path::new(verifiers::DIRECTORY));
        Ok(Self { start, ..judged })
    }

    /// `written`: `enable` wrote the configuration; `stale`: containerd was started before it was last changed.
    fn judge(dump: &Dump, loaded: &[Loaded], version: Version, written: bool, stale: bool, own: &Path) -> Self {
        let runs = |(name, _): (&str, &str)| {
            let is = |plugin: &&Loaded| plugin.kind == "io.containerd.differ.v1" && plugin.id == name;
            loaded.iter().find(is).is_some_and(|plugin| plugin.error.is_none())
        };
        let gate = |proxy: (&str, &str), named: bool, what: &str| match (dump.has_proxy(proxy), named, runs(proxy)) {
            (true, true, true) if !stale => Gate::Live,
            (true, true, _) => Gate::NotLive,
            (true, false, _) => Gate::Drifted(format!("{what} does not name {}", proxy.0)),
            (false, true, _) => Gate::Drifted(format!("proxy_plugins.{} is gone", proxy.0)),
            (false, false, true) => Gate::StillAsked,
            (false, false, false) if written => Gate::Drifted("its lines are gone".to_owned()),
            (false, false, false) => Gate::NotConnected,
        };
        let differs = dump.differs();
        let first = differs.first().is_some_and(|first| first == DIFF_PROXY.0);
        let mut diff = gate(DIFF_PROXY, first, "default of the diff service");
        if !first && differs.iter().any(|name| name == DIFF_PROXY.0) {
            diff = Gate::Drifted(format!("{} is not the first differ", DIFF_PROXY.0));
        } else if differs.iter().any(|name| name == TRANSFER_PROXY.0) {
            diff = Gate::Drifted(format!("default of the diff service names {}: a loop", TRANSFER_PROXY.0));
        }
        let unpack = dump.unpack().unwrap_or_default();
        let differ = |entry: &toml::Table| entry.get("differ").and_then(toml::Value::as_str) == Some(TRANSFER_PROXY.0);
        let all = !unpack.is_empty() && unpack.iter().all(differ);
        let mut transfer = gate(TRANSFER_PROXY, all, "unpack_config of the transfer service");
        if let (false, Some(open)) = (all, unpack.iter().find(|entry| !differ(entry)))
            && unpack.iter().any(differ)
        {
            let snapshotter = open.get("snapshotter").and_then(toml::Value::as_str).unwrap_or_default();
            transfer = Gate::Drifted(format!("unpack_config of {snapshotter} does not name {}", TRANSFER_PROXY.0));
        }
        let resolve = (version >= Version::VERIFIERS).then(|| {
            let named = dump.verifiers().is_some_and(|(directory, _)| verifiers::is_in(own, &directory));
            match (named, stale, &diff) {
                (true, false, _) => Gate::Live,
                (true, true, _) => Gate::NotLive,
                (false, _, Gate::NotConnected | Gate::StillAsked) => Gate::NotConnected,
                (false, ..) if written => Gate::Drifted("bin_dir has no pullgate-verifier".to_owned()),
                (false, ..) => Gate::NotConnected,
            }
        });
        Self { diff, transfer, resolve, start: Start::default() }
    }

    /// Whether every gate in front of a pull that this containerd has is asked.
    pub fn is_live(&self) -> bool {
        self.gates().all(|(_, gate)| *gate == Gate::Live)
    }

    /// Whether containerd asks any gate, or will once it is restarted.
    pub fn is_anywhere(&self) -> bool {
        [&self.diff, &self.transfer].into_iter().any(|gate| *gate != Gate::NotConnected) || self.start.is_anywhere()
    }

    /// Whether something undid what `enable` wrote.
    pub fn has_drifted(&self) -> bool {
        self.gates().any(|(_, gate)| matches!(gate, Gate::Drifted(_))) || self.start.has_drifted()
    }

    /// Each gate in front of a pull that this containerd has, by name.
    pub fn gates(&self) -> impl Iterator<Item = (&'static str, &Gate)> {
        let resolve = self.resolve.as_ref().map(|gate| ("resolve", gate));
        [("unpack", &self.diff), ("transfer", &self.transfer)].into_iter().chain(resolve)
    }

    /// Whether a gate in front of a pull is in containerd's configuration.
    pub fn is_configured(&self) -> bool {
        [&self.diff, &self.transfer].into_iter().any(|gate| !matches!(gate, Gate::NotConnected | Gate::StillAsked))
    }

    /// What to do about it; none when nothing is to be done.
    pub fn advice(&self) -> Option<&'static str> {
        let any = |is: fn(&Gate) -> bool| self.gates().any(|(_, gate)| is(gate));
        if any(|gate| matches!(gate, Gate::Drifted(_))) {
            Some("run: pullgate enable --restart")
        } else if any(|gate| matches!(gate, Gate::NotLive | Gate::StillAsked)) {
            Some("restart containerd")
        } else if any(|gate| matches!(gate, Gate::NotConnected)) {
            Some("run: pullgate enable")
        } else {
            None
        }
    }
}

/// How the containerd behind `socket` is connected now.
///
/// # Errors
/// Why it cannot be told.
pub fn now(socket: &Path) -> Result<Connection, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let looked = runtime.block_on(async { Connection::look(&Containerd::new(socket), Path::new(super::STATE)).await });
    looked.map_err(|why| sanitize(&why, 200))
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gates: Vec<(&str, &Gate)> = self.gates().collect();
        match gates.split_first() {
            Some(((_, first), rest))
                if rest.iter().all(|(_, gate)| gate == first) && !matches!(first, Gate::Drifted(_)) =>
            {
                write!(f, "{first}")?;
            }
            _ => {
                let each: Vec<String> = gates.iter().map(|(name, gate)| format!("{name} {gate}")).collect();
                f.write_str(&each.join("; "))?;
            }
        }
        self.advice().map_or(Ok(()), |advice| write!(f, "; {advice}"))
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Live => f.write_str("live"),
            Self::NotLive => f.write_str("CONFIGURED, NOT LIVE"),
            Self::Drifted(why) => write!(f, "DRIFTED: {why}"),
            Self::NotConnected => f.write_str("NOT CONNECTED"),
            Self::StillAsked => f.write_str("taken out, still asked"),
            Self::Open(why) => write!(f, "open ({why})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = r#"
[proxy_plugins.pullgate]
type = 'diff'
address = '/run/pullgate/diff.sock'
[proxy_plugins.pullgate-transfer]
type = 'diff'
address = '/run/pullgate/transfer.sock'
[plugins.'io.containerd.service.v1.diff-service']
default = ['pullgate', 'walking']
[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]
snapshotter = 'overlayfs'
differ = 'pullgate-transfer'
"#;

    fn judge(text: &str, loaded: &[&str], written: bool, stale: bool) -> Connection {
        let plugin = |id: &&str| Loaded { kind: "io.containerd.differ.v1".into(), id: (*id).into(), error: None };
        let loaded: Vec<Loaded> = loaded.iter().map(plugin).collect();
        let dump = Dump::parse(text).unwrap();
        Connection::judge(&dump, &loaded, Version(1, 7, 24), written, stale, Path::new("/nowhere"))
    }

    const BOTH: &[&str] = &["walking", "pullgate", "pullgate-transfer"];

    #[test]
    fn a_gate_is_live_once_containerd_runs_with_it() {
        assert!(judge(OURS, BOTH, true, false).is_live());
        assert_eq!(judge(OURS, BOTH, true, false).to_string(), "live");
        for connection in [judge(OURS, &["walking"], true, true), judge(OURS, BOTH, true, true)] {
            assert_eq!(connection.to_string(), "CONFIGURED, NOT LIVE; restart containerd");
        }
        assert_eq!(judge("", &[], false, false).to_string(), "NOT CONNECTED; run: pullgate enable");
        assert_eq!(judge("", BOTH, false, true).to_string(), "taken out, still asked; restart containerd");
    }

    #[test]
    fn what_resets_a_list_is_drift() {
        for (from, to, word) in [
            ("['pullgate', 'walking']", "['walking']", "does not name pullgate"),
            ("['pullgate', 'walking']", "['walking', 'pullgate']", "not the first"),
            ("['pullgate', 'walking']", "['pullgate', 'pullgate-transfer']", "a loop"),
            ("differ = 'pullgate-transfer'", "differ = 'walking'", "unpack_config"),
            ("/run/pullgate/diff.sock", "/run/other.sock", "proxy_plugins.pullgate is gone"),
        ] {
            let connection = judge(&OURS.replace(from, to), BOTH, true, false);
            let text = connection.to_string();
            assert!(text.contains("DRIFTED") && text.contains(word) && text.contains("enable --restart"), "{text}");
            assert!(!connection.is_live());
        }
        let more = format!("{OURS}[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]\nsnapshotter = 'zfs'\n");
        assert!(judge(&more, BOTH, true, false).to_string().contains("unpack_config of zfs"));
        let gone = judge("", &[], true, false);
        assert!(gone.to_string().contains("its lines are gone") && gone.has_drifted());
        assert!(!judge(OURS, BOTH, true, true).has_drifted());
    }
}
