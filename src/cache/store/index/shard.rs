//! A shard of the index.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hashbrown::HashTable;
use slab::Slab;

use crate::cache::store::eviction::{Aging, Candidate, EvictionQueue, QueueEntry, Rank};
use crate::cache::store::index::key::Key;
use crate::cache::store::layout::Kind;

/// The content whose digests fall into one part of the index.
pub(super) struct Shard {
    blobs: Partition,
    manifests: Partition,
    /// Digests that are never evicted, whether they are there or not.
    pub(super) kept: HashSet<Key>,
    /// Content that this process put in place and has not synced yet, and how often.
    pub(super) pending: HashMap<(Kind, Key), u32>,
}

/// The state that the shards' partitions of one kind have together.
#[derive(Debug, Default)]
pub(super) struct PartitionState {
    aging: Aging,
    /// Bytes that cannot be evicted now, as they are being read, or never.
    fixed: AtomicU64,
    /// Bytes that are never evicted, and how many may be.
    protected: AtomicU64,
    most_protected: AtomicU64,
    /// More is to be kept than that.
    is_over: AtomicBool,
}

impl PartitionState {
    /// Limits the bytes that are never evicted.
    pub(super) fn limit_protected(&self, bytes: u64) {
        self.most_protected.store(bytes, Ordering::Relaxed);
    }

    /// Returns true if content that is to be kept is beyond the limit.
    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Returns the bytes that cannot be evicted now.
    pub(super) fn fixed(&self) -> u64 {
        self.fixed.load(Ordering::Relaxed)
    }

    fn protect(&self, bytes: u64) -> bool {
        let most = self.most_protected.load(Ordering::Relaxed);
        let more = |protected: u64| protected.checked_add(bytes).filter(|protected| *protected <= most);
        let fits = self.protected.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok();
        if !fits {
            self.is_over.store(true, Ordering::Relaxed);
        }
        fits
    }
}

impl Shard {
    /// Returns an empty shard.
    pub(super) fn new(blobs: &Arc<PartitionState>, manifests: &Arc<PartitionState>) -> Self {
        Self {
            blobs: Partition::new(blobs.clone()),
            manifests: Partition::new(manifests.clone()),
            kept: HashSet::new(),
            pending: HashMap::new(),
        }
    }

    /// Returns the content of a kind.
    pub(super) fn partition(&mut self, kind: Kind) -> &mut Partition {
        match kind {
            Kind::Blob => &mut self.blobs,
            Kind::Manifest => &mut self.manifests,
        }
    }
}

/// Content of one kind. A million entries take some 130 bytes each: tables grow by a quarter, and the queue and the table of keys
/// name an entry by its number alone.
pub(super) struct Partition {
    state: Arc<PartitionState>,
    hasher: RandomState,
    entries: Slab<Entry>,
    /// The numbers of the entries, by their keys.
    numbers: HashTable<u32>,
    queue: EvictionQueue<u32>,
}

/// A file's size, and its use in seconds since 1970.
#[derive(Debug, Clone, Copy)]
pub(super) struct FileUse {
    pub(super) bytes: u64,
    /// The last use.
    pub(super) last: u32,
    /// The last use that is noted on disk.
    pub(super) noted: u32,
}

struct Entry {
    key: Key,
    bytes: u64,
    queued: QueueEntry,
    /// The number of its readers.
    pins: u32,
    /// When its use was last noted on disk.
    noted: u32,
    /// The scan that saw its file last.
    seen: u32,
    /// True if it is never evicted.
    protected: bool,
}

impl Entry {
    /// Returns the bytes that cannot be evicted now.
    fn fixed(&self) -> u64 {
        if self.pins > 0 || self.protected { self.bytes } else { 0 }
    }
}

impl Partition {
    fn new(state: Arc<PartitionState>) -> Self {
        let queue = EvictionQueue::new(state.aging.clone());
        Self { state, hasher: RandomState::new(), entries: Slab::new(), numbers: HashTable::new(), queue }
    }

    /// Returns true if there is content with this key.
    pub(super) fn knows(&self, key: &Key) -> bool {
        self.number(key).is_some()
    }

    /// Adds content, unless it is there. Returns whether it is new.
    pub(super) fn put(&mut self, key: &Key, file: FileUse) -> bool {
        if self.knows(key) {
            return false;
        }
        self.grow();
        let Self { hasher, entries, numbers, queue, .. } = self;
        let vacant = entries.vacant_entry();
        // There is no disk for more files than that.
        let Ok(number) = u32::try_from(vacant.key()) else { return false };
        let FileUse { bytes, last, noted } = file;
        let queued = queue.enter(number, last);
        vacant.insert(Entry { key: key.clone(), bytes, queued, pins: 0, noted, seen: 0, protected: false });
        numbers.insert_unique(hasher.hash_one(key), number, |number| {
            entries.get(*number as usize).map_or(0, |entry| hasher.hash_one(&entry.key))
        });
        true
    }

