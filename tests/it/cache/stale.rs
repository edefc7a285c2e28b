//! Upstreams that fail, limit us, or are not there.

use std::time::Duration;

use dockgate::internals::clock;

use super::{bare, before, cached_at, gives, started_without_retries, until, word};
use crate::harness::{
    Answer, Gateway, Guarded, Image, OCI_IMAGE, Origin, Reply, Request, blob_at, gift, manifest_at, noise,
    sha256, token,
};

const TAG: &str = "/v2/a/manifests/x";
const OLD_AT_ONCE: &str = "tag_ttl = \"0s\"";

fn image(origin: &Origin) -> Image {
    let image = Image::empty("one");
    origin.manifest("a", "x", OCI_IMAGE, &image.manifest);
    image
}

/// One whose tag is kept, and old.
async fn warm(lines: &str) -> (Origin, Gateway, Image) {
    let (origin, gateway) = started_without_retries(lines).await;
    let image = image(&origin);
    gives(gateway.get(TAG).await, &image.manifest, "MISS");
    origin.forgets_requests();
    (origin, gateway, image)
}

#[track_caller]
fn is_stale(answer: Answer, image: &Image) {
    let answer = gives(answer, &image.manifest, "STALE");
    let warning = answer.header("warning").expect("a warning");
    assert!(warning.starts_with("299 - \""), "{warning}");
    assert_eq!(answer.header("docker-content-digest"), Some(image.digest.as_str()));
}

#[tokio::test]
async fn the_last_digest_serves_when_the_upstream_fails() {
    for status in [500, 502, 503, 504, 429] {
        let (origin, gateway, image) = warm(OLD_AT_ONCE).await;
        origin.falls_ill(status);
        is_stale(gateway.get(TAG).await, &image);
        let head = gateway.ask(Request::head(TAG)).await.is(200);
        assert_eq!(word(&head), "STALE", "{status}");
        gives(gateway.get(&manifest_at("a", &image.digest)).await, &image.manifest, "HIT");
    }
}

#[tokio::test]
async fn the_last_digest_serves_without_an_upstream() {
    let (mut origin, gateway, image) = warm(OLD_AT_ONCE).await;
    origin.upstream.dies().await;
    for _ in 0..5 {
        is_stale(gateway.get(TAG).await, &image);
    }
    origin.upstream.returns().await;
    let back =
        until("the upstream to be asked", &gateway, Request::get(TAG), |answer| word(answer) != "STALE")
            .await;
    gives(back, &image.manifest, "REVALIDATED");
}

#[tokio::test]
async fn the_last_digest_serves_when_answers_break() {
    let origin = Origin::start().await;
    let lines = format!("retries = 0\nresponse_timeout = \"200ms\"\n[upstream.cache]\n{OLD_AT_ONCE}");
    for reply in [Reply::never(), Reply::close(), Reply::reset(), Reply::raw("HTTP/9 what\r\n\r\n")] {
        let gateway = before(&origin, &lines).cache("prefetch = false").start().await;
        let image = image(&origin);
        gateway.get(TAG).await.is(200);
        origin.upstream.always("HEAD", TAG, move |_| reply.clone());
        is_stale(gateway.get(TAG).await, &image);
        origin.upstream.forget("HEAD", TAG);
    }
}

#[tokio::test]
async fn the_registrys_own_refusal_ends_stale_content() {
    for (status, code) in [(403, "DENIED"), (404, "MANIFEST_UNKNOWN")] {
        let (origin, gateway, _) = warm(&format!("{OLD_AT_ONCE}\nnot_found_ttl = \"0s\"")).await;
        origin.falls_ill(status);
        gateway.get(TAG).await.refuses(status, code);
        origin.falls_ill(500);
        gateway.get(TAG).await.refuses(502, "UNAVAILABLE");
        origin.recovers();
        gateway.get(TAG).await.is(200);
    }
}

#[tokio::test]
async fn stale_content_serves_while_the_gateways_credentials_are_refused() {
    let (origin, gateway, image) = warm(OLD_AT_ONCE).await;
    origin.falls_ill(401);
    is_stale(gateway.get(TAG).await, &image);
    gateway.get("/v2/a/manifests/y").await.refuses(502, "UNAVAILABLE");
}

