//! The log line that the operator reads of each refusal of an upstream, with what the upstream said and the key to set.

use std::path::Path;

use crate::harness::{Builder, Gateway, Image, OCI_IMAGE, Origin, Process, Reply, Request, Upstream};

const TAG: &str = "/v2/a/manifests/x";

/// Returns the log of a gateway without a cache that was asked for the tag once.
async fn log_of(reply: Reply, status: u16) -> String {
    let upstream = Upstream::start().await;
    upstream.always("GET", TAG, move |_| reply.clone());
    let builder = Gateway::builder().upstream_with("up", "", upstream.address, "retries = 0");
    logged(builder, status).await
}

async fn logged(builder: Builder, status: u16) -> String {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start(builder, dir.path()).await;
    process.get(TAG).await.is(status);
    process.terminate().await;
    process.log()
}

/// Returns the one line of a log that tells of the upstream.
#[track_caller]
fn line(log: &str) -> &str {
    let lines: Vec<_> =
        log.lines().filter(|line| line.contains("the upstream") && line.contains("error=")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    assert!(lines[0].contains("upstream=\"up\""), "{}", lines[0]);
    lines[0]
}

#[tokio::test]
async fn a_refusal_is_logged_with_the_upstreams_words() {
    let cases = [
        (403, 403, "INFO", "<Error><Code>AccessDenied</Code></Error>"),
        (429, 429, "INFO", "slow down"),
        (400, 400, "INFO", "bad request"),
        (500, 502, "WARN", "invalid URL on layer"),
        (503, 502, "WARN", "backend fetch failed"),
    ];
    for (status, seen, level, words) in cases {
        let log = log_of(Reply::status(status).body(words), seen).await;
        let line = line(&log);
        for part in [level, &status.to_string(), words] {
            assert!(line.contains(part), "{part}: {line}");
        }
    }
}

#[tokio::test]
async fn what_an_upstream_says_is_escaped_and_cut() {
    let log = log_of(Reply::status(500).body(format!("a\r\n\x1b[31mred {}", "x".repeat(5000))), 502).await;
    let line = line(&log);
    assert!(line.contains("red") && !line.contains('\x1b') && line.len() < 1000, "{line}");
}

#[tokio::test]
async fn the_line_names_the_key_to_set() {
    let line_of =
        |log: String, key: &str| assert!(line(&log).contains(&format!("set={key:?}")), "{key}: {log}");
    line_of(log_of(Reply::status(403), 403).await, "upstream.credentials");
    line_of(log_of(Reply::status(429), 429).await, "upstream.credentials");
    let elsewhere = Reply::status(307).header("Location", "http://127.0.0.1:1/x");
    line_of(log_of(elsewhere, 502).await, "upstream.redirect_hosts");
    let upstream = Upstream::start().await;
    upstream.always("GET", TAG, |_| Reply::never());
    let lines = "retries = 0\nresponse_timeout = \"200ms\"";
    let builder = Gateway::builder().upstream_with("up", "", upstream.address, lines);
    line_of(logged(builder, 504).await, "upstream.response_timeout");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let builder = Gateway::builder().upstream_with("up", "", free, "retries = 0");
    line_of(logged(builder, 502).await, "upstream.url");
}

#[tokio::test]
async fn stale_content_is_logged_with_its_reason() {
    let origin = Origin::start().await;
    let image = Image::empty("one");
    origin.manifest("a", "x", OCI_IMAGE, &image.manifest);
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let builder = cached(&origin, &store);
    let mut process = Process::start(builder, dir.path()).await;
    process.get(TAG).await.is(200);
    for method in ["HEAD", "GET"] {
        origin
            .upstream
            .always(method, TAG, |_| Reply::ok("<title>Sign in</title>").header("Content-Type", "text/html"));
    }
    for _ in 0..3 {
        process.connect().await.ask(&Request::get(TAG)).await.is(200);
    }
    process.terminate().await;
    let log = process.log();
    let line = line(&log);
    for part in
        ["serving stale content", "something else than a manifest", "text/html", "Sign in", "reference=x"]
    {
        assert!(line.contains(part), "{part}: {line}");
    }
}

fn cached(origin: &Origin, store: &Path) -> Builder {
    let lines = "retries = 0\n[upstream.cache]\ntag_ttl = \"0s\"";
    let builder = Gateway::builder().upstream_with("up", "", origin.address(), lines);
    builder.cache_at(store, "prefetch = false")
}

#[tokio::test]
async fn an_open_circuit_is_logged_with_its_cause() {
    let origin = Origin::start().await;
    origin.falls_ill(503);
    let dir = tempfile::tempdir().unwrap();
    let builder = cached(&origin, &dir.path().join("store"));
    let mut process = Process::start(builder, dir.path()).await;
    for number in 0..5 {
        process.get(&format!("/v2/a/manifests/v{number}")).await.is(502);
    }
    process.terminate().await;
    let log = process.log();
    let line = log.lines().find(|line| line.contains("circuit open: the upstream was not asked"));
    let line = line.unwrap_or_else(|| panic!("{log}"));
    assert!(line.contains("upstream=\"up\"") && line.contains("503"), "{line}");
}
