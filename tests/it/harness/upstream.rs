//! An upstream that follows a script, and fails the test on whatever is not in it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use dockgate::internals::certificate;
use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ClientCertVerifierBuilder;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::client::Io;
use super::message::{BodyEnd, Framing, Headers, framing, read_body, read_head};
use super::script::{Reply, Step};
use super::soon;

/// A scripted upstream. Dropped, it fails the test for unexpected requests and for expectations that
/// were not met.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    /// The CA of its certificate, where it has one.
    pub(crate) ca: Option<String>,
    state: Arc<Mutex<State>>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct State {
    expected: Vec<Expected>,
    standing: Vec<Standing>,
    /// The reply to every other request.
    rest: Option<Box<Rest>>,
    unexpected: Vec<String>,
    heard: Vec<Heard>,
    connections: usize,
    /// Of them, those on which we were shown a certificate.
    certified: usize,
}

type Rest = dyn Fn(&Heard) -> Option<Reply> + Send;

/// A reply to every request of that method and target that meets no expectation.
struct Standing {
    method: String,
    target: String,
    reply: Box<dyn Fn(&Headers) -> Reply + Send>,
}

impl Standing {
    fn is_for(&self, target: &str) -> bool {
        let beginning = self.target.strip_suffix('*');
        beginning.map_or(self.target == target, |beginning| target.starts_with(beginning))
    }
}

/// A request that came.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Headers,
}

struct Expected {
    method: String,
    target: String,
    reply: Reply,
    progress: watch::Sender<Progress>,
}

/// One request as the upstream saw it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    /// Which connection it came on, counted from 1.
    pub(crate) connection: usize,
    pub(crate) headers: Headers,
    pub(crate) body: Vec<u8>,
    /// Bytes of the body, also where they are not kept.
    pub(crate) received: usize,
    pub(crate) body_end: Option<BodyEnd>,
    /// Bytes of the answer that the gateway's side has taken.
    pub(crate) written: usize,
    /// The gateway has closed the connection, or broken it.
    pub(crate) abandoned: bool,
    arrived: bool,
    done: bool,
}

/// One expected request, to be watched.
pub(crate) struct Exchange(watch::Receiver<Progress>);

/// Bodies are kept up to this; of larger ones only the length counts.
const KEPT: usize = 1 << 20;

impl Upstream {
    pub(crate) async fn start() -> Self {
        Self::listen(None, None).await
    }

    /// One that speaks TLS, as `localhost`.
    pub(crate) async fn start_tls() -> Self {
        Self::start_tls_with(WebPkiClientVerifier::no_client_auth()).await
    }

    /// Starts it for clients with a certificate of `ca` only.
    pub(crate) async fn start_mutual_tls(ca: &str) -> Self {
        Self::start_tls_with(client_verifier(ca).build().expect("a verifier")).await
    }

    /// Starts it with an optional client certificate of `ca`.
    pub(crate) async fn start_curious_tls(ca: &str) -> Self {
        let verifier = client_verifier(ca).allow_unauthenticated();
        Self::start_tls_with(verifier.build().expect("a verifier")).await
    }

    async fn start_tls_with(clients: Arc<dyn ClientCertVerifier>) -> Self {
        let issued = certificate::issue(&["localhost"]).expect("a certificate");
        let chain = vec![CertificateDer::from_pem_slice(issued.cert_pem.as_bytes()).expect("a certificate")];
        let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).expect("a key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.expect("versions");
        let builder = builder.with_client_cert_verifier(clients);
        let config = builder.with_single_cert(chain, key).expect("a pair");
        Self::listen(Some(TlsAcceptor::from(Arc::new(config))), Some(issued.ca_pem)).await
    }

    /// Takes no connection any more, and breaks those that there are.
    pub(crate) async fn dies(&mut self) {
        self.task.abort();
        let _ = soon("the end of its task", &mut self.task).await;
    }

