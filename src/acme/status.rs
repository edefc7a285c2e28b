//! The state of the certificate, for the admin listener.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

/// The orders so far, and the certificate that is there.
#[derive(Debug, Default)]
pub(crate) struct AcmeStatus {
    issued: AtomicU64,
    failed: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    not_after: Option<SystemTime>,
    problem: Option<String>,
}

impl AcmeStatus {
    /// Returns the certificates that were issued.
    pub(crate) fn issued(&self) -> u64 {
        self.issued.load(Ordering::Relaxed)
    }

    /// Returns the orders that have failed.
    pub(crate) fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Returns the end of the certificate in seconds since 1970; 0 while there is none.
    pub(crate) fn not_after(&self) -> u64 {
        let not_after = self.state.lock().not_after;
        not_after.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(0, |since| since.as_secs())
    }

    /// Returns why the last order has failed, if it has.
    pub(crate) fn problem(&self) -> Option<String> {
        self.state.lock().problem.clone()
    }

    /// Notes the end of the certificate that is there.
    pub(super) fn hold(&self, not_after: Option<SystemTime>) {
        self.state.lock().not_after = not_after;
    }

    /// Notes that a certificate was issued.
    pub(super) fn succeed(&self) {
        self.issued.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that an order has failed.
    pub(super) fn fail(&self, problem: String) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.state.lock().problem = Some(problem);
    }

    /// Notes that the certificate is as it should be.
    pub(super) fn clear(&self) {
        self.state.lock().problem = None;
    }
}
