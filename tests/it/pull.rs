//! Reading: what goes up, what comes down, and all the ways in which an upstream can fail.

use std::time::Duration;

use crate::harness::{
    Answer, Client, EMPTY_INDEX, Ending, Gate, Gateway, Http2, Reply, Request, Upstream, index_of, noise,
    sha256,
};

const TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

async fn both() -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    let gateway = Gateway::open(&upstream).await;
    (upstream, gateway)
}

async fn with(lines: &str) -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    let gateway = Gateway::builder().upstream_with("up", "", upstream.address, lines).start().await;
    (upstream, gateway)
}

fn blob(content: &[u8]) -> String {
    format!("/v2/a/blobs/{}", sha256(content))
}

#[tokio::test]
async fn a_manifest_arrives_byte_for_byte() {
    let (upstream, gateway) = both().await;
    let bytes = b"{ \"manifests\" :[] }\n";
    let reply = || {
        let reply = Reply::ok(bytes).header("Content-Type", TYPE);
        reply.header("Docker-Content-Digest", &sha256(bytes)).header("ETag", "\"tag\"")
    };
    upstream.expect("GET", "/v2/a/manifests/x", reply());
    let got = gateway.get("/v2/a/manifests/x").await.is(200);
    assert_eq!(got.body, bytes);
    upstream.expect("HEAD", "/v2/a/manifests/x", reply());
    let head = gateway.ask(Request::head("/v2/a/manifests/x")).await.is(200);
    for answer in [got, head] {
        assert_eq!(answer.header("content-type"), Some(TYPE));
        assert_eq!(answer.header("content-length"), Some("20"));
        assert_eq!(answer.header("docker-content-digest"), Some(sha256(bytes).as_str()));
        assert_eq!(answer.header("etag"), Some("\"tag\""));
        assert_eq!(answer.header("cache-control"), Some("no-cache"));
        assert_eq!(answer.header("transfer-encoding"), None);
    }
}

#[tokio::test]
async fn a_blob_has_its_length_and_is_never_compressed() {
    let (upstream, gateway) = both().await;
    let content = noise(3 << 20);
    let mut asked = upstream.expect("GET", blob(&content), Reply::ok(&content));
    let request = Request::get(blob(&content)).header("Accept-Encoding", "gzip, br");
    let answer = gateway.ask(request).await.is(200);
    assert!(answer.body == content);
    assert_eq!(answer.header("content-length"), Some("3145728"));
    assert_eq!(answer.header("cache-control"), Some("private, max-age=31536000, immutable"));
    assert_eq!(asked.done().await.headers.get("accept-encoding"), Some("identity"));
}

#[tokio::test]
async fn a_coding_over_right_bytes_is_noise() {
    let (upstream, gateway) = both().await;
    for coding in ["gzip", "x-gzip", "aws-chunked", ""] {
        let reply = Reply::ok(EMPTY_INDEX).header("Content-Encoding", coding);
        upstream.expect("GET", "/v2/a/manifests/x", reply);
        let answer = gateway.get("/v2/a/manifests/x").await.is(200);
        assert_eq!((answer.text().as_str(), answer.header("content-encoding")), (EMPTY_INDEX, None));
        upstream.expect("GET", blob(b"layer"), Reply::ok("layer").header("Content-Encoding", coding));
        let answer = gateway.get(&blob(b"layer")).await.is(200);
        assert_eq!((answer.text().as_str(), answer.header("content-encoding")), ("layer", None));
    }
}

#[tokio::test]
async fn ranges_go_through_both_ways() {
    let (upstream, gateway) = both().await;
    let target = blob(b"0123456789");
    let reply = Reply::status(206).body("2345").header("Content-Range", "bytes 2-5/10");
    let mut asked = upstream.expect("GET", target.as_str(), reply.header("Accept-Ranges", "bytes"));
    let request = Request::get(&target).header("Range", "bytes=2-5").header("If-Range", "\"x\"");
    let answer = gateway.ask(request).await.is(206);
    assert_eq!((answer.text().as_str(), answer.header("content-range")), ("2345", Some("bytes 2-5/10")));
    assert_eq!(answer.header("accept-ranges"), Some("bytes"));
    let seen = asked.done().await;
    assert_eq!(seen.headers.get("range"), Some("bytes=2-5"));
    assert_eq!(seen.headers.get("if-range"), Some("\"x\""));

    upstream.expect("GET", target.as_str(), Reply::status(416).header("Content-Range", "bytes */10"));
    let answer = gateway.ask(Request::get(&target).header("Range", "bytes=99-")).await;
    let answer = answer.refuses(416, "RANGE_INVALID");
    assert_eq!(answer.header("content-range"), Some("bytes */10"));
}

