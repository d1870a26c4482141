//! Keyless signatures, and keys under trust roots, from the policy to the decision: what is right is admitted in every form,
//! and what is wrong refused with the code and the words for it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot be set up has failed")]

#[path = "keyless/attacks.rs"]
mod attacks;
#[path = "authority/mod.rs"]
mod authority;
#[path = "keyless/documents.rs"]
mod documents;
#[path = "keyless/forms.rs"]
mod forms;
#[path = "registry/hostile.rs"]
mod hostile;
#[path = "keyless/monotone.rs"]
mod monotone;
#[path = "keyless/mutation.rs"]
mod mutation;
#[path = "keyless/refusals.rs"]
mod refusals;
#[path = "keyless/shapes.rs"]
mod shapes;
#[path = "keyless/signers.rs"]
mod signers;
#[path = "keyless/stamps.rs"]
mod stamps;
#[path = "keyless/thresholds.rs"]
mod thresholds;
#[path = "keyless/windows.rs"]
mod windows;

use std::{collections::BTreeMap, path::Path, sync::Arc};

use authority::*;
use hostile::HostileRegistry;
use jiff::Timestamp;
use pullgate::{
    admission::Admission,
    clock::Clock,
    config::Config,
    decisions::Asking,
    evidence::{Attached, Found, Material, kept::Kept},
    image::Digest,
    policy::{
        Policy,
        decision::{Code, Decision, Verdict},
        evaluate::{Answer, Findings, Origin, Subject},
    },
    snapshot::Snapshot,
    trust::Attestor,
    verify::{Seen, Unusable, Vouched, verify},
};

/// The issuer of [`WORKFLOW`].
const GITHUB: &str = "https://token.actions.githubusercontent.com";
/// The repository that the policies here are about.
const REPOSITORY: &str = "reg.test/prod/app";
/// A predicate type that attestors here may sign, beside signatures.
const SLSA: &str = "https://slsa.dev/provenance/v1";
/// The purposes of attestors, and the trust root `acme`, as tables say them.
const SIGNS: &str = "may-sign = [\"signature\", \"https://slsa.dev/provenance/v1\"]";
const ACME: &str = "[[trust-root]]\nname = \"acme\"\nfile = \"acme.json\"\n";

/// The image that everything here is about.
fn image() -> Digest {
    Digest::of(b"image")
}

/// The time that decisions are made at.
fn now() -> Timestamp {
    Timestamp::now()
}

/// Whom a certificate has to name, as an attestor's table says it: [`WORKFLOW`], unless `more` says otherwise.
fn identity(root: &str, more: &str) -> String {
    identity_of(root, GITHUB, WORKFLOW, more)
}

fn identity_of(root: &str, issuer: &str, subject: &str, more: &str) -> String {
    format!("{{ root = \"{root}\", issuer = \"{issuer}\", subject = \"{subject}\"{more} }}")
}

/// The table of an attestor with these identities.
fn attestor(name: &str, identities: &[String]) -> String {
    format!("[[attestor]]\nname = \"{name}\"\n{SIGNS}\nidentities = [{}]\n", identities.join(", "))
}

/// The table of an attestor with one key; `more` is what stands beside it.
fn keyed(name: &str, key: &Key, more: &str) -> String {
    let algorithm = match key.algorithm() {
        Algorithm::P256 => "ecdsa-p256-sha256",
        Algorithm::P384 => "ecdsa-p384-sha384",
        Algorithm::Ed25519 => "ed25519",
    };
    let pem = key.pem();
    format!(
        "[[attestor]]\nname = \"{name}\"\n{SIGNS}\n\
         keys = [{{ algorithm = \"{algorithm}\", pem = '''\n{pem}'''{more} }}]\n"
    )
}

/// The usual tables: the root `acme`, and the attestor `release`, who is [`WORKFLOW`].
fn usual() -> String {
    format!("{ACME}{}", attestor("release", &[identity("acme", "")]))
}

/// The document with `tables` and one rule.
fn document(repository: &str, tables: &str, require: &str) -> String {
    format!(
        "schema = 1\n{tables}[[rule]]\nname = \"app\"\nimages = [\"{repository}\"]\nrequire = {require}\n\
         [default]\nrequire = \"deny\"\n"
    )
}

/// The files that a policy names: `<name>.json` for each trust root.
type Files<'a> = [(&'a str, String)];

fn parsed(files: &Files<'_>, document: &str) -> Result<Policy, String> {
    let read = |path: &str| {
        let file = files.iter().find(|(name, _)| path == format!("{name}.json"));
        file.map(|(_, text)| text.clone()).ok_or_else(|| "no such file".to_owned())
    };
    Policy::parse("policy.toml", document, &read).map_err(|problems| problems.to_string())
}

/// The policy with `tables` that requires `require` of [`REPOSITORY`].
fn policy_of(files: &Files<'_>, tables: &str, require: &str) -> Policy {
    let document = document(REPOSITORY, tables, require);
    parsed(files, &document).unwrap_or_else(|why| panic!("{why}\n{document}"))
}

