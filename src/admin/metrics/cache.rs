//! Metrics of the cache.

use std::fmt;

use crate::admin::metrics::exposition::{Exposition, labelled};
use crate::cache::{Amount, BypassReason, Cache, CacheStatus, Cause, Damage};

/// The cache at one moment.
#[derive(Debug, Default)]
pub(super) struct CacheSnapshot {
    requests: Vec<(&'static str, u64)>,
    bypasses: Vec<(&'static str, u64)>,
    bytes_saved: u64,
    fills: u64,
    fill_failures: Vec<(&'static str, u64)>,
    damages: Vec<(&'static str, u64)>,
    evicted: (u64, u64),
    bytes: Vec<(&'static str, Amount)>,
    max_bytes: u64,
    memory: u64,
    degraded: bool,
}

impl CacheSnapshot {
    pub(super) fn of(cache: &Cache) -> Self {
        let (counters, usage) = (cache.counters(), cache.store().usage());
        Self {
            requests: CacheStatus::ALL.map(|outcome| (outcome.word(), counters.outcome(outcome))).into(),
            bypasses: BypassReason::ALL.map(|reason| (reason.as_str(), counters.bypasses(reason))).into(),
            bytes_saved: counters.bytes_saved(),
            fills: counters.fills(),
            fill_failures: Cause::ALL.map(|cause| (cause.as_str(), counters.fill_failures(cause))).into(),
            damages: Damage::ALL.map(|damage| (damage.as_str(), counters.damages(damage))).into(),
            evicted: counters.evictions(),
            bytes: vec![
                ("blob", usage.blobs),
                ("manifest", usage.manifests),
                ("partial", usage.partials),
                ("quarantined", usage.quarantined),
                ("record", cache.record_usage()),
            ],
            max_bytes: cache.max_size(),
            memory: cache.downloads_memory().usage(None).in_use,
            degraded: cache.store().degraded_reason().is_some(),
        }
    }
}

impl CacheSnapshot {
    pub(super) fn encode(&self, out: &mut Exposition<'_>) -> fmt::Result {
        out.counter(
            "dockgate_cache_requests",
            "Requests that the cache answered, by outcome",
            &labelled("outcome", &self.requests),
        )?;
        out.total(
            "dockgate_cache_bytes_saved",
            "Bytes sent to clients that no upstream had to send",
            self.bytes_saved,
        )?;
        out.counter(
            "dockgate_cache_bypasses",
            "Requests that were left to the upstream and not cached, by reason",
            &labelled("reason", &self.bypasses),
        )?;
        out.total("dockgate_cache_fills", "Blobs that were downloaded and verified", self.fills)?;
        out.counter(
            "dockgate_cache_fill_failures",
            "Downloads that failed, by cause",
            &labelled("cause", &self.fill_failures),
        )?;
        out.counter(
            "dockgate_cache_damaged",
            "Files that the disk had damaged and that were taken out of use, by cause",
            &labelled("cause", &self.damages),
        )?;
        out.total("dockgate_cache_evicted_blobs", "Blobs that were evicted", self.evicted.0)?;
        out.total("dockgate_cache_evicted_bytes", "Bytes of blobs that were evicted", self.evicted.1)?;
        let bytes: Vec<_> = self.bytes.iter().map(|(kind, amount)| (*kind, amount.bytes)).collect();
        out.gauge("dockgate_cache_bytes", "Bytes on disk", &labelled("kind", &bytes))?;
        let objects: Vec<_> = self.bytes.iter().map(|(kind, amount)| (*kind, amount.count)).collect();
        out.gauge("dockgate_cache_objects", "Files on disk", &labelled("kind", &objects))?;
        out.one("dockgate_cache_max_bytes", "The configured limit of the bytes on disk", self.max_bytes)?;
        out.one(
            "dockgate_cache_downloads_memory_bytes",
            "Memory that the downloads under way may take, of 256 MiB",
            self.memory,
        )?;
        out.one("dockgate_cache_degraded", "1 while the cache can store nothing", u64::from(self.degraded))
    }
}

#[cfg(test)]
pub(super) fn sample() -> CacheSnapshot {
    CacheSnapshot {
        requests: vec![("hit", 3), ("miss", 1)],
        bytes_saved: 1 << 40,
        bypasses: vec![("unknown_length", 4)],
        fill_failures: vec![("digest", 2)],
        damages: vec![("unreadable", 5)],
        bytes: vec![("blob", Amount { count: 1, bytes: 7 })],
        max_bytes: 100,
        degraded: true,
        ..CacheSnapshot::default()
    }
}
