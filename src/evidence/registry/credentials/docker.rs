//! Files like docker's `config.json`: its entries, and the helpers that it names (docker, `cli/config/configfile`).

use std::{collections::BTreeMap, path::PathBuf};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;

use super::{
    Credential, Secret,
    pattern::closest,
    program::{Programs, Run},
    read,
};
use crate::{image::Host, limits};

/// One such file.
pub(super) struct Docker {
    file: PathBuf,
    helpers: Option<PathBuf>,
}

// No `Debug` on what has secrets as they were written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default)]
    creds_store: String,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

/// What a helper answers (docker-credential-helpers).
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

impl Docker {
    pub(super) fn new(file: PathBuf, helpers: Option<PathBuf>) -> Self {
        Self { file, helpers }
    }

    /// The credential for the repository `path` at `host`: of the helper for this host, of the one for all, or the entry.
    pub(super) async fn credential(
        &self,
        programs: &Programs,
        host: &Host,
        path: &str,
    ) -> Result<Option<Credential>, String> {
        let text = read(&self.file).await.map_err(|why| self.told(&why))?;
        // Where it is broken may be said, not what stands there.
        let document: Document = serde_json::from_str(&text).map_err(|error| {
            self.told(&format!("no such file as docker's: line {}, column {}", error.line(), error.column()))
        })?;
        let is_host = |name: &&String| name.parse::<Host>().is_ok_and(|named| named == *host);
        let helper = document.cred_helpers.iter().find(|(name, _)| is_host(name)).map(|(_, helper)| helper);
        let store = Some(&document.creds_store).filter(|store| !store.is_empty());
        if let Some(helper) = helper.or(store) {
            return self.ask(programs, helper, host).await;
        }
        let entries = document.auths.iter();
        match closest(entries, host, path) {
            Some((name, entry)) => entry.credential().map_err(|why| self.told(&format!("auths, {name}: {why}"))),
            None => Ok(None),
        }
    }

    async fn ask(&self, programs: &Programs, helper: &str, host: &Host) -> Result<Option<Credential>, String> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if helper.is_empty() || helper.len() > limits::HELPER_CHARS || !helper.bytes().all(plain) {
            return Err(self.told("it names a helper that is no name"));
        }
        let Some(directory) = &self.helpers else {
            return Err(self.told(&format!(
                "it names the helper `{helper}`, and config.toml no directory for helpers: [credentials] docker-helpers = \"/usr/local/bin\""
            )));
        };
        let server = if host.as_str() == "docker.io" { "https://index.docker.io/v1/" } else { host.as_str() };
        let name = format!("docker-credential-{helper}");
        let input = server.as_bytes().to_vec();
        let arguments = ["get".to_owned()];
        let run = Run { directory, name: &name, arguments: &arguments, environment: &[], input };
        let said = programs.run(run).await?;
        let broken = |why: &str| format!("{}: {why}", directory.join(&name).display());
        if !said.status.success() {
            // The one failure that has a text of its own (docker-credential-helpers, `credentials/error.go`).
            return match said.output.trim_ascii() == b"credentials not found in native keychain" {
                true => Ok(None),
                false => Err(broken(&said.status.to_string())),
            };
        }
        let answer: Answer =
            serde_json::from_slice(&said.output).map_err(|_| broken("its answer is none of a credential helper"))?;
        Ok(Credential::of_user(answer.username, answer.secret))
    }

    fn told(&self, why: &str) -> String {
        format!("{}: {why}", self.file.display())
    }
}

impl Entry {
    fn credential(&self) -> Result<Option<Credential>, &'static str> {
        let secret = |text: &str| Secret(text.to_owned());
        if !self.registrytoken.is_empty() {
            return Ok(Some(Credential::Registry(secret(&self.registrytoken))));
        }
        if !self.identitytoken.is_empty() {
            return Ok(Some(Credential::Identity(secret(&self.identitytoken))));
        }
        if self.auth.is_empty() {
            return Ok(Credential::of_user(self.username.clone(), self.password.clone()));
        }
        const BAD: &str = "`auth` is not NAME:PASSWORD in base64";
        let bytes = STANDARD.decode(self.auth.trim()).map_err(|_| BAD)?;
        let text = String::from_utf8(bytes).map_err(|_| BAD)?;
        let (user, password) = text.split_once(':').ok_or(BAD)?;
        // docker pads what it encodes with zeros.
        Ok(Credential::of_user(user.to_owned(), password.trim_end_matches('\0').to_owned()))
    }
}
