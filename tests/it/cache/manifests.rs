//! Manifests: which answers are one, what HEAD is worth, and what a client's Accept does.

use super::{gives, started, started_without_retries, word};
use crate::harness::{
    Answer, DOCKER_IMAGE, Gateway, Image, OCI_IMAGE, OCI_INDEX, Origin, Reply, Request, Upstream,
    manifest_at, sha256,
};

const TAG: &str = "/v2/a/manifests/x";
const PAGE: &str = "<!DOCTYPE html><html><title>Sign in</title></html>";
const ERRORS: &str = r#"{"errors":[{"code":"UNKNOWN","message":"unknown error","detail":{}}]}"#;
const SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+json";
const SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

/// Returns a gateway that holds the tag, and asks for it again each time.
async fn holding() -> (Origin, Gateway, Image) {
    let (origin, gateway) = started_without_retries("tag_ttl = \"0s\"\nnot_found_ttl = \"1h\"").await;
    let image = image(&origin);
    gives(gateway.get(TAG).await, &image.manifest, "MISS");
    origin.forgets_requests();
    (origin, gateway, image)
}

fn image(origin: &Origin) -> Image {
    let image = Image::empty("one");
    origin.manifest("a", "x", OCI_IMAGE, &image.manifest);
    image
}

fn answers(origin: &Origin, target: &str, reply: &Reply) {
    for method in ["HEAD", "GET"] {
        let reply = reply.clone();
        origin.upstream.always(method, target, move |_| reply.clone());
    }
}

#[track_caller]
fn is_stale(answer: Answer, image: &Image) {
    let answer = gives(answer, &image.manifest, "STALE");
    assert!(answer.header("warning").expect("a warning").starts_with("299 - "), "{answer:?}");
}

/// Successes that are no manifest.
fn impostors() -> Vec<(&'static str, Reply)> {
    let half = &Image::empty("one").manifest[..100];
    let typed = |reply: Reply| reply.header("Content-Type", OCI_IMAGE);
    let digest = sha256(&Image::empty("other").manifest);
    vec![
        ("a page", Reply::ok(PAGE).header("Content-Type", "text/html; charset=utf-8")),
        ("a page that is called a manifest", typed(Reply::ok(PAGE))),
        ("an empty object", typed(Reply::ok("{}"))),
        ("an empty object of no type", Reply::ok("{}").header("Content-Type", "application/json")),
        ("errors", typed(Reply::ok(ERRORS))),
        ("nothing", typed(Reply::ok(""))),
        ("half a manifest", typed(Reply::ok(half))),
        ("a list", typed(Reply::ok("[]"))),
        (
            "another digest",
            typed(Reply::ok(&Image::empty("one").manifest)).header("Docker-Content-Digest", &digest),
        ),
        ("202", typed(Reply::status(202).body(&Image::empty("one").manifest))),
        ("203", typed(Reply::status(203).body(&Image::empty("one").manifest))),
        ("204", Reply::raw("HTTP/1.1 204 No Content\r\n\r\n")),
        ("206", typed(Reply::status(206).body(half)).header("Content-Range", "bytes 0-99/400")),
    ]
}

#[tokio::test]
async fn what_is_no_manifest_is_502_and_never_passed_on() {
    for (of, reply) in impostors() {
        let (origin, gateway) = started_without_retries("").await;
        answers(&origin, TAG, &reply);
        let answer = gateway.get(TAG).await.refuses(502, "UNAVAILABLE");
        assert!(!answer.text().contains("html"), "{of}: {answer:?}");
        if of != "another digest" {
            let head = gateway.ask(Request::head(TAG)).await;
            assert!(head.status == 502 || head.header("content-type") == Some(OCI_IMAGE), "{of}: {head:?}");
        }
        let kept = super::files_in(&gateway.path("cache/manifests"));
        assert!(kept.is_empty(), "{of}: {kept:?}");
    }
}

