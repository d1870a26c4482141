//! Reads a document key by key, and goes on behind a mistake: a person gets all of them at once, each at its place.

use std::{borrow::Cow, ops::Range};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{Places, Problem, Problems};
use crate::limits;

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
            let message = error.message().to_owned();
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
        match self.problems.len() {
            0..limits::PROBLEMS => self.problems.push(self.places.problem(span, message)),
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
            self.problem(key.span(), unknown("key", key.get_ref(), known));
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

/// What is said of a word `written` that is none of the `known`, and the one that was probably meant.
pub(crate) fn unknown(what: &str, written: &str, known: &[&str]) -> String {
    let closest = known.iter().map(|word| (strsim::damerau_levenshtein(written, word), word)).min();
    match closest {
        Some((distance, word)) if distance <= 1 + written.chars().count() / 3 => {
            format!("unknown {what} `{written}`; did you mean `{word}`?")
        }
        _ if known.is_empty() => format!("unknown {what} `{written}`: there are none here"),
        _ => format!("unknown {what} `{written}`; known here: {}", known.join(", ")),
    }
}
