//! The opening of a fill's stream: asks the upstream, as one subscriber after the other, until the first bytes come.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use parking_lot::Mutex;

use crate::body::{Body, BodyError};
use crate::budget::Client;
use crate::cache::blobs::fill::answer::{exactly, extent};
use crate::cache::blobs::fill::state::{Fill, Head, Key};
use crate::cache::counters::Cause;
use crate::cache::error::{BypassReason, CacheError};
use crate::cache::metadata::generation::Generation;
use crate::cache::metadata::upstream_metadata::UpstreamMetadata;
use crate::cache::origin::gate::{Gate, Priority};
use crate::cache::origin::{ByteSpan, OriginRequest, OriginResponse};
use crate::cache::requester::Requester;
use crate::cache::store::Partial;
use crate::clock;
use crate::config::limits;
use crate::meaning::Meaning;
use crate::proto::{Coding, RepositoryName};

/// The knowledge of whether an upstream serves ranges.
#[derive(Default)]
pub(crate) struct Ranges(Mutex<Option<Instant>>);

impl Ranges {
    /// Returns true if the upstream has lately sent the whole of a blob of which a part was asked for.
    pub(crate) fn are_ignored(&self) -> bool {
        self.0.lock().is_some_and(|since| clock::now() - since < limits::RANGES_IGNORED)
    }

    fn note_ignored(&self) {
        *self.0.lock() = Some(clock::now());
    }
}

/// The upstream, as the subscribers of a fill ask it.
pub(crate) struct Opener<'a> {
    pub(crate) fill: &'a Arc<Fill>,
    pub(crate) gate: &'a Gate,
    pub(crate) metadata: &'a UpstreamMetadata,
    pub(crate) ranges: &'a Ranges,
}

/// Bytes on their way, and where they begin.
pub(crate) struct Flow {
    pub(crate) body: Body,
    pub(crate) head: Head,
    /// The coding that the upstream says.
    pub(crate) coding: Coding,
    /// The requester as which the upstream was asked.
    pub(crate) requester: Requester,
    /// The repository's, when that was asked.
    pub(crate) generation: Generation,
}

/// The cause of an early end; none if that is no failure, or has been counted.
pub(crate) type Stopped = Option<Cause>;

pub(crate) type Item = Option<Result<Bytes, BodyError>>;

