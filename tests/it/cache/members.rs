//! A cached blob is not public: who may have it is decided per repository.

use super::{asking, before, gives, started, until_kept, word};
use crate::harness::{
    Answer, BodyEnd, Gate, Gateway, Image, OCI_IMAGE, Origin, Reply, Request, Upstream, blob_at, manifest_at,
    noise, sha256,
};

const SIZE: usize = 200_000;

/// Alice and Mallory have a repository each.
async fn two(prefetch: bool) -> (Origin, Gateway) {
    let origin = Origin::start().await;
    let builder =
        before(&origin, "[upstream.cache]\ntag_ttl = \"1h\"").cache(&format!("prefetch = {prefetch}"));
    let builder =
        builder.user("alice", "t0psecret-alice").user("mallory", "secret").user("bob", "t0psecret-bob");
    let builder =
        builder.rule(&["alice"], &["hers/**"], &["pull"]).rule(&["mallory"], &["his/**"], &["pull"]);
    let builder =
        builder.denial(&["bob"], &["**"], &["fetch"]).rule(&["bob"], &["hers/*", "other/*"], &["pull"]);
    (origin, builder.start().await)
}

fn alice(request: Request) -> Request {
    request.login("alice", "t0psecret-alice")
}

fn mallory(request: Request) -> Request {
    request.login("mallory", "secret")
}

fn bob(request: Request) -> Request {
    request.login("bob", "t0psecret-bob")
}

/// An answer without what differs from request to request.
fn seen(answer: &Answer, digest: &str) -> String {
    let own = |name: &str| name == "x-request-id" || name == "date";
    let fields: Vec<_> = answer.headers.0.iter().filter(|(name, _)| !own(name)).collect();
    format!("{} {fields:?} {}", answer.status, answer.text()).replace(digest, "DIGEST")
}

/// Asserts that Mallory's answers about a blob are those about a blob that is nowhere.
async fn knows_nothing_of(gateway: &Gateway, bytes: &[u8]) {
    let (real, nowhere) = (blob_at("his/evil", bytes), blob_at("his/evil", b"nowhere"));
    let digest = |target: &str| target.rsplit('/').next().unwrap().to_owned();
    let requests: [fn(&str) -> Request; 5] = [
        |target| Request::get(target),
        |target| Request::head(target),
        |target| Request::get(target).header("Range", "bytes=0-9"),
        |target| Request::get(target).header("Range", "bytes=999999-"),
        |target| Request::get(target).header("If-None-Match", "*"),
    ];
    for request in requests {
        let is = gateway.ask(mallory(request(&real))).await.is(404);
        let is_not = gateway.ask(mallory(request(&nowhere))).await.is(404);
        assert_eq!(seen(&is, &digest(&real)), seen(&is_not, &digest(&nowhere)));
        assert_eq!(word(&is), word(&is_not));
    }
}

/// Mallory's manifest, which names Alice's blob.
async fn pulls_his_manifest(origin: &Origin, gateway: &Gateway, bytes: &[u8]) {
    let image = Image::of("evil", &[bytes.to_vec()]);
    origin.blob("his/evil", &image.config);
    origin.manifest("his/evil", "x", OCI_IMAGE, &image.manifest);
    gateway.ask(mallory(Request::get("/v2/his/evil/manifests/x"))).await.is(200);
    gateway.ask(mallory(Request::get(manifest_at("his/evil", &image.digest)))).await.is(200);
}

#[tokio::test]
async fn a_manifest_grants_no_access_to_foreign_blobs() {
    for prefetch in [false, true] {
        let (origin, gateway) = two(prefetch).await;
        let bytes = noise(SIZE);
        let hers = origin.blob("hers/app", &bytes);
        pulls_his_manifest(&origin, &gateway, &bytes).await;
        knows_nothing_of(&gateway, &bytes).await;
        gateway.ask(alice(Request::get(&hers))).await.is(200);
        knows_nothing_of(&gateway, &bytes).await;
        pulls_his_manifest(&origin, &gateway, &bytes).await;
        knows_nothing_of(&gateway, &bytes).await;
        // She has it still.
        assert!(gateway.ask(alice(Request::get(&hers))).await.is(200).body == bytes);
        assert_eq!(origin.count("GET", &hers), 1);
    }
}

#[tokio::test]
async fn a_download_for_another_repository_is_not_shared_unasked() {
    let (origin, gateway) = two(false).await;
    let (bytes, gate) = (noise(SIZE), Gate::shut());
    let hers = origin.blob("hers/app", &bytes);
    origin.upstream.expect("GET", &*hers, Origin::whole(&bytes).pause_after(SIZE / 2, &gate));
    let mut client = asking(&gateway, alice(Request::get(&hers))).await;
    let head = client.head().await.is(200);
    knows_nothing_of(&gateway, &bytes).await;
    gate.open();
    let (answer, end) = client.rest(head).await;
    assert!(end == BodyEnd::Complete && answer.body == bytes);
    knows_nothing_of(&gateway, &bytes).await;
}

