//! Public keys that sign in one fixed way. Which keys are weak, and which encodings say one key twice, is decided here.

use std::fmt;

use aws_lc_rs::signature::{ECDSA_P521_SHA512_ASN1, UnparsedPublicKey};
use sigstore_crypto::{KeyAlgorithm, SigningScheme, VerificationKey, validate_raw_public_key};
use sigstore_types::{DerPublicKey, SignatureBytes};

use crate::image::Digest;

macro_rules! algorithms {
    ($($variant:ident $name:literal $scheme:expr,)*) => {
        /// How a key signs: fixed by the policy, never taken from the evidence.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs, reason = "the names say it")]
        pub enum Algorithm { $($variant,)* }

        impl Algorithm {
            /// Every algorithm, by its name in the policy.
            pub const ALL: &'static [(&'static str, Self)] = &[$(($name, Self::$variant),)*];

            /// Its name in the policy.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

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
    der: DerPublicKey,
    verifier: Verifier,
}

enum Verifier {
    Sigstore(VerificationKey),
    P521,
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
    /// key of fewer than 2048 or more than 8192 bits, a compressed or invalid point, a point of small order. Each key has
    /// one encoding that is read, so that one key is not taken for two.
    pub fn from_pem(pem: &str, algorithm: Algorithm) -> Result<Self, BadKey> {
        match pem.matches("-----BEGIN ").count() {
            0 => return Err(BadKey("not a public key: expected a PEM block `PUBLIC KEY`".into())),
            1 => {}
            n => return Err(BadKey(format!("{n} PEM blocks: expected one `PUBLIC KEY`, a file for each key"))),
        }
        let der = DerPublicKey::from_pem(pem).map_err(|e| BadKey(format!("not a public key: {e}")))?;
        Self::from_der(der, algorithm)
    }

    /// The key of a certificate, which signs as keys of its kind usually do.
    ///
    /// # Errors
    /// When a policy could not name it either: it is weak, or of a kind that no trust root is asked about.
    pub(crate) fn of_certificate(der: &DerPublicKey) -> Result<Self, BadKey> {
        let usual = KeyAlgorithm::from_spki(der).map_err(|e| BadKey(e.to_string()))?.default_signing_scheme();
        let algorithm = Algorithm::ALL.iter().find(|(_, algorithm)| algorithm.scheme() == Some(usual));
        let (_, algorithm) = algorithm.ok_or_else(|| BadKey("a key of a kind that does not count".into()))?;
        Self::from_der(der.clone(), *algorithm)
    }

    fn from_der(der: DerPublicKey, algorithm: Algorithm) -> Result<Self, BadKey> {
        let verifier = match algorithm.scheme() {
            Some(scheme) => {
                let found = KeyAlgorithm::from_spki(&der).map_err(|e| BadKey(e.to_string()))?;
                if found != scheme.key_algorithm() {
                    return Err(BadKey(format!("the key is {found:?}, which is not what the algorithm says")));
                }
                let key = VerificationKey::from_spki_with_scheme(&der, scheme).map_err(|e| BadKey(e.to_string()))?;
                validate_raw_public_key(scheme, key.as_bytes()).map_err(|e| BadKey(e.to_string()))?;
                parses(scheme, key.as_bytes())?;
                is_the_one_encoding(found, &der, key.as_bytes())?;
                Verifier::Sigstore(key)
            }
            None => {
                if der.as_bytes().len() != P521_BYTES || !der.as_bytes().starts_with(&P521_BEGINNING) {
                    return Err(BadKey("not an ECDSA P-521 public key with an uncompressed point".into()));
                }
                UnparsedPublicKey::new(&ECDSA_P521_SHA512_ASN1, der.as_bytes())
                    .parse()
                    .map_err(|_| BadKey("not an ECDSA P-521 public key".into()))?;
                Verifier::P521
            }
        };
        Ok(Self { id: Digest::of(der.as_bytes()), algorithm, der, verifier })
    }

    /// The key in `pem`, once for each algorithm by which it can sign; in the order of [`Algorithm::ALL`].
    ///
    /// # Errors
    /// When it is a key of none of them.
    pub fn by_any_algorithm(pem: &str) -> Result<Vec<Self>, BadKey> {
        let read = |(_, algorithm): &(_, Algorithm)| Self::from_pem(pem, *algorithm);
        let keys: Vec<Self> = Algorithm::ALL.iter().filter_map(|algorithm| read(algorithm).ok()).collect();
        match (keys.is_empty(), Algorithm::ALL.first().map(read)) {
            (true, Some(Err(why))) => Err(why),
            _ => Ok(keys),
        }
    }

