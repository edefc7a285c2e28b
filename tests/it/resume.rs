//! Blobs whose streams break: gone on with where they did, and by nothing but the very rest.

use std::fmt::Write as _;

use crate::harness::{
    BodyEnd, Client, Gate, Gateway, Guarded, Http2, Reply, Request, Upstream, noise, sha256, token,
};

/// Of every blob here, in bytes: some headway beyond each cut.
const TOTAL: usize = 400_000;

fn blob() -> String {
    format!("/v2/a/blobs/{}", sha256(&noise(TOTAL)))
}

async fn with(lines: &str) -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    let gateway = Gateway::builder().upstream_with("up", "", upstream.address, lines).start().await;
    (upstream, gateway)
}

/// A gate that holds nothing back.
fn open() -> Gate {
    let gate = Gate::shut();
    (0..100).for_each(|_| gate.open());
    gate
}

fn whole() -> Reply {
    Reply::ok(noise(TOTAL)).header("ETag", "\"strong\"")
}

/// The blob's bytes from `at` up to `end`, as a part of it.
fn part(at: usize, end: usize) -> Reply {
    let range = format!("bytes {at}-{}/{TOTAL}", end - 1);
    Reply::status(206).body(&noise(TOTAL)[at..end]).header("Content-Range", &range)
}

fn rest(at: usize) -> Reply {
    part(at, TOTAL).header("ETag", "\"strong\"")
}

/// The bytes that came, and the way they ended.
async fn get(gateway: &Gateway, request: Request) -> (u16, Vec<u8>, BodyEnd) {
    let mut client = gateway.connect().await;
    client.send(request.bytes("localhost")).await;
    let head = client.head().await;
    let (answer, end) = client.rest(head).await;
    (answer.status, answer.body, end)
}

/// The client got all of it in one answer.
async fn arrives(gateway: &Gateway) {
    let (status, body, end) = get(gateway, Request::get(blob())).await;
    assert_eq!((status, end), (200, BodyEnd::Complete));
    assert!(body == noise(TOTAL));
}

/// The client's connection was torn down in the middle.
async fn is_torn(gateway: &Gateway, of: &str) {
    let (status, body, end) = get(gateway, Request::get(blob())).await;
    assert_eq!((status, end), (200, BodyEnd::Cut), "{of}");
    assert!(noise(TOTAL).starts_with(&body), "{of}");
}

#[tokio::test]
async fn a_blob_arrives_whole_through_three_cuts() {
    let (upstream, gateway) = with("").await;
    let mut asked = [
        upstream.expect("GET", blob(), whole().cut_after(0, &open())),
        upstream.expect("GET", blob(), rest(0).reset_after(0, &open())),
        upstream.expect("GET", blob(), rest(0).cut_after(150_000, &open())),
        upstream.expect("GET", blob(), rest(150_000).cut_after(150_000, &open())),
        upstream.expect("GET", blob(), rest(300_000)),
    ];
    arrives(&gateway).await;
    let mut connections = Vec::new();
    for (number, range) in [None, Some(0), Some(0), Some(150_000), Some(300_000)].into_iter().enumerate() {
        let seen = asked[number].done().await;
        let range = range.map(|at| format!("bytes={at}-"));
        assert_eq!(seen.headers.get("range").map(str::to_owned), range);
        assert_eq!(seen.headers.get("if-range"), range.map(|_| "\"strong\""));
        connections.push(seen.connection);
    }
    assert_eq!(connections, [1, 2, 3, 4, 5], "each by a connection of its own");
}

#[tokio::test]
async fn over_http2_the_client_sees_nothing_of_it_either() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::builder().tls(&["localhost"]).upstream("up", "", upstream.address).start().await;
    upstream.expect("GET", blob(), whole().cut_after(100_000, &open()));
    upstream.expect("GET", blob(), rest(100_000));
    let mut client = gateway.http2().await;
    let (answer, end) = Http2::finish(client.begin(&Request::get(blob())).await.unwrap()).await;
    end.expect("a clean end");
    assert!(answer.status == 200 && answer.body == noise(TOTAL));
}

