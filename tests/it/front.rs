//! The edge: listeners, TLS, the PROXY protocol, and clients that dawdle.

use std::time::Duration;

use crate::harness::{
    Builder, Client, Ending, Frames, Gate, Gateway, Http2, Reply, Request, Upstream, frame, index_of, noise,
    sha256, soon, write_certificate,
};

const SOON: Duration = Duration::from_millis(300);

fn blob(content: &[u8]) -> String {
    format!("/v2/a/blobs/{}", sha256(content))
}

async fn in_front_of(upstream: &Upstream, builder: Builder) -> Gateway {
    builder.upstream("up", "", upstream.address).start().await
}

// Proxies that speak for clients. Addresses are told apart by their failed logins.

/// The answer to a failed login that comes after `prelude` on its connection.
async fn guess(gateway: &Gateway, prelude: &[u8], forwarded: Option<&str>, number: usize) -> u16 {
    let mut client = Client::tcp(gateway.address).await;
    let mut request = Request::get("/v2/").login("alice", &format!("guess{number}"));
    if let Some(forwarded) = forwarded {
        request = request.header("X-Forwarded-For", forwarded);
    }
    client.send([prelude, &request.bytes("localhost")].concat()).await;
    client.answer().await.status
}

/// Fails to log in until that is refused.
async fn lock_out(gateway: &Gateway, prelude: &[u8], forwarded: Option<&str>) {
    for number in 0..50 {
        if guess(gateway, prelude, forwarded, number).await == 429 {
            return;
        }
    }
    panic!("nothing slows guessing down");
}

/// Locks the one out and sees that the other is, too: the same client. A lock-out lasts for a second at first.
async fn are_one(gateway: &Gateway, one: (&[u8], Option<&str>), other: (&[u8], Option<&str>)) -> bool {
    for _ in 0..4 {
        lock_out(gateway, one.0, one.1).await;
        if guess(gateway, other.0, other.1, 99).await == 429 {
            return true;
        }
    }
    false
}

fn version_2(source: [u8; 4]) -> Vec<u8> {
    let signature = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c";
    [&signature[..], &source, &[127, 0, 0, 1], &[1, 2, 3, 4]].concat()
}

#[tokio::test]
async fn a_trusted_proxy_header_names_the_client() {
    let upstream = Upstream::start().await;
    let builder = Gateway::builder().user("alice", "secret").server("proxy_protocol = true");
    let gateway = in_front_of(&upstream, builder.server("trusted_proxies = [\"127.0.0.1/32\"]")).await;
    let line = b"PROXY TCP4 192.0.2.1 127.0.0.1 1 2\r\n";
    assert!(are_one(&gateway, (line, None), (&version_2([192, 0, 2, 1]), None)).await, "the same client");
    assert_eq!(guess(&gateway, &version_2([192, 0, 2, 2]), None, 99).await, 401, "another one");
    assert_eq!(guess(&gateway, b"PROXY UNKNOWN\r\n", None, 99).await, 401, "the proxy itself");
    let six = b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n";
    assert_eq!(guess(&gateway, six, None, 99).await, 401);
}

#[tokio::test]
async fn a_trusted_proxy_must_begin_with_a_proxy_header() {
    let upstream = Upstream::start().await;
    let builder = Gateway::builder().server("proxy_protocol = true");
    let gateway = in_front_of(&upstream, builder.server("trusted_proxies = [\"127.0.0.1/32\"]")).await;
    let request = Request::get("/v2/").bytes("localhost");
    let wrong: [&[u8]; 5] = [
        b"",
        b"PROXY TCP4 192.0.2.1\r\n",
        b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
        b"PROXY SCTP 192.0.2.1 192.0.2.2 1 2\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\0",
    ];
    for prelude in wrong {
        let mut client = Client::tcp(gateway.address).await;
        client.send([prelude, &request].concat()).await;
        client.ends().await;
    }
}

#[tokio::test]
async fn the_proxy_header_comes_before_tls() {
    use tokio::io::AsyncWriteExt;
    let upstream = Upstream::start().await;
    let builder = Gateway::builder().tls(&["localhost"]).server("proxy_protocol = true");
    let gateway = in_front_of(&upstream, builder.server("trusted_proxies = [\"127.0.0.1/32\"]")).await;
    let mut stream = gateway.tcp().await;
    stream.write_all(&version_2([192, 0, 2, 1])).await.unwrap();
    let mut client = Client::tls(stream, gateway.ca(), "localhost", "http/1.1").await.unwrap();
    client.ask(&Request::get("/v2/")).await.is(200);
}

