//! Headers on their way through: an allow-list towards the upstream, a strip-list towards the client.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::gateway::respond::Problem;
use crate::proto::Operation;
use crate::proto::hop_by_hop::{HOP_BY_HOP, connection_listed};
use crate::upstream::retry_after;

/// The headers of a request that go upstream. Authorization and cookies are for the gateway, never for the upstream;
/// everything that names a client (`X-Forwarded-*`, `Forwarded`) stays here too.
const PASSED_UP: [HeaderName; 8] = [
    header::CONTENT_TYPE,
    header::CONTENT_RANGE,
    header::RANGE,
    header::IF_RANGE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::USER_AGENT,
];

/// The headers of an upstream that would bind or track a client: none reaches it.
const STRIPPED: [&str; 10] = [
    "set-cookie",
    "set-cookie2",
    "alt-svc",
    "strict-transport-security",
    "www-authenticate",
    "nel",
    "report-to",
    "reporting-endpoints",
    "public-key-pins",
    "clear-site-data",
];

/// The gateway's mark in Via (RFC 9110 section 7.6.3).
#[derive(Clone, Debug)]
pub(super) struct Via {
    pseudonym: String,
    value: HeaderValue,
}

impl Via {
    /// Returns a mark that no other process has, by which a request that comes back is recognised.
    pub(super) fn new() -> Self {
        let mut bytes = [0u8; 8];
        // Without randomness the mark is shared, which could only refuse a chain of two such gateways.
        let _ = aws_lc_rs::rand::fill(&mut bytes);
        let pseudonym = format!("dockgate-{:016x}", u64::from_be_bytes(bytes));
        let value = HeaderValue::from_str(&format!("1.1 {pseudonym}"))
            .unwrap_or_else(|_| HeaderValue::from_static("1.1 dockgate"));
        Self { pseudonym, value }
    }

    /// Adds the mark to `out`, which is sent on behalf of a request with `headers`.
    pub(super) fn mark(&self, headers: &HeaderMap, out: &mut HeaderMap) {
        out.insert(header::VIA, self.value.clone());
        for earlier in headers.get_all(header::VIA) {
            out.append(header::VIA, earlier.clone());
        }
    }

    /// Returns the headers of a request that the gateway makes for all of its clients, caused by one with `headers`: of that
    /// one, only the marks of other gateways go along, by which a loop is recognised.
    pub(super) fn mark_own(&self, headers: &HeaderMap) -> HeaderMap {
        let mut out = HeaderMap::with_capacity(8);
        out.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        out.insert(
            header::USER_AGENT,
            HeaderValue::from_static(concat!("dockgate/", env!("CARGO_PKG_VERSION"))),
        );
        out.insert(header::VIA, self.value.clone());
        let lines = headers.get_all(header::VIA).iter().filter_map(|line| line.to_str().ok());
        let marks = lines.flat_map(|line| line.split(',')).map(str::trim).filter(|mark| is_mark(mark));
        for mark in marks.take(MARKS).filter_map(|mark| HeaderValue::from_str(mark).ok()) {
            out.append(header::VIA, mark);
        }
        out
    }

    /// Refuses a request that has been here already.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let seen = headers.get_all(header::VIA).iter().filter_map(|value| value.to_str().ok());
        if seen.into_iter().any(|value| value.contains(&self.pseudonym)) {
            Err(Problem::Loop)
        } else {
            Ok(())
        }
    }
}

