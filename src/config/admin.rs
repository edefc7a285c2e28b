//! `[admin]`: the listener for health, metrics and operators' commands, never the registry's own.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::config::address;
use crate::config::address::{Address, is_any};
use crate::config::reader::Reader;
use crate::config::schema::{EMPTY_TEXT, Key, Kind, key};
use crate::config::server::Server;
use crate::config::value_error::ValueError;

/// The admin listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// An address with a port, no unix socket. Since there is no login, other machines get health alone there.
    pub address: Address,
}

impl Admin {
    /// Returns the address by which this machine reaches the listener.
    pub fn local_address(&self) -> Option<SocketAddr> {
        match self.address {
            Address::Tcp(address) if is_any(address.ip()) && address.is_ipv6() => {
                Some((Ipv6Addr::LOCALHOST, address.port()).into())
            }
            Address::Tcp(address) if is_any(address.ip()) => {
                Some((Ipv4Addr::LOCALHOST, address.port()).into())
            }
            Address::Tcp(address) => Some(address),
            Address::Any(port) => Some((Ipv4Addr::LOCALHOST, port).into()),
            Address::Unix(_) => None,
        }
    }
}

pub(super) const KEYS: &[Key] = &[key("address", Kind::Text), key("htpasswd", Kind::Later(EMPTY_TEXT))];

/// Reads `[admin]`. `None` where it is turned off.
pub(super) fn read(admin: &Reader<'_>, server: &Server) -> Option<Admin> {
    let address = match admin.has("address") {
        true => admin.text("address")?.parsed(parse)?,
        false => Address::Tcp(address::tcp(DEFAULT_ADDRESS)?),
    };
    if let Some(other) = server.addresses.iter().find(|other| takes(other, &address)) {
        let text = format!(
            "\"{address}\" is taken by server.address, {other}; write another port, or \"\" for none"
        );
        admin.wrong("address", text);
    }
    Some(Admin { address })
}

fn parse(written: &str) -> Result<Address, ValueError> {
    let wrong = format!("is not an address and port; write for example \"{DEFAULT_ADDRESS}\" or \":5001\"");
    match Address::parse(written) {
        Ok(Address::Unix(_)) | Err(_) => Err(ValueError::Value(wrong)),
        Ok(address) => Ok(address),
    }
}

/// Returns true if the registry's listener would answer instead.
fn takes(other: &Address, address: &Address) -> bool {
    let everywhere = |address: &Address| match address {
        Address::Tcp(address) if is_any(address.ip()) => Address::Any(address.port()),
        other => other.clone(),
    };
    everywhere(other).collides(&everywhere(address))
}

const DEFAULT_ADDRESS: &str = "127.0.0.1:5001";
