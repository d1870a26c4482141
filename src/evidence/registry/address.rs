//! Which addresses a registry's name may lead to.
//!
//! A name is only a claim: an archive chooses its own, a redirect and a token realm are chosen by
//! whoever runs the registry. None of them may make the node ask itself, its cloud's metadata
//! service or anything else that only the node can reach. Names are judged before the question,
//! addresses once more after DNS, where the connection is made, so that a name cannot change its
//! mind in between. Private networks (RFC 1918, RFC 4193) stay open to all: registries live there.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};

use tokio::sync::Semaphore;

use super::endpoint::Endpoint;
use crate::{
    evidence::{Cause, RegistryOptions},
    image::Host,
    limits,
};

/// How far a connection may reach, by the standing of the name that it is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Reach {
    /// A loopback name that may be asked: loopback addresses only, and never through a proxy.
    Node,
    /// A registry that the administrator named: every address.
    Anywhere,
    /// A registry that containerd itself fetched from: not link-local, not a metadata service.
    Network,
    /// A name that an archive, a redirect or a token realm claims: not this node either.
    Outside,
}

/// The rules for names, from the node's configuration.
#[derive(Debug)]
pub(super) struct Rules(RegistryOptions);

impl Rules {
    pub(super) fn new(options: RegistryOptions) -> Self {
        Self(options)
    }

    /// Where the API of a registry is unless something else is configured, `scheme://host/v2`.
    ///
    /// Plain HTTP is spoken to loopback names without a `secure` way to them, and to those that the configuration lists,
    /// HTTPS to all others. Docker Hub answers under another name than the one in its references.
    pub(super) fn server(&self, host: &Host, secure: bool) -> Result<Url, Cause> {
        let scheme = if self.is_plain(host) && !secure { "http" } else { "https" };
        let authority = if host.as_str() == "docker.io" { "registry-1.docker.io" } else { host.as_str() };
        Url::parse(&format!("{scheme}://{authority}/v2")).map_err(|_| no_url())
    }

    /// How far a question to `endpoint` itself may reach.
    pub(super) fn registry(&self, endpoint: &Endpoint, url: &Url) -> Result<Reach, Cause> {
        let standing = match (endpoint.named, endpoint.place.proven) {
            (true, _) => Reach::Anywhere,
            (false, true) => Reach::Network,
            (false, false) => Reach::Outside,
        };
        self.judge(&endpoint.host, standing, url)
    }

    /// How far a question to a host may reach that `endpoint` names: by a redirect, or as its token service.
    pub(super) fn named_by(&self, endpoint: &Endpoint, url: &Url) -> Result<Reach, Cause> {
        let host = host_of(url)?;
        if host == endpoint.host {
            return self.registry(endpoint, url);
        }
        // Two ports of one node: whoever may ask the one may ask the other.
        if host.is_loopback() && endpoint.host.is_loopback() && endpoint.place.proven {
            return Ok(Reach::Node);
        }
        self.judge(&host, Reach::Outside, url)
    }

    /// Whether plain HTTP may be spoken to `host`, with whatever it is about.
    pub(super) fn is_plain(&self, host: &Host) -> bool {
        host.is_loopback() || self.0.plain_http.contains(host)
    }

    /// Whether the configuration says that the credentials of `registry` go to the token service at `host`.
    pub(super) fn is_token_service(&self, registry: &Host, host: &Host) -> bool {
        /// Where two names are one service, by its own documentation.
        const KNOWN: [(&str, &str); 2] = [("docker.io", "auth.docker.io"), ("registry.gitlab.com", "gitlab.com")];
        KNOWN.contains(&(registry.as_str(), host.as_str()))
            || self.0.token_services.iter().any(|(one, service)| (one, service) == (registry, host))
    }

    fn judge(&self, host: &Host, standing: Reach, url: &Url) -> Result<Reach, Cause> {
        let standing = if self.0.configured.contains(host) { Reach::Anywhere } else { standing };
        let reach = match (host.is_loopback(), standing) {
            (true, Reach::Outside) => return Err(refused()),
            (true, _) => Reach::Node,
            (false, _) => standing,
        };
        // The URL's host, not the name's: `2130706433` is a host name until a URL makes it 127.0.0.1.
        let host = url.host_str().ok_or_else(refused)?;
        let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
        match literal {
            Some(address) if !reach.admits(address) => Err(refused()),
            _ => Ok(reach),
        }
    }
}

/// The registry host that `url` names; port 80 of plain HTTP counts as the default port.
pub(super) fn host_of(url: &Url) -> Result<Host, Cause> {
    let name = url.host_str().unwrap_or_default();
    let text = match url.port() {
        Some(port) => format!("{name}:{port}"),
        None => name.to_owned(),
    };
    text.parse().map_err(|_| Cause::NotAllowed("it leads to something that is not a host".to_owned()))
}

