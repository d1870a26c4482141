//! Which of many scopes are about an image, found without looking at each: by the registry's host, then by the
//! beginnings of the path, then by service account, namespace and node label.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::scope::{Account, NodeSelector, Pattern, Whose};
use crate::image::{Host, Repository};

/// The distinct patterns of a document, each with what it leads to.
#[derive(Debug)]
pub(super) struct Index<T> {
    cells: Vec<(Pattern, T)>,
    by_pattern: HashMap<Pattern, usize>,
    by_host: HashMap<Host, Prefixes>,
    /// The cell of `**`.
    everything: Option<usize>,
}

/// The patterns of one registry.
#[derive(Debug, Default)]
struct Prefixes {
    /// How long they are, in bytes.
    lengths: BTreeSet<usize>,
    /// Cells by what stands before the wildcard; a few endings share one beginning.
    cells: HashMap<String, Vec<usize>>,
}

impl<T> Default for Index<T> {
    fn default() -> Self {
        Self { cells: Vec::new(), by_pattern: HashMap::new(), by_host: HashMap::new(), everything: None }
    }
}

impl<T: Default> Index<T> {
    /// What `pattern` leads to.
    pub(super) fn cell(&mut self, pattern: &Pattern) -> &mut T {
        let at = match self.by_pattern.get(pattern) {
            Some(at) => *at,
            None => self.add(pattern),
        };
        &mut self.cells[at].1
    }

    fn add(&mut self, pattern: &Pattern) -> usize {
        let at = self.cells.len();
        match pattern.host() {
            None => self.everything = Some(at),
            Some(host) => {
                let prefixes = self.by_host.entry(host.clone()).or_default();
                prefixes.lengths.insert(pattern.prefix().len());
                let cells = prefixes.cells.entry(pattern.prefix().to_owned()).or_default();
                cells.push(at);
            }
        }
        self.by_pattern.insert(pattern.clone(), at);
        self.cells.push((pattern.clone(), T::default()));
        at
    }
}

impl<T> Index<T> {
    /// What is said about `repository`, the narrowest pattern first. Without a name only `**` is about it.
    pub(super) fn about(&self, repository: Option<&Repository>) -> Vec<(&Pattern, &T)> {
        let mut found: Vec<(&Pattern, &T)> = Vec::new();
        let prefixes = repository.and_then(|repository| Some((repository, self.by_host.get(&repository.host)?)));
        if let Some((repository, prefixes)) = prefixes {
            for length in prefixes.lengths.range(..=repository.path.len()).rev() {
                let cells = repository.path.get(..*length).and_then(|prefix| prefixes.cells.get(prefix));
                let before = found.len();
                found.extend(cells.into_iter().flatten().filter_map(|at| {
                    let (pattern, cell) = self.cells.get(*at)?;
                    pattern.matches(repository).then_some((pattern, cell))
                }));
                found[before..].sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.narrowness()));
            }
        }
        found.extend(self.everything.and_then(|at| self.cells.get(at)).map(|(pattern, cell)| (pattern, cell)));
        found
    }

    /// Every pattern, with what it leads to.
    pub(super) fn iter(&self) -> impl Iterator<Item = &(Pattern, T)> {
        self.cells.iter()
    }
}

/// Rules about the same images, by whose containers they are about.
#[derive(Debug, Default)]
pub(super) struct Rules {
    pub(super) anywhere: OnNodes,
    pub(super) in_namespace: BTreeMap<String, OnNodes>,
    pub(super) for_account: BTreeMap<Account, OnNodes>,
}

impl Rules {
    pub(super) fn add<'a>(&mut self, rule: usize, whose: impl Iterator<Item = Whose<'a>>, nodes: &NodeSelector) {
        for whose in whose {
            let on_nodes = match whose {
                Whose::Anybody => &mut self.anywhere,
                Whose::Namespace(namespace) => self.in_namespace.entry(namespace.to_owned()).or_default(),
                Whose::Account(account) => self.for_account.entry(account.clone()).or_default(),
            };
            on_nodes.add(rule, nodes);
        }
    }

    /// The rules that are for `whose` containers, and no wider ones.
    pub(super) fn of(&self, whose: Whose<'_>) -> Option<&OnNodes> {
        match whose {
            Whose::Anybody => Some(&self.anywhere),
            Whose::Namespace(namespace) => self.in_namespace.get(namespace),
            Whose::Account(account) => self.for_account.get(account),
        }
    }
}

/// Rules about the same images of the same containers, by node.
#[derive(Debug, Default)]
pub(super) struct OnNodes {
    /// Rules without a selector.
    pub(super) everywhere: Vec<usize>,
    /// Rules by the first label that they ask for, and its value.
    by_label: HashMap<String, HashMap<String, Vec<usize>>>,
}

impl OnNodes {
    fn add(&mut self, rule: usize, nodes: &NodeSelector) {
        match nodes.0.first_key_value() {
            None => self.everywhere.push(rule),
            Some((label, value)) => {
                let by_value = self.by_label.entry(label.clone()).or_default();
                by_value.entry(value.clone()).or_default().push(rule);
            }
        }
    }

    /// Rules with a selector that a node with `labels` could meet.
    pub(super) fn with_label<'a>(&'a self, labels: &'a BTreeMap<String, String>) -> impl Iterator<Item = usize> + 'a {
        let of = |(label, value): (&String, &String)| self.by_label.get(label)?.get(value);
        labels.iter().filter_map(of).flatten().copied()
    }
}
