//! What the daemon is asked: what this program was given.

use std::io::Read;

use crate::trouble::Trouble;

/// Version of the question: `version, count, (length, argument)…, length, standard input`, numbers as 32 bits, big endian.
const VERSION: u8 = 1;
/// Bytes of all arguments together.
const ARGUMENT_BYTES: usize = 64 << 10;

/// The question of `arguments` and all of `input`, which has at most `most` bytes.
pub(crate) fn question(arguments: &[Vec<u8>], input: impl Read, most: usize) -> Result<Vec<u8>, Trouble> {
    let mut read = Vec::new();
    let bounded = input.take(most as u64 + 1).read_to_end(&mut read);
    bounded.map_err(|e| Trouble::malformed(format!("the standard input cannot be read ({e})")))?;
    if read.len() > most {
        return Err(Trouble::malformed(format!("the standard input has more than {most} bytes")));
    }
    if arguments.iter().map(Vec::len).sum::<usize>() > ARGUMENT_BYTES {
        return Err(Trouble::malformed(format!("the arguments have more than {ARGUMENT_BYTES} bytes")));
    }
    let mut question = vec![VERSION];
    // No number is larger than `most`, but for the count, which the kernel bounds to less.
    question.extend_from_slice(&(arguments.len() as u32).to_be_bytes());
    for part in arguments.iter().chain([&read]) {
        question.extend_from_slice(&(part.len() as u32).to_be_bytes());
        question.extend_from_slice(part);
    }
    Ok(question)
}
