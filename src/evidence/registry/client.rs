//! The HTTP clients, one for each reach and each set of certificates: connections are pooled, and one that was made for a registry
//! on this node must not serve a name that an archive invented.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use reqwest::{Client, redirect};

use super::{
    address::{Reach, Resolver},
    trust::Trust,
};
use crate::{evidence::Cause, image::Digest, limits};

/// The clients that were needed so far.
///
/// HTTPS honours the proxy that the environment names (`HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`), as
/// administrators expect of a daemon; the names of registries are then resolved by the proxy, and
/// whoever set it up answers for what it reaches. A proxy on the node is written as an address
/// (`127.0.0.1:3128`), since its name would be held to the same rules as a registry's. Plain HTTP
/// and loopback never go through a proxy.
#[derive(Debug)]
pub(super) struct Clients {
    connect: Duration,
    idle: Duration,
    kept: usize,
    made: Mutex<HashMap<Kind, Client>>,
}

/// How far a client reaches, whether with TLS, and by which certificates.
type Kind = (Reach, bool, Option<Digest>);

impl Clients {
    /// No clients yet. They take `connect` for a connection and keep `kept` of them for each host, each for
    /// `idle` after its last use.
    pub(super) fn new(connect: Duration, idle: Duration, kept: usize) -> Self {
        Self { connect, idle, kept, made: Mutex::default() }
    }

    /// The client for `reach`, with TLS where `secure`, held to `trust`. Only that one reads the system's certificate
    /// authorities, which takes 3 to 20 ms: away from the threads that serve requests, and only when needed.
    pub(super) async fn get(&self, reach: Reach, secure: bool, trust: &Arc<Trust>) -> Result<Client, Cause> {
        let key = (reach, secure, trust.id().filter(|_| secure));
        if let Some(client) = self.made.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(client.clone());
        }
        let (connect, idle, kept) = (self.connect, self.idle, self.kept);
        let client = if secure {
            let trust = trust.clone();
            tokio::task::spawn_blocking(move || build(reach, Some(&trust), connect, idle, kept))
                .await
                .map_err(|e| unusable(&e))?
        } else {
            build(reach, None, connect, idle, kept)
        };
        let client = client.map_err(|e| unusable(&e))?;
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if made.len() >= limits::TLS_CLIENTS {
            // Certificates that changed left their clients behind.
            made.retain(|(_, _, trust), _| trust.is_none());
        }
        // Two may have built one at the same time; the first stays, with its connections.
        Ok(made.entry(key).or_insert(client).clone())
    }
}

fn build(
    reach: Reach,
    secure: Option<&Trust>,
    connect: Duration,
    idle: Duration,
    kept: usize,
) -> reqwest::Result<Client> {
    let builder = Client::builder()
        .user_agent(concat!("pullgate/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .referer(false)
        .connect_timeout(connect)
        .pool_max_idle_per_host(kept)
        .pool_idle_timeout(idle)
        .tcp_nodelay(true)
        .dns_resolver(Resolver::new(reach));
    let builder = match secure {
        Some(trust) => trust.apply(builder.https_only(true))?,
        None => builder.tls_certs_only([]).http1_only(),
    };
    let builder = if secure.is_some() && reach != Reach::Node { builder } else { builder.no_proxy() };
    builder.build()
}

fn unusable(error: &dyn std::error::Error) -> Cause {
    Cause::Unreachable(format!("no HTTP client could be made: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn clients_of_certificates_that_changed_are_not_kept_without_end() {
        let clients = Clients::new(Duration::from_secs(1), Duration::from_secs(1), 1);
        for _ in 0..=limits::TLS_CLIENTS {
            let key = rcgen::KeyPair::generate().unwrap();
            let pem = rcgen::CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap().pem();
            let mut trust = Trust::default();
            trust.add_authorities(&pem).unwrap();
            clients.get(Reach::Anywhere, true, &Arc::new(trust.sealed())).await.unwrap();
        }
        clients.get(Reach::Anywhere, true, &Arc::default()).await.unwrap();
        let made = clients.made.lock().unwrap().len();
        assert!((2..=limits::TLS_CLIENTS).contains(&made), "{made}");
    }
}
