//! Writes that are under way.

use std::sync::Arc;

use crate::cache::UpstreamCache;
use crate::gateway::authorized::AuthorizedRepository;
use crate::proto::{Reference, RepositoryName};

/// A write that is under way. If its client leaves before the answer, the write counts as done: nothing that it may have
/// ended is believed any more.
pub(super) struct WriteGuard {
    /// What is written to; without a reference the repository as a whole.
    written: Option<(Arc<UpstreamCache>, RepositoryName, Vec<Reference>)>,
}

impl WriteGuard {
    /// Begins a write to `references`, or to the repository as a whole if there are none.
    pub(super) fn new(request: &AuthorizedRepository<'_>, references: &[Reference]) -> Self {
        let name = || request.repository.remote.clone();
        let written = request.upstream_cache().map(|cache| (cache.clone(), name(), references.to_vec()));
        Self { written }
    }

    /// Ends the write without a consequence: the caller tells the cache what the upstream's answer means.
    pub(super) fn settle(mut self) {
        self.written = None;
    }

    /// Ends the write as one that may have been done: nothing that it may have ended is believed any more, here or by the other
    /// replicas. Waits for a moment until they know.
    pub(super) async fn end(mut self) {
        if let Some((cache, repository, references)) = self.written.take() {
            forget(&cache, &repository, &references);
            cache.tell(&repository, &references).await;
        }
    }
}

impl Drop for WriteGuard {
    fn drop(&mut self) {
        if let Some((cache, repository, references)) = self.written.take() {
            forget(&cache, &repository, &references);
            // Of a blob nothing is believed elsewhere that a push would end.
            if !references.is_empty() {
                cache.tell_besides(&repository, &references);
            }
        }
    }
}

fn forget(cache: &UpstreamCache, repository: &RepositoryName, references: &[Reference]) {
    if references.is_empty() {
        cache.written(repository);
    }
    references.iter().for_each(|reference| cache.deleted(repository, reference));
}
