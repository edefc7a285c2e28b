//! What goes first when room is needed: least frequently used, with dynamic aging.
//!
//! Everything has a weight: how often it was used, on top of the floor at its last use. The floor is the weight of what
//! went last, so that what was popular once sinks below what is used now, and what is read once by a scan goes before
//! what is read often. Among equal weights the one that was not used for the longest goes first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::proto::Digest;

/// How much something is worth keeping: the least goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    weight: u64,
    /// A number that grows with time.
    last: u64,
}

/// How something stands that is next by the order.
pub(crate) enum Candidate {
    /// It is there, and may go.
    Free(QueueEntry),
    /// It is there, and must not go now.
    Pinned(QueueEntry),
    /// It is not there any more, or must never go.
    Out,
}

/// What tells one stay from another, how often it was used, and its rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueueEntry {
    pub(crate) number: u64,
    uses: u64,
    pub(crate) rank: Rank,
}

/// The order in which things go. It holds each thing once, at a rank that it had at some time: ranks only rise, so what
/// comes out first is put back if it has risen since. A use costs nothing here.
#[derive(Default)]
pub(crate) struct EvictionQueue {
    floor: u64,
    tickets: u64,
    queue: BinaryHeap<Reverse<(Rank, u64, Digest)>>,
    aside: Vec<Reverse<(Rank, u64, Digest)>>,
}

impl EvictionQueue {
    /// Something is there, and is used for the first time at `last`.
    pub(crate) fn enter(&mut self, digest: &Digest, last: u64) -> QueueEntry {
        self.tickets += 1;
        let rank = Rank { weight: self.floor + 1, last };
        self.queue.push(Reverse((rank, self.tickets, digest.clone())));
        QueueEntry { number: self.tickets, uses: 1, rank }
    }

    /// It is used again.
    pub(crate) fn used(&self, ticket: &mut QueueEntry, last: u64) {
        ticket.uses = (ticket.uses + 1).min(MOST_USES);
        ticket.rank.weight = ticket.rank.weight.max(self.floor + ticket.uses);
        ticket.rank.last = ticket.rank.last.max(last);
    }

    /// What goes next. It is out of the order then; see [`settle`](Self::settle).
    pub(crate) fn next(&mut self, standing: impl Fn(&Digest) -> Candidate) -> Option<Digest> {
        while let Some(Reverse((rank, number, digest))) = self.queue.pop() {
            let (ticket, free) = match standing(&digest) {
                Candidate::Free(ticket) => (ticket, true),
                Candidate::Pinned(ticket) => (ticket, false),
                Candidate::Out => continue,
            };
            if ticket.number != number {
                continue;
            }
            let place = Reverse((ticket.rank, number, digest.clone()));
            if ticket.rank != rank {
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

    /// Puts back what [`next`](Self::next) took out: all, or without what `gone` says.
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

/// What was used more often than this is no safer: else last month's favourites would outlive this month's. On steady
/// traffic 8 is as good as no bound at all; where what is popular changes, it is better.
const MOST_USES: u64 = 8;

#[cfg(test)]
mod tests;