#[tokio::test]
async fn a_condition_that_holds_is_304_without_a_body() {
    let (upstream, gateway) = both().await;
    let reply = Reply::raw("HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 500\r\n\r\n");
    let mut asked = upstream.expect("GET", "/v2/a/manifests/x", reply);
    let mut client = gateway.connect().await;
    let request = Request::get("/v2/a/manifests/x").header("If-None-Match", "\"x\"");
    let answer = client.ask(&request).await.is(304);
    assert_eq!((answer.body.len(), answer.header("etag")), (0, Some("\"x\"")));
    assert_eq!(asked.done().await.headers.get("if-none-match"), Some("\"x\""));
    client.ask(&Request::get("/v2/")).await.is(200);
}

#[tokio::test]
async fn accept_lines_are_merged_into_one() {
    let (upstream, gateway) = both().await;
    let mut asked = upstream.expect("GET", "/v2/a/manifests/x", Reply::ok(EMPTY_INDEX));
    let request = Request::get("/v2/a/manifests/x").header("Accept", TYPE).header("Accept", "*/*;q=0.1");
    gateway.ask(request).await.is(200);
    assert_eq!(asked.done().await.headers.get("accept"), Some(format!("{TYPE}, */*;q=0.1").as_str()));
}

#[tokio::test]
async fn the_upstream_gets_an_allow_list_of_headers() {
    let upstream = Upstream::start().await;
    let gateway =
        Gateway::builder().user("alice", "secret").upstream("up", "", upstream.address).start().await;
    let mut asked = upstream.expect("GET", "/v2/a/manifests/x", Reply::ok(EMPTY_INDEX));
    let mut request = Request::get("/v2/a/manifests/x").login("alice", "secret").header("User-Agent", "it/1");
    for name in
        ["Cookie", "X-Forwarded-For", "X_Forwarded_For", "Forwarded", "X-Real-Ip", "Proxy-Authorization"]
    {
        request = request.header(name, "secret");
    }
    request = request
        .header("Connection", "authorization, x-other")
        .header("X-Other", "secret")
        .header("TE", "trailers");
    gateway.ask(request).await.is(200);
    let mut seen = asked.done().await.headers;
    assert_eq!(seen.get("host"), Some(upstream.address.to_string().as_str()));
    assert!(seen.get("via").unwrap().starts_with("1.1 dockgate-"), "{seen:?}");
    seen.0.sort();
    let names: Vec<_> = seen.0.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["accept-encoding", "host", "user-agent", "via"]);
    assert!(!format!("{seen:?}").contains("secret"));
}

#[tokio::test]
async fn a_request_that_comes_back_is_a_loop() {
    let (upstream, gateway) = both().await;
    let mut asked = upstream.expect("GET", "/v2/a/manifests/x", Reply::ok(EMPTY_INDEX));
    gateway.get("/v2/a/manifests/x").await.is(200);
    let via = asked.done().await.headers.get("via").unwrap().to_owned();
    let request = Request::get("/v2/a/manifests/x").header("Via", format!("1.1 other, {via}"));
    gateway.ask(request).await.refuses(508, "UNAVAILABLE");

    let mut asked = upstream.expect("GET", "/v2/a/manifests/x", Reply::ok(EMPTY_INDEX));
    gateway.ask(Request::get("/v2/a/manifests/x").header("Via", "1.1 other")).await.is(200);
    assert!(asked.done().await.headers.all("via").contains(&"1.1 other"));
}

