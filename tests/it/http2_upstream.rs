//! Upstreams that speak HTTP/2.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use bytes::Bytes;
use dockgate::internals::certificate;
use h2::Reason;
use h2::server::SendResponse;
use http::HeaderMap;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::harness::{
    EMPTY_INDEX, Frames, Gate, Gateway, Request, frame, frame_bytes, index_of, noise, sha256, soon,
};

const MANIFEST: &str = "/v2/a/manifests/x";
const BOTH: &[&str] = &["h2", "http/1.1"];
/// All there is goes by HTTP/2 then, also a request that is alone.
const ONLY: &[&str] = &["h2"];

/// An upstream with TLS that speaks what it is told to, and answers as it is told to.
struct Server {
    address: SocketAddr,
    ca: String,
    log: Arc<Mutex<Log>>,
    task: JoinHandle<()>,
}

/// The log of the server.
#[derive(Debug, Default)]
struct Log {
    /// The protocol of each connection.
    connections: Vec<String>,
    requests: Vec<Asked>,
    resets: usize,
}

/// A request as it came.
#[derive(Clone, Debug)]
struct Asked {
    protocol: String,
    method: String,
    target: String,
    authority: Option<String>,
    headers: HeaderMap,
    body: Bytes,
}

/// The reply to a request.
struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
    end: End,
}

enum End {
    Whole,
    Trailers,
    /// After so many bytes, when the gate opens.
    Reset(usize, Reason, Gate),
    Stall(usize),
    /// Before the head.
    Refuse(Reason),
    /// The connection is to end when this is out.
    GoAway,
}

type Script = Arc<dyn Fn(&Asked) -> Reply + Send + Sync>;

impl Reply {
    fn ok(body: impl Into<Bytes>) -> Self {
        let body = body.into();
        let headers = vec![("content-length", body.len().to_string())];
        Self { status: 200, headers, body, end: End::Whole }
    }

    fn created() -> Self {
        Self { status: 201, ..Self::ok("") }
    }

    fn accepted() -> Self {
        let mut reply = Self { status: 202, ..Self::ok("") };
        reply.headers.push(("location", "/v2/a/blobs/uploads/1".to_owned()));
        reply
    }

    fn refuse(reason: Reason) -> Self {
        Self::ok("").end(End::Refuse(reason))
    }

    fn end(self, end: End) -> Self {
        Self { end, ..self }
    }
}

impl Server {
    /// `protocols`: those that it agrees to, the best first.
    async fn start(protocols: &[&str], script: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let (tls, ca) = tls(protocols);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let log = Arc::new(Mutex::new(Log::default()));
        let task = tokio::spawn(accept(listener, tls, log.clone(), Arc::new(script)));
        Self { address, ca, log, task }
    }

    /// A gateway in front of it, with further lines of its configuration.
    async fn gateway(&self, lines: &str) -> Gateway {
        in_front_of(self.address, &self.ca, lines).await
    }

    fn log(&self) -> parking_lot::MutexGuard<'_, Log> {
        self.log.lock()
    }

    /// How many connections speak this.
    fn connections(&self, protocol: &str) -> usize {
        self.log().connections.iter().filter(|spoken| *spoken == protocol).count()
    }

    fn requests(&self) -> Vec<Asked> {
        self.log().requests.clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn in_front_of(address: SocketAddr, ca: &str, lines: &str) -> Gateway {
    let url = format!("url = \"https://localhost:{}\"\nca = \"ca.crt\"\n{lines}", address.port());
    let builder = Gateway::builder().server("stall_timeout = \"400ms\"");
    builder.upstream_with("up", "", address, &url).file("ca.crt", ca).start().await
}

fn tls(protocols: &[&str]) -> (TlsAcceptor, String) {
    let issued = certificate::issue(&["localhost"]).expect("a certificate");
    let chain = vec![CertificateDer::from_pem_slice(issued.cert_pem.as_bytes()).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.expect("versions").with_no_client_auth();
    let mut config = builder.with_single_cert(chain, key).expect("a pair");
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    (TlsAcceptor::from(Arc::new(config)), issued.ca_pem)
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, log: Arc<Mutex<Log>>, script: Script) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).expect("TCP_NODELAY");
        connections.spawn(serve(stream, tls.clone(), log.clone(), script.clone()));
    }
}