    /// Is there again, at its old address.
    pub(crate) async fn returns(&mut self) {
        let binding = async {
            loop {
                match TcpListener::bind(self.address).await {
                    Ok(listener) => return listener,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        let listener = soon("its old address", binding).await;
        self.task = tokio::spawn(accept(listener, None, self.state.clone()));
    }

    async fn listen(tls: Option<TlsAcceptor>, ca: Option<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(Mutex::new(State::default()));
        let task = tokio::spawn(accept(listener, tls, state.clone()));
        Self { address, ca, state, task }
    }

    /// The next request of that method and target is answered so.
    pub(crate) fn expect(&self, method: &str, target: impl Into<String>, reply: Reply) -> Exchange {
        let (progress, watched) = watch::channel(Progress::default());
        let (method, target) = (method.to_owned(), target.into());
        lock(&self.state).expected.push(Expected { method, target, reply, progress });
        Exchange(watched)
    }

    /// Every request of that method and target is answered so, however many there are. A target that ends in `*` is the
    /// beginning of many.
    pub(crate) fn always(
        &self,
        method: &str,
        target: impl Into<String>,
        reply: impl Fn(&Headers) -> Reply + Send + 'static,
    ) {
        let (method, target, reply) = (method.to_owned(), target.into(), Box::new(reply));
        lock(&self.state).standing.push(Standing { method, target, reply });
    }

    /// Sets the reply to requests that meet nothing else.
    pub(crate) fn otherwise(&self, reply: impl Fn(&Heard) -> Option<Reply> + Send + 'static) {
        lock(&self.state).rest = Some(Box::new(reply));
    }

    /// On how many of them we were shown a certificate.
    pub(crate) fn certified(&self) -> usize {
        lock(&self.state).certified
    }

    /// Takes back what [`Upstream::always`] was told.
    pub(crate) fn forget(&self, method: &str, target: &str) {
        lock(&self.state).standing.retain(|one| one.method != method || one.target != target);
    }

    /// All requests so far.
    pub(crate) fn heard(&self) -> Vec<Heard> {
        lock(&self.state).heard.clone()
    }

    /// From now on [`Upstream::heard`] begins anew.
    pub(crate) fn forget_heard(&self) {
        lock(&self.state).heard.clear();
    }

    /// The value of a header field in each request so far, in their order.
    pub(crate) fn heard_of(&self, header: &str) -> Vec<Option<String>> {
        self.heard().iter().map(|heard| heard.headers.get(header).map(str::to_owned)).collect()
    }

    /// A URL here.
    pub(crate) fn url(&self, target: &str) -> String {
        let (scheme, host) = match &self.ca {
            Some(_) => ("https", format!("localhost:{}", self.address.port())),
            None => ("http", self.address.to_string()),
        };
        format!("{scheme}://{host}{target}")
    }

    /// How many connections have been made so far.
    pub(crate) fn connections(&self) -> usize {
        lock(&self.state).connections
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
        if std::thread::panicking() {
            return;
        }
        let state = lock(&self.state);
        assert!(state.unexpected.is_empty(), "unexpected requests: {:#?}", state.unexpected);
        let left: Vec<_> =
            state.expected.iter().map(|one| format!("{} {}", one.method, one.target)).collect();
        assert!(left.is_empty(), "expected requests that never came: {left:#?}");
    }
}

impl Exchange {
    /// Waits until `condition` holds of what the upstream has seen.
    pub(crate) async fn until(&mut self, condition: impl FnMut(&Progress) -> bool) -> Progress {
        let waiting = self.0.wait_for(condition);
        soon("the upstream to see it", waiting).await.expect("the script goes on").clone()
    }

    /// Waits for the request's head.
    pub(crate) async fn arrived(&mut self) -> Progress {
        self.until(|seen| seen.arrived).await
    }

    /// Waits until the upstream has done all that it was told to do.
    pub(crate) async fn done(&mut self) -> Progress {
        self.until(|seen| seen.done).await
    }

    /// Waits for the end of the request's body.
    pub(crate) async fn body_ended(&mut self) -> Progress {
        self.until(|seen| seen.body_end.is_some()).await
    }

    /// Waits until the gateway has closed the connection on which this came.
    pub(crate) async fn abandoned(&mut self) -> Progress {
        self.until(|seen| seen.abandoned).await
    }
}

fn client_verifier(ca: &str) -> ClientCertVerifierBuilder {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).expect("a CA")).expect("a CA");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
}

fn lock(state: &Mutex<State>) -> parking_lot::MutexGuard<'_, State> {
    state.lock()
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, state: Arc<Mutex<State>>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).expect("TCP_NODELAY");
        let number = {
            let mut state = lock(&state);
            state.connections += 1;
            state.connections
        };
        connections.spawn(serve(stream, tls.clone(), number, state.clone()));
    }
}

