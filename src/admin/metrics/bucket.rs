//! Metrics of the object store behind the cache.

use std::fmt;

use crate::admin::metrics::exposition::Exposition;
use crate::cache::{StoreCounts, StoreStats};

/// The store at one moment.
#[derive(Debug)]
pub(super) struct BucketSnapshot(StoreStats);

impl BucketSnapshot {
    pub(super) fn of(stats: StoreStats) -> Self {
        Self(stats)
    }

    pub(super) fn encode(&self, out: &mut Exposition<'_>) -> fmt::Result {
        let StoreCounts { hits, misses, failures, read_bytes, hedges_won, hedges_lost, .. } = self.0.counts;
        let StoreCounts { stored, stored_bytes, store_failures, dropped, wrong, .. } = self.0.counts;
        let by = |label, counts: &[(&'static str, u64)]| -> Vec<_> {
            counts.iter().map(|(word, count)| ([(label, *word)], *count)).collect()
        };
        let reads = by("result", &[("hit", hits), ("miss", misses), ("failure", failures)]);
        out.counter("dockgate_store_reads", "Content that was asked of the store", &reads)?;
        out.total("dockgate_store_read_bytes", "Bytes of content that came from the store", read_bytes)?;
        let hedges = by("first", &[("upstream", hedges_won), ("store", hedges_lost)]);
        let help = "Blobs for which the upstream was asked beside the store, by which of them was first";
        out.counter("dockgate_store_hedges", help, &hedges)?;
        let writes = by("result", &[("stored", stored), ("failure", store_failures), ("dropped", dropped)]);
        out.counter("dockgate_store_writes", "Changes that were to be written to the store", &writes)?;
        out.total("dockgate_store_written_bytes", "Bytes of content that were stored", stored_bytes)?;
        out.total("dockgate_store_wrong", "Objects that are not what their name or signature says", wrong)?;
        out.one("dockgate_store_queue", "Changes that wait to be written to the store", self.0.waiting)?;
        let resting = u64::from(self.0.failure.is_some());
        out.one("dockgate_store_resting", "1 while the store does not answer", resting)
    }
}

#[cfg(test)]
pub(super) fn sample() -> BucketSnapshot {
    let counts = StoreCounts {
        hits: 1,
        misses: 2,
        failures: 3,
        read_bytes: 10,
        hedges_won: 11,
        hedges_lost: 12,
        stored: 4,
        stored_bytes: 5,
        store_failures: 6,
        dropped: 7,
        wrong: 8,
    };
    let failure = Some("503 SlowDown".to_owned());
    BucketSnapshot(StoreStats { name: "s3://a".to_owned(), failure, waiting: 9, swept: None, counts })
}
