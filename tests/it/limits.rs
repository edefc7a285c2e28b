//! The limits of a peer: memory, headers, and the abuses of HTTP/2.

use std::process::Command;

use crate::harness::{
    EMPTY_INDEX, Frames, Gateway, Reply, Request, Upstream, frame, frame_bytes, header_block, noise, sha256,
};

async fn tls() -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    let gateway = Gateway::builder().tls(&["localhost"]).upstream("up", "", upstream.address).start().await;
    (upstream, gateway)
}

/// Runs a test of this file alone in a process of its own: memory is the whole process's.
fn alone(test: &str) {
    let me = std::env::current_exe().expect("this program");
    let output =
        Command::new(me).args(["--exact", test, "--ignored", "--nocapture"]).output().expect("a process");
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// Resident memory, in MiB.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") / 1024
}

const MIB: usize = 1 << 20;

#[test]
fn pulling_and_pushing_256_mib_takes_little_memory() {
    alone("limits::a_pull_and_a_push_of_256_mib");
}

#[tokio::test]
#[ignore = "run by the test above, in a process of its own"]
async fn a_pull_and_a_push_of_256_mib() {
    let (upstream, gateway) = tls().await;
    let piece = noise(MIB);
    let target = format!("/v2/a/blobs/{}", sha256(b""));
    let post = "/v2/a/blobs/uploads/?digest=other%3Aab";
    // A first round warms up whatever is kept for good.
    let mut before = 0;
    for mib in [16, 256] {
        upstream.expect("GET", target.as_str(), Reply::status(200).repeat(&piece, mib));
        let mut client = gateway.connect().await;
        client.send(Request::get(&target).bytes("localhost")).await;
        client.head().await.is(200);
        for _ in 0..mib {
            assert!(client.read_exactly(MIB).await == piece);
        }
        let mut asked = upstream.expect("POST", post, Reply::status(201));
        let head = Request::post(post).header("Content-Length", (mib * MIB).to_string());
        client.send(head.bytes("localhost")).await;
        for _ in 0..mib {
            client.send(&piece).await;
        }
        client.answer().await.is(201);
        assert_eq!(asked.done().await.received, mib * MIB);
        if mib == 16 {
            before = resident();
        }
    }
    let after = resident();
    assert!(after < before + 32, "from {before} MiB to {after} MiB");
}

#[tokio::test]
async fn rapid_resets_end_only_their_connection() {
    let (upstream, gateway) = tls().await;
    let mut client = Frames::over(gateway.http2_bytes().await).await;
    let block = header_block(&Request::get("/v2/"));
    let mut taken = 0;
    for number in 0..20_000_u32 {
        let stream = 2 * number + 1;
        let mut bytes = frame_bytes(frame::HEADERS, frame::END_STREAM | frame::END_HEADERS, stream, &block);
        bytes.extend(frame_bytes(frame::RST_STREAM, 0, stream, &8u32.to_be_bytes()));
        if !client.try_send(&bytes).await {
            break;
        }
        taken += 1;
    }
    assert!(taken < 20_000, "all resets were taken");
    gateway.http2().await.ask(&Request::get("/v2/")).await.is(200);
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn headers_that_go_on_for_ever_end_the_connection() {
    let (_upstream, gateway) = tls().await;
    let mut client = Frames::over(gateway.http2_bytes().await).await;
    let block = header_block(&Request::get("/v2/").header("X-Long", "x".repeat(8000)));
    client.send(frame::HEADERS, frame::END_STREAM, 1, &block).await;
    let more = header_block(&Request::get("/").header("X-More", "x".repeat(15_000)));
    let mut taken = 0;
    while taken < 1000 && client.try_send(&frame_bytes(frame::CONTINUATION, 0, 1, &more[60..])).await {
        taken += 1;
    }
    assert!(taken < 1000, "16 MiB of headers were taken");
    gateway.http2().await.ask(&Request::get("/v2/")).await.is(200);
}

#[tokio::test]
async fn too_many_and_too_long_headers_are_refused() {
    let (_upstream, gateway) = tls().await;
    // Twice the limit and more: hyper looks at it between one read and the next.
    let many = (0..150).fold(Request::get("/v2/"), |request, n| request.header(&format!("X-{n}"), "x"));
    let long = Request::get("/v2/").header("X-Long", "x".repeat(200_000));
    let target = Request::get(format!("/v2/{}", "x".repeat(200_000)));
    for request in [many.clone(), long.clone(), target] {
        let mut client = gateway.connect().await;
        let _ = client.try_send(request.bytes("localhost")).await;
        let answer = client.answer().await;
        assert!(matches!(answer.status, 414 | 431), "{answer:?}");
        client.discard().await;
    }
    // The gateway may refuse it with a status or by resetting the stream.
    match gateway.http2().await.begin(&long).await {
        Ok(answer) => assert_eq!(answer.status(), 431),
        Err(error) => assert!(!error.is_timeout(), "{error}"),
    }
    let fine =
        (0..80).fold(Request::get("/v2/"), |request, n| request.header(&format!("X-{n}"), "x".repeat(500)));
    gateway.connect().await.ask(&fine).await.is(200);
    gateway.http2().await.ask(&fine).await.is(200);
}

#[tokio::test]
async fn many_streams_at_once_are_all_answered() {
    let (upstream, gateway) = tls().await;
    let mut client = Frames::over(gateway.http2_bytes().await).await;
    for number in 0..90_u32 {
        let target = format!("/v2/a/manifests/v{number}");
        upstream.expect("GET", target.as_str(), Reply::ok(EMPTY_INDEX));
        client.request(2 * number + 1, frame::END_STREAM, &Request::get(target)).await;
    }
    let mut answered = std::collections::BTreeSet::new();
    while answered.len() < 90 {
        answered.insert(client.next_of(frame::HEADERS).await.stream);
    }
}
