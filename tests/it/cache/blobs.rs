//! Blobs: their digest decides, whatever they are called, and who may push asks the upstream.

use super::{cached, gives, started, started_without_retries, until_kept};
use crate::harness::{
    Gateway, Http2, Image, OCI_IMAGE, Origin, Reply, Request, blob_at, manifest_at, noise, sha256,
};

#[tokio::test]
async fn a_blob_may_be_called_anything() {
    for kind in ["text/html", "binary/octet-stream", "image/svg+xml", ""] {
        let (origin, gateway) = started("").await;
        let bytes = noise(5000);
        let target = origin.blob("a", &bytes);
        let digest = sha256(&bytes);
        let said = Reply::ok(&bytes).header("Content-Type", kind).header("Docker-Content-Digest", &digest);
        for method in ["HEAD", "GET"] {
            let said = said.clone();
            origin.upstream.always(method, &*target, move |_| said.clone());
        }
        let head = gateway.ask(Request::head(&target)).await.is(200);
        assert_eq!(head.header("content-length"), Some("5000"), "{kind}");
        let answer = gives(gateway.get(&target).await, &bytes, "MISS");
        for answer in [head, answer, gives(until_kept(&gateway, &target).await, &bytes, "HIT")] {
            assert_eq!(answer.header("content-type"), Some("application/octet-stream"), "{kind}");
        }
    }
}

#[tokio::test]
async fn a_blob_of_another_repository_may_be_called_a_page() {
    for named in [true, false] {
        let (origin, gateway) = started("").await;
        let bytes = noise(5000);
        let first = origin.blob("b", &bytes);
        gives(gateway.get(&first).await, &bytes, "MISS");
        until_kept(&gateway, &first).await;
        let target = blob_at("a", &bytes);
        let said = Reply::ok(&bytes).header("Content-Type", "text/html");
        let said = if named { said.header("Docker-Content-Digest", &sha256(&bytes)) } else { said };
        for method in ["HEAD", "GET"] {
            let said = said.clone();
            origin.upstream.always(method, &*target, move |_| said.clone());
        }
        assert!(gateway.get(&target).await.is(200).body == bytes, "{named}");
    }
}

#[tokio::test]
async fn a_type_of_the_registry_world_is_kept() {
    let (origin, gateway) = started("").await;
    let (bytes, kind) = (noise(500), "application/vnd.oci.image.layer.v1.tar+gzip");
    let target = origin.blob("a", &bytes);
    let said = Reply::ok(&bytes).header("Content-Type", kind);
    origin.upstream.always("GET", &*target, move |_| said.clone());
    assert_eq!(gives(gateway.get(&target).await, &bytes, "MISS").header("content-type"), Some(kind));
}

#[tokio::test]
async fn a_coding_over_right_bytes_is_noise() {
    for coding in ["aws-chunked", "x-gzip", "gzip", ""] {
        let (origin, gateway) = started("").await;
        let bytes = noise(300_000);
        let target = origin.blob("a", &bytes);
        let said = bytes.clone();
        origin
            .upstream
            .always("GET", &*target, move |_| Origin::whole(&said).header("Content-Encoding", coding));
        let answer = gives(gateway.get(&target).await, &bytes, "MISS");
        assert_eq!(answer.header("content-encoding"), None, "{coding}");
        gives(until_kept(&gateway, &target).await, &bytes, "HIT");
    }
}

#[tokio::test]
async fn a_coding_over_wrong_bytes_is_never_served() {
    let (origin, gateway) = started_without_retries("").await;
    let bytes = noise(300_000);
    let target = origin.blob("a", &bytes);
    origin.upstream.always("GET", &*target, |_| Reply::ok(noise(9000)).header("Content-Encoding", "gzip"));
    super::asking(&gateway, Request::get(&target)).await.is_torn("gzip").await;
    assert!(super::files_in(&gateway.path("cache/blobs")).is_empty());
}

#[tokio::test]
async fn a_head_with_a_wrong_length_spoils_no_copy() {
    for length in [0, 7, 600_000] {
        let (origin, gateway) = started("").await;
        let bytes = noise(5000);
        let first = origin.blob("b", &bytes);
        gives(gateway.get(&first).await, &bytes, "MISS");
        until_kept(&gateway, &first).await;
        let target = origin.blob("a", &bytes);
        origin.upstream.always("HEAD", &*target, move |_| Reply::ok("").claim(length));
        for did in ["REVALIDATED", "HIT"] {
            gives(gateway.get(&target).await, &bytes, did);
        }
        let head = gateway.ask(Request::head(&target)).await.is(200);
        assert_eq!(head.header("content-length"), Some("5000"), "{length}");
    }
}

