//! What operators see of the store.

use super::*;
use crate::harness::noise;

/// The answer to a question at the admin listener, once it says `part`.
async fn until_told(gateway: &Gateway, target: &str, part: &'static str) -> String {
    soon(part, async {
        loop {
            let text = gateway.admin(target).await.is(200).text();
            if text.contains(part) {
                return text;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

#[tokio::test]
async fn reads_and_writes_of_the_store_are_counted() {
    let (site, bytes) = (Site::start().await, noise(5000));
    let target = site.origin.blob("a", &bytes);
    let first = site.builder("hedge = \"20s\"\n").admin_listener().start().await;
    first.ask(Request::get(&target)).await.is(200);
    until_told(&first, "/metrics", "dockgate_store_written_bytes_total 5000").await;
    site.until_stored(&target).await;
    let second = site.builder("hedge = \"20s\"\n").admin_listener().start().await;
    second.ask(Request::get(&target)).await.is(200);
    let text = until_told(&second, "/metrics", "dockgate_store_read_bytes_total 5000").await;
    assert!(text.contains("dockgate_store_reads_total{result=\"hit\"} 1"), "{text}");
    let stats = second.admin("/api/cache").await.is(200).text();
    assert!(stats.contains("\"store\":{\"name\":\"s3://bucket/pre/fix at "), "{stats}");
    assert!(stats.contains("\"read_bytes\":5000") && !stats.contains("hunter2"), "{stats}");
    let page = second.admin("/").await.is(200).text();
    assert!(page.contains("Object store") && page.contains("s3://bucket/pre/fix"), "{page}");
}

#[tokio::test]
async fn a_hedge_that_the_upstream_wins_is_counted() {
    let site = Site::start().await;
    let target = site.origin.blob("a", &noise(5000));
    site.bucket.is(Mood::Hangs);
    let gateway = site.builder("hedge = \"10ms\"\n").admin_listener().start().await;
    gateway.ask(Request::get(&target)).await.is(200);
    until_told(&gateway, "/metrics", "dockgate_store_hedges_total{first=\"upstream\"} 1").await;
}

#[tokio::test]
async fn a_store_that_fails_is_told_and_leaves_the_gateway_ready() {
    let site = Site::start().await;
    let gateway = site.builder("hedge = \"20s\"\n").admin_listener().start().await;
    until_told(&gateway, "/readyz", "\"store\":{\"state\":\"ok\"}").await;
    site.bucket.is(Mood::Ill(503));
    for number in 0..5_u8 {
        let target = site.origin.blob("a", &[number; 100]);
        gateway.ask(Request::get(&target)).await.is(200);
    }
    let text = until_told(&gateway, "/readyz", "\"state\":\"passed over\"").await;
    assert!(text.contains("SlowDown") && text.contains("\"status\":\"ready\""), "{text}");
    until_told(&gateway, "/metrics", "dockgate_store_resting 1").await;
}
