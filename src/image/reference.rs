//! Names: registry hosts, repositories and references, in one canonical spelling.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits;

/// A registry's host, and port where it is not 443, in its canonical spelling: lower case, without
/// the default port and a trailing dot, Docker Hub's aliases folded into `docker.io`.
///
/// A rule and a request that mean the same registry therefore always compare equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Host(String);

/// A repository: a registry and a path in it. Rules govern repositories.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Repository {
    /// The registry.
    pub host: Host,
    /// The path, such as `library/busybox`.
    pub path: String,
}

/// A name of an image: a repository with a tag, a digest, both or neither.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    /// The repository.
    pub repository: Repository,
    /// The tag as it was written.
    pub tag: Option<String>,
    /// The digest as it was written.
    pub digest: Option<super::Digest>,
}

/// Why a text is not the name of an image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadReference(&'static str);

const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_ALIASES: [&str; 3] = ["index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"];

impl Host {
    /// The host name or address without the port, and without the brackets of an IPv6 address.
    pub fn name(&self) -> &str {
        let (name, _) = split_port(&self.0);
        name.trim_start_matches('[').trim_end_matches(']')
    }

    /// The port, where it is not the default.
    pub fn port(&self) -> Option<u16> {
        split_port(&self.0).1.and_then(|port| port.parse().ok())
    }

    /// Whether the name alone says that this is the node itself: a loopback address or `localhost`.
    pub fn is_loopback(&self) -> bool {
        match self.name().parse::<IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => self.name() == "localhost" || self.name().ends_with(".localhost"),
        }
    }

    /// The host as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') && (!name.contains(':') || name.ends_with(']')) => (name, Some(port)),
        _ => (host, None),
    }
}

impl FromStr for Host {
    type Err = BadReference;

    fn from_str(text: &str) -> Result<Self, BadReference> {
        const BAD: BadReference = BadReference("not a registry host (name or address, with an optional port)");
        if text.is_empty() || text.len() > 255 {
            return Err(BAD);
        }
        let lower = text.to_ascii_lowercase();
        let (name, port) = split_port(&lower);
        let name = name.strip_suffix('.').unwrap_or(name);
        let port = match port {
            None => None,
            Some(port) if port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit()) => {
                Some(port.parse::<u16>().ok().filter(|port| *port != 0).ok_or(BAD)?)
            }
            Some(_) => return Err(BAD),
        };
        let address = name
            .strip_prefix('[')
            .and_then(|inner| inner.strip_suffix(']'))
            .map(|inner| inner.parse::<std::net::Ipv6Addr>());
        let name = match address {
            Some(Ok(address)) => format!("[{address}]"),
            Some(Err(_)) => return Err(BAD),
            None if is_dns_name(name) => name.to_owned(),
            None => return Err(BAD),
        };
        let name = if DOCKER_HUB_ALIASES.contains(&name.as_str()) { DOCKER_HUB.to_owned() } else { name };
        Ok(Self(match port {
            None | Some(443) => name,
            Some(port) => format!("{name}:{port}"),
        }))
    }
}

