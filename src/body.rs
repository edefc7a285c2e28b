//! The bodies that flow through the gateway.
//!
//! No blob is ever held whole: a frame is read when the other side has taken the last. Every stream is counted against
//! its Content-Length, so that one which ended early is an error and never a clean end.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use crate::budget::{Lease, Spent, hold};
use crate::clock::Stall;
use crate::config::limits;

/// The failure of a body that had begun. The connection or stream is then torn down.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The transport failed.
    #[error("the connection broke")]
    Io(#[source] std::io::Error),
    /// The client's stream broke, or breaks HTTP's framing.
    #[error("the request's stream broke")]
    Stream(#[source] hyper::Error),
    /// The stream ended before its Content-Length was reached.
    #[error("the stream ended {missing} bytes short of its Content-Length")]
    Short {
        /// Bytes that never came.
        missing: u64,
    },
    /// The stream broke off, and nothing says how much is missing.
    #[error("the stream of unknown length broke off")]
    Unfinished,
    /// A chunked stream ended, or was malformed, before its last chunk (RFC 9112 section 7.1).
    #[error("the chunked stream is malformed or cut short")]
    Chunk,
    /// A list ended before its JSON did, or is not JSON.
    #[error("the list is malformed or cut short")]
    List,
    /// The peer reset its HTTP/2 stream instead of ending it (RFC 9113 section 8.1).
    #[error("the stream was reset before its end")]
    Reset,
    /// No byte came for the whole `stall_timeout`.
    #[error("no byte came for {} s", .0.as_secs())]
    Stalled(Duration),
}

/// A source of bytes that is read piece by piece, at the reader's pace.
pub(crate) trait Stream: Send {
    /// Polls for the next piece. `None` is the good end; after an error nothing more comes.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>>;

    /// Returns the number of bytes still to come, if known.
    fn remaining(&self) -> Option<u64>;
}

/// Observes a response's body as it is sent. Dropped when the body ends, however it ends.
pub(crate) trait Observer: Send {
    /// Notes that `bytes` more were handed to the connection.
    fn sent(&mut self, bytes: u64);

    /// Notes that the body broke on its way.
    fn broke(&mut self, error: &BodyError);
}

/// The origin of a response's bytes.
enum Source {
    Full(Bytes),
    Stream(Box<dyn Stream>),
}

/// A response's body.
pub(crate) struct Body {
    source: Source,
    observer: Option<Box<dyn Observer>>,
    /// The part of a budget that its source takes, until it has ended.
    lease: Option<Lease>,
}

impl Body {
    /// Returns a body without bytes.
    pub(crate) fn empty() -> Self {
        Self::full(Bytes::new())
    }

    /// Returns a body that is held whole: an error, a listing, a manifest.
    pub(crate) fn full(bytes: impl Into<Bytes>) -> Self {
        Self { source: Source::Full(bytes.into()), observer: None, lease: None }
    }

    /// Returns a body that is read from `stream`.
    pub(crate) fn stream(stream: impl Stream + 'static) -> Self {
        Self { source: Source::Stream(Box::new(stream)), observer: None, lease: None }
    }

    /// Returns this body with `observer` attached, in the place of an earlier one.
    #[must_use]
    pub(crate) fn observed(mut self, observer: Box<dyn Observer>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Returns this body with the lease of the connection that it is read from, given back when it ends. A body that is held
    /// whole needs none any more.
    #[must_use]
    pub(crate) fn leased(mut self, lease: Lease) -> Self {
        self.lease = Some(lease).filter(|_| !self.is_held());
        self
    }

    /// Returns the `length` bytes that follow the first `skip`. The end of this body before them is an error.
    pub(crate) fn slice(self, skip: u64, length: u64) -> Self {
        Self::stream(Slice { body: self, skip, left: length })
    }

    /// Returns this body, if it is held whole, with a lease that lasts until its bytes have been written to the client.
    #[must_use]
    pub(crate) fn held_by(mut self, lease: Lease) -> Self {
        if let Source::Full(bytes) = &mut self.source {
            *bytes = hold(std::mem::take(bytes), lease);
        }
        self
    }

    /// Polls for the next piece. `None` is the good end.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        match &mut self.source {
            Source::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Source::Full(bytes) => Poll::Ready(Some(Ok(std::mem::take(bytes)))),
            Source::Stream(stream) => {
                let item = ready!(stream.poll_data(cx));
                // A reader that knows the length does not ask for the end.
                if self.lease.is_some() && (!matches!(item, Some(Ok(_))) || stream.remaining() == Some(0)) {
                    self.lease = None;
                }
                Poll::Ready(item)
            }
        }
    }

    /// Returns true if the body is held whole.
    pub(crate) fn is_held(&self) -> bool {
        matches!(self.source, Source::Full(_))
    }

    /// Returns the number of bytes still to come, if known.
    pub(crate) fn remaining(&self) -> Option<u64> {
        match &self.source {
            Source::Full(bytes) => Some(bytes.len() as u64),
            Source::Stream(stream) => stream.remaining(),
        }
    }
}

