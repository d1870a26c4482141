//! What containerd's configuration has to say so that every layer is asked about. Pure.

#![deny(clippy::disallowed_methods)]

use std::path::PathBuf;

use toml::{Table, Value};

use super::{
    dump::{DIFF_PROXY, Dump, TRANSFER_PROXY},
    runtimes::Handler,
    version::Version,
};

/// containerd's own differ.
const WALKING: &str = "walking";
/// The differ and the snapshotter of erofs images. It passes on what is not for it.
const EROFS: &str = "erofs";
/// The snapshotter that is used where nothing else is said.
const OVERLAYFS: &str = "overlayfs";

/// The values that are pullgate's to set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    /// `default` of the diff service.
    pub differs: Vec<String>,
    /// `unpack_config` of the transfer service: every key of an entry is kept but `differ`.
    pub unpack: Vec<Table>,
    /// `bin_dir` of the image verifiers, where it has to be set.
    pub verifiers: Option<PathBuf>,
    /// The handlers whose base spec is to be another, with the one that is wanted.
    pub handlers: Vec<Handler>,
}

/// The plugins that run in containerd now.
#[derive(Clone, Debug, Default)]
pub struct Running {
    /// Snapshotters.
    pub snapshotters: Vec<String>,
    /// Differs.
    pub differs: Vec<String>,
}

impl Wanted {
    /// What has to be set over the configuration in force.
    ///
    /// # Errors
    /// For a differ that no gate could be put in front of.
    pub fn over(dump: &Dump, version: Version, running: &Running, verifiers: Option<PathBuf>) -> Result<Self, String> {
        let runs = |list: &[String], name: &str| list.iter().any(|running| running == name);
        let mut differs: Vec<String> = dump.differs();
        differs.retain(|name| name != DIFF_PROXY.0 && name != TRANSFER_PROXY.0);
        if differs.is_empty() {
            differs.push(WALKING.to_owned());
        }
        let mut unpack = dump.unpack().unwrap_or_else(|| Self::unpack_of_containerd(dump, version, running));
        for entry in &unpack {
            match text(entry, "differ") {
                "" | WALKING => {}
                differ if differ == TRANSFER_PROXY.0 || differs.iter().any(|known| known == differ) => {}
                // What the gate lets pass goes through the diff service: it has to know every differ.
                EROFS if runs(&running.differs, EROFS) => differs.insert(0, EROFS.to_owned()),
                differ => {
                    return Err(format!(
                        "unpack_config of snapshotter \"{}\" uses the differ \"{differ}\", which the diff service does \
                         not ask. Put \"{differ}\" into its `default` list first",
                        text(entry, "snapshotter")
                    ));
                }
            }
        }
        for snapshotter in dump.cri_snapshotters() {
            let known = unpack.iter().any(|entry| text(entry, "snapshotter") == snapshotter);
            if !known && runs(&running.snapshotters, &snapshotter) {
                unpack.push(entry(&dump.platform(), &snapshotter));
            }
        }
        for entry in &mut unpack {
            entry.insert("differ".to_owned(), Value::String(TRANSFER_PROXY.0.to_owned()));
        }
        differs.insert(0, DIFF_PROXY.0.to_owned());
        Ok(Self { differs, unpack, verifiers, handlers: Vec::new() })
    }

    /// The list that containerd uses where none is set, and does not print.
    fn unpack_of_containerd(dump: &Dump, version: Version, running: &Running) -> Vec<Table> {
        let mut list = vec![entry(&dump.platform(), OVERLAYFS)];
        let has = |list: &[String]| list.iter().any(|name| name == EROFS);
        if version >= Version::EROFS_BY_DEFAULT && has(&running.snapshotters) && has(&running.differs) {
            let platform = dump.platform().replacen("linux", "linux(+erofs)", 1);
            let mut erofs = entry(&platform, EROFS);
            erofs.insert("differ".to_owned(), Value::String(EROFS.to_owned()));
            erofs.insert("optional".to_owned(), Value::Boolean(true));
            list.push(erofs);
        }
        list
    }

    /// What of it is not in force.
    pub fn missing(&self, dump: &Dump) -> Vec<String> {
        let mut missing = Vec::new();
        for proxy in [DIFF_PROXY, TRANSFER_PROXY] {
            if !dump.has_proxy(proxy) {
                missing.push(format!("proxy_plugins.{}", proxy.0));
            }
        }
        if dump.differs() != self.differs {
            missing.push("default of the diff service".to_owned());
        }
        if !same_entries(&dump.unpack().unwrap_or_default(), &self.unpack) {
            missing.push("unpack_config of the transfer service".to_owned());
        }
        if self.verifiers.is_some() && self.verifiers != dump.verifiers().map(|(directory, _)| directory) {
            missing.push("bin_dir of the image verifiers".to_owned());
        }
        let there = dump.runtime_handlers();
        for wanted in &self.handlers {
            let same = |handler: &&Handler| (&handler.name, &handler.section) == (&wanted.name, &wanted.section);
            if there.iter().find(same).is_none_or(|handler| handler.base_spec != wanted.base_spec) {
                missing.push(format!("base_runtime_spec of {}", wanted.name));
            }
        }
        missing
    }
}

/// containerd prints keys that an entry leaves out with the value that stands for nothing.
fn same_entries(found: &[Table], wanted: &[Table]) -> bool {
    let trimmed = |list: &[Table]| -> Vec<Table> {
        let said = |value: &Value| match value {
            Value::String(text) => !text.is_empty(),
            Value::Array(list) => !list.is_empty(),
            Value::Boolean(yes) => *yes,
            _ => true,
        };
        list.iter().map(|entry| entry.clone().into_iter().filter(|(_, value)| said(value)).collect()).collect()
    };
    trimmed(found) == trimmed(wanted)
}