#[tokio::test]
async fn expired_stale_content_is_not_served() {
    let (origin, gateway, image) = warm("tag_ttl = \"0s\"\nstale_if_error = \"500ms\"").await;
    origin.falls_ill(500);
    is_stale(gateway.get(TAG).await, &image);
    tokio::time::sleep(Duration::from_millis(600)).await;
    gateway.get(TAG).await.refuses(502, "UNAVAILABLE");
    origin.recovers();
    assert!(gateway.get(TAG).await.is(200).body == image.manifest);
}

#[tokio::test]
async fn the_last_digest_serves_without_a_token() {
    for reply in
        [Reply::status(500), Reply::status(401), Reply::status(403), Reply::status(429), Reply::ok("what?")]
    {
        let guarded = Guarded::start().await;
        let image = Image::empty("one");
        let lines = format!("retries = 0\n{}\n{}", guarded.realm_hosts(), crate::harness::account());
        let lines = format!("{lines}\n[upstream.cache]\n{OLD_AT_ONCE}");
        let builder = Gateway::builder().upstream_with("up", "", guarded.registry.address, &lines);
        let gateway = builder.cache("prefetch = false").start().await;
        // The token is not good for long.
        let scopes = &["repository:a:pull"];
        let mut first = guarded.answers(scopes, gift(&token("short"), 60));
        let said = Reply::ok(&image.manifest).header("Content-Type", OCI_IMAGE);
        let said = said.header("Docker-Content-Digest", &image.digest);
        let by_digest = manifest_at("a", &image.digest);
        for (method, target) in [("HEAD", TAG), ("GET", TAG), ("GET", &by_digest)] {
            guarded.guards(method, target, &[token("short")], said.clone());
        }
        gives(gateway.get(TAG).await, &image.manifest, "MISS");
        first.done().await;
        for (method, target) in [("HEAD", TAG), ("GET", TAG), ("GET", &by_digest)] {
            guarded.registry.forget(method, target);
            let refusal = guarded.refusal(",error=\"invalid_token\"");
            guarded.registry.always(method, target, move |_| refusal.clone());
        }
        guarded.tokens.always("GET", "/token*", move |_| reply.clone());
        guarded.registry.always("GET", "/v2/", move |_| Reply::status(401));
        is_stale(gateway.get(TAG).await, &image);
    }
}

#[tokio::test]
async fn offline_the_upstream_is_asked_nothing() {
    let origin = Origin::start().await;
    let dir = tempfile::tempdir().unwrap();
    let image = image(&origin);
    let bytes = noise(100_000);
    let blob = origin.blob("a", &bytes);
    let online = cached_at(&origin, dir.path(), OLD_AT_ONCE).start().await;
    online.get(TAG).await.is(200);
    online.get(&blob).await.is(200);
    super::until_kept(&online, &blob).await;
    super::until_synced(dir.path()).await;
    drop(online);
    origin.forgets_requests();
    let lines = format!("{OLD_AT_ONCE}\noffline = true");
    let gateway = cached_at(&origin, dir.path(), &lines).start().await;
    assert!(gateway.get(TAG).await.is(200).body == image.manifest);
    gateway.ask(Request::head(TAG)).await.is(200);
    gives(gateway.get(&blob).await, &bytes, "HIT");
    gives(gateway.get(&manifest_at("a", &image.digest)).await, &image.manifest, "HIT");
    for missing in ["/v2/a/manifests/y".to_owned(), manifest_at("a", &sha256(b"y")), blob_at("a", b"y")] {
        for request in [Request::get(&missing), Request::head(&missing)] {
            let answer = gateway.ask(request).await;
            assert!(answer.status >= 400, "{answer:?}");
        }
    }
    let other = Request::get(TAG).header("Accept", crate::harness::DOCKER_IMAGE);
    assert_ne!(gateway.ask(other).await.status, 500);
    gateway.get("/v2/a/tags/list").await;
    gateway.get(&format!("/v2/a/referrers/{}", image.digest)).await;
    assert_eq!(origin.requests(), [""; 0]);
}

