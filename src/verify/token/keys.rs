//! The keys of an issuer, as the API server publishes them: `kubectl get --raw /openid/v1/jwks` (RFC 7517).

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde::Deserialize;

use super::decode;
use crate::limits;

/// Public keys, each for one algorithm: the key says which, and never the token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeySet(Vec<Key>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    id: Option<String>,
    material: Material,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Material {
    /// RS256: modulus and exponent.
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
    /// ES256: a point that is not compressed.
    P256(Vec<u8>),
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Jwk>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default, rename = "use")]
    usage: Option<String>,
    #[serde(default)]
    alg: Option<String>,
    #[serde(default)]
    crv: Option<String>,
    #[serde(default)]
    n: Option<String>,
    #[serde(default)]
    e: Option<String>,
    #[serde(default)]
    x: Option<String>,
    #[serde(default)]
    y: Option<String>,
}

impl KeySet {
    /// Reads a JWK set.
    ///
    /// # Errors
    /// What is wrong with it. A key that cannot be used is an error of the whole: it is the one that is missed later.
    pub fn parse(text: &str) -> Result<Self, String> {
        let document: Document = serde_json::from_str(text).map_err(|why| format!("not a JWK set: {why}"))?;
        let mut keys: Vec<Key> = Vec::new();
        if document.keys.is_empty() || document.keys.len() > limits::SERVICE_ACCOUNT_KEYS {
            return Err(format!("{} keys: a set has 1 to {}", document.keys.len(), limits::SERVICE_ACCOUNT_KEYS));
        }
        for (number, jwk) in (1..).zip(document.keys) {
            let id = jwk.kid.clone();
            let key = Key { material: Material::of(jwk).map_err(|why| format!("key {number}: {why}"))?, id };
            if id_is_taken(&keys, &key) {
                return Err(format!("key {number}: another key has this `kid`, or none has and there are several"));
            }
            keys.push(key);
        }
        Ok(Self(keys))
    }

    /// Whether a key of these made `signature` over `message`: the one that is called `id`, and where the token does not say,
    /// any of them.
    pub(super) fn verify(
        &self,
        algorithm: &str,
        id: Option<&str>,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), String> {
        let named = |key: &&Key| id.is_none() || key.id.as_deref() == id;
        let mut keys = self.0.iter().filter(named).filter(|key| key.material.algorithm() == algorithm).peekable();
        if keys.peek().is_none() {
            return Err("signed by none of the issuer's keys".into());
        }
        match keys.any(|key| key.material.verifies(message, signature)) {
            true => Ok(()),
            false => Err("its signature is wrong".into()),
        }
    }
}

fn id_is_taken(keys: &[Key], key: &Key) -> bool {
    keys.iter().any(|other| other.id == key.id)
}

impl Material {
    fn of(jwk: Jwk) -> Result<Self, String> {
        if jwk.usage.is_some_and(|usage| usage != "sig") {
            return Err("it is not for signatures (`use`)".into());
        }
        let part = |name: &str, text: Option<String>| {
            let bytes =
                text.and_then(|text| decode(&text).ok()).filter(|bytes| !bytes.is_empty() && bytes.len() <= 1024);
            bytes.ok_or_else(|| format!("no usable `{name}`"))
        };
        let material = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("RSA", None) => {
                let (modulus, exponent) = (part("n", jwk.n)?, part("e", jwk.e)?);
                let bits = modulus.len() * 8;
                if modulus.first() == Some(&0) || !(2048..=8192).contains(&bits) || !is_exponent(&exponent) {
                    return Err(format!(
                        "an RSA key of {bits} bits, or with an exponent, that nobody should sign with"
                    ));
                }
                Self::Rsa { modulus, exponent }
            }
            ("EC", Some("P-256")) => {
                let (x, y) = (part("x", jwk.x)?, part("y", jwk.y)?);
                let point = [&[4], x.as_slice(), y.as_slice()].concat();
                let parsed = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point).parse().is_ok();
                if x.len() != 32 || y.len() != 32 || !parsed {
                    return Err("not a point of P-256".into());
                }
                Self::P256(point)
            }
            _ => return Err("neither an RSA key nor one of P-256".into()),
        };
        match jwk.alg.as_deref() {
            Some(algorithm) if algorithm != material.algorithm() => {
                Err(format!("its `alg` is not {}", material.algorithm()))
            }
            _ => Ok(material),
        }
    }

    fn algorithm(&self) -> &'static str {
        match self {
            Self::Rsa { .. } => "RS256",
            Self::P256(_) => "ES256",
        }
    }

    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Rsa { modulus: n, exponent: e } => {
                RsaPublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature).is_ok()
            }
            Self::P256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature).is_ok()
            }
        }
    }
}

/// Odd and at least 65537 (FIPS 186-5, A.1.1): with a smaller one, as 1, anybody could sign.
fn is_exponent(exponent: &[u8]) -> bool {
    let value = exponent.iter().fold(0u64, |value, byte| value.saturating_mul(256).saturating_add(u64::from(*byte)));
    exponent.len() <= 8 && exponent.first() != Some(&0) && value >= 65537 && value % 2 == 1
}
