//! HTTP/2 towards an upstream (RFC 9113): many requests at a time on one connection, which a task of its own drives.
//!
//! On the h2 crate itself, which is what hyper's client stands on: hyper shows a stream that was reset with NO_ERROR or
//! CANCEL as a clean end, hides whether a request was processed, and starts a task for each.

mod connections;
mod download;
mod head;
mod load;
mod upload;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Ping, PingPong, Reason, RecvStream, SendStream};

pub(crate) use connections::{Connections, Known, Outcome};
use download::Download;
use load::Load;
use upload::Upload;

use crate::body::RequestBody;
use crate::clock::Stall;
use crate::config::limits;
use crate::net::WriteStall;
use crate::upstream::Response;
use crate::upstream::egress::url::Url;
use crate::upstream::transport::client::Outgoing;
use crate::upstream::transport::http1::{Transport, WireError};

/// How long an upstream may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeouts {
    /// Over the answer's head, once it has the request.
    pub(crate) response: Duration,
    /// Between two pieces of a body, in either direction.
    pub(crate) stall: Duration,
}

/// How much the server may send ahead of its reader, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Windows {
    stream: u32,
    connection: u32,
}

impl Windows {
    /// For small answers that share a connection: readers who read nothing must never use it up for the others.
    pub(crate) const SHARED: Self = Self {
        stream: limits::UPSTREAM_H2_SHARED_WINDOW_BYTES,
        connection: limits::UPSTREAM_H2_SHARED_WINDOW_BYTES * limits::UPSTREAM_H2_STREAMS,
    };
    /// For a connection that carries one blob.
    pub(crate) const ALONE: Self =
        Self { stream: limits::H2_STREAM_WINDOW_BYTES, connection: limits::H2_CONNECTION_WINDOW_BYTES };
}

/// One connection. Cheap to clone; closed when nobody has it and no stream is open on it.
#[derive(Clone)]
pub(crate) struct Connection {
    sender: SendRequest<Bytes>,
    /// Bodies of answers included.
    load: Arc<Load>,
    patience: Timeouts,
}

/// Why a request got no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The connection takes no more requests, and has not processed this one.
    Gone,
    /// The server refused this request unprocessed, and may take others (RFC 9113 section 8.7).
    Refused,
    /// The server wants it by HTTP/1.1, or HTTP/2 has no way to say it.
    Http1,
    /// It may have been processed.
    Wire(WireError),
}

impl Connection {
    /// Begins HTTP/2 on `io` and drives it in a task of its own.
    ///
    /// # Errors
    /// When the transport breaks.
    pub(crate) async fn start(
        io: Box<dyn Transport>,
        windows: Windows,
        patience: Timeouts,
    ) -> io::Result<Self> {
        let io = WriteStall::new(io, patience.stall);
        let (sender, mut connection) = settings(windows).handshake(io).await.map_err(io::Error::other)?;
        let load = Arc::new(Load::default());
        let watch = connection.ping_pong().map(|pings| watch(pings, load.clone()));
        tokio::spawn(async move {
            // How it ended, all its streams are told.
            match watch {
                None => drop(connection.await),
                Some(watch) => tokio::select! {
                    _ = connection => {}
                    () = watch => {}
                },
            }
        });
        Ok(Self { sender, load, patience })
    }

    /// Whether the server would let another request wait.
    pub(crate) fn is_full(&self) -> bool {
        let most = self.sender.current_max_send_streams().min(limits::UPSTREAM_H2_STREAMS as usize);
        self.load.count() >= most
    }

    fn is_idle(&self) -> bool {
        self.load.count() == 0
    }

    /// Whether both are the same connection.
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.load, &other.load)
    }

    /// Sends a request, body and all, and waits for the answer's head.
    ///
    /// # Errors
    /// [`Failure`], which says what may be done next.
    pub(crate) async fn exchange(&self, url: &Url, request: &mut Outgoing<'_>) -> Result<Response, Failure> {
        let share = self.load.clone().enter();
        let head = head::request(url, request).ok_or(Failure::Http1)?;
        let mut sender = self.sender.clone();
        let ready = poll_fn(|cx| sender.poll_ready(cx)).await;
        let sent = ready.and_then(|()| sender.send_request(head, request.body.is_empty()));
        let (answer, stream) = sent.map_err(|_| Failure::Gone)?;
        let (parts, stream) = self.answer(answer, stream, request.body).await?.into_parts();
        let length = head::length(request.method, &parts).map_err(Failure::Wire)?;
        let body = Download::new(stream, length, share, self.patience.stall).body().await;
        Ok(Response { status: parts.status, headers: parts.headers, body })
    }

    async fn answer(
        &self,
        mut answer: ResponseFuture,
        stream: SendStream<Bytes>,
        body: &mut RequestBody,
    ) -> Result<http::Response<RecvStream>, Failure> {
        let mut upload = (!body.is_empty()).then(|| Upload::new(stream, self.patience.stall));
        let mut wait = Stall::new(self.patience.response);
        poll_fn(|cx| {
            if let Poll::Ready(answer) = Pin::new(&mut answer).poll(cx) {
                return Poll::Ready(answer.map_err(Failure::of));
            }
            if let Some(sending) = &mut upload {
                ready!(sending.poll(cx, body)).map_err(Failure::Wire)?;
                upload = None;
            }
            ready!(wait.poll_waiting(cx));
            Poll::Ready(Err(Failure::Wire(WireError::Timeout(self.patience.response))))
        })
        .await
    }
}

impl From<Failure> for WireError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Wire(error) => error,
            Failure::Gone | Failure::Refused => Self::Closed,
            Failure::Http1 => Self::Malformed("it refuses HTTP/1.1 and HTTP/2 by turns"),
        }
    }
}

impl Failure {
    fn of(error: h2::Error) -> Self {
        match error.reason() {
            Some(Reason::HTTP_1_1_REQUIRED) if error.is_remote() => Self::Http1,
            Some(Reason::REFUSED_STREAM) if error.is_reset() && error.is_remote() => Self::Refused,
            // Streams up to the last that the server names go on: this one is behind it.
            _ if error.is_go_away() && error.is_remote() => Self::Gone,
            _ if error.is_library() => Self::Wire(WireError::Malformed("it breaks the rules of HTTP/2")),
            _ => Self::Wire(WireError::Io(io::Error::other(error))),
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

/// Ends when a server on which somebody waits has died without a word.
async fn watch(mut pings: PingPong, load: Arc<Load>) {
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
