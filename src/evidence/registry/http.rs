//! One question to a registry, bounded in bytes, time, redirects and tries.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use reqwest::{
    Method, Response, StatusCode, Url,
    header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue},
};
use tokio::time::{Instant, timeout_at};

use super::{
    address::{NoAddressAdmitted, Reach, Rules, host_of},
    bounds::Bounds,
    client::Clients,
    token::Tokens,
};
use crate::{
    evidence::{Cause, Place, RegistryOptions},
    image::sanitize,
    limits,
};

/// The way to registries: connections, tokens and the rules that hold for both.
pub(super) struct Http {
    pub(super) rules: Rules,
    pub(super) bounds: Bounds,
    clients: Clients,
    tokens: Tokens,
    requests: AtomicU64,
}

/// One question.
pub(super) struct Ask<'a> {
    /// The registry and repository that it is about.
    pub(super) place: &'a Place,
    /// `GET` or `HEAD`.
    pub(super) method: Method,
    /// What to ask for; on the host of the registry.
    pub(super) url: Url,
    /// The media types that are understood.
    pub(super) accept: &'static str,
    /// How much of an answer is read.
    pub(super) room: Room<'a>,
    /// When the answer is of no use any more.
    pub(super) until: Instant,
}

/// How many bytes an answer may have.
#[derive(Clone, Copy)]
pub(super) struct Room<'a> {
    /// At most so many.
    pub(super) max: u64,
    /// Exactly so many, by the descriptor that led here.
    pub(super) exact: Option<u64>,
    /// What is left for all answers about one digest together.
    pub(super) purse: Option<&'a Purse>,
}

/// Bytes that may still be read.
pub(super) struct Purse(AtomicU64);

/// An answer: 200, or a refusal that the caller must tell apart (404, 400, 405, 501 and their like).
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// Empty unless the status is 200.
    pub(super) body: Vec<u8>,
}

/// Why there is no answer, and whether another try may help, after which pause.
pub(super) struct Failure {
    pub(super) cause: Cause,
    pub(super) again: Option<Duration>,
}

impl Http {
    pub(super) fn new(options: RegistryOptions, bounds: Bounds) -> Self {
        Self {
            rules: Rules::new(options),
            clients: Clients::new(bounds.connect, bounds.parallel_fetches),
            tokens: Tokens::new(),
            requests: AtomicU64::new(0),
            bounds,
        }
    }

    /// Requests sent so far, those for tokens, after redirects and of second tries included.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Puts `ask` to its registry, again where that may help.
    pub(super) async fn ask(&self, ask: &Ask<'_>) -> Result<Answer, Cause> {
        if ask.room.exact.is_some_and(|size| size > ask.room.max) {
            return Err(too_large(ask.room.max));
        }
        let begin = Instant::now();
        for attempt in 1.. {
            let Failure { cause, again } = match self.attempt(ask).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            match again {
                Some(pause) if attempt < self.bounds.tries && Instant::now() + pause < ask.until => {
                    tokio::time::sleep(pause).await;
                }
                _ => return Err(told(cause, attempt, begin.elapsed())),
            }
        }
        unreachable!("the loop has no end but a return")
    }

    async fn attempt(&self, ask: &Ask<'_>) -> Result<Answer, Failure> {
        let token = self.tokens.held(ask.place).await;
        let asked = self.follow(ask, token.as_ref()).await?;
        if asked.response.status() != StatusCode::UNAUTHORIZED || !asked.at_home {
            return self.answer(ask, asked).await;
        }
        let challenge = asked.response.headers().clone();
        drop(asked);
        let token = self.tokens.obtain(self, ask.place, token.as_ref(), &challenge, ask.until).await?;
        let asked = self.follow(ask, Some(&token)).await?;
        self.answer(ask, asked).await
    }

