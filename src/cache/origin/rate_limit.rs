//! Pauses that upstreams ask for: 429 and `Retry-After` (RFC 6585 section 4).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use crate::clock;
use crate::config::limits;

/// The pauses of the accounts at one upstream.
#[derive(Debug, Default)]
pub(crate) struct RateLimitPauses(Mutex<HashMap<Arc<str>, Instant>>);

impl RateLimitPauses {
    /// Returns how long `account` is to wait, if it is.
    pub(crate) fn wait(&self, account: &str) -> Option<Duration> {
        let until = self.accounts().get(account).copied()?;
        until.checked_duration_since(clock::now()).filter(|wait| !wait.is_zero())
    }

    /// Notes that the upstream said 429 to `account`. Returns the pause, if there was none before.
    pub(crate) fn note(&self, account: &Arc<str>, retry_after: Option<Duration>) -> Option<Duration> {
        let pause = retry_after.unwrap_or(limits::LIMITED_PAUSE).min(limits::LIMITED_PAUSE_MOST);
        let now = clock::now();
        let mut accounts = self.accounts();
        accounts.retain(|_, until| *until > now);
        let before = accounts.get(account).copied();
        accounts.insert(account.clone(), (now + pause).max(before.unwrap_or(now)));
        before.is_none().then_some(pause)
    }

    fn accounts(&self) -> MutexGuard<'_, HashMap<Arc<str>, Instant>> {
        self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn account(name: &str) -> Arc<str> {
        name.into()
    }

    #[tokio::test(start_paused = true)]
    async fn retry_after_is_obeyed_by_that_account_alone() {
        let limited = RateLimitPauses::default();
        assert_eq!(limited.note(&account("a"), Some(10 * SECOND)), Some(10 * SECOND));
        assert_eq!((limited.wait("a"), limited.wait("b")), (Some(10 * SECOND), None));
        tokio::time::advance(9 * SECOND).await;
        assert_eq!(limited.wait("a"), Some(SECOND));
        tokio::time::advance(SECOND).await;
        assert_eq!(limited.wait("a"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_have_a_default_and_a_limit() {
        let limited = RateLimitPauses::default();
        assert_eq!(limited.note(&account("a"), None), Some(60 * SECOND));
        assert_eq!(limited.note(&account("b"), Some(100_000 * SECOND)), Some(3600 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_429_shortens_no_pause() {
        let limited = RateLimitPauses::default();
        let _ = limited.note(&account("a"), Some(10 * SECOND));
        assert_eq!(limited.note(&account("a"), Some(SECOND)), None);
        assert_eq!(limited.wait("a"), Some(10 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn accounts_whose_pause_is_over_are_forgotten() {
        let limited = RateLimitPauses::default();
        let _ = limited.note(&account("a"), Some(SECOND));
        tokio::time::advance(SECOND).await;
        let _ = limited.note(&account("b"), Some(SECOND));
        assert_eq!(limited.accounts().len(), 1);
    }
}
