//! The cost of downloads: memory, repeated bytes, and the time of a stop.

use std::time::Duration;

use super::{asking, before, cached_at, files_in};
use crate::harness::{
    BodyEnd, Builder, Gate, Gateway, Origin, Process, Reply, Request, blob_at, noise, soon,
};

const MIB: usize = 1024 * 1024;

fn keeping_little(origin: &Origin) -> Builder {
    before(origin, "[upstream.cache]").cache("prefetch = false\nmax_size = \"1MiB\"").admin_listener()
}

async fn metric(gateway: &Gateway, name: &str) -> u64 {
    let text = String::from_utf8(gateway.admin("/metrics").await.is(200).body).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("a metric");
    line.trim().parse().expect("a number")
}

#[tokio::test]
async fn slow_readers_of_many_uncached_blobs_cost_one_download() {
    const READERS: usize = 70;
    const PART: usize = 5 * MIB;
    let origin = Origin::start().await;
    let gateway = keeping_little(&origin).start().await;
    // Larger than what is downloaded as a whole besides.
    let bytes = noise(65 * MIB);
    let target = origin.blob("a", &bytes);
    let mut readers = Vec::new();
    for at in 1..=READERS {
        let range = format!("bytes={at}-{}", at + PART - 1);
        let mut reader = asking(&gateway, Request::get(&target).header("Range", &range)).await;
        let head = reader.head().await.is(206);
        readers.push((at, reader, head));
    }
    assert_eq!(origin.requests().len(), READERS);
    for (at, mut reader, head) in readers {
        let (answer, end) = reader.rest(head).await;
        assert!(end == BodyEnd::Complete && answer.body == bytes[at..at + PART], "{at}");
    }
    assert_eq!(origin.requests().len(), READERS, "no byte is asked for again");
}

#[tokio::test]
async fn downloads_beyond_their_memory_pass_by() {
    let origin = Origin::start().await;
    // A client may have no more than a share of the connections.
    let gateway = before(&origin, "max_connections = 1000\n[upstream.cache]")
        .cache("prefetch = false\nmax_size = \"1MiB\"")
        .admin_listener()
        .start()
        .await;
    let gate = Gate::shut();
    let mut clients = Vec::new();
    for number in 0..160 {
        let target = format!("/v2/a/blobs/sha256:{number:064x}");
        let reply = Reply::ok(vec![7; 20 * 1024]).claim(100 * MIB).pause_after(20 * 1024, &gate);
        origin.upstream.expect("GET", &*target, reply);
        let mut client = asking(&gateway, Request::get(&target)).await;
        client.head().await.is(200);
        clients.push(client);
    }
    let passed = metric(&gateway, "dockgate_cache_bypasses_total{reason=\"downloads_memory\"}").await;
    assert!((1..100).contains(&passed), "{passed}");
    let memory = metric(&gateway, "dockgate_cache_downloads_memory_bytes").await;
    assert!(memory > 200 * MIB as u64 && memory <= 256 * MIB as u64, "{memory}");
    drop(clients);
    soon("the memory to be given back", async {
        while metric(&gateway, "dockgate_cache_downloads_memory_bytes").await > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    gate.open();
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_silent_upstream() {
    let origin = Origin::start().await;
    let gateway = before(&origin, "[upstream.cache]")
        .cache("prefetch = false")
        .server("drain_timeout = \"1s\"")
        .start()
        .await;
    let target = blob_at("a", b"never");
    let mut asked = origin.upstream.expect("GET", &*target, Reply::never());
    let _client = asking(&gateway, Request::get(&target)).await;
    asked.until(|seen| seen.connection > 0).await;
    let begun = tokio::time::Instant::now();
    gateway.app.drain().await;
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_killed_process_loses_no_byte_of_a_download() {
    let origin = Origin::start().await;
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let (bytes, gate) = (noise(24 * MIB), Gate::shut());
    let target = blob_at("a", &bytes);
    origin.upstream.expect("GET", &*target, Origin::whole(&bytes).pause_after(20 * MIB, &gate));
    let mut process = Process::start(cached_at(&origin, &store, ""), dir.path()).await;
    let mut client = process.connect().await;
    client.send(Request::get(&target).bytes("localhost")).await;
    client.head().await.is(200);
    assert!(client.read_exactly(19 * MIB).await == bytes[..19 * MIB]);
    let part = || {
        files_in(&store.join("partial"))
            .into_iter()
            .find(|path| path.extension().is_some_and(|kind| kind == "part"))
    };
    soon("all that came to be written", async {
        while part().is_none_or(|part| part.metadata().unwrap().len() < 20 * MIB as u64 - 64 * 1024) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    process.kill();
    let mut asked = origin.upstream.expect("GET", &*target, Origin::part(&bytes, 0, bytes.len()));
    let process = Process::start(cached_at(&origin, &store, ""), dir.path()).await;
    let mut client = process.connect().await;
    client.send(Request::get(&target).bytes("localhost")).await;
    let range =
        asked.until(|seen| seen.connection > 0).await.headers.get("range").expect("a range").to_owned();
    let first: usize = range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap();
    assert!(first > 20 * MIB - 128 * 1024, "{range}");
}

#[tokio::test]
async fn short_blobs_that_are_not_kept_are_served() {
    let origin = Origin::start().await;
    let gateway =
        before(&origin, "[upstream.cache]").cache("prefetch = false\nmin_free = \"99%\"").start().await;
    for length in [1, 10, 5_000, 16 * 1024, 16 * 1024 + 1, 100_000, MIB] {
        let bytes = noise(length);
        let target = origin.blob("a", &bytes);
        assert!(gateway.get(&target).await.is(200).body == bytes, "{length}");
    }
}
