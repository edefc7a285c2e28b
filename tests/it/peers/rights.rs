//! Rights stay at the edge.

use super::{Fleet, digest, free_addresses, replica, until_kept, word};
use crate::harness::{Builder, EMPTY_INDEX, OCI_INDEX, Origin, blob_at, manifest_at, noise};

/// Lets no client cause a download.
fn held_only(builder: Builder) -> Builder {
    builder.rule(&["anonymous"], &["**"], &["pull"]).denial_first(&["anonymous"], &["**"], &["fetch"])
}

/// Returns a fleet whose replica `number` lets no client cause a download.
async fn held_only_at(number: usize) -> Fleet {
    let limited = move |place, builder| if place == number { held_only(builder) } else { builder };
    Fleet::with(3, "", limited).await
}

#[tokio::test]
async fn a_client_without_fetch_gets_what_a_replica_holds() {
    let bytes = noise(200_000);
    for holder in [1, 2] {
        let (origin, members) = (Origin::start().await, free_addresses(3));
        let target = origin.blob("a", &bytes);
        origin.manifest("a", "1", OCI_INDEX, EMPTY_INDEX.as_bytes());
        // Alone as yet, it has both, whichever replica owns them.
        let holding = replica(&origin, "", &members, holder).start().await;
        until_kept(&holding, &target).await;
        holding.get(&manifest_at("a", "1")).await.is(200);
        origin.forgets_requests();
        let limited = held_only(replica(&origin, "", &members, 0)).start().await;
        let answer = limited.get(&target).await.is(200);
        assert!(answer.body == bytes && word(&answer) == "PEER", "{}", word(&answer));
        let answer = limited.get(&manifest_at("a", "1")).await.is(200);
        assert_eq!((answer.text().as_str(), word(&answer)), (EMPTY_INDEX, "PEER"));
        assert_eq!(origin.requests(), [""; 0]);
    }
}

#[tokio::test]
async fn a_client_without_fetch_has_no_replica_ask_the_upstream() {
    let fleet = held_only_at(0).await;
    let target = fleet.origin.blob("a", &noise(1000));
    fleet.origin.manifest("a", "1", OCI_INDEX, EMPTY_INDEX.as_bytes());
    let status = fleet.gateways[0].get(&target).await.status;
    assert!(status == 403 || status == 404, "{status}");
    let status = fleet.gateways[0].get(&manifest_at("a", "1")).await.status;
    assert!(status == 403 || status == 404, "{status}");
    assert_eq!(fleet.origin.requests(), [""; 0]);
}

#[tokio::test]
async fn a_client_without_fetch_learns_nothing_of_other_repositories() {
    let fleet = held_only_at(0).await;
    let bytes = noise(1000);
    let target = fleet.origin.blob("a", &bytes);
    for gateway in &fleet.gateways[1..] {
        until_kept(gateway, &target).await;
    }
    fleet.origin.forgets_requests();
    let status = fleet.gateways[0].get(&blob_at("b", &bytes)).await.status;
    assert!(status == 403 || status == 404, "{status}");
    assert_eq!(fleet.origin.requests(), [""; 0], "{}", digest(&target));
}
