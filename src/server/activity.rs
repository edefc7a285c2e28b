//! The activity of a connection: requests under way, bytes read and written.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::body::{Body, BodyError};
use crate::config::limits;
use crate::net::Abortable;
use crate::server::head_scan::HeadScan;

/// The activity of a connection, shared by its stream, its requests and its guard. All of them live in one task; the atomics
/// only satisfy the compiler.
#[derive(Clone, Debug, Default)]
pub(super) struct Activity(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// Requests whose response has not ended.
    under_way: AtomicUsize,
    /// A request has been read.
    begun: AtomicBool,
    /// Bytes have arrived since the last request ended: the head of a next one.
    head_begun: AtomicBool,
    /// A head with both Transfer-Encoding and Content-Length has arrived.
    both_lengths: AtomicBool,
    /// Bytes of a response that hyper has taken and not yet written to the socket.
    unwritten: AtomicUsize,
    /// A body waits until hyper has written what it has taken.
    body_waits: AtomicBool,
    /// A request has ended since the guard last asked.
    ended: AtomicBool,
    /// Responses whose last frame hyper has taken without asking for another.
    held_back: AtomicUsize,
    /// Frames of responses that hyper has taken; wraps.
    moved: AtomicUsize,
    /// A response is under way whose end only the end of the connection shows.
    ends_with_connection: AtomicBool,
}

impl Activity {
    pub(super) fn is_idle(&self) -> bool {
        self.0.under_way.load(Ordering::Relaxed) == 0
    }

    /// Returns true if a request has been read, ever.
    pub(super) fn has_begun(&self) -> bool {
        self.0.begun.load(Ordering::Relaxed)
    }

    pub(super) fn head_has_begun(&self) -> bool {
        self.0.head_begun.load(Ordering::Relaxed)
    }

    /// Returns true if a request has ended since the last call.
    pub(super) fn take_ended(&self) -> bool {
        self.0.ended.swap(false, Ordering::Relaxed)
    }

    /// Returns the number of frames that hyper has taken. While it stays the same and [`Activity::is_held_back`], the client
    /// takes nothing.
    pub(super) fn moved(&self) -> usize {
        self.0.moved.load(Ordering::Relaxed)
    }

    /// Returns true if a response waits for the client to take what it has.
    pub(super) fn is_held_back(&self) -> bool {
        self.0.held_back.load(Ordering::Relaxed) > 0
    }

    /// Notes that a request has been read. It is under way until the guard is dropped.
    pub(super) fn begin(&self) -> RequestGuard {
        self.0.under_way.fetch_add(1, Ordering::Relaxed);
        self.0.begun.store(true, Ordering::Relaxed);
        self.0.head_begun.store(false, Ordering::Relaxed);
        RequestGuard { activity: self.clone(), held_back: false }
    }

    /// Returns true, once, if the head that was read last has both lengths.
    pub(super) fn take_both_lengths(&self) -> bool {
        self.0.both_lengths.swap(false, Ordering::Relaxed)
    }
}

/// A request that is under way.
pub(super) struct RequestGuard {
    activity: Activity,
    /// hyper has taken a frame and not asked for another yet.
    held_back: bool,
}

impl RequestGuard {
    fn asked(&mut self) {
        if std::mem::take(&mut self.held_back) {
            self.activity.0.held_back.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn taken(&mut self, length: usize) {
        self.held_back = true;
        let state = &self.activity.0;
        state.held_back.fetch_add(1, Ordering::Relaxed);
        state.moved.fetch_add(1, Ordering::Relaxed);
        state.unwritten.fetch_add(length, Ordering::Relaxed);
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.asked();
        let state = &self.activity.0;
        state.under_way.fetch_sub(1, Ordering::Relaxed);
        state.ended.store(true, Ordering::Relaxed);
    }
}

/// A response's body that keeps its request under way.
///
/// If it is paced (HTTP/1.1), it gives hyper no further frame before the last is written: hyper would queue up to its whole
/// buffer, which is large for the sake of uploads, for every client that reads slowly.
pub(super) struct TrackedBody {
    body: Body,
    guard: RequestGuard,
    paced: bool,
}

impl TrackedBody {
    pub(super) fn new(body: Body, guard: RequestGuard, paced: bool) -> Self {
        guard.activity.0.unwritten.store(0, Ordering::Relaxed);
        Self { body, guard, paced }
    }

    /// Returns this body as one whose client knows its end by the end of the connection alone (RFC 9112 section 6.3, item
    /// 8). Until all of it is sent, the connection ends with a reset: its ordinary end would make a broken response look
    /// whole.
    pub(super) fn ended_by_connection(self) -> Self {
        self.guard.activity.0.ends_with_connection.store(true, Ordering::Relaxed);
        self
    }
}

impl HttpBody for TrackedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.guard.asked();
        let state = &self.guard.activity.0;
        if self.paced && state.unwritten.load(Ordering::Relaxed) >= limits::COPY_BUFFER_BYTES {
            // hyper flushes when a body has nothing for it; the flush wakes this task.
            state.body_waits.store(true, Ordering::Relaxed);
            return Poll::Pending;
        }
        let item = Pin::new(&mut self.body).poll_frame(cx);
        match &item {
            Poll::Ready(Some(Ok(frame))) => {
                let length = frame.data_ref().map_or(0, Bytes::len);
                self.guard.taken(length);
                if self.body.is_end_stream() {
                    self.guard.activity.0.ends_with_connection.store(false, Ordering::Relaxed);
                }
            }
            Poll::Ready(None) => {
                self.guard.activity.0.ends_with_connection.store(false, Ordering::Relaxed);
            }
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        item
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream that notes its reads and flushes, and ends with a reset where its ordinary end would mislead.
pub(super) struct ActivityIo<T> {
    inner: T,
    activity: Activity,
    scan: HeadScan,
    /// The connection would end with a reset now.
    aborts: bool,
}

impl<T> ActivityIo<T> {
    pub(super) fn new(inner: T, activity: Activity) -> Self {
        Self { inner, activity, scan: HeadScan::default(), aborts: false }
    }
}

impl<T: Abortable> ActivityIo<T> {
    /// Sets how the connection would end now.
    fn settle_end(&mut self) {
        let aborts = self.activity.0.ends_with_connection.load(Ordering::Relaxed);
        if aborts != self.aborts {
            self.aborts = aborts;
            self.inner.set_abort(aborts);
        }
    }
}

impl<T> ActivityIo<T> {
    fn note_read(&mut self, bytes: &[u8]) {
        let (state, idle) = (&self.activity.0, self.activity.is_idle());
        if idle {
            state.head_begun.store(true, Ordering::Relaxed);
        }
        if self.scan.read(bytes, idle) {
            state.both_lengths.store(true, Ordering::Relaxed);
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for ActivityIo<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.inner).poll_read(cx, buf);
        let read = &buf.filled()[before..];
        if !read.is_empty() {
            self.note_read(read);
        }
        result
    }
}

impl<T: AsyncWrite + Abortable + Unpin> AsyncWrite for ActivityIo<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.settle_end();
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.settle_end();
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        if flushed.is_ready() {
            let state = &self.activity.0;
            state.unwritten.store(0, Ordering::Relaxed);
            if state.body_waits.swap(false, Ordering::Relaxed) {
                cx.waker().wake_by_ref();
            }
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.settle_end();
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        self.settle_end();
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