#[tokio::test]
async fn get_decides_where_a_blobs_head_is_refused() {
    for status in [400, 401, 403, 404, 405, 500, 501] {
        let (origin, gateway) = started_without_retries("").await;
        let bytes = noise(5000);
        let first = origin.blob("b", &bytes);
        gives(gateway.get(&first).await, &bytes, "MISS");
        until_kept(&gateway, &first).await;
        let target = origin.blob("a", &bytes);
        origin.upstream.always("HEAD", &*target, move |_| Reply::status(status));
        gives(gateway.get(&target).await, &bytes, "REVALIDATED");
    }
}

/// Returns a gateway through which clients push.
async fn writable(origin: &Origin) -> Gateway {
    let lines = "read_only = false\n[upstream.cache]";
    super::before(origin, lines).cache("prefetch = false").start().await
}

#[tokio::test]
async fn a_client_that_may_push_asks_the_upstream_for_blobs() {
    let origin = Origin::start().await;
    let gateway = writable(&origin).await;
    let bytes = noise(5000);
    let target = origin.blob("a", &bytes);
    gives(gateway.get(&target).await, &bytes, "MISS");
    gives(until_kept(&gateway, &target).await, &bytes, "HIT");
    gateway.ask(Request::head(&target)).await.is(200);
    // The registry has collected its garbage.
    origin.removes(&target);
    gateway.ask(Request::head(&target)).await.is(404);
    origin.falls_ill(503);
    gateway.ask(Request::head(&target)).await.is(502);
}

#[tokio::test]
async fn a_client_that_may_only_pull_asks_the_cache_for_blobs() {
    let origin = Origin::start().await;
    let lines = "read_only = false\n[upstream.cache]";
    let gateway = super::before(&origin, lines).cache("prefetch = false").user("alice", "secret");
    let gateway = gateway.rule(&["alice"], &["**"], &["pull"]).start().await;
    let bytes = noise(5000);
    let target = origin.blob("a", &bytes);
    gateway.ask(Request::get(&target).login("alice", "secret")).await.is(200);
    origin.forgets_requests();
    let head = gateway.ask(Request::head(&target).login("alice", "secret")).await.is(200);
    assert_eq!((super::word(&head), origin.requests().len()), ("HIT", 0));
}

#[tokio::test]
async fn an_empty_blob_has_its_length_over_http2() {
    let origin = Origin::start().await;
    let gateway = cached(&origin, "").tls(&["localhost"]).start().await;
    let target = origin.blob("a", b"");
    for _ in 0..2 {
        let mut client = gateway.http2().await;
        let (answer, end) = Http2::finish(client.begin(&Request::get(&target)).await.unwrap()).await;
        end.expect("a clean end");
        assert_eq!((answer.status, answer.header("content-length")), (200, Some("0")), "{answer:?}");
    }
}

#[tokio::test]
async fn a_repeated_length_comes_out_once() {
    let origin = Origin::start().await;
    let bytes = noise(5000);
    let target = origin.blob("a", &bytes);
    for length in ["Content-Length: 5000\r\nContent-Length: 5000", "Content-Length: 5000, 5000"] {
        let head = format!("HTTP/1.1 200 OK\r\n{length}\r\n\r\n");
        origin.upstream.expect("HEAD", &*target, Reply::raw(&head));
        origin.upstream.expect("GET", &*target, Reply::raw([head.as_bytes(), &bytes].concat()));
        let gateway = cached(&origin, "").start().await;
        let head = gateway.ask(Request::head(&target)).await.is(200);
        assert_eq!(head.headers.all("content-length"), ["5000"]);
        let answer = gateway.get(&target).await.is(200);
        assert!(answer.body == bytes);
        assert_eq!(answer.headers.all("content-length"), ["5000"]);
    }
}

#[tokio::test]
async fn tags_of_a_push_by_digest_move_here_too() {
    let origin = Origin::start().await;
    let lines = "read_only = false\n[upstream.cache]\ntag_ttl = \"1h\"";
    let gateway = super::before(&origin, lines).cache("prefetch = false").start().await;
    let (old, new) = (Image::empty("old"), Image::empty("new"));
    for tag in ["x", "y", "z"] {
        origin.manifest("a", tag, OCI_IMAGE, &old.manifest);
        gateway.get(&manifest_at("a", tag)).await.is(200);
    }
    let target = format!("{}?tag=x&tag=y&tag=z", manifest_at("a", &new.digest));
    let taken = Reply::status(201).header("OCI-Tag", "x").header("OCI-Tag", "y");
    origin.upstream.expect("PUT", &*target, taken);
    let put = Request::put(&target).header("Content-Type", OCI_IMAGE).body(new.manifest.clone());
    gateway.ask(put).await.is(201);
    origin.forgets_requests();
    for tag in ["x", "y"] {
        gives(gateway.get(&manifest_at("a", tag)).await, &new.manifest, "HIT");
    }
    assert_eq!(origin.requests(), [""; 0]);
    // Of the third the registry said nothing: it is asked.
    gives(gateway.get(&manifest_at("a", "z")).await, &old.manifest, "REVALIDATED");
}
