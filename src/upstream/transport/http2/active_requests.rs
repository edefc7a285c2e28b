//! Counts requests under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The number of requests under way.
#[derive(Debug, Default)]
pub(crate) struct ActiveRequests(AtomicUsize);

/// A request under way, counted until it is dropped.
#[derive(Debug)]
pub(crate) struct ActiveRequest {
    load: Arc<ActiveRequests>,
    number: usize,
}

impl ActiveRequests {
    /// Returns how many there are now.
    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts one more.
    pub(crate) fn enter(self: Arc<Self>) -> ActiveRequest {
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        ActiveRequest { load: self, number }
    }
}

impl ActiveRequest {
    /// Returns how many there were when it began.
    pub(crate) fn number(&self) -> usize {
        self.number
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.load.0.fetch_sub(1, Ordering::Relaxed);
    }
}
