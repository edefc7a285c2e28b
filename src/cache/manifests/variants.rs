//! The answers that an upstream gives for a tag to clients whose `Accept` leaves out the type of its manifest.

use std::sync::Arc;

use http::HeaderValue;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::cache::requester::Requester;
use crate::config::limits;
use crate::proto::{Digest, RepositoryName};

/// A manifest to which a tag points, and an `Accept` that leaves its type out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct VariantKey {
    repository: RepositoryName,
    digest: Digest,
    accept: HeaderValue,
    account: Arc<str>,
}

impl VariantKey {
    /// Returns the key of `accept` for the manifest `digest`, in the requester's repository.
    pub(crate) fn new(requester: &Requester, digest: &Digest, accept: &HeaderValue) -> Self {
        Self {
            repository: requester.repository().clone(),
            digest: digest.clone(),
            accept: accept.clone(),
            account: requester.account(),
        }
    }
}

/// The digests of what the upstream gave: mostly that of the manifest itself. What a registry gives for a digest and an
/// `Accept` hardly ever changes, so it is believed as long as that a repository holds something.
pub(crate) struct Variants(Cache<VariantKey, Digest>);

impl Variants {
    /// Returns none yet.
    pub(crate) fn new() -> Self {
        let variants =
            Cache::builder().max_capacity(limits::SEEN_TAGS).eviction_policy(EvictionPolicy::lru());
        Self(variants.time_to_live(limits::RECORD_BELIEVED).build())
    }

    /// Returns the digest of what the upstream gave.
    pub(crate) fn get(&self, key: &VariantKey) -> Option<Digest> {
        self.0.get(key)
    }

    /// Notes what the upstream gave.
    pub(crate) fn keep(&self, key: VariantKey, digest: Digest) {
        self.0.insert(key, digest);
    }
}
