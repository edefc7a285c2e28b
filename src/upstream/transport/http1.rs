//! HTTP/1.1 towards an upstream (RFC 9112): one request at a time on one connection, driven by the task that waits for
//! it.
//!
//! hyper's client hands each frame of a body from a connection task to the reader by channel, and reads one frame
//! ahead. Here the reader of a response drives the connection itself: a blob's bytes go from the upstream's socket to
//! the client's in one task, and a client that reads slowly holds one buffer, not three.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use crate::body::{BodyError, RequestBody};
use crate::clock::Stall;
use crate::config::limits;
use crate::net::WriteStall;
use crate::read_size::ReadSize;
use crate::upstream::transport::chunked::{Chunked, Step};
use crate::upstream::transport::sockets::OpenSocket;

/// A byte stream that an upstream speaks HTTP/1.1 on.
pub(crate) trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send {
    /// Returns true if the server has closed the connection, or sent anything, while it was idle.
    fn is_stale(&mut self) -> bool;
}

/// The reason why an exchange failed before the response's head was there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    /// The upstream closed the connection without a byte of an answer.
    #[error("the upstream closed the connection without an answer")]
    Closed,
    /// The transport failed.
    #[error("the connection to the upstream broke")]
    Io(#[source] io::Error),
    /// The request was sent and no answer came in time.
    #[error("the upstream did not answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The answer is not HTTP, or its framing is ambiguous.
    #[error("the upstream's answer is malformed: {0}")]
    Malformed(&'static str),
    /// The client's side of the request broke.
    #[error("the request's body broke")]
    Body(#[source] BodyError),
}

/// The head of a response.
#[derive(Debug)]
pub(crate) struct ResponseHead {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) framing: Framing,
}

/// The framing of a response's body (RFC 9112 section 6.3).
#[derive(Debug)]
pub(crate) enum Framing {
    /// Of a known length: this many bytes are still to come.
    Length(u64),
    /// By chunks.
    Chunked(Chunked),
    /// By the end of the connection.
    Close,
}

/// An HTTP/1.1 connection.
pub(crate) struct Http1Connection {
    /// Counts the connection where connections are counted.
    _socket: Option<OpenSocket>,
    io: WriteStall<Box<dyn ByteStream>>,
    read: BytesMut,
    /// The head or the size of a chunk, to be written before `batch`.
    write: BytesMut,
    batch: Batch,
    sending: Sending,
    /// Nothing of the response has been read yet.
    silent: bool,
    /// Interim answers (1xx) to this request.
    interim: usize,
    keep_alive: bool,
    /// How long the server keeps the connection without a request, where it says so.
    announced_idle: Option<Duration>,
    /// Waits for `100 Continue`, before which the body is not begun.
    expects: Option<Stall>,
    /// The server said nothing to such a request in time.
    ignored_expectation: bool,
    wait: Stall,
    response_timeout: Duration,
    read_size: ReadSize,
}

/// Pieces of a request's body that go out together.
#[derive(Debug, Default)]
struct Batch {
    pieces: VecDeque<Bytes>,
    /// Bytes of the body in it, when it is sealed.
    length: usize,
    /// True while the batch is being written, when no piece may be added.
    sealed: bool,
    /// The client's connection has had a turn to bring more.
    waited: bool,
    /// The last chunk follows it.
    ends_chunked: bool,
}

/// Slices of one write.
const SLICES: usize = 32;

impl Batch {
    fn push(&mut self, data: Bytes) {
        if !data.is_empty() {
            self.length += data.len();
            self.waited = false;
            self.pieces.push_back(data);
        }
    }

    /// Fills `slices` with `first` and the pieces, and returns how many are filled.
    fn slices<'a>(&'a self, first: &'a [u8], slices: &mut [IoSlice<'a>; SLICES]) -> usize {
        let parts = std::iter::once(first).filter(|first| !first.is_empty());
        let parts = parts.chain(self.pieces.iter().map(Bytes::as_ref));
        slices.iter_mut().zip(parts).map(|(slice, part)| *slice = IoSlice::new(part)).count()
    }

    fn advance(&mut self, mut written: usize) {
        while let Some(piece) = self.pieces.front_mut() {
            if written < piece.len() {
                piece.advance(written);
                return;
            }
            written -= piece.len();
            self.pieces.pop_front();
        }
    }
}

