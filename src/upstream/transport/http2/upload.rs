//! The body of an HTTP/2 request.

use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;

use crate::body::RequestBody;
use crate::clock::Stall;
use crate::upstream::transport::http1::ExchangeError;

/// The rest of a body, sent as the server's windows allow.
pub(crate) struct RequestUpload {
    stream: SendStream<Bytes>,
    piece: Bytes,
    stall: Stall,
}

impl RequestUpload {
    /// Creates an upload on `stream`. `stall` is how long the server may accept nothing.
    pub(crate) fn new(stream: SendStream<Bytes>, stall: Duration) -> Self {
        Self { stream, piece: Bytes::new(), stall: Stall::new(stall) }
    }

    /// Sends `body`. Ready when all of it is sent, or when the server wants no more of it: then it has an answer.
    ///
    /// # Errors
    /// When the client's side breaks, and when the server accepts nothing for too long.
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

    /// Waits until bytes may be sent, and returns how many. `None` when the stream is over.
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
        // A stream that is over has an answer or an error for the task that waits for its head.
        let _ = self.stream.send_data(part, last);
    }
}

/// Returns true if a held body has given its only piece.
fn is_spent(body: &RequestBody) -> bool {
    !body.is_unfinished() && body.remaining() == Some(0)
}