#[tokio::test]
async fn denials_are_the_same_for_cached_and_missing() {
    let (origin, gateway) = two(false).await;
    let bytes = noise(SIZE);
    let hers = origin.blob("hers/app", &bytes);
    let nowhere = blob_at("hers/app", b"nowhere");
    let digest = |target: &str| target.rsplit('/').next().unwrap().to_owned();
    let before = gateway.ask(mallory(Request::get(&hers))).await.refuses(403, "DENIED");
    gateway.ask(alice(Request::get(&hers))).await.is(200);
    let after = gateway.ask(mallory(Request::get(&hers))).await.refuses(403, "DENIED");
    let other = gateway.ask(mallory(Request::get(&nowhere))).await.refuses(403, "DENIED");
    let look = |answer: &Answer, target: &str| seen(answer, &digest(target));
    assert_eq!(look(&before, &hers), look(&after, &hers));
    assert_eq!(look(&after, &hers), look(&other, &nowhere));
}

#[tokio::test]
async fn another_repository_costs_one_question_and_no_download() {
    let (origin, gateway) = started("").await;
    let bytes = noise(SIZE);
    let first = origin.blob("a", &bytes);
    let second = origin.blob("b", &bytes);
    gives(gateway.get(&first).await, &bytes, "MISS");
    until_kept(&gateway, &first).await;
    gives(gateway.get(&second).await, &bytes, "REVALIDATED");
    gives(gateway.get(&second).await, &bytes, "HIT");
    assert_eq!(origin.requests(), [format!("GET {first}"), format!("GET {second}")]);
    assert_eq!(origin.upstream.heard_of("range"), [None, Some("bytes=0-0".to_owned())]);
}

#[tokio::test]
async fn another_upstream_that_has_it_is_asked_for_itself() {
    let (one, other) = (Origin::start().await, Origin::start().await);
    let builder = Gateway::builder().upstream_with("one", "one", one.address(), "[upstream.cache]");
    let builder = builder.upstream_with("other", "other", other.address(), "[upstream.cache]");
    let gateway = builder.cache("prefetch = false").start().await;
    let bytes = noise(SIZE);
    let target = one.blob("a", &bytes);
    let at = |name: &str| target.replace("/v2/", &format!("/v2/{name}/"));
    gives(gateway.get(&at("one")).await, &bytes, "MISS");
    until_kept(&gateway, &at("one")).await;
    gateway.get(&at("other")).await.refuses(404, "BLOB_UNKNOWN");
    other.blob("a", &bytes);
    // Its word is not enough for bytes that it has never served.
    other.forgets_requests();
    gives(gateway.get(&at("other")).await, &bytes, "MISS");
    until_kept(&gateway, &at("other")).await;
    gives(gateway.get(&at("other")).await, &bytes, "HIT");
    assert_eq!(other.requests(), [format!("GET {target}")]);
    assert_eq!(one.count("GET", &target), 1);
}

#[tokio::test]
async fn one_byte_proves_membership_where_head_is_refused() {
    for status in [401, 403, 405] {
        let (origin, elsewhere) = (Origin::start().await, Upstream::start().await);
        let settings = format!("redirect_hosts = [\"{}\"]\n[upstream.cache]", elsewhere.address);
        let builder = Gateway::builder().upstream_with("one", "", origin.address(), &settings);
        let gateway = builder.cache("prefetch = false").start().await;
        let bytes = noise(SIZE);
        let first = origin.blob("a", &bytes);
        let second = blob_at("b", &bytes);
        gives(gateway.get(&first).await, &bytes, "MISS");
        until_kept(&gateway, &first).await;
        let redirect = || Reply::status(307).header("Location", &elsewhere.url("/signed?sig=t0psecret"));
        let part = Reply::status(206)
            .header("Content-Range", &format!("bytes 0-0/{}", bytes.len()))
            .body(&bytes[..1]);
        for (there, answer) in [(false, Reply::status(404)), (true, part)] {
            // A client's HEAD may be for more than GET may show: it is asked by HEAD first.
            origin.upstream.expect("HEAD", &*second, Reply::status(status));
            origin.upstream.expect("GET", &*second, redirect());
            elsewhere.expect("GET", "/signed?sig=t0psecret", answer.clone());
            let head = gateway.ask(Request::head(&second)).await;
            if there {
                head.is(200);
                gives(gateway.get(&second).await, &bytes, "HIT");
                continue;
            }
            assert_eq!(head.status, 404);
            origin.upstream.expect("GET", &*second, redirect());
            elsewhere.expect("GET", "/signed?sig=t0psecret", answer);
            let answer = gateway.get(&second).await;
            answer.refuses(404, "BLOB_UNKNOWN");
        }
        assert_eq!(elsewhere.heard_of("range").last(), Some(&Some("bytes=0-0".to_owned())));
    }
}

#[tokio::test]
async fn where_the_upstream_cannot_say_it_is_not_guessed() {
    let (origin, gateway) = super::started_without_retries("").await;
    let bytes = noise(SIZE);
    let first = origin.blob("a", &bytes);
    gives(gateway.get(&first).await, &bytes, "MISS");
    until_kept(&gateway, &first).await;
    origin.falls_ill(500);
    gateway.get(&blob_at("b", &bytes)).await.refuses(502, "UNAVAILABLE");
    gives(gateway.get(&first).await, &bytes, "HIT");
}

