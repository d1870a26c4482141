//! What a piece of evidence is worth.

use jiff::Timestamp;

use crate::{
    image::{Digest, sanitize},
    limits,
    trust::{Purpose, Signer},
};

/// When evidence is looked at. A signer's own word about the time counts for nothing: what no authority saw is as old as
/// this node knows it to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The time to decide by.
    pub now: Timestamp,
    /// When this node first saw that it vouched, if it did before.
    pub first: Option<Timestamp>,
}

impl Seen {
    /// Seen now, and never before.
    pub fn at_first(now: Timestamp) -> Self {
        Self { now, first: None }
    }

    /// When a signature was made at the latest that no authority has seen.
    pub(super) fn at(self) -> Timestamp {
        self.first.map_or(self.now, |first| first.min(self.now))
    }
}

/// An attestor vouches for a digest. Only this module makes one, after every check: holding it is the proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vouched {
    pub(super) attestor: String,
    pub(super) signer: Signer,
    pub(super) id: Digest,
    pub(super) signed_at: Option<Timestamp>,
    pub(super) until: Option<Timestamp>,
    pub(super) purpose: Purpose,
    pub(super) digest: Digest,
    pub(super) place: String,
}

impl Vouched {
    /// The attestor's name.
    pub fn attestor(&self) -> &str {
        &self.attestor
    }

    /// Who signed for it.
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// What tells that signer apart.
    pub fn signer_id(&self) -> &Digest {
        &self.id
    }

    /// The first time at which an authority of a trust root saw it; none where none was asked.
    pub fn signed_at(&self) -> Option<Timestamp> {
        self.signed_at
    }

    /// From when it does not count any more, should this node forget when it saw it.
    pub fn until(&self) -> Option<Timestamp> {
        self.until
    }

    /// What was signed for.
    pub fn purpose(&self) -> &Purpose {
        &self.purpose
    }

    /// The image that it is about.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Where the evidence lay.
    pub fn place(&self) -> &str {
        &self.place
    }
}

/// Why a piece of evidence does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// Nobody of the attestors made this signature.
    UntrustedSigner,
    /// A trust root vouches for this signer, who is no attestor.
    OtherIdentity(Signer),
    /// The trust root of this name, or the authority of this file, does not vouch for it, and why.
    NotProven(String, String),
    /// This attestor's key signed, at this time if one is known, when it did not count.
    OutsideValidity(String, Option<Timestamp>),
    /// This attestor signed, but about another digest.
    OtherDigest(String),
    /// This attestor signed something that it is not trusted to sign.
    OtherPurpose(String, Purpose),
    /// The annotations that this attestor's signatures must carry are not there.
    OtherAnnotations(String),
    /// This attestor signed for another repository.
    OtherRepository(String),
    /// Not a signature in a form that is known.
    Malformed(String),
}

impl Unusable {
    /// The same in few words: whoever writes evidence chooses how long what is wrong with it is, and it is held until the
    /// search ends.
    pub(super) fn clipped(self) -> Self {
        let clip = |why: String| sanitize(&why, limits::VIOLATION_CHARS);
        match self {
            Self::NotProven(by, why) => Self::NotProven(by, clip(why)),
            Self::Malformed(why) => Self::Malformed(clip(why)),
            other => other,
        }
    }
}

#[cfg(test)]
impl Vouched {
    /// A finding as a test needs it.
    pub(crate) fn for_test(attestor: &crate::trust::Attestor, key: usize, purpose: Purpose, digest: Digest) -> Self {
        let id = attestor.keys[key].key.id;
        let (attestor, signer) = (attestor.name.clone(), Signer::Key(id));
        Self { attestor, signer, id, signed_at: None, until: None, purpose, digest, place: "test".into() }
    }
}
