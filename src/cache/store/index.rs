//! The index in memory of what is on the disk: how much there is, what is in use, and what may be evicted.
//!
//! A scan of the disk builds the index. The disk is right where they differ: another process may add and remove files, so
//! content may be on the disk without being in the index, and content in the index may have vanished.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};

use crate::cache::store::eviction::{Candidate, EvictionQueue, QueueEntry};
use crate::cache::store::layout::Kind;
use crate::proto::Digest;

/// The index, shared by the parts of the store.
#[derive(Clone, Default)]
pub(crate) struct SharedIndex(Arc<Mutex<Index>>);

impl SharedIndex {
    /// Locks the index. Hold the lock for no system call: readers wait for it.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Index> {
        self.0.lock()
    }
}

/// The index of all content, and what may be evicted of it.
#[derive(Default)]
pub(crate) struct Index {
    blobs: Partition,
    manifests: Partition,
    /// Partials that are not being written, by name.
    partials: HashMap<String, PartialEntry>,
    /// Their names, by what the names of all partials of one blob from one upstream begin with.
    stems: HashMap<String, Vec<String>>,
    partial_bytes: u64,
    /// Bytes reserved for blobs on their way, those that are written already included.
    pub(crate) reserved: u64,
    /// Of those, the bytes that the file system has not allocated.
    pub(crate) unallocated: u64,
    /// Digests that are never evicted, whether they are there or not.
    kept: HashSet<Digest>,
    /// Content that this process put in place and has not synced yet, and how often.
    pending: HashMap<(Kind, Digest), u32>,
    /// True once a scan has counted everything.
    pub(crate) counted: bool,
    /// Bytes of blobs and partials that were chosen to go and are still on the disk.
    pub(crate) leaving: u64,
    /// Bytes of records, which share the room of manifests.
    pub(crate) records: u64,
    /// Threads that still mark what must stay: until they are done, nothing is evicted.
    pub(crate) eviction_holds: usize,
    /// The number of the scan of the disk.
    scan: u64,
    /// The partials on the disk have been counted.
    pub(crate) knows_partials: bool,
    /// Of what is reserved, bytes for blobs whose digest is not known yet.
    pub(crate) unknown_digest: u64,
    /// Content that could not be read, and was moved aside.
    pub(crate) quarantined: Amount,
}

/// A file that has to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Victim {
    Partial(String, u64),
    Content(Kind, Digest, u64),
}

impl Victim {
    /// Returns the room that it takes of the blobs' share.
    pub(crate) fn room(&self) -> u64 {
        match self {
            Self::Partial(_, bytes) | Self::Content(Kind::Blob, _, bytes) => *bytes,
            Self::Content(Kind::Manifest, ..) => 0,
        }
    }
}

/// A number of files and their size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Amount {
    /// Files.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
}

struct PartialEntry {
    bytes: u64,
    last: u64,
}

impl Index {
    /// Notes that content is used at `now`, and pins it until [`unpin`](Self::unpin) with the number that is returned. Second:
    /// whether the use has to be noted on disk, as it was last noted too long ago.
    pub(crate) fn pin(
        &mut self,
        kind: Kind,
        digest: &Digest,
        bytes: u64,
        now: u64,
        noted: u64,
    ) -> (u64, bool) {
        let (scan, kept) = (self.scan, self.kept.contains(digest));
        let partition = self.partition(kind);
        let new = partition.put(digest, bytes, now, noted);
        if kept {
            partition.protect(digest);
        }
        let Partition { entries, queue, .. } = partition;
        let Some(entry) = entries.get_mut(digest) else { return (0, false) };
        entry.seen = scan;
        if !new {
            queue.used(&mut entry.queued, now);
        }
        entry.pins += 1;
        let due = now.saturating_sub(entry.noted) >= NOTE_EVERY;
        if due {
            entry.noted = now;
        }
        (entry.queued.number, due)
    }

    /// Takes one reader away. Content that was removed and has come back since has other readers.
    pub(crate) fn unpin(&mut self, kind: Kind, digest: &Digest, number: u64) {
        if let Some(entry) = self.partition(kind).entries.get_mut(digest)
            && entry.queued.number == number
        {
            entry.pins = entry.pins.saturating_sub(1);
        }
    }

    /// Adds content that was last used at `last`. An entry that exists is left as it is.
    pub(crate) fn found(&mut self, kind: Kind, digest: &Digest, bytes: u64, last: u64) {
        self.partition(kind).put(digest, bytes, last, last);
        if self.kept.contains(digest) {
            self.partition(kind).protect(digest);
        }
        self.saw(kind, digest);
    }

