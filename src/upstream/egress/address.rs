//! Public addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Returns true for an address on the public internet (IANA special-purpose address registries, RFC 6890). An address
/// that stands for an IPv4 address (mapped, NAT64, 6to4) is as public as that.
pub(crate) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    !match address.octets() {
        [0 | 10 | 127, ..] => true,
        // Shared between a provider and its customers (RFC 6598); metadata of some clouds is here too.
        [100, b, ..] => b & 0b1100_0000 == 64,
        [169, 254, ..] | [192, 168, ..] => true,
        // Azure's agent endpoint, reachable only from its machines.
        [168, 63, 129, 16] => true,
        [172, b, ..] => b & 0b1111_0000 == 16,
        [192, 0, 0 | 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => true,
        // Relays of 6to4, deprecated by RFC 7526.
        [192, 88, 99, _] => true,
        [198, b, ..] => b & 0b1111_1110 == 18,
        // Multicast, reserved and broadcast.
        [a, ..] => a >= 224,
    }
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(inner) = inner_v4(address) {
        return is_public_v4(inner);
    }
    match address.segments() {
        // Protocol assignments: Teredo, benchmarking, ORCHID (RFC 2928).
        [0x2001, b, ..] if b < 0x200 => false,
        // Documentation (RFC 3849, RFC 9637).
        [0x2001, 0xdb8, ..] => false,
        [0x3fff, b, ..] if b < 0x1000 => false,
        // Global unicast (RFC 4291 section 2.4); all else is local, multicast or not given out.
        [a, ..] => a & 0xe000 == 0x2000,
    }
}

/// Returns the IPv4 address in a mapped address (RFC 4291 section 2.5.5.2), NAT64's well-known prefix (RFC 6052) or
/// 6to4 (RFC 3056).
fn inner_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let (high, low) = match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => (high, low),
        [0x2002, high, low, ..] => (high, low),
        _ => return None,
    };
    Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(addresses: &[&str]) -> Vec<bool> {
        addresses.iter().map(|address| is_public(address.parse().unwrap())).collect()
    }

    #[test]
    fn addresses_of_the_internet_are_public() {
        let addresses = [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "128.0.0.1",
            "168.63.129.17",
            "169.253.255.255",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2606:4700:4700::1111",
            "2a00:1450::1",
            "3fff:1000::1",
        ];
        assert_eq!(all(&addresses), [true; 24], "{addresses:?}");
    }

    #[test]
    fn addresses_with_another_meaning_are_not() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.1",
            "100.100.100.200",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "168.63.129.16",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::8.8.8.8",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0:8.8.8.8",
            "64:ff9b::10.0.0.1",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::8.8.8.8",
            "100::1",
            "2001::1",
            "2001:0:808:808::1",
            "2001:2::1",
            "2001:10::1",
            "2001:20::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "2002:a9fe:a9fe::1",
            "2002:c0a8:1::1",
            "3fff::1",
            "4000::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
    }
}