    /// Sends `ask` and follows redirects. The token stays with the host that it was issued for.
    async fn follow(&self, ask: &Ask<'_>, token: Option<&HeaderValue>) -> Result<Asked, Failure> {
        let mut url = ask.url.clone();
        let mut reach = self.rules.registry(ask.place, &url)?;
        let mut at_home = true;
        for _ in 0..=self.bounds.redirects {
            let headers = [
                Some((ACCEPT, HeaderValue::from_static(ask.accept))),
                token.filter(|_| at_home).map(|token| (AUTHORIZATION, token.clone())),
            ];
            let headers = headers.into_iter().flatten().collect();
            let (response, until) = self.send(ask.method.clone(), &url, reach, headers, ask.until).await?;
            if !is_redirect(response.status()) {
                return Ok(Asked { response, until, at_home });
            }
            url = self.next_hop(&url, response.headers().get(reqwest::header::LOCATION))?;
            reach = self.rules.named_by(ask.place, &url)?;
            at_home = at_home && url.origin() == ask.url.origin();
        }
        Err(Cause::Misbehaved(format!("it redirects more than {} times", self.bounds.redirects)).into())
    }

    fn next_hop(&self, from: &Url, location: Option<&HeaderValue>) -> Result<Url, Cause> {
        let to = location
            .and_then(|location| location.to_str().ok())
            .and_then(|location| from.join(location).ok())
            .ok_or_else(|| Cause::Misbehaved("it redirects to nowhere".to_owned()))?;
        if !to.username().is_empty() || to.password().is_some() {
            return Err(Cause::NotAllowed("it redirects to an address with credentials in it".to_owned()));
        }
        match to.scheme() {
            "https" => Ok(to),
            "http" if from.scheme() == "http" && self.rules.is_plain(&host_of(&to)?) => Ok(to),
            _ => Err(Cause::NotAllowed("it redirects to plain HTTP".to_owned())),
        }
    }

    /// Sends one request. Returns the answer's head, and the time by which its body must be read.
    pub(super) async fn send(
        &self,
        method: Method,
        url: &Url,
        reach: Reach,
        headers: HeaderMap,
        until: Instant,
    ) -> Result<(Response, Instant), Failure> {
        let client = self.clients.get(reach, url.scheme() == "https").await?;
        let until = until.min(Instant::now() + self.bounds.request);
        let request = client.request(method, url.clone()).headers(headers).header(ACCEPT_ENCODING, "identity").build();
        let request = request.map_err(|error| failure(&error))?;
        self.requests.fetch_add(1, Ordering::Relaxed);
        match timeout_at(until, client.execute(request)).await {
            Err(_) => Err(silent()),
            Ok(Err(error)) => Err(failure(&error)),
            Ok(Ok(response)) => Ok((response, until)),
        }
    }

    async fn answer(&self, ask: &Ask<'_>, asked: Asked) -> Result<Answer, Failure> {
        let Asked { response, until, .. } = asked;
        let status = response.status();
        refuse(status, response.headers())?;
        let headers = response.headers().clone();
        let body = if status == StatusCode::OK && ask.method == Method::GET {
            read(response, ask.room, until).await?
        } else {
            Vec::new()
        };
        Ok(Answer { status, headers, body })
    }
}

/// The head of an answer.
struct Asked {
    response: Response,
    until: Instant,
    /// Whether it came from the registry itself, not from where it redirects to.
    at_home: bool,
}

impl Answer {
    /// The media type of the body, without parameters.
    pub(super) fn media_type(&self) -> Option<&str> {
        let text = self.headers.get(CONTENT_TYPE)?.to_str().ok()?;
        Some(text.split(';').next().unwrap_or_default().trim())
    }

    /// The `Content-Length` that was stated.
    pub(super) fn length(&self) -> Option<u64> {
        stated_length(&self.headers)
    }
}

impl Purse {
    pub(super) fn new(bytes: u64) -> Self {
        Self(AtomicU64::new(bytes))
    }

    fn take(&self, bytes: u64) -> Result<(), Cause> {
        let paid = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        paid.map(|_| ()).map_err(|_| Cause::TooLarge("there is more evidence for this digest than is read".to_owned()))
    }
}

