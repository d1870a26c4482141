//! `docs/coverage.md`: what was seen, a column for each line of containerd.

use std::{fmt::Write as _, fs, path::PathBuf, sync::Mutex};

use super::{GROUPS, ground::Cell};
use crate::node::Result;

/// Set, the file is written instead of compared.
const WRITE: &str = "PULLGATE_WRITE_COVERAGE";
const BEGIN: &str = "<!-- seen on nodes; PULLGATE_WRITE_COVERAGE=1 cargo test --test node -- coverage -->";
/// Both suites write it.
static FILE: Mutex<()> = Mutex::new(());

type Seen = (&'static str, &'static str, Cell);

/// The document with a column for `line` has to be what it is.
///
/// # Errors
/// Each cell that differs.
pub fn compare(line: &str, seen: &[Seen]) -> Result<()> {
    let _one = FILE.lock().map_err(|_| "another suite panicked")?;
    let text = fs::read_to_string(file())?;
    let (prose, table) = text.split_once(BEGIN).ok_or_else(|| format!("no `{BEGIN}` in docs/coverage.md"))?;
    let mut columns = Columns::read(table);
    let before = columns.clone();
    columns.set(line, seen);
    if std::env::var_os(WRITE).is_some() {
        return Ok(fs::write(file(), format!("{prose}{BEGIN}\n{}", columns.written()))?);
    }
    let differences: Vec<String> = seen
        .iter()
        .filter_map(|(_, path, cell)| {
            let told = before.cell(line, path);
            let found = cell.to_string();
            (told != found).then(|| format!("{path}: docs/coverage.md says `{told}`, and it is `{found}`"))
        })
        .collect();
    if differences.is_empty() {
        return Ok(());
    }
    Err(format!("{}\nFix: mend it, or {WRITE}=1 cargo test --test node -- coverage", differences.join("\n")).into())
}

/// What the document says of a path now.
///
/// # Errors
/// Where it cannot be read.
pub fn says(line: &str, path: &str) -> Result<String> {
    let _one = FILE.lock().map_err(|_| "another suite panicked")?;
    let text = fs::read_to_string(file())?;
    let table = text.split_once(BEGIN).map_or("", |(_, table)| table);
    Ok(Columns::read(table).cell(line, path).to_owned())
}

/// What was seen on one node, for the terminal.
pub fn table(line: &str, seen: &[Seen]) -> String {
    let width = seen.iter().map(|(_, path, _)| path.chars().count()).max().unwrap_or(0);
    let mut text = format!("containerd {line}\n");
    for (_, path, cell) in seen {
        let _ = writeln!(text, "  {path:width$}  {cell}");
    }
    text
}

fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/coverage.md")
}

/// The table: lines of containerd, and for each path what was seen on each line.
#[derive(Clone, Debug, Default)]
struct Columns {
    lines: Vec<String>,
    cells: Vec<(String, Vec<String>)>,
}

impl Columns {
    fn read(table: &str) -> Self {
        let mut read = Self::default();
        for row in table.lines().filter(|line| line.starts_with('|')) {
            let mut words = row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned());
            let first = words.next().unwrap_or_default();
            let rest: Vec<String> = words.collect();
            if first.starts_with("---") {
                continue;
            }
            match first.strip_prefix("containerd") {
                Some(_) => read.lines = rest,
                None => read.cells.push((first, rest)),
            }
        }
        read
    }

    fn cell(&self, line: &str, path: &str) -> &str {
        let column = self.lines.iter().position(|known| known == line);
        let row = self.cells.iter().find(|(known, _)| known == path);
        row.zip(column).and_then(|((_, cells), column)| cells.get(column)).map_or("", String::as_str)
    }

    /// Paths that are no more go; other columns keep what they say.
    fn set(&mut self, line: &str, seen: &[Seen]) {
        let mut lines = self.lines.clone();
        if !lines.iter().any(|known| known == line) {
            lines.push(line.to_owned());
            lines.sort();
        }
        let cell = |of: &str, path: &str| match seen.iter().find(|(_, known, _)| of == line && *known == path) {
            Some((_, _, cell)) => cell.to_string(),
            None => self.cell(of, path).to_owned(),
        };
        let paths = GROUPS.iter().flat_map(|group| group.rows).map(|row| row.path);
        let cells = paths.map(|path| (path.to_owned(), lines.iter().map(|of| cell(of, path)).collect())).collect();
        *self = Self { lines, cells };
    }

    fn written(&self) -> String {
        let mut text = String::new();
        for group in GROUPS {
            let _ = writeln!(text, "\n## {}\n\n| containerd | {} |", group.name, self.lines.join(" | "));
            let _ = writeln!(text, "|---{}|", "|---".repeat(self.lines.len()));
            for row in group.rows {
                let cells: Vec<&str> = self.lines.iter().map(|line| self.cell(line, row.path)).collect();
                let _ = writeln!(text, "| {} | {} |", row.path, cells.join(" | "));
            }
        }
        text
    }
}
