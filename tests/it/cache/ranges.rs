//! Parts of blobs: of what is kept, of what is on its way, of what is not here.

use super::{asking, before, gives, started, until_kept, word};
use crate::harness::{Answer, BodyEnd, Gate, Gateway, Origin, Reply, Request, blob_at, noise, sha256};

const MIB: usize = 1024 * 1024;
const SIZE: usize = 300_000;

fn ranged(target: &str, range: &str) -> Request {
    Request::get(target).header("Range", range)
}

/// Asserts that it is these bytes of `bytes` and says so.
#[track_caller]
fn is_part(answer: Answer, bytes: &[u8], at: usize, end: usize) -> Answer {
    let answer = answer.is(206);
    let range = format!("bytes {at}-{}/{}", end - 1, bytes.len());
    assert_eq!(answer.header("content-range"), Some(range.as_str()));
    assert_eq!(answer.header("content-length"), Some((end - at).to_string().as_str()));
    assert!(answer.body == bytes[at..end]);
    answer
}

async fn kept() -> (Origin, Gateway, String, Vec<u8>) {
    let (origin, gateway) = started("").await;
    let bytes = noise(SIZE);
    let target = origin.blob("a", &bytes);
    gives(gateway.get(&target).await, &bytes, "MISS");
    until_kept(&gateway, &target).await;
    origin.forgets_requests();
    (origin, gateway, target, bytes)
}

#[tokio::test]
async fn every_form_of_range_is_served_from_cache() {
    let (origin, gateway, target, bytes) = kept().await;
    for (range, at, end) in [
        ("bytes=0-0", 0, 1),
        ("bytes=1000-1999", 1000, 2000),
        ("bytes=299999-", SIZE - 1, SIZE),
        ("bytes=100000-", 100_000, SIZE),
        ("bytes=0-", 0, SIZE),
        ("bytes=-1", SIZE - 1, SIZE),
        ("bytes=-1000", SIZE - 1000, SIZE),
        ("bytes=-9999999", 0, SIZE),
        ("bytes=1000-9999999", 1000, SIZE),
    ] {
        let answer = is_part(gateway.ask(ranged(&target, range)).await, &bytes, at, end);
        assert_eq!(word(&answer), "HIT", "{range}");
        assert_eq!(answer.header("accept-ranges"), Some("bytes"));
        assert_eq!(answer.header("docker-content-digest"), Some(sha256(&bytes).as_str()));
    }
    assert_eq!(origin.requests(), [""; 0]);
}

#[tokio::test]
async fn a_malformed_range_gets_the_whole() {
    let (origin, gateway, target, bytes) = kept().await;
    for range in ["bytes", "bytes=", "bytes=x-y", "lines=1-2", "bytes=--1"] {
        gives(gateway.ask(ranged(&target, range)).await, &bytes, "HIT");
    }
    assert_eq!(origin.requests(), [""; 0]);
}

/// Asserts that it has these parts of `bytes`, each with its own head (RFC 9110 section 14.6).
#[track_caller]
fn has_parts(answer: &Answer, bytes: &[u8], parts: &[(usize, usize)]) {
    assert_eq!((answer.status, answer.header("content-range")), (206, None));
    let kind = answer.header("content-type").unwrap();
    let boundary = kind.strip_prefix("multipart/byteranges; boundary=").unwrap_or_else(|| panic!("{kind}"));
    let mut expected = Vec::new();
    for (number, &(at, end)) in parts.iter().enumerate() {
        let before = if number == 0 { "" } else { "\r\n" };
        let range = format!("bytes {at}-{}/{}", end - 1, bytes.len());
        let kind = "Content-Type: application/octet-stream";
        expected.extend(format!("{before}--{boundary}\r\n{kind}\r\nContent-Range: {range}\r\n\r\n").bytes());
        expected.extend(&bytes[at..end]);
    }
    expected.extend(format!("\r\n--{boundary}--\r\n").bytes());
    assert!(answer.body == expected, "{} bytes", answer.body.len());
    assert_eq!(answer.header("content-length"), Some(expected.len().to_string().as_str()));
}

