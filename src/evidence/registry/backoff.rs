//! Registries that asked to be left alone (429, `Retry-After`): nobody asks them again before, whatever it is about.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jiff::{Timestamp, fmt::rfc2822::DateTimeParser};
use reqwest::{
    Url,
    header::{HeaderMap, RETRY_AFTER},
};
use tokio::time::Instant;

use crate::limits;

/// Until when whom is left alone, by host and port.
#[derive(Default)]
pub(super) struct BackOff(Mutex<HashMap<String, Instant>>);

impl BackOff {
    /// How long the host of `url` still wants to be left alone.
    pub(super) fn left(&self, url: &Url) -> Option<Duration> {
        let until = *self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key(url))?;
        Some(until.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
    }

    /// The host of `url` wants to be left alone for `wait`.
    pub(super) fn note(&self, url: &Url, wait: Duration) {
        let now = Instant::now();
        let mut until = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if until.len() >= limits::REGISTRY_HABITS {
            until.retain(|_, until| *until > now);
        }
        let key = key(url);
        if until.len() < limits::REGISTRY_HABITS || until.contains_key(&key) {
            until.insert(key, now + wait);
        }
    }
}

fn key(url: &Url) -> String {
    format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default())
}

/// What an answer asks for, in seconds or as a date (RFC 9110, section 10.2.3), at most [`limits::BACK_OFF`]. None for what
/// cannot be read, and for a date that has passed.
pub(super) fn asked_for(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let at = DateTimeParser::new().parse_timestamp(text).ok()?;
            Duration::try_from(at.duration_since(now)).ok().filter(|wait| !wait.is_zero())?
        }
    };
    Some(wait.min(limits::BACK_OFF))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(text: &str) -> Option<Duration> {
        let now = "2026-10-21T07:28:00Z".parse().unwrap();
        asked_for(&[(RETRY_AFTER, text.parse().unwrap())].into_iter().collect(), now)
    }

    #[test]
    fn seconds_and_dates_are_read_and_bounded() {
        let most = limits::BACK_OFF.as_secs();
        for (text, expected) in [
            ("0", Some(0)),
            ("7", Some(7)),
            (" 7 ", Some(7)),
            ("18446744073709551615", Some(most)),
            ("Wed, 21 Oct 2026 07:28:30 GMT", Some(30)),
            ("Wed, 21 Oct 2099 07:28:30", None),
            ("Wed, 21 Oct 2026 07:28:00 GMT", None),
            ("Wed, 21 Oct 2015 07:28:00 GMT", None),
            ("-1", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(wait(text).map(|wait| wait.as_secs()), expected, "{text}");
        }
        assert_eq!(wait("Thu, 21 Oct 2027 07:28:00 GMT").map(|wait| wait.as_secs()), Some(most));
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_is_left_alone_and_the_memory_is_bounded() {
        let backoff = BackOff::default();
        let url = |name: &str| Url::parse(&format!("https://{name}/v2/x")).unwrap();
        backoff.note(&url("a.io"), Duration::from_secs(5));
        assert_eq!(backoff.left(&url("a.io:443")), Some(Duration::from_secs(5)));
        assert_eq!(backoff.left(&url("a.io:444")), None);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(backoff.left(&url("a.io")), None);
        for number in 0..2 * limits::REGISTRY_HABITS {
            backoff.note(&url(&format!("r{number}.io")), Duration::from_secs(5));
        }
        assert_eq!(backoff.0.lock().unwrap().len(), limits::REGISTRY_HABITS);
        backoff.note(&url("r0.io"), Duration::from_secs(9));
        assert_eq!(backoff.left(&url("r0.io")), Some(Duration::from_secs(9)));
    }
}
