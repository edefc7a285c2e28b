//! HTTP itself: what could be read in two ways is refused, and never reaches an upstream.

use crate::harness::{EMPTY_INDEX, Gate, Gateway, Reply, Request, Upstream, index_of, noise, sha256};

async fn both() -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    let gateway = Gateway::open(&upstream).await;
    (upstream, gateway)
}

/// These bytes are refused with 400, or without an answer, and the connection is closed: what follows them on it is
/// never read as a request.
async fn refused(gateway: &Gateway, bytes: &[u8]) {
    let mut client = gateway.connect().await;
    client.send(bytes).await;
    let answer = client.answer().await;
    assert!(
        matches!(answer.status, 400 | 431 | 501),
        "{}: {}",
        String::from_utf8_lossy(bytes),
        answer.status
    );
    client.ends().await;
}

const SMUGGLED: &str = "GET /v2/smuggled/manifests/x HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[tokio::test]
async fn both_transfer_encoding_and_content_length_are_refused() {
    let (upstream, gateway) = both().await;
    let headers = [
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 0\r\ntransfer-encoding: CHUNKED\r\n",
    ];
    for headers in headers {
        for method in ["GET", "PUT"] {
            let head = format!("{method} /v2/a/manifests/x HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
            refused(&gateway, format!("{head}0\r\n\r\n{SMUGGLED}").as_bytes()).await;
        }
    }
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn conflicting_or_malformed_content_lengths_are_refused() {
    let (upstream, gateway) = both().await;
    let lengths = ["5\r\nContent-Length: 6", "5, 6", "+5", "-1", "0x5", "5 5", "", "99999999999999999999999"];
    for length in lengths {
        let head = "PUT /v2/a/manifests/x HTTP/1.1\r\nHost: localhost\r\n";
        refused(&gateway, format!("{head}Content-Length: {length}\r\n\r\nabcde").as_bytes()).await;
    }
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn transfer_codings_other_than_chunked_are_refused() {
    let (upstream, gateway) = both().await;
    for coding in ["gzip", "gzip, chunked", "chunked, gzip", "chunked, chunked", "xchunked", "identity"] {
        let head = "PUT /v2/a/manifests/x HTTP/1.1\r\nHost: localhost\r\n";
        let mut client = gateway.connect().await;
        client.send(format!("{head}Transfer-Encoding: {coding}\r\n\r\n0\r\n\r\n")).await;
        let answer = client.answer().await;
        assert!(matches!(answer.status, 400 | 501), "{coding}: {}", answer.status);
    }
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn malformed_heads_are_refused() {
    let (upstream, gateway) = both().await;
    let heads = [
        // obs-fold
        "GET /v2/ HTTP/1.1\r\nHost: localhost\r\nX-A: b\r\n c\r\n\r\n",
        "GET /v2/ HTTP/1.1\r\nHost: localhost\r\n X-A: b\r\n\r\n",
        // a space before the colon
        "GET /v2/ HTTP/1.1\r\nHost : localhost\r\n\r\n",
        "PUT /v2/a/manifests/x HTTP/1.1\r\nHost: localhost\r\nContent-Length : 5\r\n\r\nabcde",
        // a bare CR, a NUL
        "GET /v2/ HTTP/1.1\r\nHost: localhost\r\nX-A: b\rc\r\n\r\n",
        "GET /v2/ HTTP/1.1\r\nHost: localhost\r\nX-A: b\0c\r\n\r\n",
        "GET /v2/\r HTTP/1.1\r\nHost: localhost\r\n\r\n",
        // no name, no method, no version, another protocol
        "GET /v2/ HTTP/1.1\r\nHost: localhost\r\n: b\r\n\r\n",
        "GET /v2/ HTTP/1.1\r\nHost: localhost\r\nno colon\r\n\r\n",
        "G@T /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /v2/\r\nHost: localhost\r\n\r\n",
        "GET /v2/ HTTP/1.2\r\nHost: localhost\r\n\r\n",
        "GET /v2/ x HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\r\n\r\n",
    ];
    for head in heads {
        refused(&gateway, format!("{head}{SMUGGLED}").as_bytes()).await;
    }
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn a_request_needs_exactly_one_host() {
    let (_upstream, gateway) = both().await;
    for hosts in ["", "Host: localhost\r\nHost: localhost\r\n", "Host: localhost\r\nhost: evil\r\n"] {
        let mut client = gateway.connect().await;
        client.send(format!("GET /v2/ HTTP/1.1\r\n{hosts}\r\n")).await;
        client.answer().await.refuses(400, "NAME_UNKNOWN");
    }
}

#[tokio::test]
async fn a_targets_own_authority_goes_before_host() {
    let upstream = Upstream::start().await;
    let builder = Gateway::builder().server("external_url = \"http://registry.example\"");
    let gateway = builder.upstream("up", "", upstream.address).start().await;
    let ask = |target: &str, host: &str| gateway.ask(Request::get(target).header("Host", host));
    ask("http://registry.example/v2/", "registry.example").await.is(200);
    // RFC 9112 section 3.2.2.
    ask("http://registry.example/v2/", "evil.example").await.is(200);
    ask("http://evil.example/v2/", "registry.example").await.refuses(421, "NAME_UNKNOWN");
    ask("http://user@registry.example/v2/", "registry.example").await.refuses(400, "NAME_UNKNOWN");
    ask("http://evil.example/v2/", "evil.example").await.refuses(421, "NAME_UNKNOWN");
    upstream.expect("GET", "/v2/a/manifests/x", Reply::ok(EMPTY_INDEX));
    ask("http://registry.example/v2/a/manifests/x", "registry.example").await.is(200);
}

#[tokio::test]
async fn connect_and_the_asterisk_form_are_refused() {
    let (upstream, gateway) = both().await;
    for line in ["CONNECT localhost:80", "CONNECT evil.example:443", "OPTIONS *"] {
        let mut client = gateway.connect().await;
        client.send(format!("{line} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        let answer = client.answer().await;
        assert!(matches!(answer.status, 400 | 404 | 405), "{line}: {}", answer.status);
    }
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn http_1_0_is_answered_and_its_connection_closed() {
    let (upstream, gateway) = both().await;
    upstream.expect("GET", "/v2/a/manifests/x", Reply::ok(EMPTY_INDEX));
    let mut client = gateway.connect().await;
    client.send("GET /v2/a/manifests/x HTTP/1.0\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(client.answer().await.is(200).text(), EMPTY_INDEX);
    client.ends().await;
    // RFC 9112 section 6.1: a client of 1.0 can't know of chunks.
    let content = noise(10_000);
    let blob = format!("/v2/a/blobs/{}", sha256(&content));
    upstream.expect("GET", blob.as_str(), Reply::ok(&content).chunked(999));
    let mut client = gateway.connect().await;
    client.send(format!("GET {blob} HTTP/1.0\r\nHost: localhost\r\n\r\n")).await;
    let answer = client.answer().await.is(200);
    assert_eq!(answer.header("transfer-encoding"), None);
    assert!(answer.body == content);
}

#[tokio::test]
async fn an_http_1_0_body_that_breaks_off_is_reset() {
    for tls in [false, true] {
        let upstream = Upstream::start().await;
        let builder = if tls { Gateway::builder().tls(&["localhost"]) } else { Gateway::builder() };
        let gateway = builder.upstream_with("up", "", upstream.address, "retries = 0").start().await;
        let content = noise(100_000);
        let blob = format!("/v2/a/blobs/{}", sha256(&content));
        let gate = Gate::shut();
        let cut = Reply::ok(&content).chunked(9999).cut_after(60_000, &gate);
        upstream.expect("GET", blob.as_str(), cut);
        upstream.otherwise(|heard| (heard.method == "GET").then(|| Reply::status(500)));
        let mut client = gateway.connect().await;
        client.send(format!("GET {blob} HTTP/1.0\r\nHost: localhost\r\n\r\n")).await;
        let head = client.head().await;
        assert_eq!(
            (head.status, head.header("content-length"), head.header("transfer-encoding")),
            (200, None, None)
        );
        gate.open();
        client.breaks_off(head).await;
    }
}

#[tokio::test]
async fn chunks_in_http_1_0_are_refused() {
    let (upstream, gateway) = both().await;
    let mut client = gateway.connect().await;
    let head = "PUT /v2/a/manifests/x HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.send(format!("{head}2\r\n{{}}\r\n0\r\n\r\n")).await;
    client.answer().await.is(400);
    client.ends().await;
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn malformed_chunks_abort_the_upstream_request() {
    let (upstream, gateway) = both().await;
    // The manifest is read whole before the upstream hears of it: it hears nothing at all.
    let bodies = [
        "zz\r\nab\r\n0\r\n\r\n",
        "2\r\nabc\r\n0\r\n\r\n",
        "ffffffffffffffffff\r\n",
        "-1\r\n",
        "2\nab\n0\n\n",
    ];
    for body in bodies {
        let mut client = gateway.connect().await;
        let head = Request::put("/v2/a/manifests/x").header("Transfer-Encoding", "chunked");
        client.send(head.bytes("localhost")).await;
        client.send(body).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 400, "{body:?}");
        client.ends().await;
    }
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn trailers_are_dropped() {
    let (upstream, gateway) = both().await;
    let mut asked = upstream.expect("PUT", "/v2/a/manifests/x", Reply::status(201));
    let mut client = gateway.connect().await;
    let head = Request::put("/v2/a/manifests/x").header("Transfer-Encoding", "chunked");
    client.send(head.header("Trailer", "X-Evil").bytes("localhost")).await;
    client.send("2\r\n{}\r\n0\r\nX-Evil: 1\r\nAuthorization: Basic eA==\r\n\r\n").await;
    client.answer().await.is(201);
    let seen = asked.done().await;
    assert_eq!(seen.body, b"{}");
    assert!(!format!("{:?}", seen.headers).to_lowercase().contains("evil"));
    client.ask(&Request::get("/v2/")).await.is(200);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order() {
    let (upstream, gateway) = both().await;
    let mut bytes = Vec::new();
    for number in 0..5 {
        let target = format!("/v2/a/manifests/v{number}");
        upstream.expect("GET", target.as_str(), Reply::ok(index_of(&number.to_string())));
        bytes.extend_from_slice(&Request::get(target).bytes("localhost"));
    }
    let mut client = gateway.connect().await;
    client.send(bytes).await;
    for number in 0..5 {
        assert_eq!(client.answer().await.is(200).text(), index_of(&number.to_string()));
    }
}

#[tokio::test]
async fn an_unread_body_is_not_the_next_request() {
    let (upstream, gateway) = both().await;
    let mut client = gateway.connect().await;
    let mut asked = upstream.expect("GET", "/v2/a/manifests/x", Reply::ok(EMPTY_INDEX));
    client.send(Request::get("/v2/a/manifests/x").body(SMUGGLED).bytes("localhost")).await;
    client.answer().await.is(200);
    asked.done().await;
    client.ends().await;
}

#[tokio::test]
async fn a_close_is_honoured() {
    let (_upstream, gateway) = both().await;
    let mut client = gateway.connect().await;
    let answer = client.ask(&Request::get("/v2/").header("Connection", "close")).await.is(200);
    assert_eq!(answer.header("connection"), Some("close"));
    client.ends().await;
}

#[tokio::test]
async fn an_upgrade_is_not_taken_up() {
    let (upstream, gateway) = both().await;
    let mut asked = upstream.expect("GET", "/v2/a/manifests/x", Reply::ok(EMPTY_INDEX));
    let request = Request::get("/v2/a/manifests/x").header("Connection", "Upgrade, HTTP2-Settings");
    let request = request.header("Upgrade", "h2c").header("HTTP2-Settings", "AAMAAABkAAQAAP__");
    gateway.ask(request).await.is(200);
    assert_eq!(asked.done().await.headers.get("upgrade"), None);
}

#[tokio::test]
async fn an_upstream_redirect_to_a_private_address_is_refused() {
    let (upstream, gateway) = both().await;
    let stranger = Upstream::start().await;
    let blob = format!("/v2/a/blobs/{}", sha256(b""));
    let there = format!("http://{}/cdn", stranger.address);
    upstream.expect("GET", blob.as_str(), Reply::status(307).header("Location", &there));
    gateway.get(&blob).await;
    assert_eq!(stranger.connections(), 0);
}

#[tokio::test]
async fn blob_redirects_can_be_passed_to_the_client() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::builder().upstream_with("up", "", upstream.address, "redirects = \"pass\"");
    let gateway = gateway.start().await;
    let there = "https://cdn.example/signed?X-Signature=a%2Bb";
    let blob = format!("/v2/a/blobs/{}", sha256(b""));
    upstream.expect("GET", blob.as_str(), Reply::status(307).header("Location", there));
    let answer = gateway.get(&blob).await.is(307);
    assert_eq!(answer.header("location"), Some(there));
}

#[tokio::test]
async fn a_redirect_of_the_upstream_to_itself_is_followed() {
    let (upstream, gateway) = both().await;
    upstream.expect("GET", "/v2/a/manifests/x", Reply::status(307).header("Location", "/elsewhere?q=a%2Bb"));
    upstream.expect("GET", "/elsewhere?q=a%2Bb", Reply::ok(index_of("there")));
    assert_eq!(gateway.get("/v2/a/manifests/x").await.is(200).text(), index_of("there"));
}

#[tokio::test]
async fn redirects_in_circles_and_of_writes_are_502() {
    let (upstream, gateway) = both().await;
    for _ in 0..6 {
        let back = "/v2/a/manifests/x";
        upstream.expect("GET", "/v2/a/manifests/x", Reply::status(302).header("Location", back));
    }
    gateway.get("/v2/a/manifests/x").await.refuses(502, "UNAVAILABLE");
    upstream.expect("DELETE", "/v2/a/manifests/x", Reply::status(307).header("Location", "/y"));
    gateway.ask(Request::new("DELETE", "/v2/a/manifests/x")).await.refuses(502, "UNAVAILABLE");
}

#[tokio::test]
async fn a_head_longer_than_64_kib_is_refused() {
    let (_upstream, gateway) = both().await;
    let long = "x".repeat(70_000);
    let answer = gateway.ask(Request::get("/v2/a/manifests/x").header("X-Long", &long)).await;
    assert!([400, 431].contains(&answer.status), "{}", answer.status);
}

#[tokio::test]
async fn over_http2_authority_and_host_must_agree() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::builder().tls(&["localhost"]).upstream("up", "", upstream.address).start().await;
    let mut client = gateway.http2().await;
    client.ask(&Request::get("/v2/").header("host", "localhost")).await.is(200);
    client.ask(&Request::get("/v2/").header("host", "evil.example")).await.refuses(400, "NAME_UNKNOWN");
}

#[tokio::test]
async fn from_a_trusted_proxy_the_forwarded_host_counts() {
    let upstream = Upstream::start().await;
    let start = |proxies: &'static str| {
        let builder = Gateway::builder().server("external_url = \"http://registry.example\"");
        builder.server(proxies).upstream("up", "", upstream.address).start()
    };
    let ask =
        || Request::get("/v2/").header("Host", "backend").header("X-Forwarded-Host", "registry.example");
    start("trusted_proxies = [\"127.0.0.1\"]").await.ask(ask()).await.is(200);
    start("trusted_proxies = [\"192.0.2.1\"]").await.ask(ask()).await.refuses(421, "NAME_UNKNOWN");
}
