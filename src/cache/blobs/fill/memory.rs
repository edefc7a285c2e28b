//! The memory of fills: the bytes of their streams that all of them together may hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::config::limits;

/// The bytes that no fill has a share of.
pub(crate) struct FillMemory {
    free: AtomicU64,
}

/// The bytes that one fill may hold, until this is dropped. A fill takes it when it begins and keeps it: a ring that got
/// smaller meanwhile would lose bytes that its readers have not had.
pub(crate) struct Share {
    memory: Arc<FillMemory>,
    bytes: u64,
    /// True if the ring has room for the whole stream.
    holds_all: bool,
}

impl Default for FillMemory {
    fn default() -> Self {
        Self { free: AtomicU64::new(limits::FILLS_BYTES) }
    }
}

impl FillMemory {
    /// Returns the bytes of all shares.
    pub(crate) fn used(&self) -> u64 {
        limits::FILLS_BYTES.saturating_sub(self.free.load(Ordering::Relaxed))
    }

    /// Takes a share, the smaller the less is left; none if nothing that is worth it is left.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Share> {
        let share = |free: u64| (free / PARTS).clamp(limits::FILL_LEAST_BYTES, limits::FILL_BYTES);
        let taken =
            self.free.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |free| free.checked_sub(share(free)));
        let before = taken.ok()?;
        Some(Share { memory: self.clone(), bytes: share(before), holds_all: false })
    }
}

impl Share {
    /// Gives back what a stream of `length` bytes does not need.
    pub(crate) fn shrink(&mut self, length: u64) {
        self.holds_all = length <= self.ring();
        let more = self.bytes.saturating_sub(length.saturating_mul(THIRDS).max(KEPT));
        self.bytes -= more;
        self.memory.free.fetch_add(more, Ordering::AcqRel);
    }

    /// Returns the most bytes of the ring, from which readers read.
    pub(crate) fn ring(&self) -> u64 {
        self.bytes / THIRDS
    }

    /// Returns the most bytes by which the stream may be ahead of its furthest reader. Half of the ring is left for the others,
    /// which are behind; none of them can be if the ring holds all.
    pub(crate) fn ahead(&self) -> u64 {
        if self.holds_all { u64::MAX } else { self.ring() / 2 }
    }

    /// Returns the most bytes that wait to be written and hashed.
    pub(crate) fn trail(&self) -> u64 {
        self.bytes - self.ring()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.memory.free.fetch_add(self.bytes, Ordering::AcqRel);
    }
}

/// A fill gets this part of what is left: those that come later get less, and some hundred have one.
const PARTS: u64 = 32;

/// The least that a stream keeps, in bytes: frames take more than their content.
const KEPT: u64 = 192 * 1024;

/// A third of a share is the ring's.
const THIRDS: u64 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_shrink_until_there_is_none() {
        let memory = Arc::<FillMemory>::default();
        let shares: Vec<_> = std::iter::from_fn(|| memory.take()).collect();
        let bytes: Vec<_> = shares.iter().map(|share| share.bytes).collect();
        assert!(bytes.is_sorted_by(|a, b| a >= b), "{bytes:?}");
        assert!(bytes.iter().all(|bytes| (limits::FILL_LEAST_BYTES..=limits::FILL_BYTES).contains(bytes)));
        assert!(shares.len() > 100, "{}", shares.len());
        assert!(memory.used() <= limits::FILLS_BYTES && bytes.iter().sum::<u64>() == memory.used());
        drop(shares);
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn a_short_stream_gives_back_the_rest() {
        let memory = Arc::<FillMemory>::default();
        let mut share = memory.take().unwrap();
        share.shrink(limits::FILLS_BYTES);
        assert_eq!(share.ahead(), share.ring() / 2);
        share.shrink(100_000);
        assert_eq!((memory.used(), share.ring(), share.trail()), (300_000, 100_000, 200_000));
        assert_eq!(share.ahead(), u64::MAX, "no reader can fall behind");
        share.shrink(10);
        assert_eq!(memory.used(), KEPT);
    }
}