#[tokio::test]
async fn what_is_no_manifest_leaves_stale_content_serving() {
    for (of, reply) in impostors() {
        let (origin, gateway, image) = holding().await;
        answers(&origin, TAG, &reply);
        if of == "another digest" {
            continue;
        }
        for _ in 0..2 {
            is_stale(gateway.get(TAG).await, &image);
        }
    }
}

#[tokio::test]
async fn a_redirect_to_a_sign_in_page_is_no_manifest() {
    let elsewhere = Upstream::start().await;
    for method in ["HEAD", "GET"] {
        elsewhere.always(method, "/login", |_| Reply::ok(PAGE).header("Content-Type", "text/html"));
    }
    let origin = Origin::start().await;
    let hosts = format!("redirect_hosts = [\"{}\"]\n[upstream.cache]\ntag_ttl = \"0s\"", elsewhere.address);
    let gateway =
        super::before(&origin, &format!("retries = 0\n{hosts}")).cache("prefetch = false").start().await;
    let image = image(&origin);
    gives(gateway.get(TAG).await, &image.manifest, "MISS");
    answers(&origin, TAG, &Reply::status(302).header("Location", &elsewhere.url("/login")));
    is_stale(gateway.get(TAG).await, &image);
    answers(&origin, "/v2/a/manifests/y", &Reply::status(302).header("Location", &elsewhere.url("/login")));
    gateway.get("/v2/a/manifests/y").await.refuses(502, "UNAVAILABLE");
}

#[tokio::test]
async fn get_decides_where_head_is_refused() {
    for status in [400, 401, 403, 404, 405, 406, 500, 501] {
        let (origin, gateway) = started_without_retries("tag_ttl = \"1h\"").await;
        let image = image(&origin);
        origin.upstream.expect("HEAD", TAG, Reply::status(status));
        gives(gateway.get(TAG).await, &image.manifest, "MISS");
        assert_eq!(origin.count("GET", TAG), 1, "{status}");
        gives(gateway.get(TAG).await, &image.manifest, "HIT");
    }
}

#[tokio::test]
async fn a_registry_that_refuses_heads_is_asked_by_get() {
    for status in [403, 404, 405, 501] {
        let (origin, gateway) = started_without_retries("tag_ttl = \"0s\"").await;
        let image = image(&origin);
        origin.manifest("a", "y", OCI_IMAGE, &image.manifest);
        origin.upstream.always("HEAD", "/v2/a/*", move |_| Reply::status(status));
        for target in [TAG, "/v2/a/manifests/y", TAG] {
            gateway.get(target).await.is(200);
            let head = gateway.ask(Request::head(target)).await.is(200);
            assert_eq!(head.header("docker-content-digest"), Some(image.digest.as_str()), "{status}");
        }
        let heads = origin.requests().iter().filter(|asked| asked.starts_with("HEAD")).count();
        assert_eq!(heads, 1, "{status}: {:?}", origin.requests());
    }
}

#[tokio::test]
async fn a_heads_no_is_not_remembered_for_others() {
    for status in [403, 404] {
        let (origin, gateway, image) = holding().await;
        for target in [TAG, "/v2/a/manifests/y"] {
            origin.upstream.expect("HEAD", target, Reply::status(status));
            gateway.ask(Request::head(target)).await.is(status);
        }
        origin.manifest("a", "y", OCI_IMAGE, &image.manifest);
        gives(gateway.get("/v2/a/manifests/y").await, &image.manifest, "REVALIDATED");
        // The tag is not forgotten either.
        origin.falls_ill(503);
        is_stale(gateway.get(TAG).await, &image);
    }
}

