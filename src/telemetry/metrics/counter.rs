//! Numbers that many threads change.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub(crate) fn increment(&self) {
        self.add(1);
    }

    /// Adds `more`.
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// Returns the number.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that grows and shrinks. One thread may raise it and another lower its own: only the sum of all means
/// something, and it wraps.
#[derive(Debug, Default)]
pub(crate) struct Level(AtomicU64);

impl Level {
    /// Adds one.
    pub(crate) fn raise(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes one away.
    pub(crate) fn lower(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// Returns the sum of all levels.
    pub(crate) fn sum<'a>(levels: impl Iterator<Item = &'a Self>) -> u64 {
        levels.fold(0, |sum, level| sum.wrapping_add(level.0.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_lowered_elsewhere_add_up() {
        let levels = [Level::default(), Level::default()];
        levels[0].raise();
        levels[0].raise();
        levels[1].lower();
        assert_eq!(Level::sum(levels.iter()), 1);
    }
}