#[tokio::test]
async fn several_ranges_are_parts_of_one_answer() {
    let (origin, gateway, target, bytes) = kept().await;
    for (range, parts) in [
        ("bytes=0-9,100000-100009", &[(0, 10), (100_000, 100_010)][..]),
        ("bytes=1000-1999, 5000-5999", &[(1000, 2000), (5000, 6000)]),
        ("bytes=-10,0-9", &[(SIZE - 10, SIZE), (0, 10)]),
        ("bytes=0-9,5000-5009,20-29,999999-", &[(0, 30), (5000, 5010)]),
        ("bytes=0-0,299999-,150000-150000", &[(0, 1), (SIZE - 1, SIZE), (150_000, 150_001)]),
    ] {
        let answer = gateway.ask(ranged(&target, range)).await;
        has_parts(&answer, &bytes, parts);
        assert_eq!(word(&answer), "HIT", "{range}");
    }
    // Close ones are one part, and where the heads outweigh what is left out, the whole is shorter.
    is_part(gateway.ask(ranged(&target, "bytes=0-9,20-29")).await, &bytes, 0, 30);
    is_part(gateway.ask(ranged(&target, "bytes=0-9,999999-")).await, &bytes, 0, 10);
    gives(gateway.ask(ranged(&target, "bytes=0-149000,149200-")).await, &bytes, "HIT");
    let answer = gateway.ask(ranged(&target, "bytes=300000-,400000-400001")).await.is(416);
    assert_eq!(answer.header("content-range"), Some("bytes */300000"));
    assert_eq!(origin.requests(), [""; 0]);
    let head = gateway.ask(Request::head(&target).header("Range", "bytes=0-9,5000-5009")).await.is(200);
    assert_eq!(head.header("content-length"), Some("300000"));
}

#[tokio::test]
async fn several_ranges_of_a_missing_blob_are_parts() {
    for size in [SIZE, 70 * MIB] {
        let (origin, gateway) = started("").await;
        let bytes = noise(size);
        let target = origin.blob("a", &bytes);
        let answer = gateway.ask(ranged(&target, "bytes=0-9,100000-100009,-10")).await;
        has_parts(&answer, &bytes, &[(0, 10), (100_000, 100_010), (size - 10, size)]);
        let sent: usize = origin.upstream.heard().iter().filter(|heard| heard.method == "GET").count();
        assert!((1..=4).contains(&sent), "{sent}");
    }
}

#[tokio::test]
async fn several_ranges_at_a_registry_without_them_get_the_whole() {
    let (origin, gateway) = started("").await;
    let bytes = noise(SIZE);
    let target = origin.blob("a", &bytes);
    let all = bytes.clone();
    origin.upstream.always("GET", &*target, move |_| Reply::ok(&all));
    let answer = gateway.ask(ranged(&target, "bytes=0-9,100000-100009")).await;
    if answer.status == 200 {
        assert!(answer.body == bytes);
    } else {
        has_parts(&answer, &bytes, &[(0, 10), (100_000, 100_010)]);
    }
}

/// Without a cache, and with one.
async fn either(origin: &Origin, cache: bool) -> Gateway {
    let lines = if cache { "[upstream.cache]" } else { "" };
    let builder = Gateway::builder().upstream_with("up", "", origin.address(), lines);
    if cache { builder.cache("prefetch = false") } else { builder }.start().await
}

