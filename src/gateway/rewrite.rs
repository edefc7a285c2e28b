//! Headers on their way through: an allow-list in each direction.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::gateway::respond::Problem;
use crate::proto::hop_by_hop::connection_listed;
use crate::proto::media_type::OCTET_STREAM;
use crate::proto::{MediaType, Operation};
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

/// The headers of an upstream's answer that go to the client, besides those that begin as [`PASSED_FAMILIES`] do.
/// Everything else stays here: a header can bind or track a client, or give orders to a proxy in front of the gateway
/// (`X-Accel-Redirect`, `X-Sendfile`) or to a browser (`Access-Control-*`, `Refresh`, `Clear-Site-Data`).
const PASSED_DOWN: [HeaderName; 12] = [
    header::CONTENT_TYPE,
    header::CONTENT_LENGTH,
    header::CONTENT_ENCODING,
    header::CONTENT_RANGE,
    header::ACCEPT_RANGES,
    header::RANGE,
    header::ETAG,
    header::LAST_MODIFIED,
    header::DATE,
    header::WARNING,
    header::RETRY_AFTER,
    header::ALLOW,
];

/// The registry API's own headers, and the rate limits that clients show (`regctl image ratelimit`).
const PASSED_FAMILIES: [&str; 4] = ["docker-", "oci-", "ratelimit", "x-ratelimit"];

