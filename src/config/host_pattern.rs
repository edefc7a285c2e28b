//! `realm_hosts` and `redirect_hosts`: hosts that more is allowed to than to others.

use std::fmt;
use std::net::IpAddr;

use crate::config::value_error::ValueError;
use crate::proto::Authority;
use crate::proto::authority::scheme_port;

/// An entry: `host`, `host:port`, or `*.domain` with or without a port. Without a port it is the scheme's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPattern {
    /// In lower case; of `*.domain` what follows the star: `.domain`. IPv6 addresses without brackets.
    host: String,
    port: Option<u16>,
}

impl HostPattern {
    /// Returns true if it is for this host (lower case, IPv6 without brackets) and port, at a URL of that scheme.
    pub fn matches(&self, host: &str, port: u16, https: bool) -> bool {
        let same_host = match self.host.strip_prefix('.') {
            Some(_) => host.len() > self.host.len() && host.ends_with(&self.host),
            None => host == self.host,
        };
        same_host && port == self.port.unwrap_or_else(|| scheme_port(https))
    }

    /// Returns true if it names one host, and not all below a domain.
    pub fn is_exact(&self) -> bool {
        !self.host.starts_with('.')
    }

    pub(super) fn parse(written: &str) -> Result<Self, ValueError> {
        let (dot, rest) = match written.strip_prefix("*.") {
            Some(rest) => (".", rest),
            None => ("", written),
        };
        let Authority { host, port } = Authority::parse(rest).map_err(|_| NOT_A_PATTERN)?;
        if !dot.is_empty() {
            check_domain(&host)?;
        }
        Ok(Self { host: format!("{dot}{host}"), port })
    }
}

/// Checks the domain after a star: not one below which anyone may register a name.
fn check_domain(domain: &str) -> Result<(), ValueError> {
    if domain.parse::<IpAddr>().is_ok() {
        return Err(NOT_A_PATTERN.into());
    }
    let public = psl::suffix(domain.as_bytes()).filter(|suffix| suffix.typ() == Some(psl::Type::Icann));
    if public.is_some_and(|suffix| suffix == domain) {
        return Err(ValueError::value("lets in hosts of anyone; write a longer domain behind the star"));
    }
    Ok(())
}

const NOT_A_PATTERN: &str =
    "is no host; write for example \"auth.example.com\", \"auth.example.com:8443\" or \"*.example.com\"";

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let star = if self.host.starts_with('.') { "*" } else { "" };
        write!(f, "{star}{}", Authority { host: self.host.clone(), port: self.port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(written: &str) -> HostPattern {
        HostPattern::parse(written).unwrap()
    }

    #[test]
    fn a_host_is_itself_at_the_port_of_the_scheme() {
        let host = pattern("Auth.Example.com");
        assert!(host.matches("auth.example.com", 443, true) && host.matches("auth.example.com", 80, false));
        assert!(
            !host.matches("auth.example.com", 8443, true) && !host.matches("auth.example.com", 443, false)
        );
        assert!(!host.matches("x.auth.example.com", 443, true) && !host.matches("example.com", 443, true));
    }

    #[test]
    fn a_written_port_is_the_only_one() {
        let host = pattern("10.0.0.7:8443");
        assert!(host.matches("10.0.0.7", 8443, true) && host.matches("10.0.0.7", 8443, false));
        assert!(!host.matches("10.0.0.7", 443, true));
        assert!(pattern("[0::1]:5000").matches("::1", 5000, false));
    }

    #[test]
    fn a_star_is_every_host_below_and_not_the_domain_itself() {
        let below = pattern("*.example.com:444");
        assert!(!below.is_exact() && pattern("example.com:444").is_exact());
        assert!(below.matches("a.example.com", 444, true) && below.matches("a.b.example.com", 444, true));
        for host in ["example.com", ".example.com", "badexample.com", "a.example.com.evil.net"] {
            assert!(!below.matches(host, 444, true), "{host}");
        }
    }

    #[test]
    fn what_is_shown_is_what_was_written() {
        for written in ["a.example", "a.example:1", "*.a.example", "*.a.example:1", "[::1]", "[::1]:5000"] {
            assert_eq!(pattern(written).to_string(), written);
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for written in [
            "",
            "*",
            "*.",
            "*:443",
            "*.*",
            "a.*",
            "*a.example",
            "https://a.example",
            "a.example/b",
            "a.example:0",
            "a b",
            "*.10.0.0.1",
            "*.[::1]",
            "::1",
            ".example.com",
            "me@a.example",
        ] {
            assert_eq!(HostPattern::parse(written), Err(NOT_A_PATTERN.into()), "{written}");
        }
    }

    #[test]
    fn a_star_may_stand_for_no_country() {
        for written in ["*.com", "*.co.uk", "*.de:443"] {
            assert!(HostPattern::parse(written).is_err(), "{written}");
        }
        for written in ["*.cloudfront.net", "*.internal", "*.s3.amazonaws.com", "*.example.co.uk"] {
            assert_eq!(pattern(written).to_string(), written);
        }
    }

    proptest! {
        #[test]
        fn no_input_panics(written in "\\PC{0,40}") {
            let _ = HostPattern::parse(&written);
            let _ = HostPattern::parse(&format!("*.{written}"));
        }
    }
}
