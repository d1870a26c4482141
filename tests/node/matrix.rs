//! Images of every sort, each brought onto a node by every path, and what must become of it.

use std::fmt::Write as _;

use super::{Image, Node, Path, Result, Suite, journal::Entry, path::Outcome, registry::Published, signing::Layout};

/// One image and what must become of it.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: &'static str,
    pub image: Published,
    /// An image that is on the node already when this one comes.
    pub before: Option<Published>,
    pub expected: Expected,
}

/// What must become of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    Admitted,
    /// With this code.
    Denied(&'static str),
}

/// One image by one path.
#[derive(Clone, Debug)]
pub struct Cell {
    pub case: &'static str,
    pub path: Path,
    pub outcome: Outcome,
    /// What the journal says of it.
    pub entries: Vec<Entry>,
    /// What is not as it must be.
    pub wrong: Option<String>,
}

/// Makes and signs the images of the matrix.
///
/// # Errors
/// Where one cannot be made.
pub fn cases(node: &Node) -> Result<Vec<Case>> {
    node.make_key("stranger")?;
    let busybox = node.read("/usr/bin/busybox")?;
    let make = |name: &str| Image::of_layers(&busybox, name, 3);
    let push = |name: &str| node.push(&format!("demo/{name}:v1"), &make(name)?);
    let mut cases = Vec::new();
    let mut add = |name, image: &Published, expected| {
        cases.push(Case { name, image: image.clone(), before: None, expected });
    };

    let by_sig = push("signed-the-old-way")?;
    node.sign(&by_sig, "demo", Layout::SigTag)?;
    let has_bundles = Layout::of(node.suite).contains(&Layout::Bundle);
    let layout = Layout::usual(node.suite);
    if has_bundles {
        let by_bundle = push("signed")?;
        node.sign(&by_bundle, "demo", Layout::Bundle)?;
        add("signed, a bundle", &by_bundle, Expected::Admitted);
        add("signed, a .sig tag", &by_sig, Expected::Admitted);

        let replayed = push("replayed-bundle")?;
        node.replay(&by_bundle, &replayed, Layout::Bundle)?;
        add("a bundle made for another digest", &replayed, Expected::Denied("PG103"));
    } else {
        add("signed, a .sig tag", &by_sig, Expected::Admitted);
    }

    let both = push("signed-twice")?;
    node.sign(&both, "stranger", layout)?;
    node.sign(&both, "demo", layout)?;
    add("signed by a stranger and by us", &both, Expected::Admitted);

    add("unsigned", &push("unsigned")?, Expected::Denied("PG101"));

    let other_key = push("other-key")?;
    node.sign(&other_key, "stranger", layout)?;
    add("signed with another key", &other_key, Expected::Denied("PG102"));

    let replayed = push("replayed")?;
    node.replay(&by_sig, &replayed, Layout::SigTag)?;
    add("a .sig made for another digest", &replayed, Expected::Denied("PG103"));

    let attested = push("attested")?;
    node.attest(&attested, "demo", layout)?;
    // Nobody looks at the `.att` tag for a signature; a bundle shows what it is only once it was read.
    let attested_code = if has_bundles { "PG104" } else { "PG101" };
    add("attested, not signed", &attested, Expected::Denied(attested_code));

    let moved = push("moved")?;
    node.sign(&moved, "demo", layout)?;
    let moved = node.push("demo/moved:v1", &make("moved-since")?)?;
    add("a tag moved after signing", &moved, Expected::Denied("PG101"));

    let elsewhere = node.push("elsewhere/signed:v1", &make("elsewhere")?)?;
    node.sign(&elsewhere, "demo", layout)?;
    add("signed, and no rule about it", &elsewhere, Expected::Denied("PG201"));

    let rearranged = by_sig.image.rearranged(&[2, 0, 1], "rearranged");
    let rearranged = node.push("demo/rearranged:v1", &rearranged)?;
    cases.push(Case {
        name: "admitted layers, another order",
        image: rearranged,
        before: Some(by_sig),
        expected: Expected::Denied("PG101"),
    });
    Ok(cases)
}

