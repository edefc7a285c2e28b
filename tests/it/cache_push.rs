//! Pushes through the gateway into the cache.

use std::path::PathBuf;
use std::time::Duration;

use crate::harness::{Answer, Builder, Gate, Gateway, Reply, Request, Upstream, noise, sha256, soon};

const UPLOADS: &str = "/v2/a/blobs/uploads/";
const SESSION: &str = "/v2/a/blobs/uploads/1";

/// Starts one upstream with a cache, for every name; every client may do everything.
async fn both() -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    let gateway = cached(&upstream, "").start().await;
    (upstream, gateway)
}

/// Starts both with lines of `[cache]`.
fn cached(upstream: &Upstream, cache: &str) -> Builder {
    let up = "retries = 0\nread_only = false\n[upstream.cache]";
    let lines = format!("{up}\n\n[cache]\npath = \"cache\"\nprefetch = false\nmin_free = \"1MiB\"\n{cache}");
    Gateway::builder().upstream_with("up", "", upstream.address, &lines)
}

fn location(answer: &Answer) -> String {
    answer.header("location").expect("a location").to_owned()
}

fn finish(location: &str, content: &[u8]) -> Request {
    Request::put(format!("{location}?digest={}", named(content)))
}

fn named(content: &[u8]) -> String {
    sha256(content).replace(':', "%3A")
}

fn blob(content: &[u8]) -> String {
    format!("/v2/a/blobs/{}", sha256(content))
}

/// Begins an upload; the answer is the client's location.
async fn begin(upstream: &Upstream, gateway: &Gateway) -> String {
    upstream.expect("POST", UPLOADS, Reply::status(202).header("Location", SESSION));
    location(&gateway.ask(Request::post(UPLOADS).body("")).await.is(202))
}

/// Sends a part, which the upstream takes; the answer is the client's location.
async fn patch(upstream: &Upstream, gateway: &Gateway, request: Request) -> String {
    upstream.expect("PATCH", SESSION, Reply::status(202).header("Location", SESSION));
    location(&gateway.ask(request).await.is(202))
}

/// The upstream takes what ends an upload.
fn takes(upstream: &Upstream, content: &[u8]) {
    upstream.expect("PUT", format!("{SESSION}?digest={}", named(content)), Reply::status(201));
}

fn file(gateway: &Gateway, content: &[u8]) -> PathBuf {
    let digest = sha256(content);
    let encoded = digest.strip_prefix("sha256:").expect("a digest");
    gateway.path("cache").join("blobs/sha256").join(&encoded[..2]).join(encoded)
}

