//! One question to a registry, bounded in bytes, time, redirects and tries.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use jiff::Timestamp;
use reqwest::{
    Method, Response, StatusCode, Url,
    header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION},
};
use tokio::time::{Instant, timeout_at};

use super::{
    address::{Reach, Rules, host_of},
    backoff::{BackOff, asked_for},
    body::{Room, read, stated_length, too_large},
    bounds::Bounds,
    client::Clients,
    credentials::Credentials,
    endpoint::Endpoint,
    failure::{Failure, broken, refuse, silent, told},
    hosts::Hosts,
    ledger::Ledger,
    token::Tokens,
    trust::Trust,
};
use crate::{
    evidence::{Cause, Place, RegistryOptions},
    limits,
};

/// The way to registries: connections, tokens and the rules that hold for both.
pub(super) struct Http {
    pub(super) rules: Rules,
    pub(super) bounds: Bounds,
    pub(super) credentials: Credentials,
    pub(super) ledger: Ledger,
    hosts: Arc<Hosts>,
    clients: Clients,
    tokens: Tokens,
    backoff: BackOff,
    requests: AtomicU64,
}

/// One question.
pub(super) struct Ask<'a> {
    /// The host that is asked, and the repository that it is about.
    pub(super) endpoint: &'a Endpoint,
    /// `GET` or `HEAD`.
    pub(super) method: Method,
    /// What to ask for; on the host of the endpoint.
    pub(super) url: Url,
    /// The media types that are understood.
    pub(super) accept: &'static str,
    /// How much of an answer is read.
    pub(super) room: Room<'a>,
    /// When the answer is of no use any more.
    pub(super) until: Instant,
}

/// One request on its way.
pub(super) struct Sending<'a> {
    pub(super) method: Method,
    pub(super) url: &'a Url,
    pub(super) reach: Reach,
    pub(super) trust: &'a Arc<Trust>,
    pub(super) headers: HeaderMap,
    /// A form, with its secrets.
    pub(super) form: Option<String>,
    pub(super) until: Instant,
}

/// An answer: 200, or a refusal that the caller must tell apart (404, 400, 405, 501 and their like).
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// Empty unless the status is 200.
    pub(super) body: Vec<u8>,
}

impl Http {
    pub(super) fn new(options: RegistryOptions, bounds: Bounds) -> Self {
        let hosts = Hosts::new(options.host_directories.clone(), options.skip_verify.clone());
        Self {
            credentials: Credentials::new(options.credentials.clone(), bounds.helper),
            rules: Rules::new(options),
            hosts: Arc::new(hosts),
            clients: Clients::new(bounds.connect, bounds.idle, bounds.parallel_fetches),
            tokens: Tokens::new(),
            backoff: BackOff::default(),
            ledger: Ledger::default(),
            requests: AtomicU64::new(0),
            bounds,
        }
    }

    /// Requests sent so far, those for tokens, after redirects and of second tries included.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// The hosts to ask for `place`, in their order. The registry itself is the last.
    pub(super) async fn endpoints(&self, place: &Place) -> Result<Vec<Arc<Endpoint>>, Cause> {
        let configured = self.hosts.of(&place.repository.host).await?;
        Endpoint::all(&self.rules, place, configured.as_deref())
    }

    /// Puts `ask` to its host, again where that may help.
    pub(super) async fn ask(&self, ask: &Ask<'_>) -> Result<Answer, Cause> {
        if ask.room.exact.is_some_and(|size| size > ask.room.max) {
            return Err(too_large(ask.room.max));
        }
        let begin = Instant::now();
        let mut tries = 1;
        loop {
            let Failure { cause, again } = match self.attempt(ask).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            match again {
                Some(pause) if tries < self.bounds.tries && Instant::now() + pause < ask.until => {
                    tokio::time::sleep(pause).await;
                    tries += 1;
                }
                _ => return Err(told(cause, tries, begin.elapsed())),
            }
        }
    }

