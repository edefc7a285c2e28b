//! A requester and the cache that it asks, for tests.

use std::sync::Arc;

use crate::authz::Permit;
use crate::cache::blobs::blob::Blob;
use crate::cache::error::CacheError;
use crate::cache::manifests::manifest::Manifest;
use crate::cache::metadata::record::Membership;
use crate::cache::origin::Origin;
use crate::cache::requester::Requester;
use crate::cache::upstream_cache::UpstreamCache;
use crate::proto::{Accept, ByteRange, Digest, Reference, RepositoryName};

/// A requester, and the cache that it asks.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) upstream_cache: Arc<UpstreamCache>,
    pub(crate) requester: Requester,
}

impl View {
    pub(crate) fn new(
        upstream_cache: &Arc<UpstreamCache>,
        permit: Permit,
        repository: RepositoryName,
        origin: Arc<dyn Origin>,
    ) -> Self {
        Self { upstream_cache: upstream_cache.clone(), requester: Requester::new(permit, repository, origin) }
    }

    /// Returns the view of another repository.
    pub(crate) fn in_repository(self, repository: &str) -> Self {
        let repository = RepositoryName::parse(repository).unwrap();
        Self { requester: self.requester.in_repository(repository), ..self }
    }

    pub(crate) async fn manifest(
        &self,
        reference: &Reference,
        accept: &Accept,
        head: bool,
    ) -> Result<Manifest, CacheError> {
        self.upstream_cache.manifest(&self.requester, reference, accept, head).await
    }

    pub(crate) async fn blob(
        &self,
        digest: &Digest,
        range: Option<&ByteRange>,
        head: bool,
    ) -> Result<Blob, CacheError> {
        self.upstream_cache.blob(&self.requester, digest, range, head).await
    }

    pub(crate) async fn entitled(&self, reference: &Reference) -> Result<(), CacheError> {
        self.upstream_cache.authorizer.authorize_manifest(&self.requester, reference).await
    }

    pub(crate) async fn entitled_to_blob(&self, digest: &Digest) -> Result<(), CacheError> {
        self.upstream_cache.authorizer.authorize_blob(&self.requester, digest).await
    }

    pub(crate) fn known(&self, digest: &Digest) -> Option<Membership> {
        self.upstream_cache.blobs.membership().known(self.requester.repository(), digest)
    }

    pub(crate) async fn holds(&self, digest: &Digest) -> Result<Membership, CacheError> {
        self.upstream_cache.blobs.membership().holds(&self.requester, digest).await
    }
}