/// Brings every case onto the node by every path; `progress` is told before each.
///
/// # Errors
/// Where the harness fails. What is not as it must be is in the cells.
pub fn run(node: &Node, cases: &[Case], mut progress: impl FnMut(&Case, Path)) -> Result<Vec<Cell>> {
    let mut cells = Vec::new();
    for case in cases {
        for path in Path::of(node.suite) {
            progress(case, *path);
            cells.push(cell(node, case, *path)?);
        }
    }
    Ok(cells)
}

fn cell(node: &Node, case: &Case, path: Path) -> Result<Cell> {
    node.clean()?;
    if let Some(before) = &case.before {
        match node.bring(path, before)? {
            Outcome::Admitted => {}
            other => return Err(format!("{}: {}: {other}", path.name(node.suite), before.name).into()),
        }
    }
    let cursor = node.cursor()?;
    let outcome = node.bring(path, &case.image)?;
    let entries = node.audit_since(&cursor)?;
    let wrong = wrong(case.expected, &outcome, &entries);
    Ok(Cell { case: case.name, path, outcome, entries, wrong })
}

fn wrong(expected: Expected, outcome: &Outcome, entries: &[Entry]) -> Option<String> {
    let recorded =
        |verdict: &str, code: &str| entries.iter().any(|entry| entry.verdict == verdict && entry.code == code);
    match (expected, outcome) {
        (Expected::Admitted, Outcome::Admitted) if recorded("allow", "") => None,
        (Expected::Admitted, Outcome::Admitted) => Some(format!("no allow in the journal: {entries:?}")),
        (Expected::Denied(code), Outcome::Refused { word, code: found, .. }) if word == "DENY" && found == code => {
            (!recorded("deny", code)).then(|| format!("no deny with {code} in the journal: {entries:?}"))
        }
        (Expected::Admitted, other) => Some(format!("must be admitted, and is: {}", told(other))),
        (Expected::Denied(code), other) => Some(format!("must be refused with {code}, and is: {}", told(other))),
    }
}

fn told(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Refused { message, .. } => message.clone(),
        other => other.to_string(),
    }
}

/// The matrix as a person reads it: a line an image, a column a path.
pub fn table(suite: Suite, cells: &[Cell]) -> String {
    let paths = Path::of(suite);
    let mut lines =
        vec![[vec!["image".to_owned()], paths.iter().map(|path| path.name(suite).to_owned()).collect()].concat()];
    for row in cells.chunks(paths.len()) {
        let name = row.first().map_or("", |cell| cell.case).to_owned();
        lines.push([vec![name], row.iter().map(shown).collect()].concat());
    }
    let width = |column: usize| lines.iter().map(|line| line.get(column).map_or(0, |cell| cell.chars().count())).max();
    let widths: Vec<usize> = (0..=paths.len()).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        let padded: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        let _ = writeln!(text, "{}", padded.join("  ").trim_end());
        if number == 0 {
            let _ = writeln!(text, "{}", widths.iter().map(|width| "-".repeat(*width)).collect::<Vec<_>>().join("  "));
        }
    }
    text
}

fn shown(cell: &Cell) -> String {
    let outcome = match &cell.outcome {
        Outcome::Admitted => "admitted".to_owned(),
        Outcome::Refused { word, code, .. } => format!("{word} {code}"),
        Outcome::Failed(_) => "failed".to_owned(),
        Outcome::NotUnpacked => "not unpacked".to_owned(),
        Outcome::Broken(_) => "broken".to_owned(),
    };
    if cell.wrong.is_some() { format!("{outcome} (WRONG)") } else { outcome }
}

/// What is wrong, a line a cell.
pub fn wrongs(suite: Suite, cells: &[Cell]) -> Vec<String> {
    let line =
        |cell: &Cell| cell.wrong.as_ref().map(|wrong| format!("{}, {}: {wrong}", cell.case, cell.path.name(suite)));
    cells.iter().filter_map(line).collect()
}
