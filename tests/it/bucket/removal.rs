//! What an operator removes from the cache.

use dockgate::internals::clock;

use super::*;
use crate::harness::{Client, noise};

/// Has an operator remove all of what `pattern` means.
async fn remove(gateway: &Gateway, pattern: &str) {
    let mut operator = Client::tcp(gateway.app.admin_address().expect("an admin listener")).await;
    let target = format!("/api/cache/remove?pattern={pattern}");
    let request = Request::post(target).header("Content-Type", "application/json").body("");
    operator.ask(&request).await.is(200);
}

/// Waits until the store has no object whose name `is` says is meant.
async fn until_gone(site: &Site, is: impl Fn(&str) -> bool) {
    soon("it to be gone", async {
        while site.bucket.names().iter().any(|name| is(name)) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn what_an_operator_removes_is_removed_from_the_store() {
    let (site, bytes) = (Site::start().await, noise(5000));
    let target = site.origin.blob("a", &bytes);
    let gateway = site.builder("hedge = \"20s\"\n").admin_listener().start().await;
    gateway.ask(Request::get(&target)).await.is(200);
    site.until_stored(&target).await;
    remove(&gateway, "**").await;
    until_gone(&site, |name| name.contains("/_blobs/") || name.starts_with("blobs/")).await;
    site.origin.forgets_requests();
    let answer = gateway.ask(Request::get(&target)).await.is(200);
    assert_eq!(word(&answer), "MISS");
}

#[tokio::test]
async fn records_of_other_replicas_are_removed_too() {
    let site = Site::start().await;
    let image = site.with_stored_image().await;
    // This one has none of it on its disk.
    let gateway = site.builder("hedge = \"20s\"\n").admin_listener().start().await;
    remove(&gateway, "b/**").await;
    site.until_stored(&manifest_at("a", &image.digest)).await;
    remove(&gateway, "a").await;
    until_gone(&site, |name| name.contains("/a/_")).await;
}

#[tokio::test]
async fn a_replica_that_was_down_removes_at_its_start() {
    let (site, bytes, disk) = (Site::start().await, noise(5000), tempfile::tempdir().expect("a directory"));
    let target = site.origin.blob("a", &bytes);
    let lines = format!("prefetch = false\n{}hedge = \"20s\"\n", site.bucket.lines());
    let other = || site.builder("").cache_at(&disk.path().join("cache"), &lines).start();
    let down = other().await;
    down.ask(Request::get(&target)).await.is(200);
    site.until_stored(&target).await;
    assert_eq!(word(&down.ask(Request::get(&target)).await), "HIT");
    down.app.drain().await;
    drop(down);
    let gateway = site.builder("hedge = \"20s\"\n").admin_listener().start().await;
    gateway.ask(Request::get(&target)).await.is(200);
    remove(&gateway, "a").await;
    until_gone(&site, |name| name.contains("/_blobs/") || name.starts_with("blobs/")).await;
    soon("the note", async {
        while site.bucket.folder("purged/").is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let up = other().await;
    soon("it to be removed there", async {
        while disk.path().join("cache/removals").metadata().is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(word(&up.ask(Request::get(&target)).await.is(200)), "MISS");
    // It is done once.
    site.until_stored(&target).await;
    up.app.drain().await;
    drop(up);
    let again = other().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(word(&again.ask(Request::get(&target)).await.is(200)), "HIT");
}

#[tokio::test]
async fn a_forged_note_removes_nothing() {
    let (site, bytes) = (Site::start().await, noise(5000));
    let target = site.origin.blob("a", &bytes);
    let now = clock::wall().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    for (number, text) in ["**", "Signature: 00\n**", ""].into_iter().enumerate() {
        site.bucket.set_object(&format!("purged/{now:012}-{number:016x}"), text);
    }
    let disk = tempfile::tempdir().expect("a directory");
    let lines = format!("prefetch = false\n{}hedge = \"20s\"\n", site.bucket.lines());
    let start = || site.builder("").cache_at(&disk.path().join("cache"), &lines).start();
    let gateway = start().await;
    gateway.ask(Request::get(&target)).await.is(200);
    site.until_stored(&target).await;
    gateway.app.drain().await;
    drop(gateway);
    let again = start().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(word(&again.ask(Request::get(&target)).await.is(200)), "HIT");
}
