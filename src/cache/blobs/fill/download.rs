//! The task of a fill: asks, reads, hands on.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::body::{Body, BodyError};
use crate::cache::blobs::fill::{End, Fill, Head, RING_BYTES, Ring};
use crate::cache::counters::Cause;
use crate::cache::error::{BypassReason, CacheError};
use crate::cache::metadata::generation::Generation;
use crate::cache::origin::gate::Priority;
use crate::cache::origin::{ByteSpan as Part, OriginRequest, OriginResponse};
use crate::cache::requester::Requester;
use crate::cache::store::Partial;
use crate::cache::store::verifying_writer::{Observer, Source, Target, VerifyingWriter};
use crate::cache::upstream_cache::UpstreamCache;
use crate::meaning::Meaning;
use crate::proto::{ContentRange, Hasher, MediaType};

/// Downloads what `fill` is of, on worker number `worker`, until it is proved, or nobody wants it.
pub(crate) async fn run(fill: Arc<Fill>, site: Arc<UpstreamCache>) {
    let over = Over { fill: &fill, site: &site };
    let mut task =
        Task { fill: &fill, site: &site, writer: None, batch: Vec::new(), batched: 0, announced: 0 };
    if let Err(cause) = task.download().await
        && let Some(cause) = cause
    {
        fill.broke(cause);
    }
    drop(over);
}

/// Takes a fill off the list, however it ends.
struct Over<'a> {
    fill: &'a Arc<Fill>,
    site: &'a UpstreamCache,
}

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.site.cache.fills.remove(self.fill);
        let mut state = self.fill.state();
        state.closed = true;
        if matches!(state.end, End::NotYet) {
            state.end = End::Broken;
        }
        // Whoever has come in the last moment asks anew.
        state.wanting.iter_mut().for_each(|wanting| wanting.opened = None);
        drop(state);
        self.fill.announce();
    }
}

struct Task<'a> {
    fill: &'a Arc<Fill>,
    site: &'a UpstreamCache,
    writer: Option<VerifyingWriter>,
    /// Frames for the writer.
    batch: Vec<Bytes>,
    batched: usize,
    /// Up to where the readers have been told.
    announced: u64,
}

/// Why a fill ends early; `None`: it is nobody's fault, or has been counted.
type Stopped = Option<Cause>;

/// Bytes on their way, and where they begin.
struct Flow {
    body: Body,
    head: Head,
    /// As whom it was asked.
    repository: Requester,
    /// The repository's, when that was asked.
    generation: Generation,
}

