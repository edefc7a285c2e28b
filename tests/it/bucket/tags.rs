//! Tags, as the store has them.

use dockgate::internals::clock;

use super::*;
use crate::harness::{EMPTY_INDEX, OCI_INDEX};

#[tokio::test]
async fn a_tag_is_believed_no_longer_for_the_store() {
    let site = Site::start().await;
    let image = site.with_stored_image().await;
    let began = clock::now();
    // Written a moment ago by the first; the second believes it for what is left of its life.
    let gateway = site.gateway_with("tag_ttl = \"3s\"").await;
    assert_eq!(pull(&gateway, &image).await, "STORE");
    soon("the tag to be asked for", async {
        while site.origin.count("HEAD", &manifest_at("a", "latest")) == 0 {
            gateway.ask(Request::get(manifest_at("a", "latest"))).await.is(200);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(began.elapsed() < Duration::from_millis(3500), "{:?}", began.elapsed());
}

#[tokio::test]
async fn an_old_tag_is_asked_of_the_upstream() {
    let site = Site::start().await;
    site.with_stored_image().await;
    let image = site.origin.image("a", "latest", &Image::layers(&[50_000]));
    let gateway = site.gateway_with("tag_ttl = \"0s\"").await;
    assert_eq!(pull(&gateway, &image).await, "MISS", "it has moved");
    assert_eq!(site.origin.count("HEAD", &manifest_at("a", "latest")), 1);
}

#[tokio::test]
async fn an_old_tag_serves_while_the_upstream_fails() {
    let site = Site::start().await;
    let image = site.with_stored_image().await;
    site.origin.falls_ill(503);
    let gateway = site.gateway_with("tag_ttl = \"0s\"").await;
    assert_eq!(pull(&gateway, &image).await, "STALE");
}

#[tokio::test]
async fn a_tag_that_has_moved_is_written_anew() {
    let site = Site::start().await;
    site.with_stored_image().await;
    let name = site.until_there("/a/_tags/latest").await;
    let image = site.origin.image("a", "latest", &Image::layers(&[50_000]));
    // A record tells of whole seconds.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    pull(&site.gateway_with("tag_ttl = \"0s\"").await, &image).await;
    soon("the tag to be written", async {
        loop {
            let record = site.bucket.object(&name).expect("a record");
            if String::from_utf8_lossy(&record).contains(&image.digest) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_tag_that_stays_is_written_once_in_a_while() {
    let site = Site::start().await;
    let image = site.with_stored_image().await;
    let name = site.until_there("/a/_tags/latest").await;
    let gateway = site.gateway_with("tag_ttl = \"0s\"").await;
    site.bucket.forgets_requests();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        pull(&gateway, &image).await;
    }
    assert!(site.origin.count("HEAD", &manifest_at("a", "latest")) >= 3);
    let put = |line: &String| line.starts_with("PUT") && line.ends_with(&name);
    assert!(!site.bucket.requests().iter().any(put), "{:?}", site.bucket.requests());
}

#[tokio::test]
async fn a_forged_record_moves_no_tag() {
    let site = Site::start().await;
    site.origin.manifest("a", "evil", OCI_INDEX, EMPTY_INDEX.as_bytes());
    site.gateway().await.ask(Request::get(manifest_at("a", "evil"))).await.is(200);
    let evil = site.until_there("/a/_tags/evil").await;
    let image = site.with_stored_image().await;
    let name = site.until_there("/a/_tags/latest").await;
    let record = site.bucket.object(&name).expect("a record");
    let moved = site.bucket.object(&evil).expect("a record");
    let text = String::from_utf8(record.to_vec()).expect("text");
    let other = crate::harness::sha256(EMPTY_INDEX.as_bytes());
    let forged = [
        moved.to_vec(),
        text.replace(&image.digest, &other).into_bytes(),
        text.split_once('\n').expect("a line").1.as_bytes().to_vec(),
        Vec::new(),
        vec![b'x'; 100_000],
    ];
    for forgery in forged {
        site.bucket.set_object(&name, forgery);
        site.origin.forgets_requests();
        let gateway = site.gateway().await;
        assert_eq!(pull(&gateway, &image).await, "STORE", "by its digest");
        assert_eq!(site.origin.count("HEAD", &manifest_at("a", "latest")), 1);
    }
    // Each of them was replaced by what the upstream said.
    soon("the record to be right", async {
        while !String::from_utf8_lossy(&site.bucket.object(&name).expect("a record")).contains(&image.digest)
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_tag_that_is_gone_upstream_is_forgotten_in_the_store() {
    let site = Site::start().await;
    site.with_stored_image().await;
    site.origin.removes(&manifest_at("a", "latest"));
    let gateway = site.gateway_with("tag_ttl = \"0s\"").await;
    gateway.ask(Request::get(manifest_at("a", "latest"))).await.is(404);
    soon("its record to be removed", async {
        while site.bucket.names().iter().any(|name| name.contains("/_tags/")) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn where_clients_may_write_no_tag_is_stored() {
    let site = Site::start().await;
    let image = site.origin.image("a", "latest", &Image::layers(&[5000]));
    let gateway = site.builder("hedge = \"20s\"\n").read_only("up", false).start().await;
    pull(&gateway, &image).await;
    site.until_there(image.digest.trim_start_matches("sha256:")).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!site.bucket.names().iter().any(|name| name.contains("/_tags/")));
}
