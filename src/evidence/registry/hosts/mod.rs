//! Who is asked for a registry: containerd's `certs.d`, read as containerd reads it, so that evidence comes from where
//! images come from.
//!
//! | the directory has | who is asked |
//! |---|---|
//! | `hosts.toml` | its hosts in their order, then `server`, or where it names none the registry itself |
//! | `*.crt`, `*.cert`, `*.key` | the registry itself, with these certificates (docker's layout) |
//! | nothing, or it is not there | the registry itself |
//!
//! Files are looked at whenever a registry is asked, and read again once they changed. One that cannot be read means
//! that nobody is asked: never the registry itself with other trust.

mod file;

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use reqwest::{Url, header::HeaderMap};

use self::file::Entry;
use super::trust::Trust;
use crate::{
    evidence::Cause,
    files::{self, Fingerprint},
    image::Host,
    limits,
};

/// The directories, and what was last read in them.
pub(super) struct Hosts {
    directories: Vec<PathBuf>,
    skip_verify: Vec<Host>,
    known: Mutex<HashMap<Host, Known>>,
}

/// What is configured for one registry.
pub(super) struct Configured {
    /// Whether the directory bears the registry's name, so that root named it.
    pub(super) named: bool,
    /// Never empty; the last is the registry itself.
    pub(super) hosts: Vec<ConfiguredHost>,
}

/// One host that is asked for a registry.
pub(super) struct ConfiguredHost {
    /// Where its API begins; none is the registry's own address.
    pub(super) server: Option<Url>,
    pub(super) pull: bool,
    pub(super) resolve: bool,
    pub(super) referrers: bool,
    pub(super) trust: Arc<Trust>,
    pub(super) header: HeaderMap,
}

type Found = Result<Option<Arc<Configured>>, String>;

/// What was read, and how the files looked then.
struct Known {
    seen: Vec<(PathBuf, Option<Fingerprint>)>,
    found: Found,
}

impl Hosts {
    pub(super) fn new(directories: Vec<PathBuf>, skip_verify: Vec<Host>) -> Self {
        Self { directories, skip_verify, known: Mutex::default() }
    }

    /// What is configured for the registry `host`; none if nothing is.
    pub(super) async fn of(self: &Arc<Self>, host: &Host) -> Result<Option<Arc<Configured>>, Cause> {
        if self.directories.is_empty() {
            return Ok(None);
        }
        let (hosts, host) = (self.clone(), host.clone());
        let looking = tokio::task::spawn_blocking(move || hosts.look(&host));
        let found = looking.await.unwrap_or_else(|error| Err(error.to_string()));
        found.map_err(Cause::HostsUnreadable)
    }

    fn look(&self, host: &Host) -> Found {
        let unchanged = |known: &Known| known.seen.iter().all(|(path, print)| files::fingerprint(path) == *print);
        let lock = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lock().get(host).map(|known| Known { seen: known.seen.clone(), found: known.found.clone() });
        if let Some(known) = known.filter(unchanged) {
            return known.found;
        }
        let mut reading = Reading { hosts: self, seen: Vec::new() };
        let found = reading.read(host);
        let fresh = Known { seen: reading.seen, found: found.clone() };
        let mut known = lock();
        if known.len() >= limits::REGISTRY_HABITS {
            // Names are invented faster than they are forgotten one by one.
            known.clear();
        }
        known.insert(host.clone(), fresh);
        found
    }
}

struct Reading<'a> {
    hosts: &'a Hosts,
    seen: Vec<(PathBuf, Option<Fingerprint>)>,
}

