//! Connections to upstreams: TLS, protocol versions, and when they are kept.

use crate::harness::{
    Answer, Client, EMPTY_INDEX, Gate, Gateway, Reply, Request, Upstream, index_of, noise, sha256,
};

const TARGET: &str = "/v2/a/manifests/x";

/// A gateway in front of an upstream with TLS, whose CA is in the file `ca.crt`.
async fn in_front_of(upstream: &Upstream, lines: &str) -> Gateway {
    let url = format!("url = \"https://localhost:{}\"\nretries = 0\n{lines}", upstream.address.port());
    let builder = Gateway::builder().upstream_with("up", "", upstream.address, &url);
    builder.file("ca.crt", upstream.ca.as_deref().expect("an upstream with TLS")).start().await
}

async fn get(gateway: &Gateway) -> Answer {
    gateway.get(TARGET).await
}

#[tokio::test]
async fn an_untrusted_upstream_certificate_is_502() {
    let upstream = Upstream::start_tls().await;
    for lines in ["ca = \"ca.crt\"", "insecure = true"] {
        let gateway = in_front_of(&upstream, lines).await;
        upstream.expect("GET", TARGET, Reply::ok(EMPTY_INDEX));
        assert_eq!(get(&gateway).await.is(200).text(), EMPTY_INDEX);
    }
    let gateway = in_front_of(&upstream, "").await;
    get(&gateway).await.refuses(502, "UNAVAILABLE");
}

#[tokio::test]
async fn a_certificate_for_another_name_is_502() {
    let upstream = Upstream::start_tls().await;
    let url =
        format!("url = \"https://127.0.0.1:{}\"\nretries = 0\nca = \"ca.crt\"", upstream.address.port());
    let builder = Gateway::builder().upstream_with("up", "", upstream.address, &url);
    let gateway = builder.file("ca.crt", upstream.ca.as_deref().unwrap()).start().await;
    get(&gateway).await.refuses(502, "UNAVAILABLE");
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_504() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let url = format!("url = \"https://{address}\"\nretries = 0\nconnect_timeout = \"200ms\"");
    let gateway = Gateway::builder().upstream_with("up", "", address, &url).start().await;
    get(&gateway).await.refuses(504, "UNAVAILABLE");
}

#[tokio::test]
async fn a_tcp_end_without_close_notify_is_a_cut() {
    let upstream = Upstream::start_tls().await;
    let gateway = in_front_of(&upstream, "ca = \"ca.crt\"").await;
    let content = noise(50_000);
    let blob = format!("/v2/a/blobs/{}", sha256(&content));
    let gate = Gate::shut();
    upstream.expect("GET", blob.as_str(), Reply::ok(&content).until_close().leave_after(20_000, &gate));
    let mut client = gateway.connect().await;
    client.send(Request::get(&blob).bytes("localhost")).await;
    let head = client.head().await.is(200);
    gate.open();
    let answer = client.breaks_off(head).await;
    assert!(content.starts_with(&answer.body));

    upstream.expect("GET", blob.as_str(), Reply::ok(&content).until_close());
    assert!(gateway.get(&blob).await.is(200).body == content, "with both it is the end");
}

#[tokio::test]
async fn a_closing_connection_is_not_reused() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::open(&upstream).await;
    let mut client = gateway.connect().await;
    let body = format!("Content-Length: {}\r\n\r\n{EMPTY_INDEX}", EMPTY_INDEX.len());
    let old = format!("HTTP/1.0 200 OK\r\n{body}");
    let kept = format!("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n{body}");
    let replies = [
        (Reply::ok(EMPTY_INDEX).header("Connection", "close"), 1),
        (Reply::raw(old), 2),
        (Reply::raw(kept), 3),
        (Reply::ok(EMPTY_INDEX), 3),
    ];
    for (reply, connection) in replies {
        let mut asked = upstream.expect("GET", TARGET, reply);
        client.ask(&Request::get(TARGET)).await.is(200);
        assert_eq!(asked.done().await.connection, connection);
    }
}

#[tokio::test]
async fn a_connection_with_unsolicited_bytes_is_not_reused() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::open(&upstream).await;
    let mut client = gateway.connect().await;
    let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    for _ in 0..3 {
        upstream.expect("DELETE", TARGET, Reply::raw(format!("HTTP/1.1 204 No Content\r\n\r\n{evil}")));
        client.ask(&Request::delete(TARGET)).await.is(202);
        upstream.expect("GET", TARGET, Reply::raw(format!("HTTP/1.1 304 Not Modified\r\n\r\n{evil}")));
        client.ask(&Request::get(TARGET)).await.is(304);
    }
}

#[tokio::test]
async fn gateways_can_stand_one_behind_the_other() {
    let (registry, address) = crate::harness::demo_registry().await;
    registry.push_blob("app", "layer".into()).unwrap();
    let inner = Gateway::builder().upstream("demo", "inner", address).start().await;
    let outer = Gateway::builder().upstream("inner", "outer", inner.address).start().await;
    let digest = sha256(b"layer");
    let answer = outer.get(&format!("/v2/outer/inner/app/blobs/{digest}")).await.is(200);
    assert_eq!(answer.text(), "layer");
    let begun = outer.ask(Request::post("/v2/outer/inner/app/blobs/uploads/")).await.is(202);
    let at = begun.header("location").unwrap();
    outer.ask(Request::put(format!("{at}?digest={}", sha256(b"more"))).body("more")).await.is(201);
}

