//! Lockouts: credentials that an upstream refused are not presented again for a while.
//!
//! Wrong credentials in every request of every client would lock the account. And a token endpoint may refuse the
//! credentials or the repository alike, so that it matters if the credentials were accepted lately.

use std::time::Instant;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::clock;
use crate::config::limits;
use crate::upstream::auth::identity::UpstreamIdentity;

/// The lockouts of the identities of one upstream.
pub(crate) struct Lockouts(Cache<UpstreamIdentity, Standing>);

#[derive(Clone, Copy, Default)]
struct Standing {
    /// When its credentials were last checked and accepted.
    believed: Option<Instant>,
    /// Refusals since then.
    refusals: u32,
    /// Until when they are not presented.
    shunned: Option<Instant>,
}

impl Lockouts {
    pub(crate) fn new() -> Self {
        Self(Cache::builder().max_capacity(IDENTITIES).eviction_policy(EvictionPolicy::lru()).build())
    }

    /// Notes that the credentials were checked for no repository in particular, and accepted.
    pub(crate) fn believe(&self, who: &UpstreamIdentity) {
        self.0.insert(who.clone(), Standing { believed: Some(clock::now()), ..Standing::default() });
    }

    /// Notes that a request with the credentials was accepted: earlier refusals are over. Costs a look-up.
    pub(crate) fn taken(&self, who: &UpstreamIdentity) {
        if self.0.get(who).is_some_and(|standing| standing.refusals > 0) {
            self.0.invalidate(who);
        }
    }

    /// Notes that the credentials were refused: they are not presented for a while, and each time for longer. Clients'
    /// own credentials are throttled at the login.
    pub(crate) fn refused(&self, who: &UpstreamIdentity) {
        if matches!(who, UpstreamIdentity::Client(_)) {
            return;
        }
        let before = self.0.get(who).unwrap_or_default();
        let pause = limits::REFUSED_PAUSE * 2u32.saturating_pow(before.refusals.min(16));
        let until = clock::now() + pause.min(limits::REFUSED_PAUSE_MOST);
        let refusals = before.refusals.saturating_add(1);
        self.0.insert(who.clone(), Standing { believed: None, refusals, shunned: Some(until) });
    }

    /// Returns true if the credentials must not be presented now.
    pub(crate) fn is_shunned(&self, who: &UpstreamIdentity) -> bool {
        let until = self.0.get(who).and_then(|standing| standing.shunned);
        until.is_some_and(|until| clock::now() < until)
    }

    /// Returns true if the credentials were checked a moment ago, and accepted.
    pub(crate) fn is_believed(&self, who: &UpstreamIdentity) -> bool {
        let believed = self.0.get(who).and_then(|standing| standing.believed);
        believed.is_some_and(|since| clock::now().duration_since(since) < limits::CREDENTIALS_BELIEVED)
    }
}

/// Identities that are remembered; with forwarded credentials there may be many.
const IDENTITIES: u64 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn refused_credentials_rest_for_longer_and_longer() {
        let standings = Lockouts::new();
        for seconds in [10, 20, 40, 80, 160, 300, 300] {
            standings.refused(&UpstreamIdentity::Gateway);
            tokio::time::advance(Duration::from_secs(seconds) - Duration::from_millis(1)).await;
            assert!(standings.is_shunned(&UpstreamIdentity::Gateway), "{seconds}");
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(!standings.is_shunned(&UpstreamIdentity::Gateway), "{seconds}");
        }
        assert!(!standings.is_shunned(&UpstreamIdentity::User(0)));
        standings.taken(&UpstreamIdentity::Gateway);
        standings.refused(&UpstreamIdentity::Gateway);
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(!standings.is_shunned(&UpstreamIdentity::Gateway), "once taken, all is forgiven");
    }

    #[tokio::test(start_paused = true)]
    async fn credentials_that_were_looked_at_are_believed_for_a_moment() {
        let standings = Lockouts::new();
        assert!(!standings.is_believed(&UpstreamIdentity::Gateway));
        standings.believe(&UpstreamIdentity::Gateway);
        assert!(standings.is_believed(&UpstreamIdentity::Gateway));
        tokio::time::advance(limits::CREDENTIALS_BELIEVED).await;
        assert!(!standings.is_believed(&UpstreamIdentity::Gateway));
        standings.believe(&UpstreamIdentity::Gateway);
        standings.refused(&UpstreamIdentity::Gateway);
        assert!(!standings.is_believed(&UpstreamIdentity::Gateway));
    }
}
