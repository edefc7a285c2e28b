//! `[admin]`: the listener for health, never the registry's own.

use std::net::SocketAddr;

use crate::config::address;
use crate::config::address::{Address, is_any, is_loopback};
use crate::config::reader::Reader;
use crate::config::schema::{EMPTY_TEXT, Key, Kind, key};
use crate::config::server::Server;
use crate::config::value_error::ValueError;

/// The admin listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// A loopback address: there is no login there.
    pub address: SocketAddr,
}

pub(super) const KEYS: &[Key] = &[key("address", Kind::Text), key("htpasswd", Kind::Later(EMPTY_TEXT))];

/// Reads `[admin]`. `None` where it is turned off.
pub(super) fn read(admin: &Reader<'_>, server: &Server) -> Option<Admin> {
    let address = match admin.has("address") {
        true => admin.text("address")?.parsed(parse)?,
        false => address::tcp(DEFAULT_ADDRESS)?,
    };
    if let Some(other) = server.addresses.iter().find(|other| takes(other, address)) {
        let text = format!(
            "\"{address}\" is taken by server.address, {other}; write another port, or \"\" for none"
        );
        admin.wrong("address", text);
    }
    Some(Admin { address })
}

fn parse(written: &str) -> Result<SocketAddr, ValueError> {
    let wrong = format!("is not a loopback address and port; write for example \"{DEFAULT_ADDRESS}\"");
    let address = match Address::parse(written) {
        Ok(Address::Tcp(address)) => address,
        Ok(Address::Any(port)) => (std::net::Ipv6Addr::UNSPECIFIED, port).into(),
        Ok(Address::Unix(_)) | Err(_) => return Err(ValueError::Value(wrong)),
    };
    if is_loopback(address.ip()) { Ok(address) } else { Err(ValueError::Value(NEEDS_PASSWORDS.to_owned())) }
}

/// Returns true if the registry's listener would answer instead.
fn takes(other: &Address, address: SocketAddr) -> bool {
    match other {
        Address::Tcp(other) if is_any(other.ip()) => other.port() == address.port() && address.port() != 0,
        other => other.collides(&Address::Tcp(address)),
    }
}

const DEFAULT_ADDRESS: &str = "127.0.0.1:5001";

const NEEDS_PASSWORDS: &str = "is not a loopback address: that needs \"admin.htpasswd\", which is not available in \
                               this version; write for example \"127.0.0.1:5001\"";
