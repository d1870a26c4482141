//! Configurations and policies to measure under.

use std::{fs, path::Path, process::Command};

use pullgate::status::Status;

use crate::node::{Result, product, product::SERVICE};

/// What a policy says about the one repository that it admits from.
pub struct Policy<'a> {
    /// The registry.
    pub host: &'a str,
    /// The file of the public key that has to have signed.
    pub key: &'a str,
    /// The forms in which signatures count; all of them where none is named.
    pub formats: &'a [&'a str],
}

impl Policy<'_> {
    /// Writes the policy, and a configuration with `more` sections, into `directory`. Returns the configuration's path.
    ///
    /// # Errors
    /// Where they cannot be written.
    pub fn write(&self, directory: &str, more: &str) -> Result<String> {
        let directory = Path::new(directory);
        fs::create_dir_all(directory)?;
        let config = directory.join("config.toml");
        fs::write(directory.join("policy.toml"), self.document())?;
        fs::write(&config, format!("mode = \"enforce\"\n[registry.\"{}\"]\n{more}", self.host))?;
        Ok(config.display().to_string())
    }

    /// Lets the daemon decide by this policy from its next start on.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write_for_daemon(&self, more: &str) -> Result<()> {
        let directory = Path::new(product::CONFIG_FILE).parent().ok_or("no directory")?;
        self.write(&directory.to_string_lossy(), more)?;
        Ok(())
    }

    /// The policy as a text.
    pub fn document(&self) -> String {
        let Self { host, key, formats } = self;
        let formats = if formats.is_empty() { String::new() } else { format!("formats = {formats:?}\n") };
        format!(
            r#"schema = 1
[[attestor]]
name = "release"
may-sign = ["signature"]
{formats}keys = [{{ file = "{key}", algorithm = "ecdsa-p256-sha256" }}]
[[rule]]
name = "bench"
images = ["{host}/bench/**"]
require = {{ all = ["release"] }}
[default]
require = "deny"
"#
        )
    }
}

/// Runs systemctl, which has to succeed.
///
/// # Errors
/// What it says.
pub fn systemctl(arguments: &[&str]) -> Result<()> {
    run(&[&["systemctl"], arguments].concat())?;
    Ok(())
}

/// What a command says that has to succeed.
///
/// # Errors
/// What it says where it fails.
pub fn run(command: &[&str]) -> Result<String> {
    let (program, arguments) = command.split_first().ok_or("no command")?;
    let ended = Command::new(program).args(arguments).output()?;
    if ended.status.success() {
        return Ok(String::from_utf8_lossy(&ended.stdout).into_owned());
    }
    Err(format!("{}: {}", command.join(" "), String::from_utf8_lossy(&ended.stderr).trim()).into())
}

/// What the daemon says about itself.
///
/// # Errors
/// Where it says nothing.
pub fn status() -> Result<Status> {
    Ok(serde_json::from_str(&run(&["pullgate", "status", "-o", "json"])?)?)
}

/// The daemon's process.
///
/// # Errors
/// What systemd says.
pub fn daemon_pid() -> Result<String> {
    Ok(run(&["systemctl", "show", "--value", "--property", "MainPID", SERVICE])?.trim().to_owned())
}