#[tokio::test]
async fn a_manifest_of_no_type_is_kept() {
    let image = Image::empty("one");
    let untyped =
        String::from_utf8(image.manifest).unwrap().replace(&format!("\"mediaType\":\"{OCI_IMAGE}\","), "");
    let odd = r#"{"schemaVersion":2,"layers":[],"manifests":[]}"#;
    let cases = [(untyped.as_str(), OCI_IMAGE), (odd, OCI_INDEX), ("something else", DOCKER_IMAGE)];
    for (bytes, kind) in cases {
        let origin = Origin::start().await;
        let gateway = super::cached(&origin, "").start().await;
        let digest = origin.manifest("a", "x", "binary/octet-stream", bytes.as_bytes());
        let target = manifest_at("a", &digest);
        for did in ["MISS", "HIT"] {
            let request = Request::get(&target).header("Accept", kind);
            let answer = gives(gateway.ask(request).await, bytes.as_bytes(), did);
            assert_eq!(answer.header("content-type"), Some(kind), "{bytes}");
        }
        assert_eq!(origin.count("GET", &target), 1, "{bytes}");
    }
}

#[tokio::test]
async fn an_odd_manifest_behind_a_tag_is_kept() {
    let odd =
        format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","layers":[],"manifests":[],"layers":[]}}"#);
    let (origin, gateway) = started("tag_ttl = \"1h\"").await;
    origin.manifest("a", "x", OCI_INDEX, odd.as_bytes());
    for did in ["MISS", "HIT"] {
        gives(gateway.get(TAG).await, odd.as_bytes(), did);
    }
}

#[tokio::test]
async fn a_tag_is_fetched_where_its_digest_is_refused() {
    for status in [400, 404, 500] {
        let (origin, gateway) = started_without_retries("tag_ttl = \"1h\"").await;
        let image = image(&origin);
        let by_digest = manifest_at("a", &image.digest);
        origin.upstream.always("GET", &*by_digest, move |_| Reply::status(status));
        gives(gateway.get(TAG).await, &image.manifest, "MISS");
        gives(gateway.get(TAG).await, &image.manifest, "HIT");
        gives(gateway.get(&by_digest).await, &image.manifest, "HIT");
    }
}

#[tokio::test]
async fn a_weight_without_its_zero_is_a_weight() {
    let (origin, gateway) = started("tag_ttl = \"1h\"").await;
    let image = Image::empty("one");
    origin.manifest("a", "x", DOCKER_IMAGE, &image.manifest.clone());
    let accept = format!("{OCI_INDEX}, */*; q=.2");
    for did in ["MISS", "HIT"] {
        let request = Request::get(TAG).header("Accept", &*accept);
        gives(gateway.ask(request).await, &image.manifest, did);
    }
}

/// A schema 1 manifest, which an upstream gives only where its type, or a bare star, stands in Accept.
fn wants_accept(origin: &Origin, wanted: &'static str) -> Vec<u8> {
    let bytes = br#"{"schemaVersion":1,"name":"a","tag":"x","fsLayers":[],"history":[]}"#.to_vec();
    let (digest, served) = (sha256(&bytes), bytes.clone());
    for target in [TAG.to_owned(), manifest_at("a", &digest)] {
        for method in ["HEAD", "GET"] {
            let (digest, served) = (digest.clone(), served.clone());
            origin.upstream.always(method, &*target, move |headers| {
                let accept = headers.get("accept").unwrap_or_default();
                if !accept.split(',').any(|range| range.trim() == wanted) {
                    return Reply::status(404);
                }
                Reply::ok(&served).header("Content-Type", SCHEMA1).header("Docker-Content-Digest", &digest)
            });
        }
    }
    bytes
}

#[tokio::test]
async fn every_family_and_the_bare_star_are_asked_for() {
    for wanted in ["*/*", SCHEMA1, SIGNED, "application/vnd.cncf.oras.artifact.manifest.v1+json"] {
        let (origin, gateway) = started("tag_ttl = \"1h\"").await;
        let bytes = wants_accept(&origin, wanted);
        for did in ["MISS", "HIT"] {
            gives(gateway.get(TAG).await, &bytes, did);
        }
    }
}