    /// Begins a new scan of the disk.
    pub(crate) fn begin_scan(&mut self) {
        self.scan += 1;
    }

    /// Notes that the scan has seen content. Returns whether it was known.
    pub(crate) fn saw(&mut self, kind: Kind, digest: &Digest) -> bool {
        let scan = self.scan;
        let entry = self.partition(kind).entries.get_mut(digest);
        entry.map(|entry| entry.seen = scan).is_some()
    }

    /// Returns the content that the scan has not seen.
    pub(crate) fn unseen(&mut self, kind: Kind) -> Vec<Digest> {
        let scan = self.scan;
        let entries = self.partition(kind).entries.iter();
        entries.filter(|(_, entry)| entry.seen != scan).map(|(digest, _)| digest.clone()).collect()
    }

    /// Removes content that is not there any more. Returns whether it was known.
    pub(crate) fn remove(&mut self, kind: Kind, digest: &Digest) -> bool {
        self.partition(kind).take(digest)
    }

    /// Returns true if content is in the index.
    pub(crate) fn knows(&mut self, kind: Kind, digest: &Digest) -> bool {
        self.partition(kind).entries.contains_key(digest)
    }

    /// Returns true if a victim has come back since it was chosen.
    pub(crate) fn is_back(&mut self, victim: &Victim) -> bool {
        match victim {
            Victim::Partial(name, _) => self.partials.contains_key(name),
            Victim::Content(kind, digest, _) => self.knows(*kind, digest),
        }
    }

    /// Adds a partial that is not being written.
    pub(crate) fn found_partial(&mut self, name: &str, bytes: u64, last: u64) {
        self.remove_partial(name);
        self.partials.insert(name.to_owned(), PartialEntry { bytes, last });
        self.stems.entry(stem_of(name).to_owned()).or_default().push(name.to_owned());
        self.partial_bytes += bytes;
    }

    /// Returns the names of a blob's partials that are not being written here, the longest first.
    pub(crate) fn partials_of(&self, stem: &str) -> Vec<String> {
        let mut names = self.stems.get(stem).cloned().unwrap_or_default();
        names.sort_by_key(|name| Reverse(self.partials.get(name).map_or(0, |partial| partial.bytes)));
        names
    }

    /// Evicts the partials that were left longest ago, as long as there are more than `most`.
    pub(crate) fn evict_partials(&mut self, most: usize) -> Vec<Victim> {
        let over = self.partials.len().saturating_sub(most);
        if over == 0 {
            return Vec::new();
        }
        let mut oldest: Vec<_> =
            self.partials.iter().map(|(name, partial)| (partial.last, name.clone())).collect();
        oldest.sort_unstable();
        oldest.truncate(over);
        let victims = oldest.into_iter().map(|(_, name)| self.dismiss_partial(name)).collect();
        self.leave(victims)
    }

    fn dismiss_partial(&mut self, name: String) -> Victim {
        let bytes = self.partials.get(&name).map_or(0, |partial| partial.bytes);
        self.remove_partial(&name);
        Victim::Partial(name, bytes)
    }

    /// Counts what has been chosen to go until it has [left](Self::left).
    fn leave(&mut self, victims: Vec<Victim>) -> Vec<Victim> {
        self.leaving += victims.iter().map(Victim::room).sum::<u64>();
        victims
    }

    /// Notes that a victim is off the disk, or stays there for good.
    pub(crate) fn left(&mut self, victim: &Victim) {
        self.leaving -= victim.room();
    }

    /// Removes a partial that is not there any more, or is being written again.
    pub(crate) fn remove_partial(&mut self, name: &str) {
        if let Some(partial) = self.partials.remove(name) {
            self.partial_bytes -= partial.bytes;
            let stem = stem_of(name);
            if let Some(names) = self.stems.get_mut(stem) {
                names.retain(|known| known != name);
                if names.is_empty() {
                    self.stems.remove(stem);
                }
            }
        }
    }

    /// Keeps `digest` from ever being evicted, within [the limits](Self::limit_kept) of what is kept so.
    pub(crate) fn keep(&mut self, digest: &Digest) {
        self.kept.insert(digest.clone());
        self.blobs.protect(digest);
        self.manifests.protect(digest);
    }

    /// Limits the bytes of blobs and of manifests that are never evicted: without room for others nothing new would be kept.
    pub(crate) fn limit_kept(&mut self, blobs: u64, manifests: u64) {
        self.blobs.most_protected = Some(blobs);
        self.manifests.most_protected = Some(manifests);
    }

