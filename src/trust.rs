//! Who may vouch for images: attestors, and the keys that speak for them. Pure.

#![deny(clippy::disallowed_methods)]

use std::{collections::BTreeMap, fmt};

use aws_lc_rs::signature::{ECDSA_P521_SHA512_ASN1, UnparsedPublicKey};
use sigstore_crypto::{KeyAlgorithm, SigningScheme, VerificationKey, validate_raw_public_key};
use sigstore_types::{DerPublicKey, SignatureBytes};

use crate::{evidence::Formats, image::Digest};

/// The predicate type of the statement that cosign 3 signs for "this image is signed".
pub const COSIGN_SIGN: &str = "https://sigstore.dev/cosign/sign/v1";

/// A person or a pipeline whose word counts, for the purposes it is trusted for.
#[derive(Debug)]
pub struct Attestor {
    /// Its name in the policy.
    pub name: String,
    /// What its keys may sign.
    pub may_sign: Vec<Purpose>,
    /// Its keys. An attestor without keys is never satisfied.
    pub keys: Vec<PublicKey>,
    /// The forms in which its signatures count, hence are asked for.
    pub formats: Formats,
    /// Annotations that a simple-signing payload must carry to count.
    pub annotations: BTreeMap<String, String>,
}

/// What a signature says about an image.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Purpose {
    /// That the image is signed: a simple-signing payload, or a statement of [`COSIGN_SIGN`].
    Signature,
    /// What a statement with this predicate type says.
    Predicate(String),
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signature => f.write_str("signature"),
            Self::Predicate(uri) => f.write_str(uri),
        }
    }
}

macro_rules! algorithms {
    ($($variant:ident $name:literal $scheme:expr,)*) => {
        /// How a key signs: fixed by the policy, never taken from the evidence.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs, reason = "the names say it")]
        pub enum Algorithm { $($variant,)* }

        impl Algorithm {
            /// Every algorithm, by its name in the policy.
            pub const ALL: &'static [(&'static str, Self)] = &[$(($name, Self::$variant),)*];

            fn scheme(self) -> Option<SigningScheme> {
                match self { $(Self::$variant => $scheme,)* }
            }
        }
    };
}

algorithms! {
    EcdsaP256Sha256 "ecdsa-p256-sha256" Some(SigningScheme::EcdsaP256Sha256),
    EcdsaP384Sha256 "ecdsa-p384-sha256" Some(SigningScheme::EcdsaP384Sha256),
    EcdsaP384Sha384 "ecdsa-p384-sha384" Some(SigningScheme::EcdsaP384Sha384),
    EcdsaP521Sha512 "ecdsa-p521-sha512" None,
    Ed25519 "ed25519" Some(SigningScheme::Ed25519),
    RsaPkcs1Sha256 "rsa-pkcs1-sha256" Some(SigningScheme::RsaPkcs1Sha256),
    RsaPkcs1Sha512 "rsa-pkcs1-sha512" Some(SigningScheme::RsaPkcs1Sha512),
    RsaPssSha256 "rsa-pss-sha256" Some(SigningScheme::RsaPssSha256),
    RsaPssSha512 "rsa-pss-sha512" Some(SigningScheme::RsaPssSha512),
}

/// A public key that signs in one fixed way.
pub struct PublicKey {
    /// SHA-256 of the key's DER encoding (SubjectPublicKeyInfo, RFC 5280 section 4.1.2.7): its identity.
    pub id: Digest,
    /// How it signs.
    pub algorithm: Algorithm,
    verifier: Verifier,
}

enum Verifier {
    Sigstore(VerificationKey),
    P521(DerPublicKey),
}

/// Why a text is not a key of the algorithm that the policy states.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadKey(String);

impl PublicKey {
    /// Reads a PEM block `PUBLIC KEY` (RFC 7468 section 13) that holds a key for `algorithm`.
    ///
    /// # Errors
    /// When it is anything else: several blocks, a private key or a certificate, a key of another algorithm, an RSA
    /// key of fewer than 2048 or more than 8192 bits, a compressed or invalid point.
    pub fn from_pem(pem: &str, algorithm: Algorithm) -> Result<Self, BadKey> {
        match pem.matches("-----BEGIN ").count() {
            0 => return Err(BadKey("not a public key: expected a PEM block `PUBLIC KEY`".into())),
            1 => {}
            n => return Err(BadKey(format!("{n} PEM blocks: expected one `PUBLIC KEY`, a file for each key"))),
        }
        let der = DerPublicKey::from_pem(pem).map_err(|e| BadKey(format!("not a public key: {e}")))?;
        let verifier = match algorithm.scheme() {
            Some(scheme) => {
                let found = KeyAlgorithm::from_spki(&der).map_err(|e| BadKey(e.to_string()))?;
                if found != scheme.key_algorithm() {
                    return Err(BadKey(format!("the key is {found:?}, which is not what the algorithm says")));
                }
                let key = VerificationKey::from_spki_with_scheme(&der, scheme).map_err(|e| BadKey(e.to_string()))?;
                validate_raw_public_key(scheme, key.as_bytes()).map_err(|e| BadKey(e.to_string()))?;
                parses(scheme, key.as_bytes())?;
                Verifier::Sigstore(key)
            }
            None => {
                UnparsedPublicKey::new(&ECDSA_P521_SHA512_ASN1, der.as_bytes())
                    .parse()
                    .map_err(|_| BadKey("not an ECDSA P-521 public key".into()))?;
                Verifier::P521(der.clone())
            }
        };
        Ok(Self { id: Digest::of(der.as_bytes()), algorithm, verifier })
    }

