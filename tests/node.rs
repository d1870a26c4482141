//! Tests on real nodes. Each scenario has a node of its own, booted for it and gone with it.
//!
//! `cargo test --test node [-- SUBSTRING…]`; needs root. `PULLGATE_CACHE` says where roots are kept.

#![allow(unreachable_pub, reason = "a program of several files")]

#[path = "authority/mod.rs"]
mod authority;
#[path = "node/mod.rs"]
mod node;
#[path = "node/runner.rs"]
mod runner;
#[path = "node/scenarios/mod.rs"]
mod scenarios;
#[allow(dead_code, reason = "nobody here serves by it")]
#[path = "registry/tls.rs"]
mod tls;

fn main() -> std::process::ExitCode {
    runner::run(scenarios::ALL)
}
