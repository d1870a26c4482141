//! A `hosts.toml` as containerd reads it (containerd, `docs/hosts.md` and `core/remotes/docker/config/hosts.go`).
//!
//! Keys that are not about reading are passed over, as containerd passes over those that it does not know. What
//! containerd refuses is refused here, too; but where containerd goes on without the file, nobody is asked.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use reqwest::{
    Url,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use serde::Deserialize;
use toml::{Spanned, Value};

use crate::{
    document::{Places, Problem, Problems, read},
    limits,
};

/// One host of the file, or the registry itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// Where its API begins, `scheme://host/v2`; none is the registry's own address.
    pub(super) server: Option<Url>,
    /// May be asked for content by its digest.
    pub(super) pull: bool,
    /// May be asked what a name stands for.
    pub(super) resolve: bool,
    /// May be asked what refers to a digest.
    pub(super) referrers: bool,
    /// Files with certificate authorities beside the system's.
    pub(super) ca: Vec<PathBuf>,
    /// A certificate for itself, and its key where that is in another file.
    pub(super) client: Option<(PathBuf, Option<PathBuf>)>,
    pub(super) skip_verify: Option<bool>,
    /// What every request carries. The values count as secrets.
    pub(super) header: HeaderMap,
}

/// The table of a host; the top of the file is the one of the registry itself.
#[derive(Default, Deserialize)]
struct Table {
    #[serde(default)]
    capabilities: Vec<Spanned<String>>,
    ca: Option<Spanned<Value>>,
    client: Option<Spanned<Value>>,
    skip_verify: Option<bool>,
    #[serde(default)]
    header: BTreeMap<Spanned<String>, Value>,
    #[serde(default)]
    override_path: bool,
}

#[derive(Deserialize)]
struct Hosts {
    server: Option<Spanned<String>>,
    #[serde(default)]
    host: BTreeMap<Spanned<String>, Table>,
}

impl Entry {
    /// The registry at its own address, for everything.
    pub(super) fn registry() -> Self {
        Self { pull: true, resolve: true, referrers: true, ..Self::default() }
    }
}

/// The hosts of `text`, the content of `file`, in the order of their headings; the registry itself is the last.
///
/// # Errors
/// Everything that is wrong with it, with the lines.
pub(super) fn parse(file: &Path, text: &str) -> Result<Vec<Entry>, Problems> {
    let name = file.display().to_string();
    let hosts: Hosts = read(&name, text).map_err(without_values)?;
    // The same text once more, so that a key which both readings need is read the same way.
    let top: Table = read(&name, text).map_err(without_values)?;
    let mut reading = Reading {
        places: Places::new(&name, text),
        beside: file.parent().unwrap_or(Path::new("/")),
        problems: Vec::new(),
    };
    let mut in_order: Vec<_> = hosts.host.iter().collect();
    // A host may have its headers before its own heading.
    let first = |table: &Table| table.header.keys().map(|name| name.span().start).min().unwrap_or(usize::MAX);
    in_order.sort_by_key(|(server, table)| server.span().start.min(first(table)));
    let mut entries: Vec<Entry> = in_order.iter().map(|(server, table)| reading.entry(Some(server), table)).collect();
    // Those that are too many are read as well, and not asked: only the registry itself must be.
    entries.truncate(limits::MIRRORS);
    let server = hosts.server.as_ref().filter(|server| !server.get_ref().is_empty());
    entries.push(reading.entry(server, &top));
    match reading.problems.is_empty() {
        true => Ok(entries),
        false => Err(Problems(reading.problems)),
    }
}

/// What is wrong without what stands there, which may be a password.
fn without_values(mut problems: Problems) -> Problems {
    for problem in &mut problems.0 {
        if problem.message.contains(['"', '`']) {
            let expected =
                problem.message.rsplit_once(", expected ").map(|(_, expected)| format!(": expected {expected}"));
            let expected = expected.filter(|expected| !expected.contains(['"', '`'])).unwrap_or_default();
            problem.message = format!("not what belongs there{expected}");
        }
    }
    problems
}

struct Reading<'a> {
    places: Places<'a>,
    beside: &'a Path,
    problems: Vec<Problem>,
}

