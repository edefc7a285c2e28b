//! One download, many readers.
//!
//! The first miss starts a fill in a task of its own; everyone else who may read the blob follows it: at the head from a
//! [`Ring`] of the last frames, behind it from the growing file, each at his own pace. The upstream sees one request.
//! Nobody has the last bytes before the digest holds: with a Content-Length, whoever has those has a complete answer.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io;
use std::sync::Arc;

use http::HeaderValue;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, oneshot};

pub(crate) mod download;
pub(crate) mod reader;
pub(crate) mod ring;
pub(crate) mod waiting;

#[cfg(test)]
mod tests;

use crate::cache::counters::{Cause, Counters};
use crate::cache::error::CacheError;
use crate::cache::origin::ByteSpan;
use crate::cache::origin::gate::Priority;
use crate::cache::requester::Requester;
use crate::cache::store::Content;
use crate::cache::store::verifying_writer::{Observer, Verified};
use crate::proto::Digest;
pub(crate) use reader::Reader;
use ring::Ring;
use waiting::Waiting;

/// The fills under way.
#[derive(Default)]
pub(crate) struct Fills(Mutex<HashMap<Key, Arc<Fill>>>);

/// What a fill is of. An upstream that trickles must not hold up the readers of another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) upstream: Arc<str>,
    pub(crate) digest: Digest,
    /// Some bytes alone: passed through to all who ask for the same, neither proved nor kept.
    pub(crate) part: Option<ByteSpan>,
}

/// A download.
pub(crate) struct Fill {
    key: Key,
    counters: Arc<Counters>,
    state: Mutex<FillState>,
    /// Something has changed that the task must look at.
    stir: Notify,
}

/// What the upstream said of the blob.
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
}

struct FillState {
    head: Option<Arc<Head>>,
    ring: Ring,
    /// What is in the file, and may be read there.
    file: Option<Arc<File>>,
    written: u64,
    kept: bool,
    end: End,
    waiting: Waiting,
    /// What comes is checked against the digest.
    proves: bool,
    /// Who wants it, in the order of coming: as each of them the upstream may be asked.
    wanting: Vec<Subscriber>,
    next: u64,
    /// How far the first of the readers is.
    furthest: u64,
    closed: bool,
    /// The gateway ends: what is there is left for the next.
    ending: bool,
    left: bool,
}

/// How a fill ended.
enum End {
    NotYet,
    /// The bytes are what the digest says, and here they are, if they were kept.
    Proved {
        #[expect(dead_code, reason = "held: it is not evicted as long as it is read")]
        kept: Option<Content>,
    },
    /// They are not, or they did not come.
    Broken,
}

/// Somebody who wants a fill.
struct Subscriber {
    number: u64,
    repository: Requester,
    need: Priority,
    /// Tells it of the head.
    opened: Option<oneshot::Sender<Result<Arc<Head>, CacheError>>>,
}

/// The wish for a fill: as long as it lives, the fill goes on.
pub(crate) struct Subscription {
    pub(crate) fill: Arc<Fill>,
    number: u64,
    opened: Option<oneshot::Receiver<Result<Arc<Head>, CacheError>>>,
}

impl Fills {
    /// Joins the fill of `key` for `repository`, or begins it on this runtime. Second: whether it was under way.
    pub(crate) fn join(&self, key: Key, repository: &Requester, need: Priority) -> (Subscription, bool) {
        let mut fills = self.fills();
        match fills.entry(key.clone()) {
            Entry::Occupied(mut place) => match place.get().want(repository, need) {
                Some(want) => (want, true),
                None => {
                    let (fill, want) = Fill::begin(key, repository, need);
                    place.insert(fill);
                    (want, false)
                }
            },
            Entry::Vacant(place) => {
                let (fill, want) = Fill::begin(key, repository, need);
                place.insert(fill);
                (want, false)
            }
        }
    }

    /// Joins the fill of `key` if there is one.
    pub(crate) fn follow(&self, key: &Key, repository: &Requester) -> Option<Subscription> {
        let fill = self.fills().get(key).cloned();
        fill.and_then(|fill| fill.want(repository, Priority::Required))
    }

    /// Whether a blob is on its way from `upstream`, for anybody.
    pub(crate) fn has(&self, key: &Key) -> bool {
        self.fills().contains_key(key)
    }

    /// Whether a blob is on its way, and for other repositories than this alone.
    pub(crate) fn is_foreign(&self, key: &Key, repository: &Requester) -> bool {
        let fill = self.fills().get(key).cloned();
        fill.is_some_and(|fill| {
            let state = fill.state();
            state.wanting.iter().all(|wanting| wanting.repository.name != repository.name)
        })
    }