#[tokio::test]
async fn a_range_behind_the_end_is_416_wherever_ranges_are_ignored() {
    for size in [SIZE, 70 * MIB] {
        for cache in [false, true] {
            let bytes = noise(size);
            for range in [
                format!("bytes={size}-"),
                format!("bytes={}-{}", size + 10, size + 20),
                "bytes=-0".to_owned(),
            ] {
                let origin = Origin::start().await;
                let gateway = either(&origin, cache).await;
                let target = origin.blob("a", &bytes);
                let all = bytes.clone();
                origin.upstream.always("GET", &*target, move |_| Reply::ok(&all));
                let answer = gateway.ask(ranged(&target, &range)).await.refuses(416, "RANGE_INVALID");
                assert_eq!(
                    answer.header("content-range"),
                    Some(format!("bytes */{size}").as_str()),
                    "{range} {cache}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_416_without_a_length_gets_one() {
    for cache in [false, true] {
        let origin = Origin::start().await;
        let gateway = either(&origin, cache).await;
        let target = origin.blob("a", &noise(SIZE));
        origin.upstream.always("GET", &*target, |_| Reply::status(416));
        let answer = gateway.ask(ranged(&target, "bytes=300000-300009")).await.is(416);
        assert_eq!(answer.header("content-range"), Some("bytes */300000"), "{cache}");
    }
}

#[tokio::test]
async fn if_range_with_another_validator_gets_the_whole() {
    let (origin, gateway, target, bytes) = kept().await;
    let etag = gateway.get(&target).await.header("etag").unwrap().to_owned();
    assert!(etag.starts_with('"'), "a strong one: {etag}");
    let ask = |validator: &str| gateway.ask(ranged(&target, "bytes=10-19").header("If-Range", validator));
    is_part(ask(&etag).await, &bytes, 10, 20);
    for other in ["\"other\"", &format!("W/{etag}"), "Sat, 29 Oct 1994 19:43:31 GMT"] {
        gives(ask(other).await, &bytes, "HIT");
    }
    assert_eq!(origin.requests(), [""; 0]);
}

#[tokio::test]
async fn a_range_beyond_a_cached_blob_is_416() {
    let (origin, gateway, target, _) = kept().await;
    for range in ["bytes=300000-", "bytes=999999-9999999", "bytes=-0"] {
        let answer = gateway.ask(ranged(&target, range)).await.is(416);
        assert_eq!(answer.header("content-range"), Some("bytes */300000"), "{range}");
    }
    assert_eq!(origin.requests(), [""; 0]);
}

#[tokio::test]
async fn a_matching_validator_gets_304() {
    let (origin, gateway, target, bytes) = kept().await;
    let etag = format!("\"{}\"", sha256(&bytes));
    let answer = gateway.ask(Request::get(&target).header("If-None-Match", &etag)).await.is(304);
    assert!(answer.body.is_empty());
    let head = gateway.ask(Request::head(&target)).await.is(200);
    assert_eq!(head.header("content-length"), Some("300000"));
    assert_eq!((head.header("etag"), word(&head)), (Some(etag.as_str()), "HIT"));
    assert_eq!(origin.requests(), [""; 0]);
}

#[tokio::test]
async fn a_range_of_a_running_download_waits_for_its_bytes() {
    let (origin, gateway) = started("").await;
    let (bytes, gate) = (noise(4 * MIB), Gate::shut());
    let target = origin.blob("a", &bytes);
    origin.upstream.expect("GET", &*target, Origin::whole(&bytes).pause_after(2 * MIB, &gate));
    let mut whole = asking(&gateway, Request::get(&target)).await;
    let head = whole.head().await.is(200);
    // Half of it is there, and no more comes until all these have been answered.
    for (range, at, end) in [("bytes=0-999", 0, 1000), ("bytes=1000000-1999999", 1_000_000, 2_000_000)] {
        is_part(gateway.ask(ranged(&target, range)).await, &bytes, at, end);
    }
    // This one waits for the rest.
    let mut waiting = asking(&gateway, ranged(&target, "bytes=1000000-2999999")).await;
    let partial = waiting.head().await.is(206);
    let begun = waiting.read_exactly(500_000).await;
    assert!(begun == bytes[1_000_000..1_500_000]);
    gate.open();
    assert!(waiting.read_exactly(1_500_000).await == bytes[1_500_000..3_000_000]);
    assert_eq!(partial.header("content-range"), Some("bytes 1000000-2999999/4194304"));
    let (answer, end) = whole.rest(head).await;
    assert!(end == BodyEnd::Complete && answer.body == bytes);
    assert_eq!(origin.requests(), [format!("GET {target}")]);
}

#[tokio::test]
async fn a_range_beyond_a_running_download_is_416() {
    let (origin, gateway) = started("").await;
    let (bytes, gate) = (noise(SIZE), Gate::shut());
    let target = origin.blob("a", &bytes);
    origin.upstream.expect("GET", &*target, Origin::whole(&bytes).pause_after(1000, &gate));
    let mut whole = asking(&gateway, Request::get(&target)).await;
    let head = whole.head().await.is(200);
    let answer = gateway.ask(ranged(&target, "bytes=300000-")).await.is(416);
    assert_eq!(answer.header("content-range"), Some("bytes */300000"));
    gate.open();
    let (answer, end) = whole.rest(head).await;
    assert!(end == BodyEnd::Complete && answer.body == bytes);
}

#[tokio::test]
async fn a_range_far_ahead_does_not_wait() {
    let (origin, gateway) = started("").await;
    let (bytes, gate) = (noise(40 * MIB), Gate::shut());
    let target = origin.blob("a", &bytes);
    origin.upstream.expect("GET", &*target, Origin::whole(&bytes).pause_after(MIB, &gate));
    let mut whole = asking(&gateway, Request::get(&target)).await;
    let head = whole.head().await.is(200);
    let at = 39 * MIB;
    let range = format!("bytes={at}-{}", at + 999);
    is_part(gateway.ask(ranged(&target, &range)).await, &bytes, at, at + 1000);
    gate.open();
    let (answer, end) = whole.rest(head).await;
    assert!(end == BodyEnd::Complete && answer.body == bytes);
}

#[tokio::test]
async fn equal_ranges_of_a_missing_blob_are_one_request() {
    let (origin, gateway) = started("").await;
    // Too large to be fetched for the sake of a part.
    let bytes = noise(70 * MIB);
    let target = origin.blob("a", &bytes);
    let gate = Gate::shut();
    origin.upstream.expect("GET", &*target, Origin::part(&bytes, MIB, 2 * MIB).held(&gate));
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(asking(&gateway, ranged(&target, "bytes=1048576-2097151")).await);
    }
    // A small thing that is asked for after them, by each worker's own connections.
    let other = origin.blob("a", b"small");
    for _ in 0..4 {
        gateway.get(&other).await.is(200);
    }
    gate.open();
    for client in &mut clients {
        is_part(client.answer().await, &bytes, MIB, 2 * MIB);
    }
    let heard = origin.upstream.heard();
    let asked: Vec<_> = heard.iter().filter(|heard| heard.target == target).collect();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].headers.get("range"), Some("bytes=1048576-2097151"));
}

#[tokio::test]
async fn a_range_of_a_small_missing_blob_fetches_it() {
    let (origin, gateway) = started("").await;
    let bytes = noise(SIZE);
    let target = origin.blob("a", &bytes);
    for (range, at, end) in [("bytes=1000-1999", 1000, 2000), ("bytes=-10", SIZE - 10, SIZE)] {
        is_part(gateway.ask(ranged(&target, range)).await, &bytes, at, end);
    }
    gives(until_kept(&gateway, &target).await, &bytes, "HIT");
    is_part(gateway.ask(ranged(&target, "bytes=5-9")).await, &bytes, 5, 10);
}

#[tokio::test]
async fn a_range_beyond_a_missing_blob_is_416() {
    let (origin, gateway) = started("").await;
    let target = origin.blob("a", &noise(SIZE));
    let answer = gateway.ask(ranged(&target, "bytes=300000-300009")).await.is(416);
    assert_eq!(answer.header("content-range"), Some("bytes */300000"));
}

#[tokio::test]
async fn a_registry_without_ranges_still_gives_the_part() {
    let (origin, gateway) = started("").await;
    let bytes = noise(SIZE);
    let target = origin.blob("a", &bytes);
    let all = bytes.clone();
    origin.upstream.always("GET", &*target, move |_| Reply::ok(&all));
    for (range, at, end) in [("bytes=1000-1999", 1000, 2000), ("bytes=200000-", 200_000, SIZE)] {
        let answer = gateway.ask(ranged(&target, range)).await;
        if answer.status == 200 {
            assert!(answer.body == bytes);
        } else {
            is_part(answer, &bytes, at, end);
        }
    }
}

#[tokio::test]
async fn ranges_at_an_upstream_without_them_cost_one_download() {
    for (lines, kept) in [("prefetch = false", true), ("prefetch = false\nmax_object = \"1MiB\"", false)] {
        let origin = Origin::start().await;
        let gateway = before(&origin, "[upstream.cache]").cache(lines).start().await;
        let bytes = noise(12 * MIB);
        let target = blob_at("a", &bytes);
        let whole = bytes.clone();
        origin.upstream.always("GET", &*target, move |_| Reply::ok(&whole));
        for (number, at) in [11 * MIB, 5 * MIB, 9 * MIB, 12 * MIB - 1].into_iter().enumerate() {
            let request = Request::get(&target).header("Range", format!("bytes={at}-{at}"));
            let answer = gateway.ask(request).await;
            if kept {
                assert!(answer.status == 206 && answer.body == bytes[at..=at], "{number}");
            } else {
                // Every byte that the upstream sends goes to the client.
                assert!(answer.status == 200 && answer.body == bytes, "{number}");
            }
        }
        // The first is where the upstream shows that it has no ranges.
        let most = if kept { 2 } else { 5 };
        assert_eq!(origin.count("GET", &target), most, "kept: {kept}");
    }
}

#[tokio::test]
async fn ranges_download_no_more_than_a_client_may_have() {
    let (origin, gateway) = started("").await;
    for number in 0..6 {
        let target = blob_at("a", format!("large {number}").as_bytes());
        // Each says that it has 60 MB, of which a client that has taken nothing may have two downloaded.
        origin.upstream.always("GET", &*target, |headers| match headers.get("range") {
            Some(_) => Reply::status(206).header("Content-Range", "bytes 0-0/60000000").body("x"),
            None => Reply::status(404),
        });
        let answer = gateway.ask(Request::get(&target).header("Range", "bytes=0-0")).await.is(206);
        assert!(answer.body == b"x");
    }
    tokio::time::sleep(std::time::Duration::from_millis(400)).await;
    let whole = origin.upstream.heard().into_iter().filter(|heard| heard.headers.get("range").is_none());
    assert_eq!(whole.count(), 2);
}