#[tokio::test]
async fn an_untrusted_proxy_header_is_a_broken_request() {
    let upstream = Upstream::start().await;
    let builder = Gateway::builder().server("proxy_protocol = true");
    let gateway = in_front_of(&upstream, builder.server("trusted_proxies = [\"192.0.2.0/24\"]")).await;
    gateway.get("/v2/").await.is(200);
    let mut client = gateway.connect().await;
    let request = Request::get("/v2/").bytes("localhost");
    client.send([&b"PROXY TCP4 192.0.2.1 127.0.0.1 1 2\r\n"[..], &request].concat()).await;
    client.answer().await.is(400);
    client.ends().await;
}

#[tokio::test]
async fn x_forwarded_for_counts_from_trusted_proxies_alone() {
    let upstream = Upstream::start().await;
    let builder = || Gateway::builder().user("alice", "secret");
    let trusting = builder().server("trusted_proxies = [\"127.0.0.1/32\"]");
    let trusting = in_front_of(&upstream, trusting).await;
    let (one, chain) = ((&b""[..], Some("192.0.2.1")), (&b""[..], Some("192.0.2.2, 192.0.2.1")));
    assert!(are_one(&trusting, one, chain).await);
    assert_eq!(guess(&trusting, b"", Some("192.0.2.2"), 99).await, 401);
    assert_eq!(guess(&trusting, b"", Some("192.0.2.1, 192.0.2.2"), 99).await, 401);

    let other = in_front_of(&upstream, builder()).await;
    assert!(are_one(&other, one, (b"", Some("192.0.2.2"))).await, "whatever it says, it is the same peer");
}

#[tokio::test]
async fn no_client_forges_its_address_behind_a_proxy_header() {
    let upstream = Upstream::start().await;
    let builder = Gateway::builder().user("alice", "secret").server("proxy_protocol = true");
    // The wide network covers the clients too; 192.0.2.7 is a further proxy.
    let networks = "trusted_proxies = [\"127.0.0.1\", \"10.0.0.0/8\", \"192.0.2.7\"]";
    let gateway = in_front_of(&upstream, builder.server(networks)).await;
    let line = |source: &str| format!("PROXY TCP4 {source} 127.0.0.1 1 2\r\n").into_bytes();
    let local = [&b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"[..]].concat();
    for prelude in [line("10.1.2.3"), version_2([10, 1, 2, 4]), b"PROXY UNKNOWN\r\n".to_vec(), local] {
        let (one, other) = (Some("198.51.100.1"), Some("198.51.100.2, 10.9.9.9"));
        assert!(are_one(&gateway, (&prelude, one), (&prelude, other)).await, "{prelude:?}");
    }
    let (direct, through) = (line("198.51.100.9"), line("192.0.2.7"));
    let forged = Some("6.6.6.6, 198.51.100.9");
    assert!(are_one(&gateway, (&direct, None), (&through, forged)).await, "the further proxy's word counts");
}

// Listeners.

#[tokio::test]
async fn several_addresses_and_a_unix_socket_are_one_gateway() {
    let upstream = Upstream::start().await;
    let builder = Gateway::builder().address("127.0.0.2:0").address("unix:gateway.sock");
    let gateway = in_front_of(&upstream, builder).await;
    let addresses = gateway.app.addresses();
    assert_eq!(addresses.len(), 2);
    for address in addresses {
        Client::tcp(*address).await.ask(&Request::get("/v2/")).await.is(200);
    }
    let mut client = Client::unix(&gateway.path("gateway.sock")).await;
    for _ in 0..2 {
        client.ask(&Request::get("/v2/")).await.is(200);
    }
}

#[tokio::test]
async fn a_connection_serves_one_request_after_another() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::open(&upstream).await;
    let mut client = gateway.connect().await;
    for number in 0..50 {
        let target = format!("/v2/a/manifests/v{number}");
        upstream.expect("GET", target.as_str(), Reply::ok(index_of(&target)));
        assert_eq!(client.ask(&Request::get(&target)).await.is(200).text(), index_of(&target));
    }
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn a_connection_too_many_waits_for_another_to_end() {
    let upstream = Upstream::start().await;
    let gateway = in_front_of(&upstream, Gateway::builder().server("max_connections = 2")).await;
    let (mut first, mut second) = (gateway.connect().await, gateway.connect().await);
    first.ask(&Request::get("/v2/")).await.is(200);
    second.ask(&Request::get("/v2/")).await.is(200);
    let mut third = gateway.connect().await;
    let request = Request::get("/v2/");
    let mut asking = std::pin::pin!(third.ask(&request));
    assert!(tokio::time::timeout(SOON, &mut asking).await.is_err(), "it is served beyond the limit");
    drop(first);
    asking.await.is(200);
}

// TLS.

#[tokio::test]
async fn both_tls_versions_and_protocols_are_spoken() {
    let upstream = Upstream::start().await;
    let gateway = in_front_of(&upstream, Gateway::builder().tls(&["localhost"])).await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let client = |protocol: &'static str| async {
            let (versions, stream) = ([version], gateway.tcp().await);
            let client = Client::tls_of(&versions, stream, gateway.ca(), "localhost", protocol);
            client.await.expect("a handshake")
        };
        client("http/1.1").await.ask(&Request::get("/v2/")).await.is(200);
        Http2::over(client("h2").await.into_io()).await.ask(&Request::get("/v2/")).await.is(200);
    }
}

