//! Commands whose output nobody reads any more: they do what they do, and end as they would have.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::{
    fs, io,
    process::{Command, ExitStatus},
};

/// `pullgate` with standard output and standard error into a pipe without a reader.
fn unread(arguments: &[&str]) -> ExitStatus {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.toml");
    fs::write(&config, "mode = \"audit\"\n[containerd]\naddress = \"/nonexistent\"\n").unwrap();
    fs::write(folder.path().join("policy.toml"), "schema = 1\n[default]\nrequire = \"deny\"\n").unwrap();
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_pullgate"));
    command.arg("--config").arg(&config).args(arguments).stdout(writer.try_clone().unwrap()).stderr(writer);
    command.status().unwrap()
}

#[test]
fn a_reader_that_went_away_does_not_end_a_command() {
    for (arguments, code) in [
        (&["mode"][..], 0),
        (&["daemon", "--check"], 0),
        (&["daemon", "--check", "--output", "json"], 0),
        (&["boot-list"], 3),
        (&["status", "--runtime", "/nonexistent"], 3),
        (&["check", "not a name"], 2),
        (&["why"], 2),
    ] {
        assert_eq!(unread(arguments).code(), Some(code), "{arguments:?}");
    }
}