/// Returns true for the mark of a gateway like this one.
fn is_mark(text: &str) -> bool {
    let digits = text.strip_prefix("1.1 dockgate-");
    digits.is_some_and(|digits| digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The most gateways in a row whose marks are passed on.
const MARKS: usize = 16;

/// Returns the headers for an upstream, made from a client's.
pub(super) fn to_upstream(operation: &Operation, headers: &HeaderMap, via: &Via) -> HeaderMap {
    let mut out = HeaderMap::with_capacity(12);
    let is_manifest = matches!(operation, Operation::GetManifest { .. });
    for name in &PASSED_UP {
        // A manifest is checked, which a part of it can't be.
        let whole = is_manifest && [header::RANGE, header::IF_RANGE].contains(name);
        if let Some(value) = headers.get(name).filter(|_| !whole) {
            out.insert(name, value.clone());
        }
    }
    if matches!(operation, Operation::GetManifest { .. } | Operation::Referrers { .. })
        && let Some(accept) = merged(headers, &header::ACCEPT)
    {
        out.insert(header::ACCEPT, accept);
    }
    // Bytes are passed on as they are, and a digest is over the bytes without any coding.
    out.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    via.mark(headers, &mut out);
    out
}

/// Joins the lines of a list field (RFC 9110 section 5.3): some registries read only the first.
fn merged(headers: &HeaderMap, name: &HeaderName) -> Option<HeaderValue> {
    let mut lines = headers.get_all(name).iter();
    let first = lines.next()?;
    let mut joined = Vec::new();
    for line in lines {
        if joined.is_empty() {
            joined.extend_from_slice(first.as_bytes());
        }
        joined.extend_from_slice(b", ");
        joined.extend_from_slice(line.as_bytes());
    }
    if joined.is_empty() { Some(first.clone()) } else { HeaderValue::from_bytes(&joined).ok() }
}

/// Removes the headers of an upstream that are not for the client: what belongs to this connection alone (RFC 9110
/// section 7.6.1), and what would bind or track it. Length and type are the body's, whatever Connection says of them.
pub(super) fn to_client(operation: &Operation, headers: &mut HeaderMap) {
    let listed = connection_listed(headers.get_all(header::CONNECTION).iter().map(HeaderValue::as_bytes));
    for name in listed.iter().filter(|name| !matches!(name.as_str(), "content-length" | "content-type")) {
        headers.remove(name.as_str());
    }
    for name in HOP_BY_HOP.iter().chain(&STRIPPED) {
        headers.remove(*name);
    }
    headers.insert(header::CACHE_CONTROL, cache_control(operation));
    // Upstreams write it in ways that clients misread.
    if let Some(wait) = retry_after(headers) {
        headers.insert(header::RETRY_AFTER, wait.as_secs().into());
    } else {
        headers.remove(header::RETRY_AFTER);
    }
}

/// Returns the `Cache-Control` of an answer: it is for one client alone (RFC 9111 section 3.5), and what a digest names never
/// changes.
pub(super) fn cache_control(operation: &Operation) -> HeaderValue {
    let immutable = matches!(operation, Operation::GetBlob { .. })
        || matches!(operation, Operation::GetManifest { .. } if operation.digest().is_some());
    HeaderValue::from_static(if immutable { "private, max-age=31536000, immutable" } else { "no-cache" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Target;

    fn operation(method: &str, path: &str) -> Operation {
        Target::parse(method, path, None).unwrap().operation
    }

    #[test]
    fn credentials_and_client_names_never_go_upstream() {
        let mut headers = HeaderMap::new();
        for name in ["authorization", "cookie", "x-forwarded-for", "forwarded", "x-real-ip", "host", "expect"]
        {
            headers.insert(name, HeaderValue::from_static("secret"));
        }
        headers.insert("range", HeaderValue::from_static("bytes=0-1"));
        let names = |path: &str| {
            let out = to_upstream(&operation("GET", path), &headers, &Via::new());
            out.keys().map(ToString::to_string).collect::<Vec<_>>()
        };
        let blob = format!("/v2/a/blobs/sha256:{}", "0".repeat(64));
        assert_eq!(names(&blob), ["range", "accept-encoding", "via"]);
        assert_eq!(names("/v2/a/manifests/x"), ["accept-encoding", "via"], "a part can't be checked");
    }

    #[test]
    fn a_shared_request_has_nothing_of_its_client() {
        let mut headers = HeaderMap::new();
        headers.insert("user-agent", HeaderValue::from_static("evil"));
        headers.append("via", HeaderValue::from_static("1.1 evil, 1.1 dockgate-0123456789abcdef"));
        let out = Via::new().mark_own(&headers);
        assert!(out[header::USER_AGENT].to_str().unwrap().starts_with("dockgate/"));
        let via: Vec<_> = out.get_all(header::VIA).iter().skip(1).collect();
        assert_eq!(via, ["1.1 dockgate-0123456789abcdef"]);
    }

    #[test]
    fn accept_lines_become_one() {
        let mut headers = HeaderMap::new();
        for value in ["a/b", "c/d;q=0.5", "*/*"] {
            headers.append(header::ACCEPT, value.parse().unwrap());
        }
        let out = to_upstream(&operation("GET", "/v2/a/manifests/x"), &headers, &Via::new());
        assert_eq!(out.get_all(header::ACCEPT).iter().collect::<Vec<_>>(), ["a/b, c/d;q=0.5, */*"]);
    }

    #[test]
    fn a_request_that_comes_back_is_a_loop() {
        let via = Via::new();
        let out = to_upstream(&operation("GET", "/v2/a/manifests/x"), &HeaderMap::new(), &via);
        assert!(matches!(via.check(&out), Err(Problem::Loop)));
        assert!(Via::new().check(&out).is_ok(), "another gateway may stand in front");
    }

    #[test]
    fn a_retry_after_goes_out_in_whole_seconds() {
        for (written, told) in
            [("17", Some("17")), ("99999", Some("3600")), ("1.5", Some("2")), ("soon", None)]
        {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(written));
            to_client(&operation("GET", "/v2/a/manifests/x"), &mut headers);
            let out = headers.get(header::RETRY_AFTER).map(|value| value.to_str().unwrap());
            assert_eq!(out, told, "{written}");
        }
    }

    #[test]
    fn headers_that_connection_lists_are_dropped_except_the_length() {
        let mut headers = HeaderMap::new();
        headers.insert("connection", HeaderValue::from_static("X-Private, content-length, close"));
        headers.insert("x-private", HeaderValue::from_static("1"));
        headers.insert("content-length", HeaderValue::from_static("3"));
        headers.insert("set-cookie", HeaderValue::from_static("a=b"));
        headers.insert("docker-content-digest", HeaderValue::from_static("sha256:x"));
        to_client(&operation("GET", "/v2/a/manifests/x"), &mut headers);
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["cache-control", "content-length", "docker-content-digest"]);
    }
}