/// A name that cannot be asked.
pub(super) fn no_url() -> Cause {
    Cause::NotAllowed("its name makes no URL".to_owned())
}

fn refused() -> Cause {
    Cause::NotAllowed("it leads to an address of this node or of its link, and nobody configured that".to_owned())
}

impl Reach {
    /// Whether a connection of this reach may be made to `address`.
    pub(super) fn admits(self, address: IpAddr) -> bool {
        let address = embedded(address);
        match self {
            Self::Node => address.is_loopback(),
            Self::Anywhere => true,
            Self::Network => !is_special(address),
            Self::Outside => !is_special(address) && !address.is_loopback(),
        }
    }
}

/// The IPv4 address that an IPv6 address stands for: mapped, compatible (RFC 4291), or translated (RFC 6052).
fn embedded(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    match v6.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
            if v6 != Ipv6Addr::LOCALHOST && v6 != Ipv6Addr::UNSPECIFIED =>
        {
            IpAddr::V4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
        }
        _ => address,
    }
}

/// Addresses where no registry lives (RFC 6890), and the metadata services that clouds put elsewhere.
fn is_special(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            v4.is_link_local()
                || v4.is_multicast()
                || v4.octets()[0] == 0
                || v4.octets()[0] >= 240
                || matches!(v4.octets(), [100, 100, 100, 200] | [168, 63, 129, 16])
        }
        IpAddr::V6(v6) => {
            v6.is_unicast_link_local()
                || v6.is_multicast()
                || v6.is_unspecified()
                || v6.segments() == [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254]
        }
    }
}

/// A look-up in DNS that keeps only the addresses a reach admits, [`limits::PARALLEL_LOOKUPS`] at a time.
pub(super) struct Resolver {
    reach: Reach,
    turns: Arc<Semaphore>,
}

impl Resolver {
    pub(super) fn new(reach: Reach) -> Self {
        Self { reach, turns: Arc::new(Semaphore::new(limits::PARALLEL_LOOKUPS)) }
    }
}

/// Every address of a name was refused.
#[derive(Debug)]
pub(super) struct NoAddressAdmitted;

impl fmt::Display for NoAddressAdmitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no address that may be asked")
    }
}

impl std::error::Error for NoAddressAdmitted {}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (reach, turns) = (self.reach, self.turns.clone());
        Box::pin(async move {
            let turn = turns.acquire_owned().await?;
            // A task of its own: dropping this future must not give the turn back before the look-up has ended.
            let looking = tokio::spawn(async move {
                let _turn = turn;
                tokio::net::lookup_host((name.as_str(), 0)).await.map(Vec::from_iter)
            });
            let found: Vec<SocketAddr> = looking.await??;
            let any = !found.is_empty();
            let admitted: Vec<SocketAddr> = found.into_iter().filter(|address| reach.admits(address.ip())).collect();
            if any && admitted.is_empty() {
                return Err(NoAddressAdmitted.into());
            }
            Ok(Box::new(admitted.into_iter()) as Addrs)
        })
    }
}

