//! pullgate, the daemon and the tool.

use std::process::ExitCode;

fn main() -> ExitCode {
    pullgate::cli::run()
}