#[tokio::test]
async fn the_clients_own_accept_is_tried_before_a_404_counts() {
    let (origin, gateway) = started("tag_ttl = \"1h\"\nnot_found_ttl = \"1h\"").await;
    let bytes = wants_accept(&origin, "application/vnd.example+json");
    let asks = |accept: &str| gateway.ask(Request::get(TAG).header("Accept", accept));
    gives(asks("application/vnd.example+json").await, &bytes, "MISS");
    let (origin, gateway) = started("not_found_ttl = \"1h\"").await;
    let asks = |accept: &'static str| gateway.ask(Request::get(TAG).header("Accept", accept));
    asks("application/vnd.example+json").await.refuses(404, "MANIFEST_UNKNOWN");
    let asked = origin.requests();
    assert_eq!(asked, [format!("HEAD {TAG}"), format!("GET {TAG}"), format!("GET {TAG}")]);
    asks("application/vnd.example+json").await.refuses(404, "MANIFEST_UNKNOWN");
    assert_eq!(origin.requests().len(), 3);
}

#[tokio::test]
async fn a_signed_schema_1_passes_with_its_own_digest() {
    let bytes = br#"{"schemaVersion":1,"fsLayers":[],"signatures":[{"protected":"x"}]}"#;
    let (origin, gateway) = started("tag_ttl = \"1h\"").await;
    let digest = sha256(b"without its signatures");
    for target in [TAG, &manifest_at("a", &digest)] {
        for kind in [SIGNED, "application/json"] {
            let reply =
                Reply::ok(bytes).header("Content-Type", kind).header("Docker-Content-Digest", &digest);
            answers(&origin, target, &reply);
            let answer = gives(gateway.get(target).await, bytes, "MISS");
            assert_eq!(answer.header("docker-content-digest"), Some(digest.as_str()));
            assert_eq!(answer.header("content-type"), Some(SIGNED));
            origin.upstream.forget("HEAD", target);
            origin.upstream.forget("GET", target);
        }
    }
}

#[tokio::test]
async fn a_manifest_is_as_long_as_containerd_takes() {
    let (origin, gateway) = started_without_retries("").await;
    let padded = |length: usize| {
        let mut bytes = Image::empty("one").manifest;
        bytes.resize(length, b' ');
        bytes
    };
    origin.manifest("a", "x", OCI_IMAGE, &padded(4_393_216));
    origin.manifest("a", "y", OCI_IMAGE, &padded(4_393_217));
    assert_eq!(gateway.get(TAG).await.is(200).body.len(), 4_393_216);
    gateway.get("/v2/a/manifests/y").await.refuses(502, "UNAVAILABLE");
    gateway.ask(Request::head("/v2/a/manifests/y")).await.is(502);
}

#[tokio::test]
async fn a_digest_is_served_whatever_the_accept() {
    let (mut origin, gateway) = started("").await;
    let image = image(&origin);
    let target = manifest_at("a", &image.digest);
    let asks = || gateway.ask(Request::get(&target).header("Accept", DOCKER_IMAGE));
    gives(asks().await, &image.manifest, "MISS");
    gives(asks().await, &image.manifest, "HIT");
    origin.upstream.dies().await;
    gives(asks().await, &image.manifest, "HIT");
}

