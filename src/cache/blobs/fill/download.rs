//! The task of a fill: reads what the upstream sends, and hands it on.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;

use crate::body::Body;
use crate::cache::blobs::fill::fills::Fills;
use crate::cache::blobs::fill::opening::{Flow, Item, Opener, Ranges, Stopped};
use crate::cache::blobs::fill::ring::Ring;
use crate::cache::blobs::fill::state::{Demand, End, Fill, Head, Key};
use crate::cache::blobs::fill::subscription::Subscription;
use crate::cache::counters::{Cause, Counters};
use crate::cache::error::CacheError;
use crate::cache::metadata::membership::BlobMembership;
use crate::cache::metadata::upstream_metadata::UpstreamMetadata;
use crate::cache::origin::gate::Gate;
use crate::cache::requester::Requester;
use crate::cache::store::disk_pool;
use crate::cache::store::disk_pool::Use;
use crate::cache::store::hash_pool::HashPool;
use crate::cache::store::verifying_writer::{Observer, Source, Target, VerifyingWriter, WriterInput};
use crate::cache::store::{Kind, Partial, Store};
use crate::clock;
use crate::config::limits;
use crate::proto::{Coding, Hasher, MediaType};
use crate::watchdog::{Polled, noted};

/// The downloads from one upstream: where they are asked for, and where they go.
pub(crate) struct Downloads {
    pub(crate) fills: Arc<Fills>,
    pub(crate) store: Arc<Store>,
    pub(crate) pool: Arc<HashPool>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) membership: Arc<BlobMembership>,
    pub(crate) metadata: Arc<UpstreamMetadata>,
    pub(crate) ranges: Ranges,
}

impl Downloads {
    /// Subscribes to the fill of `key`, or begins it on this runtime. Second: true if it was under way.
    ///
    /// # Errors
    /// [`CacheError::Bypass`] if there is no memory for one more.
    pub(crate) fn join(
        self: &Arc<Self>,
        key: &Key,
        requester: &Requester,
        demand: Demand,
    ) -> Result<(Subscription, bool), CacheError> {
        self.fills.join(key, requester, demand, |key, share| {
            let fill = Fill::new(key, self.counters.clone(), share);
            tokio::spawn(noted(Polled::Download, Box::pin(run(fill.clone(), self.clone()))));
            fill
        })
    }
}

/// Downloads what `fill` is of, until it is verified, or has no subscriber.
async fn run(fill: Arc<Fill>, downloads: Arc<Downloads>) {
    let over = Over { fill: &fill, fills: &downloads.fills };
    let Downloads { gate, metadata, ranges, .. } = &*downloads;
    let mut task = Task {
        fill: &fill,
        downloads: &downloads,
        opener: Opener { fill: &fill, gate, metadata, ranges },
        writer: None,
        batch: Vec::new(),
        batched: 0,
        announced: 0,
        is_news: false,
    };
    if let Err(Some(cause)) = task.download().await {
        fill.fail(cause);
    }
    drop(over);
}

/// Takes a fill off the list, however it ends.
struct Over<'a> {
    fill: &'a Arc<Fill>,
    fills: &'a Fills,
}

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.fills.remove(self.fill);
        let mut state = self.fill.state();
        state.closed = true;
        if matches!(state.end, End::NotYet) {
            state.end = End::Failed;
        }
        // Requesters that have come in the last moment ask anew.
        state.subscribers.iter_mut().for_each(|subscriber| subscriber.opened = None);
        drop(state);
        self.fill.announce();
    }
}

/// The partial that an earlier fill has left. It is put back on every exit before the new stream has begun: a refusal, a
/// stream without a byte, or a cancelled task says nothing of the bytes that are here.
struct Resumed(Option<Partial>);

impl Resumed {
    /// Returns the partial for a stream that has begun at `first`. A partial that the stream does not go on behind is
    /// discarded.
    fn behind(mut self, first: u64) -> Option<Partial> {
        let partial = self.0.take()?;
        if partial.resumed_at() == first {
            return Some(partial);
        }
        partial.discard();
        None
    }
}

impl Drop for Resumed {
    fn drop(&mut self) {
        if let Some(partial) = self.0.take() {
            let disk = partial.disk().clone();
            disk_pool::off_worker(&disk, move || partial.put_back());
        }
    }
}

struct Task<'a> {
    fill: &'a Arc<Fill>,
    downloads: &'a Downloads,
    opener: Opener<'a>,
    writer: Option<VerifyingWriter>,
    /// Frames for the writer.
    batch: Vec<Bytes>,
    batched: usize,
    /// Up to where the readers have been told.
    announced: u64,
    /// Nothing but this download says that the repository holds the blob.
    is_news: bool,
}

