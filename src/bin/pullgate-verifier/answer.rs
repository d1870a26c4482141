//! What the daemon says.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::Path,
};

use crate::trouble::Trouble;

/// Bytes of the answer: 200 characters, each of up to four bytes, a line break, and some room.
const ANSWER_BYTES: usize = 1024;

pub(crate) struct Answer {
    pub(crate) allows: bool,
    pub(crate) line: String,
}

/// Puts `question` to the daemon behind `socket`.
pub(crate) fn ask(socket: &Path, question: &[u8]) -> Result<Answer, Trouble> {
    let gone = |error: io::Error| Trouble {
        may_pass: true,
        ..Trouble::unreachable(format!("pullgate is not there ({error})"))
    };
    let mut stream = UnixStream::connect(socket).map_err(gone)?;
    stream.write_all(question).and_then(|()| stream.shutdown(Shutdown::Write)).map_err(gone)?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES as u64 + 1).read_to_end(&mut answer).map_err(gone)?;
    understood(&answer)
}

/// One line that begins with a verdict, ended by a line break, and nothing more.
fn understood(answer: &[u8]) -> Result<Answer, Trouble> {
    // A daemon that was stopped before it answered says nothing.
    let broken = || Trouble { may_pass: answer.is_empty(), ..Trouble::unreachable("pullgate's answer is broken") };
    let whole = answer.len() <= ANSWER_BYTES;
    let line = answer.strip_suffix(b"\n").filter(|_| whole).ok_or_else(broken)?;
    let line = std::str::from_utf8(line).map_err(|_| broken())?;
    if line.chars().any(char::is_control) {
        return Err(broken());
    }
    let allows = match line.split(' ').next() {
        Some("ALLOW") => true,
        Some("DENY" | "RETRY") => false,
        _ => return Err(broken()),
    };
    Ok(Answer { allows, line: line.to_owned() })
}
