//! `pullgate policy`: what the author of a policy needs, on any machine.

mod cases;
mod coverage;
mod explain;
mod lint;
mod show;
mod stand_in;
mod suggest;
mod table;
mod test;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use serde_json::json;

use super::{BAD_CONFIGURATION, Output, complain, page};
use crate::{
    config::Config,
    document::Problems,
    files, limits,
    policy::{Policy, SCHEMA},
};

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Say whether the policy can be used, and where a namespace opens what comes before the start.
    Check(Document),
    /// Show which rule governs which images on which nodes.
    Show(Document),
    /// Say which rule governs an image, and what it asks for: 0 admitted as it is, 1 refused whatever is signed, 3 it depends.
    Explain(explain::Arguments),
    /// Say what the policy's author may not have meant; 1 where there is anything.
    Lint(Document),
    /// Decide the cases in a directory, and say which rules no case is about; 1 where one comes out otherwise.
    Test(test::Arguments),
    /// Print the narrowest policy that admits the images on this node; 3 where some could not be looked at.
    Suggest(suggest::Arguments),
    /// Print the JSON Schema of the policy document.
    Schema,
}

#[derive(clap::Args)]
struct Document {
    /// The policy. Where none is given, the one of this node.
    file: Option<PathBuf>,
    /// How to say it.
    #[arg(short, long, default_value = "text")]
    output: Output,
}

pub(super) fn run(config: &Path, arguments: &Arguments) -> ExitCode {
    match &arguments.command {
        Command::Check(document) => with_policy(config, document, lint::check),
        Command::Show(document) => with_policy(config, document, show::run),
        Command::Explain(arguments) => explain::run(config, arguments),
        Command::Lint(document) => with_policy(config, document, lint::run),
        Command::Test(arguments) => test::run(config, arguments),
        Command::Suggest(arguments) => suggest::run(config, arguments),
        Command::Schema => page::print(SCHEMA, ExitCode::SUCCESS),
    }
}

fn with_policy(config: &Path, document: &Document, run: fn(&Policy, Output) -> ExitCode) -> ExitCode {
    match load(config, document.file.as_deref()) {
        Ok(policy) => run(&policy, document.output),
        Err(problems) => refuse(&problems, document.output),
    }
}

/// The policy in `file`, or the one that `config` names; keys are read beside it.
fn load(config: &Path, file: Option<&Path>) -> Result<Policy, Problems> {
    let whole = |path: &Path, why: String| Problems::whole(&path.display().to_string(), why);
    let file = match file {
        Some(file) => file.to_owned(),
        None => {
            let text = files::read(config, limits::DOCUMENT_BYTES).map_err(|why| whole(config, why))?;
            Config::parse(config, &text)?.policy
        }
    };
    let text = files::read(&file, limits::DOCUMENT_BYTES).map_err(|why| whole(&file, why))?;
    let beside = file.parent().unwrap_or(Path::new("."));
    Policy::parse(&file.display().to_string(), &text, &|key| files::read(&beside.join(key), limits::KEY_FILE_BYTES))
}

/// What keeps a document from being used, all of it.
fn refuse(problems: &Problems, output: Output) -> ExitCode {
    if output == Output::Text {
        return complain(problems.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\npullgate: "));
    }
    let problem = |problem: &crate::document::Problem| json!({ "file": problem.file, "line": problem.line, "column": problem.column, "message": problem.message });
    let problems: Vec<_> = problems.0.iter().map(problem).collect();
    page::print(&page::json(&json!({ "usable": false, "problems": problems })), ExitCode::from(BAD_CONFIGURATION))
}

fn many(count: usize, one: &str) -> String {
    format!("{count} {one}{}", if count == 1 { "" } else { "s" })
}
