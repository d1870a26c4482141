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
//! | `endpoint`, `hosts`, `trust` | which hosts are asked for a registry, and whose certificates count: containerd's `certs.d` |
//! | `token`, `credentials` | what a registry is shown of who asks |
//! | `address`, `client` | which addresses may be asked, and the connections to them |
//! | `habits`, `backoff`, `turns` | what a registry did before, when it wants to be left alone, and how many ask it at once |
//! | `ledger` | what was asked |

mod address;
mod backoff;
mod body;
mod bounds;
mod client;
mod credentials;
mod endpoint;
mod failure;
mod habits;
mod hosts;
mod http;
mod ledger;
mod pieces;
mod referrers;
mod search;
mod tags;
mod token;
mod trust;
mod turns;

use std::sync::Arc;

use reqwest::{Method, StatusCode};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::Instant,
};

pub use bounds::Bounds;
pub use ledger::Told;

use self::{
    body::{Held, Room},
    endpoint::Endpoint,
    habits::Habits,
    http::{Answer, Ask, Http},
    turns::Turns,
};
use super::{Cause, Formats, Gap, Place, Questions, RegistryOptions, Stream};
use crate::{image::Digest, limits};

/// The client for all registries. Cheap to clone; clones share connections, tokens and habits.
///
/// Nothing is sent, read or resolved before the first question. HTTPS is spoken to every registry but
/// those on loopback, which are asked in plain HTTP, and those in [`RegistryOptions::plain_http`]; through the
/// proxy that the environment names (`HTTPS_PROXY`, `NO_PROXY`), which then resolves their names. What a `hosts.toml`
/// of containerd's says comes before that. Without [`RegistryOptions::credentials`] only anonymous tokens are used.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

struct Inner {
    http: Http,
    habits: Habits,
    turns: Turns,
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
        let (habits, turns) = (Habits::default(), Turns::default());
        Self(Arc::new(Inner { http: Http::new(options, bounds), habits, turns, held, held_for_claims }))
    }

    /// What `tag` stands for now; none if there is no such tag or repository.
    ///
    /// The hosts of the registry are asked in containerd's order, and the first that knows it counts.
    ///
    /// # Errors
    /// A gap when the registry cannot be asked, or its answer cannot be used.
    pub async fn resolve(&self, place: &Place, tag: &str) -> Result<Option<Resolved>, Gap> {
        let gap = |cause| Gap { place: format!("{}:{tag}", place.repository), cause };
        if !is_tag(tag) {
            return Err(gap(Cause::NotAllowed("it is not a tag".to_owned())));
        }
        let until = self.deadline();
        let mut answers = Answers::none();
        for endpoint in self.0.http.endpoints(place).await.map_err(gap)?.iter().filter(|endpoint| endpoint.resolves) {
            let answer = self.resolve_at(endpoint, tag, self.until(endpoint, until)).await;
            if answers.settled_by(endpoint, answer) {
                break;
            }
        }
        answers.0.map_err(gap)
    }

    async fn resolve_at(&self, endpoint: &Endpoint, tag: &str, until: Instant) -> Result<Option<Resolved>, Cause> {
        let head = self.image(endpoint, tag, Method::HEAD, until).await?;
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
        let Some(answer) = self.image(endpoint, tag, Method::GET, until).await? else { return Ok(None) };
        let media_type = ok_with_type(&answer)?;
        Ok(Some(Resolved { digest: Digest::of(&answer.body), media_type, size: Some(answer.body.len() as u64) }))
    }

    /// The manifest or index with `digest`, its bytes re-hashed, and its media type without parameters
    /// as the registry states it; none if it is not there.
    ///
    /// A mirror that does not know the digest is asked for `tag`, where one is known: it may only then fetch what it is a
    /// mirror of. What comes of it counts if it has the digest.
    ///
    /// # Errors
    /// A gap when the registry cannot be asked, or answers with something else.
    pub async fn manifest(
        &self,
        place: &Place,
        digest: &Digest,
        tag: Option<&str>,
    ) -> Result<Option<(Vec<u8>, String)>, Gap> {
        let gap = |cause| Gap { place: format!("{}@{digest}", place.repository), cause };
        let until = self.deadline();
        let mut answers = Answers::none();
        for endpoint in self.0.http.endpoints(place).await.map_err(gap)?.iter().filter(|endpoint| endpoint.pulls) {
            let until = self.until(endpoint, until);
            let mut answer = self.manifest_at(endpoint, digest, &digest.to_string(), until).await;
            let fetches = !endpoint.is_registry && endpoint.resolves && answer == Ok(None);
            if let Some(tag) = tag.filter(|tag| fetches && is_tag(tag)) {
                answer = self.manifest_at(endpoint, digest, tag, until).await;
            }
            if answers.settled_by(endpoint, answer) {
                break;
            }
        }
        answers.0.map_err(gap)
    }

    async fn manifest_at(
        &self,
        endpoint: &Endpoint,
        digest: &Digest,
        name: &str,
        until: Instant,
    ) -> Result<Option<(Vec<u8>, String)>, Cause> {
        let Some(answer) = self.image(endpoint, name, Method::GET, until).await? else { return Ok(None) };
        let media_type = ok_with_type(&answer)?;
        if Digest::of(&answer.body) != *digest {
            let why = "its bytes do not have the digest that they were asked by";
            return Err(Cause::Misbehaved(why.to_owned()));
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

    /// The last requests, the oldest first.
    pub fn told(&self) -> Vec<Told> {
        self.0.http.ledger.all()
    }

    /// Waits until few enough others ask the registries of `places`; they are asked as long as the turn is held.
    pub async fn turn(&self, places: &[Place]) -> Turn {
        Turn(self.0.turns.take(places).await)
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.0.http.bounds.deadline
    }

    /// How long one host is waited for, so that something is left for the next.
    fn until(&self, endpoint: &Endpoint, until: Instant) -> Instant {
        let patience = Instant::now() + self.0.http.bounds.mirror_patience;
        if endpoint.is_registry { until } else { until.min(patience) }
    }

    async fn image(
        &self,
        endpoint: &Endpoint,
        name: &str,
        method: Method,
        until: Instant,
    ) -> Result<Option<Answer>, Cause> {
        let http = &self.0.http;
        let url = endpoint.url(&["manifests", name])?;
        let room = Room { max: http.bounds.manifest_bytes, exact: None, purse: None };
        let answer = http.ask(&Ask { endpoint, method, url, accept: ACCEPT_IMAGE, room, until }).await?;
        Ok((answer.status != StatusCode::NOT_FOUND).then_some(answer))
    }
}

/// The right to ask some registries, until it is dropped.
#[must_use]
pub struct Turn(#[allow(dead_code, reason = "held, not read")] Vec<OwnedSemaphorePermit>);

/// What the hosts of a registry answered, one after the other. That there is nothing is for the registry itself to say, and
/// what it cannot say is what went wrong.
struct Answers<T>(Result<Option<T>, Cause>);

impl<T> Answers<T> {
    fn none() -> Self {
        Self(Err(not_to_be_asked()))
    }

    /// Takes one more. Whether nobody else needs to be asked.
    fn settled_by(&mut self, endpoint: &Endpoint, answer: Result<Option<T>, Cause>) -> bool {
        let settled = matches!(answer, Ok(Some(_)));
        if settled || endpoint.is_registry {
            self.0 = answer;
        }
        settled
    }
}

/// A `hosts.toml` lets nobody be asked who could say that something is absent.
fn not_to_be_asked() -> Cause {
    Cause::NotAllowed("its hosts.toml says that it is not read from (`capabilities`)".to_owned())
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
