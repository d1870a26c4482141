//! What was asked of whom: for a person who wants to see where the time goes.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use reqwest::{Method, StatusCode, Url};

use crate::{image::sanitize, limits};

/// One request that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The host and, where it is not the default, the port.
    pub host: String,
    /// Method and path; a query may have secrets in it.
    pub what: String,
    /// What was answered; none for no answer.
    pub status: Option<u16>,
    /// Time to the head of the answer.
    pub took: Duration,
}

impl fmt::Display for Told {
    /// As one line: host, what, status, time.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.status.map_or_else(|| "no answer".to_owned(), |status| status.to_string());
        write!(f, "{}  {}  {status}  {} ms", self.host, self.what, self.took.as_millis())
    }
}

/// The last [`limits::REQUESTS_TOLD`] requests.
#[derive(Default)]
pub(super) struct Ledger(Mutex<VecDeque<Told>>);

impl Ledger {
    pub(super) fn note(&self, method: &Method, url: &Url, status: Option<StatusCode>, took: Duration) {
        let host = url.host_str().unwrap_or_default();
        let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let what = sanitize(&format!("{method} {}", url.path()), limits::REQUEST_CHARS);
        let told = Told { host, what, status: status.map(|status| status.as_u16()), took };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= limits::REQUESTS_TOLD {
            all.pop_front();
        }
        all.push_back(told);
    }

    pub(super) fn all(&self) -> Vec<Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_requests_are_told_in_short_and_without_their_queries() {
        let ledger = Ledger::default();
        let url = Url::parse("https://reg.io:5000/v2/a?sig=hunter2").unwrap();
        for _ in 0..limits::REQUESTS_TOLD {
            ledger.note(&Method::GET, &url, Some(StatusCode::OK), Duration::ZERO);
        }
        let long = Url::parse(&format!("https://reg.io/{}", "x".repeat(limits::REQUEST_CHARS))).unwrap();
        ledger.note(&Method::HEAD, &long, None, Duration::from_millis(3));
        let all = ledger.all();
        assert_eq!(all.len(), limits::REQUESTS_TOLD);
        assert_eq!((all[0].host.as_str(), all[0].what.as_str()), ("reg.io:5000", "GET /v2/a"));
        assert_eq!(all.last().unwrap().what.chars().count(), limits::REQUEST_CHARS);
        assert_eq!(all[0].to_string(), "reg.io:5000  GET /v2/a  200  0 ms");
        assert!(all.last().unwrap().to_string().ends_with("  no answer  3 ms"));
    }
}
