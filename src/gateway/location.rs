//! Where an upstream's Location leads.

use http::{HeaderMap, Uri, header};

use crate::config::UpstreamUrl;

/// The upstream's location is not at the upstream.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Foreign;

/// Path and query of an answer's location, which may be absolute or path-absolute (RFC 9110 section 10.2.2). The
/// scheme is not looked at: a registry behind a TLS terminator often gets its own wrong.
pub(super) fn location(url: &UpstreamUrl, headers: &HeaderMap) -> Result<Option<String>, Foreign> {
    let Some(value) = headers.get(header::LOCATION) else { return Ok(None) };
    let text = value.to_str().map_err(|_| Foreign)?;
    // RFC 3986 section 4.2: `//host/path` names a host. To `Uri` it would be a path.
    let network_path =
        text.starts_with("//").then(|| format!("http{}:{text}", if url.https { "s" } else { "" }));
    let uri: Uri = network_path.as_deref().unwrap_or(text).parse().map_err(|_| Foreign)?;
    if let Some(authority) = uri.authority() {
        let port = authority.port_u16().or_else(|| default_port(uri.scheme_str()));
        let same_port = port == Some(url.port) || authority.port().is_none();
        if !authority.host().eq_ignore_ascii_case(&url.host) || !same_port {
            return Err(Foreign);
        }
    }
    match uri.path_and_query() {
        Some(target) if target.as_str().starts_with('/') => Ok(Some(target.as_str().to_owned())),
        _ => Err(Foreign),
    }
}

fn default_port(scheme: Option<&str>) -> Option<u16> {
    match scheme {
        Some("https") => Some(443),
        Some("http") => Some(80),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn led(to: &'static str) -> Result<Option<String>, Foreign> {
        let url = UpstreamUrl { https: true, host: "up.example".into(), port: 443, path: String::new() };
        location(&url, &HeaderMap::from_iter([(header::LOCATION, to.parse().unwrap())]))
    }

    #[test]
    fn a_location_at_the_upstream_keeps_its_bytes() {
        for to in [
            "/v2/a?_state=a%2Bb%3D&x",
            "https://up.example/v2/a?_state=a%2Bb%3D&x",
            "HTTPS://UP.example:443/v2/a?_state=a%2Bb%3D&x",
        ] {
            assert_eq!(led(to), Ok(Some("/v2/a?_state=a%2Bb%3D&x".into())), "{to}");
        }
        assert_eq!(led("http://up.example/x"), Ok(Some("/x".into())), "a scheme that is wrong");
    }

    #[test]
    fn any_other_host_is_foreign() {
        for to in [
            "https://evil.example/x",
            "https://up.example:444/x",
            "//evil.example/x",
            "x/y",
            "https://up.example.evil/x",
        ] {
            assert_eq!(led(to), Err(Foreign), "{to}");
        }
    }
}
