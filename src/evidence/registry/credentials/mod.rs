//! Credentials for registries: from files like docker's, their helpers, and the kubelet's credential providers.
//!
//! Nothing is looked for before a registry asks (401). What is found goes to [`super::token`], which alone knows to whom it
//! may be sent. Nothing here is written down, and nothing says more of a secret than that there is one.

mod docker;
mod kubelet;
mod pattern;
mod program;

use std::{fmt, path::Path, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::header::HeaderValue;

use self::{docker::Docker, kubelet::Kubelet, program::Programs};
use crate::{
    evidence::{Cause, CredentialSources},
    files,
    image::{Digest, Host},
    limits,
};

/// What proves to a registry who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Credential {
    /// A name and a password.
    Basic { user: String, password: Secret },
    /// What a token service changes into an access token (OAuth 2, a refresh token).
    Identity(Secret),
    /// An access token.
    Registry(Secret),
}

/// A text that nobody gets to see.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

impl Secret {
    /// The text itself, to be sent.
    pub(super) fn text(&self) -> &str {
        &self.0
    }

    /// An `Authorization` header with the access token that this is.
    pub(super) fn bearer(&self) -> Result<HeaderValue, Cause> {
        header(format!("Bearer {}", self.0))
    }
}

impl Credential {
    fn of_user(user: String, password: String) -> Option<Self> {
        match (user.as_str(), password.is_empty()) {
            (_, true) => None,
            // The name under which docker keeps tokens.
            ("<token>", false) => Some(Self::Identity(Secret(password))),
            _ => Some(Self::Basic { user, password: Secret(password) }),
        }
    }

    /// An `Authorization` header with name and password.
    pub(super) fn basic(&self) -> Result<HeaderValue, Cause> {
        let Self::Basic { user, password } = self else { return Err(Cause::Unauthorized) };
        header(format!("Basic {}", STANDARD.encode(format!("{user}:{}", password.0))))
    }

    /// What tells it from others where it is used for `place`.
    pub(super) fn id(&self, place: &str) -> Digest {
        let (kind, user, secret) = match self {
            Self::Basic { user, password } => ("basic", user.as_str(), password),
            Self::Identity(token) => ("identity", "", token),
            Self::Registry(token) => ("registry", "", token),
        };
        Digest::of(format!("{place}\n{kind}\n{}\n{user}{}", user.len(), secret.0).as_bytes())
    }
}

fn header(text: String) -> Result<HeaderValue, Cause> {
    let unfit = || Cause::NoCredential("the credential has characters that no request can carry".to_owned());
    let mut header = HeaderValue::from_str(&text).map_err(|_| unfit())?;
    header.set_sensitive(true);
    Ok(header)
}

/// The text of a file that only root writes.
async fn read(file: &Path) -> Result<String, String> {
    let file = file.to_owned();
    let reading = tokio::task::spawn_blocking(move || files::read_trusted(&file, limits::CREDENTIALS_FILE_BYTES));
    reading.await.unwrap_or_else(|error| Err(error.to_string()))
}

/// The sources, in the order in which they are asked.
pub(super) struct Credentials {
    docker: Vec<Docker>,
    kubelet: Option<Kubelet>,
    programs: Programs,
}

impl Credentials {
    /// The sources that the configuration names. A program may take `patience`.
    pub(super) fn new(sources: CredentialSources, patience: Duration) -> Self {
        let helpers = sources.helpers;
        Self {
            docker: sources.docker.into_iter().map(|file| Docker::new(file, helpers.clone())).collect(),
            kubelet: sources.kubelet.map(Kubelet::new),
            programs: Programs::new(patience),
        }
    }

    /// The credential for the repository `path` at `host`; none if no source has one.
    ///
    /// # Errors
    /// [`Cause::NoCredential`] where a source that may have one cannot tell.
    pub(super) async fn of(&self, host: &Host, path: &str) -> Result<Option<Credential>, Cause> {
        for docker in &self.docker {
            if let Some(found) = docker.credential(&self.programs, host, path).await.map_err(Cause::NoCredential)? {
                return Ok(Some(found));
            }
        }
        match &self.kubelet {
            Some(kubelet) => kubelet.credential(&self.programs, host, path).await.map_err(Cause::NoCredential),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests;
