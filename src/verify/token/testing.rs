//! Tokens as an API server makes them, by keys made at test time.

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::{KeyPair as RsaKeyPair, KeySize},
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

pub(crate) enum Signer {
    Ec(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

impl Signer {
    pub(crate) fn ec() -> Self {
        Self::Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    pub(crate) fn rsa() -> Self {
        Self::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
    }

    pub(crate) fn jwk(&self, id: &str) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self {
            Self::Ec(key) => {
                let point = key.public_key().as_ref();
                json!({ "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": id, "x": text(&point[1..33]), "y": text(&point[33..]) })
            }
            Self::Rsa(key) => {
                let public = key.public_key();
                let (n, e) = (
                    public.modulus().big_endian_without_leading_zero(),
                    public.exponent().big_endian_without_leading_zero(),
                );
                json!({ "kty": "RSA", "alg": "RS256", "use": "sig", "kid": id, "n": text(n), "e": text(e) })
            }
        }
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Ec(key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).unwrap();
                signature
            }
        }
    }

    pub(crate) fn algorithm(&self) -> &'static str {
        match self {
            Self::Ec(_) => "ES256",
            Self::Rsa(_) => "RS256",
        }
    }

    /// A token of these two texts.
    pub(crate) fn token(&self, header: &str, claims: &str) -> Vec<u8> {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(self.sign(signed.as_bytes()))).into_bytes()
    }
}

/// What a token says that is made for a pod in `namespace` with this UID, from `start` on for an hour.
pub(crate) fn claims(namespace: &str, uid: &str, account: &str, start: i64) -> Value {
    json!({
        "aud": [ISSUER], "exp": start + 3600, "iat": start, "nbf": start, "iss": ISSUER, "jti": "x",
        "kubernetes.io": {
            "namespace": namespace,
            "node": { "name": "n", "uid": "u" },
            "pod": { "name": "app-1", "uid": uid },
            "serviceaccount": { "name": account, "uid": "3c1" },
            "warnafter": start + 3000,
        },
        "sub": format!("system:serviceaccount:{namespace}:{account}"),
    })
}

/// The issuer's keys.
pub(crate) fn key_set(signers: &[(&Signer, &str)]) -> String {
    let keys: Vec<Value> = signers.iter().map(|(signer, id)| signer.jwk(id)).collect();
    json!({ "keys": keys }).to_string()
}