async fn serve(stream: TcpStream, tls: Option<TlsAcceptor>, number: usize, state: Arc<Mutex<State>>) {
    let socket = SockRef::from(&stream).try_clone().expect("a second handle");
    let io: Box<dyn Io> = match tls {
        None => Box::new(stream),
        // A client that does not trust the certificate goes away.
        Some(tls) => match tls.accept(stream).await {
            Ok(stream) => {
                lock(&state).certified += usize::from(stream.get_ref().1.peer_certificates().is_some());
                Box::new(stream)
            }
            Err(_) => return,
        },
    };
    Connection { io, socket, buffer: BytesMut::new(), number, state, asked_to_continue: false }.run().await;
}

struct Connection {
    io: Box<dyn Io>,
    /// Returns the connection, for its options.
    socket: socket2::Socket,
    buffer: BytesMut,
    number: usize,
    state: Arc<Mutex<State>>,
    /// The request waits for `100 Continue` before it sends its body.
    asked_to_continue: bool,
}

impl Connection {
    async fn run(mut self) {
        while let Ok(Some((start, headers))) = read_head(&mut self.io, &mut self.buffer).await {
            let Some(expected) = self.take(&start, &headers) else { return };
            if !self.follow(expected, headers).await {
                return;
            }
        }
    }

    /// The expectation that a request meets; what meets none is remembered, and the connection ended.
    fn take(&self, start: &str, headers: &Headers) -> Option<Expected> {
        let mut state = lock(&self.state);
        let request = start.strip_suffix(" HTTP/1.1").and_then(|line| line.split_once(' '));
        let (method, target) = request.unwrap_or((start, ""));
        let (method, target) = (method.to_owned(), target.to_owned());
        let heard = Heard { method: method.clone(), target: target.clone(), headers: headers.clone() };
        state.heard.push(heard.clone());
        // Secrets for the gateway alone must not reach any upstream.
        let passed_on = headers.get("cookie").is_some() || target.contains("?ns=") || target.contains("&ns=");
        let place = state.expected.iter().position(|one| one.method == method && one.target == target);
        if let Some(place) = place.filter(|_| !passed_on) {
            return Some(state.expected.remove(place));
        }
        let standing = state.standing.iter().find(|one| one.method == method && one.is_for(&target));
        let standing = standing.map(|standing| (standing.reply)(headers));
        let rest = || state.rest.as_ref().and_then(|reply| reply(&heard));
        let Some(reply) = standing.or_else(rest).filter(|_| !passed_on) else {
            state.unexpected.push(format!("{start} {headers:?}"));
            return None;
        };
        let (progress, _) = watch::channel(Progress::default());
        Some(Expected { method, target, reply, progress })
    }

    /// Returns true if the connection goes on after it.
    async fn follow(&mut self, expected: Expected, headers: Headers) -> bool {
        let progress = expected.progress;
        let mut framing = Some(framing(&headers, Framing::Length(0)));
        self.asked_to_continue = headers.get("expect") == Some("100-continue");
        let connection = self.number;
        progress.send_modify(|seen| {
            *seen = Progress { connection, headers, arrived: true, ..Progress::default() };
        });
        let mut goes_on = true;
        for step in expected.reply.into_steps(expected.method == "HEAD") {
            goes_on = self.step(step, &mut framing, &progress).await;
            if !goes_on {
                break;
            }
        }
        if goes_on && let Some(rest) = framing.take() {
            goes_on = self.read(rest, &progress).await;
        }
        progress.send_modify(|seen| seen.done = true);
        goes_on
    }

