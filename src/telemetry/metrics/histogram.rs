//! Histograms of durations.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The upper bounds of the buckets, in microseconds: from a manifest out of memory to a layer over a slow line.
const BOUNDS: [u64; 16] = [
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    10_000_000,
    30_000_000,
    120_000_000,
    600_000_000,
];

/// The buckets, with that of all that is longer.
const BUCKETS: usize = BOUNDS.len() + 1;

/// A histogram that many threads add to. A duration costs two additions.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    micros: AtomicU64,
}

impl Histogram {
    /// Adds a duration.
    pub(crate) fn observe(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.partition_point(|bound| *bound < micros);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }
}

/// A reading of one or several histograms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Distribution {
    counts: [u64; BUCKETS],
    micros: u64,
}

impl Distribution {
    /// Returns a reading of `histogram`.
    pub(crate) fn of(histogram: &Histogram) -> Self {
        let mut reading = Self::default();
        reading.add(histogram);
        reading
    }

    /// Adds what `histogram` has counted.
    pub(crate) fn add(&mut self, histogram: &Histogram) {
        for (count, bucket) in self.counts.iter_mut().zip(&histogram.buckets) {
            *count += bucket.load(Ordering::Relaxed);
        }
        self.micros = self.micros.wrapping_add(histogram.micros.load(Ordering::Relaxed));
    }

    /// Returns the number of durations.
    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Returns the sum of all durations, in seconds.
    pub(crate) fn sum_seconds(&self) -> f64 {
        self.micros as f64 / 1e6
    }

    /// Returns each bucket's upper bound in seconds, and the number of durations that are in it and in no smaller one.
    pub(crate) fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = BOUNDS.iter().map(|bound| *bound as f64 / 1e6).chain([f64::INFINITY]);
        bounds.zip(self.counts).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_own_bucket() {
        let histogram = Histogram::default();
        for micros in [0, 500, 501, 1_000, 600_000_000, 600_000_001] {
            histogram.observe(Duration::from_micros(micros));
        }
        let read = Distribution::of(&histogram);
        let buckets = read.buckets();
        assert_eq!(&buckets[..3], &[(0.0005, 2), (0.001, 2), (0.0025, 0)]);
        assert_eq!(&buckets[15..], &[(600.0, 1), (f64::INFINITY, 1)]);
        assert_eq!(read.count(), 6);
    }

    #[test]
    fn readings_add_up() {
        let histogram = Histogram::default();
        histogram.observe(Duration::from_millis(1500));
        let mut read = Distribution::of(&histogram);
        read.add(&histogram);
        assert_eq!((read.count(), read.sum_seconds()), (2, 3.0));
    }
}
