//! The number of an entry, in the form that a person types.

use std::fmt;

/// Crockford's base 32: no I, L, O and U.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// The number of an audit entry on this node. Shown in Crockford's base 32, upper case, so that it is
/// short enough for a message and reads back over the telephone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(u64);

impl Id {
    /// The id of the entry with the number `sequence`.
    pub const fn new(sequence: u64) -> Self {
        Self(sequence)
    }

    /// The number.
    pub const fn sequence(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = (64 - self.0.leading_zeros()).div_ceil(5).max(1);
        for place in (0..digits).rev() {
            let digit = (self.0 >> (place * 5)) & 31;
            write!(f, "{}", ALPHABET[digit as usize] as char)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_in_crockfords_base_32() {
        for (number, text) in [
            (0, "0"),
            (1, "1"),
            (31, "Z"),
            (32, "10"),
            (1234, "16J"),
            (32 * 32 - 1, "ZZ"),
            (1_000_000, "YGJ0"),
            (u64::MAX, "FZZZZZZZZZZZZ"),
        ] {
            assert_eq!(Id::new(number).to_string(), text, "{number}");
        }
    }
}
