//! One question to a registry, bounded in bytes, time, redirects and tries.

use std::sync::atomic::{AtomicU64, Ordering};

use reqwest::{
    Method, Response, StatusCode, Url,
    header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue},
};
use tokio::time::{Instant, timeout_at};

use super::{
    address::{Reach, Rules, host_of},
    body::{Room, read, stated_length, too_large},
    bounds::Bounds,
    client::Clients,
    failure::{Failure, broken, refuse, silent, told},
    token::Tokens,
};
use crate::evidence::{Cause, Place, RegistryOptions};

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

/// An answer: 200, or a refusal that the caller must tell apart (404, 400, 405, 501 and their like).
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// Empty unless the status is 200.
    pub(super) body: Vec<u8>,
}

impl Http {
    pub(super) fn new(options: RegistryOptions, bounds: Bounds) -> Self {
        Self {
            rules: Rules::new(options),
            clients: Clients::new(bounds.connect, bounds.idle, bounds.parallel_fetches),
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

    /// Where a redirect leads, if that is no step down from HTTPS.
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
        let request = request.map_err(|error| broken(&error))?;
        self.requests.fetch_add(1, Ordering::Relaxed);
        match timeout_at(until, client.execute(request)).await {
            Err(_) => Err(silent()),
            Ok(Err(error)) => Err(broken(&error)),
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
