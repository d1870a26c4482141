//! Every path by which an image comes onto a node and runs, and where pullgate stops what the policy refuses: the
//! table in `docs/coverage.md`, which this keeps true.

mod bring;
mod content;
mod cri;
mod docker;
mod document;
mod ground;
mod past;
mod run;

use std::sync::atomic::Ordering;

use ground::{Cell, Ground};

use crate::node::{Result, Suite};

/// A path, and how to walk it: first with an image that is admitted, which has to arrive, then with one that is not.
#[derive(Clone, Copy, Debug)]
struct Row {
    path: &'static str,
    walk: fn(&Ground) -> Result<Cell>,
}

/// Paths that belong together. Later ones find the node as earlier ones leave it.
#[derive(Clone, Copy, Debug)]
struct Group {
    name: &'static str,
    rows: &'static [Row],
}

const GROUPS: &[Group] = &[
    past::BEFORE,
    bring::PULLS,
    bring::ARCHIVES,
    run::PODS_OF,
    past::SINCE,
    past::HELD,
    run::OTHERS,
    docker::BUILDS,
    content::DIRECT,
    cri::HANDLERS,
    cri::FALLBACKS,
];

/// Walk only the paths that have this in their names.
const ONLY: &str = "PULLGATE_COVERAGE_ONLY";

pub fn every_path(suite: Suite) -> Result<()> {
    let ground = Ground::prepare(suite)?;
    let line = ground.line()?;
    let mut seen = Vec::new();
    let mut wrong = Vec::new();
    let only = std::env::var(ONLY).unwrap_or_default();
    for group in GROUPS {
        for row in group.rows.iter().filter(|row| only.is_empty() || row.path.contains(&only)) {
            let expects = document::says(&line, row.path)? == Cell::Detected.to_string();
            ground.expects_detection.store(expects, Ordering::Relaxed);
            match (row.walk)(&ground) {
                Ok(cell) => seen.push((group.name, row.path, cell)),
                Err(error) => wrong.push(format!("{}: {error}", row.path)),
            }
        }
    }
    println!("{}", document::table(&line, &seen));
    if !wrong.is_empty() {
        return Err(wrong.join("\n").into());
    }
    document::compare(&line, &seen)
}
