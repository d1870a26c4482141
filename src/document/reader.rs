//! Reads a document key by key, and goes on behind a mistake: a person gets all of them at once, each at its place.

use std::{borrow::Cow, ops::Range};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{Places, Problem, Problems};
use crate::{image::sanitize, limits};

/// A value, and where it stands.
pub(crate) type Value<'d> = Spanned<DeValue<'d>>;

/// Collects what is wrong with a document.
pub(crate) struct Reader<'a> {
    places: Places<'a>,
    problems: Vec<Problem>,
    /// How many more there are than are told.
    untold: usize,
}

/// A table of which every key is known.
#[derive(Clone)]
pub(crate) struct Fields<'v, 'd> {
    table: &'v DeTable<'d>,
    span: Range<usize>,
}

impl<'v, 'd> Fields<'v, 'd> {
    /// The value of `key`, where there is one.
    pub(crate) fn get(&self, key: &str) -> Option<&'v Value<'d>> {
        self.table.get(key)
    }

    /// Where the table begins.
    pub(crate) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Every key with its value.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'v Spanned<Cow<'d, str>>, &'v Value<'d>)> {
        self.table.iter()
    }
}

impl<'a> Reader<'a> {
    pub(crate) fn new(file: &'a str, text: &'a str) -> Self {
        Self { places: Places::new(file, text), problems: Vec::new(), untold: 0 }
    }

    /// The document as a table.
    ///
    /// # Errors
    /// What keeps it from being TOML.
    pub(crate) fn parse(file: &str, text: &'a str) -> Result<Spanned<DeTable<'a>>, Problems> {
        DeTable::parse(text).map_err(|error| {
            let message = match error.message() {
                deep if deep.contains("recurs") => "too many tables and lists within each other: make it flatter",
                other => other,
            };
            match error.span() {
                Some(span) => Problems(vec![Places::new(file, text).problem(span, message)]),
                None => Problems::whole(file, message),
            }
        })
    }

    /// The line, from 1, on which `span` begins.
    pub(crate) fn line(&self, span: Range<usize>) -> usize {
        self.places.line(span.start)
    }

    /// What was wrong at `span`.
    pub(crate) fn problem(&mut self, span: Range<usize>, message: impl Into<String>) {
        self.problem_of(span, || message.into());
    }

    /// As [`Self::problem`]; `message` is asked for only where it is told.
    pub(crate) fn problem_of(&mut self, span: Range<usize>, message: impl FnOnce() -> String) {
        match self.problems.len() {
            0..limits::PROBLEMS => self.problems.push(self.places.problem(span, message())),
            _ => self.untold += 1,
        }
    }

    /// `read`, if nothing was wrong.
    ///
    /// # Errors
    /// Everything that was, in the order of the document.
    pub(crate) fn conclude<T>(mut self, read: T) -> Result<T, Problems> {
        if self.problems.is_empty() {
            return Ok(read);
        }
        self.problems.sort_by_key(|problem| (problem.line, problem.column));
        if self.untold > 0 {
            let message = format!("and {} more mistakes", self.untold);
            self.problems.push(Problem { file: self.places.file().to_owned(), line: 0, column: 0, message });
        }
        Err(Problems(self.problems))
    }

    /// The table that `value` is, of which only the keys `known` count.
    pub(crate) fn fields<'v, 'd>(&mut self, value: &'v Value<'d>, known: &[&str]) -> Option<Fields<'v, 'd>> {
        let Some(table) = value.get_ref().as_table() else {
            self.wrong_type(value, "a table");
            return None;
        };
        Some(self.known(table, value.span(), known))
    }

    /// `table`, of which only the keys `known` count.
    pub(crate) fn known<'v, 'd>(
        &mut self,
        table: &'v DeTable<'d>,
        span: Range<usize>,
        known: &[&str],
    ) -> Fields<'v, 'd> {
        for key in table.keys().filter(|key| !known.contains(&key.get_ref().as_ref())) {
            self.problem_of(key.span(), || unknown("key", key.get_ref(), known));
        }
        Fields { table, span }
    }

    /// The value of `key`, which there has to be.
    pub(crate) fn required<'v, 'd>(&mut self, fields: &Fields<'v, 'd>, key: &str) -> Option<&'v Value<'d>> {
        let value = fields.get(key);
        if value.is_none() {
            let end = fields.span.start..fields.span.start;
            self.problem(end, format!("missing key `{key}`"));
        }
        value
    }

    /// The text that `value` is.
    pub(crate) fn text<'v>(&mut self, value: &'v Value<'_>) -> Option<&'v str> {
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.wrong_type(value, "a text in quotes");
        }
        text
    }

