//! From bytes to findings: whose signature a piece of evidence carries, about which digest, for which purpose. Pure.
//!
//! The order of every check here: the signature first, over exactly the bytes that were found, by a key that the policy
//! names; only then are the claims in those bytes read, and the first of them is the digest.

#![deny(clippy::disallowed_methods)]

mod attached;
mod bundle;
mod certificate;
mod finding;
mod intoto;
mod offered;
pub mod proof;
mod simple_signing;
mod statement;
pub mod token;

use std::collections::BTreeMap;

use jiff::Timestamp;
use sigstore_types::{Artifact, Bundle, DerCertificate, DerPublicKey, Sha256Hash, bundle::VerificationMaterialContent};

pub use finding::{Seen, Unusable, Vouched};
pub use offered::{Offered, offered};

use self::{certificate::Meant, proof::Proven};
use crate::{
    evidence::{Found, Material},
    image::{Digest, Reference, Repository},
    limits,
    trust::{Attestor, Authority, Certified, Identity, PublicKey, Purpose, Signer, TrustRoot, TrustedKey},
};

/// What a signature turned out to say, once it verified.
struct Claim {
    digests: Vec<Digest>,
    purpose: Purpose,
    annotations: BTreeMap<String, String>,
    /// The repository that the signer had in mind.
    repository: Option<Repository>,
}

/// A piece of evidence, taken apart. Nothing of it is believed yet.
struct Opened {
    message: Vec<u8>,
    signature: Vec<u8>,
    read: Box<dyn Fn() -> Result<Claim, String>>,
    /// Whether the message itself is what a trust root's authorities saw, or else the image that it is about.
    is_payload: bool,
    /// In the form that a trust root judges; none where there is nothing that it could.
    judged: Result<Option<Judged>, String>,
    /// Whether a key may stand behind it that no certificate names.
    by_key: bool,
}

/// What a trust root can judge.
enum Judged {
    Bundle(Box<Bundle>),
    /// An envelope with a log entry that no bundle can hold.
    Logged(intoto::Logged),
}

impl Opened {
    fn of(material: &Material) -> Result<Self, String> {
        let opened = match material {
            Material::SimpleSigning { payload, signature, attached } => {
                simple_signing::open(payload, signature, attached)
            }
            Material::Envelope { json, attached } => bundle::open_envelope(json, attached),
            Material::Bundle(json) => bundle::open(json),
        }?;
        opened.is_soon_read().map(|()| opened)
    }

    /// Refuses certificates and timestamps that take long to read, before anybody does.
    fn is_soon_read(&self) -> Result<(), String> {
        let certificates = self.certificates().iter().map(|certificate| certificate.as_bytes().len()).max();
        let timestamps = match &self.judged {
            Ok(Some(Judged::Bundle(bundle))) => {
                let stamped = &bundle.verification_material.timestamp_verification_data.rfc3161_timestamps;
                stamped.iter().map(|stamp| stamp.signed_timestamp.as_bytes().len()).max()
            }
            _ => None,
        };
        for (what, found, most) in [
            ("a certificate", certificates, limits::SIGNER_CERTIFICATE_BYTES),
            ("a timestamp", timestamps, limits::TIMESTAMP_BYTES),
        ] {
            if found.is_some_and(|found| found > most) {
                return Err(format!("{what} of more than {most} bytes"));
            }
        }
        Ok(())
    }

    /// The signer's certificate, then those of its chain; empty where a key signed.
    fn certificates(&self) -> Vec<DerCertificate> {
        use VerificationMaterialContent::{Certificate, PublicKey, X509CertificateChain};
        match &self.judged {
            Ok(Some(Judged::Logged(logged))) => logged.certificates.clone(),
            Ok(Some(Judged::Bundle(bundle))) => match &bundle.verification_material.content {
                Certificate(certificate) => vec![certificate.raw_bytes.clone()],
                X509CertificateChain { certificates } => {
                    certificates.iter().map(|certificate| certificate.raw_bytes.clone()).collect()
                }
                PublicKey(_) | _ => Vec::new(),
            },
            Ok(None) | Err(_) => Vec::new(),
        }
    }

    /// Whom its certificate names, and when it was used, if `root` vouches for both.
    fn by_certificate(
        &self,
        root: &TrustRoot,
        now: Timestamp,
        is_meant: impl Fn(&Certified) -> bool,
    ) -> Result<Proven, String> {
        match self.judged()? {
            Judged::Bundle(bundle) => proof::by_certificate(root, bundle, self.artifact()?, is_meant),
            Judged::Logged(logged) => {
                logged.by_certificate(root, |key| key.verifies(&self.message, &self.signature), now)
            }
        }
    }

