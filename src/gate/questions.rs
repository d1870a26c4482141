//! Questions of the small program that containerd and the runtime start (`src/bin/pullgate-verifier`): one on each
//! connection, and one line back.

use std::{io, os::unix::net::UnixListener, sync::Arc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::Semaphore,
    time::timeout,
};

use super::answer::Refusal;
use crate::limits;

const VERSION: u8 = 1;

/// Lets `attend` answer the connections of `listener`, `parallel` at a time, until `stop` is done; then those at hand end.
///
/// # Errors
/// When the socket cannot be served.
pub(super) async fn serve<A: Future<Output = ()> + Send + 'static>(
    listener: UnixListener,
    parallel: usize,
    stop: impl Future<Output = ()>,
    attend: impl Fn(UnixStream) -> A,
) -> io::Result<()> {
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let turns = Arc::new(Semaphore::new(parallel));
    tokio::pin!(stop);
    loop {
        let accept = async {
            // Never closed.
            let turn = turns.clone().acquire_owned().await.map_err(io::Error::other)?;
            Ok::<_, io::Error>((turn, listener.accept().await?.0))
        };
        tokio::select! {
            accepted = accept => match accepted {
                Ok((turn, stream)) => {
                    let attended = attend(stream);
                    tokio::spawn(async move {
                        attended.await;
                        drop(turn);
                    });
                }
                Err(error) => {
                    tracing::warn!("a connection to a gate failed: {error}");
                    tokio::time::sleep(limits::ACCEPT_PAUSE).await;
                }
            },
            () = &mut stop => break,
        }
    }
    let all = u32::try_from(parallel).unwrap_or(u32::MAX);
    turns.acquire_many(all).await.map(drop).map_err(io::Error::other)
}

/// The question on `stream`, at most `most` bytes and one more.
///
/// # Errors
/// Why it did not come, for a person.
pub(super) async fn receive(stream: &mut UnixStream, most: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut bounded = stream.take(most + 1);
    match timeout(limits::VERIFIER_PATIENCE, bounded.read_to_end(&mut bytes)).await {
        Ok(Ok(_)) => Ok(bytes),
        Ok(Err(error)) => Err(format!("the question did not arrive: {error}")),
        Err(_) => Err("the question did not arrive in time".to_owned()),
    }
}

/// Sends the answer: the entry's id where it admits, else what a person is told.
pub(super) async fn reply(stream: &mut UnixStream, answer: Result<Option<String>, Refusal>) {
    let line = match answer {
        Ok(Some(id)) => format!("ALLOW {id}\n"),
        Ok(None) => "ALLOW\n".to_owned(),
        Err(refusal) => format!("{}\n", refusal.message()),
    };
    // Who went away or does not read has itself to blame.
    let _ = timeout(limits::VERIFIER_PATIENCE, stream.write_all(line.as_bytes())).await;
}

/// The arguments and the standard input in a question of at most `most` bytes: `version, count, (length, argument)…,
/// length, standard input`, numbers as 32 bits, big endian.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parts(bytes: &[u8], most: u64) -> Result<(Vec<&str>, &[u8]), String> {
    let short = || "the question is cut short".to_owned();
    if bytes.len() as u64 > most {
        return Err(format!("the question has more than {most} bytes"));
    }
    let (&version, rest) = bytes.split_first().ok_or_else(short)?;
    if version != VERSION {
        return Err(format!(
            "the verifier speaks version {version}, pullgate {VERSION}: they are of different releases"
        ));
    }
    let (count, mut rest) = number(rest).ok_or_else(short)?;
    if count > limits::QUESTION_ARGUMENTS {
        return Err(format!("{count} arguments, more than {}", limits::QUESTION_ARGUMENTS));
    }
    let mut arguments = Vec::new();
    for _ in 0..count {
        let (argument, more) = part(rest).ok_or_else(short)?;
        arguments.push(std::str::from_utf8(argument).map_err(|_| "an argument is not UTF-8 text")?);
        rest = more;
    }
    match part(rest).ok_or_else(short)? {
        (input, []) => Ok((arguments, input)),
        _ => Err("there is more after the question".to_owned()),
    }
}

fn part(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = number(bytes)?;
    rest.split_at_checked(usize::try_from(length).ok()?)
}

fn number(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u32::from_be_bytes(*number), rest))
}

/// The bytes of a question.
#[cfg(test)]
pub(super) fn framed(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    bytes.extend((arguments.len() as u32).to_be_bytes());
    for part in arguments.iter().map(|argument| argument.as_bytes()).chain([input]) {
        bytes.extend((part.len() as u32).to_be_bytes());
        bytes.extend(part);
    }
    bytes
}
