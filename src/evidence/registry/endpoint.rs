//! A host that is asked for a repository: the registry itself, or what containerd asks in its place.

use std::sync::Arc;

use reqwest::{Url, header::HeaderMap};

use super::{
    address::{Rules, host_of, no_url},
    hosts::{Configured, ConfiguredHost},
    trust::Trust,
};
use crate::{
    evidence::{Cause, Place},
    image::{Host, Repository},
};

/// One of the hosts that are asked for a repository.
pub(super) struct Endpoint {
    /// The repository, by the name under which it is known: of a mirror, by the mirror's.
    pub(super) place: Place,
    /// The host itself: whose credentials it gets, and what is remembered of it.
    pub(super) host: Host,
    /// Where the repository begins there, `scheme://host/v2/<name>/`.
    pub(super) base: Url,
    /// What a mirror is told that it stands for.
    namespace: Option<String>,
    /// Whether root named this host.
    pub(super) named: bool,
    /// Whether it is the registry itself: what it does not have is absent.
    pub(super) is_registry: bool,
    /// May be asked for content by its digest.
    pub(super) pulls: bool,
    /// May be asked what a tag stands for.
    pub(super) resolves: bool,
    /// May be asked where evidence is. What it answers is verified, so that a mirror which knows either will do.
    pub(super) has_evidence: bool,
    pub(super) trust: Arc<Trust>,
    /// What hosts are held to that this one names.
    pub(super) trust_of_others: Arc<Trust>,
    /// What every request to it carries.
    pub(super) header: HeaderMap,
}

impl Endpoint {
    /// The hosts to ask for `place`, in their order; the registry itself is the last, if it may be asked at all.
    pub(super) fn all(rules: &Rules, place: &Place, configured: Option<&Configured>) -> Result<Vec<Arc<Self>>, Cause> {
        let Some(configured) = configured else { return Ok(vec![Arc::new(Self::of_registry(rules, place)?)]) };
        let last = configured.hosts.len().saturating_sub(1);
        let made = configured.hosts.iter().enumerate();
        made.map(|(number, host)| Self::configured(rules, place, host, configured.named, number == last).map(Arc::new))
            .collect()
    }

    /// The registry itself, where nothing is configured.
    pub(super) fn of_registry(rules: &Rules, place: &Place) -> Result<Self, Cause> {
        let host = ConfiguredHost {
            server: None,
            pull: true,
            resolve: true,
            referrers: true,
            trust: Arc::default(),
            header: HeaderMap::new(),
        };
        Self::configured(rules, place, &host, false, true)
    }

    fn configured(
        rules: &Rules,
        place: &Place,
        entry: &ConfiguredHost,
        named: bool,
        is_registry: bool,
    ) -> Result<Self, Cause> {
        let server = match &entry.server {
            Some(server) => secured(server.clone(), &entry.trust)?,
            None => rules.server(&place.repository.host, entry.trust.is_some())?,
        };
        let host = match &entry.server {
            Some(server) => host_of(server)?,
            None => place.repository.host.clone(),
        };
        let repository = match is_registry {
            true => place.repository.clone(),
            false => Repository { host: host.clone(), path: place.repository.path.clone() },
        };
        let mut base = server;
        base.set_path(&format!("{}/{}/", base.path().trim_end_matches('/'), place.repository.path));
        Ok(Self {
            namespace: (host != place.repository.host).then(|| place.repository.host.to_string()),
            place: Place { repository, proven: place.proven },
            base,
            named: entry.server.is_some() || named,
            is_registry,
            pulls: entry.pull,
            resolves: entry.pull && entry.resolve,
            has_evidence: entry.pull && (entry.resolve || entry.referrers),
            trust_of_others: Arc::new(entry.trust.of_others()),
            trust: entry.trust.clone(),
            header: entry.header.clone(),
            host,
        })
    }

    /// The address of a part of the repository, such as `manifests` and a tag.
    pub(super) fn url(&self, parts: &[&str]) -> Result<Url, Cause> {
        let mut url = self.base.join(&parts.join("/")).map_err(|_| no_url())?;
        if let Some(namespace) = &self.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        Ok(url)
    }

    /// What a token for the repository is kept under.
    pub(super) fn key(&self) -> String {
        self.base.to_string()
    }
}

/// Who configures certificates for plain HTTP gets HTTPS, as from containerd; but no way back.
fn secured(mut server: Url, trust: &Trust) -> Result<Url, Cause> {
    if server.scheme() == "http" && trust.is_some() && server.port_or_known_default() != Some(80) {
        server.set_scheme("https").map_err(|()| no_url())?;
    }
    Ok(server)
}
