//! The body of an answer of a replica.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body::Body as _;
use hyper::body::Incoming;

use crate::body::{BodyError, Stream};
use crate::config::limits;
use crate::peers::connections::{Busy, Connections};
use crate::peers::member::Member;
use crate::peers::vigil::Vigil;

/// The bytes that a member sends. Where they break off, the member is passed over, and what is missing is asked of the next.
pub(super) struct PeerStream {
    incoming: Incoming,
    /// Bytes still to come, if it says.
    left: Option<u64>,
    member: Member,
    vigil: Vigil,
    connections: Arc<Connections>,
    /// None once the end has come.
    busy: Option<Busy>,
}

impl PeerStream {
    pub(super) fn new(
        headers: &HeaderMap,
        incoming: Incoming,
        member: Member,
        vigil: Vigil,
        connections: Arc<Connections>,
        busy: Busy,
    ) -> Self {
        let length =
            headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        Self { incoming, left: length, member, vigil, connections, busy: Some(busy) }
    }

    fn fail(&mut self, error: BodyError, is_dead: bool) -> Poll<Option<Result<Bytes, BodyError>>> {
        self.busy = None;
        if is_dead {
            self.vigil.watch().rest(&self.member, "it has not answered whether it lives, twice");
        } else {
            self.vigil.watch().rest_briefly(&self.member, "a stream from it broke off");
        }
        Poll::Ready(Some(Err(error)))
    }

    fn finish(&mut self) -> Poll<Option<Result<Bytes, BodyError>>> {
        if let Some(missing) = self.left.filter(|left| *left > 0) {
            return self.fail(BodyError::Short { missing }, false);
        }
        if let Some(busy) = self.busy.take() {
            self.connections.keep(busy);
        }
        Poll::Ready(None)
    }
}

impl Stream for PeerStream {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if self.busy.is_none() {
            return Poll::Ready(None);
        }
        loop {
            match Pin::new(&mut self.incoming).poll_frame(cx) {
                Poll::Pending => {
                    return match self.vigil.poll_dead(cx) {
                        Poll::Pending => Poll::Pending,
                        Poll::Ready(()) => {
                            self.fail(BodyError::Stalled(2 * limits::PEER_ALIVE_INTERVAL), true)
                        }
                    };
                }
                Poll::Ready(None) => return self.finish(),
                Poll::Ready(Some(Err(error))) => return self.fail(BodyError::Stream(error), false),
                Poll::Ready(Some(Ok(frame))) => {
                    self.vigil.progress();
                    let Ok(data) = frame.into_data() else { continue };
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                    self.member.note_bytes(data.len() as u64);
                    return Poll::Ready(Some(Ok(data)));
                }
            }
        }
    }

    fn remaining(&self) -> Option<u64> {
        self.left
    }
}

/// A reader that knows the length does not ask for the end: the connection is as good as behind it.
impl Drop for PeerStream {
    fn drop(&mut self) {
        if self.left == Some(0)
            && self.incoming.is_end_stream()
            && let Some(busy) = self.busy.take()
        {
            self.connections.keep(busy);
        }
    }
}