#[tokio::test]
async fn cookies_and_tracking_headers_are_stripped() {
    let (upstream, gateway) = both().await;
    let stripped = [
        "Set-Cookie",
        "Alt-Svc",
        "Strict-Transport-Security",
        "WWW-Authenticate",
        "NEL",
        "Report-To",
        "Keep-Alive",
        "Proxy-Connection",
        "Proxy-Authenticate",
        "Upgrade",
        "Trailer",
        "X-Listed",
    ];
    let reply = stripped.iter().fold(Reply::ok(EMPTY_INDEX), |reply, name| reply.header(name, "theirs"));
    let reply = reply.header("Connection", "X-Listed, Content-Length, Content-Type");
    let kept = [("OCI-Subject", "sha256:x"), ("Warning", "299 - \"old\""), ("Content-Type", TYPE)];
    let reply = kept.iter().fold(reply, |reply, (name, value)| reply.header(name, value));
    upstream.expect("GET", "/v2/a/manifests/x", reply);
    let answer = gateway.get("/v2/a/manifests/x").await.is(200);
    for name in stripped {
        assert_eq!(answer.header(&name.to_ascii_lowercase()), None, "{name}");
    }
    for (name, value) in kept {
        assert_eq!(answer.header(&name.to_ascii_lowercase()), Some(value), "{name}");
    }
    let length = EMPTY_INDEX.len().to_string();
    assert_eq!(answer.header("content-length"), Some(length.as_str()));
}

#[tokio::test]
async fn an_upstreams_orders_reach_neither_proxy_nor_browser() {
    let orders = [
        ("X-Accel-Redirect", "/internal/htpasswd"),
        ("X-Sendfile", "/etc/passwd"),
        ("X-Reproxy-URL", "http://127.0.0.1/"),
        ("Access-Control-Allow-Origin", "*"),
        ("Access-Control-Allow-Credentials", "true"),
        ("Refresh", "0; url=http://evil.example/"),
        ("Clear-Site-Data", "\"*\""),
        ("Content-Disposition", "inline"),
        ("Service-Worker-Allowed", "/"),
        ("Link", "<http://evil.example/>; rel=preload"),
        ("Location", "http://evil.example/"),
        ("Server", "theirs"),
        ("X-Cache", "HIT"),
        ("X-Not-Thought-Of", "1"),
    ];
    let (upstream, gateway) = both().await;
    let content = br#"{"schemaVersion":2,"manifests":[]}"#;
    let ordering = |reply: Reply| orders.iter().fold(reply, |reply, (name, value)| reply.header(name, value));
    for (method, target, status) in [
        ("GET", "/v2/a/manifests/x".to_owned(), 200),
        ("HEAD", "/v2/a/manifests/x".to_owned(), 404),
        ("GET", blob(content), 200),
        ("GET", blob(content), 404),
        ("DELETE", "/v2/a/manifests/x".to_owned(), 202),
    ] {
        upstream.expect(method, &target, ordering(Reply::status(status).body(content)));
        let request = match method {
            "GET" => Request::get(&target),
            "HEAD" => Request::head(&target),
            _ => Request::delete(&target),
        };
        let answer = gateway.ask(request).await.is(status);
        for (name, _) in orders {
            assert_eq!(answer.header(&name.to_ascii_lowercase()), None, "{name} in {method} {target}");
        }
        is_inert(&answer);
    }
}

/// A browser guesses no type of it, and runs none of it.
#[track_caller]
fn is_inert(answer: &Answer) {
    assert_eq!(answer.headers.all("x-content-type-options"), ["nosniff"]);
    assert_eq!(answer.headers.all("content-security-policy"), ["default-src 'none'; sandbox"]);
}