    async fn attempt(&self, ask: &Ask<'_>) -> Result<Answer, Failure> {
        let token = self.tokens.held(ask.endpoint).await;
        let asked = self.follow(ask, token.as_ref()).await?;
        if !asked.is_refused() {
            if token.is_some() {
                self.tokens.worked(ask.endpoint).await;
            }
            return self.answer(ask, asked).await;
        }
        let challenge = asked.response.headers().clone();
        drop(asked);
        let token = self.tokens.obtain(self, ask.endpoint, token.as_ref(), &challenge, ask.until).await?;
        let asked = self.follow(ask, Some(&token)).await?;
        match asked.is_refused() {
            true => self.tokens.refused(ask.endpoint, &token).await,
            false => self.tokens.worked(ask.endpoint).await,
        }
        self.answer(ask, asked).await
    }

    /// Sends `ask` and follows redirects. What the host is shown of certificates, headers and tokens stays with it.
    async fn follow(&self, ask: &Ask<'_>, token: Option<&HeaderValue>) -> Result<Asked, Failure> {
        let mut url = ask.url.clone();
        let mut reach = self.rules.registry(ask.endpoint, &url)?;
        let mut at_home = true;
        for _ in 0..=self.bounds.redirects {
            let mut headers = if at_home { self.headers_of(ask.endpoint)? } else { HeaderMap::new() };
            headers.insert(ACCEPT, HeaderValue::from_static(ask.accept));
            if let Some(token) = token.filter(|_| at_home) {
                headers.insert(AUTHORIZATION, token.clone());
            }
            let trust = if at_home { &ask.endpoint.trust } else { &ask.endpoint.trust_of_others };
            let (method, until) = (ask.method.clone(), ask.until);
            let sending = Sending { method, url: &url, reach, trust, headers, form: None, until };
            let sent = self.send(sending).await;
            let (response, until) = sent.map_err(|failure| match at_home {
                true => failure,
                false => Failure { cause: redirected(failure.cause), ..failure },
            })?;
            if !is_redirect(response.status()) {
                return Ok(Asked { response, until, at_home });
            }
            url = self.next_hop(&url, response.headers().get(LOCATION)).map_err(redirected)?;
            reach = self.rules.named_by(ask.endpoint, &url).map_err(redirected)?;
            at_home = at_home && url.origin() == ask.url.origin();
        }
        Err(Cause::Redirected(format!("it redirects more than {} times", self.bounds.redirects)).into())
    }

    /// What every request to `endpoint` carries. Nobody listens in on it.
    fn headers_of(&self, endpoint: &Endpoint) -> Result<HeaderMap, Cause> {
        if !endpoint.header.is_empty() && endpoint.base.scheme() != "https" && !self.rules.is_plain(&endpoint.host) {
            let host = &endpoint.host;
            return Err(Cause::Withheld(format!(
                "the headers that hosts.toml has for it are not sent in plain HTTP; to send them: \
                 [registry.\"{host}\"] insecure-plain-http = true"
            )));
        }
        Ok(endpoint.header.clone())
    }

    /// Where a redirect leads, if that is no step down from HTTPS.
    fn next_hop(&self, from: &Url, location: Option<&HeaderValue>) -> Result<Url, Cause> {
        let to = location
            .and_then(|location| location.to_str().ok())
            .and_then(|location| from.join(location).ok())
            .ok_or_else(|| Cause::Redirected("it redirects to nowhere".to_owned()))?;
        if !to.username().is_empty() || to.password().is_some() {
            return Err(Cause::Redirected("it redirects to an address with credentials in it".to_owned()));
        }
        match to.scheme() {
            "https" => Ok(to),
            "http" if from.scheme() == "http" && self.rules.is_plain(&host_of(&to)?) => Ok(to),
            _ => Err(Cause::Redirected("it redirects to plain HTTP".to_owned())),
        }
    }

