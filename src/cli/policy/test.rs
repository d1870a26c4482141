//! `pullgate policy test`: a policy against the cases of its author. No network, no clock, no files but those named.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use serde_json::json;

use super::{
    Output,
    cases::{Case, read_cases},
    complain,
    coverage::Coverage,
    load, many, page, refuse,
    stand_in::StandIns,
};
use crate::{cli::page::Page, document::Problems, files, policy::decision::Decision};

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The directory with files of cases, *.toml.
    directory: PathBuf,
    /// The policy. Where none is given, the one of this node.
    file: Option<PathBuf>,
    /// How to say it.
    #[arg(short, long, default_value = "text")]
    output: Output,
}

/// A case came out otherwise than expected.
const FAILED: u8 = 1;

pub(super) fn run(config: &Path, arguments: &Arguments) -> ExitCode {
    let mut policy = match load(config, arguments.file.as_deref()) {
        Ok(policy) => policy,
        Err(problems) => return refuse(&problems, arguments.output),
    };
    let stand_ins = match StandIns::for_all(&mut policy) {
        Ok(stand_ins) => stand_ins,
        Err(why) => return complain(why),
    };
    let (mut cases, mut problems) = (Vec::new(), Vec::new());
    for file in files::in_directory(&arguments.directory, "toml") {
        match read_cases(&file, &policy, &stand_ins) {
            Ok(more) => cases.extend(more),
            Err(more) => problems.extend(more.0),
        }
    }
    if !problems.is_empty() {
        return refuse(&Problems(problems), arguments.output);
    }
    if cases.is_empty() {
        return complain(format!("{}: no cases (*.toml with [[case]])", arguments.directory.display()));
    }
    let mut coverage = Coverage::new(&policy);
    let decided: Vec<(&Case, Decision, Vec<String>)> = cases
        .iter()
        .map(|case| {
            let decision = case.decide(&policy);
            coverage.count(&policy, case, &decision);
            let differs = case.differs(&decision);
            (case, decision, differs)
        })
        .collect();
    let failed = decided.iter().filter(|(.., differs)| !differs.is_empty()).count();
    let code = if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(FAILED) };
    let text = match arguments.output {
        Output::Json => in_json(&decided, &coverage),
        Output::Text => in_text(&decided, failed, &coverage),
    };
    page::print(&text, code)
}

fn in_text(decided: &[(&Case, Decision, Vec<String>)], failed: usize, coverage: &Coverage<'_>) -> String {
    let mut page = Page::default();
    for (case, decision, differs) in decided {
        let mark = if differs.is_empty() { "ok  " } else { "FAIL" };
        page.line(format!("{mark}  {}", case.name));
        if !differs.is_empty() {
            page.line(format!("      {}: {}", case.at, differs.join("; ")));
            page.line(format!("      {}", decision.message(None)));
        }
    }
    page.gap();
    let cases = many(decided.len(), "case");
    page.line(if failed == 0 {
        format!("{cases}, all as expected")
    } else {
        format!("{cases}, {failed} otherwise than expected")
    });
    coverage.tell(&mut page);
    page.text()
}

fn in_json(decided: &[(&Case, Decision, Vec<String>)], coverage: &Coverage<'_>) -> String {
    let case = |(case, decision, differs): &(&Case, Decision, Vec<String>)| json!({ "name": case.name, "at": case.at, "passed": differs.is_empty(), "differs": differs, "decision": decision });
    page::json(&json!({ "cases": decided.iter().map(case).collect::<Vec<_>>(), "coverage": coverage.in_json() }))
}
