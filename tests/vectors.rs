//! The vectors of other projects, from the folder that `PULLGATE_VECTORS` names; without it there is nothing to run.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a vector that cannot be read has failed")]

#[path = "vectors/conformance.rs"]
mod conformance;
#[path = "vectors/containers_image.rs"]
mod containers_image;
#[path = "registry/hostile.rs"]
mod hostile;
#[path = "vectors/image_spec.rs"]
mod image_spec;
#[path = "vectors/keyed.rs"]
mod keyed;
#[path = "vectors/keyless.rs"]
mod keyless;
#[path = "vectors/kritis.rs"]
mod kritis;
#[path = "vectors/saved.rs"]
mod saved;
#[path = "vectors/slsa.rs"]
mod slsa;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use hostile::HostileRegistry;
use pullgate::{
    admission::Admission,
    clock::Clock,
    config::Config,
    decisions::Asking,
    evidence::{kept::Kept, registry::Registry, sources::Sources},
    image::{Digest, Repository},
    policy::{
        Policy,
        decision::{Decision, Verdict},
        evaluate::{Origin, Subject},
    },
    snapshot::Snapshot,
};
use serde_json::Value;

/// The repository that every image of a vector is put into.
const REPOSITORY: &str = "vectors/app";

/// The folder `set` of the vectors.
fn vectors(set: &str) -> Option<PathBuf> {
    let Some(folder) = std::env::var_os("PULLGATE_VECTORS") else {
        println!("{set} was not run: PULLGATE_VECTORS is not set");
        return None;
    };
    // A configuration names directories from the root.
    Some(std::path::absolute(folder).unwrap().join(set))
}

fn read_json(path: &Path) -> Value {
    let text = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn text<'a>(case: &'a Value, key: &str) -> &'a str {
    case[key].as_str().unwrap_or_else(|| panic!("{key} is missing in {case}"))
}

/// What a node decides about `image` in [`REPOSITORY`] at `server` that asks for one attestor under the trust roots in
/// `roots`; `attestor` is what stands in its table beside its name.
async fn decide_under(server: &HostileRegistry, image: Digest, roots: &str, attestor: &str) -> Decision {
    let name = server.place(REPOSITORY).repository;
    decide_from(Sources::new(Kept::default()), "", name, image, (roots, attestor)).await
}

/// The same by evidence from `sources`, and with `more` in the configuration.
async fn decide_from(
    sources: Sources,
    more: &str,
    name: Repository,
    image: Digest,
    (roots, attestor): (&str, &str),
) -> Decision {
    let policy = format!(
        "schema = 1\n{roots}[[attestor]]\nname = \"signer\"\n{attestor}\n[[rule]]\nname = \"vectors\"\n\
         images = [\"{}/vectors/*\"]\nrequire = {{ all = [\"signer\"] }}\n[default]\nrequire = \"deny\"\n",
        name.host,
    );
    let read = |file: &str| std::fs::read_to_string(file).map_err(|error| error.to_string());
    let policy = Policy::parse("policy.toml", &policy, &read).unwrap_or_else(|e| panic!("{e}"));
    let config = Config::parse(Path::new("config.toml"), &format!("mode = \"enforce\"\n{more}")).unwrap();
    let snapshot = Snapshot::new(config, Some(policy));
    let subject = Subject::new(image, Some(name), Origin::Fetched);
    let admission = Arc::new(Admission::with_sources(Arc::new(Clock::unkept()), sources));
    admission.decide(&Arc::new(snapshot), vec![subject], Asking::Usual).await
}

/// The line of an attestor's table for the ECDSA P-256 key in the file `key`.
fn p256(key: &Path) -> String {
    let pem = std::fs::read_to_string(key).unwrap_or_else(|error| panic!("{}: {error}", key.display()));
    format!("keys = [{{ algorithm = \"ecdsa-p256-sha256\", pem = '''\n{pem}''' }}]\n")
}

/// Decides about each image of the samples in `set` as its case says, with and without a referrers API; returns how many.
/// `said` is the trust roots and the attestor that a case in its folder is about.
async fn samples(set: &str, said: impl Fn(&Path, &Value) -> (String, String)) -> Option<usize> {
    let mut run = 0;
    for case in std::fs::read_dir(vectors("samples")?.join(set)).unwrap() {
        let folder = case.unwrap().path();
        let case = read_json(&folder.join("case.json"));
        let (roots, attestor) = said(&folder, &case);
        for referrers_api in [false, true] {
            let server = HostileRegistry::start().await;
            server.content().load_layout(&folder.join("layout"), REPOSITORY);
            server.content().referrers_api = referrers_api;
            let image = text(&case, "image_digest").parse().unwrap();
            let decision = decide_under(&server, image, &roots, &attestor).await;
            let id = text(&case, "id");
            assert_eq!(decision.verdict, expected(&case), "{id}, referrers API {referrers_api}: {decision:?}");
        }
        run += 1;
    }
    Some(run)
}

/// The table of the trust root `root` in `file`, with what else stands in it.
fn trust_root(file: &Path, more: &str) -> String {
    format!("[[trust-root]]\nname = \"root\"\nfile = {:?}\n{more}", file.to_str().unwrap())
}

/// The line of an attestor's table for whom a certificate under the trust root `root` names.
fn identity(subject: &str, issuer: &str) -> String {
    format!("identities = [{{ root = \"root\", subject = {subject:?}, issuer = {issuer:?} }}]\n")
}

/// What the vector expects, as a verdict.
fn expected(case: &Value) -> Verdict {
    match text(case, "expected") {
        "ACCEPT" => Verdict::Allow,
        "REJECT" => Verdict::Deny,
        other => panic!("{other} is no expectation"),
    }
}
