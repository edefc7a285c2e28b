//! Writes through the gateway: what is kept follows them at once.

use super::{asking, before, gives, until_kept};
use crate::harness::{
    Answer, Gate, Gateway, Image, OCI_IMAGE, Origin, Reply, Request, blob_at, manifest_at, noise, sha256,
};

const TAG: &str = "/v2/a/manifests/x";
const UPLOADS: &str = "/v2/a/blobs/uploads/";
const SESSION: &str = "/v2/a/blobs/uploads/5e55";
const LONG: &str = "tag_ttl = \"1h\"\nnot_found_ttl = \"1h\"";

/// Nothing is asked of the upstream twice for an hour.
async fn writable() -> (Origin, Gateway) {
    let origin = Origin::start().await;
    let lines = format!("read_only = false\n[upstream.cache]\n{LONG}");
    let gateway = before(&origin, &lines).cache("prefetch = false").start().await;
    (origin, gateway)
}

fn put(image: &Image) -> Request {
    Request::put(TAG).header("Content-Type", OCI_IMAGE).body(image.manifest.clone())
}

/// Pushes an image's manifest; the upstream takes it.
async fn push(origin: &Origin, gateway: &Gateway, image: &Image) {
    let created = Reply::status(201).header("Docker-Content-Digest", &image.digest);
    origin.upstream.expect("PUT", TAG, created);
    origin.manifest("a", "x", OCI_IMAGE, &image.manifest);
    gateway.ask(put(image)).await.is(201);
}

#[tokio::test]
async fn a_pushed_tag_is_seen_by_the_next_pull() {
    let (origin, gateway) = writable().await;
    let (old, new) = (Image::empty("old"), Image::empty("new"));
    origin.manifest("a", "x", OCI_IMAGE, &old.manifest);
    assert!(gateway.get(TAG).await.is(200).body == old.manifest);
    push(&origin, &gateway, &new).await;
    let answer = gateway.get(TAG).await.is(200);
    assert!(answer.body == new.manifest);
    assert_eq!(answer.header("docker-content-digest"), Some(new.digest.as_str()));
    assert!(gateway.get(&manifest_at("a", &new.digest)).await.is(200).body == new.manifest);
    assert!(gateway.get(&manifest_at("a", &old.digest)).await.is(200).body == old.manifest);
}

#[tokio::test]
async fn a_running_head_does_not_restore_the_old_digest() {
    let origin = Origin::start().await;
    // Each pull asks.
    let lines = "read_only = false\n[upstream.cache]\ntag_ttl = \"1h\"";
    let gateway = before(&origin, lines).cache("prefetch = false").start().await;
    let (old, new) = (Image::empty("old"), Image::empty("new"));
    origin.manifest("a", "x", OCI_IMAGE, &old.manifest);
    let gate = Gate::shut();
    let said = Reply::ok(&old.manifest).header("Content-Type", OCI_IMAGE);
    let said = said.header("Docker-Content-Digest", &old.digest).held(&gate);
    let mut head = origin.upstream.expect("HEAD", TAG, said);
    let mut client = asking(&gateway, Request::get(TAG)).await;
    head.arrived().await;
    push(&origin, &gateway, &new).await;
    gate.open();
    client.answer().await.is(200);
    for _ in 0..2 {
        assert!(gateway.get(TAG).await.is(200).body == new.manifest);
    }
}

#[tokio::test]
async fn a_missing_tag_is_asked_for_again_after_a_push() {
    let (origin, gateway) = writable().await;
    let image = Image::empty("one");
    let by_digest = manifest_at("a", &image.digest);
    for target in [TAG, &by_digest, "/v2/a/manifests/y"] {
        gateway.get(target).await.refuses(404, "MANIFEST_UNKNOWN");
    }
    push(&origin, &gateway, &image).await;
    origin.manifest("a", "y", OCI_IMAGE, &image.manifest);
    for target in [TAG, &by_digest, "/v2/a/manifests/y"] {
        assert!(gateway.get(target).await.is(200).body == image.manifest, "{target}");
    }
}

#[tokio::test]
async fn a_push_with_a_lost_answer_invalidates_the_tag() {
    let (origin, gateway) = writable().await;
    let image = Image::empty("one");
    gateway.get(TAG).await.is(404);
    // Where the connection may merely have been dead, it is sent again.
    origin.upstream.always("PUT", TAG, |_| Reply::close());
    origin.manifest("a", "x", OCI_IMAGE, &image.manifest);
    gateway.ask(put(&image)).await.is(502);
    assert!(gateway.get(TAG).await.is(200).body == image.manifest);
}

#[tokio::test]
async fn a_push_that_is_refused_changes_nothing() {
    let (origin, gateway) = writable().await;
    let (old, new) = (Image::empty("old"), Image::empty("new"));
    origin.manifest("a", "x", OCI_IMAGE, &old.manifest);
    gateway.get(TAG).await.is(200);
    origin.upstream.expect("PUT", TAG, Reply::status(403));
    gateway.ask(put(&new)).await.is(403);
    assert!(gateway.get(TAG).await.is(200).body == old.manifest);
    gateway.get(&manifest_at("a", &new.digest)).await.refuses(404, "MANIFEST_UNKNOWN");
}