#[tokio::test]
async fn the_certificate_is_chosen_by_server_name() {
    let upstream = Upstream::start().await;
    let builder = Gateway::builder().tls(&["localhost"]).sni(&["one.example"]).sni(&["*.two.example"]);
    let gateway = in_front_of(&upstream, builder).await;
    let default = gateway.connect_tls("localhost").await.certificate;
    let one = gateway.connect_sni(0, "one.example").await.certificate;
    let two = gateway.connect_sni(1, "deep.two.example").await.certificate;
    assert!(default != one && one != two && two != default);
    let unknown = Client::tls(gateway.tcp().await, gateway.ca(), "unknown.example", "http/1.1").await;
    assert!(unknown.is_err(), "the default certificate is not for this name");
}

#[tokio::test]
async fn a_host_that_no_certificate_names_is_misdirected() {
    let upstream = Upstream::start().await;
    let builder = Gateway::builder().tls(&["localhost"]).sni(&["one.example"]).sni(&["*.two.example"]);
    let gateway = in_front_of(&upstream, builder).await;
    let mut client = gateway.connect().await;
    for host in ["localhost:5000", "LOCALHOST.", "one.example", "x.two.example", "127.0.0.1", "[::1]:5000"] {
        client.ask(&Request::get("/v2/").header("Host", host)).await.is(200);
    }
    for host in ["evil.example", "two.example", "a.b.two.example", "192.0.2.1"] {
        client.ask(&Request::get("/v2/").header("Host", host)).await.refuses(421, "NAME_UNKNOWN");
    }
}

#[tokio::test]
async fn new_certificates_are_used_unless_broken() {
    let upstream = Upstream::start().await;
    let gateway = in_front_of(&upstream, Gateway::builder().tls(&["localhost"]).admin_listener()).await;
    let mut old = gateway.connect().await;
    let ca = write_certificate(gateway.dir.path(), "domain", &["new.example".to_owned()]);
    gateway.app.reload();
    let new = Client::tls(gateway.tcp().await, &ca, "new.example", "http/1.1").await;
    let mut new = new.expect("the new certificate");
    assert_ne!(new.certificate, old.certificate);
    new.ask(&Request::get("/v2/")).await.is(200);
    // Connections stay, and the hosts are those of the new one.
    old.ask(&Request::get("/v2/").header("Host", "new.example")).await.is(200);
    gateway.rewrite("domain.crt", "garbage");
    let again =
        Client::tls(gateway.tcp().await, &ca, "new.example", "http/1.1").await.expect("the last good one");
    assert_eq!(again.certificate, new.certificate);
    let ready = gateway.admin("/readyz").await.is(200);
    assert!(ready.json()["problems"][0].as_str().unwrap().starts_with("certificates:"), "{}", ready.text());
}

