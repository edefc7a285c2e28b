//! The body of an upstream's response, as a stream that drives its own connection.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;

use crate::body::{Body, BodyError, Stream};
use crate::clock::Stall;
use crate::upstream::transport::chunked::Step;
use crate::upstream::transport::http1::{Framing, Http1Connection};
use crate::upstream::transport::pool::PoolSlot;

/// The body that follows a response's head on a connection. The connection returns to `slot` once it is read whole.
pub(crate) struct Http1Body {
    connection: Option<Http1Connection>,
    framing: Framing,
    stall: Stall,
    /// The stall limit.
    limit: Duration,
    slot: PoolSlot,
}

impl Http1Body {
    /// Returns the body of a response: held whole when the head's last read brought all of it, else a stream. `limit`
    /// is the stall limit.
    pub(crate) fn body(
        slot: PoolSlot,
        mut connection: Http1Connection,
        mut framing: Framing,
        limit: Duration,
    ) -> Body {
        let whole =
            matches!(framing, Framing::Length(length @ ..=SMALL) if length <= connection.buffered() as u64);
        if whole && let Ok(step) = connection.take_body(&mut framing) {
            slot.put_back(connection);
            return match step {
                Step::Data(data) => Body::full(data),
                Step::End | Step::More => Body::empty(),
            };
        }
        let stall = Stall::new(limit);
        Body::stream(Self { connection: Some(connection), framing, stall, limit, slot })
    }

    fn finish(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.slot.put_back(connection);
        }
    }
}

/// Bodies up to this many bytes are looked for in what was read with the head.
const SMALL: u64 = 8 * 1024;

impl Stream for Http1Body {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let Some(connection) = &mut self.connection else { return Poll::Ready(None) };
        let Poll::Ready(item) = connection.poll_body(cx, &mut self.framing) else {
            ready!(self.stall.poll_waiting(cx));
            self.connection = None;
            return Poll::Ready(Some(Err(BodyError::Stalled(self.limit))));
        };
        self.stall.progress();
        match &item {
            // hyper does not poll again once Content-Length is reached, so the end is detected here.
            Some(Ok(_)) if self.remaining() == Some(0) => self.finish(),
            Some(Ok(_)) => {}
            Some(Err(_)) => self.connection = None,
            None => self.finish(),
        }
        Poll::Ready(item)
    }

    fn remaining(&self) -> Option<u64> {
        match self.framing {
            Framing::Length(left) => Some(left),
            Framing::Chunked(_) | Framing::Close => None,
        }
    }
}
