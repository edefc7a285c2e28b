//! The circuit breaker of the store: while it does not answer, it is asked by one request at a time, and no client waits for it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use crate::clock;

/// The breaker. It opens after some failures in a row, and closes with the first answer.
#[derive(Debug)]
pub(super) struct StoreBreaker {
    /// The store, for the log.
    store: Box<str>,
    /// A request that was given up after this time counts as a failure.
    patience: Duration,
    standing: Mutex<StoreStanding>,
}

#[derive(Debug, Default)]
struct StoreStanding {
    failures: u32,
    /// Objects in a row that the store began to send, and broke off.
    broken: u32,
    /// Open: when the next request may be sent.
    next: Option<Instant>,
    pause: Duration,
    /// Why it has opened.
    failure: Option<Arc<str>>,
}

/// A request to the store. One that is dropped without an outcome was given up.
pub(super) struct Attempt<'a> {
    breaker: &'a StoreBreaker,
    began: Instant,
    is_over: bool,
}

impl StoreBreaker {
    /// Returns a closed one.
    pub(super) fn new(store: &str, patience: Duration) -> Arc<Self> {
        Arc::new(Self { store: store.into(), patience, standing: Mutex::default() })
    }

    /// Returns why requests are not sent now, if they are not.
    pub(super) fn failure(&self) -> Option<Arc<str>> {
        self.standing.lock().failure.clone()
    }

    /// Lets a request through, or not while the store does not answer.
    pub(super) fn admit(&self) -> Option<Attempt<'_>> {
        let now = clock::now();
        let mut standing = self.standing.lock();
        if let Some(next) = standing.next {
            if now < next {
                return None;
            }
            // Others wait until this one has had its time.
            standing.next = Some(now + standing.pause);
        }
        Some(Attempt { breaker: self, began: now, is_over: false })
    }

    fn answered(&self) {
        let mut standing = self.standing.lock();
        standing.failures = 0;
        let was_open = standing.next.take().is_some();
        standing.failure = None;
        drop(standing);
        if was_open {
            tracing::info!(store = &*self.store, "the store answers again");
        }
    }

    fn failed(&self, why: &dyn fmt::Display) {
        let mut standing = self.standing.lock();
        standing.failures = standing.failures.saturating_add(1);
        if standing.failures >= FAILURES {
            self.open(standing, why);
        }
    }

    /// Notes that an object has come whole.
    pub(super) fn came_whole(&self) {
        self.standing.lock().broken = 0;
    }

    /// Notes that an object has broken off, which the answer before it has not told.
    pub(super) fn broke_off(&self, why: &dyn fmt::Display) {
        let mut standing = self.standing.lock();
        standing.broken = standing.broken.saturating_add(1);
        if standing.broken >= FAILURES {
            self.open(standing, why);
        }
    }

    fn open(&self, mut standing: MutexGuard<'_, StoreStanding>, why: &dyn fmt::Display) {
        let now = clock::now();
        let opens = standing.next.is_none();
        standing.pause = if opens { PAUSE } else { (standing.pause * 2).min(PAUSE_MOST) };
        standing.next = Some(now + standing.pause);
        standing.failure = Some(why.to_string().into());
        drop(standing);
        if opens {
            let store = &*self.store;
            tracing::warn!(store, error = %why, "the store does not answer: it is passed over, and nothing is stored until it does");
        }
    }
}

impl Attempt<'_> {
    /// Notes that the store has answered, if only that it has not what was asked for.
    pub(super) fn answered(mut self) {
        self.is_over = true;
        self.breaker.answered();
    }

    /// Notes that it has not answered, or only that it cannot.
    pub(super) fn failed(mut self, why: &dyn fmt::Display) {
        self.is_over = true;
        self.breaker.failed(why);
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        // Where the upstream was quicker, nothing waits for the store to miss its deadline.
        let waited = clock::now().saturating_duration_since(self.began);
        if !self.is_over && waited >= self.breaker.patience {
            self.breaker.failed(&"it was too slow, and the upstream has answered first");
        }
    }
}

/// Failures in a row that open the breaker.
const FAILURES: u32 = 3;

/// The first pause, and the longest.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MOST: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker(patience: Duration) -> Arc<StoreBreaker> {
        StoreBreaker::new("s3://bucket", patience)
    }

    impl StoreBreaker {
        fn is_open(&self) -> bool {
            assert_eq!(self.failure().is_some(), self.standing.lock().next.is_some());
            self.failure().is_some()
        }
    }

    #[test]
    fn failures_in_a_row_open_it_and_an_answer_closes_it() {
        let breaker = breaker(Duration::from_secs(1));
        for _ in 0..FAILURES {
            assert!(!breaker.is_open());
            breaker.admit().unwrap().failed(&"503");
        }
        assert!(breaker.is_open() && breaker.admit().is_none());
        breaker.standing.lock().next = Some(clock::now());
        let probe = breaker.admit().unwrap();
        assert!(breaker.admit().is_none(), "one at a time");
        probe.answered();
        assert!(!breaker.is_open() && breaker.admit().is_some());
    }

    #[test]
    fn an_answer_between_failures_keeps_it_closed() {
        let breaker = breaker(Duration::from_secs(1));
        for _ in 0..2 * FAILURES {
            breaker.admit().unwrap().failed(&"503");
            breaker.admit().unwrap().answered();
        }
        assert!(!breaker.is_open());
    }

    #[test]
    fn objects_that_break_off_open_it_in_spite_of_their_heads() {
        let breaker = breaker(Duration::from_secs(1));
        for _ in 0..FAILURES {
            assert!(!breaker.is_open());
            breaker.admit().unwrap().answered();
            breaker.broke_off(&"reset");
        }
        assert!(breaker.is_open());
        breaker.standing.lock().next = Some(clock::now());
        breaker.admit().unwrap().answered();
        breaker.came_whole();
        breaker.broke_off(&"reset");
        assert!(!breaker.is_open());
    }

    #[test]
    fn what_was_given_up_late_counts_as_a_failure() {
        let (late, early) = (breaker(Duration::ZERO), breaker(Duration::from_secs(60)));
        for _ in 0..FAILURES {
            drop(late.admit());
            drop(early.admit());
        }
        assert!(late.is_open() && !early.is_open());
    }
}