#[tokio::test]
async fn a_page_pushed_as_a_blob_runs_nowhere() {
    let page = b"<script>alert(1)</script>";
    for cache in [false, true] {
        let upstream = Upstream::start().await;
        let lines = if cache { "[upstream.cache]" } else { "" };
        let builder = Gateway::builder().upstream_with("up", "", upstream.address, lines);
        let gateway = if cache { builder.cache("") } else { builder }.start().await;
        for target in ["/v2/a", "/v2/b", "/v2/c"].map(|repository| blob(page).replace("/v2/a", repository)) {
            let kind = if target.contains("/c/") { "image/svg+xml" } else { "text/html; charset=utf-8" };
            for method in ["HEAD", "GET"] {
                let named = move || Reply::ok(page).header("Docker-Content-Digest", &sha256(page));
                upstream.always(method, &target, move |_| named().header("Content-Type", kind));
            }
            // The second is a hit where there is a cache.
            for _ in 0..2 {
                let answer = gateway.get(&target).await.is(200);
                assert_eq!(answer.body, page);
                assert_eq!(
                    answer.headers.all("content-type"),
                    ["application/octet-stream"],
                    "{cache} {target}"
                );
                is_inert(&answer);
            }
        }
        is_inert(&gateway.get("/v2/").await.is(200));
        is_inert(&gateway.get("/nothing").await.is(404));
    }
}

/// Asks for the content, and has the upstream break off once the answer's head is here.
async fn torn(client: &mut Client, content: &[u8], gate: &Gate) -> Answer {
    client.send(Request::get(blob(content)).bytes("localhost")).await;
    let head = client.head().await.is(200);
    gate.open();
    let answer = client.breaks_off(head).await;
    assert!(content.starts_with(&answer.body));
    answer
}

#[tokio::test]
async fn a_cut_blob_tears_the_connection_down() {
    let (upstream, gateway) = with("retries = 0").await;
    let content = noise(1 << 20);
    let gate = Gate::shut();
    for reply in [Reply::ok(&content).cut_after(700_000, &gate), Reply::ok(&content).reset_after(10, &gate)] {
        upstream.expect("GET", blob(&content), reply);
        let answer = torn(&mut gateway.connect().await, &content, &gate).await;
        assert_eq!(answer.header("content-length"), Some("1048576"));
    }
}

#[tokio::test]
async fn a_cut_between_chunks_is_no_clean_end() {
    let (upstream, gateway) = both().await;
    let content = noise(100_000);
    let gate = Gate::shut();
    let coded = 100_000 + 6 * "4000\r\n\r\n".len() + "6a0\r\n\r\n".len();
    // In a chunk's data, in its size line, before the last chunk, and in it.
    for bytes in [40_000, 16_384 + 8 + 2, coded, coded + 3] {
        upstream.expect("GET", blob(&content), Reply::ok(&content).chunked(16_384).cut_after(bytes, &gate));
        torn(&mut gateway.connect().await, &content, &gate).await;
    }
}

#[tokio::test]
async fn a_reset_close_delimited_body_is_no_clean_end() {
    let (upstream, gateway) = both().await;
    let content = noise(100_000);
    let gate = Gate::shut();
    upstream.expect("GET", blob(&content), Reply::ok(&content).until_close().reset_after(60_000, &gate));
    torn(&mut gateway.connect().await, &content, &gate).await;
}

#[tokio::test]
async fn a_torn_answer_has_no_close_notify() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::builder().tls(&["localhost"]).upstream("up", "", upstream.address).start().await;
    let content = noise(100_000);
    let gate = Gate::shut();
    upstream.expect("GET", blob(&content), Reply::ok(&content).chunked(999).cut_after(60_000, &gate));
    let mut client = gateway.connect().await;
    torn(&mut client, &content, &gate).await;
    assert_eq!(client.ends().await, Ending::Torn);
}

#[tokio::test]
async fn over_http2_a_cut_resets_only_the_stream() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::builder().tls(&["localhost"]);
    let gateway = gateway.upstream_with("up", "", upstream.address, "retries = 0").start().await;
    let content = noise(300_000);
    let gate = Gate::shut();
    let mut client = gateway.http2().await;
    let whole = Reply::ok(&content);
    for reply in [whole.clone().cut_after(250_000, &gate), whole.chunked(9000).cut_after(250_000, &gate)] {
        upstream.expect("GET", blob(&content), reply);
        let head = client.begin(&Request::get(blob(&content))).await.unwrap();
        gate.open();
        let (answer, end) = Http2::finish(head).await;
        assert_eq!(answer.status, 200);
        assert!(content.starts_with(&answer.body));
        end.expect_err("no clean end");
    }
    client.ask(&Request::get("/v2/")).await.is(200);
}