/// The reason why a body can't be held whole.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WholeError {
    /// The body broke off.
    #[error(transparent)]
    Broken(#[from] BodyError),
    /// The body is longer than the caller allows, in bytes.
    #[error("it is longer than {0} bytes")]
    TooLong(usize),
    /// The body missed its deadline, or came at less than the least rate.
    #[error("it came too slowly")]
    TooSlow,
    /// There is no room for it.
    #[error(transparent)]
    Spent(#[from] Spent),
}

impl Body {
    /// Reads the body whole, up to `most` bytes and within `deadline`, and at no less than the rate that a body must have
    /// that is waited for ([`limits::HELD_BODY_WINDOW_BYTES`]). Returns a copy: what comes may be a piece of a larger buffer,
    /// which would be held as long.
    ///
    /// # Errors
    /// [`WholeError`].
    pub(crate) async fn whole(mut self, most: usize, deadline: Duration) -> Result<Bytes, WholeError> {
        let mut bytes = Vec::new();
        self.read_into(&mut bytes, most, deadline, None).await?;
        Ok(bytes.into())
    }

    /// Reads the body as [`Body::whole`] does. `room` grows with what arrives.
    ///
    /// # Errors
    /// [`WholeError`].
    pub(crate) async fn whole_within(
        mut self,
        most: usize,
        deadline: Duration,
        room: &mut Lease,
    ) -> Result<Bytes, WholeError> {
        let mut bytes = Vec::new();
        self.read_into(&mut bytes, most, deadline, Some(room)).await?;
        Ok(bytes.into())
    }

    /// Returns the beginning of the body, up to `most` bytes: what has come within `deadline`, or before it broke.
    pub(crate) async fn beginning(mut self, most: usize, deadline: Duration) -> Bytes {
        let mut bytes = Vec::new();
        // An error ends the beginning; the bytes before it are still wanted.
        let _ = self.read_into(&mut bytes, most, deadline, None).await;
        bytes.truncate(most);
        bytes.into()
    }

    async fn read_into(
        &mut self,
        bytes: &mut Vec<u8>,
        most: usize,
        deadline: Duration,
        mut room: Option<&mut Lease>,
    ) -> Result<(), WholeError> {
        let deadline = tokio::time::Instant::now() + deadline;
        let mut window = tokio::time::Instant::now() + limits::HELD_BODY_WINDOW;
        let mut before = 0;
        loop {
            let next = poll_fn(|cx| self.poll_data(cx));
            match tokio::time::timeout_at(window.min(deadline), next).await {
                Ok(None) => return Ok(()),
                Ok(Some(data)) => {
                    let data = data?;
                    if let Some(room) = &mut room {
                        room.cover(bytes.len() + data.len()).await?;
                    }
                    bytes.extend_from_slice(&data);
                }
                Err(_) if window >= deadline || bytes.len() - before < limits::HELD_BODY_WINDOW_BYTES => {
                    return Err(WholeError::TooSlow);
                }
                Err(_) => {
                    window += limits::HELD_BODY_WINDOW;
                    before = bytes.len();
                }
            }
            if bytes.len() > most {
                return Err(WholeError::TooLong(most));
            }
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let item = ready!(self.poll_data(cx));
        if let Some(observer) = &mut self.observer {
            match &item {
                Some(Ok(data)) => observer.sent(data.len() as u64),
                Some(Err(error)) => observer.broke(error),
                None => {}
            }
        }
        Poll::Ready(item.map(|item| item.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.remaining() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.remaining().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("remaining", &self.remaining()).finish_non_exhaustive()
    }
}

/// A body without its first bytes, and without those behind its last.
struct Slice {
    body: Body,
    skip: u64,
    left: u64,
}

impl Stream for Slice {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            if self.left == 0 {
                return Poll::Ready(None);
            }
            let Some(item) = ready!(self.body.poll_data(cx)) else {
                return Poll::Ready(Some(Err(BodyError::Short { missing: self.left })));
            };
            let mut data = item?;
            let skipped = data.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
            data.advance(skipped);
            self.skip -= skipped as u64;
            data.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
            self.left -= data.len() as u64;
            if !data.is_empty() {
                return Poll::Ready(Some(Ok(data)));
            }
        }
    }

    fn remaining(&self) -> Option<u64> {
        Some(self.left)
    }
}

/// The reason why a client's body can't be held whole.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CollectError {
    /// The client's stream broke or stalled.
    #[error(transparent)]
    Broken(#[from] BodyError),
    /// The body is longer than the caller allows.
    #[error("it is too long")]
    TooLong,
    /// There is no room for it.
    #[error(transparent)]
    Spent(#[from] Spent),
}

/// An observer of what a client sends.
pub(crate) trait Tap: Send + Sync {
    /// Takes note of a piece. Must not block.
    fn pass(&self, data: &Bytes);
}

/// A request's body, on its way upstream.
pub(crate) struct RequestBody {
    source: Sending,
    /// Bytes still to come, if Content-Length says.
    left: Option<u64>,
    /// Bytes that were taken from the client.
    taken: u64,
    begun: bool,
    /// The good end was reached.
    ended: bool,
    tap: Option<Box<dyn Tap>>,
    stall: Stall,
    limit: Duration,
}

enum Sending {
    /// Nothing, or nothing more.
    Nothing,
    /// Bytes that were read whole and can be sent again. `measured`: with a Content-Length.
    Held {
        bytes: Bytes,
        measured: bool,
    },
    Incoming {
        incoming: Incoming,
        http2: bool,
    },
}

impl RequestBody {
    /// Returns the body of a request without one.
    pub(crate) fn empty() -> Self {
        Self::of(Sending::Nothing, Some(0), Duration::ZERO)
    }

    /// Returns a body that is held whole.
    pub(crate) fn held(bytes: Bytes) -> Self {
        let length = bytes.len() as u64;
        Self::of(Sending::Held { bytes, measured: true }, Some(length), Duration::ZERO)
    }

    /// Returns a body that is held whole and sent in chunks (RFC 9112 section 7.1), as by a client that does not know its
    /// length.
    pub(crate) fn held_unmeasured(bytes: Bytes) -> Self {
        Self::of(Sending::Held { bytes, measured: false }, None, Duration::ZERO)
    }

    /// Returns the body that a client sends, by HTTP/2 or HTTP/1.1. `stall` is how long no byte may arrive.
    pub(crate) fn new(incoming: Incoming, http2: bool, stall: Duration) -> Self {
        if incoming.is_end_stream() {
            return Self::empty();
        }
        let left = incoming.size_hint().exact();
        Self::of(Sending::Incoming { incoming, http2 }, left, stall)
    }

    fn of(source: Sending, left: Option<u64>, stall: Duration) -> Self {
        let stall_watch = Stall::new(stall);
        Self {
            source,
            left,
            taken: 0,
            begun: false,
            ended: false,
            tap: None,
            stall: stall_watch,
            limit: stall,
        }
    }

    /// Replaces the observer of what the client sends.
    pub(crate) fn set_tap(&mut self, tap: Option<Box<dyn Tap>>) {
        self.tap = tap;
    }

    /// Returns true if there is nothing to send, and never was.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self.source, Sending::Nothing) && !self.begun
    }

    /// Returns true if a piece has been taken from the client: the request can't be sent a second time.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Returns true if the client is still sending, or broke off.
    pub(crate) fn is_unfinished(&self) -> bool {
        matches!(self.source, Sending::Incoming { .. })
    }

    /// Returns true if all of it has been taken from the client.
    pub(crate) fn is_taken(&self) -> bool {
        self.ended || self.left == Some(0)
    }

    /// Returns the number of bytes still to come, if the client said.
    pub(crate) fn remaining(&self) -> Option<u64> {
        self.left
    }

    /// Returns the number of bytes that have been taken from the client.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// Polls for the next piece. Trailers are dropped: no part of the registry API has any, and merging them is unsafe.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            let incoming = match &mut self.source {
                Sending::Nothing => return Poll::Ready(None),
                Sending::Held { bytes, .. } => return Poll::Ready(take_held(bytes, &mut self.left)),
                Sending::Incoming { incoming, .. } => incoming,
            };
            let Poll::Ready(frame) = Pin::new(incoming).poll_frame(cx) else {
                ready!(self.stall.poll_waiting(cx));
                self.source = Sending::Nothing;
                return Poll::Ready(Some(Err(BodyError::Stalled(self.limit))));
            };
            self.stall.progress();
            match frame {
                None => return Poll::Ready(self.finish().err().map(Err)),
                Some(Err(error)) => {
                    self.source = Sending::Nothing;
                    return Poll::Ready(Some(Err(BodyError::Stream(error))));
                }
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Poll::Ready(Some(Ok(self.take(data))));
                    }
                }
            }
        }
    }

    fn take(&mut self, data: Bytes) -> Bytes {
        self.begun = true;
        self.taken += data.len() as u64;
        // hyper holds the sender to its Content-Length; saturating keeps a miscount here from ever being a panic.
        self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
        if let Some(tap) = &self.tap {
            tap.pass(&data);
        }
        data
    }

    /// Checks the end of the stream. hyper shows a reset with NO_ERROR as a clean end; only END_STREAM is one.
    fn finish(&mut self) -> Result<(), BodyError> {
        let source = std::mem::replace(&mut self.source, Sending::Nothing);
        let reset =
            matches!(&source, Sending::Incoming { incoming, http2: true } if !incoming.is_end_stream());
        match self.left {
            Some(missing) if missing > 0 => Err(BodyError::Short { missing }),
            _ if reset => Err(BodyError::Reset),
            _ => {
                self.ended = true;
                Ok(())
            }
        }
    }

    /// Reads the body whole, up to `limit` bytes. `lease` grows with what arrives: what a client only announces takes no room
    /// from others.
    ///
    /// # Errors
    /// [`CollectError`].
    pub(crate) async fn collect(&mut self, limit: usize, lease: &mut Lease) -> Result<Bytes, CollectError> {
        if self.left.is_some_and(|left| left > limit as u64) {
            return Err(CollectError::TooLong);
        }
        let mut whole = BytesMut::new();
        while let Some(data) = poll_fn(|cx| self.poll_data(cx)).await {
            let data = data?;
            let length = whole.len() + data.len();
            if length > limit {
                return Err(CollectError::TooLong);
            }
            lease.cover(length).await?;
            whole.extend_from_slice(&data);
        }
        lease.shrink_to(whole.len() as u64);
        Ok(whole.freeze())
    }

    /// Reads and discards what the client still sends, up to `limit` bytes, so that it finds the answer before the connection
    /// is closed, instead of a reset. Returns true if there is more.
    pub(crate) async fn drain(&mut self, limit: usize) -> bool {
        let mut left = limit;
        while let Some(Ok(data)) = poll_fn(|cx| self.poll_data(cx)).await {
            match left.checked_sub(data.len()) {
                Some(rest) => left = rest,
                None => return true,
            }
        }
        false
    }
}

