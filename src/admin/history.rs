//! The traffic of the last hour, in samples.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The time between two samples.
pub(super) const INTERVAL: Duration = Duration::from_secs(10);

/// The samples of an hour, and the one before it.
const SAMPLES: usize = 361;

/// The counters at one moment. Each only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Requests that were answered.
    pub(super) requests: u64,
    /// Requests that the cache could have answered.
    pub(super) cacheable: u64,
    /// Requests that the cache has answered.
    pub(super) hits: u64,
    /// Answers with a status of 500 or more.
    pub(super) failures: u64,
    /// Bytes sent to clients.
    pub(super) sent: u64,
    /// Bytes that no upstream had to send.
    pub(super) saved: u64,
}

impl Counts {
    /// Returns what was counted since `before`.
    pub(super) fn since(&self, before: &Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(before.requests),
            cacheable: self.cacheable.saturating_sub(before.cacheable),
            hits: self.hits.saturating_sub(before.hits),
            failures: self.failures.saturating_sub(before.failures),
            sent: self.sent.saturating_sub(before.sent),
            saved: self.saved.saturating_sub(before.saved),
        }
    }
}

/// A span between two samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Span {
    /// The time from its end to the last sample.
    pub(super) age: Duration,
    /// The length of the time.
    pub(super) length: Duration,
    /// The counts of that time.
    pub(super) counts: Counts,
}

impl Span {
    /// Returns how many a second a number of this span is.
    pub(super) fn rate(&self, number: u64) -> f64 {
        number as f64 / self.length.as_secs_f64().max(0.001)
    }
}

/// The samples of the last hour.
#[derive(Debug, Default)]
pub(super) struct History(Mutex<VecDeque<(Instant, Counts)>>);

impl History {
    /// Adds a sample.
    pub(super) fn add(&self, at: Instant, counts: Counts) {
        let mut samples = self.0.lock();
        samples.push_back((at, counts));
        while samples.len() > SAMPLES {
            samples.pop_front();
        }
    }

    /// Returns the spans of `every` samples each, the oldest first.
    pub(super) fn spans(&self, every: usize) -> Vec<Span> {
        let samples = self.0.lock();
        let Some((end, _)) = samples.back().copied() else { return Vec::new() };
        // From the last sample backwards, so that the newest span is whole.
        let picked: Vec<_> = samples.iter().rev().step_by(every.max(1)).copied().collect();
        let span = |pair: &[(Instant, Counts)]| {
            let [(to, after), (from, before)] = pair else { return None };
            Some(Span {
                age: end.saturating_duration_since(*to),
                length: to.saturating_duration_since(*from),
                counts: after.since(before),
            })
        };
        let mut spans: Vec<_> = picked.windows(2).filter_map(span).collect();
        spans.reverse();
        spans
    }

    /// Returns what was counted in all samples.
    pub(super) fn total(&self) -> Counts {
        let samples = self.0.lock();
        match (samples.front(), samples.back()) {
            (Some((_, first)), Some((_, last))) => last.since(first),
            _ => Counts::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn history(samples: u64) -> History {
        let (history, start) = (History::default(), clock::now());
        for number in 0..samples {
            let counts = Counts { requests: number * 20, sent: number * number, ..Counts::default() };
            history.add(start + INTERVAL * u32::try_from(number).unwrap(), counts);
        }
        history
    }

    #[test]
    fn an_hour_is_remembered() {
        let history = history(1000);
        assert_eq!(history.spans(1).len(), 360);
        assert_eq!(history.total().requests, 360 * 20);
        assert_eq!(history.spans(3).len(), 120);
    }

    #[test]
    fn spans_have_the_rates_between_samples() {
        let spans = history(4).spans(1);
        let sent: Vec<_> = spans.iter().map(|span| span.counts.sent).collect();
        assert_eq!(sent, [1, 3, 5]);
        assert_eq!((spans[0].age, spans[2].age), (INTERVAL * 2, Duration::ZERO));
        assert!((spans[0].rate(spans[0].counts.requests) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn without_samples_there_is_nothing() {
        assert_eq!(history(0).spans(3), []);
        assert_eq!(history(1).total(), Counts::default());
    }
}