impl From<Cause> for Failure {
    fn from(cause: Cause) -> Self {
        Self { cause, again: None }
    }
}

/// The failures among the statuses. What remains is 200, or something that the caller tells apart.
pub(super) fn refuse(status: StatusCode, headers: &HeaderMap) -> Result<(), Failure> {
    match status.as_u16() {
        200 | 404 | 501 => Ok(()),
        401 | 403 => Err(Cause::Unauthorized.into()),
        429 => {
            let wait = headers.get(reqwest::header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            let wait = wait.map(Duration::from_secs).filter(|wait| *wait <= limits::RETRY_AFTER);
            Err(Failure { cause: Cause::Throttled, again: wait })
        }
        500..=599 => Err(passing(format!("answered {}", status.as_u16()))),
        400..=499 => Ok(()),
        other => Err(Cause::Misbehaved(format!("it answered {other}")).into()),
    }
}

/// Reads the body of `response`, no more than `room` allows and no longer than `until`.
pub(super) async fn read(mut response: Response, room: Room<'_>, until: Instant) -> Result<Vec<u8>, Failure> {
    if response.headers().get(reqwest::header::CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
        return Err(Cause::Misbehaved("it sent an encoded body that nobody asked for".to_owned()).into());
    }
    if let Some(length) = stated_length(response.headers()) {
        exactly(length, room)?;
    }
    let mut body = Vec::new();
    loop {
        let chunk = match timeout_at(until, response.chunk()).await {
            Err(_) => return Err(silent()),
            Ok(Err(error)) => return Err(failure(&error)),
            Ok(Ok(None)) => break,
            Ok(Ok(Some(chunk))) => chunk,
        };
        let length = body.len() as u64 + chunk.len() as u64;
        at_most(length, room)?;
        if let Some(purse) = room.purse {
            purse.take(chunk.len() as u64)?;
        }
        body.extend_from_slice(&chunk);
    }
    exactly(body.len() as u64, room)?;
    Ok(body)
}

/// Judges a body that has `bytes`, or more.
fn at_most(bytes: u64, room: Room<'_>) -> Result<(), Cause> {
    match room.exact {
        _ if bytes > room.max => Err(too_large(room.max)),
        Some(exact) if bytes > exact => Err(other_size(exact)),
        _ => Ok(()),
    }
}

/// Judges a body that has `bytes` in all.
fn exactly(bytes: u64, room: Room<'_>) -> Result<(), Cause> {
    at_most(bytes, room)?;
    match room.exact {
        Some(exact) if bytes != exact => Err(other_size(exact)),
        _ => Ok(()),
    }
}

fn stated_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn too_large(max: u64) -> Cause {
    Cause::TooLarge(format!("it is larger than {max} bytes"))
}

fn other_size(exact: u64) -> Cause {
    Cause::Misbehaved(format!("its size is not the {exact} bytes that its descriptor states"))
}

/// No answer in time; [`told`] says in which.
fn silent() -> Failure {
    passing(String::new())
}

fn passing(why: String) -> Failure {
    Failure { cause: Cause::Unreachable(why), again: Some(limits::RETRY_PAUSE) }
}

/// What a failed exchange means.
pub(super) fn failure(error: &reqwest::Error) -> Failure {
    if NoAddressAdmitted::caused(error) {
        return NoAddressAdmitted::cause().into();
    }
    if error.is_timeout() {
        return silent();
    }
    let innermost = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source()).last();
    let why = innermost.map(ToString::to_string).unwrap_or_default();
    let what = if error.is_connect() { "takes no connection" } else { "broke off" };
    passing(format!("{what}: {}", sanitize(&why, 100)))
}

/// `cause` with the time and the tries that it took.
fn told(cause: Cause, tries: usize, elapsed: Duration) -> Cause {
    let Cause::Unreachable(why) = cause else { return cause };
    let why = if why.is_empty() { format!("did not answer in {:.1} s", elapsed.as_secs_f64()) } else { why };
    Cause::Unreachable(if tries > 1 { format!("{why} ({tries} tries)") } else { why })
}