    /// Counts one reader more, and a use at `now` unless the entry is new. Returns the number of the pin, and whether the use has
    /// to be noted on disk, as it was last noted too long ago.
    pub(super) fn pin(&mut self, key: &Key, is_new: bool, now: u32) -> (u32, bool) {
        let Some(number) = self.number(key) else { return (0, false) };
        let Some(entry) = self.entries.get_mut(number) else { return (0, false) };
        let fixed = entry.fixed();
        if !is_new {
            self.queue.used(&mut entry.queued, now);
        }
        entry.pins += 1;
        let is_due = now.saturating_sub(entry.noted) >= NOTE_EVERY;
        if is_due {
            entry.noted = now;
        }
        self.state.fixed.fetch_add(entry.fixed() - fixed, Ordering::Relaxed);
        (entry.queued.number(), is_due)
    }

    /// Takes one reader away. Content that was removed and has come back since has other readers.
    pub(super) fn unpin(&mut self, key: &Key, pin: u32) {
        let Some(number) = self.number(key) else { return };
        if let Some(entry) = self.entries.get_mut(number).filter(|entry| entry.queued.number() == pin) {
            let fixed = entry.fixed();
            entry.pins = entry.pins.saturating_sub(1);
            self.state.fixed.fetch_sub(fixed - entry.fixed(), Ordering::Relaxed);
        }
    }

    /// Takes out content, and returns its bytes.
    pub(super) fn take(&mut self, key: &Key) -> Option<u64> {
        let number = self.number(key)?;
        self.take_number(number).map(|entry| entry.bytes)
    }

    /// Keeps content from being evicted, if there is room for more that is.
    pub(super) fn protect(&mut self, key: &Key) {
        let Some(number) = self.number(key) else { return };
        let Some(entry) = self.entries.get_mut(number).filter(|entry| !entry.protected) else { return };
        if self.state.protect(entry.bytes) {
            let fixed = entry.fixed();
            entry.protected = true;
            self.state.fixed.fetch_add(entry.fixed() - fixed, Ordering::Relaxed);
        }
    }

    /// Notes that a scan has seen content. Returns whether it was known.
    pub(super) fn saw(&mut self, key: &Key, scan: u32) -> bool {
        let entry = self.number(key).and_then(|number| self.entries.get_mut(number));
        entry.map(|entry| entry.seen = scan).is_some()
    }

    /// Returns the content that a scan has not seen.
    pub(super) fn unseen(&self, scan: u32) -> Vec<Key> {
        let unseen = self.entries.iter().filter(|(_, entry)| entry.seen != scan);
        unseen.map(|(_, entry)| entry.key.clone()).collect()
    }

    /// Returns the rank of the content that goes next; none if nothing may go.
    pub(super) fn next(&mut self) -> Option<Rank> {
        self.candidate().map(|(rank, _)| rank)
    }

    /// Takes out the content that goes next, if it still has this rank. Returns its key and its bytes.
    pub(super) fn evict(&mut self, expected: Rank) -> Option<(Key, u64)> {
        let (rank, number) = self.candidate().filter(|(rank, _)| *rank == expected)?;
        self.queue.evicted(rank);
        self.take_number(number as usize).map(|entry| (entry.key, entry.bytes))
    }

    /// Returns the length of the queue, with what is left in it of entries that were taken out.
    #[cfg(test)]
    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    fn candidate(&mut self) -> Option<(Rank, u32)> {
        let entries = &self.entries;
        self.queue.next(|number| match entries.get(*number as usize) {
            // A protected entry need not be queued again.
            Some(entry) if entry.protected => Candidate::Out,
            Some(entry) if entry.pins == 0 => Candidate::Free(entry.queued),
            Some(entry) => Candidate::Pinned(entry.queued),
            None => Candidate::Out,
        })
    }

    fn number(&self, key: &Key) -> Option<usize> {
        let is_it = |number: &u32| self.entries.get(*number as usize).is_some_and(|entry| entry.key == *key);
        self.numbers.find(self.hasher.hash_one(key), is_it).map(|number| *number as usize)
    }

    fn take_number(&mut self, number: usize) -> Option<Entry> {
        let entry = self.entries.try_remove(number)?;
        let is_it = |other: &u32| *other as usize == number;
        if let Ok(found) = self.numbers.find_entry(self.hasher.hash_one(&entry.key), is_it) {
            found.remove();
        }
        self.state.fixed.fetch_sub(entry.fixed(), Ordering::Relaxed);
        if entry.protected {
            self.state.protected.fetch_sub(entry.bytes, Ordering::Relaxed);
        }
        Some(entry)
    }

    /// Makes room for one more entry: a quarter more rather than twice as much, and without what is left in the queue of entries
    /// that were taken out.
    fn grow(&mut self) {
        if self.entries.len() == self.entries.capacity() {
            self.entries.reserve_exact(self.entries.len() / 4 + 8);
        }
        if self.queue.len() >= 2 * self.entries.len() + 64 {
            let entries = &self.entries;
            self.queue.retain(|number, queued| {
                entries.get(*number as usize).is_some_and(|entry| entry.queued.number() == queued)
            });
        }
    }
}

/// The last use is written to disk no more often than this, in seconds: it orders evictions after a restart, by days rather
/// than by minutes.
const NOTE_EVERY: u32 = 60 * 60;
