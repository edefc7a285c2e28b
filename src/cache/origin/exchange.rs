//! Exchanges with an upstream, as the cache sees them. The cache does not depend on `crate::upstream`: `crate::origin`
//! implements these traits.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderMap, HeaderValue, StatusCode};

use crate::authz::Permit;
use crate::body::Body;
use crate::clock;
use crate::meaning::UpstreamFailure;
use crate::proto::{Digest, Reference, RepositoryName};

/// A repository at its upstream, asked with the permit of one request and as its account there.
pub(crate) trait Origin: Send + Sync + 'static {
    /// Asks the upstream. Returns a success, to which the redirect of a [`OriginRequest::BlobExists`] counts; every other
    /// answer is an [`UpstreamFailure`].
    fn ask(&self, request: OriginRequest) -> Asking<'_>;

    /// Returns the account by which the upstream is asked. Requesters with the same account share the upstream's rate limit.
    fn account(&self) -> Arc<str>;

    /// Returns true if all clients have the same account there: the gateway's own, or none. Otherwise a refusal of one
    /// account does not count for the others.
    fn is_shared(&self) -> bool {
        true
    }
}

/// A source of origins: an upstream, for which each request gets an origin with its own permit.
pub(crate) trait Origins: Send + Sync + 'static {
    /// Returns the origin for `repository`, by the upstream's own name for it. `headers` are added to every request.
    fn origin(
        &self,
        permit: &Permit,
        repository: &RepositoryName,
        headers: Arc<HeaderMap>,
    ) -> Arc<dyn Origin>;
}

/// The answer to an [`OriginRequest`], under way.
pub(crate) type Asking<'a> =
    Pin<Box<dyn Future<Output = Result<OriginResponse, UpstreamFailure>> + Send + 'a>>;

/// A request to an upstream.
#[derive(Debug, Clone)]
pub(crate) enum OriginRequest {
    /// A blob's bytes (end-2).
    Blob {
        /// The blob.
        digest: Digest,
        /// The bytes that are wanted; none: all. The answer may have more: see its status.
        bytes: Option<ByteSpan>,
        /// `If-Range` (RFC 9110 section 13.1.5): the strong validator of the bytes that are held already.
        validator: Option<HeaderValue>,
    },
    /// The existence of a blob in the repository: HEAD, or if HEAD is refused a GET whose redirect is not followed. Only
    /// the fact of an answer matters.
    BlobExists(Digest),
    /// The existence of a blob in the repository: GET of its first byte, which a registry refuses as it refuses GET of the
    /// whole.
    BlobFirstByte(Digest),
    /// [`OriginRequest::BlobExists`] of a blob or [`OriginRequest::ManifestHead`] of a manifest, sent without credentials: the
    /// check that it is public.
    Public(Resource),
    /// A manifest's head, with an Accept of every manifest type (HEAD of end-3). Docker Hub's rate limit does not count it.
    ManifestHead(Reference),
    /// A manifest, likewise (end-3). The answer's body is held whole: a manifest by its shape, or proved by its digest.
    Manifest(Reference),
    /// A manifest, asked for with this `Accept`: a client's own, where the other is answered with 404, or with a type that
    /// the client does not take.
    ManifestFor(Reference, HeaderValue),
    /// The API's version (end-1), to see whether the upstream answers: every answer below 500 is one.
    Ping,
}

impl OriginRequest {
    /// Returns true if the request is for content. A check of rights, or of where a tag points, is none.
    pub(crate) fn is_for_bytes(&self) -> bool {
        matches!(self, Self::Blob { .. } | Self::Manifest(_) | Self::ManifestFor(..))
    }

    /// Returns true if a no to it is to be believed only when GET says it too.
    pub(crate) fn is_hint(&self) -> bool {
        matches!(self, Self::ManifestHead(_))
    }
}

/// A blob or a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Resource {
    /// A blob.
    Blob(Digest),
    /// A manifest.
    Manifest(Reference),
}

/// Bytes of a blob: from `first` on, up to `last`, or to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ByteSpan {
    /// The first byte.
    pub first: u64,
    /// The last byte; none: up to the blob's end.
    pub last: Option<u64>,
}

/// An upstream's answer.
#[derive(Debug)]
pub(crate) struct OriginResponse {
    /// The status.
    pub status: StatusCode,
    /// The header fields that may go to a client.
    pub headers: HeaderMap,
    /// The body.
    pub body: Body,
    /// The origin that has answered.
    pub from: Provenance,
}

/// The source of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Provenance {
    /// The upstream itself, just now.
    Upstream,
    /// Another replica of this gateway.
    Replica {
        /// When the upstream confirmed it there; not later than now.
        confirmed: SystemTime,
        /// The answer is too old, and serves since the upstream fails.
        is_stale: bool,
        /// The object store sends it there, and nothing has proved it yet.
        is_unproved: bool,
    },
    /// The object store behind the disks.
    Store {
        /// When the upstream confirmed that the repository holds it, or that the tag points to it; not later than now.
        confirmed: SystemTime,
        /// The answer is too old, and serves since the upstream fails.
        is_stale: bool,
    },
}

impl Provenance {
    /// Returns when the upstream confirmed what the answer says.
    pub(crate) fn confirmed(self) -> SystemTime {
        match self {
            Self::Upstream => clock::wall(),
            Self::Replica { confirmed, .. } | Self::Store { confirmed, .. } => confirmed,
        }
    }

    /// Returns true if it serves since the upstream fails, where another than the upstream has answered.
    pub(crate) fn is_stale(self) -> bool {
        matches!(self, Self::Replica { is_stale: true, .. } | Self::Store { is_stale: true, .. })
    }

    /// Returns true if its bytes come from the object store, here or at another replica, and nothing has proved them yet.
    pub(crate) fn is_unproved(self) -> bool {
        matches!(self, Self::Store { .. } | Self::Replica { is_unproved: true, .. })
    }

    /// Returns true if another replica has answered.
    pub(crate) fn is_replica(self) -> bool {
        matches!(self, Self::Replica { .. })
    }

    /// Returns true if the upstream itself has answered.
    pub(crate) fn is_upstream(self) -> bool {
        match self {
            Self::Upstream => true,
            Self::Replica { .. } | Self::Store { .. } => false,
        }
    }
}
