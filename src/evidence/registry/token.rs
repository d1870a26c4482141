//! Anonymous access tokens (distribution, "Token authentication specification").
//!
//! A token is only ever sent to the registry that it was issued for: it is held under that registry
//! and repository, and [`super::http`] drops it when a redirect leaves the host.

use std::{sync::Arc, time::Duration};

use reqwest::{
    Method, StatusCode, Url,
    header::{ACCEPT, HeaderMap, HeaderValue, WWW_AUTHENTICATE},
};
use serde::Deserialize;
use tokio::time::Instant;

use super::{
    body::{Room, read},
    failure::{Failure, refuse},
    http::Http,
};
use crate::{
    evidence::{Cause, Place},
    image::Repository,
    limits,
};

/// The tokens at hand, by registry and repository: the scope of each is to pull from that repository.
pub(super) struct Tokens(moka::future::Cache<Repository, Token>);

#[derive(Clone)]
struct Token {
    header: HeaderValue,
    until: Instant,
}

impl Tokens {
    pub(super) fn new() -> Self {
        Self(moka::future::Cache::new(limits::TOKENS))
    }

    /// The `Authorization` header for the registry of `place`, if a token for it is at hand.
    pub(super) async fn held(&self, place: &Place) -> Option<HeaderValue> {
        let token = self.0.get(&place.repository).await?;
        (token.until > Instant::now()).then_some(token.header)
    }

    /// A token in answer to the challenge in `headers`, other than the one that was just `refused`.
    /// Questions that need the same one at the same time share one request.
    pub(super) async fn obtain(
        &self,
        http: &Http,
        place: &Place,
        refused: Option<&HeaderValue>,
        headers: &HeaderMap,
        until: Instant,
    ) -> Result<HeaderValue, Failure> {
        let challenge = Challenge::among(headers).ok_or(Cause::Unauthorized)?;
        if let Some(token) = self.0.get(&place.repository).await
            && (Some(&token.header) == refused || token.until <= Instant::now())
        {
            self.0.invalidate(&place.repository).await;
        }
        let issued = self.0.try_get_with(place.repository.clone(), issue(http, place, &challenge, until)).await;
        issued
            .map(|token| token.header)
            .map_err(|failure: Arc<Failure>| Failure { cause: failure.cause.clone(), again: failure.again })
    }
}

#[derive(Deserialize)]
struct Issued {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<i64>,
}

async fn issue(http: &Http, place: &Place, challenge: &Challenge, until: Instant) -> Result<Token, Failure> {
    let url = service(http, place, challenge)?;
    let reach = http.rules.named_by(place, &url)?;
    let headers = [(ACCEPT, HeaderValue::from_static("application/json"))].into_iter().collect();
    let (response, until) = http.send(Method::GET, &url, reach, headers, until).await?;
    refuse(response.status(), response.headers())?;
    if response.status() != StatusCode::OK {
        let status = response.status().as_u16();
        return Err(Cause::Misbehaved(format!("its token service answered {status}")).into());
    }
    let body = read(response, Room { max: http.bounds.token_bytes, exact: None, purse: None }, until).await?;
    let unreadable = || Cause::Misbehaved("its token service issues no token that can be read".to_owned());
    let issued: Issued = serde_json::from_slice(&body).map_err(|_| unreadable())?;
    let text = issued.token.or(issued.access_token).filter(|text| !text.is_empty()).ok_or_else(unreadable)?;
    let mut header = HeaderValue::from_str(&format!("Bearer {text}")).map_err(|_| unreadable())?;
    header.set_sensitive(true);
    Ok(Token { header, until: Instant::now() + life(issued.expires_in) })
}

/// How long a token is used that is said to live for so many seconds.
fn life(seconds: Option<i64>) -> Duration {
    let stated = seconds.and_then(|seconds| u64::try_from(seconds).ok()).map_or(Duration::ZERO, Duration::from_secs);
    stated.clamp(limits::TOKEN_LIFE_LEAST, limits::TOKEN_LIFE_MOST) - limits::TOKEN_SLACK
}

/// The question to the token service, which must be one that a token may be asked of: by HTTPS, or on
/// the registry's own host where that is spoken to in plain HTTP.
fn service(http: &Http, place: &Place, challenge: &Challenge) -> Result<Url, Cause> {
    let mut url =
        Url::parse(&challenge.realm).map_err(|_| Cause::Misbehaved("its token service has no address".to_owned()))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Cause::NotAllowed("its token service has credentials in its address".to_owned()));
    }
    let host = super::address::host_of(&url)?;
    let own = host.name() == place.repository.host.name() && http.rules.is_plain(&place.repository.host);
    if url.scheme() != "https" && !(url.scheme() == "http" && own) {
        return Err(Cause::NotAllowed("its token service is not asked in plain HTTP".to_owned()));
    }
    url.set_fragment(None);
    let pull = format!("repository:{}:pull", place.repository.path);
    let mut query = url.query_pairs_mut();
    if let Some(service) = &challenge.service {
        query.append_pair("service", service);
    }
    query.append_pair("scope", challenge.scope.as_deref().unwrap_or(&pull));
    drop(query);
    Ok(url)
}

