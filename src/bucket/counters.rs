//! Counters of the requests to the store, and of the bytes read and written there.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::cache::StoreCounts;

/// The counters of the store, since the process began.
#[derive(Debug, Default)]
pub(crate) struct BucketCounters {
    hits: AtomicU64,
    misses: AtomicU64,
    failures: AtomicU64,
    read_bytes: AtomicU64,
    hedges_won: AtomicU64,
    hedges_lost: AtomicU64,
    stored: AtomicU64,
    stored_bytes: AtomicU64,
    store_failures: AtomicU64,
    dropped: AtomicU64,
    wrong: AtomicU64,
}

impl BucketCounters {
    pub(super) fn hit(&self) {
        self.hits.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn missed(&self) {
        self.misses.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self, bytes: u64) {
        self.read_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn hedged(&self, upstream_was_first: bool) {
        let counter = if upstream_was_first { &self.hedges_won } else { &self.hedges_lost };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn stored(&self, bytes: u64) {
        self.stored.fetch_add(1, Ordering::Relaxed);
        self.stored_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn store_failed(&self) {
        self.store_failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn wrong(&self) {
        self.wrong.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the values.
    pub(crate) fn counts(&self) -> StoreCounts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StoreCounts {
            hits: of(&self.hits),
            misses: of(&self.misses),
            failures: of(&self.failures),
            read_bytes: of(&self.read_bytes),
            hedges_won: of(&self.hedges_won),
            hedges_lost: of(&self.hedges_lost),
            stored: of(&self.stored),
            stored_bytes: of(&self.stored_bytes),
            store_failures: of(&self.store_failures),
            dropped: of(&self.dropped),
            wrong: of(&self.wrong),
        }
    }
}
