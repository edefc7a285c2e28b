//! The headers by which proxies in front describe a request: `X-Forwarded-*`, or without those `Forwarded`.
//!
//! Only one of the two families counts: a proxy that sets the one passes the other on as a client sent it.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;

use crate::proto::forwarded;

/// The description of a request by proxies that the caller has decided to trust.
#[derive(Debug, Default)]
pub(super) struct Forwarding {
    /// The addresses that the request came by, the client's first. `None` for one that is no address.
    pub(super) hops: Vec<Option<IpAddr>>,
    /// The Host that the client asked for.
    pub(super) host: Option<String>,
    /// True if the client speaks TLS.
    pub(super) https: Option<bool>,
    /// The port that the client came to.
    pub(super) port: Option<u16>,
}

impl Forwarding {
    /// Reads the fields of a request.
    pub(super) fn read(headers: &HeaderMap) -> Self {
        Self::by_x_forwarded(headers).unwrap_or_else(|| Self::by_forwarded(headers))
    }

    /// Reads `X-Forwarded-For`, `-Host`, `-Proto` and `-Port`. Each may be a list, in one field or in several; of the last
    /// three the first element is the client's. An empty value says nothing.
    fn by_x_forwarded(headers: &HeaderMap) -> Option<Self> {
        let first = |name| list(headers, name).next();
        let hops: Vec<_> = list(headers, "x-forwarded-for").map(hop_address).collect();
        let (host, proto) = (first("x-forwarded-host"), first("x-forwarded-proto"));
        let port = first("x-forwarded-port");
        if hops.is_empty() && host.is_none() && proto.is_none() && port.is_none() {
            return None;
        }
        let host = host.map(str::to_owned);
        Some(Self { hops, host, https: proto.and_then(is_https), port: port.and_then(parse_port) })
    }

    /// Reads `Forwarded`. A field that can't be read hides what came before it.
    fn by_forwarded(headers: &HeaderMap) -> Self {
        let mut read = Self::default();
        for field in headers.get_all("forwarded") {
            let Some(elements) = forwarded::parse(field.as_bytes()) else {
                read.hops.push(None);
                continue;
            };
            for element in elements {
                read.hops.push(element.node.as_deref().and_then(hop_address));
                read.host = read.host.or_else(|| element.host.filter(|host| !host.is_empty()));
                read.https = read.https.or_else(|| element.proto.as_deref().and_then(is_https));
            }
        }
        read
    }
}

/// Returns the elements of a list that are not empty, from all fields of that name.
fn list<'a>(headers: &'a HeaderMap, name: &'static str) -> impl Iterator<Item = &'a str> {
    let fields = headers.get_all(name).iter().map(|field| field.to_str().unwrap_or("?"));
    fields.flat_map(|field| field.split(',')).map(str::trim).filter(|element| !element.is_empty())
}

/// Parses an address with or without a port, as proxies write it: IPv6 with or without brackets or zone.
fn hop_address(text: &str) -> Option<IpAddr> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let bare = bare.split('%').next().unwrap_or_default();
    let address = bare.parse().ok().or_else(|| text.parse().ok().map(|address: SocketAddr| address.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

fn is_https(proto: &str) -> Option<bool> {
    match proto.to_ascii_lowercase().as_str() {
        "https" | "wss" => Some(true),
        "http" | "ws" => Some(false),
        _ => None,
    }
}

fn parse_port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port != 0 && text.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: &[(&'static str, &str)]) -> Forwarding {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        Forwarding::read(&headers)
    }

    fn hops(read: &Forwarding) -> Vec<String> {
        read.hops.iter().map(|hop| hop.map_or_else(|| "?".to_owned(), |hop| hop.to_string())).collect()
    }

    #[test]
    fn the_first_element_of_all_fields_is_the_clients() {
        let said = read(&[
            ("x-forwarded-host", ""),
            ("x-forwarded-host", " , registry.example:5000, inner"),
            ("x-forwarded-host", "other"),
            ("x-forwarded-proto", "HTTPS,http"),
            ("x-forwarded-port", "8443, 80"),
        ]);
        assert_eq!(said.host.as_deref(), Some("registry.example:5000"));
        assert_eq!((said.https, said.port), (Some(true), Some(8443)));
        let none =
            read(&[("x-forwarded-host", ""), ("x-forwarded-proto", "gopher"), ("x-forwarded-port", "+1")]);
        assert_eq!((none.host, none.https, none.port), (None, None, None));
    }

    #[test]
    fn every_way_to_write_an_address_is_read() {
        let said = read(&[
            ("x-forwarded-for", "192.0.2.1:5, [2001:db8::1]:6,,"),
            (
                "x-forwarded-for",
                "2001:db8::2, [2001:db8::3], ::ffff:192.0.2.4, [::ffff:192.0.2.5]:7, fe80::1%eth0, unknown",
            ),
        ]);
        let expected = [
            "192.0.2.1",
            "2001:db8::1",
            "2001:db8::2",
            "2001:db8::3",
            "192.0.2.4",
            "192.0.2.5",
            "fe80::1",
            "?",
        ];
        assert_eq!(hops(&said), expected);
    }

    #[test]
    fn forwarded_counts_where_there_is_no_x_forwarded_field() {
        let field = "for=\"[2001:db8::1]:80\";host=a.example;proto=https, for=_hidden;host=inner";
        let said = read(&[("forwarded", field), ("forwarded", "for=10.0.0.1"), ("x-forwarded-for", "")]);
        assert_eq!(hops(&said), ["2001:db8::1", "?", "10.0.0.1"]);
        assert_eq!((said.host.as_deref(), said.https), (Some("a.example"), Some(true)));
        let both = read(&[("forwarded", "for=6.6.6.6;host=evil"), ("x-forwarded-for", "192.0.2.1")]);
        assert_eq!((hops(&both), both.host), (vec!["192.0.2.1".to_owned()], None));
        assert_eq!(hops(&read(&[("forwarded", "for=6.6.6.6"), ("forwarded", "for=\"")])), ["6.6.6.6", "?"]);
    }
}
