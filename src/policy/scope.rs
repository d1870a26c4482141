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
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    fn matches(pattern_text: &str, name: &str) -> bool {
        pattern(pattern_text).matches(&name.parse::<crate::image::Reference>().unwrap().repository)
    }

    #[test]
    fn a_star_stays_within_a_component_and_two_stars_do_not() {
        for (text, name, expected) in [
            ("reg.io/p/nginx", "reg.io/p/nginx", true),
            ("reg.io/p/nginx", "reg.io/p/nginx-1", false),
            ("reg.io/p/nginx*", "reg.io/p/nginx-1", true),
            ("reg.io/p/nginx*", "reg.io/p/nginx", false),
            ("reg.io/p/nginx*", "reg.io/p/nginx-1/x", false),
            ("reg.io/p/nginx**", "reg.io/p/nginx-1/x", true),
            ("reg.io/p/*", "reg.io/p/x", true),
            ("reg.io/p/*", "reg.io/p/x/y", false),
            ("reg.io/p/*", "reg.io/pp", false),
            ("reg.io/**", "reg.io/a/b/c", true),
            ("reg.io/**", "reg.io.evil.com/a", false),
            ("reg.io/**", "reg.io:5000/a", false),
            ("**", "anything.example/a", true),
            ("docker.io/**", "busybox", true),
            ("docker.io/library/*", "busybox", true),
            ("docker.io/lib**", "busybox", true),
        ] {
            assert_eq!(matches(text, name), expected, "{text} {name}");
        }
    }

    #[test]
    fn hosts_in_patterns_are_canonical_too() {
        assert!(matches("REG.io:443/p/**", "reg.io./p/x"));
        assert!(matches("index.docker.io/library/*", "docker.io/library/busybox"));
    }

    #[test]
    fn what_cannot_mean_one_thing_does_not_parse() {
        for text in [
            "",
            "*",
            "reg.io",
            "reg.io/",
            "*.io/x",
            "reg.io/*/x",
            "reg.io/a***",
            "reg.io/a:v1",
            "reg.io/a@sha256:00",
            "reg.io/A",
            "reg.io//*",
            "reg io/a",
            "reg.io*",
            "docker.io/busybox",
            "index.docker.io/*",
        ] {
            assert!(Pattern::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_narrower_scope_wins_and_equal_ones_tie() {
        let (any, prod) = (NodeSelector::default(), NodeSelector([("env".into(), "prod".into())].into()));
        let (qa, eu) =
            (NodeSelector([("env".into(), "qa".into())].into()), NodeSelector([("zone".into(), "eu".into())].into()));
        let ordered = ["**", "reg.io/**", "reg.io/p**", "reg.io/p/*", "reg.io/p/x"].map(pattern);
        for pair in ordered.windows(2) {
            let scope = |images| Scope { accounts: &[], namespaces: &[], nodes: &any, images };
            assert_eq!(scope(&pair[0]).cmp_narrowness(&scope(&pair[1])), Ordering::Less, "{pair:?}");
        }
        let [wide, narrow] = ["reg.io/**", "reg.io/p/x"].map(pattern);
        let on_prod = Scope { accounts: &[], namespaces: &[], nodes: &prod, images: &wide };
        assert_eq!(
            on_prod.cmp_narrowness(&Scope { accounts: &[], namespaces: &[], nodes: &any, images: &narrow }),
            Ordering::Greater
        );
        assert!(on_prod.ties_with(&Scope { accounts: &[], namespaces: &[], nodes: &eu, images: &wide }));
        assert!(!on_prod.ties_with(&Scope { accounts: &[], namespaces: &[], nodes: &qa, images: &wide }));
        assert!(!on_prod.ties_with(&Scope { accounts: &[], namespaces: &[], nodes: &any, images: &wide }));
        let [payments, both] = [vec!["payments".to_owned()], vec!["web".to_owned(), "payments".to_owned()]];
        let in_payments = Scope { accounts: &[], namespaces: &payments, nodes: &any, images: &wide };
        for other in [on_prod, Scope { accounts: &[], namespaces: &[], nodes: &prod, images: &narrow }] {
            assert_eq!(in_payments.cmp_narrowness(&other), Ordering::Greater);
            assert!(!in_payments.ties_with(&other) && !other.ties_with(&in_payments));
        }
        assert!(in_payments.ties_with(&Scope { accounts: &[], namespaces: &both, ..in_payments }));
        assert!(!in_payments.ties_with(&Scope { accounts: &[], namespaces: &both[..1], ..in_payments }));
        assert!(!in_payments.ties_with(&Scope { images: &narrow, ..in_payments }));
        let accounts = ["payments:payer", "payments:ledger"].map(|text| text.parse::<Account>().unwrap());
        let of_payer = Scope { accounts: &accounts[..1], namespaces: &[], nodes: &any, images: &wide };
        for other in
            [in_payments, on_prod, Scope { accounts: &[], namespaces: &payments, nodes: &prod, images: &narrow }]
        {
            assert_eq!(of_payer.cmp_narrowness(&other), Ordering::Greater);
            assert!(!of_payer.ties_with(&other) && !other.ties_with(&of_payer));
        }
        assert!(of_payer.ties_with(&Scope { accounts: &accounts, ..of_payer }));
        assert!(!of_payer.ties_with(&Scope { accounts: &accounts[1..], ..of_payer }));
    }

    #[test]
    fn a_service_account_says_its_namespace() {
        for text in
            ["payments:payer", "a:b", "kube-system:default", "n:ci.example.com", &format!("n:{}", "x".repeat(253))]
        {
            assert_eq!(text.parse::<Account>().unwrap().to_string(), text);
        }
        let long = format!("n:{}", "x".repeat(254));
        for text in [
            "", ":", "payer", "n:", ":a", "n:a:b", "n:*", "*:a", "N:a", "n:A", "n:-a", "n:a-", "n:.a", "n:a..b",
            "n.m:a", "n :a", &long,
        ] {
            assert!(text.parse::<Account>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_tag_is_literal_or_begins_alike() {
        for (text, tag, expected) in [
            ("latest", "latest", true),
            ("latest", "latest2", false),
            ("1.*", "1.3", true),
            ("1.*", "1.", true),
            ("1.*", "2.3", false),
            ("*", "anything", true),
            ("v1", "V1", false),
        ] {
            assert_eq!(TagPattern::parse(text).unwrap().matches(tag), expected, "{text} {tag}");
        }
        for text in ["", "-x", ".x*", "a b", "a*b", "a**", "é", &"x".repeat(129)] {
            assert!(TagPattern::parse(text).is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn one_pattern_covers_another_where_it_matches_all_of_it(
            cuts in proptest::collection::vec(("[ab]{0,2}(/[ab]{1,2})?/?", 0u8..3), 2),
            names in proptest::collection::vec("[ab]{1,3}(/[ab]{1,3}){0,2}", 40),
        ) {
            let read = |(prefix, ending): &(String, u8)| Pattern::parse(&format!("reg.io/{prefix}{}", ["", "*", "**"][*ending as usize]));
            if let (Ok(one), Ok(other)) = (read(&cuts[0]), read(&cuts[1])) {
                for name in names {
                    let repository: Repository = format!("reg.io/{name}").parse().unwrap();
                    let (by_one, by_other) = (one.matches(&repository), other.matches(&repository));
                    proptest::prop_assert!(!one.covers(&other) || by_one || !by_other, "{} covers {}, not {}", one, other, name);
                    proptest::prop_assert!(one.overlaps(&other) || !(by_one && by_other), "{} and {} overlap in {}", one, other, name);
                }
            }
        }

        #[test]
        fn patterns_that_match_one_name_are_nested(name in "[a-c]{1,3}(/[a-c]{1,3}){0,2}", cuts in proptest::collection::vec((0usize..9, 0u8..3), 2)) {
            let repository: Repository = format!("reg.io/{name}").parse().unwrap();
            let mut patterns = Vec::new();
            for (cut, ending) in cuts {
                let text = format!("reg.io/{}{}", &name[..cut.min(name.len())], ["", "*", "**"][ending as usize]);
                if let Ok(pattern) = Pattern::parse(&text) && pattern.matches(&repository) {
                    patterns.push(pattern);
                }
            }
            if let [a, b] = patterns.as_slice() {
                let any = NodeSelector::default();
                let order = Scope { accounts: &[], namespaces: &[], nodes: &any, images: a }.cmp_narrowness(&Scope { accounts: &[], namespaces: &[], nodes: &any, images: b });
                proptest::prop_assert_eq!(order == Ordering::Equal, a == b);
            }
        }
    }
}