    /// When the authorities of `root` saw that `key` signed it.
    fn by_key(&self, root: &TrustRoot, key: &PublicKey, seen: Seen) -> Result<Vec<Timestamp>, String> {
        match self.judged()? {
            Judged::Bundle(bundle) => proof::by_key(root, bundle, self.artifact()?, key, seen.at()),
            Judged::Logged(logged) => logged.by_key(root, key, seen.now),
        }
    }

    fn judged(&self) -> Result<&Judged, String> {
        let judged = self.judged.as_ref().map_err(Clone::clone)?.as_ref();
        judged.ok_or_else(|| "no log and no timestamp authority has seen it".to_owned())
    }

    /// What the authorities of a trust root saw.
    fn artifact(&self) -> Result<Artifact<'_>, String> {
        if self.is_payload {
            return Ok(Artifact::from(&self.message));
        }
        // Its own word for now: whether that is the image is asked once it has verified.
        let claimed = *(self.read)()?.digests.first().ok_or("it is about nothing with a sha256 digest")?;
        Ok(Artifact::from(Sha256Hash::new(*claimed.as_bytes())))
    }
}

/// What `found` says about `digest`, for each of `attestors` who made the signature.
///
/// The result is never empty: evidence that nobody of `attestors` signed is [`Unusable::UntrustedSigner`], or says whom its
/// certificate names.
pub fn verify(found: &Found, digest: &Digest, attestors: &[&Attestor], seen: Seen) -> Vec<Result<Vouched, Unusable>> {
    let opened = match Opened::of(&found.material) {
        Ok(opened) => opened,
        Err(why) => return vec![Err(Unusable::Malformed(why).clipped())],
    };
    let (proofs, declined) = (Vec::new(), Vec::new());
    let mut evidence = Evidence { opened, digest, place: &found.place, seen, attestors, proofs, declined };
    let counting = attestors.iter().filter(|attestor| attestor.formats.include(&found.material));
    let mut findings: Vec<_> = counting.filter_map(|attestor| evidence.of(attestor)).collect();
    if findings.is_empty() {
        findings = evidence.of_nobody();
    }
    findings.into_iter().map(|finding| finding.map_err(Unusable::clipped)).collect()
}

/// One piece of evidence, while attestors are asked for.
struct Evidence<'a> {
    opened: Opened,
    digest: &'a Digest,
    place: &'a str,
    seen: Seen,
    /// Who is asked for.
    attestors: &'a [&'a Attestor],
    /// What each trust root says of it.
    proofs: Vec<(&'a TrustRoot, Result<Proven, String>)>,
    /// Authorities that do not vouch for it, and why.
    declined: Vec<(String, String)>,
}

impl<'a> Evidence<'a> {
    /// What it is worth as the word of `attestor`; none where another signed.
    fn of(&mut self, attestor: &'a Attestor) -> Option<Result<Vouched, Unusable>> {
        let signs = |trusted: &&TrustedKey| trusted.key.verifies(&self.opened.message, &self.opened.signature);
        if self.opened.by_key
            && let Some(trusted) = attestor.keys.iter().find(signs)
        {
            return Some(self.by_key(attestor, trusted));
        }
        if self.opened.certificates().is_empty() {
            return None;
        }
        for identity in &attestor.identities {
            let Ok(proven) = self.proven(&identity.root) else { continue };
            if identity.means(&proven.certified) {
                let (signer, signed_at) = (proven.certified.signer(), proven.times.iter().min().copied());
                let key = proven.certified.key().clone();
                return Some(self.vouch(attestor, signer).map(|vouched| {
                    let id = self.known_key(&key).unwrap_or(vouched.id);
                    Vouched { id, signed_at, ..vouched }
                }));
            }
        }
        for authority in &attestor.authorities {
            match self.by_authority(authority) {
                Ok((Meant { signer, id, key, .. }, until)) => {
                    let id = self.known_key(&key).unwrap_or(id);
                    return Some(self.vouch(attestor, signer).map(|vouched| Vouched { id, until, ..vouched }));
                }
                Err(why) => self.declined.push((authority.file.clone(), why)),
            }
        }
        None
    }

    /// The identity of the `key` of a certificate that is some attestor's own as well: one signature by it is one signer,
    /// whether the key is named or who has it.
    fn known_key(&self, key: &DerPublicKey) -> Option<Digest> {
        let id = Digest::of(key.as_bytes());
        let mut keys = self.attestors.iter().flat_map(|attestor| &attestor.keys);
        keys.any(|trusted| trusted.key.id == id).then_some(id)
    }

    /// Who signed it by a certificate of `authority`, which is valid when it is looked at, and until when it is.
    fn by_authority(&self, authority: &Authority) -> Result<(Meant, Option<Timestamp>), String> {
        let certificates = self.opened.certificates();
        let meant = certificate::of_authority(authority, &certificates, self.seen.at())?;
        let key = PublicKey::of_certificate(&meant.key).map_err(|why| why.to_string())?;
        let until = Some(meant.ends).filter(|_| self.seen.first.is_none());
        match key.verifies(&self.opened.message, &self.opened.signature) {
            true => Ok((meant, until)),
            false => Err("the key of its certificate did not sign it".to_owned()),
        }
    }

