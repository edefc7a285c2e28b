//! How the client names a repository, for the locations and links that it is given back.

use crate::proto::{Digest, Reference, RepositoryName};

use crate::gateway::route::{Addressing, ResolvedRepository};

/// A repository in the client's own words. Locations are path-absolute (RFC 3986 section 4.2): they hold whatever
/// scheme, host and port the client came by.
#[derive(Clone, Debug)]
pub(crate) struct ClientLocations {
    /// Up to and with `/v2`.
    base: String,
    name: String,
}

impl ClientLocations {
    /// Where the request came with `ns`, the canonical name: a location has no room for `ns`.
    pub(crate) fn new(
        way: Addressing<'_>,
        asked: Option<&RepositoryName>,
        place: Option<&ResolvedRepository>,
    ) -> Self {
        match (way.ns, place) {
            (Some(_), Some(place)) => Self { base: "/v2".to_owned(), name: place.canonical.to_string() },
            _ => {
                let base = way.prefix.map_or_else(|| "/v2".to_owned(), |prefix| format!("/{prefix}/v2"));
                Self { base, name: asked.map(ToString::to_string).unwrap_or_default() }
            }
        }
    }

    /// The name alone.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    pub(crate) fn manifest(&self, reference: &Reference) -> String {
        format!("{}/{}/manifests/{reference}", self.base, self.name)
    }

    pub(crate) fn blob(&self, digest: &Digest) -> String {
        format!("{}/{}/blobs/{digest}", self.base, self.name)
    }

    pub(crate) fn upload(&self, handle: &str) -> String {
        format!("{}/{}/blobs/uploads/{handle}", self.base, self.name)
    }

    pub(crate) fn resource(&self, rest: &str) -> String {
        format!("{}/{}/{rest}", self.base, self.name)
    }
}