#[tokio::test]
async fn plain_http_on_a_tls_port_is_told_so() {
    let upstream = Upstream::start().await;
    let gateway = in_front_of(&upstream, Gateway::builder().tls(&["localhost"])).await;
    let mut client = Client::tcp(gateway.address).await;
    let answer = client.ask(&Request::get("/v2/")).await;
    assert_eq!(answer.status, 400);
    // It speaks HTTP to loopback whatever is there, and no login changes that.
    let told = answer.text();
    assert!(told.contains("docker manifest push") && told.contains("plaintext"), "{told}");
    client.ends().await;
    let mut client = Client::tcp(gateway.address).await;
    client.send([0, 1, 2, 3, 4, 5, 6, 7]).await;
    client.discard().await;
    gateway.connect().await.ask(&Request::get("/v2/")).await.is(200);
}

#[tokio::test]
async fn a_stalled_handshake_blocks_no_connection() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let upstream = Upstream::start().await;
    let gateway = in_front_of(&upstream, Gateway::builder().tls(&["localhost"])).await;
    let mut silent = Vec::new();
    for bytes in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01"] {
        let mut stream = gateway.tcp().await;
        stream.write_all(bytes).await.unwrap();
        silent.push(stream);
    }
    gateway.connect().await.ask(&Request::get("/v2/")).await.is(200);
    let begun = tokio::time::Instant::now();
    for stream in &mut silent {
        let mut rest = Vec::new();
        let _ = soon("the handshake's deadline", stream.read_to_end(&mut rest)).await;
    }
    assert!(begun.elapsed() > Duration::from_secs(5), "that was no deadline: {:?}", begun.elapsed());
}

// Clients that dawdle.

#[tokio::test]
async fn an_unfinished_request_header_is_cut_off() {
    let upstream = Upstream::start().await;
    let gateway = in_front_of(&upstream, Gateway::builder().server("header_timeout = \"300ms\"")).await;
    for bytes in ["", "GET /v2/ HTTP/1.1\r\nHost: loc"] {
        let mut client = gateway.connect().await;
        client.send(bytes).await;
        client.discard().await;
    }
    // The second request of a connection, too.
    let mut client = gateway.connect().await;
    client.ask(&Request::get("/v2/")).await.is(200);
    client.send("GET /v2/ HTTP/1.1\r\n").await;
    client.discard().await;
}

#[tokio::test]
async fn a_trickling_request_header_is_cut_off() {
    let upstream = Upstream::start().await;
    let gateway = in_front_of(&upstream, Gateway::builder().server("header_timeout = \"400ms\"")).await;
    let mut client = gateway.connect().await;
    client.send("GET /v2/ HTTP/1.1\r\nX: ").await;
    let mut sent = 0;
    while client.try_send("x").await.is_ok() {
        tokio::time::sleep(Duration::from_millis(50)).await;
        sent += 1;
        assert!(sent < 100, "it is still reading");
    }
}

#[tokio::test]
async fn a_connection_with_nothing_to_do_is_closed() {
    let upstream = Upstream::start().await;
    let builder = Gateway::builder().tls(&["localhost"]).server("idle_timeout = \"300ms\"");
    let gateway = in_front_of(&upstream, builder).await;
    let mut client = gateway.connect().await;
    client.ask(&Request::get("/v2/")).await.is(200);
    assert_eq!(client.ends().await, Ending::Closed);
    let mut client = Frames::over(gateway.http2_bytes().await).await;
    client.request(1, frame::END_STREAM, &Request::get("/v2/")).await;
    client.next_of(frame::HEADERS).await;
    client.next_of(frame::GOAWAY).await;
    client.ends().await;
}

#[tokio::test]
async fn a_transfer_that_moves_is_neither_idle_nor_late() {
    let upstream = Upstream::start().await;
    let builder = Gateway::builder().server("idle_timeout = \"200ms\"").server("header_timeout = \"200ms\"");
    let gateway = in_front_of(&upstream, builder).await;
    let content = noise(10_000);
    let gate = Gate::shut();
    upstream.expect("GET", blob(&content), Reply::ok(&content).pause_after(10, &gate));
    let mut client = gateway.connect().await;
    client.send(Request::get(blob(&content)).bytes("localhost")).await;
    client.head().await.is(200);
    // Longer than both limits; the transfer has stall_timeout.
    tokio::time::sleep(Duration::from_millis(600)).await;
    gate.open();
    assert!(client.read_exactly(10_000).await == content);
}