impl Reading<'_> {
    fn entry(&mut self, server: Option<&Spanned<String>>, table: &Table) -> Entry {
        let server = server.and_then(|server| {
            let url = address(server.get_ref(), table.override_path);
            url.map_err(|why| self.problems.push(self.places.problem(server.span(), why))).ok()
        });
        let mut entry = Entry { server, skip_verify: table.skip_verify, ..Entry::default() };
        if table.capabilities.is_empty() {
            entry = Entry { pull: true, resolve: true, referrers: true, ..entry };
        }
        for capability in &table.capabilities {
            match capability.get_ref().to_lowercase().as_str() {
                "pull" => entry.pull = true,
                "resolve" => entry.resolve = true,
                "referrers" => entry.referrers = true,
                "push" => {}
                _ => {
                    let why = "no capability; known here: pull, resolve, push, referrers";
                    self.problems.push(self.places.problem(capability.span(), why));
                }
            }
        }
        if let Some(ca) = &table.ca {
            match strings(ca.get_ref()) {
                Some(files) => entry.ca = files.iter().map(|file| self.beside.join(file)).collect(),
                None => self.wrong(ca, "`ca` is a file or a list of files"),
            }
        }
        if let Some(client) = &table.client {
            match pairs(client.get_ref()).as_deref() {
                Some([]) => {}
                Some([(certificate, key)]) => {
                    let key = key.map(|key| self.beside.join(key));
                    entry.client = Some((self.beside.join(certificate), key));
                }
                Some(_) => self.wrong(client, "pullgate shows one certificate of its own to a host, not several"),
                None => self.wrong(client, "`client` is a file with certificate and key, or [[certificate, key]]"),
            }
        }
        for (name, value) in &table.header {
            if let Err(why) = self.header(&mut entry.header, name.get_ref(), value) {
                self.problems.push(self.places.problem(name.span(), why));
            }
        }
        entry
    }

    fn header(&self, headers: &mut HeaderMap, name: &str, value: &Value) -> Result<(), &'static str> {
        const OF_THE_CONNECTION: [&str; 6] =
            ["host", "connection", "content-length", "transfer-encoding", "accept", "accept-encoding"];
        let name: HeaderName = name.parse().map_err(|_| "not the name of a header")?;
        if OF_THE_CONNECTION.contains(&name.as_str()) {
            return Err("this header is not for a hosts.toml to set");
        }
        for value in strings(value).ok_or("a header is a text or a list of texts")? {
            // What is wrong with a value is not said with the value: it may be a password.
            let mut value = HeaderValue::from_str(value).map_err(|_| "not the value of a header")?;
            value.set_sensitive(true);
            headers.append(name.clone(), value);
        }
        Ok(())
    }

    fn wrong(&mut self, value: &Spanned<Value>, why: &str) {
        self.problems.push(self.places.problem(value.span(), why));
    }
}

/// The API's address as containerd makes it of what is written.
fn address(written: &str, override_path: bool) -> Result<Url, &'static str> {
    let with_scheme = match written.starts_with("http") || written.contains("://") {
        true => written.to_owned(),
        false => format!("https://{written}"),
    };
    let mut url = Url::parse(&with_scheme).map_err(|_| "not the address of a host")?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err("not the address of a host: https://NAME");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("an address has no credentials in it: they go to [credentials] in pullgate's config.toml");
    }
    let mut parts: Vec<&str> = url.path().split('/').filter(|part| !part.is_empty()).collect();
    if !override_path && parts.last() != Some(&"v2") {
        parts.push("v2");
    }
    let path = parts.join("/");
    url.set_path(&path);
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}

fn strings(value: &Value) -> Option<Vec<&str>> {
    match value {
        Value::String(text) => Some(vec![text]),
        Value::Array(values) => values.iter().map(Value::as_str).collect(),
        _ => None,
    }
}

