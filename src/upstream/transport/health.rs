//! The health of an upstream, learned from its requests alone.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::upstream::error::{Error, Unauthorized};
use crate::upstream::exchange::Response;

/// The outcome of the last attempt to reach an upstream.
#[derive(Debug, Default)]
pub(crate) struct Health(AtomicU8);

const REACHED: u8 = 1;
const FAILED: u8 = 2;

impl Health {
    /// Returns the word for `/readyz`: `unknown` until the first request, then `ok` or `failing`.
    pub(crate) fn word(&self) -> &'static str {
        match self.0.load(Ordering::Relaxed) {
            REACHED => "ok",
            FAILED => "failing",
            _ => "unknown",
        }
    }

    /// Notes the outcome of an attempt.
    pub(crate) fn record(&self, result: &Result<Response, Error>) {
        match result {
            Ok(response) if response.status.is_server_error() => self.set(FAILED),
            Ok(_) => self.set(REACHED),
            Err(Error::Client(_) | Error::Spent(_)) => {}
            Err(_) => self.set(FAILED),
        }
    }

    /// Notes an error of a request that was answered: wrong credentials or no token count as failing.
    pub(crate) fn record_refusal(&self, error: &Error) {
        match error {
            _ if error.spent().is_some() => {}
            Error::Credentials(_) | Error::Token(_) | Error::AnonymousUpstream | Error::UsernameIgnored => {
                self.set(FAILED)
            }
            Error::Unauthorized(meaning) if *meaning != Unauthorized::Insufficient => self.set(FAILED),
            _ => {}
        }
    }

    fn set(&self, state: u8) {
        // Mostly unchanged, and a load does not take the cache line from the other cores.
        if self.0.load(Ordering::Relaxed) != state {
            self.0.store(state, Ordering::Relaxed);
        }
    }
}
