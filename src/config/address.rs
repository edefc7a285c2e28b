//! The addresses that the gateway listens on.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use crate::config::value_error::ValueError;

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// An address of this machine.
    Tcp(SocketAddr),
    /// `:5000`: every address of this machine, IPv4 and IPv6.
    Any(u16),
    /// `unix:PATH`: a unix socket.
    Unix(PathBuf),
}

impl Address {
    /// Returns true if only this machine can reach it: a loopback address or a unix socket.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => is_loopback(address.ip()),
            Self::Any(_) => false,
            Self::Unix(_) => true,
        }
    }

    /// Returns true if both cannot be listened on at once. Port 0 is a fresh one each time.
    pub(super) fn collides(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Unix(a), Self::Unix(b)) => a == b,
            (Self::Unix(_), _) | (_, Self::Unix(_)) => false,
            (Self::Tcp(a), Self::Tcp(b)) => a == b && a.port() != 0,
            (Self::Any(a), Self::Any(b)) => a == b && *a != 0,
            (Self::Any(any), Self::Tcp(one)) | (Self::Tcp(one), Self::Any(any)) => {
                *any == one.port() && *any != 0
            }
        }
    }

    pub(super) fn parse(written: &str) -> Result<Self, ValueError> {
        if let Some(path) = written.strip_prefix("unix:") {
            return unix(path);
        }
        if let Some(port) = written.strip_prefix(':').and_then(port) {
            return Ok(Self::Any(port));
        }
        tcp(written).map(Self::Tcp).ok_or_else(|| {
            ValueError::value(
                "is not an address; write for example \"127.0.0.1:5000\", \"[::1]:5000\", \":5000\" or \
                 \"unix:/run/dockgate.sock\"",
            )
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Any(port) => write!(f, ":{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Parses an address with its port. `localhost` is the IPv4 loopback address, without resolving.
pub(super) fn tcp(written: &str) -> Option<SocketAddr> {
    match written.split_once(':') {
        Some(("localhost", digits)) => port(digits).map(|port| (Ipv4Addr::LOCALHOST, port).into()),
        _ => written.parse().ok(),
    }
}

/// Returns true for a loopback address, also an IPv4 one mapped into IPv6.
pub(super) fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

/// Returns true for the wildcard addresses, which listen for every other.
pub(super) fn is_any(ip: IpAddr) -> bool {
    ip == IpAddr::V4(Ipv4Addr::UNSPECIFIED) || ip == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
}

/// Parses a port in digits alone: `parse` by itself would take a `+`.
pub(super) fn port(digits: &str) -> Option<u16> {
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

fn unix(path: &str) -> Result<Address, ValueError> {
    if path.is_empty() {
        return Err(ValueError::value("names no socket; write for example \"unix:/run/dockgate.sock\""));
    }
    Ok(Address::Unix(path.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_parsed_without_asking_anyone() {
        for (written, shown, local) in [
            ("127.0.0.1:5000", "127.0.0.1:5000", true),
            ("localhost:5000", "127.0.0.1:5000", true),
            ("[::1]:5000", "[::1]:5000", true),
            ("[::ffff:127.0.0.1]:5000", "[::ffff:127.0.0.1]:5000", true),
            ("unix:/run/d.sock", "unix:/run/d.sock", true),
            (":5000", ":5000", false),
            ("0.0.0.0:443", "0.0.0.0:443", false),
            ("[::]:0", "[::]:0", false),
        ] {
            let address = Address::parse(written).unwrap();
            assert_eq!((address.to_string().as_str(), address.is_local()), (shown, local), "{written}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for written in
            ["", "5000", "127.0.0.1", ":", ":+5", ":99999", "registry.example.com:5000", "::1:5000", "unix:"]
        {
            assert!(Address::parse(written).is_err(), "{written}");
        }
    }
}
