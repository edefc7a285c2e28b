//! The grants of `pull_authorization = "each"`: which identities the upstream has lately let read which repositories.

use std::time::{Duration, Instant};

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::clock;
use crate::config;
use crate::proto::RepositoryName;
use crate::proto::identity::Identity;

/// A grant: the identity at this gateway, none for everyone, and the repository that it may read.
pub(crate) type Grant = (Option<Identity>, RepositoryName);

/// The grants of one upstream.
pub(crate) struct Grants {
    /// The life of a grant.
    ttl: Duration,
    /// The time after that in which it counts while the upstream cannot be reached.
    stale: Duration,
    /// The time when each was given.
    given: Cache<Grant, Instant>,
    /// The time when each repository was found not to be public.
    private: Cache<RepositoryName, Instant>,
}

impl Grants {
    /// Returns an empty table.
    pub(crate) fn new(settings: &config::UpstreamCacheOptions) -> Self {
        Self {
            ttl: settings.tag_ttl,
            stale: settings.grant_stale,
            given: Cache::builder().max_capacity(ENTRIES).eviction_policy(EvictionPolicy::lru()).build(),
            private: Cache::builder().max_capacity(ENTRIES).eviction_policy(EvictionPolicy::lru()).build(),
        }
    }

    /// Returns true if the grant was given lately.
    pub(crate) fn is_fresh(&self, grant: &Grant) -> bool {
        is_younger(self.given.get(grant), self.ttl)
    }

    /// Returns true if the grant still counts while the upstream cannot be reached.
    pub(crate) fn is_bearable(&self, grant: &Grant) -> bool {
        is_younger(self.given.get(grant), self.ttl + self.stale)
    }

    /// Returns true if the repository was lately found not to be public.
    pub(crate) fn is_private(&self, repository: &RepositoryName) -> bool {
        is_younger(self.private.get(repository), self.ttl)
    }

    /// Gives a grant, from now on.
    pub(crate) fn give(&self, grant: &Grant) {
        self.given.insert(grant.clone(), clock::now());
        if grant.0.is_none() {
            self.private.invalidate(&grant.1);
        }
    }

    /// Ends a grant.
    pub(crate) fn end(&self, grant: &Grant) {
        self.given.invalidate(grant);
        if grant.0.is_none() {
            self.private.insert(grant.1.clone(), clock::now());
        }
    }
}

fn is_younger(since: Option<Instant>, age: Duration) -> bool {
    since.is_some_and(|since| clock::now().duration_since(since) < age)
}

/// Identities times repositories that are at work within `tag_ttl`, generously; some 20 MiB.
const ENTRIES: u64 = 64 * 1024;