    /// Fills of `upstream` for which clients wait.
    pub(crate) fn wanted(&self, upstream: &str) -> usize {
        let fills = self.fills();
        let of_it = fills.iter().filter(|(key, _)| &*key.upstream == upstream);
        of_it
            .filter(|(_, fill)| fill.state().wanting.iter().any(|wanting| wanting.need == Priority::Required))
            .count()
    }

    /// How far a blob is, and of how many bytes, whichever upstream it comes from.
    pub(crate) fn progress(&self, digest: &Digest) -> Option<(u64, Option<u64>)> {
        let fills = self.fills();
        let (_, fill) = fills.iter().find(|(key, _)| key.digest == *digest && key.part.is_none())?;
        let state = fill.state();
        Some((state.ring.end(), state.head.as_ref().and_then(|head| head.total)))
    }

    /// Has all fills stop and leave what they have. Whether there were any.
    pub(crate) fn end(&self) -> bool {
        let fills: Vec<_> = self.fills().values().cloned().collect();
        for fill in &fills {
            fill.state().ending = true;
            fill.stir.notify_one();
        }
        !fills.is_empty()
    }

    /// What each fill may keep in memory, in bytes: all of them together have a limit.
    fn ring_bytes(&self) -> u64 {
        (RINGS_BYTES / self.fills().len().max(1) as u64).clamp(RING_LEAST_BYTES, RING_BYTES)
    }

    /// `fill` is over: whoever comes now finds what is kept, or begins anew.
    fn remove(&self, fill: &Arc<Fill>) {
        let mut fills = self.fills();
        if fills.get(&fill.key).is_some_and(|known| Arc::ptr_eq(known, fill)) {
            fills.remove(&fill.key);
        }
    }

    fn fills(&self) -> MutexGuard<'_, HashMap<Key, Arc<Fill>>> {
        self.0.lock()
    }
}

impl Fill {
    fn begin(key: Key, repository: &Requester, need: Priority) -> (Arc<Self>, Subscription) {
        let proves = key.part.is_none();
        let fill = Arc::new(Self {
            key,
            counters: repository.site.cache.counters.clone(),
            state: Mutex::new(FillState::new(proves)),
            stir: Notify::new(),
        });
        let want = fill.enter(&mut fill.state(), repository, need);
        tokio::spawn(download::run(fill.clone(), repository.site.clone()));
        (fill, want)
    }

    /// One more who wants it; `None` when it is over already.
    fn want(self: &Arc<Self>, repository: &Requester, need: Priority) -> Option<Subscription> {
        let mut state = self.state();
        let usable = !state.closed && !matches!(state.end, End::Broken);
        // Of what is passed through, the beginning may be gone.
        let begins = state.head.as_ref().map_or(0, |head| head.first);
        let whole = state.kept || state.ring.look(begins) != ring::Place::Before;
        (usable && whole).then(|| self.enter(&mut state, repository, need))
    }

    fn enter(
        self: &Arc<Self>,
        state: &mut FillState,
        repository: &Requester,
        need: Priority,
    ) -> Subscription {
        let number = state.next;
        state.next += 1;
        let (sender, receiver) = oneshot::channel();
        state.wanting.push(Subscriber { number, repository: repository.clone(), need, opened: Some(sender) });
        state.open();
        self.stir.notify_one();
        Subscription { fill: self.clone(), number, opened: Some(receiver) }
    }

    fn state(&self) -> MutexGuard<'_, FillState> {
        self.state.lock()
    }

    /// Wakes all readers that wait.
    fn announce(&self) {
        let waiting = self.state().waiting.take();
        waiting.into_iter().for_each(std::task::Waker::wake);
    }

    fn broke(&self, cause: Cause) {
        self.counters.fill_failed(cause);
        let waiting = {
            let mut state = self.state();
            if matches!(state.end, End::NotYet) {
                state.end = End::Broken;
            }
            let refusal = CacheError::unusable("a blob that is not what its digest says, or not whole");
            for opened in state.wanting.iter_mut().filter_map(|wanting| wanting.opened.take()) {
                let _ = opened.send(Err(refusal.clone()));
            }
            state.waiting.take()
        };
        waiting.into_iter().for_each(std::task::Waker::wake);
    }
}

impl FillState {
    fn new(proves: bool) -> Self {
        Self {
            head: None,
            proves,
            ring: Ring::at(0),
            file: None,
            written: 0,
            kept: false,
            end: End::NotYet,
            waiting: Waiting::default(),
            wanting: Vec::new(),
            next: 0,
            furthest: 0,
            closed: false,
            ending: false,
            left: false,
        }
    }

