//! Which images, nodes, Kubernetes namespaces and service accounts a rule is about, and which of two rules is the narrower one.

use std::{cmp::Ordering, collections::BTreeMap, fmt, str::FromStr};

use crate::{
    document::reader::quoted,
    image::{Host, Repository},
};

/// A pattern over repositories: literal, or ending in `*` (within one path component) or `**` (anything).
///
/// All patterns that match one name are nested, so that "the most specific" is always defined.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pattern {
    /// None for `**`, which matches every repository of every registry.
    host: Option<Host>,
    prefix: String,
    ending: Ending,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Ending {
    Anything,
    Component,
    Literal,
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it, and what to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (prefix, ending) = match (text.strip_suffix("**"), text.strip_suffix('*')) {
            (Some(prefix), _) => (prefix, Ending::Anything),
            (None, Some(prefix)) => (prefix, Ending::Component),
            (None, None) => (text, Ending::Literal),
        };
        if prefix.contains('*') {
            return Err("a `*` stands only at the end; write several patterns instead".into());
        }
        if prefix.is_empty() {
            return match ending {
                Ending::Anything => Ok(Self { host: None, prefix: String::new(), ending }),
                _ => Err("a pattern begins with a registry host; `**` alone matches every image".into()),
            };
        }
        let Some((host, path)) = prefix.split_once('/') else {
            return Err(format!("no repository after the registry host; write {}", quoted(&format!("{prefix}/…"))));
        };
        let host: Host = host.parse().map_err(|e| format!("{}: {e}", quoted(host)))?;
        if path.contains('@') || path.contains(':') {
            return Err("rules govern repositories: leave out the tag or digest (digests go into `[[exempt]]`)".into());
        }
        // What stands before a wildcard is the beginning of a path, which any letter completes.
        let completed = match ending {
            Ending::Literal => path.to_owned(),
            _ => format!("{path}x"),
        };
        let completed = Repository::new(host.clone(), &completed).map_err(|e| format!("{}: {e}", quoted(path)))?;
        // `docker.io/busybox` is only another way to write it, and no image's name: see `Reference`.
        if host.as_str() == "docker.io" && !completed.path.contains('/') && ending != Ending::Anything {
            return Err(format!(
                "Docker Hub keeps these under library/: write `docker.io/library/{}`",
                &text[text.find('/').map_or(0, |i| i + 1)..]
            ));
        }
        Ok(Self { host: Some(host), prefix: path.to_owned(), ending })
    }

    /// Whether `repository` is one of those that this pattern means.
    pub fn matches(&self, repository: &Repository) -> bool {
        let Some(host) = &self.host else { return true };
        let Some(rest) = repository.path.strip_prefix(self.prefix.as_str()) else { return false };
        *host == repository.host
            && match self.ending {
                Ending::Literal => rest.is_empty(),
                Ending::Component => !rest.is_empty() && !rest.contains('/'),
                Ending::Anything => !rest.is_empty(),
            }
    }

    /// The registry, unless the pattern is about every registry.
    pub fn host(&self) -> Option<&Host> {
        self.host.as_ref()
    }

    /// Whether every repository that `other` means is one that this pattern means.
    pub fn covers(&self, other: &Self) -> bool {
        if self.is_everything() || self == other {
            return true;
        }
        let Some(rest) = other.prefix.strip_prefix(self.prefix.as_str()) else { return false };
        self.host == other.host
            && match (self.ending, other.ending) {
                (Ending::Literal, _) => false,
                (Ending::Component, Ending::Anything) => false,
                (Ending::Component, _) => {
                    !rest.contains('/') && (!rest.is_empty() || other.ending == Ending::Component)
                }
                (Ending::Anything, Ending::Literal) => !rest.is_empty(),
                (Ending::Anything, _) => true,
            }
    }

    /// Whether some repository is meant by both.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.covers(other) || other.covers(self) || {
            // `a*` and `a/**` have nothing in common, `a*` and `ab**` what begins with `ab` in one component.
            let (short, long) = if self.prefix.len() <= other.prefix.len() { (self, other) } else { (other, self) };
            self.host == other.host
                && short.ending == Ending::Component
                && long.ending == Ending::Anything
                && long.prefix.strip_prefix(short.prefix.as_str()).is_some_and(|rest| !rest.contains('/'))
        }
    }

    /// Whether what stands before the wildcard ends within a word, so that longer words are meant as well.
    pub fn ends_within_a_word(&self) -> bool {
        self.ending != Ending::Literal && !self.prefix.is_empty() && !self.prefix.ends_with('/')
    }

    /// By which patterns are listed for a person: by registry and path, the narrower of two nested ones first.
    pub fn reading_order(&self) -> (bool, String, String, u8) {
        let host = self.host.as_ref().map(ToString::to_string).unwrap_or_default();
        let ending = match self.ending {
            Ending::Literal => 0,
            Ending::Component => 1,
            Ending::Anything => 2,
        };
        // What goes on comes before what ends here.
        (self.is_everything(), host, format!("{}\u{10ffff}", self.prefix), ending)
    }

    /// Whether it matches every image, also one that came without a name.
    pub fn is_everything(&self) -> bool {
        self.host.is_none()
    }

    /// What stands before the wildcard in the path; the whole path where there is none.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Greater is narrower, for two patterns that match one name.
    pub(super) fn narrowness(&self) -> (bool, usize, Ending) {
        (self.host.is_some(), self.prefix.len(), self.ending)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(host) = &self.host {
            write!(f, "{host}/")?;
        }
        f.write_str(&self.prefix)?;
        f.write_str(match self.ending {
            Ending::Literal => "",
            Ending::Component => "*",
            Ending::Anything => "**",
        })
    }
}

