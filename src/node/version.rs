//! What a version of containerd can do. Pure.

#![deny(clippy::disallowed_methods)]

use std::{fmt, str::FromStr};

/// A version of containerd: what follows the three numbers (`~ds1`, `+unknown`, `-rc.1`) is a matter of packaging.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

/// How the configuration of a version is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Editing {
    /// In the files that are there: up to 1.7 an imported file replaces whole sections.
    InPlace,
    /// In a file of its own, imported last: from 2.0 on sections are merged key by key.
    DropIn,
}

impl Version {
    /// The first that knows diff proxies.
    pub const FIRST: Self = Self(1, 7, 4);
    /// The first that asks image verifiers.
    pub const VERIFIERS: Self = Self(2, 0, 0);
    /// The first whose CRI pulls by the transfer service, hence asks image verifiers.
    pub const CRI_TRANSFERS: Self = Self(2, 1, 0);
    /// The first whose transfer service also unpacks to erofs unless it is told otherwise.
    pub const EROFS_BY_DEFAULT: Self = Self(2, 3, 0);

    /// How its configuration is changed.
    ///
    /// # Errors
    /// For a version that does not start with a diff proxy in its configuration.
    pub fn editing(self) -> Result<Editing, String> {
        if self < Self::FIRST {
            return Err(format!(
                "containerd {self} knows no diff proxies and would not start with one in its configuration; \
                 {} is the first that does",
                Self::FIRST
            ));
        }
        Ok(if self < Self(2, 0, 0) { Editing::InPlace } else { Editing::DropIn })
    }
}

impl FromStr for Version {
    type Err = String;

    /// The first three numbers with dots between them: `2.1.9+unknown`, `v1.7.24~ds1`, or what `containerd --version`
    /// prints, in which only the word after the name of the project counts.
    fn from_str(text: &str) -> Result<Self, String> {
        let unknown = || format!("not a version of containerd: {}", crate::image::sanitize(text, 80));
        let word = match text.split_whitespace().collect::<Vec<_>>().as_slice() {
            [version] => *version,
            [_, _, version, ..] => *version,
            _ => return Err(unknown()),
        };
        let digits = |part: &str| part.split(|c: char| !c.is_ascii_digit()).next().and_then(|part| part.parse().ok());
        let mut parts = word.trim_start_matches('v').splitn(3, '.').map(digits);
        match (parts.next().flatten(), parts.next().flatten(), parts.next().flatten()) {
            (Some(major), Some(minor), Some(patch)) => Ok(Self(major, minor, patch)),
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_distributions_write_them() {
        for (text, expected) in [
            ("1.7.24~ds1", Version(1, 7, 24)),
            ("2.1.9+unknown", Version(2, 1, 9)),
            ("v2.3.0-rc.1", Version(2, 3, 0)),
            ("containerd github.com/containerd/containerd 1.7.24~ds1 1.7.24~ds1-6+deb13u1", Version(1, 7, 24)),
            ("containerd github.com/containerd/containerd/v2 2.1.9+unknown ", Version(2, 1, 9)),
            ("containerd containerd.io 1.6.33 d2d58213f83a351ca8f528a95fbd145f5654e957", Version(1, 6, 33)),
            ("containerd github.com/k3s-io/containerd 2.0.5-k3s1 abc", Version(2, 0, 5)),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for text in ["", "containerd", "2.1", "two.one.zero", "99999999999.0.0", "a b"] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_version_that_would_not_start_is_refused() {
        for old in [Version(1, 6, 20), Version(1, 7, 0), Version(1, 7, 3)] {
            let why = old.editing().unwrap_err();
            assert!(why.contains("would not start") && why.contains("1.7.4"), "{why}");
        }
        assert_eq!(Version(1, 7, 4).editing(), Ok(Editing::InPlace));
        assert_eq!(Version(1, 8, 0).editing(), Ok(Editing::InPlace));
        assert_eq!(Version(2, 0, 0).editing(), Ok(Editing::DropIn));
        assert_eq!(Version(3, 0, 0).editing(), Ok(Editing::DropIn));
    }
}