/// The policy of [`usual`] under the root of `authority`.
fn policy(authority: &Authority) -> Policy {
    policy_of(&[("acme", authority.trusted_root())], &usual(), "{ all = [\"release\"] }")
}

fn piece(material: Material) -> Found {
    Found { material, place: format!("{REPOSITORY}@sha256:0") }
}

/// The bundle of a signing, as it is found.
fn bundle(signing: &Signing) -> Found {
    raw_bundle(signing.json())
}

fn raw_bundle(json: impl ToString) -> Found {
    piece(Material::Bundle(json.to_string().into_bytes()))
}

/// What stands beside a signature of the older layout.
fn attached(layer: &Layer) -> Attached {
    let annotation = |name: &str| layer.annotations.get(&format!("dev.sigstore.cosign/{name}")).cloned();
    Attached {
        certificate: annotation("certificate"),
        chain: annotation("chain"),
        log_entry: annotation("bundle"),
        timestamp: annotation("rfc3161timestamp"),
    }
}

/// A layer of a `.sig` tag, as it is found.
fn sig(layer: &Layer) -> Found {
    let signature = layer.annotations["dev.cosignproject.cosign/signature"].clone();
    piece(Material::SimpleSigning { payload: layer.bytes.clone(), signature, attached: attached(layer) })
}

/// A layer of an `.att` tag, as it is found.
fn att(layer: &Layer) -> Found {
    piece(Material::Envelope { json: layer.bytes.clone(), attached: attached(layer) })
}

/// A named authority for each of `names`.
fn authorities<const N: usize>(names: [&str; N]) -> [Authority; N] {
    names.map(Authority::new)
}

/// What `pieces` are worth to the attestors of `policy`.
fn findings(policy: &Policy, pieces: &[Found], seen: Seen) -> Vec<Result<Vouched, Unusable>> {
    let attestors: Vec<&Attestor> = policy.attestors.iter().collect();
    pieces.iter().flat_map(|found| verify(found, &image(), &attestors, seen)).collect()
}

/// What is decided about [`image`] by `pieces`, seen for the first time.
fn judged(policy: &Policy, pieces: &[Found]) -> Decision {
    judged_when(policy, pieces, Seen::at_first(now()))
}

fn judged_when(policy: &Policy, pieces: &[Found], seen: Seen) -> Decision {
    let subject = Subject::new(image(), Some(REPOSITORY.parse().unwrap()), Origin::Fetched);
    let Answer::NeedsEvidence(governing) = policy.ask(&subject, &BTreeMap::new(), seen.now) else {
        panic!("it is settled without evidence")
    };
    let mut all = Findings::default();
    for finding in findings(policy, pieces, seen) {
        match finding {
            Ok(vouched) => all.vouched.push(vouched),
            Err(unusable) => all.unusable.push(unusable),
        }
    }
    policy.evaluate(&governing, &subject, &all, seen.now)
}

/// What a daemon that has just started decides about `image`, which is in `prod/app` of `registry`.
async fn decide(registry: &HostileRegistry, image: Digest, policy: Policy, clock: Clock, kept: Kept) -> Decision {
    let config = Config::parse(Path::new("config.toml"), "mode = \"enforce\"").unwrap();
    let snapshot = Snapshot::new(config, Some(policy));
    let subject = Subject::new(image, Some(registry.place("prod/app").repository), Origin::Fetched);
    let admission = Arc::new(Admission::new(Arc::new(clock), kept));
    admission.decide(&Arc::new(snapshot), vec![subject], Asking::Usual).await
}

#[track_caller]
fn admits(policy: &Policy, pieces: &[Found]) {
    let decision = judged(policy, pieces);
    assert_eq!(decision.verdict, Verdict::Allow, "{decision:#?}");
}

/// That it is refused with `code` and `words`, in one line that a person can act on.
#[track_caller]
fn refuses(policy: &Policy, pieces: &[Found], code: Code, words: &str) {
    says(&judged(policy, pieces), code, words);
}

#[track_caller]
fn says(decision: &Decision, code: Code, words: &str) {
    let expected = code.verdict();
    assert_eq!((decision.verdict, decision.code()), (expected, Some(code)), "{decision:#?}");
    let violation = &decision.violations[0];
    assert!(violation.found.contains(words), "{words:?} is not in {:?}", violation.found);
    assert!(!violation.fix.is_empty(), "nothing says what to do: {violation:?}");
    let line = format!("{} {}", violation.found, violation.fix);
    assert!(!line.chars().any(char::is_control), "{line:?}");
}

/// That no authority vouches for `found`, whatever they say about it.
#[track_caller]
fn unproven(policy: &Policy, what: &str, found: Found) {
    let decision = judged(policy, &[found]);
    let codes = [Code::SignerNotProven, Code::UntrustedAttestor];
    assert!(codes.iter().any(|code| decision.code() == Some(*code)), "{what}: {decision:#?}");
}
