//! Many clients of many replicas.

use super::{Fleet, digest, until_kept, word};
use crate::harness::{Gate, Image, Origin, Request, blob_at, manifest_at, noise};

const MIB: usize = 1024 * 1024;

#[tokio::test]
async fn a_herd_over_three_replicas_is_one_download() {
    let fleet = Fleet::start(3, "").await;
    let (bytes, gate) = (noise(2 * MIB), Gate::shut());
    let target = fleet.origin.blob("a", &bytes);
    fleet.origin.upstream.expect("GET", &*target, Origin::whole(&bytes).pause_after(MIB, &gate));
    let mut clients = Vec::new();
    for number in 0..30 {
        let mut client = fleet.gateways[number % 3].connect().await;
        client.send(Request::get(&target).bytes("localhost")).await;
        clients.push(client);
    }
    let mut heads = Vec::new();
    for client in &mut clients {
        let head = client.head().await.is(200);
        assert!(client.read_exactly(1000).await == bytes[..1000], "bytes come before the download has ended");
        heads.push(head);
    }
    let owner = fleet.order(digest(&target))[0];
    for replica in 0..3 {
        let words: Vec<_> = heads.iter().skip(replica).step_by(3).map(word).collect();
        let first = if replica == owner { "MISS" } else { "PEER" };
        assert_eq!(words.iter().filter(|word| **word == first).count(), 1, "{words:?}");
        assert_eq!(words.iter().filter(|word| **word == "FILL").count(), 9, "{words:?}");
    }
    gate.open();
    for client in &mut clients {
        assert!(client.read_exactly(bytes.len() - 1000).await == bytes[1000..]);
    }
    for gateway in &fleet.gateways {
        assert!(until_kept(gateway, &target).await.body == bytes);
    }
    assert_eq!(fleet.origin.requests(), [format!("GET {target}")]);
}

#[tokio::test]
async fn an_image_is_fetched_ahead_once() {
    let fleet = Fleet::with(3, "", |_, builder| builder.cache("")).await;
    let image = fleet.origin.image("a", "1", &Image::layers(&[300_000, 200_000, 100_000, 50_000]));
    for gateway in &fleet.gateways {
        gateway.get(&manifest_at("a", "1")).await.is(200);
    }
    for layer in image.layers.iter().chain([&image.config]) {
        for gateway in &fleet.gateways {
            assert!(until_kept(gateway, &blob_at("a", layer)).await.body == *layer);
        }
        assert_eq!(fleet.origin.count("GET", &blob_at("a", layer)), 1);
    }
}

#[tokio::test]
async fn a_range_comes_from_another_replica() {
    let fleet = Fleet::start(3, "").await;
    let bytes = noise(MIB);
    let target = fleet.origin.blob("a", &bytes);
    let order = fleet.order(digest(&target));
    until_kept(&fleet.gateways[order[0]], &target).await;
    fleet.origin.forgets_requests();
    let answer =
        fleet.gateways[order[2]].ask(Request::get(&target).header("Range", "bytes=500000-500999")).await;
    let answer = answer.is(206);
    assert!(answer.body == bytes[500_000..501_000]);
    assert_eq!(fleet.origin.requests(), [""; 0]);
}

#[tokio::test]
async fn a_blob_must_be_held_by_the_repository_that_is_asked() {
    let fleet = Fleet::start(3, "").await;
    let bytes = noise(100_000);
    let target = fleet.origin.blob("a", &bytes);
    for gateway in &fleet.gateways {
        until_kept(gateway, &target).await;
    }
    let foreign = blob_at("b", &bytes);
    for gateway in &fleet.gateways {
        gateway.get(&foreign).await.refuses(404, "BLOB_UNKNOWN");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_spread_over_replicas_are_one_download() {
    // More than is fetched because a client has asked for some of it.
    const LARGE: usize = 66 * MIB;
    const PART: usize = LARGE / 8;
    let fleet = Fleet::start(3, "").await;
    let bytes = noise(LARGE);
    let target = fleet.origin.blob("a", &bytes);
    let part = async |number: usize| {
        let at = number * PART;
        let request = Request::get(&target).header("Range", format!("bytes={at}-{}", at + PART - 1));
        let answer = fleet.gateways[number % 3].ask(request).await.is(206);
        assert!(answer.body == bytes[at..at + PART], "{number}");
    };
    futures_util::future::join_all((0..8).map(part)).await;
    for gateway in &fleet.gateways {
        assert!(until_kept(gateway, &target).await.body == bytes);
    }
    let heard = fleet.origin.upstream.heard();
    let asked: usize = heard
        .iter()
        .map(|heard| {
            let range = heard.headers.get("range").expect("a range").trim_start_matches("bytes=");
            let (first, last) = range.split_once('-').expect("two ends");
            let end = last.parse::<usize>().map_or(LARGE, |last| last + 1);
            end - first.parse::<usize>().expect("a number")
        })
        .sum();
    assert!(asked <= LARGE + LARGE / 20, "{asked} of {LARGE}: {:?}", fleet.origin.requests());
}

#[tokio::test]
async fn each_worker_has_a_connection_to_each_replica_before_it_is_asked() {
    let fleet = Fleet::with(2, "", |_, builder| builder.admin_listener()).await;
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    // Each end counts those that the other has opened to it.
    crate::harness::soon("the connections", async {
        loop {
            let metrics = fleet.gateways[0].admin("/metrics").await.is(200).text();
            let open = format!("dockgate_budget_in_use{{budget=\"peer_connections\"}} {workers}");
            if metrics.contains(&open) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
}
