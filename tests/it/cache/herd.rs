//! Many clients at once.

use super::{asking, cached, started, until_kept};
use crate::harness::{BodyEnd, Client, Gate, Gateway, Origin, Request, noise};

const MIB: usize = 1024 * 1024;

/// The blob is on its way, and stands still behind its first half until the gate opens.
fn halved(origin: &Origin, bytes: &[u8], gate: &Gate) -> String {
    let target = origin.blob("a", bytes);
    origin.upstream.expect("GET", &*target, Origin::whole(bytes).pause_after(bytes.len() / 2, gate));
    target
}

async fn herd(gateway: &Gateway, target: &str, size: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..size {
        clients.push(asking(gateway, Request::get(target)).await);
    }
    clients
}

#[tokio::test]
async fn fifty_clients_share_one_streaming_request() {
    let (origin, gateway) = started("").await;
    let (bytes, gate) = (noise(2 * MIB), Gate::shut());
    let target = halved(&origin, &bytes, &gate);
    let mut clients = herd(&gateway, &target, 50).await;
    let mut words = Vec::new();
    for client in &mut clients {
        let head = client.head().await.is(200);
        assert_eq!(head.header("content-length"), Some(bytes.len().to_string().as_str()));
        words.push(head.header("x-cache").unwrap().to_owned());
        assert!(client.read_exactly(1000).await == bytes[..1000]);
    }
    gate.open();
    for client in &mut clients {
        assert!(client.read_exactly(bytes.len() - 1000).await == bytes[1000..]);
    }
    words.sort();
    assert_eq!(words[49], "MISS");
    assert!(words[..49].iter().all(|word| word == "FILL"), "{words:?}");
    until_kept(&gateway, &target).await;
    assert_eq!(origin.requests(), [format!("GET {target}")]);
}

#[tokio::test]
async fn the_last_bytes_wait_for_the_digest() {
    let (origin, gateway) = started("").await;
    let (bytes, gate) = (noise(MIB), Gate::shut());
    let target = origin.blob("a", &bytes);
    origin.upstream.expect("GET", &*target, Origin::whole(&bytes).pause_after(bytes.len() - 1, &gate));
    let mut client = asking(&gateway, Request::get(&target)).await;
    client.head().await.is(200);
    client.read_exactly(MIB / 2).await;
    gate.open();
    assert!(client.read_exactly(MIB / 2).await == bytes[MIB / 2..]);
}

#[tokio::test]
async fn a_client_that_reads_nothing_slows_no_other() {
    let (origin, gateway) = started("").await;
    // More than sockets and memory hold for one that does not read.
    let bytes = noise(24 * MIB);
    let target = origin.blob("a", &bytes);
    let mut slow = asking(&gateway, Request::get(&target)).await;
    let answer = slow.head().await.is(200);
    for _ in 0..3 {
        assert!(gateway.get(&target).await.is(200).body == bytes);
    }
    let (answer, end) = slow.rest(answer).await;
    assert!(end == BodyEnd::Complete && answer.body == bytes);
    assert_eq!(origin.requests(), [format!("GET {target}")]);
}

#[tokio::test]
async fn three_hundred_read_one_download() {
    let (origin, gateway) = started("").await;
    let (bytes, gate) = (noise(MIB / 4), Gate::shut());
    let target = halved(&origin, &bytes, &gate);
    let mut clients = herd(&gateway, &target, 300).await;
    let mut heads = Vec::new();
    for client in &mut clients {
        heads.push(client.head().await.is(200));
    }
    gate.open();
    for (client, head) in clients.iter_mut().zip(heads) {
        let (answer, end) = client.rest(head).await;
        assert!(end == BodyEnd::Complete && answer.body == bytes);
    }
    assert_eq!(origin.requests(), [format!("GET {target}")]);
}

#[tokio::test]
async fn two_upstreams_do_not_wait_for_each_other() {
    let (slow, quick) = (Origin::start().await, Origin::start().await);
    let lines = "retries = 0\n[upstream.cache]";
    let builder = Gateway::builder().upstream_with("slow", "slow", slow.address(), lines);
    let builder = builder.upstream_with("quick", "quick", quick.address(), lines);
    let gateway = builder.cache("prefetch = false").start().await;
    let (bytes, gate) = (noise(MIB), Gate::shut());
    halved(&slow, &bytes, &gate);
    let target = quick.blob("a", &bytes);
    let mut waiting = asking(&gateway, Request::get(target.replace("/v2/", "/v2/slow/"))).await;
    let head = waiting.head().await.is(200);
    let answer = gateway.get(&target.replace("/v2/", "/v2/quick/")).await.is(200);
    assert!(answer.body == bytes);
    gate.open();
    let (answer, end) = waiting.rest(head).await;
    assert!(end == BodyEnd::Complete && answer.body == bytes);
    assert_eq!((slow.requests().len(), quick.requests().len()), (1, 1));
}

#[tokio::test]
async fn content_without_a_length_is_shared_and_kept() {
    let (origin, gateway) = started("").await;
    let (bytes, gate) = (noise(300_000), Gate::shut());
    let target = origin.blob("a", &bytes);
    let reply = Origin::whole(&bytes).chunked(9000).pause_after(100_000, &gate);
    origin.upstream.expect("GET", &*target, reply);
    let mut clients = herd(&gateway, &target, 5).await;
    let mut heads = Vec::new();
    for client in &mut clients {
        let head = client.head().await.is(200);
        assert_eq!(head.header("transfer-encoding"), Some("chunked"));
        heads.push(head);
    }
    gate.open();
    for (client, head) in clients.iter_mut().zip(heads) {
        let (answer, end) = client.rest(head).await;
        assert!(end == BodyEnd::Complete && answer.body == bytes);
    }
    assert!(until_kept(&gateway, &target).await.body == bytes);
    assert_eq!(origin.requests(), [format!("GET {target}")]);
}

#[tokio::test]
async fn two_repositories_share_one_download() {
    let origin = Origin::start().await;
    let gateway = cached(&origin, "").start().await;
    let (bytes, gate) = (noise(MIB), Gate::shut());
    let target = halved(&origin, &bytes, &gate);
    let other = origin.blob("b", &bytes);
    let mut first = asking(&gateway, Request::get(&target)).await;
    let head = first.head().await.is(200);
    let mut second = asking(&gateway, Request::get(&other)).await;
    let joined = second.head().await.is(200);
    gate.open();
    for (client, head) in [(&mut first, head), (&mut second, joined)] {
        let (answer, end) = client.rest(head).await;
        assert!(end == BodyEnd::Complete && answer.body == bytes);
    }
    assert_eq!(origin.requests(), [format!("GET {target}"), format!("GET {other}")]);
}
