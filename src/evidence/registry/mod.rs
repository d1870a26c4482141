//! Evidence in registries (OCI distribution specification 1.1). The client is pullgate's own, since every
//! answer here may come from an adversary: each is bounded in bytes, count, time and redirects, whatever
//! was asked by digest is hashed again, and "absent" is kept apart from "could not tell".
//!
//! | file | what it knows |
//! |---|---|
//! | `search` | which layouts are asked for the evidence of a digest, and when |
//! | `tags`, `referrers` | where the evidence lies in each layout |
//! | `pieces` | how blobs of evidence are read, and in which order |
//! | `http`, `body`, `failure` | one question: redirects, tries, bounds, and what its failure means |
//! | `token` | anonymous tokens |
//! | `address`, `client` | which addresses may be asked, and the connections to them |
//! | `habits` | what a registry did before |

mod address;
mod body;
mod bounds;
mod client;
mod failure;
mod habits;
mod http;
mod pieces;
mod referrers;
mod search;
mod tags;
mod token;

use std::sync::Arc;

use reqwest::{Method, StatusCode};
use tokio::{sync::mpsc, time::Instant};

pub use bounds::Bounds;

use self::{
    body::{Held, Room},
    habits::Habits,
    http::{Answer, Ask, Http},
};
use super::{Cause, Formats, Gap, Place, Questions, RegistryOptions, Stream};
use crate::{image::Digest, limits};

/// The client for all registries. Cheap to clone; clones share connections, tokens and habits.
///
/// Nothing is sent, read or resolved before the first question. HTTPS is spoken to every registry but
/// those on loopback, which are asked in plain HTTP, and those in [`RegistryOptions::plain_http`]; through the
/// proxy that the environment names (`HTTPS_PROXY`, `NO_PROXY`), which then resolves their names. Only
/// anonymous tokens are used.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

struct Inner {
    http: Http,
    habits: Habits,
    held: Arc<Held>,
    /// Apart, so that names which an archive invents take nothing from those that containerd fetched from.
    held_for_claims: Arc<Held>,
}

/// What a tag stands for, as the registry says. The digest is a claim until the manifest is read by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The digest of the manifest or index.
    pub digest: Digest,
    /// Its media type, without parameters.
    pub media_type: String,
    /// Its size in bytes, where the registry states it.
    pub size: Option<u64>,
}

const ACCEPT_IMAGE: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

impl Registry {
    /// A client with the bounds of [`limits`].
    pub fn new(options: RegistryOptions) -> Self {
        Self::with_bounds(options, Bounds::default())
    }

    /// A client with other bounds.
    pub fn with_bounds(options: RegistryOptions, bounds: Bounds) -> Self {
        let held = || Arc::new(Held::new(bounds.evidence_held_bytes));
        let (held, held_for_claims) = (held(), held());
        Self(Arc::new(Inner { http: Http::new(options, bounds), habits: Habits::default(), held, held_for_claims }))
    }

    /// What `tag` stands for now; none if there is no such tag or repository.
    ///
    /// # Errors
    /// A gap when the registry cannot be asked, or its answer cannot be used.
    pub async fn resolve(&self, place: &Place, tag: &str) -> Result<Option<Resolved>, Gap> {
        let gap = |cause| Gap { place: format!("{}:{tag}", place.repository), cause };
        if !is_tag(tag) {
            return Err(gap(Cause::NotAllowed("it is not a tag".to_owned())));
        }
        let until = self.deadline();
        let head = self.image(place, tag, Method::HEAD, until).await.map_err(gap)?;
        let claimed = match &head {
            Some(answer) => {
                answer.headers.get("docker-content-digest").and_then(|value| value.to_str().ok()?.parse().ok())
            }
            None => return Ok(None),
        };
        if let (Some(digest), Some(answer)) = (claimed, &head)
            && answer.status == StatusCode::OK
            && let Some(media_type) = answer.media_type()
        {
            return Ok(Some(Resolved { digest, media_type: media_type.to_owned(), size: answer.length() }));
        }
        let Some(answer) = self.image(place, tag, Method::GET, until).await.map_err(gap)? else { return Ok(None) };
        let media_type = ok_with_type(&answer).map_err(gap)?;
        Ok(Some(Resolved { digest: Digest::of(&answer.body), media_type, size: Some(answer.body.len() as u64) }))
    }

    /// The manifest or index with `digest`, its bytes re-hashed, and its media type without parameters
    /// as the registry states it; none if it is not there.
    ///
    /// # Errors
    /// A gap when the registry cannot be asked, or answers with something else.
    pub async fn manifest(&self, place: &Place, digest: &Digest) -> Result<Option<(Vec<u8>, String)>, Gap> {
        let gap = |cause| Gap { place: format!("{}@{digest}", place.repository), cause };
        let answer = self.image(place, &digest.to_string(), Method::GET, self.deadline()).await.map_err(gap)?;
        let Some(answer) = answer else { return Ok(None) };
        let media_type = ok_with_type(&answer).map_err(gap)?;
        if Digest::of(&answer.body) != *digest {
            let why = "its bytes do not have the digest that they were asked by";
            return Err(gap(Cause::Misbehaved(why.to_owned())));
        }
        Ok(Some((answer.body, media_type)))
    }

    /// The evidence for `digest` that lies at `place` in the layouts of `formats`, as it comes in.
    ///
    /// Must be called within a tokio runtime. A tag or manifest that is not there (404) is absent and
    /// yields nothing; whatever could not be asked, read or counted to its end yields a [`Gap`] of its own
    /// and keeps nothing else from being read. Pieces come in the order of their arrival.
    pub fn evidence(&self, place: Place, digest: Digest, formats: Formats) -> Stream {
        let (sender, items) = mpsc::channel(limits::EVIDENCE_WAITING);
        let questions = Questions::default();
        let search = search::run(self.0.clone(), place, digest, formats, questions.clone(), sender);
        Stream::new(items, questions, tokio::spawn(search))
    }

    /// Requests sent so far: also those for tokens, after redirects and of second tries.
    pub fn requests(&self) -> u64 {
        self.0.http.requests()
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.0.http.bounds.deadline
    }

    async fn image(&self, place: &Place, name: &str, method: Method, until: Instant) -> Result<Option<Answer>, Cause> {
        let http = &self.0.http;
        let url = http.rules.base(place)?.join(&format!("manifests/{name}"));
        let url = url.map_err(|_| Cause::NotAllowed("its name makes no URL".to_owned()))?;
        let room = Room { max: http.bounds.manifest_bytes, exact: None, purse: None };
        let answer = http.ask(&Ask { place, method, url, accept: ACCEPT_IMAGE, room, until }).await?;
        Ok((answer.status != StatusCode::NOT_FOUND).then_some(answer))
    }
}

/// The media type of an answer that is one.
fn ok_with_type(answer: &Answer) -> Result<String, Cause> {
    if answer.status != StatusCode::OK {
        return Err(Cause::Misbehaved(format!("it answered {}", answer.status.as_u16())));
    }
    let media_type = answer.media_type().filter(|media_type| !media_type.is_empty());
    media_type.map(str::to_owned).ok_or_else(|| Cause::Misbehaved("it states no media type".to_owned()))
}

/// A tag (distribution specification, "Pulling manifests").
fn is_tag(tag: &str) -> bool {
    (1..=128).contains(&tag.len())
        && tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        && !tag.starts_with(['.', '-'])
}
