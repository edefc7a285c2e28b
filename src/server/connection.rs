//! Serving one connection: PROXY protocol, TLS, HTTP, and its end.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response, Version, header};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use ipnet::IpNet;
use rustls::HandshakeKind;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsAcceptor;

use crate::body::Body;
use crate::budget::Client;
use crate::config::limits;
use crate::net::{Abortable, AddressSource, BothLengths, Peer, Socket, WriteStall};
use crate::server::activity::{Activity, ActivityIo, TrackedBody};
use crate::server::admission::{HalfOpenEntry, Seat};
use crate::server::alpn_challenges::ACME_TLS;
use crate::server::counters::{ConnectionCounters, HandshakeFailure};
use crate::server::proxy_protocol;
use crate::server::shown_certificate::ShownCertificate;
use crate::server::tls::TlsSettings;
use crate::server::turns::in_turn;

/// A handler of requests. Cloned for each connection.
pub(crate) trait Handler: Clone + Send + Sync + 'static {
    /// Answers `request`, which came from `peer`.
    fn answer(&self, request: Request<Incoming>, peer: Peer) -> impl Future<Output = Response<Body>> + Send;

    /// Does what each worker does beside its connections, for as long as the worker runs.
    fn tend(&self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}

/// The clients that a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Audience {
    /// Everyone.
    Clients,
    /// The other replicas of this gateway, which the handshake has let in by their key. Their requests are marked with
    /// [`FromReplica`].
    Replicas,
}

/// A mark in the extensions of a request that came from another replica.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FromReplica;

/// The settings of all connections of one listener.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    /// TLS, if it ends here.
    pub tls: Option<TlsSettings>,
    /// The whole answer to a client that speaks plain HTTP to a TLS port, byte for byte.
    pub not_tls: Bytes,
    /// Proxies that must begin with a PROXY header.
    pub proxies: Arc<[IpNet]>,
    /// Proxies that speak for many clients: their own connections are counted for none.
    pub trusted: Arc<[IpNet]>,
    /// How long the head of a request may take to arrive.
    pub header_timeout: Duration,
    /// How long a connection may be idle.
    pub idle_timeout: Duration,
    /// How long a client may take no byte of a response.
    pub stall_timeout: Duration,
    /// The clients that are let in.
    pub audience: Audience,
    /// The counters of all listeners.
    pub counters: Arc<ConnectionCounters>,
}

impl Service {
    /// Returns the client for which a connection from `address` counts. A unix socket is a proxy's.
    pub(super) fn payer(&self, address: Option<IpAddr>) -> Client {
        match address.map(|address| address.to_canonical()) {
            Some(address) if !self.trusted.iter().any(|network| network.contains(&address)) => {
                Client::of(address)
            }
            _ => Client::Trusted,
        }
    }
}

/// Serves a connection until it ends, or has to go in favour of another. Once `drain` is true, no further request is begun
/// on it.
pub(super) async fn serve(
    mut socket: Socket,
    address: Option<IpAddr>,
    mut seat: Seat,
    service: Service,
    handler: impl Handler,
    drain: watch::Receiver<bool>,
) -> io::Result<()> {
    let evicted = || io::Error::other("closed for a new connection, as the oldest without a request");
    let (named, source) = tokio::select! {
        named = named_address(&mut socket, address, &service) => named?,
        () = seat.evicted() => return Err(evicted()),
    };
    if named != own_address(address) {
        seat.charge_to(Client::of(named))?;
    }
    let peer = Peer { address: named, source, tls: service.tls.is_some() };
    let entry = seat.entry();
    tokio::select! {
        biased;
        result = serve_client(socket, peer, entry, service, handler, drain) => result,
        () = seat.evicted() => Err(evicted()),
    }
}

