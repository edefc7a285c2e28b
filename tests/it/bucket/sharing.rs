//! What one gateway has proved, another has from the store.

use super::*;
use crate::harness::noise;

#[tokio::test]
async fn a_blob_comes_from_the_store_after_the_disk_is_gone() {
    let (site, bytes) = (Site::start().await, noise(300_000));
    let target = site.origin.blob("a", &bytes);
    drop(site.with_stored(&target, &bytes).await);
    assert_eq!(site.bucket.object(&object(&target)).expect("the blob"), bytes);
    assert_eq!(site.bucket.checksums(), 3, "the blob and two records");
    site.origin.forgets_requests();
    let other = site.gateway().await;
    let answer = other.ask(Request::get(&target)).await.is(200);
    assert!(answer.body == bytes);
    assert_eq!(word(&answer), "STORE");
    assert_eq!(answer.header("content-length"), Some("300000"));
    assert_eq!(site.origin.requests(), [""; 0]);
    let again = other.ask(Request::get(&target)).await;
    assert_eq!(word(&again), "HIT");
}

#[tokio::test]
async fn an_image_comes_from_the_store_after_all_disks_are_gone() {
    let site = Site::start().await;
    let image = site.with_stored_image().await;
    let gateway = site.gateway().await;
    assert_eq!(pull(&gateway, &image).await, "STORE");
    gateway.ask(Request::head(manifest_at("a", "latest"))).await.is(200);
    assert_eq!(pull(&gateway, &image).await, "HIT");
    assert_eq!(site.origin.requests(), [""; 0]);
}

#[tokio::test]
async fn a_large_blob_is_stored_in_equal_parts() {
    let (site, bytes) = (Site::start().await, noise(33 * MIB));
    let target = site.origin.blob("a", &bytes);
    drop(site.with_stored(&target, &bytes).await);
    assert!(site.bucket.object(&object(&target)).expect("the blob") == bytes);
    let requests = site.bucket.requests();
    assert_eq!(requests.iter().filter(|line| line.contains("partNumber=")).count(), 3, "{requests:?}");
    assert_eq!(site.bucket.uploads(), [""; 0]);
}

#[tokio::test]
async fn blobs_outside_the_limits_are_not_stored() {
    let site = Site::start().await;
    let (small, right) = (noise(1000), noise(2000));
    let lines = "hedge = \"20s\"\nmin_object = \"2000\"\nmax_object = \"2000\"\n";
    let gateway = site.builder(lines).start().await;
    let (skipped, stored) = (site.origin.blob("a", &small), site.origin.blob("a", &right));
    gateway.ask(Request::get(&skipped)).await.is(200);
    gateway.ask(Request::get(&stored)).await.is(200);
    site.until_stored(&stored).await;
    assert_eq!(site.bucket.folder("blobs/"), [object(&stored)]);
}

#[tokio::test]
async fn parts_come_from_the_whole_that_the_store_has() {
    let (site, bytes) = (Site::start().await, noise(20 * MIB));
    let target = site.origin.blob("a", &bytes);
    drop(site.with_stored(&target, &bytes).await);
    site.origin.forgets_requests();
    let gateway = site.gateway().await;
    let part = async |first: usize, last: usize| {
        let request = Request::get(&target).header("Range", format!("bytes={first}-{last}"));
        let answer = gateway.ask(request).await.is(206);
        assert!(answer.body == bytes[first..=last]);
    };
    tokio::join!(part(18 * MIB, 18 * MIB + 9), part(0, MIB), part(19 * MIB, 20 * MIB - 1));
    assert_eq!(site.origin.requests(), [""; 0]);
}

#[tokio::test]
async fn a_part_of_wrong_bytes_reaches_no_client() {
    let (site, bytes) = (Site::start().await, noise(100_000));
    let target = site.origin.blob("a", &bytes);
    drop(site.with_stored(&target, &bytes).await);
    let mut wrong = bytes.clone();
    wrong[60_000] ^= 1;
    site.bucket.set_object(&object(&target), wrong);
    let gateway = site.gateway().await;
    let ask = || Request::get(&target).header("Range", "bytes=10-19");
    let mut client = gateway.connect().await;
    client.send(ask().bytes("localhost")).await;
    client.is_torn("wrong bytes in the store").await;
    soon("the right bytes", async {
        loop {
            let answer = gateway.ask(ask()).await;
            if answer.status == 206 && answer.body == bytes[10..20] {
                break;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_part_of_what_still_comes_waits_for_the_proof() {
    let (site, bytes) = (Site::start().await, noise(6 * MIB));
    let target = site.origin.blob("a", &bytes);
    drop(site.with_stored(&target, &bytes).await);
    let mut wrong = bytes.clone();
    wrong[5] ^= 1;
    site.bucket.set_object(&object(&target), wrong);
    // It stops behind these bytes, and the upstream goes on.
    site.bucket.is(Mood::Stalls(2 * MIB));
    let gateway = site.gateway().await;
    let mut whole = gateway.connect().await;
    whole.send(Request::get(&target).bytes("localhost")).await;
    assert_eq!(whole.head().await.status, 200);
    let mut part = gateway.connect().await;
    part.send(Request::get(&target).header("Range", "bytes=0-9").bytes("localhost")).await;
    part.is_torn("wrong bytes in the store").await;
}
