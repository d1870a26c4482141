//! Rules of which none is the narrower one. They must not both be about one image.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Range,
};

use super::Checker;
use crate::{
    limits,
    policy::{
        Rule,
        scope::{NodeSelector, Pattern, Whose},
    },
};

/// Rules about the same images of the same containers, all with a node selector or all without.
type Alike<'r> = HashMap<(&'r Pattern, Whose<'r>, bool), Vec<usize>>;

impl Checker<'_> {
    pub(super) fn check_ties(&mut self, rules: &[(Rule, Range<usize>)]) {
        let mut alike: Alike<'_> = HashMap::new();
        for (at, (rule, _)) in rules.iter().enumerate() {
            for pattern in &rule.images {
                for whose in rule.whose() {
                    alike.entry((pattern, whose, rule.nodes.0.is_empty())).or_default().push(at);
                }
            }
        }
        let mut ties = BTreeSet::new();
        for ((pattern, ..), among) in &alike {
            if among.len() > 1 {
                let selectors: Vec<&NodeSelector> = among.iter().map(|at| &rules[*at].0.nodes).collect();
                if let Some(at) = too_various(&selectors) {
                    let message = format!(
                        "rules about `{pattern}` are told apart by more than {} sets of labels: nobody can tell which governs",
                        limits::LABEL_SETS
                    );
                    self.reader.problem(rules[among[at]].1.clone(), message);
                    continue;
                }
                let tie = overlap(&selectors).map(|(one, other)| (among[one.max(other)], among[one.min(other)]));
                ties.extend(tie.map(|(later, earlier)| (later, earlier, pattern.to_string())));
            }
        }
        for (later, earlier, pattern) in ties {
            let [(earlier, _), (later, span)] = [&rules[earlier], &rules[later]];
            let message = format!(
                "`{pattern}` is governed by `{}` and `{}` alike: no rule is the narrower one",
                earlier.name, later.name
            );
            self.reader.problem(span.clone(), message);
        }
    }
}

/// The selector with which there are more sets of labels than [`limits::LABEL_SETS`].
fn too_various(selectors: &[&NodeSelector]) -> Option<usize> {
    let mut sets: BTreeSet<Vec<&str>> = BTreeSet::new();
    selectors.iter().position(|selector| {
        sets.insert(selector.0.keys().map(String::as_str).collect());
        sets.len() > limits::LABEL_SETS
    })
}

/// Two of `selectors` that could both select one node.
///
/// Selectors that ask for the same labels overlap only where they are equal, so of each two sets of labels the values of
/// the common ones are compared, not each selector with each.
fn overlap(selectors: &[&NodeSelector]) -> Option<(usize, usize)> {
    let mut by_labels: HashMap<Vec<&str>, Vec<usize>> = HashMap::new();
    for (at, selector) in selectors.iter().enumerate() {
        by_labels.entry(selector.0.keys().map(String::as_str).collect()).or_default().push(at);
    }
    let sets: Vec<(&Vec<&str>, &Vec<usize>)> = by_labels.iter().collect();
    for (number, (labels, members)) in sets.iter().enumerate() {
        for (others, theirs) in &sets[number..] {
            let common: Vec<&str> = labels.iter().copied().filter(|label| others.contains(label)).collect();
            let values = |at: usize| -> Vec<Option<&String>> {
                common.iter().map(|label| selectors[at].0.get(*label)).collect()
            };
            let mut seen: HashMap<Vec<Option<&String>>, usize> = HashMap::new();
            for at in members.iter().copied() {
                if let Some(other) = seen.insert(values(at), at)
                    && labels == others
                {
                    return Some((other, at));
                }
            }
            if labels != others
                && let Some((other, at)) = theirs.iter().find_map(|at| Some((*seen.get(&values(*at))?, *at)))
            {
                return Some((other, at));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::scope::Scope;

    proptest! {
        #[test]
        fn two_selectors_overlap_where_comparing_each_with_each_says_so(
            drawn in proptest::collection::vec(proptest::collection::btree_map("[abc]", "[xyz]", 0..3), 0..6)
        ) {
            let selectors: Vec<NodeSelector> = drawn.into_iter().map(NodeSelector).collect();
            let everything = Pattern::parse("**").unwrap();
            let scope = |nodes| Scope { accounts: &[], namespaces: &[], nodes, images: &everything };
            let (with, without): (Vec<_>, Vec<_>) = selectors.iter().partition(|selector| !selector.0.is_empty());
            for alike in [with, without] {
                let pairs = (0..alike.len()).flat_map(|one| (0..one).map(move |other| (one, other)));
                let tie = pairs.into_iter().any(|(one, other)| scope(alike[one]).ties_with(&scope(alike[other])));
                let found = overlap(&alike);
                prop_assert_eq!(found.is_some(), tie);
                prop_assert!(found.is_none_or(|(one, other)| one != other && scope(alike[one]).ties_with(&scope(alike[other]))));
            }
        }
    }
}