    async fn step(
        &mut self,
        step: Step,
        body: &mut Option<Framing>,
        progress: &watch::Sender<Progress>,
    ) -> bool {
        match step {
            Step::Send(bytes) => self.send(&bytes, progress).await,
            Step::Repeat(piece, count) => {
                for _ in 0..count {
                    if !self.send(&piece, progress).await {
                        return false;
                    }
                }
                true
            }
            Step::Wait(gate) => {
                gate.wait().await;
                true
            }
            Step::Pause(pause) => {
                tokio::time::sleep(pause).await;
                true
            }
            Step::Close => {
                let _ = self.io.shutdown().await;
                false
            }
            Step::Reset => {
                self.socket.set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
                false
            }
            Step::Leave => false,
            Step::Hang => {
                let mut byte = [0u8; 4096];
                while matches!(self.io.read(&mut byte).await, Ok(1..)) {}
                progress.send_modify(|seen| seen.abandoned = true);
                false
            }
            Step::ReadBody => match body.take() {
                Some(framing) => self.read(framing, progress).await,
                None => true,
            },
            Step::ReadSome(bytes) => self.read_some(bytes).await,
            Step::NeverContinue => {
                self.asked_to_continue = false;
                true
            }
        }
    }

    async fn send(&mut self, bytes: &[u8], progress: &watch::Sender<Progress>) -> bool {
        let mut left = bytes;
        while !left.is_empty() {
            match self.io.write(left).await {
                Ok(written) if self.io.flush().await.is_ok() => {
                    left = &left[written..];
                    progress.send_modify(|seen| seen.written += written);
                }
                _ => {
                    progress.send_modify(|seen| seen.abandoned = true);
                    return false;
                }
            }
        }
        true
    }

    async fn say_continue(&mut self) {
        if std::mem::take(&mut self.asked_to_continue) {
            let _ = self.io.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await;
            let _ = self.io.flush().await;
        }
    }

    async fn read(&mut self, framing: Framing, progress: &watch::Sender<Progress>) -> bool {
        self.say_continue().await;
        let keep = |piece: &[u8]| {
            if piece.is_empty() {
                return;
            }
            progress.send_modify(|seen| {
                seen.received += piece.len();
                if seen.received <= KEPT {
                    seen.body.extend_from_slice(piece);
                }
            });
        };
        let end = read_body(&mut self.io, &mut self.buffer, framing, keep).await;
        let complete = end == BodyEnd::Complete;
        progress.send_modify(|seen| {
            seen.body_end = Some(end);
            seen.abandoned |= !complete;
        });
        complete
    }

    /// Takes so many bytes off the wire, coded as they are, and leaves them where they will be read again.
    async fn read_some(&mut self, bytes: usize) -> bool {
        self.say_continue().await;
        while self.buffer.len() < bytes {
            if !matches!(self.io.read_buf(&mut self.buffer).await, Ok(1..)) {
                return false;
            }
        }
        true
    }
}

/// The upstream itself must fail where tests rely on it to.
mod tests {
    use super::Upstream;
    use crate::harness::{Gateway, Reply};

    #[tokio::test]
    #[should_panic(expected = "unexpected requests")]
    async fn an_unexpected_request_fails_the_test() {
        let upstream = Upstream::start().await;
        let gateway = Gateway::open(&upstream).await;
        upstream.expect("GET", "/v2/a/manifests/x", Reply::ok("{}"));
        gateway.get("/v2/a/manifests/y").await.is(502);
    }

    #[tokio::test]
    #[should_panic(expected = "expected requests that never came")]
    async fn an_unmet_expectation_fails_the_test() {
        let upstream = Upstream::start().await;
        upstream.expect("GET", "/v2/a/manifests/x", Reply::ok("{}"));
    }
}
