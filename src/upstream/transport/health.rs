//! The health of an upstream, learned from its requests alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::SystemTime;

use parking_lot::Mutex;

use crate::clock;
use crate::upstream::error::{Error, Unauthorized};
use crate::upstream::exchange::Response;

/// The outcome of the last attempt to reach an upstream.
#[derive(Debug, Default)]
pub(crate) struct Health {
    state: AtomicU8,
    /// Taken only when the state changes, and at failures.
    details: Mutex<Details>,
}

#[derive(Clone, Debug, Default)]
struct Details {
    since: Option<SystemTime>,
    failure: Option<Arc<str>>,
}

const REACHED: u8 = 1;
const FAILED: u8 = 2;

impl Health {
    /// Returns the word for `/readyz`: `unknown` until the first request, then `ok` or `failing`.
    pub(crate) fn word(&self) -> &'static str {
        match self.state.load(Ordering::Relaxed) {
            REACHED => "ok",
            FAILED => "failing",
            _ => "unknown",
        }
    }

    /// Returns since when the state is so; `None` until the first request.
    pub(crate) fn since(&self) -> Option<SystemTime> {
        self.details.lock().since
    }

    /// Returns the last failure, if the last attempt failed.
    pub(crate) fn failure(&self) -> Option<Arc<str>> {
        let failed = self.state.load(Ordering::Relaxed) == FAILED;
        self.details.lock().failure.clone().filter(|_| failed)
    }

    /// Notes the outcome of an attempt.
    pub(crate) fn record(&self, result: &Result<Response, Error>) {
        match result {
            Ok(response) if response.status.is_server_error() => {
                self.fail(&format!("it answered {}", response.status));
            }
            Ok(_) => self.set(REACHED),
            Err(Error::Client(_) | Error::Spent(_)) => {}
            Err(error) => self.fail(&error.to_string()),
        }
    }

    /// Notes an error of a request that was answered: wrong credentials or no token count as failing.
    pub(crate) fn record_refusal(&self, error: &Error) {
        match error {
            _ if error.spent().is_some() => {}
            Error::Credentials(_) | Error::Token(_) | Error::AnonymousUpstream | Error::UsernameIgnored => {
                self.fail(&error.to_string());
            }
            Error::Unauthorized(meaning) if *meaning != Unauthorized::Insufficient => {
                self.fail(&error.to_string());
            }
            _ => {}
        }
    }

    fn fail(&self, failure: &str) {
        self.details.lock().failure = Some(failure.into());
        self.set(FAILED);
    }

    fn set(&self, state: u8) {
        // Mostly unchanged, and a load does not take the cache line from the other cores.
        if self.state.load(Ordering::Relaxed) != state {
            self.details.lock().since = Some(clock::wall());
            self.state.store(state, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};

    use super::*;
    use crate::body::Body;

    fn answer(status: StatusCode) -> Result<Response, Error> {
        Ok(Response { status, headers: HeaderMap::new(), body: Body::empty() })
    }

    #[test]
    fn health_changes_with_the_last_attempt() {
        let health = Health::default();
        assert_eq!((health.word(), health.since()), ("unknown", None));
        health.record(&Err(Error::Timeout));
        assert_eq!(health.failure().as_deref(), Some("it did not answer within response_timeout"));
        let since = health.since().unwrap();
        health.record(&answer(StatusCode::BAD_GATEWAY));
        assert_eq!((health.word(), health.since()), ("failing", Some(since)));
        assert_eq!(health.failure().as_deref(), Some("it answered 502 Bad Gateway"));
        health.record(&answer(StatusCode::NOT_FOUND));
        assert_eq!((health.word(), health.failure()), ("ok", None));
    }
}
