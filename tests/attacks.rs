//! The list of attacks says what there is: each test that it names.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::{fs, path::Path};

const LIST: &str = include_str!("ATTACKS.md");

/// A row of the list.
struct Row<'a> {
    advisory: &'a str,
    /// What tries it: file and name; empty where it does not apply.
    tests: Vec<(&'a str, &'a str)>,
}

fn rows() -> Vec<Row<'static>> {
    let table = LIST.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| advisory "));
    table.map(row).collect()
}

fn row(line: &'static str) -> Row<'static> {
    let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
    let [advisory, attack, tried] = cells.as_slice() else { panic!("{line} has {} cells", cells.len()) };
    assert!(!advisory.is_empty() && !attack.is_empty(), "{line}");
    if let Some(why) = tried.strip_prefix("does not apply: ") {
        assert!(why.len() > 15, "{line} says too little");
        return Row { advisory, tests: Vec::new() };
    }
    let test = |text: &'static str| {
        let quoted: Vec<&str> = text.split('`').collect();
        let ["", file, " ", name, ""] = quoted.as_slice() else { panic!("{advisory}: {text:?} is no test") };
        (*file, *name)
    };
    Row { advisory, tests: tried.split(", ").map(test).collect() }
}

fn has_test(file: &str, name: &str) -> bool {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().any(|line| {
        let declared = line.trim_start().trim_start_matches("pub ").trim_start_matches("async ").strip_prefix("fn ");
        declared.and_then(|rest| rest.strip_prefix(name)).is_some_and(|rest| rest.starts_with('('))
    })
}

#[test]
fn every_attack_is_tried_by_a_test_that_is_there() {
    let rows = rows();
    assert!(rows.len() > 60, "{} rows: the list is read wrongly", rows.len());
    for Row { advisory, tests } in &rows {
        for (file, name) in tests {
            assert!(has_test(file, name), "{advisory}: there is no test {name} in {file}");
        }
    }
}

#[test]
fn no_advisory_has_two_rows_that_say_the_same() {
    let mut seen = Vec::new();
    for Row { advisory, tests } in rows() {
        assert!(!seen.contains(&(advisory, tests.clone())), "{advisory} is there twice");
        seen.push((advisory, tests));
    }
}
