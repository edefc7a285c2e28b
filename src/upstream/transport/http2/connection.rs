//! An HTTP/2 connection to an upstream.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Ping, PingPong, Reason, RecvStream, SendStream};

use crate::body::RequestBody;
use crate::clock::Stall;
use crate::config::limits;
use crate::net::WriteStall;
use crate::upstream::egress::url::Url;
use crate::upstream::exchange::{Outgoing, Response};
use crate::upstream::transport::http1::{ByteStream, ExchangeError, unify_length};
use crate::upstream::transport::http2::active_requests::ActiveRequests;
use crate::upstream::transport::http2::body::Http2Body;
use crate::upstream::transport::http2::head;
use crate::upstream::transport::http2::upload::RequestUpload;
use crate::upstream::transport::sockets::OpenSocket;

/// The time limits of an exchange.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeouts {
    /// From the end of the request to the head of the answer.
    pub(crate) response: Duration,
    /// Between two pieces of a body, in either direction.
    pub(crate) stall: Duration,
}

/// The flow-control windows towards the server, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Windows {
    stream: u32,
    connection: u32,
}

impl Windows {
    /// For small answers that share a connection: stalled readers must never use it up for the others.
    pub(crate) const SHARED: Self = Self {
        stream: limits::UPSTREAM_H2_SHARED_WINDOW_BYTES,
        connection: limits::UPSTREAM_H2_SHARED_WINDOW_BYTES * limits::UPSTREAM_H2_STREAMS,
    };
    /// For a connection that carries one blob.
    pub(crate) const ALONE: Self =
        Self { stream: limits::H2_STREAM_WINDOW_BYTES, connection: limits::H2_CONNECTION_WINDOW_BYTES };
}

/// A connection. Cheap to clone; closed when the last clone is dropped and no stream is open.
#[derive(Clone)]
pub(crate) struct Http2Connection {
    sender: SendRequest<Bytes>,
    /// Streams that are open, bodies of answers included.
    load: Arc<ActiveRequests>,
    timeouts: Timeouts,
}

/// The reason why a request got no answer.
#[derive(Debug)]
pub(crate) enum RequestFailure {
    /// The connection takes no more requests, and has not processed this one.
    Gone,
    /// The server refused this request unprocessed, and may take others (RFC 9113 section 8.7).
    Refused,
    /// The server wants the request by HTTP/1.1, or HTTP/2 cannot express it.
    Http1,
    /// The exchange failed, and the server may have processed the request.
    Exchange(ExchangeError),
}

impl Http2Connection {
    /// Begins HTTP/2 on `io` and drives it in a task of its own.
    ///
    /// # Errors
    /// When the transport breaks.
    pub(crate) async fn start(
        io: Box<dyn ByteStream>,
        windows: Windows,
        timeouts: Timeouts,
        socket: OpenSocket,
    ) -> io::Result<Self> {
        let io = WriteStall::new(io, timeouts.stall);
        let (sender, mut connection) = settings(windows).handshake(io).await.map_err(io::Error::other)?;
        let load = Arc::new(ActiveRequests::default());
        let watch = connection.ping_pong().map(|pings| watch(pings, load.clone()));
        tokio::spawn(async move {
            let _socket = socket;
            // All its streams learn how it ended.
            match watch {
                None => drop(connection.await),
                Some(watch) => tokio::select! {
                    _ = connection => {}
                    () = watch => {}
                },
            }
        });
        Ok(Self { sender, load, timeouts })
    }

    /// Returns true if the server would let another request wait.
    pub(crate) fn is_full(&self) -> bool {
        let most = self.sender.current_max_send_streams().min(limits::UPSTREAM_H2_STREAMS as usize);
        self.load.count() >= most
    }

    pub(super) fn is_idle(&self) -> bool {
        self.load.count() == 0
    }