impl NoAddressAdmitted {
    /// Whether `error` was caused by a refusal of this kind.
    pub(super) fn caused(error: &(dyn std::error::Error + 'static)) -> bool {
        std::iter::successors(Some(error), |error| error.source()).any(|error| error.is::<Self>())
    }

    /// The refusal in the words of a gap.
    pub(super) fn cause() -> Cause {
        refused()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::evidence::Place;

    #[tokio::test(start_paused = true)]
    async fn names_are_looked_up_a_few_at_a_time() {
        let resolver = Resolver::new(Reach::Node);
        let mut others = Vec::new();
        for _ in 0..limits::PARALLEL_LOOKUPS {
            let found: Vec<_> = resolver.resolve("localhost".parse().unwrap()).await.unwrap().collect();
            assert!(!found.is_empty());
            others.push(resolver.turns.clone().try_acquire_owned().unwrap());
        }
        let mut waiting = resolver.resolve("localhost".parse().unwrap());
        assert!(tokio::time::timeout(Duration::from_secs(3600), &mut waiting).await.is_err(), "all turns are taken");
        others.pop();
        assert!(waiting.await.is_ok());
    }

    fn rules(plain_http: &[&str], configured: &[&str]) -> Rules {
        let hosts = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect();
        let (plain_http, configured) = (hosts(plain_http), hosts(configured));
        Rules::new(RegistryOptions { plain_http, configured, ..RegistryOptions::default() })
    }

    fn endpoint(rules: &Rules, host: &str, proven: bool) -> Endpoint {
        let place = Place { repository: format!("{host}/library/app").parse().unwrap(), proven };
        Endpoint::of_registry(rules, &place).unwrap()
    }

    #[test]
    fn the_api_is_where_the_name_says() {
        let rules = rules(&["plain.example.com", "plain.example.com:5000"], &[]);
        for (host, expected) in [
            ("reg.example.com", "https://reg.example.com/v2/library/app/"),
            ("reg.example.com:8443", "https://reg.example.com:8443/v2/library/app/"),
            ("docker.io", "https://registry-1.docker.io/v2/library/app/"),
            ("127.0.0.1:5000", "http://127.0.0.1:5000/v2/library/app/"),
            ("[::1]:5000", "http://[::1]:5000/v2/library/app/"),
            ("localhost", "http://localhost/v2/library/app/"),
            ("plain.example.com", "http://plain.example.com/v2/library/app/"),
            ("plain.example.com:5000", "http://plain.example.com:5000/v2/library/app/"),
            ("plain.example.com:5001", "https://plain.example.com:5001/v2/library/app/"),
        ] {
            assert_eq!(endpoint(&rules, host, true).base.as_str(), expected);
        }
    }

    #[test]
    fn a_reach_admits_only_its_addresses() {
        let public = ["8.8.8.8", "10.1.2.3", "192.168.1.1", "172.16.0.1", "2001:db8::1", "fd12::1", "100.64.0.1"];
        let loopback = ["127.0.0.1", "127.255.0.1", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "::7f00:1"];
        let special = [
            "0.0.0.0",
            "0.1.2.3",
            "::",
            "169.254.169.254",
            "169.254.0.1",
            "fe80::1",
            "::ffff:169.254.169.254",
            "fd00:ec2::254",
            "100.100.100.200",
            "168.63.129.16",
            "224.0.0.1",
            "ff02::1",
            "240.0.0.1",
            "255.255.255.255",
            "64:ff9b::a9fe:a9fe",
        ];
        let addresses = public.map(|a| (a, "public")).into_iter().chain(loopback.map(|a| (a, "loopback")));
        for (address, kind) in addresses.chain(special.map(|a| (a, "special"))) {
            let parsed: IpAddr = address.parse().unwrap();
            assert_eq!(Reach::Node.admits(parsed), kind == "loopback", "{address}");
            assert_eq!(Reach::Network.admits(parsed), kind != "special", "{address}");
            assert_eq!(Reach::Outside.admits(parsed), kind == "public", "{address}");
            assert!(Reach::Anywhere.admits(parsed), "{address}");
        }
    }

    #[test]
    fn a_host_that_a_registry_names_is_held_to_the_rules_of_a_claim() {
        let rules = rules(&[], &["localhost:7000", "10.0.0.1:5000", "169.254.1.1"]);
        for (registry, target, expected) in [
            ("reg.example.com", "https://reg.example.com/x", Some(Reach::Network)),
            ("reg.example.com", "https://cdn.example.com/x", Some(Reach::Outside)),
            ("reg.example.com", "https://127.0.0.1:10250/pods", None),
            ("reg.example.com", "https://localhost/", None),
            ("reg.example.com", "https://2130706433/", None),
            ("reg.example.com", "https://169.254.169.254/", None),
            ("reg.example.com", "https://169.254.1.1/", Some(Reach::Anywhere)),
            ("reg.example.com", "http://localhost:7000/", Some(Reach::Node)),
            ("127.0.0.1:5000", "http://127.0.0.1:9000/", Some(Reach::Node)),
            ("127.0.0.1:5000", "https://cdn.example.com/", Some(Reach::Outside)),
            ("docker.io", "https://registry-1.docker.io/x", Some(Reach::Network)),
        ] {
            let url = Url::parse(target).unwrap();
            assert_eq!(
                rules.named_by(&endpoint(&rules, registry, true), &url).ok(),
                expected,
                "{registry} names {target}"
            );
        }
        let url = Url::parse("http://127.0.0.1:9000/").unwrap();
        let claimed = endpoint(&rules, "localhost:7000", false);
        assert!(rules.named_by(&claimed, &url).is_err(), "configured is that port alone");
    }

    #[tokio::test]
    async fn an_address_is_judged_after_dns_too() {
        let localhost = || "localhost".parse().unwrap();
        let refused = Resolver::new(Reach::Outside).resolve(localhost()).await.err().unwrap();
        assert!(NoAddressAdmitted::caused(&*refused));
        assert!(Resolver::new(Reach::Network).resolve(localhost()).await.unwrap().next().is_some());
    }
}
