//! What an image needs to be admitted: a tree over attestors and digests.

use std::collections::BTreeSet;

use crate::{image::Digest, limits};

/// What an image needs to be admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// Nothing admits.
    Deny,
    /// The name is enough. It counts only where containerd itself fetched the content from that registry.
    InsecureAcceptAnything,
    /// Enough of the members must be met.
    Of(Group),
}

/// Members of which enough must be met, each attestor by a signer of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// How many, at least 1 and at most as many as there are.
    pub count: usize,
    /// The members, at least one.
    pub of: Vec<Member>,
}

/// One member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Member {
    /// This attestor vouches: an index into [`super::Policy::attestors`]. None is in one requirement twice.
    Attestor(usize),
    /// The image is one of these.
    Digests(Vec<Digest>),
    /// Enough of these are met.
    Group(Group),
}

/// A way to meet a requirement: groups of attestors without groups in them, of each of which so many must vouch.
pub(super) type Way = Vec<(usize, Vec<usize>)>;

impl Requirement {
    /// The requirement that `count` of the attestors `of` vouch.
    pub fn at_least(count: usize, of: impl IntoIterator<Item = usize>) -> Self {
        Self::Of(Group { count, of: of.into_iter().map(Member::Attestor).collect() })
    }

    /// The attestors that it names, in the order of the document.
    pub fn attestors(&self) -> Vec<usize> {
        match self {
            Self::Of(group) => group.attestors(),
            _ => Vec::new(),
        }
    }
}

impl Requirement {
    /// Appends what tells it apart from every other requirement; `content` identifies an attestor with its keys.
    pub(super) fn encode<'c>(&self, content: &impl Fn(usize) -> Option<&'c Digest>, to: &mut Vec<u8>) {
        match self {
            Self::Deny => to.push(b'd'),
            Self::InsecureAcceptAnything => to.push(b'i'),
            Self::Of(group) => group.encode(content, to),
        }
    }
}

impl Group {
    /// The attestors in it and in its groups, in the order of the document.
    pub fn attestors(&self) -> Vec<usize> {
        let mut attestors = Vec::new();
        self.collect(&mut attestors);
        attestors
    }

    fn encode<'c>(&self, content: &impl Fn(usize) -> Option<&'c Digest>, to: &mut Vec<u8>) {
        to.push(b'(');
        to.extend(self.count.to_be_bytes());
        to.extend(self.of.len().to_be_bytes());
        for member in &self.of {
            match member {
                Member::Attestor(attestor) => {
                    to.push(b'a');
                    to.extend(content(*attestor).into_iter().flat_map(Digest::as_bytes));
                }
                Member::Digests(digests) => {
                    to.push(b'p');
                    to.extend(digests.len().to_be_bytes());
                    to.extend(digests.iter().flat_map(Digest::as_bytes));
                }
                Member::Group(group) => group.encode(content, to),
            }
        }
    }

    fn collect(&self, attestors: &mut Vec<usize>) {
        for member in &self.of {
            match member {
                Member::Attestor(attestor) => attestors.push(*attestor),
                Member::Digests(_) => {}
                Member::Group(group) => group.collect(attestors),
            }
        }
    }

    /// Whether it is met for `digest` when `vouches` says of an attestor whether it vouched.
    pub fn is_met(&self, digest: &Digest, vouches: &impl Fn(usize) -> bool) -> bool {
        self.of.iter().filter(|member| member.is_met(digest, vouches)).take(self.count).count() == self.count
    }

    /// In how many ways it can be met, groups told apart and attestors not; at most [`limits::REQUIREMENT_WAYS`] and one.
    pub(super) fn count_ways(&self) -> usize {
        let most = limits::REQUIREMENT_WAYS + 1;
        let leaves = self.of.iter().filter(|member| !matches!(member, Member::Group(_))).count();
        // ways[n]: in how many ways n of the groups that were looked at can be met.
        let mut ways = vec![0usize; self.count + 1];
        ways[0] = 1;
        for member in &self.of {
            let Member::Group(group) = member else { continue };
            let within = group.count_ways();
            for met in (1..ways.len()).rev() {
                ways[met] = ways[met].saturating_add(ways[met - 1].saturating_mul(within)).min(most);
            }
        }
        let enough = ways.iter().enumerate().filter(|(met, _)| self.count - met <= leaves);
        enough.map(|(_, ways)| *ways).fold(0usize, usize::saturating_add).min(most)
    }

    /// The ways in which it can be met for `digest`, at most as many as [`Self::count_ways`] says.
    pub(super) fn ways(&self, digest: &Digest) -> Vec<Way> {
        let mut leaves = Vec::new();
        let mut needed = self.count;
        let mut groups: Vec<Vec<Way>> = Vec::new();
        for member in &self.of {
            match member {
                Member::Attestor(attestor) => leaves.push(*attestor),
                Member::Digests(digests) => needed = needed.saturating_sub(usize::from(digests.contains(digest))),
                Member::Group(group) => groups.push(group.ways(digest)),
            }
        }
        // Of each number of groups, every choice of them, each met in any of its ways.
        let mut chosen: Vec<(usize, Way)> = vec![(0, Way::new())];
        for ways in &groups {
            let with = chosen.iter().filter(|(met, _)| *met < needed).flat_map(|(met, way)| {
                ways.iter().map(move |more| (met + 1, [way.as_slice(), more.as_slice()].concat()))
            });
            let with: Vec<_> = with.collect();
            chosen.extend(with);
        }
        chosen.retain(|(met, _)| needed - met <= leaves.len());
        let with_leaves = chosen.into_iter().map(|(met, mut way)| {
            if needed > met {
                way.push((needed - met, leaves.clone()));
            }
            way
        });
        with_leaves.collect()
    }

    /// What is still missing when the attestors of whom `vouches` is true have vouched: in words, `name` says whose.
    pub(super) fn missing(
        &self,
        digest: &Digest,
        vouches: &impl Fn(usize) -> bool,
        name: &impl Fn(usize) -> String,
    ) -> String {
        let met = self.of.iter().filter(|member| member.is_met(digest, vouches)).count();
        let lacking: Vec<&Member> = self.of.iter().filter(|member| !member.is_met(digest, vouches)).collect();
        let missing = self.count.saturating_sub(met);
        let nested = lacking.len() > 1;
        let words = lacking.iter().take(limits::NAMES_TOLD).map(|member| match member {
            Member::Attestor(attestor) => name(*attestor),
            Member::Digests(_) => "a pinned digest".to_owned(),
            Member::Group(group) if nested => format!("({})", group.missing(digest, vouches, name)),
            Member::Group(group) => group.missing(digest, vouches, name),
        });
        let words: Vec<String> = words.collect();
        let more = match lacking.len() - words.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        match missing {
            1 => words.join(" or ") + &more.replace(" and", " or"),
            all if all == lacking.len() => words.join(", ") + &more,
            some => format!("{some} of {}{more}", words.join(", ")),
        }
    }

    /// The digests that are pinned in it and in its groups.
    pub fn pinned(&self) -> BTreeSet<Digest> {
        let of = |member: &Member| match member {
            Member::Attestor(_) => BTreeSet::new(),
            Member::Digests(digests) => digests.iter().copied().collect(),
            Member::Group(group) => group.pinned(),
        };
        self.of.iter().flat_map(of).collect()
    }
}

