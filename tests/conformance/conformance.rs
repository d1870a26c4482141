//! The client of sigstore's conformance protocol, over the code by which the daemon judges evidence:
//! `cargo run --example conformance -- verify-bundle --bundle F --certificate-identity I --certificate-oidc-issuer U FILE`.

mod client;

use std::process::ExitCode;

fn main() -> ExitCode {
    match client::run(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("conformance: {why}");
            ExitCode::FAILURE
        }
    }
}
