//! Counters of the cache.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::cache::error::BypassReason;
use crate::cache::outcome::CacheStatus;

/// Counters since the start.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    outcomes: [AtomicU64; CacheStatus::ALL.len()],
    bypasses: [AtomicU64; BypassReason::ALL.len()],
    /// Bytes given to clients that the upstream did not have to send.
    saved: AtomicU64,
    fills: AtomicU64,
    fill_failures: [AtomicU64; 6],
    damaged: [AtomicU64; Damage::ALL.len()],
    evicted: AtomicU64,
    evicted_bytes: AtomicU64,
}

/// A reading of the counters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counted {
    /// Requests by their outcome, [`CacheStatus::word`].
    pub requests: BTreeMap<String, u64>,
    /// Bytes given to clients that no upstream had to send.
    pub bytes_saved: u64,
    /// Blobs that were downloaded and verified.
    pub fills: u64,
    /// Fills that failed, by their cause, [`Cause::as_str`].
    pub fill_failures: BTreeMap<String, u64>,
    /// Content that was evicted.
    pub evicted_blobs: u64,
    /// Its bytes.
    pub evicted_bytes: u64,
}

impl Counted {
    /// Returns the percentage of requests that needed nothing new from an upstream; none before the first request. A request
    /// that joined a download counts neither as a hit nor as a miss.
    pub(crate) fn hit_percent(&self) -> Option<f64> {
        let of = |outcome: CacheStatus| self.requests.get(outcome.word()).copied().unwrap_or_default();
        let here = of(CacheStatus::Hit) + of(CacheStatus::Stale) + of(CacheStatus::Revalidated);
        let all: u64 = self.requests.values().sum();
        (all > 0).then(|| here as f64 * 100.0 / all as f64)
    }
}

/// The cause of a failed fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The bytes do not have their digest.
    Digest,
    /// There are fewer or more than there should be.
    Length,
    /// The bytes came in a content coding that was not asked for.
    Coding,
    /// The upstream broke off and did not go on.
    Upstream,
    /// The upstream refused to go on.
    Refused,
    /// The disk did not take them.
    Disk,
}

impl Cause {
    /// All causes.
    pub(crate) const ALL: [Self; 6] =
        [Self::Digest, Self::Length, Self::Coding, Self::Upstream, Self::Refused, Self::Disk];

    /// Returns the word in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Digest => "digest",
            Self::Length => "length",
            Self::Coding => "coding",
            Self::Upstream => "upstream",
            Self::Refused => "refused",
            Self::Disk => "disk",
        }
    }
}

/// The way in which content on the disk was found to be damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Damage {
    /// The file does not have its digest any more.
    Digest,
    /// The file cannot be read.
    Unreadable,
    /// The file could not be written to the disk in the end.
    Unsynced,
}

impl Damage {
    /// All ways.
    pub(crate) const ALL: [Self; 3] = [Self::Digest, Self::Unreadable, Self::Unsynced];

    /// Returns the word in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Digest => "digest",
            Self::Unreadable => "unreadable",
            Self::Unsynced => "unsynced",
        }
    }
}

impl Counters {
    /// Counts a request that was answered.
    pub(crate) fn answered(&self, outcome: CacheStatus) {
        self.outcomes[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the requests that were answered so.
    pub(crate) fn outcome(&self, outcome: CacheStatus) -> u64 {
        self.outcomes[outcome as usize].load(Ordering::Relaxed)
    }

    /// Counts a request that was left to the upstream.
    pub(crate) fn bypassed(&self, reason: BypassReason) {
        self.bypasses[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the requests that were left to the upstream for this reason.
    pub(crate) fn bypasses(&self, reason: BypassReason) -> u64 {
        self.bypasses[reason as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn saved(&self, bytes: u64) {
        self.saved.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Returns the bytes given to clients that no upstream had to send.
    pub(crate) fn bytes_saved(&self) -> u64 {
        self.saved.load(Ordering::Relaxed)
    }

    pub(crate) fn filled(&self) {
        self.fills.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the blobs that were downloaded and verified.
    pub(crate) fn fills(&self) -> u64 {
        self.fills.load(Ordering::Relaxed)
    }

    pub(crate) fn fill_failed(&self, cause: Cause) {
        self.fill_failures[cause as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the fills that failed so.
    pub(crate) fn fill_failures(&self, cause: Cause) -> u64 {
        self.fill_failures[cause as usize].load(Ordering::Relaxed)
    }

    /// Counts content that was taken out of use, as it is damaged.
    pub(crate) fn damaged(&self, damage: Damage) {
        self.damaged[damage as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the content that was damaged so.
    pub(crate) fn damages(&self, damage: Damage) -> u64 {
        self.damaged[damage as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn evicted(&self, bytes: u64) {
        self.evicted.fetch_add(1, Ordering::Relaxed);
        self.evicted_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Returns the content that was evicted: its number and its bytes.
    pub(crate) fn evictions(&self) -> (u64, u64) {
        (self.evicted.load(Ordering::Relaxed), self.evicted_bytes.load(Ordering::Relaxed))
    }

    /// Returns all of them. Each is read by itself: they may be a request apart.
    pub(crate) fn counted(&self) -> Counted {
        let (evicted_blobs, evicted_bytes) = self.evictions();
        let outcome = |outcome: &CacheStatus| (outcome.word().to_owned(), self.outcome(*outcome));
        let cause = |cause: &Cause| (cause.as_str().to_owned(), self.fill_failures(*cause));
        Counted {
            requests: CacheStatus::ALL.iter().map(outcome).collect(),
            bytes_saved: self.bytes_saved(),
            fills: self.fills(),
            fill_failures: Cause::ALL.iter().map(cause).collect(),
            evicted_blobs,
            evicted_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_back() {
        let counters = Counters::default();
        for outcome in [CacheStatus::Hit, CacheStatus::Hit, CacheStatus::Stale, CacheStatus::Miss] {
            counters.answered(outcome);
        }
        counters.saved(10);
        counters.filled();
        counters.fill_failed(Cause::Digest);
        counters.bypassed(BypassReason::Unsettled);
        assert_eq!(counters.bypasses(BypassReason::Unsettled), 1);
        counters.evicted(7);
        counters.evicted(3);
        let counted = counters.counted();
        assert_eq!((counted.requests["hit"], counted.requests["fill"]), (2, 0));
        assert_eq!((counted.fill_failures["digest"], counted.fill_failures.len()), (1, Cause::ALL.len()));
        assert_eq!((counted.bytes_saved, counted.fills), (10, 1));
        assert_eq!((counted.evicted_blobs, counted.evicted_bytes), (2, 10));
        assert_eq!(counted.hit_percent(), Some(75.0));
        assert_eq!(Counters::default().counted().hit_percent(), None);
    }
}