async fn serve(stream: TcpStream, tls: TlsAcceptor, log: Arc<Mutex<Log>>, script: Script) {
    let Ok(stream) = tls.accept(stream).await else { return };
    let protocol =
        String::from_utf8(stream.get_ref().1.alpn_protocol().unwrap_or_default().to_vec()).unwrap();
    log.lock().connections.push(protocol.clone());
    match protocol.as_str() {
        "h2" => serve_http2(stream, log, script).await,
        _ => serve_http1(stream, protocol, log, script).await,
    }
}

async fn serve_http2(stream: TlsStream<TcpStream>, log: Arc<Mutex<Log>>, script: Script) {
    let Ok(mut http2) = h2::server::handshake(stream).await else { return };
    let mut streams = tokio::task::JoinSet::new();
    let (last, mut lasts) = tokio::sync::mpsc::channel(1);
    loop {
        tokio::select! {
            accepted = http2.accept() => {
                let Some(Ok((request, respond))) = accepted else { return };
                streams.spawn(answer(request, respond, log.clone(), script.clone(), last.clone()));
            }
            Some(()) = lasts.recv() => http2.graceful_shutdown(),
        }
    }
}

async fn answer(
    request: http::Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    log: Arc<Mutex<Log>>,
    script: Script,
    last: tokio::sync::mpsc::Sender<()>,
) {
    let (parts, mut stream) = request.into_parts();
    let mut body = Vec::new();
    while let Some(Ok(data)) = stream.data().await {
        stream.flow_control().release_capacity(data.len()).unwrap();
        body.extend_from_slice(&data);
    }
    let asked = asked(&parts, "h2", body.into());
    log.lock().requests.push(asked.clone());
    let reply = script(&asked);
    if let End::Refuse(reason) = reply.end {
        return respond.send_reset(reason);
    }
    let mut head = http::Response::builder().status(reply.status);
    for (name, value) in &reply.headers {
        head = head.header(*name, value);
    }
    let Ok(mut out) = respond.send_response(head.body(()).unwrap(), false) else { return };
    let sent = match reply.end {
        End::Reset(bytes, ..) | End::Stall(bytes) => reply.body.slice(..bytes),
        _ => reply.body,
    };
    let whole = matches!(reply.end, End::Whole | End::GoAway);
    if send(&mut out, sent, whole).await.is_err() {
        log.lock().resets += 1;
        return;
    }
    match reply.end {
        End::Whole | End::Refuse(_) => {}
        End::Trailers => {
            let trailers = HeaderMap::from_iter([(http::header::ETAG, "x".parse().unwrap())]);
            out.send_trailers(trailers).unwrap();
        }
        End::Reset(_, reason, gate) => {
            gate.wait().await;
            out.send_reset(reason);
        }
        End::GoAway => last.send(()).await.unwrap(),
        End::Stall(_) => {
            let _ = std::future::poll_fn(|cx| out.poll_reset(cx)).await;
            log.lock().resets += 1;
        }
    }
}

/// Sends as the windows allow, and waits until all of it is on its way.
async fn send(out: &mut h2::SendStream<Bytes>, mut data: Bytes, end: bool) -> Result<(), ()> {
    while !data.is_empty() {
        out.reserve_capacity(data.len());
        while out.capacity() == 0 {
            std::future::poll_fn(|cx| out.poll_capacity(cx)).await.ok_or(())?.map_err(|_| ())?;
        }
        let part = data.split_to(out.capacity().min(data.len()));
        out.send_data(part, end && data.is_empty()).map_err(|_| ())?;
    }
    out.reserve_capacity(0);
    Ok(())
}

async fn serve_http1(stream: TlsStream<TcpStream>, protocol: String, log: Arc<Mutex<Log>>, script: Script) {
    use http_body_util::{BodyExt, Full};
    let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let (log, script, protocol) = (log.clone(), script.clone(), protocol.clone());
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let asked = asked(&parts, &protocol, body);
            log.lock().requests.push(asked.clone());
            let reply = script(&asked);
            let mut head = http::Response::builder().status(reply.status);
            for (name, value) in &reply.headers {
                head = head.header(*name, value);
            }
            Ok::<_, hyper::Error>(head.body(Full::new(reply.body)).unwrap())
        }
    });
    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

