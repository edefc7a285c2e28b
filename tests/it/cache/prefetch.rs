//! Layers that are fetched ahead of the client.

use std::time::Duration;

use super::{asking, before, files_in, gives, until_kept, word};
use crate::harness::{
    Exchange, Gate, Gateway, Image, OCI_IMAGE, OCI_INDEX, Origin, Reply, Request, blob_at, manifest_at,
    noise, sha256, soon,
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

#[tokio::test]
async fn a_manifest_prefetches_its_first_hundred_layers() {
    let (origin, gateway) = fetching("").await;
    let image = origin.image("a", "x", &Image::layers(&[10; 300]));
    let order = blobs(&image);
    gateway.get(TAG).await.is(200);
    are_asked(&origin, 100).await;
    for _ in 0..3 {
        gateway.get(TAG).await.is(200);
    }
    a_while().await;
    let mut now = asked(&origin);
    now.sort();
    let mut first = order[..100].to_vec();
    first.sort();
    assert_eq!(now, first);
}

#[tokio::test]
async fn missing_layers_are_asked_for_once() {
    let (origin, gateway) = fetching("").await;
    let image = origin.image("a", "x", &Image::layers(&[10; 40]));
    let order = blobs(&image);
    order.iter().for_each(|target| origin.removes(target));
    for _ in 0..5 {
        gateway.get(TAG).await.is(200);
        are_asked(&origin, order.len()).await;
        a_while().await;
        assert_eq!(asked(&origin).len(), order.len());
    }
    // A client that asks itself is answered.
    gateway.get(&order[7]).await.refuses(404, "BLOB_UNKNOWN");
}

/// Puts a manifest in place whose layers have these digests, and lengths as it says.
fn saying(origin: &Origin, tag: &str, layers: &[(&str, u64)]) {
    origin.blob("a", b"{}");
    let layer = |(digest, size): &(&str, u64)| serde_json::json!({"mediaType": "application/x-tar", "digest": digest, "size": size});
    let config = serde_json::json!({"mediaType": "application/json", "digest": sha256(b"{}"), "size": 2});
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": OCI_IMAGE, "config": config, "layers": layers.iter().map(layer).collect::<Vec<_>>(),
    });
    origin.manifest("a", tag, OCI_IMAGE, manifest.to_string().as_bytes());
}

