//! The state of a fill, which its task, its readers and its writer share.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use http::HeaderValue;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, oneshot};

use crate::cache::blobs::fill::memory::Share;
use crate::cache::blobs::fill::ring::Ring;
use crate::cache::counters::{Cause, Counters};
use crate::cache::error::CacheError;
use crate::cache::origin::{ByteSpan, Priority, Provenance};
use crate::cache::requester::Requester;
use crate::cache::store::verifying_writer::{Observer, Verified};
use crate::cache::store::{Content, Partial};
use crate::config::limits;
use crate::proto::Digest;

/// The blob that a fill downloads, and its upstream: one that trickles must not hold up the readers of another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) upstream: Arc<str>,
    pub(crate) digest: Digest,
    /// A part of the blob, if only that is wanted: passed on to all requesters of it, and kept, but not verified.
    pub(crate) part: Option<ByteSpan>,
}

impl Key {
    /// Returns the key of the whole blob.
    pub(crate) fn whole(&self) -> Self {
        Self { part: None, ..self.clone() }
    }

    /// Returns true if this is a part of the blob `whole`.
    pub(crate) fn is_part_of(&self, whole: &Self) -> bool {
        self.part.is_some() && self.digest == whole.digest && self.upstream == whole.upstream
    }

    /// Returns the first byte, and the byte behind the last, of a part.
    fn bounds(&self) -> Option<(u64, u64)> {
        let part = self.part?;
        Some((part.first, part.last.map_or(u64::MAX, |last| last.saturating_add(1))))
    }
}

/// A download.
pub(crate) struct Fill {
    pub(crate) key: Key,
    pub(crate) counters: Arc<Counters>,
    state: Mutex<FillState>,
    /// Wakes the task after a change of the state.
    pub(crate) wake: Notify,
}

/// The upstream's description of the blob.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    /// Bytes of the whole blob, where they are known.
    pub(crate) total: Option<u64>,
    /// The first byte of this stream.
    pub(crate) first: u64,
    /// The byte behind the last of this stream, where that is known.
    pub(crate) end: Option<u64>,
    /// Its type.
    pub(crate) content_type: Option<HeaderValue>,
    /// The upstream's validator.
    pub(crate) etag: Option<HeaderValue>,
    /// The upstream was not asked: what is known comes from the fills of parts.
    pub(crate) is_unasked: bool,
    /// The sender of the blob.
    pub(crate) from: Provenance,
}

pub(crate) struct FillState {
    pub(crate) head: Option<Arc<Head>>,
    /// The memory that it may take.
    pub(crate) share: Share,
    pub(crate) ring: Ring,
    /// The partial, whose file is readable from the stream's first byte up to `written`, and where its segments are.
    pub(crate) partial: Option<Arc<Partial>>,
    pub(crate) written: u64,
    pub(crate) kept: bool,
    /// The object store has sent some of it.
    pub(crate) stored: bool,
    /// The offset at which the stream under way ends, if it is kept: what follows is another's, or there.
    pub(crate) until: u64,
    /// Of a whole: it has a stream, or asks for one, and does not wait for others.
    pub(crate) fetches: bool,
    pub(crate) end: End,
    pub(crate) waiting: Waiting,
    /// The bytes are compared with the digest.
    pub(crate) verifies: bool,
    /// The requesters, in the order of their arrival: the upstream may be asked by the account of any of them.
    pub(crate) subscribers: Vec<Subscriber>,
    pub(crate) next: u64,
    /// The length of the longest blob that a requester has wanted, also one that has left.
    pub(crate) most: u64,
    /// The offset of the furthest reader.
    pub(crate) furthest: u64,
    pub(crate) closed: bool,
    /// When no client waited for it any more, or when its rate was looked at last; and how far it was then.
    pub(crate) unwatched: Option<(Instant, u64)>,
    /// The gateway is stopping: the partial is left for its next start.
    pub(crate) stopping: bool,
    pub(crate) left: bool,
    /// The bytes do not have the digest.
    pub(crate) is_wrong: bool,
}