#[tokio::test]
async fn rate_limited_upstreams_are_asked_only_for_misses() {
    let (origin, gateway, image) = warm(OLD_AT_ONCE).await;
    origin.falls_ill_with(429, "Retry-After", "60");
    is_stale(gateway.get(TAG).await, &image);
    origin.forgets_requests();
    for _ in 0..3 {
        is_stale(gateway.get(TAG).await, &image);
        gateway.ask(Request::head(TAG)).await.is(200);
    }
    assert_eq!(origin.requests(), [""; 0], "nothing is sent for what is kept");
    let refused = gateway.get("/v2/a/manifests/y").await.refuses(429, "TOOMANYREQUESTS");
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    assert_eq!(refused.json()["errors"][0]["message"], "the upstream limits the rate; try again later");
    assert_eq!(origin.requests(), ["HEAD /v2/a/manifests/y"]);
    origin.recovers();
    origin.manifest("a", "y", OCI_IMAGE, &image.manifest);
    assert!(gateway.get("/v2/a/manifests/y").await.is(200).body == image.manifest);
}

#[tokio::test]
async fn a_retry_after_may_be_a_unix_time_or_a_date() {
    let now = clock::wall();
    let at = (now + Duration::from_secs(60)).duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let date = httpdate::fmt_http_date(now + Duration::from_secs(60));
    for (written, most) in [(at.to_string(), 60), (date, 60), ("86400".to_owned(), 3600), ("0".to_owned(), 1)]
    {
        for lines in ["", "[upstream.cache]"] {
            let origin = Origin::start().await;
            let builder = Gateway::builder().upstream_with("up", "", origin.address(), lines);
            let builder = if lines.is_empty() { builder } else { builder.cache("prefetch = false") };
            let gateway = builder.start().await;
            origin.falls_ill_with(429, "Retry-After", &written);
            for target in [TAG, &manifest_at("a", &sha256(b"x"))] {
                let refused = gateway.get(target).await.refuses(429, "TOOMANYREQUESTS");
                let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
                assert!(wait >= 1 && wait <= most && wait + 10 >= most, "{written}: {wait}");
            }
        }
    }
}

#[tokio::test]
async fn the_upstream_is_asked_again_after_a_rate_limit() {
    let (origin, gateway, image) = warm(OLD_AT_ONCE).await;
    origin.falls_ill_with(429, "Retry-After", "1");
    is_stale(gateway.get(TAG).await, &image);
    origin.recovers();
    let again =
        until("it to be asked again", &gateway, Request::get(TAG), |answer| word(answer) != "STALE").await;
    gives(again, &image.manifest, "REVALIDATED");
}

#[tokio::test]
async fn while_the_upstream_limits_us_nothing_is_fetched_ahead() {
    let origin = Origin::start().await;
    let lines = format!("retries = 0\n[upstream.cache]\n{OLD_AT_ONCE}");
    let gateway = before(&origin, &lines).cache("").start().await;
    let old = Image::empty("old");
    origin.manifest("a", "old", OCI_IMAGE, &old.manifest);
    gateway.get("/v2/a/manifests/old").await.is(200);
    origin.falls_ill_with(429, "Retry-After", "60");
    gateway.get("/v2/a/manifests/old").await.is(200);
    origin.recovers();
    origin.forgets_requests();
    let image = origin.image("a", "new", &Image::layers(&[1000]));
    gives(gateway.get("/v2/a/manifests/new").await, &image.manifest, "MISS");
    tokio::time::sleep(Duration::from_millis(500)).await;
    // What the first manifest has was asked for before, and its request may come late.
    let own: Vec<_> = image.layers.iter().chain([&image.config]).map(|blob| blob_at("a", blob)).collect();
    let mut asked = origin.requests();
    asked.retain(|request| own.iter().any(|blob| request.ends_with(blob)));
    assert_eq!(asked, [""; 0]);
}