fn asked(parts: &http::request::Parts, protocol: &str, body: Bytes) -> Asked {
    Asked {
        protocol: protocol.to_owned(),
        method: parts.method.to_string(),
        target: parts.uri.path_and_query().unwrap().to_string(),
        authority: parts.uri.authority().map(ToString::to_string),
        headers: parts.headers.clone(),
        body,
    }
}

/// Asks for the manifest this many times at once, each on a connection of its own.
async fn at_once(gateway: &Gateway, count: usize) {
    let all = (0..count).map(|_| async {
        assert_eq!(gateway.get(MANIFEST).await.is(200).text(), EMPTY_INDEX);
    });
    futures_util::future::join_all(all).await;
}

fn workers() -> usize {
    available_parallelism().map_or(1, usize::from)
}

/// A blob, in so many bytes, and where it is.
fn blob(length: usize) -> (Bytes, String) {
    let content = noise(length);
    let target = format!("/v2/a/blobs/{}", sha256(&content));
    (content.into(), target)
}

/// Returns the answer of a server that knows ranges.
fn from_range(content: &Bytes, asked: &Asked) -> Reply {
    let Some(range) = asked.headers.get("range") else { return Reply::ok(content.clone()) };
    let from: usize = range.to_str().unwrap()["bytes=".len()..].trim_end_matches('-').parse().unwrap();
    let mut reply = Reply::ok(content.slice(from..));
    reply.status = 206;
    let range = format!("bytes {from}-{}/{}", content.len() - 1, content.len());
    reply.headers.push(("content-range", range));
    reply
}

#[tokio::test]
async fn a_hundred_cold_requests_share_two_connections() {
    let server = Server::start(BOTH, |_| Reply::ok(EMPTY_INDEX)).await;
    let gateway = server.gateway("").await;
    for _ in 0..2 {
        at_once(&gateway, 100).await;
        // The first request is alone.
        assert!(server.connections("http/1.1") <= workers(), "{:?}", server.log().connections);
        assert!((1..=workers()).contains(&server.connections("h2")), "{:?}", server.log().connections);
    }
    assert_eq!(server.requests().len(), 200);
}

#[tokio::test]
async fn with_never_no_request_goes_by_http2() {
    let server = Server::start(BOTH, |_| Reply::ok(EMPTY_INDEX)).await;
    let gateway = server.gateway("http2 = \"never\"").await;
    at_once(&gateway, 20).await;
    assert_eq!((server.connections("h2"), server.requests().len()), (0, 20));
}

#[tokio::test]
async fn with_always_every_request_goes_by_http2() {
    let (content, target) = blob(100_000);
    let served = content.clone();
    let server = Server::start(BOTH, move |asked| match asked.target.as_str() {
        MANIFEST => Reply::ok(EMPTY_INDEX),
        _ => Reply::ok(served.clone()),
    })
    .await;
    let gateway = server.gateway("http2 = \"always\"").await;
    at_once(&gateway, 20).await;
    assert!(gateway.get(&target).await.is(200).body == content);
    assert_eq!((server.connections("http/1.1"), server.requests().len()), (0, 21));
}

#[tokio::test]
async fn http2_always_still_speaks_http1_when_needed() {
    let (content, target) = blob(100_000);
    let served = content.clone();
    let server = Server::start(&["http/1.1"], move |_| Reply::ok(served.clone())).await;
    let gateway = server.gateway("http2 = \"always\"").await;
    let mut client = gateway.connect().await;
    for _ in 0..3 {
        assert!(client.ask(&Request::get(&target)).await.is(200).body == content);
    }
    assert_eq!(server.log().connections.len(), 1);
}

#[tokio::test]
async fn requests_that_come_one_by_one_need_one_connection() {
    let server = Server::start(BOTH, |_| Reply::ok(EMPTY_INDEX)).await;
    let gateway = server.gateway("").await;
    let mut client = gateway.connect().await;
    for _ in 0..5 {
        client.ask(&Request::get(MANIFEST)).await.is(200);
    }
    assert_eq!(server.log().connections, ["http/1.1"], "blobs find it warm");
}