    /// Sends one request. Returns the answer's head, and the time by which its body must be read.
    ///
    /// Whom a host asked to leave it alone for longer than is waited for does not ask it.
    pub(super) async fn send(&self, sending: Sending<'_>) -> Result<(Response, Instant), Failure> {
        let Sending { method, url, reach, trust, headers, form, until } = sending;
        if let Some(left) = self.backoff.left(url) {
            if left > limits::RETRY_AFTER || Instant::now() + left >= until {
                return Err(Cause::Throttled.into());
            }
            tokio::time::sleep(left).await;
        }
        let client = self.clients.get(reach, url.scheme() == "https", trust).await?;
        let begin = Instant::now();
        let until = until.min(begin + self.bounds.request);
        let request = client.request(method.clone(), url.clone()).headers(headers);
        let request = request.header(ACCEPT_ENCODING, "identity");
        let request = match form {
            Some(form) => request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form),
            None => request,
        };
        let request = request.build().map_err(|error| broken(&error))?;
        self.requests.fetch_add(1, Ordering::Relaxed);
        let answered = timeout_at(until, client.execute(request)).await;
        let status = answered.as_ref().ok().and_then(|answer| Some(answer.as_ref().ok()?.status()));
        self.ledger.note(&method, url, status, begin.elapsed());
        let response = match answered {
            Err(_) => return Err(silent()),
            Ok(Err(error)) => return Err(broken(&error)),
            Ok(Ok(response)) => response,
        };
        if response.status() == StatusCode::TOO_MANY_REQUESTS
            && let Some(wait) = asked_for(response.headers(), Timestamp::now())
        {
            self.backoff.note(url, wait);
        }
        Ok((response, until))
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

impl Asked {
    /// Whether the registry itself wants to know who asks, or somebody else.
    fn is_refused(&self) -> bool {
        self.response.status() == StatusCode::UNAUTHORIZED && self.at_home
    }
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

/// What is not asked after a redirect is the fault of who redirects.
fn redirected(cause: Cause) -> Cause {
    match cause {
        Cause::NotAllowed(why) => Cause::Redirected(format!("it redirects: {why}")),
        other => other,
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_never_leaves_https() {
        let plain_http = vec!["plain.example.com".parse().unwrap(), "plain.example.com:81".parse().unwrap()];
        let http = Http::new(RegistryOptions { plain_http, ..RegistryOptions::default() }, Bounds::default());
        for (from, to, expected) in [
            ("https://a.example.com/x/y", "z", Some("https://a.example.com/x/z")),
            ("https://a.example.com/x", "/z?q#f", Some("https://a.example.com/z?q#f")),
            ("https://a.example.com/x", "//b.example.com/z", Some("https://b.example.com/z")),
            ("https://a.example.com/x", "http://a.example.com/x", None),
            ("https://a.example.com/x", "http://plain.example.com/x", None),
            ("https://a.example.com/x", "http://127.0.0.1/x", None),
            ("http://plain.example.com/x", "https://a.example.com/x", Some("https://a.example.com/x")),
            ("http://plain.example.com/x", "http://plain.example.com:81/x", Some("http://plain.example.com:81/x")),
            ("http://plain.example.com/x", "http://plain.example.com:82/x", None),
            ("http://plain.example.com/x", "http://other.example.com/x", None),
            ("http://plain.example.com/x", "http://plain.example.com@other.example.com/x", None),
            ("https://a.example.com/x", "data:,x", None),
            ("https://a.example.com/x", "https://", None),
        ] {
            let location = HeaderValue::from_static(to);
            let hop = http.next_hop(&Url::parse(from).unwrap(), Some(&location)).ok();
            assert_eq!(hop.as_ref().map(Url::as_str), expected, "{from} to {to}");
        }
        assert!(http.next_hop(&Url::parse("https://a.example.com/").unwrap(), None).is_err());
    }
}