/// The gateway's mark in Via (RFC 9110 section 7.6.3).
#[derive(Clone, Debug)]
pub(super) struct Via {
    pseudonym: String,
    value: HeaderValue,
    /// The headers of a request of the gateway's own which no other gateway has caused.
    own: Arc<HeaderMap>,
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
        let mut own = HeaderMap::with_capacity(8);
        own.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        own.insert(
            header::USER_AGENT,
            HeaderValue::from_static(concat!("dockgate/", env!("CARGO_PKG_VERSION"))),
        );
        own.insert(header::VIA, value.clone());
        Self { pseudonym, value, own: Arc::new(own) }
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
    pub(super) fn mark_own(&self, headers: &HeaderMap) -> Arc<HeaderMap> {
        if !headers.contains_key(header::VIA) {
            return self.own.clone();
        }
        let mut out = HeaderMap::clone(&self.own);
        let lines = headers.get_all(header::VIA).iter().filter_map(|line| line.to_str().ok());
        let marks = lines.flat_map(|line| line.split(',')).map(str::trim).filter(|mark| is_mark(mark));
        for mark in marks.take(MARKS).filter_map(|mark| HeaderValue::from_str(mark).ok()) {
            out.append(header::VIA, mark);
        }
        Arc::new(out)
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

/// Keeps of an upstream's headers what is for the client. A header that Connection lists is for the gateway alone (RFC
/// 9110 section 7.6.1); length and type are the body's, whatever Connection says of them.
pub(super) fn to_client(operation: &Operation, headers: &mut HeaderMap) {
    let listed = connection_listed(headers.get_all(header::CONNECTION).iter().map(HeaderValue::as_bytes));
    let is_private = |name: &HeaderName| {
        *name != header::CONTENT_LENGTH
            && *name != header::CONTENT_TYPE
            && listed.iter().any(|listed| listed == name.as_str())
    };
    let mut passed = None;
    for (name, value) in std::mem::take(headers) {
        if let Some(name) = name {
            passed = Some(name).filter(|name| is_passed(operation, name) && !is_private(name));
        }
        if let Some(name) = &passed {
            headers.append(name, value);
        }
    }
    if let Some(given) = headers.get(header::CONTENT_TYPE) {
        headers.insert(header::CONTENT_TYPE, content_type(operation, given.clone()));
    }
    headers.insert(header::CACHE_CONTROL, cache_control(operation));
    // Upstreams write it in ways that clients misread.
    if let Some(wait) = retry_after(headers) {
        headers.insert(header::RETRY_AFTER, wait.as_secs().into());
    } else {
        headers.remove(header::RETRY_AFTER);
    }
}

fn is_passed(operation: &Operation, name: &HeaderName) -> bool {
    // The handlers of these operations say it in the client's words.
    if *name == header::LINK {
        return has_pages(operation);
    }
    if *name == header::LOCATION {
        return has_location(operation);
    }
    let text = name.as_str();
    PASSED_DOWN.contains(name) || PASSED_FAMILIES.iter().any(|family| text.starts_with(family))
}

fn has_pages(operation: &Operation) -> bool {
    matches!(operation, Operation::ListTags { .. } | Operation::Referrers { .. } | Operation::Catalog { .. })
}

/// Returns true for a write that creates something, and for a blob, whose redirect may be the client's to follow.
fn has_location(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::GetBlob { .. }
            | Operation::PutManifest { .. }
            | Operation::StartUpload { .. }
            | Operation::UploadStatus { .. }
            | Operation::PatchUpload { .. }
            | Operation::FinishUpload { .. }
            | Operation::CancelUpload { .. }
    )
}

/// Returns the `Content-Type` of an upstream's answer for the client: a type of the registry world stays, and any other
/// becomes `application/octet-stream`. A page that was pushed as a blob must not run in a browser, with the login
/// that the browser remembers for the gateway.
pub(super) fn content_type(operation: &Operation, given: HeaderValue) -> HeaderValue {
    if given == OCTET_STREAM {
        return given;
    }
    let known = given.to_str().ok().and_then(|text| MediaType::parse(text).ok());
    let is_blob = matches!(operation, Operation::GetBlob { .. });
    let harmless = |known: &MediaType| match known.as_str() {
        // A manifest is recognised by its body where its type says as little as these.
        "text/plain" | "binary/octet-stream" => !is_blob,
        "multipart/byteranges" => is_blob,
        _ => known.is_inert(),
    };
    if known.is_some_and(|known| harmless(&known)) { given } else { HeaderValue::from_static(OCTET_STREAM) }
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

    #[test]
    fn only_headers_of_the_registry_world_reach_the_client() {
        let kept = [
            "content-length",
            "content-range",
            "docker-content-digest",
            "docker-ratelimit-source",
            "docker-upload-uuid",
            "etag",
            "last-modified",
            "oci-subject",
            "range",
            "ratelimit-limit",
            "ratelimit-remaining",
            "retry-after",
            "warning",
        ];
        let dropped = [
            "access-control-allow-credentials",
            "access-control-allow-origin",
            "alt-svc",
            "clear-site-data",
            "content-disposition",
            "content-location",
            "content-security-policy",
            "link",
            "location",
            "referrer-policy",
            "refresh",
            "server",
            "service-worker-allowed",
            "set-cookie",
            "sourcemap",
            "transfer-encoding",
            "vary",
            "x-accel-buffering",
            "x-accel-redirect",
            "x-anything-new",
            "x-cache",
            "x-lighttpd-send-file",
            "x-reproxy-url",
            "x-sendfile",
        ];
        let mut headers = HeaderMap::new();
        for name in kept.iter().chain(&dropped) {
            headers.append(*name, HeaderValue::from_static("1"));
            headers.append(*name, HeaderValue::from_static("2"));
        }
        to_client(&operation("GET", "/v2/a/manifests/x"), &mut headers);
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        let mut expected = [&kept[..], &["cache-control"]].concat();
        expected.sort_unstable();
        assert_eq!(names, expected);
        assert_eq!(headers.get_all("oci-subject").iter().count(), 2);
    }

    #[test]
    fn links_and_locations_are_kept_for_their_handlers() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let blob = format!("/v2/a/blobs/{digest}");
        let cases = [
            ("GET", "/v2/a/tags/list", "link"),
            ("GET", "/v2/_catalog", "link"),
            ("GET", &blob, "location"),
            ("POST", "/v2/a/blobs/uploads/", "location"),
            ("PUT", "/v2/a/manifests/x", "location"),
        ];
        for (method, path, kept) in cases {
            let mut headers = HeaderMap::new();
            headers.insert("link", HeaderValue::from_static("1"));
            headers.insert("location", HeaderValue::from_static("2"));
            to_client(&operation(method, path), &mut headers);
            headers.remove("cache-control");
            assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), [kept], "{method} {path}");
        }
    }

    #[test]
    fn no_type_that_a_browser_runs_reaches_the_client() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let blob = operation("GET", &format!("/v2/a/blobs/{digest}"));
        let manifest = operation("GET", "/v2/a/manifests/x");
        let given = |operation: &Operation, text: &'static str| {
            content_type(operation, HeaderValue::from_static(text)).to_str().unwrap().to_owned()
        };
        for kept in [
            "application/octet-stream",
            "application/vnd.oci.image.config.v1+json",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "application/vnd.oci.image.layer.v1.tar+zstd",
            "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
            "application/json; charset=utf-8",
            "application/spdx+json",
        ] {
            assert_eq!((given(&blob, kept), given(&manifest, kept)), (kept.to_owned(), kept.to_owned()));
        }
        for run in [
            "text/html",
            "TEXT/HTML; charset=utf-8",
            "image/svg+xml",
            "application/xhtml+xml",
            "application/vnd.mozilla.xul+xml",
            "application/xml",
            "text/javascript",
            "application/javascript",
            "application/pdf",
            "multipart/x-mixed-replace; boundary=a",
            "text/html, application/json",
            "",
            "*/*",
        ] {
            assert_eq!(given(&blob, run), OCTET_STREAM, "{run}");
            assert_eq!(given(&manifest, run), OCTET_STREAM, "{run}");
        }
        assert_eq!(given(&blob, "multipart/byteranges; boundary=a"), "multipart/byteranges; boundary=a");
        assert_eq!(given(&blob, "text/plain"), OCTET_STREAM);
        assert_eq!(given(&manifest, "text/plain"), "text/plain");
    }
}
