//! Whom a host's certificate may come from, and which certificate pullgate shows to it.

use reqwest::{Certificate, ClientBuilder, Identity};

use crate::image::Digest;

/// What is configured for the TLS of one host. No `Debug`: it has a private key.
#[derive(Clone, Default)]
pub(super) struct Trust {
    authorities: Vec<String>,
    identity: Option<String>,
    /// Whether any certificate is good enough.
    pub(super) skip_verify: bool,
    /// What tells it from others; none where nothing is configured.
    id: Option<Digest>,
}

impl Trust {
    /// Adds the certificate authorities in `pem`.
    pub(super) fn add_authorities(&mut self, pem: &str) -> Result<(), &'static str> {
        match Certificate::from_pem_bundle(pem.as_bytes()) {
            Ok(certificates) if !certificates.is_empty() => self.authorities.push(pem.to_owned()),
            _ => return Err("no certificate in PEM can be read in it"),
        }
        Ok(())
    }

    /// Takes the certificate and the key in `pem`.
    pub(super) fn set_identity(&mut self, pem: &str) -> Result<(), &'static str> {
        Identity::from_pem(pem.as_bytes()).map_err(|_| "no certificate with its key in PEM can be read in it")?;
        self.identity = Some(pem.to_owned());
        Ok(())
    }

    /// Nothing changes any more.
    pub(super) fn sealed(mut self) -> Self {
        let mut all = String::new();
        for part in self.authorities.iter().chain(&self.identity) {
            all += &format!("{}\n{part}", part.len());
        }
        self.id =
            (!all.is_empty() || self.skip_verify).then(|| Digest::of(format!("{}{all}", self.skip_verify).as_bytes()));
        self
    }

    /// What other hosts are held to that this one names: certificate authorities are no secret, all else stays at home.
    pub(super) fn of_others(&self) -> Self {
        Self { authorities: self.authorities.clone(), ..Self::default() }.sealed()
    }

    pub(super) fn id(&self) -> Option<Digest> {
        self.id
    }

    /// Whether anything is configured.
    pub(super) fn is_some(&self) -> bool {
        self.id.is_some()
    }

    pub(super) fn apply(&self, mut builder: ClientBuilder) -> reqwest::Result<ClientBuilder> {
        let mut authorities = Vec::new();
        for pem in &self.authorities {
            authorities.extend(Certificate::from_pem_bundle(pem.as_bytes())?);
        }
        if !authorities.is_empty() {
            builder = builder.tls_certs_merge(authorities);
        }
        if let Some(pem) = &self.identity {
            builder = builder.identity(Identity::from_pem(pem.as_bytes())?);
        }
        // Only where config.toml says `insecure-skip-verify` for this host.
        Ok(if self.skip_verify { builder.tls_danger_accept_invalid_certs(true) } else { builder })
    }
}
