//! The host that a request is for, and the hosts that are served.

use std::net::IpAddr;

use http::request::Parts;
use http::{HeaderMap, Version, header};
use ipnet::IpNet;

use crate::config::is_wide;
use crate::gateway::forwarding::Forwarding;
use crate::net::{AddressSource, Peer};
use crate::proto::authority::scheme_port;

/// A refusal of a request's host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HostError {
    /// RFC 9112 section 3.2: exactly one Host field.
    #[error("a request needs exactly one Host")]
    NotOne,
    /// RFC 9113 section 8.3.1: in HTTP/2 `:authority` and Host must agree.
    #[error("the request's authority and its Host differ")]
    Differ,
    /// Neither a name nor an address, with or without a port (RFC 9110 section 7.2).
    #[error("the request's Host is malformed")]
    Malformed,
    /// RFC 9110 section 15.5.20. Holds the host as it was written.
    #[error("this host is not served here")]
    Misdirected(String),
}

/// The hosts that are served: any, if none is configured.
#[derive(Clone, Debug, Default)]
pub(crate) struct KnownHosts {
    /// Names, each at any port or at one alone.
    exact: Vec<(String, Option<u16>)>,
    /// The part behind the `*` of a certificate's wildcard name: `.example.com`.
    suffixes: Vec<String>,
    addresses: Vec<IpAddr>,
}

impl KnownHosts {
    /// Returns the hosts of `names`, which are host names or IP addresses with or without a port, or wildcards as certificates
    /// have them.
    pub(crate) fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut known = Self::default();
        for name in names {
            if let Ok(address) = name.parse::<IpAddr>() {
                known.addresses.push(address.to_canonical());
            } else if let Some(suffix) = name.strip_prefix('*') {
                known.suffixes.push(suffix.trim_end_matches('.').to_ascii_lowercase());
            } else {
                known.exact.extend(parse_host(name));
            }
        }
        known
    }

    fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.suffixes.is_empty() && self.addresses.is_empty()
    }

    fn contains(&self, host: &RequestHost) -> bool {
        let is_local =
            host.name.parse::<IpAddr>().map_or(host.name == "localhost", |address| address.is_loopback());
        is_local || self.names_at(&host.name, Some(host.port))
    }

    /// Returns true if the configuration or a certificate names a host, which has no port and no brackets, at whatever port.
    pub(crate) fn names(&self, host: &str) -> bool {
        self.names_at(host, None)
    }

    fn names_at(&self, host: &str, port: Option<u16>) -> bool {
        let named = |(name, own): &(String, Option<u16>)| {
            *name == host && (own.is_none() || port.is_none() || *own == port)
        };
        if self.exact.iter().any(named) {
            return true;
        }
        if let Ok(address) = host.parse::<IpAddr>() {
            return self.addresses.contains(&address.to_canonical());
        }
        self.suffixes.iter().any(|suffix| {
            // RFC 6125 section 6.4.3: a wildcard stands for one label.
            let label = host.strip_suffix(suffix.as_str());
            label.is_some_and(|label| !label.is_empty() && !label.contains('.'))
        })
    }

    /// Returns the host that a request is for, once it is clear that there is just one and that it is served. From a trusted
    /// proxy its `X-Forwarded-*` or `Forwarded` fields count instead.
    ///
    /// HTTP/1.0 has no Host (RFC 9112 section 3.2 asks it of HTTP/1.1 alone), and health checks of balancers use it: such a
    /// request is for this host, whatever its name.
    pub(super) fn host_of(
        &self,
        proxies: &TrustedProxies,
        peer: Peer,
        parts: &Parts,
    ) -> Result<RequestHost, HostError> {
        let said =
            if proxies.may_forward(peer) { Forwarding::read(&parts.headers) } else { Forwarding::default() };
        let https = said.https.unwrap_or(peer.tls);
        let scheme_port = scheme_port(https);
        let named = named(parts, scheme_port)?;
        let Some(text) = said.host.as_deref().or(named) else {
            return Ok(RequestHost { name: String::new(), port: scheme_port, https });
        };
        let (name, port) = parse_host(text).ok_or(HostError::Malformed)?;
        let host = RequestHost { name, port: port.or(said.port).unwrap_or(scheme_port), https };
        if self.is_empty() || self.contains(&host) {
            return Ok(host);
        }
        Err(HostError::Misdirected(text.to_owned()))
    }
}

