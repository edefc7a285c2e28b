//! Writes that are under way.

use std::sync::Arc;

use crate::cache::UpstreamCache;
use crate::gateway::authorized::AuthorizedRepository;
use crate::proto::{Reference, RepositoryName};

/// A write that is under way. If its client leaves before the answer, the write counts as done: nothing that it may have
/// ended is believed any more.
pub(super) struct WriteGuard {
    written: Option<(Arc<UpstreamCache>, RepositoryName, Option<Reference>)>,
}

impl WriteGuard {
    /// Begins a write to `reference`, or to the repository as a whole.
    pub(super) fn new(request: &AuthorizedRepository<'_>, reference: Option<&Reference>) -> Self {
        let name = || request.repository.remote.clone();
        let written = request.upstream_cache().map(|cache| (cache.clone(), name(), reference.cloned()));
        Self { written }
    }

    /// Ends the write without a consequence: the caller tells the cache what the upstream's answer means.
    pub(super) fn settle(mut self) {
        self.written = None;
    }
}

impl Drop for WriteGuard {
    fn drop(&mut self) {
        match self.written.take() {
            Some((cache, repository, Some(reference))) => cache.deleted(&repository, &reference),
            Some((cache, repository, None)) => cache.written(&repository),
            None => {}
        }
    }
}