    /// Whether `signature` is this key's signature over `message`.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.verifier {
            Verifier::Sigstore(key) => key.verify(message, &SignatureBytes::from_bytes(signature)).is_ok(),
            Verifier::P521(der) => {
                UnparsedPublicKey::new(&ECDSA_P521_SHA512_ASN1, der.as_bytes()).verify(message, signature).is_ok()
            }
        }
    }
}

/// Lets the cryptographic library look at the key now, so that a point off the curve is an error of the policy and not
/// a signature that never verifies.
fn parses(scheme: SigningScheme, key: &[u8]) -> Result<(), BadKey> {
    use aws_lc_rs::signature as lc;
    let algorithm: &'static dyn lc::VerificationAlgorithm = match scheme.key_algorithm() {
        KeyAlgorithm::EcdsaP256 => &lc::ECDSA_P256_SHA256_ASN1,
        KeyAlgorithm::EcdsaP384 => &lc::ECDSA_P384_SHA384_ASN1,
        KeyAlgorithm::Ed25519 => &lc::ED25519,
        _ => &lc::RSA_PKCS1_2048_8192_SHA256,
    };
    match UnparsedPublicKey::new(algorithm, key).parse() {
        Ok(_) => Ok(()),
        Err(_) => Err(BadKey("the key's numbers are not a valid public key".into())),
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.algorithm, self.id)
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! Keys and signatures made at test time.

    use sigstore_crypto::KeyPair;

    use super::*;

    pub(crate) fn key() -> KeyPair {
        KeyPair::generate_ecdsa_p256().unwrap()
    }

    pub(crate) fn pem(key: &KeyPair) -> String {
        key.public_key_der().unwrap().to_pem()
    }

    pub(crate) fn attestor(name: &str, may_sign: &[Purpose], keys: &[&KeyPair]) -> Attestor {
        let keys = keys.iter().map(|key| PublicKey::from_pem(&pem(key), Algorithm::EcdsaP256Sha256).unwrap());
        let (name, may_sign, keys) = (name.into(), may_sign.to_vec(), keys.collect());
        Attestor { name, may_sign, keys, formats: Formats::ALL, annotations: BTreeMap::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::{testing::*, *};

    #[test]
    fn a_key_verifies_its_own_signature_and_no_other() {
        let signer = key();
        let public = PublicKey::from_pem(&pem(&signer), Algorithm::EcdsaP256Sha256).unwrap();
        let signature = signer.sign(b"message").unwrap();
        assert!(public.verifies(b"message", signature.as_bytes()));
        assert!(!public.verifies(b"massage", signature.as_bytes()));
        assert!(!public.verifies(b"message", b""));
        let other = PublicKey::from_pem(&pem(&key()), Algorithm::EcdsaP256Sha256).unwrap();
        assert!(!other.verifies(b"message", signature.as_bytes()));
    }

    #[test]
    fn what_is_not_a_key_of_the_stated_algorithm_is_an_error() {
        let good = pem(&key());
        for (name, algorithm) in Algorithm::ALL {
            let read = PublicKey::from_pem(&good, *algorithm);
            assert_eq!(read.is_ok(), *name == "ecdsa-p256-sha256", "{name}: {read:?}");
        }
        let off_curve = {
            let mut der = DerPublicKey::from_pem(&good).unwrap().as_bytes().to_vec();
            *der.last_mut().unwrap() ^= 1;
            DerPublicKey::from_bytes(&der).to_pem()
        };
        for bad in [
            "",
            "ssh-ed25519 AAAA",
            "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n",
            &good.replace("PUBLIC KEY", "PRIVATE KEY"),
            &good.replace("PUBLIC KEY", "CERTIFICATE"),
            &format!("{good}{good}"),
            &good[..60],
            &off_curve,
        ] {
            assert!(PublicKey::from_pem(bad, Algorithm::EcdsaP256Sha256).is_err(), "{bad}");
        }
    }
}
