//! The order of eviction: least frequently used with dynamic aging (LFU-DA).
//!
//! An entry's weight is the number of its uses, on top of the floor at its last use. The floor is the weight of the entry that
//! was evicted last, so that what was popular once sinks below what is used now, and what is read once by a scan goes before
//! what is read often. Among equal weights the least recently used goes first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The worth of an entry: the least goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    weight: u32,
    /// A number that grows with time.
    last: u32,
    /// The number of the entry: of two that were used in the same second, the older one goes.
    number: u32,
}

/// The state of an entry that is next in the queue.
pub(crate) enum Candidate {
    /// The content may go.
    Free(QueueEntry),
    /// The content is being read.
    Pinned(QueueEntry),
    /// The content is not there any more, or must never be evicted.
    Out,
}

/// The entry of content in the queue. Content that comes back gets another number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueueEntry {
    uses: u32,
    rank: Rank,
}

impl QueueEntry {
    /// Returns the number of the entry.
    pub(crate) fn number(&self) -> u32 {
        self.rank.number
    }
}

/// The age that queues share, so that they rank their entries alike.
#[derive(Debug, Clone, Default)]
pub(crate) struct Aging {
    /// The weight of the entry that was evicted last.
    floor: Arc<AtomicU32>,
    /// The number of the last entry.
    entries: Arc<AtomicU32>,
}

impl Aging {
    fn floor(&self) -> u32 {
        self.floor.load(Ordering::Relaxed)
    }
}

/// The queue of eviction. It holds each entry once, at a rank that it had at some time: ranks only rise, so an entry that comes
/// out first is put back if it has risen since. A use costs nothing here.
pub(crate) struct EvictionQueue<K> {
    aging: Aging,
    queue: BinaryHeap<Reverse<(Rank, K)>>,
}

impl<K: Ord + Clone> EvictionQueue<K> {
    /// Returns an empty queue.
    pub(crate) fn new(aging: Aging) -> Self {
        Self { aging, queue: BinaryHeap::new() }
    }

    /// Returns the number of entries, with those that are not there any more.
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Adds content that is used for the first time at `last`.
    pub(crate) fn enter(&mut self, key: K, last: u32) -> QueueEntry {
        // After four thousand million entries they begin anew. An entry of the same name has another number all the same.
        let number = self.aging.entries.fetch_add(1, Ordering::Relaxed);
        let rank = Rank { weight: self.aging.floor().saturating_add(1), last, number };
        if self.queue.len() == self.queue.capacity() {
            self.queue.reserve_exact(self.queue.len() / 4 + 8);
        }
        self.queue.push(Reverse((rank, key)));
        QueueEntry { uses: 1, rank }
    }

    /// Raises the rank of an entry that is used again.
    pub(crate) fn used(&self, entry: &mut QueueEntry, last: u32) {
        entry.uses = (entry.uses + 1).min(MOST_USES);
        entry.rank.weight = entry.rank.weight.max(self.aging.floor().saturating_add(entry.uses));
        entry.rank.last = entry.rank.last.max(last);
    }

    /// Returns the next entry that may go, and its rank. It stays in the queue until its content is out.
    pub(crate) fn next(&mut self, candidate: impl Fn(&K) -> Candidate) -> Option<(Rank, K)> {
        let mut pinned = Vec::new();
        let mut next = None;
        while let Some(Reverse((rank, key))) = self.queue.pop() {
            let (entry, is_free) = match candidate(&key) {
                Candidate::Free(entry) => (entry, true),
                Candidate::Pinned(entry) => (entry, false),
                Candidate::Out => continue,
            };
            if entry.number() != rank.number {
                continue;
            }
            let place = Reverse((entry.rank, key.clone()));
            if entry.rank == rank && !is_free {
                pinned.push(place);
                continue;
            }
            self.queue.push(place);
            if entry.rank == rank {
                next = Some((rank, key));
                break;
            }
        }
        self.queue.extend(pinned);
        next
    }

    /// Notes that an entry of this rank was evicted.
    pub(crate) fn evicted(&self, rank: Rank) {
        self.aging.floor.fetch_max(rank.weight, Ordering::Relaxed);
    }

    /// Drops all entries, by key and number, but those that are `there`.
    pub(crate) fn retain(&mut self, there: impl Fn(&K, u32) -> bool) {
        self.queue.retain(|Reverse((rank, key))| there(key, rank.number));
    }
}

/// Uses beyond this number do not count: else last month's favourites would outlive this month's. On steady traffic 8 is as good
/// as no bound at all; where popularity changes, it is better (see the tests).
const MOST_USES: u32 = 8;

#[cfg(test)]
mod tests;
