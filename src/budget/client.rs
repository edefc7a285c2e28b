//! The unit in which clients are counted.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A client for the purposes of fairness and throttling: an IPv4 address, or an IPv6 /64, which is what one
/// customer is given and may number freely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    V4([u8; 4]),
    V6([u8; 8]),
    /// The gateway's own work, or a trusted proxy that speaks for many clients. Has no share: only the limit holds for it.
    Trusted,
}

impl Client {
    /// Returns the client behind an address. An IPv4-mapped IPv6 address is the IPv4 address.
    pub(crate) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4.octets()),
            IpAddr::V6(v6) => {
                let [a, b, c, d, e, f, g, h, ..] = v6.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }

    /// Returns a number that hardly another client has.
    pub(super) fn number(self) -> u64 {
        match self {
            Self::V4(octets) => u32::from_be_bytes(octets).into(),
            Self::V6(prefix) => u64::from_be_bytes(prefix),
            Self::Trusted => u64::MAX,
        }
    }
}

/// Hashes one word: each request is looked up several times by its client.
impl Hash for Client {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.number());
    }
}

/// As networks are written.
impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(octets) => Ipv4Addr::from(*octets).fmt(f),
            Self::V6(prefix) => {
                let mut octets = [0; 16];
                octets[..8].copy_from_slice(prefix);
                write!(f, "{}/64", Ipv6Addr::from(octets))
            }
            Self::Trusted => f.write_str("trusted"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(address: &str) -> Client {
        Client::of(address.parse().unwrap())
    }

    #[test]
    fn an_ipv6_network_of_64_bits_is_one_client() {
        assert_eq!(client("2001:db8:1:2::1"), client("2001:db8:1:2:ffff::9"));
        assert_ne!(client("2001:db8:1:2::1"), client("2001:db8:1:3::1"));
    }

    #[test]
    fn a_client_is_written_as_its_network() {
        assert_eq!(client("2001:db8:1:2::9").to_string(), "2001:db8:1:2::/64");
        assert_eq!(client("192.0.2.1").to_string(), "192.0.2.1");
    }

    #[test]
    fn each_ipv4_address_is_a_client_however_it_is_written() {
        assert_ne!(client("192.0.2.1"), client("192.0.2.2"));
        assert_eq!(client("192.0.2.1"), client("::ffff:192.0.2.1"));
    }
}
