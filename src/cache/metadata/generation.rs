//! Generations of repositories: an answer to what was asked before a write counts for nothing.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of writes. Some repositories share one, so that names that clients make up take no room: a write to one of them
/// has the others asked again.
pub(crate) struct Generations {
    hasher: RandomState,
    counters: Box<[AtomicU64]>,
}

/// The number of writes to a repository, or to one that shares its counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Generation(u64);

impl Default for Generations {
    fn default() -> Self {
        let counters = (0..COUNTERS).map(|_| AtomicU64::new(0)).collect();
        Self { hasher: RandomState::new(), counters }
    }
}

impl Generations {
    /// Returns the generation of `repository`, which is named as it is told apart from all others.
    pub(crate) fn of(&self, repository: impl Hash) -> Generation {
        Generation(self.counter(repository).load(Ordering::SeqCst))
    }

    /// Notes a write to it. Returns its generations before and after.
    pub(crate) fn advance(&self, repository: impl Hash) -> (Generation, Generation) {
        let before = self.counter(repository).fetch_add(1, Ordering::SeqCst);
        (Generation(before), Generation(before.wrapping_add(1)))
    }

    fn counter(&self, repository: impl Hash) -> &AtomicU64 {
        let index = self.hasher.hash_one(repository) % self.counters.len() as u64;
        &self.counters[usize::try_from(index).unwrap_or_default()]
    }
}

/// 32 KiB: two repositories that are written to within one exchange hardly ever share a counter.
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
    fn made_up_names_take_no_room() {
        let generations = Generations::default();
        for number in 0..10 * COUNTERS {
            generations.advance(number);
        }
        assert_eq!(generations.counters.len(), COUNTERS);
    }
}