    /// The number that `value` is.
    pub(crate) fn number(&mut self, value: &Value<'_>) -> Option<usize> {
        let number = value.get_ref().as_integer();
        let number = number.and_then(|number| usize::from_str_radix(number.as_str(), number.radix()).ok());
        if number.is_none() {
            self.wrong_type(value, "a whole number, 0 or more");
        }
        number
    }

    /// Whether `value` is `true`.
    pub(crate) fn is_set(&mut self, value: &Value<'_>) -> bool {
        let set = value.get_ref().as_bool();
        if set.is_none() {
            self.wrong_type(value, "true or false");
        }
        set.unwrap_or_default()
    }

    /// The values in the list that `value` is.
    pub(crate) fn list<'v, 'd>(&mut self, value: &'v Value<'d>) -> Option<&'v [Value<'d>]> {
        let list = value.get_ref().as_array();
        if list.is_none() {
            self.wrong_type(value, "a list in brackets");
        }
        list.map(|list| &**list)
    }

    /// The texts in the list that `value` is, each with its place; no list is an empty one.
    pub(crate) fn texts<'v>(&mut self, value: Option<&'v Value<'_>>) -> Vec<(&'v str, Range<usize>)> {
        let list = value.and_then(|value| self.list(value)).unwrap_or_default();
        list.iter().filter_map(|item| Some((self.text(item)?, item.span()))).collect()
    }

    /// The texts in the table that `value` is, by their keys; no table is an empty one.
    pub(crate) fn map<'v>(&mut self, value: Option<&'v Value<'_>>) -> Vec<(&'v str, &'v str)> {
        let Some(value) = value else { return Vec::new() };
        let Some(table) = value.get_ref().as_table() else {
            self.wrong_type(value, "a table");
            return Vec::new();
        };
        table.iter().filter_map(|(key, value)| Some((key.get_ref().as_ref(), self.text(value)?))).collect()
    }

    /// That `value` should have been something else.
    pub(crate) fn wrong_type(&mut self, value: &Value<'_>, expected: &str) {
        let found = match value.get_ref() {
            DeValue::String(_) => "a text",
            DeValue::Integer(_) | DeValue::Float(_) => "a number",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a time without quotes",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.problem(value.span(), format!("expected {expected}, found {found}"));
    }
}

/// A text of the document as it is shown to people.
pub(crate) fn quoted(text: &str) -> String {
    format!("`{}`", sanitize(text, limits::QUOTED_CHARS))
}

/// What is said of a word `written` that is none of the `known`, and the one that was probably meant.
pub(crate) fn unknown(what: &str, written: &str, known: &[&str]) -> String {
    let quoted = quoted(written);
    match meant(written, known.iter().copied()) {
        Some(word) => format!("unknown {what} {quoted}; did you mean `{word}`?"),
        None if known.is_empty() => format!("unknown {what} {quoted}: there are none here"),
        None => format!("unknown {what} {quoted}; known here: {}", known.join(", ")),
    }
}

/// The one of the words `known` that was probably meant with `written`.
pub(crate) fn meant<'a>(written: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let length = written.chars().count();
    let most = 1 + length / 3;
    // Comparing takes as long as both are, one times the other.
    let near = known.take(limits::WORDS_COMPARED).filter(|word| word.len().abs_diff(length) <= most);
    let near = near.filter(|_| length <= limits::QUOTED_CHARS);
    let closest = near.map(|word| (strsim::damerau_levenshtein(written, word), word)).min()?;
    (closest.0 <= most).then_some(closest.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_compared_with_so_many_and_only_where_it_could_be_one() {
        assert_eq!(meant("alpha", ["alphe", "beta"].into_iter()), Some("alphe"));
        assert_eq!(meant("alpha", ["beta", "gamma", "a"].into_iter()), None);
        let many = |before: usize| meant("alpha", std::iter::repeat_n("beta", before).chain(["alphe"])).is_some();
        assert!(many(limits::WORDS_COMPARED - 1) && !many(limits::WORDS_COMPARED));
        let long = "a".repeat(limits::QUOTED_CHARS);
        assert_eq!(meant(&long, std::iter::once(&long[1..])), Some(&long[1..]));
        let longer = format!("{long}a");
        assert_eq!(meant(&longer, std::iter::once(long.as_str())), None);
        assert_eq!(quoted(&longer).chars().count(), limits::QUOTED_CHARS + 2);
        assert_eq!(quoted("a\nb\u{202e}"), "`a?b?`");
    }
}