#[tokio::test]
async fn without_fetch_only_cached_content_is_served() {
    let (origin, gateway) = two(false).await;
    let image = origin.image("hers/app", "x", &[noise(SIZE)]);
    let tag = manifest_at("hers/app", "x");
    let by_digest = manifest_at("hers/app", &image.digest);
    let blob = blob_at("hers/app", &image.layers[0]);
    for target in [&tag, &by_digest, &blob] {
        gateway.ask(bob(Request::get(target))).await.refuses(403, "DENIED");
        gateway.ask(bob(Request::head(target))).await.is(403);
    }
    gateway.ask(bob(Request::get(&blob).header("Range", "bytes=0-9"))).await.refuses(403, "DENIED");
    assert_eq!(origin.requests(), [""; 0]);
    for target in [&tag, &blob] {
        gateway.ask(alice(Request::get(target))).await.is(200);
    }
    origin.forgets_requests();
    for target in [&tag, &by_digest] {
        gives(gateway.ask(bob(Request::get(target))).await, &image.manifest, "HIT");
        gateway.ask(bob(Request::head(target))).await.is(200);
    }
    assert!(gateway.ask(bob(Request::get(&blob))).await.is(200).body == image.layers[0]);
    // Here it is; but whether this repository holds it would have to be asked.
    origin.blob("other/app", &image.layers[0]);
    let here =
        gateway.ask(bob(Request::get(blob_at("other/app", &image.layers[0])))).await.refuses(403, "DENIED");
    let nowhere =
        gateway.ask(bob(Request::get(blob_at("other/app", b"nowhere")))).await.refuses(403, "DENIED");
    assert_eq!(seen(&here, ""), seen(&nowhere, ""));
    assert_eq!(origin.requests(), [""; 0]);
}

#[tokio::test]
async fn without_fetch_an_old_tag_needs_confirmation() {
    let origin = Origin::start().await;
    let builder = before(&origin, "[upstream.cache]\ntag_ttl = \"0s\"").cache("prefetch = false");
    let builder = builder.user("alice", "t0psecret-alice").user("bob", "t0psecret-bob");
    let builder = builder.denial(&["bob"], &["**"], &["fetch"]).rule(&["*"], &["**"], &["pull"]);
    let gateway = builder.start().await;
    let image = origin.image("a", "x", &[]);
    gateway.ask(alice(Request::get("/v2/a/manifests/x"))).await.is(200);
    origin.forgets_requests();
    assert!(gateway.ask(bob(Request::get("/v2/a/manifests/x"))).await.is(200).body == image.manifest);
    assert_eq!(origin.requests(), ["HEAD /v2/a/manifests/x"]);
    origin.image("a", "x", &[b"moved on".to_vec()]);
    gateway.ask(bob(Request::get("/v2/a/manifests/x"))).await.refuses(403, "DENIED");
}

#[tokio::test]
async fn a_head_downloads_nothing() {
    let (origin, gateway) = started("").await;
    let bytes = noise(SIZE);
    let target = origin.blob("a", &bytes);
    for did in ["MISS", "HIT"] {
        let head = gateway.ask(Request::head(&target)).await.is(200);
        assert_eq!(head.header("content-length"), Some(SIZE.to_string().as_str()));
        assert_eq!(word(&head), did);
    }
    assert_eq!(origin.requests(), [format!("HEAD {target}")]);
}

#[tokio::test]
async fn a_refusal_does_not_tell_what_is_cached_for_others() {
    let (origin, gateway) = started("").await;
    let bytes = noise(SIZE);
    let first = origin.blob("a", &bytes);
    gives(gateway.get(&first).await, &bytes, "MISS");
    until_kept(&gateway, &first).await;
    // On its way for another repository: neither kept nor asked about.
    let (slow, gate) = (noise(SIZE + 1), Gate::shut());
    let under_way = blob_at("a", &slow);
    origin.upstream.expect("GET", &*under_way, Origin::whole(&slow).pause_after(1000, &gate));
    let mut reading = asking(&gateway, Request::get(&under_way)).await;
    reading.head().await.is(200);
    for method in ["GET", "HEAD"] {
        let mut costs = Vec::new();
        for content in [&bytes, &slow, &noise(SIZE + 2)] {
            origin.upstream.forget_heard();
            let (digest, target) = (sha256(content), blob_at("b", content));
            let answer = gateway.ask(Request::new(method, &*target)).await;
            let asked = origin.requests().join("\n").replace(&digest, "DIGEST");
            costs.push((asked, answer.status, seen(&answer, &digest)));
        }
        assert_eq!(costs[0].1, 404);
        assert!(costs[0] == costs[1] && costs[0] == costs[2], "{costs:#?}");
        if method == "GET" {
            assert_eq!(costs[0].0, "GET /v2/b/blobs/DIGEST", "one request");
        }
    }
    gate.open();
}