fn entry(platform: &str, snapshotter: &str) -> Table {
    let text = |value: &str| Value::String(value.to_owned());
    Table::from_iter([("platform".to_owned(), text(platform)), ("snapshotter".to_owned(), text(snapshotter))])
}

fn text<'a>(entry: &'a Table, key: &str) -> &'a str {
    entry.get(key).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(dump: &str, version: Version, snapshotters: &[&str], differs: &[&str]) -> Result<Wanted, String> {
        let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect();
        let running = Running { snapshotters: names(snapshotters), differs: names(differs) };
        Wanted::over(&Dump::parse(dump).unwrap(), version, &running, None)
    }

    fn entries(wanted: &Wanted) -> Vec<String> {
        let line =
            |entry: &Table| format!("{} {} {}", text(entry, "platform"), text(entry, "snapshotter"), entry.len());
        assert!(wanted.unpack.iter().all(|entry| text(entry, "differ") == "pullgate-transfer"));
        wanted.unpack.iter().map(line).collect()
    }

    const PLATFORM: &str = "[plugins.'io.containerd.runtime.v2.task']\nplatforms = ['linux/amd64']\n";
    const WALKING_ONLY: &str = "[plugins.'io.containerd.service.v1.diff-service']\ndefault = ['walking']\n";

    #[test]
    fn the_gate_stands_before_what_was_there() {
        let dump = format!("{PLATFORM}{WALKING_ONLY}");
        let found = wanted(&dump, Version(2, 1, 9), &["overlayfs", "native", "erofs"], &["walking"]).unwrap();
        assert_eq!(found.differs, ["pullgate", "walking"]);
        assert_eq!(entries(&found), ["linux/amd64 overlayfs 3"]);
        let other = dump.replace("['walking']", "['pullgate-transfer', 'own', 'walking', 'pullgate']");
        assert_eq!(wanted(&other, Version(2, 1, 9), &[], &[]).unwrap().differs, ["pullgate", "own", "walking"]);
        assert_eq!(wanted("", Version(2, 1, 9), &[], &[]).unwrap().differs, ["pullgate", "walking"]);
    }

    #[test]
    fn erofs_is_kept_where_it_runs() {
        let dump = format!("{PLATFORM}{WALKING_ONLY}");
        let running = (&["overlayfs", "erofs"][..], &["walking", "erofs"][..]);
        let found = wanted(&dump, Version(2, 3, 4), running.0, running.1).unwrap();
        assert_eq!(found.differs, ["pullgate", "erofs", "walking"]);
        assert_eq!(entries(&found), ["linux/amd64 overlayfs 3", "linux(+erofs)/amd64 erofs 4"]);
        let without = wanted(&dump, Version(2, 3, 4), running.0, &["walking"]).unwrap();
        assert_eq!((without.differs.len(), entries(&without).len()), (2, 1));
    }

    #[test]
    fn entries_of_the_administrator_keep_all_but_their_differ() {
        let dump = format!(
            "{PLATFORM}{WALKING_ONLY}[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]\nplatform = \
             'linux/amd64'\nsnapshotter = 'native'\ndiffer = 'walking'\nconfig_type = 'x'\nlayer_types = []\n\
             [plugins.'io.containerd.cri.v1.images']\nsnapshotter = 'overlayfs'\n\
             [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.kata]\nsnapshotter = 'devmapper'\n"
        );
        let found = wanted(&dump, Version(2, 1, 9), &["overlayfs", "native"], &["walking"]).unwrap();
        assert_eq!(entries(&found), ["linux/amd64 native 5", "linux/amd64 overlayfs 3"]);
        assert_eq!(found.unpack[0]["config_type"].as_str(), Some("x"));
        // Once it is in force nothing is missing, and the same is wanted again.
        let lines: String = found
            .unpack
            .iter()
            .map(|entry| {
                format!("[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]\n{entry}\noptional = false\n")
            })
            .collect();
        let after = format!(
            "{PLATFORM}{}{lines}[plugins.'io.containerd.cri.v1.images']\nsnapshotter = 'overlayfs'\n\
             [proxy_plugins.pullgate]\ntype = 'diff'\naddress = '/run/pullgate/diff.sock'\n\
             [proxy_plugins.pullgate-transfer]\ntype = 'diff'\naddress = '/run/pullgate/transfer.sock'\n",
            WALKING_ONLY.replace("'walking'", "'pullgate', 'walking'")
        );
        assert_eq!(found.missing(&Dump::parse(&after).unwrap()), Vec::<String>::new());
        assert_eq!(found.missing(&Dump::parse(&dump).unwrap()).len(), 4);
        let reset = after
            .replace("'pullgate', 'walking'", "'walking'")
            .replace("pullgate-transfer'\noptional", "walking'\noptional");
        assert_eq!(found.missing(&Dump::parse(&reset).unwrap())[0], "default of the diff service");
    }

    #[test]
    fn a_differ_that_the_diff_service_does_not_ask_is_refused() {
        let dump = |default: &str| {
            format!(
                "[plugins.'io.containerd.service.v1.diff-service']\ndefault = {default}\n\
                 [[plugins.'io.containerd.transfer.v1.local'.unpack_config]]\nsnapshotter = 'x'\ndiffer = 'own'\n"
            )
        };
        let why = wanted(&dump("['walking']"), Version(2, 1, 9), &["x"], &["own"]).unwrap_err();
        assert!(why.contains("\"x\"") && why.contains("\"own\""), "{why}");
        assert!(wanted(&dump("['own', 'walking']"), Version(2, 1, 9), &["x"], &["own"]).is_ok());
    }
}
