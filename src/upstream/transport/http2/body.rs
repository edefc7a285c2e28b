//! The body of an HTTP/2 response.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;

use crate::body::{Body, BodyError, Stream};
use crate::clock::Stall;
use crate::upstream::transport::http2::active_requests::ActiveRequest;

/// The body on one stream. Dropped before its end it resets the stream.
pub(crate) struct Http2Body {
    stream: Option<RecvStream>,
    /// The piece that came with the head.
    first: Option<Bytes>,
    left: Option<u64>,
    stall: Stall,
    limit: Duration,
    _request: ActiveRequest,
}

impl Http2Body {
    /// Creates the body on `stream`. `left` is the Content-Length, if any, and `limit` the stall limit.
    pub(crate) fn new(
        stream: RecvStream,
        left: Option<u64>,
        request: ActiveRequest,
        limit: Duration,
    ) -> Self {
        let stream = Some(stream).filter(|_| left != Some(0));
        Self { stream, first: None, left, stall: Stall::new(limit), limit, _request: request }
    }

    /// Returns the body: held whole when all of it came with the head, else a stream.
    pub(crate) async fn body(mut self) -> Body {
        if self.stream.is_none() {
            return Body::empty();
        }
        let first = poll_fn(|cx| Poll::Ready(self.poll_next(cx))).await;
        match first {
            Poll::Ready(Some(Ok(data))) if self.is_whole() => return Body::full(data),
            Poll::Ready(Some(Ok(data))) => self.first = Some(data),
            Poll::Ready(None) => return Body::empty(),
            Poll::Ready(Some(Err(error))) => return Body::stream(Broken(Some(error), self.left)),
            Poll::Pending => {}
        }
        Body::stream(self)
    }

    fn is_whole(&self) -> bool {
        let ended = self.stream.as_ref().is_none_or(RecvStream::is_end_stream);
        self.left.map_or(ended, |left| left == 0)
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            let Some(stream) = &mut self.stream else { return Poll::Ready(None) };
            let item = match ready!(stream.poll_data(cx)) {
                Some(Ok(data)) if data.is_empty() => continue,
                Some(Ok(data)) => {
                    // Fails where the stream is over, which needs no more room.
                    let _ = stream.flow_control().release_capacity(data.len());
                    self.take(data)
                }
                Some(Err(error)) => Some(Err(broken(error))),
                None => self.left.filter(|left| *left > 0).map(|missing| Err(BodyError::Short { missing })),
            };
            if !matches!(item, Some(Ok(_))) {
                self.stream = None;
            }
            return Poll::Ready(item);
        }
    }

    /// Counts a piece. h2 checks Content-Length as well, so that an excess is an error before it is here.
    fn take(&mut self, data: Bytes) -> Option<Result<Bytes, BodyError>> {
        match self.left.map(|left| left.checked_sub(data.len() as u64)) {
            Some(None) => return Some(Err(BodyError::Reset)),
            Some(left) => self.left = left,
            None => {}
        }
        Some(Ok(data))
    }
}

impl Stream for Http2Body {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        let Poll::Ready(item) = self.poll_next(cx) else {
            ready!(self.stall.poll_waiting(cx));
            self.stream = None;
            return Poll::Ready(Some(Err(BodyError::Stalled(self.limit))));
        };
        self.stall.progress();
        Poll::Ready(item)
    }

    fn remaining(&self) -> Option<u64> {
        self.left.map(|left| left + self.first.as_ref().map_or(0, |first| first.len() as u64))
    }
}

/// A stream that broke before its first byte was asked for.
struct Broken(Option<BodyError>, Option<u64>);

impl Stream for Broken {
    fn poll_data(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        Poll::Ready(self.0.take().map(Err))
    }

    fn remaining(&self) -> Option<u64> {
        self.1
    }
}

fn broken(error: h2::Error) -> BodyError {
    if error.is_reset() { BodyError::Reset } else { BodyError::Io(io::Error::other(error)) }
}