#[tokio::test]
async fn two_clients_do_not_get_each_others_answers() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::open(&upstream).await;
    let gates: Vec<_> = (0..8).map(|_| Gate::shut()).collect();
    let mut clients: Vec<Client> = Vec::new();
    for (number, gate) in gates.iter().enumerate() {
        let target = format!("/v2/a/manifests/v{number}");
        let mut asked = upstream.expect("GET", target.as_str(), Reply::ok(index_of(&target)).held(gate));
        let mut client = gateway.connect().await;
        client.send(Request::get(&target).bytes("localhost")).await;
        asked.arrived().await;
        clients.push(client);
    }
    gates.iter().rev().for_each(Gate::open);
    for (number, client) in clients.iter_mut().enumerate().rev() {
        assert_eq!(client.answer().await.is(200).text(), index_of(&format!("/v2/a/manifests/v{number}")));
    }
}

/// An upload begun over a connection that is kept, and goes on over it.
async fn uploading(upstream: &Upstream, reply: Reply) -> (Gateway, Client, String) {
    let gateway = Gateway::open(upstream).await;
    let mut client = gateway.connect().await;
    upstream.expect("POST", "/v2/a/blobs/uploads/", reply.header("Location", "/v2/a/blobs/uploads/1"));
    let answer = client.ask(&Request::post("/v2/a/blobs/uploads/")).await.is(202);
    let location = answer.header("location").unwrap().to_owned();
    (gateway, client, location)
}

#[tokio::test]
async fn a_connection_closing_as_a_body_begins_is_replaced() {
    for method in ["PATCH", "PUT"] {
        let upstream = Upstream::start().await;
        let (_gateway, mut client, location) = uploading(&upstream, Reply::status(202)).await;
        let (target, query) = match method {
            "PUT" => ("/v2/a/blobs/uploads/1?digest=sha256%3A", "?digest=sha256:"),
            _ => ("/v2/a/blobs/uploads/1", ""),
        };
        let digest = if method == "PUT" { "a".repeat(64) } else { String::new() };
        let target = format!("{target}{digest}");
        // It has read the head, and closes before the body.
        upstream.expect(method, target.as_str(), Reply::close().before_body());
        let mut again = upstream.expect(method, target.as_str(), Reply::status(202));
        let request = Request::new(method, format!("{location}{query}{digest}")).body("all of it");
        let status = client.ask(&request).await.status;
        assert!(matches!(status, 201 | 202), "{status}");
        let seen = again.done().await;
        assert_eq!((seen.body.as_slice(), seen.connection), (&b"all of it"[..], 2));
        assert_eq!(upstream.heard_of("expect"), [None, Some("100-continue".to_owned()), None]);
    }
}

#[tokio::test]
async fn an_upstream_without_100_continue_gets_bodies_all_the_same() {
    let upstream = Upstream::start().await;
    let (_gateway, mut client, location) = uploading(&upstream, Reply::status(202)).await;
    // It answers when the body is there, and says nothing before.
    let silent = || Reply::status(202).never_says_continue();
    for expected in [Some("100-continue".to_owned()), None] {
        let mut patch = upstream.expect("PATCH", "/v2/a/blobs/uploads/1", silent());
        client.ask(&Request::patch(location.as_str()).body("x")).await.is(202);
        assert_eq!(patch.done().await.body, b"x");
        assert_eq!(upstream.heard_of("expect").last(), Some(&expected));
    }
    upstream.expect("PATCH", "/v2/a/blobs/uploads/1", Reply::status(202));
    client.ask(&Request::patch(location.as_str()).body("x")).await.is(202);
}

#[tokio::test]
async fn an_upstream_that_refuses_expectations_is_asked_without() {
    let upstream = Upstream::start().await;
    let (_gateway, mut client, location) = uploading(&upstream, Reply::status(202)).await;
    upstream.expect("PATCH", "/v2/a/blobs/uploads/1", Reply::status(417).before_body().then_close());
    upstream.expect("PATCH", "/v2/a/blobs/uploads/1", Reply::status(202));
    client.ask(&Request::patch(location.as_str()).body("x")).await.is(202);
}

#[tokio::test]
async fn a_connection_idle_as_long_as_announced_is_not_reused() {
    let upstream = Upstream::start().await;
    let begun = Reply::status(202).header("Keep-Alive", "timeout=1, max=100");
    let (_gateway, mut client, location) = uploading(&upstream, begun).await;
    let mut patch = upstream.expect("PATCH", "/v2/a/blobs/uploads/1", Reply::status(202));
    client.ask(&Request::patch(location.as_str()).body("x")).await.is(202);
    assert_eq!(patch.done().await.connection, 2);
}
