//! Readers that leave, streams that break, gateways that are started again.

use std::time::Duration;

use super::{asking, cached, cached_at, files_in, gives, started, started_without_retries, until_kept};
use crate::harness::{
    Client, Gate, Gateway, Headers, Origin, Process, Reply, Request, blob_at, noise, sha256,
};

const MIB: usize = 1024 * 1024;
/// More than is finished without a reader.
const LARGE: usize = 40 * MIB;

fn open() -> Gate {
    let gate = Gate::shut();
    gate.open();
    gate
}

/// From where on a request asks, which must be for the rest of `bytes` and nothing else.
#[track_caller]
fn asks_for_the_rest(headers: &Headers, bytes: &[u8]) -> usize {
    assert_eq!(headers.get("if-range"), Some(format!("\"{}\"", sha256(bytes)).as_str()));
    let range = headers.get("range").expect("a range");
    let from = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')).unwrap().0;
    from.parse().expect("a first byte")
}

#[tokio::test]
async fn when_the_first_reader_leaves_the_others_go_on() {
    let (origin, gateway) = started("").await;
    let (bytes, gate) = (noise(LARGE), Gate::shut());
    let target = origin.blob("a", &bytes);
    origin.upstream.expect("GET", &*target, Origin::whole(&bytes).pause_after(MIB, &gate));
    let mut first = asking(&gateway, Request::get(&target)).await;
    first.head().await.is(200);
    let mut second = asking(&gateway, Request::get(&target)).await;
    second.head().await.is(200);
    first.read_exactly(MIB / 2).await;
    drop(first);
    second.read_exactly(MIB / 2).await;
    gate.open();
    assert!(second.read_exactly(LARGE - MIB / 2).await == bytes[MIB / 2..]);
    assert_eq!(origin.requests(), [format!("GET {target}")]);
}

/// A blob of which a client has read something, before all left.
async fn left(origin: &Origin, gateway: &Gateway, bytes: &[u8]) -> String {
    let target = origin.blob("a", bytes);
    let mut asked = origin.upstream.expect("GET", &*target, Origin::whole(bytes).stall_after(8 * MIB));
    let mut client: Client = asking(gateway, Request::get(&target)).await;
    client.head().await.is(200);
    client.read_exactly(2 * MIB).await;
    drop(client);
    asked.abandoned().await;
    origin.forgets_requests();
    target
}

#[tokio::test]
async fn an_abandoned_download_is_resumed_by_the_next_client() {
    let (origin, gateway) = started("").await;
    let bytes = noise(LARGE);
    let target = left(&origin, &gateway, &bytes).await;
    let answer = gateway.get(&target).await.is(200);
    assert!(answer.body == bytes);
    let heard = origin.upstream.heard();
    assert_eq!(heard.len(), 1);
    let from = asks_for_the_rest(&heard[0].headers, &bytes);
    assert!((2 * MIB..=8 * MIB).contains(&from), "{from}");
    gives(until_kept(&gateway, &target).await, &bytes, "HIT");
}

#[tokio::test]
async fn a_refused_retry_keeps_the_partial_blob() {
    let (origin, gateway) = started_without_retries("").await;
    let bytes = noise(LARGE);
    let target = left(&origin, &gateway, &bytes).await;
    // Another repository does not hold the blob.
    gateway.get(&blob_at("b", &bytes)).await.is(404);
    for status in [502, 503] {
        origin.upstream.expect("GET", &*target, Reply::status(status));
        gateway.get(&target).await.is(502);
    }
    origin.forgets_requests();
    assert!(gateway.get(&target).await.is(200).body == bytes);
    let heard = origin.upstream.heard();
    let asked: Vec<_> = heard.iter().filter(|heard| heard.target == target).collect();
    assert_eq!(asked.len(), 1);
    let from = asks_for_the_rest(&asked[0].headers, &bytes);
    assert!((2 * MIB..=8 * MIB).contains(&from), "{from}");
}

#[tokio::test]
async fn a_partial_blob_that_changed_is_fetched_whole() {
    let (origin, gateway) = started("").await;
    let bytes = noise(LARGE);
    let target = left(&origin, &gateway, &bytes).await;
    origin.upstream.expect("GET", &*target, Origin::whole(&bytes));
    assert!(gateway.get(&target).await.is(200).body == bytes);
}

#[tokio::test]
async fn a_damaged_partial_file_does_no_harm() {
    let origin = Origin::start().await;
    let gateway = cached(&origin, "").start().await;
    let bytes = noise(LARGE);
    let target = left(&origin, &gateway, &bytes).await;
    let prefix = files_in(&gateway.path("cache/partial"));
    let prefix = prefix.iter().find(|path| path.extension().is_some_and(|end| end == "part"));
    let prefix = prefix.expect("a prefix");
    let mut wrong = std::fs::read(prefix).unwrap();
    wrong[MIB] ^= 1;
    std::fs::write(prefix, &wrong).unwrap();
    asking(&gateway, Request::get(&target)).await.is_torn("").await;
    assert!(gateway.get(&target).await.is(200).body == bytes, "the next begins anew");
}

