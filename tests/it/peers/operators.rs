//! What an operator does at one replica, for all of them.

use serde_json::Value;

use super::*;
use crate::harness::{Client, Image, blob_at, manifest_at};

/// Starts replicas with admin listeners, and has each pull an image.
async fn with_image(count: usize) -> (Fleet, Image) {
    let fleet = Fleet::with(count, "", |_, builder| builder.admin_listener()).await;
    let image = fleet.origin.image("a", "latest", &Image::layers(&[70_000]));
    for gateway in &fleet.gateways {
        gateway.ask(Request::get(manifest_at("a", "latest"))).await.is(200);
        until_kept(gateway, &blob_at("a", &image.layers[0])).await;
    }
    (fleet, image)
}

/// Has an operator call a replica.
async fn call(gateway: &Gateway, target: &str) -> Answer {
    let mut operator = Client::tcp(gateway.app.admin_address().expect("an admin listener")).await;
    let request = match target.contains("/list") || target.ends_with("/cache") {
        true => Request::get(target),
        false => Request::post(target).header("Content-Type", "application/json").body(""),
    };
    operator.ask(&request).await.is(200)
}

/// Returns the lines of an answer.
fn lines(answer: &Answer) -> Vec<Value> {
    answer.text().lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

#[tokio::test]
async fn what_is_removed_at_one_replica_is_removed_at_all() {
    let (fleet, image) = with_image(3).await;
    let removed = call(&fleet.gateways[1], "/api/cache/remove?pattern=a").await.json();
    assert_eq!(
        (&removed["elsewhere"], &removed["untold"]),
        (&2.into(), &Value::Array(Vec::new())),
        "{removed}"
    );
    fleet.origin.forgets_requests();
    for gateway in &fleet.gateways {
        let listed = call(gateway, "/api/cache/list").await.json();
        assert_eq!(listed["entries"], Value::Array(Vec::new()));
    }
    // None of them has it from another.
    let target = blob_at("a", &image.layers[0]);
    fleet.gateways[0].ask(Request::get(&target)).await.is(200);
    assert!(
        fleet.origin.requests().iter().any(|request| request.starts_with("GET") && request.contains(&target))
    );
}

#[tokio::test]
async fn a_replica_that_does_not_know_of_a_removal_is_named() {
    let (mut fleet, _image) = with_image(2).await;
    let gone = fleet.gateways.pop().expect("two replicas");
    drop(gone);
    let removed = call(&fleet.gateways[0], "/api/cache/remove?pattern=a").await.json();
    let untold = removed["untold"].as_array().expect("a list");
    let name = fleet.members[1].to_string();
    assert!(untold.len() == 1 && untold[0].as_str().expect("a text").starts_with(&name), "{removed}");
}

#[tokio::test]
async fn an_image_is_listed_with_the_replicas_that_have_it() {
    let (fleet, _) = with_image(2).await;
    fleet.origin.image("b", "x", &Image::layers(&[10]));
    fleet.gateways[1].ask(Request::get(manifest_at("b", "x"))).await.is(200);
    let listed = call(&fleet.gateways[0], "/api/cache/list?fleet=true").await.json();
    let other = fleet.members[1].to_string();
    let places = |repository: &str| {
        let mut entries = listed["entries"].as_array().expect("a list").iter();
        let entry = entries.find(|entry| entry["repository"] == repository).expect("an entry");
        entry["places"].as_array().expect("a list").clone()
    };
    assert_eq!(places("a"), ["here", other.as_str()]);
    assert!(places("b").contains(&other.as_str().into()), "{listed}");
    assert_eq!(listed["missing"], Value::Array(Vec::new()));
    // Without the flag it is about this disk, as ever.
    let here = call(&fleet.gateways[0], "/api/cache/list?pattern=a").await.json();
    assert!(here["entries"][0].get("places").is_none(), "{here}");
}

#[tokio::test]
async fn all_replicas_are_verified_from_one() {
    let (fleet, image) = with_image(2).await;
    let other = fleet.members[1].to_string();
    let target = blob_at("a", &image.layers[0]);
    let digest = target.rsplit_once(':').expect("a digest").1;
    let path = fleet.gateways[1].path("cache/blobs/sha256").join(&digest[..2]).join(digest);
    std::fs::write(&path, "something else").expect("the blob's file");
    let events = lines(&call(&fleet.gateways[0], "/api/cache/verify?fleet=true").await);
    let wrong: Vec<_> = events.iter().filter(|event| event["event"] == "wrong").collect();
    assert!(wrong.len() == 1 && wrong[0]["why"].as_str().expect("a text").contains(&other), "{events:?}");
    let places: Vec<_> = events.iter().filter(|event| event["event"] == "place").collect();
    assert_eq!(places.iter().map(|place| &place["wrong"]).collect::<Vec<_>>(), [0, 1], "{events:?}");
    assert_eq!(events.last().expect("events")["event"], "done");
    assert!(!path.exists(), "what is wrong is removed there");
}

#[tokio::test]
async fn the_numbers_of_a_cache_name_the_replicas() {
    let (fleet, _image) = with_image(2).await;
    let stats = call(&fleet.gateways[0], "/api/cache").await.json();
    let members: Vec<_> = stats["fleet"].as_array().expect("a list").iter().collect();
    let mut names: Vec<_> = members.iter().map(|member| member["name"].as_str().expect("a name")).collect();
    let mut expected: Vec<_> = fleet.members.iter().map(ToString::to_string).collect();
    names.sort_unstable();
    expected.sort_unstable();
    assert_eq!(names, expected);
    let own: Vec<_> = members.iter().filter(|member| member["is_own"] == true).collect();
    assert!(own.len() == 1 && own[0]["name"] == fleet.members[0].to_string(), "{stats}");
}
