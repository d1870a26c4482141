//! What a registry is shown of who asks: access tokens (distribution, "Token authentication specification"), or a
//! credential itself where it wants that.
//!
//! A token is only ever sent to the host that it was issued for: it is held under that host and repository, and
//! [`super::http`] drops it when a redirect leaves the host. A credential goes to the host that it is for, and to that
//! host's token service: under the host's own name, or one that the configuration names.

use std::{sync::Arc, time::Duration};

use reqwest::{
    Method, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE},
};
use serde::Deserialize;
use tokio::time::Instant;

use super::{
    address::host_of,
    body::{Room, read},
    credentials::Credential,
    endpoint::Endpoint,
    failure::{Failure, refuse},
    http::{Http, Sending},
};
use crate::{evidence::Cause, image::Digest, limits};

/// The tokens at hand, by host and repository: the scope of each is to pull from that repository.
pub(super) struct Tokens {
    held: moka::future::Cache<String, Token>,
    /// Credentials that were refused a moment ago: asking with them again may lock an account.
    refused: moka::future::Cache<Digest, ()>,
    /// Those that were taken a moment ago: what is refused then is the request, not the credential.
    worked: moka::future::Cache<Digest, ()>,
}

#[derive(Clone)]
struct Token {
    header: HeaderValue,
    until: Instant,
    /// What it was issued for, if it is not anonymous.
    credential: Option<Digest>,
}

impl Tokens {
    pub(super) fn new() -> Self {
        let moment = || {
            let cache = moka::future::Cache::builder().max_capacity(limits::TOKENS);
            cache.time_to_live(limits::CREDENTIAL_REFUSED).build()
        };
        Self { held: moka::future::Cache::new(limits::TOKENS), refused: moment(), worked: moment() }
    }

    /// The `Authorization` header for `endpoint`, if a token for it is at hand.
    pub(super) async fn held(&self, endpoint: &Endpoint) -> Option<HeaderValue> {
        let token = self.held.get(&endpoint.key()).await?;
        (token.until > Instant::now()).then_some(token.header)
    }

    /// A token in answer to the challenge in `headers`, other than the one that was just `refused`.
    /// Questions that need the same one at the same time share one request.
    pub(super) async fn obtain(
        &self,
        http: &Http,
        endpoint: &Endpoint,
        refused: Option<&HeaderValue>,
        headers: &HeaderMap,
        until: Instant,
    ) -> Result<HeaderValue, Failure> {
        let key = endpoint.key();
        if let Some(token) = self.held.get(&key).await
            && (Some(&token.header) == refused || token.until <= Instant::now())
        {
            self.held.invalidate(&key).await;
        }
        let challenge = Challenge::among(headers);
        if challenge.is_none() && !asks_for_basic(headers) {
            return Err(Cause::Unauthorized.into());
        }
        let issued = self.held.try_get_with(key, self.show(http, endpoint, challenge, until)).await;
        issued
            .map(|token| token.header)
            .map_err(|failure: Arc<Failure>| Failure { cause: failure.cause.clone(), again: failure.again })
    }

    /// The fresh `token` did not help.
    pub(super) async fn refused(&self, endpoint: &Endpoint, token: &HeaderValue) {
        let key = endpoint.key();
        if let Some(held) = self.held.get(&key).await.filter(|held| held.header == *token) {
            self.held.invalidate(&key).await;
            if let Some(credential) = held.credential.filter(|credential| !self.worked.contains_key(credential)) {
                self.refused.insert(credential, ()).await;
            }
        }
    }

    /// The token at hand was taken.
    pub(super) async fn worked(&self, endpoint: &Endpoint) {
        let credential = self.held.get(&endpoint.key()).await.and_then(|held| held.credential);
        if let Some(credential) = credential.filter(|credential| !self.worked.contains_key(credential)) {
            self.worked.insert(credential, ()).await;
        }
    }

    /// What answers a challenge: a token, or without a token service the credential itself.
    async fn show(
        &self,
        http: &Http,
        endpoint: &Endpoint,
        challenge: Option<Challenge>,
        until: Instant,
    ) -> Result<Token, Failure> {
        let credential = http.credentials.of(&endpoint.host, &endpoint.place.repository.path).await?;
        let id = credential.as_ref().map(|credential| credential.id(&endpoint.key()));
        if let Some(id) = &id
            && self.refused.contains_key(id)
        {
            return Err(Cause::Unauthorized.into());
        }
        if credential.is_some() && endpoint.base.scheme() != "https" && !http.rules.is_plain(&endpoint.host) {
            let host = &endpoint.host;
            return Err(Cause::Withheld(format!(
                "its credential is not sent in plain HTTP; to send it: [registry.\"{host}\"] insecure-plain-http = true"
            ))
            .into());
        }
        let kept = |header| Token { header, until: Instant::now() + life(None), credential: id };
        let refused = match (&credential, challenge) {
            (Some(Credential::Registry(token)), _) => return Ok(kept(token.bearer()?)),
            (Some(credential @ Credential::Basic { .. }), None) => return Ok(kept(credential.basic()?)),
            (_, Some(challenge)) => issue(http, endpoint, &challenge, credential.as_ref(), until).await,
            (_, None) => return Err(Cause::Unauthorized.into()),
        };
        match refused {
            Ok((header, life)) => Ok(Token { header, until: Instant::now() + life, credential: id }),
            Err(failure) => {
                if let (Some(id), Cause::Unauthorized) = (id, &failure.cause) {
                    self.refused.insert(id, ()).await;
                }
                Err(failure)
            }
        }
    }
}

