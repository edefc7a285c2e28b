//! What is known of an upstream from the requests that went to it: nothing is sent to find out.

use std::sync::atomic::{AtomicU8, Ordering};

use super::{Error, Response};

/// The outcome of the last attempt to reach an upstream.
#[derive(Debug, Default)]
pub struct Health(AtomicU8);

const REACHED: u8 = 1;
const FAILED: u8 = 2;

impl Health {
    /// A word for `/readyz`: `unknown` until the first request, then `ok` or `failing`.
    pub fn word(&self) -> &'static str {
        match self.0.load(Ordering::Relaxed) {
            REACHED => "ok",
            FAILED => "failing",
            _ => "unknown",
        }
    }

    pub(super) fn record(&self, result: &Result<Response, Error>) {
        let state = match result {
            Ok(response) if response.status.is_server_error() => FAILED,
            Ok(_) => REACHED,
            Err(Error::Client(_)) => return,
            Err(_) => FAILED,
        };
        if self.0.load(Ordering::Relaxed) != state {
            self.0.store(state, Ordering::Relaxed);
        }
    }
}