#[tokio::test]
async fn a_refused_manifest_ends_what_was_believed_of_blobs() {
    let own = r#"{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN","message":"blob unknown to registry"}]}"#;
    for status in [400, 404, 500] {
        let (origin, gateway) = writable().await;
        let bytes = noise(10_000);
        let (blob, other) = (origin.blob("a", &bytes), origin.blob("b", &bytes));
        for target in [&blob, &other] {
            until_kept(&gateway, target).await;
        }
        // The registry has lost it: `docker-registry garbage-collect`.
        origin.removes(&blob);
        gives(gateway.get(&blob).await, &bytes, "HIT");
        let image = Image::empty("new");
        origin.upstream.expect("PUT", TAG, Reply::status(status).body(own));
        assert!(gateway.ask(put(&image)).await.status >= 400);
        gateway.get(&blob).await.refuses(404, "BLOB_UNKNOWN");
        gives(gateway.get(&other).await, &bytes, "HIT");
    }
}

#[tokio::test]
async fn a_manifest_that_is_taken_with_202_is_kept() {
    for status in [200, 201, 202, 204] {
        let (origin, gateway) = writable().await;
        let image = Image::empty("one");
        origin.upstream.expect("PUT", TAG, Reply::status(status));
        gateway.ask(put(&image)).await.is(201);
        gives(gateway.get(TAG).await, &image.manifest, "HIT");
    }
}

#[tokio::test]
async fn a_write_ends_the_lists_of_its_repository() {
    let (origin, gateway) = writable().await;
    let list = r#"{"name":"a","tags":["old"]}"#;
    origin.upstream.expect("GET", "/v2/a/tags/list", Reply::ok(list));
    gateway.get("/v2/a/tags/list").await.is(200);
    origin.falls_ill(503);
    super::until("the list to be kept", &gateway, Request::get("/v2/a/tags/list"), |answer| {
        answer.status == 200
    })
    .await;
    let image = Image::empty("new");
    origin.upstream.expect("PUT", TAG, Reply::status(201));
    gateway.ask(put(&image)).await.is(201);
    gateway.get("/v2/a/tags/list").await.refuses(502, "UNAVAILABLE");
}

#[tokio::test]
async fn a_manifest_that_is_deleted_is_gone_at_once() {
    let (origin, gateway) = writable().await;
    let image = Image::empty("one");
    origin.manifest("a", "x", OCI_IMAGE, &image.manifest);
    let by_digest = manifest_at("a", &image.digest);
    for target in [TAG, &by_digest] {
        gateway.get(target).await.is(200);
    }
    origin.upstream.expect("DELETE", &*by_digest, Reply::status(202));
    for target in [TAG, &by_digest] {
        origin.removes(target);
    }
    gateway.ask(Request::delete(&by_digest)).await.is(202);
    for target in [TAG, &by_digest] {
        gateway.get(target).await.refuses(404, "MANIFEST_UNKNOWN");
    }
}

#[tokio::test]
async fn a_deleted_tag_leaves_its_manifest() {
    let (origin, gateway) = writable().await;
    let image = Image::empty("one");
    origin.manifest("a", "x", OCI_IMAGE, &image.manifest);
    gateway.get(TAG).await.is(200);
    origin.upstream.expect("DELETE", TAG, Reply::status(202));
    origin.removes(TAG);
    gateway.ask(Request::delete(TAG)).await.is(202);
    gateway.get(TAG).await.refuses(404, "MANIFEST_UNKNOWN");
    assert!(gateway.get(&manifest_at("a", &image.digest)).await.is(200).body == image.manifest);
}

#[tokio::test]
async fn a_deleted_blob_leaves_its_repository_at_once() {
    let (origin, gateway) = writable().await;
    let bytes = noise(100_000);
    let (here, there) = (origin.blob("a", &bytes), origin.blob("b", &bytes));
    for target in [&here, &there] {
        gateway.get(target).await.is(200);
        until_kept(&gateway, target).await;
    }
    origin.upstream.expect("DELETE", &*here, Reply::status(202));
    origin.removes(&here);
    gateway.ask(Request::delete(&here)).await.is(202);
    gateway.get(&here).await.refuses(404, "BLOB_UNKNOWN");
    gives(gateway.get(&there).await, &bytes, "HIT");
}

fn location(answer: &Answer) -> String {
    answer.header("location").expect("a location").to_owned()
}

async fn begin(origin: &Origin, gateway: &Gateway) -> String {
    origin.upstream.expect("POST", UPLOADS, Reply::status(202).header("Location", SESSION));
    location(&gateway.ask(Request::post(UPLOADS)).await.is(202))
}

fn ending(at: &str, bytes: &[u8]) -> String {
    let sign = if at.contains('?') { '&' } else { '?' };
    format!("{at}{sign}digest={}", sha256(bytes))
}

/// Returns the upstream's request at the end of an upload.
fn finished(origin: &Origin, bytes: &[u8], reply: Reply) {
    let digest = sha256(bytes).replace(':', "%3A");
    origin.upstream.expect("PUT", format!("{SESSION}?digest={digest}"), reply);
}

