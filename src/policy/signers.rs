//! Which attestors the distinct signers of an image stand for. A signer stands for one attestor of a requirement, however
//! many would know it.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    evaluate::Subject,
    requirement::{Group, Way},
};
use crate::{image::Digest, trust::Attestor, verify::Vouched};

/// Who met a requirement, or as much of it as could be met.
#[derive(Debug, Default)]
pub(super) struct Matching {
    /// Whether the requirement is met.
    pub(super) met: bool,
    /// Each attestor that vouched, with the signer that stands for it.
    pub(super) signers: BTreeMap<usize, Digest>,
}

impl Matching {
    /// Matches the signers of `vouched` to the attestors that `group` names.
    ///
    /// Exact: if any choice of distinct signers meets the requirement it is met, so more evidence never undoes it.
    pub(super) fn of(group: &Group, attestors: &[Attestor], subject: &Subject, vouched: &[Vouched]) -> Self {
        let named = group.attestors();
        let mut table = Table::new(&named, attestors, subject, vouched);
        let signers = table.largest(Assigned::default());
        if group.is_met(&subject.digest, &|attestor| signers.contains_key(&attestor)) {
            return Self { met: true, signers };
        }
        // Where nobody could stand for two, the choice was none.
        if table.is_shared() {
            for way in group.ways(&subject.digest) {
                if let Some(assigned) = table.along(&way) {
                    return Self { met: true, signers: table.largest(assigned) };
                }
            }
        }
        Self { met: false, signers }
    }
}

impl Matching {
    /// Whether it rests on `signer`.
    pub(super) fn is_by(&self, signer: &Digest) -> bool {
        self.signers.values().any(|one| one == signer)
    }
}

/// Whether `vouched` is `attestor`'s word for `subject`.
pub(super) fn counts(attestor: &Attestor, subject: &Subject, vouched: &Vouched) -> bool {
    vouched.attestor() == attestor.name
        && *vouched.digest() == subject.digest
        && attestor.may_sign.contains(vouched.purpose())
}

/// Which signers could stand for which attestors.
struct Table {
    attestors: Vec<usize>,
    known: BTreeMap<usize, Vec<Digest>>,
}

/// Signers by the attestor that they stand for, and the reverse.
#[derive(Clone, Default)]
struct Assigned {
    of: BTreeMap<usize, Digest>,
    owner: BTreeMap<Digest, usize>,
}

impl Table {
    fn new(named: &[usize], attestors: &[Attestor], subject: &Subject, vouched: &[Vouched]) -> Self {
        let signers = |at: &usize| {
            let attestor = attestors.get(*at)?;
            let mut signers: Vec<Digest> =
                vouched.iter().filter(|vouched| counts(attestor, subject, vouched)).map(|v| *v.signer_id()).collect();
            signers.sort_unstable();
            signers.dedup();
            (!signers.is_empty()).then_some((*at, signers))
        };
        let known: BTreeMap<_, _> = named.iter().filter_map(signers).collect();
        Self { attestors: named.iter().copied().filter(|at| known.contains_key(at)).collect(), known }
    }

    fn is_shared(&self) -> bool {
        let all: usize = self.known.values().map(Vec::len).sum();
        self.known.values().flatten().collect::<BTreeSet<_>>().len() < all
    }

    /// The largest assignment that keeps every attestor of `assigned`.
    fn largest(&mut self, mut assigned: Assigned) -> BTreeMap<usize, Digest> {
        for attestor in &self.attestors {
            if !assigned.of.contains_key(attestor) {
                self.assign(*attestor, &mut assigned, &mut BTreeSet::new());
            }
        }
        assigned.of
    }

    /// Finds a signer for `attestor`, by having others take another of theirs where that helps.
    fn assign(&self, attestor: usize, assigned: &mut Assigned, seen: &mut BTreeSet<Digest>) -> bool {
        for signer in self.known.get(&attestor).into_iter().flatten() {
            if !seen.insert(*signer) {
                continue;
            }
            let free = match assigned.owner.get(signer) {
                None => true,
                Some(other) => self.assign(*other, assigned, seen),
            };
            if free {
                assigned.owner.insert(*signer, attestor);
                assigned.of.insert(attestor, *signer);
                return true;
            }
        }
        false
    }

    /// An assignment with as many attestors of each group as `way` asks for.
    fn along(&self, way: &Way) -> Option<Assigned> {
        let mut flow = Flow { table: self, way, assigned: Assigned::default() };
        for (group, (count, _)) in way.iter().enumerate() {
            for _ in 0..*count {
                let mut seen = Seen::default();
                if !flow.one_more(group, &mut seen) {
                    return None;
                }
            }
        }
        Some(flow.assigned)
    }
}

/// A flow from groups through attestors to signers, each of which takes one unit.
struct Flow<'a> {
    table: &'a Table,
    way: &'a Way,
    assigned: Assigned,
}

#[derive(Default)]
struct Seen {
    attestors: BTreeSet<usize>,
    signers: BTreeSet<Digest>,
}

impl Flow<'_> {
    /// One more attestor of `group`.
    fn one_more(&mut self, group: usize, seen: &mut Seen) -> bool {
        let Some((_, members)) = self.way.get(group) else { return false };
        members.iter().any(|attestor| {
            !self.assigned.of.contains_key(attestor)
                && seen.attestors.insert(*attestor)
                && self.take_signer(*attestor, seen)
        })
    }

    fn take_signer(&mut self, attestor: usize, seen: &mut Seen) -> bool {
        let table = self.table;
        for signer in table.known.get(&attestor).into_iter().flatten() {
            if !seen.signers.insert(*signer) {
                continue;
            }
            let free = match self.assigned.owner.get(signer).copied() {
                None => true,
                Some(other) => self.give_up(other, seen),
            };
            if free {
                self.assigned.owner.insert(*signer, attestor);
                self.assigned.of.insert(attestor, *signer);
                return true;
            }
        }
        false
    }

    /// `attestor` does without its signer: by another one, or by another attestor of its group in its place.
    fn give_up(&mut self, attestor: usize, seen: &mut Seen) -> bool {
        if self.take_signer(attestor, seen) {
            return true;
        }
        let Some(group) = self.way.iter().position(|(_, members)| members.contains(&attestor)) else { return false };
        let replaced = self.one_more(group, seen);
        if replaced {
            self.assigned.of.remove(&attestor);
        }
        replaced
    }
}

#[cfg(test)]
mod tests;
