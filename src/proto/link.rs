//! The way to the next page of a listing: the `Link` header.

use std::fmt;

use crate::proto::syntax::{Scanner, Stop, is_token_byte};

/// A link (RFC 8288 section 3).
///
/// ```text
/// Link       = #link-value
/// link-value = "<" URI-Reference ">" *( OWS ";" OWS [ link-param ] )
/// link-param = token BWS [ "=" BWS ( token / quoted-string ) ]
/// ```
///
/// Read more leniently, because registries write it so: without the brackets, with single quotes, and with spaces or
/// other characters in the target that no URI has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    /// A URI or a part of one, as it was written: to be resolved against the request's.
    pub target: String,
    /// The relation types, in lower case.
    pub rel: Vec<String>,
}

/// Returns every well-formed link of every header line, in order. A line is read up to the first link outside the
/// grammar.
pub(crate) fn parse_all<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Vec<Link> {
    lines.into_iter().flat_map(parse_line).collect()
}

/// Returns the target of the first link to the next page (distribution-spec, "Listing Tags": RFC 5988 with
/// `rel="next"`).
pub fn next<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Option<String> {
    parse_all(lines).into_iter().find(|link| link.rel.iter().any(|rel| rel == "next")).map(|link| link.target)
}

impl Link {
    /// Creates `<target>; rel="next"`.
    pub(crate) fn next(target: &str) -> Self {
        Self { target: target.into(), rel: vec!["next".into()] }
    }
}

/// Percent-encodes the bytes that cannot stand between the angle brackets.
impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>; rel=\"{}\"", encoded(&self.target), self.rel.join(" "))
    }
}

/// Percent-encodes what can stand in no request target, and leaves everything else to the byte.
pub(crate) fn encoded(target: &str) -> String {
    let mut encoded = String::with_capacity(target.len());
    for byte in target.bytes() {
        if is_target(byte) { encoded.push(byte.into()) } else { encoded.push_str(&format!("%{byte:02X}")) }
    }
    encoded
}

fn parse_line(line: &[u8]) -> Vec<Link> {
    let mut scanner = Scanner::new(line);
    let mut links = Vec::new();
    loop {
        scanner.commas();
        match parse_link(&mut scanner) {
            Ok(link) => links.push(link),
            Err(_) => return links,
        }
    }
}

fn parse_link(scanner: &mut Scanner<'_>) -> Result<Link, Stop> {
    let target = parse_target(scanner)?;
    let mut rel = None;
    loop {
        scanner.whitespace();
        if !scanner.eat(b';') {
            break;
        }
        // RFC 8288 section 3.3: only the first `rel` counts.
        rel = rel.or(parse_rel(scanner)?);
    }
    scanner.element_end()?;
    Ok(Link { target, rel: rel.unwrap_or_default() })
}

/// Parses the target: within angle brackets, or, as some registries write it, without them up to the parameters.
fn parse_target(scanner: &mut Scanner<'_>) -> Result<String, Stop> {
    let bytes = if scanner.eat(b'<') {
        let bytes = scanner.take_while(is_written);
        if !scanner.eat(b'>') {
            return Err(Stop::Invalid);
        }
        bytes
    } else {
        scanner.take_while(|byte| is_written(byte) && byte != b';')
    };
    let bytes = bytes.trim_ascii();
    if bytes.is_empty() { Err(Stop::Invalid) } else { Ok(text(bytes)) }
}

/// Returns a target as text; bytes that are not UTF-8 are percent-encoded.
fn text(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|byte| format!("%{byte:02X}")));
    }
    text
}

/// Parses one parameter and returns its value's words if it is `rel`.
fn parse_rel(scanner: &mut Scanner<'_>) -> Result<Option<Vec<String>>, Stop> {
    scanner.whitespace();
    if matches!(scanner.peek(), None | Some(b';' | b',')) {
        return Ok(None);
    }
    let key = scanner.token()?;
    scanner.whitespace();
    if !scanner.eat(b'=') {
        return Ok(None);
    }
    scanner.whitespace();
    let value = parse_value(scanner)?;
    let words = value.split_ascii_whitespace().map(str::to_ascii_lowercase).collect();
    Ok(Some(words).filter(|_| key.eq_ignore_ascii_case("rel")))
}