fn take_held(bytes: &mut Bytes, left: &mut Option<u64>) -> Option<Result<Bytes, BodyError>> {
    match *left {
        Some(0) => None,
        _ => {
            *left = Some(0);
            Some(Ok(bytes.clone()))
        }
    }
}

impl RequestBody {
    /// Makes a held body ready to be sent again from its start. A streaming one must not have begun.
    pub(crate) fn rewind(&mut self) {
        if let Sending::Held { bytes, measured } = &self.source {
            self.left = measured.then_some(bytes.len() as u64);
        }
    }
}

impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBody")
            .field("left", &self.left)
            .field("begun", &self.begun)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn next(body: &mut RequestBody) -> Option<Bytes> {
        poll_fn(|cx| body.poll_data(cx)).await.transpose().unwrap()
    }

    #[tokio::test]
    async fn a_held_body_can_be_sent_again() {
        let bytes = Bytes::from_static(b"abc");
        for (mut body, length) in
            [(RequestBody::held(bytes.clone()), Some(3)), (RequestBody::held_unmeasured(bytes.clone()), None)]
        {
            for _ in 0..2 {
                body.rewind();
                assert_eq!(body.remaining(), length);
                assert!(!body.is_empty() && !body.is_unfinished());
                assert_eq!((next(&mut body).await, next(&mut body).await), (Some(bytes.clone()), None));
                assert!(!body.has_begun());
            }
        }
    }

    /// Three pieces that come one by one.
    struct Pieces(std::vec::IntoIter<&'static str>);

    impl Stream for Pieces {
        fn poll_data(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
            Poll::Ready(self.0.next().map(|piece| Ok(Bytes::from_static(piece.as_bytes()))))
        }

        fn remaining(&self) -> Option<u64> {
            None
        }
    }

    /// Two bytes each second.
    struct Trickle(usize, Option<Pin<Box<tokio::time::Sleep>>>);

    impl Stream for Trickle {
        fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
            if self.0 == 0 {
                return Poll::Ready(None);
            }
            let second = || Box::pin(tokio::time::sleep(Duration::from_secs(1)));
            ready!(self.1.get_or_insert_with(second).as_mut().poll(cx));
            self.1 = None;
            self.0 -= 1;
            Poll::Ready(Some(Ok(Bytes::from_static(b"ab"))))
        }

        fn remaining(&self) -> Option<u64> {
            None
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_trickles_is_not_waited_for() {
        let minute = Duration::from_secs(60);
        let start = crate::clock::now();
        let slow = Body::stream(Trickle(100, None)).whole(1000, minute).await;
        assert!(matches!(slow, Err(WholeError::TooSlow)));
        assert_eq!((crate::clock::now() - start).as_secs(), 10);
        let short = Body::stream(Trickle(3, None)).whole(1000, minute).await.unwrap();
        assert_eq!(short, "ababab");
        let long = Body::stream(Trickle(8, None)).whole(5, minute).await;
        assert!(matches!(long, Err(WholeError::TooLong(5))));
        let beginning = Body::stream(Trickle(100, None)).beginning(1000, Duration::from_millis(2500)).await;
        assert_eq!(beginning, "abab");
    }

    async fn sliced(skip: u64, length: u64) -> (String, Option<u64>) {
        let body = Body::stream(Pieces(vec!["abc", "def", "gh"].into_iter()));
        let (mut slice, mut read) = (body.slice(skip, length), String::new());
        while let Some(item) = poll_fn(|cx| slice.poll_data(cx)).await {
            match item {
                Ok(data) => read.push_str(std::str::from_utf8(&data).unwrap()),
                Err(BodyError::Short { missing }) => return (read, Some(missing)),
                Err(error) => panic!("{error}"),
            }
        }
        (read, None)
    }

    #[tokio::test]
    async fn a_slice_is_the_bytes_asked_for() {
        for (skip, length, expected) in
            [(0, 8, "abcdefgh"), (2, 3, "cde"), (3, 3, "def"), (7, 1, "h"), (9, 0, "")]
        {
            assert_eq!(sliced(skip, length).await, (expected.to_owned(), None));
        }
        assert_eq!(sliced(6, 4).await, ("gh".to_owned(), Some(2)), "it ends early");
    }
}