#[tokio::test]
async fn a_request_is_framed_as_http2_wants_it() {
    let server = Server::start(ONLY, |_| Reply::ok(EMPTY_INDEX)).await;
    let gateway = server.gateway("").await;
    gateway
        .ask(Request::get(MANIFEST).header("Connection", "x-secret").header("X-Secret", "1"))
        .await
        .is(200);
    let asked = server.requests().pop().unwrap();
    assert_eq!(asked.authority.unwrap(), format!("localhost:{}", server.address.port()));
    for name in ["host", "connection", "x-secret", "te", "content-length"] {
        assert!(!asked.headers.contains_key(name), "{name}: {:?}", asked.headers);
    }
}

#[tokio::test]
async fn a_manifest_is_pushed_whole_by_http2() {
    let server = Server::start(ONLY, |_| Reply::created()).await;
    let gateway = server.gateway("").await;
    let manifest = noise(300_000);
    let put = Request::put(MANIFEST).header("Content-Type", "application/json").body(manifest.clone());
    gateway.ask(put).await.is(201);
    let asked = server.requests().pop().unwrap();
    assert_eq!((asked.protocol.as_str(), asked.method.as_str()), ("h2", "PUT"));
    assert!(asked.body == manifest, "{} bytes", asked.body.len());
    assert_eq!(asked.headers["content-length"], "300000");
}

#[tokio::test]
async fn blobs_and_uploads_go_by_http1() {
    let (content, target) = blob(100_000);
    let served = content.clone();
    let server = Server::start(BOTH, move |asked| match asked.method.as_str() {
        "GET" => Reply::ok(served.clone()),
        _ => Reply::accepted(),
    })
    .await;
    let gateway = server.gateway("").await;
    assert!(gateway.get(&target).await.is(200).body == content);
    let location = gateway.ask(Request::post("/v2/a/blobs/uploads/")).await.is(202);
    let location = location.header("location").unwrap().to_owned();
    gateway.ask(Request::patch(location).body(content.clone())).await.is(202);
    let protocols: Vec<_> =
        server.requests().into_iter().map(|asked| (asked.method, asked.protocol)).collect();
    assert!(protocols.contains(&("GET".to_owned(), "http/1.1".to_owned())), "{protocols:?}");
    assert!(protocols.contains(&("PATCH".to_owned(), "http/1.1".to_owned())), "{protocols:?}");
}

#[tokio::test]
async fn an_http1_server_keeps_one_connection() {
    for protocols in [&["http/1.1"][..], &[]] {
        let server = Server::start(protocols, |_| Reply::ok(EMPTY_INDEX)).await;
        let gateway = server.gateway("").await;
        let mut client = gateway.connect().await;
        for _ in 0..3 {
            assert_eq!(client.ask(&Request::get(MANIFEST)).await.is(200).text(), EMPTY_INDEX);
        }
        assert_eq!(server.log().connections.len(), 1, "what was offered both is used for what it took");
    }
}

#[tokio::test]
async fn a_server_that_speaks_http2_only_serves_all() {
    let (content, target) = blob(3_000_000);
    let served = content.clone();
    let server = Server::start(ONLY, move |asked| match (asked.method.as_str(), asked.target.as_str()) {
        ("GET" | "HEAD", MANIFEST) => Reply::ok(EMPTY_INDEX),
        ("GET", _) => Reply::ok(served.clone()),
        _ => Reply::accepted(),
    })
    .await;
    let gateway = server.gateway("").await;
    let mut client = gateway.connect().await;
    for _ in 0..2 {
        assert_eq!(client.ask(&Request::get(MANIFEST)).await.is(200).text(), EMPTY_INDEX);
        assert!(client.ask(&Request::get(&target)).await.is(200).body == content);
    }
    let location = client.ask(&Request::post("/v2/a/blobs/uploads/")).await.is(202);
    let location = location.header("location").unwrap().to_owned();
    client.ask(&Request::patch(location).body(content.clone())).await.is(202);
    assert!(server.requests().pop().unwrap().body == content);
    assert_eq!(server.connections("http/1.1"), 0);
}

