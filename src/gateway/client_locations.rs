//! How the client names a repository, for the locations and links that it is given back.

use crate::gateway::route::{Addressing, ResolvedRepository};
use crate::proto::{Digest, Reference, RepositoryName};

/// A repository in the client's own words. Locations are path-absolute (RFC 3986 section 4.2): they hold whatever
/// scheme, host and port the client came by.
#[derive(Clone, Debug)]
pub(crate) struct ClientLocations {
    /// Up to and with `/v2`.
    base: String,
    name: String,
}

impl ClientLocations {
    /// Returns the locations of a request that came by `addressing`, perhaps for a repository that it names as given. With
    /// `ns` the canonical name is used: a location has no room for `ns`.
    pub(super) fn new(
        addressing: Addressing<'_>,
        repository: Option<(&RepositoryName, &ResolvedRepository<'_>)>,
    ) -> Self {
        match (addressing.ns, repository) {
            (Some(_), Some((_, resolved))) => {
                Self { base: "/v2".to_owned(), name: resolved.canonical.to_string() }
            }
            (_, repository) => {
                let base =
                    addressing.prefix.map_or_else(|| "/v2".to_owned(), |prefix| format!("/{prefix}/v2"));
                Self { base, name: repository.map(|(name, _)| name.to_string()).unwrap_or_default() }
            }
        }
    }

    /// Returns the name alone.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn base(&self) -> &str {
        &self.base
    }

    pub(super) fn manifest(&self, reference: &Reference) -> String {
        format!("{}/{}/manifests/{reference}", self.base, self.name)
    }

    pub(super) fn blob(&self, digest: &Digest) -> String {
        format!("{}/{}/blobs/{digest}", self.base, self.name)
    }

    pub(super) fn upload(&self, handle: &str) -> String {
        format!("{}/{}/blobs/uploads/{handle}", self.base, self.name)
    }

    pub(super) fn resource(&self, rest: &str) -> String {
        format!("{}/{}/{rest}", self.base, self.name)
    }
}