fn pairs<'a>(value: &'a Value) -> Option<Vec<(&'a str, Option<&'a str>)>> {
    let pair = |value: &'a Value| match value {
        Value::String(both) => Some((both.as_str(), None)),
        Value::Array(pair) => match pair.as_slice() {
            [Value::String(certificate), Value::String(key)] => Some((certificate.as_str(), Some(key.as_str()))),
            _ => None,
        },
        _ => None,
    };
    match value {
        Value::Array(values) => values.iter().map(pair).collect(),
        one => pair(one).filter(|_| one.is_str()).map(|pair| vec![pair]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(text: &str) -> Result<Vec<Entry>, Problems> {
        parse(Path::new("/etc/containerd/certs.d/reg.io/hosts.toml"), text)
    }

    fn servers(text: &str) -> Vec<Option<String>> {
        entries(text).unwrap().into_iter().map(|entry| entry.server.map(String::from)).collect()
    }

    #[test]
    fn hosts_stand_in_the_order_of_the_file_and_the_registry_is_last() {
        let text = "server = \"https://up.io\"\n[host.\"https://z.io\"]\n[host.\"http://a.io:5000\".header]\nx = \"y\"\n\
                    [host.\"m.io\"]\n[host.\"http://a.io:5000\"]\nskip_verify = true\n";
        let expected = ["https://z.io/v2", "http://a.io:5000/v2", "https://m.io/v2", "https://up.io/v2"]
            .map(|url| Some(url.to_owned()));
        assert_eq!(servers(text), expected);
        assert_eq!(servers("[host.\"m.io\"]"), [Some("https://m.io/v2".to_owned()), None]);
        assert_eq!(entries("").unwrap(), [Entry::registry()]);
        assert_eq!(servers("server = \"\""), [None]);
    }

    #[test]
    fn the_address_of_the_api_is_the_one_that_containerd_makes() {
        for (written, override_path, expected) in [
            ("https://reg.io", false, "https://reg.io/v2"),
            ("reg.io:5000", false, "https://reg.io:5000/v2"),
            ("http://reg.io/", false, "http://reg.io/v2"),
            ("https://reg.io/v2", false, "https://reg.io/v2"),
            ("https://reg.io/v2/", false, "https://reg.io/v2"),
            ("https://reg.io/a//b/../c", false, "https://reg.io/a/c/v2"),
            ("https://reg.io/a", true, "https://reg.io/a"),
            ("https://reg.io", true, "https://reg.io/"),
            ("https://[::1]:5000", false, "https://[::1]:5000/v2"),
        ] {
            assert_eq!(address(written, override_path).unwrap().as_str(), expected, "{written}");
        }
    }

    #[test]
    fn every_form_of_a_value_is_read() {
        let entry = |text: &str| entries(text).unwrap().remove(0);
        let found =
            entry("ca = \"ca.pem\"\nclient = \"/both.pem\"\ncapabilities = [\"Pull\", \"push\"]\nskip_verify = false");
        assert_eq!(found.ca, [Path::new("/etc/containerd/certs.d/reg.io/ca.pem")]);
        assert_eq!(found.client, Some(("/both.pem".into(), None)));
        assert_eq!((found.pull, found.resolve, found.referrers, found.skip_verify), (true, false, false, Some(false)));
        let found =
            entry("ca = [\"/a\", \"/b\"]\nclient = [[\"/c\", \"k\"]]\n[header]\nx-a = \"1\"\nx-b = [\"2\", \"3\"]");
        assert_eq!(found.ca.len(), 2);
        assert_eq!(found.client, Some(("/c".into(), Some("/etc/containerd/certs.d/reg.io/k".into()))));
        assert_eq!(found.header.get_all("x-b").iter().count(), 2);
        assert!(!format!("{found:?}").contains('3'), "{found:?}");
        assert_eq!(entry("client = [\"/c\"]").client, Some(("/c".into(), None)));
        assert!(entry("dial_timeout = \"1s\"\nunknown = 1").pull, "what is not about reading is passed over");
    }

    #[test]
    fn as_many_mirrors_are_asked_as_there_is_time_for() {
        let many: String = (0..=limits::MIRRORS).map(|number| format!("[host.\"m{number}.io\"]\n")).collect();
        let found = servers(&many);
        assert_eq!(found.len(), limits::MIRRORS + 1);
        assert_eq!((found[0].as_deref(), found.last().unwrap()), (Some("https://m0.io/v2"), &None));
    }

    #[test]
    fn mistakes_name_the_line() {
        for (text, why) in [
            ("server = ", "hosts.toml:1:"),
            ("server = 5", "hosts.toml:1:10: "),
            ("\nserver = \"ftp://x\"", "hosts.toml:2:10: not the address of a host"),
            ("server = \"https://u:hunter2@reg.io\"", "hosts.toml:1:10: an address has no credentials"),
            ("[host.\"m.io\"]\ncapabilities = [\"pul\"]", "hosts.toml:2:17: no capability"),
            ("ca = 5", "hosts.toml:1:6: `ca` is"),
            ("ca = [5]", "hosts.toml:1:6: `ca` is"),
            ("client = [[\"a\"]]", "hosts.toml:1:10: `client` is"),
            ("client = [\"a\", \"b\"]", "hosts.toml:1:10: pullgate shows one"),
            ("[header]\n\"a b\" = \"hunter2\"", "hosts.toml:2:1: not the name"),
            ("[header]\na = \"hunter2\\n\"", "hosts.toml:2:1: not the value"),
            ("[header]\na = 5", "hosts.toml:2:1: a header is"),
            ("[header]\nHost = \"evil.io\"", "hosts.toml:2:1: this header"),
            ("[host.\"m.io\"]\n[host.\"m.io\"]", "hosts.toml:2:"),
        ] {
            let told = entries(text).unwrap_err().to_string();
            assert!(told.contains(why), "{told}\n{why}");
            assert!(!told.contains("hunter2"), "{told}");
        }
    }

    #[test]
    fn no_mistake_is_told_with_what_may_be_a_secret() {
        for text in [
            "header = \"hunter2\"",
            "header = [\"hunter2\"]",
            "[header]\nx = hunter2",
            "[header]\nx = \"hunter2",
            "[header]\nx = \"hunter2\" hunter2",
            "[header]\nx = \"hunter2\"\nx = \"hunter2\"",
            "header.x = \"hunter2\\q\"",
            "host = \"hunter2\"",
            "override_path = \"hunter2\"",
        ] {
            let told = entries(text).unwrap_err().to_string();
            assert!(told.contains("hosts.toml:") && !told.contains("hunter2"), "{told}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_file_is_a_panic(text in r#"(server|host|ca|client|header|capabilities| = |\[|\]|"|\.|https://|a|\n|\PC){0,40}"#) {
            let _ = entries(&text);
        }
    }
}