#[tokio::test]
async fn a_chunked_answer_comes_through_whole() {
    let (upstream, gateway) = both().await;
    let content = noise(200_000);
    upstream.expect("GET", blob(&content), Reply::ok(&content).chunked(7777));
    let mut client = gateway.connect().await;
    let answer = client.ask(&Request::get(blob(&content))).await.is(200);
    assert!(answer.body == content);
    assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
    client.ask(&Request::get("/v2/")).await.is(200);
}

#[tokio::test]
async fn a_close_delimited_answer_arrives_whole() {
    let (upstream, gateway) = both().await;
    let content = noise(200_000);
    upstream.expect("GET", blob(&content), Reply::ok(&content).until_close());
    assert!(gateway.get(&blob(&content)).await.is(200).body == content);
}

#[tokio::test]
async fn excess_bytes_are_discarded_with_their_connection() {
    let (upstream, gateway) = both().await;
    let mut client = gateway.connect().await;
    for _ in 0..2 {
        let smuggled = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
        let good = index_of("good");
        let reply = Reply::ok(format!("{good}{smuggled}")).claim(good.len());
        upstream.expect("GET", "/v2/a/manifests/x", reply);
        let answer = client.ask(&Request::get("/v2/a/manifests/x")).await.is(200);
        assert_eq!(answer.text(), good);
    }
    upstream.expect("GET", "/v2/a/manifests/y", Reply::ok(index_of("fine")));
    assert_eq!(client.ask(&Request::get("/v2/a/manifests/y")).await.text(), index_of("fine"));
    assert_eq!(upstream.connections(), 3, "a connection with bytes left over is not used again");
}

#[tokio::test]
async fn an_interim_answer_is_swallowed() {
    let (upstream, gateway) = both().await;
    let length = EMPTY_INDEX.len();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
    let bytes = format!("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n{head}{EMPTY_INDEX}");
    upstream.expect("GET", "/v2/a/manifests/x", Reply::raw(bytes));
    let answer = gateway.get("/v2/a/manifests/x").await.is(200);
    assert_eq!((answer.text().as_str(), answer.header("link")), (EMPTY_INDEX, None));
}

#[tokio::test]
async fn ambiguous_upstream_answers_are_refused() {
    let cases = [
        "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Content-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
        "Content-Length: 2, 3\r\n\r\nabc",
        "Content-Length: +2\r\n\r\nab",
        "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: gzip\r\n\r\nab",
    ];
    for case in cases {
        let (upstream, gateway) = both().await;
        let reply = Reply::raw(format!("HTTP/1.1 200 OK\r\n{case}"));
        upstream.expect("GET", "/v2/a/manifests/x", reply);
        let answer = gateway.get("/v2/a/manifests/x").await;
        assert_eq!((answer.status, answer.code().as_str()), (502, "UNAVAILABLE"), "{case}");
    }
}

#[tokio::test]
async fn garbage_and_heads_without_end_are_502() {
    let endless = format!("HTTP/1.1 200 OK\r\nX-Long: {}", "x".repeat(100_000));
    let many = format!("HTTP/1.1 200 OK\r\n{}Content-Length: 0\r\n\r\n", "a: b\r\n".repeat(20_000));
    let cut = "HTTP/1.1 200 OK\r\nContent-Le".to_owned();
    let cases = ["garbage\r\n\r\n".to_owned(), "SSH-2.0-OpenSSH\r\n".to_owned(), endless, many, cut];
    for case in cases {
        let (upstream, gateway) = both().await;
        upstream.expect("GET", "/v2/a/manifests/x", Reply::raw(&case).then_close());
        let answer = gateway.get("/v2/a/manifests/x").await;
        assert_eq!((answer.status, answer.code().as_str()), (502, "UNAVAILABLE"), "{:.40}", case);
    }
}

