//! The networks of a rule.

use std::net::IpAddr;

use ipnet::IpNet;

/// Networks by their bits: each a base and a mask. An address is compared with those of its own family alone.
#[derive(Debug)]
pub(super) struct Networks {
    /// True if none are written: then every address counts, and an unknown one.
    all: bool,
    four: Box<[(u32, u32)]>,
    six: Box<[(u128, u128)]>,
}

impl Networks {
    pub(super) fn new(written: &[IpNet]) -> Self {
        let four = written.iter().filter_map(|network| match network {
            IpNet::V4(network) => Some((network.network().to_bits(), network.netmask().to_bits())),
            IpNet::V6(_) => None,
        });
        let six = written.iter().filter_map(|network| match network {
            IpNet::V6(network) => Some((network.network().to_bits(), network.netmask().to_bits())),
            IpNet::V4(_) => None,
        });
        Self { all: written.is_empty(), four: four.collect(), six: six.collect() }
    }

    /// Returns true if they contain an address, of which IPv4 is not mapped to IPv6.
    pub(super) fn contain(&self, address: Option<IpAddr>) -> bool {
        self.all
            || match address {
                Some(IpAddr::V4(four)) => self.four.iter().any(|(base, mask)| four.to_bits() & mask == *base),
                Some(IpAddr::V6(six)) => self.six.iter().any(|(base, mask)| six.to_bits() & mask == *base),
                None => false,
            }
    }
}