/// The progress of sending a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sending {
    Length,
    Chunked,
    /// The last bytes are in the buffer, or sent.
    Last,
}

impl Http1Connection {
    /// Creates a connection on `io`. `response_timeout` is how long an answer may take once the request is sent, and
    /// `stall_timeout` how long the upstream may accept no byte of it.
    pub(crate) fn new(io: Box<dyn ByteStream>, response_timeout: Duration, stall_timeout: Duration) -> Self {
        Self {
            _socket: None,
            io: WriteStall::new(io, stall_timeout),
            read: BytesMut::new(),
            write: BytesMut::with_capacity(1024),
            batch: Batch::default(),
            sending: Sending::Last,
            silent: true,
            interim: 0,
            keep_alive: true,
            announced_idle: None,
            expects: None,
            ignored_expectation: false,
            wait: Stall::new(response_timeout),
            response_timeout,
            read_size: ReadSize::new(),
        }
    }

    /// Returns true if another request may be sent on this connection.
    pub(crate) fn is_reusable(&self) -> bool {
        self.keep_alive && self.read.is_empty() && self.write.is_empty() && self.batch.pieces.is_empty()
    }

    /// Returns this connection, counted by `socket` as long as it is open.
    pub(crate) fn counted(self, socket: OpenSocket) -> Self {
        Self { _socket: Some(socket), ..self }
    }

    /// Returns how many bytes were read and not yet taken.
    pub(crate) fn buffered(&self) -> usize {
        self.read.len()
    }

    /// Frees what an idle connection need not hold.
    pub(crate) fn rest(&mut self) {
        if self.read.capacity() > HEAD_READ {
            self.read = BytesMut::new();
        }
    }

    /// Returns true if the server has closed the connection, or sent anything, while it was idle. Those bytes would be
    /// read as the answer to the next request, which may be another client's.
    pub(crate) fn is_stale(&mut self) -> bool {
        self.io.get_mut().is_stale()
    }

    /// Returns how long the server keeps the connection without a request, where it says so (`Keep-Alive: timeout=5`).
    pub(crate) fn announced_idle(&self) -> Option<Duration> {
        self.announced_idle
    }

    /// Makes the next request ask whether its body is wanted, and wait for the answer before it begins the body (RFC 9110
    /// section 10.1.1). A server that has closed the connection in the meantime is then noticed while the request can
    /// still be sent on another.
    pub(crate) fn expect_continue(&mut self) {
        self.expects = Some(Stall::new(limits::CONTINUE_TIMEOUT));
    }

    /// Returns true if the next request asks so.
    pub(crate) fn expects_continue(&self) -> bool {
        self.expects.is_some()
    }

    /// Returns true if the server let such a request wait in vain.
    pub(crate) fn ignored_expectation(&self) -> bool {
        self.ignored_expectation
    }

