//! The progress of a pull, over all its images.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::cache::maintenance::{Event, Progress};

/// The bytes to download, and those that have come. Layers that the cache held before count for neither.
pub(super) struct Tally {
    started: Instant,
    total: u64,
    done: u64,
    layers: HashMap<String, u64>,
}

impl Tally {
    pub(super) fn new(now: Instant) -> Self {
        Self { started: now, total: 0, done: 0, layers: HashMap::new() }
    }

    pub(super) fn add(&mut self, event: &Event) {
        match event {
            Event::Image { bytes, .. } => self.total += bytes,
            Event::Layer { digest, size, done, progress } => self.layer(digest, *size, *done, *progress),
            Event::Failed { .. } | Event::Done { .. } => {}
        }
    }

    fn layer(&mut self, digest: &str, size: u64, done: u64, progress: Progress) {
        let before = self.layers.insert(digest.to_owned(), done).unwrap_or_default();
        if progress == Progress::Here {
            self.total = self.total.saturating_sub(size);
            self.done = self.done.saturating_sub(before);
            self.layers.remove(digest);
            return;
        }
        // A download that starts again has fewer bytes than before.
        self.done = (self.done + done).saturating_sub(before);
        self.total = self.total.max(self.done);
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn done(&self) -> u64 {
        self.done
    }

    /// Returns the bytes a second so far.
    pub(super) fn rate(&self, now: Instant) -> u64 {
        let elapsed = now.duration_since(self.started).as_secs_f64().max(0.001);
        (self.done as f64 / elapsed) as u64
    }

    /// Returns how long the rest takes at the rate so far; none while no byte has come.
    pub(super) fn left(&self, now: Instant) -> Option<Duration> {
        let rate = self.rate(now);
        (rate > 0).then(|| Duration::from_secs((self.total - self.done).div_ceil(rate)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(digest: &str, size: u64, done: u64, progress: Progress) -> Event {
        Event::Layer { digest: digest.into(), size, done, progress }
    }

    #[test]
    fn rate_and_time_left_count_downloaded_bytes_alone() {
        let start = crate::clock::now();
        let later = start + Duration::from_secs(2);
        let mut tally = Tally::new(start);
        tally.add(&Event::Image { image: "a".into(), digest: "d".into(), layers: 3, bytes: 1000 });
        tally.add(&layer("x", 400, 400, Progress::Here));
        assert_eq!((tally.done(), tally.total(), tally.left(later)), (0, 600, None));
        tally.add(&layer("y", 500, 100, Progress::Coming));
        tally.add(&layer("y", 500, 200, Progress::Coming));
        assert_eq!((tally.done(), tally.total()), (200, 600));
        assert_eq!((tally.rate(later), tally.left(later)), (100, Some(Duration::from_secs(4))));
        tally.add(&layer("y", 500, 500, Progress::Fetched));
        tally.add(&layer("z", 100, 100, Progress::Fetched));
        assert_eq!((tally.done(), tally.left(later)), (600, Some(Duration::ZERO)));
    }

    #[test]
    fn unknown_sizes_are_learnt() {
        let mut tally = Tally::new(crate::clock::now());
        tally.add(&layer("y", 0, 100, Progress::Coming));
        tally.add(&layer("y", 0, 50, Progress::Coming));
        tally.add(&layer("y", 300, 300, Progress::Fetched));
        assert_eq!((tally.done(), tally.total()), (300, 300));
    }
}
