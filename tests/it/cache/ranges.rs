//! Parts of blobs: of what is kept, of what is on its way, of what is not here.

use super::{asking, before, gives, started, until, until_kept, word};
use crate::harness::{
    Answer, BodyEnd, Gate, Gateway, Origin, Process, Reply, Request, blob_at, noise, sha256,
};

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
    // The rest of its segment is asked for as well; an upstream may give less.
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
    assert_eq!(asked[0].headers.get("range"), Some("bytes=1048576-4194303"));
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
            Some(range) if range.starts_with("bytes=0-") => {
                Reply::status(206).header("Content-Range", "bytes 0-0/60000000").body("x")
            }
            _ => Reply::status(404),
        });
        let answer = gateway.ask(Request::get(&target).header("Range", "bytes=0-0")).await.is(206);
        assert!(answer.body == b"x");
    }
    // A download asks for the whole, or for what follows the byte that is here already.
    let downloaded = || {
        let heard = origin.upstream.heard();
        let is_more = |range: &str| !range.starts_with("bytes=0-");
        let more = heard.into_iter().filter(|heard| heard.headers.get("range").is_none_or(is_more));
        more.map(|heard| heard.target).collect::<std::collections::HashSet<_>>().len()
    };
    crate::harness::soon("two downloads", async {
        while downloaded() < 2 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
    tokio::time::sleep(std::time::Duration::from_millis(400)).await;
    assert_eq!(downloaded(), 2);
}

/// More than is fetched because a client has asked for some of it.
const LARGE: usize = 66 * MIB;

/// The parts of a blob that the upstream was asked for, in their order.
fn parts_asked(origin: &Origin, target: &str, size: usize) -> Vec<(usize, usize)> {
    let heard = origin.upstream.heard();
    let of_it = heard.iter().filter(|heard| heard.method == "GET" && heard.target == target);
    let part = |headers: &crate::harness::Headers| {
        let Some(range) = headers.get("range") else { return (0, size) };
        let (first, last) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')).unwrap();
        let end = if last.is_empty() { size } else { last.parse::<usize>().unwrap() + 1 };
        (first.parse().unwrap(), end.min(size))
    };
    of_it.map(|heard| part(&heard.headers)).collect()
}

/// Asserts that no byte of a blob was asked for twice. Returns how many were.
#[track_caller]
fn asked_once(origin: &Origin, target: &str, size: usize) -> usize {
    let mut parts = parts_asked(origin, target, size);
    parts.sort_unstable();
    assert!(parts.is_sorted_by(|one, next| one.1 <= next.0), "{parts:?}");
    parts.iter().map(|(first, end)| end - first).sum()
}

async fn part_of(gateway: &Gateway, target: &str, bytes: &[u8], at: usize, end: usize) -> Answer {
    is_part(gateway.ask(ranged(target, &format!("bytes={at}-{}", end - 1))).await, bytes, at, end)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parallel_ranges_of_a_cold_blob_cost_it_once() {
    const PART: usize = LARGE / 8;
    for clients in [1, 2] {
        let (origin, gateway) = started("").await;
        let bytes = noise(LARGE);
        let target = origin.blob("a", &bytes);
        let all = (0..8 * clients).map(|number| {
            let at = number % 8 * PART;
            part_of(&gateway, &target, &bytes, at, at + PART)
        });
        futures_util::future::join_all(all).await;
        gives(until_kept(&gateway, &target).await, &bytes, "HIT");
        assert_eq!(asked_once(&origin, &target, LARGE), LARGE, "{clients}");
        let requests = parts_asked(&origin, &target, LARGE).len();
        assert!(requests <= 8, "{clients}: {requests}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_ranges_anywhere_cost_no_byte_twice() {
    const READ: usize = 64 * 1024;
    let (origin, gateway) = started("").await;
    let bytes = noise(LARGE);
    let target = origin.blob("a", &bytes);
    let mut state = 7_u32;
    let places: Vec<_> = (0..60)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state as usize % (LARGE - READ)
        })
        .collect();
    for at in &places {
        part_of(&gateway, &target, &bytes, *at, at + READ).await;
    }
    // Half of it is there by then, and the rest follows.
    gives(until_kept(&gateway, &target).await, &bytes, "HIT");
    assert_eq!(asked_once(&origin, &target, LARGE), LARGE);
    assert!(parts_asked(&origin, &target, LARGE).len() < 50, "{:?}", parts_asked(&origin, &target, LARGE));
    origin.forgets_requests();
    for at in places {
        assert_eq!(word(&part_of(&gateway, &target, &bytes, at, at + READ).await), "HIT");
    }
    assert_eq!(origin.requests(), [""; 0]);
}

#[tokio::test]
async fn a_range_that_came_is_kept() {
    let (origin, gateway) = started("").await;
    let bytes = noise(LARGE);
    let target = origin.blob("a", &bytes);
    let (at, end) = (20 * MIB, 24 * MIB);
    assert_eq!(word(&part_of(&gateway, &target, &bytes, at, end).await), "MISS");
    for (at, end) in [(at, end), (at + 5, at + 6), (end - 100, end)] {
        let again = until(
            "it to be written",
            &gateway,
            ranged(&target, &format!("bytes={at}-{}", end - 1)),
            |answer| word(answer) == "HIT",
        );
        is_part(again.await, &bytes, at, end);
    }
    // What reaches over its end is asked for from there on.
    part_of(&gateway, &target, &bytes, end - 100, end + 100).await;
    assert_eq!(parts_asked(&origin, &target, LARGE), [(at, end), (end, end + 4 * MIB)]);
    // Of the whole only what is missing is asked for.
    gives(gateway.get(&target).await, &bytes, "MISS");
    assert_eq!(asked_once(&origin, &target, LARGE), LARGE);
}

#[tokio::test]
async fn a_range_of_the_rest_is_not_cut_short() {
    let (origin, gateway) = started("").await;
    let bytes = noise(LARGE);
    let target = origin.blob("a", &bytes);
    for (range, at) in [("bytes=65000000-", 65_000_000), ("bytes=50000000-", 50_000_000)] {
        is_part(gateway.ask(ranged(&target, range)).await, &bytes, at, LARGE);
    }
    let end = gateway.ask(ranged(&target, &format!("bytes={LARGE}-"))).await.is(416);
    assert_eq!(end.header("content-range"), Some(format!("bytes */{LARGE}").as_str()));
}

#[tokio::test]
async fn a_far_range_and_a_download_share_their_bytes() {
    let (origin, gateway) = started("").await;
    let (bytes, gate) = (noise(LARGE), Gate::shut());
    let target = origin.blob("a", &bytes);
    origin.upstream.expect("GET", &*target, Origin::whole(&bytes).pause_after(MIB, &gate));
    let mut whole = asking(&gateway, Request::get(&target)).await;
    let head = whole.head().await.is(200);
    let (at, end) = (40 * MIB, 44 * MIB);
    part_of(&gateway, &target, &bytes, at, end).await;
    gate.open();
    let (answer, how) = whole.rest(head).await;
    assert!(how == BodyEnd::Complete && answer.body == bytes);
    // The download ends where the range begins, and goes on behind it.
    assert_eq!(parts_asked(&origin, &target, LARGE), [(0, LARGE), (at, end), (end, LARGE)]);
    gives(until_kept(&gateway, &target).await, &bytes, "HIT");
}

#[tokio::test]
async fn a_download_waits_for_the_range_before_it() {
    let (origin, gateway) = started("").await;
    let (bytes, gate) = (noise(LARGE), Gate::shut());
    let target = origin.blob("a", &bytes);
    let first = Origin::part(&bytes, 0, 8 * MIB).pause_after(MIB, &gate);
    origin.upstream.expect("GET", &*target, first);
    let mut part = asking(&gateway, ranged(&target, &format!("bytes=0-{}", 8 * MIB - 1))).await;
    let part_head = part.head().await.is(206);
    let mut whole = asking(&gateway, Request::get(&target)).await;
    let head = whole.head().await.is(200);
    assert!(whole.read_exactly(MIB / 2).await == bytes[..MIB / 2], "what has come goes on");
    gate.open();
    let (answer, how) = part.rest(part_head).await;
    assert!(how == BodyEnd::Complete && answer.body == bytes[..8 * MIB]);
    assert!(whole.read_exactly(LARGE - MIB / 2).await == bytes[MIB / 2..]);
    drop(head);
    assert_eq!(parts_asked(&origin, &target, LARGE), [(0, 8 * MIB), (8 * MIB, LARGE)]);
}

#[tokio::test]
async fn a_range_whose_stream_breaks_comes_whole() {
    for reset in [false, true] {
        let (origin, gateway) = started("").await;
        let bytes = noise(LARGE);
        let target = origin.blob("a", &bytes);
        let (at, end, gate) = (20 * MIB, 28 * MIB, Gate::shut());
        gate.open();
        let reply = Origin::part(&bytes, at, end);
        let reply = if reset { reply.reset_after(MIB, &gate) } else { reply.cut_after(MIB, &gate) };
        origin.upstream.expect("GET", &*target, reply);
        part_of(&gateway, &target, &bytes, at, end).await;
        gives(gateway.get(&target).await, &bytes, "MISS");
        gives(until_kept(&gateway, &target).await, &bytes, "HIT");
    }
}

#[tokio::test]
async fn a_wrong_part_tears_down_all() {
    let (origin, gateway) = started("").await;
    let bytes = noise(LARGE);
    let mut wrong = bytes.clone();
    wrong[30 * MIB] ^= 1;
    let target = origin.blob("a", &bytes);
    let lie = wrong.clone();
    origin.upstream.always("GET", &*target, move |headers| Origin::serve(&wrong, headers));
    // A client that reads its part slowly, another's half of the blob, and one that wants the whole.
    let mut slow = asking(&gateway, ranged(&target, &format!("bytes=0-{}", 36 * MIB - 1))).await;
    let slow_head = slow.head().await.is(206);
    slow.read_exactly(MIB).await;
    let mut rest = asking(&gateway, ranged(&target, &format!("bytes={}-", 36 * MIB))).await;
    let rest_head = rest.head().await.is(206);
    assert!(rest.read_exactly(MIB).await == lie[36 * MIB..37 * MIB], "a part goes out unproved");
    // It may come whole, or be torn down too.
    rest.rest(rest_head).await;
    asking(&gateway, Request::get(&target)).await.is_torn("").await;
    let torn = slow.breaks_off(slow_head).await;
    assert!(torn.body.len() < 36 * MIB, "{}", torn.body.len());
    soon_empty(&gateway).await;
    origin.upstream.forget("GET", &target);
    gives(gateway.get(&target).await, &bytes, "MISS");
}

#[tokio::test]
async fn equal_far_ranges_are_one_request() {
    let (origin, gateway) = started("").await;
    let bytes = noise(LARGE);
    let target = origin.blob("a", &bytes);
    let (at, end, gate) = (20 * MIB, 24 * MIB, Gate::shut());
    let mut asked = origin.upstream.expect("GET", &*target, Origin::part(&bytes, at, end).held(&gate));
    let range = format!("bytes={at}-{}", end - 1);
    let mut one = asking(&gateway, ranged(&target, &range)).await;
    asked.arrived().await;
    let mut other = asking(&gateway, ranged(&target, &range)).await;
    let later = origin.blob("a", b"small");
    for _ in 0..4 {
        gateway.get(&later).await.is(200);
    }
    gate.open();
    is_part(one.answer().await, &bytes, at, end);
    is_part(other.answer().await, &bytes, at, end);
    assert_eq!(parts_asked(&origin, &target, LARGE), [(at, end)]);
}

#[tokio::test]
async fn a_download_passes_kept_ranges_on_a_full_disk() {
    use dockgate::internals::disk::{Access, Fault, order};
    const ENOSPC: i32 = 28;
    let (origin, gateway) = started("").await;
    let (bytes, gate) = (noise(LARGE), Gate::shut());
    let target = origin.blob("a", &bytes);
    let (at, end) = (40 * MIB, 44 * MIB);
    part_of(&gateway, &target, &bytes, at, end).await;
    let range = ranged(&target, &format!("bytes={at}-{}", end - 1));
    until("it to be written", &gateway, range, |answer| word(answer) == "HIT").await;
    let hole = Origin::part(&bytes, 0, at).pause_after(8 * MIB, &gate);
    origin.upstream.expect("GET", &*target, hole);
    let mut whole = asking(&gateway, Request::get(&target)).await;
    let head = whole.head().await.is(200);
    whole.read_exactly(4 * MIB).await;
    let full = order(&gateway.path("cache"), &[Access::Write, Access::Change], Fault::Fail(ENOSPC));
    gate.open();
    assert!(whole.read_exactly(LARGE - 4 * MIB).await == bytes[4 * MIB..]);
    drop((head, full));
}

#[tokio::test]
async fn what_is_kept_is_not_written_again() {
    let origin = Origin::start().await;
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let builder = || super::cached_at(&origin, &store, "");
    let (bytes, gate) = (noise(LARGE), Gate::shut());
    let (target, other) = (origin.blob("a", &bytes), origin.blob("b", &bytes));
    let (at, end) = (20 * MIB, 24 * MIB);
    let range = format!("bytes={at}-{}", end - 1);
    let ask = async |process: &Process, target: &str| {
        let mut client = process.connect().await;
        client.send(ranged(target, &range).bytes("localhost")).await;
        client
    };
    let is_hit = async |process: &Process| {
        let answer = ask(process, &target).await.answer().await;
        let answer = is_part(answer, &bytes, at, end);
        word(&answer) == "HIT"
    };
    let mut process = Process::start(builder(), dir.path()).await;
    crate::harness::soon("it to be written", async {
        while !is_hit(&process).await {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
    process.kill();
    // The first that asks has proved nothing, so that it does not matter to it what is on the disk.
    let process = Process::start(builder(), dir.path()).await;
    let wrong = vec![b'x'; LARGE];
    let mut asked = origin.upstream.expect("GET", &*other, Origin::part(&wrong, at, end).held(&gate));
    let mut unproved = ask(&process, &other).await;
    asked.arrived().await;
    assert!(is_hit(&process).await);
    gate.open();
    assert_eq!(unproved.answer().await.is(206).body.len(), end - at);
    assert!(is_hit(&process).await);
    let whole = process.get(&target).await.is(200);
    assert!(whole.body == bytes);
}

/// Waits until nothing of a blob is there.
async fn soon_empty(gateway: &Gateway) {
    crate::harness::soon("all of it to be removed", async {
        let is_blob = |path: &std::path::PathBuf| !path.ends_with("version") && !path.ends_with("owner");
        let kept = || {
            let cache = gateway.path("cache");
            let folders = ["partial", "blobs"].map(|folder| super::files_in(&cache.join(folder)));
            folders.concat().into_iter().any(|path| is_blob(&path))
        };
        while kept() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_upstream_that_loses_its_ranges_is_served_right() {
    let (origin, gateway) = started("").await;
    let bytes = noise(LARGE);
    let target = origin.blob("a", &bytes);
    for at in [10 * MIB, 30 * MIB, 50 * MIB] {
        part_of(&gateway, &target, &bytes, at, at + 100).await;
    }
    let all = bytes.clone();
    origin.upstream.always("GET", &*target, move |_| Reply::ok(&all));
    for at in [20 * MIB, 10 * MIB + 50, 60 * MIB] {
        let answer = gateway.ask(ranged(&target, &format!("bytes={at}-{}", at + 99))).await;
        match answer.status {
            200 => assert!(answer.body == bytes),
            _ => drop(is_part(answer, &bytes, at, at + 100)),
        }
    }
    gives(until_kept(&gateway, &target).await, &bytes, "HIT");
}

#[tokio::test]
async fn a_range_that_its_clients_left_ends() {
    let (origin, gateway) = started("").await;
    let bytes = noise(LARGE);
    let target = origin.blob("a", &bytes);
    let (at, end) = (20 * MIB, 40 * MIB);
    let mut asked =
        origin.upstream.expect("GET", &*target, Origin::part(&bytes, at, end).stall_after(4 * MIB));
    let mut client = asking(&gateway, ranged(&target, &format!("bytes={at}-{}", end - 1))).await;
    client.head().await.is(206);
    client.read_exactly(2 * MIB).await;
    drop(client);
    asked.abandoned().await;
    // What had come is kept.
    let again = until("a hit", &gateway, ranged(&target, &format!("bytes={at}-{}", at + MIB)), |answer| {
        word(answer) == "HIT"
    });
    is_part(again.await, &bytes, at, at + MIB + 1);
    part_of(&gateway, &target, &bytes, at, end).await;
    let asked = parts_asked(&origin, &target, LARGE);
    assert!(asked.len() == 2 && asked[1].0 >= at + 2 * MIB && asked[1].1 == end, "{asked:?}");
}

#[tokio::test]
async fn ranges_are_right_when_the_disk_is_full() {
    use dockgate::internals::disk::{Access, Fault, order};
    const ENOSPC: i32 = 28;
    let (origin, gateway) = started("").await;
    let (bytes, gate) = (noise(LARGE), Gate::shut());
    let target = origin.blob("a", &bytes);
    let (at, end) = (20 * MIB, 40 * MIB);
    origin.upstream.expect("GET", &*target, Origin::part(&bytes, at, end).pause_after(8 * MIB, &gate));
    let mut part = asking(&gateway, ranged(&target, &format!("bytes={at}-{}", end - 1))).await;
    let head = part.head().await.is(206);
    part.read_exactly(4 * MIB).await;
    let full = order(&gateway.path("cache"), &[Access::Write, Access::Change], Fault::Fail(ENOSPC));
    gate.open();
    assert!(part.read_exactly(16 * MIB).await == bytes[at + 4 * MIB..end]);
    drop(head);
    for at in [0, 10 * MIB, 21 * MIB, 39 * MIB, 60 * MIB] {
        part_of(&gateway, &target, &bytes, at, at + 1000).await;
    }
    assert!(gateway.get(&target).await.is(200).body == bytes);
    drop(full);
    until("it to be kept", &gateway, Request::get(&target), |answer| word(answer) == "HIT").await;
}

#[tokio::test]
async fn a_killed_gateway_resumes_ranges_by_their_holes() {
    let origin = Origin::start().await;
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let bytes = noise(LARGE);
    let target = origin.blob("a", &bytes);
    let builder = || super::cached_at(&origin, &store, "");
    let parts = [(8 * MIB, 12 * MIB), (40 * MIB, 44 * MIB)];
    let mut process = Process::start(builder(), dir.path()).await;
    let ask = async |process: &Process, at: usize, end: usize| {
        let mut client = process.connect().await;
        client.send(ranged(&target, &format!("bytes={at}-{}", end - 1)).bytes("localhost")).await;
        is_part(client.answer().await, &bytes, at, end)
    };
    for (at, end) in parts {
        ask(&process, at, end).await;
        crate::harness::soon("it to be written", async {
            while word(&ask(&process, at, end).await) != "HIT" {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        })
        .await;
    }
    process.kill();
    origin.forgets_requests();
    let process = Process::start(builder(), dir.path()).await;
    for (at, end) in parts {
        assert_eq!(word(&ask(&process, at, end).await), "HIT");
    }
    let whole = process.get(&target).await.is(200);
    assert!(whole.body == bytes);
    let holes = [(0, 8 * MIB), (12 * MIB, 40 * MIB), (44 * MIB, LARGE)];
    let asked: Vec<_> =
        parts_asked(&origin, &target, LARGE).into_iter().filter(|(first, end)| end - first > 1).collect();
    assert_eq!(asked, holes);
}

#[tokio::test]
async fn a_repository_without_the_blob_gets_no_part_of_it() {
    let (origin, gateway) = started("").await;
    let bytes = noise(LARGE);
    let target = origin.blob("a", &bytes);
    part_of(&gateway, &target, &bytes, 0, 8 * MIB).await;
    part_of(&gateway, &target, &bytes, 30 * MIB, 31 * MIB).await;
    for range in ["bytes=0-9", "bytes=31457280-31457289", "bytes=60000000-60000009"] {
        gateway.ask(ranged(&blob_at("b", &bytes), range)).await.is(404);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_and_downloads_at_once_are_all_right() {
    for size in [20 * MIB, LARGE] {
        let (origin, gateway) = started("").await;
        let bytes = noise(size);
        let target = origin.blob("a", &bytes);
        let (all, open) = (bytes.clone(), Gate::shut());
        let answers = std::sync::atomic::AtomicUsize::new(0);
        // Every seventh stream breaks off, at its beginning.
        origin.upstream.always("GET", &*target, move |headers| {
            open.open();
            let reply = Origin::serve(&all, headers);
            match answers.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 7 {
                6 => reply.cut_after(1, &open),
                _ => reply,
            }
        });
        let mut state = 3_u32;
        let mut random = |below: usize| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 3) as usize % below
        };
        let requests: Vec<_> = (0..30)
            .map(|number| {
                let at = random(size - 1);
                let end = (at + 1 + random(if number % 3 == 0 { 12 * MIB } else { 100_000 })).min(size);
                (number, at, end)
            })
            .collect();
        let asking = requests.iter().map(async |(number, at, end)| {
            match number % 10 {
                7 => {
                    let answer = gateway.get(&target).await.is(200);
                    assert!(answer.body == bytes, "{number}");
                }
                // A client that leaves.
                8 => {
                    let range = format!("bytes={at}-{}", end - 1);
                    let mut client = asking(&gateway, ranged(&target, &range)).await;
                    client.head().await.is(206);
                }
                _ => drop(part_of(&gateway, &target, &bytes, *at, *end).await),
            }
        });
        futures_util::future::join_all(asking).await;
        gives(until_kept(&gateway, &target).await, &bytes, "HIT");
    }
}