impl Opener<'_> {
    /// Waits for the stream and its first item.
    pub(crate) async fn begun(&self, resumed: Option<&Partial>) -> Result<(Flow, Item), Stopped> {
        let opened = self.unless_stopping(self.open(resumed)).await;
        let mut flow = opened.flatten().ok_or(None)?;
        if self.close_too_long(&flow.head) {
            return Err(Some(self.too_long()));
        }
        let item = self.unless_stopping(self.first(&mut flow)).await.unwrap_or(Err(None))?;
        Ok((flow, item))
    }

    /// Closes the fill if the blob is longer than any requester wants it. Those that come from then on begin another.
    fn close_too_long(&self, head: &Head) -> bool {
        let mut state = self.fill.state();
        state.closed |= state.is_too_long(head);
        state.is_too_long(head)
    }

    /// Tells the requesters that the blob is longer than they want it. Returns the cause that is counted.
    pub(crate) fn too_long(&self) -> Cause {
        let Key { upstream, digest, .. } = &self.fill.key;
        tracing::info!(upstream = &**upstream, %digest, "a blob is longer than its manifest says; it is not fetched ahead");
        self.refuse(None, &CacheError::unusable("a blob that is longer than its manifest says"));
        Cause::Length
    }

    /// Waits for an answer of the upstream, unless the gateway stops before it has come.
    pub(crate) async fn unless_stopping<T>(&self, answer: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(answer);
        while !self.fill.state().stopping {
            tokio::select! {
                biased;
                answer = &mut answer => return Some(answer),
                () = self.fill.wake.notified() => {}
            }
        }
        None
    }

    /// Waits for the first bytes: requesters are told of an answer once they are there.
    async fn first(&self, flow: &mut Flow) -> Result<Item, Stopped> {
        loop {
            let first = tokio::select! {
                biased;
                item = poll_fn(|cx| flow.body.poll_data(cx)) => item,
                () = self.abandoned() => return Err(None),
            };
            match first {
                Some(Err(error)) => {
                    let Key { upstream, digest, .. } = &self.fill.key;
                    tracing::info!(upstream = &**upstream, %digest, %error, "a download broke off before its first byte; asking again");
                    let next = self.reopen(&flow.requester, &flow.head, flow.head.first).await;
                    *flow = next.ok_or_else(|| {
                        self.refuse(None, &CacheError::unusable("an answer, and then nothing"));
                        Some(Cause::Upstream)
                    })?;
                }
                item => return Ok(item),
            }
        }
    }

    /// Asks for the stream, behind what `partial` has, as one subscriber after the other.
    async fn open(&self, partial: Option<&Partial>) -> Option<Flow> {
        let resumed = partial.map(|partial| (partial.resumed_at(), partial.head()));
        let behind = resumed.as_ref().filter(|(at, _)| *at > 0);
        let bytes = match (&self.fill.key.part, behind) {
            (Some(part), _) => Some(*part),
            (None, Some((at, _))) => Some(ByteSpan { first: *at, last: None }),
            (None, None) => None,
        };
        let validator = behind.and_then(|(_, (_, etag))| etag.clone());
        let total = behind.and_then(|(_, (total, _))| *total);
        match self.ask(bytes, validator, total, &mut Vec::new()).await {
            Ok(flow) => Some(flow),
            Err(Unopened::Refused) => None,
            // The kept part does not match the upstream's blob of today.
            Err(Unopened::OtherBytes) => match behind {
                Some(_) => self.ask(None, None, None, &mut Vec::new()).await.ok(),
                None => {
                    self.refuse(None, &CacheError::unusable("other bytes of a blob than were asked for"));
                    None
                }
            },
        }
    }

    /// Asks for the rest from `at` on, as another subscriber than before.
    pub(crate) async fn reopen(&self, before: &Requester, head: &Head, at: u64) -> Option<Flow> {
        let part = ByteSpan { first: at, last: head.end.map(|end| end.saturating_sub(1)) };
        let mut tried = vec![View::of(before)];
        self.ask(Some(part), None, head.total, &mut tried).await.ok()
    }

    async fn ask(
        &self,
        bytes: Option<ByteSpan>,
        validator: Option<HeaderValue>,
        total: Option<u64>,
        tried: &mut Vec<View>,
    ) -> Result<Flow, Unopened> {
        loop {
            let (requester, priority) = self.candidate(tried).ok_or(Unopened::Refused)?;
            let digest = self.fill.key.digest.clone();
            let request = OriginRequest::Blob { digest, bytes, validator: validator.clone() };
            let generation = self.metadata.generation(requester.repository());
            let asked = tokio::select! {
                biased;
                asked = self.gate.ask(&requester, priority, request) => asked,
                () = self.abandoned() => return Err(Unopened::Refused),
            };
            let error = match asked {
                Ok(answer) => match self.usable(answer, bytes, total, &requester, generation) {
                    Ok(flow) => return Ok(flow),
                    Err(Some(error)) => error,
                    Err(None) => return Err(Unopened::OtherBytes),
                },
                Err(error) => error,
            };
            if bytes.is_some() && !self.is_part() && error.meaning().is_some_and(Meaning::is_about_the_form) {
                // The upstream rejects the request for the rest.
                return Err(Unopened::OtherBytes);
            }
            let own = concerns_requester(&error);
            let view =
                || if error.is_busy() { View::Client(requester.client()) } else { View::of(&requester) };
            self.refuse(own.then(view), &error);
            if !own {
                if !matches!(error, CacheError::Unsatisfiable(_)) {
                    self.fill.counters.fill_failed(Cause::Upstream);
                }
                return Err(Unopened::Refused);
            }
            tried.push(view());
        }
    }

    /// Returns the first subscriber that has not been tried. What a client waits for may be asked when background work may not.
    fn candidate(&self, tried: &[View]) -> Option<(Requester, Priority)> {
        let state = self.fill.state();
        let left = || {
            let untried = |requester: &Requester| !tried.iter().any(|view| view.has(requester));
            state.subscribers.iter().filter(move |subscriber| untried(&subscriber.requester))
        };
        let required = left().find(|subscriber| subscriber.demand.is_required());
        let subscriber = required.or_else(|| left().next());
        subscriber.map(|subscriber| (subscriber.requester.clone(), subscriber.demand.priority))
    }

    /// Tells all subscribers, or those of one view, that the upstream refuses.
    fn refuse(&self, view: Option<View>, error: &CacheError) {
        let mut state = self.fill.state();
        for subscriber in &mut state.subscribers {
            if view.as_ref().is_none_or(|view| view.has(&subscriber.requester))
                && let Some(opened) = subscriber.opened.take()
            {
                let _ = opened.send(Err(error.clone()));
            }
        }
    }

    /// Returns the stream of an answer. None in the error: it does not go on where it should.
    fn usable(
        &self,
        answer: OriginResponse,
        bytes: Option<ByteSpan>,
        total: Option<u64>,
        requester: &Requester,
        generation: Generation,
    ) -> Result<Flow, Option<CacheError>> {
        // Of the whole the digest decides: a coding that is only said does no harm. Of a part nothing else would tell.
        if self.is_part() && Coding::of(&answer.headers) == Coding::Unasked {
            self.fill.counters.fill_failed(Cause::Coding);
            return Err(Some(CacheError::unusable(
                "a part of a blob in a content coding that was not asked for",
            )));
        }
        let extent = extent(&answer);
        if bytes.is_some() && extent.is_none() {
            // A server that knows neither ranges nor lengths: it is not for the cache.
            let unknown = self.is_part() && answer.status == StatusCode::OK;
            return Err(unknown.then_some(CacheError::Bypass(BypassReason::NoRanges)));
        }
        let whole = extent.map(|(.., total)| total);
        if let (Some(part), true, Some(whole)) = (bytes, self.is_part(), whole)
            && part.first >= whole
        {
            // A server that ignores ranges sends the whole. The part is not in it.
            return Err(Some(CacheError::Unsatisfiable(whole)));
        }
        if self.is_part()
            && answer.status == StatusCode::OK
            && bytes.is_some_and(|part| part.first > limits::SKIPPED_BYTES)
        {
            // All that comes before would be thrown away, for each part that is asked for.
            self.ranges.note_ignored();
            return Err(Some(CacheError::Bypass(BypassReason::NoRanges)));
        }
        if total.is_some() && whole != total {
            return Err(None);
        }
        if whole == Some(0) && !self.fill.key.digest.is_of(b"") {
            // There is no last byte to withhold.
            self.fill.counters.fill_failed(Cause::Length);
            return Err(Some(CacheError::unusable("nothing for a blob that has bytes")));
        }
        let coding = Coding::of(&answer.headers);
        let content_type = answer.headers.get(header::CONTENT_TYPE).cloned();
        let etag = answer.headers.get(header::ETAG).cloned();
        let (first, end) = match bytes {
            None => (0, whole),
            Some(part) => {
                let end =
                    whole.map(|whole| part.last.map_or(whole, |last| whole.min(last.saturating_add(1))));
                (part.first, end)
            }
        };
        let body = match bytes {
            None => answer.body,
            Some(_) => exactly(answer, first, end).ok_or(None)?,
        };
        let head = Head { total: whole, first, end, content_type, etag };
        Ok(Flow { body, head, coding, requester: requester.clone(), generation })
    }

    /// Waits until no subscriber is left while nothing has come yet, and closes the fill.
    async fn abandoned(&self) {
        loop {
            {
                let mut state = self.fill.state();
                state.closed |= state.stopping || state.subscribers.is_empty();
                if state.closed {
                    return;
                }
            }
            self.fill.wake.notified().await;
        }
    }

    fn is_part(&self) -> bool {
        self.fill.key.part.is_some()
    }
}