impl Task<'_> {
    async fn download(&mut self) -> Result<(), Stopped> {
        let mut partial = self.resume();
        let mut flow = self.open(partial.as_ref()).await.ok_or(None)?;
        if flow.head.first == 0
            && let Some(partial) = partial.take_if(|partial| partial.resumed_at() > 0)
        {
            partial.discard();
        }
        let mut item = self.first(&mut flow).await?;
        self.begin(partial, &flow);
        loop {
            match self.flow(item, &mut flow).await {
                Flowed::Whole => break,
                Flowed::Unwanted => {
                    self.leave().await;
                    return Err(None);
                }
                Flowed::Broke => {
                    let at = self.fill.state().ring.end();
                    let Some(next) = self.reopen(&flow.repository, &flow.head, at).await else {
                        self.leave().await;
                        return Err(Some(Cause::Upstream));
                    };
                    flow = next;
                    item = poll_fn(|cx| flow.body.poll_data(cx)).await;
                }
            }
        }
        let finished = self.finish().await;
        let digest = &self.fill.key.digest;
        if finished.is_ok() && !self.is_part() {
            self.site.ledger.note_served(digest);
        } else if finished.is_err() {
            // What it served is not the blob: that is no word for the repository's holding it.
            flow.repository.unconfirm(digest);
        }
        finished
    }

    /// The first bytes: nobody is told of an answer before they are there.
    async fn first(&self, flow: &mut Flow) -> Result<Item, Stopped> {
        loop {
            match poll_fn(|cx| flow.body.poll_data(cx)).await {
                Some(Err(error)) => {
                    let upstream = &*self.fill.key.upstream;
                    tracing::info!(upstream, digest = %self.fill.key.digest, %error, "a fill broke before its first byte");
                    let next = self.reopen(&flow.repository, &flow.head, flow.head.first).await;
                    *flow = next.ok_or_else(|| {
                        self.refuse(None, &CacheError::unusable("an answer, and then nothing"));
                        Some(Cause::Upstream)
                    })?;
                }
                item => return Ok(item),
            }
        }
    }

    fn is_part(&self) -> bool {
        self.fill.key.part.is_some()
    }

    /// What an earlier fill has left.
    fn resume(&self) -> Option<Partial> {
        if self.is_part() {
            return None;
        }
        self.site.cache.store.resume(&self.fill.key.upstream, &self.fill.key.digest)
    }

    /// Asks for the stream, behind what `partial` has, as one after the other of those who want it.
    async fn open(&self, partial: Option<&Partial>) -> Option<Flow> {
        let prefix = partial.map(|partial| (partial.resumed_at(), partial.head()));
        let behind = prefix.as_ref().filter(|(prefix, _)| *prefix > 0);
        let bytes = match (&self.fill.key.part, behind) {
            (Some(part), _) => Some(*part),
            (None, Some((prefix, _))) => Some(Part { first: *prefix, last: None }),
            (None, None) => None,
        };
        let validator = behind.and_then(|(_, (_, etag))| etag.clone());
        let total = behind.and_then(|(_, (total, _))| *total);
        match self.ask(bytes, validator, total, &mut Vec::new()).await {
            Ok(flow) => Some(flow),
            Err(Unopened::Refused) => None,
            // What is there does not go together with what the upstream has now.
            Err(Unopened::Another) => match behind {
                Some(_) => self.ask(None, None, None, &mut Vec::new()).await.ok(),
                None => {
                    self.refuse(None, &CacheError::unusable("other bytes of a blob than were asked for"));
                    None
                }
            },
        }
    }

    /// The rest from `at` on, as somebody else than the one as whom it was asked for before.
    async fn reopen(&self, before: &Requester, head: &Head, at: u64) -> Option<Flow> {
        let part = Part { first: at, last: head.end.map(|end| end.saturating_sub(1)) };
        let mut tried = vec![asker(before)];
        let flow = self.ask(Some(part), None, head.total, &mut tried).await.ok()?;
        let head = Head { first: head.first, ..flow.head };
        Some(Flow { head, ..flow })
    }

    async fn ask(
        &self,
        bytes: Option<Part>,
        validator: Option<HeaderValue>,
        total: Option<u64>,
        tried: &mut Vec<Asker>,
    ) -> Result<Flow, Unopened> {
        loop {
            let (repository, need) = self.candidate(tried).ok_or(Unopened::Refused)?;
            let digest = self.fill.key.digest.clone();
            let question = OriginRequest::Blob { digest, bytes, validator: validator.clone() };
            let generation = repository.generation();
            let refusal = match repository.ask(need, question).await {
                Ok(answer) => match self.usable(answer, bytes, total, &repository, generation) {
                    Ok(flow) => return Ok(flow),
                    Err(Some(refusal)) => refusal,
                    Err(None) => return Err(Unopened::Another),
                },
                Err(refusal) => refusal,
            };
            if bytes.is_some() && !self.is_part() && refusal.meaning().is_some_and(Meaning::is_about_the_form)
            {
                // It does not like to be asked for the rest.
                return Err(Unopened::Another);
            }
            let own = concerns_requester(&refusal);
            self.refuse(own.then(|| asker(&repository)), &refusal);
            if !own {
                self.fill.counters.fill_failed(Cause::Upstream);
                return Err(Unopened::Refused);
            }
            tried.push(asker(&repository));
        }
    }

    /// The first of those who want it that has not been tried.
    fn candidate(&self, tried: &[Asker]) -> Option<(Requester, Priority)> {
        let state = self.fill.state();
        let left = || state.wanting.iter().filter(|wanting| !tried.contains(&asker(&wanting.repository)));
        // What a client waits for may be asked when what nobody waits for may not.
        let wanting = left().find(|wanting| wanting.need == Priority::Required).or_else(|| left().next());
        wanting.map(|wanting| (wanting.repository.clone(), wanting.need))
    }

    /// Tells all, or those for whom it is the same, that the upstream refuses.
    fn refuse(&self, whom: Option<Asker>, refusal: &CacheError) {
        let mut state = self.fill.state();
        for wanting in &mut state.wanting {
            if whom.as_ref().is_none_or(|whom| asker(&wanting.repository) == *whom)
                && let Some(opened) = wanting.opened.take()
            {
                let _ = opened.send(Err(refusal.clone()));
            }
        }
    }

    /// What can be made of an answer. `None` in the error: it does not go on where it should.
    fn usable(
        &self,
        answer: OriginResponse,
        bytes: Option<Part>,
        total: Option<u64>,
        repository: &Requester,
        generation: Generation,
    ) -> Result<Flow, Option<CacheError>> {
        let coded = !is_plain(&answer.headers);
        if coded {
            self.fill.counters.fill_failed(Cause::Coding);
            let upstream = &*self.fill.key.upstream;
            tracing::error!(upstream, digest = %self.fill.key.digest, "the upstream sent a blob in a coding that nobody asked for");
            return Err(Some(CacheError::unusable("a blob in a content coding that nobody asked for")));
        }
        let extent = extent(&answer);
        if bytes.is_some() && extent.is_none() {
            // A server that knows neither ranges nor lengths: it is not for the cache.
            let unknown = self.is_part() && answer.status == StatusCode::OK;
            return Err(unknown.then_some(CacheError::Bypass(BypassReason::NoRanges)));
        }
        let whole = extent.map(|(.., total)| total);
        if total.is_some() && whole != total {
            return Err(None);
        }
        if whole == Some(0) && !self.fill.key.digest.is_of(b"") {
            // There is no last byte to withhold.
            self.fill.counters.fill_failed(Cause::Length);
            return Err(Some(CacheError::unusable("nothing for a blob that has bytes")));
        }
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
        Ok(Flow { body, head, repository: repository.clone(), generation })
    }

    /// The upstream has answered, and the first bytes are there: those who wait are told.
    fn begin(&mut self, partial: Option<Partial>, flow: &Flow) {
        let head = Arc::new(flow.head.clone());
        self.confirm(flow);
        let cache = &self.site.cache;
        let (upstream, digest) = (&self.fill.key.upstream, &self.fill.key.digest);
        let partial = partial.or_else(|| {
            let whole = head.first == 0 && !self.is_part();
            let begun = || cache.store.begin(upstream, digest, head.total, head.etag.as_ref());
            whole.then(begun).flatten()
        });
        self.announced = head.first;
        let mut state = self.fill.state();
        state.ring = Ring::at(head.first);
        state.furthest = state.furthest.max(head.first);
        state.kept = partial.is_some();
        state.file = partial.as_ref().map(|partial| partial.file().clone());
        state.written = if state.kept { head.first } else { 0 };
        state.head = Some(head.clone());
        state.open();
        drop(state);
        if !self.is_part() {
            let observer: Arc<dyn Observer> = self.fill.clone();
            self.writer = Hasher::new(digest.algorithm()).map(|hasher| {
                VerifyingWriter::new(&cache.desk, hasher, Target::Begun(partial), Source::Waits, observer)
            });
        }
    }

    /// Upstream has served it there.
    fn confirm(&self, flow: &Flow) {
        let text = flow.head.content_type.as_ref().and_then(|value| value.to_str().ok());
        let media_type = text.and_then(|text| MediaType::parse(text).ok());
        let digest = &self.fill.key.digest;
        flow.repository.confirm_since(flow.generation, digest, media_type, flow.head.total);
    }

    /// Hands the stream on, beginning with `item`, until it ends or is not needed.
    async fn flow(&mut self, mut item: Item, flow: &mut Flow) -> Flowed {
        loop {
            match item {
                Some(Ok(frame)) => self.take(frame),
                Some(Err(error)) => {
                    let upstream = &*self.fill.key.upstream;
                    tracing::info!(upstream, digest = %self.fill.key.digest, %error, "a fill's stream broke");
                    self.flush();
                    return Flowed::Broke;
                }
                None => {
                    self.flush();
                    let at = self.fill.state().ring.end();
                    return if flow.head.end.is_none_or(|end| end == at) {
                        Flowed::Whole
                    } else {
                        Flowed::Broke
                    };
                }
            }
            item = loop {
                if self.is_unwanted(&flow.head) {
                    return Flowed::Unwanted;
                }
                if self.must_wait() {
                    self.flush();
                    self.announce();
                    self.fill.stir.notified().await;
                    continue;
                }
                if let Poll::Ready(item) = poll_fn(|cx| Poll::Ready(flow.body.poll_data(cx))).await {
                    break item;
                }
                self.flush();
                if let Some(item) = self.wait(&mut flow.body).await {
                    break item;
                }
            };
        }
    }

    /// Waits for the next frame, and tells the readers of what there is when none comes for a while. `None`: something
    /// else has happened.
    async fn wait(&mut self, body: &mut Body) -> Option<Item> {
        let unannounced = self.fill.state().ring.end() > self.announced;
        tokio::select! {
            biased;
            item = poll_fn(|cx| body.poll_data(cx)) => Some(item),
            () = self.fill.stir.notified() => None,
            () = tokio::time::sleep(ANNOUNCED_WITHIN), if unannounced => {
                self.announce();
                None
            }
        }
    }

    fn take(&mut self, frame: Bytes) {
        if frame.is_empty() {
            return;
        }
        self.batched += frame.len();
        if self.writer.is_some() {
            self.batch.push(frame.clone());
        }
        // Looked up before: whoever has the list may wait for the state.
        let most = self.site.cache.fills.ring_bytes();
        let (unannounced, waiting) = {
            let mut state = self.fill.state();
            state.ring.push(frame);
            state.trim(most);
            (state.ring.end() - self.announced, state.waiting.count() as u64)
        };
        if self.batched >= BATCH_BYTES {
            self.flush();
        }
        // A wake-up for each reader and frame would cost more than the bytes: the more wait, the more they get at once.
        if unannounced >= (waiting * BYTES_A_READER).min(ANNOUNCED_BYTES) {
            self.announce();
        }
    }

    fn announce(&mut self) {
        self.announced = self.fill.state().ring.end();
        self.fill.announce();
    }

    fn flush(&mut self) {
        let bytes = std::mem::take(&mut self.batched);
        let Some(writer) = self.writer.as_ref().filter(|_| !self.batch.is_empty()) else { return };
        if bytes / self.batch.len() < SMALL_FRAME_BYTES {
            // Each frame costs more than these bytes.
            let whole = self.batch.drain(..).fold(Vec::with_capacity(bytes), |mut whole, frame| {
                whole.extend_from_slice(&frame);
                whole
            });
            writer.push([whole.into()]);
        } else {
            writer.push(self.batch.drain(..));
        }
    }

    fn must_wait(&self) -> bool {
        if self.writer.as_ref().is_some_and(VerifyingWriter::is_full) {
            return true;
        }
        let state = self.fill.state();
        !state.kept && state.ring.end().saturating_sub(state.furthest) >= RING_BYTES / 2
    }

    /// Whether nobody wants it any more, and too much is missing for finishing it all the same. Then nobody can join.
    fn is_unwanted(&self, head: &Head) -> bool {
        let mut state = self.fill.state();
        let wanted = match state.kept {
            true => !state.wanting.is_empty(),
            false => state.wanting.iter().any(|wanting| wanting.need != Priority::Background),
        };
        let little = state.kept
            && head.total.is_some_and(|total| total - state.ring.end() <= FINISHED_BYTES.max(total / 10));
        state.closed = state.ending || (!wanted && !little);
        state.closed
    }

    /// Leaves what is there for a later fill, which finds it as soon as this one is off the list.
    async fn leave(&mut self) {
        self.flush();
        let Some(writer) = self.writer.take() else { return };
        writer.leave();
        while !self.fill.state().left {
            self.fill.stir.notified().await;
        }
    }

    /// All is there: waits for the verdict.
    async fn finish(&mut self) -> Result<(), Stopped> {
        match self.writer.take() {
            Some(writer) => writer.finish(self.fill.key.digest.clone()),
            None => self.fill.state().end = End::Proved { kept: None },
        }
        self.announce();
        loop {
            match self.fill.state().end {
                End::Proved { .. } => return Ok(()),
                End::Broken => return Err(None),
                End::NotYet => {}
            }
            self.fill.stir.notified().await;
        }
    }
}