#[tokio::test]
async fn every_resume_asks_for_a_fresh_redirect() {
    let (registry, cdn) = (Upstream::start().await, Upstream::start().await);
    let lines = format!("redirect_hosts = [\"{}\"]", cdn.address);
    let gateway = Gateway::builder().upstream_with("up", "", registry.address, &lines).start().await;
    for (number, reply) in
        [whole().cut_after(100_000, &open()), rest(100_000).cut_after(100_000, &open()), rest(200_000)]
            .into_iter()
            .enumerate()
    {
        let signed = format!("/x?sig=t0psecret{number}");
        registry.expect("GET", blob(), Reply::status(307).header("Location", &cdn.url(&signed)));
        cdn.expect("GET", signed, reply);
    }
    arrives(&gateway).await;
    let ranges = [None, Some("bytes=100000-".to_owned()), Some("bytes=200000-".to_owned())];
    assert_eq!(cdn.heard_of("range"), ranges);
    assert!(cdn.heard_of("authorization").iter().all(Option::is_none));
}

#[tokio::test]
async fn a_validator_that_is_weak_is_not_relied_on() {
    let (upstream, gateway) = with("").await;
    let first = Reply::ok(noise(TOTAL)).header("ETag", "W/\"weak\"");
    upstream.expect("GET", blob(), first.cut_after(100_000, &open()));
    upstream.expect("GET", blob(), part(100_000, TOTAL).header("ETag", "W/\"other\""));
    arrives(&gateway).await;
    assert_eq!(upstream.heard_of("if-range"), [None, None]);
}

#[tokio::test]
async fn a_resume_carries_no_client_conditions() {
    let (upstream, gateway) = with("").await;
    upstream.expect("GET", blob(), whole().cut_after(100_000, &open()));
    upstream.expect("GET", blob(), rest(100_000));
    let request = Request::get(blob()).header("If-None-Match", "\"x\"").header("If-Range", "\"y\"");
    let (status, body, _) = get(&gateway, request).await;
    assert!(status == 200 && body == noise(TOTAL));
    assert_eq!(upstream.heard_of("if-none-match"), [Some("\"x\"".to_owned()), None]);
    assert_eq!(upstream.heard_of("if-range")[1].as_deref(), Some("\"strong\""));
}

#[tokio::test]
async fn a_whole_answer_to_a_resume_skips_known_bytes() {
    let (upstream, gateway) = with("").await;
    upstream.expect("GET", blob(), whole().cut_after(123_456, &open()));
    upstream.expect("GET", blob(), whole().cut_after(234_567, &open()));
    upstream.expect("GET", blob(), whole());
    arrives(&gateway).await;
}

#[tokio::test]
async fn a_resume_waits_out_passing_errors() {
    let (upstream, gateway) = with("").await;
    upstream.expect("GET", blob(), whole().cut_after(100_000, &open()));
    upstream.expect("GET", blob(), Reply::status(503));
    upstream.expect("GET", blob(), Reply::close());
    upstream.expect("GET", blob(), Reply::status(429));
    upstream.expect("GET", blob(), rest(100_000));
    arrives(&gateway).await;
}

#[tokio::test]
async fn a_wrong_rest_tears_the_stream_down() {
    let (upstream, gateway) = with("").await;
    let content = noise(TOTAL);
    let ranged = |range: &str, body: &[u8]| Reply::status(206).body(body).header("Content-Range", range);
    let tail = &content[100_000..];
    let longer = noise(TOTAL + 1);
    let cases = [
        ("another total", ranged("bytes 100000-399999/400001", tail)),
        ("an unknown total", ranged("bytes 100000-399999/*", tail)),
        ("a later start", ranged("bytes 100001-399999/400000", &tail[1..])),
        ("an earlier start", ranged("bytes 99999-399999/400000", &content[99_999..])),
        ("an earlier end", ranged("bytes 100000-399998/400000", &tail[..299_999])),
        ("another length than it says", ranged("bytes 100000-399999/400000", &tail[1..])),
        ("no range", Reply::status(206).body(tail)),
        ("a range that is none", ranged("bytes 100000-/400000", tail)),
        ("another validator", part(100_000, TOTAL).header("ETag", "\"other\"")),
        ("a coding", rest(100_000).header("Content-Encoding", "gzip")),
        ("a longer blob", Reply::ok(&longer)),
        ("a blob of unknown length", whole().chunked(9000)),
        ("another blob", Reply::ok(&content).header("ETag", "\"other\"")),
        ("an encoded blob", whole().header("Content-Encoding", "gzip")),
        ("nothing", Reply::status(204)),
        ("a refusal", Reply::status(403)),
        ("not there", Reply::status(404)),
        ("not in it", Reply::status(416).header("Content-Range", "bytes */400000")),
    ];
    for (of, reply) in cases {
        upstream.expect("GET", blob(), whole().cut_after(100_000, &open()));
        upstream.expect("GET", blob(), reply);
        is_torn(&gateway, of).await;
    }
}

