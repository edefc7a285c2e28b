//! `[server]`: where the gateway listens, and how patient it is.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::config::address::{Address, UnixSocket};
use crate::config::cors;
use crate::config::cors::Cors;
use crate::config::duration;
use crate::config::host::Url;
use crate::config::limits;
use crate::config::reader::{Item, Reader};
use crate::config::schema::{Key, Kind, key};
use crate::config::size;
use crate::config::tls;
use crate::config::tls::Tls;
use crate::config::value_error::ValueError;
use crate::proto::Secret;

/// The registry's own listeners.
#[derive(Debug, Clone)]
pub struct Server {
    /// The addresses to listen on; at least one.
    pub addresses: Vec<Address>,
    /// The origin that clients know the gateway by; None: the request's Host.
    pub external_url: Option<ExternalUrl>,
    /// Seals upload URLs and page cursors; None: made at start.
    pub secret: Option<Secret>,
    /// The proxies whose `X-Forwarded-*` fields count.
    pub trusted_proxies: Vec<IpNet>,
    /// True if a trusted proxy must send a PROXY header.
    pub proxy_protocol: bool,
    /// Connections at once.
    pub max_connections: usize,
    /// Those of one client at once.
    pub max_connections_per_client: usize,
    /// The bytes of bodies that are held whole, all together.
    pub max_held_bytes: u64,
    /// The time for a request's header.
    pub header_timeout: Duration,
    /// The time that a kept-alive connection may idle.
    pub idle_timeout: Duration,
    /// The time that a transfer may move no byte.
    pub stall_timeout: Duration,
    /// The time for transfers to finish after SIGTERM; zero waits for none.
    pub drain_timeout: Duration,
    /// True if plain HTTP off loopback is wanted.
    pub plaintext: bool,
    /// None: plain HTTP.
    pub tls: Option<Tls>,
    /// The web pages that may use the registry; None: none.
    pub cors: Option<Cors>,
}

/// The origin of the gateway as clients see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalUrl {
    /// The scheme.
    pub https: bool,
    /// `host`, or `host:port` where the port is not the scheme's own; in lower case.
    pub authority: String,
}

impl ExternalUrl {
    /// Returns the origin, without a slash behind: `https://registry.example.com`.
    pub fn origin(&self) -> String {
        self.to_string()
    }

    pub(super) fn parse(written: &str) -> Result<Self, ValueError> {
        let url = Url::parse(written)?;
        if !url.path.is_empty() {
            return Err(ValueError::value(
                "has a path; a registry is at the root of its host: write it without",
            ));
        }
        Ok(Self { https: url.https, authority: url.authority() })
    }
}

impl fmt::Display for ExternalUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.https { "https" } else { "http" }, self.authority)
    }
}

pub(super) const KEYS: &[Key] = &[
    key("address", Kind::OneOrMore),
    key("external_url", Kind::Text),
    key("secret", Kind::Text),
    key("trusted_proxies", Kind::Texts),
    key("proxy_protocol", Kind::Flag),
    key("max_connections", Kind::Number),
    key("max_connections_per_client", Kind::Number),
    key("max_held_bytes", Kind::Text),
    key("header_timeout", Kind::Text),
    key("idle_timeout", Kind::Text),
    key("stall_timeout", Kind::Text),
    key("drain_timeout", Kind::Text),
    key("plaintext", Kind::Flag),
    key("tls", Kind::Table(tls::KEYS)),
    key("cors", Kind::Table(cors::KEYS)),
];