/// The end of a fill.
pub(crate) enum End {
    NotYet,
    /// The bytes have the digest. Holds them, if they were kept.
    Verified {
        #[expect(dead_code, reason = "held: it is not evicted as long as it is read")]
        kept: Option<Content>,
    },
    /// The bytes do not have the digest, or did not come as a whole.
    Failed,
}

/// How urgently a requester wants a blob, and up to which length.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Demand {
    pub(crate) priority: Priority,
    /// The length in bytes of the longest blob that is wanted.
    pub(crate) most: u64,
}

impl Demand {
    /// The demand of a client, which takes a blob of any length.
    pub(crate) const REQUIRED: Self = Self { priority: Priority::Required, most: u64::MAX };

    /// Returns the demand of background work, which gives up a blob that turns out longer than `most`.
    pub(crate) fn background(most: u64) -> Self {
        Self { priority: Priority::Background, most }
    }

    /// Returns true if a client waits for the blob.
    pub(crate) fn is_required(self) -> bool {
        self.priority == Priority::Required
    }
}

/// A requester that wants a fill.
pub(crate) struct Subscriber {
    pub(crate) number: u64,
    pub(crate) requester: Requester,
    pub(crate) demand: Demand,
    /// The channel by which the requester gets the head.
    pub(crate) opened: Option<oneshot::Sender<Result<Arc<Head>, CacheError>>>,
}

