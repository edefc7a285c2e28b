//! `upstream.proxy`, `HTTPS_PROXY` and `NO_PROXY`: the proxy on the way to an upstream.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::address;
use crate::config::context::Context;
use crate::config::credentials;
use crate::config::credentials::Login;
use crate::config::environment::Environment;
use crate::config::mistake::Place;
use crate::config::value_error::ValueError;
use crate::proto::authority::is_loopback;
use crate::proto::{Authority, Secret, percent};

/// A proxy that is asked for a tunnel (CONNECT, RFC 9110 section 9.3.6) by plain HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Its host in lower case; IPv6 addresses without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The login in `Proxy-Authorization`.
    pub login: Option<Login>,
    /// Hosts that are dialled without it; from `NO_PROXY`, and empty where `upstream.proxy` names the proxy.
    pub except: NoProxy,
}

impl Proxy {
    /// Parses `http://[user:password@]host:port`. Errors never show the text: it may hold a password.
    pub(super) fn parse(written: &str) -> Result<Self, ValueError> {
        let (scheme, rest) = written.split_once("://").ok_or_else(not_a_proxy)?;
        if !scheme.eq_ignore_ascii_case("http") {
            return Err(ValueError::hidden(
                "only a proxy that is asked by plain HTTP can be used; write for example \
                 \"http://proxy.example.com:3128\"",
            ));
        }
        Self::after_scheme(rest)
    }

    /// Parses a variable as curl and Go do: the scheme may be missing.
    fn parse_variable(written: &str) -> Result<Self, ValueError> {
        if written.contains("://") { Self::parse(written) } else { Self::after_scheme(written) }
    }

    fn after_scheme(rest: &str) -> Result<Self, ValueError> {
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (login, authority) = match rest.rsplit_once('@') {
            Some((login, authority)) => (Some(parse_login(login)?), authority),
            None => (None, rest),
        };
        let Authority { host, port } = Authority::parse(authority).map_err(|_| not_a_proxy())?;
        // curl would take 1080, Go 80, and most proxies are at 3128.
        let port = port.ok_or_else(|| {
            ValueError::hidden(
                "the proxy's port is missing; write for example \"http://proxy.example.com:3128\"",
            )
        })?;
        Ok(Self { host, port, login, except: NoProxy::default() })
    }
}

/// Returns the proxy that the environment names for `https` URLs, if it names one, with the exceptions of `NO_PROXY`.
/// Lower case first, as curl has it. `http` URLs have no variable here: `HTTPS_PROXY` says what it is for, and
/// `HTTP_PROXY` would send what is meant for a registry on the own network out to the proxy.
pub(super) fn from_variables(environment: &Environment, context: &Context) -> Option<Proxy> {
    let (name, written) = first(environment, ["https_proxy", "HTTPS_PROXY"])?;
    let except = first(environment, ["no_proxy", "NO_PROXY"]).map_or("", |(_, except)| except);
    match Proxy::parse_variable(written) {
        Ok(proxy) => Some(Proxy { except: NoProxy::parse(except), ..proxy }),
        Err(ValueError::Value(why) | ValueError::Hidden(why)) => {
            context.mistake(&Place::variable(name), "", why);
            None
        }
    }
}

fn first<'a>(environment: &'a Environment, names: [&'static str; 2]) -> Option<(&'static str, &'a str)> {
    let set = |name| environment.get(name).map(|value| (name, value.trim()));
    names.into_iter().filter_map(set).find(|(_, value)| !value.is_empty())
}

fn not_a_proxy() -> ValueError {
    ValueError::hidden("this is not a proxy's address; write for example \"http://proxy.example.com:3128\"")
}

/// Parses `user:password` (RFC 3986 section 3.2.1), percent-encoded; without a colon the password is empty.
fn parse_login(written: &str) -> Result<Login, ValueError> {
    let (username, password) = written.split_once(':').unwrap_or((written, ""));
    let decoded = |text| {
        percent::decode(text).ok_or_else(|| {
            ValueError::hidden(
                "the proxy's user name or password is not percent-encoded UTF-8; write for example %25 for \"%\"",
            )
        })
    };
    let username = credentials::username(&decoded(username)?)?;
    Ok(Login { username, password: Secret::new(decoded(password)?) })
}

