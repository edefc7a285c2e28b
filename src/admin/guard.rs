//! Keeps out requests that a web page in a browser on this machine could cause.

use std::net::IpAddr;

use http::{Request, header};

use crate::net::Peer;
use crate::proto::Authority;

/// Returns true if the request comes from this machine, and Host and Origin name it. A web page can send requests here by a
/// name that resolves to loopback (Host is then that name) or from its own origin.
pub(super) fn is_local<B>(request: &Request<B>, peer: Peer) -> bool {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    peer.address.to_canonical().is_loopback()
        && host.is_some_and(is_local_authority)
        && is_of_no_page(request)
}

/// Returns true if no web page causes the request, or one of this machine does: browsers name the page's origin.
pub(super) fn is_of_no_page<B>(request: &Request<B>) -> bool {
    let mut origins = request.headers().get_all(header::ORIGIN).iter();
    let local = |origin: &str| origin.strip_prefix("http://").is_some_and(is_local_authority);
    origins.all(|origin| origin.to_str().is_ok_and(local))
}

/// Returns true if the body is JSON. A page can send a form anywhere, and an old browser sends it without an Origin. No form
/// has this type, and before a script may send it the browser asks here (Fetch, "CORS-preflight"), which is answered with 405.
pub(super) fn is_json<B>(request: &Request<B>) -> bool {
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    content_type.is_some_and(|text| {
        text.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
    })
}

/// Returns true for `localhost` and loopback addresses. Not for names below `.localhost`, which some resolvers look up.
fn is_local_authority(authority: &str) -> bool {
    let is_loopback =
        |host: &str| host.parse().is_ok_and(|address: IpAddr| address.to_canonical().is_loopback());
    Authority::parse(authority).is_ok_and(|known| known.host == "localhost" || is_loopback(&known.host))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::AddressSource;

    fn asked(host: &str, origin: Option<&str>) -> bool {
        let mut request = Request::get("/healthz").header(header::HOST, host);
        if let Some(origin) = origin {
            request = request.header(header::ORIGIN, origin);
        }
        is_local(&request.body(()).unwrap(), peer("127.0.0.1"))
    }

    fn peer(address: &str) -> Peer {
        Peer { address: address.parse().unwrap(), source: AddressSource::Socket, tls: false }
    }

    #[test]
    fn another_machine_is_not_local_whatever_it_says() {
        let request = || Request::get("/metrics").header(header::HOST, "localhost:5001").body(()).unwrap();
        for (address, local) in [
            ("127.0.0.2", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("10.0.0.1", false),
            ("::ffff:10.0.0.1", false),
        ] {
            assert_eq!(is_local(&request(), peer(address)), local, "{address}");
        }
    }

    #[test]
    fn only_names_of_this_machine_are_local() {
        for host in [
            "127.0.0.1:5001",
            "localhost:5001",
            "[::1]:5001",
            "localhost",
            "127.0.0.1",
            "127.9.9.9:1",
            "[::ffff:127.0.0.1]:1",
        ] {
            assert!(asked(host, None), "{host}");
        }
        for host in [
            "evil.example:5001",
            "localhost.evil.example",
            "192.0.2.1:5001",
            "",
            "localhost:x:y",
            "a.localhost",
        ] {
            assert!(!asked(host, None), "{host}");
        }
        assert!(asked("localhost:5001", Some("http://localhost:5001")));
        assert!(!asked("localhost:5001", Some("http://evil.example")));
        assert!(!asked("localhost:5001", Some("null")));
    }

    #[test]
    fn a_forms_content_type_is_refused() {
        let typed = |kind| Request::post("/").header(header::CONTENT_TYPE, kind).body(()).unwrap();
        for kind in ["application/json", "Application/JSON; charset=utf-8"] {
            assert!(is_json(&typed(kind)), "{kind}");
        }
        for kind in
            ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "text/json", ""]
        {
            assert!(!is_json(&typed(kind)), "{kind}");
        }
        assert!(!is_json(&Request::post("/").body(()).unwrap()));
    }
}
