//! `[peers]`: the other replicas of this gateway, with which it shares downloads and what it knows.

use std::fmt;
use std::time::Duration;

use crate::config::address::{Address, tcp};
use crate::config::limits;
use crate::config::reader::{Item, Reader};
use crate::config::schema::{Key, Kind, key};
use crate::config::server::Server;
use crate::config::value_error::ValueError;
use crate::proto::{Authority, Secret};

/// The replicas of this gateway.
#[derive(Debug, Clone)]
pub(crate) struct Peers {
    /// The address where the others reach this one.
    pub(crate) address: Address,
    /// The members, this one among them or not.
    pub(crate) members: Members,
    /// This replica as the others see it; None: found among the members.
    pub(crate) name: Option<Authority>,
    /// The time after which the members are looked up again.
    pub(crate) refresh: Duration,
    /// The time for TCP and TLS to a member.
    pub(crate) connect_timeout: Duration,
    /// The time for which a member that failed is passed over.
    pub(crate) resting: Duration,
    /// `server.secret`, from which the key is derived that all members show.
    pub(crate) secret: Secret,
}

/// The source of the members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Members {
    /// `dns://name:port`: the addresses of a name (A and AAAA).
    Dns(Authority),
    /// `srv://name`: hosts and ports (SRV, RFC 2782).
    Srv(String),
    /// Hosts with their ports.
    List(Vec<Authority>),
}

impl fmt::Display for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => write!(f, "dns://{name}"),
            Self::Srv(name) => write!(f, "srv://{name}"),
            Self::List(members) => {
                let members: Vec<String> = members.iter().map(Authority::to_string).collect();
                f.write_str(&members.join(", "))
            }
        }
    }
}

/// Two are the same if they are written alike, whatever the secret: that is compared with `[server]`.
impl PartialEq for Peers {
    fn eq(&self, other: &Self) -> bool {
        let Self { address, members, name, refresh, connect_timeout, resting, secret: _ } = self;
        *address == other.address
            && *members == other.members
            && *name == other.name
            && *refresh == other.refresh
            && *connect_timeout == other.connect_timeout
            && *resting == other.resting
    }
}

pub(super) const KEYS: &[Key] = &[
    key("address", Kind::Text),
    key("members", Kind::OneOrMore),
    key("name", Kind::Text),
    key("refresh", Kind::Text),
    key("connect_timeout", Kind::Text),
    key("resting", Kind::Text),
];

/// Reads `[peers]`, where it is written. `secret_is_written` is true if `server.secret` is, right or wrong.
pub(super) fn read(
    peers: &Reader<'_>,
    server: &Server,
    secret_is_written: bool,
    has_cache: bool,
) -> Option<Peers> {
    if !secret_is_written {
        let text = "needs server.secret, the same on every replica: from it the key is derived by which they know each other; \
                    make one with `dockgate secret`";
        peers.wrong_itself(text);
    }
    if !has_cache {
        let text = "[peers] shares what caches hold, and no upstream has [upstream.cache]";
        peers.context.warn(format!("{}: {text}", peers.place()));
    }
    let address = address(peers, server);
    let members = members(peers);
    let name = peers.text("name").and_then(|item| item.parsed(member));
    if let (Some(name), Some(Members::List(members))) = (&name, &members)
        && !members.contains(name)
    {
        peers.wrong("name", format!("\"{name}\" is none of the members; write it as it stands there"));
    }
    let refresh = peers.duration("refresh", limits::PEERS_REFRESH);
    let connect_timeout = peers.duration("connect_timeout", limits::PEER_CONNECT_TIMEOUT);
    let resting = peers.duration("resting", limits::PEER_RESTING);
    let secret = server.secret.clone()?;
    Some(Peers { address: address?, members: members?, name, refresh, connect_timeout, resting, secret })
}

/// Reads the address, at which neither clients nor operators may be served.
fn address(peers: &Reader<'_>, server: &Server) -> Option<Address> {
    let address = match peers.text("address") {
        Some(item) => item.parsed(listening)?,
        None => listening(DEFAULT_ADDRESS).ok()?,
    };
    if let Some(other) = server.addresses.iter().find(|other| other.collides(&address)) {
        peers.wrong(
            "address",
            format!("\"{address}\" is taken by server.address, {other}; write another port"),
        );
    }
    Some(address)
}

fn listening(written: &str) -> Result<Address, ValueError> {
    match Address::parse(written) {
        Ok(address @ (Address::Tcp(_) | Address::Any(_))) => Ok(address),
        _ => Err(ValueError::value(
            "is not an address and port that other machines reach; write for example \":5003\" or \
             \"10.0.0.1:5003\"",
        )),
    }
}

fn members(peers: &Reader<'_>) -> Option<Members> {
    let items = peers.texts("members");
    if items.is_empty() {
        if !peers.is_broken("members") {
            let advice = peers.advice("members = \"dns://dockgate-peers:5003\"");
            peers.wrong("members", format!("no replica is named; {advice}"));
        }
        return None;
    }
    let is_named = |item: &Item<'_>| item.value().contains("://");
    if let [item] = &*items
        && is_named(item)
    {
        return item.parsed(source);
    }
    if let Some(item) = items.iter().find(|item| is_named(item)) {
        item.wrong(ValueError::value("stands alone: it names all members; remove the others"));
        return None;
    }
    let listed: Vec<Authority> = items.iter().filter_map(|item| item.parsed(member)).collect();
    for (place, item) in items.iter().enumerate() {
        if listed.len() == items.len() && listed[..place].contains(&listed[place]) {
            item.wrong(ValueError::value("is there twice; remove one of them"));
        }
    }
    (listed.len() == items.len()).then_some(Members::List(listed))
}

/// Parses `dns://name:port` and `srv://name`.
fn source(written: &str) -> Result<Members, ValueError> {
    match written.split_once("://") {
        Some(("dns", name)) => member(name).map(Members::Dns),
        Some(("srv", name)) => match Authority::parse_absolute(name) {
            Ok(Authority { host, port: None }) if !host.contains(':') => Ok(Members::Srv(host)),
            _ => Err(ValueError::value(
                "is not the name of SRV records, which have the ports; write for example \
                 \"srv://_peer._tcp.dockgate-peers\"",
            )),
        },
        _ => Err(ValueError::value(
            "names no members; write for example \"dns://dockgate-peers:5003\", \
             \"srv://_peer._tcp.dockgate-peers\" or [\"10.0.0.1:5003\", \"10.0.0.2:5003\"]",
        )),
    }
}

/// Parses a host with its port.
fn member(written: &str) -> Result<Authority, ValueError> {
    // An address to listen on has `localhost` for an address, and so has this.
    let written = tcp(written).map_or_else(|| written.to_owned(), |address| address.to_string());
    match Authority::parse_absolute(&written) {
        Ok(authority @ Authority { port: Some(_), .. }) => Ok(authority),
        _ => Err(ValueError::value("is not a host and port; write for example \"10.0.0.1:5003\"")),
    }
}

const DEFAULT_ADDRESS: &str = ":5003";