    /// How far a reader may read.
    fn visible(&self) -> u64 {
        let end = self.ring.end();
        if !self.proves || matches!(self.end, End::Proved { .. }) {
            return end;
        }
        match self.head.as_ref().and_then(|head| head.total) {
            Some(total) => end.min(total - total.min(WITHHELD_BYTES)),
            None => end - self.ring.last(),
        }
    }

    /// Tells all who wait for it of the head. Of a blob that is withheld as a whole nobody hears before it is proved.
    fn open(&mut self) {
        let Some(head) = &self.head else { return };
        let withheld = self.proves && head.total.is_some_and(|total| total <= WITHHELD_BYTES);
        if withheld && matches!(self.end, End::NotYet) {
            return;
        }
        for wanting in &mut self.wanting {
            if let Some(opened) = wanting.opened.take() {
                let _ = opened.send(Ok(head.clone()));
            }
        }
    }

    /// Frames behind the last few are let go of, once the file has them.
    fn trim(&mut self, most: u64) {
        let safe = if self.kept { self.written } else { u64::MAX };
        self.ring.trim(most, safe);
    }
}

impl Observer for Fill {
    fn written(&self, at: u64) {
        let mut state = self.state();
        state.written = at;
        state.trim(RING_BYTES);
    }

    fn caught_up(&self) {
        self.stir.notify_one();
    }

    fn disk_failed(&self, error: &io::Error) {
        let digest = &self.key.digest;
        tracing::warn!(%digest, %error, "the cache's disk failed; the blob goes on without being kept");
        self.counters.fill_failed(Cause::Disk);
        self.state().kept = false;
        self.stir.notify_one();
    }

    fn left(&self) {
        self.state().left = true;
        self.stir.notify_one();
    }

    fn verified(&self, result: Verified) {
        match result {
            Verified::Unknown => {
                tracing::warn!(digest = %self.key.digest, "what an earlier download left can't be read; the blob is to be fetched anew");
                self.broke(Cause::Disk);
            }
            Verified::Wrong => {
                let (upstream, digest) = (&*self.key.upstream, &self.key.digest);
                tracing::error!(upstream, %digest, "the upstream sent bytes that are not what the digest says; nothing is kept");
                self.broke(Cause::Digest);
            }
            Verified::Right(content) => {
                self.counters.filled();
                let mut state = self.state();
                if content.is_some() {
                    // Who is still reading finds the rest in the file, however slow he is.
                    state.trim(0);
                }
                state.end = End::Proved { kept: content };
                state.open();
                drop(state);
                self.announce();
            }
        }
        self.stir.notify_one();
    }
}

impl Subscription {
    /// Waits until the upstream has answered with a success.
    ///
    /// # Errors
    /// What the upstream said to whoever asks here, or to one for whom it is the same.
    pub(crate) async fn head(&mut self) -> Result<Arc<Head>, CacheError> {
        if let Some(opened) = self.opened.take()
            && let Ok(answer) = opened.await
        {
            return answer;
        }
        let state = self.fill.state();
        let head = state.head.clone().filter(|_| !matches!(state.end, End::Broken));
        head.ok_or(CacheError::Retry)
    }

    /// What it is of.
    pub(crate) fn digest(&self) -> &Digest {
        &self.fill.key.digest
    }

    /// Whether the byte at `at` is there, or will soon be.
    pub(crate) fn is_near(&self, at: u64) -> bool {
        at <= self.fill.state().ring.end().saturating_add(NEAR_BYTES)
    }

    /// Waits until the fill is over: whether what came was right.
    pub(crate) async fn done(&self) -> bool {
        loop {
            let changed = reader::Change::of(&self.fill);
            match self.fill.state().end {
                End::Proved { .. } => return true,
                End::Broken => return false,
                End::NotYet => {}
            }
            changed.await;
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let number = self.number;
        self.fill.state().wanting.retain(|wanting| wanting.number != number);
        // Where nothing is kept, those who are left may not be worth going on for.
        self.fill.stir.notify_one();
    }
}

/// What a fill keeps in memory of what it has read last, in bytes.
const RING_BYTES: u64 = 4 * 1024 * 1024;
/// A range that begins further ahead of what is there, in bytes, is asked for by itself.
const NEAR_BYTES: u64 = 8 * 1024 * 1024;
/// What all fills together keep so, in bytes, as long as each has its least.
const RINGS_BYTES: u64 = 128 * 1024 * 1024;
const RING_LEAST_BYTES: u64 = 256 * 1024;
/// What nobody has before the digest holds, in bytes.
const WITHHELD_BYTES: u64 = 16 * 1024;