impl Task<'_> {
    async fn download(&mut self) -> Result<(), Stopped> {
        let Some(resumed) = self.resume().await else { return Err(None) };
        let (mut flow, mut item) = match self.opener.begun(resumed.0.as_ref()).await {
            Ok(begun) => begun,
            Err(stopped) => {
                self.put_back(resumed).await;
                return Err(stopped);
            }
        };
        let repository = flow.requester.repository().clone();
        self.downloads.membership.load(&repository, &self.fill.key.digest).await;
        let partial = match resumed.behind(flow.head.first) {
            None if flow.head.first == 0 && !self.is_part() => {
                let begin = self.begin_partial(&flow.head);
                begin.await
            }
            partial => partial,
        };
        self.begin(partial, &flow);
        loop {
            match self.flow(item, &mut flow).await {
                Flowed::Whole => break,
                Flowed::Unwanted if self.fill.state().is_too_long(&flow.head) => {
                    if self.is_news {
                        self.downloads
                            .membership
                            .unconfirm(flow.requester.repository(), &self.fill.key.digest);
                    }
                    return Err(Some(self.opener.too_long()));
                }
                Flowed::Unwanted => {
                    self.leave().await;
                    return Err(None);
                }
                Flowed::Broke => {
                    let at = self.fill.state().ring.end();
                    let next = self
                        .opener
                        .unless_stopping(self.opener.reopen(&flow.requester, &flow.head, at))
                        .await;
                    let Some(Some(next)) = next else {
                        self.leave().await;
                        return Err(next.map(|_| Cause::Upstream));
                    };
                    flow = next;
                    item = poll_fn(|cx| flow.body.poll_data(cx)).await;
                }
            }
        }
        let finished = self.finish().await;
        let digest = &self.fill.key.digest;
        if finished.is_ok() && !self.is_part() {
            self.downloads.metadata.ledger().note_served(digest);
        } else if finished.is_err() {
            if flow.coding == Coding::Unasked {
                self.fill.counters.fill_failed(Cause::Coding);
                let Key { upstream, digest, .. } = &self.fill.key;
                tracing::error!(upstream = &**upstream, %digest, "the upstream sent a blob in a content coding that was not asked for");
            }
            // The upstream served other bytes: its claim that the repository holds the blob does not count.
            self.downloads.membership.unconfirm(flow.requester.repository(), digest);
        }
        finished
    }

    fn is_part(&self) -> bool {
        self.fill.key.part.is_some()
    }

    /// Resumes what an earlier fill has left. None if it left the whole, between the look of the first requester and this: then
    /// all who wait ask anew.
    async fn resume(&self) -> Option<Resumed> {
        let store = self.downloads.store.clone();
        if self.is_part() || !store.takes_new() {
            return Some(Resumed(None));
        }
        let (disk, Key { upstream, digest, .. }) = (store.disk().clone(), self.fill.key.clone());
        let (membership, ledger) =
            (self.downloads.membership.clone(), self.downloads.metadata.ledger().clone());
        let repository =
            self.fill.state().subscribers.first().map(|first| first.requester.repository().clone());
        let resume = move || {
            // Content is looked for first: what is absent costs no look at a record that what is here would not cost.
            let is_known = |repository| membership.known(repository, &digest).is_some();
            let is_here = store.content(Kind::Blob, &digest).is_some()
                && repository.as_ref().is_some_and(is_known)
                && ledger.served(&digest);
            (!is_here).then(|| Resumed(store.resume(&upstream, &digest)))
        };
        disk.run(Use::Write, "resuming a download", resume).await.unwrap_or(Some(Resumed(None)))
    }

    /// Puts back what was resumed, before the next fill can look for it.
    async fn put_back(&self, resumed: Resumed) {
        if resumed.0.is_some() {
            let disk = self.downloads.store.disk();
            // Where the disk hangs, that is done once it answers.
            let _ = disk.run(Use::Write, "leaving a download", move || drop(resumed)).await;
        }
    }

    /// Begins to hand on, as the first bytes are there: the subscribers are sent the head.
    fn begin(&mut self, partial: Option<Partial>, flow: &Flow) {
        let head = Arc::new(flow.head.clone());
        self.confirm(flow);
        let digest = &self.fill.key.digest;
        self.announced = head.first;
        let mut state = self.fill.state();
        state.ring = Ring::at(head.first);
        if let Some(end) = head.end {
            state.share.shrink(end.saturating_sub(head.first));
        }
        let trail = usize::try_from(state.share.trail()).unwrap_or(usize::MAX);
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
                let target = Target::Begun(partial);
                let source = Source::Waits { trail, total: head.total };
                VerifyingWriter::new(&self.downloads.pool, hasher, target, source, observer)
            });
        }
    }

    /// Begins to keep the blob, if it can be kept.
    async fn begin_partial(&self, head: &Head) -> Option<Partial> {
        let store = self.downloads.store.clone();
        let Head { total, etag, .. } = head.clone();
        if !store.takes_new() {
            return None;
        }
        let (disk, Key { upstream, digest, .. }) = (store.disk().clone(), self.fill.key.clone());
        let begin = move || store.begin(&upstream, &digest, total, etag.as_ref());
        disk.run(Use::Write, "beginning a download", begin).await.ok().flatten()
    }

    /// Records that the repository holds the blob, as the upstream has served it there.
    fn confirm(&mut self, flow: &Flow) {
        let text = flow.head.content_type.as_ref().and_then(|value| value.to_str().ok());
        let media_type = text.and_then(|text| MediaType::parse(text).ok());
        let (repository, digest) = (flow.requester.repository(), &self.fill.key.digest);
        let membership = &self.downloads.membership;
        self.is_news = membership.recorded(repository, digest).is_none();
        membership.confirm(repository, flow.generation, digest, media_type, flow.head.total);
    }

    /// Hands the stream on, beginning with `item`, until it ends or is not needed.
    async fn flow(&mut self, mut item: Item, flow: &mut Flow) -> Flowed {
        loop {
            match item {
                Some(Ok(frame)) => self.take(frame),
                Some(Err(error)) => {
                    let Key { upstream, digest, .. } = &self.fill.key;
                    tracing::info!(upstream = &**upstream, %digest, %error, "a download broke off; asking for the rest");
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
                    let input = self.writer.as_ref().map(VerifyingWriter::input);
                    self.wait_for_writer(input.as_ref()).await;
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

    /// Waits for the next frame, and tells the readers of what there is when none comes for a while. None: something else has
    /// happened.
    async fn wait(&mut self, body: &mut Body) -> Option<Item> {
        let (unannounced, unwatched) = {
            let state = self.fill.state();
            (state.ring.end() > self.announced, state.unwatched.is_some())
        };
        tokio::select! {
            biased;
            item = poll_fn(|cx| body.poll_data(cx)) => Some(item),
            () = self.fill.wake.notified() => None,
            () = tokio::time::sleep(ANNOUNCED_WITHIN), if unannounced => {
                self.announce();
                None
            }
            // Its rate is looked at again.
            () = tokio::time::sleep(limits::UNWATCHED_PERIOD), if unwatched => None,
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
        let (unannounced, waiting) = {
            let mut state = self.fill.state();
            state.ring.push(frame);
            state.trim_to_share();
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
        self.fill.state().is_ahead()
    }

    /// Returns true if no subscriber is left, and too much is missing for finishing it all the same. Then it is closed.
    fn is_unwanted(&self, head: &Head) -> bool {
        let mut state = self.fill.state();
        let wanted = state.is_wanted(head);
        let little = state.kept
            && !state.is_too_long(head)
            && head.total.is_some_and(|total| total - state.ring.end() <= FINISHED_BYTES.max(total / 10));
        let trickles = state.trickles_unwatched(clock::now());
        state.closed = state.stopping || (!wanted && !little) || trickles;
        state.closed
    }

    /// Leaves what is there for a later fill, which finds it as soon as this one is off the list.
    async fn leave(&mut self) {
        self.flush();
        let Some(writer) = self.writer.take() else { return };
        let input = writer.input();
        writer.leave();
        while !self.fill.state().left {
            self.wait_for_writer(Some(&input)).await;
        }
    }

    /// Waits until the writer has done something. Where it waits for the disk too long, it goes on without.
    async fn wait_for_writer(&self, input: Option<&WriterInput>) {
        let woken = tokio::time::timeout(limits::DISK_DEADLINE, self.fill.wake.notified()).await;
        if woken.is_err() && input.is_some_and(WriterInput::pass_by) {
            self.downloads.store.disk().note_hanging(Use::Write, "writing a blob");
        }
    }

    /// Waits until what came is verified.
    async fn finish(&mut self) -> Result<(), Stopped> {
        let input = self.writer.as_ref().map(VerifyingWriter::input);
        match self.writer.take() {
            Some(writer) => writer.finish(self.fill.key.digest.clone()),
            None => self.fill.state().end = End::Verified { kept: None },
        }
        self.announce();
        loop {
            match self.fill.state().end {
                End::Verified { .. } => return Ok(()),
                End::Failed => return Err(None),
                End::NotYet => {}
            }
            self.wait_for_writer(input.as_ref()).await;
        }
    }
}

enum Flowed {
    Whole,
    Unwanted,
    Broke,
}

/// Frames smaller than this, in bytes, are put together.
const SMALL_FRAME_BYTES: usize = 4 * 1024;
/// Bytes that are given to the writer at once.
const BATCH_BYTES: usize = 256 * 1024;
/// Bytes that must have come for each reader that waits, before all of them are woken.
const BYTES_A_READER: u64 = 4 * 1024;
/// The most bytes that come before the readers are told.
const ANNOUNCED_BYTES: u64 = 1024 * 1024;
/// The time within which the readers are told of new bytes, even if they are few.
const ANNOUNCED_WITHIN: Duration = Duration::from_millis(4);
/// A blob of which no more than this is missing, or a tenth, is finished without a subscriber.
const FINISHED_BYTES: u64 = 16 * 1024 * 1024;
