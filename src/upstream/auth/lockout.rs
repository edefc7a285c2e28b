//! Whether an upstream takes an identity's credentials.
//!
//! A token endpoint's no may be to the credentials or to what was asked for: some refuse a token for a repository that
//! is not there. And credentials that are wrong are not shown again with every request of every client: accounts get
//! locked that way.

use std::time::Instant;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::clock;
use crate::config::limits;
use crate::upstream::auth::identity::UpstreamIdentity;

/// How each identity of one upstream stands with it.
pub(crate) struct Lockouts(Cache<UpstreamIdentity, Standing>);

#[derive(Clone, Copy, Default)]
struct Standing {
    /// When its credentials were last looked at, and taken.
    believed: Option<Instant>,
    /// How often they have been refused since.
    refusals: u32,
    /// Until when they are not shown.
    shunned: Option<Instant>,
}

impl Lockouts {
    pub(crate) fn new() -> Self {
        Self(Cache::builder().max_capacity(IDENTITIES).eviction_policy(EvictionPolicy::lru()).build())
    }

    /// Its credentials were looked at, and taken.
    pub(crate) fn believe(&self, who: &UpstreamIdentity) {
        self.0.insert(who.clone(), Standing { believed: Some(clock::now()), ..Standing::default() });
    }

    /// Something came of its credentials: if they were refused before, that is over. Costs a look.
    pub(crate) fn taken(&self, who: &UpstreamIdentity) {
        if self.0.get(who).is_some_and(|standing| standing.refusals > 0) {
            self.0.invalidate(who);
        }
    }

    /// Its credentials were refused: they are not shown again for a while, and each time for longer. A client that shows
    /// its own is held back where it logs in.
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

    /// Whether its credentials were refused lately.
    pub(crate) fn is_shunned(&self, who: &UpstreamIdentity) -> bool {
        let until = self.0.get(who).and_then(|standing| standing.shunned);
        until.is_some_and(|until| clock::now() < until)
    }

    /// Whether its credentials were looked at a moment ago, and taken.
    pub(crate) fn is_believed(&self, who: &UpstreamIdentity) -> bool {
        let believed = self.0.get(who).and_then(|standing| standing.believed);
        believed.is_some_and(|since| clock::now().duration_since(since) < limits::CREDENTIALS_BELIEVED)
    }
}

/// Identities that are remembered; where clients bring their own there may be many.
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
