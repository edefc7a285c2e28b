//! Requests that the rules allow. Handlers take nothing else.

use http::HeaderMap;

use crate::authz::Permit;
use crate::cache::UpstreamCache;
use crate::gateway::client_locations::ClientLocations;
use crate::gateway::core::Core;
use crate::gateway::route::{Addressing, ResolvedRepository};
use crate::proto::{Operation, RepositoryName};
use crate::upstream::Upstream;
use std::sync::Arc;

/// A request that the rules allow: for the version or the catalog, or the part of an [`AuthorizedRepository`] that is not
/// about the repository.
pub(crate) struct AuthorizedRequest<'a> {
    pub(super) core: &'a Core,
    pub(super) permit: Permit,
    /// The operation, with the upstream's names.
    pub(super) operation: Operation,
    pub(super) locations: ClientLocations,
    pub(super) addressing: Addressing<'a>,
    /// The client's headers.
    pub(super) headers: &'a HeaderMap,
}

/// A request for a repository that the rules allow.
pub(crate) struct AuthorizedRepository<'a> {
    pub(super) request: AuthorizedRequest<'a>,
    pub(super) repository: ResolvedRepository<'a>,
    /// The repository's name in the client's target, below a prefix before `/v2/` or above `ns`.
    pub(super) named: RepositoryName,
}

impl AuthorizedRepository<'_> {
    /// Returns the upstream that holds the repository.
    pub(super) fn upstream(&self) -> &Arc<Upstream> {
        &self.repository.route.upstream
    }

    /// Returns the upstream's cache, if it has one.
    pub(super) fn upstream_cache(&self) -> Option<&Arc<UpstreamCache>> {
        self.repository.route.upstream_cache.as_ref()
    }
}
