//! Ending: what is under way is finished, and nothing more is begun.

use std::time::Duration;

use tokio::net::TcpStream;

use crate::harness::{Frames, Gate, Gateway, PATIENCE, Reply, Request, Upstream, frame, noise, sha256, soon};

fn blob(content: &[u8]) -> String {
    format!("/v2/a/blobs/{}", sha256(content))
}

/// Waits until the gateway takes no more connections.
async fn is_deaf(gateway: &Gateway) {
    soon("the listener to close", async {
        while TcpStream::connect(gateway.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn draining_finishes_blobs_and_accepts_no_connections() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::open(&upstream).await;
    let content = noise(200_000);
    let gate = Gate::shut();
    upstream.expect("GET", blob(&content), Reply::ok(&content).pause_after(1000, &gate));
    let mut client = gateway.connect().await;
    client.send(Request::get(blob(&content)).bytes("localhost")).await;
    client.head().await.is(200);
    let finishing = async {
        is_deaf(&gateway).await;
        gate.open();
        assert!(client.read_exactly(200_000).await == content);
        client.ends().await;
    };
    let (drained, ()) = tokio::join!(gateway.app.drain(), finishing);
    assert!(drained, "all of it has finished");
}

#[tokio::test]
async fn a_running_upload_is_finished() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::open(&upstream).await;
    let target = format!("/v2/a/blobs/uploads/?digest={}", sha256(b"whole"));
    let mut asked = upstream.expect("POST", target.replace("sha256:", "sha256%3A"), Reply::status(201));
    let mut client = gateway.connect().await;
    client.send(Request::post(target).header("Content-Length", "5").bytes("localhost")).await;
    client.send("who").await;
    asked.until(|seen| seen.received == 3).await;
    let finishing = async {
        is_deaf(&gateway).await;
        client.send("le").await;
        client.answer().await.is(201);
        client.ends().await;
    };
    let (drained, ()) = tokio::join!(gateway.app.drain(), finishing);
    assert!(drained);
}

/// Waits until the gateway has so many connections.
async fn has_connections(gateway: &Gateway, count: usize) {
    let line = format!("dockgate_budget_in_use{{budget=\"connections\"}} {count}");
    soon("the connection to be accepted", async {
        while !gateway.admin("/metrics").await.is(200).text().lines().any(|known| known == line) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_first_request_that_is_on_its_way_is_answered() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::builder().admin_listener().upstream("up", "", upstream.address).start().await;
    let mut client = gateway.connect().await;
    has_connections(&gateway, 1).await;
    let asking = async {
        is_deaf(&gateway).await;
        client.send(Request::get("/v2/").bytes("localhost")).await;
        client.answer().await.is(200);
        client.ends().await;
    };
    let (drained, ()) = tokio::join!(gateway.app.drain(), asking);
    assert!(drained);
}

#[tokio::test]
async fn a_connection_that_asks_nothing_is_not_waited_for() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::builder().admin_listener().upstream("up", "", upstream.address).start().await;
    let mut client = gateway.connect().await;
    has_connections(&gateway, 1).await;
    let begun = tokio::time::Instant::now();
    let (drained, _) = tokio::join!(gateway.app.drain(), client.ends());
    assert!(drained);
    // Less than the 10 s that a head may take.
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn connections_with_nothing_to_do_are_closed_at_once() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::builder().tls(&["localhost"]).upstream("up", "", upstream.address).start().await;
    let mut first = gateway.connect().await;
    first.ask(&Request::get("/v2/")).await.is(200);
    let mut second = Frames::over(gateway.http2_bytes().await).await;
    second.request(1, frame::END_STREAM, &Request::get("/v2/")).await;
    second.next_of(frame::HEADERS).await;
    let begun = tokio::time::Instant::now();
    let seen = async {
        first.ends().await;
        second.next_of(frame::GOAWAY).await;
        second.ends().await;
    };
    let (drained, ()) = tokio::join!(gateway.app.drain(), seen);
    assert!(drained);
    assert!(begun.elapsed() < PATIENCE / 2, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn over_http2_a_running_blob_is_finished_after_goaway() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::builder().tls(&["localhost"]).upstream("up", "", upstream.address).start().await;
    let gate = Gate::shut();
    upstream.expect("GET", blob(b"0123456789"), Reply::ok("0123456789").pause_after(4, &gate));
    let mut client = Frames::over(gateway.http2_bytes().await).await;
    client.request(1, frame::END_STREAM, &Request::get(blob(b"0123456789"))).await;
    assert_eq!(client.next_of(frame::DATA).await.payload, b"0123");
    let finishing = async {
        client.next_of(frame::GOAWAY).await;
        gate.open();
        assert_eq!(client.next_of(frame::DATA).await.payload, b"456789");
        client.ends().await;
    };
    let (drained, ()) = tokio::join!(gateway.app.drain(), finishing);
    assert!(drained);
}

#[tokio::test]
async fn a_late_answer_still_arrives_while_draining() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::builder().tls(&["localhost"]).upstream("up", "", upstream.address).start().await;
    let content = noise(5000);
    let gate = Gate::shut();
    upstream.expect("GET", blob(&content), Reply::ok(&content).pause_after(10, &gate));
    let mut client = Frames::over(gateway.http2_bytes().await).await;
    // SETTINGS_INITIAL_WINDOW_SIZE: the end of the answer has to wait for the client.
    client.send(frame::SETTINGS, 0, 0, &[0, 4, 0, 0, 3, 232]).await;
    client.request(1, frame::END_STREAM, &Request::get(blob(&content))).await;
    let mut got = client.next_of(frame::DATA).await.payload;
    let finishing = async {
        client.next_of(frame::GOAWAY).await;
        // Longer than anything but a transfer is given when the gateway ends.
        tokio::time::sleep(dockgate::internals::limits::HANDSHAKE_DEADLINE + Duration::from_millis(500))
            .await;
        gate.open();
        while got.len() < 1000 {
            got.extend(client.next_of(frame::DATA).await.payload);
        }
        client.send(frame::WINDOW_UPDATE, 0, 1, &100_000u32.to_be_bytes()).await;
        while got.len() < content.len() {
            got.extend(client.next_of(frame::DATA).await.payload);
        }
        assert!(got == content);
        client.ends().await;
    };
    let (drained, ()) = tokio::join!(gateway.app.drain(), finishing);
    assert!(drained);
}

#[tokio::test]
async fn draining_ends_with_its_timeout() {
    let upstream = Upstream::start().await;
    let builder = Gateway::builder().server("drain_timeout = \"300ms\"");
    let gateway = builder.upstream("up", "", upstream.address).start().await;
    let content = noise(1000);
    let mut asked = upstream.expect("GET", blob(&content), Reply::ok(&content).stall_after(10));
    let mut client = gateway.connect().await;
    client.send(Request::get(blob(&content)).bytes("localhost")).await;
    client.head().await.is(200);
    let begun = tokio::time::Instant::now();
    assert!(!gateway.app.drain().await, "something was still under way");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    drop(client);
    asked.abandoned().await;
}

#[tokio::test]
async fn a_draining_gateway_is_alive_and_not_ready() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::builder().admin_listener().upstream("up", "", upstream.address).start().await;
    let gate = Gate::shut();
    let mut asked = upstream.expect("GET", blob(b"x"), Reply::ok("x").held(&gate));
    let mut client = gateway.connect().await;
    client.send(Request::get(blob(b"x")).bytes("localhost")).await;
    asked.arrived().await;
    let looking = async {
        is_deaf(&gateway).await;
        let ready = gateway.admin("/readyz").await.is(503);
        assert_eq!(ready.json()["status"], "draining");
        gateway.admin("/healthz").await.is(200);
        gate.open();
        client.answer().await.is(200);
        client.ends().await;
    };
    let (drained, ()) = tokio::join!(gateway.app.drain(), looking);
    assert!(drained);
}