/// The reason why there is no stream.
enum Unopened {
    /// The upstream refuses, and all subscribers have been told why.
    Refused,
    /// The upstream gives other bytes than were asked for.
    OtherBytes,
}

/// The requesters that get the same refusal.
enum View {
    /// The requesters of a repository with one account there.
    Account(RepositoryName, Arc<str>),
    /// The requesters of a client that has its share of the upstream's budget.
    Client(Client),
}

impl View {
    fn of(requester: &Requester) -> Self {
        Self::Account(requester.repository().clone(), requester.account())
    }

    fn has(&self, requester: &Requester) -> bool {
        match self {
            Self::Account(repository, account) => {
                requester.repository() == repository && requester.account() == *account
            }
            Self::Client(client) => requester.client() == *client,
        }
    }
}

/// Returns true if a refusal is about the requester, so that another might get it.
fn concerns_requester(error: &CacheError) -> bool {
    match error {
        CacheError::Origin(failure) => failure.meaning.is_about_requester(),
        CacheError::FetchForbidden | CacheError::RateLimited(_) => true,
        CacheError::NotFound(_)
        | CacheError::Offline
        | CacheError::CircuitOpen
        | CacheError::Unsatisfiable(_)
        | CacheError::Bypass(_)
        | CacheError::Retry => false,
    }
}
