//! Circuit breakers of storage hosts: a dead CDN costs its own requests a moment, and the registry nothing.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use crate::clock;
use crate::config::limits;

/// The storage hosts of one upstream that failed lately. Each opens after [`limits::BREAKER_FAILURES`] failures in a row
/// and lets one request through after a pause, which grows while the host keeps failing.
#[derive(Debug, Default)]
pub(crate) struct StorageCircuits(Mutex<HashMap<String, Circuit>>);

#[derive(Debug)]
struct Circuit {
    failures: u32,
    /// Until when requests are refused; `None` while it is closed.
    open_until: Option<Instant>,
    pause: Duration,
}

impl StorageCircuits {
    /// Returns true if `host` may be asked now. Of an open circuit whose pause is over, one caller at a time may try.
    pub(crate) fn admits(&self, host: &str) -> bool {
        let mut circuits = self.lock();
        let Some(circuit) = circuits.get_mut(host) else { return true };
        let now = clock::now();
        match circuit.open_until {
            Some(until) if now < until => false,
            Some(_) => {
                circuit.open_until = Some(now + circuit.pause);
                true
            }
            None => true,
        }
    }

    /// Notes an answer of `host`, whatever it said.
    pub(crate) fn answered(&self, host: &str) {
        let mut circuits = self.lock();
        if !circuits.is_empty() {
            circuits.remove(host);
        }
    }

    /// Notes that `host` gave no answer, or a server's error. Returns true if its circuit has just opened.
    pub(crate) fn failed(&self, host: &str) -> bool {
        let mut circuits = self.lock();
        if circuits.len() >= HOSTS && !circuits.contains_key(host) {
            let now = clock::now();
            circuits.retain(|_, circuit| circuit.open_until.is_some_and(|until| until > now));
        }
        let new = || Circuit { failures: 0, open_until: None, pause: limits::BREAKER_PAUSE };
        let circuit = circuits.entry(host.to_owned()).or_insert_with(new);
        circuit.failures = circuit.failures.saturating_add(1);
        if circuit.failures < limits::BREAKER_FAILURES {
            return false;
        }
        let opens = circuit.open_until.is_none();
        if !opens {
            circuit.pause = (circuit.pause * 2).min(limits::BREAKER_PAUSE_MOST);
        }
        circuit.open_until = Some(clock::now() + circuit.pause);
        opens
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Circuit>> {
        // Nothing panics while it is held.
        self.0.lock()
    }
}

/// Hosts that are remembered; signed URLs may name a host for each object.
const HOSTS: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn opened() -> StorageCircuits {
        let circuits = StorageCircuits::default();
        let opened = (0..limits::BREAKER_FAILURES).filter(|_| circuits.failed("cdn")).count();
        assert_eq!(opened, 1);
        circuits
    }

    #[tokio::test(start_paused = true)]
    async fn a_storage_host_that_fails_is_left_alone() {
        let circuits = opened();
        assert!(!circuits.admits("cdn"));
        assert!(circuits.admits("other"));
    }

    #[tokio::test(start_paused = true)]
    async fn one_request_tries_after_the_pause() {
        let circuits = opened();
        tokio::time::advance(limits::BREAKER_PAUSE).await;
        assert!(circuits.admits("cdn"));
        assert!(!circuits.admits("cdn"));
        circuits.answered("cdn");
        assert!(circuits.admits("cdn") && circuits.admits("cdn"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_pause_grows_while_it_keeps_failing() {
        let circuits = opened();
        tokio::time::advance(limits::BREAKER_PAUSE).await;
        assert!(circuits.admits("cdn"));
        assert!(!circuits.failed("cdn"));
        tokio::time::advance(limits::BREAKER_PAUSE * 2 - SECOND / 10).await;
        assert!(!circuits.admits("cdn"));
        tokio::time::advance(SECOND).await;
        assert!(circuits.admits("cdn"));
    }

    #[test]
    fn an_answer_in_between_forgets_failures() {
        let circuits = StorageCircuits::default();
        for _ in 0..10 {
            let _ = circuits.failed("cdn");
            circuits.answered("cdn");
        }
        assert!(circuits.admits("cdn"));
    }
}
