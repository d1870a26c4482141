//! The narrowest policy that admits what is on a node: a rule for each repository, and nothing that nobody looked at.
//!
//! Nothing in it is trusted because it was found: attestors are those that somebody named before, and what none of them
//! signed is pinned by its digest.

mod text;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{
    Policy,
    decision::Verdict,
    evaluate::{Findings, Origin, Subject, Tag},
};
use crate::{
    document::Problems,
    image::{Digest, Repository},
    trust::Attestor,
    verify::{Offered, Vouched},
};

/// An image under one of its names, and what was found about it.
#[derive(Debug)]
pub struct Observed {
    /// The name; none where it has none that selects a rule.
    pub repository: Option<Repository>,
    /// What its record calls it, for a person.
    pub called: String,
    /// The manifest or index that the record leads to.
    pub target: Digest,
    /// Its manifests that are on the node, where the target is an index.
    pub children: Vec<Digest>,
    /// Who vouches for any of these documents.
    pub vouched: Vec<Vouched>,
    /// Keys that came with the evidence.
    pub offered: Vec<Offered>,
    /// What could not be looked at.
    pub gaps: Vec<String>,
}

/// A policy document that was tried out.
#[derive(Debug)]
pub struct Draft {
    /// The document.
    pub text: String,
    /// The attestors that it names.
    pub attestors: BTreeSet<String>,
    /// How many images it pins by their digests.
    pub pinned: usize,
    /// What the document does not admit though it should.
    pub refused: Vec<String>,
}

/// What the images of one repository have in common.
struct Repo<'a> {
    images: Vec<&'a Observed>,
    /// Who signed every image that anybody signed.
    signers: BTreeSet<&'a str>,
    /// Images that these did not sign.
    pinned: Vec<&'a Observed>,
}

impl Draft {
    /// The document for `observed`, which was looked at `now`, with those of `attestors` that signed it.
    ///
    /// # Errors
    /// When the document would not be one, as of more images than a policy has room for.
    pub fn of(attestors: &[&Attestor], observed: &[Observed], now: Timestamp) -> Result<Self, Problems> {
        let mut distrusted = BTreeSet::new();
        loop {
            let repos = by_repository(attestors, observed, &distrusted);
            let text = text::document(attestors, &repos, observed, now);
            let policy = Policy::parse("the suggested policy", &text, &|_| Err("keys are in the document".to_owned()))?;
            let refused: Vec<&Observed> = observed.iter().filter(|image| !is_admitted(&policy, image, now)).collect();
            let before = distrusted.len();
            distrusted.extend(refused.iter().filter_map(|image| image.repository.as_ref()));
            // Once each, all of a repository is pinned, which needs nobody's signature.
            if distrusted.len() == before {
                return Ok(Self {
                    text,
                    attestors: policy.attestors.iter().map(|attestor| attestor.name.clone()).collect(),
                    pinned: repos.values().map(|repo| repo.pinned.len()).sum(),
                    refused: refused.iter().map(|image| image.called.clone()).collect(),
                });
            }
        }
    }
}

fn by_repository<'a>(
    attestors: &[&'a Attestor],
    observed: &'a [Observed],
    distrusted: &BTreeSet<&Repository>,
) -> BTreeMap<String, Repo<'a>> {
    let mut images: BTreeMap<&Repository, Vec<&Observed>> = BTreeMap::new();
    for image in observed {
        if let Some(repository) = &image.repository {
            images.entry(repository).or_default().push(image);
        }
    }
    let repo = |(repository, images): (&Repository, Vec<&'a Observed>)| {
        let signers = match distrusted.contains(repository) {
            true => BTreeSet::new(),
            false => in_common(attestors, &images),
        };
        let signed = |image: &Observed| !signers.is_empty() && signers.is_subset(&image.signers());
        let pinned = images.iter().copied().filter(|image| !signed(image)).collect();
        (repository.to_string(), Repo { pinned, images, signers })
    };
    images.into_iter().map(repo).collect()
}

/// Who signed every one of `images` that anybody signed. Of those that share a key one is named: one signer could be both.
fn in_common<'a>(attestors: &[&'a Attestor], images: &[&'a Observed]) -> BTreeSet<&'a str> {
    let signed = images.iter().map(|image| image.signers()).filter(|signers| !signers.is_empty());
    let common = signed.reduce(|all, one| all.intersection(&one).copied().collect()).unwrap_or_default();
    let (mut named, mut keys) = (BTreeSet::new(), BTreeSet::new());
    for attestor in attestors.iter().filter(|attestor| common.contains(attestor.name.as_str())) {
        if attestor.keys.iter().all(|key| !keys.contains(&key.key.id)) {
            keys.extend(attestor.keys.iter().map(|key| key.key.id));
            named.insert(attestor.name.as_str());
        }
    }
    named
}

impl Observed {
    /// Who signed it: the target, or else each of its manifests that are here.
    fn signers(&self) -> BTreeSet<&str> {
        let of = |digest: &Digest| -> BTreeSet<&str> {
            self.vouched.iter().filter(|vouched| vouched.digest() == digest).map(Vouched::attestor).collect()
        };
        let all = of(&self.target);
        if !all.is_empty() {
            return all;
        }
        let children = self.children.iter().map(of);
        children.reduce(|all, one| all.intersection(&one).copied().collect()).unwrap_or_default()
    }
}

/// Whether `policy` admits the image as it lies on the node, by its target or by each of its manifests.
fn is_admitted(policy: &Policy, image: &Observed, now: Timestamp) -> bool {
    let admits = |digest: &Digest| {
        let subject = Subject::new(*digest, image.repository.clone(), Origin::Claimed).tagged(Tag::NotKept);
        let findings = Findings { vouched: image.vouched.clone(), ..Findings::default() };
        let governing = policy.governing(&subject, &BTreeMap::new());
        policy.evaluate(&governing, &subject, &findings, now).verdict == Verdict::Allow
    };
    admits(&image.target) || !image.children.is_empty() && image.children.iter().all(admits)
}

#[cfg(test)]
mod tests;
