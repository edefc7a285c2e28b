//! Layers that are fetched ahead of the client.

use std::time::Duration;

use super::{asking, before, gives, until_kept, word};
use crate::harness::{
    Exchange, Gate, Gateway, Image, OCI_INDEX, Origin, Reply, Request, blob_at, manifest_at, soon,
};

const TAG: &str = "/v2/a/manifests/x";

async fn fetching(lines: &str) -> (Origin, Gateway) {
    let origin = Origin::start().await;
    let builder = before(&origin, "[upstream.cache]\ntag_ttl = \"1h\"");
    let gateway = builder.cache(lines).start().await;
    (origin, gateway)
}

fn blobs(image: &Image) -> Vec<String> {
    std::iter::once(&image.config).chain(&image.layers).map(|bytes| blob_at("a", bytes)).collect()
}

/// Which blobs have been asked for, in the order of the requests.
fn asked(origin: &Origin) -> Vec<String> {
    let blobs = origin.requests().into_iter().filter(|request| request.contains("/blobs/"));
    blobs.map(|request| request.trim_start_matches("GET ").to_owned()).collect()
}

async fn are_asked(origin: &Origin, count: usize) {
    soon("blobs to be asked for", async {
        while asked(origin).len() < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// Long enough for what should not be asked to be asked.
async fn a_while() {
    tokio::time::sleep(Duration::from_millis(400)).await;
}

#[tokio::test]
async fn pulling_a_manifest_prefetches_config_and_layers() {
    let (origin, gateway) = fetching("").await;
    let image = origin.image("a", "x", &Image::layers(&[300_000, 10, 70_000]));
    gives(gateway.get(TAG).await, &image.manifest, "MISS");
    are_asked(&origin, 4).await;
    for (target, bytes) in blobs(&image).iter().zip(std::iter::once(&image.config).chain(&image.layers)) {
        gives(until_kept(&gateway, target).await, bytes, "HIT");
        assert_eq!(origin.count("GET", target), 1, "{target}");
    }
    // Another pull fetches nothing more.
    gives(gateway.get(TAG).await, &image.manifest, "HIT");
    a_while().await;
    assert_eq!(asked(&origin).len(), 4);
}

#[tokio::test]
async fn layers_are_prefetched_in_order_a_few_at_once() {
    let (origin, gateway) = fetching("").await;
    let image = origin.image("a", "x", &Image::layers(&[1000; 11]));
    let order = blobs(&image);
    let gate = Gate::shut();
    let bytes: Vec<_> = std::iter::once(&image.config).chain(&image.layers).cloned().collect();
    let _held: Vec<Exchange> = order
        .iter()
        .zip(&bytes)
        .map(|(target, bytes)| origin.upstream.expect("GET", &**target, Reply::ok(bytes).held(&gate)))
        .collect();
    gateway.get(TAG).await.is(200);
    are_asked(&origin, 1).await;
    a_while().await;
    let at_once = asked(&origin).len();
    assert!((1..=6).contains(&at_once), "{at_once}");
    for done in 0..order.len() {
        let mut now = asked(&origin);
        let mut first = order[..now.len()].to_vec();
        now.sort();
        first.sort();
        assert_eq!(now, first, "after {done}: the next are the first of those that are missing");
        assert!(now.len() <= done + at_once);
        gate.open();
        are_asked(&origin, (done + at_once + 1).min(order.len())).await;
    }
    for target in &order {
        until_kept(&gateway, target).await;
    }
}

#[tokio::test]
async fn a_client_joins_what_is_fetched_ahead() {
    let (origin, gateway) = fetching("").await;
    let image = origin.image("a", "x", &Image::layers(&[500_000]));
    let gate = Gate::shut();
    let target = blob_at("a", &image.layers[0]);
    let reply = Origin::whole(&image.layers[0]).pause_after(100_000, &gate);
    let mut ahead = origin.upstream.expect("GET", &*target, reply);
    gateway.get(TAG).await.is(200);
    ahead.arrived().await;
    let mut client = asking(&gateway, Request::get(&target)).await;
    let head = client.head().await.is(200);
    assert_eq!(word(&head), "FILL");
    gate.open();
    let (answer, _) = client.rest(head).await;
    assert!(answer.body == image.layers[0]);
    assert_eq!(origin.count("GET", &target), 1);
}

#[tokio::test]
async fn an_index_prefetches_nothing() {
    let (origin, gateway) = fetching("").await;
    let layers = Image::layers(&[1000, 2000]);
    let one = origin.image("a", "one", &layers[..1]);
    let other = origin.image("a", "other", &layers[1..]);
    let index = Image::index(&[&one, &other]);
    origin.manifest("a", "x", OCI_INDEX, &index);
    gives(gateway.get(TAG).await, &index, "MISS");
    a_while().await;
    assert_eq!(origin.requests().len(), 2, "{:?}", origin.requests());
    gateway.get(&manifest_at("a", &one.digest)).await.is(200);
    for target in blobs(&one) {
        until_kept(&gateway, &target).await;
    }
    assert_eq!(asked(&origin).len(), 2);
}

#[tokio::test]
async fn a_head_has_nothing_fetched() {
    let (origin, gateway) = fetching("").await;
    let image = origin.image("a", "x", &Image::layers(&[1000]));
    gateway.ask(Request::head(TAG)).await.is(200);
    gateway.ask(Request::head(manifest_at("a", &image.digest))).await.is(200);
    a_while().await;
    assert_eq!(asked(&origin), [""; 0]);
}

#[tokio::test]
async fn where_it_is_turned_off_nothing_is_fetched_ahead() {
    let (origin, gateway) = fetching("prefetch = false").await;
    let image = origin.image("a", "x", &Image::layers(&[1000]));
    gives(gateway.get(TAG).await, &image.manifest, "MISS");
    a_while().await;
    assert_eq!(asked(&origin), [""; 0]);
}

#[tokio::test]
async fn a_bad_blob_does_not_stop_the_prefetch() {
    let (origin, gateway) = fetching("").await;
    let image = origin.image("a", "x", &Image::layers(&[1000, 2000, 3000, 4000]));
    let order = blobs(&image);
    origin.removes(&order[1]);
    origin.upstream.expect("GET", &*order[2], Reply::ok("something else"));
    gateway.get(TAG).await.is(200);
    for target in order.iter().skip(3) {
        until_kept(&gateway, target).await;
    }
    gateway.get(&order[1]).await.refuses(404, "BLOB_UNKNOWN");
    assert!(gateway.get(&order[2]).await.is(200).body == image.layers[1]);
}
