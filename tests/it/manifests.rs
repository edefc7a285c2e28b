//! Manifests of upstreams without a cache: what is one is decided as with a cache.

use crate::harness::{EMPTY_INDEX, Gateway, OCI_INDEX, Reply, Request, Upstream, manifest_at, sha256};

const TAG: &str = "/v2/a/manifests/x";
const PAGE: &str = "<!DOCTYPE html><html><title>Sign in</title></html>";

async fn both() -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    let gateway = Gateway::builder().upstream_with("up", "", upstream.address, "retries = 0").start().await;
    (upstream, gateway)
}

fn page() -> Reply {
    Reply::ok(PAGE).header("Content-Type", "text/html")
}

fn index() -> Reply {
    let reply = Reply::ok(EMPTY_INDEX).header("Content-Type", OCI_INDEX);
    reply.header("Docker-Content-Digest", &sha256(EMPTY_INDEX.as_bytes()))
}

#[tokio::test]
async fn what_is_no_manifest_is_502() {
    let errors = r#"{"errors":[{"code":"UNKNOWN","message":"x"}]}"#;
    let typed = |reply: Reply| reply.header("Content-Type", OCI_INDEX);
    let replies = [
        page(),
        typed(Reply::ok(PAGE)),
        typed(Reply::ok("{}")),
        typed(Reply::ok(errors)),
        typed(Reply::ok("")),
        typed(Reply::ok(&EMPTY_INDEX[..20])),
        typed(Reply::ok(EMPTY_INDEX)).header("Docker-Content-Digest", &sha256(b"other")),
        typed(Reply::status(202).body(EMPTY_INDEX)),
        typed(Reply::status(206).body(EMPTY_INDEX)),
        Reply::raw("HTTP/1.1 204 No Content\r\n\r\n"),
        typed(Reply::ok("x".repeat(4_393_217))),
    ];
    for reply in replies {
        let (upstream, gateway) = both().await;
        // The gateway asks once more.
        upstream.expect("GET", TAG, reply.clone());
        upstream.expect("GET", TAG, reply);
        let answer = gateway.get(TAG).await.refuses(502, "UNAVAILABLE");
        assert!(!answer.text().contains("html"), "{answer:?}");
    }
}

#[tokio::test]
async fn a_digest_is_proved() {
    let (upstream, gateway) = both().await;
    let target = manifest_at("a", &sha256(EMPTY_INDEX.as_bytes()));
    upstream.expect("GET", &*target, Reply::ok(crate::harness::index_of("another")));
    upstream.expect("GET", &*target, Reply::ok(EMPTY_INDEX).header("Content-Type", "binary/octet-stream"));
    assert_eq!(gateway.get(&target).await.is(200).text(), EMPTY_INDEX);
    let odd = manifest_at("a", &sha256(b"<odd>"));
    upstream.expect("GET", &*odd, Reply::ok("<odd>"));
    assert_eq!(gateway.get(&odd).await.is(200).text(), "<odd>");
}

#[tokio::test]
async fn get_decides_where_head_says_too_little() {
    let nothing = || Reply::ok(EMPTY_INDEX).header("Content-Type", "application/json");
    let zero = || Reply::ok("").header("Content-Type", OCI_INDEX);
    let heads = [page(), nothing(), zero(), Reply::status(405), Reply::status(500), Reply::status(501)];
    for head in heads {
        let (upstream, gateway) = both().await;
        upstream.expect("HEAD", TAG, head);
        upstream.expect("GET", TAG, index());
        let answer = gateway.ask(Request::head(TAG)).await.is(200);
        let length = EMPTY_INDEX.len().to_string();
        assert_eq!(answer.header("content-length"), Some(length.as_str()));
        assert_eq!(answer.header("content-type"), Some(OCI_INDEX));
        assert!(answer.body.is_empty());
    }
}

#[tokio::test]
async fn a_page_is_no_answer_to_head() {
    let (upstream, gateway) = both().await;
    upstream.expect("HEAD", TAG, page());
    upstream.expect("GET", TAG, page());
    upstream.expect("GET", TAG, page());
    assert_eq!(
        gateway.ask(Request::head(TAG)).await.is(502).header("content-type"),
        Some("application/json")
    );
}

#[tokio::test]
async fn a_refused_head_is_remembered() {
    let (upstream, gateway) = both().await;
    upstream.expect("HEAD", TAG, Reply::status(405));
    for _ in 0..3 {
        upstream.expect("GET", TAG, index());
        gateway.ask(Request::head(TAG)).await.is(200);
    }
}

#[tokio::test]
async fn a_good_head_is_passed_on() {
    let (upstream, gateway) = both().await;
    upstream.expect("HEAD", TAG, index());
    let answer = gateway.ask(Request::head(TAG)).await.is(200);
    assert_eq!(answer.header("docker-content-digest"), Some(sha256(EMPTY_INDEX.as_bytes()).as_str()));
    for status in [403, 404] {
        upstream.expect("HEAD", TAG, Reply::status(status));
        gateway.ask(Request::head(TAG)).await.is(status);
    }
}

#[tokio::test]
async fn a_408_is_repeated() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::open(&upstream).await;
    for status in [408, 421, 425, 500] {
        upstream.expect("GET", TAG, Reply::status(status).then_close());
        upstream.expect("GET", TAG, index());
        gateway.get(TAG).await.is(200);
    }
    upstream.expect("HEAD", TAG, Reply::status(408));
    upstream.expect("HEAD", TAG, index());
    gateway.ask(Request::head(TAG)).await.is(200);
}

#[tokio::test]
async fn two_hundred_header_fields_are_no_error() {
    let (upstream, gateway) = both().await;
    let many: Vec<_> = (0..200).map(|number| (format!("X-Field-{number}"), "x".repeat(100))).collect();
    let reply = many.iter().fold(index(), |reply, (name, value)| reply.header(name, value));
    upstream.expect("GET", TAG, reply);
    gateway.get(TAG).await.is(200);
}

#[tokio::test]
async fn repeated_lengths_come_out_once() {
    for lengths in ["2\r\nContent-Length: 2", "2, 2", "2,2"] {
        let (upstream, gateway) = both().await;
        let target = format!("/v2/a/blobs/{}", sha256(b"ab"));
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {lengths}\r\n\r\n");
        upstream.expect("GET", &*target, Reply::raw(format!("{head}ab")));
        upstream.expect("HEAD", &*target, Reply::raw(&head));
        for request in [Request::get(&target), Request::head(&target)] {
            let answer = gateway.ask(request).await.is(200);
            assert_eq!(answer.headers.all("content-length"), ["2"], "{lengths}");
        }
        let different = head.replacen("Content-Length: ", "Content-Length: 9, ", 1);
        upstream.expect("HEAD", &*target, Reply::raw(different));
        gateway.ask(Request::head(&target)).await.is(502);
    }
}

#[tokio::test]
async fn a_blob_goes_out_under_a_harmless_type() {
    let (upstream, gateway) = both().await;
    let target = format!("/v2/a/blobs/{}", sha256(b"<svg>"));
    for kind in ["text/html", "image/svg+xml", "application/xhtml+xml"] {
        upstream.expect("GET", &*target, Reply::ok("<svg>").header("Content-Type", kind));
        let answer = gateway.get(&target).await.is(200);
        assert_eq!(answer.header("content-type"), Some("application/octet-stream"), "{kind}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    }
    let reply = Reply::ok("<svg>").header("Docker-Content-Digest", &sha256(b"other"));
    upstream.expect("GET", &*target, reply);
    gateway.get(&target).await.refuses(502, "UNAVAILABLE");
}
