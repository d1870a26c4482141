//! What JSON would take in memory, from its structure alone: a few bytes of an empty object become hundreds, so that the bytes
//! of what a stranger wrote say little.

use crate::limits;

/// Bytes of a value or a member in memory, and of an object beside those in it.
const VALUE: usize = 64;
const OBJECT: usize = 704;

/// Refuses `json` that would take more than [`limits::STRUCTURE_BYTES`], before anything is made of it. Whether it is JSON is
/// for others to say.
///
/// # Errors
/// When it would.
pub(crate) fn fits(json: &[u8]) -> Result<(), String> {
    let (mut bytes, mut quoted, mut escaped) = (0usize, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'{' => bytes = bytes.saturating_add(OBJECT),
            b'[' | b',' | b':' => bytes = bytes.saturating_add(VALUE),
            _ => {}
        }
    }
    match bytes > limits::STRUCTURE_BYTES {
        true => Err(format!("so many values that it would take more than {} bytes of memory", limits::STRUCTURE_BYTES)),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_take_much_memory_is_refused_by_its_structure() {
        let values = limits::STRUCTURE_BYTES / VALUE;
        let objects = (limits::STRUCTURE_BYTES - VALUE) / (OBJECT + VALUE);
        for (text, expected) in [
            (String::new(), true),
            ("{".to_owned(), true),
            (format!("[{}0]", "0,".repeat(values - 1)), true),
            (format!("[{}0]", "0,".repeat(values)), false),
            (format!("[{}0]", "{},".repeat(objects)), true),
            (format!("[{}0]", "{},".repeat(objects + 1)), false),
            (format!("[\"{}\"]", "{,".repeat(values)), true),
            (format!("[\"\\\"{}\"]", "{,".repeat(values)), true),
            (format!("[\"\\\\\"{}]", ",{}".repeat(values)), false),
        ] {
            assert_eq!(fits(text.as_bytes()).is_ok(), expected, "{:.20}", text);
        }
    }
}
