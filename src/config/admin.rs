//! `[admin]`: the listener for health, metrics and operators' commands, never the registry's own.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use crate::config::address;
use crate::config::address::{Address, UnixSocket, is_any};
use crate::config::reader::{Item, Reader};
use crate::config::reference::Reference;
use crate::config::schema::{Key, Kind, key};
use crate::config::server::Server;
use crate::config::value_error::ValueError;

/// The admin listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// The address. Without a login, other machines get health alone there.
    pub address: Address,
    /// The file of the names and passwords that everything but health needs; None: no login.
    pub htpasswd: Option<PathBuf>,
}

/// The address by which this machine reaches the admin listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalAddress {
    /// A loopback address, or another of this machine.
    Tcp(SocketAddr),
    /// The file of a unix socket.
    Unix(PathBuf),
}

impl fmt::Display for LocalAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Admin {
    /// Returns the address by which this machine reaches the listener.
    pub fn local_address(&self) -> LocalAddress {
        match &self.address {
            Address::Tcp(address) if is_any(address.ip()) && address.is_ipv6() => {
                LocalAddress::Tcp((Ipv6Addr::LOCALHOST, address.port()).into())
            }
            Address::Tcp(address) if is_any(address.ip()) => {
                LocalAddress::Tcp((Ipv4Addr::LOCALHOST, address.port()).into())
            }
            Address::Tcp(address) => LocalAddress::Tcp(*address),
            Address::Any(port) => LocalAddress::Tcp((Ipv4Addr::LOCALHOST, *port).into()),
            Address::Unix(socket) => LocalAddress::Unix(socket.path.clone()),
        }
    }
}

pub(super) const KEYS: &[Key] = &[key("address", Kind::Text), key("htpasswd", Kind::Text)];

/// Reads `[admin]`. `None` where it is turned off.
pub(super) fn read(admin: &Reader<'_>, server: &Server) -> Option<Admin> {
    let htpasswd = htpasswd(admin);
    let address = match admin.text("address") {
        Some(item) => from_folder(item.parsed(parse)?, &item),
        None if admin.has("address") => return None,
        None => Address::Tcp(address::tcp(DEFAULT_ADDRESS)?),
    };
    if let Some(other) = server.addresses.iter().find(|other| takes(other, &address)) {
        let text = format!(
            "\"{address}\" is taken by server.address, {other}; write another port, or \"\" for none"
        );
        admin.wrong("address", text);
    }
    Some(Admin { address, htpasswd })
}

fn htpasswd(admin: &Reader<'_>) -> Option<PathBuf> {
    let item = admin.text("htpasswd").filter(|item| !item.value().is_empty())?;
    let file = item.located(item.path());
    let path = file.path.clone();
    admin.context.refer(Reference::Htpasswd(file));
    Some(path)
}

/// Parses an address. A unix socket without a mode is for the gateway's own user: what may be asked there removes content.
fn parse(written: &str) -> Result<Address, ValueError> {
    match Address::parse(written) {
        Ok(Address::Unix(socket)) => {
            let mode = socket.mode.or(Some(SOCKET_MODE));
            Ok(Address::Unix(UnixSocket { mode, ..socket }))
        }
        Ok(address) => Ok(address),
        Err(error) if written.starts_with("unix") => Err(error),
        Err(_) => Err(ValueError::Value(format!(
            "is not an address and port; write for example \"{DEFAULT_ADDRESS}\", \":5001\" or \
             \"unix:/run/dockgate/admin.sock?mode=0600\""
        ))),
    }
}

/// Returns the address with its socket where relative paths begin.
fn from_folder(address: Address, item: &Item<'_>) -> Address {
    match address {
        Address::Unix(socket) => Address::Unix(UnixSocket { path: item.absolute(&socket.path), ..socket }),
        address => address,
    }
}

/// The mode of a unix socket that is written without one.
const SOCKET_MODE: u32 = 0o600;

/// Returns true if the registry's listener would answer instead.
fn takes(other: &Address, address: &Address) -> bool {
    let everywhere = |address: &Address| match address {
        Address::Tcp(address) if is_any(address.ip()) => Address::Any(address.port()),
        other => other.clone(),
    };
    everywhere(other).collides(&everywhere(address))
}

const DEFAULT_ADDRESS: &str = "127.0.0.1:5001";
