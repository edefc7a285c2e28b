//! What operators see of the store, and have verified there.

use serde_json::Value;

use super::*;
use crate::harness::Client;

/// Has an operator call a gateway.
async fn call(gateway: &Gateway, target: &str) -> Answer {
    let mut operator = Client::tcp(gateway.app.admin_address().expect("an admin listener")).await;
    let request = match target.contains("/list") {
        true => Request::get(target),
        false => Request::post(target).header("Content-Type", "application/json").body(""),
    };
    operator.ask(&request).await.is(200)
}

/// Has all of the store verified, and returns what is wrong and the last event.
async fn verified(gateway: &Gateway) -> (Vec<String>, Value) {
    let answer = call(gateway, "/api/cache/verify?store=true").await;
    let events: Vec<Value> =
        answer.text().lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    let wrong = events.iter().filter(|event| event["event"] == "wrong");
    let wrong = wrong.map(|event| event["digest"].as_str().expect("a text").to_owned()).collect();
    (wrong, events.last().expect("events").clone())
}

#[tokio::test]
async fn images_of_the_store_are_listed() {
    let site = Site::start().await;
    let image = site.with_stored_image().await;
    let gateway = site.builder("hedge = \"20s\"\n").admin_listener().start().await;
    let listed = async |target: &str| call(&gateway, target).await.json();
    assert_eq!(listed("/api/cache/list").await["entries"], Value::Array(Vec::new()));
    let both = listed("/api/cache/list?store=true").await;
    let entry = &both["entries"][0];
    let names = (&entry["repository"], &entry["tag"], &entry["digest"], &entry["places"][0]);
    assert_eq!(names, (&"a".into(), &"latest".into(), &image.digest.as_str().into(), &"store".into()));
    let bytes = image.manifest.len() + image.config.len() + image.layers.iter().map(Vec::len).sum::<usize>();
    assert_eq!(entry["size"], bytes, "{entry}");
    assert_eq!(both["entries"].as_array().map(Vec::len), Some(1), "{both}");
    for (pattern, count) in [("a:lat*", 1), ("a:other", 0), ("b", 0)] {
        let found = listed(&format!("/api/cache/list?store=true&pattern={pattern}")).await;
        assert_eq!(found["entries"].as_array().map(Vec::len), Some(count), "{pattern}");
    }
    let by_digest = listed(&format!("/api/cache/list?store=true&pattern=a@{}", image.digest)).await;
    assert_eq!(by_digest["entries"].as_array().map(Vec::len), Some(1), "{by_digest}");
}

#[tokio::test]
async fn a_manifest_without_a_tag_is_listed_as_well() {
    let site = Site::start().await;
    let image = site.origin.image("a", "latest", &Image::layers(&[10]));
    let gateway = site.builder("hedge = \"20s\"\n").admin_listener().start().await;
    gateway.ask(Request::get(manifest_at("a", &image.digest))).await.is(200);
    site.until_stored(&manifest_at("a", &image.digest)).await;
    let listed = call(&gateway, "/api/cache/list?store=true").await.json();
    let entry = &listed["entries"][0];
    assert_eq!((&entry["tag"], &entry["digest"]), (&Value::Null, &image.digest.as_str().into()), "{listed}");
    assert_eq!(entry["places"], Value::from(vec!["here", "store"]));
}

#[tokio::test]
async fn repositories_within_others_are_listed() {
    let site = Site::start().await;
    let gateway = site.builder("hedge = \"20s\"\n").admin_listener().start().await;
    for repository in ["a", "a/b/c", "a/b"] {
        let image = site.origin.image(repository, "1", &Image::layers(&[10]));
        gateway.ask(Request::get(format!("/v2/{repository}/manifests/1"))).await.is(200);
        site.until_stored(&manifest_at(repository, &image.digest)).await;
        site.until_there(&format!("/{repository}/_tags/1")).await;
    }
    let all = call(&gateway, "/api/cache/list?store=true").await.json();
    let entries = all["entries"].as_array().expect("entries");
    let names: Vec<_> = entries.iter().map(|entry| entry["repository"].as_str().expect("a name")).collect();
    assert_eq!(names, ["a", "a/b", "a/b/c"]);
    let one = call(&gateway, "/api/cache/list?store=true&pattern=a/b").await.json();
    assert_eq!(one["entries"].as_array().map(Vec::len), Some(1), "{one}");
}

#[tokio::test]
async fn what_is_wrong_in_the_store_is_found_and_removed() {
    let site = Site::start().await;
    let image = site.with_stored_image().await;
    let gateway = site.builder("hedge = \"20s\"\n").admin_listener().start().await;
    let (wrong, done) = verified(&gateway).await;
    assert_eq!((wrong, &done["wrong"]), (Vec::new(), &0.into()));
    assert!(done["contents"].as_u64().expect("a count") > 3, "{done}");
    let blob = object(&blob_at("a", &image.layers[0]));
    let record = site.until_there("/a/_tags/latest").await;
    site.bucket.set_object(&blob, "something else");
    site.bucket.set_object(&record, "Signature: 00\nno signature");
    let (wrong, done) = verified(&gateway).await;
    assert_eq!(wrong, [format!("v1/{blob}"), format!("v1/{record}")]);
    assert_eq!(done["wrong"], 2);
    soon("both to be removed", async {
        while site.bucket.names().iter().any(|name| *name == blob || *name == record) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_named() {
    let site = Site::start().await;
    let gateway = site.builder("hedge = \"20s\"\n").admin_listener().start().await;
    site.bucket.is(Mood::Ill(503));
    let listed = call(&gateway, "/api/cache/list?store=true").await.json();
    let missing = listed["missing"][0].as_str().expect("a place").to_owned();
    assert!(missing.starts_with("store: "), "{missing}");
    let (wrong, done) = verified(&gateway).await;
    assert_eq!((wrong.len(), &done["wrong"]), (0, &1.into()));
}

#[tokio::test]
async fn a_store_that_hangs_is_waited_for_no_longer_than_its_timeout() {
    let site = Site::start().await;
    let gateway = site.builder("hedge = \"20s\"\n").admin_listener().start().await;
    site.bucket.is(Mood::Hangs);
    let begun = tokio::time::Instant::now();
    let listed = call(&gateway, "/api/cache/list?store=true").await.json();
    let missing = listed["missing"][0].as_str().expect("a place").to_owned();
    assert!(missing.starts_with("store: "), "{missing}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn an_object_that_breaks_off_is_not_taken_for_a_wrong_one() {
    let site = Site::start().await;
    let image = site.with_stored_image().await;
    let gateway = site.builder("hedge = \"20s\"\n").admin_listener().start().await;
    site.bucket.is(Mood::Breaks(1000));
    let (wrong, done) = verified(&gateway).await;
    assert_eq!((wrong, &done["wrong"]), (Vec::new(), &1.into()));
    let blob = object(&blob_at("a", &image.layers[0]));
    assert!(site.bucket.names().contains(&blob), "it is there yet");
}
