//! How many requests are under way together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Requests under way.
#[derive(Debug, Default)]
pub(crate) struct Load(AtomicUsize);

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    load: Arc<Load>,
    number: usize,
}

impl Load {
    /// How many there are now.
    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// One more.
    pub(crate) fn enter(self: Arc<Self>) -> Share {
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        Share { load: self, number }
    }
}

impl Share {
    /// How many there were when it began.
    pub(crate) fn number(&self) -> usize {
        self.number
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.load.0.fetch_sub(1, Ordering::Relaxed);
    }
}
