//! `Forwarded`: what each proxy says of the request that it got (RFC 7239).

use crate::proto::syntax::{Scanner, Stop};

/// An element of `Forwarded`, which one proxy wrote. The parameters that it leaves out are `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ForwardedElement {
    /// `for`: the node that the request came from; an address with or without a port, `unknown` or a made-up name.
    pub(crate) node: Option<String>,
    /// `host`: the Host field of that request.
    pub(crate) host: Option<String>,
    /// `proto`: its scheme.
    pub(crate) proto: Option<String>,
}

/// Parses one field, the proxy nearest to the client first. Values may stand without the quotes that addresses of IPv6
/// need: proxies forget them. `None` where the field is malformed.
pub(crate) fn parse(field: &[u8]) -> Option<Vec<ForwardedElement>> {
    let mut scanner = Scanner::new(field);
    let mut elements = Vec::new();
    scanner.commas();
    while !scanner.is_done() {
        elements.push(element(&mut scanner).ok()?);
        scanner.element_end().ok()?;
        scanner.commas();
    }
    Some(elements)
}

/// `forwarded-element = [ forwarded-pair ] *( ";" [ forwarded-pair ] )`
fn element(scanner: &mut Scanner<'_>) -> Result<ForwardedElement, Stop> {
    let mut element = ForwardedElement::default();
    loop {
        scanner.whitespace();
        if !matches!(scanner.peek(), None | Some(b';' | b',')) {
            pair(scanner, &mut element)?;
            scanner.whitespace();
        }
        if !scanner.eat(b';') {
            return Ok(element);
        }
    }
}

fn pair(scanner: &mut Scanner<'_>, element: &mut ForwardedElement) -> Result<(), Stop> {
    let name = scanner.token()?.to_ascii_lowercase();
    if !scanner.eat(b'=') {
        return Err(Stop::Invalid);
    }
    let value = scanner.value(is_bare)?;
    match name.as_str() {
        "for" => element.node = Some(value),
        "host" => element.host = Some(value),
        "proto" => element.proto = Some(value),
        _ => {}
    }
    Ok(())
}

fn is_bare(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b';' | b',' | b'"')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(field: &str) -> Option<Vec<[Option<String>; 3]>> {
        let elements = parse(field.as_bytes())?.into_iter();
        Some(elements.map(|element| [element.node, element.host, element.proto]).collect())
    }

    fn element([node, host, proto]: [&str; 3]) -> [Option<String>; 3] {
        [node, host, proto].map(|text| (!text.is_empty()).then(|| text.to_owned()))
    }

    #[test]
    fn the_examples_of_rfc_7239_are_read() {
        for (field, expected) in [
            ("for=\"_gazonk\"", vec![["_gazonk", "", ""]]),
            ("For=\"[2001:db8:cafe::17]:4711\"", vec![["[2001:db8:cafe::17]:4711", "", ""]]),
            ("for=192.0.2.60;proto=http;by=203.0.113.43", vec![["192.0.2.60", "", "http"]]),
            ("for=192.0.2.43, for=198.51.100.17", vec![["192.0.2.43", "", ""], ["198.51.100.17", "", ""]]),
            ("for=192.0.2.43,for=unknown", vec![["192.0.2.43", "", ""], ["unknown", "", ""]]),
            ("for=[::1];HOST=a:5000 ; proto=https;", vec![["[::1]", "a:5000", "https"]]),
            (", ;host=\"a\\\"b, c\" ,,for=1.2.3.4", vec![["", "a\"b, c", ""], ["1.2.3.4", "", ""]]),
            ("", vec![]),
        ] {
            assert_eq!(
                shown(field).unwrap(),
                expected.into_iter().map(element).collect::<Vec<_>>(),
                "{field}"
            );
        }
    }

    #[test]
    fn malformed_fields_are_refused() {
        for field in ["for", "for=", "=a", "for=\"a", "for=a b", "for=a=b\"", "for = a"] {
            assert_eq!(parse(field.as_bytes()), None, "{field}");
        }
    }

    proptest! {
        #[test]
        fn no_field_panics(field: Vec<u8>, text in "[a-z=;,\"\\\\ :\\[\\]]{0,40}") {
            let _ = parse(&field);
            let _ = parse(text.as_bytes());
        }
    }
}
