//! Disks that hang, are slow or fail: requests pass them by.

use std::time::Duration;

use dockgate::internals::disk::{Access, Fault, order};
use tokio::time::Instant;

use super::{asking, before, cached_at, gives, until, until_kept, word};
use crate::harness::{
    BodyEnd, Builder, Gate, Gateway, Image, OCI_IMAGE, Origin, Reply, Request, manifest_at, noise, soon,
};

const MIB: usize = 1024 * 1024;

const TAG: &str = "/v2/a/manifests/x";

/// The error of a full disk.
const ENOSPC: i32 = 28;

/// What waits on a frozen file system.
const WRITING: [Access; 3] = [Access::Write, Access::Sync, Access::Change];

fn with(origin: &Origin) -> Builder {
    before(origin, "[upstream.cache]").cache("prefetch = false").admin_listener()
}

async fn problems(gateway: &Gateway) -> String {
    gateway.admin("/readyz").await.is(200).json()["problems"].to_string()
}

async fn until_told(gateway: &Gateway, words: &str) {
    soon("/readyz to tell", async {
        while !problems(gateway).await.contains(words) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// Asks for something that is right, however it comes. Returns the time that it took.
async fn asked(gateway: &Gateway, target: &str, bytes: &[u8]) -> Duration {
    let begun = Instant::now();
    let answer = gateway.get(target).await.is(200);
    assert!(answer.body == bytes, "{target}");
    begun.elapsed()
}

#[tokio::test]
async fn what_a_full_disk_refused_is_known_after_a_restart() {
    let origin = Origin::start().await;
    let dir = tempfile::tempdir().unwrap();
    let builder = || cached_at(&origin, dir.path(), "tag_ttl = \"1h\"").admin_listener();
    let gateway = builder().start().await;
    let image = origin.image("a", "x", &Image::layers(&[MIB]));
    let layer = origin.blob("a", &image.layers[0]);
    let full = order(dir.path(), &[Access::Write, Access::Change], Fault::Fail(ENOSPC));
    asked(&gateway, TAG, &image.manifest).await;
    asked(&gateway, &layer, &image.layers[0]).await;
    until_told(&gateway, "full").await;
    drop(full);
    gives(until_kept(&gateway, &layer).await, &image.layers[0], "HIT");
    asked(&gateway, TAG, &image.manifest).await;
    super::until_synced(dir.path()).await;
    drop(gateway);
    origin.forgets_requests();
    let gateway = builder().start().await;
    gives(gateway.get(&layer).await, &image.layers[0], "HIT");
    assert_eq!(origin.requests(), [""; 0]);
}

#[tokio::test]
async fn a_hanging_disk_is_passed_by_until_it_answers() {
    let origin = Origin::start().await;
    let gateway = with(&origin).start().await;
    let image = origin.image("a", "x", &Image::layers(&[2 * MIB]));
    let other = origin.image("a", "y", &Image::layers(&[MIB, 10]));
    let layer = origin.blob("a", &image.layers[0]);
    asked(&gateway, "/v2/a/manifests/x", &image.manifest).await;
    asked(&gateway, &layer, &image.layers[0]).await;
    gives(until_kept(&gateway, &layer).await, &image.layers[0], "HIT");

    let fault = order(&gateway.path("cache"), &[], Fault::Hang);
    let answer = gateway.get(&layer).await.is(200);
    assert!(answer.body == image.layers[0]);
    assert_eq!(word(&answer), "BYPASS (disk_busy)");
    until_told(&gateway, "has not answered").await;
    let metrics = String::from_utf8(gateway.admin("/metrics").await.is(200).body).unwrap();
    assert!(metrics.contains("\ndockgate_cache_degraded 1\n"), "{metrics}");
    assert!(metrics.contains("dockgate_cache_bypasses_total{reason=\"disk_busy\"} 1\n"), "{metrics}");
    gateway.admin("/healthz").await.is(200);
    // From now on no request waits for it.
    for (target, bytes) in [
        (layer.as_str(), &image.layers[0]),
        ("/v2/a/manifests/x", &image.manifest),
        ("/v2/a/manifests/y", &other.manifest),
        (&origin.blob("a", &other.layers[0]), &other.layers[0]),
        (&origin.blob("a", &other.layers[1]), &other.layers[1]),
        ("/v2/a/manifests/y", &other.manifest),
    ] {
        let time = asked(&gateway, target, bytes).await;
        assert!(time < Duration::from_secs(2), "{target} {time:?}");
    }
    assert!(fault.met() < 64, "{} threads wait", fault.met());

    drop(fault);
    let again = until("a hit", &gateway, Request::get(&layer), |answer| word(answer) == "HIT").await;
    assert!(again.body == image.layers[0]);
    soon("/readyz to tell no problem", async {
        while problems(&gateway).await.contains("cache") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    until_kept(&gateway, &origin.blob("a", &other.layers[0])).await;
}

#[tokio::test]
async fn a_frozen_disk_still_serves_what_it_has() {
    let origin = Origin::start().await;
    let gateway = with(&origin).start().await;
    let (kept, new) = (noise(2 * MIB), noise(3 * MIB));
    let (here, missing) = (origin.blob("a", &kept), origin.blob("a", &new));
    asked(&gateway, &here, &kept).await;
    until_kept(&gateway, &here).await;
    let fault = order(&gateway.path("cache"), &WRITING, Fault::Hang);
    asked(&gateway, &missing, &new).await;
    until_told(&gateway, "has not answered").await;
    for _ in 0..3 {
        gives(gateway.get(&here).await, &kept, "HIT");
        assert!(asked(&gateway, &missing, &new).await < Duration::from_secs(2));
    }
    drop(fault);
    until_kept(&gateway, &missing).await;
}

#[tokio::test]
async fn a_push_counts_before_the_disk_has_it() {
    let origin = Origin::start().await;
    let lines = "read_only = false\n[upstream.cache]\ntag_ttl = \"1h\"";
    let gateway = before(&origin, lines).cache("prefetch = false").start().await;
    let (old, new) = (Image::empty("old"), Image::empty("new"));
    let list = "/v2/a/tags/list";
    origin.manifest("a", "x", OCI_IMAGE, &old.manifest);
    origin.upstream.expect("GET", list, Reply::ok(r#"{"name":"a","tags":["x"]}"#));
    asked(&gateway, TAG, &old.manifest).await;
    gateway.get(list).await.is(200);
    origin.falls_ill(503);
    until("the list to be kept", &gateway, Request::get(list), |answer| answer.status == 200).await;

    let fault = order(&gateway.path("cache"), &WRITING, Fault::Hang);
    let begun = Instant::now();
    origin.upstream.expect("PUT", TAG, Reply::status(201));
    let put = Request::put(TAG).header("Content-Type", OCI_IMAGE).body(new.manifest.clone());
    gateway.ask(put).await.is(201);
    for target in [TAG, &manifest_at("a", &new.digest)] {
        gives(gateway.get(target).await, &new.manifest, "HIT");
    }
    gateway.get(list).await.refuses(502, "UNAVAILABLE");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    drop(fault);
    gives(gateway.get(TAG).await, &new.manifest, "HIT");
}

#[tokio::test]
async fn a_download_goes_on_when_the_disk_hangs() {
    let origin = Origin::start().await;
    let gateway = with(&origin).start().await;
    let (bytes, gate) = (noise(24 * MIB), Gate::shut());
    let target = origin.blob("a", &bytes);
    origin.upstream.expect("GET", &*target, Origin::whole(&bytes).pause_after(4 * MIB, &gate));
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = asking(&gateway, Request::get(&target)).await;
        let head = client.head().await.is(200);
        clients.push((client, head));
    }
    let fault = order(&gateway.path("cache"), &WRITING, Fault::Hang);
    gate.open();
    for (mut client, head) in clients {
        let (answer, end) = client.rest(head).await;
        assert!(end == BodyEnd::Complete && answer.body == bytes);
    }
    until_told(&gateway, "has not answered").await;
    drop(fault);
    until_kept(&gateway, &target).await;
}

#[tokio::test]
async fn a_blob_is_served_although_its_last_step_hangs() {
    let origin = Origin::start().await;
    let gateway = with(&origin).start().await;
    let bytes = noise(MIB);
    let (target, gate) = (origin.blob("a", &bytes), Gate::shut());
    origin.upstream.expect("GET", &*target, Origin::whole(&bytes).pause_after(MIB / 2, &gate));
    let mut client = asking(&gateway, Request::get(&target)).await;
    let head = client.head().await.is(200);
    let _fault = order(&gateway.path("cache"), &[Access::Change], Fault::Hang);
    gate.open();
    let (answer, end) = client.rest(head).await;
    assert!(end == BodyEnd::Complete && answer.body == bytes);
}

#[tokio::test]
async fn a_stop_ends_although_the_disk_hangs() {
    let origin = Origin::start().await;
    let gateway = with(&origin).server("drain_timeout = \"1s\"").start().await;
    let (bytes, more) = (noise(2 * MIB), noise(MIB));
    let target = origin.blob("a", &bytes);
    asked(&gateway, &target, &bytes).await;
    let _fault = order(&gateway.path("cache"), &[], Fault::Hang);
    asked(&gateway, &origin.blob("a", &more), &more).await;
    let begun = Instant::now();
    gateway.app.drain().await;
    drop(gateway);
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_disk_that_cannot_be_read_is_a_miss() {
    const EIO: i32 = 5;
    let origin = Origin::start().await;
    let gateway = with(&origin).start().await;
    let bytes = noise(2 * MIB);
    let target = origin.blob("a", &bytes);
    asked(&gateway, &target, &bytes).await;
    until_kept(&gateway, &target).await;
    let fault = order(&gateway.path("cache").join("blobs"), &[Access::Open, Access::Read], Fault::Fail(EIO));
    for _ in 0..2 {
        asked(&gateway, &target, &bytes).await;
    }
    drop(fault);
    until_kept(&gateway, &target).await;
}

#[tokio::test]
async fn a_small_blob_does_not_wait_for_large_ones() {
    let origin = Origin::start().await;
    let gateway = with(&origin).start().await;
    let large: Vec<_> = (0..12).map(|_| noise(8 * MIB)).collect();
    let small = noise(1024);
    let _fault = order(&gateway.path("cache"), &[Access::Write], Fault::Slow(Duration::from_millis(100)));
    let mut clients = Vec::new();
    for bytes in &large {
        let mut client = asking(&gateway, Request::get(origin.blob("a", bytes))).await;
        client.head().await.is(200);
        clients.push(client);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let time = asked(&gateway, &origin.blob("a", &small), &small).await;
    assert!(time < Duration::from_millis(2500), "{time:?}");
}
