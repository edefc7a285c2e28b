//! The host that a request is for, and the hosts that are served.

use std::net::{IpAddr, Ipv6Addr};

use http::{HeaderMap, Uri, header};
use ipnet::IpNet;
use rustls::pki_types::{CertificateDer, ServerName};

use crate::net::Peer;

/// A refusal of a request's host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HostError {
    /// RFC 9112 section 3.2: exactly one Host field.
    #[error("a request needs exactly one Host")]
    NotOne,
    /// RFC 9112 section 3.2.2, RFC 9113 section 8.3.1: the target's authority and Host must agree.
    #[error("the request's target and its Host differ")]
    Differ,
    /// RFC 9110 section 15.5.20.
    #[error("this host is not served here")]
    Misdirected,
}

/// The hosts that are served: any, if none is configured.
#[derive(Clone, Debug, Default)]
pub(crate) struct KnownHosts {
    exact: Vec<String>,
    /// The part behind the `*` of a certificate's wildcard name: `.example.com`.
    suffixes: Vec<String>,
    addresses: Vec<IpAddr>,
    /// Certificates, which may name addresses too.
    certificates: Vec<CertificateDer<'static>>,
}

impl KnownHosts {
    /// Returns the hosts of `names`, which are host names without ports, IP addresses, or wildcards as certificates have them.
    pub(crate) fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut known = Self::default();
        for name in names {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            match (name.trim_matches(['[', ']']).parse(), name.strip_prefix('*')) {
                (Ok(address), _) => known.addresses.push(address),
                (Err(_), Some(suffix)) => known.suffixes.push(suffix.to_owned()),
                (Err(_), None) => known.exact.push(name),
            }
        }
        known
    }

    /// Returns these hosts and the addresses that `certificates` are for.
    #[must_use]
    pub(crate) fn with_certificates(mut self, certificates: Vec<CertificateDer<'static>>) -> Self {
        self.certificates = certificates;
        self
    }

    fn is_certified(&self, address: IpAddr) -> bool {
        let name = ServerName::IpAddress(address.into());
        self.certificates.iter().any(|certificate| {
            let leaf = webpki::EndEntityCert::try_from(certificate);
            leaf.is_ok_and(|leaf| leaf.verify_is_valid_for_subject_name(&name).is_ok())
        })
    }

    fn check(&self, host: &str) -> Result<(), HostError> {
        let nothing_known = self.exact.is_empty()
            && self.suffixes.is_empty()
            && self.addresses.is_empty()
            && self.certificates.is_empty();
        if nothing_known || self.contains(host) { Ok(()) } else { Err(HostError::Misdirected) }
    }

    fn contains(&self, host: &str) -> bool {
        let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
        let is_local = address.map_or(host == "localhost", |address| address.is_loopback());
        is_local || self.names(host)
    }

    /// Returns true if the configuration or a certificate names a host, which has no port and no brackets.
    pub(crate) fn names(&self, host: &str) -> bool {
        if let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
            return self.addresses.contains(&address) || self.is_certified(address);
        }
        let wild = |suffix: &String| {
            // RFC 6125 section 6.4.3: a wildcard stands for one label.
            host.strip_suffix(suffix.as_str()).is_some_and(|label| !label.is_empty() && !label.contains('.'))
        };
        self.exact.iter().any(|known| known == host) || self.suffixes.iter().any(wild)
    }

    /// Returns the host that a request is for, without its port and in lower case, once it is clear that there is just one and
    /// that it is served. From a trusted proxy X-Forwarded-Host counts instead.
    pub(super) fn host_of(
        &self,
        proxies: &TrustedProxies,
        peer: Peer,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<String, HostError> {
        let mut fields = headers.get_all(header::HOST).iter();
        let field = fields.next().and_then(|value| value.to_str().ok());
        if fields.next().is_some() {
            return Err(HostError::NotOne);
        }
        let authority = match (uri.authority(), field) {
            (Some(target), Some(field)) if !target.as_str().eq_ignore_ascii_case(field) => {
                return Err(HostError::Differ);
            }
            (Some(target), _) => target.as_str(),
            (None, Some(field)) => field,
            (None, None) => return Err(HostError::NotOne),
        };
        let forwarded = || headers.get("x-forwarded-host").and_then(|value| value.to_str().ok());
        let trusted = !proxies.0.is_empty() && proxies.contains(peer.address);
        let authority = if trusted { forwarded().unwrap_or(authority) } else { authority };
        let host = without_port(authority).trim_end_matches('.').to_ascii_lowercase();
        self.check(&host)?;
        Ok(host)
    }
}

/// The proxies that may speak for a client.
#[derive(Clone, Debug, Default)]
pub(crate) struct TrustedProxies(pub Vec<IpNet>);