/// Asserts that it is cached: the upstream, which expects nothing, is not asked for it.
async fn has(gateway: &Gateway, content: &[u8]) {
    let file = file(gateway, content);
    soon("it to be kept", async {
        while !file.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let got = gateway.get(&blob(content)).await.is(200);
    assert!(got.body == content);
    assert_eq!(got.header("x-cache"), Some("HIT"));
}

/// Nothing on its way is left, and it is not there: the upstream is asked for it, and has none.
async fn has_not(upstream: &Upstream, gateway: &Gateway, content: &[u8]) {
    let partials = gateway.path("cache/partial");
    soon("the copy to go", async {
        while std::fs::read_dir(&partials).expect("a directory").next().is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert!(!file(gateway, content).exists());
    upstream.expect("GET", blob(content), Reply::status(404));
    gateway.get(&blob(content)).await.is(404);
}

#[tokio::test]
async fn a_blob_pushed_by_post_and_put_is_cached() {
    let (upstream, gateway) = both().await;
    let content = noise(300_000);
    let at = begin(&upstream, &gateway).await;
    takes(&upstream, &content);
    gateway.ask(finish(&at, &content).body(content.clone())).await.is(201);
    has(&gateway, &content).await;
}

#[tokio::test]
async fn a_blob_pushed_by_one_post_is_cached() {
    let (upstream, gateway) = both().await;
    for content in [noise(300_000), Vec::new()] {
        let target = format!("{UPLOADS}?digest={}", named(&content));
        upstream.expect("POST", target.as_str(), Reply::status(201));
        gateway.ask(Request::post(target).body(content.clone())).await.is(201);
        has(&gateway, &content).await;
    }
}

#[tokio::test]
async fn a_post_that_becomes_a_session_is_cached() {
    let (upstream, gateway) = both().await;
    let content = noise(100_000);
    let target = format!("{UPLOADS}?digest={}", named(&content));
    upstream.expect("POST", target.as_str(), Reply::status(202).header("Location", SESSION));
    let at = location(&gateway.ask(Request::post(target).body(content.clone())).await.is(202));
    takes(&upstream, &content);
    gateway.ask(finish(&at, &content).body(content.clone())).await.is(201);
    has(&gateway, &content).await;
}

#[tokio::test]
async fn a_blob_pushed_in_one_stream_is_cached() {
    let (upstream, gateway) = both().await;
    let content = noise(5_000_000);
    let at = begin(&upstream, &gateway).await;
    upstream.expect("PATCH", SESSION, Reply::status(202).header("Location", SESSION));
    let mut client = gateway.connect().await;
    client.send(Request::patch(at).header("Transfer-Encoding", "chunked").bytes("localhost")).await;
    for piece in content.chunks(100_000) {
        client.send_chunk(piece).await;
    }
    client.send(b"0\r\n\r\n").await;
    let at = location(&client.answer().await.is(202));
    takes(&upstream, &content);
    gateway.ask(finish(&at, &content).body("")).await.is(201);
    has(&gateway, &content).await;
}

#[tokio::test]
async fn a_blob_pushed_in_chunks_is_cached() {
    let (upstream, gateway) = both().await;
    let content = noise(30_000);
    let mut at = begin(&upstream, &gateway).await;
    for (range, part) in [("0-9999", &content[..10_000]), ("10000-19999", &content[10_000..20_000])] {
        at = patch(&upstream, &gateway, Request::patch(&at).header("Content-Range", range).body(part)).await;
    }
    upstream.expect("GET", SESSION, Reply::status(204).header("Range", "0-19999"));
    at = location(&gateway.get(&at).await.is(204));
    takes(&upstream, &content);
    let last = finish(&at, &content).header("Content-Range", "20000-29999").body(&content[20_000..]);
    gateway.ask(last).await.is(201);
    has(&gateway, &content).await;
}

#[tokio::test]
async fn a_chunk_out_of_order_ends_the_copy() {
    let (upstream, gateway) = both().await;
    let content = noise(30_000);
    let mut at = begin(&upstream, &gateway).await;
    for (range, part) in [("0-9999", &content[..10_000]), ("15000-29999", &content[15_000..])] {
        at = patch(&upstream, &gateway, Request::patch(&at).header("Content-Range", range).body(part)).await;
    }
    takes(&upstream, &content);
    gateway.ask(finish(&at, &content).body("")).await.is(201);
    has_not(&upstream, &gateway, &content).await;
}

#[tokio::test]
async fn a_refused_chunk_ends_only_the_copy() {
    let (upstream, gateway) = both().await;
    let content = noise(20_000);
    let at = begin(&upstream, &gateway).await;
    upstream.expect("PATCH", SESSION, Reply::status(416).header("Range", "0-0"));
    gateway.ask(Request::patch(&at).body(content.clone())).await.is(416);
    let at = patch(&upstream, &gateway, Request::patch(&at).body(content.clone())).await;
    takes(&upstream, &content);
    gateway.ask(finish(&at, &content).body("")).await.is(201);
    has_not(&upstream, &gateway, &content).await;
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing() {
    let (upstream, gateway) = both().await;
    let content = noise(50_000);
    let at = begin(&upstream, &gateway).await;
    let mut exchange = upstream.expect("PATCH", SESSION, Reply::status(202).header("Location", SESSION));
    let mut client = gateway.connect().await;
    let request = Request::patch(&at).header("Content-Length", content.len().to_string());
    client.send(request.bytes("localhost")).await;
    client.send(&content[..20_000]).await;
    exchange.until(|seen| seen.received == 20_000).await;
    drop(client);
    exchange.body_ended().await;
    has_not(&upstream, &gateway, &content).await;
    has_not(&upstream, &gateway, &content[..20_000]).await;
}

#[tokio::test]
async fn refused_pushes_are_not_kept() {
    let (upstream, gateway) = both().await;
    let content = noise(50_000);
    for status in [400, 403, 500, 204, 202] {
        let at = begin(&upstream, &gateway).await;
        let reply = Reply::status(status).header("Location", SESSION);
        upstream.expect("PUT", format!("{SESSION}?digest={}", named(&content)), reply);
        gateway.ask(finish(&at, &content).body(content.clone())).await;
        has_not(&upstream, &gateway, &content).await;
    }
}

#[tokio::test]
async fn a_push_under_another_digest_is_not_kept() {
    let (upstream, gateway) = both().await;
    let (content, claimed) = (noise(50_000), noise(40_000));
    let at = begin(&upstream, &gateway).await;
    takes(&upstream, &claimed);
    gateway.ask(finish(&at, &claimed).body(content.clone())).await.is(201);
    has_not(&upstream, &gateway, &claimed).await;
    has_not(&upstream, &gateway, &content).await;
}

#[tokio::test]
async fn pushes_renamed_by_the_upstream_are_not_kept() {
    let (upstream, gateway) = both().await;
    let content = noise(50_000);
    let at = begin(&upstream, &gateway).await;
    let reply = Reply::status(201).header("Docker-Content-Digest", &sha256(b"other"));
    upstream.expect("PUT", format!("{SESSION}?digest={}", named(&content)), reply);
    gateway.ask(finish(&at, &content).body(content.clone())).await.is(201);
    has_not(&upstream, &gateway, &content).await;
}

#[tokio::test]
async fn an_upstream_need_not_read_a_known_blob() {
    let (upstream, gateway) = both().await;
    let content = noise(300_000);
    let at = begin(&upstream, &gateway).await;
    let target = format!("{SESSION}?digest={}", named(&content));
    upstream.expect("PUT", target, Reply::status(201).after_bytes(1000).then_close());
    let mut client = gateway.connect().await;
    let request = finish(&at, &content).header("Content-Length", content.len().to_string());
    client.send(request.bytes("localhost")).await;
    client.send(&content[..1000]).await;
    client.answer_to("PUT").await.is(201);
    // What is read after the answer is no part of the copy.
    let _ = client.try_send(&content[1000..]).await;
    has_not(&upstream, &gateway, &content).await;
}

#[tokio::test]
async fn a_cancelled_upload_leaves_nothing() {
    let (upstream, gateway) = both().await;
    let content = noise(50_000);
    let at = begin(&upstream, &gateway).await;
    let at = patch(&upstream, &gateway, Request::patch(&at).body(content.clone())).await;
    upstream.expect("DELETE", SESSION, Reply::status(204));
    gateway.ask(Request::delete(&at)).await.is(204);
    has_not(&upstream, &gateway, &content).await;
}

#[tokio::test]
async fn a_mounted_blob_is_known_to_be_there() {
    let (upstream, gateway) = both().await;
    let content = noise(50_000);
    let at = begin(&upstream, &gateway).await;
    takes(&upstream, &content);
    gateway.ask(finish(&at, &content).body(content.clone())).await.is(201);
    has(&gateway, &content).await;
    let target = format!("/v2/b/blobs/uploads/?mount={}&from=a", named(&content));
    upstream.expect("POST", target.as_str(), Reply::status(201));
    gateway.ask(Request::post(target)).await.is(201);
    let there = format!("/v2/b/blobs/{}", sha256(&content));
    assert!(gateway.get(&there).await.is(200).body == content);
    upstream.expect("GET", there.replace("/b/", "/c/"), Reply::status(404));
    gateway.get(&there.replace("/b/", "/c/")).await.is(404);
}

#[tokio::test]
async fn pushes_reach_the_upstream_before_the_cache() {
    let (upstream, gateway) = both().await;
    let content = noise(50_000);
    let at = begin(&upstream, &gateway).await;
    let gate = Gate::shut();
    let target = format!("{SESSION}?digest={}", named(&content));
    let mut put = upstream.expect("PUT", target, Reply::status(201).held(&gate));
    let mut client = gateway.connect().await;
    client.send(finish(&at, &content).body(content.clone()).bytes("localhost")).await;
    put.body_ended().await;
    assert!(!file(&gateway, &content).exists());
    upstream.expect("GET", blob(&content), Reply::status(404));
    gateway.get(&blob(&content)).await.is(404);
    gate.open();
    client.answer_to("PUT").await.is(201);
    has(&gateway, &content).await;
}

#[tokio::test]
async fn where_there_is_no_room_uploads_go_on() {
    let upstream = Upstream::start().await;
    let gateway = cached(&upstream, "max_size = \"64KiB\"").start().await;
    let content = noise(300_000);
    let at = begin(&upstream, &gateway).await;
    let at = patch(&upstream, &gateway, Request::patch(&at).body(&content[..100_000])).await;
    takes(&upstream, &content);
    gateway.ask(finish(&at, &content).body(&content[100_000..])).await.is(201);
    has_not(&upstream, &gateway, &content).await;
}