/// Why there is no stream.
enum Unopened {
    /// Nobody gets one, and everybody has been told why.
    Refused,
    /// What the upstream gives is not what was asked for.
    Another,
}

type Item = Option<Result<Bytes, BodyError>>;

enum Flowed {
    Whole,
    Unwanted,
    Broke,
}

/// Those for whom the upstream's no is the same.
type Asker = (crate::proto::RepositoryName, Arc<str>);

fn asker(repository: &Requester) -> Asker {
    (repository.name.clone(), repository.source.account())
}

/// Returns true if a refusal is about the requester, so that another might get it.
fn concerns_requester(refusal: &CacheError) -> bool {
    match refusal {
        CacheError::Origin(failure) => failure.meaning.is_about_requester(),
        CacheError::FetchForbidden | CacheError::RateLimited(_) => true,
        CacheError::NotFound
        | CacheError::Offline
        | CacheError::CircuitOpen
        | CacheError::Unsatisfiable(_)
        | CacheError::Bypass(_)
        | CacheError::Retry => false,
    }
}

/// The first byte of an answer, the byte behind its last, and the bytes of the whole; `None` where it does not say.
pub(crate) fn extent(answer: &OriginResponse) -> Option<(u64, u64, u64)> {
    match answer.status {
        StatusCode::OK => answer.body.remaining().map(|length| (0, length, length)),
        StatusCode::PARTIAL_CONTENT => {
            let value = answer.headers.get(header::CONTENT_RANGE)?;
            let ContentRange::Part { span, total: Some(total) } = ContentRange::parse(value.as_bytes())?
            else {
                return None;
            };
            Some((span.first, span.last + 1, total))
        }
        _ => None,
    }
}