impl TrustedProxies {
    fn contains(&self, address: IpAddr) -> bool {
        let address = canonical(address);
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Returns the client's address: X-Forwarded-For, read from the right to the first hop that is not trusted. From a peer
    /// that is no trusted proxy the header says nothing.
    pub(super) fn client(&self, peer: Peer, headers: &HeaderMap) -> IpAddr {
        let mut client = canonical(peer.address);
        if self.0.is_empty() {
            return client;
        }
        let fields: Vec<_> = headers.get_all("x-forwarded-for").iter().collect();
        let hops =
            fields.iter().rev().filter_map(|field| field.to_str().ok()).flat_map(|field| field.rsplit(','));
        for hop in hops {
            if !self.contains(client) {
                break;
            }
            let Some(address) = hop_address(hop.trim()) else { break };
            client = canonical(address);
        }
        client
    }
}

/// Parses an address with or without a port, as proxies write it.
fn hop_address(text: &str) -> Option<IpAddr> {
    let bare = text.trim_matches(['[', ']']);
    bare.parse().ok().or_else(|| text.parse::<std::net::SocketAddr>().ok().map(|address| address.ip()))
}

/// Returns the IPv4 address of one that came through a dual-stack socket, and any other as it is.
fn canonical(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(address) => Ipv6Addr::to_canonical(&address),
        IpAddr::V4(_) => address,
    }
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !host.ends_with(':') => {
            // "::1" without brackets is no authority, and "[::1]" ends with its bracket.
            if host.contains(':') && !host.ends_with(']') { authority } else { host }
        }
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str) -> Peer {
        Peer { address: address.parse().unwrap(), tls: true }
    }

    fn asked(known: &[&str], host: &str) -> Result<String, HostError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        let (known, proxies) = (KnownHosts::new(known.iter().copied()), TrustedProxies::default());
        known.host_of(&proxies, peer("192.0.2.1"), &Uri::from_static("/v2/"), &headers)
    }

    #[test]
    fn hosts_of_certificates_are_served_and_no_others() {
        let known = ["registry.example.com", "*.mirror.example", "192.0.2.7", "2001:db8::7"];
        for host in
            ["registry.example.com", "REGISTRY.example.com.:5000", "a.mirror.example", "192.0.2.7:443"]
        {
            assert!(asked(&known, host).is_ok(), "{host}");
        }
        for host in ["localhost:5000", "127.0.0.1:5000", "[::1]:5000", "[2001:db8::7]"] {
            assert!(asked(&known, host).is_ok(), "{host}");
        }
        for host in ["example.com", "a.b.mirror.example", ".mirror.example", "192.0.2.8", "evil"] {
            assert!(matches!(asked(&known, host), Err(HostError::Misdirected)), "{host}");
        }
    }

    #[test]
    fn with_no_host_known_any_is_served() {
        assert_eq!(asked(&[], "Whatever:80").unwrap(), "whatever");
    }

    #[test]
    fn a_request_without_just_one_host_is_refused() {
        let check = |uri: &'static str, hosts: &[&str]| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(header::HOST, host.parse().unwrap());
            }
            let (known, proxies) = (KnownHosts::default(), TrustedProxies::default());
            known.host_of(&proxies, peer("192.0.2.1"), &Uri::from_static(uri), &headers)
        };
        assert!(matches!(check("/v2/", &[]), Err(HostError::NotOne)));
        assert!(matches!(check("/v2/", &["a", "a"]), Err(HostError::NotOne)));
        assert!(matches!(check("http://b/v2/", &["a"]), Err(HostError::Differ)));
        assert_eq!(check("http://A:5000/v2/", &["a:5000"]).unwrap(), "a");
    }

    #[test]
    fn the_client_is_the_first_untrusted_hop_from_the_right() {
        let proxies = TrustedProxies(vec!["10.0.0.0/8".parse().unwrap()]);
        let client = |peer_address: &str, forwarded: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in forwarded {
                headers.append("x-forwarded-for", value.parse().unwrap());
            }
            proxies.client(peer(peer_address), &headers).to_string()
        };
        assert_eq!(
            client("192.0.2.1", &["203.0.113.9"]),
            "192.0.2.1",
            "an untrusted peer is the client itself"
        );
        assert_eq!(client("10.0.0.1", &["203.0.113.9"]), "203.0.113.9");
        assert_eq!(client("10.0.0.1", &["6.6.6.6, 203.0.113.9, 10.0.0.2"]), "203.0.113.9");
        assert_eq!(client("10.0.0.1", &["6.6.6.6", "203.0.113.9:1234"]), "203.0.113.9");
        assert_eq!(client("::ffff:10.0.0.1", &["[2001:db8::1]:80"]), "2001:db8::1");
        assert_eq!(client("10.0.0.1", &["203.0.113.9, garbage"]), "10.0.0.1");
    }
}
