//! Which registry and repositories a credential is for, as the kubelet writes it (Kubernetes, `matchImages`):
//! `*.dkr.ecr.*.amazonaws.com`, `reg.io:5000/team`.
//!
//! A path ends at a component here, so that what is for `reg.io/team` is not for `reg.io/teammate`: the kubelet is laxer.

use crate::image::Host;

/// Such a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    labels: Vec<String>,
    port: Option<u16>,
    path: String,
}

impl Pattern {
    /// Reads `text`; none if it is no such pattern.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text);
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = path.trim_matches('/');
        // What docker writes behind the host of a registry is the version of an API, no repository.
        let path = if matches!(path, "v1" | "v2") { "" } else { path };
        let host: Host = authority.replace('*', WILD).parse().ok()?;
        let labels: Vec<String> = host.name().split('.').map(|label| label.replace(WILD, "*")).collect();
        Some(Self { labels, port: host.port(), path: path.to_owned() })
    }

    /// Whether the repository `path` at `host` is among those that are meant.
    pub(super) fn matches(&self, host: &Host, path: &str) -> bool {
        let labels: Vec<&str> = host.name().split('.').collect();
        let same = self.labels.len() == labels.len()
            && self.labels.iter().zip(labels).all(|(pattern, label)| is_like(pattern, label));
        let below = path.strip_prefix(self.path.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        same && self.port == host.port() && (self.path.is_empty() || below)
    }

    /// The one of several that match which counts: the longer path, then the host without wildcards, then the longer one.
    pub(super) fn weight(&self) -> (usize, bool, usize) {
        let host: usize = self.labels.iter().map(|label| label.len()).sum();
        (self.path.len(), !self.labels.iter().any(|label| label.contains('*')), host)
    }
}

/// A label that stands for `*` while the rest is read as a host; too long to be one of a name.
const WILD: &str = "xn--pullgate-any-label-0123456789-0123456789-0123456789-0123456789";

/// Whether `label` is what `pattern` says, in which `*` is any part.
fn is_like(pattern: &str, label: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == label };
    let Some(mut left) = label.strip_prefix(first) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return left.ends_with(part);
        }
        match left.find(part) {
            Some(at) => left = &left[at + part.len()..],
            None => return false,
        }
    }
    true
}

/// Of `all` the value whose pattern is the closest to the repository `path` at `host`.
pub(super) fn closest<'a, T>(
    all: impl IntoIterator<Item = (&'a String, T)>,
    host: &Host,
    path: &str,
) -> Option<(&'a str, T)> {
    all.into_iter()
        .filter_map(|(text, value)| Some((Pattern::parse(text)?, text, value)))
        .filter(|(pattern, ..)| pattern.matches(host, path))
        .max_by(|(one, a, _), (other, b, _)| one.weight().cmp(&other.weight()).then_with(|| b.cmp(a)))
        .map(|(_, text, value)| (text.as_str(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_means_its_hosts_and_what_is_below_its_path() {
        for (pattern, repository, expected) in [
            ("reg.io", "reg.io/a", true),
            ("https://REG.io/v2/", "reg.io/a", true),
            ("https://index.docker.io/v1/", "docker.io/library/x", true),
            ("docker.io", "docker.io/library/x", true),
            ("reg.io", "reg.io:5000/a", false),
            ("reg.io:443", "reg.io/a", true),
            ("reg.io:5000", "reg.io:5000/a", true),
            ("*.reg.io", "eu.reg.io/a", true),
            ("*.reg.io", "reg.io/a", false),
            ("*.reg.io", "a.b.reg.io/a", false),
            ("*.reg.io", "evil.io/reg.io", false),
            ("*.dkr.ecr.*.amazonaws.com", "12.dkr.ecr.eu-1.amazonaws.com/x", true),
            ("*.dkr.ecr.*.amazonaws.com", "12.dkr.ecr.eu-1.amazonaws.com.evil.io/x", false),
            ("*.azurecr.*", "me.azurecr.io/x", true),
            ("gcr*.io", "gcrx.io/x", true),
            ("a*b*c.io", "axbyc.io/x", true),
            ("a*b*c.io", "axcyb.io/x", false),
            ("*", "localhost/x", true),
            ("*", "reg.io/x", false),
            ("reg.io/team", "reg.io/team", true),
            ("reg.io/team", "reg.io/team/app", true),
            ("reg.io/team/", "reg.io/team/app", true),
            ("reg.io/team", "reg.io/teammate/app", false),
            ("reg.io/team/app", "reg.io/team", false),
            ("[::1]:5000", "[::1]:5000/a", true),
        ] {
            let (host, path) = repository.split_once('/').unwrap();
            let matches = Pattern::parse(pattern).unwrap().matches(&host.parse().unwrap(), path);
            assert_eq!(matches, expected, "{pattern} {repository}");
        }
        for pattern in ["", "/", "a b", "https://", "reg.io:x", "u:p@reg.io"] {
            assert_eq!(Pattern::parse(pattern), None, "{pattern}");
        }
    }

    #[test]
    fn the_closest_counts() {
        let all = ["*.io", "reg.io", "reg.io/team", "reg.io/team/app", "other.io/team/app/x"].map(str::to_owned);
        let found =
            |path: &str| closest(all.iter().map(|text| (text, ())), &"reg.io".parse().unwrap(), path).unwrap().0;
        assert_eq!(found("a"), "reg.io");
        assert_eq!(found("team/b"), "reg.io/team");
        assert_eq!(found("team/app/x"), "reg.io/team/app");
    }

    proptest::proptest! {
        #[test]
        fn no_pattern_is_a_panic(text in r#"(https://|\*|\.|/|:|\[|\]|@|a|\PC){0,20}"#, label in r#"[a-c*]{0,6}"#) {
            let host = "a.b.c".parse().unwrap();
            let _ = Pattern::parse(&text).map(|pattern| pattern.matches(&host, "é/x"));
            let _ = is_like(&label, "abcabc");
        }
    }
}