impl Fill {
    /// Returns a fill that has not begun.
    pub(crate) fn new(key: Key, counters: Arc<Counters>, share: Share) -> Arc<Self> {
        let mut state = FillState::new(key.part.is_none(), share);
        if let Some((first, end)) = key.bounds() {
            (state.ring, state.until) = (Ring::at(first), end);
        }
        Arc::new(Self { key, counters, state: Mutex::new(state), wake: Notify::new() })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, FillState> {
        self.state.lock()
    }

    /// Returns the bytes that the stream of a part writes, or may be writing still: none of a whole, or of one that is not kept.
    pub(crate) fn claim(&self) -> Option<(u64, u64)> {
        let (first, _) = self.key.bounds()?;
        let state = self.state();
        state.may_write().then_some((first, state.until))
    }

    /// Wakes all readers that wait.
    pub(crate) fn announce(&self) {
        let waiting = self.state().waiting.take();
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Ends the fill for all its readers.
    pub(crate) fn fail(&self, cause: Cause) {
        self.counters.fill_failed(cause);
        let waiting = {
            let mut state = self.state();
            if matches!(state.end, End::NotYet) {
                state.end = End::Failed;
            }
            let error = CacheError::unusable("a blob that is not what its digest says, or not whole");
            for opened in state.subscribers.iter_mut().filter_map(|subscriber| subscriber.opened.take()) {
                let _ = opened.send(Err(error.clone()));
            }
            state.waiting.take()
        };
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl FillState {
    fn new(verifies: bool, share: Share) -> Self {
        Self {
            head: None,
            share,
            verifies,
            ring: Ring::at(0),
            partial: None,
            written: 0,
            kept: false,
            stored: false,
            until: u64::MAX,
            fetches: false,
            end: End::NotYet,
            waiting: Waiting::default(),
            subscribers: Vec::new(),
            next: 0,
            most: 0,
            furthest: 0,
            closed: false,
            unwatched: None,
            stopping: false,
            left: false,
            is_wrong: false,
        }
    }

    /// Returns true if it writes to the partial, or will once it has begun.
    pub(crate) fn may_write(&self) -> bool {
        self.kept || self.head.is_none()
    }

    /// Returns true if a client waits for it.
    pub(crate) fn is_required(&self) -> bool {
        self.subscribers.iter().any(|subscriber| subscriber.demand.is_required())
    }

    /// Returns true if the byte at `at` has come, or will soon.
    pub(crate) fn is_near(&self, at: u64) -> bool {
        at <= self.ring.end().saturating_add(NEAR_BYTES)
    }

    /// Returns the file, if it has the byte at `at`, and the byte behind those that follow it there without a hole.
    pub(crate) fn in_file(&self, at: u64) -> Option<(Arc<File>, u64)> {
        let partial = self.partial.as_ref()?;
        // Of a whole, all before its first byte is there.
        let first = self.head.as_ref().filter(|_| !self.verifies).map_or(0, |head| head.first);
        let is_written = first <= at && at < self.written;
        let end = if is_written { self.written } else { partial.end_at(at)? };
        Some((partial.file().clone(), end))
    }

    /// Returns how much of a blob that is kept is there.
    pub(crate) fn there(&self) -> u64 {
        let bytes = self.partial.as_ref().map_or(0, |partial| partial.bytes());
        if self.verifies { bytes.max(self.ring.end()) } else { bytes }
    }

    /// Returns the offset up to which readers may read.
    pub(crate) fn visible(&self) -> u64 {
        let end = self.ring.end();
        if !self.verifies || matches!(self.end, End::Verified { .. }) {
            return end;
        }
        match self.head.as_ref().and_then(|head| head.total) {
            Some(total) => end.min(total - total.min(WITHHELD_BYTES)),
            None => end - self.ring.last_length(),
        }
    }

    /// Sends the head to all subscribers that wait for it. If the whole blob is withheld, its head is sent once the blob is
    /// verified.
    pub(crate) fn open(&mut self) {
        let Some(head) = &self.head else { return };
        let withheld = self.verifies && head.total.is_some_and(|total| total <= WITHHELD_BYTES);
        if withheld && matches!(self.end, End::NotYet) {
            return;
        }
        for subscriber in &mut self.subscribers {
            if let Some(opened) = subscriber.opened.take() {
                let _ = opened.send(Ok(head.clone()));
            }
        }
    }

    /// Returns the length of the blob as far as it is known: by the upstream's word, or by what has come if that is more.
    fn length(&self, head: &Head) -> u64 {
        head.total.unwrap_or_default().max(self.ring.end())
    }

    /// Returns true if the blob is longer than any requester has wanted it: its manifest says less.
    pub(crate) fn is_too_long(&self, head: &Head) -> bool {
        self.length(head) > self.most
    }

    /// Returns true if a requester still wants the blob. One that is not kept is of no use to background work.
    pub(crate) fn is_wanted(&self, head: &Head) -> bool {
        let length = self.length(head);
        let mut demands = self.subscribers.iter().map(|subscriber| subscriber.demand);
        demands.any(|demand| (self.kept || demand.is_required()) && length <= demand.most)
    }

    /// Returns true if the upstream trickles, and no client waits for the blob: the download would take a connection for ever.
    pub(crate) fn trickles_unwatched(&mut self, now: Instant) -> bool {
        if self.is_required() {
            self.unwatched = None;
            return false;
        }
        let end = self.ring.end();
        let (since, at) = *self.unwatched.get_or_insert((now, end));
        if now.duration_since(since) < limits::UNWATCHED_PERIOD {
            return false;
        }
        self.unwatched = Some((now, end));
        end - at < limits::UNWATCHED_LEAST_BYTES
    }

    /// Returns true if a stream that is not kept in a file has to wait for its furthest reader.
    pub(crate) fn is_ahead(&self) -> bool {
        !self.kept && self.ring.end().saturating_sub(self.furthest) >= self.share.ahead()
    }

    /// Drops old frames from the ring, as many as it must not hold, once the file has them.
    pub(crate) fn trim_to_share(&mut self) {
        self.trim(self.share.ring());
    }

    fn trim(&mut self, most: u64) {
        let safe = if self.kept { self.written } else { u64::MAX };
        self.ring.trim(most, safe);
    }
}

impl Observer for Fill {
    fn written(&self, at: u64) {
        let mut state = self.state();
        state.written = at;
        state.trim_to_share();
    }

    fn caught_up(&self) {
        self.wake.notify_one();
    }

    fn disk_failed(&self, error: &io::Error) {
        let digest = &self.key.digest;
        if error.kind() == io::ErrorKind::FileTooLarge {
            tracing::info!(%digest, "a blob is longer than any that is kept (cache.max_object); it is passed on");
        } else {
            tracing::warn!(%digest, %error, "the cache's disk failed; the blob is passed on without being kept");
            self.counters.fill_failed(Cause::Disk);
        }
        let mut state = self.state();
        state.kept = false;
        // Where the disk is full nothing is written any more; else a late write may come, over that of another.
        let is_full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        if let Some(partial) = state.partial.as_ref().filter(|_| !is_full) {
            partial.abandon();
        }
        drop(state);
        self.wake.notify_one();
    }

    fn left(&self) {
        self.state().left = true;
        self.wake.notify_one();
    }

    fn verified(&self, result: Verified) {
        match result {
            Verified::Unknown => {
                let digest = &self.key.digest;
                tracing::warn!(%digest, "an earlier download's part of a blob can't be read; fetch the blob again");
                self.fail(Cause::Disk);
            }
            Verified::Wrong => {
                let (upstream, digest) = (&*self.key.upstream, &self.key.digest);
                tracing::error!(upstream, %digest, "the upstream sent bytes that do not have the digest; nothing is kept");
                self.state().is_wrong = true;
                self.fail(Cause::Digest);
            }
            Verified::Right(content) => {
                self.counters.filled();
                let mut state = self.state();
                if content.is_some() {
                    // Readers find the rest in the file, however slow they are.
                    state.trim(0);
                    state.share.shrink(0);
                }
                state.end = End::Verified { kept: content };
                state.open();
                drop(state);
                self.announce();
            }
        }
        self.wake.notify_one();
    }
}

/// The readers that wait for the next bytes, and are woken together. Each reader has a place.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    places: Vec<Option<Waker>>,
    free: Vec<usize>,
    count: usize,
}

impl Waiting {
    /// Returns a place for one more reader.
    pub(crate) fn enter(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() - 1
        })
    }

    /// Gives a place back.
    pub(crate) fn leave(&mut self, place: usize) {
        if self.places[place].take().is_some() {
            self.count -= 1;
        }
        self.free.push(place);
    }

    /// Registers the waker of the reader at `place`.
    pub(crate) fn wait(&mut self, place: usize, waker: &Waker) {
        match &mut self.places[place] {
            Some(known) => known.clone_from(waker),
            free => {
                *free = Some(waker.clone());
                self.count += 1;
            }
        }
    }

    /// Returns how many wait.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Takes out all wakers, to be called without the lock.
    fn take(&mut self) -> Vec<Waker> {
        self.count = 0;
        self.places.iter_mut().filter_map(Option::take).collect()
    }
}

/// How far ahead of a stream a range may begin to wait for it, in bytes; for one further ahead another stream is begun.
pub(crate) const NEAR_BYTES: u64 = 8 * 1024 * 1024;

/// The last bytes of a blob, which no reader gets before the digest is verified.
pub(crate) const WITHHELD_BYTES: u64 = 16 * 1024;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cache::blobs::fill::memory::FillMemory;
    use crate::clock;

    #[test]
    fn a_trickle_that_no_client_waits_for_ends() {
        let mut state = FillState::new(true, FillMemory::default().take().unwrap());
        let (begun, period) = (clock::now(), limits::UNWATCHED_PERIOD);
        let enough = vec![0; limits::UNWATCHED_LEAST_BYTES as usize];
        for (after, more, ends) in [
            (Duration::ZERO, 0, false),
            (period / 2, 0, false),
            (period, enough.len(), false),
            (period * 2, enough.len() - 1, true),
        ] {
            state.ring.push(enough[..more].to_vec().into());
            assert_eq!(state.trickles_unwatched(begun + after), ends, "{after:?}");
        }
    }
}
