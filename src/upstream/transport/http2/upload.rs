//! The body of a request, as fast as the server's windows let it out.

use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;

use crate::body::RequestBody;
use crate::clock::Stall;
use crate::upstream::transport::http1::ExchangeError;

/// What is still to be sent on one stream.
pub(crate) struct Upload {
    stream: SendStream<Bytes>,
    piece: Bytes,
    stall: Stall,
}

impl Upload {
    /// `stall`: how long the server may take nothing.
    pub(crate) fn new(stream: SendStream<Bytes>, stall: Duration) -> Self {
        Self { stream, piece: Bytes::new(), stall: Stall::new(stall) }
    }

    /// Sends what `body` has. Ready when it is out, or when the server wants no more of it: then it has an answer.
    ///
    /// # Errors
    /// When the client's side breaks, and when the server takes nothing for too long.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        body: &mut RequestBody,
    ) -> Poll<Result<(), ExchangeError>> {
        loop {
            if self.piece.is_empty() {
                match ready!(body.poll_data(cx)) {
                    Some(piece) => self.piece = piece.map_err(ExchangeError::Body)?,
                    None => {
                        self.send(Bytes::new(), true);
                        return Poll::Ready(Ok(()));
                    }
                }
                continue;
            }
            let Poll::Ready(room) = self.poll_room(cx) else {
                ready!(self.stall.poll_waiting(cx));
                let error = io::Error::new(io::ErrorKind::TimedOut, "the peer takes nothing");
                return Poll::Ready(Err(ExchangeError::Io(error)));
            };
            self.stall.progress();
            let Some(room) = room else { return Poll::Ready(Ok(())) };
            let part = self.piece.split_to(room.min(self.piece.len()));
            let last = self.piece.is_empty() && is_spent(body);
            self.send(part, last);
            if last {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Bytes that may go out now: at least one. `None` when the stream is over.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Option<usize>> {
        self.stream.reserve_capacity(self.piece.len());
        loop {
            match self.stream.capacity() {
                0 => match ready!(self.stream.poll_capacity(cx)) {
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return Poll::Ready(None),
                },
                room => return Poll::Ready(Some(room)),
            }
        }
    }

    fn send(&mut self, part: Bytes, last: bool) {
        // A stream that is over by now has an answer, or an error, for whoever waits for its head.
        let _ = self.stream.send_data(part, last);
    }
}

/// Of a held body nothing is left when its only piece is.
fn is_spent(body: &RequestBody) -> bool {
    !body.is_unfinished() && body.remaining() == Some(0)
}
