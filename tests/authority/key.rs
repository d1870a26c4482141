//! Keys of the authority and of its signers.

use std::{fmt, sync::Arc};

use aws_lc_rs::{
    digest::{Digest as Hashed, SHA256},
    encoding::{AsDer, PublicKeyX509Der},
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
    },
};
use der::{Decode, asn1::ObjectIdentifier};
use sha2::{Digest, Sha256};
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};

use super::pem;

/// What a key is for, by the names of protobuf-specs (`sigstore_common.proto`, `PublicKeyDetails`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    P256,
    P384,
    Ed25519,
}

/// A key pair; clones share it.
#[derive(Clone)]
pub(crate) struct Key(Arc<Pair>);

enum Pair {
    Ecdsa(Algorithm, EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Key {
    /// A new key.
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        let ecdsa = |of| Pair::Ecdsa(algorithm, EcdsaKeyPair::generate(of).unwrap());
        Self(Arc::new(match algorithm {
            Algorithm::P256 => ecdsa(&ECDSA_P256_SHA256_ASN1_SIGNING),
            Algorithm::P384 => ecdsa(&ECDSA_P384_SHA384_ASN1_SIGNING),
            Algorithm::Ed25519 => Pair::Ed25519(Ed25519KeyPair::generate().unwrap()),
        }))
    }

    pub(crate) fn algorithm(&self) -> Algorithm {
        match &*self.0 {
            Pair::Ecdsa(algorithm, _) => *algorithm,
            Pair::Ed25519(_) => Algorithm::Ed25519,
        }
    }

    /// `PublicKeyDetails`.
    pub(crate) fn details(&self) -> &'static str {
        match self.algorithm() {
            Algorithm::P256 => "PKIX_ECDSA_P256_SHA_256",
            Algorithm::P384 => "PKIX_ECDSA_P384_SHA_384",
            Algorithm::Ed25519 => "PKIX_ED25519",
        }
    }

    /// ecdsa-with-SHA256, ecdsa-with-SHA384 or Ed25519 (RFC 5758 section 3.2, RFC 8410).
    pub(crate) fn signature_algorithm(&self) -> AlgorithmIdentifierOwned {
        let oid = match self.algorithm() {
            Algorithm::P256 => "1.2.840.10045.4.3.2",
            Algorithm::P384 => "1.2.840.10045.4.3.3",
            Algorithm::Ed25519 => "1.3.101.112",
        };
        AlgorithmIdentifierOwned { oid: ObjectIdentifier::new_unwrap(oid), parameters: None }
    }

    /// A signature over `message`; by ECDSA in DER.
    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        match &*self.0 {
            Pair::Ecdsa(_, pair) => pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec(),
            Pair::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    /// A signature over a message of which only the SHA-256 is known: P-256 alone.
    pub(crate) fn sign_hash(&self, sha256: &[u8; 32]) -> Vec<u8> {
        let Pair::Ecdsa(Algorithm::P256, pair) = &*self.0 else { panic!("{self:?} signs no hashes") };
        pair.sign_digest(&Hashed::import_less_safe(sha256, &SHA256).unwrap()).unwrap().as_ref().to_vec()
    }

    /// SubjectPublicKeyInfo.
    pub(crate) fn der(&self) -> Vec<u8> {
        let der: PublicKeyX509Der<'_> = match &*self.0 {
            Pair::Ecdsa(_, pair) => pair.public_key().as_der().unwrap(),
            Pair::Ed25519(pair) => pair.public_key().as_der().unwrap(),
        };
        der.as_ref().to_vec()
    }

    pub(crate) fn pem(&self) -> String {
        pem("PUBLIC KEY", &self.der())
    }

    pub(crate) fn info(&self) -> SubjectPublicKeyInfoOwned {
        SubjectPublicKeyInfoOwned::from_der(&self.der()).unwrap()
    }

    /// The key without its SubjectPublicKeyInfo.
    pub(crate) fn raw(&self) -> Vec<u8> {
        self.info().subject_public_key.raw_bytes().to_vec()
    }

    /// The SHA-256 of the SubjectPublicKeyInfo: the name of a log (RFC 6962 section 3.2; Rekor v1).
    pub(crate) fn id(&self) -> [u8; 32] {
        Sha256::digest(self.der()).into()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.details(), hex::encode(self.id()))
    }
}
