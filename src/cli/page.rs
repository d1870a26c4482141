//! What a command prints. Every line passes here, so that no text from outside reaches a terminal as it came.

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use crate::{image::sanitize, limits, policy::decision::Verdict};

/// Columns before the values of a row.
const INDENT: usize = 12;

/// Lines for a person, made harmless as they are added.
#[derive(Default)]
pub(super) struct Page(String);

impl Page {
    /// A line of its own.
    pub(super) fn line(&mut self, text: impl AsRef<str>) {
        self.0.push_str(&sanitize(text.as_ref(), limits::SHOWN_CHARS));
        self.0.push('\n');
    }

    /// An empty line.
    pub(super) fn gap(&mut self) {
        self.0.push('\n');
    }

    /// A value with its name; without one it belongs to the row before.
    pub(super) fn row(&mut self, name: &str, value: impl AsRef<str>) {
        let value = match value.as_ref() {
            "" => "-",
            value => value,
        };
        self.line(format!("  {name:<width$}{value}", width = INDENT - 2));
    }

    /// Lines to be copied.
    pub(super) fn copy(&mut self, text: &str) {
        self.gap();
        for line in text.lines() {
            self.line(format!("    {line}"));
        }
        self.gap();
    }

    /// The text, without empty lines at its end.
    pub(super) fn text(&self) -> String {
        format!("{}\n", self.0.trim_end_matches('\n'))
    }
}

/// Prints `text` and says `code`, also when nobody reads on.
pub(super) fn print(text: &str, code: ExitCode) -> ExitCode {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => super::complain(error),
        _ => code,
    }
}

/// `value` in one line of JSON that is as harmless to show: what a terminal would obey is escaped.
pub(super) fn json(value: &serde_json::Value) -> String {
    let mut text = String::new();
    for c in value.to_string().chars() {
        if sanitize(c.encode_utf8(&mut [0; 4]), 1).starts_with(c) {
            text.push(c);
        } else {
            // Outside of texts JSON has nothing that is not plain.
            c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| text.push_str(&format!("\\u{unit:04x}")));
        }
    }
    text.push('\n');
    text
}

/// The word for `verdict`, coloured on a terminal whose user did not ask for none (<https://no-color.org>).
pub(super) fn word(verdict: Verdict, width: usize) -> String {
    let word = format!("{:<width$}", verdict.word());
    if !io::stdout().is_terminal() || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) {
        return word;
    }
    let colour = match verdict {
        Verdict::Allow => 32,
        Verdict::Deny => 31,
        Verdict::Inconclusive => 33,
    };
    format!("\x1b[{colour}m{word}\x1b[0m")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "a\n\u{1b}[2J\u{202e}\u{9b}\u{e0041}\u{7f}ü\"\\";

    #[test]
    fn nothing_reaches_a_terminal_as_it_came() {
        let mut page = Page::default();
        page.line(HOSTILE);
        page.row("name", HOSTILE);
        page.copy(&HOSTILE.repeat(1000));
        page.row("long", "x".repeat(1 << 20));
        assert!(page.text().chars().all(|c| c == '\n' || sanitize(&c.to_string(), 1) == c.to_string()));
        assert!(page.text().lines().all(|line| line.chars().count() <= limits::SHOWN_CHARS));
    }

    #[test]
    fn json_says_the_same_in_harmless_letters() {
        let value = serde_json::json!({ "text": HOSTILE, HOSTILE: [HOSTILE] });
        let text = json(&value);
        assert_eq!(text.matches('\n').count(), 1);
        assert!(text.trim_end().chars().all(|c| sanitize(&c.to_string(), 1) == c.to_string()), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }
}