    /// The key as it stands in a policy: a PEM block `PUBLIC KEY`.
    pub fn to_pem(&self) -> String {
        self.der.to_pem().replace('\r', "")
    }

    /// Whether it signs as keys of its kind usually do, which is what log entries are verified by.
    pub fn is_usual(&self) -> bool {
        self.algorithm.scheme().is_some_and(|scheme| scheme.key_algorithm().default_signing_scheme() == scheme)
    }

    /// The key's DER encoding (SubjectPublicKeyInfo).
    pub(crate) fn der(&self) -> &DerPublicKey {
        &self.der
    }

    /// Whether `signature` is this key's signature over `message`.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.verifier {
            Verifier::Sigstore(key) => key.verify(message, &SignatureBytes::from_bytes(signature)).is_ok(),
            Verifier::P521 => {
                let key = UnparsedPublicKey::new(&ECDSA_P521_SHA512_ASN1, self.der.as_bytes());
                key.verify(message, signature).is_ok()
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

/// Refuses what says the same key in another way, and keys whose signatures anybody can make.
fn is_the_one_encoding(algorithm: KeyAlgorithm, der: &DerPublicKey, key: &[u8]) -> Result<(), BadKey> {
    match algorithm {
        // The header of a key of 2048 bits or more has four bytes.
        KeyAlgorithm::Rsa if der.as_bytes().get(4..4 + RSA_ENCRYPTION.len()) != Some(&RSA_ENCRYPTION[..]) => {
            Err(BadKey("the parameters of an RSA key are NULL, and are not left out; export it again".into()))
        }
        KeyAlgorithm::Ed25519 if is_of_small_order(key) => {
            Err(BadKey("a point of small order, for which anybody can make signatures".into()))
        }
        _ => Ok(()),
    }
}

/// `AlgorithmIdentifier` of `rsaEncryption` (RFC 4055 section 1.2: the parameters must be NULL).
const RSA_ENCRYPTION: [u8; 15] = [0x30, 0x0d, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];

/// A P-521 key (RFC 5480) with an uncompressed point: its size in bytes, and what stands before the coordinates.
const P521_BYTES: usize = 158;
const P521_BEGINNING: [u8; 26] = [
    0x30, 0x81, 0x9b, 0x30, 0x10, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 5, 0x2b, 0x81, 4, 0, 0x23, 3, 0x81,
    0x86, 0, 4,
];

/// Whether `key` is one of the eight points of edwards25519 whose order divides 8, in any encoding.
fn is_of_small_order(key: &[u8]) -> bool {
    const ORDER_8: [[u8; 32]; 2] = [
        [
            0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf,
            0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
        ],
        [
            0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20,
            0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
        ],
    ];
    let Ok(mut y) = <[u8; 32]>::try_from(key) else { return false };
    // The sign of x.
    y[31] &= 0x7f;
    let [first, middle @ .., last] = y;
    // 0 and 1; p - 1, p and p + 1, where p is 2^255 - 19.
    let small = first <= 1 && last == 0 && middle == [0; 30];
    let near_p = (0xec..=0xee).contains(&first) && last == 0x7f && middle == [0xff; 30];
    small || near_p || ORDER_8.contains(&y)
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.algorithm, self.id)
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::{
        encoding::{AsDer, PublicKeyX509Der},
        rsa,
        signature::{
            ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA512_ASN1_SIGNING, ED25519, EcdsaKeyPair, KeyPair as _,
        },
    };

    use super::*;
    use crate::trust::testing::*;

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

    /// The PEM block of a key that is `parts`, one after the other.
    fn of(parts: &[&[u8]]) -> String {
        DerPublicKey::from_bytes(&parts.concat()).to_pem()
    }

    #[test]
    fn one_key_in_another_encoding_is_no_second_key() {
        let p521 = EcdsaKeyPair::generate(&ECDSA_P521_SHA512_ASN1_SIGNING).unwrap();
        let point = p521.public_key().as_ref();
        let (x, y) = point[1..].split_at(66);
        let read = |pem: &str| PublicKey::from_pem(pem, Algorithm::EcdsaP521Sha512);
        let good = of(&[&P521_BEGINNING[..25], point]);
        assert_eq!(good, of(&[AsDer::<PublicKeyX509Der<'_>>::as_der(p521.public_key()).unwrap().as_ref()]));
        assert!(read(&good).is_ok());
        let parity = 2 + (y[65] & 1);
        let compressed = [&[0x30, 0x58], &P521_BEGINNING[3..21], &[3, 0x44, 0, parity], x].concat();
        let hybrid = of(&[&P521_BEGINNING[..25], &[4 + parity], x, y]);
        for other in [of(&[&compressed]), hybrid, of(&[point]), of(&[&[parity], x])] {
            assert!(read(&other).is_err(), "{other}");
        }

        let rsa = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
        let der = AsDer::<PublicKeyX509Der<'_>>::as_der(rsa.public_key()).unwrap();
        let (header, key) = der.as_ref().split_at(19);
        assert_eq!(header[4..], RSA_ENCRYPTION);
        let length = u16::from_be_bytes([header[2], header[3]]) - 2;
        let (mut algorithm, length) = (RSA_ENCRYPTION[..13].to_vec(), length.to_be_bytes());
        algorithm[1] = 0x0b;
        let without_parameters = of(&[&[0x30, 0x82], &length, &algorithm, key]);
        for (name, algorithm) in Algorithm::ALL.iter().filter(|(name, _)| name.starts_with("rsa")) {
            assert!(PublicKey::from_pem(&of(&[der.as_ref()]), *algorithm).is_ok(), "{name}");
            assert!(PublicKey::from_pem(&without_parameters, *algorithm).is_err(), "{name}");
        }
    }

    #[test]
    fn a_key_for_which_anybody_can_sign_is_none() {
        const HEADER: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];
        let read = |key: &[u8]| PublicKey::from_pem(&of(&[&HEADER, key]), Algorithm::Ed25519);
        let good = aws_lc_rs::signature::Ed25519KeyPair::generate().unwrap();
        assert!(read(good.public_key().as_ref()).is_ok());
        let with_ends = |first: u8, middle: u8, last: u8| {
            let mut key = [middle; 32];
            (key[0], key[31]) = (first, last);
            key
        };
        // Of one of them this is the signature of every message: the neutral point, and zero.
        let neutral = with_ends(1, 0, 0);
        let anybodys = [neutral, [0; 32]].concat();
        let lc = UnparsedPublicKey::new(&ED25519, neutral);
        assert!(lc.verify(b"whatever", &anybodys).is_ok(), "the library began to refuse it");
        for y in [
            with_ends(0, 0, 0),
            neutral,
            with_ends(0xec, 0xff, 0x7f),
            with_ends(0xed, 0xff, 0x7f),
            with_ends(0xee, 0xff, 0x7f),
        ] {
            for sign in [0, 0x80] {
                let mut key = y;
                key[31] |= sign;
                assert!(read(&key).is_err(), "{key:?}");
            }
        }
        // RSA with the exponent 1: every signature is its own message.
        let rsa = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
        let der = AsDer::<PublicKeyX509Der<'_>>::as_der(rsa.public_key()).unwrap();
        let before = der.as_ref().strip_suffix(&[2, 3, 1, 0, 1]).unwrap();
        let exponent = |e: u8| {
            let mut key = before.to_vec();
            // What holds it is two bytes shorter, all the way out.
            for (at, by) in [(2, 2u16), (21, 2), (26, 2)] {
                let length = u16::from_be_bytes([key[at], key[at + 1]]) - by;
                key[at..at + 2].copy_from_slice(&length.to_be_bytes());
            }
            PublicKey::from_pem(&of(&[&key, &[2, 1, e]]), Algorithm::RsaPkcs1Sha256)
        };
        assert!(exponent(3).is_ok(), "{:?}", exponent(3));
        for e in [0, 1, 2] {
            assert!(exponent(e).is_err(), "{e}");
        }
    }

    #[test]
    fn a_key_is_found_by_any_algorithm_and_written_as_it_was_read() {
        let text = pem(&key());
        let keys = PublicKey::by_any_algorithm(&text).unwrap();
        let found: Vec<&str> = keys.iter().map(|key| key.algorithm.name()).collect();
        assert_eq!(found, ["ecdsa-p256-sha256"]);
        assert_eq!(keys[0].to_pem(), text.replace('\r', ""));
        let p384 = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING).unwrap();
        let der: PublicKeyX509Der<'_> = p384.public_key().as_der().unwrap();
        let keys = PublicKey::by_any_algorithm(&DerPublicKey::from_bytes(der.as_ref()).to_pem()).unwrap();
        let found: Vec<&str> = keys.iter().map(|key| key.algorithm.name()).collect();
        assert_eq!(found, ["ecdsa-p384-sha256", "ecdsa-p384-sha384"]);
        assert!(
            PublicKey::by_any_algorithm("").is_err() && PublicKey::by_any_algorithm(&format!("{text}{text}")).is_err()
        );
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
