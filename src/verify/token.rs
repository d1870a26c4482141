//! Kubernetes service account tokens: JSON Web Tokens (RFC 7519) that the API server signs for one pod.
//!
//! A pod's author chooses what is mounted where the token is expected, so a token counts only for what its issuer signed:
//! the account, and the pod that it was made for.

mod keys;

use jiff::Timestamp;
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};

pub use keys::KeySet;

use crate::{image::sanitize, limits};

/// Seconds that the issuer's clock may be ahead of this node's.
const AHEAD: i64 = 60;
/// Characters of a claim in a message.
const CLAIM: usize = 80;

/// Whose tokens count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Issuer {
    /// What they call themselves (`iss`), as the API server's `--service-account-issuer`.
    pub name: String,
    /// Of these the token must name one (`aud`); any will do where there are none.
    pub audiences: Vec<String>,
    /// With which they sign.
    pub keys: KeySet,
}

/// The pod that a token has to be made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its UID.
    pub uid: &'a str,
}

/// Of the header (RFC 7515 section 4). A name that is there twice is an error.
#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    crit: Option<IgnoredAny>,
    #[serde(default)]
    b64: Option<IgnoredAny>,
}

/// Of the claims (RFC 7519 section 4.1, and what Kubernetes adds to a bound token). A name that is there twice is an error.
#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Audiences,
    exp: i64,
    nbf: i64,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Kubernetes,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Several(Vec<String>),
}

#[derive(Deserialize)]
struct Kubernetes {
    namespace: String,
    pod: Object,
    serviceaccount: Object,
}

#[derive(Deserialize)]
struct Object {
    name: String,
    uid: String,
}

impl Issuer {
    /// The name of the service account that `token` proves for `pod` at `now`.
    ///
    /// # Errors
    /// Why it proves none, harmless to show: the signature is looked at first, and what it says is read then.
    pub fn account(&self, token: &[u8], pod: Bound<'_>, now: Timestamp) -> Result<String, String> {
        if token.len() as u64 > limits::SERVICE_ACCOUNT_TOKEN_BYTES {
            return Err(format!("larger than {} bytes", limits::SERVICE_ACCOUNT_TOKEN_BYTES));
        }
        // A file may end with its line.
        let token = std::str::from_utf8(token).map_err(|_| "not a token")?.trim_end_matches('\n');
        let mut parts = token.split('.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err("not a signed token".into());
        };
        let signed = &token[..header.len() + 1 + claims.len()];
        let header: Header = json(header)?;
        if header.crit.is_some() || header.b64.is_some() {
            return Err("it asks for what this pullgate does not know".into());
        }
        self.keys.verify(&header.alg, header.kid.as_deref(), signed.as_bytes(), &decode(signature)?)?;
        self.judge(json(claims)?, pod, now)
    }

    fn judge(&self, claims: Claims, pod: Bound<'_>, now: Timestamp) -> Result<String, String> {
        let now = now.as_second();
        let Kubernetes { namespace, pod: bound, serviceaccount: account } = claims.kubernetes;
        let audiences = match claims.aud {
            Audiences::One(audience) => vec![audience],
            Audiences::Several(audiences) => audiences,
        };
        let told = |text: &str| sanitize(text, CLAIM);
        if claims.iss != self.name {
            return Err(format!("issued by {}", told(&claims.iss)));
        }
        if !self.audiences.is_empty() && !audiences.iter().any(|audience| self.audiences.contains(audience)) {
            return Err(format!("made for {}", told(&audiences.join(", "))));
        }
        if now >= claims.exp {
            return Err("it has expired".into());
        }
        if now < claims.nbf.saturating_sub(AHEAD) {
            return Err("it does not count yet".into());
        }
        if pod.uid.is_empty() || bound.uid != pod.uid || namespace != pod.namespace {
            return Err(format!("made for another pod, {}/{}", told(&namespace), told(&bound.name)));
        }
        if account.uid.is_empty() || claims.sub != format!("system:serviceaccount:{namespace}:{}", account.name) {
            return Err(format!("made out to {}", told(&claims.sub)));
        }
        Ok(account.name)
    }
}

fn json<T: DeserializeOwned>(part: &str) -> Result<T, String> {
    serde_json::from_slice(&decode(part)?).map_err(|why| sanitize(&format!("not a token of a pod: {why}"), CLAIM))
}

/// Base64 as tokens have it: its URL alphabet without padding (RFC 7515 section 2), each text in one way only.
fn decode(part: &str) -> Result<Vec<u8>, String> {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    URL_SAFE_NO_PAD.decode(part).map_err(|_| "not a signed token".to_owned())
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
