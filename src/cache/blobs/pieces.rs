//! The bytes of a part of a blob that is not here whole: piece by piece, from wherever each is, or will be soonest.
//!
//! A piece is what the partial has of them, or what one stream brings. It may end sooner than was thought when it was opened; then
//! the next is opened where it has ended. The bytes are not proved, and the client has no more of them than those of its part.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderValue;

use crate::body::{Body, BodyError, Stream};
use crate::cache::blobs::file_body::{FileReader, Read};
use crate::cache::error::CacheError;
use crate::cache::outcome::CacheStatus;
use crate::cache::store::Partial;
use crate::proto::Span;

/// A piece that is being opened.
pub(crate) type Opening = Pin<Box<dyn Future<Output = Result<Piece, CacheError>> + Send>>;

/// Bytes from a place on, and what is known of the blob.
pub(crate) struct Piece {
    /// Bytes of the whole blob.
    pub(crate) total: u64,
    /// The blob's type.
    pub(crate) content_type: Option<HeaderValue>,
    /// The bytes.
    pub(crate) body: Body,
    /// The way in which they come.
    pub(crate) outcome: CacheStatus,
    /// The file that they are read from, or written to.
    pub(crate) partial: Option<Arc<Partial>>,
}

/// The body of a part.
pub(crate) struct PiecesBody {
    at: u64,
    end: u64,
    state: State,
    partial: Option<Arc<Partial>>,
    open: Box<dyn Fn(u64) -> Opening + Send>,
    /// The pieces that have ended since the last byte.
    fruitless: usize,
    /// Of those, the ones that broke.
    broken: usize,
}

enum State {
    Reading(Body),
    Opening(Opening),
}

impl PiecesBody {
    /// Returns the bytes of `span`, of which `first` has the first. `open` opens the piece from a place on.
    pub(crate) fn new(span: Span, first: Piece, open: impl Fn(u64) -> Opening + Send + 'static) -> Self {
        let Piece { body, partial, .. } = first;
        let (at, end, state) = (span.first, span.last + 1, State::Reading(body));
        Self { at, end, state, partial, open: Box::new(open), fruitless: 0, broken: 0 }
    }

    fn failed(&self) -> Poll<Option<Result<Bytes, BodyError>>> {
        Poll::Ready(Some(Err(BodyError::Short { missing: self.end - self.at })))
    }
}

impl Stream for PiecesBody {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        while self.at < self.end {
            match &mut self.state {
                State::Reading(body) => match ready!(body.poll_data(cx)) {
                    Some(Ok(mut data)) => {
                        data.truncate(usize::try_from(self.end - self.at).unwrap_or(usize::MAX));
                        self.at += data.len() as u64;
                        (self.fruitless, self.broken) = (0, 0);
                        return Poll::Ready(Some(Ok(data)));
                    }
                    ended => {
                        self.fruitless += 1;
                        self.broken += usize::from(ended.is_some());
                        let is_wrong = self.partial.as_ref().is_some_and(|partial| partial.is_wrong());
                        if is_wrong || self.fruitless > MOST_FRUITLESS || self.broken > MOST_BROKEN {
                            return self.failed();
                        }
                        self.state = State::Opening((self.open)(self.at));
                    }
                },
                State::Opening(opening) => match ready!(opening.as_mut().poll(cx)) {
                    Ok(Piece { body, partial, .. }) => {
                        self.state = State::Reading(body);
                        self.partial = partial;
                    }
                    Err(_) => return self.failed(),
                },
            }
        }
        Poll::Ready(None)
    }

    fn remaining(&self) -> Option<u64> {
        Some(self.end - self.at)
    }
}

/// Bytes that a partial has. They end early if the disk does not give them.
pub(crate) struct KeptBody {
    partial: Arc<Partial>,
    reader: FileReader,
    at: u64,
    end: u64,
}

impl KeptBody {
    /// Returns the bytes from `at` up to `end`, all of which `partial` has.
    pub(crate) fn new(partial: Arc<Partial>, at: u64, end: u64) -> Self {
        let mut reader = FileReader::new(partial.disk().clone());
        reader.set(partial.file().clone());
        Self { partial, reader, at, end }
    }
}

impl Stream for KeptBody {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if self.at == self.end {
            return Poll::Ready(None);
        }
        let read = match self.reader.poll_pending(cx) {
            Some(read) => ready!(read),
            None => match self.reader.read(self.at, self.end) {
                Read::Now(read) => read,
                Read::Later => return self.poll_data(cx),
            },
        };
        if self.partial.is_wrong() {
            return Poll::Ready(Some(Err(BodyError::Short { missing: self.end - self.at })));
        }
        match read {
            Ok(data) => {
                self.at += data.len() as u64;
                Poll::Ready(Some(Ok(data)))
            }
            Err(error) => {
                tracing::warn!(%error, "a part of a blob on its way can't be read; it is fetched again");
                self.partial.abandon();
                Poll::Ready(None)
            }
        }
    }

    fn remaining(&self) -> Option<u64> {
        None
    }
}

/// Pieces without a byte that may follow each other: each is opened where another has just ended, or could not be read.
const MOST_FRUITLESS: usize = 8;

/// Of them, those whose stream broke and could not be resumed as any of its requesters.
const MOST_BROKEN: usize = 1;