#[tokio::test]
async fn a_gateway_starts_and_serves_without_an_upstream() {
    let mut origin = Origin::start().await;
    let dir = tempfile::tempdir().unwrap();
    let image = image(&origin);
    let bytes = noise(100_000);
    let blob = origin.blob("a", &bytes);
    let builder = || {
        let lines = format!("retries = 0\n[upstream.cache]\n{OLD_AT_ONCE}");
        before(&origin, &lines).cache_at(dir.path(), "prefetch = false").admin_listener()
    };
    let first = builder().start().await;
    first.get(TAG).await.is(200);
    first.get(&blob).await.is(200);
    super::until_kept(&first, &blob).await;
    super::until_synced(dir.path()).await;
    drop(first);
    let builder = builder();
    origin.upstream.dies().await;
    let gateway = builder.start().await;
    is_stale(gateway.get(TAG).await, &image);
    gives(gateway.get(&blob).await, &bytes, "HIT");
    gives(gateway.get(&manifest_at("a", &image.digest)).await, &image.manifest, "HIT");
    for _ in 0..4 {
        gateway.get("/v2/a/manifests/y").await.refuses(502, "UNAVAILABLE");
        gateway.get(&blob_at("a", b"y")).await.refuses(502, "UNAVAILABLE");
    }
    let ready = gateway.admin("/readyz").await.is(200).json();
    assert_ne!(ready["upstreams"]["up"]["state"], "ok", "{ready}");
    origin.upstream.returns().await;
    let since = clock::now();
    let back =
        until("it to be asked", &gateway, Request::get(TAG), |answer| word(answer) == "REVALIDATED").await;
    assert!(back.body == image.manifest && since.elapsed() < Duration::from_secs(6), "{:?}", since.elapsed());
    gateway.get("/v2/a/manifests/y").await.refuses(404, "MANIFEST_UNKNOWN");
}

#[tokio::test]
async fn a_silent_upstream_delays_few_requests() {
    let origin = Origin::start().await;
    let lines = format!("retries = 0\nresponse_timeout = \"300ms\"\n[upstream.cache]\n{OLD_AT_ONCE}");
    let gateway = before(&origin, &lines).cache("prefetch = false").start().await;
    let image = image(&origin);
    gateway.get(TAG).await.is(200);
    for (method, target) in [("HEAD", "/v2/*"), ("GET", "/v2/*")] {
        origin.upstream.always(method, target, |_| Reply::never());
    }
    for _ in 0..2 {
        is_stale(gateway.get(TAG).await, &image);
    }
    // The second object that gets no answer: it is the upstream that is away.
    gateway.get("/v2/a/manifests/y").await.refuses(504, "UNAVAILABLE");
    for _ in 0..5 {
        let since = clock::now();
        is_stale(gateway.get(TAG).await, &image);
        let refused = gateway.get("/v2/a/manifests/y").await;
        assert!(since.elapsed() < Duration::from_millis(250), "{:?}", since.elapsed());
        assert!([502, 503, 504].contains(&refused.status), "{refused:?}");
        assert_eq!(refused.code(), "UNAVAILABLE");
    }
    for method in ["HEAD", "GET"] {
        origin.upstream.forget(method, "/v2/*");
    }
    let back =
        until("it to be asked", &gateway, Request::get(TAG), |answer| word(answer) == "REVALIDATED").await;
    assert!(back.body == image.manifest);
}

#[tokio::test]
async fn refusals_do_not_open_the_circuit() {
    for status in [401, 403, 404, 429] {
        let (origin, gateway, _) = warm(OLD_AT_ONCE).await;
        origin.falls_ill(status);
        for number in 0..6 {
            gateway.get(&manifest_at("a", &format!("missing{number}"))).await;
        }
        origin.recovers();
        let image = Image::empty("other");
        origin.manifest("a", "y", OCI_IMAGE, &image.manifest);
        gives(gateway.get("/v2/a/manifests/y").await, &image.manifest, "MISS");
    }
}

const TAGS: &str = "/v2/a/tags/list";

/// Waits until a list is kept: it is written when it has passed.
async fn until_listed(gateway: &Gateway, target: &str) -> Answer {
    until("the list to be kept", gateway, Request::get(target), |answer| answer.status == 200).await
}

