//! Stores that do not answer, break off, or have other bytes: no client meets an error.

use dockgate::internals::clock;

use super::*;
use crate::harness::noise;

/// A blob of `length` bytes that only the upstream has, each another.
fn blob(site: &Site, length: usize, number: usize) -> (String, Vec<u8>) {
    let mut bytes = noise(length);
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    (site.origin.blob("a", &bytes), bytes)
}

async fn gets(gateway: &Gateway, (target, bytes): &(String, Vec<u8>), from: &str) {
    let answer = gateway.ask(Request::get(target)).await.is(200);
    assert!(answer.body == *bytes);
    assert_eq!(word(&answer), from);
}

#[tokio::test]
async fn a_store_that_fails_costs_no_client_an_error() {
    for status in [403, 500, 503] {
        let site = Site::start().await;
        let gateway = site.gateway().await;
        site.bucket.is(Mood::Ill(status));
        for number in 0..5 {
            gets(&gateway, &blob(&site, 5000, number), "MISS").await;
        }
    }
}

#[tokio::test]
async fn a_store_that_hangs_is_soon_asked_no_more() {
    let site = Site::start().await;
    let gateway = site.builder("hedge = \"10ms\"\n").start().await;
    site.bucket.is(Mood::Hangs);
    let mut number = 0;
    let mut get = async || {
        number += 1;
        gets(&gateway, &blob(&site, 5000, number), "MISS").await;
    };
    get().await;
    // The requests that were given up count, though nothing has waited for their deadline.
    soon("the store to be passed over", async {
        loop {
            site.bucket.forgets_requests();
            get().await;
            if !site.bucket.requests().iter().any(|line| line.starts_with("GET")) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn most_downloads_do_not_wait_for_a_store_that_fails() {
    for mood in [Mood::Hangs, Mood::Ill(503)] {
        let site = Site::start().await;
        let hedge = Duration::from_millis(500);
        let gateway = site.builder("hedge = \"500ms\"\n").start().await;
        site.bucket.is(mood);
        let mut times = Vec::new();
        for number in 0..15 {
            let blob = blob(&site, 5000, number);
            let begun = clock::now();
            gets(&gateway, &blob, "MISS").await;
            times.push(begun.elapsed());
        }
        times.sort();
        assert!(times[7] < hedge / 2, "{mood:?}: {times:?}");
    }
}

#[tokio::test]
async fn an_image_is_pulled_while_the_store_fails() {
    for mood in [Mood::Hangs, Mood::Ill(503), Mood::Ill(403), Mood::Breaks(100)] {
        let site = Site::start().await;
        let image = site.with_stored_image().await;
        site.bucket.is(mood);
        let gateway = site.builder("hedge = \"100ms\"\n").start().await;
        pull(&gateway, &image).await;
        assert_eq!(pull(&gateway, &image).await, "HIT", "{mood:?}");
    }
}

#[tokio::test]
async fn an_object_of_another_length_is_not_sent() {
    let (site, bytes) = (Site::start().await, noise(50_000));
    let target = site.origin.blob("a", &bytes);
    drop(site.with_stored(&target, &bytes).await);
    for wrong in [noise(60_000), noise(40_000), Vec::new()] {
        site.bucket.set_object(&object(&target), wrong);
        let gateway = site.gateway().await;
        let answer = gateway.ask(Request::get(&target)).await.is(200);
        assert!(answer.body == bytes && word(&answer) == "MISS", "{}", word(&answer));
        soon("the right bytes to be stored", async {
            while site.bucket.object(&object(&target)).is_none_or(|object| object != bytes) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_store_that_is_not_there_costs_no_client_an_error() {
    let site = Site::start().await;
    let gone = site.bucket.lines().replace(&site.bucket.address.to_string(), "127.0.0.1:1");
    let gateway = site.builder("").cache(&format!("prefetch = false\n{gone}")).start().await;
    let begun = clock::now();
    for number in 0..5 {
        gets(&gateway, &blob(&site, 5000, number), "MISS").await;
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn the_upstream_is_asked_beside_a_slow_store() {
    let (site, bytes) = (Site::start().await, noise(5000));
    let target = site.origin.blob("a", &bytes);
    drop(site.with_stored(&target, &bytes).await);
    site.bucket.is(Mood::Hangs);
    let gateway = site.builder("hedge = \"50ms\"\n").start().await;
    let answer = gateway.ask(Request::get(&target)).await.is(200);
    assert_eq!(word(&answer), "MISS");
}

#[tokio::test]
async fn what_the_store_breaks_off_goes_on_from_the_upstream() {
    for mood in [Mood::Breaks(MIB), Mood::Stalls(MIB)] {
        let (site, bytes) = (Site::start().await, noise(6 * MIB));
        let target = site.origin.blob("a", &bytes);
        drop(site.with_stored(&target, &bytes).await);
        site.origin.forgets_requests();
        site.bucket.is(mood);
        let gateway = site.gateway().await;
        let answer = gateway.ask(Request::get(&target)).await.is(200);
        assert!(answer.body == bytes, "{mood:?}");
        let heard = site.origin.upstream.heard();
        let range = heard[0].headers.get("range").expect("only the rest is asked for");
        let first = range.trim_start_matches("bytes=").split('-').next().expect("a number");
        assert!(first.parse::<usize>().expect("a number") >= MIB, "{mood:?}: {range}");
    }
}

#[tokio::test]
async fn wrong_bytes_in_the_store_are_replaced() {
    let (site, bytes) = (Site::start().await, noise(200_000));
    let target = site.origin.blob("a", &bytes);
    drop(site.with_stored(&target, &bytes).await);
    let mut wrong = bytes.clone();
    wrong[100_000] ^= 1;
    site.bucket.set_object(&object(&target), wrong.clone());
    let gateway = site.gateway().await;
    let mut client = gateway.connect().await;
    client.send(Request::get(&target).bytes("localhost")).await;
    client.is_torn("wrong bytes in the store").await;
    soon("the right bytes", async {
        loop {
            let answer = gateway.ask(Request::get(&target)).await;
            if answer.status == 200 && answer.body == bytes {
                break;
            }
        }
    })
    .await;
    soon("the store to have the right bytes", async {
        while site.bucket.object(&object(&target)).is_none_or(|object| object != bytes) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn parts_that_are_refused_leave_no_upload() {
    let (site, bytes) = (Site::start().await, noise(17 * MIB));
    let target = site.origin.blob("a", &bytes);
    site.bucket.is(Mood::RefusesParts);
    let gateway = site.gateway().await;
    gateway.ask(Request::get(&target)).await.is(200);
    soon("the upload to be given up", async {
        while !site
            .bucket
            .requests()
            .iter()
            .any(|line| line.starts_with("DELETE") && line.contains("uploadId"))
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!((site.bucket.uploads().len(), site.bucket.object(&object(&target))), (0, None));
}
