//! Who can write to the bucket gets nothing by it that the upstream does not give.

use super::*;
use crate::harness::{blob_at, noise};

#[tokio::test]
async fn a_record_of_another_repository_is_none() {
    let (site, bytes) = (Site::start().await, noise(5000));
    let target = site.origin.blob("a", &bytes);
    drop(site.with_stored(&target, &bytes).await);
    let records = site.bucket.folder("records/");
    let own = records.iter().find(|name| name.contains("/a/_blobs/")).expect("its record");
    let record = site.bucket.object(own).expect("a record");
    site.bucket.set_object(&own.replace("/a/_blobs/", "/b/_blobs/"), record);
    let gateway = site.gateway().await;
    gateway.ask(Request::get(blob_at("b", &bytes))).await.is(404);
}

#[tokio::test]
async fn a_changed_record_is_none() {
    let (site, bytes) = (Site::start().await, noise(5000));
    let target = site.origin.blob("a", &bytes);
    drop(site.with_stored(&target, &bytes).await);
    for name in site.bucket.folder("records/") {
        let record = site.bucket.object(&name).expect("a record");
        let text = String::from_utf8(record.to_vec()).expect("text");
        site.bucket.set_object(&name, text.replace("Last-Confirmed: ", "Last-Confirmed:  "));
    }
    site.origin.removes(&target);
    site.gateway().await.ask(Request::get(&target)).await.is(404);
}

#[tokio::test]
async fn a_gateway_with_another_secret_believes_no_record() {
    let (site, bytes) = (Site::start().await, noise(5000));
    let target = site.origin.blob("a", &bytes);
    drop(site.with_stored(&target, &bytes).await);
    site.origin.removes(&target);
    let builder = site.builder("hedge = \"20s\"\n").secret(SECRET, "another secret, and just as long");
    builder.start().await.ask(Request::get(&target)).await.is(404);
}

#[tokio::test]
async fn another_repository_has_it_once_the_upstream_says_so() {
    let (site, bytes) = (Site::start().await, noise(5000));
    let target = site.origin.blob("a", &bytes);
    drop(site.with_stored(&target, &bytes).await);
    let other = site.origin.blob("b", &bytes);
    site.origin.forgets_requests();
    let answer = site.gateway().await.ask(Request::get(&other)).await.is(200);
    assert_eq!((word(&answer), &answer.body), ("STORE", &bytes));
    assert_eq!(site.origin.requests(), [format!("GET {other}")]);
    assert_eq!(site.origin.upstream.heard()[0].headers.get("range"), Some("bytes=0-0"));
}

#[tokio::test]
async fn an_upstream_that_never_served_it_gives_it_itself() {
    let (site, bytes) = (Site::start().await, noise(5000));
    let target = site.origin.blob("a", &bytes);
    drop(site.with_stored(&target, &bytes).await);
    // Another upstream only says that it has the blob.
    let claimant = Origin::start().await;
    claimant.upstream.always("HEAD", target.clone(), |_| crate::harness::Reply::ok(noise(5000)));
    let gateway = site
        .builder("hedge = \"20s\"\n")
        .upstream_with("other", "other", claimant.address(), "retries = 0\n[upstream.cache]\n")
        .start()
        .await;
    gateway.ask(Request::get(target.replace("/v2/", "/v2/other/"))).await.is(404);
}

#[tokio::test]
async fn what_the_upstream_removed_is_forgotten_in_the_store() {
    let (site, bytes) = (Site::start().await, noise(5000));
    let target = site.origin.blob("a", &bytes);
    drop(site.with_stored(&target, &bytes).await);
    site.origin.removes(&target);
    // Without the content the upstream is asked, which says that it is gone.
    site.bucket.removes(&object(&target));
    site.gateway().await.ask(Request::get(&target)).await.is(404);
    soon("its record to be removed", async {
        while site.bucket.names().iter().any(|name| name.contains("/a/_blobs/")) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn where_clients_may_write_the_upstream_is_asked() {
    let (site, bytes) = (Site::start().await, noise(5000));
    let target = site.origin.blob("a", &bytes);
    let gateway = async || site.builder("hedge = \"20s\"\n").read_only("up", false).start().await;
    let first = gateway().await;
    first.ask(Request::get(&target)).await.is(200);
    soon("the store to have it", async {
        while site.bucket.names().len() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert!(!site.bucket.names().iter().any(|name| name.contains("/_blobs/")), "a delete could end it");
    drop(first);
    site.origin.forgets_requests();
    let answer = gateway().await.ask(Request::get(&target)).await.is(200);
    assert_eq!(word(&answer), "STORE");
    assert_eq!(site.origin.requests(), [format!("GET {target}")]);
    assert_eq!(site.origin.upstream.heard()[0].headers.get("range"), Some("bytes=0-0"));
}
