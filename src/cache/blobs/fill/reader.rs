//! The body of a response whose bytes a fill downloads.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use crate::body::{Body, BodyError, Stream};
use crate::cache::blobs::file_body::{FileReader, Read};
use crate::cache::blobs::fill::answer::exactly;
use crate::cache::blobs::fill::ring::Place;
use crate::cache::blobs::fill::state::{End, FillState, WITHHELD_BYTES};
use crate::cache::blobs::fill::subscription::Subscription;
use crate::cache::origin::gate::Gate;
use crate::cache::origin::{ByteSpan, OriginRequest, Priority};
use crate::cache::requester::Requester;
use crate::cache::store::disk_pool::DiskPool;
use crate::proto::Digest;

/// A body of bytes of a blob that is being downloaded.
pub(crate) struct Reader {
    subscription: Subscription,
    requester: Requester,
    gate: Arc<Gate>,
    /// The offset of the first byte.
    first: u64,
    /// The offset of the next byte.
    at: u64,
    /// The offset behind the last byte; none: the reader goes on to the end of the stream.
    end: Option<u64>,
    place: usize,
    file: FileReader,
    alone: Alone,
}

/// The reader's own request to the upstream. A reader makes one when neither the ring nor the file has its next byte, so
/// that it does not slow the others.
enum Alone {
    No,
    Asking(Pin<Box<dyn Future<Output = Result<Body, BodyError>> + Send>>),
    Reading(Body),
    /// The last bytes of the blob have come, and wait until the fill is verified.
    Withheld(Bytes, Body),
}

enum Step {
    Data(Bytes),
    File(u64),
    Behind,
    Wait,
    End,
    Failed(BodyError),
}

impl Reader {
    /// Returns a reader from `at` up to `end`. It asks the upstream through `gate` if it falls behind.
    pub(crate) fn new(
        subscription: Subscription,
        requester: Requester,
        gate: Arc<Gate>,
        disk: Arc<DiskPool>,
        at: u64,
        end: Option<u64>,
    ) -> Self {
        let place = {
            let mut state = subscription.fill.state();
            // A fill that is not kept in a file goes on at the pace of its furthest reader.
            state.furthest = state.furthest.max(at);
            state.waiting.enter()
        };
        subscription.fill.wake.notify_one();
        let (file, alone) = (FileReader::new(disk), Alone::No);
        Self { subscription, requester, gate, first: at, at, end, place, file, alone }
    }

    fn step(&mut self, cx: &Context<'_>) -> Step {
        let mut state = self.subscription.fill.state();
        let end = match (&state.end, self.end) {
            (_, Some(end)) => end,
            (End::Verified { .. }, None) => state.ring.end(),
            (_, None) => u64::MAX,
        };
        // A part whose stream ends earlier than it began to: another has the rest.
        let end = if state.verifies { end } else { end.min(state.until) };
        if self.at >= end {
            return Step::End;
        }
        let is_wrong = || !state.verifies && state.partial.as_ref().is_some_and(|partial| partial.is_wrong());
        if matches!(state.end, End::Failed) || is_wrong() {
            return Step::Failed(short(self.at, self.end));
        }
        if state.stored && self.is_of_part(&state) && !matches!(state.end, End::Verified { .. }) {
            // Most of it would not be held back until the digest is proved, and the store is not believed as an upstream is. A fill
            // without a file would wait for this reader.
            if !state.kept {
                return Step::Behind;
            }
            state.waiting.wait(self.place, cx.waker());
            return Step::Wait;
        }
        let visible = state.visible().min(end);
        if self.at >= visible {
            state.waiting.wait(self.place, cx.waker());
            return Step::Wait;
        }
        match state.ring.look(self.at) {
            Place::Here(mut frame) => {
                frame.truncate(usize::try_from(visible - self.at).unwrap_or(usize::MAX));
                let before = state.furthest;
                state.furthest = before.max(self.at + frame.len() as u64);
                if !state.kept && state.furthest > before {
                    self.subscription.fill.wake.notify_one();
                }
                Step::Data(frame)
            }
            Place::Before => {
                let Some((file, to)) = state.in_file(self.at) else { return Step::Behind };
                if self.file.file().is_none() {
                    self.file.set(file);
                }
                Step::File(to.min(visible))
            }
            Place::Ahead => Step::Behind,
        }
    }

    /// Returns true if not all of the blob is read.
    fn is_of_part(&self, state: &FillState) -> bool {
        let total = state.head.as_ref().and_then(|head| head.total);
        self.first > 0 || self.end.is_some_and(|end| total.is_none_or(|total| end < total))
    }

    fn take(&mut self, data: Bytes) -> Poll<Option<Result<Bytes, BodyError>>> {
        self.at += data.len() as u64;
        Poll::Ready(Some(Ok(data)))
    }

