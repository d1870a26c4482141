//! One call of the protocol (sigstore-conformance, docs/cli_protocol.md).

use std::{fs, sync::Arc};

use pullgate::{
    image::Digest,
    trust::{Demands, Identity, Matcher, PublicKey, TrustRoot},
    verify::proof,
};
use sigstore_trust_root::{SIGSTORE_PRODUCTION_TRUSTED_ROOT, SIGSTORE_STAGING_TRUSTED_ROOT};
use sigstore_types::{Artifact, Bundle, Sha256Hash};

/// Does what `arguments` say.
///
/// # Errors
/// Why the bundle does not count, or why nothing could be done.
pub(crate) fn run(arguments: impl Iterator<Item = String>) -> Result<(), String> {
    let call = Call::read(arguments)?;
    let root = match (&call.trusted_root, call.staging) {
        (Some(file), _) => read(file)?,
        (None, true) => SIGSTORE_STAGING_TRUSTED_ROOT.to_owned(),
        (None, false) => SIGSTORE_PRODUCTION_TRUSTED_ROOT.to_owned(),
    };
    let root = TrustRoot::parse("root", "trusted_root.json", &root, Demands::default()).map_err(|e| e.to_string())?;
    let bundle = Bundle::from_json(&read(&call.bundle)?).map_err(|e| e.to_string())?;
    let bytes;
    let artifact = match call.artifact.parse::<Digest>() {
        Ok(digest) => Artifact::from(Sha256Hash::new(*digest.as_bytes())),
        Err(_) => {
            bytes = fs::read(&call.artifact).map_err(|e| format!("{}: {e}", call.artifact))?;
            Artifact::from(&bytes)
        }
    };
    match call.signer {
        Signer::Key(file) => {
            let keys = PublicKey::by_any_algorithm(&read(&file)?).map_err(|e| e.to_string())?;
            let key = keys.into_iter().find(PublicKey::is_usual).ok_or("no trust root can be asked about this key")?;
            proof::by_key(&root, &bundle, artifact, &key, jiff::Timestamp::now()).map(|_| ())
        }
        Signer::Identity { subject, issuer } => {
            let (root, issuer, subject) = (Arc::new(root), Matcher::Exact(issuer), Matcher::Exact(subject));
            let identity = Identity { root: root.clone(), issuer, subject, claims: Vec::new() };
            let proven = proof::by_certificate(&root, &bundle, artifact, |certified| identity.means(certified))?;
            match identity.means(&proven.certified) {
                true => Ok(()),
                false => Err(format!("signed by {}", proven.certified.signer())),
            }
        }
    }
}

fn read(file: &str) -> Result<String, String> {
    fs::read_to_string(file).map_err(|e| format!("{file}: {e}"))
}

struct Call {
    bundle: String,
    signer: Signer,
    trusted_root: Option<String>,
    staging: bool,
    artifact: String,
}

enum Signer {
    Key(String),
    Identity { subject: String, issuer: String },
}

impl Call {
    fn read(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        match arguments.next().as_deref() {
            Some("verify-bundle") => {}
            other => return Err(format!("{} is not verify-bundle", other.unwrap_or("nothing"))),
        }
        let (mut bundle, mut key, mut subject, mut issuer, mut trusted_root) = (None, None, None, None, None);
        let (mut staging, mut artifact) = (false, None);
        while let Some(argument) = arguments.next() {
            let slot = match argument.as_str() {
                "--staging" => {
                    staging = true;
                    continue;
                }
                "--bundle" => &mut bundle,
                "--key" => &mut key,
                "--certificate-identity" => &mut subject,
                "--certificate-oidc-issuer" => &mut issuer,
                "--trusted-root" => &mut trusted_root,
                option if option.starts_with("--") => return Err(format!("{option} is not known")),
                _ => {
                    if artifact.replace(argument).is_some() {
                        return Err("one artifact at a time".to_owned());
                    }
                    continue;
                }
            };
            *slot = Some(arguments.next().ok_or_else(|| format!("{argument} has a value"))?);
        }
        let signer = match (key, subject, issuer) {
            (Some(key), None, None) => Signer::Key(key),
            (None, Some(subject), Some(issuer)) => Signer::Identity { subject, issuer },
            _ => return Err("either --key, or --certificate-identity and --certificate-oidc-issuer".to_owned()),
        };
        Ok(Self {
            bundle: bundle.ok_or("--bundle is missing")?,
            signer,
            trusted_root,
            staging,
            artifact: artifact.ok_or("the artifact is missing")?,
        })
    }
}