    /// Returns true if both are the same connection.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.load, &other.load)
    }

    /// Sends a request, body and all, and waits for the answer's head.
    ///
    /// # Errors
    /// [`RequestFailure`], which says what may be done next.
    pub(crate) async fn exchange(
        &self,
        url: &Url,
        request: &mut Outgoing<'_>,
    ) -> Result<Response, RequestFailure> {
        let share = self.load.clone().enter();
        let head = head::request(url, request).ok_or(RequestFailure::Http1)?;
        let mut sender = self.sender.clone();
        let ready = poll_fn(|cx| sender.poll_ready(cx)).await;
        let sent = ready.and_then(|()| sender.send_request(head, request.body.is_empty()));
        let (answer, stream) = sent.map_err(|_| RequestFailure::Gone)?;
        let (mut parts, stream) = self.answer(answer, stream, request.body).await?.into_parts();
        let length = head::length(request.method, &parts).map_err(RequestFailure::Exchange)?;
        unify_length(&mut parts.headers);
        let body = Http2Body::new(stream, length, share, self.timeouts.stall).body().await;
        Ok(Response { status: parts.status, headers: parts.headers, body })
    }

    async fn answer(
        &self,
        mut answer: ResponseFuture,
        stream: SendStream<Bytes>,
        body: &mut RequestBody,
    ) -> Result<http::Response<RecvStream>, RequestFailure> {
        let mut upload = (!body.is_empty()).then(|| RequestUpload::new(stream, self.timeouts.stall));
        let mut wait = Stall::new(self.timeouts.response);
        poll_fn(|cx| {
            if let Poll::Ready(answer) = Pin::new(&mut answer).poll(cx) {
                return Poll::Ready(answer.map_err(RequestFailure::of));
            }
            if let Some(sending) = &mut upload {
                ready!(sending.poll(cx, body)).map_err(RequestFailure::Exchange)?;
                upload = None;
            }
            ready!(wait.poll_waiting(cx));
            Poll::Ready(Err(RequestFailure::Exchange(ExchangeError::Timeout(self.timeouts.response))))
        })
        .await
    }
}

impl From<RequestFailure> for ExchangeError {
    fn from(failure: RequestFailure) -> Self {
        match failure {
            RequestFailure::Exchange(error) => error,
            RequestFailure::Gone | RequestFailure::Refused => Self::Closed,
            RequestFailure::Http1 => Self::Malformed("it refuses HTTP/1.1 and HTTP/2 by turns"),
        }
    }
}

impl RequestFailure {
    fn of(error: h2::Error) -> Self {
        match error.reason() {
            Some(Reason::HTTP_1_1_REQUIRED) if error.is_remote() => Self::Http1,
            Some(Reason::REFUSED_STREAM) if error.is_reset() && error.is_remote() => Self::Refused,
            // Streams up to the last one that the server names go on: this one is behind it.
            _ if error.is_go_away() && error.is_remote() => Self::Gone,
            _ if error.is_library() => {
                Self::Exchange(ExchangeError::Malformed("it breaks the rules of HTTP/2"))
            }
            _ => Self::Exchange(ExchangeError::Io(io::Error::other(error))),
        }
    }
}

fn settings(windows: Windows) -> Builder {
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(windows.stream)
        .initial_connection_window_size(windows.connection)
        .max_header_list_size(u32::try_from(limits::HEADER_BYTES).unwrap_or(u32::MAX))
        .max_send_buffer_size(limits::H2_SEND_BUFFER_BYTES);
    builder
}

/// Ends when a server with open streams answers no ping.
async fn watch(mut pings: PingPong, load: Arc<ActiveRequests>) {
    loop {
        tokio::time::sleep(limits::H2_KEEP_ALIVE_INTERVAL).await;
        if load.count() == 0 {
            continue;
        }
        let pong = tokio::time::timeout(limits::H2_KEEP_ALIVE_TIMEOUT, pings.ping(Ping::opaque())).await;
        if !matches!(pong, Ok(Ok(_))) {
            return;
        }
    }
}