#[tokio::test]
async fn what_an_upstream_gives_for_an_accept_is_remembered() {
    let (mut origin, gateway) = started_without_retries("tag_ttl = \"1h\"").await;
    let image = image(&origin);
    let asks = |accept: &'static str| gateway.ask(Request::get(TAG).header("Accept", accept));
    gives(gateway.get(TAG).await, &image.manifest, "MISS");
    origin.forgets_requests();
    // The upstream answers with the same, as distribution 3 and zot do.
    assert!(asks(DOCKER_IMAGE).await.is(200).body == image.manifest);
    assert_eq!(origin.requests(), [format!("GET {TAG}")]);
    gives(asks(DOCKER_IMAGE).await, &image.manifest, "HIT");
    let converted = Image::empty("converted");
    let reply = Reply::ok(&converted.manifest).header("Content-Type", OCI_INDEX);
    origin.upstream.expect("GET", TAG, reply);
    assert!(asks(OCI_INDEX).await.is(200).body == converted.manifest);
    gives(asks(OCI_INDEX).await, &converted.manifest, "HIT");
    assert_eq!(origin.requests().len(), 2);
    origin.upstream.dies().await;
    gives(asks(DOCKER_IMAGE).await, &image.manifest, "HIT");
    gives(asks(OCI_INDEX).await, &converted.manifest, "HIT");
    // The upstream's answer to this Accept is not known: stale content serves.
    is_stale(asks(SCHEMA1).await, &image);
}

#[tokio::test]
async fn an_accept_that_an_upstream_refuses_ends_nothing() {
    for status in [404, 406] {
        let (origin, gateway) = started("tag_ttl = \"1h\"\nnot_found_ttl = \"1h\"").await;
        let image = image(&origin);
        gives(gateway.get(TAG).await, &image.manifest, "MISS");
        origin.upstream.expect("GET", TAG, Reply::status(status));
        gateway.ask(Request::get(TAG).header("Accept", DOCKER_IMAGE)).await.is(status);
        gives(gateway.get(TAG).await, &image.manifest, "HIT");
    }
}

#[tokio::test]
async fn the_registrys_code_and_the_clients_names_reach_the_client() {
    let origin = Origin::start().await;
    let lines = "[upstream.cache]\nnot_found_ttl = \"1h\"";
    let gateway = Gateway::builder().upstream_with("up", "hub", origin.address(), lines);
    let gateway = gateway.cache("prefetch = false").start().await;
    let body = r#"{"errors":[{"code":"NAME_UNKNOWN","message":"repository team/app not known","detail":{"name":"team/app"}}]}"#;
    answers(&origin, "/v2/team/app/manifests/x", &Reply::status(404).body(body));
    let target = "/v2/hub/team/app/manifests/x";
    let answer = gateway.get(target).await.refuses(404, "NAME_UNKNOWN");
    let error = &answer.json()["errors"][0];
    assert_eq!(error["detail"]["name"], "hub/team/app");
    assert_eq!(error["message"], "repository hub/team/app not known");
    let asked = origin.requests().len();
    gateway.get(target).await.refuses(404, "NAME_UNKNOWN");
    assert_eq!(origin.requests().len(), asked);
}

#[tokio::test]
async fn a_408_is_repeated_and_then_stale_content_serves() {
    let origin = Origin::start().await;
    let gateway = super::cached(&origin, "tag_ttl = \"0s\"").start().await;
    let image = image(&origin);
    for status in [408, 421, 425] {
        origin.upstream.expect("HEAD", TAG, Reply::status(status).then_close());
        assert!(gateway.get(TAG).await.is(200).body == image.manifest);
    }
    answers(&origin, TAG, &Reply::status(408));
    is_stale(gateway.get(TAG).await, &image);
}

#[tokio::test]
async fn a_refused_password_leaves_stale_content_serving() {
    let origin = Origin::start().await;
    let lines = format!("retries = 0\n{}\n[upstream.cache]\ntag_ttl = \"0s\"", crate::harness::account());
    let gateway = super::before(&origin, &lines).cache("prefetch = false").start().await;
    let image = image(&origin);
    gives(gateway.get(TAG).await, &image.manifest, "MISS");
    origin.falls_ill_with(401, "WWW-Authenticate", "Basic realm=\"registry\"");
    for _ in 0..3 {
        is_stale(gateway.get(TAG).await, &image);
    }
    gateway.get("/v2/a/manifests/y").await.refuses(502, "UNAVAILABLE");
    assert_eq!(word(&gateway.ask(Request::head(TAG)).await.is(200)), "STALE");
}