pub(super) fn read(server: &Reader<'_>) -> Server {
    let most = (1, limits::CONNECTIONS_MOST);
    let connections = server.number("max_connections", most, limits::CONNECTIONS as i64);
    let connections = usize::try_from(connections).unwrap_or(limits::CONNECTIONS);
    Server {
        addresses: addresses(server),
        external_url: server.text("external_url").and_then(|item| item.parsed(ExternalUrl::parse)),
        secret: secret(server),
        trusted_proxies: trusted_proxies(server),
        proxy_protocol: proxy_protocol(server),
        max_connections: connections,
        max_connections_per_client: per_client(server, connections),
        max_held_bytes: server.parsed("max_held_bytes", held_bytes).unwrap_or(limits::HELD_BYTES),
        header_timeout: server.duration("header_timeout", limits::HEADER_TIMEOUT),
        idle_timeout: server.duration("idle_timeout", limits::IDLE_TIMEOUT),
        stall_timeout: server.duration("stall_timeout", limits::STALL_TIMEOUT),
        drain_timeout: server.parsed("drain_timeout", duration::parse).unwrap_or(limits::DRAIN_TIMEOUT),
        plaintext: server.flag("plaintext", false),
        tls: server.optional("tls").and_then(|tls| tls::read(&tls)),
        cors: server.optional("cors").and_then(|cors| cors::read(&cors)),
    }
}

fn held_bytes(written: &str) -> Result<u64, ValueError> {
    let bytes = size::parse(written)?;
    if bytes < limits::HELD_BYTES_LEAST {
        let least = size::render(limits::HELD_BYTES_LEAST);
        return Err(ValueError::Value(format!("is too little for the longest lists; write {least} or more")));
    }
    Ok(bytes)
}

/// Reads how many connections one client may have; 0 is a part of all.
fn per_client(server: &Reader<'_>, all: usize) -> usize {
    let written = server.number("max_connections_per_client", (0, limits::CONNECTIONS_MOST), 0);
    match usize::try_from(written) {
        Ok(own @ 1..) => own.min(all),
        _ => all.div_ceil(limits::CONNECTIONS_SHARE).max(limits::CONNECTIONS_SHARE_LEAST).min(all),
    }
}

fn addresses(server: &Reader<'_>) -> Vec<Address> {
    if !server.has("address") {
        return Address::parse(DEFAULT_ADDRESS).into_iter().collect();
    }
    let items = server.texts("address");
    if items.is_empty() && server.is_list("address") {
        server
            .wrong("address", format!("there is nowhere to listen; write for example \"{DEFAULT_ADDRESS}\""));
    }
    let mut addresses = Vec::new();
    for item in &items {
        let Some(address) = item.parsed(Address::parse) else { continue };
        add(&mut addresses, address, item);
    }
    refuse_plaintext(server, &items);
    addresses
}

fn add(addresses: &mut Vec<Address>, address: Address, item: &Item<'_>) {
    let address = match address {
        Address::Unix(socket) => Address::Unix(UnixSocket { path: item.absolute(&socket.path), ..socket }),
        address => address,
    };
    match addresses.iter().find(|other| address.collides(other)) {
        Some(other) => item.wrong(ValueError::Value(format!("is {other} again; remove one of them"))),
        None => addresses.push(address),
    }
}

/// Passwords do not go over a network unencrypted unless the operator says that something else encrypts.
fn refuse_plaintext(server: &Reader<'_>, items: &[Item<'_>]) {
    if server.has("tls") || server.flag("plaintext", false) {
        return;
    }
    let open = |item: &&Item<'_>| Address::parse(item.value()).is_ok_and(|address| !address.is_local());
    if let Some(item) = items.iter().find(open) {
        let [certificate, key] =
            ["certificate", "key"].map(|key| server.context.variable(&format!("server.tls.{key}")));
        let advice = server.context.advice(
            "[server.tls] with `certificate` and `key`, or `plaintext = true` to [server]",
            &format!("{certificate} and {key}, or DOCKGATE_SERVER__PLAINTEXT=true"),
        );
        let why = format!("without TLS would send passwords over the network in the clear; {advice}");
        item.wrong(ValueError::Value(why));
    }
}

fn secret(server: &Reader<'_>) -> Option<Secret> {
    server.text("secret")?.parsed(unguessable)
}