    /// Returns true if content that is to be kept is beyond the limits, and may be evicted like the rest.
    pub(crate) fn keeps_too_much(&self) -> bool {
        self.blobs.is_over || self.manifests.is_over
    }

    /// Notes that content is put in place and has to be synced.
    pub(crate) fn expect_sync(&mut self, kind: Kind, digest: &Digest) {
        *self.pending.entry((kind, digest.clone())).or_default() += 1;
    }

    /// Notes that content has been synced, or never will be.
    pub(crate) fn synced(&mut self, kind: Kind, digest: &Digest) {
        let key = (kind, digest.clone());
        if let Some(count) = self.pending.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.pending.remove(&key);
            }
        }
    }

    /// Returns true if this process put content in place and has not synced it yet.
    pub(crate) fn is_pending(&self, kind: Kind, digest: &Digest) -> bool {
        !self.pending.is_empty() && self.pending.contains_key(&(kind, digest.clone()))
    }

    /// Returns true if something may be evicted. Before the first scan it is not known what is least used, nor what must stay.
    pub(crate) fn may_evict(&self) -> bool {
        self.counted && self.eviction_holds == 0
    }

    /// Reserves `bytes` within `limit`, and returns what has to go for that, which is out of the index then; none if there is not
    /// enough room.
    ///
    /// Nothing is evicted before [`may_evict`](Self::may_evict), nor unless `evicts`. There is no room either while too much is
    /// chosen to go already, or the limit is exceeded: a new blob would wait long for the disk, and pass its limit meanwhile.
    pub(crate) fn reserve(&mut self, bytes: u64, limit: u64, now: u64, evicts: bool) -> Option<Vec<Victim>> {
        self.reserved.checked_add(bytes).filter(|taken| *taken <= limit)?;
        let over = (self.used() + bytes).saturating_sub(limit);
        let victims = match over {
            0 => Vec::new(),
            _ if !evicts || !self.may_evict() => return None,
            over if over > bytes || self.leaving > limit / 4 => return None,
            over => self.evict(over, limit, now, true)?,
        };
        self.reserved += bytes;
        Some(victims)
    }

    /// Takes out of the index what has to go so that `bytes` of blobs and partials are freed. `all`: none is taken if that is
    /// not enough.
    pub(crate) fn evict(&mut self, bytes: u64, limit: u64, now: u64, all: bool) -> Option<Vec<Victim>> {
        self.choose(bytes, limit, now, all, usize::MAX)
    }

    /// Takes out of the index likewise, about `most` files: the lock is held for as long.
    pub(crate) fn evict_some(&mut self, bytes: u64, limit: u64, now: u64, most: usize) -> Vec<Victim> {
        self.choose(bytes, limit, now, false, most).unwrap_or_default()
    }

    fn choose(&mut self, bytes: u64, limit: u64, now: u64, all: bool, most: usize) -> Option<Vec<Victim>> {
        let partials = self.expendable_partials(bytes, limit, now);
        let freed: u64 = partials.iter().filter_map(|name| self.partials.get(name)).map(|p| p.bytes).sum();
        let blobs = self.blobs.evict(bytes.saturating_sub(freed), all, most)?;
        let mut victims: Vec<_> = partials.into_iter().map(|name| self.dismiss_partial(name)).collect();
        victims.extend(blobs.into_iter().map(|(digest, bytes)| Victim::Content(Kind::Blob, digest, bytes)));
        Some(self.leave(victims))
    }

    /// Evicts manifests, at most so many, as long as there are more than `limit` bytes of them.
    pub(crate) fn evict_manifests(&mut self, limit: u64, most: usize) -> Vec<Victim> {
        // Records go by their age, see `Records::count`.
        let over = (self.manifests.bytes + self.records.min(limit / 2)).saturating_sub(limit);
        let gone = self.manifests.evict(over, false, most).unwrap_or_default();
        gone.into_iter().map(|(digest, bytes)| Victim::Content(Kind::Manifest, digest, bytes)).collect()
    }

    /// Returns true if `more` bytes can be written within `limit` before anything else has left the disk.
    pub(crate) fn has_room_for(&self, more: u64, limit: u64) -> bool {
        self.leaving == 0 || self.used() - self.unallocated + self.leaving + more <= limit
    }

    /// Returns the bytes of blobs that are in place, partial, on their way and in quarantine.
    pub(crate) fn used(&self) -> u64 {
        self.blobs.bytes + self.partial_bytes + self.reserved + self.quarantined.bytes
    }

    /// Returns how much content of a kind is in place.
    pub(crate) fn amount(&self, kind: Kind) -> Amount {
        let partition = match kind {
            Kind::Blob => &self.blobs,
            Kind::Manifest => &self.manifests,
        };
        Amount { count: partition.entries.len() as u64, bytes: partition.bytes }
    }

    /// Returns how many partials are not being written.
    pub(crate) fn partials(&self) -> Amount {
        Amount { count: self.partials.len() as u64, bytes: self.partial_bytes }
    }

    /// Returns the partials that go before blobs: those that were left a day ago, and the oldest while all take more than a
    /// quarter: else clients that leave early could evict all that is whole.
    fn expendable_partials(&self, bytes: u64, limit: u64, now: u64) -> Vec<String> {
        let mut oldest: Vec<_> = self.partials.iter().collect();
        oldest.sort_by_key(|(_, partial)| partial.last);
        let mut freed = 0;
        let expendable = oldest.into_iter().take_while(|(_, partial)| {
            let old = now.saturating_sub(partial.last) >= PARTIAL_LIFE;
            let goes = freed < bytes && (old || self.partial_bytes - freed > limit / 4);
            freed += partial.bytes;
            goes
        });
        expendable.map(|(name, _)| name.clone()).collect()
    }

    fn partition(&mut self, kind: Kind) -> &mut Partition {
        match kind {
            Kind::Blob => &mut self.blobs,
            Kind::Manifest => &mut self.manifests,
        }
    }
}