#[tokio::test]
async fn an_upstream_error_page_becomes_a_json_502() {
    let (upstream, gateway) = with("retries = 0").await;
    for status in [500, 501, 502, 503] {
        let reply =
            Reply::status(status).body("<html>secret host</html>").header("Content-Type", "text/html");
        upstream.expect("GET", "/v2/a/manifests/x", reply);
        let answer = gateway.get("/v2/a/manifests/x").await.refuses(502, "UNAVAILABLE");
        assert!(!answer.text().contains("html"), "{}", answer.text());
    }
    upstream.expect("GET", "/v2/a/manifests/x", Reply::status(504));
    gateway.get("/v2/a/manifests/x").await.refuses(504, "UNAVAILABLE");
}

#[tokio::test]
async fn an_upstreams_401_is_502_and_carries_no_challenge() {
    let (upstream, gateway) = both().await;
    let reply = Reply::status(401).header("WWW-Authenticate", "Bearer realm=\"https://evil.example/token\"");
    upstream.expect("GET", "/v2/a/manifests/x", reply);
    let answer = gateway.get("/v2/a/manifests/x").await.refuses(502, "UNAVAILABLE");
    assert_eq!(answer.header("www-authenticate"), None);
}

#[tokio::test]
async fn upstream_403_and_429_keep_their_meaning() {
    let (upstream, gateway) = both().await;
    upstream.expect("GET", "/v2/a/manifests/x", Reply::status(403).body("<html>no</html>"));
    gateway.get("/v2/a/manifests/x").await.refuses(403, "DENIED");
    upstream.expect("GET", "/v2/a/manifests/x", Reply::status(429).header("Retry-After", "17"));
    let answer = gateway.get("/v2/a/manifests/x").await.refuses(429, "TOOMANYREQUESTS");
    assert_eq!(answer.header("retry-after"), Some("17"));
}

#[tokio::test]
async fn a_client_sees_whose_rate_limit_it_is() {
    let (upstream, gateway) = both().await;
    upstream.expect("GET", "/v2/a/manifests/x", Reply::status(429));
    let answer = gateway.get("/v2/a/manifests/x").await.refuses(429, "TOOMANYREQUESTS");
    assert_eq!(answer.json()["errors"][0]["message"], "the upstream limits the rate; try again later");
}

#[tokio::test]
async fn a_404_page_becomes_a_json_body() {
    let (upstream, gateway) = both().await;
    let page = || Reply::status(404).body("<html>nginx</html>").header("Content-Type", "text/html");
    let digest = sha256(b"");
    let cases = [
        ("/v2/a/manifests/x".to_owned(), "MANIFEST_UNKNOWN"),
        (format!("/v2/a/blobs/{digest}"), "BLOB_UNKNOWN"),
        ("/v2/a/tags/list".to_owned(), "NAME_UNKNOWN"),
    ];
    for (target, code) in cases {
        upstream.expect("GET", target.as_str(), page());
        gateway.get(&target).await.refuses(404, code);
    }
}

#[tokio::test]
async fn a_registry_error_keeps_its_detail() {
    let (upstream, gateway) = both().await;
    let body = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"gone","detail":{"Tag":"x"}}]}"#;
    let reply = Reply::status(404).body(body).header("Content-Type", "application/json; charset=utf-8");
    upstream.expect("GET", "/v2/a/manifests/x", reply);
    let answer = gateway.get("/v2/a/manifests/x").await.refuses(404, "MANIFEST_UNKNOWN");
    assert_eq!(answer.text(), body);
    upstream.expect("HEAD", "/v2/a/manifests/x", Reply::status(404).body(body));
    let head = gateway.ask(Request::head("/v2/a/manifests/x")).await.is(404);
    assert!(head.body.is_empty());
}

#[tokio::test]
async fn an_upstream_that_never_answers_is_504() {
    let (upstream, gateway) = with("response_timeout = \"200ms\"").await;
    let mut asked = upstream.expect("GET", "/v2/a/manifests/x", Reply::never());
    gateway.get("/v2/a/manifests/x").await.refuses(504, "UNAVAILABLE");
    asked.abandoned().await;
}

#[tokio::test]
async fn a_blob_that_stands_still_is_torn_down() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::builder().server("stall_timeout = \"300ms\"");
    let gateway = gateway.upstream_with("up", "", upstream.address, "retries = 0").start().await;
    let content = noise(100_000);
    let mut asked = upstream.expect("GET", blob(&content), Reply::ok(&content).stall_after(50_000));
    let mut client = gateway.connect().await;
    client.send(Request::get(blob(&content)).bytes("localhost")).await;
    let head = client.head().await;
    assert!(content.starts_with(&client.breaks_off(head).await.body));
    asked.abandoned().await;
}