/// Which tags of the repositories that a pattern means are admitted: one, or all that begin alike.
///
/// It only restricts. The rule governs the repository whatever the tag is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TagPattern {
    prefix: String,
    any_end: bool,
}

impl TagPattern {
    /// Reads a tag, or the beginning of one and `*`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (prefix, any_end) = text.strip_suffix('*').map_or((text, false), |prefix| (prefix, true));
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        let begins =
            prefix.is_empty() && any_end || prefix.bytes().next().is_some_and(|b| plain(b) && b != b'.' && b != b'-');
        match begins && prefix.len() <= 128 && prefix.bytes().all(plain) {
            true => Ok(Self { prefix: prefix.to_owned(), any_end }),
            false => Err("not a tag, or the beginning of one and `*`".into()),
        }
    }

    /// Whether `tag` is one of those that it means.
    pub fn matches(&self, tag: &str) -> bool {
        if self.any_end { tag.starts_with(&self.prefix) } else { tag == self.prefix }
    }
}

impl fmt::Display for TagPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.prefix, if self.any_end { "*" } else { "" })
    }
}

/// What a label of a node is.
pub(crate) const LABEL: &str =
    "not a label (1 to 128 letters, digits, `-`, `_`, `.` or `/`, and a value of at most 63 without `/`)";

/// Whether `label` and `value` are what a node can have: what looks alike and is not would select another rule.
pub(crate) fn is_label(label: &str, value: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=128).contains(&label.len())
        && label.chars().all(|c| plain(c) || c == '/')
        && value.len() <= 63
        && value.chars().all(plain)
}

/// The labels that a node must have for a rule to count on it. Empty: every node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeSelector(pub BTreeMap<String, String>);

impl NodeSelector {
    /// Whether a node with `labels` is selected.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|(key, value)| labels.get(key) == Some(value))
    }

    /// Whether some node could be selected by both.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.0.iter().all(|(key, value)| other.0.get(key).is_none_or(|theirs| theirs == value))
    }
}

/// A Kubernetes service account: `NAMESPACE:NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Account {
    /// The namespace that it is in.
    pub namespace: String,
    /// Its name there.
    pub name: String,
}

impl FromStr for Account {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let is_label = |text: &str, dots: bool, most: usize| {
            let ends = |b: Option<u8>| b.is_some_and(|b| plain(b) && b != b'-');
            (1..=most).contains(&text.len())
                && text.bytes().all(|b| plain(b) || dots && b == b'.')
                && text.split('.').all(|part| ends(part.bytes().next()) && ends(part.bytes().last()))
        };
        match text.split_once(':') {
            Some((namespace, name)) if is_label(namespace, false, 63) && is_label(name, true, 253) => {
                Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err("not a Kubernetes service account, NAMESPACE:NAME (no pattern)"),
        }
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.namespace, self.name)
    }
}

/// For whose containers something is said. Greater is narrower.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Whose<'a> {
    /// Everybody's, also those that belong to no pod.
    Anybody,
    /// Those of a Kubernetes namespace.
    Namespace(&'a str),
    /// Those of a service account.
    Account(&'a Account),
}

impl<'a> Whose<'a> {
    /// All that is said about these containers is said for one of these, the narrowest first.
    pub fn and_wider(self) -> impl Iterator<Item = Self> {
        let namespace = match self {
            Self::Account(account) => Some(Self::Namespace(&account.namespace)),
            Self::Namespace(_) | Self::Anybody => None,
        };
        let anybody = Some(Self::Anybody).filter(|anybody| *anybody != self);
        std::iter::once(self).chain(namespace).chain(anybody)
    }

    /// For whom a rule is that names these; one that names nobody is for everybody.
    pub fn all(accounts: &'a [Account], namespaces: &'a [String]) -> impl Iterator<Item = Self> {
        let anybody = (accounts.is_empty() && namespaces.is_empty()).then_some(Self::Anybody);
        let namespaces = namespaces.iter().map(|namespace| Self::Namespace(namespace));
        accounts.iter().map(Self::Account).chain(namespaces).chain(anybody)
    }
}

/// What one rule is about: service accounts, namespaces, a selector and one of its patterns.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// Which service accounts. Empty: all of them, and whatever has none.
    pub accounts: &'a [Account],
    /// Which Kubernetes namespaces. Empty: all of them, and whatever is in none.
    pub namespaces: &'a [String],
    /// Which nodes.
    pub nodes: &'a NodeSelector,
    /// Which images.
    pub images: &'a Pattern,
}

impl Scope<'_> {
    /// The lexicographic order of rules: service accounts before namespaces before neither, then a node selector before none, then the longer literal
    /// beginning, then literal before `*` before `**`. Greater wins.
    pub fn cmp_narrowness(&self, other: &Self) -> Ordering {
        let key = |scope: &Self| {
            (
                !scope.accounts.is_empty(),
                !scope.namespaces.is_empty(),
                !scope.nodes.0.is_empty(),
                scope.images.narrowness(),
            )
        };
        key(self).cmp(&key(other))
    }

    /// Whether both could govern one image in one place with neither being narrower.
    pub fn ties_with(&self, other: &Self) -> bool {
        self.images == other.images
            && self.nodes.0.is_empty() == other.nodes.0.is_empty()
            && self.nodes.overlaps(other.nodes)
            && Whose::all(self.accounts, self.namespaces)
                .any(|ours| Whose::all(other.accounts, other.namespaces).any(|theirs| theirs == ours))
    }
}

impl fmt::Display for NodeSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (label, value)) in self.0.iter().enumerate() {
            write!(f, "{}{label}={value}", if number == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