/// Parses a value in double quotes, in single ones, or in none.
fn parse_value(scanner: &mut Scanner<'_>) -> Result<String, Stop> {
    if !scanner.eat(b'\'') {
        return scanner.value(is_token_byte);
    }
    let value = text(scanner.take_while(|byte| byte != b'\''));
    if scanner.eat(b'\'') { Ok(value) } else { Err(Stop::Incomplete) }
}

/// Returns true for a byte that a registry may have written into a target, though RFC 3986 has fewer.
fn is_written(byte: u8) -> bool {
    !byte.is_ascii_control() && !matches!(byte, b'<' | b'>')
}

/// Returns true for a visible character other than the angle brackets. (RFC 3986 has fewer; registries put JSON into
/// cursors.)
fn is_target(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'<' | b'>')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn find(lines: &[&str]) -> Option<String> {
        next(lines.iter().map(|line| line.as_bytes()))
    }

    #[test]
    fn the_next_page_is_found() {
        let tags = "/v2/a/tags/list?n=100&last=v9";
        for line in [
            "</v2/a/tags/list?n=100&last=v9>; rel=\"next\"",
            "</v2/a/tags/list?n=100&last=v9>;rel=next",
            "</v2/a/tags/list?n=100&last=v9> ; Title=\"a, <b>; rel=prev\" ; REL = \"first NEXT\"",
            "<x>; rel=prev, </v2/a/tags/list?n=100&last=v9>; ;x; rel=next, <y>; rel=next",
        ] {
            assert_eq!(find(&[line]).as_deref(), Some(tags), "{line}");
        }
        assert_eq!(find(&["<a>; rel=prev", "<https://x/y>; rel=next"]).as_deref(), Some("https://x/y"));
    }

    #[test]
    fn a_link_is_understood_however_it_is_written() {
        for (line, target) in [
            ("/v2/a/tags/list?last=b; rel=\"next\"", "/v2/a/tags/list?last=b"),
            ("  https://x/v2/_catalog?n=1&last=a,b ;rel=next", "https://x/v2/_catalog?n=1&last=a,b"),
            ("<?last=b>; rel='next'", "?last=b"),
            ("<list?last=b>; rel = 'first NEXT'", "list?last=b"),
            ("< /v2/a?last=x y >; rel=next", "/v2/a?last=x y"),
            ("<a>; rel='prev', <b>; rel='next'", "b"),
        ] {
            assert_eq!(find(&[line]).as_deref(), Some(target), "{line}");
        }
        assert_eq!(next([&b"<?last=\xe9\xc3\xa9>; rel=next"[..]]).as_deref(), Some("?last=%E9\u{e9}"));
    }

    #[test]
    fn what_is_no_next_page_is_none() {
        for line in [
            "",
            "<a>",
            "<a>; rel=prev",
            "<a; rel=next",
            "<>; rel=next",
            "; rel=next",
            "<a>; rel='next",
            "<a>; rel=\"next",
            "<a>; rel=prev; rel=next",
            "<a>; rel",
            "<a>; rel=next x",
        ] {
            assert_eq!(find(&[line]), None, "{line}");
        }
    }

    #[test]
    fn no_target_breaks_out_of_its_brackets() {
        assert_eq!(Link::next("/a>\r\n b").to_string(), "</a%3E%0D%0A%20b>; rel=\"next\"");
    }

    proptest! {
        #[test]
        fn what_is_rendered_parses_back(target in "[!-;=?-~]{1,30}") {
            let link = Link::next(&target);
            prop_assert_eq!(parse_all([link.to_string().as_bytes()]), [link]);
        }

        #[test]
        fn no_line_panics(line in any::<Vec<u8>>(), likely in "[<>a;=\", rel\\\\]{0,40}") {
            let _ = next([line.as_slice(), likely.as_bytes()]);
        }
    }
}