impl Reading<'_> {
    fn read(&mut self, host: &Host) -> Found {
        for root in &self.hosts.directories {
            for (name, named) in names(host) {
                let directory = root.join(name);
                self.note(&directory);
                match fs::metadata(&directory) {
                    Ok(_) => return self.directory(&directory, host, named).map(|hosts| Some(Arc::new(hosts))),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(format!("{}: {error}", directory.display())),
                }
            }
        }
        Ok(None)
    }

    fn directory(&mut self, directory: &Path, host: &Host, named: bool) -> Result<Configured, String> {
        let path = directory.join("hosts.toml");
        self.note(&path);
        let text = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            _ => files::read_trusted(&path, limits::HOSTS_FILE_BYTES)
                .map_err(|why| format!("{}: {why}", path.display()))?,
        };
        let mut entries = match text.is_empty() {
            true => vec![self.certificates(directory)?],
            false => file::parse(&path, &text).map_err(|problems| problems.first())?,
        };
        if let Some(registry) = entries.last_mut().filter(|registry| registry.server.is_none()) {
            // The registry's own address is asked for everything.
            (registry.pull, registry.resolve, registry.referrers) = (true, true, true);
            if !named {
                // They were issued for some host; which, a directory for all of them does not say.
                registry.header.clear();
                registry.client = None;
            }
        }
        let hosts = entries.into_iter().map(|entry| self.host(entry, host)).collect::<Result<_, _>>()?;
        Ok(Configured { named, hosts })
    }

    /// Docker's layout: what certificates there are.
    fn certificates(&mut self, directory: &Path) -> Result<Entry, String> {
        let mut entry = Entry { ca: files::in_directory(directory, "crt"), ..Entry::registry() };
        let mut clients = files::in_directory(directory, "cert").into_iter();
        entry.client = clients.next().map(|certificate| {
            let key = certificate.with_extension("key");
            self.note(&key);
            let key = fs::symlink_metadata(&key).is_ok().then_some(key);
            (certificate, key)
        });
        match clients.next() {
            None => Ok(entry),
            Some(second) => {
                Err(format!("{}: pullgate shows one certificate of its own to a host, not several", second.display()))
            }
        }
    }

    fn host(&mut self, entry: Entry, registry: &Host) -> Result<ConfiguredHost, String> {
        let host = match &entry.server {
            None => registry.clone(),
            Some(url) => super::address::host_of(url).map_err(|cause| cause.to_string())?,
        };
        let mut trust = Trust::default();
        if entry.ca.len() > limits::HOST_AUTHORITIES {
            let (path, most) = (entry.ca[limits::HOST_AUTHORITIES].display(), limits::HOST_AUTHORITIES);
            return Err(format!("{path}: more than {most} files with certificate authorities"));
        }
        for path in &entry.ca {
            let pem = self.pem(path)?;
            trust.add_authorities(&pem).map_err(|why| format!("{}: {why}", path.display()))?;
        }
        if let Some((certificate, key)) = &entry.client {
            let mut pem = self.pem(certificate)?;
            if let Some(key) = key {
                pem.push('\n');
                pem += &self.pem(key)?;
            }
            trust.set_identity(&pem).map_err(|why| format!("{}: {why}", certificate.display()))?;
        }
        trust.skip_verify = entry.skip_verify == Some(true) && self.hosts.skip_verify.contains(&host);
        let Entry { server, pull, resolve, referrers, header, .. } = entry;
        Ok(ConfiguredHost { server, pull, resolve, referrers, trust: Arc::new(trust.sealed()), header })
    }

    fn pem(&mut self, path: &Path) -> Result<String, String> {
        self.note(path);
        files::read_trusted(path, limits::CERTIFICATE_BYTES).map_err(|why| format!("{}: {why}", path.display()))
    }

    fn note(&mut self, path: &Path) {
        self.seen.push((path.to_owned(), files::fingerprint(path)));
    }
}

/// The names of the directories that may be about `host`, and whether they bear its name.
///
/// `_` stands for the colon before a port and ends the port, so that a host which is spelt with one at an end could
/// claim the directory of another, or the one for all.
fn names(host: &Host) -> impl Iterator<Item = (String, bool)> {
    let text = host.as_str();
    let ports = text.rsplit_once(':').filter(|_| host.port().is_some()).map(|(name, port)| format!("{name}_{port}_"));
    let spoofs = text.starts_with('_') || text.ends_with('_');
    let own = (!spoofs).then(|| text.to_owned());
    ports.into_iter().chain(own).map(|name| (name, true)).chain([("_default".to_owned(), false)])
}

#[cfg(test)]
mod tests;
