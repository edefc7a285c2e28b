//! A store behind replicas that share.

use std::net::TcpListener;

use super::*;
use crate::harness::noise;

/// Starts two replicas with empty disks.
async fn replicas(site: &Site) -> Vec<Gateway> {
    let listeners: Vec<_> = (0..2).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
    let addresses: Vec<_> =
        listeners.iter().map(|listener| listener.local_addr().expect("an address").to_string()).collect();
    drop(listeners);
    let mut gateways = Vec::new();
    for address in &addresses {
        let peers = format!("address = \"{address}\"\nmembers = {addresses:?}\nconnect_timeout = \"10s\"");
        gateways.push(site.builder("hedge = \"20s\"\n").peers(&peers).start().await);
    }
    gateways
}

#[tokio::test]
async fn one_replica_reads_the_store_for_both() {
    let (site, bytes) = (Site::start().await, noise(200_000));
    let target = site.origin.blob("a", &bytes);
    drop(site.with_stored(&target, &bytes).await);
    site.origin.forgets_requests();
    site.bucket.forgets_requests();
    let (gateways, mut words) = (replicas(&site).await, Vec::new());
    for gateway in &gateways {
        let answer = gateway.ask(Request::get(&target)).await.is(200);
        assert!(answer.body == bytes);
        words.push(word(&answer).to_owned());
    }
    assert!(words.iter().any(|word| word == "PEER"), "{words:?}");
    let name = format!("/v1/{}", object(&target));
    let reads = |line: &&String| line.starts_with("GET") && line.ends_with(&name);
    assert_eq!(site.bucket.requests().iter().filter(reads).count(), 1, "{:?}", site.bucket.requests());
    assert_eq!(site.origin.requests(), [""; 0]);
}

#[tokio::test]
async fn no_replica_gives_parts_of_what_is_not_proved() {
    for number in 0..2 {
        let (site, bytes) = (Site::start().await, noise(6 * MIB));
        let target = site.origin.blob("a", &bytes);
        drop(site.with_stored(&target, &bytes).await);
        let mut wrong = bytes.clone();
        wrong[5] ^= 1;
        site.bucket.set_object(&object(&target), wrong);
        site.bucket.is(Mood::Stalls(2 * MIB));
        let gateways = replicas(&site).await;
        let mut whole = gateways[number].connect().await;
        whole.send(Request::get(&target).bytes("localhost")).await;
        assert_eq!(whole.head().await.status, 200);
        let mut part = gateways[number].connect().await;
        part.send(Request::get(&target).header("Range", "bytes=0-9").bytes("localhost")).await;
        let answer = part.try_head_or_none().await.expect("a head");
        let (answer, _) = part.rest(answer).await;
        assert!(answer.status >= 500 || answer.body.is_empty() || answer.body == bytes[..10], "{answer:?}");
    }
}
