//! The limit of the registry's memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The bytes that a registry may hold in all: blobs, manifests and unfinished uploads.
#[derive(Debug)]
pub(super) struct Space {
    limit: u64,
    used: AtomicU64,
}

/// A part of the [`Space`], given back when it is dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    space: Arc<Space>,
    bytes: u64,
}

/// There is no room for what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the registry's memory limit is reached")]
pub(super) struct Full;

impl Space {
    pub(super) fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicU64::new(0) })
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    pub(super) fn reserve(self: &Arc<Self>, bytes: usize) -> Result<Reservation, Full> {
        let mut reservation = Reservation { space: Arc::clone(self), bytes: 0 };
        reservation.grow(bytes)?;
        Ok(reservation)
    }
}

impl Reservation {
    /// Takes `by` more bytes, or none when they do not all fit.
    pub(super) fn grow(&mut self, by: usize) -> Result<(), Full> {
        let by = by as u64;
        let fits = |used: u64| used.checked_add(by).filter(|sum| *sum <= self.space.limit);
        self.space.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).map_err(|_| Full)?;
        self.bytes += by;
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.space.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_reservation_gives_its_bytes_back() {
        let space = Space::new(10);
        let first = space.reserve(7).unwrap();
        assert_eq!(space.reserve(4).unwrap_err(), Full);
        drop(first);
        assert!(space.reserve(10).is_ok());
    }

    #[test]
    fn a_refused_growth_takes_nothing() {
        let space = Space::new(10);
        let mut reservation = space.reserve(6).unwrap();
        assert!(reservation.grow(5).is_err());
        assert!(reservation.grow(4).is_ok());
    }
}
