//! What is known of an upstream from the requests that went to it: nothing is sent to find out.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::upstream::error::{Error, Unauthorized};
use crate::upstream::exchange::Response;

/// The outcome of the last attempt to reach an upstream.
#[derive(Debug, Default)]
pub(crate) struct Health(AtomicU8);

const REACHED: u8 = 1;
const FAILED: u8 = 2;

impl Health {
    /// A word for `/readyz`: `unknown` until the first request, then `ok` or `failing`.
    pub(crate) fn word(&self) -> &'static str {
        match self.0.load(Ordering::Relaxed) {
            REACHED => "ok",
            FAILED => "failing",
            _ => "unknown",
        }
    }

    /// An attempt to be answered at all.
    pub(crate) fn record(&self, result: &Result<Response, Error>) {
        match result {
            Ok(response) if response.status.is_server_error() => self.set(FAILED),
            Ok(_) => self.set(REACHED),
            Err(Error::Client(_)) => {}
            Err(_) => self.set(FAILED),
        }
    }

    /// It answers, and not with what the gateway came for: its credentials are wrong, or there is no token for them.
    pub(crate) fn record_refusal(&self, error: &Error) {
        match error {
            Error::Credentials(_) | Error::Token(_) | Error::AnonymousUpstream | Error::UsernameIgnored => {
                self.set(FAILED)
            }
            Error::Unauthorized(meaning) if *meaning != Unauthorized::Insufficient => self.set(FAILED),
            _ => {}
        }
    }

    fn set(&self, state: u8) {
        // Most of the time it is the same; a load does not take the line from the other cores.
        if self.0.load(Ordering::Relaxed) != state {
            self.0.store(state, Ordering::Relaxed);
        }
    }
}