/// The hosts of `NO_PROXY`, as curl and Go read it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NoProxy {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    hosts: Hosts,
    /// None: every port.
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Hosts {
    All,
    /// This machine. Behind the proxy the same name would be another machine.
    Loopback,
    Network(IpNet),
    /// A host and all below it.
    Domain(String),
    /// All hosts below a domain; begins with a dot.
    Below(String),
}

impl NoProxy {
    /// Returns true if `host` (lower case, IPv6 without brackets) at `port` is dialled directly.
    pub fn covers(&self, host: &str, port: u16) -> bool {
        self.entries.iter().any(|entry| entry.covers(host, port))
    }

    /// Parses a list. Every text is one: a word that is no host covers none.
    fn parse(written: &str) -> Self {
        let words = written.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty());
        let loopback = Entry { hosts: Hosts::Loopback, port: None };
        Self { entries: std::iter::once(loopback).chain(words.map(Entry::parse)).collect() }
    }
}

impl Entry {
    fn covers(&self, host: &str, port: u16) -> bool {
        self.hosts.cover(host) && self.port.is_none_or(|own| own == port)
    }

    fn parse(word: &str) -> Self {
        let word = word.to_ascii_lowercase();
        if let Ok(network) = word.parse() {
            return Self { hosts: Hosts::Network(network), port: None };
        }
        if let Ok(address) = word.parse::<IpAddr>() {
            return Self { hosts: Hosts::address(address), port: None };
        }
        let (host, port) = match word.rsplit_once(':') {
            Some((host, digits)) => (host, address::port(digits)),
            None => (word.as_str(), None),
        };
        // An IPv6 address in brackets ends in no port.
        let host = if port.is_some() { host } else { &word };
        Self { hosts: Hosts::parse(host), port }
    }
}

impl Hosts {
    fn cover(&self, host: &str) -> bool {
        match self {
            Self::All => true,
            Self::Loopback => is_loopback(host),
            Self::Network(network) => {
                host.parse().is_ok_and(|ip: IpAddr| network.contains(&ip.to_canonical()))
            }
            Self::Domain(domain) => {
                let above = host.strip_suffix(domain.as_str());
                above.is_some_and(|above| above.is_empty() || above.ends_with('.'))
            }
            Self::Below(domain) => host.len() > domain.len() && host.ends_with(domain),
        }
    }

    fn parse(host: &str) -> Self {
        let bare = host.trim_start_matches('[').trim_end_matches([']', '.']);
        let below = bare.strip_prefix('*').unwrap_or(bare);
        match bare.parse() {
            Ok(address) => Self::address(address),
            Err(_) if bare == "*" => Self::All,
            Err(_) if below.starts_with('.') => Self::Below(below.to_owned()),
            Err(_) => Self::Domain(bare.to_owned()),
        }
    }

