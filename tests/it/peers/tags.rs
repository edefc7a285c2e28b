//! Tags, and what the registry does not have, over several replicas.

use std::time::Duration;

use dockgate::internals::clock;

use super::{Fleet, word};
use crate::harness::{EMPTY_INDEX, OCI_INDEX, Request, index_of, manifest_at, soon};

#[tokio::test]
async fn a_tag_over_three_replicas_is_one_head() {
    let fleet = Fleet::start(3, "").await;
    let digest = fleet.origin.manifest("a", "1", OCI_INDEX, EMPTY_INDEX.as_bytes());
    let target = manifest_at("a", "1");
    for round in 0..10 {
        for gateway in &fleet.gateways {
            let answer = gateway.get(&target).await.is(200);
            assert_eq!(
                (answer.text().as_str(), answer.header("docker-content-digest")),
                (EMPTY_INDEX, Some(&*digest))
            );
            assert!(round == 0 || word(&answer) == "HIT", "{}", word(&answer));
        }
    }
    assert_eq!(fleet.origin.count("HEAD", &target), 1);
    assert_eq!(fleet.origin.requests().len(), 2, "and its manifest: {:?}", fleet.origin.requests());
}

#[tokio::test]
async fn a_replica_says_that_a_manifest_came_from_another() {
    let fleet = Fleet::start(3, "").await;
    fleet.origin.manifest("a", "1", OCI_INDEX, EMPTY_INDEX.as_bytes());
    let order = fleet.order_of_repository("a");
    let ask = async |place: usize| fleet.gateways[order[place]].get(&manifest_at("a", "1")).await.is(200);
    assert_eq!(word(&ask(2).await), "PEER");
    assert_eq!(word(&ask(2).await), "HIT");
    assert_eq!(word(&ask(0).await), "HIT", "it was the one that asked the upstream");
    assert_eq!(word(&ask(1).await), "PEER");
}

#[tokio::test]
async fn lives_of_tags_do_not_add_up() {
    let life = Duration::from_secs(3);
    let fleet = Fleet::start(2, "tag_ttl = \"3s\"").await;
    fleet.origin.manifest("a", "1", OCI_INDEX, EMPTY_INDEX.as_bytes());
    let (target, order) = (manifest_at("a", "1"), fleet.order_of_repository("a"));
    let began = clock::now();
    fleet.gateways[order[0]].get(&target).await.is(200);
    tokio::time::sleep(life / 2).await;
    let other = &fleet.gateways[order[1]];
    assert_eq!(word(&other.get(&target).await.is(200)), "PEER");
    soon("the tag to be asked for again", async {
        while word(&other.get(&target).await.is(200)) == "HIT" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let lived = began.elapsed();
    assert!(lived >= life - Duration::from_millis(50) && lived < life + life / 3, "{lived:?}");
    assert_eq!(fleet.origin.count("HEAD", &target), 2);
}

#[tokio::test]
async fn what_there_is_not_is_asked_once() {
    let fleet = Fleet::start(3, "").await;
    let target = manifest_at("a", "none");
    fleet.gateways[0].get(&target).await.refuses(404, "MANIFEST_UNKNOWN");
    let asked = fleet.origin.requests().len();
    for gateway in fleet.gateways.iter().chain(&fleet.gateways) {
        gateway.get(&target).await.refuses(404, "MANIFEST_UNKNOWN");
        assert_eq!(fleet.origin.requests().len(), asked, "{:?}", fleet.origin.requests());
    }
}

#[tokio::test]
async fn a_limited_rate_is_told_to_all_replicas() {
    let fleet = Fleet::start(2, "").await;
    fleet.origin.falls_ill_with(429, "Retry-After", "60");
    let order = fleet.order_of_repository("a");
    let answer = fleet.gateways[order[1]].get(&manifest_at("a", "1")).await.is(429);
    assert!(answer.header("retry-after").is_some());
    let asked = fleet.origin.requests().len();
    assert!(asked <= 2, "{:?}", fleet.origin.requests());
}

#[tokio::test]
async fn a_head_downloads_nothing() {
    let fleet = Fleet::start(2, "").await;
    let digest = fleet.origin.manifest("a", "1", OCI_INDEX, EMPTY_INDEX.as_bytes());
    for gateway in &fleet.gateways {
        let answer = gateway.ask(Request::head(manifest_at("a", "1"))).await.is(200);
        assert_eq!(answer.header("docker-content-digest"), Some(&*digest));
        assert_eq!(answer.header("content-length"), Some(&*EMPTY_INDEX.len().to_string()));
    }
    assert_eq!(fleet.origin.requests(), [format!("HEAD {}", manifest_at("a", "1"))]);
}

#[tokio::test]
async fn stale_content_of_another_replica_is_called_so() {
    let fleet = Fleet::start(2, "tag_ttl = \"0\"").await;
    fleet.origin.manifest("a", "1", OCI_INDEX, EMPTY_INDEX.as_bytes());
    let (target, order) = (manifest_at("a", "1"), fleet.order_of_repository("a"));
    fleet.gateways[order[0]].get(&target).await.is(200);
    fleet.origin.falls_ill(503);
    let answer = fleet.gateways[order[1]].get(&target).await.is(200);
    assert_eq!((word(&answer), answer.text().as_str()), ("STALE", EMPTY_INDEX));
}

#[tokio::test]
async fn a_stale_answer_is_not_believed_where_the_upstream_answers() {
    let fleet = Fleet::start(2, "tag_ttl = \"0\"").await;
    fleet.origin.manifest("a", "1", OCI_INDEX, EMPTY_INDEX.as_bytes());
    let (target, order) = (manifest_at("a", "1"), fleet.order_of_repository("a"));
    let (owner, other) = (&fleet.gateways[order[0]], &fleet.gateways[order[1]]);
    owner.get(&target).await.is(200);
    fleet.origin.falls_ill(503);
    // Until it asks no more.
    for _ in 0..30 {
        owner.get(&target).await.is(200);
    }
    fleet.origin.recovers();
    let new = index_of("new");
    fleet.origin.manifest("a", "1", OCI_INDEX, new.as_bytes());
    assert_eq!(other.get(&target).await.is(200).text(), new);
}