    /// Sends a request and waits for the head of its answer. `headers` must hold neither Content-Length nor
    /// Transfer-Encoding: the body decides. Interim answers (1xx) are swallowed.
    ///
    /// An answer that comes before the end of the body ends the sending, and the connection is not used again.
    pub(crate) async fn exchange(
        &mut self,
        method: &Method,
        target: &str,
        headers: &HeaderMap,
        body: &mut RequestBody,
    ) -> Result<ResponseHead, ExchangeError> {
        self.begin(method, target, headers, body);
        let head = method == Method::HEAD;
        let mut sent = Ok(false);
        std::future::poll_fn(move |cx| {
            loop {
                let expected = self.expects.is_some();
                if let Ok(false) = sent {
                    sent = match self.poll_send(cx, body) {
                        Poll::Ready(Err(error)) if is_final(&error) => return Poll::Ready(Err(error)),
                        Poll::Ready(result) => result.map(|()| true),
                        Poll::Pending => Ok(false),
                    };
                }
                // After a broken send, an answer that says why may be waiting.
                return match self.poll_head(cx, head) {
                    Poll::Ready(result) => {
                        self.keep_alive &= matches!(sent, Ok(true));
                        Poll::Ready(match (result, std::mem::replace(&mut sent, Ok(true))) {
                            (Err(ExchangeError::Closed | ExchangeError::Io(_)), Err(error)) => Err(error),
                            (result, _) => result,
                        })
                    }
                    // The server has just said to go on.
                    Poll::Pending if expected && self.expects.is_none() && matches!(sent, Ok(false)) => {
                        continue;
                    }
                    Poll::Pending if matches!(sent, Ok(false)) => Poll::Pending,
                    Poll::Pending => {
                        ready!(self.wait.poll_waiting(cx));
                        let timeout = ExchangeError::Timeout(self.response_timeout);
                        Poll::Ready(Err(std::mem::replace(&mut sent, Ok(true)).err().unwrap_or(timeout)))
                    }
                };
            }
        })
        .await
    }

