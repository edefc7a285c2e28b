//! The task of a fill: reads what the upstream sends, and hands it on.
//!
//! The fill of a whole blob goes through it in order. Where a part is in the file already it passes over it, where the stream of a
//! part is under way it waits for that, and what is missing it asks for. Its origin is asked for the bytes from `k` on by
//! [`Opener`] alone.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use tokio::sync::Notify;

use crate::body::Body;
use crate::cache::blobs::fill::fills::{Fills, Hole, Next, SEGMENT_BYTES, Wanted};
use crate::cache::blobs::fill::memory::Share;
use crate::cache::blobs::fill::opening::{Flow, Item, Opener, Ranges, Rest, Stopped};
use crate::cache::blobs::fill::ring::Ring;
use crate::cache::blobs::fill::state::{Demand, End, Fill, FillState, Head, Key};
use crate::cache::blobs::fill::subscription::Subscription;
use crate::cache::counters::{Cause, Counters};
use crate::cache::error::CacheError;
use crate::cache::metadata::membership::BlobMembership;
use crate::cache::metadata::upstream_metadata::UpstreamMetadata;
use crate::cache::origin::Provenance;
use crate::cache::origin::gate::Gate;
use crate::cache::requester::Requester;
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
        self.fills.join(key, requester, demand, |key, share| self.begin(key, share))
    }

    /// Returns by what the next bytes of a part of the blob `whole` come, or begins a fill for them, as [`Fills::next`] does.
    ///
    /// # Errors
    /// [`CacheError::Bypass`] if there is no memory for one more.
    pub(crate) fn next(
        self: &Arc<Self>,
        whole: &Key,
        requester: &Requester,
        wanted: &Wanted<'_>,
        pays: impl FnOnce(u64) -> bool,
    ) -> Result<Next, CacheError> {
        self.fills.next(whole, requester, wanted, pays, |key, share| self.begin(key, share))
    }

    /// Returns the partial of a blob: the one that is in use, else one that an earlier fill has left.
    pub(crate) async fn partial(&self, whole: &Key) -> Option<Arc<Partial>> {
        if !self.store.takes_new() {
            return None;
        }
        let place = self.fills.partials().place(whole);
        let mut turn = place.turn().await;
        if let Some(partial) = turn.get() {
            return Some(partial);
        }
        let (store, Key { upstream, digest, .. }) = (self.store.clone(), whole.clone());
        let resume = move || store.resume(&upstream, &digest);
        let resumed = self.store.disk().run(Use::Write, "resuming a download", resume).await.ok()??;
        let partial = turn.put(resumed);
        self.fills.partials().linger(partial.clone());
        Some(partial)
    }

    fn begin(self: &Arc<Self>, key: Key, share: Share) -> Arc<Fill> {
        let fill = Fill::new(key, self.counters.clone(), share);
        tokio::spawn(noted(Polled::Download, Box::pin(run(fill.clone(), self.clone()))));
        fill
    }

    /// Has a blob completed of which half is there, for a requester that was served a part.
    pub(crate) fn complete(self: &Arc<Self>, whole: &Key, partial: &Partial, requester: &Requester) {
        if let (Some(total), _) = partial.head()
            && partial.is_usable()
            && total.saturating_sub(partial.bytes()) <= total / 2
            && !self.fills.has(whole)
            && let Ok((subscription, _)) = self.join(whole, requester, Demand::background(total))
        {
            tokio::spawn(async move { subscription.done().await });
        }
    }
}