#[tokio::test]
async fn a_503_is_retried_after_its_retry_after() {
    let (upstream, gateway) = both().await;
    let mut first =
        upstream.expect("GET", "/v2/a/manifests/x", Reply::status(503).header("Retry-After", "1"));
    let mut second = upstream.expect("GET", "/v2/a/manifests/x", Reply::ok(index_of("there")));
    let begun = tokio::time::Instant::now();
    assert_eq!(gateway.get("/v2/a/manifests/x").await.is(200).text(), index_of("there"));
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    first.done().await;
    second.done().await;
}

#[tokio::test]
async fn a_long_retry_after_is_not_waited_for() {
    let (upstream, gateway) = both().await;
    upstream.expect("GET", "/v2/a/manifests/x", Reply::status(503).header("Retry-After", "3600"));
    gateway.get("/v2/a/manifests/x").await.refuses(502, "UNAVAILABLE");
}

#[tokio::test]
async fn attempts_end_with_retries() {
    let (upstream, gateway) = with("retries = 2").await;
    for _ in 0..3 {
        upstream.expect("GET", "/v2/a/manifests/x", Reply::status(502));
    }
    gateway.get("/v2/a/manifests/x").await.refuses(502, "UNAVAILABLE");
}

#[tokio::test]
async fn connections_that_break_before_an_answer_are_tried_again() {
    let (upstream, gateway) = both().await;
    upstream.expect("GET", "/v2/a/manifests/x", Reply::close());
    upstream.expect("GET", "/v2/a/manifests/x", Reply::reset());
    upstream.expect("GET", "/v2/a/manifests/x", Reply::ok(index_of("there")));
    assert_eq!(gateway.get("/v2/a/manifests/x").await.is(200).text(), index_of("there"));
}

#[tokio::test]
async fn a_refused_connection_is_502_until_it_recovers() {
    let upstream = Upstream::start().await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let gateway = Gateway::builder()
        .upstream_with("gone", "gone", address, "retries = 1")
        .upstream("up", "", upstream.address)
        .start()
        .await;
    gateway.get("/v2/gone/a/manifests/x").await.refuses(502, "UNAVAILABLE");
    upstream.expect("GET", "/v2/a/manifests/x", Reply::ok(EMPTY_INDEX));
    gateway.get("/v2/a/manifests/x").await.is(200);
}

#[tokio::test]
async fn writes_are_not_tried_again() {
    let (upstream, gateway) = both().await;
    let mut first = upstream.expect("DELETE", "/v2/a/manifests/x", Reply::status(503).then_close());
    gateway.ask(Request::delete("/v2/a/manifests/x")).await.refuses(502, "UNAVAILABLE");
    first.done().await;
    upstream.expect("DELETE", "/v2/a/manifests/x", Reply::close());
    gateway.ask(Request::delete("/v2/a/manifests/x")).await.refuses(502, "UNAVAILABLE");
}

#[tokio::test]
async fn dead_kept_connections_are_replaced_unseen() {
    let (upstream, gateway) = with("retries = 0").await;
    let mut client = gateway.connect().await;
    let get = Request::get("/v2/a/manifests/x");
    for connection in [1, 1] {
        let mut asked = upstream.expect("GET", "/v2/a/manifests/x", Reply::ok(EMPTY_INDEX));
        client.ask(&get).await.is(200);
        assert_eq!(asked.done().await.connection, connection);
    }
    let mut last = upstream.expect("GET", "/v2/a/manifests/x", Reply::ok(EMPTY_INDEX).then_close());
    client.ask(&get).await.is(200);
    last.done().await;
    for request in
        [get.clone(), Request::delete("/v2/a/manifests/x"), Request::put("/v2/a/manifests/x").body("{}")]
    {
        let status = if request.method == "GET" { 200 } else { 201 };
        let reply = Reply::status(status).body(EMPTY_INDEX).then_close();
        let mut asked = upstream.expect(&request.method, "/v2/a/manifests/x", reply);
        let taken = client.ask(&request).await.status;
        assert!(taken == status || (status == 201 && taken == 202), "{taken}");
        asked.done().await;
    }
    assert_eq!(upstream.connections(), 4);
}

