//! Proxies in front: what they say of the client and its host, and the HTTP/1.0 that some of them speak.

use crate::harness::{Answer, EMPTY_INDEX, Gateway, Reply, Request, Upstream};

/// Returns a gateway that trusts this machine, with a virtual host at one port and another at any.
async fn behind_a_proxy() -> (Gateway, Upstream, Upstream) {
    let (own, other) = (Upstream::start().await, Upstream::start().await);
    let gateway = Gateway::builder()
        .server("external_url = \"https://registry.example\"\ntrusted_proxies = [\"::ffff:127.0.0.1\"]")
        .upstream_with("own", "own", own.address, "hosts = [\"own.example:8443\", \"any.example\"]")
        .upstream("other", "", other.address)
        .start()
        .await;
    (gateway, own, other)
}

const TARGET: &str = "/v2/app/manifests/1";

async fn said(gateway: &Gateway, fields: &[(&str, &str)]) -> Answer {
    let add = |request: Request, field: &(&str, &str)| request.header(field.0, field.1);
    gateway.ask(fields.iter().fold(Request::get(TARGET), add)).await
}

#[tokio::test]
async fn a_virtual_host_with_a_port_is_found_there() {
    let (gateway, own, _other) = behind_a_proxy().await;
    let fields: [&[(&str, &str)]; 8] = [
        &[("Host", "OWN.example:8443")],
        &[("Host", "any.example:1")],
        &[("Host", "own.example"), ("X-Forwarded-Port", "8443")],
        &[("Host", "inner"), ("X-Forwarded-Host", "own.example:8443")],
        &[("Host", "inner"), ("X-Forwarded-Host", "own.example, inner"), ("X-Forwarded-Port", "8443, 80")],
        &[("Host", "inner"), ("X-Forwarded-Host", ""), ("X-Forwarded-Host", "own.example:8443")],
        &[("Host", "any.example"), ("X-Forwarded-Host", "")],
        &[("Host", "inner"), ("Forwarded", "for=192.0.2.1;host=\"own.example:8443\";proto=https, host=x")],
    ];
    for fields in fields {
        own.expect("GET", TARGET, Reply::ok(EMPTY_INDEX));
        let answer = said(&gateway, fields).await;
        assert_eq!(answer.status, 200, "{fields:?}: {answer:?}");
    }
    let fields: [&[(&str, &str)]; 3] = [
        &[("Host", "own.example")],
        &[("Host", "own.example:5000")],
        &[("Host", "own.example"), ("X-Forwarded-Proto", "https")],
    ];
    for fields in fields {
        said(&gateway, fields).await.refuses(421, "NAME_UNKNOWN");
    }
}

#[tokio::test]
async fn the_scheme_that_a_proxy_names_decides_the_default_port() {
    let (upstream, rest) = (Upstream::start().await, Upstream::start().await);
    let gateway = Gateway::builder()
        .server("trusted_proxies = [\"127.0.0.0/8\"]")
        .upstream_with("tls", "tls", upstream.address, "hosts = [\"own.example:443\"]")
        .upstream_with("plain", "", rest.address, "hosts = [\"own.example:80\"]")
        .start()
        .await;
    for (proto, to) in [("https", &upstream), ("HTTPS, http", &upstream), ("http", &rest), ("", &rest)] {
        to.expect("GET", TARGET, Reply::ok(EMPTY_INDEX));
        said(&gateway, &[("Host", "own.example"), ("X-Forwarded-Proto", proto)]).await.is(200);
    }
}

#[tokio::test]
async fn the_client_is_known_by_either_kind_of_field() {
    let upstream = Upstream::start().await;
    let builder = Gateway::builder().user("alice", "secret").server("trusted_proxies = [\"127.0.0.1\"]");
    let gateway = builder.upstream("up", "", upstream.address).start().await;
    let guess = async |name: &str, value: &str, number: usize| {
        let request = Request::get("/v2/").login("alice", &format!("wrong {number}")).header(name, value);
        gateway.ask(request).await.status
    };
    for number in 0..10 {
        assert_eq!(guess("Forwarded", "for=\"[2001:db8::1]:80\"", number).await, 401);
    }
    for (name, value) in [
        ("Forwarded", "for=6.6.6.6, for=\"[2001:db8::1]\";proto=http, for=127.0.0.1"),
        ("X-Forwarded-For", "6.6.6.6, 2001:db8::1, ,"),
        ("X-Forwarded-For", "[2001:db8::1]:99, ::ffff:127.0.0.1"),
    ] {
        assert_eq!(guess(name, value, 99).await, 429, "{value} is the same client");
    }
    for (name, value) in [("Forwarded", "for=192.0.2.9"), ("X-Forwarded-For", "unknown")] {
        assert_eq!(guess(name, value, 99).await, 401, "{value} is another");
    }
}

#[tokio::test]
async fn a_proxy_that_speaks_http_1_0_gets_its_answers() {
    let (gateway, _own, other) = behind_a_proxy().await;
    let head = |connection: &str| {
        format!(
            "GET {TARGET} HTTP/1.0\r\nHost: inner\r\nX-Forwarded-Host: registry.example\r\n{connection}\r\n"
        )
    };
    other.expect("GET", TARGET, Reply::ok(EMPTY_INDEX));
    let mut client = gateway.connect().await;
    client.send(head("Connection: close\r\n")).await;
    assert_eq!(client.answer().await.is(200).text(), EMPTY_INDEX);
    client.ends().await;
    let mut client = gateway.connect().await;
    for _ in 0..2 {
        other.expect("GET", TARGET, Reply::ok(EMPTY_INDEX));
        client.send(head("Connection: keep-alive\r\n")).await;
        let answer = client.answer().await.is(200);
        assert_eq!(answer.header("connection"), Some("keep-alive"), "{answer:?}");
    }
}

#[tokio::test]
async fn a_trusted_proxy_gives_requests_their_ids() {
    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let (gateway, _own, _other) = behind_a_proxy().await;
    let asked = async |fields: &[(&str, &str)]| {
        let request = Request::get("/v2/").header("Host", "registry.example");
        let request = fields.iter().fold(request, |request, field| request.header(field.0, field.1));
        gateway.ask(request).await.header("x-request-id").unwrap().to_owned()
    };
    assert_eq!(asked(&[("X-Request-Id", "abc-1")]).await, "abc-1");
    assert_eq!(asked(&[("traceparent", TRACE)]).await, "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(asked(&[("traceparent", TRACE), ("X-Request-Id", "abc-1")]).await, "abc-1");
    for hostile in ["a b", "\"", "<script>", &*"a".repeat(65)] {
        assert_eq!(asked(&[("X-Request-Id", hostile)]).await.len(), 16, "{hostile}");
    }
}

#[tokio::test]
async fn a_client_does_not_choose_its_request_id() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::open(&upstream).await;
    let answer = gateway.ask(Request::get("/v2/").header("X-Request-Id", "abc-1")).await;
    assert_ne!(answer.header("x-request-id"), Some("abc-1"));
}