/// The bytes from `at` up to `end` (the blob's end where there is none) of an answer that has them.
pub(crate) fn exactly(answer: OriginResponse, at: u64, end: Option<u64>) -> Option<Body> {
    let (first, last, total) = extent(&answer).filter(|_| is_plain(&answer.headers))?;
    let end = end.unwrap_or(total);
    let has = first <= at && at <= end && end <= last;
    let length = answer.body.remaining().is_none_or(|length| length == last - first);
    (has && length).then(|| answer.body.slice(at - first, end - at))
}

/// Digests are over the bytes without any coding.
fn is_plain(headers: &HeaderMap) -> bool {
    let coding = headers.get(header::CONTENT_ENCODING);
    coding.is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// Frames smaller than this, in bytes, are put together.
const SMALL_FRAME_BYTES: usize = 4 * 1024;
/// Bytes that are given to the proof at once.
const BATCH_BYTES: usize = 256 * 1024;
/// Bytes that must have come for each reader that waits, before all of them are woken.
const BYTES_A_READER: u64 = 4 * 1024;
/// And at most these.
const ANNOUNCED_BYTES: u64 = RING_BYTES / 4;
/// What has come is told to the readers within this time, however little it is.
const ANNOUNCED_WITHIN: Duration = Duration::from_millis(4);
/// What is finished although nobody wants it any more: so many bytes, or a tenth of the blob.
const FINISHED_BYTES: u64 = 16 * 1024 * 1024;