#[derive(Deserialize)]
struct Issued {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<i64>,
}

async fn issue(
    http: &Http,
    endpoint: &Endpoint,
    challenge: &Challenge,
    credential: Option<&Credential>,
    until: Instant,
) -> Result<(HeaderValue, Duration), Failure> {
    let mut url = service(http, endpoint, challenge)?;
    let reach = http.rules.named_by(endpoint, &url)?;
    let mut headers: HeaderMap = [(ACCEPT, HeaderValue::from_static("application/json"))].into_iter().collect();
    // A registry may ask for any scope; with a credential no token is asked for that could do more than is needed.
    let pull = format!("repository:{}:pull", endpoint.place.repository.path);
    let scope = challenge.scope.as_deref().filter(|_| credential.is_none()).unwrap_or(&pull);
    let mut parameters = vec![("scope", scope)];
    parameters.extend(challenge.service.as_deref().map(|service| ("service", service)));
    let (mut method, mut form) = (Method::GET, None);
    if let Some(credential) = credential {
        may_have(http, endpoint, &url)?;
        match credential {
            Credential::Identity(token) => {
                parameters.extend([("grant_type", "refresh_token"), ("client_id", "pullgate")]);
                parameters.push(("refresh_token", token.text()));
                method = Method::POST;
                form = Some(url_encoded(&parameters));
            }
            other => _ = headers.insert(AUTHORIZATION, other.basic()?),
        }
    }
    if form.is_none() {
        url.query_pairs_mut().extend_pairs(parameters);
    }
    let own = url.origin() == endpoint.base.origin();
    let trust = if own { &endpoint.trust } else { &endpoint.trust_of_others };
    let sending = Sending { method, url: &url, reach, trust, headers, form, until };
    let (response, until) = http.send(sending).await?;
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
    Ok((header, life(issued.expires_in)))
}

/// How long a token is used that is said to live for so many seconds.
fn life(seconds: Option<i64>) -> Duration {
    let stated = seconds.and_then(|seconds| u64::try_from(seconds).ok()).map_or(Duration::ZERO, Duration::from_secs);
    stated.clamp(limits::TOKEN_LIFE_LEAST, limits::TOKEN_LIFE_MOST) - limits::TOKEN_SLACK
}

/// The token service, which must be one that a token may be asked of: by HTTPS, or on the registry's own host where
/// that is spoken to in plain HTTP.
fn service(http: &Http, endpoint: &Endpoint, challenge: &Challenge) -> Result<Url, Cause> {
    let mut url =
        Url::parse(&challenge.realm).map_err(|_| Cause::Misbehaved("its token service has no address".to_owned()))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Cause::NotAllowed("its token service has credentials in its address".to_owned()));
    }
    let own = host_of(&url)?.name() == endpoint.host.name() && http.rules.is_plain(&endpoint.host);
    if url.scheme() != "https" && !(url.scheme() == "http" && own) {
        return Err(Cause::NotAllowed("its token service is not asked in plain HTTP".to_owned()));
    }
    url.set_fragment(None);
    Ok(url)
}

/// Whether the credential for `endpoint` may be sent to the token service at `url`, which the registry named.
///
/// Whoever answers for a registry chooses that name, so it counts only where it is the registry's own: the same host, over
/// HTTPS whichever port, or one that root named for it.
fn may_have(http: &Http, endpoint: &Endpoint, url: &Url) -> Result<(), Cause> {
    let host = host_of(url)?;
    let (registry, secure) = (&endpoint.host, url.scheme() == "https");
    let own = host == *registry || (secure && !host.is_loopback() && host.name() == registry.name());
    if own || (secure && http.rules.is_token_service(registry, &host)) {
        return Ok(());
    }
    Err(Cause::Withheld(format!(
        "its token service is {host}, which gets no credential; to send it: [registry.\"{registry}\"] token-service = \
         \"{host}\""
    )))
}

fn url_encoded(parameters: &[(&str, &str)]) -> String {
    reqwest::Url::parse("form:").map_or_else(
        |_| String::new(),
        |mut form| {
            form.query_pairs_mut().extend_pairs(parameters);
            form.query().unwrap_or_default().to_owned()
        },
    )
}

