//! What the store has is had without the upstream: offline, and by clients that may cause no download.

use super::*;
use crate::harness::noise;

/// Lets no client cause a download.
fn held_only(builder: Builder) -> Builder {
    builder.rule(&["anonymous"], &["**"], &["pull"]).denial_first(&["anonymous"], &["**"], &["fetch"])
}

/// Returns two gateways with empty disks: one that is offline, and one whose clients may not fetch.
async fn without_upstream(site: &Site) -> [Gateway; 2] {
    let limited = held_only(site.builder("hedge = \"20s\"\n")).start().await;
    [site.gateway_with("offline = true").await, limited]
}

#[tokio::test]
async fn an_image_of_the_store_needs_no_upstream() {
    let site = Site::start().await;
    let image = site.with_stored_image().await;
    for gateway in without_upstream(&site).await {
        assert_eq!(pull(&gateway, &image).await, "STORE");
        assert_eq!(pull(&gateway, &image).await, "HIT");
    }
    for gateway in without_upstream(&site).await {
        let answer = gateway.ask(Request::head(blob_at("a", &image.layers[0]))).await.is(200);
        assert_eq!(answer.header("content-length"), Some("70000"));
        let request = Request::get(blob_at("a", &image.layers[0])).header("Range", "bytes=5-9");
        assert_eq!(gateway.ask(request).await.is(206).body, image.layers[0][5..10]);
        gateway.ask(Request::head(manifest_at("a", "latest"))).await.is(200);
        gateway.ask(Request::get(manifest_at("a", &image.digest))).await.is(200);
    }
    assert_eq!(site.origin.requests(), [""; 0]);
}

#[tokio::test]
async fn offline_an_old_tag_of_the_store_serves() {
    let site = Site::start().await;
    let image = site.with_stored_image().await;
    let gateway = site.gateway_with("offline = true\ntag_ttl = \"0s\"").await;
    assert_eq!(pull(&gateway, &image).await, "STORE");
    assert_eq!(site.origin.requests(), [""; 0]);
}

#[tokio::test]
async fn without_fetch_an_old_tag_is_confirmed_and_nothing_downloaded() {
    let site = Site::start().await;
    let image = site.with_stored_image().await;
    let builder = site.builder_with("tag_ttl = \"0s\"", "hedge = \"20s\"\n");
    let gateway = held_only(builder).start().await;
    gateway.ask(Request::get(manifest_at("a", "latest"))).await.is(200);
    assert_eq!(site.origin.requests(), [format!("HEAD {}", manifest_at("a", "latest"))]);
    // A tag that has moved to what is not here.
    site.origin.image("a", "latest", &Image::layers(&[50_000]));
    let gateway = held_only(site.builder_with("tag_ttl = \"0s\"", "hedge = \"20s\"\n")).start().await;
    let status = gateway.ask(Request::get(manifest_at("a", "latest"))).await.status;
    assert!(status == 403 || status == 404, "{status}");
    assert_eq!(site.origin.count("GET", &manifest_at("a", "latest")), 0, "{}", image.digest);
}

#[tokio::test]
async fn what_the_store_has_not_is_not_had_offline() {
    let site = Site::start().await;
    let target = site.origin.blob("a", &noise(1000));
    site.origin.image("a", "latest", &Image::layers(&[1000]));
    for gateway in without_upstream(&site).await {
        for target in [target.clone(), manifest_at("a", "latest")] {
            for request in [Request::get(&target), Request::head(&target)] {
                let status = gateway.ask(request).await.status;
                assert!(matches!(status, 403 | 404 | 503 | 504), "{status}");
            }
        }
    }
    assert_eq!(site.origin.requests(), [""; 0]);
}

#[tokio::test]
async fn without_fetch_other_repositories_stay_closed() {
    let (site, bytes) = (Site::start().await, noise(1000));
    let target = site.origin.blob("a", &bytes);
    drop(site.with_stored(&target, &bytes).await);
    site.origin.forgets_requests();
    for gateway in without_upstream(&site).await {
        let status = gateway.ask(Request::get(blob_at("b", &bytes))).await.status;
        assert!(matches!(status, 403 | 404 | 503 | 504), "{status}");
    }
    assert_eq!(site.origin.requests(), [""; 0]);
}