/// Asserts that it is kept, and that the upstream is not asked for it.
async fn is_kept(origin: &Origin, gateway: &Gateway, bytes: &[u8]) {
    origin.forgets_requests();
    let target = origin.blob("a", bytes);
    gives(until_kept(gateway, &target).await, bytes, "HIT");
    assert_eq!(origin.requests(), [""; 0]);
}

#[tokio::test]
async fn a_layer_pushed_by_put_is_kept() {
    let (origin, gateway) = writable().await;
    for size in [0, 1, 1000, 3_000_000] {
        let bytes = noise(size);
        let at = begin(&origin, &gateway).await;
        finished(&origin, &bytes, Reply::status(201));
        gateway.ask(Request::put(ending(&at, &bytes)).body(bytes.clone())).await.is(201);
        is_kept(&origin, &gateway, &bytes).await;
    }
}

#[tokio::test]
async fn a_layer_pushed_by_patch_is_kept() {
    let (origin, gateway) = writable().await;
    let bytes = noise(2_000_000);
    let mut at = begin(&origin, &gateway).await;
    for piece in bytes.chunks(700_000) {
        origin.upstream.expect("PATCH", SESSION, Reply::status(202).header("Location", SESSION));
        at = location(&gateway.ask(Request::patch(&at).body(piece)).await.is(202));
    }
    finished(&origin, &bytes, Reply::status(201));
    gateway.ask(Request::put(ending(&at, &bytes)).body("")).await.is(201);
    is_kept(&origin, &gateway, &bytes).await;
}

#[tokio::test]
async fn a_layer_pushed_by_one_post_is_kept() {
    let (origin, gateway) = writable().await;
    let bytes = noise(300_000);
    let digest = sha256(&bytes).replace(':', "%3A");
    origin.upstream.expect("POST", format!("{UPLOADS}?digest={digest}"), Reply::status(201));
    gateway.ask(Request::post(ending(UPLOADS, &bytes)).body(bytes.clone())).await.is(201);
    is_kept(&origin, &gateway, &bytes).await;
}

#[tokio::test]
async fn a_refused_or_different_layer_is_not_kept() {
    let (origin, gateway) = writable().await;
    let bytes = noise(300_000);
    let target = blob_at("a", &bytes);
    let at = begin(&origin, &gateway).await;
    finished(&origin, &bytes, Reply::status(400));
    gateway.ask(Request::put(ending(&at, &bytes)).body(bytes.clone())).await.is(400);
    gateway.get(&target).await.refuses(404, "BLOB_UNKNOWN");
    // The upstream takes what it should not.
    let mut wrong = bytes.clone();
    wrong[7] ^= 1;
    let at = begin(&origin, &gateway).await;
    finished(&origin, &bytes, Reply::status(201));
    gateway.ask(Request::put(ending(&at, &bytes)).body(wrong)).await.is(201);
    origin.blob("a", &bytes);
    assert!(gateway.get(&target).await.is(200).body == bytes);
    assert_eq!(origin.count("GET", &target), 2);
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing() {
    let (origin, gateway) = writable().await;
    let bytes = noise(300_000);
    let at = begin(&origin, &gateway).await;
    let digest = sha256(&bytes).replace(':', "%3A");
    let target = format!("{SESSION}?digest={digest}");
    let mut asked = origin.upstream.expect("PUT", target, Reply::status(201));
    let mut client = gateway.connect().await;
    let request = Request::put(ending(&at, &bytes)).header("Content-Length", "300000");
    client.send(request.bytes("localhost")).await;
    client.send(&bytes[..100_000]).await;
    asked.until(|seen| seen.received > 0).await;
    drop(client);
    asked.abandoned().await;
    gateway.get(&blob_at("a", &bytes)).await.refuses(404, "BLOB_UNKNOWN");
    assert_eq!(super::files_in(&gateway.path("cache/blobs")).len(), 0);
}

#[tokio::test]
async fn a_mounted_layer_belongs_to_its_new_repository() {
    let (origin, gateway) = writable().await;
    let bytes = noise(100_000);
    let from = origin.blob("b", &bytes);
    gives(gateway.get(&from).await, &bytes, "MISS");
    until_kept(&gateway, &from).await;
    let digest = sha256(&bytes).replace(':', "%3A");
    origin.upstream.expect("POST", format!("{UPLOADS}?mount={digest}&from=b"), Reply::status(201));
    gateway.ask(Request::post(format!("{UPLOADS}?mount={digest}&from=b"))).await.is(201);
    is_kept(&origin, &gateway, &bytes).await;
}

#[tokio::test]
async fn a_cached_upstream_is_read_only_by_default() {
    let (origin, gateway) = super::started("").await;
    for request in [Request::put(TAG).body("{}"), Request::post(UPLOADS), Request::delete(TAG)] {
        let answer = gateway.ask(request).await;
        assert!([403, 405].contains(&answer.status), "{answer:?}");
    }
    assert_eq!(origin.requests(), [""; 0]);
}