#[tokio::test]
async fn a_manifest_that_breaks_off_is_asked_for_once_more() {
    let (upstream, gateway) = both().await;
    let target = "/v2/a/manifests/x";
    let gate = Gate::shut();
    let cut = || Reply::ok(EMPTY_INDEX).cut_after(10, &gate);
    for _ in 0..3 {
        gate.open();
    }
    upstream.expect("GET", target, cut());
    upstream.expect("GET", target, Reply::ok(EMPTY_INDEX));
    assert_eq!(gateway.get(target).await.is(200).text(), EMPTY_INDEX);
    for _ in 0..2 {
        upstream.expect("GET", target, cut());
    }
    gateway.get(target).await.refuses(502, "UNAVAILABLE");
}

#[tokio::test]
async fn a_client_that_leaves_closes_the_upstreams_connection() {
    let (upstream, gateway) = both().await;
    let content = noise(200_000);
    let reply = Reply::ok(&content).stall_after(100_000);
    let mut asked = upstream.expect("GET", blob(&content), reply);
    let mut client = gateway.connect().await;
    client.send(Request::get(blob(&content)).bytes("localhost")).await;
    client.head().await;
    drop(client);
    asked.abandoned().await;
}

#[tokio::test]
async fn a_leaving_client_closes_the_upstream_connection() {
    let (upstream, gateway) = both().await;
    let mut asked = upstream.expect("GET", blob(b""), Reply::never());
    let mut client = gateway.connect().await;
    client.send(Request::get(blob(b"")).bytes("localhost")).await;
    asked.arrived().await;
    drop(client);
    asked.abandoned().await;
}

#[tokio::test]
async fn a_client_that_reads_nothing_holds_the_upstream_back() {
    let (upstream, gateway) = both().await;
    let piece = noise(64 << 10);
    // Far more than the buffers of both sockets hold together.
    let reply = Reply::status(200).repeat(&piece, 4096);
    let mut asked = upstream.expect("GET", blob(b""), reply);
    let mut client = gateway.connect().await;
    client.send(Request::get(blob(b"")).bytes("localhost")).await;
    client.head().await;
    // It is held back when nothing has moved for a while; a flood would go on moving.
    let mut written = 0;
    loop {
        let seen =
            tokio::time::timeout(Duration::from_millis(400), asked.until(|seen| seen.written > written))
                .await;
        let Ok(seen) = seen else { break };
        written = seen.written;
    }
    assert!(written < 64 << 20, "{written} bytes were taken for a client that reads none");
    drop(client);
    asked.abandoned().await;
}

#[tokio::test]
async fn first_bytes_arrive_before_the_rest_exists() {
    let (upstream, gateway) = both().await;
    let gate = Gate::shut();
    let content = noise(100_000);
    upstream.expect("GET", blob(&content), Reply::ok(&content).pause_after(10, &gate));
    let mut client = gateway.connect().await;
    client.send(Request::get(blob(&content)).bytes("localhost")).await;
    client.head().await.is(200);
    assert_eq!(client.read_exactly(10).await, &content[..10]);
    gate.open();
    assert!(client.read_exactly(99_990).await == content[10..]);
}

#[tokio::test]
async fn a_read_only_upstream_is_read_and_not_written() {
    let (upstream, gateway) = with("read_only = true").await;
    upstream.expect("GET", "/v2/a/manifests/x", Reply::ok(EMPTY_INDEX));
    gateway.get("/v2/a/manifests/x").await.is(200);
    let digest = sha256(b"");
    for request in [
        Request::post("/v2/a/blobs/uploads/"),
        Request::put("/v2/a/manifests/x").body("{}"),
        Request::delete("/v2/a/manifests/x"),
        Request::delete(format!("/v2/a/blobs/{digest}")),
    ] {
        gateway.ask(request).await.refuses(405, "UNSUPPORTED");
    }
}
