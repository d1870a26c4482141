//! The number of an entry, in the form that a person types.

use std::{fmt, str::FromStr};

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

/// The text is not the number of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the number of an audit entry: digits and letters as in 1J4, without I, L, O and U")]
pub struct BadId;

impl FromStr for Id {
    type Err = BadId;

    /// Reads a number as a person types it: in either case, O for 0, I and L for 1, with or without hyphens.
    fn from_str(text: &str) -> Result<Self, BadId> {
        let mut number: Option<u64> = None;
        for letter in text.bytes().filter(|letter| *letter != b'-') {
            let letter = match letter.to_ascii_uppercase() {
                b'O' => b'0',
                b'I' | b'L' => b'1',
                letter => letter,
            };
            let digit = ALPHABET.iter().position(|known| *known == letter).ok_or(BadId)?;
            let before = number.unwrap_or(0).checked_mul(32).ok_or(BadId)?;
            number = Some(before + digit as u64);
        }
        number.map(Self).ok_or(BadId)
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
            assert_eq!(text.parse(), Ok(Id::new(number)));
        }
    }

    #[test]
    fn numbers_read_as_people_type_them() {
        for (text, number) in
            [("16j", 1234), ("i6J", 1234), ("L6j", 1234), ("o1o", 32), ("00016J", 1234), ("1-6-J", 1234)]
        {
            assert_eq!(text.parse(), Ok(Id::new(number)), "{text}");
        }
        for text in ["", "-", "U", "1 J", "é", "1J4\n", "PULLGATE_ID=1", "G0000000000000", "ZZZZZZZZZZZZZZZZZZZZZ"] {
            assert_eq!(text.parse::<Id>(), Err(BadId), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn every_number_reads_back(number: u64) {
            let text = Id::new(number).to_string();
            proptest::prop_assert_eq!(text.to_lowercase().parse(), Ok(Id::new(number)));
        }
    }
}