/// Returns the authority that a request names; `None` for one of HTTP/1.0 that names none.
fn named(parts: &Parts, scheme_port: u16) -> Result<Option<&str>, HostError> {
    let mut fields = parts.headers.get_all(header::HOST).iter();
    let field = fields.next().map(|value| value.to_str().map_err(|_| HostError::Malformed)).transpose()?;
    if fields.next().is_some() {
        return Err(HostError::NotOne);
    }
    let needs_field = parts.version == Version::HTTP_11;
    match (parts.uri.authority().map(http::uri::Authority::as_str), field) {
        (_, None) if needs_field => Err(HostError::NotOne),
        // RFC 9112 section 3.2.2: the field is ignored.
        (Some(target), Some(field)) if parts.version == Version::HTTP_2 => {
            let whole = |text| parse_host(text).map(|(name, port)| (name, port.unwrap_or(scheme_port)));
            if whole(target) == whole(field) { Ok(Some(target)) } else { Err(HostError::Differ) }
        }
        (Some(target), _) => Ok(Some(target)),
        (None, None | Some("")) if parts.version < Version::HTTP_11 => Ok(None),
        (None, Some(field)) => Ok(Some(field)),
        (None, None) => Err(HostError::NotOne),
    }
}

/// Parses `host` or `host:port` (RFC 3986 section 3.2): the name in lower case without the dot of the DNS root, or an
/// address in its canonical text without brackets. Names that can't be looked up are read too, so that they can be compared;
/// user information is refused.
fn parse_host(text: &str) -> Option<(String, Option<u16>)> {
    let end = match text.strip_prefix('[') {
        Some(rest) => rest.find(']').map(|end| end + 2)?,
        None => text.find(':').unwrap_or(text.len()),
    };
    let (host, port) = text.split_at(end);
    let port = match port {
        "" | ":" => None,
        port => {
            let digits = port.strip_prefix(':').filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
            Some(digits?.parse().ok()?)
        }
    };
    if let Some(address) = host.strip_prefix('[') {
        let address: IpAddr = address.strip_suffix(']')?.parse().ok()?;
        return Some((address.to_canonical().to_string(), port));
    }
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(&byte);
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    (!name.is_empty() && name.bytes().all(legal)).then_some((name, port))
}

/// The host that a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RequestHost {
    /// A name in lower case, or an address without brackets; empty in HTTP/1.0 without Host.
    pub(super) name: String,
    /// The port that is written, else the scheme's own.
    pub(super) port: u16,
    /// True if the client speaks TLS.
    pub(super) https: bool,
}

impl RequestHost {
    /// Returns the origin as the client knows it, `https://HOST:PORT` without the scheme's own port; none without a name.
    pub(super) fn origin(&self) -> Option<String> {
        let scheme = if self.https { "https" } else { "http" };
        let name = if self.name.contains(':') { format!("[{}]", self.name) } else { self.name.clone() };
        let port =
            if self.port == scheme_port(self.https) { String::new() } else { format!(":{}", self.port) };
        (!self.name.is_empty()).then(|| format!("{scheme}://{name}{port}"))
    }
}

/// The proxies that may speak for a client.
#[derive(Clone, Debug, Default)]
pub(crate) struct TrustedProxies {
    networks: Vec<IpNet>,
    /// Clients come by the PROXY protocol.
    proxy_protocol: bool,
}

impl TrustedProxies {
    /// Returns the proxies of these networks. `proxy_protocol` says that they begin each connection with a PROXY header.
    pub(crate) fn new(networks: Vec<IpNet>, proxy_protocol: bool) -> Self {
        Self { networks, proxy_protocol }
    }

    /// Returns true if the fields by which `peer` describes a request count.
    ///
    /// A proxy that sends the PROXY protocol passes bytes on and writes no fields: those are of the client that it names, or
    /// of one that it does not know. They count only if that client is a further proxy, reached through the first.
    pub(super) fn may_forward(&self, peer: Peer) -> bool {
        match peer.source {
            AddressSource::Socket => !self.proxy_protocol && self.contains(peer.address),
            AddressSource::ProxyHeader => self.contains(peer.address),
            AddressSource::SilentProxy => false,
        }
    }

