//! The memory of fills: the bytes of their streams that all of them together may hold.

use std::sync::Arc;

use crate::budget::plan::Plan;
use crate::budget::{Budget, Client, Lease, payer};
use crate::config::limits;

/// The budget of the bytes that fills hold.
pub(crate) struct FillMemory {
    budget: Arc<Budget>,
}

/// The bytes that one fill may hold, until this is dropped. A fill takes it when it begins and keeps it: a ring that got
/// smaller meanwhile would lose bytes that its readers have not had.
pub(crate) struct Share {
    lease: Lease,
    /// True if the ring has room for the whole stream.
    holds_all: bool,
}

impl Default for FillMemory {
    fn default() -> Self {
        Self { budget: Plan::fill_bytes().budget() }
    }
}

impl FillMemory {
    /// Returns the budget.
    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Takes a share for the client that pays, the smaller the less is left; none if nothing that is worth it is left.
    pub(crate) fn take(&self) -> Option<Share> {
        self.take_for(payer::current())
    }

    fn take_for(&self, client: Client) -> Option<Share> {
        let part = self.budget.left(client) / PARTS;
        let lease = self.budget.try_take(client, part.clamp(limits::FILL_LEAST_BYTES, limits::FILL_BYTES))?;
        Some(Share { lease, holds_all: false })
    }
}

impl Share {
    /// Gives back what a stream of `length` bytes does not need.
    pub(crate) fn shrink(&mut self, length: u64) {
        self.holds_all = length <= self.ring();
        self.lease.shrink_to(length.saturating_mul(THIRDS).max(KEPT));
    }

    /// Returns the most bytes of the ring, from which readers read.
    pub(crate) fn ring(&self) -> u64 {
        self.lease.amount() / THIRDS
    }

    /// Returns the most bytes by which the stream may be ahead of its furthest reader. Half of the ring is left for the others,
    /// which are behind; none of them can be if the ring holds all.
    pub(crate) fn ahead(&self) -> u64 {
        if self.holds_all { u64::MAX } else { self.ring() / 2 }
    }

    /// Returns the most bytes that wait to be written and hashed.
    pub(crate) fn trail(&self) -> u64 {
        self.lease.amount() - self.ring()
    }
}

/// A fill gets this part of what is left: those that come later get less, and some eighty have one.
const PARTS: u64 = 24;

/// The least that a stream keeps, in bytes: frames take more than their content.
const KEPT: u64 = 192 * 1024;

/// A third of a share is the ring's.
const THIRDS: u64 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    fn used(memory: &FillMemory) -> u64 {
        memory.budget().usage(None).in_use
    }

    #[test]
    fn shares_shrink_until_there_is_none() {
        let memory = FillMemory::default();
        let shares: Vec<_> = std::iter::from_fn(|| memory.take()).collect();
        let bytes: Vec<_> = shares.iter().map(|share| share.lease.amount()).collect();
        assert!(bytes.is_sorted_by(|a, b| a >= b), "{bytes:?}");
        assert!(bytes.iter().all(|bytes| (limits::FILL_LEAST_BYTES..=limits::FILL_BYTES).contains(bytes)));
        assert!(shares.len() > 80, "{}", shares.len());
        assert!(used(&memory) <= limits::FILLS_BYTES && bytes.iter().sum::<u64>() == used(&memory));
        drop(shares);
        assert_eq!(used(&memory), 0);
    }

    #[test]
    fn one_client_leaves_memory_for_another() {
        let memory = FillMemory::default();
        let (one, other) = (Client::V4([192, 0, 2, 1]), Client::V4([192, 0, 2, 2]));
        let shares: Vec<_> = std::iter::from_fn(|| memory.take_for(one)).collect();
        assert!(shares.len() > 50 && used(&memory) <= limits::FILLS_BYTES / 4 * 3, "{}", shares.len());
        assert!(memory.take_for(other).is_some_and(|share| share.lease.amount() > limits::FILL_LEAST_BYTES));
    }

    #[test]
    fn a_short_stream_gives_back_the_rest() {
        let memory = FillMemory::default();
        let mut share = memory.take().unwrap();
        share.shrink(limits::FILLS_BYTES);
        assert_eq!(share.ahead(), share.ring() / 2);
        share.shrink(100_000);
        assert_eq!((used(&memory), share.ring(), share.trail()), (300_000, 100_000, 200_000));
        assert_eq!(share.ahead(), u64::MAX, "no reader can fall behind");
        share.shrink(10);
        assert_eq!(used(&memory), KEPT);
    }
}