    fn address(address: IpAddr) -> Self {
        Self::Network(address.to_canonical().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refusal(written: &str) -> String {
        match Proxy::parse(written) {
            Err(ValueError::Hidden(why)) => why,
            other => panic!("{written}: {other:?}"),
        }
    }

    #[test]
    fn a_proxy_has_a_host_and_a_port_and_perhaps_a_login() {
        let proxy = Proxy::parse("http://Proxy.example:3128/").unwrap();
        assert_eq!((proxy.host.as_str(), proxy.port, &proxy.login), ("proxy.example", 3128, &None));
        assert_eq!(proxy.except, NoProxy::default());
        assert_eq!(Proxy::parse("HTTP://[::1]:80").unwrap().host, "::1");
        let login = Proxy::parse("http://me%40corp:p%3Aw@%2f%C3%A4@proxy:1").unwrap().login.unwrap();
        assert_eq!((login.username.as_str(), login.password.expose()), ("me@corp", "p:w@/ä"));
        let login = Proxy::parse("http://me@proxy:1").unwrap().login.unwrap();
        assert_eq!((login.username.as_str(), login.password.expose()), ("me", ""));
    }

    #[test]
    fn what_is_no_proxy_is_refused_without_being_shown() {
        for written in
            ["", "proxy:3128", "http://", "http://a b:1", "http://hunter2@proxy:0", "http://hunter2@"]
        {
            assert_eq!(
                refusal(written),
                "this is not a proxy's address; write for example \"http://proxy.example.com:3128\"",
                "{written}"
            );
        }
        for written in ["https://me:hunter2@proxy:443", "socks5://proxy:1080"] {
            assert_eq!(
                refusal(written),
                "only a proxy that is asked by plain HTTP can be used; write for example \"http://proxy.example.com:3128\""
            );
        }
        assert_eq!(
            refusal("http://me:hunter2@proxy"),
            "the proxy's port is missing; write for example \"http://proxy.example.com:3128\""
        );
        for written in
            ["http://me:100%@proxy:1", "http://me:%+2@proxy:1", "http://me:%ff@proxy:1", "http://me:%é@p:1"]
        {
            assert_eq!(
                refusal(written),
                "the proxy's user name or password is not percent-encoded UTF-8; write for example %25 for \"%\"",
                "{written}"
            );
        }
        assert_eq!(
            refusal("http://a%3Ab:hunter2@proxy:1"),
            "a user name with \":\" in it cannot be sent; write it without"
        );
    }

    fn covers(list: &str, host: &str, port: u16) -> bool {
        NoProxy::parse(list).covers(host, port)
    }

    #[test]
    fn a_domain_covers_itself_and_what_is_below() {
        let list = "Example.com, corp.example:8443 ,.sub.net *.star.net dotted.org.";
        for (host, port) in [
            ("example.com", 443),
            ("a.b.example.com", 5000),
            ("corp.example", 8443),
            ("a.corp.example", 8443),
            ("a.sub.net", 443),
            ("a.star.net", 443),
            ("dotted.org", 443),
        ] {
            assert!(covers(list, host, port), "{host}:{port}");
        }
        for (host, port) in [
            ("badexample.com", 443),
            ("example.com.net", 443),
            ("corp.example", 443),
            ("sub.net", 443),
            ("com", 443),
        ] {
            assert!(!covers(list, host, port), "{host}:{port}");
        }
    }

    #[test]
    fn addresses_are_covered_alone_by_networks_and_with_ports() {
        let list =
            "10.1.2.3,192.168.0.0/16,fd00::/8,[2001:db8::1]:5000,2001:db8::2,10.9.9.9:80,[2001:db8::3]";
        for (host, port) in [
            ("10.1.2.3", 443),
            ("::ffff:10.1.2.3", 443),
            ("192.168.7.7", 443),
            ("fd12::1", 443),
            ("2001:db8::1", 5000),
            ("2001:db8::2", 443),
            ("2001:db8::3", 443),
            ("10.9.9.9", 80),
        ] {
            assert!(covers(list, host, port), "{host} {port}");
        }
        for (host, port) in
            [("10.1.2.30", 443), ("192.169.0.1", 443), ("2001:db8::1", 443), ("10.9.9.9", 443)]
        {
            assert!(!covers(list, host, port), "{host} {port}");
        }
    }

    #[test]
    fn a_star_covers_everything_and_nothing_covers_this_machine_alone() {
        assert!(covers("a.example, *", "registry.example", 443));
        assert!(!covers("", "registry.example", 443));
        for host in ["localhost", "127.0.0.1", "::1", "a.localhost"] {
            assert!(covers("", host, 443), "{host}");
            assert!(!NoProxy::default().covers(host, 443), "{host}");
        }
    }

    proptest! {
        #[test]
        fn no_input_panics(written in "\\PC{0,40}", host in "[a-z0-9.:]{0,12}") {
            let _ = Proxy::parse_variable(&written);
            let _ = Proxy::parse(&format!("http://{written}:1"));
            let _ = covers(&written, &host, 443);
        }
    }
}