#[tokio::test]
async fn a_client_that_takes_no_byte_is_given_up() {
    let upstream = Upstream::start().await;
    let builder = Gateway::builder().server("stall_timeout = \"300ms\"").tls(&["localhost"]);
    let gateway = in_front_of(&upstream, builder).await;
    let content = noise(64 << 10);
    let mut asked = upstream.expect("GET", blob(b""), Reply::status(200).repeat(&content, 4096));
    let mut client = gateway.connect().await;
    client.send(Request::get(blob(b"")).bytes("localhost")).await;
    asked.abandoned().await;
    client.discard().await;
}

#[tokio::test]
async fn a_closed_http2_window_times_out() {
    let upstream = Upstream::start().await;
    let builder = Gateway::builder().server("stall_timeout = \"300ms\"").tls(&["localhost"]);
    let gateway = in_front_of(&upstream, builder).await;
    let content = noise(64 << 10);
    let mut asked = upstream.expect("GET", blob(b""), Reply::status(200).repeat(&content, 4096));
    let mut client = Frames::over(gateway.http2_bytes().await).await;
    client.request(1, frame::END_STREAM, &Request::get(blob(b""))).await;
    client.next_of(frame::DATA).await;
    asked.abandoned().await;
}

#[tokio::test]
async fn an_upload_that_stands_still_is_given_up() {
    let upstream = Upstream::start().await;
    let gateway = in_front_of(&upstream, Gateway::builder().server("stall_timeout = \"300ms\"")).await;
    let target = format!("/v2/a/blobs/uploads/?digest={}", sha256(b""));
    let there = target.replace("sha256:", "sha256%3A");
    let mut asked = upstream.expect("POST", there, Reply::status(201));
    let mut client = gateway.connect().await;
    client.send(Request::post(target).header("Content-Length", "1000").bytes("localhost")).await;
    client.send("only this").await;
    asked.abandoned().await;
    client.answer().await.refuses(400, "BLOB_UPLOAD_INVALID");
    client.ends().await;
}

#[tokio::test]
async fn an_upstream_that_stops_reading_times_out() {
    let upstream = Upstream::start().await;
    let gateway = in_front_of(&upstream, Gateway::builder().server("stall_timeout = \"300ms\"")).await;
    let target = format!("/v2/a/blobs/uploads/?digest={}", sha256(b""));
    let there = target.replace("sha256:", "sha256%3A");
    let never = Gate::shut();
    upstream.expect("POST", there, Reply::status(201).before_body().held(&never));
    let mut client = gateway.connect().await;
    client.send(Request::post(target).header("Content-Length", "100000000").bytes("localhost")).await;
    // More than all the buffers on the way hold; how much of it is taken does not matter.
    let piece = vec![b'x'; 1 << 20];
    let answered = async {
        for _ in 0..95 {
            if client.try_send(&piece).await.is_err() {
                break;
            }
        }
        client.answer().await.refuses(502, "UNAVAILABLE");
    };
    soon("an answer", answered).await;
}

#[tokio::test]
async fn unsolicited_upstream_bytes_answer_no_request() {
    let upstream = Upstream::start().await;
    let gateway = in_front_of(&upstream, Gateway::builder()).await;
    let poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    let kind = "Content-Type: application/vnd.oci.image.index.v1+json";
    let head = format!("HTTP/1.1 200 OK\r\n{kind}\r\nContent-Length: {}\r\n\r\n", poison.len());
    upstream.expect("HEAD", "/v2/a/manifests/x", Reply::raw([head.as_bytes(), poison.as_bytes()].concat()));
    gateway.ask(Request::new("HEAD", "/v2/a/manifests/x")).await.is(200);
    upstream.expect("GET", "/v2/a/manifests/y", Reply::ok(index_of("honest")));
    assert_eq!(gateway.get("/v2/a/manifests/y").await.is(200).text(), index_of("honest"));
}

#[tokio::test]
async fn an_upstream_sending_endless_1xx_is_502() {
    let upstream = Upstream::start().await;
    let gateway = in_front_of(&upstream, Gateway::builder()).await;
    upstream.expect("GET", "/v2/a/manifests/x", Reply::raw("HTTP/1.1 102 Processing\r\n\r\n".repeat(1000)));
    gateway.get("/v2/a/manifests/x").await.refuses(502, "UNAVAILABLE");
}
