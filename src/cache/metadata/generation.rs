//! How often repositories have been written to: what was asked before counts for nothing.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

/// A counter for each repository. Some share one, so that names that clients make up take no room: what is written to one of
/// them is asked again of the others.
pub(crate) struct Generations {
    hasher: RandomState,
    counters: Box<[AtomicU64]>,
}

/// How often a repository, or one that shares its counter, has been written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Generation(u64);

impl Default for Generations {
    fn default() -> Self {
        let counters = (0..COUNTERS).map(|_| AtomicU64::new(0)).collect();
        Self { hasher: RandomState::new(), counters }
    }
}

impl Generations {
    /// Where `repository`, named as it is told apart from all others, is now.
    pub(crate) fn of(&self, repository: impl Hash) -> Generation {
        Generation(self.counter(repository).load(Ordering::SeqCst))
    }

    /// It has been written to: where it was before, and where it is now.
    pub(crate) fn advance(&self, repository: impl Hash) -> (Generation, Generation) {
        let before = self.counter(repository).fetch_add(1, Ordering::SeqCst);
        (Generation(before), Generation(before.wrapping_add(1)))
    }

    fn counter(&self, repository: impl Hash) -> &AtomicU64 {
        let index = self.hasher.hash_one(repository) % self.counters.len() as u64;
        &self.counters[usize::try_from(index).unwrap_or_default()]
    }
}

/// 32 KiB: two of the repositories that are written to within one question hardly ever share a counter.
const COUNTERS: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_seen_in_its_repository() {
        let generations = Generations::default();
        let before = generations.of(("a", "b"));
        assert_eq!(generations.of(("a", "b")), before);
        let (was, now) = generations.advance(("a", "b"));
        assert_eq!((was, generations.of(("a", "b"))), (before, now));
        assert_ne!(before, now);
    }

    #[test]
    fn names_that_clients_make_up_take_no_room() {
        let generations = Generations::default();
        for number in 0..10 * COUNTERS {
            generations.advance(number);
        }
        assert_eq!(generations.counters.len(), COUNTERS);
    }
}