    fn begin(&mut self, method: &Method, target: &str, headers: &HeaderMap, body: &RequestBody) {
        self.silent = true;
        self.interim = 0;
        self.wait.progress();
        self.read_size = ReadSize::new();
        let out = &mut self.write;
        for part in [method.as_str(), " ", target, " HTTP/1.1\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
        for (name, value) in headers {
            put_header(out, name.as_str(), value.as_bytes());
        }
        self.sending = match body.remaining() {
            _ if body.is_empty() => {
                if *method != Method::GET && *method != Method::HEAD {
                    put_header(out, "content-length", b"0");
                }
                Sending::Last
            }
            Some(length) => {
                // Writing to a BytesMut can't fail.
                let _ = write!(out, "content-length: {length}\r\n");
                Sending::Length
            }
            None => {
                put_header(out, "transfer-encoding", b"chunked");
                Sending::Chunked
            }
        };
        if self.sending == Sending::Last {
            self.expects = None;
        } else if self.expects.is_some() {
            put_header(out, "expect", b"100-continue");
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Waits until the body may begin: until the server says so, or has said nothing for a while. Some know nothing of
    /// expectations.
    fn poll_permission(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ExchangeError>> {
        if self.expects.is_none() {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_flush(cx)).map_err(ExchangeError::Io)?;
        if let Some(expects) = &mut self.expects {
            ready!(expects.poll_waiting(cx));
        }
        self.expects = None;
        self.ignored_expectation = true;
        Poll::Ready(Ok(()))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, body: &mut RequestBody) -> Poll<Result<(), ExchangeError>> {
        ready!(self.poll_permission(cx))?;
        loop {
            if !self.batch.sealed {
                ready!(self.poll_gather(cx, body)).map_err(ExchangeError::Body)?;
                self.seal();
            }
            ready!(self.poll_flush(cx)).map_err(ExchangeError::Io)?;
            if self.sending == Sending::Last {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Takes what the client has sent, up to enough for one write.
    ///
    /// Pieces come one by one through a channel that holds one. When it is empty, the client's connection gets one more
    /// turn to fill it before the write: that costs less than a system call and the upstream's wake-up.
    fn poll_gather(&mut self, cx: &mut Context<'_>, body: &mut RequestBody) -> Poll<Result<(), BodyError>> {
        // Enough for one write, in bytes or in pieces.
        let room = |batch: &Batch| batch.length < limits::COPY_BUFFER_MOST && batch.pieces.len() < SLICES - 3;
        while self.sending != Sending::Last && room(&self.batch) {
            match body.poll_data(cx) {
                Poll::Ready(Some(data)) => self.batch.push(data?),
                Poll::Ready(None) => self.end_body(),
                Poll::Pending if self.write.is_empty() && self.batch.pieces.is_empty() => {
                    return Poll::Pending;
                }
                Poll::Pending if self.batch.waited => break,
                Poll::Pending => {
                    self.batch.waited = true;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Notes the end of the body. The last chunk goes out with its last pieces.
    fn end_body(&mut self) {
        if self.sending == Sending::Chunked {
            self.batch.ends_chunked = true;
        }
        self.sending = Sending::Last;
    }

    /// Closes the batch for writing, as one chunk where the body is chunked.
    fn seal(&mut self) {
        self.batch.sealed = true;
        let chunked = matches!(self.sending, Sending::Chunked) || self.batch.ends_chunked;
        if chunked && self.batch.length > 0 {
            // Writing to a BytesMut can't fail.
            let _ = write!(self.write, "{:x}\r\n", self.batch.length);
            self.batch.pieces.push_back(Bytes::from_static(b"\r\n"));
        }
        if self.batch.ends_chunked {
            self.batch.pieces.push_back(Bytes::from_static(b"0\r\n\r\n"));
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.write.is_empty() || !self.batch.pieces.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = self.batch.slices(&self.write, &mut slices);
            let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, &slices[..count]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let head = written.min(self.write.len());
            self.write.advance(head);
            self.batch.advance(written - head);
        }
        self.batch = Batch { pieces: std::mem::take(&mut self.batch.pieces), ..Batch::default() };
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        head_request: bool,
    ) -> Poll<Result<ResponseHead, ExchangeError>> {
        loop {
            if !self.read.is_empty()
                && let Some(head) = self.take_head(head_request)?
            {
                return Poll::Ready(Ok(head));
            }
            if self.read.len() > limits::HEADER_BYTES {
                return Poll::Ready(Err(ExchangeError::Malformed("the head is too long")));
            }
            match ready!(self.poll_fill(cx, HEAD_READ)) {
                Ok(1..) => self.silent = false,
                // An answer that had begun shows that the request arrived, so this is not `Closed`.
                _ if !self.silent => {
                    return Poll::Ready(Err(ExchangeError::Malformed("the head is cut short")));
                }
                Ok(0) => return Poll::Ready(Err(ExchangeError::Closed)),
                Err(error) => return Poll::Ready(Err(ExchangeError::Io(error))),
            }
        }
    }

    /// Parses one final head out of the buffer; `None` while it is incomplete.
    fn take_head(&mut self, head_request: bool) -> Result<Option<ResponseHead>, ExchangeError> {
        loop {
            let mut few = [httparse::EMPTY_HEADER; limits::HEADER_COUNT];
            let mut many = Vec::new();
            let mut parsed = httparse::Response::new(&mut few);
            let mut result = parsed.parse(&self.read);
            if matches!(result, Err(httparse::Error::TooManyHeaders)) {
                many.resize(limits::UPSTREAM_HEADER_COUNT, httparse::EMPTY_HEADER);
                parsed = httparse::Response::new(&mut many);
                result = parsed.parse(&self.read);
            }
            let length = match result {
                Ok(httparse::Status::Complete(length)) => length,
                Ok(httparse::Status::Partial) => return Ok(None),
                Err(_) => return Err(ExchangeError::Malformed("not an HTTP response")),
            };
            let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
            let status = status.ok_or(ExchangeError::Malformed("no status"))?;
            if status.is_informational() {
                if status == StatusCode::SWITCHING_PROTOCOLS {
                    return Err(ExchangeError::Malformed("it switches protocols unasked"));
                }
                self.read.advance(length);
                if status == StatusCode::CONTINUE {
                    self.expects = None;
                }
                self.interim += 1;
                if self.interim > INTERIM_MOST {
                    return Err(ExchangeError::Malformed("it says to wait again and again"));
                }
                continue;
            }
            let version = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
            // Header values are slices of the buffer that was read: none is copied.
            let spans: Vec<_> =
                parsed.headers.iter().map(|field| (name_of(field), span(&self.read, field))).collect();
            let block = self.read.split_to(length).freeze();
            let mut headers = headers_of(&block, spans)?;
            let framing = self.framing(status, version, &headers, head_request)?;
            unify_length(&mut headers);
            return Ok(Some(ResponseHead { status, headers, framing }));
        }
    }

    fn framing(
        &mut self,
        status: StatusCode,
        version: Version,
        headers: &HeaderMap,
        head_request: bool,
    ) -> Result<Framing, ExchangeError> {
        self.keep_alive = keeps_alive(version, headers);
        self.announced_idle = announced_idle(headers);
        let framing = body_framing(status, version, headers, head_request)?;
        if matches!(framing, Framing::Close) {
            self.keep_alive = false;
        }
        Ok(framing)
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>, at_least: usize) -> Poll<io::Result<usize>> {
        self.read.reserve(at_least);
        let read = self.io.read_buf(&mut self.read);
        std::pin::pin!(read).poll(cx)
    }

    /// Returns the next piece of the response's body, as `framing` says.
    pub(crate) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        framing: &mut Framing,
    ) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            match self.take_body(framing) {
                Ok(Step::Data(data)) => {
                    self.read_size.adapt(data.len());
                    return Poll::Ready(Some(Ok(data)));
                }
                Ok(Step::End) => return Poll::Ready(None),
                Ok(Step::More) => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
            // A large buffer is freed before small reads.
            if self.read.is_empty() && self.read.capacity() > 2 * self.read_size.get() {
                self.read = BytesMut::new();
            }
            match ready!(self.poll_fill(cx, self.read_size.get())) {
                Ok(0) => return Poll::Ready(end_of_stream(framing)),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(BodyError::Io(error)))),
            }
        }
    }

    /// Takes what the buffer holds of the body.
    pub(crate) fn take_body(&mut self, framing: &mut Framing) -> Result<Step, BodyError> {
        match framing {
            Framing::Length(0) => Ok(Step::End),
            Framing::Chunked(chunked) => chunked.step(&mut self.read).map_err(|_| BodyError::Chunk),
            _ if self.read.is_empty() => Ok(Step::More),
            Framing::Length(left) => {
                let length = usize::try_from(*left).map_or(self.read.len(), |left| left.min(self.read.len()));
                *left -= length as u64;
                Ok(Step::Data(self.read.split_to(length).freeze()))
            }
            Framing::Close => Ok(Step::Data(self.read.split().freeze())),
        }
    }
}

/// Returns true if no answer can follow such a failed send: the client is gone, or the upstream stalled.
fn is_final(error: &ExchangeError) -> bool {
    match error {
        ExchangeError::Body(_) => true,
        ExchangeError::Io(error) => error.kind() == io::ErrorKind::TimedOut,
        ExchangeError::Closed | ExchangeError::Timeout(_) | ExchangeError::Malformed(_) => false,
    }
}

/// Interim answers that a request may have: a few hints and a `100 Continue`.
const INTERIM_MOST: usize = 16;

/// Bytes of one read while only a head is expected.
const HEAD_READ: usize = 8 * 1024;

fn end_of_stream(framing: &Framing) -> Option<Result<Bytes, BodyError>> {
    match framing {
        Framing::Length(missing) => Some(Err(BodyError::Short { missing: *missing })),
        Framing::Chunked(_) => Some(Err(BodyError::Chunk)),
        Framing::Close => None,
    }
}

fn put_header(out: &mut BytesMut, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

fn name_of(field: &httparse::Header<'_>) -> Result<HeaderName, ExchangeError> {
    HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| ExchangeError::Malformed("a header's name"))
}

/// Returns the position of the value of `field` in `buffer`.
fn span(buffer: &[u8], field: &httparse::Header<'_>) -> std::ops::Range<usize> {
    let start = field.value.as_ptr() as usize - buffer.as_ptr() as usize;
    start..start + field.value.len()
}

type Span = (Result<HeaderName, ExchangeError>, std::ops::Range<usize>);

fn headers_of(block: &Bytes, spans: Vec<Span>) -> Result<HeaderMap, ExchangeError> {
    let mut headers = HeaderMap::with_capacity(spans.len());
    for (name, span) in spans {
        let value = HeaderValue::from_maybe_shared(block.slice(span));
        headers.append(name?, value.map_err(|_| ExchangeError::Malformed("a header's value"))?);
    }
    Ok(headers)
}

/// Returns true if the connection persists (RFC 9112 section 9.3).
fn keeps_alive(version: Version, headers: &HeaderMap) -> bool {
    let says = |word: &str| {
        headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|value| value.split(',').any(|option| option.trim().eq_ignore_ascii_case(word)))
    };
    if version == Version::HTTP_10 { says("keep-alive") && !says("close") } else { !says("close") }
}

/// Returns the `timeout` of `Keep-Alive: timeout=5, max=100`, which Apache, node and gunicorn send.
fn announced_idle(headers: &HeaderMap) -> Option<Duration> {
    let parameters = headers.get(&KEEP_ALIVE)?.to_str().ok()?.split([',', ';']);
    let mut pairs = parameters.filter_map(|parameter| parameter.split_once('='));
    let (_, seconds) = pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case("timeout"))?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Returns the framing of a body (RFC 9112 section 6.3). An answer with both Transfer-Encoding and Content-Length, or
/// with Content-Lengths that differ, may be an attempt at response splitting: it is refused. The lengths of an answer to
/// HEAD frame nothing, and are checked as those of GET: clients are told them.
fn body_framing(
    status: StatusCode,
    version: Version,
    headers: &HeaderMap,
    head_request: bool,
) -> Result<Framing, ExchangeError> {
    if status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED {
        return Ok(Framing::Length(0));
    }
    let length = content_length(headers)?;
    if head_request {
        return Ok(Framing::Length(0));
    }
    match headers.get(header::TRANSFER_ENCODING) {
        None => Ok(length.map_or(Framing::Close, Framing::Length)),
        Some(_) if length.is_some() => {
            Err(ExchangeError::Malformed("both Transfer-Encoding and Content-Length"))
        }
        Some(_) if version == Version::HTTP_10 => {
            Err(ExchangeError::Malformed("Transfer-Encoding in HTTP/1.0"))
        }
        Some(coding) if is_chunked(coding, headers) => Ok(Framing::Chunked(Chunked::default())),
        Some(_) => Err(ExchangeError::Malformed("an unknown transfer coding")),
    }
}

fn is_chunked(coding: &HeaderValue, headers: &HeaderMap) -> bool {
    let single = headers.get_all(header::TRANSFER_ENCODING).iter().count() == 1;
    single && coding.as_bytes().eq_ignore_ascii_case(b"chunked")
}

/// Returns the Content-Length, in bytes. Equal repetitions count as one, in several fields or in one (RFC 9112 section
/// 6.3, item 5).
///
/// # Errors
/// A malformed length, or two that differ.
pub(crate) fn content_length(headers: &HeaderMap) -> Result<Option<u64>, ExchangeError> {
    let mut length = None;
    for value in headers.get_all(header::CONTENT_LENGTH) {
        for element in value.as_bytes().split(|byte| *byte == b',') {
            let parsed = length_of(element).ok_or(ExchangeError::Malformed("Content-Length"))?;
            if length.is_some_and(|length| length != parsed) {
                return Err(ExchangeError::Malformed("two different Content-Lengths"));
            }
            length = Some(parsed);
        }
    }
    Ok(length)
}

fn length_of(element: &[u8]) -> Option<u64> {
    let digits = element.trim_ascii();
    let plain = !digits.is_empty() && digits.len() < 19 && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| plain)?.parse().ok()
}

/// Leaves one well-formed Content-Length where there are several equal ones: clients reject what is repeated
/// (curl#4689), and HTTP/2 makes it a PROTOCOL_ERROR.
pub(crate) fn unify_length(headers: &mut HeaderMap) {
    let is_plain = |value: &HeaderValue| !value.is_empty() && value.as_bytes().iter().all(u8::is_ascii_digit);
    let mut fields = headers.get_all(header::CONTENT_LENGTH).iter();
    let well_formed = fields.next().is_none_or(is_plain) && fields.next().is_none();
    if !well_formed {
        match content_length(headers) {
            Ok(Some(length)) => drop(headers.insert(header::CONTENT_LENGTH, length.into())),
            // Of a 204 or 304, whose length frames nothing.
            Ok(None) | Err(_) => drop(headers.remove(header::CONTENT_LENGTH)),
        }
    }
}
