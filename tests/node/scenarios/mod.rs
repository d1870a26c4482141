//! What must hold on a node.

mod harness;

use crate::{node::Suite, runner::Scenario};

/// Every scenario.
pub const ALL: &[Scenario] = &[Scenario {
    name: "harness::every-path-brings-an-image-onto-a-node-without-gates",
    suites: &Suite::ALL,
    run: harness::every_path,
}];