#[tokio::test]
async fn a_list_that_was_asked_for_serves_when_the_upstream_fails() {
    let origin = Origin::start().await;
    let dir = tempfile::tempdir().unwrap();
    let lines = format!("retries = 0\n[upstream.cache]\n{OLD_AT_ONCE}");
    let start = || {
        let builder = Gateway::builder().upstream_with("up", "up", origin.address(), &lines);
        builder.cache_at(dir.path(), "prefetch = false").start()
    };
    let gateway = start().await;
    let list = r#"{"name":"a","tags":["x","y","z"]}"#;
    let link = "</v2/a/tags/list?n=3&last=z>; rel=\"next\"";
    origin.upstream.expect("GET", "/v2/a/tags/list?n=3", Reply::ok(list).header("Link", link));
    let target = "/v2/up/a/tags/list?n=3";
    gateway.get(target).await.is(200);
    origin.falls_ill(503);
    let answer = until_listed(&gateway, target).await;
    assert_eq!(answer.json(), serde_json::json!({ "name": "up/a", "tags": ["x", "y", "z"] }));
    assert_eq!(word(&answer), "STALE");
    assert!(answer.header("warning").unwrap().starts_with("299 "));
    assert_eq!(answer.header("link"), Some("</v2/up/a/tags/list?n=3&last=z>; rel=\"next\""));
    drop(gateway);
    // It outlives the process, and every failure that is not the registry's own no.
    for status in [500, 502, 401, 429] {
        let gateway = start().await;
        origin.falls_ill(status);
        assert_eq!(word(&gateway.get(target).await.is(200)), "STALE", "{status}");
    }
    let gateway = start().await;
    origin.falls_ill(500);
    // Another page was never asked for.
    gateway.get("/v2/up/a/tags/list").await.refuses(502, "UNAVAILABLE");
    origin.falls_ill(403);
    gateway.get(target).await.refuses(403, "DENIED");
    origin.falls_ill(500);
    gateway.get(target).await.refuses(502, "UNAVAILABLE");
}

#[tokio::test]
async fn pulled_tags_alone_are_no_list() {
    let (origin, gateway, _) = warm(OLD_AT_ONCE).await;
    origin.falls_ill(503);
    gateway.get(TAGS).await.refuses(502, "UNAVAILABLE");
}

#[tokio::test]
async fn referrers_that_were_never_asked_for_are_502() {
    let origin = Origin::start().await;
    let gateway = bare(&origin, OLD_AT_ONCE).cache("prefetch = false").start().await;
    let image = image(&origin);
    let about = serde_json::json!({
        "schemaVersion": 2, "mediaType": OCI_IMAGE, "artifactType": "application/x-signature",
        "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": sha256(b"{}"), "size": 2 },
        "layers": [],
        "subject": { "mediaType": OCI_IMAGE, "digest": image.digest, "size": image.manifest.len() },
    });
    let digest = origin.manifest("a", "signature", OCI_IMAGE, about.to_string().as_bytes());
    gateway.get("/v2/a/manifests/signature").await.is(200);
    let target = format!("/v2/a/referrers/{}", image.digest);
    origin.falls_ill(503);
    gateway.get(&target).await.refuses(502, "UNAVAILABLE");

    origin.recovers();
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [{ "digest": digest }] }).to_string();
    let reply = Reply::ok(&index).header("OCI-Filters-Applied", "artifactType");
    let filtered = format!("{target}?artifactType=application%2Fx-signature");
    origin.upstream.expect("GET", &*filtered, reply);
    gateway.get(&filtered).await.is(200);
    origin.falls_ill(503);
    let answer = until_listed(&gateway, &filtered).await;
    assert_eq!((answer.text(), word(&answer)), (index, "STALE"));
    assert_eq!(answer.header("content-type"), Some(crate::harness::OCI_INDEX));
    assert_eq!(answer.header("oci-filters-applied"), Some("artifactType"));
    gateway.get(&target).await.refuses(502, "UNAVAILABLE");
}

#[tokio::test]
async fn offline_an_unknown_list_is_502() {
    let (_origin, gateway) = super::started("offline = true").await;
    gateway.get(TAGS).await.refuses(502, "UNAVAILABLE");
    gateway.get(&format!("/v2/a/referrers/{}", sha256(b"x"))).await.refuses(502, "UNAVAILABLE");
}
