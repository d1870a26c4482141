//! A private sigstore for tests: a certificate authority as Fulcio is one, with its certificate transparency log,
//! transparency logs as Rekor v1 and v2 are, a timestamp authority, and the `trusted_root.json` for them.
//!
//! Used by several test crates: `#[path = "authority/mod.rs"] mod authority;`. All is made in memory, with new keys.
//!
//! ```ignore
//! let authority = Authority::new("acme");
//! let bundle = authority.sign(image).by("https://github.com/acme/app/.github/workflows/release.yml@refs/heads/main").json();
//! let root = authority.trusted_root();
//! ```
//!
//! What nobody changes is right. To get something wrong: change the description of a part before it is made
//! ([`Signing::leaf`], [`Signing::statement`], [`Entry`], [`Stamp`], [`Fulcio::new`], [`Tsa::new`]), take a part of
//! another authority, or change the finished JSON.

#![allow(dead_code, reason = "each test crate uses a part of it")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod bundle;
pub(crate) mod certificate;
mod fulcio;
mod identity;
mod key;
mod layers;
mod layout;
mod log;
mod merkle;
mod root;
mod signing;
mod timestamp;

use std::fmt;

use ::base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;

#[allow(unused_imports, reason = "each test crate uses a part of it")]
pub(crate) use self::{
    certificate::{CODE_SIGNING, Certified, Description, SERVER_AUTH, San, TIME_STAMPING},
    fulcio::{CtLog, Fulcio, Leaf},
    key::{Algorithm, Key},
    layers::{Artifact, Layer},
    layout::write_layout,
    log::{Entry, Kind, Log},
    root::{Window, trusted_root},
    signing::{COSIGN_SIGN, Signing, TIME, Version, WORKFLOW},
    timestamp::{Stamp, Tsa},
};

/// One sigstore. Its parts may be replaced, or used in the signings of another.
#[derive(Clone, Debug)]
pub(crate) struct Authority {
    pub(crate) name: String,
    pub(crate) fulcio: Fulcio,
    pub(crate) ct_log: CtLog,
    /// As Rekor v1 is.
    pub(crate) rekor: Log,
    /// As Rekor v2 is.
    pub(crate) rekor2: Log,
    pub(crate) tsa: Tsa,
}

impl Authority {
    /// A new one, whose hosts end in `<name>.test`.
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            fulcio: Fulcio::new(name, |_, _| {}),
            ct_log: CtLog::new(Algorithm::P256),
            rekor: Log::rekor(name),
            rekor2: Log::rekor2(name),
            tsa: Tsa::new(name, |_, _| {}),
        }
    }

    /// The signing of an image by its digest (`sha256:<hex>`): keyless by [`WORKFLOW`] at [`TIME`], a statement with
    /// [`COSIGN_SIGN`], logged by Rekor v1, in a bundle v0.3.
    pub(crate) fn sign(&self, image: impl fmt::Display) -> Signing {
        Signing::new(self, &image.to_string())
    }

    /// As [`Authority::sign`], logged by Rekor v2 and with a timestamp.
    pub(crate) fn sign2(&self, image: impl fmt::Display) -> Signing {
        self.sign(image).logged(self.rekor2.entry()).stamped(self.tsa.stamp())
    }

    /// The `trusted_root.json` that trusts this one alone.
    pub(crate) fn trusted_root(&self) -> String {
        trusted_root(&[self])
    }
}

/// An instant from RFC 3339.
pub(crate) fn instant(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn base64(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

/// PEM as Go writes it (RFC 7468): lines of 64 characters.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let text = base64(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
