//! Absolute URLs whose bytes stay as they are.
//!
//! A signed URL is good for exactly the bytes that were signed: it is taken apart at the authority and no further.

use std::fmt;
use std::sync::Arc;

use crate::config::limits;
use crate::proto::authority::{Authority, AuthorityError, scheme_port};

/// Scheme, host and port (RFC 6454 section 4).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    /// The scheme: https, else http.
    pub(crate) https: bool,
    /// In lower case, without a trailing dot; IPv6 addresses without brackets.
    pub(crate) host: String,
    /// The port.
    pub(crate) port: u16,
}

/// An http or https URL without user information and fragment. Neither `Debug` nor `Display` shows the query, which may
/// hold a signature.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Url {
    /// Scheme, host and port.
    pub(crate) origin: Arc<Origin>,
    /// Path and query, byte for byte; begins with `/`.
    pub(crate) target: String,
}

/// The reason why a text is not a URL to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UrlError {
    /// Neither http nor https.
    #[error("it is not an http or https URL")]
    Scheme,
    /// No host, or not one that can be resolved.
    #[error("its host is not a host name or address")]
    Host,
    /// A port that is 0, above 65535, or not written in digits.
    #[error("its port is none")]
    Port,
    /// `user@host`.
    #[error("it holds a user name")]
    UserInformation,
    /// A space, a control character, a backslash, or a character outside ASCII. Some parsers read a backslash as a
    /// slash.
    #[error("it holds characters that no URL has")]
    Characters,
    /// Longer than [`limits::URL_BYTES`].
    #[error("it is longer than {} KiB", limits::URL_BYTES / 1024)]
    Length,
}

impl Origin {
    /// Returns the value of the Host field: without the scheme's own port, IPv6 addresses in brackets.
    pub(crate) fn authority(&self) -> String {
        Authority::render(&self.host, self.port, self.https)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.https { "https" } else { "http" }, self.authority())
    }
}

impl Url {
    /// Splits an absolute URL. A fragment is dropped, and so is the dot at the end of a host name.
    ///
    /// # Errors
    /// [`UrlError`] where it is not a URL, or one that two parsers could read differently.
    pub(crate) fn parse(text: &str) -> Result<Self, UrlError> {
        let text = without_fragment(checked(text)?);
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::Scheme)?;
        let https = is_https(scheme)?;
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let Authority { host, port } = parse_authority(authority)?;
        let port = port.unwrap_or_else(|| scheme_port(https));
        let slash = if target.starts_with('/') { "" } else { "/" };
        Ok(Self { origin: Arc::new(Origin { https, host, port }), target: format!("{slash}{target}") })
    }

    /// Resolves a reference against this URL (RFC 3986 section 5.2): absolute, `//host/…`, `/path`, `?query`, `path`.
    /// Dot segments are removed from relative paths alone; an absolute path stays as it was signed.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub(crate) fn join(&self, reference: &str) -> Result<Self, UrlError> {
        let reference = without_fragment(checked(reference)?);
        if reference.starts_with("//") {
            return Self::parse(&format!("{}:{reference}", if self.origin.https { "https" } else { "http" }));
        }
        if has_scheme(reference) {
            return Self::parse(reference);
        }
        let joined = Self { origin: self.origin.clone(), target: self.joined_target(reference) };
        checked(&joined.target)?;
        Ok(joined)
    }

    fn joined_target(&self, reference: &str) -> String {
        if reference.starts_with('/') {
            return reference.to_owned();
        }
        let path = self.path();
        let (relative, query) = reference.split_at(reference.find('?').unwrap_or(reference.len()));
        match (relative, query) {
            ("", "") => self.target.clone(),
            ("", query) => format!("{path}{query}"),
            _ => {
                let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
                format!("{}{query}", without_dots(&format!("{folder}/{relative}")))
            }
        }
    }

    fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// Returns the whole URL, query included.
    pub(crate) fn expose(&self) -> String {
        format!("{}{}", self.origin, self.target)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.path())
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Returns a Location as the URL that its sender means: spaces and bytes outside ASCII are percent-encoded, as Go and curl
/// do it. In a host they stay wrong.
pub(crate) fn written(location: &[u8]) -> String {
    let mut encoded = String::with_capacity(location.len());
    for &byte in location.trim_ascii() {
        if byte == b' ' || !byte.is_ascii() {
            encoded.push_str(&format!("%{byte:02X}"));
        } else {
            encoded.push(byte.into());
        }
    }
    encoded
}

