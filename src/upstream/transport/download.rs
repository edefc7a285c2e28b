//! The body of an upstream's response, as a stream that drives its own connection.

use std::task::{Context, Poll, ready};

use bytes::Bytes;

use crate::body::{Body, BodyError, Stream};
use crate::clock::Stall;
use crate::upstream::transport::chunked::Step;
use crate::upstream::transport::client::Home;
use crate::upstream::transport::http1::{Framing, Wire};

/// The body that follows a response's head on `wire`. The connection goes back to `home` once it is read whole.
pub(crate) struct Download {
    wire: Option<Wire>,
    framing: Framing,
    stall: Stall,
    home: Home,
}

impl Download {
    /// A body for the response: held whole when the head's last read brought all of it, else a stream.
    pub(crate) fn body(home: Home, mut wire: Wire, mut framing: Framing) -> Body {
        let whole = matches!(framing, Framing::Length(length @ ..=SMALL) if length <= wire.buffered() as u64);
        if whole && let Ok(step) = wire.take_body(&mut framing) {
            home.put_back(wire);
            return match step {
                Step::Data(data) => Body::full(data),
                Step::End | Step::More => Body::empty(),
            };
        }
        let stall = Stall::new(home.stall_timeout());
        Body::stream(Self { wire: Some(wire), framing, stall, home })
    }

    fn finish(&mut self) {
        if let Some(wire) = self.wire.take() {
            self.home.put_back(wire);
        }
    }
}

/// Bodies up to this many bytes are looked for in what was read with the head.
const SMALL: u64 = 8 * 1024;

impl Stream for Download {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let Some(wire) = &mut self.wire else { return Poll::Ready(None) };
        let Poll::Ready(item) = wire.poll_body(cx, &mut self.framing) else {
            ready!(self.stall.poll_waiting(cx));
            self.wire = None;
            return Poll::Ready(Some(Err(BodyError::Stalled(self.home.stall_timeout()))));
        };
        self.stall.progress();
        match &item {
            // hyper asks no further once Content-Length is reached, so that end has to be seen here.
            Some(Ok(_)) if self.remaining() == Some(0) => self.finish(),
            Some(Ok(_)) => {}
            Some(Err(_)) => self.wire = None,
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
