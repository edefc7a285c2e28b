//! The members, as operators see them.

use super::{Fleet, digest, until_kept};
use crate::harness::{noise, soon};

#[tokio::test]
async fn members_are_shown_with_those_that_are_passed_over() {
    let mut fleet = Fleet::with(3, "", |_, builder| builder.admin_listener()).await;
    let target = fleet.origin.blob("a", &noise(50_000));
    let order = fleet.order(digest(&target));
    for gateway in &fleet.gateways {
        until_kept(gateway, &target).await;
    }
    let names: Vec<_> = fleet.members.iter().map(ToString::to_string).collect();
    let state = fleet.gateways[order[2]].admin("/readyz").await.is(200).json();
    assert_eq!(state["peers"][&names[order[2]]]["state"], "this");
    assert_eq!(state["peers"][&names[order[0]]]["state"], "ok");
    let metrics = fleet.gateways[order[2]].admin("/metrics").await.is(200).text();
    let received = format!("dockgate_peer_received_bytes_total{{member=\"{}\"}} 50000", names[order[0]]);
    assert!(metrics.contains(&received), "{metrics}");
    assert!(metrics.contains("dockgate_cache_requests_total{outcome=\"peer\"} 1"), "{metrics}");
    assert!(metrics.contains("dockgate_budget_limit{budget=\"peer_connections\"}"), "{metrics}");
    let metrics = fleet.gateways[order[0]].admin("/metrics").await.is(200).text();
    assert!(metrics.contains("dockgate_peer_sent_bytes_total 100000"), "{metrics}");
    let page = fleet.gateways[order[2]].admin("/").await.is(200).text();
    assert!(page.contains(&names[order[0]]) && page.contains("this one"), "{page}");

    let gone = names[order[0]].clone();
    drop(fleet.gateways.remove(order[0]));
    let other = &fleet.gateways[order[2] - usize::from(order[2] > order[0])];
    soon("it to be passed over", async {
        let mut length = 60_000;
        loop {
            length += 1;
            let target = fleet.origin.blob("a", &noise(length));
            other.get(&target).await.is(200);
            let state = other.admin("/readyz").await.is(200).json();
            if state["peers"][&gone]["state"] == "resting" {
                assert!(state["peers"][&gone]["error"].as_str().is_some_and(|error| !error.is_empty()));
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_gateway_that_is_alone_has_no_members() {
    let fleet = Fleet::with(1, "", |_, builder| builder.peerless().admin_listener()).await;
    assert!(fleet.gateways[0].admin("/readyz").await.is(200).json()["peers"].is_null());
    let metrics = fleet.gateways[0].admin("/metrics").await.is(200).text();
    assert!(!metrics.contains("dockgate_peer_"), "{metrics}");
    assert!(fleet.gateways[0].admin("/").await.is(200).text().contains("This gateway is alone."));
}
