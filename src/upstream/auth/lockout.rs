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
pub(crate) struct Lockouts(Cache<UpstreamIdentity, Lockout>);

#[derive(Clone, Copy, Default)]
struct Lockout {
    /// When its credentials were last checked and accepted.
    verified: Option<Instant>,
    /// Refusals since then.
    refusals: u32,
    /// Until when they are not presented.
    locked_until: Option<Instant>,
}

impl Lockouts {
    pub(crate) fn new() -> Self {
        Self(Cache::builder().max_capacity(IDENTITIES).eviction_policy(EvictionPolicy::lru()).build())
    }

    /// Notes that the credentials were checked for no repository in particular, and accepted.
    pub(crate) fn note_verified(&self, identity: &UpstreamIdentity) {
        self.0.insert(identity.clone(), Lockout { verified: Some(clock::now()), ..Lockout::default() });
    }

    /// Notes that a request with the credentials was accepted: earlier refusals are over. Costs a look-up.
    pub(crate) fn note_accepted(&self, identity: &UpstreamIdentity) {
        if self.0.get(identity).is_some_and(|lockout| lockout.refusals > 0) {
            self.0.invalidate(identity);
        }
    }

    /// Notes that the credentials were refused: they are not presented for a while, and each time for longer. Clients'
    /// own credentials are throttled at the login.
    pub(crate) fn note_refused(&self, identity: &UpstreamIdentity) {
        if matches!(identity, UpstreamIdentity::Client(_)) {
            return;
        }
        let before = self.0.get(identity).unwrap_or_default();
        let pause = limits::REFUSED_PAUSE * 2u32.saturating_pow(before.refusals.min(16));
        let until = clock::now() + pause.min(limits::REFUSED_PAUSE_MOST);
        let refusals = before.refusals.saturating_add(1);
        self.0.insert(identity.clone(), Lockout { verified: None, refusals, locked_until: Some(until) });
    }

    /// Returns true if the credentials must not be presented now.
    pub(crate) fn is_locked_out(&self, identity: &UpstreamIdentity) -> bool {
        let until = self.0.get(identity).and_then(|lockout| lockout.locked_until);
        until.is_some_and(|until| clock::now() < until)
    }

    /// Returns true if the credentials were checked a moment ago, and accepted.
    pub(crate) fn is_verified(&self, identity: &UpstreamIdentity) -> bool {
        let verified = self.0.get(identity).and_then(|lockout| lockout.verified);
        verified.is_some_and(|since| clock::now().duration_since(since) < limits::CREDENTIALS_BELIEVED)
    }
}

/// Identities that are remembered; with forwarded credentials there may be many.
const IDENTITIES: u64 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn lockouts_grow_with_each_refusal() {
        let lockouts = Lockouts::new();
        for seconds in [10, 20, 40, 80, 160, 300, 300] {
            lockouts.note_refused(&UpstreamIdentity::Gateway);
            tokio::time::advance(Duration::from_secs(seconds) - Duration::from_millis(1)).await;
            assert!(lockouts.is_locked_out(&UpstreamIdentity::Gateway), "{seconds}");
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(!lockouts.is_locked_out(&UpstreamIdentity::Gateway), "{seconds}");
        }
        assert!(!lockouts.is_locked_out(&UpstreamIdentity::User(0)));
        lockouts.note_accepted(&UpstreamIdentity::Gateway);
        lockouts.note_refused(&UpstreamIdentity::Gateway);
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(!lockouts.is_locked_out(&UpstreamIdentity::Gateway), "once taken, all is forgiven");
    }

    #[tokio::test(start_paused = true)]
    async fn verified_credentials_stay_verified_for_a_moment() {
        let lockouts = Lockouts::new();
        assert!(!lockouts.is_verified(&UpstreamIdentity::Gateway));
        lockouts.note_verified(&UpstreamIdentity::Gateway);
        assert!(lockouts.is_verified(&UpstreamIdentity::Gateway));
        tokio::time::advance(limits::CREDENTIALS_BELIEVED).await;
        assert!(!lockouts.is_verified(&UpstreamIdentity::Gateway));
        lockouts.note_verified(&UpstreamIdentity::Gateway);
        lockouts.note_refused(&UpstreamIdentity::Gateway);
        assert!(!lockouts.is_verified(&UpstreamIdentity::Gateway));
    }
}
