//! The registry client against a registry that lies, stalls, floods and points elsewhere.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot be set up has failed")]

#[path = "registry/addresses.rs"]
mod addresses;
#[path = "registry/bounds.rs"]
mod bounds;
#[path = "registry/credentials.rs"]
mod credentials;
#[path = "registry/decisions.rs"]
mod decisions;
#[path = "registry/failures.rs"]
mod failures;
#[path = "registry/hostile.rs"]
mod hostile;
#[path = "registry/images.rs"]
mod images;
#[path = "registry/layouts.rs"]
mod layouts;
#[path = "registry/manners.rs"]
mod manners;
#[path = "registry/mirrors.rs"]
mod mirrors;
#[path = "registry/questions.rs"]
mod questions;
#[path = "registry/reach.rs"]
mod reach;
#[path = "registry/secrets.rs"]
mod secrets;

use std::time::Duration;

use hostile::HostileRegistry;
use pullgate::{
    evidence::{
        Asked, Cause, Formats, Found, Gap, Material, Place, RegistryOptions,
        registry::{Bounds, Registry},
    },
    image::Digest,
    limits,
};

const ALL: Formats = Formats { simple_signing: true, bundle: true, attestation_tag: true };
const SIGNATURES: Formats = Formats { simple_signing: true, bundle: true, attestation_tag: false };
const TAG: Formats = Formats { simple_signing: true, bundle: false, attestation_tag: false };
const BUNDLE: Formats = Formats { simple_signing: false, bundle: true, attestation_tag: false };

/// Bounds under which layouts are asked strictly one after the other, so that requests can be counted.
fn in_order() -> Bounds {
    let never = Duration::from_secs(60);
    Bounds { hedge: never, patience: never, ..Bounds::default() }
}

fn client(bounds: Bounds) -> Registry {
    Registry::with_bounds(RegistryOptions::default(), bounds)
}

/// All that a search hands out.
#[derive(Debug)]
struct Gathered {
    found: Vec<Found>,
    gaps: Vec<Gap>,
    asked: Vec<Asked>,
}

impl Gathered {
    /// The evidence as text: payload and signature, or the document; sorted.
    fn texts(&self) -> Vec<String> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut texts: Vec<String> = self
            .found
            .iter()
            .map(|found| match &found.material {
                Material::SimpleSigning { payload, signature, .. } => format!("{} {signature}", text(payload)),
                Material::Envelope { json: bytes, .. } | Material::Bundle(bytes) => text(bytes),
            })
            .collect();
        texts.sort();
        texts
    }

    /// The one gap there is.
    fn gap(&self) -> &Cause {
        assert_eq!(self.gaps.len(), 1, "{:?}", self.gaps);
        &self.gaps[0].cause
    }
}

async fn gather(registry: &Registry, place: Place, digest: Digest, formats: Formats) -> Gathered {
    let mut stream = registry.evidence(place, digest, formats);
    let mut gathered = Gathered { found: Vec::new(), gaps: Vec::new(), asked: Vec::new() };
    let all = async {
        while let Some(item) = stream.items.recv().await {
            match item {
                Ok(found) => gathered.found.push(found),
                Err(gap) => gathered.gaps.push(gap),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.expect("every search ends");
    gathered.asked = stream.questions.so_far();
    gathered
}