#[tokio::test]
async fn a_partial_request_is_resumed_to_its_end() {
    let (upstream, gateway) = with("").await;
    for (range, at, end, resumed) in [
        ("bytes=100000-299999", 100_000, 300_000, "bytes=150000-299999"),
        ("bytes=100000-", 100_000, TOTAL, "bytes=150000-"),
        ("bytes=-300000", 100_000, TOTAL, "bytes=150000-"),
    ] {
        upstream.expect("GET", blob(), part(at, end).cut_after(50_000, &open()));
        upstream.expect("GET", blob(), part(150_000, end));
        let request = Request::get(blob()).header("Range", range);
        let (status, body, ending) = get(&gateway, request).await;
        assert_eq!((status, ending), (206, BodyEnd::Complete), "{range}");
        assert!(body == noise(TOTAL)[at..end], "{range}");
        assert_eq!(upstream.heard_of("range").pop().flatten().as_deref(), Some(resumed));
    }
    // Where all comes again, the part is cut out of it.
    upstream.expect("GET", blob(), part(1000, 9000).cut_after(100, &open()));
    upstream.expect("GET", blob(), whole());
    let (status, body, ending) = get(&gateway, Request::get(blob()).header("Range", "bytes=1000-8999")).await;
    assert_eq!((status, ending), (206, BodyEnd::Complete));
    assert!(body == noise(TOTAL)[1000..9000]);
}

#[tokio::test]
async fn unknown_lengths_and_codings_are_not_resumed() {
    let (upstream, gateway) = with("").await;
    let gate = Gate::shut();
    let ranges =
        Reply::status(206).body(noise(2000)).header("Content-Type", "multipart/byteranges; boundary=x");
    for first in [
        whole().chunked(9000).cut_after(100_000, &gate),
        whole().until_close().reset_after(100_000, &gate),
        whole().header("Content-Encoding", "gzip").cut_after(100_000, &gate),
        ranges.cut_after(1000, &gate),
    ] {
        upstream.expect("GET", blob(), first);
        let mut client = gateway.connect().await;
        client.send(Request::get(blob()).header("Range", "bytes=0-1,5-6").bytes("localhost")).await;
        let head = client.head().await;
        gate.open();
        client.breaks_off(head).await;
    }
}

#[tokio::test]
async fn without_headway_the_attempts_end() {
    let (upstream, gateway) = with("retries = 2").await;
    upstream.expect("GET", blob(), whole().cut_after(50_000, &open()));
    upstream.expect("GET", blob(), rest(50_000).cut_after(0, &open()));
    upstream.expect("GET", blob(), rest(50_000).cut_after(10, &open()));
    is_torn(&gateway, "").await;
}

#[tokio::test]
async fn resumes_without_progress_use_up_the_attempts() {
    let (upstream, gateway) = with("retries = 1").await;
    upstream.expect("GET", blob(), whole().cut_after(100_000, &open()));
    upstream.expect("GET", blob(), whole().cut_after(180_000, &open()));
    is_torn(&gateway, "").await;
    assert_eq!(upstream.heard().len(), 2);

    let (upstream, gateway) = with("retries = 1").await;
    upstream.expect("GET", blob(), whole().cut_after(100_000, &open()));
    upstream.expect("GET", blob(), whole().cut_after(210_000, &open()));
    upstream.expect("GET", blob(), rest(210_000));
    arrives(&gateway).await;
}

