//! Hosts with or without a port, as URLs and Host fields have them (RFC 3986 section 3.2).
//!
//! `http::uri::Authority` accepts more than can be dialled or compared: user information, any port text, and hosts
//! that two resolvers read in two ways. So the text is read here.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use thiserror::Error;

/// `host` or `host:port`: a name in lower case, an IPv4 address, or an IPv6 address in brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Authority {
    /// An IPv6 address stands here without its brackets, in its canonical text.
    pub(crate) host: String,
    /// The port, where one is written; not 0.
    pub(crate) port: Option<u16>,
}

/// The part of an authority that is malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum AuthorityError {
    /// The host is neither a name that can be resolved nor an address.
    #[error("its host is not a host name or address")]
    Host,
    /// The port is 0, above 65535, or not written in digits.
    #[error("its port is none")]
    Port,
}

impl Authority {
    /// Reads `host` or `host:port`.
    pub(crate) fn parse(text: &str) -> Result<Self, AuthorityError> {
        let (host, port) = split(text)?;
        Self::new(host, port)
    }

    /// Reads `host` or `host:port` as a URL has them, where a name may end with the dot of the DNS root. The dot is
    /// dropped.
    pub(crate) fn parse_absolute(text: &str) -> Result<Self, AuthorityError> {
        let (host, port) = split(text)?;
        Self::new(if host.starts_with('[') { host } else { host.strip_suffix('.').unwrap_or(host) }, port)
    }

    fn new(host: &str, port: &str) -> Result<Self, AuthorityError> {
        let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            // No zone identifier (RFC 6874): it means something on one machine only.
            Some(address) => address.parse::<Ipv6Addr>().map_err(|_| AuthorityError::Host)?.to_string(),
            None if is_host_name(host) => host.to_ascii_lowercase(),
            None => return Err(AuthorityError::Host),
        };
        Ok(Self { host, port: parse_port(port)? })
    }

    /// Formats a host, without brackets, and a port as a Host field has them: without the port where it is the
    /// scheme's own.
    pub(crate) fn render(host: &str, port: u16, https: bool) -> String {
        let port = Some(port).filter(|port| *port != scheme_port(https));
        Self { host: host.to_owned(), port }.to_string()
    }
}

/// Writes the form of a Host field: IPv6 addresses in brackets.
impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?;
        } else {
            f.write_str(&self.host)?;
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// Returns the port of a URL that names none.
pub(crate) const fn scheme_port(https: bool) -> u16 {
    if https { 443 } else { 80 }
}

/// Returns true if a host, without brackets, is this machine itself (RFC 6761 section 6.3).
pub(crate) fn is_loopback(host: &str) -> bool {
    let local = host == "localhost" || host.ends_with(".localhost");
    local || host.parse().is_ok_and(|address: IpAddr| address.to_canonical().is_loopback())
}

/// Returns the host, an address still in its brackets, and the port with its colon.
fn split(text: &str) -> Result<(&str, &str), AuthorityError> {
    let end = match text.starts_with('[') {
        true => text.find(']').map(|bracket| bracket + 1).ok_or(AuthorityError::Host)?,
        false => text.find(':').unwrap_or(text.len()),
    };
    Ok(text.split_at(end))
}

/// Parses `""` or `:443`. Digits alone: `parse` by itself would take a `+`.
fn parse_port(text: &str) -> Result<Option<u16>, AuthorityError> {
    if text.is_empty() {
        return Ok(None);
    }
    let digits = text.strip_prefix(':').filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
    let port = digits.and_then(|digits| digits.parse().ok()).filter(|port| *port != 0);
    port.map(Some).ok_or(AuthorityError::Port)
}

/// Returns true for a host name or IPv4 address (RFC 1123 section 2.1), with the underscore that container networks
/// use.
///
/// A name that ends in a number is an address to many resolvers (`0x7f.1`, `2130706433`, `0177.0.0.1`), so it must be
/// one that all of them read alike.
fn is_host_name(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or_default();
    host.len() <= 253
        && host.split('.').all(is_label)
        && (!is_number(last) || host.parse::<Ipv4Addr>().is_ok())
}

fn is_label(label: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    (1..=63).contains(&label.len())
        && label.bytes().all(plain)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

fn is_number(label: &str) -> bool {
    let hex = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    label.bytes().all(|b| b.is_ascii_digit()) || hex.is_some_and(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hosts_and_ports_are_read_and_written() {
        for (text, host, port, written) in [
            ("docker.io", "docker.io", None, "docker.io"),
            ("Registry.Example:5000", "registry.example", Some(5000), "registry.example:5000"),
            ("my_registry", "my_registry", None, "my_registry"),
            ("127.0.0.1:80", "127.0.0.1", Some(80), "127.0.0.1:80"),
            ("[0:0::1]", "::1", None, "[::1]"),
            ("[::1]:5000", "::1", Some(5000), "[::1]:5000"),
        ] {
            let authority = Authority::parse(text).unwrap();
            assert_eq!((authority.host.as_str(), authority.port), (host, port), "{text}");
            assert_eq!(authority.to_string(), written);
        }
    }

    #[test]
    fn malformed_hosts_are_refused() {
        for text in [
            "",
            ":80",
            "a b",
            "a/b",
            "user@host",
            "https://a",
            "[::1",
            "::1",
            "[a]",
            "[::1%eth0]",
            "-a",
            "a-",
            "a..b",
            "a.",
            ".a",
            "*.a",
            "é",
            "1.2.3.4.5",
            "0x7f.1",
            "2130706433",
        ] {
            assert!(Authority::parse(text).is_err(), "{text}");
        }
        assert_eq!(Authority::parse(&"a".repeat(64)), Err(AuthorityError::Host));
    }

    #[test]
    fn malformed_ports_are_refused() {
        for text in ["a:", "a:0", "a:65536", "a:+80", "a:b", "a:80:80", "[::1]5"] {
            assert_eq!(Authority::parse(text), Err(AuthorityError::Port), "{text}");
        }
    }

    #[test]
    fn the_root_dot_of_a_url_is_dropped() {
        for (text, written) in [("a.example.", "a.example"), ("a.:5", "a:5"), ("[::1]:5", "[::1]:5")] {
            assert_eq!(Authority::parse_absolute(text).unwrap().to_string(), written);
        }
        assert!(Authority::parse_absolute(".").is_err() && Authority::parse_absolute("a..").is_err());
    }

    #[test]
    fn a_port_of_the_scheme_is_not_written() {
        assert_eq!(Authority::render("a", 443, true), "a");
        assert_eq!(Authority::render("::1", 443, false), "[::1]:443");
    }

    #[test]
    fn loopback_is_a_name_or_an_address() {
        for host in ["localhost", "a.localhost", "127.8.0.1", "::1", "::ffff:127.0.0.1"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example", "notlocalhost", "128.0.0.1", "::2", ""] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    proptest! {
        #[test]
        fn an_authority_that_is_written_reads_back(text in "\\PC{0,20}|[a-z0-9.:\\[\\]-]{0,20}") {
            if let Ok(authority) = Authority::parse(&text) {
                prop_assert_eq!(Authority::parse(&authority.to_string()), Ok(authority));
            }
        }
    }
}
