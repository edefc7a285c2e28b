//! Each meaning that an upstream's answer can have, through a whole gateway: what the client sees when nothing is held,
//! whether held content serves, and whether the answer ends what is known.

use super::{gives, started_without_retries, word};
use crate::harness::{Gateway, Image, OCI_IMAGE, Origin, Reply, Upstream};

const TAG: &str = "/v2/a/manifests/x";

/// A meaning as clients see it.
struct Seen {
    /// Status and code when nothing is held.
    refusal: (u16, &'static str),
    /// Held content serves.
    stale: bool,
    /// The answer ends what is known.
    ends: bool,
}

/// Asserts that `reply` to HEAD and GET of a manifest has these effects.
async fn means(reply: Reply, seen: Seen) {
    let (origin, gateway) = started_without_retries("tag_ttl = \"0s\"\nnot_found_ttl = \"0s\"").await;
    answers(&origin, &reply);
    gateway.get(TAG).await.refuses(seen.refusal.0, seen.refusal.1);

    let (mut origin, gateway, image) = holding().await;
    answers(&origin, &reply);
    let answer = gateway.get(TAG).await;
    if seen.stale {
        gives(answer, &image.manifest, "STALE");
    } else {
        answer.refuses(seen.refusal.0, seen.refusal.1);
    }
    // What is still known serves when the upstream goes away.
    origin.upstream.dies().await;
    let answer = gateway.get(TAG).await;
    match seen.ends {
        true => assert_eq!((answer.status, word(&answer)), (502, "")),
        false => drop(gives(answer, &image.manifest, "STALE")),
    }
}

fn answers(origin: &Origin, reply: &Reply) {
    for method in ["HEAD", "GET"] {
        let reply = reply.clone();
        origin.upstream.always(method, TAG, move |_| reply.clone());
    }
}

/// A gateway that holds a tag whose age makes it ask again.
async fn holding() -> (Origin, Gateway, Image) {
    let (origin, gateway) = started_without_retries("tag_ttl = \"0s\"\nnot_found_ttl = \"0s\"").await;
    let image = Image::empty("one");
    origin.manifest("a", "x", OCI_IMAGE, &image.manifest);
    gives(gateway.get(TAG).await, &image.manifest, "MISS");
    (origin, gateway, image)
}

#[tokio::test]
async fn usable_replaces_what_is_held() {
    let (origin, gateway, first) = holding().await;
    gives(gateway.get(TAG).await, &first.manifest, "REVALIDATED");
    let second = Image::empty("two");
    origin.manifest("a", "x", OCI_IMAGE, &second.manifest);
    gives(gateway.get(TAG).await, &second.manifest, "MISS");
}

#[tokio::test]
async fn not_found_is_404_and_ends_what_is_known() {
    means(Reply::status(404), Seen { refusal: (404, "MANIFEST_UNKNOWN"), stale: false, ends: true }).await;
}

#[tokio::test]
async fn denied_is_403_and_ends_what_is_known() {
    means(Reply::status(403), Seen { refusal: (403, "DENIED"), stale: false, ends: true }).await;
}

#[tokio::test]
async fn refused_credentials_are_502_and_held_content_serves() {
    for challenge in ["Basic realm=\"x\"", "Negotiate"] {
        let reply = Reply::status(401).header("WWW-Authenticate", challenge);
        means(reply, Seen { refusal: (502, "UNAVAILABLE"), stale: true, ends: false }).await;
    }
}

#[tokio::test]
async fn a_rate_limit_is_429_and_held_content_serves() {
    let reply = Reply::status(429).header("Retry-After", "5");
    means(reply, Seen { refusal: (429, "TOOMANYREQUESTS"), stale: true, ends: false }).await;
}

#[tokio::test]
async fn unavailable_is_502_or_504_and_held_content_serves() {
    for status in [500, 501, 502, 503, 504, 507, 408, 421, 425] {
        let refusal = if status == 504 { 504 } else { 502 };
        means(Reply::status(status), Seen { refusal: (refusal, "UNAVAILABLE"), stale: true, ends: false })
            .await;
    }
}

#[tokio::test]
async fn failed_storage_is_502_and_held_content_serves() {
    for status in [403, 404, 500] {
        let storage = Upstream::start().await;
        storage.always("HEAD", "/x", move |_| Reply::status(status));
        storage.always("GET", "/x", move |_| Reply::status(status));
        let reply = Reply::status(307).header("Location", &storage.url("/x"));
        let (origin, gateway) = redirecting(&storage).await;
        answers(&origin, &reply);
        gateway.get(TAG).await.refuses(502, "UNAVAILABLE");
        origin.upstream.forget("HEAD", TAG);
        origin.upstream.forget("GET", TAG);
        let image = Image::empty("one");
        origin.manifest("a", "x", OCI_IMAGE, &image.manifest);
        gives(gateway.get(TAG).await, &image.manifest, "MISS");
        answers(&origin, &reply);
        for _ in 0..10 {
            gives(gateway.get(TAG).await, &image.manifest, "STALE");
        }
        // The registry's own circuit is closed: another object is asked for.
        gateway.get("/v2/a/manifests/y").await.refuses(404, "MANIFEST_UNKNOWN");
    }
}

async fn redirecting(storage: &Upstream) -> (Origin, Gateway) {
    let hosts = format!("redirect_hosts = [\"{}\"]", storage.address);
    let origin = Origin::start().await;
    let lines = format!("retries = 0\n{hosts}\n[upstream.cache]\ntag_ttl = \"0s\"\nnot_found_ttl = \"0s\"");
    let gateway = super::before(&origin, &lines).cache("prefetch = false").start().await;
    (origin, gateway)
}

#[tokio::test]
async fn unusable_answers_are_502_and_stale_content_serves() {
    let page = || Reply::ok("<html>log in</html>").header("Content-Type", "text/html");
    let list = || Reply::ok("[]").header("Content-Type", OCI_IMAGE);
    for reply in [page(), list()] {
        means(reply, Seen { refusal: (502, "UNAVAILABLE"), stale: true, ends: false }).await;
    }
}

#[tokio::test]
async fn not_offered_keeps_its_status_and_ends_nothing() {
    means(Reply::status(405), Seen { refusal: (405, "UNSUPPORTED"), stale: false, ends: false }).await;
}

#[tokio::test]
async fn a_rejected_request_keeps_its_status_and_ends_nothing() {
    means(Reply::status(400), Seen { refusal: (400, "UNKNOWN"), stale: false, ends: false }).await;
}