/// Returns the client's address, which a proxy must name in time.
async fn named_address(
    socket: &mut Socket,
    address: Option<IpAddr>,
    service: &Service,
) -> io::Result<(IpAddr, AddressSource)> {
    let address = client_address(socket, address, &service.proxies);
    let address = tokio::time::timeout(limits::PROXY_HEADER_DEADLINE, address);
    address.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// Returns the address of a socket's other end; a unix socket is local.
fn own_address(address: Option<IpAddr>) -> IpAddr {
    let local = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    address.map_or(local, |address| address.to_canonical())
}

async fn serve_client(
    socket: Socket,
    mut peer: Peer,
    entry: Arc<HalfOpenEntry>,
    service: Service,
    handler: impl Handler,
    drain: watch::Receiver<bool>,
) -> io::Result<()> {
    let Some(tls) = &service.tls else {
        return http_1(socket, Remote { peer, certificate: None }, entry, &service, handler, drain).await;
    };
    let counters = &service.counters;
    let timed_out = |_| {
        counters.fail_by(HandshakeFailure::Timeout);
        io::Error::from(io::ErrorKind::TimedOut)
    };
    let began = Instant::now();
    let deadline = began + limits::HANDSHAKE_DEADLINE;
    let plain = tokio::time::timeout_at(deadline, is_plain_http(&socket));
    if plain.await.map_err(timed_out)? {
        counters.fail_by(HandshakeFailure::PlainHttp);
        return refuse_plain(socket, &service.not_tls).await;
    }
    let settings = tls.load_full();
    let handshake = in_turn(TlsAcceptor::from(settings.config()).accept(socket));
    let stream = tokio::time::timeout_at(deadline, handshake);
    let stream = stream.await.map_err(timed_out)?.inspect_err(|error| counters.fail(error))?;
    let is_resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
    counters.shake_hands(began.elapsed(), is_resumed);
    peer.tls = true;
    let session = stream.get_ref().1;
    // A replica's key has been compared, and is no certificate.
    let certificate = match service.audience {
        Audience::Clients => ShownCertificate::of(session, tls, settings)?,
        Audience::Replicas if session.alpn_protocol().is_none() => {
            return Err(io::Error::other("a replica that does not say which protocol it speaks"));
        }
        Audience::Replicas => None,
    };
    let remote = Remote { peer, certificate };
    match session.alpn_protocol() {
        // The server has seen the certificate, and nothing else is to be sent (RFC 8737 section 3).
        Some(ACME_TLS) => Ok(()),
        Some(b"h2") => http_2(stream, remote, entry, &service, handler, drain).await,
        _ => http_1(stream, remote, entry, &service, handler, drain).await,
    }
}

/// The other end of a connection, and the certificate that it has shown.
#[derive(Clone)]
struct Remote {
    peer: Peer,
    certificate: Option<Arc<ShownCertificate>>,
}

/// Returns the client's address: the one that a trusted proxy names, else the socket's. A unix socket is local.
async fn client_address(
    socket: &mut Socket,
    address: Option<IpAddr>,
    proxies: &[IpNet],
) -> io::Result<(IpAddr, AddressSource)> {
    let own = own_address(address);
    let trusted = proxies.iter().any(|network| network.contains(&own));
    if !trusted {
        return Ok((own, AddressSource::Socket));
    }
    let named = proxy_protocol::read(socket).await?;
    Ok(named.map_or((own, AddressSource::SilentProxy), |address| {
        (address.to_canonical(), AddressSource::ProxyHeader)
    }))
}

/// Returns true if the first byte is that of an HTTP method instead of a TLS handshake record (RFC 8446 section 5.1).
async fn is_plain_http(socket: &Socket) -> bool {
    let Socket::Tcp(stream) = socket else { return false };
    let mut first = [0u8; 1];
    matches!(stream.peek(&mut first).await, Ok(1)) && first[0].is_ascii_uppercase()
}

/// Answers plain HTTP on a TLS port. docker, refused over TLS by a registry on loopback, tries plain HTTP and shows that
/// answer to its user.
async fn refuse_plain(mut socket: Socket, answer: &[u8]) -> io::Result<()> {
    let goodbye = async {
        socket.write_all(answer).await?;
        socket.shutdown().await?;
        // Unread bytes would make the close a reset, which can overtake the answer.
        let mut request = tokio::io::AsyncReadExt::take(&mut socket, limits::HEADER_BYTES as u64);
        tokio::io::copy(&mut request, &mut tokio::io::sink()).await
    };
    tokio::time::timeout(limits::REFUSED_UPLOAD_DEADLINE, goodbye)
        .await
        .map_or(Ok(()), |result| result.map(|_| ()))
}

/// Serves HTTP/1.1. hyper's own timer for the head runs while a kept connection is idle, too. So it gets the longer of the two
/// limits, as the last resort, and [`Guard`] enforces each.
async fn http_1(
    io: impl AsyncRead + AsyncWrite + Abortable + Unpin + Send + 'static,
    remote: Remote,
    entry: Arc<HalfOpenEntry>,
    service: &Service,
    handler: impl Handler,
    drain: watch::Receiver<bool>,
) -> io::Result<()> {
    let activity = Activity::default();
    let io = WriteStall::new(io, service.stall_timeout);
    let io = ActivityIo::new(io, activity.clone());
    let certificate = remote.certificate.clone();
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(service.header_timeout.max(service.idle_timeout))
        .max_header_size(limits::HEADER_BYTES)
        .max_buf_size(limits::UPLOAD_BUFFER_BYTES)
        .serve_connection(
            TokioIo::new(io),
            answering(handler, remote, entry, activity.clone(), (true, service.audience)),
        );
    Guard::new(pin!(connection), activity, service, Some(service.header_timeout))
        .run(drain, certificate)
        .await
}

async fn http_2(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    remote: Remote,
    entry: Arc<HalfOpenEntry>,
    service: &Service,
    handler: impl Handler,
    drain: watch::Receiver<bool>,
) -> io::Result<()> {
    let activity = Activity::default();
    let io = WriteStall::new(io, service.stall_timeout);
    let certificate = remote.certificate.clone();
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(limits::H2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::H2_CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(limits::H2_STREAMS)
        .max_frame_size(limits::H2_FRAME_BYTES)
        .max_send_buf_size(limits::H2_SEND_BUFFER_BYTES)
        .max_header_list_size(u32::try_from(limits::HEADER_BYTES).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(limits::H2_PENDING_RESETS)
        .max_local_error_reset_streams(limits::H2_LOCAL_RESETS)
        .keep_alive_interval(limits::H2_KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(limits::H2_KEEP_ALIVE_TIMEOUT)
        .serve_connection(
            TokioIo::new(io),
            answering(handler, remote, entry, activity.clone(), (false, service.audience)),
        );
    Guard::new(pin!(connection), activity, service, None).run(drain, certificate).await
}

fn answering<H: Handler>(
    handler: H,
    remote: Remote,
    entry: Arc<HalfOpenEntry>,
    activity: Activity,
    (paced, audience): (bool, Audience),
) -> impl hyper::service::HttpService<
    Incoming,
    ResBody = TrackedBody,
    Error = Infallible,
    Future: Future<Output = Result<Response<TrackedBody>, Infallible>> + Send + 'static,
> {
    service_fn(move |mut request: Request<Incoming>| {
        entry.leave();
        let (handler, guard, peer) = (handler.clone(), activity.begin(), remote.peer);
        // Of HTTP/1.0, a body without a length has no chunks that could be missing.
        let is_old = request.version() < Version::HTTP_11;
        if activity.take_both_lengths() {
            request.extensions_mut().insert(BothLengths);
        }
        if audience == Audience::Replicas {
            request.extensions_mut().insert(FromReplica);
        }
        if let Some(certificate) = &remote.certificate {
            request.extensions_mut().insert(certificate.for_request());
        }
        // Of HTTP/2, the end of the connection is told in a frame.
        let is_last =
            paced && remote.certificate.as_ref().is_some_and(|certificate| certificate.is_withdrawn());
        async move {
            let mut response = handler.answer(request, peer).await;
            if is_last {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            let is_measured = response.headers().contains_key(header::CONTENT_LENGTH)
                || http_body::Body::size_hint(response.body()).exact().is_some();
            let response = response.map(|body| TrackedBody::new(body, guard, paced));
            Ok(if is_old && !is_measured { response.map(TrackedBody::ended_by_connection) } else { response })
        }
    })
}

/// The limits of a connection: ends one that is idle, that is slow with the head of a request, or that is to drain.
///
/// The timer is set only when the phase changes, never for a request that arrives whole.
struct Guard<'a, C> {
    connection: Pin<&'a mut C>,
    activity: Activity,
    idle_timeout: Duration,
    header_timeout: Option<Duration>,
    /// How long a client may hold back all of its responses at once, if the socket does not show it: an HTTP/2 client that
    /// opens no window (RFC 9113 section 5.2) still reads the socket.
    stall_timeout: Option<Duration>,
    /// [`Activity::moved`] when the timer was set.
    moved: usize,
    phase: Phase,
    timer: Pin<Box<Sleep>>,
    /// The end of the wait for the first request, once the connection is to end.
    first_request: Option<Pin<Box<Sleep>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No request is under way: closed at the end of `idle_timeout`.
    Idle,
    /// A head has begun to arrive: cut off at the end of `header_timeout`.
    Head,
    /// Requests are under way; they have limits of their own.
    Busy,
    /// Draining: requests under way finish, and then the client has a moment to read the end.
    Ending,
}

impl<'a, C> Guard<'a, C>
where
    C: GracefulConnection<Error = hyper::Error>,
{
    fn new(
        connection: Pin<&'a mut C>,
        activity: Activity,
        service: &Service,
        header_timeout: Option<Duration>,
    ) -> Self {
        let idle_timeout = service.idle_timeout;
        let first = header_timeout.unwrap_or(idle_timeout);
        let timer = Box::pin(tokio::time::sleep(first));
        // A new connection counts as one whose head has begun.
        let stall_timeout = header_timeout.is_none().then_some(service.stall_timeout);
        Self {
            connection,
            activity,
            idle_timeout,
            header_timeout,
            stall_timeout,
            moved: 0,
            phase: Phase::Head,
            timer,
            first_request: None,
        }
    }

    /// Serves until the connection ends. It drains when `drain` is true, or a request has come with a `certificate` that is
    /// withdrawn.
    async fn run(
        mut self,
        mut drain: watch::Receiver<bool>,
        certificate: Option<Arc<ShownCertificate>>,
    ) -> io::Result<()> {
        let mut draining = pin!(async move { drain.wait_for(|drain| *drain).await.is_ok() });
        let (mut is_to_end, mut drained) = (false, false);
        poll_fn(move |cx| {
            if let Poll::Ready(result) = self.connection.as_mut().poll(cx) {
                return Poll::Ready(result.map_err(io::Error::other));
            }
            let withdrawn = || certificate.as_ref().is_some_and(|certificate| certificate.is_withdrawn());
            is_to_end = is_to_end || withdrawn() || draining.as_mut().poll(cx).is_ready();
            if is_to_end && !drained && !self.awaits_first_request(cx) {
                drained = true;
                self.end();
                if let Poll::Ready(result) = self.connection.as_mut().poll(cx) {
                    return Poll::Ready(result.map_err(io::Error::other));
                }
            }
            self.poll_limits(cx)
        })
        .await
    }

    /// Returns true on a new connection whose first request may be on its way: hyper ends one without a request at once, and the
    /// client could not know whether its request was read.
    fn awaits_first_request(&mut self, cx: &mut Context<'_>) -> bool {
        if self.activity.has_begun() {
            return false;
        }
        let wait = || Box::pin(tokio::time::sleep(limits::DRAIN_FIRST_REQUEST));
        self.first_request.get_or_insert_with(wait).as_mut().poll(cx).is_pending()
    }

    fn poll_limits(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let phase = self.current();
        // A response that has just ended may still be on its way to the client: the whole limit starts now.
        let rests = matches!(phase, Phase::Idle | Phase::Ending);
        if phase != self.phase || (rests && self.activity.take_ended()) {
            self.phase = phase;
            self.set_timer();
        }
        if self.limit().is_none() || self.timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        if self.phase == Phase::Idle {
            self.end();
            return match self.connection.as_mut().poll(cx) {
                Poll::Ready(result) => Poll::Ready(result.map_err(io::Error::other)),
                Poll::Pending => self.poll_limits(cx),
            };
        }
        if !self.activity.is_idle() && !self.is_stalled() {
            self.set_timer();
            return self.poll_limits(cx);
        }
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn set_timer(&mut self) {
        if let Some(limit) = self.limit() {
            self.moved = self.activity.moved();
            self.timer.as_mut().reset(Instant::now() + limit);
        }
    }

    /// Returns true if the client has taken nothing since the timer was set, though there was something to take.
    fn is_stalled(&self) -> bool {
        self.activity.is_held_back() && self.activity.moved() == self.moved
    }

    fn current(&self) -> Phase {
        match self.phase {
            Phase::Ending => Phase::Ending,
            _ if !self.activity.is_idle() => Phase::Busy,
            _ if self.header_timeout.is_some() && self.activity.head_has_begun() => Phase::Head,
            Phase::Head if !self.activity.take_ended() => Phase::Head,
            _ => Phase::Idle,
        }
    }

    fn limit(&self) -> Option<Duration> {
        match self.phase {
            Phase::Idle => Some(self.idle_timeout),
            Phase::Head => Some(self.header_timeout.unwrap_or(self.idle_timeout)),
            Phase::Ending if self.activity.is_idle() => Some(limits::HANDSHAKE_DEADLINE),
            Phase::Busy | Phase::Ending => self.stall_timeout,
        }
    }

    fn end(&mut self) {
        self.connection.as_mut().graceful_shutdown();
        self.phase = Phase::Ending;
        self.set_timer();
    }
}
