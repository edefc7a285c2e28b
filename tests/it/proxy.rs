//! The way out through a proxy.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{
    EMPTY_INDEX, Gateway, Headers, Reply, Request, Upstream, basic, is_told, noise, read_head, sha256,
};

const MANIFEST: &str = "/v2/a/manifests/x";

/// The start line and the fields of each request that came.
type Heard = Arc<Mutex<Vec<(String, Headers)>>>;

/// A proxy that connects to wherever it is told, if it is told this `Proxy-Authorization`.
struct Proxy {
    address: SocketAddr,
    heard: Heard,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    async fn start(wanted: Option<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, heard) = (listener.local_addr().unwrap(), Heard::default());
        let remembered = heard.clone();
        let task = tokio::spawn(async move {
            let mut tunnels = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                tunnels.spawn(tunnel(stream, wanted.clone(), remembered.clone()));
            }
        });
        Self { address, heard, task }
    }

    fn asked(&self) -> Vec<String> {
        self.heard.lock().unwrap().iter().map(|(start, _)| start.clone()).collect()
    }

    fn told(&self) -> Vec<Option<String>> {
        let heard = self.heard.lock().unwrap();
        heard.iter().map(|(_, headers)| headers.get("proxy-authorization").map(str::to_owned)).collect()
    }

    /// A gateway that goes out through it, by `login` before the `@`, to a registry with TLS.
    async fn before(&self, registry: &Upstream, login: &str, cas: &str, lines: &str) -> Gateway {
        let lines = format!(
            "url = \"{}\"\nca = \"ca.crt\"\nproxy = \"http://{login}{}\"\nretries = 0\n{lines}",
            registry.url(""),
            self.address
        );
        let builder = Gateway::builder().file("ca.crt", cas);
        builder.upstream_with("up", "", registry.address, &lines).start().await
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn tunnel(mut stream: TcpStream, wanted: Option<String>, heard: Heard) {
    let Ok(Some((start, headers))) = read_head(&mut stream, &mut BytesMut::new()).await else { return };
    let told = headers.get("proxy-authorization").map(str::to_owned);
    heard.lock().unwrap().push((start.clone(), headers));
    if told != wanted {
        let refusal =
            "HTTP/1.1 407 Who\r\nProxy-Authenticate: Basic realm=\"t0psecret\"\r\nContent-Length: 0\r\n\r\n";
        let _ = stream.write_all(refusal.as_bytes()).await;
        return;
    }
    let target = start.strip_prefix("CONNECT ").and_then(|rest| rest.strip_suffix(" HTTP/1.1")).unwrap();
    let Ok(mut there) = TcpStream::connect(target).await else { return };
    if stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await.is_ok() {
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut there).await;
    }
}

fn egress() -> Option<String> {
    Some(basic("egress", "t0psecret-egress"))
}

fn connect(upstream: &Upstream) -> String {
    format!("CONNECT localhost:{} HTTP/1.1", upstream.address.port())
}

#[tokio::test]
async fn a_proxy_with_a_password_is_used() {
    let (registry, proxy) = (Upstream::start_tls().await, Proxy::start(egress()).await);
    let ca = registry.ca.clone().unwrap();
    let gateway = proxy.before(&registry, "egress:t0psecret-egress@", &ca, "").await;
    let mut asked = registry.expect("GET", MANIFEST, Reply::ok(EMPTY_INDEX));
    let mut client = gateway.connect().await;
    client.ask(&Request::get(MANIFEST)).await.is(200);
    assert_eq!((proxy.asked(), proxy.told()), (vec![connect(&registry)], vec![egress()]));
    assert!(!is_told(&format!("{:?}", asked.done().await.headers)));
    registry.expect("PUT", MANIFEST, Reply::status(201));
    client.ask(&Request::put(MANIFEST).body("{}")).await.is(201);
    assert_eq!(proxy.asked().len(), 1, "the tunnel is used again");
}

#[tokio::test]
async fn a_proxy_that_refuses_is_502() {
    for login in ["", "alice:t0psecret-alice@"] {
        let (registry, proxy) = (Upstream::start_tls().await, Proxy::start(egress()).await);
        let ca = registry.ca.clone().unwrap();
        let gateway = proxy.before(&registry, login, &ca, "").await;
        gateway.get(MANIFEST).await.refuses(502, "UNAVAILABLE");
        assert_eq!((proxy.asked().len(), registry.connections()), (1, 0));
    }
}

#[tokio::test]
async fn through_a_proxy_only_listed_hosts_are_redirected_to() {
    let (registry, cdn) = (Upstream::start_tls().await, Upstream::start_tls().await);
    let (proxy, blob) = (Proxy::start(None).await, format!("/v2/a/blobs/{}", sha256(b"")));
    let cas = [registry.ca.as_deref().unwrap(), cdn.ca.as_deref().unwrap()].concat();
    let gateway = proxy.before(&registry, "", &cas, "").await;
    let mut client = gateway.connect().await;
    for location in [
        "https://cdn.example/x?sig=t0psecret".to_owned(),
        "https://93.184.215.14/x".to_owned(),
        cdn.url("/x"),
    ] {
        registry.expect("GET", blob.as_str(), Reply::status(307).header("Location", &location));
        client.ask(&Request::get(&blob)).await.refuses(502, "UNAVAILABLE");
    }
    assert_eq!(proxy.asked(), [connect(&registry)]);

    let named = format!("redirect_hosts = [\"localhost:{}\"]", cdn.address.port());
    let gateway = proxy.before(&registry, "", &cas, &named).await;
    registry.expect(
        "GET",
        blob.as_str(),
        Reply::status(307).header("Location", &cdn.url("/x?sig=t0psecret")),
    );
    let content = noise(300_000);
    cdn.expect("GET", "/x?sig=t0psecret", Reply::ok(&content));
    assert!(gateway.get(&blob).await.is(200).body == content);
    assert_eq!(proxy.asked()[1..], [connect(&registry), connect(&cdn)]);
    assert_eq!(proxy.told(), [None, None, None]);
}