    fn by_key(&self, attestor: &Attestor, trusted: &TrustedKey) -> Result<Vouched, Unusable> {
        let times = match &trusted.root {
            None => Vec::new(),
            Some(root) => {
                let times = self.opened.by_key(root, &trusted.key, self.seen);
                times.map_err(|why| Unusable::NotProven(root.name.clone(), why))?
            }
        };
        let at = self.seen.at();
        let signed_at = times.iter().min().copied();
        if !times.iter().chain(signed_at.is_none().then_some(&at)).all(|time| trusted.is_valid_at(*time)) {
            return Err(Unusable::OutsideValidity(attestor.name.clone(), signed_at));
        }
        // Seen now for the first time it is judged by another time tomorrow, if it is not kept.
        let until = trusted.until.filter(|_| signed_at.is_none() && self.seen.first.is_none());
        let vouched = self.vouch(attestor, Signer::Key(trusted.key.id))?;
        Ok(Vouched { signed_at, until, ..vouched })
    }

    fn vouch(&self, attestor: &Attestor, signer: Signer) -> Result<Vouched, Unusable> {
        let claim = (self.opened.read)().map_err(Unusable::Malformed)?;
        let purpose = judge(claim, self.digest, attestor)?;
        Ok(Vouched {
            attestor: attestor.name.clone(),
            id: signer.id(),
            signer,
            signed_at: None,
            until: None,
            purpose,
            digest: *self.digest,
            place: self.place.to_owned(),
        })
    }

    /// What `root` says of its certificate; asked once.
    fn proven(&mut self, root: &'a TrustRoot) -> &Result<Proven, String> {
        let at = self.proofs.iter().position(|(known, _)| known.id == root.id);
        let at = at.unwrap_or_else(|| {
            let under = |identity: &&Identity| identity.root.id == root.id;
            let identities = || self.attestors.iter().flat_map(|attestor| &attestor.identities).filter(under);
            let is_meant = |certified: &Certified| identities().any(|identity| identity.means(certified));
            self.proofs.push((root, self.opened.by_certificate(root, self.seen.now, is_meant)));
            self.proofs.len() - 1
        });
        &self.proofs[at].1
    }

    /// What it is if nobody who is asked for made it.
    fn of_nobody(self) -> Vec<Result<Vouched, Unusable>> {
        if let Some(proven) = self.proofs.iter().find_map(|(_, proven)| proven.as_ref().ok()) {
            return vec![Err(Unusable::OtherIdentity(proven.certified.signer()))];
        }
        let by_root = self.proofs.into_iter().filter_map(|(root, proven)| Some((root.name.clone(), proven.err()?)));
        let declined: Vec<_> =
            by_root.chain(self.declined).map(|(by, why)| Err(Unusable::NotProven(by, why))).collect();
        if !declined.is_empty() {
            return declined;
        }
        vec![Err(match self.opened.judged {
            Err(why) => Unusable::Malformed(why),
            Ok(_) => Unusable::UntrustedSigner,
        })]
    }
}

fn judge(claim: Claim, digest: &Digest, attestor: &Attestor) -> Result<Purpose, Unusable> {
    if !claim.digests.contains(digest) {
        return Err(Unusable::OtherDigest(attestor.name.clone()));
    }
    if !attestor.may_sign.contains(&claim.purpose) {
        return Err(Unusable::OtherPurpose(attestor.name.clone(), claim.purpose));
    }
    if attestor.annotations.iter().any(|(key, value)| claim.annotations.get(key) != Some(value)) {
        return Err(Unusable::OtherAnnotations(attestor.name.clone()));
    }
    let names = |repository: &Repository| claim.repository.as_ref() == Some(repository);
    if !attestor.repositories.is_empty() && !attestor.repositories.iter().any(names) {
        return Err(Unusable::OtherRepository(attestor.name.clone()));
    }
    Ok(claim.purpose)
}

/// Base64 as signers write it: either alphabet, padded or not (RFC 4648; DSSE protocol, "Parameters").
fn base64(text: &str) -> Result<Vec<u8>, String> {
    use base64::{
        Engine, alphabet,
        engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
    };
    let alphabet = if text.contains(['-', '_']) { &alphabet::URL_SAFE } else { &alphabet::STANDARD };
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(alphabet, config).decode(text).map_err(|e| format!("not base64: {e}"))
}

/// The repository that a reference in a payload names, whatever else it says.
fn repository(reference: &str) -> Option<Repository> {
    reference.parse::<Reference>().ok().map(|reference| reference.repository)
}

#[cfg(test)]
mod tests;
