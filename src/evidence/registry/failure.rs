//! What it means when there is no answer.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::{StatusCode, header::HeaderMap};

use super::{address::NoAddressAdmitted, backoff::asked_for};
use crate::{evidence::Cause, image::sanitize, limits};

/// Why there is no answer, and whether another try may help, after which pause.
pub(super) struct Failure {
    pub(super) cause: Cause,
    pub(super) again: Option<Duration>,
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
        401 => Err(Cause::Unauthorized.into()),
        403 => Err(Cause::Forbidden.into()),
        429 => {
            let wait = asked_for(headers, Timestamp::now()).filter(|wait| *wait <= limits::RETRY_AFTER);
            Err(Failure { cause: Cause::Throttled, again: wait })
        }
        500..=599 => Err(passing(format!("answered {}", status.as_u16()))),
        400..=499 => Ok(()),
        other => Err(Cause::Misbehaved(format!("it answered {other}")).into()),
    }
}

/// No answer in time; [`told`] says in which.
pub(super) fn silent() -> Failure {
    Failure { cause: Cause::TimedOut(String::new()), again: Some(limits::RETRY_PAUSE) }
}

fn passing(why: String) -> Failure {
    Failure { cause: Cause::Unreachable(why), again: Some(limits::RETRY_PAUSE) }
}

/// What a failed exchange means.
pub(super) fn broken(error: &reqwest::Error) -> Failure {
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
pub(super) fn told(cause: Cause, tries: usize, elapsed: Duration) -> Cause {
    let with_tries = |why: String| if tries > 1 { format!("{why} ({tries} tries)") } else { why };
    match cause {
        Cause::TimedOut(_) => Cause::TimedOut(with_tries(format!("did not answer in {:.1} s", elapsed.as_secs_f64()))),
        Cause::Unreachable(why) => Cause::Unreachable(with_tries(why)),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use reqwest::header::{HeaderValue, RETRY_AFTER};

    use super::*;

    fn again(status: u16, retry_after: Option<u64>) -> Option<Duration> {
        let headers = retry_after.map(|seconds| (RETRY_AFTER, HeaderValue::from(seconds)));
        refuse(StatusCode::from_u16(status).unwrap(), &headers.into_iter().collect()).err().unwrap().again
    }

    #[test]
    fn what_can_pass_is_asked_again_after_a_pause() {
        for status in [500, 502, 503, 504, 599] {
            assert_eq!(again(status, None), Some(limits::RETRY_PAUSE));
        }
        assert_eq!(silent().again, Some(limits::RETRY_PAUSE));
        for status in [401, 403, 429, 302] {
            assert_eq!(again(status, None), None);
        }
    }

    #[test]
    fn a_registry_that_asks_for_patience_gets_some() {
        let longest = limits::RETRY_AFTER.as_secs();
        assert_eq!(again(429, Some(0)), Some(Duration::ZERO));
        assert_eq!(again(429, Some(longest)), Some(limits::RETRY_AFTER));
        assert_eq!(again(429, Some(longest + 1)), None);
        assert_eq!(again(429, Some(u64::MAX)), None);
    }
}