/// Clients hold what is sealed with the secret, and can guess at it without asking the gateway.
fn unguessable(text: &str) -> Result<Secret, ValueError> {
    let advice = "make one with `dockgate secret`";
    if text.len() < SECRET_LENGTH {
        return Err(ValueError::Hidden(format!("is shorter than {SECRET_LENGTH} characters; {advice}")));
    }
    if entropy(unit(text.as_bytes())) < SECRET_ENTROPY {
        return Err(ValueError::Hidden(format!("repeats itself, and may be guessed; {advice}")));
    }
    Ok(Secret::new(text))
}

/// Returns the shortest beginning of which `text` is a repetition, the last time perhaps in part.
fn unit(text: &[u8]) -> &[u8] {
    let repeats = |period: &usize| text.iter().zip(&text[*period..]).all(|(one, next)| one == next);
    let period = (1..text.len()).find(repeats).unwrap_or(text.len());
    &text[..period]
}

/// Returns the entropy of `text` in bits, by how often each byte stands in it.
fn entropy(text: &[u8]) -> f64 {
    let mut counts = [0u32; 256];
    text.iter().for_each(|&byte| counts[usize::from(byte)] += 1);
    let bits = |&count: &u32| -f64::from(count) * (f64::from(count) / text.len() as f64).log2();
    counts.iter().filter(|&&count| count > 0).map(bits).sum()
}

/// Reads the proxies, and warns of networks that hold more than proxies.
fn trusted_proxies(server: &Reader<'_>) -> Vec<IpNet> {
    let mut networks = Vec::new();
    for item in server.texts("trusted_proxies") {
        let Some(network) = item.parsed(network) else { continue };
        networks.push(network);
        if is_wide(&network) {
            let widest = if network.addr().is_ipv4() { WIDEST_IPV4 } else { WIDEST_IPV6 };
            let text = "a client in it can claim any address, which no limit of logins then counts; write the addresses of \
                        the proxies alone";
            server.context.warn(format!(
                "{}: trusted_proxies: {network} is wider than /{widest}: {text}",
                item.place()
            ));
        }
    }
    networks
}

/// Returns true for a network that is hardly one of proxies alone.
pub(crate) fn is_wide(network: &IpNet) -> bool {
    let widest = if network.addr().is_ipv4() { WIDEST_IPV4 } else { WIDEST_IPV6 };
    network.prefix_len() < widest
}

/// The prefix of the widest network that `trusted_proxies` should name.
const WIDEST_IPV4: u8 = 24;

/// As [`WIDEST_IPV4`]: one link.
const WIDEST_IPV6: u8 = 64;

/// Parses a network, or one address.
pub(super) fn network(written: &str) -> Result<IpNet, ValueError> {
    let one = written.parse::<IpAddr>().map(IpNet::from);
    let network = written.parse::<IpNet>().or(one).map(unmapped);
    network.map_err(|_| ValueError::value("is not a network; write for example \"10.0.0.0/24\""))
}

/// Returns the IPv4 network that an IPv6 one of mapped addresses stands for (RFC 4291 section 2.5.5.2): peers are compared by
/// their IPv4 addresses.
fn unmapped(network: IpNet) -> IpNet {
    let IpNet::V6(six) = network else { return network };
    let four = six.addr().to_ipv4_mapped().zip(six.prefix_len().checked_sub(96));
    four.and_then(|(address, length)| IpNet::new(address.into(), length).ok()).unwrap_or(network)
}

fn proxy_protocol(server: &Reader<'_>) -> bool {
    let wanted = server.flag("proxy_protocol", false);
    if wanted && !server.has("trusted_proxies") {
        let advice = server.advice("trusted_proxies = [\"10.0.0.0/24\"]");
        server.wrong("proxy_protocol", format!("no proxy is trusted to send it; {advice}"));
    }
    wanted
}

pub(super) const DEFAULT_ADDRESS: &str = "127.0.0.1:5000";

/// 32 hexadecimal digits hold 128 bits.
const SECRET_LENGTH: usize = 32;

/// In bits. 32 random hexadecimal digits have at least 80 by this measure, `password` four times has 22.
const SECRET_ENTROPY: f64 = 64.0;
