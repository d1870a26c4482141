//! TOML documents that people write: read strictly, with errors that name file, line, column and the mend. Pure.

#![deny(clippy::disallowed_methods)]

pub(crate) mod reader;

use std::{fmt, ops::Range};

use serde::de::DeserializeOwned;

use crate::{image::sanitize, limits};

/// One thing that is wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The document, as the administrator knows it.
    pub file: String,
    /// Line, from 1. Zero where the document as a whole is meant.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong, and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.message),
            line => write!(f, "{}:{line}:{}: {}", self.file, self.column, self.message),
        }
    }
}

/// Everything that is wrong with a document; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// The one problem of a document that could not be read at all.
    pub fn whole(file: &str, message: impl Into<String>) -> Self {
        let message = sanitize(&message.into(), limits::PROBLEM_CHARS);
        Self(vec![Problem { file: file.to_owned(), line: 0, column: 0, message }])
    }

    /// The first problem, which every refusal names.
    pub fn first(&self) -> String {
        self.0.first().map(ToString::to_string).unwrap_or_default()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            write!(f, "{}{problem}", if i == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

/// Turns byte ranges of a document into places that a person can go to.
pub(crate) struct Places<'a> {
    file: &'a str,
    text: &'a str,
    line_ends: Vec<usize>,
}

impl<'a> Places<'a> {
    pub(crate) fn new(file: &'a str, text: &'a str) -> Self {
        Self { file, text, line_ends: text.match_indices('\n').map(|(end, _)| end).collect() }
    }

    /// The document, as the administrator knows it.
    pub(crate) fn file(&self) -> &str {
        self.file
    }

    /// The line, from 1, that the byte at `offset` is in.
    pub(crate) fn line(&self, offset: usize) -> usize {
        self.line_ends.partition_point(|end| *end < offset) + 1
    }

    /// A problem at `span`.
    pub(crate) fn problem(&self, span: Range<usize>, message: impl Into<String>) -> Problem {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        Problem {
            file: self.file.to_owned(),
            line: self.line(span.start),
            column: before[line_start..].chars().count() + 1,
            message: sanitize(&message.into(), limits::PROBLEM_CHARS),
        }
    }
}

/// Reads `text` as a `T`.
///
/// # Errors
/// One problem: the first syntax error, unknown key, missing key or value of the wrong type.
pub fn read<T: DeserializeOwned>(file: &str, text: &str) -> Result<T, Problems> {
    toml::from_str(text).map_err(|error| {
        let message = with_suggestion(error.message());
        match error.span() {
            Some(span) => Problems(vec![Places::new(file, text).problem(span, message)]),
            None => Problems::whole(file, message),
        }
    })
}

/// Adds to serde's "unknown field `x`, expected one of `a`, `b`" the key that was probably meant.
fn with_suggestion(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let unknown = ["unknown field", "unknown variant"].iter().any(|start| message.starts_with(start));
    let (true, Some(written)) = (unknown, quoted.next()) else {
        return message.replace("unknown field", "unknown key").replace("missing field", "missing key");
    };
    let known: Vec<&str> = quoted.collect();
    let what = if message.starts_with("unknown field") { "key" } else { "value" };
    reader::unknown(what, written, &known)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case")]
    #[allow(dead_code, reason = "only read through Debug")]
    struct Example {
        images: Vec<String>,
        at_least: Option<u32>,
    }

    fn error(text: &str) -> String {
        read::<Example>("x.toml", text).unwrap_err().to_string()
    }

    #[test]
    fn a_problem_names_the_place_and_the_mend() {
        assert_eq!(error("images = []\nat-lest = 1"), "x.toml:2:1: unknown key `at-lest`; did you mean `at-least`?");
        assert_eq!(error("images = []\nzzz = 1"), "x.toml:2:1: unknown key `zzz`; known here: images, at-least");
        assert_eq!(error("\nimages = 3"), "x.toml:2:10: invalid type: integer `3`, expected a sequence");
        assert!(error("images = [").starts_with("x.toml:1:"));
        assert!(error("images = []\nimages = []").contains("duplicate key"));
        assert_eq!(error(""), "x.toml:1:1: missing key `images`");
    }

    #[test]
    fn columns_count_characters() {
        assert_eq!(
            error("images = [\"é\"] \nat-least = \"é\""),
            "x.toml:2:12: invalid type: string \"é\", expected u32"
        );
    }
}
