//! Columns for a person.

use super::super::page::Page;
use crate::{image::sanitize, limits};

/// Characters of one cell; what is longer is cut, except in the last column.
const CELL: usize = 44;

/// Adds a table to `page`: the names of the columns, and rows of as many cells.
pub(super) fn add<const N: usize>(page: &mut Page, names: [&str; N], rows: &[[String; N]]) {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count().min(CELL));
        cells.chain([names[column].chars().count()]).max().unwrap_or_default()
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut line = |cells: [String; N]| {
        let mut text = String::new();
        for (column, (cell, width)) in cells.iter().zip(widths).enumerate() {
            let most = if column + 1 == N { limits::SHOWN_CHARS } else { CELL };
            text.push_str(&format!("{:<width$}  ", sanitize(cell, most)));
        }
        page.line(text.trim_end());
    };
    line(names.map(str::to_owned));
    rows.iter().for_each(|row| line(row.clone()));
}
