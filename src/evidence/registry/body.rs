//! Reading the body of an answer, no further than it may go.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use reqwest::{
    Response,
    header::{CONTENT_ENCODING, CONTENT_LENGTH, HeaderMap},
};
use tokio::time::{Instant, timeout_at};

use super::failure::{Failure, broken, silent};
use crate::evidence::Cause;

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

/// Bytes that may still be read about one digest, also out of what all searches together may hold.
pub(super) struct Purse {
    left: AtomicU64,
    spent: AtomicU64,
    held: Arc<Held>,
}

/// Bytes that searches may still hold, all together.
pub(super) struct Held(AtomicU64);

/// Reads the body of `response`, no more than `room` allows and no longer than `until`.
pub(super) async fn read(mut response: Response, room: Room<'_>, until: Instant) -> Result<Vec<u8>, Failure> {
    if response.headers().get(CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
        return Err(Cause::Misbehaved("it sent an encoded body that nobody asked for".to_owned()).into());
    }
    if let Some(length) = stated_length(response.headers()) {
        exactly(length, room)?;
    }
    let mut body = Vec::new();
    loop {
        let chunk = match timeout_at(until, response.chunk()).await {
            Err(_) => return Err(silent()),
            Ok(Err(error)) => return Err(broken(&error)),
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

impl Purse {
    pub(super) fn new(bytes: u64, held: Arc<Held>) -> Self {
        Self { left: AtomicU64::new(bytes), spent: AtomicU64::new(0), held }
    }

    /// Pays for `bytes`, until the search ends.
    pub(super) fn take(&self, bytes: u64) -> Result<(), Cause> {
        if !subtract(&self.left, bytes) {
            return Err(Cause::TooLarge("there is more evidence for this digest than is read".to_owned()));
        }
        if !subtract(&self.held.0, bytes) {
            return Err(Cause::TooLarge("more evidence is being read right now than is held in memory".to_owned()));
        }
        self.spent.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Purse {
    fn drop(&mut self) {
        self.held.0.fetch_add(*self.spent.get_mut(), Ordering::Relaxed);
    }
}

impl Held {
    pub(super) fn new(bytes: u64) -> Self {
        Self(AtomicU64::new(bytes))
    }
}

fn subtract(left: &AtomicU64, bytes: u64) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).is_ok()
}

/// The length that an answer states.
pub(super) fn stated_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// It has more than `max` bytes.
pub(super) fn too_large(max: u64) -> Cause {
    Cause::TooLarge(format!("it is larger than {max} bytes"))
}

fn other_size(exact: u64) -> Cause {
    Cause::Misbehaved(format!("its size is not the {exact} bytes that its descriptor states"))
}