#[tokio::test]
async fn a_blob_reset_midway_is_resumed() {
    for reason in [Reason::NO_ERROR, Reason::CANCEL, Reason::INTERNAL_ERROR] {
        let (content, target) = blob(200_000);
        let (served, gate) = (content.clone(), Gate::shut());
        let cut = gate.clone();
        let server = Server::start(ONLY, move |asked| match asked.headers.contains_key("range") {
            false => Reply::ok(served.clone()).end(End::Reset(60_000, reason, cut.clone())),
            true => from_range(&served, asked),
        })
        .await;
        let gateway = server.gateway("").await;
        let mut client = gateway.connect().await;
        client.send(Request::get(&target).bytes("localhost")).await;
        client.head().await.is(200);
        let mut body = client.read_exactly(60_000).await;
        gate.open();
        body.extend(client.read_exactly(140_000).await);
        assert!(body == content, "{reason:?}");
        let asked = server.requests().pop().unwrap();
        assert_eq!(asked.headers["range"], "bytes=60000-", "{reason:?}");
    }
}

#[tokio::test]
async fn a_blob_that_stalls_is_gone_on_with() {
    let (content, target) = blob(200_000);
    let served = content.clone();
    let server = Server::start(ONLY, move |asked| match asked.headers.contains_key("range") {
        false => Reply::ok(served.clone()).end(End::Stall(60_000)),
        true => from_range(&served, asked),
    })
    .await;
    let gateway = server.gateway("").await;
    assert!(gateway.get(&target).await.is(200).body == content);
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn a_reset_manifest_is_not_taken_for_whole() {
    let ends: [fn(&Gate) -> End; 3] = [
        |gate| End::Reset(5000, Reason::NO_ERROR, gate.clone()),
        |gate| End::Reset(5000, Reason::CANCEL, gate.clone()),
        |_| End::Stall(5000),
    ];
    for (end, with_length) in ends.into_iter().flat_map(|end| [(end, true), (end, false)]) {
        let (content, gate) = (index_of(&"x".repeat(9000)), Gate::shut());
        gate.open();
        gate.open();
        let server = Server::start(ONLY, move |_| {
            let mut reply = Reply::ok(content.clone()).end(end(&gate));
            reply.headers.retain(|_| with_length);
            reply
        })
        .await;
        let gateway = server.gateway("").await;
        gateway.get(MANIFEST).await.refuses(502, "UNAVAILABLE");
        assert!(server.requests().len() >= 2, "it is asked for once more");
    }
}

#[tokio::test]
async fn trailers_are_dropped() {
    let server = Server::start(ONLY, |_| {
        let mut reply = Reply::ok(EMPTY_INDEX).end(End::Trailers);
        reply.headers.clear();
        reply
    })
    .await;
    let gateway = server.gateway("").await;
    let answer = gateway.get(MANIFEST).await.is(200);
    assert_eq!((answer.text().as_str(), answer.header("etag")), (EMPTY_INDEX, None));
}

#[tokio::test]
async fn after_goaway_the_next_request_makes_another_connection() {
    let server = Server::start(ONLY, |_| Reply::ok(EMPTY_INDEX).end(End::GoAway)).await;
    let gateway = server.gateway("retries = 0").await;
    let mut client = gateway.connect().await;
    soon("another connection", async {
        while server.connections("h2") < 3 {
            assert_eq!(client.ask(&Request::get(MANIFEST)).await.is(200).text(), EMPTY_INDEX);
        }
    })
    .await;
}

/// No request is late because another one failed.
#[tokio::test]
async fn waiters_of_a_failed_connection_fail_together() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let lines = format!("url = \"https://{address}\"\nretries = 0\nconnect_timeout = \"1s\"");
    let gateway = Gateway::builder().upstream_with("up", "", address, &lines).start().await;
    let gets = futures_util::future::join_all((0..40).map(|_| gateway.get(MANIFEST)));
    let answers = tokio::time::timeout(Duration::from_secs(10), gets).await;
    for answer in answers.expect("not one after the other") {
        answer.refuses(504, "UNAVAILABLE");
    }
}

#[tokio::test]
async fn unprocessed_http2_requests_are_repeated_over_http1() {
    for reason in [Reason::REFUSED_STREAM, Reason::HTTP_1_1_REQUIRED] {
        let server = Server::start(BOTH, move |asked| match asked.protocol.as_str() {
            "h2" => Reply::refuse(reason),
            _ => Reply::created(),
        })
        .await;
        let gateway = server.gateway("retries = 0").await;
        let puts = (0..50).map(|_| gateway.ask(Request::put(MANIFEST).body("{}")));
        for answer in futures_util::future::join_all(puts).await {
            answer.is(201);
        }
        let by = |protocol| server.requests().iter().filter(|asked| asked.protocol == protocol).count();
        assert_eq!(by("http/1.1"), 50, "{reason:?}");
        assert!((1..50).contains(&by("h2")), "{reason:?}: {}", by("h2"));
    }
}

