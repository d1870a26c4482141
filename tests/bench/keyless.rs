//! What a keyless signature costs with the bundle and the trust root at hand, beside its signature checks alone.

use std::fs;

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
    authority::{self, Artifact, Authority, COSIGN_SIGN, Key, Version, WORKFLOW},
    node::{Image, Node, Result, registry::REGISTRY},
    pure::{BATCHES, HOST, decide, each},
    report::{Row, spread, time},
    statistics::{Ratio, median},
};

const ISSUER: &str = "https://token.actions.githubusercontent.com";
/// Where the node has the trust root.
const ROOT: &str = "/etc/bench/keyless.json";
/// What is checked, in words.
pub const WORDS: &str = "keyless bundle by fallback tag, formats = [\"bundle\"]";

/// Pushes the image that is checked, signed by a private sigstore.
///
/// # Errors
/// Where the registry fails.
pub fn prepare(node: &Node) -> Result<()> {
    let authority = Authority::new("bench");
    node.write(ROOT, authority.trusted_root())?;
    let image = node.push("bench/app:keyless", &Image::of_small_layers("keyless", 3)?)?;
    let (media_type, json) = (Version::V03.media_type(), authority.sign(image.digest()).json());
    let bundle = Artifact::referrer(&image.image.manifest, media_type, &json, COSIGN_SIGN);
    node.plant_referrer("bench/app", &image, media_type, bundle.descriptor(), (&bundle.manifest, &bundle.blobs))
}

/// What checks it: pullgate, cosign, and a client that only asks.
///
/// # Errors
/// Where the configuration cannot be written.
pub fn commands() -> Result<Vec<Vec<String>>> {
    let directory = "/etc/bench/keyless";
    fs::create_dir_all(directory)?;
    fs::write(format!("{directory}/policy.toml"), document(ROOT, REGISTRY, "formats = [\"bundle\"]\n"))?;
    fs::write(format!("{directory}/config.toml"), format!("mode = \"enforce\"\n[registry.\"{REGISTRY}\"]\n"))?;
    let image = format!("{REGISTRY}/bench/app:keyless");
    let cosign = [
        "cosign",
        "verify",
        "--allow-http-registry",
        "--new-bundle-format=true",
        &format!("--trusted-root={ROOT}"),
        &format!("--certificate-identity={WORKFLOW}"),
        &format!("--certificate-oidc-issuer={ISSUER}"),
        &image,
    ];
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<String>>();
    Ok(vec![
        owned(&["pullgate", "--config", &format!("{directory}/config.toml"), "check", &image]),
        owned(&cosign),
        owned(&[crate::prepare::PROGRAM, "bare", "bundle", &image]),
    ])
}

/// A policy that asks for [`WORKFLOW`] under the trust root in `root`.
fn document(root: &str, host: &str, more: &str) -> String {
    format!(
        "schema = 1\n[[trust-root]]\nname = \"bench\"\nfile = \"{root}\"\n[[attestor]]\nname = \"a\"\nmay-sign = [\"signature\"]\n\
         {more}identities = [{{ root = \"bench\", issuer = \"{ISSUER}\", subject = \"{WORKFLOW}\" }}]\n\
         [[rule]]\nname = \"r\"\nimages = [\"{host}/**\"]\nrequire = {{ all = [\"a\"] }}\n[default]\nrequire = \"deny\"\n"
    )
}

/// Decisions by a bundle of Rekor v1, and by one of Rekor v2 with a timestamp.
///
/// # Errors
/// Where nothing can be signed.
pub fn signatures() -> Result<Vec<Row>> {
    let authority = Authority::new("bench");
    let root = authority.trusted_root();
    let written = document("root.json", HOST, "");
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