/// Returns true if a reference names a host and no port.
pub(crate) fn leaves_port_open(reference: &str) -> bool {
    let Some((scheme, rest)) = reference.split_once("//") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host_end = authority.rfind(']').unwrap_or(0);
    (scheme.is_empty() || is_https(scheme.trim_end_matches(':')).is_ok())
        && !authority[host_end..].contains(':')
}

fn checked(text: &str) -> Result<&str, UrlError> {
    if text.len() > limits::URL_BYTES {
        return Err(UrlError::Length);
    }
    let plain = |b: u8| b.is_ascii_graphic() && b != b'\\';
    if text.bytes().all(plain) { Ok(text) } else { Err(UrlError::Characters) }
}

fn without_fragment(text: &str) -> &str {
    text.split('#').next().unwrap_or_default()
}

fn is_https(scheme: &str) -> Result<bool, UrlError> {
    match scheme {
        _ if scheme.eq_ignore_ascii_case("https") => Ok(true),
        _ if scheme.eq_ignore_ascii_case("http") => Ok(false),
        _ => Err(UrlError::Scheme),
    }
}

/// Returns true if a colon comes before any slash or query (RFC 3986 section 3.1).
fn has_scheme(reference: &str) -> bool {
    reference.find([':', '/', '?']).is_some_and(|at| reference.as_bytes()[at] == b':')
}

fn parse_authority(text: &str) -> Result<Authority, UrlError> {
    if text.contains('@') {
        return Err(UrlError::UserInformation);
    }
    Authority::parse_absolute(text).map_err(|error| match error {
        AuthorityError::Host => UrlError::Host,
        AuthorityError::Port => UrlError::Port,
    })
}