/// Waits until no download is under way on the disk, and none was left to be resumed.
async fn until_nothing_is_left(gateway: &Gateway) {
    soon("no partial to be left", async {
        while !files_in(&gateway.path("cache").join("partial")).is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_layer_longer_than_its_manifest_says_is_left() {
    // What is missing of the shorter ones would be downloaded also when a client had left.
    for (length, chunked) in [(40_000_000, false), (400_000, false), (2_000_000, true)] {
        let (origin, gateway) = fetching("").await;
        let layer = Image::layers(&[length]).remove(0);
        saying(&origin, "x", &[(&sha256(&layer), 200_000)]);
        let target = origin.blob("a", &layer);
        let reply = if chunked { Reply::ok(&layer).chunked(10_000) } else { Origin::whole(&layer) };
        let mut ahead = origin.upstream.expect("GET", &*target, reply.stall_after(length * 3 / 4));
        gateway.get(TAG).await.is(200);
        ahead.arrived().await;
        ahead.abandoned().await;
        until_nothing_is_left(&gateway).await;
        for _ in 0..3 {
            gateway.get(TAG).await.is(200);
        }
        a_while().await;
        assert_eq!(origin.count("GET", &target), 1, "{length}");
        // Nothing is known of it either: the upstream is asked.
        gateway.ask(Request::head(&target)).await.is(200);
        assert_eq!(origin.count("HEAD", &target), 1, "{length}");
        gives(gateway.get(&target).await, &layer, "MISS");
    }
}

#[tokio::test]
async fn a_layer_larger_than_max_object_is_left() {
    for chunked in [false, true] {
        let (origin, gateway) = fetching("max_object = \"1MiB\"").await;
        let layer = Image::layers(&[3_000_000]).remove(0);
        saying(&origin, "x", &[(&sha256(&layer), 3_000_000)]);
        let target = origin.blob("a", &layer);
        let reply = if chunked { Reply::ok(&layer).chunked(10_000) } else { Origin::whole(&layer) };
        let mut ahead = origin.upstream.expect("GET", &*target, reply.stall_after(2_000_000));
        gateway.get(TAG).await.is(200);
        ahead.arrived().await;
        ahead.abandoned().await;
        until_nothing_is_left(&gateway).await;
        assert!(gateway.get(&target).await.is(200).body == layer, "chunked: {chunked}");
    }
}

#[tokio::test]
async fn a_client_gets_all_of_a_layer_that_is_too_long() {
    for (lines, kept) in [("", true), ("max_object = \"300KiB\"", false)] {
        let (origin, gateway) = fetching(lines).await;
        let (layer, gate) = (Image::layers(&[2_000_000]).remove(0), Gate::shut());
        saying(&origin, "x", &[(&sha256(&layer), 200_000)]);
        let target = origin.blob("a", &layer);
        let reply = Reply::ok(&layer).chunked(10_000).pause_after(100_000, &gate);
        let mut ahead = origin.upstream.expect("GET", &*target, reply);
        gateway.get(TAG).await.is(200);
        ahead.arrived().await;
        let mut client = asking(&gateway, Request::get(&target)).await;
        let head = client.head().await.is(200);
        assert_eq!(word(&head), "FILL");
        gate.open();
        let (answer, _) = client.rest(head).await;
        assert!(answer.body == layer, "{} bytes", answer.body.len());
        if kept {
            gives(until_kept(&gateway, &target).await, &layer, "HIT");
            assert_eq!(origin.count("GET", &target), 1);
        } else {
            until_nothing_is_left(&gateway).await;
            gives(gateway.get(&target).await, &layer, "BYPASS (too_large)");
        }
    }
}

#[tokio::test]
async fn a_client_waiting_for_a_longer_layer_gets_it() {
    let (origin, gateway) = fetching("").await;
    let (layer, gate) = (Image::layers(&[2_000_000]).remove(0), Gate::shut());
    saying(&origin, "x", &[(&sha256(&layer), 200_000)]);
    let target = origin.blob("a", &layer);
    let mut ahead = origin.upstream.expect("GET", &*target, Origin::whole(&layer).held(&gate));
    gateway.get(TAG).await.is(200);
    ahead.arrived().await;
    // It waits for the same answer, before anything is known of the length.
    let mut client = asking(&gateway, Request::get(&target)).await;
    a_while().await;
    gate.open();
    let head = client.head().await.is(200);
    let (answer, _) = client.rest(head).await;
    assert!(answer.body == layer);
    gives(until_kept(&gateway, &target).await, &layer, "HIT");
    assert_eq!(origin.count("GET", &target), 1);
}

#[tokio::test]
async fn layers_are_prefetched_as_far_as_the_client_has_credit() {
    let (origin, gateway) = fetching("max_size = \"10GiB\"").await;
    let layers = Image::layers(&[1000; 6]);
    let digests: Vec<_> = layers.iter().map(|layer| sha256(layer)).collect();
    layers.iter().for_each(|layer| drop(origin.blob("a", layer)));
    // Two of them are within 128 MiB.
    let said: Vec<_> = digests.iter().map(|digest| (digest.as_str(), 50 << 20)).collect();
    saying(&origin, "x", &said);
    gateway.get(TAG).await.is(200);
    are_asked(&origin, 3).await;
    a_while().await;
    assert_eq!(asked(&origin).len(), 3, "the configuration and two layers");
    // What the client takes itself earns it credit.
    let taken = noise(60 << 20);
    let target = origin.blob("a", &taken);
    gateway.get(&target).await.is(200);
    are_asked(&origin, 5).await;
    a_while().await;
    assert_eq!(asked(&origin).len(), 5, "that and one more layer");
}
