//! The opening of a fill's stream: asks the upstream, as one subscriber after the other, until the first bytes come.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
use crate::cache::origin::gate::Gate;
use crate::cache::origin::{ByteSpan, OriginRequest, OriginResponse, Priority, Provenance};
use crate::cache::requester::Requester;
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
    /// The object store may be asked: for the whole alone, as nothing else proves its bytes.
    pub(crate) may_store: AtomicBool,
}

/// The bytes of a whole blob that are asked for, and what is known of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rest {
    /// The first byte.
    pub(crate) at: u64,
    /// The byte behind the last; none: all up to the end.
    pub(crate) until: Option<u64>,
    /// The blob's length.
    pub(crate) total: Option<u64>,
    /// The strong validator of what is here.
    pub(crate) validator: Option<HeaderValue>,
}

impl Rest {
    fn bytes(&self) -> Option<ByteSpan> {
        let is_all = self.at == 0 && self.until.is_none();
        let last = self.until.map(|until| until.saturating_sub(1));
        (!is_all).then_some(ByteSpan { first: self.at, last })
    }
}

/// Bytes on their way, and where they begin.
pub(crate) struct Flow {
    pub(crate) body: Body,
    pub(crate) head: Head,
    /// The upstream sends the whole, though a hole of it was asked for: all from there on is here.
    pub(crate) runs_over: bool,
    /// The coding that the upstream says.
    pub(crate) coding: Coding,
    /// The requester as which the upstream was asked.
    pub(crate) requester: Requester,
    /// The repository's, when that was asked.
    pub(crate) generation: Generation,
    /// The sender of the bytes.
    pub(crate) from: Provenance,
    /// How often another replica, or the upstream behind the store, was asked to go on where one had broken off.
    pub(crate) replicas: u32,
}

impl Flow {
    /// Returns true if the object store sends it, here or to the replica that does.
    pub(crate) fn is_stored(&self) -> bool {
        self.from.is_unproved()
    }
}

/// The cause of an early end; none if that is no failure, or has been counted.
pub(crate) type Stopped = Option<Cause>;

pub(crate) type Item = Option<Result<Bytes, BodyError>>;

impl Opener<'_> {
    /// Waits for the stream of `rest`, or of the fill's part, and its first item.
    pub(crate) async fn begun(&self, rest: &Rest) -> Result<(Flow, Item), Stopped> {
        let opened = self.unless_stopping(self.open(rest)).await;
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
                    let Head { first, end, total, .. } = flow.head;
                    let next = self.reopen(flow, total, first, end).await;
                    *flow = next.ok_or_else(|| {
                        self.refuse(None, &CacheError::unusable("an answer, and then nothing"));
                        Some(Cause::Upstream)
                    })?;
                }
                item => return Ok(item),
            }
        }
    }

    /// Asks for the stream of `rest`, or of the fill's part, as one subscriber after the other.
    async fn open(&self, rest: &Rest) -> Option<Flow> {
        let behind = rest.bytes().filter(|_| !self.is_part());
        let bytes = self.fill.key.part.or(behind);
        let validator = rest.validator.clone().filter(|_| behind.is_some());
        let total = rest.total.filter(|_| behind.is_some());
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

    /// Asks for the rest of a stream from `at` up to `end`: as another subscriber than before, or as the same where another replica
    /// was to send it. The upstream has been asked as often as that helps; of the replicas, the next in order is asked, and then the
    /// upstream.
    pub(crate) async fn reopen(
        &self,
        before: &mut Flow,
        total: Option<u64>,
        at: u64,
        end: Option<u64>,
    ) -> Option<Flow> {
        let part = ByteSpan { first: at, last: end.map(|end| end.saturating_sub(1)) };
        let by_other = !before.from.is_upstream() && before.replicas < REPLICAS;
        self.may_store.store(false, Ordering::Relaxed);
        let mut tried = if by_other { Vec::new() } else { vec![View::of(&before.requester)] };
        let flow = self.ask(Some(part), None, total, &mut tried).await.ok()?;
        Some(Flow { replicas: before.replicas + u32::from(by_other), ..flow })
    }

    /// Asks for a hole of a blob of which something is here already, as one subscriber after the other.
    pub(crate) async fn hole(&self, rest: &Rest) -> Option<Flow> {
        let hole = ByteSpan { first: rest.at, last: rest.until.map(|until| until.saturating_sub(1)) };
        self.ask(Some(hole), rest.validator.clone(), rest.total, &mut Vec::new()).await.ok()
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
                asked = self.asked(&requester, priority, request) => asked,
                () = self.abandoned() => return Err(Unopened::Refused),
            };
            let error = match asked {
                Ok(answer) => {
                    let is_stored = matches!(answer.from, Provenance::Store { .. });
                    match self.usable(answer, bytes, total, &requester, generation) {
                        Ok(flow) => return Ok(flow),
                        // What is wrong in the store says nothing of what the upstream has.
                        Err(_) if is_stored => {
                            self.may_store.store(false, Ordering::Relaxed);
                            if let Some(store) = self.gate.store() {
                                store.discard_blob(&self.fill.key.digest);
                            }
                            continue;
                        }
                        Err(Some(error)) => error,
                        Err(None) => return Err(Unopened::OtherBytes),
                    }
                }
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

    /// Asks by the gate, and the store where that may be asked.
    async fn asked(
        &self,
        requester: &Requester,
        priority: Priority,
        request: OriginRequest,
    ) -> Result<OriginResponse, CacheError> {
        if self.may_store.load(Ordering::Relaxed) {
            return self.gate.ask_beside_store(requester, priority, request).await;
        }
        self.gate.ask(requester, priority, request).await
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
        let (coding, from) = (Coding::of(&answer.headers), answer.from);
        let content_type = answer.headers.get(header::CONTENT_TYPE).cloned();
        let etag = answer.headers.get(header::ETAG).cloned();
        let runs_over = bytes.is_some() && !self.is_part() && answer.status == StatusCode::OK;
        let (first, end) = match bytes {
            None => (0, whole),
            Some(part) => {
                let last = part.last.filter(|_| !runs_over);
                let end = whole.map(|whole| last.map_or(whole, |last| whole.min(last.saturating_add(1))));
                // Of a part the upstream may send less than was asked for (RFC 9110 section 14.2).
                let reach =
                    extent.filter(|(first, end, _)| self.is_part() && (*first..*end).contains(&part.first));
                (part.first, end.map(|end| reach.map_or(end, |(_, reach, _)| end.min(reach))))
            }
        };
        let body = match bytes {
            None => answer.body,
            Some(_) => exactly(answer, first, end).ok_or(None)?,
        };
        let head = Head { total: whole, first, end, content_type, etag, is_unasked: false, from };
        let requester = requester.clone();
        Ok(Flow { body, head, runs_over, coding, requester, generation, from, replicas: 0 })
    }

    /// Waits until no subscriber is left while nothing has come yet, and closes the fill.
    pub(crate) async fn abandoned(&self) {
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

/// How often the rest is asked of replicas that broke off: they come and go while a fleet is restarted.
const REPLICAS: u32 = 32;

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
