//! What a keyless signature costs with the bundle and the trust root at hand, beside its signature checks alone.

use pullgate::{
    evidence::{Found, Material},
    image::Digest,
    policy::{
        Policy,
        decision::Verdict,
        evaluate::{Origin, Subject},
    },
    trust::{Algorithm, PublicKey},
};

use crate::{
    authority::{self, Authority, Key, WORKFLOW},
    node::Result,
    pure::{BATCHES, HOST, decide, each},
    report::{Row, spread, time},
    statistics::{Ratio, median},
};

/// Decisions by a bundle of Rekor v1, and by one of Rekor v2 with a timestamp.
///
/// # Errors
/// Where nothing can be signed.
pub fn signatures() -> Result<Vec<Row>> {
    let authority = Authority::new("bench");
    let root = authority.trusted_root();
    let written = format!(
        "schema = 1\n[[trust-root]]\nname = \"bench\"\nfile = \"root.json\"\n[[attestor]]\nname = \"a\"\nmay-sign = [\"signature\"]\n\
         identities = [{{ root = \"bench\", issuer = \"https://token.actions.githubusercontent.com\", subject = \"{WORKFLOW}\" }}]\n\
         [[rule]]\nname = \"r\"\nimages = [\"{HOST}/**\"]\nrequire = {{ all = [\"a\"] }}\n[default]\nrequire = \"deny\"\n"
    );
    let policy = Policy::parse("policy.toml", &written, &|_| Ok(root.clone()))?;
    let subject = Subject::new(Digest::of(b"image"), Some(format!("{HOST}/bench/app").parse()?), Origin::Fetched);
    let check = |kind, algorithm| -> Result<Check> {
        let (key, message) = (Key::new(kind), b"x".repeat(400));
        Ok(Check { signature: key.sign(&message), key: PublicKey::from_pem(&key.pem(), algorithm)?, message })
    };
    let p256 = check(authority::Algorithm::P256, Algorithm::EcdsaP256Sha256)?;
    let p384 = check(authority::Algorithm::P384, Algorithm::EcdsaP384Sha384)?;
    let ed25519 = check(authority::Algorithm::Ed25519, Algorithm::Ed25519)?;
    // The signer's and the certificate log's; then the log's promise and checkpoint, or the timestamp and its certificate.
    let common = || (0..4).all(|_| p256.holds()) && p384.holds();
    let mut rows = Vec::new();
    for (what, bundle, with_note) in [
        ("decision by a keyless bundle, Rekor v1", authority.sign(subject.digest).json(), false),
        ("decision by a keyless bundle, Rekor v2", authority.sign2(subject.digest).json(), true),
    ] {
        let found = Found { material: Material::Bundle(bundle.into_bytes()), place: String::new() };
        let (mut ours, mut checks) = (Vec::new(), Vec::new());
        for _ in 0..BATCHES {
            checks.push(each(20, || common() && (!with_note || ed25519.holds())));
            ours.push(each(20, || decide(&policy, &subject, &found) == Verdict::Allow));
        }
        let ratio = Ratio::of(&ours, &checks);
        let row = Row::new(what, spread(&ours)).beside("its signature checks", &time(median(&checks)));
        rows.push(row.ratio(&ratio).target("2", ratio.median <= 2.0));
    }
    Ok(rows)
}

/// A signature, and the key that made it.
struct Check {
    key: PublicKey,
    message: Vec<u8>,
    signature: Vec<u8>,
}

impl Check {
    fn holds(&self) -> bool {
        self.key.verifies(&self.message, &self.signature)
    }
}