    fn poll_alone(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            match &mut self.alone {
                Alone::No => {
                    let (gate, requester) = (self.gate.clone(), self.requester.clone());
                    let digest = self.subscription.digest().clone();
                    let rest = rest(gate, requester, digest, self.at, self.end);
                    self.alone = Alone::Asking(Box::pin(rest));
                }
                Alone::Asking(asking) => {
                    let body = ready!(asking.as_mut().poll(cx));
                    match body {
                        Ok(body) => self.alone = Alone::Reading(body),
                        Err(error) => return Poll::Ready(Some(Err(error))),
                    }
                }
                Alone::Reading(body) => {
                    let item = ready!(body.poll_data(cx));
                    let Some(Ok(data)) = item else { return Poll::Ready(item) };
                    if !self.is_withheld(data.len()) {
                        self.lead(data.len());
                        return self.take(data);
                    }
                    let Alone::Reading(body) = std::mem::replace(&mut self.alone, Alone::No) else {
                        return Poll::Ready(None);
                    };
                    self.lead(data.len());
                    self.alone = Alone::Withheld(data, body);
                }
                Alone::Withheld(..) => {
                    let verified = ready!(self.poll_verified(cx));
                    let Alone::Withheld(data, body) = std::mem::replace(&mut self.alone, Alone::No) else {
                        return Poll::Ready(None);
                    };
                    self.alone = Alone::Reading(body);
                    if !verified {
                        return Poll::Ready(Some(Err(BodyError::Short { missing: data.len() as u64 })));
                    }
                    return self.take(data);
                }
            }
        }
    }

    /// Returns true if the next `length` bytes, which the reader got by its own request, reach into the last bytes of the
    /// blob, and the fill is not verified yet.
    fn is_withheld(&self, length: usize) -> bool {
        let state = self.subscription.fill.state();
        let total = state.head.as_ref().and_then(|head| head.total);
        let last = total.is_some_and(|total| self.at + length as u64 > total.saturating_sub(WITHHELD_BYTES));
        state.verifies && last && !matches!(state.end, End::Verified { .. })
    }

    /// Lets the fill go on as far as this reader, whose last bytes wait until the fill is verified.
    fn lead(&self, length: usize) {
        let mut state = self.subscription.fill.state();
        state.furthest = state.furthest.max(self.at + length as u64);
        drop(state);
        self.subscription.fill.wake.notify_one();
    }

    fn poll_verified(&mut self, cx: &Context<'_>) -> Poll<bool> {
        let mut state = self.subscription.fill.state();
        match state.end {
            End::Verified { .. } => Poll::Ready(true),
            End::Failed => Poll::Ready(false),
            End::NotYet => {
                state.waiting.wait(self.place, cx.waker());
                Poll::Pending
            }
        }
    }
}

/// Requests the bytes from `at` up to `end` from the upstream.
pub(crate) async fn rest(
    gate: Arc<Gate>,
    requester: Requester,
    digest: Digest,
    at: u64,
    end: Option<u64>,
) -> Result<Body, BodyError> {
    let bytes = Some(ByteSpan { first: at, last: end.map(|end| end - 1) });
    let request = OriginRequest::Blob { digest, bytes, validator: None };
    let answer = gate.ask(&requester, Priority::Required, request).await;
    let body = answer.ok().and_then(|answer| exactly(answer, at, end));
    body.ok_or_else(|| short(at, end))
}

/// Returns the error of a body that ends at `at`, before its `end`.
fn short(at: u64, end: Option<u64>) -> BodyError {
    end.map_or(BodyError::Unfinished, |end| BodyError::Short { missing: end.saturating_sub(at) })
}

impl Stream for Reader {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if !matches!(self.alone, Alone::No) {
            return self.poll_alone(cx);
        }
        if let Some(read) = self.file.poll_pending(cx) {
            match ready!(read) {
                Ok(data) => return self.take(data),
                Err(_) => return self.poll_alone(cx),
            }
        }
        match self.step(cx) {
            Step::Data(data) => self.take(data),
            Step::Wait => Poll::Pending,
            Step::End => Poll::Ready(None),
            Step::Failed(error) => Poll::Ready(Some(Err(error))),
            Step::Behind => self.poll_alone(cx),
            Step::File(to) => match self.file.read(self.at, to) {
                Read::Now(Ok(data)) => self.take(data),
                Read::Now(Err(_)) => self.poll_alone(cx),
                Read::Later => self.poll_data(cx),
            },
        }
    }

    fn remaining(&self) -> Option<u64> {
        self.end.map(|end| end - self.at)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.subscription.fill.state().waiting.leave(self.place);
    }
}