/// Returns what is before the last hyphen of a partial's name: behind it is its random part.
fn stem_of(name: &str) -> &str {
    name.rsplit_once('-').map_or(name, |(stem, _)| stem)
}

/// Content of one kind.
#[derive(Default)]
struct Partition {
    entries: HashMap<Digest, Entry>,
    queue: EvictionQueue,
    bytes: u64,
    /// Bytes that are never evicted, and their limit.
    protected: u64,
    most_protected: Option<u64>,
    /// More is to be kept than that.
    is_over: bool,
}

struct Entry {
    bytes: u64,
    queued: QueueEntry,
    /// The number of its readers.
    pins: u32,
    /// When its use was last noted on disk.
    noted: u64,
    /// The scan that saw its file last.
    seen: u64,
    /// It is never evicted.
    protected: bool,
}

impl Partition {
    /// Adds content. Returns whether it is new.
    fn put(&mut self, digest: &Digest, bytes: u64, last: u64, noted: u64) -> bool {
        if self.entries.contains_key(digest) {
            return false;
        }
        let queued = self.queue.enter(digest, last);
        self.entries
            .insert(digest.clone(), Entry { bytes, queued, pins: 0, noted, seen: 0, protected: false });
        self.bytes += bytes;
        true
    }

    fn take(&mut self, digest: &Digest) -> bool {
        let Some(entry) = self.entries.remove(digest) else { return false };
        self.bytes -= entry.bytes;
        if entry.protected {
            self.protected -= entry.bytes;
        }
        true
    }

    /// Keeps content from being evicted, if there is room for more that is.
    fn protect(&mut self, digest: &Digest) {
        let Some(entry) = self.entries.get_mut(digest).filter(|entry| !entry.protected) else { return };
        if self.most_protected.is_none_or(|most| self.protected + entry.bytes <= most) {
            entry.protected = true;
            self.protected += entry.bytes;
        } else {
            self.is_over = true;
        }
    }

    fn evict(&mut self, bytes: u64, all: bool, most: usize) -> Option<Vec<(Digest, u64)>> {
        let mut victims = HashMap::new();
        let mut freed = 0;
        while freed < bytes && victims.len() < most {
            let next = self.queue.next(|digest| match self.entries.get(digest) {
                // It need not be queued again.
                Some(entry) if entry.protected => Candidate::Out,
                Some(entry) if entry.pins == 0 => Candidate::Free(entry.queued),
                Some(entry) => Candidate::Pinned(entry.queued),
                None => Candidate::Out,
            });
            let Some(digest) = next else { break };
            let size = self.entries.get(&digest).map_or(0, |entry| entry.bytes);
            freed += size;
            victims.insert(digest, size);
        }
        if all && freed < bytes {
            victims.clear();
        }
        self.queue.settle(|digest| victims.contains_key(digest));
        for digest in victims.keys() {
            self.take(digest);
        }
        (!all || freed >= bytes).then(|| victims.into_iter().collect())
    }
}

/// After this time, in seconds, a partial is worth less than a whole blob.
const PARTIAL_LIFE: u64 = 24 * 60 * 60;

/// The last use is written to disk no more often than this, in seconds: it orders evictions after a restart, by days rather
/// than by minutes.
const NOTE_EVERY: u64 = 60 * 60;
