//! One reader of a fill.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use crate::body::{Body, BodyError, Stream};
use crate::cache::blobs::file_body::{FileReader, Read};
use crate::cache::blobs::fill::ring::Place;
use crate::cache::blobs::fill::{End, Fill, Subscription};
use crate::cache::origin::gate::Priority;
use crate::cache::origin::{ByteSpan as Part, OriginRequest};
use crate::cache::requester::Requester;

/// Bytes of a blob that is on its way.
pub(crate) struct Reader {
    want: Subscription,
    repository: Requester,
    /// The next byte.
    at: u64,
    /// The byte behind the last; `None`: wherever the stream ends.
    end: Option<u64>,
    place: usize,
    file: FileReader,
    alone: Alone,
}

/// A reader that fell behind what is not kept goes on by a request of its own, so that it slows nobody.
enum Alone {
    No,
    Asking(Pin<Box<dyn Future<Output = Result<Body, BodyError>> + Send>>),
    Reading(Body),
    /// The last bytes of a blob are there, and wait for the verdict.
    Withheld(Bytes, Body),
}

enum Step {
    Data(Bytes),
    File(u64),
    Behind,
    Wait,
    End,
    Broken(u64),
}

impl Reader {
    /// Reads from `at` up to `end`, by `want`.
    pub(crate) fn new(want: Subscription, repository: Requester, at: u64, end: Option<u64>) -> Self {
        let place = {
            let mut state = want.fill.state();
            // Where nothing is kept, the stream goes on for the sake of whoever is first.
            state.furthest = state.furthest.max(at);
            state.waiting.enter()
        };
        want.fill.stir.notify_one();
        Self { want, repository, at, end, place, file: FileReader::default(), alone: Alone::No }
    }

    fn step(&mut self, cx: &Context<'_>) -> Step {
        let mut state = self.want.fill.state();
        let end = match (&state.end, self.end) {
            (_, Some(end)) => end,
            (End::Proved { .. }, None) => state.ring.end(),
            (_, None) => u64::MAX,
        };
        if self.at >= end {
            return Step::End;
        }
        if let End::Broken = state.end {
            return Step::Broken(end.saturating_sub(self.at));
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
                    self.want.fill.stir.notify_one();
                }
                Step::Data(frame)
            }
            Place::Before if state.file.is_some() && self.at < state.written => {
                if let (None, Some(file)) = (self.file.file(), &state.file) {
                    self.file.set(file.clone());
                }
                Step::File(state.written.min(visible))
            }
            Place::Before | Place::Ahead => Step::Behind,
        }
    }

    fn take(&mut self, data: Bytes) -> Poll<Option<Result<Bytes, BodyError>>> {
        self.at += data.len() as u64;
        Poll::Ready(Some(Ok(data)))
    }

    fn poll_alone(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            match &mut self.alone {
                Alone::No => {
                    let (repository, fill) = (self.repository.clone(), self.want.fill.clone());
                    let rest = rest(repository, fill, self.at, self.end);
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
                    if !self.is_tail(data.len()) {
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
                    let verdict = ready!(self.poll_verdict(cx));
                    let Alone::Withheld(data, body) = std::mem::replace(&mut self.alone, Alone::No) else {
                        return Poll::Ready(None);
                    };
                    self.alone = Alone::Reading(body);
                    if !verdict {
                        return Poll::Ready(Some(Err(BodyError::Short { missing: data.len() as u64 })));
                    }
                    return self.take(data);
                }
            }
        }
    }

    /// Whether the next bytes, which did not come by the fill, are of those that nobody has before the verdict.
    fn is_tail(&self, length: usize) -> bool {
        let state = self.want.fill.state();
        let total = state.head.as_ref().and_then(|head| head.total);
        let tail = total.is_some_and(|total| {
            self.at + length as u64 > total.saturating_sub(crate::cache::blobs::fill::WITHHELD_BYTES)
        });
        state.proves && tail && !matches!(state.end, End::Proved { .. })
    }

    /// Whoever goes on by himself still wants the verdict: the fill does not wait for him.
    fn lead(&self, length: usize) {
        let mut state = self.want.fill.state();
        state.furthest = state.furthest.max(self.at + length as u64);
        drop(state);
        self.want.fill.stir.notify_one();
    }

    fn poll_verdict(&mut self, cx: &Context<'_>) -> Poll<bool> {
        let mut state = self.want.fill.state();
        match state.end {
            End::Proved { .. } => Poll::Ready(true),
            End::Broken => Poll::Ready(false),
            End::NotYet => {
                state.waiting.wait(self.place, cx.waker());
                Poll::Pending
            }
        }
    }
}

/// The rest of what a reader wants, by a request of its own.
async fn rest(repository: Requester, fill: Arc<Fill>, at: u64, end: Option<u64>) -> Result<Body, BodyError> {
    let missing = end.map_or(1, |end| end - at);
    let part = Part { first: at, last: end.map(|end| end - 1) };
    let digest = fill.key.digest.clone();
    let question = OriginRequest::Blob { digest, bytes: Some(part), validator: None };
    let answer =
        repository.ask(Priority::Required, question).await.map_err(|_| BodyError::Short { missing })?;
    crate::cache::blobs::fill::download::exactly(answer, at, end).ok_or(BodyError::Short { missing })
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
            Step::Broken(missing) => Poll::Ready(Some(Err(BodyError::Short { missing }))),
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
        self.want.fill.state().waiting.leave(self.place);
    }
}

/// Is ready at the next announcement.
pub(crate) struct Change<'a> {
    fill: &'a Fill,
    place: usize,
    begun: bool,
}

impl<'a> Change<'a> {
    pub(crate) fn of(fill: &'a Fill) -> Self {
        Self { fill, place: fill.state().waiting.enter(), begun: false }
    }
}

impl Future for Change<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.begun {
            return Poll::Ready(());
        }
        self.begun = true;
        let mut state = self.fill.state();
        if matches!(state.end, End::NotYet) {
            state.waiting.wait(self.place, cx.waker());
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        self.fill.state().waiting.leave(self.place);
    }
}