fn is_dns_name(name: &str) -> bool {
    !name.is_empty()
        && name.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Repository {
    /// The repository `path` at `host`.
    ///
    /// # Errors
    /// When the path is not one that the distribution specification allows ("Pulling manifests").
    pub fn new(host: Host, path: &str) -> Result<Self, BadReference> {
        if path.len() > 255 || !path.split('/').all(is_path_component) {
            return Err(BadReference("not a repository path (lower-case letters, digits, '.', '_', '-' and '/')"));
        }
        Ok(Self { host, path: path.to_owned() })
    }

    /// Docker Hub keeps its official images under library/, also when the host was written.
    fn in_library(self) -> Self {
        match self.host.0 == DOCKER_HUB && !self.path.contains('/') {
            true => Self { path: format!("library/{}", self.path), ..self },
            false => self,
        }
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*` of the distribution specification.
fn is_path_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let ends = bytes.first().zip(bytes.last());
    if !ends.is_some_and(|(first, last)| alphanumeric(*first) && alphanumeric(*last)) {
        return false;
    }
    bytes
        .split(|b| alphanumeric(*b))
        .filter(|separator| !separator.is_empty())
        .all(|separator| matches!(separator, b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-'))
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.path)
    }
}

impl FromStr for Repository {
    type Err = BadReference;

    fn from_str(text: &str) -> Result<Self, BadReference> {
        let (host, path) = text.split_once('/').ok_or(BadReference("not a repository (host/path)"))?;
        Self::new(host.parse()?, path)
    }
}

impl Serialize for Repository {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Repository {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Reference {
    /// Reads a name as containerd does when it fetches: what stands before the first slash is the registry's host, whatever
    /// it looks like.
    ///
    /// # Errors
    /// When it has no host, or is not a name that pullgate knows.
    pub fn as_fetched(text: &str) -> Result<Self, BadReference> {
        let (rest, tag, digest) = split(text)?;
        let repository: Repository = rest.parse()?;
        Ok(Self { repository: repository.in_library(), tag, digest })
    }
}

impl FromStr for Reference {
    type Err = BadReference;

    /// Reads a name as a person writes it: `busybox` is `docker.io/library/busybox`, as everywhere else.
    fn from_str(text: &str) -> Result<Self, BadReference> {
        let (rest, tag, digest) = split(text)?;
        let repository = match rest.split_once('/') {
            Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => {
                Repository::new(host.parse()?, path)?
            }
            _ => Repository::new(Host(DOCKER_HUB.to_owned()), rest)?,
        };
        Ok(Self { repository: repository.in_library(), tag, digest })
    }
}

/// A name without its tag and digest, and these.
fn split(text: &str) -> Result<(&str, Option<String>, Option<super::Digest>), BadReference> {
    if text.is_empty() || text.len() > limits::REFERENCE_CHARS {
        return Err(BadReference("empty, or too long for the name of an image"));
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => {
            (rest, Some(digest.parse().map_err(|_| BadReference("the digest is not sha256:<64 hexadecimal digits>"))?))
        }
        None => (text, None),
    };
    let (rest, tag) = match rest.rsplit_once(':') {
        Some((rest, tag)) if !tag.contains('/') && !tag.contains(']') => (rest, Some(tag)),
        _ => (rest, None),
    };
    // `localhost:5000` alone would read as a repository with a tag, which is what everybody else does too.
    let tag = match tag {
        Some(tag) if is_tag(tag) => Some(tag.to_owned()),
        Some(_) => return Err(BadReference("not a tag (letters, digits, '_', '.', '-', at most 128)")),
        None => None,
    };
    Ok((rest, tag, digest))
}

fn is_tag(tag: &str) -> bool {
    (1..=128).contains(&tag.len())
        && tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        && !tag.starts_with(['.', '-'])
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// `text` made harmless for a terminal, a log line and a person: control, format and bidirectional
/// characters become `?`, and what is longer than `chars` characters ends in `…`.
pub fn sanitize(text: &str, chars: usize) -> String {
    let hostile = |c: char| {
        c.is_control()
            || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
            || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
    };
    let mut clean: String = text.chars().take(chars).map(|c| if hostile(c) { '?' } else { c }).collect();
    if text.chars().nth(chars).is_some() {
        clean.pop();
        clean.push('…');
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Option<String> {
        text.parse::<Host>().ok().map(|host| host.to_string())
    }

    #[test]
    fn hosts_that_mean_the_same_registry_are_equal() {
        for text in
            ["reg.example.com", "REG.Example.com", "reg.example.com:443", "reg.example.com.", "reg.example.com.:0443"]
        {
            assert_eq!(host(text).as_deref(), Some("reg.example.com"), "{text}");
        }
        for text in ["docker.io", "index.docker.io", "registry-1.docker.io:443", "Docker.IO."] {
            assert_eq!(host(text).as_deref(), Some("docker.io"), "{text}");
        }
        assert_eq!(host("[0:0::1]:5000").as_deref(), Some("[::1]:5000"));
        assert_eq!(host("reg.example.com:05000").as_deref(), Some("reg.example.com:5000"));
    }

    #[test]
    fn another_port_is_another_registry() {
        assert_ne!(host("reg.example.com:8443"), host("reg.example.com"));
    }

    #[test]
    fn what_is_not_a_host_does_not_parse() {
        for text in [
            "",
            ".",
            "..",
            "a..b",
            "a b",
            "a/b",
            "-a",
            "a-.b",
            "a:b",
            "a:0",
            "a:65536",
            "a:+80",
            "[::g]",
            "::1",
            "a@b",
            "a\u{202e}b",
        ] {
            assert_eq!(host(text), None, "{text}");
        }
    }

    #[test]
    fn references_read_as_people_write_them() {
        let digest = super::super::Digest::of(b"x");
        for (text, canonical) in [
            ("busybox", "docker.io/library/busybox".to_owned()),
            ("busybox:1.36", "docker.io/library/busybox:1.36".to_owned()),
            ("index.docker.io/busybox", "docker.io/library/busybox".to_owned()),
            ("grafana/grafana", "docker.io/grafana/grafana".to_owned()),
            ("127.0.0.1:5000/a/b:v1", "127.0.0.1:5000/a/b:v1".to_owned()),
            ("localhost/a", "localhost/a".to_owned()),
            ("REG.io:443/a__b/c-----d:T", "reg.io/a__b/c-----d:T".to_owned()),
            (&format!("reg.io/a:v1@{digest}"), format!("reg.io/a:v1@{digest}")),
        ] {
            assert_eq!(text.parse::<Reference>().map(|r| r.to_string()), Ok(canonical), "{text}");
        }
        for text in [
            "",
            "reg.io/",
            "reg.io/A",
            "reg.io/a//b",
            "reg.io/../b",
            "reg.io/a:-x",
            "reg.io/a@sha256:00",
            "reg.io/a___b",
            "reg.io/a.-b",
            "a b",
            "reg.io/a:",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_reference_is_bounded() {
        assert!(Repository::from_str(&format!("reg.io/{}", "a".repeat(255))).is_ok());
        assert!(Repository::from_str(&format!("reg.io/{}", "a".repeat(256))).is_err());
        let digest = super::super::Digest::of(b"x");
        let fits = format!("{}.io/{}:{}@{digest}", "h".repeat(60), "a".repeat(180), "t".repeat(128));
        let room = limits::REFERENCE_CHARS - fits.len();
        assert!(fits.replacen('h', &"h".repeat(room + 1), 1).parse::<Reference>().is_ok());
        assert!(fits.replacen('h', &"h".repeat(room + 2), 1).parse::<Reference>().is_err());
    }

    #[test]
    fn hostile_text_is_harmless() {
        assert_eq!(sanitize("a\u{1b}[31m\u{202e}b\nc", 40), "a?[31m?b?c");
        assert_eq!(sanitize("abcdef", 4), "abc…");
        assert_eq!(sanitize("abcd", 4), "abcd");
    }
}