#[tokio::test]
async fn a_possibly_processed_write_is_not_repeated() {
    let server = Server::start(ONLY, |_| Reply::refuse(Reason::INTERNAL_ERROR)).await;
    let gateway = server.gateway("").await;
    gateway.ask(Request::put(MANIFEST).body("{}")).await.refuses(502, "UNAVAILABLE");
    assert_eq!(server.requests().len(), 1);
}

/// A list of tags of 4 MB: manifests are read whole, blobs have connections of their own.
fn large_list() -> String {
    format!(r#"{{"name":"a","tags":["{}"]}}"#, "x".repeat(4_000_000))
}

#[tokio::test]
async fn stalled_readers_do_not_stop_the_others() {
    let large = Bytes::from(large_list());
    let served = large.clone();
    let server = Server::start(ONLY, move |asked| match asked.target.as_str() {
        MANIFEST => Reply::ok(EMPTY_INDEX),
        _ => Reply::ok(served.clone()),
    })
    .await;
    let gateway = server.gateway("").await;
    let mut idle = Vec::new();
    for _ in 0..40 {
        let mut client = gateway.connect().await;
        client.send(Request::get("/v2/a/tags/list").bytes("localhost")).await;
        idle.push(client);
    }
    for client in &mut idle {
        client.head().await.is(200);
    }
    at_once(&gateway, 10).await;
    assert_eq!(server.connections("http/1.1"), 0, "{:?}", server.log().connections);
}

#[tokio::test]
async fn a_client_that_leaves_resets_its_stream_alone() {
    let server = Server::start(ONLY, |asked| match asked.target.as_str() {
        MANIFEST => Reply::ok(EMPTY_INDEX),
        _ => Reply::ok(large_list()).end(End::Stall(1_000_000)),
    })
    .await;
    let gateway = server.gateway("").await;
    let mut client = gateway.connect().await;
    client.send(Request::get("/v2/a/tags/list").bytes("localhost")).await;
    client.head().await.is(200);
    drop(client);
    soon("a reset", async {
        while server.log().resets == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    at_once(&gateway, 4).await;
    assert!(server.connections("h2") <= workers());
}

/// An upstream of single frames: it answers the first request of its first connection, and sends the second away
/// unprocessed; later connections answer all.
async fn goes_away(listener: TcpListener, tls: TlsAcceptor) {
    let mut connections = 0;
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        // The first offers HTTP/1.1 alone.
        let Ok(mut stream) = tls.accept(stream).await else { continue };
        connections += 1;
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await.unwrap();
        tokio::spawn(async move {
            let mut frames = Frames::of(stream);
            frames.send(frame::SETTINGS, 0, 0, b"").await;
            while let Some(request) = frames.next().await {
                if request.kind != frame::HEADERS {
                    continue;
                }
                if connections == 1 && request.stream > 1 {
                    let last_and_reason = [0, 0, 0, 1, 0, 0, 0, 0];
                    frames.send(frame::GOAWAY, 0, 0, &last_and_reason).await;
                    continue;
                }
                // `:status: 201` and nothing else (RFC 7541 section 6.2.2, with the name from the static table).
                let head = [0x08, 3, b'2', b'0', b'1'];
                let flags = frame::END_HEADERS | frame::END_STREAM;
                let bytes = frame_bytes(frame::HEADERS, flags, request.stream, &head);
                assert!(frames.try_send(&bytes).await);
            }
        });
    }
}

#[tokio::test]
async fn requests_unprocessed_at_goaway_are_sent_again() {
    let (acceptor, ca) = tls(&["h2"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(goes_away(listener, acceptor));
    let gateway = in_front_of(address, &ca, "retries = 0").await;
    let mut client = gateway.connect().await;
    for _ in 0..3 {
        client.ask(&Request::put(MANIFEST).body("{}")).await.is(201);
    }
    task.abort();
}
