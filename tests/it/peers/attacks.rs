//! The listener for other replicas, attacked.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dockgate::internals::Secret;
use dockgate::internals::clock;
use dockgate::internals::peer_tls;
use rustls::ClientConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Fleet, SECRET};
use crate::harness::{Client, Request, noise, soon};

async fn connect(address: SocketAddr, config: Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = soon("a connection", TcpStream::connect(address)).await?;
    let name = "peer".try_into().expect("a name");
    soon("a handshake", TlsConnector::from(config).connect(name, stream)).await
}

/// Connects as a replica does.
async fn replica(fleet: &Fleet) -> Client {
    Client::of(connect(fleet.members[0], peer_tls(&Secret::new(SECRET))).await.expect("a handshake"))
}

#[tokio::test]
async fn a_key_of_another_secret_is_not_let_in() {
    let fleet = Fleet::start(1, "").await;
    let stranger = peer_tls(&Secret::new("fedcba9876543210fedcba9876543210"));
    assert!(
        connect(fleet.members[0], stranger.clone()).await.is_err(),
        "it does not know the replica either"
    );
    let mut config = ClientConfig::clone(&peer_tls(&Secret::new(SECRET)));
    config.client_auth_cert_resolver = stranger.client_auth_cert_resolver.clone();
    // With TLS 1.3 the refusal comes with the first bytes.
    let mut stream = connect(fleet.members[0], Arc::new(config)).await.expect("half a handshake");
    let _ = stream.write_all(b"GET /alive HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut answer = Vec::new();
    assert!(soon("the end", stream.read_to_end(&mut answer)).await.is_err() && answer.is_empty());
}

#[tokio::test]
async fn another_version_of_the_protocol_is_not_let_in() {
    let fleet = Fleet::start(1, "").await;
    for protocols in
        [vec![b"dockgate-peer/0".to_vec()], vec![b"http/1.1".to_vec(), b"h2".to_vec()], Vec::new()]
    {
        let mut config = ClientConfig::clone(&peer_tls(&Secret::new(SECRET)));
        config.alpn_protocols = protocols.clone();
        let mut answer = Vec::new();
        if let Ok(mut stream) = connect(fleet.members[0], Arc::new(config)).await {
            let _ = stream.write_all(b"GET /alive HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let _ = soon("the end", stream.read_to_end(&mut answer)).await;
        }
        assert!(answer.is_empty(), "{protocols:?}: {}", String::from_utf8_lossy(&answer));
    }
}

#[tokio::test]
async fn plain_http_gets_no_byte() {
    let fleet = Fleet::start(1, "").await;
    let mut stream = TcpStream::connect(fleet.members[0]).await.unwrap();
    stream.write_all(b"GET /alive HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = soon("the end", stream.read_to_end(&mut answer)).await;
    assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn the_registrys_own_api_is_not_there() {
    let fleet = Fleet::start(1, "").await;
    let target = fleet.origin.blob("a", &noise(10));
    for request in [
        Request::get("/v2/"),
        Request::get(&target),
        Request::get("/v1/blob"),
        Request::post("/v1/written"),
        Request::post("/v1/doubt"),
        Request::post("/v1/order"),
        Request::post("/v1/order").body("{\"order\":\"remove\",\"pattern\":\"//\"}"),
    ] {
        replica(&fleet).await.ask(&request).await.is(400);
    }
    replica(&fleet).await.ask(&Request::get("/alive")).await.is(204);
    assert_eq!(fleet.origin.requests(), [""; 0]);
}

#[tokio::test]
async fn an_upstream_that_it_does_not_know_is_not_asked() {
    let fleet = Fleet::start(1, "").await;
    let question = |upstream: &str| {
        Request::get("/v1/manifest")
            .header("Dockgate-Upstream", upstream)
            .header("Dockgate-Repository", "a")
            .header("Dockgate-Subject", "1")
            .header("Dockgate-Client", "192.0.2.1")
    };
    let known = format!("up http://{}", fleet.origin.address());
    replica(&fleet).await.ask(&question("up http://192.0.2.1")).await.is(504);
    assert_eq!(fleet.origin.requests(), [""; 0]);
    // It is not known who asks: nothing is asked for it.
    replica(&fleet).await.ask(&question(&known)).await.is(504);
    assert_eq!(fleet.origin.requests(), [""; 0]);
}

#[tokio::test]
async fn a_huge_head_is_refused() {
    let fleet = Fleet::start(1, "").await;
    let mut client = replica(&fleet).await;
    let request = Request::get("/alive").header("X", "x".repeat(1 << 20));
    let _ = client.try_send(request.bytes("a")).await;
    let refused = client.try_head().await;
    assert!(refused.is_none_or(|answer| answer.status == 431));
    replica(&fleet).await.ask(&Request::get("/alive")).await.is(204);
}

#[tokio::test]
async fn a_slow_head_is_given_up() {
    let fleet = Fleet::start(1, "").await;
    let mut client = replica(&fleet).await;
    let began = clock::now();
    client.send("GET /alive HTTP/1.1\r\nHost:").await;
    let _ = client.ends().await;
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    replica(&fleet).await.ask(&Request::get("/alive")).await.is(204);
}