impl Member {
    /// Whether it is met for `digest` when `vouches` says of an attestor whether it vouched.
    pub fn is_met(&self, digest: &Digest, vouches: &impl Fn(usize) -> bool) -> bool {
        match self {
            Self::Attestor(attestor) => vouches(*attestor),
            Self::Digests(digests) => digests.contains(digest),
            Self::Group(group) => group.is_met(digest, vouches),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn group() -> impl Strategy<Value = Group> {
        let leaf = any::<u8>().prop_map(|_| Member::Attestor(0));
        let member = leaf.prop_recursive(3, 12, 3, |inner| {
            (proptest::collection::vec(inner, 1..4), any::<usize>())
                .prop_map(|(of, count)| Member::Group(Group { count: 1 + count % of.len(), of }))
        });
        (proptest::collection::vec(member, 1..4), any::<usize>()).prop_map(|(of, count)| {
            let mut group = Group { count: 1 + count % of.len(), of };
            number(&mut group, &mut 0);
            group
        })
    }

    fn number(group: &mut Group, next: &mut usize) {
        for member in &mut group.of {
            match member {
                Member::Attestor(attestor) => {
                    *attestor = *next;
                    *next += 1;
                }
                Member::Digests(_) => {}
                Member::Group(group) => number(group, next),
            }
        }
    }

    proptest! {
        #[test]
        fn its_ways_are_all_there_is(group in group(), who in any::<u64>()) {
            let digest = Digest::of(b"image");
            let vouches = |attestor: usize| who >> (attestor % 64) & 1 == 1;
            let ways = group.ways(&digest);
            prop_assert!(ways.len() <= group.count_ways());
            let by_ways = ways.iter().any(|way| {
                way.iter().all(|(count, of)| of.iter().filter(|attestor| vouches(**attestor)).count() >= *count)
            });
            prop_assert_eq!(group.is_met(&digest, &vouches), by_ways);
        }
    }

    #[test]
    fn what_is_missing_is_said_in_the_words_of_the_requirement() {
        let (ci, qa, sec) = (Member::Attestor(0), Member::Attestor(1), Member::Attestor(2));
        let of = |count, of: &[&Member]| Group { count, of: of.iter().map(|member| (*member).clone()).collect() };
        let nested = Member::Group(of(2, &[&ci, &qa]));
        let digests = Member::Digests(vec![Digest::of(b"x")]);
        let missing = |group: Group, have: &[usize]| {
            group.missing(&Digest::of(b"image"), &|attestor| have.contains(&attestor), &|attestor| {
                ["ci", "qa", "sec"][attestor].to_owned()
            })
        };
        assert_eq!(missing(of(3, &[&ci, &qa, &sec]), &[]), "ci, qa, sec");
        assert_eq!(missing(of(3, &[&ci, &qa, &sec]), &[1]), "ci, sec");
        assert_eq!(missing(of(1, &[&ci, &qa]), &[]), "ci or qa");
        assert_eq!(missing(of(2, &[&ci, &qa, &sec]), &[]), "2 of ci, qa, sec");
        assert_eq!(missing(of(2, &[&ci, &qa, &sec]), &[0]), "qa or sec");
        assert_eq!(missing(of(1, &[&sec, &nested]), &[]), "sec or (ci, qa)");
        assert_eq!(missing(of(2, &[&sec, &nested]), &[2]), "ci, qa");
        assert_eq!(missing(of(1, &[&digests, &sec]), &[]), "a pinned digest or sec");
    }
}
