//! Upstreams that accept requests and do not answer.

use std::time::Duration;

use dockgate::internals::clock;

use super::{before, gives};
use crate::harness::{Answer, Gateway, Image, OCI_IMAGE, Origin, Reply, Request};

const TAG: &str = "/v2/a/manifests/x";

/// Returns a gateway that holds two tags, and its upstream.
async fn holding(stale_after: &str) -> (Origin, Gateway, Image) {
    let origin = Origin::start().await;
    let times = "retries = 0\nresponse_timeout = \"3s\"";
    let lines = format!("{times}\n[upstream.cache]\ntag_ttl = \"0s\"\nstale_after = \"{stale_after}\"");
    let gateway = before(&origin, &lines).cache("prefetch = false").start().await;
    let image = Image::empty("one");
    for tag in ["x", "y"] {
        origin.manifest("a", tag, OCI_IMAGE, &image.manifest);
        gateway.get(&format!("/v2/a/manifests/{tag}")).await.is(200);
    }
    (origin, gateway, image)
}

/// Returns an answer, and how long it took.
async fn timed(gateway: &Gateway, target: &str) -> (Answer, Duration) {
    let began = clock::now();
    let answer = gateway.get(target).await;
    (answer, began.elapsed())
}

#[tokio::test]
async fn a_silent_upstream_costs_one_wait() {
    let (origin, gateway, image) = holding("1s").await;
    origin.upstream.always("HEAD", "/v2/a/*", |_| Reply::never());
    let (answer, took) = timed(&gateway, TAG).await;
    gives(answer, &image.manifest, "STALE");
    assert!((Duration::from_secs(1)..Duration::from_millis(2900)).contains(&took), "{took:?}");
    for target in [TAG, "/v2/a/manifests/y", TAG] {
        let (answer, took) = timed(&gateway, target).await;
        gives(answer, &image.manifest, "STALE");
        assert!(took < Duration::from_millis(800), "{target}: {took:?}");
    }
    // The upstream is asked all the same, and believed as soon as it answers.
    origin.upstream.forget("HEAD", "/v2/a/*");
    let request = Request::get("/v2/a/manifests/y");
    let back = |answer: &Answer| super::word(answer) == "REVALIDATED";
    super::until("an answer of the upstream", &gateway, request, back).await;
}

#[tokio::test]
async fn a_list_that_is_kept_serves_after_the_wait() {
    let (origin, gateway, _) = holding("500ms").await;
    let target = "/v2/a/tags/list";
    let list = r#"{"name":"a","tags":["x","y"]}"#;
    origin.upstream.expect("GET", target, Reply::ok(list).header("Content-Type", "application/json"));
    gateway.get(target).await.is(200);
    origin.upstream.always("GET", target, |_| Reply::never());
    let (answer, took) = timed(&gateway, target).await;
    let answer = answer.is(200);
    assert_eq!(
        (super::word(&answer), answer.json()["tags"].clone()),
        ("STALE", serde_json::json!(["x", "y"]))
    );
    assert!((Duration::from_millis(500)..Duration::from_millis(2500)).contains(&took), "{took:?}");
}

#[tokio::test]
async fn without_a_copy_the_upstream_is_waited_for() {
    let (origin, gateway, _) = holding("100ms").await;
    let image = Image::empty("other");
    origin.manifest("a", "z", OCI_IMAGE, &image.manifest);
    let slow = Reply::status(404).held(&crate::harness::Gate::shut());
    origin.upstream.always("HEAD", TAG, move |_| slow.clone());
    gives(gateway.get(TAG).await, &Image::empty("one").manifest, "STALE");
    let gate = crate::harness::Gate::shut();
    let reply = Reply::ok("").claim(image.manifest.len()).header("Docker-Content-Digest", &image.digest);
    let held = reply.header("Content-Type", OCI_IMAGE).held(&gate);
    let mut asked = origin.upstream.expect("HEAD", "/v2/a/manifests/z", held);
    let mut client = super::asking(&gateway, Request::get("/v2/a/manifests/z")).await;
    asked.arrived().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    gate.open();
    assert!(client.answer().await.is(200).body == image.manifest);
}
