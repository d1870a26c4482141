//! Which rules could be about the same images, found without comparing each with each.

use std::collections::{BTreeMap, BTreeSet};

use crate::policy::{Rule, scope::Pattern};

/// Rules by their patterns: by the registry, and what stands before the wildcard.
pub(super) struct Near<'p> {
    rules: Vec<&'p Rule>,
    everything: BTreeSet<usize>,
    by_beginning: BTreeMap<(&'p str, &'p str), Vec<usize>>,
}

impl<'p> Near<'p> {
    pub(super) fn of(rules: impl Iterator<Item = &'p Rule>) -> Self {
        let mut near = Self { rules: rules.collect(), everything: BTreeSet::new(), by_beginning: BTreeMap::new() };
        for (at, rule) in near.rules.iter().enumerate() {
            for pattern in &rule.images {
                match pattern.host() {
                    None => _ = near.everything.insert(at),
                    Some(host) => near.by_beginning.entry((host.as_str(), pattern.prefix())).or_default().push(at),
                }
            }
        }
        near
    }

    /// The rules with a pattern that has an image in common with `images`, in the order of the document.
    pub(super) fn overlapping(&self, images: &Pattern) -> Vec<&'p Rule> {
        let Some(host) = images.host() else { return self.rules.clone() };
        let (host, beginning) = (host.as_str(), images.prefix());
        // Of two such patterns the beginning of one begins with the beginning of the other.
        let shorter = (0..beginning.len()).filter_map(|end| self.by_beginning.get(&(host, beginning.get(..end)?)));
        let longer = self.by_beginning.range((host, beginning)..);
        let longer = longer.take_while(|((of, other), _)| *of == host && other.starts_with(beginning));
        let found = shorter.chain(longer.map(|(_, at)| at)).flatten().chain(&self.everything);
        let found: BTreeSet<usize> = found.copied().collect();
        let rules = found.into_iter().filter_map(|at| self.rules.get(at).copied());
        rules.filter(|rule| rule.images.iter().any(|pattern| pattern.overlaps(images))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;

    proptest::proptest! {
        #[test]
        fn near_are_those_that_comparing_each_with_each_finds(
            drawn in proptest::collection::btree_set(("[rs]", "[ab]{0,2}(/[ab]{1,2})?/?", 0u8..4), 1..12)
        ) {
            let pattern = |(host, path, ending): &(String, String, u8)| match ending {
                3 => "**".to_owned(),
                ending => format!("{host}.io/{path}{}", ["", "*", "**"][usize::from(*ending)]),
            };
            let patterns: BTreeSet<String> = drawn.iter().map(pattern).filter(|text| Pattern::parse(text).is_ok()).collect();
            let rule = |(number, images): (usize, &String)| format!("[[rule]]\nname = \"r{number}\"\nimages = [\"{images}\"]\nrequire = \"deny\"\n");
            let text: String = patterns.iter().enumerate().map(rule).collect();
            let policy = Policy::parse("p", &format!("schema = 1\n{text}[default]\nrequire = \"deny\""), &|_| Err("no file".into())).unwrap();
            let near = Near::of(policy.rules.iter());
            for images in policy.rules.iter().flat_map(|rule| &rule.images) {
                let slowly = policy.rules.iter().filter(|rule| rule.images.iter().any(|pattern| pattern.overlaps(images)));
                let [found, expected]: [Vec<&str>; 2] = [
                    near.overlapping(images).into_iter().map(|rule| rule.name.as_str()).collect(),
                    slowly.map(|rule| rule.name.as_str()).collect(),
                ];
                proptest::prop_assert_eq!(found, expected, "{}", images);
            }
        }
    }
}