/// Downloads what `fill` is of, until it is verified, or has no subscriber.
async fn run(fill: Arc<Fill>, downloads: Arc<Downloads>) {
    let over = Over { fill: &fill, fills: &downloads.fills };
    let Downloads { gate, metadata, ranges, .. } = &*downloads;
    let mut task = Task {
        fill: &fill,
        downloads: &downloads,
        opener: Opener { fill: &fill, gate, metadata, ranges, may_store: AtomicBool::new(false) },
        writer: None,
        batch: Vec::new(),
        batched: 0,
        announced: 0,
        asked: None,
        unasked_coding: false,
        is_stored: false,
        by_replica: false,
        is_news: false,
    };
    if let Err(Some(cause)) = task.download().await {
        fill.fail(cause);
    }
    let served = task.asked.take().filter(|_| task.is_part());
    drop(task);
    drop(over);
    let (partial, is_stopping) = {
        let state = fill.state();
        (state.partial.clone(), state.stopping)
    };
    if let (Some(requester), Some(partial), false) = (served, partial, is_stopping) {
        downloads.complete(&fill.key.whole(), &partial, &requester);
        downloads.fills.partials().linger(partial);
    }
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

/// A stream under way, and its next item.
type Stream = (Flow, Item);

/// The next step of the fill of a whole blob.
enum Step {
    /// Fetch the missing bytes up to this offset; none: to the end.
    Fetches(Option<u64>),
    /// End, as no requester wants the blob any more.
    Ends,
    /// All is there.
    Proves,
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
    /// The requester as which the upstream was asked last.
    asked: Option<Requester>,
    /// The upstream said a coding that was not asked for.
    unasked_coding: bool,
    /// The object store has sent some of it.
    is_stored: bool,
    /// Another replica has sent some of it.
    by_replica: bool,
    /// Nothing but this download says that the repository holds the blob.
    is_news: bool,
}

impl Task<'_> {
    async fn download(&mut self) -> Result<(), Stopped> {
        let mut stream = if self.is_part() { Some(self.start_part().await?) } else { self.start().await? };
        loop {
            let flowed = match &mut stream {
                Some((flow, item)) => self.flow(item.take(), flow).await,
                None => match self.next_step().await {
                    Step::Proves => break,
                    Step::Ends => Flowed::Unwanted,
                    Step::Fetches(until) => {
                        stream = Some(self.open_hole(until).await?);
                        continue;
                    }
                },
            };
            stream = match (flowed, stream.take()) {
                (Flowed::Whole, _) if self.is_part() => break,
                (Flowed::Whole, _) => None,
                (Flowed::Broke, Some((flow, _))) => Some(self.reopen(flow).await?),
                (Flowed::Unwanted | Flowed::Broke, _) => return Err(self.give_up().await),
            };
        }
        if self.is_part() {
            // All of it is in the file then.
            self.leave().await;
            self.fill.state().end = End::Verified { kept: None };
            self.announce();
            return Ok(());
        }
        self.prove().await
    }

    /// Compares the whole with its digest.
    async fn prove(&mut self) -> Result<(), Stopped> {
        let finished = self.finish().await;
        let digest = &self.fill.key.digest;
        if finished.is_ok() {
            self.downloads.metadata.ledger().note_served(digest);
            self.store_proved();
            return finished;
        }
        if self.is_stored {
            // Which of them has sent the wrong bytes is not known, but the store is the one that can be mended.
            if let Some(store) = self.downloads.gate.store() {
                store.discard_blob(digest);
            }
            if !self.by_replica {
                return finished;
            }
        }
        if self.unasked_coding {
            self.fill.counters.fill_failed(Cause::Coding);
            let Key { upstream, digest, .. } = &self.fill.key;
            tracing::error!(upstream = &**upstream, %digest, "the upstream sent a blob in a content coding that was not asked for");
        }
        if self.fill.state().is_wrong {
            self.downloads.gate.distrust(digest);
        }
        // The upstream served other bytes: its claim that the repository holds the blob does not count.
        if let Some(requester) = self.requester() {
            self.downloads.membership.unconfirm(requester.repository(), digest);
        }
        finished
    }

    /// Has the blob stored, unless the store has sent some of it, or another replica, which has it stored itself.
    fn store_proved(&self) {
        if self.is_stored || self.by_replica {
            return;
        }
        let (Downloads { membership, gate, .. }, digest) = (self.downloads, &self.fill.key.digest);
        if let (Some(store), Some(requester)) = (gate.store(), self.requester()) {
            let repository = requester.repository();
            store.keep_proved(Kind::Blob, digest, repository, membership.recorded(repository, digest));
        }
    }

    fn is_part(&self) -> bool {
        self.fill.key.part.is_some()
    }

    /// Returns the requester as which the upstream was asked last, else the one as which it would be.
    fn requester(&self) -> Option<Requester> {
        let first = || self.fill.state().subscribers.first().map(|first| first.requester.clone());
        self.asked.clone().or_else(first)
    }

    /// Begins the fill of a part, once its first bytes have come.
    async fn start_part(&mut self) -> Result<Stream, Stopped> {
        let (flow, item) = self.opener.begun(&Rest::default()).await?;
        let repository = flow.requester.repository().clone();
        self.downloads.membership.load(&repository, &self.fill.key.digest).await;
        let first = flow.head.first;
        // A partial may have been found since these bytes were given out. Bytes in the file may have been hashed, or be on their way
        // to a reader: they are not written again.
        let partial = self.partial_of_part(&flow.head).await.filter(|there| there.end_at(first).is_none());
        if let Some(next) = partial.as_ref().and_then(|partial| partial.next_after(first)) {
            let mut state = self.fill.state();
            state.until = state.until.min(next);
        }
        self.note_asked(&flow);
        self.confirm(&flow);
        self.begin(partial, flow.head.clone(), flow.head.first);
        self.downloads.fills.note_change();
        Ok((flow, item))
    }

    /// Begins the fill of a whole blob, once the first of the bytes that are missing have come; without a stream if nothing is
    /// missing, or while others fetch what comes first.
    async fn start(&mut self) -> Result<Option<Stream>, Stopped> {
        let Some(mut partial) = self.resume().await else { return Err(None) };
        let fills = &self.downloads.fills;
        loop {
            let changed = fills.changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if partial.is_none() && self.downloads.store.takes_new() {
                partial = fills.partials().get(&self.fill.key);
            }
            let rest = rest_of(partial.as_deref());
            {
                let mut state = self.fill.state();
                state.ring = Ring::at(rest.at);
                state.partial.clone_from(&partial);
            }
            let is_whole = rest.at > 0 && rest.total == Some(rest.at);
            let hole = if is_whole { Hole::Taken } else { fills.hole(self.fill, rest.at) };
            match (hole, rest.total, &partial) {
                (Hole::Until(until), ..) => {
                    return self.start_by(partial, Rest { until, ..rest }).await.map(Some);
                }
                (Hole::Taken, Some(total), Some(there)) => {
                    self.start_without_stream(there.clone(), total, rest).await;
                    return Ok(None);
                }
                (Hole::Taken, ..) => tokio::select! {
                    () = changed => {}
                    () = self.opener.abandoned() => return Err(None),
                },
            }
        }
    }

    async fn start_by(&mut self, partial: Option<Arc<Partial>>, rest: Rest) -> Result<Stream, Stopped> {
        let (partial, rest) = self.beside_store(partial, rest).await;
        let begun = self.opener.begun(&rest).await;
        self.opener.may_store.store(false, Ordering::Relaxed);
        let (flow, item) = match begun {
            Ok(begun) => begun,
            Err(stopped) => {
                self.put_back(partial).await;
                return Err(stopped);
            }
        };
        let repository = flow.requester.repository().clone();
        self.downloads.membership.load(&repository, &self.fill.key.digest).await;
        let goes_on = |partial: &Arc<Partial>| flow.head.first == rest.at && fits(partial, &flow.head);
        let partial = match partial {
            Some(partial) if goes_on(&partial) => Some(partial),
            other => {
                // The fills of parts keep the old file to themselves.
                if let Some(other) = other {
                    other.abandon();
                    // Fills of parts that have not begun will write to the next file.
                    self.downloads.fills.run_over(self.fill, flow.head.first);
                }
                if flow.head.first == 0 { self.begin_partial(&flow.head).await } else { None }
            }
        };
        self.note_asked(&flow);
        self.confirm(&flow);
        let head = Head { end: flow.head.total, ..flow.head.clone() };
        self.begin(partial, head, flow.head.first);
        Ok((flow, item))
    }

    /// Has the store asked for the whole, unless others fetch parts of it. What is here of a blob that the store has is given up:
    /// bytes of the store are proved as a whole, and not kept before.
    async fn beside_store(&self, partial: Option<Arc<Partial>>, rest: Rest) -> (Option<Arc<Partial>>, Rest) {
        let is_alone = rest.until.is_none() && !partial.as_ref().is_some_and(|there| there.is_scattered());
        let (partial, rest) = match (partial, self.requester()) {
            (Some(there), Some(requester)) if is_alone && rest.at > 0 => {
                if self.downloads.gate.stored_length(&requester, &self.fill.key.digest).await.is_some() {
                    there.abandon();
                    let mut state = self.fill.state();
                    (state.ring, state.partial) = (Ring::at(0), None);
                    (None, Rest::default())
                } else {
                    (Some(there), rest)
                }
            }
            (partial, _) => (partial, rest),
        };
        self.opener.may_store.store(is_alone && rest.at == 0, Ordering::Relaxed);
        (partial, rest)
    }

    async fn start_without_stream(&mut self, partial: Arc<Partial>, total: u64, rest: Rest) {
        let mut content_type = None;
        if let Some(requester) = self.requester() {
            let (membership, digest) = (&self.downloads.membership, &self.fill.key.digest);
            membership.load(requester.repository(), digest).await;
            let held = membership.recorded(requester.repository(), digest);
            content_type = held.and_then(|held| held.content_type());
        }
        let (total, first) = (Some(total), rest.at);
        let (etag, from) = (rest.validator, Provenance::Upstream);
        let head = Head { total, first, end: total, content_type, etag, is_unasked: true, from };
        self.begin(Some(partial), head, first);
    }

    /// Passes over what is there already. Returns the next step where that ends.
    async fn next_step(&mut self) -> Step {
        let idle = Notify::new();
        loop {
            let (at, head, partial) = {
                let state = self.fill.state();
                (state.ring.end(), state.head.clone(), state.partial.clone().filter(|_| state.kept))
            };
            let grown = partial.as_ref().map_or_else(|| idle.notified(), |partial| partial.grown());
            let changed = self.downloads.fills.changed();
            tokio::pin!(grown, changed);
            grown.as_mut().enable();
            changed.as_mut().enable();
            let Some(head) = head.filter(|head| head.total.is_some_and(|total| at < total)) else {
                return Step::Proves;
            };
            if let Some(end) = partial.as_ref().and_then(|partial| partial.end_at(at)) {
                self.pass(end);
                continue;
            }
            if close_unwanted(&mut self.fill.state(), &head) {
                return Step::Ends;
            }
            match self.downloads.fills.hole(self.fill, at) {
                Hole::Until(until) => return Step::Fetches(until),
                Hole::Taken => tokio::select! {
                    () = grown => {}
                    () = changed => {}
                    () = self.fill.wake.notified() => {}
                    // Its rate is looked at again.
                    () = tokio::time::sleep(limits::UNWATCHED_PERIOD) => {}
                },
            }
        }
    }

    /// Passes over the bytes up to `end`, which another has written.
    fn pass(&mut self, end: u64) {
        self.flush();
        if let Some(writer) = &self.writer {
            writer.pass(end);
        }
        self.fill.state().ring.pass(end);
        self.announce();
    }

    /// Asks for what is missing up to `until`.
    async fn open_hole(&mut self, until: Option<u64>) -> Result<Stream, Stopped> {
        let (at, head) = {
            let state = self.fill.state();
            (state.ring.end(), state.head.clone())
        };
        let total = head.as_ref().and_then(|head| head.total);
        let validator = head.and_then(|head| head.etag.clone()).filter(is_strong);
        let rest = Rest { at, until, total, validator };
        let opened = self.opener.unless_stopping(self.opener.hole(&rest)).await;
        self.first_of(opened).await
    }

    /// Asks for the rest of a stream that broke, as another subscriber.
    async fn reopen(&mut self, mut broken: Flow) -> Result<Stream, Stopped> {
        let (at, until) = {
            let state = self.fill.state();
            (state.ring.end(), Some(state.until).filter(|until| state.kept && *until < u64::MAX))
        };
        let total = broken.head.total;
        let end = [broken.head.end, until].into_iter().flatten().min();
        let asking = self.opener.reopen(&mut broken, total, at, end);
        let opened = self.opener.unless_stopping(asking).await;
        self.first_of(opened).await
    }

    /// Waits for the first item of a stream. Without one the fill ends, and what is there is left.
    async fn first_of(&mut self, opened: Option<Option<Flow>>) -> Result<Stream, Stopped> {
        let is_stopping = opened.is_none();
        let Some(mut flow) = opened.flatten() else {
            self.leave().await;
            return Err((!is_stopping).then_some(Cause::Upstream));
        };
        self.note_asked(&flow);
        let item = poll_fn(|cx| flow.body.poll_data(cx)).await;
        Ok((flow, item))
    }

    fn note_asked(&mut self, flow: &Flow) {
        self.asked = Some(flow.requester.clone());
        self.unasked_coding |= flow.coding == Coding::Unasked;
        self.by_replica |= flow.from.is_replica();
        if flow.is_stored() {
            self.is_stored = true;
            self.fill.state().stored = true;
        }
        if flow.runs_over {
            // Else the whole would come again for each hole.
            self.downloads.fills.run_over(self.fill, flow.head.first);
        }
    }

    /// Ends a fill that is not wanted any more, or too long. Returns the cause, if that is a failure.
    async fn give_up(&mut self) -> Stopped {
        let (head, partial) = {
            let state = self.fill.state();
            (state.head.clone(), state.partial.clone())
        };
        if !head.is_some_and(|head| self.fill.state().is_too_long(&head)) {
            drop(partial);
            self.leave().await;
            return None;
        }
        if let Some(requester) = self.requester().filter(|_| self.is_news) {
            self.downloads.membership.unconfirm(requester.repository(), &self.fill.key.digest);
        }
        partial.inspect(|partial| partial.abandon());
        Some(self.opener.too_long())
    }

    /// Resumes what an earlier fill has left, or others are fetching parts of. None if it left the whole, between the look of the
    /// first requester and this: then all who wait ask anew.
    async fn resume(&self) -> Option<Option<Arc<Partial>>> {
        let store = self.downloads.store.clone();
        if !store.takes_new() {
            return Some(None);
        }
        let place = self.downloads.fills.partials().place(&self.fill.key);
        let mut turn = place.turn().await;
        let in_use = turn.get();
        let (disk, Key { upstream, digest, .. }) = (store.disk().clone(), self.fill.key.clone());
        let (membership, ledger) =
            (self.downloads.membership.clone(), self.downloads.metadata.ledger().clone());
        let repository =
            self.fill.state().subscribers.first().map(|first| first.requester.repository().clone());
        let resumes = in_use.is_none();
        let resume = move || {
            // Content is looked for first: what is absent costs no look at a record that what is here would not cost.
            let is_known = |repository| membership.known(repository, &digest).is_some();
            let is_here = store.content(Kind::Blob, &digest).is_some()
                && repository.as_ref().is_some_and(is_known)
                && ledger.served(&digest);
            (!is_here).then(|| resumes.then(|| store.resume(&upstream, &digest)).flatten())
        };
        let resumed = disk.run(Use::Write, "resuming a download", resume).await.unwrap_or(Some(None))?;
        Some(in_use.or_else(|| resumed.map(|partial| turn.put(partial))))
    }

    /// Puts back what was resumed, before the next fill can look for it.
    async fn put_back(&self, resumed: Option<Arc<Partial>>) {
        let in_state = self.fill.state().partial.take();
        if resumed.is_some() {
            let disk = self.downloads.store.disk();
            // Where the disk hangs, that is done once it answers.
            let _ = disk.run(Use::Write, "leaving a download", move || drop((resumed, in_state))).await;
        }
    }

    /// Begins to hand on what comes from `at` on: the subscribers are sent the head.
    fn begin(&mut self, partial: Option<Arc<Partial>>, head: Head, at: u64) {
        let head = Arc::new(head);
        self.announced = at;
        let mut state = self.fill.state();
        state.ring = Ring::at(at);
        if let Some(end) = head.end {
            state.share.shrink(end.saturating_sub(at));
            if self.is_part() {
                state.until = state.until.min(end);
            }
        }
        let trail = usize::try_from(state.share.trail()).unwrap_or(usize::MAX);
        state.furthest = state.furthest.max(at);
        state.kept = partial.is_some();
        state.partial.clone_from(&partial);
        state.written = if state.kept { at } else { 0 };
        state.head = Some(head.clone());
        state.open();
        drop(state);
        let hasher = Hasher::new(self.fill.key.digest.algorithm()).filter(|_| !self.is_part());
        if hasher.is_some() || partial.is_some() {
            let observer: Arc<dyn Observer> = self.fill.clone();
            let target = Target::Begun(partial);
            let source = Source::Waits { trail, total: head.total };
            let writer = VerifyingWriter::new(&self.downloads.pool, hasher, at, target, source, observer);
            self.writer = Some(writer);
        }
    }

    /// Begins to keep the blob, if it can be kept.
    async fn begin_partial(&self, head: &Head) -> Option<Arc<Partial>> {
        if !self.downloads.store.takes_new() {
            return None;
        }
        let place = self.downloads.fills.partials().place(&self.fill.key.whole());
        let mut turn = place.turn().await;
        let is_stored = head.from.is_unproved();
        let in_use = turn.get().filter(|partial| fits(partial, head));
        if in_use.is_some() {
            return in_use.filter(|_| !is_stored);
        }
        let store = self.downloads.store.clone();
        let Head { total, etag, .. } = head.clone();
        let (disk, Key { upstream, digest, .. }) = (store.disk().clone(), self.fill.key.clone());
        // No later process goes on with bytes of the store that nothing has proved: no upstream has such a name.
        let upstream = if is_stored { format!("{upstream} (store)").into() } else { upstream };
        let begin = move || store.begin(&upstream, &digest, total, etag.as_ref());
        let begun = disk.run(Use::Write, "beginning a download", begin).await.ok().flatten()?;
        Some(turn.put(begun))
    }

    /// Returns the partial into which a part goes, if it can be kept.
    async fn partial_of_part(&self, head: &Head) -> Option<Arc<Partial>> {
        let store = &self.downloads.store;
        if !head.total.is_some_and(|total| store.may_keep(total)) {
            return None;
        }
        let partial = match self.downloads.partial(&self.fill.key.whole()).await {
            Some(there) => Some(there).filter(|there| fits(there, head) && there.takes_parts()),
            None => self.begin_partial(head).await,
        }?;
        let scattered = partial.clone();
        let scatter = store.disk().run(Use::Write, "beginning a part", move || scattered.scatter());
        scatter.await.is_ok_and(|scattered| scattered.is_ok()).then_some(partial)
    }

    /// Records that the repository holds the blob, as the upstream has served it there.
    fn confirm(&mut self, flow: &Flow) {
        let text = flow.head.content_type.as_ref().and_then(|value| value.to_str().ok());
        let media_type = text.and_then(|text| MediaType::parse(text).ok());
        let (repository, digest) = (flow.requester.repository(), &self.fill.key.digest);
        let membership = &self.downloads.membership;
        self.is_news = membership.recorded(repository, digest).is_none();
        let confirmed = flow.from.confirmed();
        membership.confirm(repository, flow.generation, digest, media_type, flow.head.total, confirmed);
    }

    /// Hands the stream on, beginning with `item`, until it ends or is not needed.
    async fn flow(&mut self, mut item: Item, flow: &mut Flow) -> Flowed {
        loop {
            match item {
                Some(Ok(frame)) => {
                    if self.take(frame) {
                        self.flush();
                        return Flowed::Whole;
                    }
                }
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
                if let Some(stopped) = self.stops(&flow.head) {
                    self.flush();
                    return stopped;
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

    /// Hands a frame on, or what of it comes before the place where the stream ends. Returns true if it ends there.
    fn take(&mut self, mut frame: Bytes) -> bool {
        let (unannounced, waiting, is_met) = {
            let mut state = self.fill.state();
            if state.kept {
                let left = state.until.saturating_sub(state.ring.end());
                frame.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            }
            if !frame.is_empty() {
                state.ring.push(frame.clone());
                state.trim_to_share();
            }
            let end = state.ring.end();
            (end - self.announced, state.waiting.count() as u64, state.kept && end >= state.until)
        };
        if !frame.is_empty() {
            self.batched += frame.len();
            if self.writer.is_some() {
                self.batch.push(frame);
            }
        }
        if self.batched >= BATCH_BYTES {
            self.flush();
        }
        // A wake-up for each reader and frame would cost more than the bytes: the more wait, the more they get at once.
        if is_met || unannounced >= (waiting * BYTES_A_READER).min(ANNOUNCED_BYTES) {
            self.announce();
        }
        is_met
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

    /// Returns how the stream ends here, if it does: where another's begins, or as it is not wanted.
    fn stops(&self, head: &Head) -> Option<Flowed> {
        let mut state = self.fill.state();
        if state.kept && state.ring.end() >= state.until {
            return Some(Flowed::Whole);
        }
        close_unwanted(&mut state, head).then_some(Flowed::Unwanted)
    }

    /// Leaves what is there for a later fill, which finds it as soon as this one is off the list.
    async fn leave(&mut self) {
        self.flush();
        let Some(writer) = self.writer.take() else { return };
        let input = writer.input();
        if !self.is_part() {
            // The last that has it leaves it, before the next fill can look for it.
            let partial = self.fill.state().partial.take();
            partial.filter(|_| self.is_stored).inspect(|partial| partial.abandon());
        }
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

/// Closes a fill, and returns true, if no subscriber is left, and too much is missing for finishing it all the same.
fn close_unwanted(state: &mut FillState, head: &Head) -> bool {
    let wanted = state.is_wanted(head);
    let little = !wanted && state.kept && !state.is_too_long(head) && misses_little(state, head);
    let trickles = state.trickles_unwatched(clock::now());
    state.closed = state.stopping || (!wanted && !little) || trickles;
    state.closed
}

/// Returns true if so little is missing of a blob, or of what the stream of a part fetches, that it is finished without a
/// subscriber.
fn misses_little(state: &FillState, head: &Head) -> bool {
    if !state.verifies {
        let end = head.end.map(|end| end.min(state.until));
        return end.is_some_and(|end| end.saturating_sub(state.ring.end()) <= SEGMENT_BYTES);
    }
    head.total.is_some_and(|total| total.saturating_sub(state.there()) <= FINISHED_BYTES.max(total / 2))
}

/// Returns what is missing behind that which `partial` has from the first byte on.
fn rest_of(partial: Option<&Partial>) -> Rest {
    let Some(partial) = partial else { return Rest::default() };
    let (total, validator) = partial.head();
    Rest { at: partial.end_at(0).unwrap_or_default(), until: None, total, validator }
}

/// Returns true if a partial is of the blob that the upstream has today.
fn fits(partial: &Partial, head: &Head) -> bool {
    let (total, etag) = partial.head();
    let other = head.etag.as_ref().filter(|etag| is_strong(etag));
    total == head.total && etag.is_none_or(|etag| other.is_none_or(|other| *other == etag))
}

/// Returns true for a strong validator (RFC 9110 section 8.8.1).
fn is_strong(etag: &HeaderValue) -> bool {
    etag.as_bytes().starts_with(b"\"")
}

enum Flowed {
    /// All of it has come, or all up to where another's begins.
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
/// A blob of which no more than this is missing, or half, is finished without a subscriber.
const FINISHED_BYTES: u64 = 16 * 1024 * 1024;