    /// Returns true for the address of a proxy. Behind the PROXY protocol a wide network names no proxies: it may cover the
    /// clients too, who would choose their own address.
    fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let mut networks = self.networks.iter().filter(|network| !(self.proxy_protocol && is_wide(network)));
        networks.any(|network| network.contains(&address))
    }

    /// Returns the client's address: the hops that the proxies name, read from the right to the first that is not trusted.
    /// From a peer that is no trusted proxy the fields say nothing.
    pub(super) fn client(&self, peer: Peer, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.address.to_canonical();
        if !self.may_forward(peer) {
            return client;
        }
        for hop in Forwarding::read(headers).hops.into_iter().rev() {
            let Some(address) = hop.filter(|_| self.contains(client)) else { break };
            client = address;
        }
        client
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn peer(address: &str) -> Peer {
        Peer { address: address.parse().unwrap(), source: AddressSource::Socket, tls: true }
    }

    fn request(version: Version, uri: &str, hosts: &[&str]) -> Parts {
        let mut request = Request::get(uri).version(version);
        for host in hosts {
            request = request.header(header::HOST, *host);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn asked(known: &[&str], host: &str) -> Result<String, HostError> {
        let (known, proxies) = (KnownHosts::new(known.iter().copied()), TrustedProxies::default());
        let host = known.host_of(&proxies, peer("192.0.2.1"), &request(Version::HTTP_11, "/v2/", &[host]));
        host.map(|host| format!("{} {}", host.name, host.port))
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
        for host in
            ["example.com", "a.b.mirror.example", ".mirror.example", "192.0.2.8", "evil", "a.localhost"]
        {
            assert!(matches!(asked(&known, host), Err(HostError::Misdirected(_))), "{host}");
        }
    }

    #[test]
    fn with_no_host_known_any_is_served() {
        assert_eq!(asked(&[], "Whatever:80").unwrap(), "whatever 80");
        assert_eq!(asked(&[], "a_b.example.").unwrap(), "a_b.example 443");
        assert_eq!(asked(&[], "[::FFFF:192.0.2.1]:").unwrap(), "192.0.2.1 443");
    }

    #[test]
    fn a_known_host_with_a_port_is_served_there_alone() {
        let known = ["own.example:5000", "[2001:db8::1]:5000"];
        for host in ["own.example:5000", "OWN.example.:5000", "[2001:db8:0::1]:5000"] {
            assert!(asked(&known, host).is_ok(), "{host}");
        }
        for host in ["own.example", "own.example:5001", "[2001:db8::1]"] {
            assert_eq!(asked(&known, host), Err(HostError::Misdirected(host.to_owned())));
        }
        assert!(asked(&["own.example:443"], "own.example").is_ok(), "the scheme's own port");
    }

    #[test]
    fn addresses_mapped_into_ipv6_are_those_of_ipv4() {
        let known = ["192.0.2.7"];
        for host in ["[::ffff:192.0.2.7]:5000", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]:80"] {
            assert!(asked(&known, host).is_ok(), "{host}");
        }
    }

    #[test]
    fn a_malformed_host_is_refused() {
        for host in [
            "", ":5000", "user@a", "a b", "a/b", "a:5x", "a:70000", "::1", "[::1", "[a]:5", "[::1]5", "a\"",
            ".",
        ] {
            assert_eq!(asked(&[], host), Err(HostError::Malformed), "{host}");
        }
    }

    #[test]
    fn the_authority_of_an_http_1_target_goes_before_host() {
        let known = KnownHosts::new(["a.example:5000", "b.example"]);
        let check = |version, uri: &str, hosts: &[&str]| {
            let request = request(version, uri, hosts);
            known.host_of(&TrustedProxies::default(), peer("192.0.2.1"), &request).map(|host| host.name)
        };
        let absolute = "http://A.example:5000/v2/";
        assert_eq!(check(Version::HTTP_11, absolute, &["evil"]).unwrap(), "a.example");
        assert_eq!(check(Version::HTTP_10, absolute, &[]).unwrap(), "a.example");
        assert_eq!(check(Version::HTTP_11, absolute, &[]), Err(HostError::NotOne));
        assert_eq!(check(Version::HTTP_11, absolute, &["a", "a"]), Err(HostError::NotOne));
        assert_eq!(check(Version::HTTP_11, "/v2/", &[]), Err(HostError::NotOne));
        assert!(matches!(
            check(Version::HTTP_11, "http://evil/v2/", &["b.example"]),
            Err(HostError::Misdirected(_))
        ));
        assert_eq!(
            check(Version::HTTP_11, "http://u@b.example/v2/", &["b.example"]),
            Err(HostError::Malformed)
        );
        assert_eq!(check(Version::HTTP_2, absolute, &["b.example"]), Err(HostError::Differ));
        assert_eq!(check(Version::HTTP_2, "https://b.example/", &["B.example.:443"]).unwrap(), "b.example");
    }

    #[test]
    fn what_a_trusted_proxy_says_of_host_and_port_counts() {
        let known = KnownHosts::new(["a.example:8443"]);
        let check = |address: &str, fields: &[(&'static str, &str)]| {
            let mut request = request(Version::HTTP_11, "/v2/", &["backend"]);
            for (name, value) in fields {
                request.headers.append(*name, value.parse().unwrap());
            }
            let proxies = TrustedProxies::new(vec!["10.0.0.0/8".parse().unwrap()], false);
            known.host_of(&proxies, peer(address), &request).is_ok()
        };
        let said = [("x-forwarded-host", "a.example, b"), ("x-forwarded-port", "8443")];
        assert!(check("10.0.0.1", &said) && check("::ffff:10.0.0.1", &said) && !check("192.0.2.1", &said));
        assert!(check("10.0.0.1", &[("x-forwarded-host", "a.example:8443")]));
        assert!(check("10.0.0.1", &[("forwarded", "host=\"a.example:8443\"")]));
        assert!(!check("10.0.0.1", &[("x-forwarded-host", "a.example"), ("x-forwarded-proto", "https")]));
    }

    #[test]
    fn an_origin_is_what_the_client_typed() {
        let origin = |name: &str, port, https| RequestHost { name: name.to_owned(), port, https }.origin();
        assert_eq!(origin("a.example", 443, true).as_deref(), Some("https://a.example"));
        assert_eq!(origin("a.example", 443, false).as_deref(), Some("http://a.example:443"));
        assert_eq!(origin("::1", 5000, false).as_deref(), Some("http://[::1]:5000"));
        assert_eq!(origin("", 80, false), None);
    }

    #[test]
    fn http_1_0_needs_no_host() {
        let known = KnownHosts::new(["registry.example.com"]);
        let check = |hosts: &[&str]| {
            let request = request(Version::HTTP_10, "/v2/", hosts);
            known.host_of(&TrustedProxies::default(), peer("192.0.2.1"), &request)
        };
        let unnamed = Ok(RequestHost { name: String::new(), port: 443, https: true });
        assert_eq!((check(&[]), check(&[""])), (unnamed.clone(), unnamed));
        assert_eq!(check(&["evil"]), Err(HostError::Misdirected("evil".to_owned())));
        assert_eq!(check(&["a", "a"]), Err(HostError::NotOne));
    }

    #[test]
    fn fields_behind_the_proxy_protocol_count_from_proxies_alone() {
        let networks = ["10.0.0.0/8", "192.0.2.0/24", "2001:db8::/64", "2001:db8::/32"];
        let networks: Vec<_> = networks.iter().map(|network| network.parse().unwrap()).collect();
        let mut headers = HeaderMap::new();
        headers.append("x-forwarded-for", "6.6.6.6, 203.0.113.9, 10.9.9.9".parse().unwrap());
        let client = |proxy_protocol, source, address: &str, headers: &HeaderMap| {
            let peer = Peer { source, ..peer(address) };
            let proxies = TrustedProxies::new(networks.clone(), proxy_protocol);
            proxies.client(peer, headers).to_string()
        };
        use AddressSource::{ProxyHeader, SilentProxy, Socket};
        // Clients of the wide networks, which may send what they like, and proxies that name no client.
        for (source, address) in [
            (ProxyHeader, "10.1.2.3"),
            (ProxyHeader, "2001:db8:1::1"),
            (ProxyHeader, "203.0.113.1"),
            (SilentProxy, "10.0.0.1"),
            (SilentProxy, "192.0.2.7"),
            (Socket, "192.0.2.7"),
            (Socket, "10.0.0.1"),
        ] {
            assert_eq!(client(true, source, address, &headers), address, "{source:?}");
        }
        // Further proxies, up to the first hop that is none.
        for address in ["192.0.2.7", "2001:db8::7", "::ffff:192.0.2.7"] {
            assert_eq!(client(true, ProxyHeader, address, &headers), "10.9.9.9");
            headers.append("x-forwarded-for", "192.0.2.8".parse().unwrap());
            assert_eq!(client(true, ProxyHeader, address, &headers), "10.9.9.9");
        }
        assert_eq!(client(false, Socket, "10.0.0.1", &headers), "203.0.113.9");
    }

    #[test]
    fn the_client_is_the_first_untrusted_hop_from_the_right() {
        let proxies = TrustedProxies::new(vec!["10.0.0.0/8".parse().unwrap()], false);
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