/// Whether a name with a password is what is asked for.
fn asks_for_basic(headers: &HeaderMap) -> bool {
    let all = headers.get_all(WWW_AUTHENTICATE).iter();
    let mut texts = all.filter_map(|value| value.to_str().ok()).filter(|text| text.len() <= limits::CHALLENGE_CHARS);
    texts.any(|text| {
        let schemes = split(text).into_iter().filter_map(|part| part.split_ascii_whitespace().next());
        schemes.into_iter().any(|scheme| scheme.eq_ignore_ascii_case("basic"))
    })
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
    use std::str::FromStr;

    use super::{super::bounds::Bounds, *};
    use crate::evidence::{CredentialSources, Place, RegistryOptions};

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
    async fn a_password_is_not_shown_in_plain_http_unless_that_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.json");
        std::fs::write(&file, r#"{"auths":{"reg.example.com":{"username":"user","password":"hunter2"}}}"#).unwrap();
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let host = || crate::image::Host::from_str("reg.example.com").unwrap();
        let place = Place { repository: "reg.example.com/app".parse().unwrap(), proven: true };
        for (scheme, plain_http, shown) in
            [("http", vec![], false), ("http", vec![host()], true), ("https", vec![], true)]
        {
            let credentials = CredentialSources { docker: vec![file.clone()], ..CredentialSources::default() };
            let http =
                Http::new(RegistryOptions { plain_http, credentials, ..RegistryOptions::default() }, Bounds::default());
            let mut endpoint = Endpoint::of_registry(&http.rules, &place).unwrap();
            endpoint.base = Url::parse(&format!("{scheme}://reg.example.com/v2/app/")).unwrap();
            let asked = [(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"x\""))].into_iter().collect();
            let answer = Tokens::new().obtain(&http, &endpoint, None, &asked, Instant::now()).await;
            match answer.map_err(|failure| failure.cause) {
                Ok(header) => assert!(shown && header.as_bytes().starts_with(b"Basic ") && header.is_sensitive()),
                Err(Cause::Withheld(why)) => {
                    assert!(
                        !shown && why.contains("[registry.\"reg.example.com\"] insecure-plain-http = true"),
                        "{why}"
                    );
                    assert!(!why.contains("hunter2"));
                }
                Err(other) => panic!("{other:?}"),
            }
            assert_eq!(http.requests(), 0);
        }
    }

    #[tokio::test]
    async fn a_credential_that_was_refused_rests_for_a_while() {
        let tokens = Tokens::new();
        let refused = Digest::of(b"credential");
        tokens.refused.insert(refused, ()).await;
        assert!(tokens.refused.contains_key(&refused));
        assert_eq!(tokens.refused.policy().time_to_live(), Some(limits::CREDENTIAL_REFUSED));
    }

    #[test]
    fn a_credential_goes_to_its_own_host_and_to_who_is_named_for_it() {
        let named = |one: &str, other: &str| vec![(one.parse().unwrap(), other.parse().unwrap())];
        for (registry, realm, token_services, expected) in [
            ("reg.io", "https://reg.io/token", vec![], true),
            ("reg.io", "https://reg.io:8443/token", vec![], true),
            ("reg.io:5000", "https://reg.io/token", vec![], true),
            ("reg.io", "http://reg.io/token", vec![], false),
            ("reg.io", "http://auth.io/token", named("reg.io", "auth.io"), false),
            ("reg.io", "https://auth.io/token", vec![], false),
            ("reg.io", "https://auth.reg.io/token", vec![], false),
            ("reg.io", "https://reg.io.evil.io/token", vec![], false),
            ("reg.io", "https://auth.io/token", named("reg.io", "auth.io"), true),
            ("reg.io", "https://auth.io:444/token", named("reg.io", "auth.io"), false),
            ("reg.io", "https://auth.io/token", named("other.io", "auth.io"), false),
            ("docker.io", "https://auth.docker.io/token", vec![], true),
            ("docker.io", "https://registry-1.docker.io/token", vec![], true),
            ("docker.io", "https://auth.docker.io.evil.io/token", vec![], false),
            ("reg.io", "https://auth.docker.io/token", vec![], false),
            ("127.0.0.1:5000", "http://127.0.0.1:5000/token", vec![], true),
            ("127.0.0.1:5000", "http://127.0.0.1:5001/token", vec![], false),
            ("127.0.0.1:5000", "https://127.0.0.1:5001/token", vec![], false),
        ] {
            let http = Http::new(RegistryOptions { token_services, ..RegistryOptions::default() }, Bounds::default());
            let place = Place { repository: format!("{registry}/library/app").parse().unwrap(), proven: true };
            let endpoint = Endpoint::of_registry(&http.rules, &place).unwrap();
            let challenge = Challenge { realm: realm.to_owned(), ..Challenge::default() };
            let asked = service(&http, &endpoint, &challenge).and_then(|url| may_have(&http, &endpoint, &url));
            assert_eq!(asked.is_ok(), expected, "{registry} {realm}: {asked:?}");
        }
    }

    #[tokio::test]
    async fn tokens_are_bounded() {
        let tokens = Tokens::new();
        let until = Instant::now() + Duration::from_secs(60);
        for number in 0..limits::TOKENS + 100 {
            let token = Token { header: HeaderValue::from_static("Bearer x"), until, credential: None };
            tokens.held.insert(format!("https://reg.io/v2/a{number}/"), token).await;
        }
        tokens.held.run_pending_tasks().await;
        let held = tokens.held.entry_count();
        assert!((limits::TOKENS / 2..=limits::TOKENS).contains(&held), "{held}");
    }
}