#[tokio::test]
async fn another_digest_is_not_the_rest() {
    let (upstream, gateway) = with("").await;
    let named = |reply: Reply, digest: &str| reply.header("Docker-Content-Digest", digest);
    let mine = sha256(&noise(TOTAL));
    let cases = [(part(100_000, TOTAL), "a part"), (Reply::ok(noise(TOTAL)), "a whole")];
    for (reply, of) in cases {
        let cut = || named(Reply::ok(noise(TOTAL)), &mine).cut_after(100_000, &open());
        upstream.expect("GET", blob(), cut());
        upstream.expect("GET", blob(), named(reply.clone(), &sha256(b"other")));
        is_torn(&gateway, of).await;
        upstream.expect("GET", blob(), cut());
        upstream.expect("GET", blob(), named(reply, &mine));
        arrives(&gateway).await;
    }
}

#[tokio::test]
async fn with_headway_they_begin_anew() {
    let (upstream, gateway) = with("retries = 1").await;
    upstream.expect("GET", blob(), whole().cut_after(80_000, &open()));
    for at in [80_000, 160_000, 240_000] {
        upstream.expect("GET", blob(), rest(at).cut_after(80_000, &open()));
    }
    upstream.expect("GET", blob(), rest(320_000));
    arrives(&gateway).await;
}

#[tokio::test]
async fn a_client_that_leaves_ends_it() {
    let (upstream, gateway) = with("").await;
    upstream.expect("GET", blob(), whole().cut_after(100_000, &open()));
    let mut again = upstream.expect("GET", blob(), Reply::never());
    let mut client: Client = gateway.connect().await;
    client.send(Request::get(blob()).bytes("localhost")).await;
    client.head().await.is(200);
    client.read_exactly(100_000).await;
    again.arrived().await;
    drop(client);
    again.abandoned().await;
}

#[tokio::test]
async fn a_stream_that_stands_still_is_one_that_broke() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::builder().server("stall_timeout = \"300ms\"").upstream("up", "", upstream.address);
    let gateway = gateway.start().await;
    let mut first = upstream.expect("GET", blob(), whole().stall_after(100_000));
    upstream.expect("GET", blob(), rest(100_000));
    arrives(&gateway).await;
    first.abandoned().await;
}

#[tokio::test]
async fn bytes_arrive_while_the_rest_is_requested() {
    let (upstream, gateway) = with("").await;
    let gate = Gate::shut();
    upstream.expect("GET", blob(), whole().cut_after(100_000, &open()));
    upstream.expect("GET", blob(), rest(100_000).held(&gate));
    let mut client = gateway.connect().await;
    client.send(Request::get(blob()).bytes("localhost")).await;
    client.head().await.is(200);
    assert!(client.read_exactly(100_000).await == noise(TOTAL)[..100_000]);
    gate.open();
    assert!(client.read_exactly(300_000).await == noise(TOTAL)[100_000..]);
}

#[tokio::test]
async fn an_expired_token_is_renewed_for_a_resume() {
    let guarded = Guarded::start().await;
    let gateway = guarded.gateway().await;
    let scopes = &["repository:a:pull"];
    let gate = Gate::shut();
    guarded.registry.expect("GET", blob(), guarded.refusal(""));
    guarded.gives(scopes, &token("old"));
    guarded.registry.expect("GET", blob(), whole().cut_after(100_000, &gate));
    let mut client = gateway.connect().await;
    client.send(Request::get(blob()).bytes("localhost")).await;
    client.head().await.is(200);
    guarded.registry.expect("GET", blob(), guarded.refusal(",error=\"invalid_token\""));
    guarded.gives(scopes, &token("new"));
    guarded.registry.expect("GET", blob(), rest(100_000));
    gate.open();
    assert!(client.read_exactly(TOTAL).await == noise(TOTAL));
    let mut shown = String::new();
    guarded.shown().iter().flatten().for_each(|shows| write!(shown, "{shows} ").unwrap());
    assert_eq!(shown, format!("Bearer {0} Bearer {0} Bearer {1} ", token("old"), token("new")));
}