/// What a registry asks for in `WWW-Authenticate` (RFC 9110, section 11.6.1; RFC 6750, section 3).
#[derive(Debug, Default, PartialEq, Eq)]
struct Challenge {
    realm: String,
    service: Option<String>,
    scope: Option<String>,
}

impl Challenge {
    /// The first bearer challenge of an answer. Others need credentials.
    fn among(headers: &HeaderMap) -> Option<Self> {
        let texts = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        texts.filter(|text| text.len() <= limits::CHALLENGE_CHARS).find_map(Self::parse)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut found: Option<Self> = None;
        for part in split(text) {
            let (name, value) = match part.split_once('=') {
                Some((name, value)) => (name.trim(), unquote(value.trim())),
                None => (part.trim(), String::new()),
            };
            // The first parameter of a challenge carries its scheme in front: `Bearer realm="…"`.
            let name = match name.split_once(char::is_whitespace) {
                Some((scheme, name)) => {
                    if found.is_some() {
                        break;
                    }
                    found = scheme.eq_ignore_ascii_case("bearer").then(Self::default);
                    name.trim()
                }
                None => name,
            };
            let Some(challenge) = &mut found else { continue };
            match name.to_ascii_lowercase().as_str() {
                "realm" => challenge.realm = value,
                "service" => challenge.service = Some(value),
                "scope" => challenge.scope = Some(value),
                _ => {}
            }
        }
        found.filter(|challenge| !challenge.realm.is_empty())
    }
}

/// The parts of `text` between commas that stand outside quotes.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut begin, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ',' if !quoted => {
                parts.push(&text[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[begin..]);
    parts.into_iter().map(str::trim).filter(|part| !part.is_empty()).collect()
}

fn unquote(value: &str) -> String {
    let Some(inner) = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return value.to_owned();
    };
    let mut text = String::with_capacity(inner.len());
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        text.extend(if character == '\\' { characters.next() } else { Some(character) });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        Some(Challenge {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        })
    }

    #[test]
    fn a_bearer_challenge_is_found_among_others() {
        for (text, expected) in [
            (
                r#"Bearer realm="https://auth.example.com/token",service="reg",scope="repository:a/b:pull,push""#,
                challenge("https://auth.example.com/token", Some("reg"), Some("repository:a/b:pull,push")),
            ),
            (r#"bearer  REALM = "https://a/" , service=reg"#, challenge("https://a/", Some("reg"), None)),
            (r#"Basic realm="x, Bearer realm=y", Bearer realm="https://a/""#, challenge("https://a/", None, None)),
            (r#"Bearer realm="https://a/", Basic realm="b""#, challenge("https://a/", None, None)),
            (r#"Bearer error="x\"y, z",realm="https://a/""#, challenge("https://a/", None, None)),
            (r#"Basic realm="b""#, None),
            ("Negotiate", None),
            ("Bearer", None),
            (r#"Bearer realm="""#, None),
            (r#"Bearer service="x""#, None),
            ("", None),
            (",,,=,\"", None),
        ] {
            assert_eq!(Challenge::parse(text), expected, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_challenge_is_a_panic(text in r#"([Bb]earer |Basic |realm|=|"|\\|,| |\PC){0,40}"#) {
            if let Some(challenge) = Challenge::parse(&text) {
                proptest::prop_assert!(!challenge.realm.is_empty());
            }
        }
    }

    #[test]
    fn an_endless_challenge_is_not_read() {
        let among = |chars: usize| {
            let realm = "x".repeat(chars - "Bearer realm=\"\"".len());
            let long = HeaderValue::from_str(&format!("Bearer realm=\"{realm}\"")).unwrap();
            Challenge::among(&[(WWW_AUTHENTICATE, long)].into_iter().collect())
        };
        assert!(among(limits::CHALLENGE_CHARS).is_some());
        assert_eq!(among(limits::CHALLENGE_CHARS + 1), None);
    }

    #[test]
    fn a_token_is_used_neither_shorter_nor_longer_than_is_sensible() {
        let used = |seconds: Option<i64>| life(seconds) + limits::TOKEN_SLACK;
        for seconds in [None, Some(i64::MIN), Some(-1), Some(0), Some(59), Some(60)] {
            assert_eq!(used(seconds), limits::TOKEN_LIFE_LEAST, "{seconds:?}");
        }
        assert_eq!(used(Some(300)), Duration::from_secs(300));
        for seconds in [Some(3600), Some(3601), Some(i64::MAX)] {
            assert_eq!(used(seconds), limits::TOKEN_LIFE_MOST, "{seconds:?}");
        }
    }

    #[tokio::test]
    async fn tokens_are_bounded() {
        let tokens = Tokens::new();
        let until = Instant::now() + Duration::from_secs(60);
        for number in 0..limits::TOKENS + 100 {
            let token = Token { header: HeaderValue::from_static("Bearer x"), until };
            tokens.0.insert(format!("reg.io/a{number}").parse().unwrap(), token).await;
        }
        tokens.0.run_pending_tasks().await;
        let held = tokens.0.entry_count();
        assert!((limits::TOKENS / 2..=limits::TOKENS).contains(&held), "{held}");
    }
}