/// Removes dot segments (RFC 3986 section 5.2.4) from a path that begins with a slash.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_dots = segment == "." || segment == "..";
        if segment == ".." {
            kept.pop();
        }
        if !is_dots {
            kept.push(segment);
        } else if segments.peek().is_none() {
            kept.push("");
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn urls_are_taken_apart_at_the_authority() {
        for (written, https, host, port, target) in [
            ("https://registry-1.docker.io/v2/", true, "registry-1.docker.io", 443, "/v2/"),
            ("HTTPS://Auth.Docker.IO/token?a=%2b&b", true, "auth.docker.io", 443, "/token?a=%2b&b"),
            ("http://a", false, "a", 80, "/"),
            ("https://a?q=1", true, "a", 443, "/?q=1"),
            ("https://a/b?c#d?e", true, "a", 443, "/b?c"),
            ("https://a#@evil.example", true, "a", 443, "/"),
            ("https://a?@evil.example", true, "a", 443, "/?@evil.example"),
            ("https://a.example.:8443/", true, "a.example", 8443, "/"),
            ("http://[::1]:5000/x", false, "::1", 5000, "/x"),
            ("http://[0:0::FFFF:7f00:1]", false, "::ffff:127.0.0.1", 80, "/"),
            ("http://127.0.0.1./x", false, "127.0.0.1", 80, "/x"),
            ("https://my_registry/a/../b//c/%2e%2e", true, "my_registry", 443, "/a/../b//c/%2e%2e"),
            ("https://xn--bcher-kva.example/", true, "xn--bcher-kva.example", 443, "/"),
            ("https://1.2.3.4.example/", true, "1.2.3.4.example", 443, "/"),
            ("https://a/s?X-Amz-Signature=ab{}|\"^", true, "a", 443, "/s?X-Amz-Signature=ab{}|\"^"),
        ] {
            let url = Url::parse(written).unwrap();
            let origin = Origin { https, host: host.into(), port };
            assert_eq!((&*url.origin, url.target.as_str()), (&origin, target), "{written}");
        }
    }

    #[test]
    fn ambiguous_urls_are_refused() {
        use UrlError::{Characters, Host, Port, Scheme, UserInformation};
        for (written, why) in [
            ("", Scheme),
            ("/v2/", Scheme),
            ("//a/b", Scheme),
            ("a.example/b", Scheme),
            ("ftp://a/", Scheme),
            ("file:///etc/passwd", Scheme),
            ("https:/a/", Scheme),
            ("https:a", Scheme),
            ("://a", Scheme),
            ("httpss://a", Scheme),
            ("https://", Host),
            ("https:///a", Host),
            ("https://:443/", Host),
            ("https://./", Host),
            ("https://a../", Host),
            ("https://a..b/", Host),
            ("https://-a/", Host),
            ("https://a%2eb/", Host),
            ("https://a,b/", Host),
            ("https://[::1/", Host),
            ("https://[fe80::1%25eth0]/", Host),
            ("https://[v1.x]/", Host),
            ("https://[127.0.0.1]/", Host),
            ("https://::1/", Host),
            ("https://0x7f.1/", Host),
            ("https://0x7f000001/", Host),
            ("https://127.0.0.0x1/", Host),
            ("https://127.0.0.0X/", Host),
            ("https://2130706433/", Host),
            ("https://0177.0.0.1/", Host),
            ("https://127.1/", Host),
            ("https://1.2.3.4.5/", Host),
            ("https://256.0.0.1/", Host),
            ("https://a:/", Port),
            ("https://a:0/", Port),
            ("https://a:65536/", Port),
            ("https://a:+1/", Port),
            ("https://a:b:1/", Port),
            ("https://[::1]5/", Port),
            ("https://user@a/", UserInformation),
            ("https://user:secret@a/", UserInformation),
            ("https://a:443@evil.example/", UserInformation),
            ("https://a\\@evil.example/", Characters),
            ("https://a\\.evil.example/", Characters),
            ("https://a /", Characters),
            ("https://a/\r\nHost: b", Characters),
            ("https://a/\u{e9}", Characters),
            ("https://b\u{fc}cher.example/", Characters),
        ] {
            assert_eq!(Url::parse(written), Err(why), "{written}");
        }
    }

    #[test]
    fn a_url_is_not_endless() {
        let url = format!("https://a/{}", "x".repeat(limits::URL_BYTES));
        assert!(Url::parse(&url[..limits::URL_BYTES]).is_ok());
        assert_eq!(Url::parse(&url), Err(UrlError::Length));
        let long = Url::parse(&url[..limits::URL_BYTES]).unwrap();
        assert_eq!(long.join(&format!("?{}", "q".repeat(100))), Err(UrlError::Length));
    }

    #[test]
    fn references_are_resolved_as_rfc_3986_has_it() {
        // The examples of section 5.4, with the path-absolute ones left as they are written.
        let base = Url::parse("http://a/b/c/d;p?q").unwrap();
        for (reference, joined) in [
            ("g", "http://a/b/c/g"),
            ("./g", "http://a/b/c/g"),
            ("g/", "http://a/b/c/g/"),
            ("/g", "http://a/g"),
            ("//g", "http://g/"),
            ("?y", "http://a/b/c/d;p?y"),
            ("g?y", "http://a/b/c/g?y"),
            ("#s", "http://a/b/c/d;p?q"),
            ("g#s", "http://a/b/c/g"),
            (";x", "http://a/b/c/;x"),
            ("", "http://a/b/c/d;p?q"),
            (".", "http://a/b/c/"),
            ("./", "http://a/b/c/"),
            ("..", "http://a/b/"),
            ("../g", "http://a/b/g"),
            ("../..", "http://a/"),
            ("../../../g", "http://a/g"),
            ("/./g", "http://a/./g"),
            ("/../g", "http://a/../g"),
            ("g.", "http://a/b/c/g."),
            ("..g", "http://a/b/c/..g"),
            ("./g/.", "http://a/b/c/g/"),
            ("g/../h", "http://a/b/c/h"),
            ("g?y/../x", "http://a/b/c/g?y/../x"),
            ("g;x=1/../y", "http://a/b/c/y"),
            ("HTTPS://g/x?y#z", "https://g/x?y"),
            ("//g:8443?x", "http://g:8443/?x"),
            (".//evil.example", "http://a/b/c//evil.example"),
            ("..//..//evil.example", "http://a/b//evil.example"),
        ] {
            assert_eq!(base.join(reference).map(|url| url.expose()).as_deref(), Ok(joined), "{reference}");
        }
    }

    #[test]
    fn unusable_references_are_refused() {
        let base = Url::parse("https://a/b").unwrap();
        for (reference, why) in [
            ("g:h", UrlError::Scheme),
            ("https:g", UrlError::Scheme),
            ("javascript://a/", UrlError::Scheme),
            ("///a", UrlError::Host),
            ("//me@a", UrlError::UserInformation),
            ("/\\evil.example", UrlError::Characters),
            ("\\\\evil.example", UrlError::Characters),
            ("\thttps://evil.example", UrlError::Characters),
        ] {
            assert_eq!(base.join(reference), Err(why), "{reference}");
        }
    }

    #[test]
    fn a_location_is_percent_encoded_where_it_must_be() {
        let base = Url::parse("https://a/b").unwrap();
        for (location, url) in [
            (&b"/x y?a=b c&sig=%2b+"[..], Ok("https://a/x%20y?a=b%20c&sig=%2b+")),
            ("https://c/\u{e9}?n=\u{fc}".as_bytes(), Ok("https://c/%C3%A9?n=%C3%BC")),
            (b"/latin\xe9", Ok("https://a/latin%E9")),
            (b" /x ", Ok("https://a/x")),
            ("https://b\u{fc}cher.example/".as_bytes(), Err(UrlError::Host)),
            (b"https://a b/", Err(UrlError::Host)),
            (b"/x\ty", Err(UrlError::Characters)),
            (b"/x\\y", Err(UrlError::Characters)),
        ] {
            let joined = base.join(&written(location)).map(|url| url.expose());
            assert_eq!(joined.as_deref().map_err(|error| *error), url, "{}", location.escape_ascii());
        }
    }

    #[test]
    fn references_may_omit_the_port() {
        for open in ["https://a/b", "//a", "HTTP://a?x:5", "http://[::1]/", "//a#:5"] {
            assert!(leaves_port_open(open), "{open}");
        }
        for said in ["https://a:443/b", "//a:5", "http://[::1]:80/", "/a//b", "?x=https://a", "a/b"] {
            assert!(!leaves_port_open(said), "{said}");
        }
    }

    #[test]
    fn neither_display_nor_debug_shows_the_query() {
        let url = Url::parse("https://a:444/b?sig=secret").unwrap();
        assert_eq!(
            (format!("{url}"), format!("{url:?}")),
            ("https://a:444/b".into(), "https://a:444/b".into())
        );
        assert_eq!(url.expose(), "https://a:444/b?sig=secret");
    }

    proptest! {
        #[test]
        fn parsing_and_exposing_round_trips(
            https: bool,
            host in "([a-z0-9_]{1,8}\\.){0,2}[a-z]{1,5}",
            port in 1u16..,
            target in "/[!-\"$-\\[\\]-~]{0,30}",
        ) {
            let written = format!("http{}://{host}:{port}{target}", if https { "s" } else { "" });
            let url = Url::parse(&written).unwrap();
            prop_assert_eq!(&url.target, &target);
            prop_assert_eq!(&*url.origin, &Origin { https, host, port });
            prop_assert_eq!(Url::parse(&url.expose()).unwrap(), url);
        }

        #[test]
        fn joined_urls_parse_again_and_nothing_panics(reference in "\\PC{0,30}|[ -~]{0,30}") {
            let _ = (Url::parse(&reference), Url::parse(&format!("https://{reference}")));
            let _ = leaves_port_open(&reference);
            let base = Url::parse("https://a.example:444/b/c?d").unwrap();
            if let Ok(joined) = base.join(&reference) {
                prop_assert!(joined.target.starts_with('/'));
                prop_assert_eq!(Url::parse(&joined.expose()), Ok(joined));
            }
        }

        #[test]
        fn references_without_a_host_stay_at_the_origin(path in "[/?]?[a-z.][a-z./?=]{0,30}") {
            let base = Url::parse("https://a.example:444/b/c?d").unwrap();
            prop_assert_eq!(base.join(&path).unwrap().origin, base.origin);
        }
    }
}
