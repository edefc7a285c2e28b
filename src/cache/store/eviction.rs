//! The order of eviction: least frequently used with dynamic aging (LFU-DA).
//!
//! An entry's weight is the number of its uses, on top of the floor at its last use. The floor is the weight of the entry that
//! was evicted last, so that what was popular once sinks below what is used now, and what is read once by a scan goes before
//! what is read often. Among equal weights the least recently used goes first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::proto::Digest;

/// The worth of an entry: the least goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    weight: u64,
    /// A number that grows with time.
    last: u64,
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
    pub(crate) number: u64,
    uses: u64,
    pub(crate) rank: Rank,
}

/// The queue of eviction. It holds each entry once, at a rank that it had at some time: ranks only rise, so an entry that comes
/// out first is put back if it has risen since. A use costs nothing here.
#[derive(Default)]
pub(crate) struct EvictionQueue {
    floor: u64,
    entries: u64,
    queue: BinaryHeap<Reverse<(Rank, u64, Digest)>>,
    aside: Vec<Reverse<(Rank, u64, Digest)>>,
}

impl EvictionQueue {
    /// Adds content that is used for the first time at `last`.
    pub(crate) fn enter(&mut self, digest: &Digest, last: u64) -> QueueEntry {
        self.entries += 1;
        let rank = Rank { weight: self.floor + 1, last };
        self.queue.push(Reverse((rank, self.entries, digest.clone())));
        QueueEntry { number: self.entries, uses: 1, rank }
    }

    /// Raises the rank of an entry that is used again.
    pub(crate) fn used(&self, entry: &mut QueueEntry, last: u64) {
        entry.uses = (entry.uses + 1).min(MOST_USES);
        entry.rank.weight = entry.rank.weight.max(self.floor + entry.uses);
        entry.rank.last = entry.rank.last.max(last);
    }

    /// Takes out and returns the next entry that may go; see [`settle`](Self::settle).
    pub(crate) fn next(&mut self, candidate: impl Fn(&Digest) -> Candidate) -> Option<Digest> {
        while let Some(Reverse((rank, number, digest))) = self.queue.pop() {
            let (entry, free) = match candidate(&digest) {
                Candidate::Free(entry) => (entry, true),
                Candidate::Pinned(entry) => (entry, false),
                Candidate::Out => continue,
            };
            if entry.number != number {
                continue;
            }
            let place = Reverse((entry.rank, number, digest.clone()));
            if entry.rank != rank {
                self.queue.push(place);
                continue;
            }
            self.aside.push(place);
            if free {
                return Some(digest);
            }
        }
        None
    }

    /// Puts back what [`next`](Self::next) took out, but for what is `gone`.
    pub(crate) fn settle(&mut self, gone: impl Fn(&Digest) -> bool) {
        for place in std::mem::take(&mut self.aside) {
            let Reverse((rank, _, digest)) = &place;
            if gone(digest) {
                self.floor = self.floor.max(rank.weight);
            } else {
                self.queue.push(place);
            }
        }
    }
}

/// Uses beyond this number do not count: else last month's favourites would outlive this month's. On steady traffic 8 is as good
/// as no bound at all; where popularity changes, it is better (see the tests).
const MOST_USES: u64 = 8;

#[cfg(test)]
mod tests;
