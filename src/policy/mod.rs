//! What the policy says. Pure: no clock, no files, no network.

pub mod decision;
