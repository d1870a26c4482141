//! Where in containerd's files a value is set. Pure.

#![deny(clippy::disallowed_methods)]

use std::{fmt, ops::Range, path::PathBuf};

use serde::Serialize;
use toml_edit::{Document, Item};

use super::super::imports::Read;

/// A line of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1 on; none where the whole file is meant.
    pub line: Option<usize>,
}

impl Place {
    /// The whole of `file`.
    pub fn whole(file: impl Into<PathBuf>) -> Self {
        Self { file: file.into(), line: None }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        self.line.map_or(Ok(()), |line| write!(f, ":{line}"))
    }
}

/// The last of `files` that sets a value, by any of the ways to write it: versions of the configuration have their own
/// names for a section. A number in a way stands for an entry of a list.
pub(super) fn of(files: &[Read], ways: &[&[&str]]) -> Option<Place> {
    files.iter().rev().find_map(|file| {
        let document = Document::parse(file.text.as_str()).ok()?;
        let span = ways.iter().find_map(|way| span(document.as_item(), way))?;
        let before = file.text.get(..span.start)?;
        Some(Place { file: file.path.clone(), line: Some(before.matches('\n').count() + 1) })
    })
}

fn span(item: &Item, way: &[&str]) -> Option<Range<usize>> {
    let (first, rest) = way.split_first()?;
    if let (Some(list), Ok(number)) = (item.as_array_of_tables(), first.parse::<usize>()) {
        let entry = list.get(number)?;
        return match rest.split_first() {
            None => entry.span(),
            Some((key, _)) => entry.get_key_value(key).and_then(|(key, _)| key.span()).or_else(|| entry.span()),
        };
    }
    let (key, value) = item.as_table_like()?.get_key_value(first)?;
    match rest {
        [] => key.span().or_else(|| value.span()),
        _ => span(value, rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> Read {
        Read { path: path.into(), text: text.into(), imports: Vec::new(), version: None }
    }

    #[test]
    fn the_last_file_that_sets_a_value_is_named_with_its_line() {
        let main = file(
            "/main.toml",
            "version = 2\n[plugins.\"a.b\"]\n  # why\n  default = [\"x\"]\n[plugins.c]\nd.e = { f = 1 }\n\
             [[list]]\nk = 1\n[[list]]\n\nk = 2\n",
        );
        let found = |files: &[Read], ways: &[&[&str]]| of(files, ways).map(|place| place.to_string());
        let main = std::slice::from_ref(&main);
        assert_eq!(found(main, &[&["plugins", "a.b", "default"]]), Some("/main.toml:4".into()));
        assert_eq!(found(main, &[&["plugins", "c", "d", "e", "f"]]), Some("/main.toml:6".into()));
        assert_eq!(found(main, &[&["nothing"], &["version"]]), Some("/main.toml:1".into()));
        assert_eq!(found(main, &[&["list", "1"]]), Some("/main.toml:9".into()));
        assert_eq!(found(main, &[&["list", "1", "k"]]), Some("/main.toml:11".into()));
        for way in [&["plugins", "a.b", "other"][..], &["version", "x"], &["list", "7"], &[]] {
            assert_eq!(found(main, &[way]), None, "{way:?}");
        }
        let files = [main[0].clone(), file("/b.toml", "version = 3\n"), file("/c.toml", "= broken")];
        assert_eq!(found(&files, &[&["version"]]), Some("/b.toml:1".into()));
        assert_eq!(Place::whole("/x").to_string(), "/x");
    }
}