#[tokio::test]
async fn an_abandoned_download_near_its_end_is_finished() {
    let (origin, gateway) = started("").await;
    let (bytes, gate) = (noise(2 * MIB), Gate::shut());
    let target = origin.blob("a", &bytes);
    let mut asked = origin.upstream.expect("GET", &*target, Origin::whole(&bytes).pause_after(MIB, &gate));
    let mut client = asking(&gateway, Request::get(&target)).await;
    client.head().await.is(200);
    client.read_exactly(MIB / 2).await;
    drop(client);
    gate.open();
    asked.done().await;
    gives(until_kept(&gateway, &target).await, &bytes, "HIT");
    assert_eq!(origin.requests(), [format!("GET {target}")]);
}

#[tokio::test]
async fn three_cuts_cost_three_requests_for_the_rest() {
    let (origin, gateway) = started("").await;
    let bytes = noise(400_000);
    let target = origin.blob("a", &bytes);
    let cuts = [100_000, 200_000, 300_000];
    let mut asked =
        vec![origin.upstream.expect("GET", &*target, Origin::whole(&bytes).cut_after(cuts[0], &open()))];
    for from in cuts {
        let rest = Origin::part(&bytes, from, bytes.len());
        let rest = if from == cuts[2] { rest } else { rest.reset_after(100_000, &open()) };
        asked.push(origin.upstream.expect("GET", &*target, rest));
    }
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(asking(&gateway, Request::get(&target)).await);
    }
    for client in &mut clients {
        assert!(client.answer().await.is(200).body == bytes);
    }
    for (asked, from) in asked.iter_mut().skip(1).zip(cuts) {
        assert_eq!(asks_for_the_rest(&asked.done().await.headers, &bytes), from);
    }
    gives(until_kept(&gateway, &target).await, &bytes, "HIT");
}

#[tokio::test]
async fn without_ranges_known_bytes_are_skipped() {
    let (origin, gateway) = started("").await;
    let bytes = noise(400_000);
    let target = origin.blob("a", &bytes);
    for cut in [100_000, 250_000] {
        origin.upstream.expect("GET", &*target, Reply::ok(&bytes).cut_after(cut, &open()));
    }
    origin.upstream.expect("GET", &*target, Reply::ok(&bytes));
    assert!(gateway.get(&target).await.is(200).body == bytes);
    gives(until_kept(&gateway, &target).await, &bytes, "HIT");
}

#[tokio::test]
async fn a_lost_stream_ends_all_readers_and_is_resumed() {
    let (origin, gateway) = started("").await;
    let (bytes, gate) = (noise(400_000), Gate::shut());
    let target = origin.blob("a", &bytes);
    origin.upstream.expect("GET", &*target, Origin::whole(&bytes).cut_after(100_000, &gate));
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = asking(&gateway, Request::get(&target)).await;
        let head = client.head().await.is(200);
        clients.push((client, head));
    }
    // The rest is refused, which is final; for the others among those who wait it is the same.
    origin.upstream.expect("GET", &*target, Reply::status(403));
    gate.open();
    for (mut client, head) in clients {
        let torn = client.breaks_off(head).await;
        assert!(bytes.starts_with(&torn.body));
    }
    assert!(gateway.get(&target).await.is(200).body == bytes);
}

#[tokio::test]
async fn a_stopped_gateway_resumes_its_downloads() {
    let after = goes_on_after(LARGE, 32 * MIB, async |process| process.terminate().await).await;
    assert!(after >= 31 * MIB, "{after}");
}

#[tokio::test]
async fn a_killed_gateway_resumes_near_its_last_byte() {
    let kill = async |process: &mut Process| {
        // What is noted beside the prefix is behind the stream.
        tokio::time::sleep(Duration::from_secs(1)).await;
        process.kill();
    };
    let after = goes_on_after(90 * MIB, 80 * MIB, kill).await;
    assert!(after > 0);
}

/// Another process on the same directory asks for what is missing of `size` bytes, of which `sent` had come: from where.
async fn goes_on_after(size: usize, sent: usize, end: impl AsyncFnOnce(&mut Process)) -> usize {
    let origin = Origin::start().await;
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let bytes = noise(size);
    let target = origin.blob("a", &bytes);
    let mut asked = origin.upstream.expect("GET", &*target, Origin::whole(&bytes).stall_after(sent));
    let builder = || cached_at(&origin, &store, "").server("drain_timeout = \"100ms\"");
    let mut process = Process::start(builder(), dir.path()).await;
    let mut client = process.connect().await;
    client.send(Request::get(&target).bytes("localhost")).await;
    client.head().await.is(200);
    client.read_exactly(sent - MIB).await;
    end(&mut process).await;
    asked.abandoned().await;
    origin.forgets_requests();

    let process = Process::start(builder(), dir.path()).await;
    assert!(process.get(&target).await.is(200).body == bytes);
    let heard = origin.upstream.heard();
    assert_eq!(heard.len(), 1);
    let from = asks_for_the_rest(&heard[0].headers, &bytes);
    assert!(from <= sent, "{from}");
    from
}
